"""A Prometheus that is down, slow, lying or huge: an error or no data, bounded in time, and never quoted."""

from __future__ import annotations

import asyncio
import json
import math
import re
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.analysis.conditions import ConditionError, condition_problem, evaluate, plain_comparison
from rollouts.analysis.exposition import ExpositionError, ScrapedHistogram, parse_exposition
from rollouts.analysis.offers import PROMETHEUS_OFFER
from rollouts.analysis.templates import Argument, Gate, Template, left_over, resolve
from rollouts.analysis.types import ArmRef, Labelled, MeasureKind, MeasureSpec, MetricSpec, QuerySpec, Stat
from rollouts.analysis.window_statistics import add_increase, counter_increase, quantile
from rollouts.sources import asking
from rollouts.sources.base import Place, QueryRefused, ScrapeTarget, SourceError, SourceUnavailable
from rollouts.sources.prometheus import PrometheusConfig, PrometheusSource
from rollouts.sources.promql import PodSelection, measure_queries

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PLACE = Place(namespace="default", arm=ArmRef(kind="InferencePool", group="g", name="canary"))
SECRET = "do-not-repeat-this"
OFFERS = {"default": PROMETHEUS_OFFER}
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


@pytest.mark.timed
@pytest.mark.parametrize("case", BAD)
async def test_a_bad_answer_is_an_error_in_time_that_repeats_nothing(prometheus, case):
    handler, want = BAD[case]
    source = await prometheus(handler)
    begun = time.monotonic()

    with pytest.raises(want) as failure:
        await source.query("up", NOW)

    assert SECRET not in str(failure.value)
    assert time.monotonic() - begun < 4


