"""What other clients notice of an attack, and what it makes the picker hold.

    python -m benchmarks.picker.attacks [--data-path native] [--attack NAME ...] [--seconds 24]

Eight good clients on connections of their own, so that each thread of the picker has some, send requests of 1 KB at
a fixed rate all the time. The attack comes and goes in rounds, from another process. Good clients and their picker run
before all else on the machine (real-time priority, where that is allowed): what an attacker's own process takes of a
few cores is not the picker's doing, and what the attack takes of the picker's threads is. In each round another
picker of the machine is attacked as well, which shows what is left of the machine's share. Printed, per attack: p50 and
p99 of the good ones without it, beside it and under it, medians over the rounds of the ratios of the last p99 to the
first and to the second, the part of a core that the attack made the picker take, and the peak of its resident memory.
The exit status is 1 when a good request failed, a p99 more than doubled (without priority: more than that beside the
attack as well), or the memory passed the limit.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import gzip
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import grpc
import grpc.aio
import yaml

from benchmarks.picker.driver import (
    CHUNK,
    HEADERS,
    METHOD,
    Exchange,
    body_messages,
    cpu_seconds,
    header_message,
    prompt,
)
from benchmarks.picker.rawh2 import CLOSED, Raw, data, headers, message, reset, settings, window_update
from benchmarks.picker.serving import OBJECTS, PATHS, Running, memory, running

GOOD_CLIENTS = 8
EACH_SECOND = 15
ROUNDS = 4
MOST = 2.0
_MANY = 10**9


def _head(**more: str) -> bytes:
    return message(header_message("request_headers", **{**HEADERS, **more}))


def _chunk(body: bytes) -> bytes:
    return message(body_messages("request_body", [body, b""])[0])


# --- attacks: each goes on until its process is ended -------------------------------------------------


async def _again(attempt: Callable[[], Awaitable[None]]) -> None:
    """Repeat an attempt, whatever the picker does against it."""
    while True:
        with contextlib.suppress(*CLOSED, TimeoutError):
            await attempt()
        await asyncio.sleep(0.005)


async def resets(port: int) -> None:
    """Streams that are reset as soon as they are opened; a new connection where one is sent away."""

    async def attempt() -> None:
        raw = await Raw.connect(port)
        for first in range(1, _MANY, 200):
            await raw.send(b"".join(headers(at) + reset(at) for at in range(first, first + 200, 2)))

    await asyncio.gather(*(_again(attempt) for _ in range(4)))


async def endless(port: int, *, body: bytes = b"x" * CHUNK, coding: str = "") -> None:
    """Forty bodies without an end, as fast as they are taken; a new one for each that is refused."""
    head = _head(**({"content_encoding": coding} if coding else {}))
    start, more = _chunk(b'{"model":"travelhelper","prompt":"'), _chunk(body)

    async def attempt() -> None:
        raw = await Raw.connect(port)
        numbers = itertools.count(1, 2)

        async def one() -> None:
            while True:
                stream = next(numbers)
                await raw.send(headers(stream))
                going = await raw.send_data(stream, head + (b"" if coding else start))
                while going:
                    going = await raw.send_data(stream, more)

        await asyncio.gather(*(one() for _ in range(10)))

    await asyncio.gather(*(_again(attempt) for _ in range(4)))


async def bombs(port: int) -> None:
    """Bodies of gzip that unfold two hundred times."""
    text = b'{"model":"travelhelper","prompt":"' + b"x" * (CHUNK * 150)
    await endless(port, body=gzip.compress(text), coding="gzip")


async def header_bombs(port: int) -> None:
    """Streams whose headers take thousands of times the bytes that they came in, kept open."""
    name = b"\x40\x06x-bomb\x7f\x81\x1d" + b"x" * 3_840  # enters HPACK's table: 3,840 bytes
    bomb = b"\xbe" * 3  # three times what is there, in a byte each

    async def attempt() -> None:
        raw = await Raw.connect(port)
        await raw.send(headers(1, name))
        for first in range(3, 20_000, 200):
            await raw.send(b"".join(headers(at, bomb) for at in range(first, first + 200, 2)))
            await asyncio.sleep(0.01)
        await raw.closed()

    await asyncio.gather(*(_again(attempt) for _ in range(4)))


async def _passing(raw: Raw, stream: int, size: int) -> None:
    """A body that passes by in messages of this size, for as long as windows let it."""
    more = _chunk(b"x" * size)
    await raw.send(headers(stream))
    going = await raw.send_data(stream, _head(content_type="text/plain") + more)
    while going:
        going = await raw.send_data(stream, more)


async def slow_reads(port: int, *, size: int = CHUNK, streams: int = 100) -> None:
    """Bodies that pass by, of which nothing is taken back, on two thousand streams of twenty connections."""

    async def attempt() -> None:
        raw = await Raw.connect(port, window=0)
        await asyncio.gather(*(_passing(raw, stream, size) for stream in range(1, 2 * streams, 2)))
        await raw.closed()

    await asyncio.gather(*(_again(attempt) for _ in range(20)))


async def slow_small_reads(port: int) -> None:
    """The same in messages of 100 bytes."""
    await slow_reads(port, size=100)


async def many_slow_reads(port: int) -> None:
    """The same in messages just too short to be counted by themselves, on twenty thousand streams."""
    await slow_reads(port, size=15_000, streams=1_000)


async def closed_windows(port: int) -> None:
    """Windows that are wide until bodies pass by, and closed then, below zero; and opened by a byte now and then."""

    async def attempt() -> None:
        raw = await Raw.connect(port)
        await raw.send(window_update(0, 1 << 30))
        streams = range(1, 200, 2)

        async def close() -> None:
            await asyncio.sleep(0.2)
            await raw.send(settings(0))
            while True:
                await asyncio.sleep(0.1)
                await raw.send(b"".join(window_update(stream, 1) for stream in streams))

        await asyncio.gather(close(), *(_passing(raw, stream, 1_000) for stream in streams))

    await asyncio.gather(*(_again(attempt) for _ in range(20)))


async def deaf(port: int) -> None:
    """Windows of HTTP/2 that are wide open, and sockets of which nothing is read: TCP's window is closed."""

    async def attempt() -> None:
        raw = await Raw.connect(port, window=1 << 30)
        await raw.send(window_update(0, 1 << 30))
        await asyncio.sleep(0.2)  # until it has said how much may come
        raw.deafen()
        try:
            async with asyncio.timeout(10):
                await asyncio.gather(*(_passing(raw, stream, 15_000) for stream in range(1, 200, 2)))
        finally:
            raw.abort()

    await asyncio.gather(*(_again(attempt) for _ in range(100)))


