"""Typed reads from raw Kubernetes objects, with limits.

The objects come from an API server that may check nothing (the in-memory one enforces no schema), so
every read says what it expects. A wrong type raises ``Malformed`` with the path of the field; the
translator turns it into a condition on that one object, and the others go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["MAX_ITEMS", "MAX_TEXT", "Malformed", "items", "mapping", "number", "text", "text_map"]

MAX_ITEMS = 64
"""Longest list that is read from one field; the Gateway API allows 16 rules of 8 to 64 matches."""

MAX_TEXT = 4096
"""Longest string that is read from one field."""


class Malformed(ValueError):
    """A field of an object has the wrong type or breaks a limit: terminal for this object."""


def mapping(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The object at ``key``; empty when it is absent or null."""
    value = parent.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise Malformed(f"{key}: an object is needed, found {type(value).__name__}")
    return value


def items(parent: Mapping[str, Any], key: str, *, limit: int = MAX_ITEMS) -> tuple[Mapping[str, Any], ...]:
    """The list of objects at ``key``; empty when it is absent or null."""
    value = parent.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise Malformed(f"{key}: a list of objects is needed, found {type(value).__name__}")
    if len(value) > limit:
        raise Malformed(f"{key}: {len(value)} entries, at most {limit} are read")
    return tuple(value)


def text(parent: Mapping[str, Any], key: str, default: str = "") -> str:
    """The string at ``key``; ``default`` when it is absent or null."""
    value = parent.get(key)
    if value is None:
        return default
    if not isinstance(value, str):
        raise Malformed(f"{key}: a string is needed, found {type(value).__name__}")
    if len(value) > MAX_TEXT or any(character in value for character in "\r\n\0"):
        raise Malformed(f"{key}: at most {MAX_TEXT} characters without line breaks are read")
    return value


def number(parent: Mapping[str, Any], key: str, default: int, *, low: int = 0, high: int = 2**31 - 1) -> int:
    """The whole number at ``key`` within [low, high]; ``default`` when it is absent or null."""
    value = parent.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise Malformed(f"{key}: a whole number is needed, found {type(value).__name__}")
    if not low <= value <= high:
        raise Malformed(f"{key}: {value} is outside {low}..{high}")
    return value


def text_map(parent: Mapping[str, Any], key: str) -> dict[str, str]:
    """The string-to-string map at ``key``; empty when it is absent or null."""
    value = mapping(parent, key)
    if len(value) > MAX_ITEMS or not all(isinstance(v, str) for v in value.values()):
        raise Malformed(f"{key}: a map of at most {MAX_ITEMS} strings is needed")
    return {str(k): str(v) for k, v in value.items()}
