"""A small HTTP/1.1 server on asyncio protocols: no task and no parser library per request.

Many simulated pods share one process on a small machine, so a request costs a few function calls.
Supports what gateways and clients send: keep-alive, Content-Length and chunked bodies (RFC 9112),
pipelining (answered in order), ``Expect: 100-continue``. Sizes are limited.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

__all__ = ["MAX_BODY", "Handler", "HttpExchange", "HttpRequest", "PodHttpServer"]

MAX_BODY = 64 * 2**20
_MAX_HEAD = 64 * 2**10
_REASONS = {int(status): status.phrase for status in HTTPStatus}


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request. Header names are lower case; ``path`` has no query."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


# Takes its bytes off the front of the buffer; answers the body once it is complete.
_BodyReader = Callable[[bytearray], bytes | None]


class _BadRequestError(Exception):
    """The bytes are not HTTP that this server reads; the connection is closed after ``status``."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class HttpExchange:
    """A request and the way to answer it: ``reply``, or ``start``, ``send`` ..., ``finish``.

    ``on_close`` is called when the client goes away before the end. Calls after that do nothing.
    """

    __slots__ = ("_connection", "_keep_alive", "closed", "on_close", "request")

    def __init__(self, connection: _Connection, request: HttpRequest, keep_alive: bool) -> None:
        self._connection = connection
        self._keep_alive = keep_alive
        self.request = request
        self.closed = False
        self.on_close: Callable[[], None] | None = None

    def reply(self, status: int, body: bytes, content_type: str, headers: bytes = b"") -> None:
        """Answer whole. ``headers`` are complete lines, each with CRLF; an empty ``content_type`` is not sent."""
        if not self.closed:
            length = b"content-length: %d\r\n" % len(body)
            self._write(_head(status, content_type, self._keep_alive) + length + headers + b"\r\n" + body)
            self._end()

    def start(self, content_type: str, headers: bytes = b"") -> None:
        """Begin a 200 answer of unknown length."""
        if not self.closed:
            head = _head(200, content_type, self._keep_alive)
            self._write(head + b"transfer-encoding: chunked\r\n" + headers + b"\r\n")

    def send(self, data: bytes) -> None:
        """Send one piece (not empty) of a started answer."""
        if not self.closed:
            self._write(b"%x\r\n%b\r\n" % (len(data), data))

    def finish(self) -> None:
        """End a started answer."""
        if not self.closed:
            self._write(b"0\r\n\r\n")
            self._end()

    def switch(self, head: bytes, received: Callable[[bytes], None]) -> None:
        """Answer with another protocol: ``head`` is the whole head, ``received`` gets what comes from then on."""
        if not self.closed:
            self._connection.received = received
            self._write(head)

    def write(self, data: bytes) -> None:
        """Send bytes of that protocol."""
        if not self.closed:
            self._write(data)

    def leave(self) -> None:
        """End that protocol, and with it the connection."""
        self.closed = True
        self._connection.transport.close()

    def abandon(self) -> None:
        """The client is gone."""
        if not self.closed:
            self.closed = True
            if self.on_close is not None:
                self.on_close()

    def _write(self, data: bytes) -> None:
        self._connection.transport.write(data)

    def _end(self) -> None:
        self.closed = True
        self._connection.answered(self._keep_alive)


Handler = Callable[[HttpExchange], None]


def _head(status: int, content_type: str, keep_alive: bool) -> bytes:
    connection = "" if keep_alive else "connection: close\r\n"
    reason = _REASONS.get(status, "")
    media = f"content-type: {content_type}\r\n" if content_type else ""
    return f"HTTP/1.1 {status} {reason}\r\nserver: uvicorn\r\n{connection}{media}".encode()


