"""The kit passes our picker, and fails pickers with the defects that it is there to find."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import yaml
from click.testing import CliRunner
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc

from rollouts.picker.command import picker_check
from rollouts.picker.conformance.cases import load_cases
from rollouts.picker.conformance.report import check_picker
from rollouts.picker.core.objects import PoolName
from rollouts.picker.datapath import DataPath
from rollouts.picker.main import Picker, PickerConfig

BOTH: tuple[str, ...] = ()
"""Nothing to exchange: which path runs is said by ``PickerConfig``."""


@asynccontextmanager
async def serving(
    tmp_path: Path, *raw: Any, secure: bool = False, data_path: str = "python"
) -> AsyncIterator[int]:
    (tmp_path / "objects.yaml").write_text(yaml.safe_dump_all(raw))
    config = PickerConfig(
        pools=(PoolName("default", "pool"),),
        objects=tmp_path / "objects.yaml",
        grpc_address="127.0.0.1:0",
        metrics_address="127.0.0.1:0",
        secure_serving=secure,
        scrape=False,
        drain_grace=0.0,
        data_path=DataPath(data_path),
    )
    picker = Picker(config)
    await picker.start()
    try:
        yield picker.server.port
    finally:
        await picker.stop()


@pytest.mark.parametrize("sentence", ["unmeasured", "measured", "over TLS", "variants"])
async def test_our_picker_does_everything_right(
    tmp_path: Path, objects: Any, sentence: str, data_path: str
) -> None:
    raw = [objects.pool(), objects.pod("127.0.0.1"), objects.model({"v1": 50, "v2": 50})]
    if sentence == "measured":
        raw.append(objects.rollout(analysis={"preset": "default"}))
    if sentence == "variants":
        raw[1:] = [objects.variant_pod("127.0.0.1", "v1"), objects.variant_pod("127.0.0.2", "v2")]
        raw.append(objects.pool_split({"v1": 1, "v2": 1}, models={"v1": "m-1", "v2": "m-2"}))
    secure = sentence == "over TLS"
    async with serving(tmp_path, *raw, secure=secure, data_path=data_path) as port:
        results = await check_picker(f"127.0.0.1:{port}", model="travelhelper", tls=secure)

    assert {result.name: result.problem for result in results if result.problem} == {}
    assert len(results) >= 20


def head(value: str = "127.0.0.1:8000", metadata: str | None = None) -> Any:
    reply = ext_proc.ProcessingResponse()
    option = reply.request_headers.response.header_mutation.set_headers.add()
    option.header.key, option.header.raw_value = "x-gateway-destination-endpoint", value.encode()
    reply.dynamic_metadata.update({"envoy.lb": {"x-gateway-destination-endpoint": metadata or value}})
    return reply


def tail(body: bytes) -> Any:
    reply = ext_proc.ProcessingResponse()
    streamed = reply.request_body.response.body_mutation.streamed_response
    streamed.body, streamed.end_of_stream = body, True
    return reply


def unstreamed() -> Any:
    reply = ext_proc.ProcessingResponse()
    reply.request_body.response.SetInParent()
    return reply


def refused(code: int) -> Any:
    reply = ext_proc.ProcessingResponse()
    reply.immediate_response.status.code = code
    return reply


DEFECTS: dict[str, tuple[Callable[[bytes], list[Any]], str, str]] = {
    "answers differ between header and metadata": (
        lambda body: [head(metadata="127.0.0.2:8000"), tail(body)], "routes a request", "dynamic metadata",
    ),
    "a host name for an address": (lambda body: [head("pod:8000"), tail(body)], "routes a request", "not IP:port"),
    "IPv6 without brackets": (lambda body: [head("::1:8000"), tail(body)], "routes a request", "brackets"),
    "no destination": (lambda body: [head(""), tail(body)], "routes a request", "no header"),
    "the body before the headers": (lambda body: [tail(body), head()], "routes a request", "not request_headers"),
    "keys sorted again": (
        lambda body: [head(), tail(body.replace(b'"z": 1,', b""))],
        "keeps every other byte of the body",
        "more than the model changed",
    ),
    "another value changes": (
        lambda body: [head(), tail(body.replace(b'"hi"', b'"ho"'))], "routes a request", "more than the model changed",
    ),
    "the model is gone": (lambda body: [head(), tail(b"{}")], "routes a request", "the body has no model"),
    "the body is cut off": (lambda body: [head(), tail(body[:-1])], "routes a request", "not the JSON that was sent"),
    "the body is not streamed": (lambda body: [head(), unstreamed()], "routes a request", "takes for spurious"),
    "one huge piece": (lambda body: [head(), tail(body)], "sends large bodies in small pieces", "a piece of"),
    "bad JSON is routed": (lambda body: [head(), tail(body)], "400 for a body that is not JSON", "not immediate"),
    "a second end is answered again": (
        lambda body: [head(), tail(body)], "survives a repeated end of the body", "nothing asked for",
    ),
    "gzip is taken for broken JSON": (
        lambda body: [refused(400)], "reads or refuses a body with gzip", "refused with 400",
    ),
    "a form changes beside its model": (
        lambda body: [head(), tail(body.replace(b"RIFF", b""))],
        "routes speech to text by the field of its form",
        "more than the model changed",
    ),
    "a body that is no JSON changes": (
        lambda body: [head(), tail(body + b"x")],
        "passes on a body that is not JSON and is not said to be",
        "the body changed",
    ),
    "an upgrade waits for a body": (lambda body: [head()], "routes an upgrade at its headers", "no reply within"),
}  # fmt: skip


class Broken(external_processor_pb2_grpc.ExternalProcessorServicer):  # type: ignore[misc]  # no types
    """Answers each end of a body as the defect says."""

    def __init__(self, answer: Callable[[bytes], list[Any]]) -> None:
        self._answer = answer

    async def Process(self, request_iterator: Any, context: Any) -> Any:
        body = b""
        async for request in request_iterator:
            body += request.request_body.body
            if request.request_body.end_of_stream:
                for reply in self._answer(body):
                    yield reply


@pytest.mark.parametrize("defect", DEFECTS)
async def test_a_defect_is_found(defect: str) -> None:
    answer, name, want = DEFECTS[defect]
    server = grpc.aio.server()
    external_processor_pb2_grpc.add_ExternalProcessorServicer_to_server(Broken(answer), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    cases = [case for case in load_cases() if case.name == name]
    try:
        results = await check_picker(f"127.0.0.1:{port}", model="m", timeout=1.0, cases=cases)
    finally:
        await server.stop(None)

    assert want in results[0].problem


async def test_json_written_anew_is_wrong_only_where_bytes_matter() -> None:
    def anew(body: bytes) -> list[Any]:
        return [head(), tail(json.dumps(json.loads(body), sort_keys=True).encode())]

    server = grpc.aio.server()
    external_processor_pb2_grpc.add_ExternalProcessorServicer_to_server(Broken(anew), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    names = ("routes a request", "keeps every other byte of the body")
    cases = [case for case in load_cases() if case.name in names]
    try:
        results = await check_picker(f"127.0.0.1:{port}", model="m", timeout=1.0, cases=cases)
    finally:
        await server.stop(None)

    assert {result.name: result.passed for result in results} == dict(zip(names, (True, False), strict=True))


def test_every_case_names_its_reason_and_its_source() -> None:
    cases = load_cases()

    assert len({case.name for case in cases}) == len(cases)
    assert all(case.reason and case.source and case.steps for case in cases)


def test_the_command_says_that_nothing_listens() -> None:
    result = CliRunner().invoke(picker_check, ["127.0.0.1:1"])

    assert result.exit_code == 1
    assert "cannot reach 127.0.0.1:1" in result.output
