"""Samples of known moments, half a minute apart as is usual, in a real server: what the queries make of them.

Servers differ in what ``increase`` is (``sources.promql``): each case holds for all of them, and for any place of the
scrapes within a window.
"""

from __future__ import annotations

import asyncio
import io
import math
import time
from asyncio.subprocess import DEVNULL
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest

from benchmarks.peers.victoriametrics import VictoriaMetrics
from rollouts.analysis.types import MeasureKind, MeasureSpec
from rollouts.cli.doctor_sources import source_checks
from rollouts.lab.prometheus import Job, Prometheus, find_prometheus
from rollouts.lab.vllm.pod import Fleet
from rollouts.sources import promql
from rollouts.sources.base import ScrapeTarget
from rollouts.sources.prometheus import PrometheusConfig, PrometheusSource
from tests.kit.polling import eventually
from tests.prometheus.test_prometheus import place, targets

EVERY = 30
WINDOW = 300
AT = math.floor(time.time() / 60) * 60 - 600
"""A moment of which all samples are there, and none is so young that a server hides it."""
Told = Callable[[float], float | None]


def counter(*steps: tuple[float, float], since: float = -3600) -> Told:
    """What a counter shows at a moment before ``AT``: the last of (from when on, value); nothing before ``since``."""

    def shown(at: float) -> float | None:
        if at < since:
            return None
        return next((value for begun, value in reversed(steps) if at >= begun), None)

    return shown


def growing(per_second: float, *, first: float = 0.0, since: float = -3600) -> Told:
    return lambda at: first + math.floor((at - since) * per_second) if at >= since else None


@dataclass(frozen=True, kw_only=True)
class Exposing:
    """A pod: its series by name and labels, since when it is scraped, and how long before ``AT`` its scrapes come."""

    name: str
    ok: Told = field(default=growing(1.0))
    errors: Told = field(default=lambda _: None)
    since: float = -3600.0
    shift: float = 7.0
    warmed: float | None = None

    @property
    def target(self) -> ScrapeTarget:
        warmed = None if self.warmed is None else AT + self.warmed
        return ScrapeTarget(pod=self.name, ip="10.0.0.1", port=8000, warmed=warmed)

    def lines(self, namespace: str) -> Iterator[tuple[str, str, float, float]]:
        """(Name, labels, value, moment) of each sample."""
        moments = [at - self.shift for at in range(-3600, 1, EVERY) if at - self.shift >= self.since]
        own = f'pod="{self.name}",namespace="{namespace}",job="pods",instance="{self.name}:8000"'
        http = own + ',handler="/v1/completions",method="POST"'
        series: Mapping[tuple[str, str], Told] = {
            ("process_start_time_seconds", own): lambda _: 1.0,
            ("vllm:num_requests_running", own + ',model_name="m"'): lambda _: 2.0,
            ("http_requests_total", http + ',status="2xx"'): self.ok,
            ("http_requests_total", http + ',status="5xx"'): self.errors,
            **{
                ("ttft_bucket", f'{own},le="{bound}"'): lambda at, share=share: _times(self.ok(at), share)
                for bound, share in (("0.1", 0.5), ("1", 1.0), ("+Inf", 1.0))
            },
            ("ttft_sum", own): lambda at: _times(self.ok(at), 0.3),
            ("ttft_count", own): self.ok,
        }
        for (name, labels), shown in series.items():
            for at in moments:
                value = shown(at)
                if value is not None:
                    yield name, labels, value, AT + at


def _times(value: float | None, share: float) -> float | None:
    return None if value is None else value * share


@dataclass(frozen=True, kw_only=True)
class Case:
    pods: tuple[Exposing, ...]
    errors: float
    """Of the window's growth, with ``requests`` in all."""
    requests: float


OLD = Exposing(name="old")
CASES = {
    "steady": Case(pods=(OLD,), errors=0, requests=300),
    "errors from the first on": Case(
        pods=(Exposing(name="old", errors=counter((-100, 3), since=-100)),), errors=3, requests=303
    ),
    "errors of long ago": Case(
        pods=(Exposing(name="old", errors=counter((-3600, 50))),), errors=0, requests=300
    ),
    "an old process that is scraped for the first time": Case(
        pods=(OLD, Exposing(name="found", since=-130, errors=counter((-3600, 50)))),
        errors=0,
        requests=300 + 110,
    ),
    "an old process of few requests that is scraped for the first time": Case(
        pods=(
            OLD,
            Exposing(
                name="found", since=-130, ok=counter((-3600, 90)), errors=counter((-3600, 20), (-100, 22))
            ),
        ),
        errors=2,
        requests=300 + 2,
    ),
    "a pod that is warmed up, its errors between two scrapes": Case(
        pods=(
            OLD,
            Exposing(
                name="warm",
                warmed=-200,
                ok=counter((-3600, 0), (-205, 40), (-60, 60)),
                errors=counter((-205, 20), since=-205),
            ),
        ),
        errors=0,
        requests=300 + 20,
    ),
    "a pod that is warmed up, scraped before and after": Case(
        pods=(
            OLD,
            Exposing(
                name="warm",
                warmed=-200,
                ok=counter((-3600, 0), (-215, 10), (-205, 40), (-60, 60)),
                errors=counter((-215, 10), (-205, 20), (-50, 22), since=-215),
            ),
        ),
        errors=2,
        requests=300 + 22,
    ),
    "warmed up shortly before the window": Case(
        pods=(
            OLD,
            Exposing(
                name="warm",
                warmed=-306,
                ok=counter((-3600, 0), (-310, 40), (-60, 60)),
                errors=counter((-3600, 1), (-310, 20)),
            ),
        ),
        errors=0,
        requests=300 + 20,
    ),
    "a restart": Case(
        pods=(Exposing(name="old", ok=counter((-3600, 500), (-200, 530), (-100, 10), (-40, 40))),),
        errors=0,
        requests=70,
    ),
}


