"""What simpler rules would have decided on the same counters: thresholds, a one-shot test, a peeking test.

Threshold: every five minutes, the canary's p95 above 1.2 times stable's, or its error rate above both twice
stable's and 1 %, is a failed measurement; the fourth one aborts (Argo Rollouts with failureLimit 3).
One shot: Kayenta's judge at the end, on one-minute p95 and error-rate series: a 98 % Hodges-Lehmann interval
of the shift by the Mann-Whitney test whose lower end exceeds a quarter of the estimate. Peeking: a rank test and
a test of proportions at 2.5 % each, every minute, on everything so far.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from rollouts.analysis.evidence.collect import Collector, Interval, PodIncrement
from rollouts.analysis.evidence.model import (
    CountSeries,
    EvidenceSpec,
    Exclusion,
    HistogramSeries,
    LostSeries,
    Scrape,
)
from rollouts.analysis.evidence.scores import ridits

__all__ = ["RivalDecision", "Rivals", "histogram_quantile"]

_WINDOW = 300.0
_POINT = 60.0
_P95_RATIO = 1.2
_ERROR_RATIO = 2.0
_ERROR_FLOOR = 0.01
_FAILURES = 4
_CONFIDENCE = 0.98
_TOLERANCE = 0.25
_MIN_POINTS = 5
_PEEK_Z = NormalDist().inv_cdf(1 - 0.025)


@dataclass(frozen=True, slots=True, kw_only=True)
class RivalDecision:
    """`aborted_at` in seconds, None when the rule never aborted."""

    rule: str
    aborted_at: float | None


def histogram_quantile(q: float, counts: Sequence[float], bounds: Sequence[float]) -> float:
    """The quantile as PromQL interpolates it, linearly inside a bucket; NaN without observations."""
    total = math.fsum(counts)
    if total <= 0:
        return math.nan
    below = 0.0
    lower = 0.0
    for count, bound in zip(counts, bounds, strict=True):
        if below + count >= q * total and count > 0:
            return lower if math.isinf(bound) else lower + (bound - lower) * (q * total - below) / count
        below += count
        lower = bound if not math.isinf(bound) else lower
    return lower


class _Series:
    """One metric's sums of both arms over a window, a point, and everything so far."""

    def __init__(self) -> None:
        self.window: dict[str, list[float]] = {}
        self.point: dict[str, list[float]] = {}
        self.points: dict[str, list[float]] = {"stable": [], "canary": []}
        self.rank = [0.0, 0.0]

    def add(self, arm: str, rows: Sequence[PodIncrement]) -> list[float]:
        if not rows:
            return []
        total = [math.fsum(column) for column in zip(*[row.values for row in rows], strict=True)]
        for store in (self.window, self.point):
            old = store.get(arm)
            fits = old is not None and len(old) == len(total)
            store[arm] = [a + b for a, b in zip(old, total, strict=True)] if fits and old else total
        return total


