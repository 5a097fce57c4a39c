"""The time line of an attempt: weights, requests, effect and evidence over time, as text of bounded length. Pure.

It is stored in the run's status, so that whoever draws an attempt needs the cluster and nothing else. One string and
not a list of objects: a controller holds those of all running attempts, and parsed numbers take five times as much.
``kubectl get iar NAME -o json | jq '.status.timeline | fromjson'`` reads it.

Every point is ``[seconds since "from", weight, canary requests, stable requests, decision, harm of all, metrics...]``,
a metric ``[effect, low, high, harm, proof]`` in the order of the run's comparisons, or null; requests are cumulative.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

__all__ = [
    "FINISHED_LIMIT",
    "RUNNING_LIMIT",
    "MetricPoint",
    "TimePoint",
    "extended",
    "metric_point",
    "read_timeline",
    "thinned",
    "write_timeline",
]

RUNNING_LIMIT = 16 * 1024
"""Characters while the run goes on: 120 points of four metrics, as many as a drawing of 700 px shows apart."""
FINISHED_LIMIT = 4 * 1024
"""Characters of a run that has ended, thirty points of four metrics: a cluster keeps ten attempts per Rollout."""
_LARGEST = 1e9
"""Evidence beyond it is drawn as this much: it decides at 20 to 1,000."""
_MOST_REQUESTS = 10**15
_MOST_SECONDS = 10**9
_LAST = 2**36
"""A time in Unix seconds that a date can still show."""
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricPoint:
    """One comparison at one moment: its relative effect with the ends of its interval, evidence of harm and of being
    within tolerance. None is unknown, or without bound."""

    effect: float | None = None
    low: float | None = None
    high: float | None = None
    harm: float | None = None
    proof: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimePoint:
    """One moment of an attempt.

    ``at`` is in Unix seconds; ``weight`` the canary's share that was asked for (1 is all); requests are those of the
    metric that saw most, since the evidence began; ``decision``: a gate passed or the run failed; ``harm`` is the
    evidence of all metrics together; ``metrics`` are in the order of the run's comparisons.
    """

    at: int
    weight: float
    canary_requests: int = 0
    stable_requests: int = 0
    decision: bool = False
    harm: float | None = None
    metrics: tuple[MetricPoint | None, ...] = ()


def metric_point(figures: Mapping[str, float]) -> MetricPoint:
    """A point of the figures of a ``ComparisonResult``."""
    return MetricPoint(
        effect=figures.get("effect"),
        low=figures.get("effectLow"),
        high=figures.get("effectHigh"),
        harm=figures.get("harm"),
        proof=figures.get("proof"),
    )


# --- text ------------------------------------------------------------------------------------------


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "null"
    return f"{min(max(value, -_LARGEST), _LARGEST):.3g}"


def _whole(value: int, most: int) -> str:
    return str(min(max(value, 0), most))


def _written(point: TimePoint, since: int) -> str:
    head = (
        _whole(point.at - since, _MOST_SECONDS),
        _number(point.weight) if math.isfinite(point.weight) else "0",
        _whole(point.canary_requests, _MOST_REQUESTS),
        _whole(point.stable_requests, _MOST_REQUESTS),
        "1" if point.decision else "0",
        _number(point.harm),
    )
    metrics = (
        "null"
        if metric is None
        else f"[{','.join(map(_number, (metric.effect, metric.low, metric.high, metric.harm, metric.proof)))}]"
        for metric in point.metrics
    )
    return f"[{','.join((*head, *metrics))}]"


def write_timeline(points: Sequence[TimePoint]) -> str:
    """The text; empty without points. Numbers have three digits."""
    if not points:
        return ""
    since = points[0].at
    return (
        f'{{"v":{_VERSION},"from":{since},"points":[{",".join(_written(point, since) for point in points)}]}}'
    )


def read_timeline(text: str) -> tuple[TimePoint, ...]:
    """The points, oldest first; none of a text that is no time line, or one of a version that is not known."""
    if len(text) > 2 * RUNNING_LIMIT:
        return ()
    try:
        data = json.loads(text) if text else None
        if not isinstance(data, dict) or data.get("v") != _VERSION:
            return ()
        points = tuple(_read(row, int(data["from"])) for row in data["points"])
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError):
        return ()
    return points if all(one.at < other.at for one, other in pairwise(points)) else ()


def _read(row: list[Any], since: int) -> TimePoint:
    seconds, weight, canary, stable, decision, harm, *metrics = row
    if not (0 <= since <= _LAST and math.isfinite(weight)):
        raise ValueError("no time, or no weight")
    return TimePoint(
        at=since + int(seconds),
        weight=float(weight),
        canary_requests=int(canary),
        stable_requests=int(stable),
        decision=decision == 1,
        harm=_figure(harm),
        metrics=tuple(None if item is None else _read_metric(item) for item in metrics),
    )


def _read_metric(item: list[Any]) -> MetricPoint:
    effect, low, high, harm, proof = map(_figure, item)
    return MetricPoint(effect=effect, low=low, high=high, harm=harm, proof=proof)


def _figure(value: Any) -> float | None:
    return None if value is None else float(value)


# --- growing and thinning --------------------------------------------------------------------------


def extended(text: str, before: Sequence[str], names: Sequence[str], points: Sequence[TimePoint]) -> str:
    """The time line with later points, within ``RUNNING_LIMIT``.

    ``before`` are the names of the comparisons that the text is of, ``names`` those of the points: an edit of the
    steps changes them. Points that are not later than the last one are left out.
    """
    found = list(read_timeline(text))
    if found and tuple(before) != tuple(names):
        places = [before.index(name) if name in before else -1 for name in names]
        found = [replace(point, metrics=tuple(_at(point, place) for place in places)) for point in found]
    for point in points:
        if not found or point.at > found[-1].at:
            found.append(point)
    return write_timeline(thinned(found, RUNNING_LIMIT))


def _at(point: TimePoint, place: int) -> MetricPoint | None:
    return point.metrics[place] if 0 <= place < len(point.metrics) else None


def thinned(points: Sequence[TimePoint], limit: int) -> tuple[TimePoint, ...]:
    """As many points as ``write_timeline`` puts into ``limit`` characters.

    The first and the last stay. Of the others the one goes whose neighbours are closest to each other in time, so that
    what is left is spread evenly; points of decisions go after all others, where there are more than the text holds.
    """
    kept = list(points)
    if not kept:
        return ()
    since = kept[0].at
    sizes = [len(_written(point, since)) + 1 for point in kept]
    total = sum(sizes) + len(write_timeline(kept[:1])) - sizes[0]
    while total > limit and len(kept) > 2:
        inner = range(1, len(kept) - 1)
        free = [index for index in inner if not kept[index].decision] or inner
        goes = min(free, key=lambda index: kept[index + 1].at - kept[index - 1].at)
        total -= sizes.pop(goes)
        del kept[goes]
    return tuple(kept)
