"""What the server does with a CustomResourceDefinition: accept its names, establish it, serve it."""

from __future__ import annotations

from typing import Any

from rollouts.lab.memoryapi.kinds import CRD_RESOURCE, ServedKind, kind_from_crd

__all__ = ["establish", "is_crd"]

Object = dict[str, Any]
_CONDITIONS = (
    ("NamesAccepted", "NoConflicts", "no conflicts found"),
    ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
)


def is_crd(kind: ServedKind) -> bool:
    """Whether objects of this kind define other kinds."""
    return kind.storage_key == (CRD_RESOURCE.group, CRD_RESOURCE.plural)


def establish(crd: Object, now: str) -> ServedKind:
    """Fill in names and status of a CRD, in place; answers the kind it defines. Raises Invalid."""
    kind = kind_from_crd(crd)
    names = crd["spec"]["names"]
    names.setdefault("listKind", f"{kind.name}List")
    names.setdefault("singular", kind.singular)
    conditions = [
        {"type": type_, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now}
        for type_, reason, message in _CONDITIONS
    ]
    crd["status"] = crd.get("status") or {"conditions": conditions}
    crd["status"]["acceptedNames"] = dict(names)
    crd["status"]["storedVersions"] = [
        item["name"] for item in crd["spec"]["versions"] if item.get("storage")
    ]
    return kind
