"""Counting arrivals: how many requests came to each arm, from what its pods say of themselves.

vLLM counts a request when it ends (and so does SGLang), which after a raise of weight shows the split of minutes ago.
So what has ended and what is running or waiting are added up: their sum grows by one when a request arrives, and the
growth between two samples is the number of arrivals, whatever the answers take.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from rollouts.analysis.exposition import ScrapedPage
from rollouts.analysis.logical import read
from rollouts.analysis.offers import POD_OFFER
from rollouts.engine.observation import RiseView, ShareCount
from rollouts.engine.share import BEFORE_WINDOW, recent_window
from rollouts.runtime.clock import Monotonic
from rollouts.sources.pods import REQUEST_NAMES, request_total
from rollouts.units import ZERO, Weight

__all__ = ["ARRIVAL_NAMES", "CANARY", "PROPAGATION", "STABLE", "Arrivals", "Reading", "pod_counts"]

CANARY, STABLE = "canary", "stable"

_IN_FLIGHT = POD_OFFER.groups("in_flight")
_STARTED = "process_start_time_seconds"
"""Of the Python client, where one process answers; a restart that it shows needs no counter to fall."""

ARRIVAL_NAMES = REQUEST_NAMES | {_STARTED, *(one.name for group in _IN_FLIGHT for one in group)}

PROPAGATION = 120.0
"""Seconds that a gateway may take to put a weight in force; Istio and Envoy Gateway took less than one."""

_TOGETHER = 1.5
"""Seconds within which samples of two pods count as of one moment: pods are sampled every second."""
_SPACING = 5.0
"""Seconds between kept totals: ten minutes of them are 120."""


class Reading(NamedTuple):
    """What a pod said of itself at a moment."""

    at: Monotonic
    arm: str
    pod: str
    ended: float
    in_flight: float = 0.0
    started: float | None = None


class Totals(NamedTuple):
    """Arrivals of both arms up to a moment."""

    at: Monotonic
    canary: float
    stable: float


def pod_counts(sample: ScrapedPage) -> tuple[float, float, float | None] | None:
    """Requests ended, requests in flight and the start of the process; None without a request counter."""
    ended = request_total(sample)
    if ended is None:
        return None
    return ended, read(sample, _IN_FLIGHT) or 0.0, sample.total(_STARTED)


@dataclass(slots=True)
class Arrivals:
    """Arrivals at both arms during one attempt, by the weight that was in force.

    Both arms are counted over the same time: from when the second of them was heard of to the moment up to which
    every pod that answers has been sampled. ``since``: earlier samples are not looked at. ``propagation``: seconds that
    a gateway may take to put a weight in force.
    """

    since: Monotonic
    weight: Weight = ZERO
    propagation: float = PROPAGATION
    counting_since: Monotonic | None = None
    until: Monotonic | None = None
    totals: dict[str, float] = field(default_factory=lambda: {CANARY: 0.0, STABLE: 0.0})
    _last: dict[tuple[str, str], Reading] = field(default_factory=dict)
    _heard: set[str] = field(default_factory=set)
    _kept: deque[Totals] = field(default_factory=deque)
    _mark: Totals | None = None
    """Totals when the present weight came into force."""
    _confirmed: Totals | None = None
    """Totals when the present weight was last known to be in force. What came after that, until another one is heard
    of, may have come under either: a write whose answer or status was lost is heard of late."""
    _before: tuple[Weight, Totals, Totals] | None = None
    """The weight before, and totals up to ten minutes before the present one came into force, and then."""
    _earlier: dict[Weight, tuple[float, float]] = field(default_factory=dict)
    _rising: list[Totals] = field(default_factory=list)
    """Totals at moments after the present weight came into force, for as long as a gateway may take."""

    def last_seen(self, arm: str, pod: str) -> Monotonic | None:
        """When the newest reading of a pod was taken that counts."""
        found = self._last.get((arm, pod))
        return None if found is None else found.at

    def take(self, readings: Iterable[Reading], until: Monotonic) -> None:
        """Count readings, up to the moment that all pods have been sampled at; what is newer waits."""
        for reading in sorted(readings, key=lambda reading: reading.at):
            if reading.at <= until + _TOGETHER:
                self._take(reading)
        if self.counting_since is None:
            return
        self.until = Monotonic(max(until, self.counting_since))
        if self._mark is None:
            self._mark = Totals(self.counting_since, 0.0, 0.0)
        self._keep()

    def _take(self, reading: Reading) -> None:
        """A pod's first reading is its baseline; when what has ended falls, the pod began anew."""
        place = (reading.arm, reading.pod)
        before = self._last.get(place)
        if before is not None and reading.at <= before.at:
            return
        self._last[place] = reading
        self._heard.add(reading.arm)
        if self.counting_since is None:
            self.counting_since = reading.at if len(self._heard) == len(self.totals) else None
        elif before is not None and before.at >= self.counting_since:
            now = reading.ended + reading.in_flight
            anew = reading.ended < before.ended or _differ(before.started, reading.started)
            self.totals[reading.arm] += now if anew else now - before.ended - before.in_flight

    def _now(self) -> Totals:
        at = self.until if self.until is not None else self.since
        return Totals(at, self.totals[CANARY], self.totals[STABLE])

    def _keep(self) -> None:
        now = self._now()
        if not self._kept or now.at - self._kept[-1].at >= _SPACING * 0.9:
            self._kept.append(now)
            if self._mark is not None and 0 < now.at - self._mark.at <= self.propagation + _SPACING:
                self._rising.append(now)
        while self._kept[0].at < now.at - 1.5 * BEFORE_WINDOW:
            self._kept.popleft()

    def enter(self, weight: Weight) -> None:
        """From now on arrivals count under this weight."""
        mark, now = self._mark, self._now()
        if weight == self.weight:
            self._confirmed = now if mark is not None else None
            return
        if mark is not None:
            end = self._confirmed or mark
            if self.weight > ZERO:
                canary, stable = self._earlier.get(self.weight, (0.0, 0.0))
                seen = (canary + end.canary - mark.canary, stable + end.stable - mark.stable)
                self._earlier[self.weight] = seen
            first = next((kept for kept in self._kept if kept.at >= end.at - BEFORE_WINDOW), end)
            self._before = (self.weight, min(first, end), end)
            self._mark = self._confirmed = now
            self._rising.clear()
        self.weight = weight

    # --- what is seen ---

    @property
    def seconds(self) -> float:
        """Since when the present weight is counted, to the last common moment."""
        if self._mark is None or self.until is None:
            return 0.0
        return max(0.0, self.until - self._mark.at)

    def present(self) -> ShareCount:
        """Arrivals under the present weight."""
        mark, now = self._mark, self._now()
        if mark is None:
            return ShareCount(weight=self.weight, canary=0, stable=0)
        return _count(self.weight, now.canary - mark.canary, now.stable - mark.stable)

    def later(self) -> tuple[ShareCount, ...]:
        """Arrivals under the present weight since moments after it was applied, the earliest first."""
        now = self._now()
        return tuple(
            _count(self.weight, now.canary - one.canary, now.stable - one.stable)
            for one in self._rising
            if one.at < now.at
        )

    def earlier(self) -> tuple[ShareCount, ...]:
        """Arrivals under the weights before."""
        return tuple(_count(weight, *seen) for weight, seen in sorted(self._earlier.items()))

    def path(self) -> RiseView | None:
        """Arrivals before the present weight and lately; None where nothing was counted before."""
        if self._before is None or self._mark is None:
            return None
        weight, first, last = self._before
        before = (last.canary - first.canary, last.canary + last.stable - first.canary - first.stable)
        seconds = last.at - first.at
        if seconds <= 0:
            return None
        now, window = self._now(), recent_window(round(before[1]), seconds)
        start = self._mark
        for kept in self._kept:
            if self._mark.at <= kept.at <= now.at - window:
                start = kept
        canary, stable = now.canary - start.canary, now.stable - start.stable
        return RiseView(
            weight_before=weight,
            before=max(0, round(before[1])),
            canary_before=max(0, round(before[0])),
            before_seconds=seconds,
            recent=max(0, round(canary + stable)),
            canary_recent=max(0, round(canary)),
            recent_seconds=max(0.0, now.at - start.at),
        )


def _differ(before: float | None, now: float | None) -> bool:
    return before is not None and now is not None and before != now


def _count(weight: Weight, canary: float, stable: float) -> ShareCount:
    """Whole requests: a request may leave one counter a moment before it enters the other."""
    return ShareCount(weight=weight, canary=max(0, round(canary)), stable=max(0, round(stable)))
