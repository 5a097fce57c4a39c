"""What streams hold is what is counted, on both data paths, and no request is lost to a count on the native one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip(
    "inference_rollouts_native",
    reason="the native data path is not built here: `make setup` does it where cargo is",
)

import inference_rollouts_native as native
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from rollouts.picker.core.endpoints import Endpoint
from rollouts.picker.core.objects import Snapshot
from rollouts.picker.core.ports import BufferBudget
from rollouts.picker.core.protocol import Exchange, State
from rollouts.picker.core.routing import Refusal, Request, Router, Unready
from rollouts.picker.core.schedule import Load, Scheduler
from rollouts.picker.core.wire import decode
from rollouts.picker.metrics import PickerMetrics
from rollouts.picker.native import MirrorRouter, NativeMetrics, native_picker

POD = Endpoint("10.0.0.1:8000", "10.0.0.1", 8000, "pod-0", "pool")


def _resident() -> int:
    fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * 4096


def _head(lines: int = 0, metadata: int = 0) -> bytes:
    message = ext_proc.ProcessingRequest()
    message.request_headers.headers.headers.add(key=":method", raw_value=b"POST")
    for _ in range(lines):
        message.request_headers.headers.headers.add(key="h", raw_value=b"v")
    if metadata:
        message.metadata_context.filter_metadata["x"].update({"y": "z" * metadata})
    message.protocol_config.request_body_mode = 4
    message.protocol_config.response_body_mode = 4
    return message.SerializeToString()


def _stream(head: bytes) -> tuple[Any, Any]:
    budget = native.Budget()
    exchange = native.Exchange(_picker(), budget, keep=False, variant_header=b"")
    exchange.receive(head, 0.0)
    return exchange, budget


def _picker() -> Any:
    return native_picker(
        unready=Unready.SPILL,
        restore_model=False,
        budget=BufferBudget(),
        keep_streams=False,
        variant_header="",
    )


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_a_body_in_chunks_of_one_byte_takes_about_what_is_counted() -> None:
    exchange, budget = _stream(_head())
    headers = budget.used
    exchange.receive(b"\x22\x03\x0a\x01{", 0.0)
    before = _resident()

    for _ in range(400_000):
        exchange.receive(b"\x22\x03\x0a\x01 ", 0.0)

    assert budget.used == headers + 400_001
    assert _resident() - before < 8 << 20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_headers_do_not_keep_the_message_that_they_came_in() -> None:
    head = _head(metadata=4 << 20)
    before = _resident()

    streams = [_stream(head) for _ in range(10)]

    assert all(exchange.state == "REQUEST_BODY" for exchange, _ in streams)
    assert _resident() - before < 20 << 20


_READ_ALONE = """
import resource, sys
import inference_rollouts_native as native
lines = b"\\x0a\\x00" * 4_000_000  # what has no :method may have names in any case
def varint(size):
    found = []
    while size > 127:
        found.append(size & 127 | 128)
        size >>= 7
    return bytes([*found, size])
headers = b"\\x0a" + varint(len(lines)) + lines
message = b"\\x12" + varint(len(headers)) + headers
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = native.bytes_door.decode(message)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, found[5])
"""


def test_headers_without_an_end_take_no_more_than_their_message_while_they_are_read() -> None:
    run = subprocess.run([sys.executable, "-c", _READ_ALONE], capture_output=True, text=True, check=True)

    grown, too_large = run.stdout.split()
    assert too_large == "True"
    assert int(grown) < 24 << 10  # KiB: a copy of the message and what the interpreter takes; it was 264 MiB


def _large(shape: str) -> bytes:
    """The first message of a request with as much in its headers, or its hint, as is taken."""
    message = ext_proc.ProcessingRequest.FromString(_head())
    listed = message.request_headers.headers.headers
    if shape == "one long line":
        listed.add(key="x", raw_value=b"x" * 250_000)
    elif shape == "cookies":
        for _ in range(2):
            listed.add(key="cookie", raw_value=b"x" * 120_000)
    elif shape == "short lines":
        for number in range(6_000):
            listed.add(key=f"x{number}", raw_value=b"%d" % (number % 1000))
    elif shape == "the same line":
        for _ in range(6_000):
            listed.add(key="x", raw_value=b"x")
    else:
        key = "x-gateway-destination-endpoint-subset"
        short = [f"{number}" for number in range(6_000)]
        message.metadata_context.filter_metadata["envoy.lb.subset_hint"].update({key: short})
    return message.SerializeToString()


def _waiting(path: str, message: bytes, budget: Any) -> Any:
    """A stream that waits for a body; what it holds."""
    if path == "native":
        exchange = native.Exchange(_picker(), budget, keep=False, variant_header=b"")
        exchange.receive(message, 0.0)
        assert exchange.state == "REQUEST_BODY"
        return exchange
    router = Router(Scheduler())
    stream = Exchange(router, PickerMetrics(router), budget)
    incoming = decode(message)
    assert incoming is not None
    assert list(stream.receive(incoming, 0.0)) == []
    assert stream.state is State.REQUEST_BODY
    return stream


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
@pytest.mark.parametrize("shape", ["one long line", "cookies", "short lines", "the same line", "a hint"])
@pytest.mark.parametrize("path", ["python", "native"])
def test_headers_that_wait_for_a_body_take_about_what_is_counted(path: str, shape: str) -> None:
    budget = native.Budget() if path == "native" else BufferBudget()
    message = _large(shape)
    streams = [_waiting(path, message, budget)]  # what is made once is made
    before, counted = _resident(), budget.used

    streams += [_waiting(path, message, budget) for _ in range(60)]

    counted = budget.used - counted
    assert counted >= 60 * 30_000
    assert _resident() - before < counted * 1.25 + (6 << 20)
    for stream in streams:
        stream.disconnect(1.0)
    assert budget.used == 0


def test_a_request_that_comes_while_a_page_is_read_stays_counted() -> None:
    picker = _picker()
    router = MirrorRouter(picker)
    router.update(Snapshot(endpoints=(POD,)), 0.0, 1.8e9)
    ask = Request({}, "m", has_body=True)
    picker.route(ask, 1.0)
    before = router.scheduler.dispatched(POD.address)
    picker.route(ask, 1.0)  # while the pod answers
    picker.route(ask, 1.0)  # after the answer was looked at, before it is taken over

    router.scheduler.observe(POD.address, Load(running=1), 2.0, before=before)

    assert router.scheduler.dispatched(POD.address) == 2
    assert router.scheduler.busy(POD.address)


def test_both_pages_have_the_same_families() -> None:
    picker = _picker()
    router = MirrorRouter(picker)
    python = PickerMetrics(Router(Scheduler()))
    python.refused(Refusal(503, "rejected-no-endpoints", "no pod"))
    pages = [
        page.expose("application/openmetrics-text")[0].decode()
        for page in (python, NativeMetrics(router, picker, lambda: True))
    ]

    families = [
        {line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")} for page in pages
    ]
    assert families[0] == families[1]
    assert "inference_picker_requests_total{" in pages[0]
    assert "_created" not in "".join(pages)
