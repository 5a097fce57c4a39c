"""Copies as the wire makes them: what goes in is JSON, what comes out shares nothing with the store."""

from __future__ import annotations

import json
import marshal
from typing import Any

from rollouts.kube.errors import Invalid

__all__ = ["Object", "freeze", "thaw", "wire_copy"]

Object = dict[str, Any]


def wire_copy(value: Any) -> Any:
    """Copy of ``value`` after a round trip through JSON. Raises Invalid for what JSON cannot say."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise Invalid(f"the request body is not JSON: {error}", status=400) from None


def freeze(value: Any) -> bytes:
    """Compact form of a JSON value; ``thaw`` is about ten times faster than ``copy.deepcopy``."""
    return marshal.dumps(value)


def thaw(blob: bytes) -> Any:
    """A fresh copy of a frozen value. The bytes never come from outside this process."""
    return marshal.loads(blob)
