"""Pods that are warmed up in the middle of an analysis, by a real Prometheus: what is of users counts."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest

from rollouts.analysis.types import Stat
from rollouts.lab.loopback import loopback
from rollouts.lab.prometheus import Job, Prometheus
from rollouts.lab.vllm.pod import Fleet
from rollouts.lab.vllm.spec import PodSpec
from rollouts.sources import asking, jobs, promql, raw_windows
from rollouts.sources.base import ScrapeTarget, SourceUnavailable
from rollouts.sources.prometheus import PrometheusConfig, PrometheusSource
from tests.kit.polling import eventually
from tests.prometheus.conftest import Ask
from tests.prometheus.test_prometheus import NAMES, about, full_window, now, place, preset, scraped, targets

WINDOW = 24.0
FAILED_AND_SLOW = {"errors": "50%", "ttft": 100}
WELL: dict[str, Any] = {"errors": 0, "ttft": 1}
RANKS = (8000, 8001)


class Arm:
    """The canary's pods as the controller knows them: which serve, and since when their requests are of users."""

    def __init__(self, server: Prometheus, fleet: Fleet) -> None:
        self.fleet = fleet
        self.warmed: dict[str, float | None] = {}
        self.source = PrometheusSource("p", PrometheusConfig(url=server.url), lambda *_: self.endpoints)

    @property
    def endpoints(self) -> list[ScrapeTarget]:
        return [
            ScrapeTarget(
                pod=name, ip=self.fleet.pods[name].spec.address, port=8000, started=1.0, warmed=warmed
            )
            for name, warmed in self.warmed.items()
        ]

    async def knobs(self, name: str, knobs: dict[str, Any]) -> None:
        async with aiohttp.ClientSession() as session:
            await session.post(f"{self.fleet.pods[name].url}/lab/knobs", json=knobs)

    async def warm(self, ask: Ask, *names: str) -> None:
        """Requests that fail and take long, as a cold pod's; then it serves."""
        for name in names:
            await self.knobs(name, FAILED_AND_SLOW)
            await ask(self.fleet.pods[name].url, 20)
            await self.knobs(name, WELL)
            self.warmed[name] = math.floor(time.time())  # as the annotation has it

    async def measure(self, name: str, stat: Stat | None, at: datetime) -> float:
        value = await self.source.measure(preset(name, stat, WINDOW), place("canary"), at)
        assert isinstance(value, float)
        return value

    async def settled(self) -> None:
        """Until every pod's samples are of users for two seconds."""
        await eventually(
            lambda: all(promql.users_seconds(one, now()) > 2 * WINDOW / 8 for one in self.endpoints),
            timeout=40,
        )


def pods_of(fleet: Fleet) -> Iterable[Job]:
    return [Job(name="pods", targets=targets(fleet))]


async def a_pod_that_comes_in_the_middle(prometheus: Prometheus, fleet: Fleet, ask: Ask) -> None:
    """Ten seconds after its warm-up: a window holds that, and says nothing of it."""
    prometheus.scrape(pods_of(fleet))
    await prometheus.start()
    arm = Arm(prometheus, fleet)
    arm.warmed = {"stable-0": None}  # has been there for long
    try:
        await full_window_of(arm)
        await arm.warm(ask, "canary-0")
        await arm.settled()
        await arm.knobs("canary-0", {"errors": "100%"})
        await ask(fleet.pods["canary-0"].url, 10)
        await arm.knobs("canary-0", WELL)
        await asyncio.gather(*(ask(fleet.pods[name].url, 15) for name in ("canary-0", "stable-0")))
        at = await scraped(arm.source, now())

        assert await arm.measure("requests", None, at) == about(40 / WINDOW)
        assert await arm.measure("error-rate", None, at) == about(10 / 40)
        assert await arm.measure("ttft", Stat.P95, at) < 0.1
        assert await arm.measure("kv-cache", Stat.LAST, at) >= 0.0
        raw = await arm.source.raw(NAMES, place("canary"), at)
        assert raw.keys() == {"stable-0", "canary-0"}
        assert raw["canary-0"].started is None
        # Moments before that, which a new process of the controller asks for, know nothing of the pod.
        earlier = datetime.fromtimestamp(arm.warmed["canary-0"] or 0.0, UTC) + timedelta(seconds=2)
        assert (await arm.source.raw(NAMES, place("canary"), earlier)).keys() == {"stable-0"}
    finally:
        await arm.source.close()


async def full_window_of(arm: Arm) -> None:
    """Until the window of the pods that are there is a whole one."""

    async def says() -> bool:
        return math.isfinite(await arm.measure("kv-cache", Stat.MEAN, now()))

    await eventually(says, timeout=60, every=0.3)


@pytest.mark.timeout(150)
async def test_of_a_pod_that_comes_in_the_middle_what_is_of_users_counts(prometheus, fleet, ask: Ask):
    await a_pod_that_comes_in_the_middle(prometheus, fleet, ask)


