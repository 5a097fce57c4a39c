"""Requests that arrive at pods of which all is known, as samples for a server, and what a measure of them should say.

The truth is counted from the requests themselves. Pods come, are warmed up, restart, or take another one's name, at
several lengths of the window, distances of scrapes and places of the scrapes in it.
"""

from __future__ import annotations

import asyncio
import functools
import io
import random
from asyncio.subprocess import DEVNULL
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import aiohttp

from benchmarks.peers.victoriametrics import VictoriaMetrics
from rollouts.lab.prometheus import Prometheus, find_prometheus
from rollouts.sources.base import ScrapeTarget

__all__ = ["SCENARIOS", "SETTLES", "Line", "Scene", "Truth", "import_samples", "scenes"]

SETTLES = 5.0
"""Seconds after a warm-up of which requests are not asked for."""


class Line(NamedTuple):
    """One sample: the series' name and labels as they are written, value, seconds since 1970."""

    name: str
    labels: str
    value: float
    at: float


class Truth(NamedTuple):
    """Requests of users in the window, and those that failed."""

    requests: int
    errors: int


@dataclass(frozen=True, kw_only=True)
class _Life:
    """A process: requests (moment, failed) in their order, scraped from ``since`` to ``until``."""

    since: float
    until: float
    address: str = "10.0.0.1:8000"
    ok: Sequence[float] = ()
    failed: Sequence[float] = ()
    before: int = 0
    """Requests of long ago, as many of each kind."""
    started: float = 1.0
    """What it says of its start."""
    alone: bool = False
    """A scrape configuration that keeps the counters of requests alone."""

    def lines(self, own: str, moments: Iterable[float], zero: float) -> Iterator[Line]:
        http = f'{own},instance="{self.address}",handler="/v1/completions",method="POST"'
        for at in moments:
            if not self.since <= at <= self.until:
                continue
            for status, seen in (("2xx", self.ok), ("5xx", self.failed)):
                count = bisect_right(seen, at) + self.before
                if count:
                    yield Line("http_requests_total", f'{http},status="{status}"', count, zero + at)
            if not self.alone:
                always = f'{own},instance="{self.address}"'
                yield Line("process_start_time_seconds", always, self.started, zero + at)
                yield Line("vllm:num_requests_running", f'{always},model_name="m"', 2.0, zero + at)


@dataclass(frozen=True, kw_only=True)
class _Pod:
    name: str
    lives: Sequence[_Life]
    started: float | None = None
    warmed: float | None = None
    counts: Sequence[_Life] = ()
    """The lives whose requests are of this pod; empty: all."""

    def truth(self, begin: float) -> Truth:
        begin = max(begin, -1e9 if self.warmed is None else self.warmed + SETTLES)
        lives = self.counts or self.lives
        ok = sum(begin < at <= 0 for life in lives for at in life.ok)
        failed = sum(begin < at <= 0 for life in lives for at in life.failed)
        return Truth(ok + failed, failed)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Pods in a namespace of their own; moments are seconds after ``zero``, which is when a measure is asked for."""

    namespace: str
    scenario: str
    window: int
    every: int
    shift: float
    pods: Sequence[_Pod] = field(default_factory=tuple)

    @property
    def truth(self) -> Truth:
        """Of all pods."""
        found = [pod.truth(-self.window) for pod in self.pods]
        return Truth(sum(one.requests for one in found), sum(one.errors for one in found))

    def targets(self, zero: float) -> list[ScrapeTarget]:
        """The pods as the controller knows them."""
        return [
            ScrapeTarget(
                pod=pod.name,
                ip="10.0.0.1",
                port=8000,
                started=None if pod.started is None else zero + pod.started,
                warmed=None if pod.warmed is None else zero + pod.warmed,
            )
            for pod in self.pods
        ]

    def lines(self, zero: float) -> Iterator[Line]:
        """All samples."""
        first = -(self.window + 900)
        for number, pod in enumerate(self.pods):
            own = f'pod="{pod.name}",namespace="{self.namespace}",job="pods"'
            shift = (self.shift + number * 2.9) % self.every
            moments = [at - shift for at in range(first - first % self.every, 1, self.every)]
            for life in pod.lives:
                yield from life.lines(own, moments, zero)


@functools.cache
def _arrivals(seed: int, since: float, until: float, rate: float, share: float) -> dict[str, list[float]]:
    """Requests that come in turn, one in each of ``rate`` parts of a second, and fail by lot."""
    lot, slots = random.Random(seed), int((until - since) * rate)
    at = [since + (slot + lot.random()) / rate for slot in range(slots)]
    bad = {slot for first in range(0, slots, 20) for slot in _some(lot, first, slots, share)}
    return {
        "ok": [one for slot, one in enumerate(at) if slot not in bad],
        "failed": [one for slot, one in enumerate(at) if slot in bad],
    }


def _some(lot: random.Random, first: int, slots: int, share: float) -> list[int]:
    """Of twenty requests as many as fail: drawn so that the share is right over some hundred."""
    return [slot for slot in lot.sample(range(first, first + 20), round(20 * share)) if slot < slots]


def _old(window: int) -> _Pod:
    life = _Life(since=-1e9, until=0, before=1000, **_arrivals(1, -window - 700.0, 0, 5.0, 0.1))
    return _Pod(name="old", started=-90_000.0, lives=[life])


def _steady(window: int) -> list[_Pod]:
    return [_old(window)]


def _fails(window: int) -> list[_Pod]:
    """Was there all the time, and begins to fail."""
    users = _arrivals(10, -window - 700.0, 0, 20.0, 0.3)
    failed = [at for at in users["failed"] if at > -0.4 * window]
    life = _Life(since=-1e9, until=0, ok=users["ok"], failed=failed)
    return [_old(window), _Pod(name="new", started=-90_000.0, lives=[life])]


def _new(window: int) -> list[_Pod]:
    came = -0.5 * window
    life = _Life(since=came + 3, until=0, started=1.0, **_arrivals(2, came + 4, 0, 20.0, 0.3))
    return [_old(window), _Pod(name="new", started=came, lives=[life])]


def _slow(window: int) -> list[_Pod]:
    """Started before the window, and answers its first scrape within: it loaded weights."""
    came = -0.5 * window
    life = _Life(since=came, until=0, **_arrivals(3, came, 0, 20.0, 0.3))
    return [_old(window), _Pod(name="new", started=-window - 150.0, lives=[life])]


def _warmed(window: int, *, alone: bool = False, failing: bool = True) -> list[_Pod]:
    """Ten seconds of warm-up; users' requests from its end on."""
    warmed = -0.6 * window
    warming = _arrivals(4, warmed - 10, warmed, 40.0, 0.5 if failing else 0.0)
    users = _arrivals(5, warmed, 0, 20.0, 0.3)
    if not failing:  # nothing fails until the counters of users' requests have been there
        users = {**users, "failed": [at for at in users["failed"] if at > warmed + SETTLES]}
    life = _Life(
        since=warmed - 100,
        until=0,
        alone=alone,
        ok=warming["ok"] + users["ok"],
        failed=warming["failed"] + users["failed"],
    )
    return [_old(window), _Pod(name="new", started=warmed - 200, warmed=warmed, lives=[life])]


