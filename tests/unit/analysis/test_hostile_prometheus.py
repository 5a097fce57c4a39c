"""A Prometheus that is down, slow, lying or huge: an error or no data, bounded in time, and never quoted."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web

from rollouts.analysis.conditions import ConditionError, condition_problem, evaluate
from rollouts.analysis.exposition import ExpositionError, HistogramSample, parse_exposition
from rollouts.analysis.histogram import add_increase, counter_increase, quantile
from rollouts.analysis.sources.base import Endpoint, QueryRefused, SourceError, SourceUnavailable
from rollouts.analysis.sources.prometheus import PrometheusConfig, PrometheusSource
from rollouts.analysis.sources.promql import Where, measure_query
from rollouts.analysis.templates import Argument, Gate, Template, resolve
from rollouts.analysis.types import Labelled, MeasureKind, MeasureSpec, MetricSpec, QuerySpec, Stat

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECRET = "do-not-repeat-this"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def vector(*values: str, at: float | None = None) -> dict[str, Any]:
    stamp = NOW.timestamp() if at is None else at
    result = [{"metric": {"pod": f"p{i}"}, "value": [stamp, value]} for i, value in enumerate(values)]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


def answer(body: Any, status: int = 200, kind: str = "application/json") -> Handler:
    async def handler(_: web.Request) -> web.Response:
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(text=text, status=status, content_type=kind)

    return handler


async def drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(200):
        await response.write(b" ")
        await asyncio.sleep(0.05)
    return response


async def redirect(_: web.Request) -> web.Response:
    raise web.HTTPFound("/elsewhere")


@pytest.fixture
async def prometheus() -> AsyncIterator[Callable[[Handler], Awaitable[PrometheusSource]]]:
    runners: list[web.AppRunner] = []
    sources: list[PrometheusSource] = []

    async def start(handler: Handler) -> PrometheusSource:
        app = web.Application()
        app.router.add_get("/api/v1/query", handler)
        app.router.add_get("/elsewhere", answer(vector("0.001")))
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        runners.append(runner)
        port = runner.addresses[0][1]
        source = PrometheusSource(
            "p", PrometheusConfig(url=f"http://127.0.0.1:{port}", timeout=1.0), lambda *_: []
        )
        sources.append(source)
        return source

    yield start
    for source in sources:
        await source.close()
    for runner in runners:
        await runner.cleanup()


BAD: dict[str, tuple[Handler, type[SourceError]]] = {
    "HTML with 200": (answer(f"<html>{SECRET}</html>", kind="text/html"), SourceUnavailable),
    "500": (answer(SECRET, 500), SourceUnavailable),
    "503": (answer(SECRET, 503), SourceUnavailable),
    "bad PromQL": (answer({"status": "error", "error": SECRET}, 400), QueryRefused),
    "not executable": (answer({"status": "error", "error": SECRET}, 422), QueryRefused),
    "another shape": (answer({"data": SECRET}), SourceUnavailable),
    "no result": (answer({"status": "success"}), SourceUnavailable),
    "nested without end": (answer("[" * 100_000), SourceUnavailable),
    "a value that is a word": (answer(vector(SECRET)), SourceUnavailable),
    "10 MB": (answer("x" * 10_000_000), SourceUnavailable),
    "a slow drip": (drip, SourceUnavailable),
    "a redirect": (redirect, SourceUnavailable),
    "a range": (
        answer({"data": {"result": [{"metric": {}, "values": [[1, "1"]]}]}}),
        QueryRefused,
    ),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_answer_is_an_error_in_time_that_repeats_nothing(prometheus, case):
    handler, want = BAD[case]
    source = await prometheus(handler)
    begun = time.monotonic()

    with pytest.raises(want) as failure:
        await source.query("up", NOW)

    assert SECRET not in str(failure.value)
    assert time.monotonic() - begun < 4


async def test_a_server_that_is_down_is_an_error():
    source = PrometheusSource("p", PrometheusConfig(url="http://127.0.0.1:1", timeout=1.0), lambda *_: [])

    with pytest.raises(SourceUnavailable):
        await source.query("up", NOW)

    await source.close()


@pytest.mark.parametrize(
    ("body", "want"),
    [
        (vector(), ()),
        (vector("NaN"), "nan"),
        (vector("1.5", at=NOW.timestamp() - 3600), ()),
        (vector("1", "2"), (1.0, 2.0)),
        ({"data": {"result": [NOW.timestamp(), "7"]}}, 7.0),
        ({"data": {"result": [{"metric": {}, "value": [NOW.timestamp(), "3"]}]}}, 3.0),
    ],
)
async def test_what_answers_mean(prometheus, body, want):
    value = await (await prometheus(answer(body))).query("up", NOW)

    if isinstance(value, tuple):
        seen: Any = tuple(item.value for item in value)
        assert seen == want or (want == "nan" and math.isnan(seen[0]))
    else:
        assert value == want


async def test_a_slow_server_does_not_block_the_event_loop(prometheus):
    source = await prometheus(drip)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.ensure_future(tick())
    with pytest.raises(SourceUnavailable):
        await source.query("up", NOW)
    ticking.cancel()

    assert ticks > 100


# --- conditions and templates ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value", "want"),
    [
        ("result < 2", 1.5, True),
        ("result == 2", 2.0, True),
        ("result / 2 < 1", 1.5, True),
        ("result[0].value < 2.0", (Labelled(value=1.0),), True),
        (
            "result.exists(r, r.labels['pod'] == 'a' && r.value > 1.0)",
            (Labelled(value=2.0, labels=(("pod", "a"),)),),
            True,
        ),
    ],
)
def test_conditions(text, value, want):
    assert evaluate(text, value) is want


@pytest.mark.parametrize(
    "text",
    [
        "result <",
        "latency < 1.0",
        "result",
        "x" * 2000,
        "(" * 50 + "result < 1.0" + ")" * 50,
        "result.all(a, result.all(b, result.all(c, a.value < 1.0)))",
        "-" * 100 + "1 < 2",
    ],
)
def test_what_is_no_condition_is_said_before_it_runs(text):
    assert condition_problem(text)


def test_a_condition_that_does_not_fit_the_result_is_an_error_of_its_own():
    with pytest.raises(ConditionError):
        evaluate("result.all(r, r.value < 1.0)", 1.0)


def query_metric(promql: str) -> MetricSpec:
    return MetricSpec(name="m", what=QuerySpec(promql=promql), success_condition="result < {{args.limit}}")


@pytest.mark.parametrize(
    "value", ['a"} or up{x="', "a|b", "1 or 1", "$(x)", "a b", "}}", "\n", "{{args.limit}}"]
)
def test_an_argument_never_changes_what_a_query_asks(value):
    template = Template(
        name="t", metrics=(query_metric('up{pod="{{args.pod}}"}'),), args=(Argument(name="pod"),)
    )
    gate = Gate(
        templates=((False, "t"),), args=(Argument(name="pod", value=value), Argument(name="limit", value="2"))
    )
    resolved = resolve(gate, {(False, "t"): template}, {"limit": "2.0"}, frozenset({"default"}))

    assert "ArgumentMissing" in [reason for reason, _ in resolved.problems]


def test_a_plain_argument_is_put_in():
    template = Template(
        name="t", metrics=(query_metric('up{pod="{{ args.pod }}"}'),), args=(Argument(name="pod"),)
    )
    gate = Gate(templates=((False, "t"),), args=(Argument(name="pod", value="p-0.a_b"),))
    resolved = resolve(gate, {(False, "t"): template}, {"limit": "2.0"}, frozenset({"default"}))

    assert resolved.problems == ()
    assert resolved.metrics[0].what == QuerySpec(promql='up{pod="p-0.a_b"}')
    assert resolved.metrics[0].success_condition == "result < 2.0"


def where(*endpoints: Endpoint) -> Where:
    return Where(namespace='ns"1', pod_label="pod", namespace_label="namespace", per_job=(("j", endpoints),))


def test_pod_names_are_quoted_in_the_queries_of_measures():
    measure = MeasureSpec(kind=MeasureKind.HISTOGRAM, name="ttft", stat=Stat.P95, window=timedelta(minutes=2))
    text = measure_query(measure, where(Endpoint(pod='a"b.c', ip="10.0.0.1", port=8000)))

    assert 'increase(ttft_bucket{pod=~"a\\"b\\\\.c",namespace="ns\\"1",job="j"}[120s])' in text


def test_the_load_in_promql_is_that_of_clients_too():
    measure = MeasureSpec(kind=MeasureKind.PRESET, name="requests", window=timedelta(minutes=1))
    text = measure_query(measure, where(Endpoint(pod="p", ip="10.0.0.1", port=8000)))

    assert 'method!~"GET|HEAD|OPTIONS",handler!~"/v1/load_lora_adapter|/v1/unload_lora_adapter"' in text
    assert 'handler=~"/v1/.*"' in text


# --- pages of pods ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page", [b"<html></html>", b"\xff\xfe", b"", b"x" * 5_000_000, b'vllm:a{le="x"} y', b"\n" * 60_000]
)
def test_what_is_no_metrics_page(page):
    with pytest.raises(ExpositionError):
        parse_exposition(page, {"vllm:a"})


def test_a_page_is_read_by_name_and_label():
    page = (
        b'# TYPE a counter\na{status="2xx"} 5\na{status="5xx"} 1\nb NaN\n'
        b'h_bucket{le="1.0"} 2\nh_bucket{le="+Inf"} 3\nh_sum 4\nh_count 3\n'
    )
    sample = parse_exposition(page, {"a", "b", "h"})

    assert sample.series["a"] == [({"status": "2xx"}, 5.0), ({"status": "5xx"}, 1.0)]
    assert sample.total("b") is None
    assert sample.histograms["h"].buckets == {1.0: 2.0, math.inf: 3.0}


def test_resets_are_no_negative_increase():
    assert counter_increase([5, 9, 2, 3]) == 4 + 2 + 1


def test_quantiles_are_those_of_promql():
    histogram = HistogramSample(buckets={0.1: 2.0, 0.5: 8.0, 1.0: 10.0, math.inf: 10.0}, sum=4, count=10)

    assert quantile(0.5, histogram) == pytest.approx(0.1 + 0.4 * (5 - 2) / 6)
    assert quantile(0.95, histogram) == pytest.approx(0.5 + 0.5 * (9.5 - 8) / 2)
    assert math.isnan(quantile(0.5, HistogramSample(buckets={1.0: 0.0, math.inf: 0.0})))


def test_pods_with_other_bounds_are_added_on_the_common_ones():
    merged = HistogramSample()
    one = [HistogramSample(buckets={1.0: n, 2.0: n, math.inf: n}, sum=n, count=n) for n in (0.0, 4.0)]
    two = [HistogramSample(buckets={2.0: n, 5.0: n, math.inf: n}, sum=n, count=n) for n in (0.0, 6.0)]
    add_increase(merged, one)
    add_increase(merged, two)

    assert merged.buckets == {2.0: 10.0, math.inf: 10.0}
