"""What the server itself fills in for built-in kinds, and the two faces of Event."""

from __future__ import annotations

import zlib
from typing import Any

from rollouts.lab.memoryapi.kinds import ServedKind

__all__ = ["fill_in", "to_stored_version", "to_version"]

Object = dict[str, Any]
_EVENT_FIELDS = (
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
)


def fill_in(kind: ServedKind, obj: Object) -> None:
    """Defaults of a new built-in object that other programs rely on."""
    spec = obj.setdefault("spec", {}) if kind.plural in ("namespaces", "services", "pods") else {}
    metadata = obj["metadata"]
    if kind.storage_key == ("", "pods"):
        obj["status"] = {"phase": "Pending"}
        spec.setdefault("restartPolicy", "Always")
    elif kind.storage_key == ("", "namespaces"):
        obj["status"] = {"phase": "Active"}
        metadata.setdefault("labels", {}).setdefault("kubernetes.io/metadata.name", metadata["name"])
    elif kind.storage_key == ("", "services"):
        spec.setdefault("type", "ClusterIP")
        host = zlib.crc32(metadata["uid"].encode()) % 253 + 1
        spec.setdefault("clusterIP", f"10.0.0.{host}")


def to_stored_version(kind: ServedKind, obj: Object) -> Object:
    """The object as it is kept: an Event always in its core form."""
    if (kind.group, kind.plural) != ("events.k8s.io", "events"):
        return obj
    for new, old in _EVENT_FIELDS:
        if new in obj:
            obj[old] = obj.pop(new)
    obj.setdefault("involvedObject", {})
    return obj


def to_version(kind: ServedKind, version: str, obj: Object) -> Object:
    """The object in the form that was asked for; changed in place."""
    obj["apiVersion"] = f"{kind.group}/{version}" if kind.group else version
    if (kind.group, kind.plural) == ("events.k8s.io", "events"):
        for new, old in _EVENT_FIELDS:
            if old in obj:
                obj[new] = obj.pop(old)
    return obj
