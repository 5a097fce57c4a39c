"""What a simulated pod loses, and how it counts it: as vLLM 0.32 does, measured on the program itself."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from rollouts.analysis.evidence.model import Arm, PodSample
from rollouts.analysis.exposition import parse_exposition
from rollouts.analysis.logical import wanted_of
from rollouts.analysis.offers import POD_OFFER
from rollouts.api.gates_file import parse_gates
from rollouts.lab.vllm.pod import SimulatedPod
from tests.kit.polling import eventually
from tests.unit.lab.conftest import StartPod

BODY = {
    "model": "mymodel",
    "max_tokens": 8,
    "ignore_eos": True,
    "messages": [{"role": "user", "content": "hi"}],
}
WANTED = wanted_of(parse_gates([{"name": "lost", "compare": {"preset": "lost-rate"}}]).spec)


async def read(client: aiohttp.ClientSession, pod: SimulatedPod) -> PodSample:
    async with client.get(f"{pod.url}/metrics") as response:
        page = parse_exposition(await response.read(), WANTED.raw_names(POD_OFFER))
    return WANTED.sample(page, POD_OFFER, Arm.CANARY, pod.spec.name, None)


async def knobs(client: aiohttp.ClientSession, pod: SimulatedPod, **changes: Any) -> None:
    async with client.post(f"{pod.url}/lab/knobs", json=changes) as response:
        assert response.status == 200


async def ask(client: aiohttp.ClientSession, pod: SimulatedPod, **more: Any) -> tuple[int, bytes]:
    async with client.post(f"{pod.url}/v1/chat/completions", json={**BODY, **more}) as response:
        return response.status, await response.read()


def lost(sample: PodSample) -> tuple[float, float]:
    return sample.counters["answered"] - sample.counters["finished"], sample.counters["answered"]


@pytest.mark.parametrize("stream", [False, True])
async def test_answered_requests_are_not_lost(
    client: aiohttp.ClientSession, start_pod: StartPod, stream: bool
):
    pod = await start_pod()

    await asyncio.gather(*(ask(client, pod, stream=stream) for _ in range(10)))

    assert lost(await read(client, pod)) == (0, 10)


@pytest.mark.parametrize("stream", [False, True])
async def test_clients_that_leave_a_hanging_pod_are_lost_under_2xx(
    client: aiohttp.ClientSession, start_pod: StartPod, stream: bool
):
    pod = await start_pod()
    await knobs(client, pod, hang="requests")

    asking = [asyncio.create_task(ask(client, pod, stream=stream)) for _ in range(5)]

    async def in_flight() -> bool:
        return (await read(client, pod)).gauges["in_flight"] == 5

    await eventually(in_flight)
    async with client.get(f"{pod.url}/health") as health:
        assert health.status == 200
    assert lost(await read(client, pod)) == (0, 0)
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)

    async def counted() -> bool:
        return lost(await read(client, pod)) == (5, 5)

    await eventually(counted)


async def test_a_stopped_engine_leaves_its_gauges_as_they_were(client, start_pod):
    pod = await start_pod()
    before = await read(client, pod)
    await knobs(client, pod, hang="engine")
    asking = asyncio.create_task(ask(client, pod))

    async def arrived() -> bool:
        assert pod.server is not None
        return pod.server.engine.running_requests == 1

    await eventually(arrived)
    assert (await read(client, pod)).gauges == before.gauges
    await knobs(client, pod, hang="off")
    assert (await asking)[0] == 200


async def test_refused_streams_are_200_and_an_error_event(client, start_pod):
    pod = await start_pod()
    await knobs(client, pod, refuse=1.0)

    streamed, plain = await ask(client, pod, stream=True), await ask(client, pod)

    assert (streamed[0], plain[0]) == (200, 503)
    events = [line for line in streamed[1].split(b"\n\n") if line]
    assert json.loads(events[0].removeprefix(b"data: "))["error"]["code"] == 503
    assert events[-1] == b"data: [DONE]"
    assert lost(await read(client, pod)) == (2, 2)


async def test_merged_and_empty_tokens_keep_text_and_usage(client, start_pod):
    pod = await start_pod()
    asked = {"stream": True, "max_tokens": 60, "stream_options": {"include_usage": True}}

    def read_stream(body: bytes) -> tuple[str, int, list[str]]:
        lines = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line.startswith(b"data: {")]
        events = [json.loads(line) for line in lines]
        texts = [
            e["choices"][0]["delta"]["content"]
            for e in events
            if e["choices"] and "content" in e["choices"][0]["delta"]
        ]
        return "".join(texts), events[-1]["usage"]["completion_tokens"], texts[1:]

    plain = read_stream((await ask(client, pod, **asked))[1])
    await knobs(client, pod, merge=0.3, emptyText=0.2)
    merged = read_stream((await ask(client, pod, **asked))[1])

    assert plain[1] == merged[1] == 60
    assert len(plain[2]) == 60
    assert len(merged[2]) < 55
    assert "" in merged[2]