async def large_headers(port: int) -> None:
    """Headers of a quarter of a megabyte, and then no body, on eight thousand streams of eight connections."""
    one = _head(x_large="x" * 255_000)
    many = _head(**{f"x_{number}": "x" for number in range(6_000)})

    async def attempt() -> None:
        raw = await Raw.connect(port)
        try:
            for stream in range(1, 2_000, 2):
                await raw.send(headers(stream))
                await raw.send_data(stream, many if stream % 4 == 1 else one)
            await asyncio.sleep(5)
        finally:
            raw.abort()

    await asyncio.gather(*(_again(attempt) for _ in range(8)))


async def silent(port: int) -> None:
    """Connections, as many as are taken, that never say a word."""

    async def attempt() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while await reader.read(1_000):
                pass
        finally:
            writer.close()

    await asyncio.gather(*(_again(attempt) for _ in range(800)))


async def slow_writes(port: int) -> None:
    """Two thousand messages that come byte by byte."""
    begin = b"\0" + (1 << 20).to_bytes(4)

    async def attempt() -> None:
        raw = await Raw.connect(port)
        streams = range(1, 1_000, 2)
        await raw.send(b"".join(headers(stream) + data(stream, begin) for stream in streams))
        while True:
            for at in range(0, len(streams), 50):
                await raw.send(b"".join(data(stream, b"x") for stream in streams[at : at + 50]))
                await asyncio.sleep(0.01)

    await asyncio.gather(*(_again(attempt) for _ in range(4)))


async def connections(port: int) -> None:
    """Connections, as many as are taken, each with most of a frame that does not end."""

    async def attempt() -> None:
        raw = await Raw.connect(port)
        await raw.send(headers(1) + b"\0\x40\0\0\0\0\0\0\1" + b"x" * 16_000)
        await raw.closed()

    await asyncio.gather(*(_again(attempt) for _ in range(800)))


async def large(port: int) -> None:
    """Four bodies of 64 MiB at once in messages of 4 MiB, again and again."""
    size = 4 << 20
    parts = [b'{"model":"travelhelper","prompt":"', *[b"x" * size] * 15, b'"}']
    messages = [_head(), *(message(part) for part in body_messages("request_body", parts))]

    async def attempt() -> None:
        raw = await Raw.connect(port, window=1 << 30)
        await raw.send(window_update(0, 1 << 30))
        for stream in range(1, _MANY, 2):
            await raw.send(headers(stream))
            for one in messages:
                await raw.send_data(stream, one)
            await raw.end_of(stream)

    await asyncio.gather(*(_again(attempt) for _ in range(4)))


