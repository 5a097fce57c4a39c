"""The scraper over real HTTP: figures arrive, failures are borne, idle pods are left alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from rollouts.picker.core.endpoints import Endpoint
from rollouts.picker.core.schedule import Load, Scheduler
from rollouts.picker.core.scrape import ScrapeConfig
from rollouts.picker.scraper import Scraper
from tests.kit.polling import eventually


class FakePod:
    """Serves /metrics and /v1/models, and counts how often it is asked."""

    def __init__(self) -> None:
        self.metrics = "vllm:num_requests_waiting 3\n"
        self.models = '{"data":[{"id":"v1"}]}'
        self.status = 200
        self.asked: Counter[str] = Counter()
        self.address = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked[request.path] += 1
        text = self.metrics if request.path == "/metrics" else self.models
        return web.Response(text=text, status=self.status)


@pytest.fixture
async def pod() -> AsyncIterator[FakePod]:
    fake = FakePod()
    app = web.Application()
    app.router.add_get("/{tail:.*}", fake.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.address = f"127.0.0.1:{runner.addresses[0][1]}"
    yield fake
    await runner.cleanup()


def make(pod: FakePod, scheduler: Scheduler | None = None, **config: float) -> tuple[Scheduler, Scraper]:
    scheduler = scheduler or Scheduler()
    host, _, port = pod.address.rpartition(":")
    scheduler.sync([Endpoint(pod.address, host, int(port), "p0", "pool", 1.0)], 0.0, 1e9)
    return scheduler, Scraper(scheduler, ScrapeConfig(**config))  # type: ignore[arg-type]  # floats all


async def test_figures_and_models_arrive(pod: FakePod) -> None:
    scheduler, scraper = make(pod)
    try:
        scraper.tick(1e9)
        (state,) = scheduler.candidates(None)
        await eventually(lambda: state.load.waiting == 3)
    finally:
        await scraper.close()

    assert state.load.models == {"v1"}
    assert scheduler.serving([state], "v2") == []


async def test_a_busy_pod_is_asked_again_soon_and_an_idle_one_is_not(pod: FakePod) -> None:
    pod.metrics = ""
    scheduler, scraper = make(pod, busy=0.0, idle=3600.0)
    running = asyncio.create_task(scraper.run())
    try:
        await eventually(lambda: pod.asked["/metrics"] == 1)
        for _ in range(3):
            await asyncio.sleep(0.06)
        idle = pod.asked["/metrics"]
        pod.metrics = "vllm:num_requests_running 1\n"
        scheduler.choose(scheduler.candidates(None), "m", (), 1.0)
        await eventually(lambda: pod.asked["/metrics"] >= 4)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await scraper.close()

    assert idle == 1
    assert pod.asked["/v1/models"] == 1


@pytest.mark.parametrize("broken", ["status", "too large", "models are no JSON"])
async def test_a_pod_that_answers_nonsense_keeps_its_last_figures(pod: FakePod, broken: str) -> None:
    scheduler, scraper = make(pod, idle=0.0, retry=0.0, models=0.0, max_bytes=1000)
    (state,) = scheduler.candidates(None)
    try:
        scraper.tick(1e9)
        await eventually(lambda: state.load.waiting == 3)
        before = pod.asked.total()
        if broken == "status":
            pod.status = 500
        elif broken == "too large":
            pod.metrics = "x" * 2000
        else:
            pod.models = "<html>"
        scraper.tick(1e9)
        await eventually(lambda: pod.asked.total() > before)
        await eventually(lambda: not scraper._tasks)
    finally:
        await scraper.close()

    assert state.load.waiting == 3
    assert (state.load.models is None) is (broken == "models are no JSON")


class Failing(Scheduler):
    """Fails as the native one does after a panic, as long as it is told to."""

    broken = True

    def observe(self, address: str, load: Load, now: float, *, before: int | None = None) -> None:
        if self.broken:
            raise RuntimeError("a bug in the native data path")
        super().observe(address, load, now, before=before)


async def test_a_bug_of_the_native_data_path_is_a_failed_scrape_and_the_next_one_comes(pod: FakePod) -> None:
    scheduler = Failing()
    _, scraper = make(pod, scheduler)
    try:
        with capture_logs() as logs:
            scraper.tick(1e9)
            await eventually(lambda: len(logs) == 1)
        scheduler.broken = False
        scraper.tick(2e9)
        (state,) = scheduler.candidates(None)
        await eventually(lambda: state.load.waiting == 3)
    finally:
        await scraper.close()

    assert [(log["event"], log["pod"]) for log in logs] == [("scrape_failed", "p0")]


class Uncounted(Scheduler):
    """Cannot say what was sent to a pod, as the native one cannot after a panic, as long as it is told to."""

    broken = True

    def busy(self, address: str) -> bool:
        if self.broken:
            raise RuntimeError("a bug in the native data path")
        return super().busy(address)


async def test_a_bug_of_the_native_data_path_ends_no_scraping(pod: FakePod) -> None:
    scheduler = Uncounted()
    _, scraper = make(pod, scheduler)
    (state,) = scheduler.candidates(None)
    try:
        with capture_logs() as logs:
            for waiting in (4, 5):
                pod.metrics = f"vllm:num_requests_waiting {waiting}\n"
                scraper.tick(waiting * 1e9)
                await eventually(lambda: not scraper._tasks)
        assert state.load.waiting == 5
    finally:
        await scraper.close()

    assert [log["event"] for log in logs] == ["busy_pods_unknown"]  # once
