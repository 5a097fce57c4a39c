"""Fields of raw objects that nobody vouches for: what has the wrong type is not there, nothing raises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

__all__ = [
    "dict_at",
    "items_at",
    "list_of",
    "map_of",
    "metadata_of",
    "nested_deeper",
    "port_of",
    "seconds_at",
    "text_at",
    "text_of",
]

MAX_ITEMS = 1000
"""Members of a list that are looked at; every list we read is far shorter by its schema."""


def map_of(value: Any) -> Mapping[str, Any]:
    """``value`` when it is a map, else an empty one."""
    # Most are plain ones, and to ask the abstract class costs ten times as much.
    return value if type(value) is dict or isinstance(value, Mapping) else {}


def list_of(value: Any) -> Sequence[Any]:
    """``value`` when it is a list, else an empty one."""
    return value if isinstance(value, list) else ()


def text_of(value: Any) -> str:
    """``value`` when it is a string, else the empty one."""
    return value if isinstance(value, str) else ""


def metadata_of(obj: Mapping[str, Any]) -> Mapping[str, Any]:
    """The object's metadata."""
    return map_of(obj.get("metadata"))


def nested_deeper(value: Any, limit: int) -> bool:
    """Whether maps and lists are nested in each other more than ``limit`` levels deep, ``value`` being the first."""
    level = [value]
    for _ in range(limit + 1):
        containers = [item for item in level if isinstance(item, dict | list)]
        if not containers:
            return False
        level = [
            inner for item in containers for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return True


def port_of(value: Any) -> int | None:
    """``value`` when it is the number of a TCP port."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536 else None


def _at(obj: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = obj
    for key in path:
        value = map_of(value).get(key)
    return value


def dict_at(obj: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """The map at a path, or an empty one."""
    return map_of(_at(obj, path))


def items_at(obj: Mapping[str, Any], *path: str) -> list[Mapping[str, Any]]:
    """The maps in the list at a path; members of other types are dropped."""
    value = _at(obj, path)
    if not isinstance(value, list):
        return []
    return [item for item in value[:MAX_ITEMS] if type(item) is dict or isinstance(item, Mapping)]


def text_at(obj: Mapping[str, Any], *path: str) -> str:
    """The string at a path, or an empty one."""
    return text_of(_at(obj, path))


def seconds_at(obj: Mapping[str, Any], *path: str) -> float:
    """The RFC 3339 time at a path as Unix seconds, 0 when there is none. YAML may have parsed it already."""
    value = _at(obj, path)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return 0.0
    if not isinstance(value, datetime):
        return 0.0
    aware = value if value.tzinfo else value.replace(tzinfo=UTC)
    try:
        return aware.timestamp()
    except (OverflowError, ValueError):
        return 0.0
