"""Hashes that are stored in a status, so that no upgrade takes its own doing for an edit.

A stamp is ``VERSION:DIGEST``: the version of the algorithm, and sixteen hex digits of the SHA-256 over the canonical
JSON of what the user set. What is left at its default is left out, so that a field which a later version adds changes
no stamp. Where that cannot be kept (a default changes, a field is renamed) ``ALGORITHM`` is counted up: a stamp of
another version says nothing about what is there now, and is replaced without consequences.

Names of runs and Jobs hold six digits of the stamp. A stamp that replaced another carries on with that one's,
``VERSION:DIGEST:DIGITS``, so that what is under way keeps its name.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import fields, is_dataclass
from datetime import timedelta
from enum import Enum
from typing import Any

__all__ = ["ALGORITHM", "digits", "is_foreign", "is_same", "restamped", "stamp"]

ALGORITHM = "2"
"""Before there were versions a stamp was the digest alone; in version 1 of the steps of a gate as it was spelled."""

_DIGEST, _DIGITS = 16, 6
_STAMP = re.compile(r"(?:[0-9]{1,9}:)?[0-9a-f]{6,64}(?::[0-9a-f]{6})?")


def stamp(value: Any) -> str:
    """The stamp of dataclasses, tuples and scalars."""
    text = json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return f"{ALGORITHM}:{hashlib.sha256(text.encode()).hexdigest()[:_DIGEST]}"


def _canonical(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, timedelta):
        return value // timedelta(microseconds=1)
    if isinstance(value, tuple):
        return [_canonical(item) for item in value]
    if is_dataclass(value):
        given = ((field, getattr(value, field.name)) for field in fields(value))
        found = {field.name: _canonical(item) for field, item in given if item != field.default}
        return {"": type(value).__name__, **found}
    return value


def is_same(stored: str, fresh: str) -> bool:
    """Whether a stored stamp is of the same thing as one that was just made."""
    return stored.split(":")[:2] == fresh.split(":")[:2]


def is_foreign(stored: str) -> bool:
    """Whether another version of the algorithm made it; what nobody makes is not told from an edit."""
    return not stored.startswith(f"{ALGORITHM}:") and _STAMP.fullmatch(stored) is not None


def restamped(stored: str, fresh: str) -> str:
    """The stamp that replaces one of another version."""
    return f"{fresh}:{digits(stored)}"


def digits(stored: str) -> str:
    """What names take of a stamp."""
    return stored.split(":")[-1][:_DIGITS]
