"""What an attempt has pinned of a shared strategy, as its Rollout's status holds it: fields of ``canary`` as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rollouts.objects.fields import nested_deeper

__all__ = ["pinned_canary"]

_DEEPEST = 64
"""Nesting, as of a Rollout's spec."""


def pinned_canary(content: str) -> Mapping[str, Any] | None:
    """The pinned fields, of ``status.strategy.content``; None where somebody scribbled on them."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, Mapping) and not nested_deeper(found, _DEEPEST) else None
