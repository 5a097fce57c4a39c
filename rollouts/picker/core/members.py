"""What the scan of a body finds: its wanted members, or what is wrong with it."""

from __future__ import annotations

import json
from enum import Enum
from typing import NamedTuple

__all__ = ["BodyError", "Field", "JsonType"]


class BodyError(ValueError):
    """The body is not a JSON object that this picker accepts. The message says why."""


class JsonType(Enum):
    """JSON types, as far as they matter here."""

    STRING = "string"
    SCALAR = "number, true, false or null"
    CONTAINER = "object or array"


class Field(NamedTuple):
    """A wanted top-level member: offsets in bytes of its value, quotes included, end exclusive.

    ``raw`` is the value's source text, one character per byte, empty for containers and when ``clipped``.
    ``end`` of a container is its start.
    """

    kind: JsonType
    start: int
    end: int
    raw: str
    clipped: bool = False

    def text(self) -> str:
        """The decoded string, or a scalar as it is written. Lone surrogates become U+FFFD."""
        if self.kind is JsonType.STRING and self.raw.isascii() and "\\" not in self.raw:
            return self.raw[1:-1]
        source = self.raw.encode("latin-1").decode("utf-8", "surrogatepass")
        if self.kind is not JsonType.STRING:
            return source
        value: str = json.loads(source)
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
