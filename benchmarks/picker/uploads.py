"""Open streams and unfinished uploads: ``python -m benchmarks.picker.uploads [--data-path native]``; their memory.

Ten clients send 60 MB each to a picker with a limit of 512 MiB, all but the end, and hold their streams; ``--open
1000`` first opens as many streams, with ``--headers 255000`` each with a header of so many bytes, and lets each hold
32 KiB of a body. Printed are the peak of its resident memory (VmHWM of /proc/PID/status), what it was before, and
what each client was told.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import grpc
import grpc.aio
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from benchmarks.picker.driver import CHUNK, HEADERS, METHOD, header_message
from benchmarks.picker.serving import PATHS, Running, memory, running

_START_SECONDS = 60.0
_HELD = 32 << 10
_READ_A_SECOND = 20e6
"""Bytes of headers; a picker reads more."""
_ENDED = (grpc.aio.AioRpcError, asyncio.InvalidStateError)
"""What a client meets whose stream the picker has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploads:
    """MiB of resident memory, and how often which status was answered (0: the body is held).

    ``opened``: more than ``idle`` with all the open streams; ``holding``: with a body in each of them.
    """

    data_path: str
    limit: float
    idle: float
    opened: float
    holding: float
    peak: float
    answers: dict[int, int]
    after_timeout: dict[int, int]


def _chunk(body: bytes) -> bytes:
    message = ext_proc.ProcessingRequest()
    message.request_body.body = body
    return message.SerializeToString()


async def _upload(channel: grpc.aio.Channel, size: int) -> tuple[asyncio.Task[int], grpc.aio.Call]:
    """Send ``size`` bytes without an end. The task answers the status that came, or 0 for none."""
    call = channel.stream_stream(METHOD)()

    async def status() -> int:
        data = await call.read()
        if data is grpc.aio.EOF:
            return 0
        return int(ext_proc.ProcessingResponse.FromString(data).immediate_response.status.code)

    answered = asyncio.ensure_future(status())
    try:
        await call.write(header_message("request_headers", **HEADERS))
        await call.write(_chunk(b'{"model":"travelhelper","prompt":"'))
        piece = _chunk(b"x" * CHUNK)
        for _ in range(size // CHUNK):
            await call.write(piece)
    except _ENDED:
        pass  # the picker has ended the stream
    return answered, call


async def _open(channel: grpc.aio.Channel, count: int, size: int) -> list[grpc.aio.Call]:
    """Streams whose headers have come, one of them of this size."""
    calls = [channel.stream_stream(METHOD)() for _ in range(count)]
    head = header_message("request_headers", **HEADERS, **({"x_large": "x" * size} if size else {}))
    await _write(calls, head)
    await asyncio.sleep(1 + count * size / _READ_A_SECOND)
    return calls


async def _write(calls: list[grpc.aio.Call], message: bytes) -> None:
    """Write it to all that the picker has not ended."""
    for written in await asyncio.gather(*(call.write(message) for call in calls), return_exceptions=True):
        if isinstance(written, BaseException) and not isinstance(written, _ENDED):
            raise written


async def _attack(
    picker: Running, fixed: dict[str, Any], *, clients: int, size: int, opened: int, headers: int
) -> Uploads:
    pid = picker.pid
    async with grpc.aio.insecure_channel(f"127.0.0.1:{picker.port}") as channel:
        async with asyncio.timeout(_START_SECONDS):
            await channel.channel_ready()
        idle = memory(pid, "VmRSS")
        calls = await _open(channel, opened, headers)
        with_streams = memory(pid, "VmRSS")
        body = _chunk(b'{"model":"travelhelper","prompt":"' + b"x" * _HELD)
        await _write(calls, body)
        await asyncio.sleep(1)
        holding = memory(pid, "VmRSS")
        for call in calls:
            call.cancel()
        streams = await asyncio.gather(*(_upload(channel, size) for _ in range(clients)))
        now = Counter(task.result() if task.done() else 0 for task, _ in streams)
        async with asyncio.timeout(fixed.pop("timeout") + 30):
            final = Counter(await asyncio.gather(*(task for task, _ in streams)))
        return Uploads(
            **fixed,
            idle=round(idle, 1),
            opened=round(with_streams - idle, 1),
            holding=round(holding - idle, 1),
            peak=round(memory(pid, "VmHWM"), 1),
            answers=dict(now),
            after_timeout=dict(final),
        )


def measure(
    *,
    clients: int = 10,
    size: int = 60_000_000,
    limit: int = 512 << 20,
    timeout: float = 20.0,
    opened: int = 0,
    headers: int = 0,
    data_path: str = "python",
) -> Uploads:
    """Run the attack against a picker process of its own. ``opened``: streams that are open first.

    ``headers``: bytes of one header of each of those.
    """
    with running(data_path, limit=limit, request_timeout=timeout) as picker:
        fixed = {"data_path": data_path, "limit": limit / 2**20, "timeout": timeout}
        return asyncio.run(_attack(picker, fixed, clients=clients, size=size, opened=opened, headers=headers))


def main() -> None:
    """Print the figures as JSON; exit status 1 when the limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--size", type=int, default=60_000_000)
    parser.add_argument("--limit", type=int, default=512 << 20)
    parser.add_argument("--open", type=int, default=0, dest="opened", help="streams that are open first")
    parser.add_argument("--headers", type=int, default=0, help="bytes of one header of each of those")
    parser.add_argument("--data-path", choices=PATHS, default="python")
    options = parser.parse_args()
    found = measure(**vars(options))
    print(json.dumps(asdict(found), indent=1))
    sys.exit(found.peak >= found.limit)


if __name__ == "__main__":
    main()
