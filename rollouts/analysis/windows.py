"""How far back a measurement looks, and whether that is still the traffic it is to judge. Pure.

A window that reaches back behind the weight of its step is another weight's traffic: no data, as in every source a
window that the samples do not span.
"""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta

from rollouts.analysis.catalogue import number_of
from rollouts.analysis.types import (
    CompareSpec,
    MeasureKind,
    MeasureSpec,
    MetricSpec,
    QuerySpec,
    RunSpec,
    Stat,
)
from rollouts.analysis.verdicts import NO_DATA_PATIENCE
from rollouts.units import format_duration

__all__ = ["collected", "covers", "longest_wait", "reach", "too_early", "why_silent", "window_of"]

_STRING = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|`[^`]*`|#[^\n]*")
_RANGE = re.compile(r"\[\s*([0-9a-z]+)\s*(:?)[^\]]*\]")
_OFFSET = re.compile(r"\boffset\s+([0-9a-z]+)")
_PART = re.compile(r"(\d+)(ms|s|m|h|d|w|y)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0, "y": 31_536_000.0}
_LONGEST = timedelta(days=365 * 10)


def reach(promql: str) -> timedelta:
    """How far back a query looks: its longest range, plus its subqueries, plus its longest offset."""
    text = _STRING.sub("''", promql)
    ranges, nested = [timedelta(0)], timedelta(0)
    for length, colon in _RANGE.findall(text):
        if colon:
            nested += _duration(length)
        else:
            ranges.append(_duration(length))
    offsets = [timedelta(0), *map(_duration, _OFFSET.findall(text))]
    return min(_LONGEST, max(ranges) + nested + max(offsets))


def _duration(text: str) -> timedelta:
    seconds = sum(float(count) * _SECONDS[unit] for count, unit in _PART.findall(text[:64]))
    return timedelta(seconds=min(seconds, _LONGEST.total_seconds()))


def window_of(metric: MetricSpec) -> timedelta:
    """The time that one measurement of the metric covers; zero for what is read as it stands."""
    what = metric.what
    if isinstance(what, QuerySpec):
        return reach(what.promql)
    if isinstance(what, CompareSpec):
        return timedelta(0)
    try:
        gauge = number_of(what) == (MeasureKind.GAUGE, Stat.LAST)
    except KeyError:  # a preset that nobody has
        gauge = False
    return timedelta(0) if gauge else what.window


def too_early(run: RunSpec, metric: MetricSpec, at: datetime) -> str:
    """Why the metric cannot be measured yet; empty when it can."""
    window = window_of(metric)
    known = collected(run, metric, at)
    if known >= window:
        return ""
    since = "this weight" if run.step is not None else "the canary"
    whole = timedelta(seconds=int(known.total_seconds()))
    return f"window {format_duration(window)}, {format_duration(whole)} of it collected since {since} began"


def collected(run: RunSpec, metric: MetricSpec, at: datetime) -> timedelta:
    """How much of the metric's window is of the traffic that it is to judge."""
    window = window_of(metric)
    return window if run.since is None else max(timedelta(0), min(window, at - run.since))


def why_silent(metric: MetricSpec, early: str, requests: float | None) -> str:
    """Why there is no data, in words: how much there is, and of how many requests; empty where nothing is known."""
    what = metric.what
    if requests is None or not math.isfinite(requests) or not isinstance(what, MeasureSpec):
        return early
    counted = f"{requests:,.0f} {what.arm.value.lower()} request{'' if round(requests) == 1 else 's'}"
    return f"{early}, {counted}" if early else f"window {format_duration(window_of(metric))}, {counted}"


def longest_wait(metric: MetricSpec) -> timedelta:
    """How long after the beginning of its gate a metric is measured again for want of data."""
    patience = NO_DATA_PATIENCE + 5 * (metric.interval or timedelta(0))
    waits = metric.no_data.value == "Wait"
    return metric.initial_delay + (patience if waits else timedelta(0))


def covers(spec: MeasureSpec, spanned: float) -> bool:
    """Whether samples that span so many seconds are the whole window, but for the spacing of the samples."""
    window = spec.window.total_seconds()
    return spanned >= window - 2.0 * max(1.0, window / 24.0)
