"""The observed share: requests that arrived at both arms since the weight was applied.

Counters are read from the pods themselves, so that what the gateway really does is compared with what the route
asks; where pods cannot be scraped, from the Prometheus source ``default``. Between two adapters on the same pods the
endpoint pickers' counters tell. Nothing here survives a restart: counting then begins anew, which only delays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from rollouts.analysis.exposition import ScrapedPage
from rollouts.api.parsing import ParsedRollout
from rollouts.controller.arrivals import (
    ARRIVAL_NAMES,
    CANARY,
    PROPAGATION,
    STABLE,
    Arrivals,
    Reading,
    pod_counts,
)
from rollouts.controller.gates import arm_ref
from rollouts.engine.observation import ShareView
from rollouts.engine.rollout_spec import PickerTraffic, VariantTraffic
from rollouts.engine.versions import Identity
from rollouts.objects.picker_pages import CONFIGURED_WEIGHT
from rollouts.runtime.clock import Clock, Monotonic
from rollouts.runtime.objects import ObjectKey
from rollouts.sources.base import Endpoints, MetricSource, Place, ScrapeTarget, SourceError
from rollouts.sources.picker import PICKER_REQUESTS, labels_of, picker_requests
from rollouts.sources.scraper import PodHistory, PodScraper
from rollouts.units import FULL, ZERO, Weight

__all__ = ["ShareCounter", "loaded_weight"]

_log = structlog.get_logger(__name__)

_PACES = ((30.0, 1.0), (150.0, 5.0))
"""Seconds since a change of weight, and between the samples of a pod until then: a step waits for the first ones, the
alarms look at the first two minutes. Later one a minute is enough."""
_HURRY = 10.0
"""Seconds for which one look asks for that."""
_ALL_SILENT = 2.0
"""Seconds after which pods none of which answers are believed not to."""
_GIVE_UP = 15.0
"""Seconds without a single readable counter after which the share counts as not measurable."""
_ASK_SERVER = 15.0
"""Seconds between two questions to a Prometheus server, which itself scrapes every 15 to 60 seconds."""
_FORGET = 300.0


Counts = Callable[[ScrapedPage], tuple[float, float, float | None] | None]


@dataclass(slots=True)
class _Count:
    """One attempt of one Rollout."""

    attempt: tuple[str, int]
    arrivals: Arrivals
    since: Monotonic
    entered: Monotonic
    """When the present weight was first seen."""
    looked: Monotonic
    incomplete_since: Monotonic | None = None
    places: dict[str, Place] = field(default_factory=dict)
    by_server: bool = False
    """The pods cannot be read: from now on the server is asked, and only it."""
    asked: Monotonic | None = None
    heard: Monotonic | None = None
    """When the server last told."""


class ShareCounter:
    """Counts for Rollouts with a canary; others cost nothing. ``run`` asks ``server`` for those that need it."""

    def __init__(
        self,
        scraper: PodScraper,
        pods: Endpoints,
        pickers: Endpoints,
        clock: Clock,
        *,
        server: MetricSource | None = None,
        propagation: float = PROPAGATION,
    ) -> None:
        self._scraper = scraper
        self._pods = pods
        self._pickers = pickers
        self._clock = clock
        self._server = server
        self._propagation = propagation
        self._counts: dict[ObjectKey, _Count] = {}

    def view(
        self, key: ObjectKey, parsed: ParsedRollout, spec: PickerTraffic | None = None
    ) -> ShareView | None:
        """Requests so far; None where there is nothing to count, or nothing that could be counted."""
        status, now = parsed.status, self._clock.monotonic()
        current, stable = status.current, status.stable
        if parsed.spec is None or current is None or stable is None or current.aborted is not None:
            self._counts.pop(key, None)
            return None
        attempt = (current.canary.hash, status.attempt)
        count = self._counts.get(key)
        if count is None or count.attempt != attempt:
            count = self._counts[key] = _Count(
                attempt=attempt,
                arrivals=Arrivals(now, propagation=self._propagation),
                since=now,
                entered=now,
                looked=now,
            )
        count.looked = now
        weight = status.weight.applied or ZERO
        if weight != count.arrivals.weight:
            count.entered = now
        arms = {CANARY: current.canary.identity, STABLE: stable.identity}
        followed = {arm: self._follow(count, parsed, arm, identity, spec) for arm, identity in arms.items()}
        if not count.by_server:
            self._take(count, followed, pod_counts if spec is None else _picked, now)
        count.arrivals.enter(weight)
        every = isinstance(spec, VariantTraffic)
        loaded = None if spec is None else loaded_weight(followed, weight, every=every)
        return self._seen(count, followed, now, loaded)

    def _seen(
        self,
        count: _Count,
        followed: Mapping[str, list[PodHistory]],
        now: Monotonic,
        loaded: Weight | None,
    ) -> ShareView | None:
        arrivals = count.arrivals
        every = [history for histories in followed.values() for history in histories]
        failing = any(history.error for history in every)
        count.incomplete_since = (count.incomplete_since or now) if failing else None
        if self._mute(count, every, now):
            # A server is asked for the counters of pods only: pickers that are silent are waited for.
            elsewhere = self._server is not None and bool(count.places)
            count.by_server = elsewhere and not count.by_server
            if count.by_server:
                count.arrivals, count.since = (
                    Arrivals(now, weight=arrivals.weight, propagation=self._propagation),
                    now,
                )
            return None
        present = arrivals.present()
        return ShareView(
            canary=present.canary,
            stable=present.stable,
            seconds=arrivals.seconds,
            complete=count.by_server or not failing,
            earlier=arrivals.earlier(),
            later=arrivals.later(),
            propagation=self._propagation,
            loaded=loaded,
            path=arrivals.path(),
        )

    @staticmethod
    def _mute(count: _Count, every: list[PodHistory], now: Monotonic) -> bool:
        """Whether nothing can be counted, by whom it should be."""
        waited = now - (count.heard or count.since)
        if count.by_server:
            return waited > _GIVE_UP + 3 * _ASK_SERVER
        if count.arrivals.counting_since is None:
            silent = all(history.error for history in every) and waited > _ALL_SILENT
            return silent or waited > _GIVE_UP
        failing = now - count.incomplete_since if count.incomplete_since is not None else 0.0
        return failing > _GIVE_UP and all(history.error for history in every)

    def _follow(
        self,
        count: _Count,
        parsed: ParsedRollout,
        arm: str,
        identity: Identity,
        spec: PickerTraffic | None,
    ) -> list[PodHistory]:
        """Pages of an arm: of its own pods, or of the pickers that choose between versions of one pool."""
        namespace, age = parsed.namespace, self._clock.monotonic() - count.entered
        pace = next((pace for until, pace in _PACES if age <= until), 0.0)
        hurry = _HURRY if pace else 0.0
        if spec is None:
            ref = arm_ref(identity)
            count.places[arm] = Place(namespace=namespace, arm=ref)
            endpoints = self._pods(namespace, ref)
            return self._scraper.follow(endpoints, ARRIVAL_NAMES, 0.0, hurry=hurry, pace=pace)
        ref = arm_ref(identity, spec)
        only = labels_of(Place(namespace=namespace, arm=ref))
        endpoints = self._pickers(namespace, ref)
        names = PICKER_REQUESTS | {CONFIGURED_WEIGHT}
        return self._scraper.follow(endpoints, names, 0.0, only=only, hurry=hurry, pace=pace)

    @staticmethod
    def _take(
        count: _Count, followed: Mapping[str, list[PodHistory]], counts: Counts, now: Monotonic
    ) -> None:
        """Count what the samples say that were taken since the last look.

        A pod that does not answer is left out for the time being; what came to it is counted when it answers again.
        """
        readings, until = [], now
        for arm, histories in followed.items():
            for history in histories:
                readings += _unread(count, arm, history, counts)
                if not history.error:
                    latest = history.latest
                    until = min(until, latest[0] if latest is not None else count.since)
        count.arrivals.take(readings, until)

    # --- by a server ---

    async def run(self) -> None:
        """Ask the server for the arms whose pods cannot be read, until cancelled."""
        while True:
            await self.ask_server()
            await self._clock.sleep(1.0)

    async def ask_server(self) -> None:
        """Ask for every Rollout whose turn it is."""
        now = self._clock.monotonic()
        for key, count in list(self._counts.items()):
            if now - count.looked > _FORGET:
                del self._counts[key]
            elif count.by_server and (count.asked is None or now - count.asked >= _ASK_SERVER):
                count.asked = now
                await self._ask(count)

    async def _ask(self, count: _Count) -> None:
        assert self._server is not None
        readings: list[Reading] = []
        try:
            for arm, place in count.places.items():
                pages = await self._server.raw(ARRIVAL_NAMES, place, self._clock.now())
                for pod, page in pages.items():
                    found = pod_counts(page.sample)
                    if found is not None:
                        readings.append(Reading(self._clock.monotonic(), arm, pod, *found))
        except SourceError as error:
            _log.info("share_not_read", reason=type(error).__name__)
            return
        if {reading.arm for reading in readings} == set(count.places):
            count.heard = self._clock.monotonic()
            count.arrivals.take(readings, count.heard)


def _unread(count: _Count, arm: str, history: PodHistory, counts: Counts) -> list[Reading]:
    """What the pod's samples say that were taken since the attempt began, or since the last look.

    A pod is sampled every second, and looked at only when its Rollout is planned: what counts is when a sample
    was taken.
    """
    endpoint: ScrapeTarget = history.endpoint
    seen = count.arrivals.last_seen(arm, endpoint.pod)
    found = [(at, sample.once(counts)) for at, sample in history.since(count.since if seen is None else seen)]
    return [
        Reading(at, arm, endpoint.pod, *values)
        for at, values in found
        if values is not None and (seen is None or at > seen)
    ]


def _picked(sample: ScrapedPage) -> tuple[float, float, None]:
    """A picker that never sent a request to the adapter shows no series of it."""
    return picker_requests(sample) or 0.0, 0.0, None


def loaded_weight(
    followed: Mapping[str, list[PodHistory]], weight: Weight, *, every: bool = False
) -> Weight | None:
    """The canary's part of the two arms' weights that the pickers have loaded; None where none says so.

    Of several replicas the one that is farthest from ``weight``. Other targets of the model keep their part, and a
    target without weight is not listed. ``every``: a replica that lists neither arm has loaded none, since a PoolSplit
    is of these two.
    """
    listed: dict[str, dict[str, float]] = {}
    for arm, histories in followed.items():
        for history in histories:
            if history.latest is not None and not history.error:
                share = history.latest[1].total(CONFIGURED_WEIGHT)
                listed.setdefault(history.endpoint.pod, {})[arm] = share or 0.0
    totals = {pod: sum(arms.values()) for pod, arms in listed.items()}
    shares = [
        Weight(round(arms.get(CANARY, 0.0) / totals[pod] * FULL))
        for pod, arms in listed.items()
        if totals[pod] > 0
    ]
    if every and not all(totals.values()):
        shares.append(ZERO)  # a page without any weight: that replica knows no split
    return max(shares, key=lambda share: abs(share - weight), default=None)
