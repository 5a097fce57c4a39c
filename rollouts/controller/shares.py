"""The observed share: requests that both arms' pods counted since the weight was applied.

Counters are read from the pods themselves, so that what the gateway really does is compared with what the route
asks; between two adapters on the same pods the endpoint picker's counters tell. Nothing here survives a restart:
counting then begins anew, which only delays the comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from rollouts.analysis.exposition import PodSample
from rollouts.analysis.sources.base import Endpoints, Place
from rollouts.analysis.sources.picker import PICKER_REQUESTS, labels_of, picker_requests
from rollouts.analysis.sources.pods import REQUEST_NAMES, request_total
from rollouts.analysis.sources.scraper import PodHistory, PodScraper
from rollouts.analysis.types import ArmRef
from rollouts.api.parsing import ParsedRollout
from rollouts.engine.observation import ShareView
from rollouts.engine.types import ZERO, AdapterTraffic, Identity, Weight, WeightStep
from rollouts.runtime.clock import Clock, Monotonic
from rollouts.runtime.objects import ObjectKey

__all__ = ["NoShares", "ShareCounter"]

Total = Callable[[PodSample], float | None]

_WINDOW = 24.0
_HURRY = 10.0
"""Seconds for which pods are sampled every second, whatever longer windows others ask of them; views renew it."""
_ALL_SILENT = 2.0
"""Seconds after which pods none of which answers are believed not to."""
_GIVE_UP = 15.0
"""Seconds without a single readable counter after which the share counts as not measurable."""


class NoShares:
    """Counts nothing: the share never blocks a step."""

    def view(
        self, key: ObjectKey, parsed: ParsedRollout, spec: AdapterTraffic | None = None
    ) -> ShareView | None:
        """Always None."""
        return None


class _Reading(NamedTuple):
    """A pod's counter at a moment."""

    at: Monotonic
    arm: str
    place: tuple[str, str]
    total: float


@dataclass(slots=True)
class _Count:
    """Requests per arm, both over the same time: from when the second of them was heard of."""

    weight: Weight
    step: datetime | None
    since: Monotonic
    counting_since: Monotonic | None = None
    last: dict[tuple[str, str], tuple[Monotonic, float]] = field(default_factory=dict)
    seen: dict[str, Monotonic] = field(default_factory=dict)
    """When an arm was last heard of."""
    totals: dict[str, float] = field(default_factory=lambda: {"canary": 0.0, "stable": 0.0})

    def take(self, reading: _Reading) -> None:
        """The next reading in time; a pod's first one is its baseline, and a fall is a reset."""
        before = self.last.get(reading.place)
        self.last[reading.place] = (reading.at, reading.total)
        self.seen[reading.arm] = reading.at
        if self.counting_since is None:
            self.counting_since = reading.at if len(self.seen) == len(self.totals) else None
        elif before is not None and before[0] >= self.counting_since:
            grown = reading.total - before[1]
            self.totals[reading.arm] += grown if grown >= 0 else reading.total


class ShareCounter:
    """Counts for Rollouts that put a weight in force; others cost nothing."""

    def __init__(self, scraper: PodScraper, pods: Endpoints, pickers: Endpoints, clock: Clock) -> None:
        self._scraper = scraper
        self._pods = pods
        self._pickers = pickers
        self._clock = clock
        self._counts: dict[ObjectKey, _Count] = {}

    def view(
        self, key: ObjectKey, parsed: ParsedRollout, spec: AdapterTraffic | None = None
    ) -> ShareView | None:
        """Requests so far; None where there is nothing to count, or nothing that could be counted."""
        if not self._concerns(parsed):
            self._counts.pop(key, None)
            return None
        status, now = parsed.status, self._clock.monotonic()
        assert status.weight.applied is not None
        assert status.stable is not None
        assert status.canary is not None
        count = self._counts.get(key)
        if count is None or (count.weight, count.step) != (status.weight.applied, status.step_started_at):
            count = self._counts[key] = _Count(
                weight=status.weight.applied, step=status.step_started_at, since=now
            )
        followed: list[PodHistory] = []
        readings: list[_Reading] = []
        for arm, identity in (("canary", status.canary.identity), ("stable", status.stable.identity)):
            histories, total = self._follow(parsed, identity, spec)
            for history in histories:
                readings += _unread(count, arm, history, total)
            followed += histories
        for reading in sorted(readings):
            count.take(reading)
        if count.counting_since is None:
            silent = all(history.error for history in followed) and now - count.since > _ALL_SILENT
            if silent or now - count.since > _GIVE_UP:
                return None
            return ShareView(canary=0, stable=0, seconds=0.0)
        return ShareView(
            canary=round(count.totals["canary"]),
            stable=round(count.totals["stable"]),
            seconds=max(0.0, min(count.seen.values()) - count.counting_since),
        )

    @staticmethod
    def _concerns(parsed: ParsedRollout) -> bool:
        """Only a weight step (or the last 100 %) that is being put in force looks at the share."""
        status, spec = parsed.status, parsed.spec
        if spec is None or status.canary is None or status.stable is None or status.started_at is None:
            return False
        if status.aborted is not None or (status.weight.applied or ZERO) == ZERO or status.hold is not None:
            return False
        steps = spec.canary.steps
        if status.current_step >= len(steps):
            return status.bake_started_at is None
        return isinstance(steps[status.current_step], WeightStep)

    def _follow(
        self, parsed: ParsedRollout, identity: Identity, spec: AdapterTraffic | None
    ) -> tuple[list[PodHistory], Total]:
        """Counters of an arm: of its own pods, or of the pickers that choose between adapters."""
        namespace = parsed.namespace
        if spec is None:
            arm = ArmRef(kind=identity.kind, group=identity.group, name=identity.name)
            endpoints = self._pods(namespace, arm)
            return self._scraper.follow(endpoints, REQUEST_NAMES, _WINDOW, hurry=_HURRY), request_total
        arm = ArmRef(
            kind=identity.kind,
            group=spec.pool_group,
            name=identity.name,
            pool=spec.pool_name,
            model=spec.model_name,
        )
        only = labels_of(Place(namespace=namespace, arm=arm))
        endpoints = self._pickers(namespace, arm)
        return self._scraper.follow(endpoints, PICKER_REQUESTS, _WINDOW, only=only, hurry=_HURRY), _picked


def _unread(count: _Count, arm: str, history: PodHistory, total_of: Total) -> list[_Reading]:
    """What the pod's samples say that were taken since the weight was applied, or since the last look.

    A pod is sampled every second, and looked at only when its Rollout is planned: what counts is when a sample
    was taken.
    """
    place = (arm, history.endpoint.pod)
    seen = count.last.get(place)
    totals = (
        (at, total_of(sample))
        for at, sample in history.since(count.since if seen is None else seen[0])
        if seen is None or at > seen[0]
    )
    return [_Reading(at, arm, place, total) for at, total in totals if total is not None]


def _picked(sample: PodSample) -> float:
    """A picker that never sent a request to the adapter shows no series of it."""
    return picker_requests(sample) or 0.0
