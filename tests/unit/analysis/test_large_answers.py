"""What an answer of samples may cost: work and bytes in proportion to it, threads and room of its own namespace."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from types import FrameType
from typing import Any

import pytest
from aiohttp import web

from rollouts.analysis.offers import PROMETHEUS_OFFER
from rollouts.analysis.types import ArmRef, Labelled, MeasureKind, MeasureSpec, Stat
from rollouts.sources import prometheus_server
from rollouts.sources.asking import _OWN_BYTES
from rollouts.sources.base import Place, ScrapeTarget, SourceUnavailable
from rollouts.sources.bounded_session import MAX_BYTES, PrometheusConfig
from rollouts.sources.large_answers import LargeAnswers
from rollouts.sources.prometheus import PrometheusSource
from rollouts.sources.prometheus_server import PrometheusServer
from rollouts.sources.prometheus_values import matrix
from rollouts.sources.promql import START_TIME, UP, PodSelection
from rollouts.sources.raw_windows import process_sums

END = 1_700_000_000.0
AT = datetime.fromtimestamp(END, UTC)
GAUGE = "vllm:num_requests_running"
TARGET = {"pod": "p", "namespace": "n", "job": "j", "instance": "10.0.0.1:8000"}
POD = ScrapeTarget(pod="p", ip="10.0.0.1", port=8000, started=END - 250)
WHERE = PodSelection(namespace="n", pod_label="pod", namespace_label="namespace", per_job=(("j", (POD,)),))


def shown(name: str, at: float, **labels: str) -> dict[str, Any]:
    return {"metric": {"__name__": name, **TARGET, **labels}, "values": [[at, "1"]]}


def own_stamps(count: int) -> list[dict[str, Any]]:
    """Series of a page that writes another moment to each of them: Prometheus takes it at its word."""
    return [shown(GAUGE, END - 200 + number / 1000, x=str(number)) for number in range(count)]


def own_targets(name: str, label: Callable[[int], str]) -> Callable[[int], list[dict[str, Any]]]:
    """A page that shows what is a server's own of each target."""
    return lambda count: [
        one
        for number in range(count)
        for at in (END - 200 + number / 1000,)
        for one in (shown(name, at, **{label(number): str(number)}), shown(GAUGE, at, x=str(number)))
    ]


PAGES: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    "stamps": own_stamps,
    "targets": own_targets(UP, lambda _: "x"),
    "labels of targets": own_targets(UP, lambda number: f"x{number}"),
    "starts": own_targets(START_TIME, lambda number: f"x{number}"),
    "one series": lambda count: [
        {
            "metric": {"__name__": GAUGE, **TARGET},
            "values": [[END - 200 + n / 1000, "1"] for n in range(count)],
        }
    ],
}


def gauge(page: list[dict[str, Any]]) -> list[list[Labelled]]:
    spec = MeasureSpec(kind=MeasureKind.GAUGE, name=GAUGE, stat=Stat.MEAN, window=timedelta(minutes=5))
    wanted = PROMETHEUS_OFFER.statistic(spec)
    return process_sums(wanted, 300.0, AT, WHERE, [POD], matrix(page, 50_000))


