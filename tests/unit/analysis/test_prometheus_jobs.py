"""One scrape job per pod, as a server with several would answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web

from rollouts.analysis.types import ArmRef, Labelled, MeasureKind, MeasureSpec
from rollouts.sources import promql
from rollouts.sources.base import Place, ScrapeTarget, SourceUnavailable
from rollouts.sources.jobs import Prepared, processes
from rollouts.sources.prometheus import PrometheusConfig, PrometheusSource

NAMES = frozenset({"http_requests_total"})
PLACE = Place(namespace="default", arm=ArmRef(kind="InferencePool", group="g", name="canary"))
NOW = datetime.now(UTC)


class Server:
    """Answers every query with the counter of pod `p`, by scrape job and port."""

    def __init__(self) -> None:
        self.jobs: dict[str, float] = {}
        self.ports = (8000,)
        self.queries: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.queries.append((await request.post()).get("query") or request.query["query"])
        found = [
            {
                "metric": {
                    "__name__": "http_requests_total",
                    "pod": "p",
                    "namespace": "default",
                    "job": job,
                    "instance": f"10.0.0.1:{port}",
                    **({"is": "now0"} if "now0" in self.queries[-1] else {}),
                },
                "value": [NOW.timestamp(), str(value)],
            }
            for job, value in self.jobs.items()
            for port in self.ports
        ]
        return web.json_response({"status": "success", "data": {"resultType": "vector", "result": found}})


@pytest.fixture
async def server() -> AsyncIterator[tuple[Server, PrometheusSource]]:
    scripted = Server()
    app = web.Application()
    app.router.add_route("*", "/api/v1/query", scripted.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    source = PrometheusSource(
        "s", PrometheusConfig(url=url), lambda *_: [ScrapeTarget(pod="p", ip="10.0.0.1", port=8000)]
    )
    yield scripted, source
    await source.close()
    await runner.cleanup()


async def total(source: PrometheusSource) -> float | None:
    try:
        found = await source.raw(NAMES, PLACE, NOW)
    except SourceUnavailable:
        return None
    return found["p"].sample.total("http_requests_total")


async def test_two_jobs_hold_the_counts_of_a_pod_twice_and_one_is_read(server):
    scripted, source = server
    scripted.jobs = {"pods": 100.0, "service": 98.0}

    assert await total(source) == 100.0
    scripted.jobs = {"service": 99.0, "pods": 110.0}
    assert await total(source) == 110.0


async def test_a_pod_that_changes_its_job_is_left_out_once_so_that_nothing_looks_like_a_reset(server):
    scripted, source = server
    scripted.jobs = {"pods": 100.0}
    assert await total(source) == 100.0

    scripted.jobs = {"service": 98.0}

    assert await total(source) is None
    assert await total(source) == 98.0


async def test_the_namespace_is_always_matched(server):
    scripted, source = server
    await total(source)

    assert 'namespace="default"' in scripted.queries[0]


RANKS = (8000, 8001, 8002)


@pytest.mark.parametrize(
    ("scraped", "said"),
    [
        (RANKS, ""),
        (RANKS[:1], "holds 1 of the 3 processes of pod p: let it scrape every port"),
        (RANKS[:2], "holds 2 of the 3 processes of pod p"),
    ],
)
@pytest.mark.parametrize("how", ["raw", "measure"])
async def test_a_pod_is_not_judged_by_some_of_its_processes(
    server: tuple[Server, PrometheusSource], how: str, scraped: tuple[int, ...], said: str
) -> None:
    scripted, source = server
    scripted.jobs, scripted.ports = {"pods": 100.0}, scraped
    pods = [ScrapeTarget(pod=f"p:{port}", ip="10.0.0.1", port=port, of="p") for port in RANKS]
    source._endpoints = lambda *_: pods
    errors = MeasureSpec(kind=MeasureKind.PRESET, name="error-rate", window=timedelta(seconds=10))

    async def asked() -> str:
        try:
            await (source.raw(NAMES, PLACE, NOW) if how == "raw" else source.measure(errors, PLACE, NOW))
        except SourceUnavailable as error:
            return str(error)
        return ""

    assert (said in await asked()) if said else (await asked() == "")


BEGIN = NOW.timestamp() - 300
LONG_AGO = BEGIN - promql.LOOKBACK - promql.MOST_LATE
"""Whoever is known since then had its name alone, however late the server answers, and however far it looks back."""
AS_THEN = {"then": (3.0,)}
DIVIDED: dict[str, tuple[ScrapeTarget, dict[str, tuple[float, ...]], tuple[bool, bool]]] = {
    "there all the time": (ScrapeTarget(pod="p", ip="10.0.0.1", port=8000), AS_THEN, (True, True)),
    "as long as Kubernetes knows": (
        ScrapeTarget(pod="p", ip="10.0.0.1", port=8000, started=LONG_AGO),
        AS_THEN,
        (True, True),
    ),
    "another one may have had its name": (
        ScrapeTarget(pod="p", ip="10.0.0.1", port=8000, started=LONG_AGO + 1),
        AS_THEN,
        (False, True),
    ),
    "another one had its name": (
        ScrapeTarget(pod="p", ip="10.0.0.1", port=8000, started=BEGIN + 1),
        AS_THEN,
        (False, False),
    ),
    "warmed up just before": (
        ScrapeTarget(pod="p", ip="10.0.0.1", port=8000, warmed=BEGIN - 5),
        AS_THEN,
        (False, True),
    ),
    "warmed up within": (
        ScrapeTarget(pod="p", ip="10.0.0.1", port=8000, warmed=BEGIN - 4),
        AS_THEN,
        (False, False),
    ),
    "a series more": (
        ScrapeTarget(pod="p", ip="10.0.0.1", port=8000),
        {"then": (3.0,), "came": (1.0,)},
        (False, True),
    ),
    "not scraped then": (
        ScrapeTarget(pod="p", ip="10.0.0.1", port=8000),
        {"came": (3.0,)},
        (False, False),
    ),
    "one of its processes came": (
        ScrapeTarget(pod="p", ip="10.0.0.1", port=8000),
        {"then": (3.0,), "came": (0.0, 3.0)},
        (False, True),
    ),
}


@pytest.mark.parametrize("case", DIVIDED)
def test_steady_is_who_had_all_series_and_its_name_alone_when_the_window_began(case: str) -> None:
    pod, counted, (steady, there) = DIVIDED[case]
    where = promql.PodSelection(
        namespace="default", pod_label="pod", namespace_label="namespace", per_job=((None, (pod,)),)
    )
    told = [
        Labelled(
            value=value,
            labels=(("is", f"{what}0"), ("job", "pods"), ("pod", "p"), ("instance", f"10.0.0.1:{port}")),
        )
        for what, values in counted.items()
        for port, value in enumerate(values, 8000)
        if value
    ]

    found = processes((("pods", (pod,)),), Prepared(told, where), where, BEGIN)

    assert (found.steady, found.others) == (
        ((("pods", (pod,)),), ()) if steady else ((), (("pods", (pod,)),))
    )
    assert found.there is there
