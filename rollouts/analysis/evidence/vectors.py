"""Vectors of raw counters: their differences, the bounds they have in common, their short form for a checkpoint."""

import math
from itertools import accumulate, pairwise
from typing import Any

from rollouts.analysis.evidence import ledger
from rollouts.analysis.evidence.model import (
    GaugeSeries,
    HistogramSample,
    HistogramSeries,
    LostSeries,
    Series,
)

__all__ = [
    "LARGEST",
    "MAX_BUCKETS",
    "Vector",
    "at_bounds",
    "difference",
    "pack_vector",
    "thinned",
    "unpack_vector",
    "whole",
    "zeros",
]

MAX_BUCKETS = 64
"""vLLM's histograms have some twenty; as many of thirty-two pods still fit the checkpoint."""
LARGEST = 2.0**53
"""Above it a double no longer counts by ones: no counter of requests, so the value is missing."""

Vector = list[float]


def zeros(vector: Vector | None, series: Series, at: float) -> Vector | None:
    """Where the counters of a pod that started at `at` began; None for a gauge."""
    if vector is not None and isinstance(series, LostSeries):
        return ledger.begin([0.0, 0.0, 0.0], at)
    return None if vector is None or isinstance(series, GaugeSeries) else [0.0] * len(vector)


def difference(old: Vector, new: Vector, histogram: bool) -> tuple[Vector, bool]:
    """Increments of a counter vector, and whether it was reset; cumulative buckets become counts."""
    if len(old) != len(new):
        return [0.0] * len(new), False
    width = len(new) - 1 if histogram else len(new)
    fell = any(n < o for n, o in zip(new[:width], old, strict=False))
    rise = list(new) if fell else [n - o for n, o in zip(new, old, strict=True)]
    if not histogram:
        rise[0] = min(rise[0], rise[1])
        return rise, fell
    counts = []
    below = 0.0
    for value in rise[:-1]:
        counts.append(value - below if value > below else 0.0)
        below = max(below, value)
    counts.append(rise[-1])
    return counts, fell


def at_bounds(histogram: HistogramSample, bounds: tuple[float, ...]) -> Vector | None:
    """Cumulative counts at the common bounds, then the sum (NaN without one); None when unusable."""
    cumulative = histogram.cumulative
    if not bounds or bounds[-1] != math.inf or not cumulative or not 0.0 <= cumulative[-1] <= LARGEST:
        return None
    total = histogram.sum if histogram.sum is not None and abs(histogram.sum) <= LARGEST else math.nan
    if histogram.bounds == bounds:
        values = list(cumulative)
    else:
        place = dict(zip(histogram.bounds, cumulative, strict=True))
        values = [place[bound] for bound in bounds]
    if not all(0.0 <= value <= LARGEST for value in values):
        return None
    values.append(total)
    return values


def thinned(bounds: tuple[float, ...]) -> tuple[float, ...]:
    """At most 64 bounds, evenly picked, the last kept."""
    step = -(-len(bounds) // MAX_BUCKETS)
    return tuple(reversed(bounds[::-1][::step]))


def whole(value: float) -> float | int | None:
    """A number as short as JSON can write it exactly: whole numbers without a fraction, NaN as null."""
    if math.isnan(value):
        return None
    return int(value) if value == int(value) and abs(value) < 2**53 else value


def pack_vector(vector: Vector | None, series: Series) -> list[Any] | None:
    """Cumulative buckets travel as counts, which are shorter, marked by a leading text."""
    if vector is None:
        return None
    plain = [whole(value) for value in vector]
    if isinstance(series, HistogramSeries) and all(isinstance(value, int) for value in plain[:-1]):
        counts = [int(after - before) for before, after in pairwise([0.0, *vector[:-1]])]
        return ["counts", *counts, plain[-1]]
    return plain


def unpack_vector(vector: list[Any] | None) -> Vector | None:
    """Inverse of `pack_vector`."""
    if vector is None:
        return None
    if vector[0] == "counts":
        vector = [*accumulate(vector[1:-1]), vector[-1]]
    return [math.nan if value is None else float(value) for value in vector]
