"""`python -m benchmarks.choices`: what we wrote ourselves against the kept library, on the same input.

Figures of docs/design-notes.md, "What is built and what is bought": CPU time of this process, the best of five rounds;
the start of a server is time on the wall.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from kubernetes.aio.client import ApiClient
from prometheus_client.parser import text_string_to_metric_families

from rollouts.analysis.exposition import ExpositionError, parse_exposition
from rollouts.lab.controlplane import Choice, ControlPlane
from rollouts.lab.loopback import loopback
from rollouts.lab.vllm.pod import Fleet
from rollouts.lab.vllm.spec import PodSpec
from rollouts.picker.core.encoding import encode
from rollouts.picker.core.messages import BodyReply, Side
from rollouts.picker.core.wire import decode

_NAMES = (
    "vllm:time_to_first_token_seconds",
    "vllm:time_per_output_token_seconds",
    "vllm:request_success_total",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
)
_PODS = 1_000


def _cost(call: Callable[[], object], times: int) -> float:
    """CPU seconds of one call."""
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        for _ in range(times):
            call()
        best = min(best, (time.process_time() - began) / times)
    return best


def _say(what: str, ours: float, theirs: float, unit: str = "us") -> None:
    scale = {"us": 1e6, "ms": 1e3, "s": 1.0}[unit]
    print(
        f"{what}: ours {ours * scale:.3g} {unit}, library {theirs * scale:.3g} {unit}, {theirs / ours:.1f} times"
    )


async def _page() -> bytes:
    pod = PodSpec(name="p", address=loopback(12, 1))
    async with Fleet([pod]) as fleet, aiohttp.ClientSession() as session:
        answer = await session.get(f"{fleet.pods['p'].url}/metrics")
        return await answer.read()


def _ours(page: bytes) -> None:
    try:
        parse_exposition(page, _NAMES)
    except ExpositionError:
        return


def _theirs(page: bytes) -> None:
    try:
        found = {family.name: family for family in text_string_to_metric_families(page.decode())}
    except ValueError:
        return
    assert found


def exposition() -> None:
    """A vLLM pod's page, and a line of an attacker: backslashes in a label that never ends."""
    page = asyncio.run(_page())
    hostile = b'vllm:num_requests_running{a="' + b"\\" * 60_000 + b"\n"
    for what, text in ((f"a page of {len(page) // 1024} KiB", page), ("a hostile line of 60 KB", hostile)):
        _say(what, _cost(lambda text=text: _ours(text), 5), _cost(lambda text=text: _theirs(text), 5), "ms")


def codec() -> None:
    """The messages of which a request has most: its headers in, then chunks of body in and out again.

    A chunk of 250 bytes is an event of a streamed answer, one of 64 KiB is of a long prompt.
    """
    head = ext_proc.ProcessingRequest()
    for number in range(20):
        head.request_headers.headers.headers.add(key=f"x-header-{number}", raw_value=b"what it says")

    def read_head(data: bytes) -> list[tuple[str, bytes]]:
        message = ext_proc.ProcessingRequest.FromString(data)
        return [(item.key, item.raw_value) for item in message.request_headers.headers.headers]

    def read_chunk(data: bytes) -> bytes:
        return bytes(ext_proc.ProcessingRequest.FromString(data).request_body.body)

    def write_chunk(body: bytes) -> bytes:
        reply = ext_proc.ProcessingResponse()
        reply.request_body.response.body_mutation.streamed_response.body = body
        return bytes(reply.SerializeToString())

    heads, parse = head.SerializeToString(), ext_proc.ProcessingResponse.FromString
    _say("20 headers in", _cost(lambda: decode(heads), 2_000), _cost(lambda: read_head(heads), 2_000))
    for size in (250, 65_536):
        body = b"x" * size
        answer = BodyReply(Side.REQUEST, body, False)
        assert parse(encode(answer)) == parse(write_chunk(body))
        message = ext_proc.ProcessingRequest()
        message.request_body.body = body
        data = message.SerializeToString()
        _say(
            f"a chunk of {size} bytes in and out",
            _cost(lambda data=data, answer=answer: (decode(data), encode(answer)), 2_000),
            _cost(lambda data=data, body=body: (read_chunk(data), write_chunk(body)), 2_000),
        )


def transport() -> None:
    """A page of 1,000 Pods from bytes to what a cache holds: raw maps, or the client's models."""
    pod: dict[str, Any] = {
        "metadata": {"name": "p", "namespace": "n", "labels": {f"l{i}": "v" for i in range(8)}},
        "spec": {"containers": [{"name": "vllm", "image": "vllm", "ports": [{"containerPort": 8000}]}]},
        "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    }
    body = json.dumps({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [pod] * _PODS})
    client = ApiClient.__new__(ApiClient)

    class _Answer:
        data = body

    _say(
        f"{_PODS} Pods",
        _cost(lambda: json.loads(body), 3),
        _cost(lambda: client._ApiClient__deserialize(json.loads(body), "V1PodList"), 1),
        "ms",
    )


async def _start(choice: Choice) -> float:
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        async with ControlPlane(Path(folder), choice=choice, say=lambda _: None):
            return time.monotonic() - began


def server() -> None:
    """Until an API server answers; the real one is built already."""
    _say(
        "an API server's start",
        min(asyncio.run(_start(Choice.MEMORY)) for _ in range(3)),
        min(asyncio.run(_start(Choice.REAL)) for _ in range(3)),
        "s",
    )


if __name__ == "__main__":
    exposition()
    codec()
    transport()
    server()
