"""A source of raw counters that grow as a model server's would, in virtual time: what compare gates read in tests."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from rollouts.analysis.exposition import ScrapedHistogram, ScrapedPage
from rollouts.analysis.offers import POD_OFFER, Offer
from rollouts.analysis.types import MeasureSpec, Value
from rollouts.runtime.clock import Clock
from rollouts.sources.base import Place, QueryRefused, RawPod, SourceUnavailable

__all__ = ["GrowingCounters"]

_BOUNDS = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, math.inf)
_SHARES = (0.01, 0.03, 0.25, 0.62, 0.82, 0.91, 0.99, 1.0, 1.0)
_SIGMA = 0.7
_STEP = 5.0
"""Virtual seconds that counters grow by at a time."""


class _Pod:
    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self.finished = 0
        self.flying: list[float] = []
        """When the requests came that hang."""
        self.buckets = [0] * len(_BOUNDS)
        self.sum = 0.0


class GrowingCounters:
    """``Source`` whose pods count requests: ``slower`` and ``errors`` are the canary's, ``silent`` pods do not answer.

    What users lose: ``hanging``, ``refused``, ``cancelled``. ``canary`` and ``stable`` name the arms; ``share`` tells
    the canary's share of ``rate`` requests a second. Latency is lognormal with a median of 0.4 s.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        stable: str,
        canary: str,
        pods: tuple[int, int] = (8, 4),
        share: Callable[[], float] = lambda: 0.1,
        rate: float = 20.0,
        seed: int = 1,
    ) -> None:
        self.slower = 0.0
        self.errors = 0.0
        self.refused = 0.0
        """Share of the canary's streams that begin with 200 and end with an error event."""
        self.cancelled = 0.0
        """Share of requests that clients of both arms end before they are answered."""
        self.hanging = False
        """The canary's requests never end; clients leave after ``give_up`` seconds."""
        self.give_up = math.inf
        self.silent: set[str] = set()
        self.flickering: set[str] = set()
        """Pods that answer every third time only."""
        self.down = False
        self.remembers = False
        self.asked_about: list[datetime] = []
        """Moments in the past that were asked about."""
        self._clock = clock
        self._random = random.Random(seed)
        self._rate = rate
        self._share = share
        self._pods = {
            (arm, f"{arm}-{index}"): _Pod()
            for arm, count in ((stable, pods[0]), (canary, pods[1]))
            for index in range(count)
        }
        self._canary = canary
        self._grown_to = 0.0

    async def requests(self, spec: MeasureSpec, place: Place, since: timedelta, at: datetime) -> float | None:
        """See ``Source.requests``: no measure is taken here."""
        return None

    @property
    def offer(self) -> Offer:
        """See ``Source.offer``."""
        return POD_OFFER

    async def query(self, promql: str, at: datetime, namespace: str = "") -> Value:
        """See ``Source.query``: not in these tests."""
        raise QueryRefused("no PromQL here")

    async def measure(self, spec: MeasureSpec, place: Place, at: datetime) -> Value:
        """See ``Source.measure``: healthy."""
        return 0.01

    async def raw(self, names: frozenset[str], place: Place, at: datetime) -> Mapping[str, RawPod]:
        """See ``Source.raw``."""
        if self.down:
            raise SourceUnavailable("nobody answers")
        ago = (self._clock.now() - at).total_seconds()
        if ago > 1.0:
            self.asked_about.append(at)
            return self._past(place.arm.name, at)
        self._grow()
        return {
            name: RawPod(_page(pod))
            for (arm, name), pod in self._pods.items()
            if arm == place.arm.name and name not in self.silent and not self._out(name)
        }

    def _out(self, pod: str) -> bool:
        return pod in self.flickering and round(self._clock.monotonic() / 30.0) % 3 != 0

    def _past(self, arm: str, at: datetime) -> dict[str, RawPod]:
        """Counters that grew evenly up to now; histories of their own are no concern here."""
        found = {}
        for owner, name in self._pods:
            if owner == arm:
                early = _Pod()
                early.requests = max(0, round(at.timestamp()) % 100_000)
                early.finished = early.requests
                early.buckets = [round(early.requests * share) for share in _SHARES]
                early.sum = early.requests * 0.5
                found[name] = RawPod(_page(early))
        return found

    async def close(self) -> None:
        """Nothing to release."""

    def reset(self, pod: str) -> None:
        """The pod's process starts again: its counters begin at 0."""
        for key in self._pods:
            if key[1] == pod:
                self._pods[key] = _Pod()

    def _grow(self) -> None:
        now = self._clock.monotonic()
        while self._grown_to + _STEP <= now:
            self._grown_to += _STEP
            share, counts = self._share(), Counter(arm for arm, _ in self._pods)
            for (arm, _), pod in self._pods.items():
                bad = arm == self._canary
                rate = self._rate * (share if bad else 1.0 - share) / counts[arm]
                if bad and self.hanging:
                    self._hang(pod, rate)
                    continue
                self._serve(pod, rate, bad)

    def _hang(self, pod: _Pod, rate: float) -> None:
        """A request is counted when it ends: as 2xx, when its client leaves."""
        left = [came for came in pod.flying if self._grown_to - came >= self.give_up]
        pod.requests += len(left)
        pod.flying = pod.flying[len(left) :]
        pod.flying += [self._grown_to] * int(rate * _STEP + self._random.random())

    def _serve(self, pod: _Pod, rate: float, bad: bool) -> None:
        slower, errors = (self.slower, max(0.002, self.errors)) if bad else (0.0, 0.002)
        # The fraction is drawn, so that small shares are right in the long run.
        for _ in range(int(rate * _STEP + self._random.random())):
            seconds = 0.4 * (1 + slower) * math.exp(self._random.gauss(0.0, _SIGMA))
            pod.requests += 1
            failed = self._random.random() < errors
            pod.errors += failed
            lost = self.cancelled + (self.refused if bad else 0.0)
            pod.finished += not (failed or (lost and self._random.random() < lost))
            pod.sum += seconds
            for index, bound in enumerate(_BOUNDS):
                pod.buckets[index] += seconds <= bound


def _page(pod: _Pod) -> ScrapedPage:
    ttft = ScrapedHistogram(
        buckets=dict(zip(_BOUNDS, map(float, pod.buckets), strict=True)),
        sum=pod.sum,
        count=float(pod.requests),
    )
    ok = {"handler": "/v1/completions", "status": "2xx"}
    bad = {**ok, "status": "5xx"}
    series = {
        "http_requests_total": [(ok, float(pod.requests - pod.errors)), (bad, float(pod.errors))],
        "vllm:request_params_n_count": [({"engine": "0"}, float(pod.finished))],
        "vllm:num_requests_running": [({"engine": "0"}, float(len(pod.flying)))],
    }
    done = float(pod.finished)
    e2e = ScrapedHistogram(buckets={2.5: done // 2, 5.0: done, math.inf: done}, sum=done * 2.5, count=done)
    return ScrapedPage(
        series=series,
        histograms={"vllm:time_to_first_token_seconds": ttft, "vllm:e2e_request_latency_seconds": e2e},
    )
