"""What the answers to ``promql.measure_queries``, and the sums of ``raw_windows``, add up to."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta

from rollouts.analysis.exposition import ScrapedHistogram
from rollouts.analysis.offers import QUANTILES, Statistic
from rollouts.analysis.types import Labelled, MeasureKind, Stat
from rollouts.analysis.window_statistics import quantile
from rollouts.sources.promql import IS, Is

__all__ = ["measured"]


def measured(wanted: Statistic, window: timedelta, answers: Iterable[Sequence[Labelled]]) -> float:
    """The statistic; NaN where nothing was counted."""
    parts = [_Part(answer) for answer in answers]
    if wanted.kind is MeasureKind.GAUGE:
        values = [item.value for part in parts for item in part.of(Is.VALUE)]
        return sum(values) / len(values) if values else math.nan
    if wanted.kind is MeasureKind.HISTOGRAM:
        return _histogram(wanted.stat, parts)
    counted = _total(parts, Is.VALUE)
    if wanted.stat is not Stat.RATIO:
        return math.nan if counted is None else counted / max(1, round(window.total_seconds()))
    of = _total(parts, Is.OF)
    if not of or (not counted and _total(parts, Is.FINISHED) == 0):
        return math.nan
    return (counted or 0.0) / of


class _Part:
    """The answers about some of the pods."""

    def __init__(self, answer: Iterable[Labelled]) -> None:
        self._items: dict[str, list[Labelled]] = {}
        for item in answer:
            self._items.setdefault(dict(item.labels).get(IS, ""), []).append(item)

    def alternatives(self, what: Is) -> dict[str, list[Labelled]]:
        """The samples by the place of the alternative that they are of: each is about other processes."""
        named = ((name.removeprefix(what), items) for name, items in self._items.items())
        return {place: items for place, items in named if place.isdecimal()}

    def of(self, what: Is) -> list[Labelled]:
        """All samples."""
        return [item for items in self.alternatives(what).values() for item in items]


def _total(parts: Iterable[_Part], what: Is) -> float | None:
    found = [item.value for part in parts for item in part.of(what)]
    return sum(found) if found else None


def _histogram(stat: Stat, parts: Sequence[_Part]) -> float:
    if stat is Stat.MEAN:
        count = _total(parts, Is.COUNT)
        return (_total(parts, Is.SUM) or 0.0) / count if count else math.nan
    merged: dict[float, float] = {}
    for buckets in (found for part in parts for found in _histograms(part)):
        if buckets and merged:  # pods of another version: by the bounds that both have
            merged = {bound: merged[bound] + buckets[bound] for bound in merged.keys() & buckets.keys()}
        else:
            merged = buckets or merged
    return quantile(QUANTILES.get(stat, 0.95), ScrapedHistogram(buckets=merged))


def _histograms(part: _Part) -> Iterator[dict[float, float]]:
    """Growth by bound, of each alternative, by the bounds that all of its pods have."""
    for place, items in part.alternatives(Is.BUCKETS).items():
        counts = _by_bound(part.alternatives(Is.BOUNDS).get(place, ()))
        most = max(counts.values(), default=0.0)
        yield {bound: grown for bound, grown in _by_bound(items).items() if counts.get(bound) == most}


def _by_bound(items: Iterable[Labelled]) -> dict[float, float]:
    """Servers write bounds as they were exposed, or as numbers of their own ("1" or "1.0")."""
    found: dict[float, float] = {}
    for item in items:
        with contextlib.suppress(ValueError):
            bound = float(dict(item.labels).get("le", ""))
            found[bound] = found.get(bound, 0.0) + item.value
    return found
