"""The pods' own HTTP server: framing, limits, keep-alive."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from rollouts.lab.vllm.pod import SimulatedPod

StartPod = Callable[..., Awaitable[SimulatedPod]]
BODY = b'{"prompt": "hi", "max_tokens": 1}'
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


async def exchange(pod: SimulatedPod, pieces: list[bytes]) -> bytes:
    """Send the pieces as separate writes and read until the server closes."""
    port = int(pod.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    answer = await reader.read()
    writer.close()
    return answer


def sized(connection: bytes = b"close") -> bytes:
    return HEAD + b"connection: %b\r\ncontent-length: %d\r\n\r\n" % (connection, len(BODY)) + BODY


def chunked(*parts: bytes) -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return HEAD + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n" + body + b"0\r\nx-t: 1\r\n\r\n"


@pytest.mark.parametrize(
    ("sentence", "pieces", "statuses"),
    [
        ("a sized body", [sized()], [b"200"]),
        ("a chunked body with a trailer", [chunked(BODY[:5], BODY[5:])], [b"200"]),
        ("every byte on its own", [bytes([byte]) for byte in chunked(BODY)], [b"200"]),
        ("pipelined requests are all answered", [sized(b"keep-alive") * 3 + sized()], [b"200"] * 4),
        ("a first line that is not HTTP", [b"nonsense\r\n\r\n"], [b"400"]),
        ("a header without a colon", [b"GET / HTTP/1.1\r\nnonsense\r\n\r\n"], [b"400"]),
        ("a length that is no number", [HEAD + b"content-length: ten\r\n\r\n"], [b"400"]),
        ("a chunk size that is no number", [HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n"], [b"400"]),
        ("a body above the limit", [HEAD + b"content-length: 99999999999\r\n\r\n"], [b"413"]),
        ("a head above the limit", [b"GET / HTTP/1.1\r\nx: " + b"a" * 70_000], [b"431"]),
    ],
)
async def test_framing(
    start_pod: StartPod, sentence: str, pieces: list[bytes], statuses: list[bytes]
) -> None:
    answer = await exchange(await start_pod(), pieces)

    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == statuses, sentence


async def test_an_expectation_is_met_before_the_body_is_sent(start_pod: StartPod) -> None:
    pod = await start_pod()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(pod.url.rpartition(":")[2]))
    writer.write(HEAD + b"expect: 100-continue\r\nconnection: close\r\ncontent-length: 33\r\n\r\n")
    first = await reader.readuntil(b"\r\n\r\n")
    writer.write(BODY)
    answer = await reader.read()
    writer.close()

    assert first == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_a_large_chunked_body_is_read(start_pod: StartPod) -> None:
    part = b"a" * 1000
    body = b'{"prompt": "' + part * 8000 + b'"}'
    pieces = [body[start : start + 4000] for start in range(0, len(body), 4000)]
    answer = await exchange(await start_pod(max_model_len=10_000_000), [chunked(*pieces)])

    assert answer.startswith(b"HTTP/1.1 200 ")
