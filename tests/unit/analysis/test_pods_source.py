"""Measures of model servers' own pages, scraped over HTTP in virtual time."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web

from rollouts.analysis.types import ArmRef, MeasureKind, MeasureSpec
from rollouts.sources.base import Place, ScrapeTarget
from rollouts.sources.pods import PodsSource
from rollouts.sources.scraper import PodScraper
from tests.kit.clock import Timeline, VirtualClock

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PLACE = Place(namespace="default", arm=ArmRef(kind="InferencePool", group="g", name="canary"))
ERROR_RATE = MeasureSpec(kind=MeasureKind.PRESET, name="error-rate", window=timedelta(seconds=10))
CHAT = 'handler="/v1/chat/completions",method="POST"'


def page(ok: int, failed: int, finished: int | None) -> str:
    lines = [f'http_requests_total{{{CHAT},status="2xx"}} {ok}']
    lines += [f'http_requests_total{{{CHAT},status="5xx"}} {failed}'] if failed else []
    if finished is not None:
        lines.append(f'vllm:request_success_total{{finished_reason="stop"}} {finished}')
        lines.append('vllm:request_success_total{finished_reason="abort"} 0')
    return "\n".join(lines) + "\n"


@asynccontextmanager
async def pod(shown: list[str]) -> AsyncIterator[tuple[PodsSource, Timeline]]:
    """A pod whose page is the first text of the list."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=shown[0])

    app = web.Application()
    app.router.add_get("/metrics", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    timeline = Timeline()
    clock = VirtualClock(timeline)
    source = PodsSource(PodScraper(clock), lambda *_: [ScrapeTarget(pod="c", ip=host, port=port)], clock)
    try:
        yield source, timeline
    finally:
        await source.close()
        await runner.cleanup()


async def error_rate(before: str, after: str) -> float:
    """Over ten seconds in which the page changes so."""
    shown = [before]
    async with pod(shown) as (source, timeline):
        assert math.isnan(float(await source.measure(ERROR_RATE, PLACE, NOW)))  # type: ignore[arg-type]
        timeline.advance(9.0)
        shown[0] = after
        return float(await source.measure(ERROR_RATE, PLACE, NOW))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (page(140, 0, 140), 0.0),
        (page(140, 0, 101), 0.0),  # some leave: what was lost is for a comparison to judge
        (page(140, 0, 100), math.nan),  # a hung engine: all who left are counted as 2xx
        (page(130, 10, 100), 0.25),  # nothing finished, and it failed: that is known
        (page(100, 0, 100), math.nan),  # nothing ended at all
    ],
)
async def test_no_errors_say_nothing_where_nothing_was_finished(after, expected):
    assert await error_rate(page(100, 0, 100), after) == pytest.approx(expected, nan_ok=True)


async def test_a_server_that_does_not_say_what_it_finished_is_read_by_its_answers():
    assert await error_rate(page(100, 0, None), page(140, 0, None)) == 0.0


async def test_requests_are_counted_since_the_first_question_which_begins_the_window():
    shown = [page(100, 0, 100)]
    async with pod(shown) as (source, timeline):
        assert await source.requests(ERROR_RATE, PLACE, timedelta(0), NOW) is None
        timeline.advance(5.0)
        shown[0] = page(110, 2, 110)
        assert await source.requests(ERROR_RATE, PLACE, timedelta(seconds=5), NOW) == 12.0
        timeline.advance(4.0)
        assert await source.measure(ERROR_RATE, PLACE, NOW) == pytest.approx(2 / 12)


async def test_a_counter_without_end_counts_nothing():
    """What a pod writes is not trusted: the number is only shown, and must not end the run that shows it."""
    shown = [page(100, 0, 100).replace("100", "+Inf")]
    async with pod(shown) as (source, timeline):
        assert await source.requests(ERROR_RATE, PLACE, timedelta(0), NOW) is None
        timeline.advance(5.0)
        assert await source.requests(ERROR_RATE, PLACE, timedelta(seconds=5), NOW) is None


@pytest.mark.parametrize("gate", ["ttft", "waiting"])
async def test_a_gate_that_begins_takes_no_sample_of_another_gate_away(gate: str):
    """Its names were not read before. A guard that began anew with each gate would find a failing canary a window late,
    or never."""
    began = MeasureSpec(kind=MeasureKind.PRESET, name=gate, window=timedelta(seconds=10))
    shown = [page(100, 0, 100)]
    async with pod(shown) as (source, timeline):
        await source.measure(ERROR_RATE, PLACE, NOW)
        timeline.advance(9.0)
        shown[0] = page(130, 10, 140) + "vllm:num_requests_waiting 7\n"
        seen = await source.measure(began, PLACE, NOW)
        assert await source.measure(ERROR_RATE, PLACE, NOW) == pytest.approx(0.25)

    # ... and what was read before says nothing of it.
    assert seen == 7.0 if gate == "waiting" else math.isnan(float(seen))  # type: ignore[arg-type]