async def pages(port: int) -> None:
    """The metrics page of a picker with thousands of series, read again and again; ``port`` is that of the page."""
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"http://127.0.0.1:{port}/metrics") as answer:
                await answer.read()


ATTACKS: dict[str, Callable[[int], Awaitable[None]]] = {
    "resets": resets,
    "endless": endless,
    "bombs": bombs,
    "header-bombs": header_bombs,
    "slow-reads": slow_reads,
    "slow-small-reads": slow_small_reads,
    "many-slow-reads": many_slow_reads,
    "closed-windows": closed_windows,
    "deaf": deaf,
    "large-headers": large_headers,
    "slow-writes": slow_writes,
    "connections": connections,
    "silent": silent,
    "large": large,
    "pages": pages,
}
MANY_PODS = 1_500
"""Of a picker whose page is read: each has series of its own."""


# --- the good clients -------------------------------------------------------------------------------


@dataclass(slots=True)
class Phase:
    """Milliseconds that requests took, and those that failed."""

    took: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def at(self, quantile: float) -> float:
        """A quantile of the milliseconds."""
        return sorted(self.took)[min(len(self.took) - 1, int(len(self.took) * quantile))]


async def _good(channels: list[grpc.aio.Channel], seconds: float) -> Phase:
    """Requests at a fixed rate, whether the last ones are answered or not."""
    exchange, phase = Exchange(1_000, None), Phase()

    async def one(channel: grpc.aio.Channel) -> None:
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(10):
                await exchange.run(channel.stream_stream(METHOD))
        except (RuntimeError, asyncio.InvalidStateError, grpc.aio.AioRpcError, TimeoutError) as error:
            phase.failed.append(f"{type(error).__name__}: {error}"[:200])
        else:
            phase.took.append((time.perf_counter() - begun) * 1e3)

    async with asyncio.TaskGroup() as group:
        for _ in range(int(seconds * EACH_SECOND)):
            for index, channel in enumerate(channels):
                delay = (index / len(channels)) / EACH_SECOND
                group.create_task(_later(delay, one(channel)))
            await asyncio.sleep(1 / EACH_SECOND)
    return phase


async def _later(seconds: float, work: Awaitable[None]) -> None:
    await asyncio.sleep(seconds)
    await work


async def _fill(port: int, requests: int) -> None:
    """So many small requests, as fast as they are answered."""
    raw = await Raw.connect(port, window=1 << 30)
    await raw.send(window_update(0, 1 << 30))
    whole = [_head(), *(message(part) for part in body_messages("request_body", [prompt(300)]))]
    for first in range(1, 2 * requests, 200):
        streams = range(first, first + 200, 2)
        await raw.send(b"".join(headers(stream) + data(stream, b"".join(whole)) for stream in streams))
        for stream in streams:
            await raw.end_of(stream)
    raw.abort()


def _objects(folder: Path) -> Path:
    """The usual ones with many more pods."""
    objects = list(yaml.safe_load_all(OBJECTS.read_text()))
    (pods,) = (one["items"] for one in objects if one["kind"] == "List")
    for number in range(MANY_PODS):
        more = copy.deepcopy(pods[0])
        more["metadata"]["name"] = f"many-{number}"
        more["status"]["podIP"] = f"10.1.{number // 250}.{number % 250 + 1}"
        pods.append(more)
    path = folder / "objects.yaml"
    path.write_text(yaml.safe_dump_all(objects))
    return path


def _schedule(pid: int, policy: int, priority: int) -> None:
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setscheduler(int(task.name), policy, os.sched_param(priority))


@contextmanager
def _first(picker: Running) -> Iterator[bool]:
    """This process and a picker run before all others. Whether that is allowed."""
    try:
        _schedule(picker.pid, os.SCHED_FIFO, 1)
        _schedule(os.getpid(), os.SCHED_FIFO, 1)
    except PermissionError:
        yield False
        return
    try:
        yield True
    finally:
        _schedule(os.getpid(), os.SCHED_OTHER, 0)


def _last() -> None:
    """This process runs behind all others."""
    _schedule(os.getpid(), os.SCHED_OTHER, 0)
    os.nice(19)