SHIFTS = (0.0, 1.0, 6.0, 21.0)
"""Seconds from a scrape to the moment that is asked about."""


def _samples() -> Iterator[tuple[str, str, float, float]]:
    """All cases, each in a namespace of its own for each shift."""
    for number, case in enumerate(CASES.values()):
        for shift in SHIFTS:
            for pod in case.pods:
                yield from replace(pod, shift=shift).lines(f"{number}-{shift:g}")


async def _load(server: Prometheus, folder: Path) -> None:
    lines = sorted(_samples(), key=lambda line: line[0])
    if isinstance(server, VictoriaMetrics):
        await server.start()
        text = "".join(f"{name}{{{labels}}} {value} {at * 1000:.0f}\n" for name, labels, value, at in lines)
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            await session.post(f"{server.url}/api/v1/import/prometheus", data=io.BytesIO(text.encode()))
            await session.get(f"{server.url}/internal/force_flush")
        return
    file = folder / "samples.txt"
    text = "".join(f"{name}{{{labels}}} {value} {at:.3f}\n" for name, labels, value, at in lines)
    file.write_text(f"{text}# EOF\n", encoding="utf-8")
    words = ["tsdb", "create-blocks-from", "openmetrics", str(file), str(server.directory / "data")]
    made = await asyncio.create_subprocess_exec(find_prometheus("promtool"), *words, stdout=DEVNULL)
    assert await made.wait() == 0
    await server.start()


def spec(name: str) -> MeasureSpec:
    return MeasureSpec(kind=MeasureKind.PRESET, name=name, window=timedelta(seconds=WINDOW))


async def _misjudged(server: Prometheus, folder: Path) -> list[tuple[str, float, tuple[float, float]]]:
    """Cases of which something else is found, with the shift, and errors and requests as they are found."""
    await _load(server, folder)
    at, wrong = datetime.fromtimestamp(AT, UTC), []
    for number, (name, case) in enumerate(CASES.items()):
        targets = [pod.target for pod in case.pods]
        source = PrometheusSource("p", PrometheusConfig(url=server.url), lambda *_, t=targets: t)
        for shift in SHIFTS:
            where = place("canary", f"{number}-{shift:g}")
            rate = await source.measure(spec("requests"), where, at)
            share = await source.measure(spec("error-rate"), where, at)
            assert isinstance(rate, float)
            assert isinstance(share, float)
            found = (share * rate * WINDOW, rate * WINDOW)
            if found != (pytest.approx(case.errors, abs=0.5), pytest.approx(case.requests, rel=0.15)):
                wrong.append((name, shift, found))
        await source.close()
    return wrong


@pytest.mark.parametrize("longest", [promql.LONGEST_QUERY, 1])
async def test_growth_is_that_of_the_window_on_every_server(
    any_server: Prometheus, tmp_path: Path, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where each pod is asked about, and each sum is asked for, by a query of its own."""
    monkeypatch.setattr(promql, "LONGEST_QUERY", longest)

    assert await _misjudged(any_server, tmp_path) == []


def _increase_alone(patch: pytest.MonkeyPatch) -> None:
    real = promql._Builder._grown

    def grown(self: promql._Builder, part: promql._Part, one: str) -> str:
        return f"({self._born(part, one)}) or increase({one}[{part.seconds}s]) or {real(self, part, one)}"

    patch.setattr(promql._Builder, "_grown", grown)


def _no_warm_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(promql, "_SETTLES", -60.0)


def _no_births(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(promql._Builder, "_born", lambda self, part, one: f"{one} unless {one}")


PLANTED = {"VictoriaMetrics' increase": _increase_alone, "no warm-up": _no_warm_up, "no births": _no_births}


@pytest.mark.full
@pytest.mark.parametrize("bug", PLANTED)
async def test_planted_bugs_are_found_by_victoria_metrics(
    victoria_metrics: VictoriaMetrics, tmp_path: Path, bug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    PLANTED[bug](monkeypatch)

    assert await _misjudged(victoria_metrics, tmp_path) != []


async def test_doctor_says_how_late_a_server_is(any_server: Prometheus, fleet: Fleet) -> None:
    any_server.scrape([Job(name="pods", targets=targets(fleet))])
    await any_server.start()

    async def told() -> list[str]:
        found = await asyncio.to_thread(lambda: list(source_checks({"p": any_server.url}, "default")))
        return [one.text for one in found]

    async def apart() -> bool:
        return "s apart" in (await told())[1]

    await eventually(apart, timeout=40, every=0.5)
    moment, _ = await told()
    hides = "hides what is younger than 30 s" in moment
    assert hides is isinstance(any_server, VictoriaMetrics)
