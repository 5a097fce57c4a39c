"""What stays on a PoolSplit of its Rollout's sticky key, so that sessions outlive a Rollout whose split goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rollouts.objects.fields import text_of

__all__ = ["STICKY_ANNOTATION", "kept_sticky", "read_kept_sticky"]

STICKY_ANNOTATION = "inferencerollouts.dev/sticky"
"""On a PoolSplit that its Rollout gave up: ``strategy.canary.sticky`` as JSON. It counts while that Rollout is gone."""

_SOURCES = ("header", "cookie", "bodyField")
_PIN = "pinHeader"
_LONGEST = 253
"""Characters of a name, as the schema of Rollouts has it: whatever a server let pass, the annotation stays small."""


def kept_sticky(sticky: Mapping[str, Any]) -> str:
    """The annotation for a raw ``sticky``; empty where it says nothing that could be kept."""
    names = {source: text_of(sticky.get(source)) for source in _SOURCES}
    kept: dict[str, Any] = {source: name for source, name in names.items() if 0 < len(name) <= _LONGEST}
    if sticky.get(_PIN) is True:
        kept[_PIN] = True
    return json.dumps(kept, sort_keys=True) if kept else ""


def read_kept_sticky(text: str) -> Mapping[str, Any]:
    """A raw ``sticky`` of the annotation; empty where it cannot be read. Never raises."""
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, Mapping) else {}
