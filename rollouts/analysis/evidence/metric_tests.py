"""From a specification to the tests, weights and series of a process."""

import math
from collections.abc import Sequence

from rollouts.analysis.evidence.counts import CountTest
from rollouts.analysis.evidence.gauges import GaugeTest
from rollouts.analysis.evidence.histogram import HistogramTest
from rollouts.analysis.evidence.lost import LostTest
from rollouts.analysis.evidence.model import (
    CompareMetric,
    CountSeries,
    Direction,
    EvidenceSpec,
    GaugeSeries,
    HistogramSeries,
    LostSeries,
    Series,
)

__all__ = ["MetricTest", "build_test", "metric_weights", "mix_metrics", "room", "series_of", "sleeping"]

MetricTest = CountTest | HistogramTest | GaugeTest

_MIX_MARGIN = 0.10
"""Lengths of prompts that differ by less change latency by less than its own margin and tolerance."""
_MAX_RESTARTS = 16
"""With six metrics more would not fit the checkpoint; at a restart every ten minutes they reach back 2.7 hours."""


def room(metrics: int) -> tuple[int, int]:
    """Pods kept apart per arm and restarts kept running, so that the checkpoint of many metrics still fits."""
    pods = 128 // metrics if metrics <= 8 else 64 // metrics
    return min(32, pods), max(6, min(_MAX_RESTARTS, 112 // metrics))


def sleeping(metrics: Sequence[CompareMetric]) -> tuple[bool, ...]:
    """Metrics without a share of the evidence until they have something to say: what was lost, where nobody
    weighed it and others judge, too. So nothing costs the others anything where nothing was lost."""
    lost = [isinstance(m.series, LostSeries) and m.weight is None and not m.advisory for m in metrics]
    others = any(
        not asleep and not m.advisory and m.weight != 0.0 for asleep, m in zip(lost, metrics, strict=True)
    )
    return tuple(asleep and others for asleep in lost)


def metric_weights(metrics: Sequence[CompareMetric], *, awake: bool = False) -> tuple[float, ...]:
    """Shares of the evidence, adding up to 1: half for event rates, half for the rest, unless given.

    ``awake``: with a share for those that slept.
    """
    counts = [isinstance(m.series, CountSeries) for m in metrics]
    asleep = [not awake and sleeps for sleeps in sleeping(metrics)]
    judged = [
        not m.advisory and m.weight != 0.0 and not sleeps for m, sleeps in zip(metrics, asleep, strict=True)
    ]
    classes = {
        kind: sum(1 for c, j in zip(counts, judged, strict=True) if j and c is kind) for kind in (True, False)
    }
    raw = [
        0.0 if not judge else (m.weight if m.weight is not None else 0.5 / classes[kind])
        for m, kind, judge in zip(metrics, counts, judged, strict=True)
    ]
    total = math.fsum(raw)
    return tuple(value / total if total > 0 else 0.0 for value in raw)


def build_test(metric: CompareMetric) -> MetricTest:
    """The test for a metric's kind of series."""
    match metric.series:
        case LostSeries():
            return LostTest(metric)
        case CountSeries():
            return CountTest(metric)
        case HistogramSeries():
            return HistogramTest(metric)
        case GaugeSeries():
            return GaugeTest(metric)


def mix_metrics(name: str) -> tuple[CompareMetric, CompareMetric]:
    """Two one-sided comparisons of prompt lengths: longer and shorter."""
    lower = CompareMetric(name="mix+", series=HistogramSeries(name=name), margin=_MIX_MARGIN, tolerance=1.0)
    higher = CompareMetric(
        name="mix-",
        series=HistogramSeries(name=name),
        margin=_MIX_MARGIN,
        tolerance=1.0,
        direction=Direction.HIGHER,
    )
    return lower, higher


def series_of(spec: EvidenceSpec) -> list[tuple[Series, float]]:
    """The metrics' series, then the load counter (twice the same counter) and the prompt lengths."""
    load = CountSeries(errors=spec.load_counter, of=spec.load_counter)
    rows: list[tuple[Series, float]] = [(metric.series, metric.warm_up) for metric in spec.metrics]
    return [*rows, (load, 0.0), (HistogramSeries(name=spec.mix_histogram), 0.0)]
