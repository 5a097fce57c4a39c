"""Scalars of the API: durations, weights, percentages, timestamps; text and value, both ways."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Annotated, Any

from pydantic import Field

from rollouts.engine.types import FULL, Weight

__all__ = [
    "DURATION_PATTERN",
    "Duration",
    "IntOrPercent",
    "Moment",
    "Name",
    "Text",
    "bounds",
    "format_duration",
    "format_time",
    "parse_duration",
    "parse_ratio",
    "parse_time",
    "parse_weight",
    "weight_json",
]

DURATION_PATTERN = r"^([0-9]{1,7}(\.[0-9]{1,3})?(ms|s|m|h|d))+$"
"""Go's duration syntax (``1h30m``), with days, without signs and sub-millisecond units."""

_PART = re.compile(r"([0-9]{1,7}(?:\.[0-9]{1,3})?)(ms|s|m|h|d)")
_SECONDS = {
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
    "d": Fraction(86_400),
}
_LONGEST = timedelta(days=3660)
"""Ten years: what is longer waits for as good as ever, and a moment that far ahead still has a date."""
_LONGEST_TEXT = 64
_WEIGHT = re.compile(r"^([0-9]{1,3})(\.[0-9]{1,2})?%$")
_RATIO = re.compile(r"^[0-9]{1,6}(\.[0-9]{1,6})?%?$")

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


def parse_duration(text: str | int) -> timedelta:
    """``"1h30m"``, ``"45s"``; a plain number is seconds. Longer than ten years is taken for ten. Raises ValueError.

    Whatever the CRDs admit is read: they bound the length of the text, not its sum.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        seconds = Fraction(text)
    elif isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= _LONGEST_TEXT:
        seconds = Fraction(int(text))
    elif isinstance(text, str) and len(text) <= _LONGEST_TEXT and re.fullmatch(DURATION_PATTERN, text):
        seconds = sum((Fraction(n) * _SECONDS[unit] for n, unit in _PART.findall(text)), Fraction(0))
    else:
        raise ValueError(f"{text!r:.40} is not a duration such as 90s, 10m or 1h30m")
    if seconds < 0:
        raise ValueError(f"{text!r:.40} is negative")
    return min(timedelta(microseconds=int(min(seconds, Fraction(10**12)) * 1_000_000)), _LONGEST)


def format_duration(value: timedelta) -> str:
    """The shortest text that ``parse_duration`` reads back: ``1h30m``, ``500ms``."""
    rest = value // timedelta(milliseconds=1)
    parts = []
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def parse_weight(value: Any) -> Weight:
    """``10``, ``"10%"`` or ``"0.5%"``: percent of the joint weight. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        hundredths = value * 100
    elif isinstance(value, str) and _WEIGHT.match(value):
        hundredths = int(Fraction(value[:-1]) * 100)
    else:
        raise ValueError(
            f'{value!r:.40} is not a weight: a whole number from 0 to 100, or a percentage as "0.5%"'
        )
    if not 0 <= hundredths <= FULL:
        raise ValueError(f"weight {value!r:.40} is not between 0 and 100 percent")
    return Weight(hundredths)


def weight_json(weight: Weight) -> int | str:
    """The JSON value of a weight: a whole percentage as number, else a percent string."""
    whole, rest = divmod(weight, 100)
    return whole if not rest else f"{weight / 100:.2f}".rstrip("0").rstrip(".") + "%"


def parse_ratio(value: Any) -> float:
    """A fraction (0.05) or a percent string ("5%"). Raises ValueError; never NaN, infinite or negative."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1_000_000:
        return float(value)
    if isinstance(value, str) and _RATIO.match(value):
        return float(Fraction(value[:-1]) / 100) if value.endswith("%") else float(Fraction(value))
    raise ValueError(f'{value!r:.40} is neither a fraction such as 0.05 nor a percentage such as "5%"')


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with seconds, as metav1.Time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: Any) -> datetime:
    """RFC 3339. Raises ValueError, also for times without a zone."""
    if not isinstance(text, str) or len(text) > 40:
        raise ValueError("not a time")
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return moment.astimezone(UTC)
