"""Giving a Managed traffic object up: its label goes, the consent stays, whatever its kind.

The consent names the Rollout that had it, so that one that comes back under that name (`git revert`, a new
installation) takes the object over with the weights that it has, and nobody else does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rollouts.objects.fields import map_of, metadata_of
from rollouts.traffic.targets import guarded
from rollouts.traffic.writes import CONSENT_ANNOTATION, ROLLOUT_LABEL, JsonPatch

__all__ = ["release"]


def release(obj: Mapping[str, Any], rollout: str, kept: Mapping[str, str] | None = None) -> JsonPatch:
    """A patch of this version of the object: no label of ours any more, consent to ``rollout``.

    ``kept``: annotations that what reads the object needs when the Rollout is gone; one that is empty goes.
    """
    meta, operations = metadata_of(obj), list[dict[str, Any]]()
    if ROLLOUT_LABEL in map_of(meta.get("labels")):
        operations.append({"op": "remove", "path": f"/metadata/labels/{_pointer(ROLLOUT_LABEL)}"})
        if not map_of(meta.get("annotations")):
            operations.append({"op": "add", "path": "/metadata/annotations", "value": {}})
        for name, value in {CONSENT_ANNOTATION: rollout, **(kept or {})}.items():
            path = f"/metadata/annotations/{_pointer(name)}"
            if value:
                operations.append({"op": "add", "path": path, "value": value})
            elif name in map_of(meta.get("annotations")):
                operations.append({"op": "remove", "path": path})
    return guarded(obj, *operations)


def _pointer(name: str) -> str:
    """A name as one part of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")