def worked(page: list[dict[str, Any]]) -> int:
    """Instructions that reading it takes."""
    count = 0

    def each(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return each

    before = sys.gettrace()
    sys.settrace(each)
    try:
        gauge(page)
    except SourceUnavailable:
        pass
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("page", PAGES)
def test_whatever_a_page_shows_is_read_by_work_in_proportion_to_it(page: str) -> None:
    few, many = worked(PAGES[page](100)), worked(PAGES[page](800))

    assert few > 100
    assert many < 10 * few


def test_series_of_moments_of_their_own_are_of_one_scraper() -> None:
    assert [item.value for sums in gauge(own_stamps(1000)) for item in sums] == [1000.0]


def test_more_sets_of_labels_than_scrapers_have_are_an_error_that_says_so() -> None:
    with pytest.raises(SourceUnavailable, match="more than 8 sets of labels of its target"):
        gauge(PAGES["targets"](9))


def test_samples_are_held_in_as_few_bytes_as_numbers_take() -> None:
    count = 50_000
    page = json.loads(json.dumps(PAGES["one series"](count)))
    tracemalloc.start()
    try:
        read = matrix(page, 1)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert len(read[0].times) == len(read[0].values) == count
    assert most < 40 * count


def test_a_sample_that_was_written_twice_counts_once() -> None:
    series = {"metric": {"__name__": "c"}, "values": [[1, "2"], [2, "5"], [2, "4"], [3, "6"], [3, "6"]]}

    (read,) = matrix([series], 1)

    assert (list(read.times), list(read.values)) == ([1, 2, 3], [2, 5, 6])


class Answering:
    """A server whose answers are as long as is asked for; and whoever reads them may be held up."""

    def __init__(self, url: str) -> None:
        config = PrometheusConfig(url=url, timeout=1.0)
        self.sent = Counter[str]()
        self.go_on = threading.Event()
        self._server = PrometheusServer("p", config)

    async def ask(self, namespace: str, size: int, *, held: bool) -> int:
        def read(data: Any) -> int:
            if held:
                self.go_on.wait(30)
            return len(data[0])

        def sending() -> None:
            self.sent[namespace] += 1

        return await self._server.ask(f"x{size}", AT, namespace, read, _OWN_BYTES, sending)

    async def close(self) -> None:
        self.go_on.set()
        await self._server.close()


@pytest.fixture
async def answering() -> AsyncIterator[Answering]:
    async def answer(request: web.Request) -> web.Response:
        size = int(request.query["query"][1:])
        return web.json_response({"status": "success", "data": {"result": ["x" * size]}})

    app = web.Application()
    app.router.add_get("/api/v1/query", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    asked = Answering(f"http://127.0.0.1:{runner.addresses[0][1]}")
    yield asked
    await asked.close()
    await runner.cleanup()


@pytest.mark.timed
async def test_a_thread_that_goes_on_after_the_deadline_is_still_its_namespaces(answering: Answering) -> None:
    greedy = [asyncio.create_task(answering.ask("greedy", 1, held=True)) for _ in range(6)]
    ended, waiting = await asyncio.wait(greedy, return_when=asyncio.FIRST_EXCEPTION)
    while len(ended) < 4:
        some, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        ended |= some

    assert {type(task.exception()) for task in ended} == {SourceUnavailable}
    assert [await answering.ask("modest", 1, held=False) for _ in range(5)] == [1] * 5
    assert (len(waiting), answering.sent) == (2, {"greedy": 4, "modest": 5})

    answering.go_on.set()
    assert await asyncio.gather(*waiting) == [1, 1]


@pytest.mark.timed
async def test_large_answers_are_few_in_the_process_and_one_of_a_namespace(
    answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus_server, "_LARGE", LargeAnswers(total=2, of_one=1))
    large, told = 2 * MAX_BYTES, list[str]()

    async def ask(namespace: str) -> None:
        try:
            await answering.ask(namespace, large, held=namespace != "late")
        except SourceUnavailable as error:
            told.append(str(error))

    await asyncio.gather(ask("a"), ask("a"), ask("b"), ask("c"))

    room = prometheus_server._LARGE
    assert len(told) == 4  # two that are held up, and two for which there is no room
    assert room._held.total() == 2
    assert set(room._held.values()) == {1}
    assert await answering.ask("a", 1, held=False) == 1

    answering.go_on.set()
    assert room.enter("late", 30)
    room.leave("late")
    assert await answering.ask("a", large, held=False) == large


@pytest.mark.parametrize(
    ("entered", "wants", "is_free"),
    [("", "a", True), ("a", "a", False), ("a", "b", True), ("ab", "c", False), ("ab", "a", False)],
)
def test_there_is_room_for_so_many_and_one_of_each(entered: str, wants: str, is_free: bool) -> None:
    room = LargeAnswers(total=2, of_one=1)
    assert all(room.enter(namespace, 0.0) for namespace in entered)

    assert room.enter(wants, 0.0) is is_free


async def test_samples_of_a_pod_alone_that_are_too_many_are_an_error_that_says_what_to_do() -> None:
    async def answer(request: web.Request) -> web.Response:
        query, stamp = request.query["query"], END
        if query.endswith("s]"):
            return web.json_response({"data": {"result": ["x" * _OWN_BYTES]}})
        labels = {**TARGET, "__name__": GAUGE}
        parts = [
            {"metric": {**labels, "is": part}, "value": [stamp, "1"]} for part in ("now0", "then0", "names0")
        ]
        return web.json_response({"data": {"result": parts}})

    app = web.Application()
    app.router.add_get("/api/v1/query", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    source = PrometheusSource("p", PrometheusConfig(url=url), lambda *_: [POD])
    spec = MeasureSpec(kind=MeasureKind.GAUGE, name=GAUGE, stat=Stat.MEAN, window=timedelta(minutes=2))

    with pytest.raises(SourceUnavailable, match=r"of pod p alone.* shorter window"):
        await source.measure(
            spec, Place(namespace="n", arm=ArmRef(kind="InferencePool", group="g", name="c")), AT
        )
    await source.close()
    await runner.cleanup()
