"""Scalars of the API as the models know them; timestamps, text and value, both ways. Parsers: ``rollouts.units``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import Field

from rollouts.units import DURATION_PATTERN, format_duration, parse_duration, parse_weight, weight_json

__all__ = [
    "Duration",
    "IntOrPercent",
    "Moment",
    "Name",
    "Text",
    "bounds",
    "format_duration",
    "format_time",
    "parse_admitted_time",
    "parse_duration",
    "parse_stamp",
    "parse_time",
    "parse_weight",
    "weight_json",
]

_FIRST_YEAR, _LAST_YEAR = 1000, 9000
_FIRST, _LAST = (datetime(year, 1, 1, tzinfo=UTC) for year in (_FIRST_YEAR, _LAST_YEAR))
"""Durations are ten years at most (``units.parse_duration``): a sum of a few has a date, and one with four digits."""

Name = Annotated[str, Field(min_length=1, max_length=253)]
Text = Annotated[str, Field(max_length=253)]
Duration = Annotated[str, Field(pattern=DURATION_PATTERN, max_length=32)]
IntOrPercent = Annotated[int | str, Field(json_schema_extra={"x-kubernetes-int-or-string": True})]
Moment = Annotated[
    str,
    Field(max_length=32, pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z$"),
]
"""RFC 3339 in UTC, as ``format_time`` writes it. Whether there is such a day, CEL says."""


def bounds(low: float, high: float, *, above: bool = False) -> Any:
    """Bounds of a number that may be whole or not; ``above``: ``low`` itself is too low.

    Said twice, since pydantic leaves the bounds of "float or int" out of the JSON schema.
    """
    extra: dict[str, Any] = {"exclusiveMinimum" if above else "minimum": low, "maximum": high}
    if above:
        return Field(gt=low, le=high, json_schema_extra=extra)
    return Field(ge=low, le=high, json_schema_extra=extra)


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with seconds, as metav1.Time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: Any) -> datetime:
    """RFC 3339. Raises ValueError, also for times without a zone."""
    moment = _moment(text)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("a time that UTC has none for: its year is the first or the last there is") from None


def _moment(text: Any) -> datetime:
    if not isinstance(text, str) or len(text) > 40:
        raise ValueError("not a time")
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return moment


def parse_stamp(text: Any) -> datetime:
    """A time that durations are added to, as those of a status. Raises ValueError, also for one without that room."""
    moment = parse_time(text)
    if not _FIRST_YEAR <= moment.year <= _LAST_YEAR:
        raise ValueError(f"a time that is not of the years {_FIRST_YEAR} to {_LAST_YEAR}")
    return moment


def parse_admitted_time(text: Any) -> datetime:
    """The same of a spec, where what the CRD admits is read: one without room is the first or the last that has it.

    Raises ValueError for what is no time.
    """
    moment = _moment(text)
    if moment.year < _FIRST_YEAR:
        return _FIRST
    return _LAST if moment.year > _LAST_YEAR else moment.astimezone(UTC)
