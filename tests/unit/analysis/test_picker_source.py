"""Statistics of one adapter from the pages of our endpoint pickers."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web

from rollouts.analysis.types import Arm, ArmRef, MeasureKind, MeasureSpec, Stat
from rollouts.sources.base import Place, QueryRefused, ScrapeTarget, SourceUnavailable
from rollouts.sources.picker import PickerSource
from rollouts.sources.scraper import PodScraper
from tests.kit.clock import Timeline, VirtualClock

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GROUP = "inference.networking.x-k8s.io"


class Page:
    """One picker: counters by adapter, rendered as it renders them."""

    def __init__(self) -> None:
        self.ok: dict[str, int] = {}
        self.unmeasured: dict[str, int] = {}
        self.errors: dict[str, int] = {}
        self.slow: dict[str, int] = {}
        self.fast: dict[str, int] = {}
        self.broken = False

    def text(self) -> str:
        lines = ["# TYPE inference_picker_requests counter"]
        for name, values, extra in (
            ("requests_total", self.ok, ',code="200"'),
            ("requests_total", self.unmeasured, ',code=""'),
            ("request_errors_total", self.errors, ""),
        ):
            for adapter, value in values.items():
                lines.append(f"inference_picker_{name}{{{self._labels(adapter)}{extra}}} {value}")
        for adapter in {*self.fast, *self.slow}:
            fast, slow = self.fast.get(adapter, 0), self.slow.get(adapter, 0)
            series = "inference_picker_ttft_seconds"
            for bound, count in (("0.1", fast), ("1.0", fast + slow), ("+Inf", fast + slow)):
                lines.append(f'{series}_bucket{{{self._labels(adapter)},le="{bound}"}} {count}')
            lines.append(f"{series}_count{{{self._labels(adapter)}}} {fast + slow}")
            lines.append(f"{series}_sum{{{self._labels(adapter)}}} {fast * 0.05 + slow * 0.5}")
        return "\n".join(lines) + "\n"

    @staticmethod
    def _labels(adapter: str) -> str:
        return f'model="travelhelper",target_model="{adapter}",pool="pool",pod="vllm-0"'

    async def answer(self, _: web.Request) -> web.Response:
        return web.Response(status=500) if self.broken else web.Response(text=self.text())


def place(name: str = "v2", kind: str = "Adapter") -> Place:
    arm = ArmRef(kind=kind, group=GROUP, name=name, pool="pool", model="travelhelper")
    return Place(namespace="default", arm=arm)


def preset(name: str, stat: Stat | None = None) -> MeasureSpec:
    return MeasureSpec(
        kind=MeasureKind.PRESET, name=name, of="", arm=Arm.CANARY, stat=stat, window=timedelta(seconds=10)
    )


@asynccontextmanager
async def pickers(*pages: Page) -> AsyncIterator[tuple[PickerSource, Timeline]]:
    runners, endpoints = [], []
    for number, page in enumerate(pages):
        app = web.Application()
        app.router.add_get("/metrics", page.answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        runners.append(runner)
        endpoints.append(ScrapeTarget(pod=f"picker-{number}", ip="127.0.0.1", port=runner.addresses[0][1]))
    timeline = Timeline()
    clock = VirtualClock(timeline)
    source = PickerSource(PodScraper(clock), lambda _namespace, _arm: endpoints, clock)
    try:
        yield source, timeline
    finally:
        await source.close()
        for runner in runners:
            await runner.cleanup()


async def measure(
    name: str,
    change: Callable[[], None],
    *pages: Page,
    stat: Stat | None = None,
    adapter: str = "v2",
) -> float:
    """The statistic over ten seconds in which ``change`` happens."""
    async with pickers(*pages) as (source, timeline):
        spec = preset(name, stat)
        assert math.isnan(float(await source.measure(spec, place(adapter), NOW)))  # type: ignore[arg-type]
        timeline.advance(9.0)
        change()
        return float(await source.measure(spec, place(adapter), NOW))  # type: ignore[arg-type]


def base() -> Page:
    page = Page()
    page.ok, page.fast = {"v1": 1000, "v2": 100}, {"v1": 1000, "v2": 100}
    return page


async def test_an_error_rate_is_of_one_adapter_and_of_measured_requests_only():
    page = base()

    def change() -> None:
        page.ok["v2"] += 40
        page.errors["v2"] = 10
        page.unmeasured["v2"] = 10_000  # load, but nobody saw how they ended
        page.errors["v1"] = 500

    assert await measure("error-rate", change, page) == pytest.approx(0.25)


async def test_no_error_series_under_load_means_no_errors():
    page = base()

    def change() -> None:
        page.ok["v2"] += 40

    assert await measure("error-rate", change, page) == 0.0


async def test_replicas_are_summed():
    first, second = base(), base()

    def change() -> None:
        first.ok["v2"] += 30
        second.ok["v2"] += 10
        second.errors["v2"] = 10

    assert await measure("error-rate", change, first, second) == pytest.approx(0.25)


@pytest.mark.parametrize(("adapter", "expected"), [("v1", 0.05), ("v2", 0.5)])
async def test_latency_is_of_one_adapter(adapter, expected):
    page = base()

    def change() -> None:
        page.fast["v1"] += 50
        page.slow["v2"] = 50

    assert await measure("ttft", change, page, stat=Stat.MEAN, adapter=adapter) == pytest.approx(expected)


async def test_what_a_picker_does_not_measure_is_refused_with_what_it_does():
    async with pickers(base()) as (source, _):
        with pytest.raises(QueryRefused, match="no preset kv-cache; there are aborted, e2e, error-rate"):
            await source.measure(preset("kv-cache"), place(), NOW)


def pool(name: str) -> Place:
    return Place(namespace="default", arm=ArmRef(kind="InferencePool", group=GROUP, name=name))


async def test_a_pool_is_all_that_went_to_its_pods():
    page = base()
    async with pickers(page) as (source, timeline):
        await source.measure(preset("error-rate"), pool("pool"), NOW)
        timeline.advance(9.0)
        page.ok["v1"] += 30
        page.ok["v2"] += 10
        page.errors["v2"] = 4
        assert await source.measure(preset("error-rate"), pool("pool"), NOW) == pytest.approx(0.1)
        assert math.isnan(float(await source.measure(preset("error-rate"), pool("other"), NOW)))  # type: ignore[arg-type]
        raw = await source.raw(frozenset({"inference_picker_requests_total"}), pool("pool"), NOW)
    assert list(raw) == ["vllm-0"]
    assert raw["vllm-0"].sample.total("inference_picker_requests_total") == 1140


async def test_no_picker_is_no_figure_and_a_broken_one_is_an_error():
    async with pickers() as (source, _):
        assert math.isnan(float(await source.measure(preset("ttft"), place(), NOW)))  # type: ignore[arg-type]
    page = base()
    page.broken = True
    async with pickers(page) as (source, _):
        with pytest.raises(SourceUnavailable, match="no endpoint picker of pool pool answers"):
            await source.measure(preset("ttft"), place(), NOW)
