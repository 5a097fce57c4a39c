"""Statistics of windows of cumulative counters, from raw samples of several pods."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

from rollouts.analysis.exposition import ScrapedHistogram

__all__ = ["add_increase", "counter_increase", "mean", "quantile"]


def counter_increase(values: Iterable[float]) -> float:
    """Increase of a counter over consecutive samples; a fall is a reset, after which the value is the increase."""
    total, last = 0.0, None
    for value in values:
        if last is not None:
            total += value - last if value >= last else value
        last = value
    return total


def add_increase(into: ScrapedHistogram, samples: list[ScrapedHistogram]) -> None:
    """Add one pod's increase over its samples to ``into``, on the bounds that both have.

    A fall of the count is a reset of all buckets. Cumulative counts at common bounds are exactly comparable, so
    pods of different engine versions may be added.
    """
    if len(samples) < 2:
        return
    bounds = set(samples[0].buckets)
    for sample in samples[1:]:
        bounds &= set(sample.buckets)
    if into.buckets:
        bounds &= set(into.buckets)
    increase = dict.fromkeys(bounds, 0.0)
    for before, after in itertools.pairwise(samples):
        reset = after.count < before.count
        for bound in bounds:
            increase[bound] += after.buckets[bound] - (0.0 if reset else before.buckets[bound])
        into.sum += after.sum - (0.0 if reset else before.sum)
        into.count += after.count - (0.0 if reset else before.count)
    merged = {bound: into.buckets.get(bound, 0.0) + max(0.0, value) for bound, value in increase.items()}
    into.buckets = merged


def quantile(q: float, histogram: ScrapedHistogram) -> float:
    """Quantile by linear interpolation within the bucket, as PromQL's ``histogram_quantile``; NaN without data.

    In the last, unbounded bucket the answer is the highest finite bound.
    """
    bounds = sorted(histogram.buckets)
    if len(bounds) < 2 or not math.isinf(bounds[-1]):
        return math.nan
    total = histogram.buckets[bounds[-1]]
    if total <= 0:
        return math.nan
    rank, below, lower = q * total, 0.0, 0.0
    for bound in bounds:
        count = max(below, histogram.buckets[bound])
        if count >= rank:
            if math.isinf(bound):
                return bounds[-2]
            return lower + (bound - lower) * ((rank - below) / (count - below) if count > below else 1.0)
        below, lower = count, bound
    return bounds[-2]


def mean(histogram: ScrapedHistogram) -> float:
    """Sum over count; NaN without data."""
    return histogram.sum / histogram.count if histogram.count > 0 else math.nan
