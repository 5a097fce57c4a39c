"""Requests that pods answer or hold, by their own gauges: what lost keeps its pods while there are any."""

from __future__ import annotations

from rollouts.analysis.logical import read
from rollouts.analysis.offers import POD_OFFER
from rollouts.controller.caches import Caches
from rollouts.controller.pages import metrics_pages
from rollouts.objects.pools import Pool
from rollouts.runtime.clock import Clock
from rollouts.sources.scraper import PodScraper

__all__ = ["NAMES", "PodsInFlight"]

_GROUPS = POD_OFFER.groups("in_flight")
NAMES = frozenset(selector.name for group in _GROUPS for selector in group)

_FRESH = 10.0
"""Seconds that a sample may be old: pods are sampled every five while somebody looks."""
_PACE = 5.0
_HURRY = 30.0


class PodsInFlight:
    """Asks the scraper for the pods' gauges; pods without an IP answer nothing."""

    def __init__(self, scraper: PodScraper, caches: Caches, clock: Clock) -> None:
        self._scraper = scraper
        self._caches = caches
        self._clock = clock

    def requests(self, pool: Pool) -> int | None:
        """See ``InFlight``."""
        pods = self._caches.endpoints(pool)
        targets = metrics_pages(pods, pool.processes, pool.namespace)
        now, total = self._clock.monotonic(), 0.0
        for history in self._scraper.follow(targets, NAMES, 0.0, hurry=_HURRY, pace=_PACE):
            if history.latest is None or history.error or now - history.latest[0] > _FRESH:
                return None
            found = read(history.latest[1], _GROUPS)
            if found is None:
                return None
            total += found
        return round(total)
