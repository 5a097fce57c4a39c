"""Samples of known moments, half a minute apart as is usual, in a real server: what the queries make of them.

Servers differ in what ``increase`` is (``sources.promql``): each case holds for all of them, and for any place of the
scrapes within a window.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from benchmarks.peers.arrivals import Line, import_samples
from benchmarks.peers.victoriametrics import VictoriaMetrics
from rollouts.analysis.catalogue import Selector
from rollouts.analysis.types import Labelled, MeasureKind, MeasureSpec, Stat
from rollouts.cli.doctor_sources import source_checks
from rollouts.lab.prometheus import Job, Prometheus
from rollouts.lab.vllm.pod import Fleet
from rollouts.sources import asking, jobs, prometheus, promql, raw_windows
from rollouts.sources.base import ScrapeTarget
from rollouts.sources.prometheus import PrometheusConfig, PrometheusSource
from tests.kit.polling import eventually
from tests.prometheus.test_prometheus import place, targets

EVERY = 30
WINDOW = 300
AT = math.floor(time.time() / 60) * 60 - 597
"""A moment of which all samples are there, and none is so young that a server hides it; and none at which a server
looks that does so at whole multiples of a step.
"""
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


class Scraper(NamedTuple):
    """More labels, the seconds by which it scrapes later, and since when and until when it does."""

    labels: str = ""
    late: float = 0.0
    since: float = -math.inf
    until: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Exposing:
    """A pod: its series by name and labels, since when it is scraped, and how long before ``AT`` its scrapes come."""

    name: str
    ok: Told = field(default=growing(1.0))
    errors: Told = field(default=lambda _: None)
    since: float = -3600.0
    until: float = 0.0
    """When its counters are shown last."""
    every: int = EVERY
    shift: float = 7.0
    warmed: float | None = None
    ports: tuple[int, ...] = ()
    """Processes of the pod; empty: it is one, of port 8000."""
    scrapers: tuple[Scraper, ...] = (Scraper(),)
    """Those whose samples are stored."""
    started: float | None = None
    gone: bool = False
    """Nothing is known of the pod but its samples."""
    errors_late: float = 0.0
    """Seconds by which the samples of errors are later: a store took them from another scraper."""
    refused: Told = field(default=lambda _: None)
    """Requests that a client did wrong, of a series of their own."""
    engine: str = "vllm"
    handler: str = "/v1/completions"
    method: str = "POST"
    bounds: tuple[str, ...] = ("0.1", "1", "+Inf")
    """Of its histogram: half of the requests are below the first one, all below the second."""

    @property
    def targets(self) -> Iterator[ScrapeTarget]:
        warmed, started = (None if at is None else AT + at for at in (self.warmed, self.started))
        if self.gone:
            return
        if not self.ports:
            yield ScrapeTarget(pod=self.name, ip="10.0.0.1", port=8000, warmed=warmed, started=started)
        for port in self.ports:
            name = f"{self.name}:{port}"
            yield ScrapeTarget(pod=name, of=self.name, ip="10.0.0.1", port=port, warmed=warmed)

    def lines(self, namespace: str) -> Iterator[Line]:
        """All samples."""
        for port, by in itertools.product(self.ports or (8000,), self.scrapers):
            moments = (at - self.shift + by.late for at in range(-3600, 1, self.every))
            target = f'pod="{self.name}",namespace="{namespace}",job="pods",instance="{self.name}:{port}"'
            since, until = max(self.since, by.since), min(0, by.until)
            yield from self._of_process(target + by.labels, [at for at in moments if since <= at <= until])

    def _of_process(self, own: str, moments: list[float]) -> Iterator[Line]:
        always: Mapping[tuple[str, str], Told] = {
            ("process_start_time_seconds", own): lambda _: 1.0,
            ("vllm:num_requests_running", own + ',model_name="m"'): lambda _: 2.0,
        }
        if self.engine == "relabelled":  # a scrape configuration that keeps the counters of HTTP alone
            always = {}
        counters = {
            "vllm": self._vllm,
            "relabelled": self._http,
            "v0": self._v0,
            "sglang": self._sglang,
            "idle": self._idle,
        }[self.engine](own)
        for (name, labels), shown in [*always.items(), *counters.items()]:
            for at in moments:
                value = shown(at)
                if value is not None and ((name, labels) in always or at <= self.until):
                    late = self.errors_late if 'status="5xx"' in labels else 0.0
                    yield Line(name, labels, value, AT + at + late)

    def _http(self, own: str) -> Mapping[tuple[str, str], Told]:
        http = f'{own},handler="{self.handler}",method="{self.method}"'
        return {
            ("http_requests_total", http + ',status="2xx"'): self.ok,
            ("http_requests_total", http + ',status="4xx"'): self.refused,
            ("http_requests_total", http + ',status="5xx"'): self.errors,
        }

    def _vllm(self, own: str) -> Mapping[tuple[str, str], Told]:
        shares = zip(self.bounds, (0.5, 1.0, 1.0), strict=True)
        return {
            **self._http(own),
            **{
                ("vllm:time_to_first_token_seconds_bucket", f'{own},le="{bound}"'): lambda at, share=share: (
                    _times(self.ok(at), share)
                )
                for bound, share in shares
            },
            ("vllm:time_to_first_token_seconds_sum", own): lambda at: _times(self.ok(at), 0.3),
            ("vllm:time_to_first_token_seconds_count", own): self.ok,
        }

    def _v0(self, own: str) -> Mapping[tuple[str, str], Told]:
        """Of a version, or behind a middleware, without counters of HTTP."""
        return {("vllm:request_success_total", own + ',finished_reason="stop"'): self.ok}

    def _idle(self, own: str) -> Mapping[tuple[str, str], Told]:
        """vLLM that was asked by nobody but probes."""
        probes = Exposing(name=self.name, handler="/health", method="GET", ok=self.ok)
        return {**probes._http(own), **replace(self, ok=counter((-3600, 0)))._v0(own)}

    def _sglang(self, own: str) -> Mapping[tuple[str, str], Told]:
        names = {"sglang:num_requests_total": self.ok, "sglang:num_aborted_requests_total": self.errors}
        return {(name, own): shown for name, shown in names.items()}


def _times(value: float | None, share: float) -> float | None:
    return None if value is None else value * share


@dataclass(frozen=True, kw_only=True)
class Case:
    pods: tuple[Exposing, ...]
    errors: float
    """Of the window's growth, with ``requests`` in all."""
    requests: float
    within: float = 0.5
    """Of the errors: what grew between two scrapes may be lost with the first one."""
    window: int = WINDOW


