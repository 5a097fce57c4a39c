"""Thousands of connections that say nothing, or not enough, keep no gateway out and take no memory, natively."""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import grpc
import grpc.aio
import pytest

pytest.importorskip(
    "inference_rollouts_native",
    reason="the native data path is not built here: `make setup` does it where cargo is",
)

from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.picker.serving import Running, memory, running
from tests.kit.polling import eventually

LIMIT = 512 << 20
PLACES = {False: 256, True: 203}
"""For connections, of a picker with this limit: with TLS each holds more."""

CROWD = 2_000
DELAY = 2.0
"""Seconds that a new client may take in the crowd, on a machine that does other things as well."""

HALF_HELLO = b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc" + b"\x03\x03" + b"x" * 8_000
"""The first half of a record of 16 KiB with a ClientHello."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
"""With empty SETTINGS."""


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < CROWD + 500:
        pytest.skip(f"{hard} files may be open, which is too few for {CROWD} connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, CROWD + 500), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@asynccontextmanager
async def serving(*, secure: bool) -> AsyncIterator[Running]:
    with running("native", limit=LIMIT, secure=secure) as picker:

        async def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", picker.metrics_port)) == 0

        await eventually(listens, timeout=60, every=0.1)
        yield picker


@asynccontextmanager
async def crowd(port: int, said: bytes, count: int) -> AsyncIterator[None]:
    """So many connections that say this and no more; the picker may close them."""
    async with AsyncExitStack() as stack:
        for _ in range(count):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            await asyncio.get_running_loop().sock_connect(one, ("127.0.0.1", port))
            if said:
                one.send(said)
        yield


async def health(picker: Running, *, secure: bool) -> float:
    """Seconds until a client that connects now has an answer."""
    begun = time.perf_counter()
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", "inference-picker")]
    address = f"127.0.0.1:{picker.port}"
    if secure:
        pem = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", picker.port))
        begun = time.perf_counter()
        channel = grpc.aio.secure_channel(
            address, grpc.ssl_channel_credentials(pem.encode()), options=options
        )
    else:
        channel = grpc.aio.insecure_channel(address, options=options)
    async with channel:
        request = health_pb2.HealthCheckRequest(service="liveness")
        answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=20)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    return time.perf_counter() - begun


async def figures(picker: Running) -> dict[str, float]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{picker.metrics_port}/metrics") as answer,
    ):
        lines = [
            line for line in (await answer.text()).splitlines() if "inference_picker_connections" in line
        ]
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
    }


@pytest.mark.timed
@pytest.mark.parametrize(
    ("secure", "said"),
    [(False, b""), (True, b""), (True, HALF_HELLO), (False, PREFACE)],
    ids=["silent", "silent to TLS", "half a ClientHello", "a preface and no stream"],
)
async def test_a_crowd_that_calls_nothing_delays_no_new_client(secure: bool, said: bytes) -> None:
    async with serving(secure=secure) as picker:
        await health(picker, secure=secure)
        idle = memory(picker.pid, "VmRSS")
        async with crowd(picker.port, said, CROWD):
            took = [await health(picker, secure=secure) for _ in range(5)]
            found = await figures(picker)
        peak = memory(picker.pid, "VmHWM")

    assert max(took) < DELAY, took
    assert peak - idle < 64, (idle, peak)
    assert found['inference_picker_connections{port="grpc"}'] <= PLACES[secure] + 64
    assert found['inference_picker_connections_limit{port="grpc"}'] == PLACES[secure]
    assert found['inference_picker_connections_closed_total{port="grpc",reason="full"}'] == 0
    closed = {name: count for name, count in found.items() if "closed_total" in name and "grpc" in name}
    gone = [
        count
        for name, count in closed.items()
        if any(why in name for why in ("displaced", "silent", "slow_"))
    ]
    assert sum(gone) >= CROWD - PLACES[secure] - 64
