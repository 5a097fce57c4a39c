"""Durations, fractions and weights as people write them: one parser each. The floor: standard library only.

What the CRDs admit is read, and nothing else is: what a command takes, the cluster takes, too.
"""

from __future__ import annotations

import functools
import re
from datetime import timedelta
from fractions import Fraction
from typing import Any, NewType

__all__ = [
    "DURATION_PATTERN",
    "FRACTION_PATTERN",
    "FULL",
    "POD_COUNT",
    "ZERO",
    "Weight",
    "entry_weight",
    "format_duration",
    "format_weight",
    "parse_duration",
    "parse_fraction",
    "parse_pod_count",
    "parse_weight",
    "percent",
    "weight_json",
]

DURATION_PATTERN = r"^([0-9]{1,7}(\.[0-9]{1,3})?(ms|s|m|h|d))+$"
"""Go's duration syntax (``1h30m``), with days, without signs and sub-millisecond units."""
FRACTION_PATTERN = r"[0-9]{1,6}(\.[0-9]{1,6})?%?"

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
_PERCENT = re.compile(r"[0-9]{1,3}(\.[0-9]{1,2})?%")
_INT32 = 2**31 - 1

Weight = NewType("Weight", int)
"""Share of the canary in hundredths of a percent: 0 to 10,000."""

ZERO = Weight(0)
FULL = Weight(10_000)


def format_weight(weight: Weight | None) -> str:
    """What people read: ``10%``, ``0.5%``, ``-`` for none."""
    if weight is None:
        return "-"
    whole, rest = divmod(weight, 100)
    return f"{whole}%" if not rest else f"{weight / 100:g}%"


def parse_duration(text: str | int) -> timedelta:
    """``"1h30m"``, ``"45s"``; a plain number is seconds. Longer than ten years is taken for ten. Raises ValueError.

    Whatever the CRDs admit is read: they bound the length of the text, not its sum.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        seconds = Fraction(text)
    elif isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= _LONGEST_TEXT:
        seconds = Fraction(int(text))
    elif isinstance(text, str) and len(text) <= _LONGEST_TEXT and re.fullmatch(DURATION_PATTERN, text):
        seconds = _sum_of_parts(text)
    else:
        raise ValueError(f"{text!r:.40} is not a duration such as 90s, 10m or 1h30m")
    if seconds < 0:
        raise ValueError(f"{text!r:.40} is negative")
    return min(timedelta(microseconds=int(min(seconds, Fraction(10**12)) * 1_000_000)), _LONGEST)


@functools.lru_cache(maxsize=1024)  # a spec is read again at each reconcile, and its durations are few
def _sum_of_parts(text: str) -> Fraction:
    return sum((Fraction(n) * _SECONDS[unit] for n, unit in _PART.findall(text)), Fraction(0))


def format_duration(value: timedelta) -> str:
    """The shortest text that ``parse_duration`` reads back: ``1h30m``, ``500ms``."""
    rest = value // timedelta(milliseconds=1)
    parts = []
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def parse_fraction(value: Any) -> float:
    """A fraction (0.05) or a percent string ("5%"). Raises ValueError; never NaN, infinite or negative."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1_000_000:
        return float(value)
    if isinstance(value, str) and re.fullmatch(FRACTION_PATTERN, value):
        return float(Fraction(value[:-1]) / 100) if value.endswith("%") else float(Fraction(value))
    raise ValueError(f'{value!r:.40} is neither a fraction such as 0.05 nor a percentage such as "5%"')


def percent(value: float) -> str:
    """A relative change as people write it: +12 %, -3 %, x4.2 for large growth."""
    if value >= 2.0:
        return f"x{value + 1:.3g}"
    digits = 0 if abs(value) >= 0.095 else 1
    return f"{value * 100:+.{digits}f} %"


def parse_weight(value: Any) -> Weight:
    """``10``, ``"10%"`` or ``"0.5%"``: percent of the joint weight. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        hundredths = value * 100
    elif isinstance(value, str) and _PERCENT.fullmatch(value):
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


def entry_weight(value: Any) -> int:
    """The weight of a traffic object's entry, as gateways, controller and picker read it: 1 when omitted.

    So the Gateway API has it (``BackendRef.weight``, default 1); InferenceModel and its rewrites want weights on all
    targets or on none, which then share evenly. What is no int32 from 0 on reads as omitted: no server stores it.
    """
    legal = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _INT32
    return value if legal else 1


POD_COUNT = 'must be a number of pods from 0 to 100000, or a percentage of them such as "50%"'
"""What ``parse_pod_count`` says of everything else."""

_MOST_PODS = 100_000
_POD_PERCENT = re.compile(r"([0-9]{1,4})%")


def parse_pod_count(value: Any) -> tuple[int, bool]:
    """A number of pods, or a percentage of them: the number, and whether it is a percentage. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_PODS:
        return value, False
    found = _POD_PERCENT.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(POD_COUNT)
    return int(found[1]), True
