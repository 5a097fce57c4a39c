"""Drives an endpoint picker as Envoy would, and reads its CPU time from /proc."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
CHUNK = 65_536  # what Envoy sends at most at once
EMPTY = 8  # bytes of a reply to a body chunk that says nothing, as lwepp v1.6.0 gives one per chunk
EVENT = b'data: {"id":"cmpl-1","object":"chat.completion.chunk","model":"travel-helper-v1","choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}\n\n'  # noqa: E501


HEADERS = {
    "__method": "POST",
    "__path": "/v1/chat/completions",
    "__authority": "llm.example.com",
    "__scheme": "http",
    "content_type": "application/json",
    "accept": "*/*",
    "accept_encoding": "gzip, deflate",
    "user_agent": "OpenAI/Python 1.99.1",
    "x_forwarded_proto": "http",
    "x_request_id": "5e4d6c1e-0000-4000",
    "x_session_id": "anna",
    "authorization": "Bearer sk-0000000000000000",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Per request: CPU of the server and of the driver in ms; throughput; latency in ms."""

    size: int
    chunks: int | None
    requests: int
    cpu_ms: float
    driver_ms: float
    per_second: float
    p50_ms: float
    p99_ms: float


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far; to the nanosecond where the kernel keeps that of each thread.

    The sum over threads leaves out those that ended: servers here keep theirs. Ticks of 10 ms are too coarse for a
    round in which a native server takes two of them.
    """
    try:
        return (
            sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat"))
            / 1e9
        )
    except OSError:
        pass
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def prompt(size: int) -> bytes:
    """A chat completion whose body has about ``size`` bytes, line breaks and quotes included."""
    rng = random.Random(1)
    words = ["hello", "travel", "flight", "to", "the", "city", "of", "Paris", "and", "back", "again"]
    lines = [
        " ".join(rng.choice(words) for _ in range(12)) + rng.choice((".", ".\n", ' "so".\n'))
        for _ in range(size // 50)
    ]
    text = " ".join(lines)[: max(0, size - 180)]
    messages = [{"role": "system", "content": "You are a travel agent."}, {"role": "user", "content": text}]
    body = {"model": "travelhelper", "messages": messages, "max_tokens": 64, "stream": True}
    return json.dumps(body).encode()


def header_message(side: str, *, end: bool = False, **values: str) -> bytes:
    """A serialized headers message; ``__`` stands for the colon."""
    message = ext_proc.ProcessingRequest()
    for name, value in values.items():
        header = getattr(message, side).headers.headers.add(key=name.replace("__", ":").replace("_", "-"))
        header.raw_value = value.encode()
    getattr(message, side).end_of_stream = end
    return message.SerializeToString()


def body_messages(side: str, chunks: list[bytes]) -> list[bytes]:
    """Serialized body messages, the last with end of stream."""
    found = []
    for index, chunk in enumerate(chunks):
        message = ext_proc.ProcessingRequest()
        getattr(message, side).body = chunk
        getattr(message, side).end_of_stream = index == len(chunks) - 1
        found.append(message.SerializeToString())
    return found


class Exchange:
    """The messages of one kind of request, made once."""

    def __init__(self, size: int, response_chunks: int | None) -> None:
        body = prompt(size)
        self.request = [
            header_message("request_headers", **HEADERS, content_length=str(len(body))),
            *body_messages("request_body", [body[at : at + CHUNK] for at in range(0, len(body), CHUNK)]),
        ]
        self.response: list[bytes] = []
        if response_chunks is not None:
            end = response_chunks == 0
            head = header_message(
                "response_headers", end=end, __status="200", content_type="text/event-stream"
            )
            self.response = [head]
            self.response += body_messages("response_body", [EVENT] * response_chunks)

    async def run(self, method: grpc.aio.StreamStreamMultiCallable) -> None:
        """One stream: the request, then the response, if there is to be one."""
        stream = method()
        for message in self.request:
            await stream.write(message)
        waiting = len(self.response)
        bodies = len(self.request) - 1
        while (reply := await stream.read()) is not grpc.aio.EOF:
            if not reply:
                continue  # our picker's answer to the half-close: a message that says nothing
            if reply[0] == 0x3A:
                raise RuntimeError(f"refused: {reply!r}")
            bodies -= reply[0] == 0x1A and len(reply) <= EMPTY
            if reply[0] == 0x1A and (reply.endswith(b"\x10\x01") or (len(reply) <= EMPTY and not bodies)):
                for message in self.response:
                    await stream.write(message)
            elif reply[0] in (0x12, 0x22):
                waiting -= 1
                if waiting == 0:
                    await stream.done_writing()
        if await stream.code() is not grpc.StatusCode.OK or waiting:
            raise RuntimeError(f"the stream ended with {await stream.code()}: {await stream.details()}")


async def measure(
    address: str, pid: int, size: int, chunks: int | None, seconds: float, streams: int
) -> Result:
    """Keep ``streams`` requests going for ``seconds``, after a short warm-up."""
    exchange = Exchange(size, chunks)
    took: list[float] = []
    async with grpc.aio.insecure_channel(
        address, options=[("grpc.max_receive_message_length", -1)]
    ) as channel:
        method = channel.stream_stream(METHOD)

        async def work(until: float) -> None:
            while (now := time.perf_counter()) < until:
                await exchange.run(method)
                took.append(time.perf_counter() - now)

        async def phase(length: float) -> None:
            until = time.perf_counter() + length
            await asyncio.gather(*(work(until) for _ in range(streams)))

        await phase(0.2)
        took.clear()
        server, driver, begin = cpu_seconds(pid), time.process_time(), time.perf_counter()
        await phase(seconds)
        wall = time.perf_counter() - begin
        server, driver = cpu_seconds(pid) - server, time.process_time() - driver
    took.sort()
    count = len(took)
    return Result(
        size=size,
        chunks=chunks,
        requests=count,
        cpu_ms=server / count * 1e3,
        driver_ms=driver / count * 1e3,
        per_second=count / wall,
        p50_ms=took[count // 2] * 1e3,
        p99_ms=took[min(count - 1, int(count * 0.99))] * 1e3,
    )
