"""Unfinished uploads: ``python -m benchmarks.picker.uploads``; how much memory the picker takes at most.

Ten clients send 60 MB each to a picker with a limit of 512 MiB, all but the end, and hold their streams. Printed are
the peak of its resident memory (VmHWM of /proc/PID/status), and what each client was told.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import grpc.aio
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from benchmarks.picker.driver import CHUNK, HEADERS, METHOD, header_message

OBJECTS = Path(__file__).with_name("objects.yaml")
_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploads:
    """MiB of resident memory, and how often which status was answered (0: the body is held)."""

    limit: float
    idle: float
    peak: float
    answers: dict[int, int]
    after_timeout: dict[int, int]


def _memory(pid: int, field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass  # the picker has ended the stream
    return answered, call


async def _attack(port: int, pid: int, *, clients: int, size: int, timeout: float, limit: int) -> Uploads:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        async with asyncio.timeout(_START_SECONDS):
            await channel.channel_ready()
        idle = _memory(pid, "VmRSS")
        streams = await asyncio.gather(*(_upload(channel, size) for _ in range(clients)))
        now = Counter(task.result() if task.done() else 0 for task, _ in streams)
        async with asyncio.timeout(timeout + 30):
            final = Counter(await asyncio.gather(*(task for task, _ in streams)))
        return Uploads(
            limit=limit / 2**20,
            idle=round(idle, 1),
            peak=round(_memory(pid, "VmHWM"), 1),
            answers=dict(now),
            after_timeout=dict(final),
        )


def measure(
    *, clients: int = 10, size: int = 60_000_000, limit: int = 512 << 20, timeout: float = 20.0
) -> Uploads:
    """Run the attack against a picker process of its own."""
    port, metrics = _free_port(), _free_port()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [
                *(
                    sys.executable,
                    "-m",
                    "rollouts.picker",
                    "--pool=default/mymodel-pool-v1",
                    f"--objects={OBJECTS}",
                ),
                *("--no-secure-serving", "--no-scrape", f"--grpc-address=127.0.0.1:{port}"),
                *(f"--metrics-address=127.0.0.1:{metrics}", f"--memory-limit={limit}"),
                *(f"--request-timeout={timeout}", "--drain-grace=0"),
            ],
            stdout=log,
            stderr=log,
        )
        try:
            work = _attack(port, process.pid, clients=clients, size=size, timeout=timeout, limit=limit)
            return asyncio.run(work)
        finally:
            process.terminate()
            process.wait(30)


def main() -> None:
    """Print the figures as JSON; exit status 1 when the limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--size", type=int, default=60_000_000)
    parser.add_argument("--limit", type=int, default=512 << 20)
    options = parser.parse_args()
    found = measure(clients=options.clients, size=options.size, limit=options.limit)
    print(json.dumps(asdict(found), indent=1))
    sys.exit(found.peak >= found.limit)


if __name__ == "__main__":
    main()
