"""Servers that answer like Prometheus, and not quite: late, in parts, or in other words.

What VictoriaMetrics answers was recorded from the real one (``benchmarks.peers.victoriametrics``).
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from rollouts.analysis.offers import PROMETHEUS_OFFER
from rollouts.analysis.types import ArmRef, MeasureKind, MeasureSpec
from rollouts.cli.lint_promql import QueryParsers
from rollouts.sources import asking, prometheus, promql
from rollouts.sources.base import Place, QueryRefused, ScrapeTarget, SourceUnavailable
from rollouts.sources.prometheus import PrometheusConfig, PrometheusSource

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PLACE = Place(namespace="default", arm=ArmRef(kind="InferencePool", group="g", name="canary"))
REQUESTS = MeasureSpec(kind=MeasureKind.PRESET, name="requests", window=timedelta(minutes=5))
NAME = "vllm:request_success_total"
RECORDED: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "peers" / "recorded" / "victoriametrics.json").read_text("utf-8")
)


class Server:
    """Answers for a moment ``late`` seconds before the present, and says so nowhere, like VictoriaMetrics."""

    def __init__(self) -> None:
        self.late = 0.0
        self.status = 200
        self.body: dict[str, Any] | None = None
        self.asked: list[tuple[str, float]] = []
        self.hangs = "nothing"
        """Of the queries that are never answered."""

    async def answer(self, request: web.Request) -> web.Response:
        words = {**request.query, **await request.post()}
        query, at = str(words["query"]), float(str(words["time"]))
        self.asked.append((query, at))
        if self.hangs in query:
            await asyncio.sleep(3600)
        if self.body is not None:
            return web.json_response(self.body, status=self.status)
        now = at - (self.late if at > NOW.timestamp() - self.late else 0.0)
        result = _samples(query, now) if query.endswith("s]") else _sums(query, at, now)
        return web.json_response({"status": "success", "data": {"resultType": "vector", "result": result}})


def _sums(query: str, at: float, now: float) -> list[dict[str, Any]]:
    if query == "time()":
        return [{"metric": {}, "value": [at, str(now)]}]
    labels = {"job": "j", "instance": "i", "__name__": NAME}
    if "label_replace" in query and "now0" not in query:
        return [{"metric": {"is": "value0"}, "value": [at, "300"]}]
    parts = ("now0", "then0", "names0") if "now0" in query else ("",)
    return [
        {"metric": {**labels, "is": part, "pod": pod.pod}, "value": [at, "300"]}
        for part in parts
        for pod in PODS
    ]


def _samples(query: str, now: float) -> list[dict[str, Any]]:
    """Of each pod that is asked about: a thousand requests of its warm-up, and one a second since."""
    found = []
    for pod in PODS:
        if pod.warmed is not None and f'"{pod.pod}"' in query:
            moments = range(int(pod.warmed) - 200, int(now) + 1, 10)
            values = [[at, str(1000.0 + at - pod.warmed if at >= pod.warmed else 0.0)] for at in moments]
            metric = {"job": "j", "instance": "i", "__name__": NAME, "pod": pod.pod}
            found.append({"metric": metric, "values": values})
    return found


PODS = [
    ScrapeTarget(pod="old", ip="10.0.0.1", port=8000),
    ScrapeTarget(pod="fresh", ip="10.0.0.2", port=8000, warmed=NOW.timestamp() - 100),
]


@pytest.fixture
async def serving() -> AsyncIterator[tuple[Server, PrometheusSource]]:
    scripted, app = Server(), web.Application()
    app.router.add_route("*", "/api/v1/query", scripted.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    source = PrometheusSource("s", PrometheusConfig(url=url), lambda *_: PODS)
    yield scripted, source
    await source.close()
    await runner.cleanup()


@pytest.mark.parametrize("late", [0.0, 30.0, 70.0])
async def test_windows_begin_after_the_warm_up_however_late_the_server_answers(serving, late: float) -> None:
    server, source = serving
    server.late = late

    rate = await source.measure(REQUESTS, PLACE, NOW)
    server.asked.clear()
    await source.raw(frozenset({NAME}), PLACE, NOW)

    assert isinstance(rate, float)
    assert 300 + 95 - late - 10 <= rate * 300 <= 300 + 95 + 10
    windows = [
        (at, int(seconds))
        for query, at in server.asked
        for seconds in re.findall(r'pod=~"fresh"[^\[\]]*\[(\d+)s\]', query)
    ]
    assert windows
    shift = {at: late if at > NOW.timestamp() - late else 0.0 for _, at in server.asked}
    assert all(at - shift[at] - seconds >= NOW.timestamp() - 100 + 5 for at, seconds in windows)


async def test_a_server_that_is_not_asked_which_moment_it_answers_for_is_caught(serving, monkeypatch) -> None:
    async def believed(_: PrometheusSource, __: Any, at: datetime, *___: Any) -> datetime:
        return at

    monkeypatch.setattr(PrometheusSource, "_answered", believed)

    with pytest.raises(AssertionError):
        await test_windows_begin_after_the_warm_up_however_late_the_server_answers(serving, 30.0)


async def test_the_moment_is_not_asked_for_where_nobody_was_warmed_up(serving, monkeypatch) -> None:
    server, source = serving
    await source.measure(REQUESTS, PLACE, NOW)  # samples say themselves of when they are
    monkeypatch.setitem(globals(), "PODS", PODS[:1])

    await source.measure(REQUESTS, PLACE, NOW)
    await source.raw(frozenset({NAME}), PLACE, NOW)

    assert all(query != "time()" for query, _ in server.asked)


async def test_how_late_a_server_answers_is_remembered_for_a_while(serving, monkeypatch) -> None:
    server, source = serving
    server.late = 30.0

    async def asked_after(at: datetime) -> int:
        await source.raw(frozenset({NAME}), PLACE, at)
        return sum(query == "time()" for query, _ in server.asked)

    first, again, of_another = [await asked_after(at) for at in (NOW, NOW, NOW - timedelta(seconds=40))]
    monkeypatch.setattr(prometheus, "_LATE_KNOWN", 0.0)

    assert (first, again, of_another) == (1, 1, 2)
    assert await asked_after(NOW - timedelta(seconds=40)) == 3


@pytest.mark.parametrize(
    ("pods", "measured", "read"), [(slice(0, 1), 2, 1), (slice(1, 2), 1, 2), (slice(0, 2), 3, 2)]
)
async def test_every_request_of_a_measurement_is_charged(serving, monkeypatch, pods, measured, read) -> None:
    """One is taken before: of what was there two, of a pod that came one more, and how late the server answers."""
    server, source = serving
    monkeypatch.setitem(globals(), "PODS", PODS[pods])
    charged: list[tuple[str, int]] = []
    source._charge = lambda namespace, requests: charged.append((namespace, requests))

    await source.measure(REQUESTS, PLACE, NOW)
    first = len(server.asked)
    await source.raw(frozenset({NAME}), PLACE, NOW)

    assert (first, len(server.asked) - first) == (measured, read)
    assert charged == [("default", 1)] * (measured - 1 + read - 1)


async def test_requests_of_a_measurement_that_failed_are_charged_too(serving) -> None:
    server, source = serving
    charged: list[int] = []
    source._charge = lambda _, requests: charged.append(requests)
    source._server._config = replace(source._server._config, timeout=0.3)
    server.hangs = "increase("

    with pytest.raises(SourceUnavailable):
        await source.measure(REQUESTS, PLACE, NOW)

    assert charged == [1, 1]


MANY = [ScrapeTarget(pod=f"old-{number}", ip="10.0.0.1", port=8000) for number in range(20)]


async def test_nothing_is_asked_after_a_part_has_failed(serving, monkeypatch, caplog) -> None:
    """Neither what waited for a thread, nor by other threads; and nothing is logged of those that were cut."""
    server, source = serving
    monkeypatch.setitem(globals(), "PODS", MANY)
    monkeypatch.setattr(promql, "LONGEST_QUERY", 1)
    source._server._config = replace(source._server._config, timeout=0.8)
    server.hangs = "increase("

    with pytest.raises(SourceUnavailable, match="no whole answer"):
        await source.measure(REQUESTS, PLACE, NOW)
    sent = len(server.asked)
    await asyncio.sleep(2.0)
    gc.collect()

    hung = sum("increase(" in query for query, _ in server.asked)
    assert len(promql.measure_queries(*_of(MANY))) > hung > 0
    assert len(server.asked) <= sent + 4  # those that threads were about to send
    assert "never retrieved" not in caplog.text


def _of(pods: list[ScrapeTarget]) -> tuple[Any, ...]:
    where = promql.PodSelection(
        namespace="default", pod_label="pod", namespace_label="namespace", per_job=(("j", tuple(pods)),)
    )
    return PROMETHEUS_OFFER.statistic(REQUESTS), {NAME}, REQUESTS.window, where


async def test_queries_that_go_on_are_caught(serving, monkeypatch, caplog) -> None:
    async def gathered(calls: Any) -> list[Any]:
        return await asyncio.gather(*calls)

    monkeypatch.setattr(asking, "all_of", gathered)

    with pytest.raises(AssertionError):
        await test_nothing_is_asked_after_a_part_has_failed(serving, monkeypatch, caplog)


PARTIAL: dict[str, tuple[dict[str, Any], bool]] = {
    "VictoriaMetrics, a storage node away": ({"isPartial": True}, True),
    "VictoriaMetrics, all there": ({"isPartial": False}, False),
    "Thanos, a store away": (
        {"warnings": ["receive series from Addr: store:10901: rpc error"]},
        True,
    ),
    "PromQL itself": ({"warnings": ['PromQL warning: bucket label "le" is missing']}, False),
    "more than ten remarks": (
        {"warnings": ["PromQL warning: a", "1 more warning annotations omitted"]},
        False,
    ),
    "Prometheus 3, in passing": ({"infos": ["PromQL info: metric might not be a counter"]}, False),
}


@pytest.mark.parametrize("case", PARTIAL)
async def test_a_part_of_an_answer_is_none(serving, case: str) -> None:
    server, source = serving
    more, refused = PARTIAL[case]
    series = {"metric": {}, "value": [NOW.timestamp(), "1"]}
    server.body = {"status": "success", "data": {"resultType": "vector", "result": [series]}, **more}

    if refused:
        with pytest.raises(SourceUnavailable, match="a part of the answer is missing"):
            await source.query("up", NOW)
    else:
        assert await source.query("up", NOW) == 1.0


# --- as recorded -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["no PromQL", "no function", "too long"])
async def test_what_victoriametrics_refuses_is_the_query(serving, name: str) -> None:
    server, source = serving
    server.status, server.body = RECORDED[name]["status"], json.loads(RECORDED[name]["body"])

    with pytest.raises(QueryRefused, match="422"):
        await source.query("up", NOW)


def test_victoriametrics_answers_for_half_a_minute_ago_unless_told_not_to() -> None:
    """Why ``nocache`` is sent; and it claims the moment that it was asked for."""
    late, now = (
        json.loads(RECORDED[name]["body"])["data"]["result"][0]["value"] for name in ("now", "now, nocache")
    )

    assert round(late[0] - float(late[1])) == 30
    assert round(now[0] - float(now[1])) == 0


@pytest.fixture
def unparsing() -> Iterator[str]:
    recorded = RECORDED["parse_query"]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(recorded["status"])
            self.end_headers()
            self.wfile.write(recorded["body"].encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_server_that_parses_no_queries_is_said_to(unparsing: str) -> None:
    parsers = QueryParsers({"default": unparsing})

    assert await asyncio.to_thread(parsers, "default", "sum(x") is None
    assert "parses no queries" in parsers.troubles["default"]