def failing(rate: float, *, since: float, restart: float, after: Told) -> Told:
    """Grows until the restart, after which something else is shown."""
    before = growing(rate, since=since)
    return lambda at: before(at) if at < restart else after(at)


def gone(_: float) -> None:
    """What a labelled series shows until its first event."""


NONE = math.nan
TWICE = (Scraper(',replica="a"'), Scraper(',replica="b"', -15.0))
YOUNG = Exposing(
    name="new",
    since=-240,
    started=-245,
    ok=growing(10.0, since=-240),
    errors=counter((-238, 40), since=-238),
)
NAMESAKE = Exposing(
    name="set-0",
    gone=True,
    ok=growing(20.0),
    errors=growing(18.0),
    scrapers=(Scraper(until=-150),),
)
SUCCESSOR = Exposing(
    name="set-0",
    since=-140,
    started=-152,
    ok=growing(10.0, since=-150),
    errors=counter((-130, 9), since=-130),
)
"""Its namesake's last scrape is 1 s after its start by one of ``SHIFTS``."""
OLD = Exposing(name="old")
CASES = {
    "steady": Case(pods=(OLD,), errors=0, requests=300),
    "errors from the first on": Case(
        pods=(Exposing(name="old", errors=counter((-100, 3), since=-100)),), errors=3, requests=303
    ),
    "errors from the first on, where nothing but requests is kept": Case(
        pods=(Exposing(name="old", engine="relabelled", errors=counter((-100, 40), since=-100)),),
        errors=40,
        requests=340,
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
        within=1,
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
        within=0.7,  # scraped for 150 s of 195 s, and extrapolated as requests are
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
    "a new pod that fails and restarts": Case(
        pods=(
            Exposing(name="old", ok=counter((-3600, 5))),
            Exposing(
                name="new",
                since=-200,
                ok=failing(1.0, since=-200, restart=-60, after=growing(1.0, since=-60)),
                errors=failing(0.5, since=-170, restart=-60, after=counter((-60, 0))),
            ),
        ),
        errors=50,
        within=20,
        requests=230,
    ),
    "a new pod that fails and restarts, its errors gone": Case(
        pods=(
            Exposing(name="old", ok=counter((-3600, 5))),
            Exposing(
                name="new",
                since=-200,
                ok=failing(1.0, since=-200, restart=-60, after=growing(1.0, since=-60)),
                errors=failing(0.5, since=-200, restart=-60, after=gone),
            ),
        ),
        errors=65,
        within=15,
        requests=250,
    ),
    "a pod that was warmed up fails and restarts": Case(
        pods=(
            Exposing(
                name="warm",
                warmed=-400,
                since=-600,
                ok=failing(1.0, since=-600, restart=-60, after=growing(1.0, since=-60)),
                errors=failing(0.5, since=-600, restart=-60, after=counter((-60, 0))),
            ),
        ),
        errors=120,
        within=15,
        requests=420,
    ),
    "a pod that was warmed up fails and restarts, its errors gone for long": Case(
        pods=(
            Exposing(
                name="warm",
                warmed=-700,
                since=-900,
                ok=failing(1.0, since=-900, restart=-320, after=growing(1.0, since=-320)),
                errors=failing(0.5, since=-900, restart=-320, after=gone),
            ),
        ),
        window=600,
        errors=135,
        within=20,
        requests=740,
    ),
    "a name that nobody shows since all pods restarted": Case(
        pods=tuple(
            Exposing(
                name=name,
                engine="sglang",
                ok=failing(1.0, since=-3600, restart=-320, after=growing(1.0, since=-320)),
                errors=failing(0.5, since=-3600, restart=-320, after=gone),
            )
            for name in ("one", "other")
        ),
        window=600,
        errors=280,
        within=30,
        requests=1200,
    ),
    "pods of several ports": Case(
        pods=tuple(Exposing(name=name, ports=(8000, 8001, 8002, 8003)) for name in ("one", "other")),
        errors=0,
        requests=8 * 300,
    ),
    "pods of several ports, one of them warmed up": Case(
        pods=(
            Exposing(name="one", ports=(8000, 8001)),
            Exposing(
                name="other",
                ports=(8000, 8001),
                warmed=-205,
                ok=growing(3.0),
                errors=counter((-100, 7), since=-100),
            ),
        ),
        errors=14,
        within=1,
        requests=2 * 300 + 2 * (600 + 7),
    ),
    "a window of two scrapes, after a warm-up": Case(
        pods=(Exposing(name="warm", warmed=-70),), window=60, errors=0, requests=60
    ),
    "a window of two scrapes a minute apart, after a warm-up": Case(
        pods=(Exposing(name="warm", every=60, warmed=-130),), window=120, errors=0, requests=120
    ),
    "a window of two scrapes": Case(pods=(OLD,), window=60, errors=0, requests=60),
    "scrapes a minute apart, after a warm-up": Case(
        pods=(Exposing(name="warm", every=60, warmed=-400),), errors=0, requests=300
    ),
    "a window of one scrape": Case(pods=(OLD,), window=30, errors=math.nan, requests=math.nan),
    "a window of one scrape, after a warm-up": Case(
        pods=(Exposing(name="warm", warmed=-40),), window=30, errors=math.nan, requests=math.nan
    ),
    "scraped twice, and stored as often": Case(
        pods=(
            Exposing(name="old", scrapers=TWICE),
            Exposing(
                name="found",
                since=-130,
                ok=growing(1.0, first=1000, since=-3600),
                errors=counter((-3600, 50)),
                scrapers=TWICE,
            ),
        ),
        errors=0,
        requests=2 * (300 + 120),
    ),
    "scraped twice, after a warm-up": Case(
        pods=(Exposing(name="warm", warmed=-400, errors=counter((-3600, 50)), scrapers=TWICE),),
        errors=0,
        requests=2 * 300,
    ),
    "the last samples come late": Case(
        pods=(Exposing(name="warm", warmed=-400, errors=counter((-3600, 50)), until=-30),),
        errors=0,
        requests=270,
    ),
    "the first errors of a new pod": Case(
        pods=(OLD, Exposing(name="new", since=-200, errors=counter((-100, 7), since=-100))),
        errors=7,
        requests=300 + 180 + 7,
    ),
    "errors of the last scrape": Case(
        pods=(Exposing(name="old", errors=counter((-29, 7), since=-29)),), errors=7, requests=307
    ),
    "errors of the last scrape, after a warm-up": Case(
        pods=(Exposing(name="warm", warmed=-400, errors=counter((-29, 7), since=-29)),),
        errors=7,
        requests=307,
    ),
    "a pod that only probes ask": Case(pods=(Exposing(name="old", engine="idle"),), errors=NONE, requests=0),
    "a pod that only probes ask, after a warm-up": Case(
        pods=(Exposing(name="warm", engine="idle", warmed=-400),), errors=NONE, requests=0
    ),
    "a pod that only probes ask, beside one that is asked by clients": Case(
        pods=(OLD, Exposing(name="warm", engine="idle", warmed=-200)), errors=NONE, requests=300
    ),
    "pods whose counters have other names": Case(
        pods=(OLD, Exposing(name="other", ok=growing(9.0), engine="v0")), errors=0, requests=300 + 2700
    ),
    "the first errors in a window of one scrape": Case(
        pods=(Exposing(name="old", errors=counter((-29, 1), since=-29)),),
        window=30,
        errors=math.nan,
        requests=math.nan,
    ),
    "a store that takes each series from another scraper": Case(
        pods=(Exposing(name="old", errors=counter((-150, 120), since=-150), errors_late=0.4),),
        errors=120,
        requests=300 + 120,
    ),
    "the samples of a namesake go on when a pod has started": Case(
        pods=(OLD, NAMESAKE, SUCCESSOR), errors=9, requests=300 + 1500 + 9
    ),
    "the samples of a namesake of another address go on when a pod has started": Case(
        pods=(OLD, replace(NAMESAKE, ports=(8001,)), SUCCESSOR), errors=9, requests=300 + 1500 + 9
    ),
    "a restart as the window begins, after which other series are shown": Case(
        pods=(
            Exposing(
                name="old",
                ok=failing(10.0, since=-3600, restart=-300, after=growing(10.0, since=-300)),
                refused=failing(0.1, since=-3600, restart=-300, after=gone),
                errors=counter((-288, 300), since=-288),
            ),
        ),
        errors=300,
        within=65,  # what came between two scrapes is of both sides of the window's beginning
        requests=3300,
    ),
    "a young pod whose labels change": Case(
        pods=(
            OLD,
            replace(YOUNG, scrapers=(Scraper(',team="x"', until=-112), Scraper(',team="y"', 4, -111))),
        ),
        errors=40,
        requests=300 + 2400 + 40,
    ),
    "a young pod that another scraper finds": Case(
        pods=(
            OLD,
            replace(YOUNG, scrapers=(Scraper(',replica="a"'), Scraper(',replica="b"', -15, -90))),
        ),
        errors=40,
        requests=300 + 2400 + 40,
    ),
    "a pod that another scraper finds, in which the first one ends": Case(
        pods=(
            Exposing(
                name="old",
                ok=growing(10.0),
                errors=counter((-50, 30), since=-50),
                scrapers=(Scraper(',replica="a"', until=-75), Scraper(',replica="b"', -15, -170)),
            ),
        ),
        errors=30,
        requests=3000 + 30,
    ),
    "the first errors after a warm-up": Case(
        pods=(Exposing(name="warm", warmed=-400, errors=counter((-100, 7), since=-100)),),
        errors=7,
        requests=307,
    ),
}


SHIFTS = (0.5, 1.0, 6.0, 21.0)
"""Seconds from a scrape to the moment that is asked about. Not 0: in some versions of Prometheus a sample of the very
beginning is in the window, and counts as one more."""


BOUNDS = {
    "written in two ways": (("1.0", "2", "+Inf"), ("1", "2", "+Inf"), 1.0),
    "of another version": (("0.1", "1", "+Inf"), ("0.9", "1", "+Inf"), 0.5),
}
"""Bounds of two pods, and the median of them by those that both have."""


def _samples() -> Iterator[Line]:
    """All cases, each in a namespace of its own for each shift."""
    for name, (some, others, _) in BOUNDS.items():
        for pod, bounds in (("some", some), ("others", others)):
            yield from Exposing(name=pod, bounds=bounds).lines(name)
    for number, case in enumerate(CASES.values()):
        for shift in SHIFTS:
            for pod in case.pods:
                yield from replace(pod, shift=shift).lines(f"{number}-{shift:g}")


def spec(name: str, window: int = WINDOW, stat: Stat | None = None) -> MeasureSpec:
    return MeasureSpec(kind=MeasureKind.PRESET, name=name, window=timedelta(seconds=window), stat=stat)


async def _misjudged(server: Prometheus, folder: Path) -> list[tuple[str, float, tuple[float, float]]]:
    """Cases of which something else is found, with the shift, and errors and requests as they are found."""
    await import_samples(server, folder, _samples())
    at, wrong = datetime.fromtimestamp(AT, UTC), []
    for number, (name, case) in enumerate(CASES.items()):
        targets = [target for pod in case.pods for target in pod.targets]
        source = PrometheusSource("p", PrometheusConfig(url=server.url), lambda *_, t=targets: t)
        for shift in SHIFTS:
            where = place("canary", f"{number}-{shift:g}")
            rate = await source.measure(spec("requests", case.window), where, at)
            share = await source.measure(spec("error-rate", case.window), where, at)
            assert isinstance(rate, float)
            assert isinstance(share, float)
            found = (share * rate * case.window, rate * case.window)
            errors = pytest.approx(case.errors, abs=case.within, nan_ok=True)
            if found != (errors, pytest.approx(case.requests, rel=0.15, nan_ok=True)):
                wrong.append((name, shift, found))
        await source.close()
    for name, (_, _, median) in BOUNDS.items():
        pods = [ScrapeTarget(pod=pod, ip="10.0.0.1", port=8000) for pod in ("some", "others")]
        source = PrometheusSource("p", PrometheusConfig(url=server.url), lambda *_, t=pods: t)
        told = await source.measure(spec("ttft", stat=Stat.P50), place("canary", name), at)
        assert isinstance(told, float)
        if told != pytest.approx(median, rel=0.05):
            wrong.append((name, 0.0, (told, math.nan)))
        await source.close()
    return wrong


@pytest.mark.parametrize("longest", [promql.LONGEST_QUERY, 1])
async def test_growth_is_that_of_the_window_on_every_server(
    any_server: Prometheus, tmp_path: Path, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where each pod is asked about, and each sum is asked for, by a query of its own."""
    for module in (promql, asking):
        monkeypatch.setattr(module, "LONGEST_QUERY", longest)

    assert await _misjudged(any_server, tmp_path) == []


def _all_steady(patch: pytest.MonkeyPatch) -> None:
    """As if all had been there: ``increase`` alone."""
    patch.setattr(
        prometheus,
        "processes",
        lambda per_job, known, where, begin: jobs.processes(per_job, known, where, begin)._replace(
            steady=per_job, others=()
        ),
    )


def _series_that_appear_are_steady(patch: pytest.MonkeyPatch) -> None:
    class Blind(jobs.Prepared):
        def __init__(self, told: Iterable[Labelled], where: promql.PodSelection) -> None:
            super().__init__(told, where)
            self.came = set()

    patch.setattr(prometheus, "Prepared", Blind)


def _no_warm_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(promql, "_SETTLES", -60.0)


def _no_births(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(raw_windows, "_begun", lambda *_: None)


def _births_of_late_scrapes(patch: pytest.MonkeyPatch) -> None:
    """As if one scraper had taken all samples."""
    patch.setattr(raw_windows, "_telling_apart", lambda _: [])


def _counts_of_one_scrape(patch: pytest.MonkeyPatch) -> None:
    real = raw_windows.growth
    patch.setattr(
        raw_windows,
        "growth",
        lambda times, values, life: real(
            times, values, life._replace(scrapes=sorted([*life.scrapes, *life.scrapes]))
        ),
    )


def _a_scraper_for_each_series(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(raw_windows, "_telling_apart", lambda _: ["status"])


def _namesakes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(raw_windows, "_SKEW", 0.0)


def _one_series_is_like_another(patch: pytest.MonkeyPatch) -> None:
    """A process that showed any when the window began has shown all."""
    real = promql.preparatory_queries
    labels = ") unless on (pod, instance) label_replace("

    def asked(*more: Any, **which: Any) -> list[promql.Queries]:
        return [
            tuple(one.replace(") unless label_replace(", labels) for one in some)
            for some in real(*more, **which)
        ]

    patch.setattr(prometheus, "preparatory_queries", asked)


def _labels_that_change_are_scrapers(patch: pytest.MonkeyPatch) -> None:
    def views(series: Iterable[raw_windows.RawSeries], _: float) -> list[raw_windows._View]:
        shown = [one for one in series if one.times]
        return list(raw_windows._by_scraper(shown, raw_windows._telling_apart(shown)))

    patch.setattr(raw_windows, "_views", views)


def _no_restarts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(raw_windows, "counter_increase", lambda values: max(0.0, values[-1] - values[0]))


def _names_of_now(patch: pytest.MonkeyPatch) -> None:
    real = promql.preparatory_queries
    patch.setattr(
        prometheus,
        "preparatory_queries",
        lambda names, _, where, then: real(names, timedelta(seconds=1), where, then=then),
    )


def _one_sample_says_something(patch: pytest.MonkeyPatch) -> None:
    """VictoriaMetrics knows the one before the window."""
    real = promql._Builder._growth
    patch.setattr(
        promql._Builder, "_growth", lambda self, *more: real(self, *more).replace("[30s]) > 1", "[30s]) > 0")
    )


def _no_rest_of_a_window(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(raw_windows, "_reach", lambda *_: 0.0)


def _alternatives_by_name_alone(patch: pytest.MonkeyPatch) -> None:
    """A pod that shows a name, of whatever labels, is read by it."""
    patch.setattr(promql, "_labels", lambda _: [])
    patch.setattr(promql._Builder, "_growth", lambda self, selector, suffix="": _growing_of(self, selector))


def _growing_of(builder: promql._Builder, selector: Selector) -> str:
    own = ",".join(LABELS(selector))
    pods = builder.where.matchers(*builder.where.per_job[0])
    return f"increase({selector.name}{{{pods},{own}}}[{builder.window}s])"


LABELS = promql._labels
PLANTED = {
    "all steady": _all_steady,
    "series that appear are steady": _series_that_appear_are_steady,
    "no warm-up": _no_warm_up,
    "no births": _no_births,
    "births of late scrapes": _births_of_late_scrapes,
    "restarts forgotten": _no_restarts,
    "counts of one scrape": _counts_of_one_scrape,
    "a scraper for each series": _a_scraper_for_each_series,
    "namesakes": _namesakes,
    "one series is like another": _one_series_is_like_another,
    "labels that change are scrapers": _labels_that_change_are_scrapers,
    "one sample": _one_sample_says_something,
    "the rest of a window left out": _no_rest_of_a_window,
    "names of the present only": _names_of_now,
    "alternatives by name alone": _alternatives_by_name_alone,
}


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