def _well_at_first(window: int) -> list[_Pod]:
    return _warmed(window, failing=False)


def _alone(window: int) -> list[_Pod]:
    return _warmed(window, failing=False, alone=True)


def _namesake(window: int, *, address: str = "10.0.0.1:8000") -> list[_Pod]:
    """A StatefulSet's pod is replaced by one of the same name."""
    came = -0.5 * window
    gone = _Life(since=-1e9, until=came - 8, before=500, **_arrivals(6, -window - 500, came - 8, 20.0, 0.9))
    life = _Life(since=came + 3, until=0, address=address, **_arrivals(7, came + 4, 0, 20.0, 0.3))
    return [_old(window), _Pod(name="new", started=came, lives=[gone, life], counts=[life])]


def _moved(window: int) -> list[_Pod]:
    return _namesake(window, address="10.0.0.9:8000")


def _restarted(window: int, *, started: float = -90_000.0) -> list[_Pod]:
    """A container starts anew: what it counted before was of its users."""
    fell, back = -0.45 * window, -0.45 * window + 6
    since = max(started, -window - 700.0)
    first = _Life(since=started, until=fell, before=0, **_arrivals(8, since, fell, 20.0, 0.3))
    second = _Life(since=back, until=0, **_arrivals(9, back, 0, 20.0, 0.3))
    return [_old(window), _Pod(name="new", started=started, lives=[first, second])]


def _new_restarted(window: int) -> list[_Pod]:
    return _restarted(window, started=-0.8 * window)


SCENARIOS = {
    "there all the time": _steady,
    "there all the time, and begins to fail": _fails,
    "came within the window": _new,
    "started before the window, and answered within": _slow,
    "warmed up within the window": _warmed,
    "first errors right after a warm-up": _well_at_first,
    "first errors right after a warm-up, requests' counters alone": _alone,
    "took another one's name and address": _namesake,
    "took another one's name": _moved,
    "restarted within the window": _restarted,
    "came and restarted within the window": _new_restarted,
}

_GRID = ((60, 10), (120, 15), (300, 30), (310, 15), (1800, 30))
_SHIFTS = (0.5, 0.35, 0.85)
"""Of a scrape's distance: the newest sample's age. The first is in seconds."""


def scenes(only: Iterable[str] = SCENARIOS, grid: Iterable[tuple[int, int]] = _GRID) -> list[Scene]:
    """Every scenario at every window (seconds), scrape distance and phase."""
    found = []
    for scenario in only:
        for window, every in grid:
            pods = SCENARIOS[scenario](window)
            for share in _SHIFTS:
                shift = share if share == _SHIFTS[0] else share * every
                found.append(
                    Scene(
                        namespace=f"n{len(found)}",
                        scenario=scenario,
                        window=window,
                        every=every,
                        shift=shift,
                        pods=pods,
                    )
                )
    return found


async def import_samples(server: Prometheus, folder: Path, samples: Iterable[Line]) -> None:
    """Start a server that holds these."""
    lines = sorted(samples, key=lambda line: line.name)
    if isinstance(server, VictoriaMetrics):
        await server.start()
        text = "".join(f"{one.name}{{{one.labels}}} {one.value} {one.at * 1000:.0f}\n" for one in lines)
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            await session.post(f"{server.url}/api/v1/import/prometheus", data=io.BytesIO(text.encode()))
            await session.get(f"{server.url}/internal/force_flush")
        return
    file = folder / "samples.txt"
    text = "".join(f"{one.name}{{{one.labels}}} {one.value} {one.at:.3f}\n" for one in lines)
    file.write_text(f"{text}# EOF\n", encoding="utf-8")
    words = ["tsdb", "create-blocks-from", "openmetrics", str(file), str(server.directory / "data")]
    made = await asyncio.create_subprocess_exec(find_prometheus("promtool"), *words, stdout=DEVNULL)
    if await made.wait() != 0:
        raise RuntimeError("promtool makes no blocks of the samples")
    await server.start()
