"""Replaces a span of a body that is held in chunks; every other byte stays."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

__all__ = ["MAX_CHUNK", "splice"]

MAX_CHUNK = 62_000
"""Bytes of one body reply: some builds of Envoy cap messages at 64 KiB, and the envelope needs room."""


def splice(
    chunks: deque[bytes], start: int, end: int, new: bytes, *, limit: int = MAX_CHUNK
) -> Iterator[bytes]:
    """The chunks with bytes ``[start, end)`` replaced, in pieces of at most ``limit`` bytes.

    ``start == end`` with an empty ``new`` changes nothing, else it inserts. Chunks are taken off the deque as they
    are used up, so that a large body is not held twice. An empty body gives one empty piece.
    """
    if len(chunks) == 1 and len(chunks[0]) + len(new) <= limit:
        chunk = chunks.popleft()
        yield b"".join((chunk[:start], new, chunk[end:])) if new or start < end else chunk
        return
    held: list[bytes] = []
    count = 0
    emitted = False
    for piece in _replaced(chunks, start, end, new):
        held.append(piece)
        count += len(piece)
        if count >= limit:
            whole = b"".join(held) if len(held) > 1 else piece
            stop = count - count % limit
            for at in range(0, stop, limit):
                yield whole[at : at + limit]
            held = [whole[stop:]]
            count -= stop
            emitted = True
    if count or not emitted:
        yield b"".join(held)


def _replaced(chunks: deque[bytes], start: int, end: int, new: bytes) -> Iterator[bytes]:
    offset = 0
    placed = False
    while chunks:
        chunk = chunks.popleft()
        after = offset + len(chunk)
        if after < start or (placed and offset >= end):
            yield chunk
        else:
            yield chunk[: max(0, start - offset)]
            if not placed:
                placed = True
                yield new
            yield chunk[max(0, end - offset) :]
        offset = after
    if not placed:
        yield new
