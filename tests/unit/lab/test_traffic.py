"""The load generator: bounded, open loop, and right about who answered."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from rollouts.lab.processes import free_port
from rollouts.lab.traffic import Result, Traffic, TrafficSpec, TrafficWindow
from rollouts.lab.vllm.pod import SimulatedPod
from tests.kit.polling import eventually

StartPod = Callable[..., Awaitable[SimulatedPod]]


async def sent(spec: TrafficSpec) -> Traffic:
    traffic = Traffic(spec)
    traffic.start()
    await traffic.wait()
    return traffic


def result(**fields: Any) -> Result:
    return Result(**{"sent_at": 0.0, "seconds": 0.1, "first_byte_seconds": 0.1, "status": 200, **fields})


async def test_it_counts_pods_models_and_status(start_pod: StartPod) -> None:
    pod = await start_pod(name="one", adapters={"travel-helper-v1": "/v1"})
    spec = TrafficSpec(url=pod.url, model="travel-helper-v1", rate=400, seconds=0.3, max_tokens=2)
    window = (await sent(spec)).window(0)

    assert len(window) > 60
    assert {result.pod for result in window.results} == {"one"}
    assert window.by_model() == {"travel-helper-v1": len(window)}
    assert {result.status for result in window.results} == {200}
    assert 0 < window.quantile(0.5) <= window.quantile(0.99)


@pytest.mark.parametrize(("kind", "status"), [("500", 500), ("sse", 200)])
async def test_failures_are_failures_whatever_the_status(
    client: aiohttp.ClientSession, start_pod: StartPod, kind: str, status: int
) -> None:
    pod = await start_pod()
    async with client.post(f"{pod.url}/lab/knobs", json={"errors": 1, "errorKind": kind}) as answer:
        assert answer.status == 200
    window = (await sent(TrafficSpec(url=pod.url, rate=200, seconds=0.1, streamed=1.0))).window(0)

    assert {result.status for result in window.results} == {status}
    assert window.failed == len(window) > 0
    assert math.isnan(window.quantile(0.5))


async def test_no_server_is_a_failure_without_status() -> None:
    window = (await sent(TrafficSpec(url=f"http://127.0.0.1:{free_port()}", rate=100, seconds=0.1))).window(0)

    assert {result.status for result in window.results} == {0}
    assert window.failed == len(window) > 0


async def test_the_loop_is_open_a_slow_server_gets_as_many_requests(start_pod: StartPod) -> None:
    pod = await start_pod(speed=0.02)
    traffic = Traffic(TrafficSpec(url=pod.url, rate=200, seconds=0.4, max_tokens=1))
    traffic.start()
    assert pod.server is not None
    engine = pod.server.engine
    await eventually(lambda: engine.running_requests >= 40)
    await traffic.stop()

    assert traffic.skipped == 0


async def test_requests_in_flight_are_bounded(start_pod: StartPod) -> None:
    pod = await start_pod(speed=0.01)
    traffic = Traffic(TrafficSpec(url=pod.url, rate=500, seconds=0.3, max_in_flight=10))
    traffic.start()
    await eventually(lambda: traffic.skipped)
    await traffic.stop()

    assert not traffic.running
    assert len(traffic.window(0)) <= 10


async def test_sessions_are_named_in_the_header(start_pod: StartPod) -> None:
    pod = await start_pod()
    window = (await sent(TrafficSpec(url=pod.url, rate=300, seconds=0.3, sessions=3, max_tokens=1))).window(0)

    assert {item.session for item in window.results} == {"session-0", "session-1", "session-2"}


@pytest.mark.timed
async def test_a_window_has_what_was_sent_in_it(start_pod: StartPod) -> None:
    pod = await start_pod()
    traffic = await sent(TrafficSpec(url=pod.url, rate=300, seconds=0.2, max_tokens=1))
    times = sorted(item.sent_at for item in traffic.results)
    middle = times[len(times) // 2]

    assert len(traffic.window(middle)) + len(traffic.window(0, middle)) == len(times)
    assert all(item.sent_at >= middle for item in traffic.window(middle).results)
    assert len(traffic.window(time.monotonic())) == 0


def test_shares_are_of_answered_requests() -> None:
    window = TrafficWindow([*[result(pod="v1")] * 3, result(pod="v2"), result(status=0, failed=True)])

    assert window.share(lambda result: result.pod == "v2") == (1, 4)
    assert TrafficWindow([]).share(lambda result: True) == (0, 0)


@pytest.mark.parametrize("fields", [{"rate": 0}, {"rate": 1e6}, {"seconds": 0}, {"streamed": 2}])
def test_an_unbounded_load_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"bounded|share"):
        TrafficSpec(url="http://127.0.0.1:1", **fields)


async def test_a_stream_that_ends_before_its_last_event_was_cut() -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(b'data: {"choices": []}\n\n')
        return answer

    app = web.Application()
    app.router.add_post("/v1/chat/completions", cut)
    async with TestServer(app) as server:
        window = (
            await sent(TrafficSpec(url=str(server.make_url("")).rstrip("/"), rate=100, seconds=0.1))
        ).window(0)

    assert window.failed == len(window) > 0
    assert {result.error for result in window.results} == {"the stream ended early"}


async def test_to_finish_is_to_send_no_more_and_to_wait_for_answers(start_pod: StartPod) -> None:
    pod = await start_pod(speed=1.0)
    spec = TrafficSpec(url=pod.url, rate=100, seconds=600, streamed=1.0, max_tokens=60, ignore_eos=True)
    async with Traffic(spec) as traffic:
        assert pod.server is not None
        engine = pod.server.engine
        await eventually(lambda: engine.running_requests >= 5)
        await traffic.finish()

        assert not traffic.running
        assert engine.running_requests == 0
    assert traffic.window(0).failed == 0
    assert len(traffic.results) >= 5
