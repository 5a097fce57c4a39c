"""What an attempt has pinned of a shared strategy, as its Rollout's status holds it: fields of ``canary`` as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from rollouts.objects.fields import dict_at, nested_deeper, text_at

__all__ = ["canary_fields", "pinned_canary"]

_DEEPEST = 64
"""Nesting, as of a Rollout's spec."""


def pinned_canary(content: str) -> Mapping[str, Any] | None:
    """The pinned fields, of ``status.strategy.content``; None where somebody scribbled on them."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, Mapping) and not nested_deeper(found, _DEEPEST) else None


_pinned = lru_cache(maxsize=32)(pinned_canary)
"""Pickers look at Rollouts again whenever an object changes, and many of them share a strategy."""


def canary_fields(rollout: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of a raw Rollout's ``strategy.canary``: its own ones, null included, over those that are pinned."""
    own = dict_at(rollout, "spec", "strategy", "canary")
    content = text_at(rollout, "status", "strategy", "content")
    if not content or not dict_at(rollout, "spec", "strategy", "canaryFrom"):
        return own
    return {**(_pinned(content) or {}), **own}
