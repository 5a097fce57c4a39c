"""Stores filled without a reflector."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rollouts.runtime.store import Replacement, Store

__all__ = ["replace_all"]


def replace_all(
    store: Store, items: Iterable[dict[str, Any]], version: str, *, known_before: str = ""
) -> int:
    """Take a complete list at once; answers how many keys changed. See ``Replacement``."""
    replacement = Replacement(store, known_before=known_before)
    return replacement.add(items, version) + replacement.finish()