class Rivals:
    """Feeds the same scrapes to the three rules. Gauges are left to our own engine."""

    def __init__(self, spec: EvidenceSpec, exclusions: Sequence[Exclusion] = ()) -> None:
        self._kinds = [
            metric.series
            for metric in spec.metrics
            if not metric.advisory
            and isinstance(metric.series, CountSeries | HistogramSeries)
            and not isinstance(metric.series, LostSeries)
        ]
        self._collector = Collector(spec, [(series, 0.0) for series in self._kinds], pod_limit=1 << 16)
        self._exclusions = tuple(exclusions)
        self._series = [_Series() for _ in self._kinds]
        self._began: float | None = None
        self._window_end = self._point_end = 0.0
        self._failures = 0
        self._threshold_at: float | None = None
        self._peek_at: float | None = None
        self._last: float | None = None

    def observe(self, scrape: Scrape) -> None:
        """Take in one evaluation time."""
        interval = self._collector.observe(scrape)
        if interval is None or any(
            e.start < interval.end and interval.start < e.end for e in self._exclusions
        ):
            return
        if not any(series.canary and series.stable for series in interval.series):
            return
        if self._began is None:
            self._began = interval.start
            self._window_end, self._point_end = interval.start + _WINDOW, interval.start + _POINT
        self._last = interval.end
        for index, series in enumerate(self._series):
            self._add(index, series, interval)
        if interval.end >= self._point_end - 1e-6:
            self._close_point(interval)
        if interval.end >= self._window_end - 1e-6:
            self._close_window(interval)

    def decisions(self) -> tuple[RivalDecision, ...]:
        """What each rule says now; the one-shot rule judges the whole."""
        shot = self._last if any(self._shot(series) for series in self._series) else None
        return (
            RivalDecision(rule="threshold", aborted_at=self._threshold_at),
            RivalDecision(rule="oneShot", aborted_at=shot),
            RivalDecision(rule="peeking", aborted_at=self._peek_at),
        )

    def _add(self, index: int, series: _Series, interval: Interval) -> None:
        rows = interval.series[index]
        stable, canary = series.add("stable", rows.stable), series.add("canary", rows.canary)
        if not stable or not canary:
            return
        if isinstance(self._kinds[index], CountSeries):
            observed, variance = _proportions(canary, stable)
        else:
            observed, variance = _ranks(canary[:-1], stable[:-1])
        series.rank[0] += observed
        series.rank[1] += variance

    def _value(self, index: int, sums: list[float], interval: Interval) -> float:
        if isinstance(self._kinds[index], CountSeries):
            return sums[0] / sums[1] if sums[1] > 0 else math.nan
        bounds = interval.bounds[index]
        return histogram_quantile(0.95, sums[:-1], bounds) if len(bounds) == len(sums) - 1 else math.nan

    def _close_point(self, interval: Interval) -> None:
        self._point_end = interval.end + _POINT
        for index, series in enumerate(self._series):
            for arm, sums in series.point.items():
                value = self._value(index, sums, interval)
                if math.isfinite(value):
                    series.points[arm].append(value)
            series.point = {}
            observed, variance = series.rank
            if self._peek_at is None and variance > 0 and observed / math.sqrt(variance) > _PEEK_Z:
                self._peek_at = interval.end

    def _close_window(self, interval: Interval) -> None:
        self._window_end = interval.end + _WINDOW
        failed = False
        for index, series in enumerate(self._series):
            if len(series.window) == 2:
                canary = self._value(index, series.window["canary"], interval)
                stable = self._value(index, series.window["stable"], interval)
                if isinstance(self._kinds[index], CountSeries):
                    failed = failed or canary > max(_ERROR_RATIO * stable, _ERROR_FLOOR)
                else:
                    failed = failed or canary > _P95_RATIO * stable
            series.window = {}
        self._failures += failed
        if self._failures >= _FAILURES and self._threshold_at is None:
            self._threshold_at = interval.end

    def _shot(self, series: _Series) -> bool:
        return kayenta_high(series.points["canary"], series.points["stable"])


def _proportions(canary: Sequence[float], stable: Sequence[float]) -> tuple[float, float]:
    e, n = canary[0] + stable[0], canary[1] + stable[1]
    if n <= 1 or canary[1] <= 0 or stable[1] <= 0:
        return 0.0, 0.0
    share = canary[1] / n
    return canary[0] - e * share, e * share * (1 - share) * (n - e) / (n - 1)


def _ranks(canary: Sequence[float], stable: Sequence[float]) -> tuple[float, float]:
    pooled = [a + b for a, b in zip(canary, stable, strict=True)]
    scores = ridits(pooled)
    n_c, n_s = math.fsum(canary), math.fsum(stable)
    if n_c <= 0 or n_s <= 0:
        return 0.0, 0.0
    observed = math.fsum([c * a for c, a in zip(canary, scores.scores, strict=True)])
    return observed, n_c * n_s / scores.total * scores.spread


def kayenta_high(experiment: Sequence[float], control: Sequence[float]) -> bool:
    """Kayenta's "High": lower 98 % bound of the Hodges-Lehmann shift above a quarter of its estimate."""
    n, m = len(experiment), len(control)
    if min(n, m) < _MIN_POINTS:
        return False
    differences = sorted([x - y for x in experiment for y in control])
    z = NormalDist().inv_cdf(0.5 + _CONFIDENCE / 2)
    middle = n * m / 2
    half = z * math.sqrt(n * m * (n + m + 1) / 12)
    rank = math.floor(middle - half)
    if rank < 0 or differences[0] == differences[-1]:
        return False
    estimate = differences[int(middle)]
    return differences[rank] > _TOLERANCE * abs(estimate) and bisect_right(differences, 0.0) < middle
