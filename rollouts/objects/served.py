"""What a model server says that it serves: ``GET /v1/models`` of the OpenAI API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rollouts.objects.fields import MAX_ITEMS, map_of

__all__ = ["listed_models"]


def listed_models(body: str | bytes) -> list[Mapping[str, Any]] | None:
    """The entries that have an ``id``; None when it is no such list. Never raises."""
    try:
        entries = map_of(json.loads(body)).get("data")
    except (ValueError, RecursionError):
        return None
    if not isinstance(entries, list):
        return None
    return [
        entry
        for entry in entries[:MAX_ITEMS]
        if isinstance(entry, Mapping) and isinstance(entry.get("id"), str)
    ]
