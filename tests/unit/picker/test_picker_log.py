"""What the operator reads in the log and on the metrics page of a picker's server, the same on both data paths."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import structlog
import yaml
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc

from rollouts.picker.core.objects import PoolName
from rollouts.picker.datapath import DataPath
from rollouts.picker.main import Picker, PickerConfig
from tests.kit.polling import eventually

BOTH: tuple[str, ...] = ()
"""Nothing to exchange: which path runs is said by ``PickerConfig``."""

Lines = list[dict[str, Any]]


@pytest.fixture
def lines() -> Any:
    """The log as the command writes it, line by line."""
    found: Lines = []

    def keep(_: Any, __: str, event: Any) -> str:
        found.append(event)
        raise structlog.DropEvent

    before = structlog.get_config()
    processors = [structlog.processors.add_log_level, structlog.processors.format_exc_info, keep]
    structlog.configure(processors=processors, cache_logger_on_first_use=False)
    yield found
    structlog.configure(**before)


@pytest.fixture
def serve(tmp_path: Path, objects: Any, data_path: str) -> Callable[..., Any]:
    @asynccontextmanager
    async def serving(**options: Any) -> AsyncIterator[tuple[Picker, Any]]:
        file = tmp_path / "objects.yaml"
        file.write_text(
            yaml.safe_dump_all([objects.pool(), objects.pod("127.0.0.1"), objects.model({"v1": 1})])
        )
        config = PickerConfig(
            pools=(PoolName("default", "pool"),), objects=file, grpc_address="127.0.0.1:0",
            metrics_address="127.0.0.1:0", secure_serving=False, scrape=False, data_path=DataPath(data_path),
            **{"drain_grace": 2.0, **options},
        )  # fmt: skip
        picker = Picker(config)
        await picker.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{picker.server.port}") as channel:
                yield picker, external_processor_pb2_grpc.ExternalProcessorStub(channel).Process
        finally:
            await picker.stop()

    return serving


def headers() -> Any:
    message = ext_proc.ProcessingRequest()
    message.request_headers.headers.headers.add(key=":path", raw_value=b"/v1/chat/completions")
    return message


def stray() -> Any:
    message = ext_proc.ProcessingRequest()
    message.response_body.body = b"x"
    return message


def named(lines: Lines, name: str) -> Lines:
    return [
        {key: value for key, value in line.items() if key != "event"}
        for line in lines
        if line["event"] == name
    ]


async def test_a_request_that_was_not_complete_in_time_is_told_with_its_state(
    serve: Any, lines: Lines
) -> None:
    async with serve(request_timeout=0.2) as (_, process):
        stream = process()
        await stream.write(headers())
        assert [reply.immediate_response.status.code async for reply in stream] == [408]

    told = {"level": "info", "state": "REQUEST_BODY", "seconds": 0.2}
    assert named(lines, "request_timed_out") == [told]


@pytest.mark.parametrize("late", [False, True])
async def test_a_message_out_of_place_is_told_with_the_state_that_it_came_in(
    serve: Any, lines: Lines, late: bool
) -> None:
    async with serve() as (_, process):
        stream = process()
        for message in [headers(), stray()] if late else [stray()]:
            await stream.write(message)
        assert await stream.code() is grpc.StatusCode.INVALID_ARGUMENT
        text = await stream.details()

    told = {"level": "warning", "state": "REQUEST_BODY" if late else "START", "error": text}
    assert named(lines, "stream_refused") == [told]


async def test_a_bug_is_one_line_with_its_state_and_place_and_is_counted(
    serve: Any, lines: Lines, data_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if data_path == "native":
        import inference_rollouts_native as native

        def failing(_: Any, address: str, *, now: float, **__: Any) -> Any:
            return native.serve_failing(address, now=now)

        monkeypatch.setattr(native, "serve", failing)

    async with serve() as (picker, process):

        def planted(*_: Any, **__: Any) -> Any:
            raise RuntimeError("planted")

        if data_path == "python":
            monkeypatch.setattr("rollouts.picker.server.Exchange.receive", planted)
        for _ in range(2):
            stream = process()
            await stream.write(headers())
            assert await stream.code() is grpc.StatusCode.INTERNAL
        page = picker.metrics.expose("")[0].decode()

    told = named(lines, "stream_failed")
    assert [(line["level"], line["state"], sorted(line)) for line in told] == [
        ("error", "START", ["exception", "level", "state"])
    ] * 2
    assert all("planted" in line["exception"] for line in told)
    assert "inference_picker_failures_total 2.0" in page
    assert named(lines, "panicked") == []


async def test_a_drain_is_told_when_it_begins_and_when_it_is_over(serve: Any, lines: Lines) -> None:
    async with serve() as (picker, process):
        stream = process()
        await stream.write(headers())
        await eventually(lambda: picker.server.figures().streams == 1)
        stopping = asyncio.create_task(picker.stop())
        await eventually(lambda: named(lines, "picker_draining"))
        assert named(lines, "picker_drained") == []
        stream.cancel()
        await stopping
        drained = list(lines)

    assert named(drained, "picker_draining") == [{"level": "info", "streams": 1, "seconds": 2.0}]
    (over,) = named(drained, "picker_drained")
    assert (over["level"], sorted(over)) == ("info", ["level", "seconds"])
    assert 0 <= over["seconds"] < 2.0


async def test_what_is_logged_while_it_drains_does_not_wait_for_the_end(serve: Any, lines: Lines) -> None:
    async with serve(drain_grace=20.0) as (picker, process):
        first, second = process(), process()
        for stream in (first, second):
            await stream.write(headers())
        await eventually(lambda: picker.server.figures().streams == 2)
        stopping = asyncio.create_task(picker.stop())
        await eventually(lambda: named(lines, "picker_draining"))
        await first.write(stray())
        await eventually(lambda: named(lines, "stream_refused"), timeout=5)
        assert not stopping.done()
        second.cancel()
        await stopping


async def test_lines_that_are_lost_in_a_flood_are_counted_and_told(
    serve: Any, lines: Lines, data_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rollouts.picker.native_server._EVENTS_EVERY", 3_600.0)  # nobody looks in between
    count, kept = 1_050, 1_000 if data_path == "native" else 1_050

    async with serve() as (picker, process):

        async def stream() -> None:
            one = process()
            await one.write(stray())
            await one.code()

        for _ in range(count // 50):
            await asyncio.gather(*(stream() for _ in range(50)))
        page = picker.metrics.expose("")[0].decode()

    assert len(named(lines, "stream_refused")) == kept
    lost = count - kept
    assert f"inference_picker_log_events_dropped_total {lost}.0" in page
    told = [{"level": "warning", "count": lost}] if lost else []
    assert named(lines, "log_events_dropped") == told


def families(page: str) -> dict[str, str]:
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))


async def test_the_page_has_the_families_of_the_server(serve: Any, data_path: str) -> None:
    async with serve(health_address="127.0.0.1:0") as (picker, process):
        stream = process()
        await stream.write(headers())
        await eventually(lambda: picker.server.figures().streams == 1)
        page = picker.metrics.expose("")[0].decode()
        stream.cancel()

    kinds = families(page)
    assert {
        name: kind
        for name, kind in kinds.items()
        if re.search("connections|streams|failures|log_events", name)
    } == {
        "inference_picker_streams": "gauge",
        "inference_picker_failures_total": "counter",
        "inference_picker_log_events_dropped_total": "counter",
        "inference_picker_connections": "gauge",
        "inference_picker_connections_limit": "gauge",
        "inference_picker_connections_closed_total": "counter",
    }
    assert "inference_picker_streams 1.0" in page
    assert "inference_picker_log_events_dropped_total 0.0" in page
    seen = [line for line in page.splitlines() if line.startswith("inference_picker_connections{")]
    if data_path == "python":
        assert seen == []  # grpc.aio does not tell
        return
    assert seen == [
        'inference_picker_connections{port="grpc"} 1.0',
        'inference_picker_connections{port="health"} 0.0',
    ]
    assert 'inference_picker_connections_limit{port="grpc"} 256.0' in page
    assert 'inference_picker_connections_limit{port="health"} 256.0' in page
    assert 'inference_picker_connections_closed_total{port="grpc",reason="full"} 0.0' in page
