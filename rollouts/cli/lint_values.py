"""Weights and durations as people write them, and what they meant; placeholders that nobody filled in."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from rollouts.analysis.types import CompareSpec, MetricSpec
from rollouts.units import DURATION_PATTERN, parse_duration, parse_pod_count, parse_weight

__all__ = [
    "CRON_MACROS",
    "duration_problem",
    "large_growth",
    "left_in",
    "pods_problem",
    "spoken_duration",
    "weight_problem",
]

_UNITS = {
    **dict.fromkeys(("ms", "msec", "msecs", "millisecond", "milliseconds"), "ms"),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), "m"),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), "h"),
    **dict.fromkeys(("d", "day", "days"), "d"),
}
CRON_MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
"""Of crontab(5), as the five fields that they stand for."""
_LARGE_GROWTH = 3.0
"""Of errors three times as many is a tolerance that people want (docs/analysis.md); more is rare."""
_SPOKEN = re.compile(r"([0-9]{1,7}(?:\.[0-9]{1,3})?) ?([A-Za-z]{0,12}) ?")


def weight_problem(value: int | float | str) -> str:
    """What is wrong with a weight, and what to write; empty when nothing is."""
    try:
        parse_weight(value)
    except ValueError as error:
        if isinstance(value, float) and 0 < value < 1:
            return f"{error}; it counts in percent: write {_short(value * 100)}"
        if isinstance(value, float) and math.isfinite(value):
            return f"{error}: write {_short(value)}"
        if isinstance(value, str) and re.fullmatch("[0-9]{1,3}", value.strip("% ")) and len(value) < 8:
            return f"{error}: write {value.strip('% ')}, without quotes"
        return str(error)
    return ""


def pods_problem(value: Any) -> str:
    """What is wrong with a number of pods or a percentage of them; empty when nothing is."""
    try:
        parse_pod_count(value)
    except ValueError as error:
        if isinstance(value, float):
            return f'{error}: write "{round(value * 100)}%"' if 0 < value <= 1 else str(error)
        return (
            f"{error}: write {value}, without quotes"
            if isinstance(value, str) and value.isdecimal()
            else str(error)
        )
    return ""


def _short(value: float) -> str:
    """Percent as a weight has it: 10, or "0.5%"."""
    whole = round(value, 2)
    return str(int(whole)) if whole.is_integer() else f'"{whole}%"'


def duration_problem(value: Any) -> str:
    """What is wrong with a duration, and what to write; empty when nothing is."""
    try:
        parse_duration(value)
    except ValueError as error:
        return f"{error}{spoken_duration(value)}"
    return ""


def spoken_duration(value: Any) -> str:
    """The duration that was meant by ``5min``, ``1 hour``, ``300``, ``PT5M``."""
    text = str(value)[:40].strip().lower().removeprefix("pt")
    meant, at = "", 0
    while at < len(text):
        part = _SPOKEN.match(text, at)
        if part is None or part[2] not in ("", *_UNITS) or (not part[2] and part[0] != text):
            return ""
        meant += part[1] + _UNITS.get(part[2], "s")
        at = part.end()
    return f": write {meant}" if meant and re.fullmatch(DURATION_PATTERN, meant) else ""


def large_growth(metrics: Iterable[MetricSpec]) -> Iterator[str]:
    """Growth that a comparison allows, and that was rather meant in percent."""
    for metric in metrics:
        form = metric.what.form if isinstance(metric.what, CompareSpec) else None
        for name in ("margin", "tolerance") if form is not None else ():
            value = getattr(form, name)
            if isinstance(value, int | float) and value > _LARGE_GROWTH:
                yield (
                    f'metric {metric.name}: {name} {value:g} is {value * 100:g} %: write "{value:g}%" if that is meant'
                )


def left_in(text: str) -> str:
    """What stands for a value that another tool was to fill in."""
    if "{{" in text and not re.search(r"\{\{[ \t]{0,8}args\.", text):
        return f"{text!r:.60} is a template, not rendered: `helm template CHART | rollouts lint -`"
    if re.search(r"\$\{[A-Za-z_][A-Za-z0-9_]{0,63}[}:]", text):
        return f"{text!r:.60} is a variable that was not substituted: check what the substitution makes"
    return ""
