"""The source ``pods``: statistics from the pods' own metrics pages. No Prometheus is needed to start."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from datetime import datetime, timedelta

from rollouts.analysis.catalogue import Groups
from rollouts.analysis.exposition import ScrapedHistogram, ScrapedPage
from rollouts.analysis.logical import read
from rollouts.analysis.offers import POD_OFFER, QUANTILES, Offer, Statistic
from rollouts.analysis.types import MeasureKind, MeasureSpec, Stat, Value
from rollouts.analysis.window_statistics import add_increase, counter_increase, mean, quantile
from rollouts.analysis.windows import covers
from rollouts.runtime.clock import Clock
from rollouts.sources.base import (
    Endpoints,
    Place,
    QueryRefused,
    RawPod,
    SourceUnavailable,
    refuse_adapter,
    statistic_of,
)
from rollouts.sources.scraper import PodHistory, PodScraper

__all__ = ["REQUEST_NAMES", "PodsSource", "request_total"]

_REQUESTS = POD_OFFER.groups("load")
REQUEST_NAMES = frozenset(selector.name for group in _REQUESTS for selector in group)


def request_total(sample: ScrapedPage) -> float | None:
    """Requests that a pod has counted; None when it exposes no request counter."""
    return read(sample, _REQUESTS)


class PodsSource:
    """Measures by direct scrapes."""

    def __init__(self, scraper: PodScraper, endpoints: Endpoints, clock: Clock) -> None:
        self._scraper = scraper
        self._endpoints = endpoints
        self._clock = clock

    async def query(self, promql: str, at: datetime, namespace: str = "") -> Value:
        """See ``Source.query``: pods know no PromQL."""
        raise QueryRefused("the source `pods` knows no PromQL: use measure, or a Prometheus source")

    async def measure(self, spec: MeasureSpec, place: Place, at: datetime) -> Value:
        """See ``Source.measure``. Raises SourceUnavailable when no pod of the arm answers."""
        wanted, window = statistic_of(self.offer, spec), spec.window.total_seconds()
        histories = self._follow(place, wanted.names | self._load_names, window)
        if not histories:
            return math.nan
        await self._scraper.refresh(histories)
        answering = [history for history in histories if not history.error and history.latest is not None]
        if not answering:
            raise SourceUnavailable(f"{self._nobody(place)}: {histories[0].error}")
        now = self._clock.monotonic()
        if (wanted.kind, wanted.stat) == (MeasureKind.GAUGE, Stat.LAST):
            return _gauge(
                [[history.latest[1]] for history in answering if history.latest is not None], wanted
            )
        spanned = max(history.covered(now, window) for history in answering)
        if not covers(spec, spanned):
            return math.nan
        samples = [history.within(now, window) for history in answering]
        if wanted.kind is MeasureKind.GAUGE:
            return _gauge(samples, wanted)
        if wanted.kind is MeasureKind.HISTOGRAM:
            return _histogram(samples, wanted)
        return _counter(samples, wanted, spanned)

    async def requests(self, spec: MeasureSpec, place: Place, since: timedelta, at: datetime) -> float | None:
        """See ``Source.requests``: since the pods are sampled, which a first question begins for the measure, too."""
        names = statistic_of(self.offer, spec).names | self._load_names
        histories = self._follow(place, names, spec.window.total_seconds())
        await self._scraper.refresh(histories)
        now, seconds = self._clock.monotonic(), since.total_seconds()
        samples = [history.within(now, seconds) for history in histories if not history.error]
        if not any(len(taken) > 1 for taken in samples):
            return None
        counted = _increase(samples, self.offer.groups("load"))
        return counted if counted is not None and math.isfinite(counted) else None

    @property
    def _load_names(self) -> set[str]:
        """Followed with every measure: who asks for silence reads them from the same samples."""
        return {selector.name for group in self.offer.groups("load") for selector in group}

    def _follow(self, place: Place, names: set[str], window: float) -> list[PodHistory]:
        return self._scraper.follow(self._endpoints(place.namespace, place.arm), names, window)

    def _nobody(self, place: Place) -> str:
        return f"no pod of {place.arm.name} answers"

    @property
    def offer(self) -> Offer:
        """See ``Source.offer``."""
        return POD_OFFER

    @property
    def remembers(self) -> bool:
        """See ``Source.remembers``."""
        return False

    async def raw(self, names: frozenset[str], place: Place, at: datetime) -> Mapping[str, RawPod]:
        """See ``Source.raw``: every Ready pod of the arm is asked now; one that does not answer is missing."""
        refuse_adapter(place)
        endpoints = self._endpoints(place.namespace, place.arm)
        pages = await asyncio.gather(*(self._scraper.read(endpoint, names) for endpoint in endpoints))
        return {
            # The counters of one that was warmed up did not begin with it: it says nothing of when it started.
            endpoint.pod: RawPod(
                page.get("", ScrapedPage()), endpoint.started if endpoint.warmed is None else None
            )
            for endpoint, page in zip(endpoints, pages, strict=True)
            if page is not None
        }

    async def close(self) -> None:
        """See ``Source.close``."""
        await self._scraper.close()


def _gauge(pods: list[list[ScrapedPage]], wanted: Statistic) -> float:
    """Mean over the pods of each one's mean over its samples."""
    values = []
    for samples in pods:
        found = [value for value in (read(s, wanted.alternatives) for s in samples) if value is not None]
        if found:
            values.append(sum(found) / len(found))
    return sum(values) / len(values) if values else math.nan


def _histogram(pods: list[list[ScrapedPage]], wanted: Statistic) -> float:
    merged = ScrapedHistogram()
    for samples in pods:
        for group in wanted.alternatives:
            name = group[0].name
            series = [sample.histograms[name] for sample in samples if name in sample.histograms]
            if series:
                add_increase(merged, series)
                break
    if wanted.stat in QUANTILES:
        return quantile(QUANTILES[wanted.stat], merged)
    return mean(merged) if wanted.stat is Stat.MEAN else math.nan


def _increase(pods: list[list[ScrapedPage]], groups: Groups, of: Groups = ()) -> float | None:
    """Growth over the samples. A labelled series appears with its first event: beside ``of`` no series is 0."""
    total, seen = 0.0, False
    for samples in pods:
        found = [
            0.0 if value is None and of and read(sample, of) is not None else value
            for sample in samples
            for value in (read(sample, groups),)
        ]
        values = [value for value in found if value is not None]
        if values:
            seen = True
            total += counter_increase(values)
    return total if seen else None


def _counter(pods: list[list[ScrapedPage]], wanted: Statistic, seconds: float) -> float:
    grown = _increase(pods, wanted.alternatives, wanted.of)
    if wanted.stat is Stat.RATIO:
        of = _increase(pods, wanted.of)
        if of is None or of <= 0:
            return math.nan
        if not grown and wanted.finished and _increase(pods, wanted.finished) == 0.0:
            return math.nan
        return (grown or 0.0) / of
    return math.nan if grown is None else grown / seconds
