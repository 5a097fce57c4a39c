"""The gRPC shell, driven over a real connection."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
import yaml
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rollouts.picker.core.objects import PoolName
from rollouts.picker.core.routing import Request, Router
from rollouts.picker.core.schedule import Scheduler
from rollouts.picker.credentials import self_signed_credentials, self_signed_pair
from rollouts.picker.datapath import DataPath
from rollouts.picker.filesource import FileSource, ObjectsUnreadable, load_objects
from rollouts.picker.main import Picker, PickerConfig
from rollouts.picker.metrics import PickerMetrics
from rollouts.picker.native_server import NativeServer
from rollouts.picker.server import PickerServer

BODY = b'{"model":"travelhelper","messages":[]}'


def write(path: Path, *objects: Any) -> None:
    path.write_text(yaml.safe_dump_all(objects))


BOTH: tuple[str, ...] = ()
"""Nothing to exchange: which path runs is said by ``PickerConfig``."""


@pytest.fixture
async def picker(tmp_path: Path, objects: Any, data_path: str) -> AsyncIterator[Picker]:
    file = tmp_path / "objects.yaml"
    write(file, objects.pool(), objects.pod("127.0.0.1"), objects.model({"v1": 50, "v2": 50}))
    config = PickerConfig(
        pools=(PoolName("default", "pool"),),
        objects=file,
        grpc_address="127.0.0.1:0",
        metrics_address="127.0.0.1:0",
        secure_serving=False,
        scrape=False,
        drain_grace=1.0,
        data_path=DataPath(data_path),
    )
    running = Picker(config)
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def channel(picker: Picker) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{picker.server.port}") as opened:
        yield opened


def request(body: bytes = BODY) -> list[Any]:
    head, tail = ext_proc.ProcessingRequest(), ext_proc.ProcessingRequest()
    head.request_headers.headers.headers.add(key=":path", raw_value=b"/v1/chat/completions")
    tail.request_body.body = body
    tail.request_body.end_of_stream = True
    return [head, tail]


async def exchange(channel: Any, messages: list[Any]) -> list[Any]:
    stream = external_processor_pb2_grpc.ExternalProcessorStub(channel).Process()
    for message in messages:
        await stream.write(message)
    return [reply async for reply in stream]


def body_of(replies: list[Any]) -> bytes:
    parts = [
        r.request_body.response.body_mutation.streamed_response for r in replies if r.HasField("request_body")
    ]
    return b"".join(part.body for part in parts)


async def test_a_request_is_routed_over_grpc(channel: Any) -> None:
    replies = await exchange(channel, request())

    assert [reply.WhichOneof("response") for reply in replies] == ["request_headers", "request_body"]
    assert body_of(replies) in (BODY.replace(b"travelhelper", name) for name in (b"v1", b"v2"))
    assert replies[0].dynamic_metadata["envoy.lb"]["x-gateway-destination-endpoint"] == "127.0.0.1:8000"


async def test_a_large_body_goes_through(channel: Any) -> None:
    body = b'{"prompt":"' + b"y" * 3_000_000 + b'","model":"travelhelper"}'
    head, tail = request(body)

    replies = await exchange(channel, [head, tail])

    assert len(body_of(replies)) == len(body) - len("travelhelper") + 2
    assert replies[-1].request_body.response.body_mutation.streamed_response.end_of_stream


async def test_a_message_out_of_place_ends_its_stream_alone(channel: Any, picker: Picker) -> None:
    stray = ext_proc.ProcessingRequest()
    stray.response_body.body = b"x"

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await exchange(channel, [stray])

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len(await exchange(channel, request())) == 2
    assert picker.server.failures == 0


async def test_a_bug_in_one_stream_never_touches_another(
    channel: Any, picker: Picker, data_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if data_path == "native":
        pytest.skip(
            "nothing can be planted from here: native/server/tests/serving.rs has a logic that panics"
        )
    route = picker.router.route

    def breaking(what: Request, now: float) -> Any:
        if what.model == "poison":
            raise RuntimeError("planted")
        return route(what, now)

    monkeypatch.setattr(picker.router, "route", breaking)
    good = [exchange(channel, request()) for _ in range(5)]
    bad = exchange(channel, request(b'{"model":"poison"}'))

    *replies, failure = await asyncio.gather(*good, bad, return_exceptions=True)

    assert [len(reply) for reply in replies if isinstance(reply, list)] == [2] * 5
    assert isinstance(failure, grpc.aio.AioRpcError)
    assert failure.code() is grpc.StatusCode.INTERNAL
    assert picker.server.failures == 1


def held(picker: Picker) -> int:
    """Bytes of request bodies."""
    server = picker.server
    return server._picker.held if isinstance(server, NativeServer) else server._budget.used


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the server under test has no event to wait for
            await asyncio.sleep(0.001)


async def test_a_client_reset_leaves_nothing_behind(channel: Any, picker: Picker) -> None:
    stub = external_processor_pb2_grpc.ExternalProcessorStub(channel)
    head, tail = request()
    tail.request_body.end_of_stream = False
    stream = stub.Process()
    await stream.write(head)
    await stream.write(tail)
    await until(lambda: held(picker) > 0)

    stream.cancel()

    await until(lambda: held(picker) == 0)
    assert picker.server.failures == 0


async def check(channel: Any, service: str) -> Any:
    stub = health_pb2_grpc.HealthStub(channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status


NAMES = ["", "liveness", "readiness", "inference-extension", "envoy.service.ext_proc.v3.ExternalProcessor"]


@pytest.mark.parametrize("service", NAMES)
async def test_health_has_every_name_that_probes_use(channel: Any, picker: Picker, service: str) -> None:
    await picker.settled()
    serving = await check(channel, service)

    await picker.server.set_ready(False)

    response = health_pb2.HealthCheckResponse
    assert serving == response.SERVING
    want = response.SERVING if service == "liveness" else response.NOT_SERVING
    assert await check(channel, service) == want


async def test_draining_lets_a_running_stream_finish(channel: Any, picker: Picker) -> None:
    head, tail = request()
    stream = external_processor_pb2_grpc.ExternalProcessorStub(channel).Process()
    await stream.write(head)
    await check(channel, "liveness")  # the picker has the stream by now

    draining = asyncio.create_task(picker.server.drain())
    await asyncio.sleep(0)
    await stream.write(tail)

    assert len([reply async for reply in stream]) == 2
    await draining


async def test_metrics_and_probes_over_http(channel: Any, picker: Picker) -> None:
    await exchange(channel, request())
    base = f"http://127.0.0.1:{picker.exposition.port}"
    async with aiohttp.ClientSession() as session:
        async with session.get(
            f"{base}/metrics", headers={"Accept": "application/openmetrics-text"}
        ) as answer:
            text = await answer.text()
            kind = answer.headers["Content-Type"]
        codes = []
        for path in ("/healthz", "/readyz"):
            async with session.get(base + path) as answer:
                codes.append(answer.status)
        picker.ready = False
        async with session.get(f"{base}/readyz") as answer:
            codes.append(answer.status)

    assert kind.startswith("application/openmetrics-text")
    assert 'inference_picker_requests_total{code="",model="travelhelper"' in text
    assert codes == [200, 200, 503]


async def test_tls_serves_new_certificates_when_the_files_change(
    tmp_path: Path, objects: Any, data_path: str
) -> None:
    def install(name: str) -> bytes:
        key, certificate = self_signed_pair(name)
        (tmp_path / "tls.key").write_bytes(key)
        (tmp_path / "tls.crt").write_bytes(certificate)
        return certificate

    async def connects(root: bytes, name: str) -> bool:
        options = [("grpc.ssl_target_name_override", name)]
        credentials = grpc.ssl_channel_credentials(root)
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as opened:
            try:
                await opened.unary_unary("/none/none")(b"", timeout=5)
            except grpc.aio.AioRpcError as error:
                return error.code() is grpc.StatusCode.UNIMPLEMENTED
            return False

    first = install("first.example")
    write(tmp_path / "objects.yaml", objects.pool())
    config = PickerConfig(
        pools=(), objects=tmp_path / "objects.yaml", grpc_address="127.0.0.1:0", metrics_address="127.0.0.1:0",
        certificates=tmp_path, scrape=False, drain_grace=0.0, data_path=DataPath(data_path),
    )  # fmt: skip
    running = Picker(config)
    await running.start()
    port = running.server.port
    try:
        before = await connects(first, "first.example")
        second = install("second.example")
        after = (await connects(second, "second.example"), await connects(first, "first.example"))
        (tmp_path / "tls.key").unlink()
        broken = await connects(second, "second.example")
    finally:
        await running.stop()

    assert (before, after, broken) == (True, (True, False), True)


class Seen:
    def __init__(self) -> None:
        self.states: list[list[Any]] = []

    def __call__(self, objects: list[Any]) -> None:
        self.states.append([obj["metadata"]["name"] for obj in objects])


async def test_a_folder_is_read_again_when_it_changes(tmp_path: Path, objects: Any) -> None:
    seen = Seen()
    write(
        tmp_path / "a.yaml", objects.pool(), {"kind": "PodList", "items": [objects.pod("10.0.0.1", name="p")]}
    )
    (tmp_path / "notes.txt").write_text("{")
    source = FileSource(tmp_path, seen)
    source.load()

    await source.poll()
    write(tmp_path / "b.yaml", objects.model({"v1": 1}, name="m"))
    await source.poll()
    (tmp_path / "b.yaml").write_text("a: [")
    await source.poll()
    (tmp_path / "b.yaml").unlink()
    await source.poll()

    assert seen.states == [["pool", "p"], ["pool", "p", "m"], ["pool", "p"]]


@pytest.mark.parametrize("content", ["a: [", "!!python/object/apply:os.system [x]", "\x00"])
def test_a_file_that_is_no_yaml_is_reported(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.yaml").write_text(content)

    with pytest.raises(ObjectsUnreadable, match=r"a\.yaml"):
        load_objects(tmp_path / "a.yaml")


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ObjectsUnreadable, match="check --objects"):
        FileSource(tmp_path / "nothing.yaml", Seen()).load()


async def test_a_request_that_does_not_end_is_told_and_its_memory_given_back(
    tmp_path: Path, objects: Any, data_path: str
) -> None:
    file = tmp_path / "objects.yaml"
    write(file, objects.pool(), objects.pod("127.0.0.1"), objects.model({"v1": 100}))
    addresses = {"grpc_address": "127.0.0.1:0", "metrics_address": "127.0.0.1:0"}
    config = PickerConfig(
        pools=(PoolName("default", "pool"),),
        objects=file,
        secure_serving=False,
        scrape=False,
        request_timeout=0.5,
        drain_grace=0.5,
        data_path=DataPath(data_path),
        **addresses,
    )
    running = Picker(config)
    await running.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{running.server.port}") as channel:
            head, tail = request()
            tail.request_body.end_of_stream = False
            silent = external_processor_pb2_grpc.ExternalProcessorStub(channel).Process()
            slow, whole = await asyncio.gather(
                exchange(channel, [head, tail]), exchange(channel, request()), return_exceptions=True
            )
            unsaid = await silent.read()
        used = held(running)
    finally:
        await running.stop()

    assert [reply.immediate_response.status.code for reply in slow] == [408]
    assert [reply.WhichOneof("response") for reply in whole] == ["request_headers", "request_body"]
    assert unsaid is grpc.aio.EOF or unsaid.WhichOneof("response") is None
    assert used == 0
    assert running.server.failures == 0


@pytest.mark.parametrize("known", [True, False])
async def test_with_an_authority_only_its_clients_may_connect(
    tmp_path: Path, objects: Any, known: bool, data_path: str
) -> None:
    file = tmp_path / "objects.yaml"
    write(file, objects.pool(), objects.pod("127.0.0.1"), objects.model({"v1": 100}))
    key, certificate = self_signed_pair("gateway")
    serving = self_signed_pair("localhost")
    (tmp_path / "ca.crt").write_bytes(certificate)
    for name, content in zip(("tls.key", "tls.crt"), serving, strict=True):
        (tmp_path / name).write_bytes(content)
    config = PickerConfig(
        pools=(PoolName("default", "pool"),),
        objects=file,
        grpc_address="127.0.0.1:0",
        metrics_address="127.0.0.1:0",
        scrape=False,
        drain_grace=0.5,
        certificates=tmp_path,
        client_ca=tmp_path / "ca.crt",
        data_path=DataPath(data_path),
    )
    running = Picker(config)
    await running.start()
    mine = (key, certificate) if known else (None, None)
    trust = grpc.ssl_channel_credentials(serving[1], *mine)
    try:
        async with grpc.aio.secure_channel(f"localhost:{running.server.port}", trust) as channel:
            answered = await asyncio.gather(exchange(channel, request()), return_exceptions=True)
    finally:
        await running.stop()

    assert isinstance(answered[0], list) is known
    if not known:
        assert isinstance(answered[0], grpc.aio.AioRpcError)


@pytest.mark.parametrize("content", [b"", b"no certificate"])
async def test_an_authority_that_is_none_ends_the_start(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ca.crt").write_bytes(content)

    with pytest.raises(OSError, match="no PEM certificate"):
        self_signed_credentials(tmp_path / "ca.crt")


def shim(**headers: str) -> list[Any]:
    """What NGINX Gateway Fabric sends: header names as Go spells them, no pseudo headers, the body in one piece."""
    head, tail = request()
    del head.request_headers.headers.headers[:]
    for name, value in {"Content-Type": "application/json", **headers}.items():
        head.request_headers.headers.headers.add(key=name, value=value)
    return [head, tail]


@pytest.mark.parametrize("sentence", ["a shim", "a proxy", "headers alone"])
async def test_a_peer_that_half_closes_gets_its_destination_and_is_no_abort(
    tmp_path: Path, picker: Picker, channel: Any, objects: Any, sentence: str
) -> None:
    raw = [objects.pool(), objects.pod("127.0.0.1"), objects.model({"v1": 50, "v2": 50})]
    picker.take([*raw, objects.rollout(analysis={"preset": "default"})])
    messages = shim(**({":method": "POST"} if sentence == "a proxy" else {}))
    stream = external_processor_pb2_grpc.ExternalProcessorStub(channel).Process()
    for message in messages[: 1 if sentence == "headers alone" else 2]:
        await stream.write(message)
    await stream.done_writing()

    replies = [reply async for reply in stream]

    assert (
        replies[0].request_headers.response.header_mutation.set_headers[0].header.raw_value
        == b"127.0.0.1:8000"
    )
    assert await stream.code() is grpc.StatusCode.OK
    text = picker.metrics.expose("text/plain")[0].decode()
    assert 'code="499"' not in text
    assert (
        len([line for line in text.splitlines() if line.startswith("inference_picker_requests_total{")]) == 1
    )
    assert picker.server.failures == 0


async def test_kept_streams_end_with_the_response(tmp_path: Path, objects: Any, data_path: str) -> None:
    """agentgateway answers 500 for a stream that ends before (agentgateway#3436)."""
    write(tmp_path / "objects.yaml", objects.pool(), objects.pod("127.0.0.1"), objects.model({"v2": 1}))
    config = PickerConfig(
        pools=(PoolName("default", "pool"),), objects=tmp_path / "objects.yaml", grpc_address="127.0.0.1:0",
        metrics_address="127.0.0.1:0", secure_serving=False, scrape=False, drain_grace=0.0, keep_streams=True,
        data_path=DataPath(data_path),
    )  # fmt: skip
    running = Picker(config)
    await running.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{running.server.port}") as opened:
            stream = external_processor_pb2_grpc.ExternalProcessorStub(opened).Process()
            for message in request():
                await stream.write(message)
            first = [await stream.read() for _ in range(2)]
            head, body = ext_proc.ProcessingRequest(), ext_proc.ProcessingRequest()
            head.response_headers.headers.headers.add(key=":status", raw_value=b"200")
            body.response_body.body, body.response_body.end_of_stream = b"answer", True
            await stream.write(head)
            await stream.write(body)
            rest = [await stream.read() for _ in range(2)]
            assert await stream.read() is grpc.aio.EOF
    finally:
        await running.stop()

    kinds = [reply.WhichOneof("response") for reply in (*first, *rest)]
    assert kinds == ["request_headers", "request_body", "response_headers", "response_body"]
    assert rest[1].response_body.response.body_mutation.streamed_response.body == b"answer"


class Talk:
    """What grpc.aio gives who serves a stream; notes who else has the last message when the next is asked for."""

    def __init__(self, *messages: bytes) -> None:
        self._messages = [bytearray(message) for message in messages]
        self._last: bytes | None = None
        self.held: list[int] = []

    async def read(self) -> Any:
        if self._last is not None:
            self.held.append(sys.getrefcount(self._last) - 2)
        self._last = bytes(self._messages.pop(0)) if self._messages else None
        return grpc.aio.EOF if self._last is None else self._last

    async def write(self, reply: bytes) -> None:
        pass


async def test_the_last_message_is_let_go_of_while_the_next_one_is_waited_for() -> None:
    head, tail = request()
    tail.request_body.end_of_stream = False
    stranger = ext_proc.ProcessingRequest()
    stranger.metadata_context.filter_metadata["x"].update({"y": "z" * 1000})
    talk = Talk(*(message.SerializeToString() for message in (head, tail, stranger)))
    router = Router(Scheduler())

    await PickerServer(router, PickerMetrics(router))._process(None, talk)

    assert talk.held == [0, 0, 0]
