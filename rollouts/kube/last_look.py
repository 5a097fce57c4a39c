"""A last look before a write leaves this process.

Who asks before a request is made, and not again, has asked too early: a connection is opened in between, a token is
renewed, the loop does other work, and a process may be stopped for minutes at any of these moments. The look is made
when the body is handed to the socket, with nothing that waits between the two. Every write has a body, and no server
stores one that it has not got whole.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import BytesIOPayload, BytesPayload, Payload

__all__ = ["Body", "looking_last"]

Look = Callable[[], None]
"""Raises what keeps the write from being sent."""

# The client is shared, and passed through wrappers that know nothing of sending: the look goes with the task.
_look: ContextVar[Look | None] = ContextVar("last_look", default=None)

# A stream is sent in pieces, which costs more than it gains for all but the largest bodies.
_IN_ONE_PIECE = 65_536


@contextmanager
def looking_last(look: Look) -> Iterator[None]:
    """Make ``look`` before each request with a body that this task sends meanwhile leaves."""
    token = _look.set(look)
    try:
        yield
    finally:
        _look.reset(token)


class Body:
    """The body of one request. ``refused`` is what the last look raised."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._look = _look.get()
        self.refused: Exception | None = None

    def payload(self) -> Payload:
        """The body for one attempt at sending it."""
        if len(self._data) > _IN_ONE_PIECE:
            return _Pieces(io.BytesIO(self._data), before=self.look)
        return _Piece(self._data, before=self.look)

    def look(self) -> None:
        """Raise what keeps it from being sent now."""
        if self._look is None:
            return
        try:
            self._look()
        except Exception as error:
            self.refused = error
            raise


class _LooksFirst(Payload):
    """Ahead of the payload that it is mixed into."""

    def __init__(self, value: bytes | io.BytesIO, *, before: Look) -> None:
        super().__init__(value)
        self._before = before

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        self._before()
        await super().write_with_length(writer, content_length)


class _Piece(_LooksFirst, BytesPayload):
    pass


class _Pieces(_LooksFirst, BytesIOPayload):
    pass
