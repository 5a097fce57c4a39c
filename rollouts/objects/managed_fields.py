"""``metadata.managedFields``: who wrote which fields of an object, and when, as the API server has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rollouts.objects.fields import list_of, map_of, metadata_of, text_of

__all__ = ["Managed", "managed_fields"]

_LONGEST_TIME = 40
"""Characters: RFC 3339 with nanoseconds and an offset has 35."""


@dataclass(frozen=True, slots=True)
class Managed:
    """One entry: what a field manager wrote in one way, ``Apply`` or ``Update``, through one subresource."""

    manager: str
    operation: str
    subresource: str
    """Empty for the object itself."""
    time: Any
    """Of its last write, as it stands there."""
    fields: Mapping[str, Any]
    """``fieldsV1``: a tree of keys such as ``f:spec``."""

    @property
    def at(self) -> datetime | None:
        """``time``, read; None where it cannot be. Each look at a traffic object asks it of one entry."""
        try:
            readable = isinstance(self.time, str) and len(self.time) <= _LONGEST_TIME
            moment = datetime.fromisoformat(self.time) if readable else None
            return moment.astimezone(UTC) if moment is not None and moment.tzinfo is not None else None
        except (ValueError, OverflowError):
            return None

    def owns(self, *path: str) -> bool:
        """Whether a field of that path, as ``("spec", "replicas")``, or one below it, is among them."""
        *above, name = path
        found: Mapping[str, Any] = self.fields
        for part in above:
            found = map_of(found.get(f"f:{part}"))
        return f"f:{name}" in found


def managed_fields(obj: Mapping[str, Any]) -> Iterator[Managed]:
    """The entries of an object, in its order; what has the wrong type is not there."""
    for entry in map(map_of, list_of(metadata_of(obj).get("managedFields"))):
        yield Managed(
            manager=text_of(entry.get("manager")),
            operation=text_of(entry.get("operation")),
            subresource=text_of(entry.get("subresource")),
            time=entry.get("time"),
            fields=map_of(entry.get("fieldsV1")),
        )
