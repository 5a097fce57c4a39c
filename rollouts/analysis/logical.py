"""From the series that a stack exposes to the logical series that comparisons are written in.

Producers name the same things differently (``catalogue``); of each logical series a pod is read by the first
alternative that it exposes. What is no logical name is taken as the name of a series itself. A
server with several engines (data parallel ranks behind one port) has a series per engine: counters and queue lengths
add up, shares of something (KV-cache use) are averaged, by every source alike. Of engines that share their requests
(tensor parallel ranks, pipeline stages) one counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rollouts.analysis import exposition
from rollouts.analysis.catalogue import Groups, Over, Selector
from rollouts.analysis.evidence.model import (
    Arm,
    CountSeries,
    EvidenceSpec,
    GaugeSeries,
    HistogramSample,
    HistogramSeries,
    LostSeries,
    PodSample,
)
from rollouts.analysis.offers import Offer

__all__ = ["Wanted", "read", "wanted_of"]


def read(page: exposition.ScrapedPage, groups: Groups) -> float | None:
    """The value of the first alternative whose first name the page exposes; None when there is none."""
    for group in groups:
        if group[0].name in page.series:
            return _value(page, group)
    return None


def _value(page: exposition.ScrapedPage, group: tuple[Selector, ...]) -> float:
    values = [
        selector.sign * value
        for selector in group
        for value in selector.once(
            one for one in page.series.get(selector.name, ()) if selector.picks(one[0])
        )
    ]
    if group[0].over is Over.MEAN and values:
        return sum(values) / len(values)
    return sum(values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Logical names by kind; ``of`` gives the total of a counter of events."""

    counters: frozenset[str]
    histograms: frozenset[str]
    gauges: frozenset[str]
    of: Mapping[str, str]

    def raw_names(self, offer: Offer) -> frozenset[str]:
        """Names of the series to read."""
        logical = (*self.counters, *self.histograms, *self.gauges)
        return frozenset(
            selector.name for name in logical for group in offer.groups(name) for selector in group
        )

    def sample(
        self, raw: exposition.ScrapedPage, offer: Offer, arm: Arm, pod: str, started: float | None
    ) -> PodSample:
        """One pod's page in logical names; what it does not expose is absent."""
        counters = _present((name, read(raw, offer.groups(name))) for name in self.counters)
        for name, of in self.of.items():
            if name not in counters and of in counters:
                counters[name] = 0.0  # a labelled counter appears with its first event
        return PodSample(
            arm=arm,
            pod=pod,
            counters=counters,
            gauges=_present((name, read(raw, offer.gauges(name))) for name in self.gauges),
            histograms={
                name: found
                for name in sorted(self.histograms)
                for found in (_histogram(raw, offer.groups(name)),)
                if found is not None
            },
            started=started,
        )


def wanted_of(spec: EvidenceSpec) -> Wanted:
    """What an evidence process looks at: its metrics, the load and the mix of prompts."""
    counters, histograms = {spec.load_counter}, {spec.mix_histogram}
    gauges, of = set[str](), dict[str, str]()
    for metric in spec.metrics:
        match metric.series:
            case LostSeries(
                of=total, finished=finished, in_flight=flying, longest=longest, progress=progress
            ):
                counters |= {total, finished, progress}
                histograms.add(longest)
                gauges.add(flying)
                of[total] = finished  # the HTTP layer counts from the first answer on, the engine from 0
            case CountSeries(errors=errors, of=total):
                counters |= {errors, total}
                of[errors] = total
            case HistogramSeries(name=name):
                histograms.add(name)
            case GaugeSeries(name=name):
                gauges.add(name)
    return Wanted(
        counters=frozenset(counters), histograms=frozenset(histograms), gauges=frozenset(gauges), of=of
    )


def _present(pairs: Iterable[tuple[str, float | None]]) -> dict[str, float]:
    return {name: value for name, value in sorted(pairs) if value is not None and math.isfinite(value)}


def _histogram(raw: exposition.ScrapedPage, groups: Groups) -> HistogramSample | None:
    for group in groups:
        found = raw.histograms.get(group[0].name)
        if found is not None and found.buckets:
            bounds = sorted({*found.buckets, math.inf})
            counts = [found.buckets.get(bound, found.count) for bound in bounds]
            return HistogramSample(bounds=tuple(bounds), cumulative=tuple(counts), sum=found.sum)
    return None
