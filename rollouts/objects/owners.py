"""Who made an object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rollouts.objects import kinds
from rollouts.objects.fields import list_of, map_of, metadata_of, text_of

__all__ = ["controller_of", "owner_of"]


def owner_of(obj: Mapping[str, Any], kind: str) -> tuple[str, str] | None:
    """Name and UID of the controlling owner of ``kind`` (of our group); None when there is none."""
    references = (obj.get("metadata") or {}).get("ownerReferences") or []
    for reference in references:
        ours = str(reference.get("apiVersion", "")).startswith(f"{kinds.GROUP}/")
        if ours and reference.get("controller") and reference.get("kind") == kind:
            name, uid = reference.get("name"), reference.get("uid")
            return (name, uid) if isinstance(name, str) and isinstance(uid, str) else None
    return None


def controller_of(obj: Mapping[str, Any]) -> tuple[str, str]:
    """Kind and name of the owner that controls an object, of whatever group; empty where nobody does."""
    references = map(map_of, list_of(metadata_of(obj).get("ownerReferences")))
    found = next((one for one in references if one.get("controller")), {})
    return text_of(found.get("kind")), text_of(found.get("name"))