async def drip_headers(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not request.transport.is_closing():
        request.transport.write(b"x")
        await asyncio.sleep(0.1)
    raise ConnectionResetError


@pytest.mark.timed
@pytest.mark.parametrize("handler", [drip, drip_headers])
async def test_a_server_that_drips_gets_its_thread_back_at_the_deadline(prometheus, handler):
    source = await prometheus(handler)
    asked = [asyncio.create_task(source.query("up", NOW, f"team-{n % 8}")) for n in range(24)]
    ended = await asyncio.gather(*asked, return_exceptions=True)
    begun = time.monotonic()
    while any(one.name.startswith("prometheus-p") and busy(one) for one in threading.enumerate()):  # noqa: ASYNC110 - threads set no event
        await asyncio.sleep(0)

    assert {type(error) for error in ended} == {SourceUnavailable}
    assert time.monotonic() - begun < 1.0


def busy(thread: threading.Thread) -> bool:
    """Whether a thread of a pool is reading from a socket."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if frame.f_code.co_name == "request":
            return True
        frame = frame.f_back
    return False


@pytest.mark.timed
async def test_one_namespace_cannot_hold_all_threads_of_a_source(prometheus):
    async def slow_or_not(request: web.Request) -> web.StreamResponse:
        return await (drip if "slow" in request.query["query"] else answer(vector("1")))(request)

    source = await prometheus(slow_or_not)
    greedy = [asyncio.create_task(source.query("slow", NOW, "greedy")) for _ in range(40)]
    await asyncio.sleep(0)
    begun = time.monotonic()
    for _ in range(5):
        await source.query("up", NOW, "modest")
    waited = time.monotonic() - begun
    for task in greedy:
        task.cancel()
    await asyncio.gather(*greedy, return_exceptions=True)

    assert waited < 1.0


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
    resolved = resolve(gate, {(False, "t"): template}, {"limit": "2.0"}, OFFERS, condition_problem)

    assert "ArgumentMissing" in [reason for reason, _ in resolved.problems]


def test_a_plain_argument_is_put_in():
    template = Template(
        name="t", metrics=(query_metric('up{pod="{{ args.pod }}"}'),), args=(Argument(name="pod"),)
    )
    gate = Gate(templates=((False, "t"),), args=(Argument(name="pod", value="p-0.a_b"),))
    resolved = resolve(gate, {(False, "t"): template}, {"limit": "2.0"}, OFFERS, condition_problem)

    assert resolved.problems == ()
    assert resolved.metrics[0].what == QuerySpec(promql='up{pod="p-0.a_b"}')
    assert resolved.metrics[0].success_condition == "result < 2.0"


def where(*endpoints: ScrapeTarget) -> PodSelection:
    return PodSelection(
        namespace='ns"1', pod_label="pod", namespace_label="namespace", per_job=(("j", endpoints),)
    )


HELD = frozenset(
    {
        "process_start_time_seconds",
        "http_requests_total",
        "vllm:request_success_total",
        "sglang:num_queue_reqs",
    }
    | {
        f"{name}_{part}"
        for name in ("ttft", "vllm:time_to_first_token_seconds")
        for part in ("bucket", "sum", "count")
    }
)


def asked(measure: MeasureSpec, *endpoints: ScrapeTarget) -> str:
    wanted = PROMETHEUS_OFFER.statistic(measure)
    asked = measure_queries(wanted, HELD, measure.window, where(*endpoints))
    return "\n".join(query for queries in asked for query in queries)


def test_pod_names_are_quoted_in_the_queries_of_measures():
    measure = MeasureSpec(kind=MeasureKind.HISTOGRAM, name="ttft", stat=Stat.P95, window=timedelta(minutes=2))
    text = asked(measure, ScrapeTarget(pod='a"b.c', ip="10.0.0.1", port=8000))

    assert 'increase(ttft_bucket{pod=~"a\\"b\\\\.c",namespace="ns\\"1",job="j"}[120s])' in text


def test_a_sum_beside_its_parts_is_asked_for_alone():
    measure = MeasureSpec(kind=MeasureKind.PRESET, name="waiting", window=timedelta(minutes=1))
    text = asked(measure, ScrapeTarget(pod="p", ip="10.0.0.1", port=8000))

    assert "sglang:num_queue_reqs{" in text
    assert 'priority=""' in text


@pytest.mark.parametrize(("name", "read"), [("waiting", "last_over_time"), ("preemptions", "increase")])
def test_ranks_that_share_their_requests_are_asked_for_once(name, read):
    measure = MeasureSpec(kind=MeasureKind.PRESET, name=name, window=timedelta(minutes=1))
    wanted, pod = PROMETHEUS_OFFER.statistic(measure), ScrapeTarget(pod="p", ip="10.0.0.1", port=8000)
    text = str(measure_queries(wanted, wanted.names, measure.window, where(pod)))

    assert re.search(rf"sum.*max without \(tp_rank, pp_rank, moe_ep_rank\) \(\(?{read}\(sglang:", text)


def test_names_beyond_those_of_promql_are_quoted():
    measure = MeasureSpec(kind=MeasureKind.COUNTER, name="my.metric", window=timedelta(minutes=2))
    wanted, pod = PROMETHEUS_OFFER.statistic(measure), ScrapeTarget(pod="p", ip="10.0.0.1", port=8000)
    queries = measure_queries(wanted, {"my.metric"}, measure.window, where(pod))

    assert 'increase({__name__="my.metric",pod=~"p"' in queries[0][0]
    assert "my.metric{" not in queries[0][0]


def test_the_load_in_promql_is_that_of_clients_too():
    measure = MeasureSpec(kind=MeasureKind.PRESET, name="requests", window=timedelta(minutes=1))
    text = asked(measure, ScrapeTarget(pod="p", ip="10.0.0.1", port=8000))

    assert 'method!~"GET|HEAD|OPTIONS",handler!~"/v1/load_lora_adapter|/v1/unload_lora_adapter"' in text
    assert 'handler=~"/v1/.*"' in text


@pytest.mark.parametrize("ago", [-1e9, -10.0, 0.0, 3.0])
async def test_a_pod_that_was_warmed_up_in_this_moment_or_says_so_of_another_is_not_asked_about(ago: float):
    """The annotation is read from a pod: its owner may write what he likes, and hides no other pod by it."""
    asked: list[str] = []
    pods = [
        ScrapeTarget(pod="old", ip="10.0.0.1", port=8000),
        ScrapeTarget(pod="fresh", ip="10.0.0.2", port=8000, warmed=NOW.timestamp() - ago),
    ]

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.query["query"])
        return web.json_response(told_of([pod.pod for pod in pods]))

    async with serving(handler) as url:
        source = PrometheusSource("p", PrometheusConfig(url=url), lambda *_: pods)
        measure = MeasureSpec(kind=MeasureKind.PRESET, name="requests", window=timedelta(minutes=2))
        assert await source.measure(measure, PLACE, NOW) == 7.0 / 120
        pods.pop(0)
        assert math.isnan(float(str(await source.measure(measure, PLACE, NOW))))
        await source.close()

    assert len(asked) == 3  # what there is; what the old one grew by; what there is
    assert "fresh" not in asked[1]


def told_of(pods: list[str]) -> dict[str, Any]:
    """Whatever is asked: all pods were there, and grew by 7 together."""
    labels = {"job": "j", "instance": "i", "__name__": "http_requests_total"}
    metrics = [{**labels, "pod": pod, "is": what} for pod in pods for what in ("now0", "then0", "names0")]
    found = [{"metric": metric, "value": [NOW.timestamp(), "1"]} for metric in metrics]
    return {"data": {"result": [*found, {"metric": {"is": "value0"}, "value": [NOW.timestamp(), "7"]}]}}


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/api/v1/query", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_samples_of_which_there_are_none_are_not_asked_for():
    asked: list[str] = []
    pods = [ScrapeTarget(pod="new", ip="10.0.0.1", port=8000, started=NOW.timestamp() - 100)]

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.query["query"])
        told = told_of([pod.pod for pod in pods])
        told["data"]["result"] = [one for one in told["data"]["result"] if one["metric"]["is"] != "names0"]
        return web.json_response(told)

    async with serving(handler) as url:
        source = PrometheusSource("p", PrometheusConfig(url=url), lambda *_: pods)
        pods.append(ScrapeTarget(pod="old", ip="10.0.0.2", port=8000))
        await source.measure(SAMPLES, PLACE, NOW)
        await source.close()

    assert asked
    assert not [query for query in asked if query.endswith("s]")]


SAMPLES = MeasureSpec(kind=MeasureKind.PRESET, name="requests", window=timedelta(minutes=2))
NOT_SAMPLES: dict[str, Any] = {
    "a scalar": [1.0, "1"],
    "a word": {"metric": {}, "values": SECRET},
    "a sample that is a word": [[1, SECRET]],
    "a moment that is a word": [[SECRET, "1"]],
    "a pair of three": [[1, "1", "1"]],
    "a moment that is none": [[math.nan, "1"]],
    "from the end to the beginning": [[2, "1"], [1, "1"]],
    "a number without end": [[1, "1" * 100]],
    "no labels": None,
}


@pytest.mark.parametrize("case", NOT_SAMPLES)
async def test_what_is_no_matrix_is_an_error_that_repeats_nothing(case: str):
    wrong = NOT_SAMPLES[case]
    pods = [ScrapeTarget(pod="new", ip="10.0.0.1", port=8000, started=NOW.timestamp() - 300)]
    item = wrong if isinstance(wrong, dict) else {"metric": {}, "values": wrong}
    result = wrong if case == "a scalar" else [{"values": []}] if wrong is None else [item]

    async def handler(request: web.Request) -> web.Response:
        asks_for_samples = request.query["query"].endswith("s]")
        return web.json_response({"data": {"result": result}} if asks_for_samples else told_of(["new"]))

    async with serving(handler) as url:
        source = PrometheusSource("p", PrometheusConfig(url=url), lambda *_: pods)
        with pytest.raises(SourceUnavailable) as failure:
            await source.measure(SAMPLES, PLACE, NOW)
        await source.close()

    assert SECRET not in str(failure.value)


@pytest.mark.parametrize(("most", "asked_for"), [(1, 2 * 8 - 1), (3, 2 * 4 - 1), (8, 1)])
async def test_samples_that_are_too_many_are_asked_for_in_halves(most: int, asked_for: int):
    """A mebibyte and more of each pod; of one pod alone it is an error."""
    pods = [
        ScrapeTarget(pod=f"new-{number}", ip="10.0.0.1", port=8000, started=NOW.timestamp() - 300)
        for number in range(8)
    ]
    padding = "x" * (asking._OWN_BYTES // (most + 1))
    asked: list[int] = []

    async def handler(request: web.Request) -> web.Response:
        query = request.query["query"]
        if not query.endswith("s]"):
            return web.json_response(told_of([pod.pod for pod in pods]))
        matched = re.compile(re.findall(r'pod=~"([^"]+)"', query)[0])
        some = [pod.pod for pod in pods if matched.fullmatch(pod.pod)]
        asked.append(len(some))
        result = [
            {
                "metric": {"__name__": "http_requests_total", "pod": pod, "handler": "/v1/", "y": padding},
                "values": [[NOW.timestamp() - 100 + second, str(second)] for second in (0, 50, 100)],
            }
            for pod in some
        ]
        return web.json_response({"data": {"result": result}})

    async with serving(handler) as url:
        source = PrometheusSource("p", PrometheusConfig(url=url), lambda *_: pods)
        rate = await source.measure(SAMPLES, PLACE, NOW)
        await source.close()

    assert rate == pytest.approx(8 * 100 / 120, rel=0.3)
    assert len(asked) == asked_for
    assert sum(count for count in asked if count <= most) == 8


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
    histogram = ScrapedHistogram(buckets={0.1: 2.0, 0.5: 8.0, 1.0: 10.0, math.inf: 10.0}, sum=4, count=10)

    assert quantile(0.5, histogram) == pytest.approx(0.1 + 0.4 * (5 - 2) / 6)
    assert quantile(0.95, histogram) == pytest.approx(0.5 + 0.5 * (9.5 - 8) / 2)
    assert math.isnan(quantile(0.5, ScrapedHistogram(buckets={1.0: 0.0, math.inf: 0.0})))


def test_pods_with_other_bounds_are_added_on_the_common_ones():
    merged = ScrapedHistogram()
    one = [ScrapedHistogram(buckets={1.0: n, 2.0: n, math.inf: n}, sum=n, count=n) for n in (0.0, 4.0)]
    two = [ScrapedHistogram(buckets={2.0: n, 5.0: n, math.inf: n}, sum=n, count=n) for n in (0.0, 6.0)]
    add_increase(merged, one)
    add_increase(merged, two)

    assert merged.buckets == {2.0: 10.0, math.inf: 10.0}


LONG_LIST = "[" + ",".join("1" * 200) + "]"
EXPENSIVE = {
    "871 characters of nested literals": f"{LONG_LIST}.all(a, {LONG_LIST}.all(b, a == b || true)) || result < 1",
    "a comment between the dot and the macro": "result. // x\n".join(["", *["all(a, true) && result"] * 3])
    + " < 1",
    "two lists of macros in one": "result.map(a, result.map(b, result.filter(c, true))) == []",
    "macros of the library's own": "result.reduce(a, b, 0, result.reduce(c, d, 0, result.min() + c)) < 1",
    "a wide map": "{" + ",".join(f'"{n}": 1' for n in range(40)) + '}["1"] < result',
    "a ladder of conditionals": "result < 1 ? " * 30 + "true" + " : false" * 30,
    "a ladder of calls": "double(" * 30 + "result" + ")" * 30 + " < 1.0",
}


@pytest.mark.timed
@pytest.mark.parametrize("case", EXPENSIVE)
def test_what_would_cost_too_much_is_refused_by_its_syntax_tree(case):
    begun = time.process_time()

    assert condition_problem(EXPENSIVE[case])
    assert time.process_time() - begun < 0.5


@pytest.mark.parametrize(
    "text",
    [
        'result < 1.0 || "a.all(b.exists(c.map(" == ""',
        "result.all(r, r.value < 1.0) && result.exists(r, r.value > 0.0)",
        "result < 1.0 // .all( .map( .filter(\n|| false",
    ],
)
def test_what_only_looks_like_macros_is_none(text):
    assert condition_problem(text) is None


@pytest.mark.timed
@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("{{" * 50_000, []),
        ("{{args.a}} and {{ b }}", ["{{args.a}}", "{{ b }}"]),
        ("}} {{x", []),
        ("{{\n}}", ["{{\n}}"]),
    ],
)
def test_references_that_are_left_over_are_found_in_linear_time(text, want):
    begun = time.process_time()

    assert list(left_over(text)) == want
    assert time.process_time() - begun < 0.1


@given(
    st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
    st.integers(-(10**6), 10**6).map(str) | st.decimals(-1000, 1000, places=3).map(str),
    st.floats(-2000, 2000) | st.integers(-1000, 1000).map(float),
    st.sampled_from(["", " ", "  "]),
)
@settings(max_examples=150, deadline=None)
def test_a_plain_comparison_says_what_cel_says(compare, limit, value, space):
    text = f"{space}result{space}{compare}{space}{limit}"
    plain = plain_comparison(text)

    assert plain is not None
    assert plain(value) == evaluate(text, value)


@pytest.mark.parametrize(
    "text",
    [
        "result",
        "result < x",
        "result < 1 || true",
        "1 < result",
        "result < 1e5",
        "result<" + "1" * 16,
        "!result",
        "",
    ],
)
def test_what_is_more_than_a_plain_comparison_is_left_to_cel(text):
    assert plain_comparison(text) is None


async def test_a_source_with_an_enforced_label_asks_for_the_namespace_only():
    asked: list[str] = []

    def name(number: int) -> str:
        return f"mymodel-v2-7d9c6f5b8-{number:05d}"

    async def handler(request: web.Request) -> web.Response:
        asked.append((await request.post()).get("query") or request.query["query"])
        answers = told_of([name(number) for number in range(200)])
        for item in answers["data"]["result"]:
            item["metric"]["__name__"] = "vllm:time_to_first_token_seconds_bucket"
        return web.json_response(answers)

    app = web.Application()
    app.router.add_route("*", "/api/v1/query", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    pods = [ScrapeTarget(pod=name(number), ip="10.0.0.1", port=8000) for number in range(200)]
    source = PrometheusSource("p", PrometheusConfig(url=url, enforced_label="ns"), lambda *_: pods)
    place = Place(namespace="team-a", arm=ArmRef(kind="InferencePool", group="g", name="v1"))
    spec = MeasureSpec(kind=MeasureKind.PRESET, name="ttft", stat=Stat.P95, window=timedelta(minutes=2))
    try:
        await source.query("sum(rate(up[5m]))", NOW, "team-a")
        await source.measure(spec, place, NOW)
        await source.raw(frozenset({"vllm:e2e_request_latency_seconds"}), place, NOW)
        for query, namespace in (("up", ""), ("info(up)", "team-a")):
            with pytest.raises(QueryRefused):
                await source.query(query, NOW, namespace)
    finally:
        await source.close()
        await runner.cleanup()

    assert len(asked) == 1 + 2 + 13  # what there is, before a measure; raw samples in pages of 16 pods
    assert max(map(len, asked)) > 3_000
    for query in asked:
        assert query.count('ns="team-a"') == query.count("{") > 0