class _Connection(asyncio.Protocol):
    """One client connection."""

    transport: asyncio.Transport

    def __init__(self, server: PodHttpServer) -> None:
        self._server = server
        self._buffer = bytearray()
        self._current: HttpExchange | None = None
        self._head: _Head | None = None
        self._body: _BodyReader = lambda _: None
        self._continued = False
        self.received: Callable[[bytes], None] | None = None
        """What takes the bytes once the connection has switched to another protocol."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._server.connections.add(self)

    @property
    def busy(self) -> bool:
        """Whether a request is being answered, or its body is still to come."""
        return self._current is not None or self._head is not None

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.left(self)
        if self._current is not None:
            self._current.abandon()
            self._current = None

    def data_received(self, data: bytes) -> None:
        if self.received is not None:
            self.received(data)
            return
        self._buffer += data
        if self._current is None:
            self._next()

    def answered(self, keep_alive: bool) -> None:
        """The current exchange is over: serve what has arrived meanwhile."""
        self._current = None
        if not keep_alive or self._server.draining:
            self.transport.close()
        elif self._buffer:
            # Not from here: a pipelined row of quick answers would nest as deep as the row is long.
            asyncio.get_running_loop().call_soon(self._resume)

    def _resume(self) -> None:
        if self._current is None and not self.transport.is_closing():
            self._next()

    def _next(self) -> None:
        try:
            parsed = self._parse()
        except _BadRequestError as error:
            body = b"Invalid HTTP request received."
            head = _head(error.status, "text/plain; charset=utf-8", keep_alive=False)
            self.transport.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
            self.transport.close()
            return
        if parsed is not None:
            request, keep_alive = parsed
            exchange = self._current = HttpExchange(self, request, keep_alive)
            self._server.handler(exchange)

    def _parse(self) -> tuple[HttpRequest, bool] | None:
        if self._head is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0 or end > _MAX_HEAD:
                if len(self._buffer) > _MAX_HEAD:
                    raise _BadRequestError(431)
                return None
            self._head = _parse_head(bytes(self._buffer[:end]))
            self._body = _body_reader(self._head.headers)
            del self._buffer[: end + 4]
        head, body = self._head, self._body(self._buffer)
        if body is None:
            if head.headers.get("expect", "").lower() == "100-continue" and not self._continued:
                self._continued = True
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return None
        self._head, self._continued = None, False
        return HttpRequest(head.method, head.path, head.headers, body), head.keep_alive


@dataclass(frozen=True, slots=True)
class _Head:
    method: str
    path: str
    headers: Mapping[str, str]
    keep_alive: bool


def _parse_head(head: bytes) -> _Head:
    lines = head.decode("latin-1").split("\r\n")
    first = lines[0].split(" ")
    if len(first) != 3 or not first[2].startswith("HTTP/1."):
        raise _BadRequestError(400)
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or name != name.strip():
            raise _BadRequestError(400)
        headers[name.lower()] = value.strip()
    connection = headers.get("connection", "").lower()
    keep_alive = connection != "close" and (first[2] == "HTTP/1.1" or connection == "keep-alive")
    return _Head(first[0], first[1].partition("?")[0], headers, keep_alive)


def _body_reader(headers: Mapping[str, str]) -> _BodyReader:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return _ChunkedBody().feed
    text = headers.get("content-length", "0")
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise _BadRequestError(400)
    length = int(text)
    if length > MAX_BODY:
        raise _BadRequestError(413)

    def sized(buffer: bytearray) -> bytes | None:
        if len(buffer) < length:
            return None
        body = bytes(buffer[:length])
        del buffer[:length]
        return body

    return sized


class _ChunkedBody:
    """A chunked body (RFC 9112, 7.1), read as it comes. Trailers are dropped."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._total = 0
        self._missing: int | None = None
        self._trailers = False

    def feed(self, buffer: bytearray) -> bytes | None:
        while True:
            if self._missing is not None:
                if len(buffer) < self._missing + 2:
                    return None
                self._parts.append(bytes(buffer[: self._missing]))
                del buffer[: self._missing + 2]
                self._missing = None
            end = buffer.find(b"\r\n", 0, _MAX_HEAD)
            if end < 0:
                if len(buffer) >= _MAX_HEAD:
                    raise _BadRequestError(400)
                return None
            line = bytes(buffer[:end])
            del buffer[: end + 2]
            if self._trailers and not line:
                return b"".join(self._parts)
            if not self._trailers:
                self._size(line)

    def _size(self, line: bytes) -> None:
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            raise _BadRequestError(400) from None
        self._total += size
        if size < 0 or self._total > MAX_BODY:
            raise _BadRequestError(413)
        if size:
            self._missing = size
        else:
            self._trailers = True


class PodHttpServer:
    """Listens on one address and port."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.connections: set[_Connection] = set()
        self.draining = False
        self._empty = asyncio.Event()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port it listens on. Raises RuntimeError while it does not."""
        if self._server is None:
            raise RuntimeError("the server is not listening: call start() first")
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self, address: str, port: int) -> None:
        """Listen; port 0 takes a free one. Raises OSError when the address is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), address, port, backlog=512)

    def left(self, connection: _Connection) -> None:
        """A connection is closed."""
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    async def drain(self, seconds: float) -> None:
        """As uvicorn does on SIGTERM: listen no more, close what is idle, and wait until the rest is answered."""
        self.draining = True
        if self._server is not None:
            self._server.close()
        self._empty.clear()
        for connection in tuple(self.connections):
            if not connection.busy:
                connection.transport.close()
        if self.connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._empty.wait()

    def crash(self) -> None:
        """Reset every connection and stop listening, as a killed process does."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in tuple(self.connections):
            connection.transport.abort()

    async def stop(self) -> None:
        """Stop listening and close every connection."""
        server = self._server
        self.crash()
        if server is not None:
            await server.wait_closed()
