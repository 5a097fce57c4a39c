"""The source ``picker``: statistics of one adapter or pool from our endpoint pickers' metrics, summed over replicas.

A model server aggregates its adapters under the base model, so only the picker, which chose the adapter and saw the
answer, can tell them apart; and of a pool it sees what the model server counts as a success. ``code=""`` marks
requests whose answer was not measured: they are load, not evidence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime

from rollouts.analysis.exposition import ScrapedHistogram, ScrapedPage
from rollouts.analysis.logical import read
from rollouts.analysis.offers import PICKER_OFFER, Offer
from rollouts.engine.versions import VARIANT_KIND
from rollouts.objects.pool_splits import split_name
from rollouts.sources.base import Place, RawPod, SourceUnavailable
from rollouts.sources.pods import PodsSource
from rollouts.sources.scraper import PodHistory

__all__ = [
    "ADAPTER_KIND",
    "PICKER_REQUESTS",
    "PickerSource",
    "labels_of",
    "picker_requests",
]

ADAPTER_KIND = "Adapter"

PICKER_REQUESTS = frozenset(selector.name for group in PICKER_OFFER.groups("load") for selector in group)
"""Counters of whatever was sent on, measured or not."""


def labels_of(place: Place) -> frozenset[tuple[str, str]]:
    """The labels under which a picker counts the requests of one adapter, variant or pool."""
    arm = place.arm
    if arm.kind == VARIANT_KIND:
        asked = {("model", arm.model)} if arm.model else set()
        source = split_name(arm.pool, arm.model)  # another split of the pool may call its variants alike
        return frozenset({("pool", arm.pool), ("variant", arm.name), ("split", source)} | asked)
    if arm.kind != ADAPTER_KIND:
        return frozenset({("pool", arm.name)})
    return frozenset({("model", arm.model), ("target_model", arm.name)})


def picker_requests(sample: ScrapedPage) -> float | None:
    """Requests that a picker sent to the adapter whose series the sample holds."""
    return read(sample, PICKER_OFFER.groups("load"))


def _merged(left: ScrapedPage, right: ScrapedPage) -> ScrapedPage:
    """The sum of two replicas' counters of one pod."""
    series = {
        name: [*left.series.get(name, []), *right.series.get(name, [])]
        for name in (*left.series, *right.series)
    }
    histograms = dict(left.histograms)
    for name, other in right.histograms.items():
        mine = histograms.get(name, ScrapedHistogram())
        bounds = {*mine.buckets, *other.buckets}
        histograms[name] = ScrapedHistogram(
            buckets={b: mine.buckets.get(b, 0.0) + other.buckets.get(b, 0.0) for b in bounds},
            sum=mine.sum + other.sum,
            count=mine.count + other.count,
        )
    return ScrapedPage(series=series, histograms=histograms)


class PickerSource(PodsSource):
    """Measures what went through our endpoint pickers."""

    def _follow(self, place: Place, names: set[str], window: float) -> list[PodHistory]:
        endpoints = self._endpoints(place.namespace, place.arm)
        return self._scraper.follow(endpoints, names, window, only=labels_of(place))

    @property
    def offer(self) -> Offer:
        """See ``Source.offer``."""
        return PICKER_OFFER

    async def raw(self, names: frozenset[str], place: Place, at: datetime) -> Mapping[str, RawPod]:
        """See ``Source.raw``: by the pod that answered, summed over the replicas of the picker.

        A replica that does not answer would look like a reset of every counter, so then nothing is said.
        """
        endpoints = self._endpoints(place.namespace, place.arm)
        only = labels_of(place)
        pages = await asyncio.gather(
            *(self._scraper.read(endpoint, names, only=only, by="pod") for endpoint in endpoints)
        )
        answered = [page for page in pages if page is not None]
        if not endpoints or len(answered) < len(endpoints):
            raise SourceUnavailable(f"{self._nobody(place)} in full: {len(answered)} of {len(endpoints)} did")
        found: dict[str, ScrapedPage] = {}
        for page in answered:
            for pod, sample in page.items():
                if pod:
                    found[pod] = _merged(found[pod], sample) if pod in found else sample
        return {pod: RawPod(sample) for pod, sample in found.items()}

    def _nobody(self, place: Place) -> str:
        return f"no endpoint picker of pool {place.arm.pool or place.arm.name} answers"