def _not_cut(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(promql, "users_seconds", lambda *_: math.inf)
    for module in (asking, jobs, raw_windows):
        patch.setattr(module, "known_since", lambda _: -math.inf)


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_windows_that_are_not_cut_are_caught(prometheus, fleet, ask: Ask, monkeypatch):
    _not_cut(monkeypatch)
    monkeypatch.setattr(Arm, "settled", lambda _: asyncio.sleep(2 * WINDOW / 8 + 5))

    with pytest.raises(AssertionError):
        await a_pod_that_comes_in_the_middle(prometheus, fleet, ask)


@pytest.mark.timeout(150)
@pytest.mark.parametrize("planted", [False, pytest.param(True, marks=pytest.mark.slow)])
async def test_series_that_a_warm_up_began_do_not_begin_at_zero(
    tmp_path, fleet, ask: Ask, planted, monkeypatch
):
    """Scraped so seldom that the last scrape before the end of the warm-up was one before it."""
    if planted:
        _what_was_before_counts(monkeypatch)
    async with Prometheus(tmp_path / "seldom", interval="8s") as server:
        server.scrape(pods_of(fleet))
        await server.reload()
        arm = Arm(server, fleet)
        arm.warmed = {"stable-0": None}
        try:
            await full_window_of(arm)
            pod = fleet.pods["canary-0"].spec
            last = f'max(timestamp(up{{instance="{pod.address}:{pod.port}"}}))'

            async def just_scraped() -> bool:
                value = await arm.source.query(last, now())
                return isinstance(value, float) and time.time() - value < 1.0

            await eventually(just_scraped, timeout=20, every=0.1)
            await arm.warm(ask, "canary-0")
            await ask(fleet.pods["stable-0"].url, 20)
            at = await scraped(arm.source, now())
            at = max(
                at, datetime.fromtimestamp((arm.warmed["canary-0"] or 0.0) + 5 + 3 * WINDOW / 8 + 1, UTC)
            )
            await eventually(lambda: now() > at, timeout=20)
            errors = await arm.measure("error-rate", None, at)
        finally:
            await arm.source.close()

    assert (errors == 0.0) is not planted


def _what_was_before_counts(patch: pytest.MonkeyPatch) -> None:
    """Series that were not there at the last scrape before the warm-up began with it."""
    for module in (asking, raw_windows):
        patch.setattr(module, "known_since", lambda _: -math.inf)


@pytest.mark.timeout(150)
async def test_pods_that_were_all_warmed_up_just_now_have_no_window_yet(prometheus, fleet, ask: Ask):
    prometheus.scrape(pods_of(fleet))
    await prometheus.start()
    arm = Arm(prometheus, fleet)
    try:
        await full_window(
            PrometheusSource(
                "q",
                PrometheusConfig(url=prometheus.url),
                lambda *_: [ScrapeTarget(pod="canary-0", ip=fleet.pods["canary-0"].spec.address, port=8000)],
            ),
            place("canary"),
        )
        await arm.warm(ask, "canary-0")
        await arm.settled()
        await ask(fleet.pods["canary-0"].url, 10)
        at = await scraped(arm.source, now())
        assert math.isnan(await arm.measure("requests", None, at))  # a part of a window is no data

        await full_window_of(arm)
        await ask(fleet.pods["canary-0"].url, 10)
        at = await scraped(arm.source, now())
        assert await arm.measure("requests", None, at) < 25 / WINDOW
        assert await arm.measure("error-rate", None, at) == 0.0
    finally:
        await arm.source.close()


async def test_a_pod_of_several_ports_is_there_when_all_were_scraped_since(prometheus, ask: Ask):
    spec = PodSpec(name="canary-0", address=loopback(9, 40), port=RANKS[0], more_ports=RANKS[1:], speed=20.0)
    labels = {"pod": spec.name, "namespace": "default"}

    def jobs(ports: Iterable[int]) -> list[Job]:
        return [Job(name="pods", targets=tuple((f"{spec.address}:{port}", labels) for port in ports))]

    async with Fleet([spec]):
        prometheus.scrape(jobs(RANKS[:1]))
        await prometheus.start()
        warmed = math.floor(time.time())
        ranks = [
            ScrapeTarget(pod=f"canary-0:{port}", ip=spec.address, port=port, warmed=warmed, of="canary-0")
            for port in RANKS
        ]
        found = PrometheusSource("p", PrometheusConfig(url=prometheus.url), lambda *_: ranks)
        try:
            assert await found.raw(NAMES, place("canary"), now()) == {}
            await eventually(lambda: promql.users_seconds(ranks[0], now()) > 3, timeout=20)
            at = await scraped(found, datetime.fromtimestamp(warmed + 7, UTC))
            assert await found.raw(NAMES, place("canary"), at) == {}  # the other port may come in a moment

            prometheus.scrape(jobs(RANKS))
            await prometheus.reload()

            async def both() -> bool:
                return (await found.raw(NAMES, place("canary"), now())).keys() == {one.pod for one in ranks}

            await eventually(both, timeout=20, every=0.2)
            later = now() + timedelta(seconds=promql.LOOKBACK + 30)
            with pytest.raises(SourceUnavailable, match="holds nothing of the 2 pods"):
                await found.raw(NAMES, place("canary"), later)
        finally:
            await found.close()