@contextmanager
def _attacker(name: str, port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "benchmarks.picker.attacks", "--be", name, "--port", str(port)]
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Of one attack: milliseconds of the good ones, MiB of the picker."""

    quiet: Phase
    beside: Phase
    """While another picker is attacked."""
    attacked: Phase
    to_quiet: float
    to_beside: float
    cores: float
    idle: float
    peak: float


async def _measure(name: str, picker: Running, other: Running, seconds: float) -> Found:
    quiet, beside, attacked = Phase(), Phase(), Phase()
    to_quiet, to_beside, cores = list[float](), list[float](), list[float]()
    async with AsyncExitStack() as stack:
        channels = []
        for index in range(GOOD_CLIENTS):
            options = [("grpc.use_local_subchannel_pool", 1), ("good", index)]
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{picker.port}", options=options)
            channels.append(await stack.enter_async_context(channel))
        async with asyncio.timeout(60):
            await asyncio.gather(*(channel.channel_ready() for channel in channels))
        if name == "pages":
            await _fill(picker.port, 6 * MANY_PODS)
        await _good(channels, 1.0)
        idle = memory(picker.pid, "VmRSS")
        for _ in range(ROUNDS):
            before = await _good(channels, seconds / ROUNDS / 2)
            parts = []
            for victim in (other, picker):
                used, since = cpu_seconds(picker.pid), time.perf_counter()
                with _attacker(name, victim.metrics_port if name == "pages" else victim.port):
                    await asyncio.sleep(1.5)  # until it has begun
                    parts.append(await _good(channels, seconds / ROUNDS / 2))
                await asyncio.sleep(0.5)
            control, during = parts
            cores.append((cpu_seconds(picker.pid) - used) / (time.perf_counter() - since))
            for whole, part in ((quiet, before), (beside, control), (attacked, during)):
                whole.took += part.took
                whole.failed += part.failed
            for ratios, part in ((to_quiet, before), (to_beside, control)):
                ratios.append(during.at(0.99) / part.at(0.99) if during.took and part.took else float("inf"))
    return Found(
        quiet=quiet,
        beside=beside,
        attacked=attacked,
        to_quiet=statistics.median(to_quiet),
        to_beside=statistics.median(to_beside),
        cores=statistics.median(cores),
        idle=idle,
        peak=memory(picker.pid, "VmHWM"),
    )


def _line(name: str, found: Found) -> str:
    quiet, attacked = found.quiet, found.attacked
    return (
        f"{name:16} quiet p50 {quiet.at(0.5):6.1f} p99 {quiet.at(0.99):6.1f} ms"
        f"  beside p50 {found.beside.at(0.5):6.1f} p99 {found.beside.at(0.99):6.1f} ms"
        f"  attacked p50 {attacked.at(0.5):6.1f} p99 {attacked.at(0.99):6.1f} ms"
        f"  p99 x {found.to_quiet:4.2f}, of beside x {found.to_beside:4.2f}, {found.cores:.0%} of a core"
        f"  {len(attacked.took)} good, {len(attacked.failed)} failed"
        f"  memory {found.idle:5.1f} -> {found.peak:5.1f} MiB"
    )


def main() -> None:
    """Run the attacks one after the other, each against a picker of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-path", choices=PATHS, default="python")
    parser.add_argument("--attack", choices=list(ATTACKS), action="append", help="all, unless some are named")
    parser.add_argument(
        "--seconds",
        type=float,
        default=24.0,
        help="per attack, half of it without, and half of it more beside",
    )
    parser.add_argument(
        "--limit", type=int, default=512 << 20, help="bytes of memory that the picker is told"
    )
    parser.add_argument("--be", choices=list(ATTACKS), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be:
        _last()
        asyncio.run(ATTACKS[options.be](options.port))  # type: ignore[arg-type]  # a coroutine function
        return
    failed = False
    print(f"data path {options.data_path}, load average {os.getloadavg()[0]:.0f}", flush=True)
    for name in options.attack or ATTACKS:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            more = {"objects": _objects(folder)} if name == "pages" else {}
            served, other = (
                stack.enter_context(
                    running(options.data_path, limit=options.limit, request_timeout=20.0, **more)
                )
                for _ in range(2)
            )
            first = stack.enter_context(_first(served))
            found = asyncio.run(_measure(name, served, other, options.seconds))
        print(_line(name, found), *found.attacked.failed[:2], sep="\n    ", flush=True)
        slow = (found.to_quiet if first else min(found.to_quiet, found.to_beside)) > MOST
        failed |= slow or bool(found.attacked.failed) or found.peak * 2**20 > options.limit
    sys.exit(failed)


if __name__ == "__main__":
    main()
