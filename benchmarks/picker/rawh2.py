"""A client of HTTP/2 that says what it likes: no library lets one misbehave. Plaintext, ext_proc's method alone."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import cast

from benchmarks.picker.driver import METHOD

__all__ = ["CLOSED", "Raw", "data", "frame", "headers", "message", "reset", "settings", "window_update"]

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
MAX_FRAME = 16_384
DEFAULT_WINDOW = 65_535
INITIAL_WINDOW_SIZE = 4
CLOSED = (ConnectionError, asyncio.IncompleteReadError)
"""What a client meets that was sent away."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def headers(stream: int, more: bytes = b"") -> bytes:
    """HEADERS that begin a call. ``more``: another piece of the header block, HPACK."""
    block = b"\x83\x86\x01\x04test\x04" + bytes((len(METHOD),)) + METHOD.encode()
    block += b"\x0f\x10\x10application/grpc"  # content-type, a literal
    block += b"\0\x02te\x08trailers" + more  # without it gRPC's server looks at nothing
    return frame(HEADERS, END_HEADERS, stream, block)


def message(payload: bytes) -> bytes:
    """gRPC's framing of a message."""
    return b"\0" + len(payload).to_bytes(4) + payload


def data(stream: int, payload: bytes) -> bytes:
    """DATA in frames of the size that everybody takes."""
    parts = (payload[at : at + MAX_FRAME] for at in range(0, len(payload), MAX_FRAME))
    return b"".join(frame(DATA, 0, stream, part) for part in parts)


def reset(stream: int) -> bytes:
    """RST_STREAM with CANCEL."""
    return frame(RST_STREAM, 0, stream, (8).to_bytes(4))


def settings(window: int) -> bytes:
    """SETTINGS: how much of each stream may come to us at first."""
    return frame(SETTINGS, 0, 0, INITIAL_WINDOW_SIZE.to_bytes(2) + window.to_bytes(4))


def window_update(stream: int, size: int) -> bytes:
    """WINDOW_UPDATE."""
    return frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4))


class Raw:
    """One connection. Windows are kept to where ``send_data`` is used."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._connection = DEFAULT_WINDOW
        self._initial = DEFAULT_WINDOW
        self._used: defaultdict[int, int] = defaultdict(int)
        self._moved = asyncio.Condition()
        self.ended: set[int] = set()
        """Streams that the server has ended."""
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, port: int, *, window: int = DEFAULT_WINDOW) -> Raw:
        """``window``: of each stream towards us."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        raw = cls(reader, writer)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings(window))
        return raw

    async def send(self, frames: bytes) -> None:
        """Frames as they are. Raises one of ``CLOSED``."""
        if self._reading.done():
            raise ConnectionResetError
        self._writer.write(frames)
        await self._writer.drain()

    async def send_data(self, stream: int, payload: bytes) -> bool:
        """As much as windows allow, waiting for them. Whether the stream is open still."""
        while payload and stream not in self.ended:
            room = min(self._connection, self._initial - self._used[stream], len(payload))
            if room <= 0:
                async with self._moved:
                    await asyncio.wait_for(self._moved.wait(), 60)
                if self._reading.done():
                    raise ConnectionResetError
                continue
            self._connection -= room
            self._used[stream] += room
            await self.send(data(stream, payload[:room]))
            payload = payload[room:]
        return stream not in self.ended

    async def _read(self) -> None:
        try:
            while True:
                head = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(head[:3]))
                self._take(head[3], head[4], int.from_bytes(head[5:9]), payload)
                async with self._moved:
                    self._moved.notify_all()
        except CLOSED:
            pass
        finally:
            async with self._moved:
                self._moved.notify_all()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE and stream:
            self._used[stream] -= int.from_bytes(payload)
        elif kind == WINDOW_UPDATE:
            self._connection += int.from_bytes(payload)
        elif kind == SETTINGS and not flags & ACK:
            for at in range(0, len(payload), 6):
                if int.from_bytes(payload[at : at + 2]) == INITIAL_WINDOW_SIZE:
                    self._initial = int.from_bytes(payload[at + 2 : at + 6])
            self._writer.write(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self._writer.write(frame(PING, ACK, 0, payload))
        elif kind == RST_STREAM or (kind in (HEADERS, DATA) and flags & END_STREAM):
            self.ended.add(stream)

    async def end_of(self, stream: int) -> None:
        """Wait until the server has ended a stream."""
        async with self._moved:
            await self._moved.wait_for(lambda: stream in self.ended or self._reading.done())

    async def closed(self) -> None:
        """Wait until the server has closed the connection."""
        await self._reading

    def deafen(self) -> None:
        """Read nothing more of what comes."""
        cast(asyncio.Transport, self._writer.transport).pause_reading()

    def abort(self) -> None:
        """Go away."""
        self._reading.cancel()
        self._writer.transport.abort()
