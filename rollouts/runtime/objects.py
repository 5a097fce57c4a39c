"""What the generic parts need to know about a raw object: its key, UID and resourceVersion.

Objects are untrusted: anyone who may create one chooses its content, and a test server may send anything.
Hence ``MalformedObject`` rather than a KeyError from somewhere deep inside.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple

__all__ = [
    "MalformedObject",
    "Object",
    "ObjectKey",
    "Order",
    "compact",
    "compare_versions",
    "drop_managed_fields",
    "key_of",
    "uid_of",
    "version_of",
]

Object = dict[str, Any]

# Strings up to this length repeat between objects (label values, phases, apiVersions); longer ones do not.
_INTERN_BELOW = 40


class MalformedObject(ValueError):
    """The object has no usable metadata: it cannot be stored, only skipped."""


class ObjectKey(NamedTuple):
    """Identity of an object within its kind. ``namespace`` is empty for cluster-scoped kinds."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Order(Enum):
    """How two resourceVersions compare. ``UNKNOWN``: at least one is not a number."""

    OLDER = -1
    SAME = 0
    NEWER = 1
    UNKNOWN = None


def _metadata(obj: Mapping[str, Any]) -> dict[str, Any]:
    metadata = obj.get("metadata") if isinstance(obj, dict) else None
    if not isinstance(metadata, dict):
        raise MalformedObject("the object has no metadata map")
    return metadata


def key_of(obj: Mapping[str, Any]) -> ObjectKey:
    """Key of the object. Raises MalformedObject."""
    metadata = _metadata(obj)
    name = metadata.get("name")
    namespace = metadata.get("namespace", "")
    if not isinstance(name, str) or not name or not isinstance(namespace, str):
        raise MalformedObject(f"metadata.name {name!r:.100} and namespace {namespace!r:.100} are no strings")
    return ObjectKey(sys.intern(namespace), name)


def uid_of(obj: Mapping[str, Any]) -> str:
    """``metadata.uid``; empty when there is none. Raises MalformedObject without metadata."""
    uid = _metadata(obj).get("uid")
    return uid if isinstance(uid, str) else ""


def version_of(obj: Mapping[str, Any]) -> str:
    """``metadata.resourceVersion``; empty when there is none. Raises MalformedObject without metadata."""
    version = _metadata(obj).get("resourceVersion")
    return version if isinstance(version, str) else ""


def compare_versions(left: str, right: str) -> Order:
    """Order of two resourceVersions of the same resource.

    Since Kubernetes 1.35 (KEP-5504) they are positive decimal integers of any length without leading zeros,
    and may be compared as numbers. Anything else compares as ``UNKNOWN``, equal strings excepted.
    """
    if left == right:
        return Order.SAME
    if not (_is_version(left) and _is_version(right)):
        return Order.UNKNOWN
    # Without leading zeros the longer number is the greater one: no int(), whose cost and digit limit an
    # untrusted string would choose.
    return Order.OLDER if (len(left), left) < (len(right), right) else Order.NEWER


def _is_version(version: str) -> bool:
    return version.isascii() and version.isdigit() and version[0] != "0"


def drop_managed_fields(obj: Object) -> Object:
    """The object without ``metadata.managedFields``: usually its largest part, and nobody reads it."""
    metadata = _metadata(obj)
    if "managedFields" not in metadata:
        return obj
    return {**obj, "metadata": {k: v for k, v in metadata.items() if k != "managedFields"}}


def compact(value: Any) -> Any:
    """An equal copy whose keys and short strings are interned.

    Each watch event is parsed on its own and brings its own copy of every key; interned, a cache of many
    like objects takes less than half the memory. Raises RecursionError on absurdly deep input.
    """
    kind = type(value)
    if kind is dict:
        made = {}
        for key, inner in value.items():
            # Leaves are most of an object: they are worth no call of their own.
            leaf = type(inner)
            if leaf is str:
                inner = sys.intern(inner) if len(inner) < _INTERN_BELOW else inner
            elif leaf is dict or leaf is list:
                inner = compact(inner)
            made[sys.intern(key) if type(key) is str else key] = inner
        return made
    if kind is list:
        return [compact(inner) for inner in value]
    if kind is str and len(value) < _INTERN_BELOW:
        return sys.intern(value)
    return value
