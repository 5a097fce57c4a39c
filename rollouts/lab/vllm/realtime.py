"""``/v1/realtime``: the WebSocket of vLLM, as far as its handshake and a first event (RFC 6455)."""

from __future__ import annotations

import base64
import hashlib
import json

from rollouts.lab.vllm.errors import ApiError
from rollouts.lab.vllm.http_server import HttpExchange

__all__ = ["serve_realtime"]

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3 of the RFC
_CLOSE = b"\x88\x00"


def _frame(event: dict[str, str]) -> bytes:
    text = json.dumps(event).encode()
    return b"\x81" + bytes((len(text),)) + text  # events here are shorter than 126 bytes


def serve_realtime(exchange: HttpExchange, headers: bytes) -> None:
    """Switch, send ``session.created``, and ``session.updated`` for each frame until one closes. Raises ApiError."""
    asked = exchange.request.headers
    key = asked.get("sec-websocket-key", "")
    if asked.get("upgrade", "").lower() != "websocket" or not key:
        raise ApiError(426, "BadRequestError", "a WebSocket is needed")
    accept = base64.b64encode(hashlib.sha1(key.encode() + _MAGIC, usedforsecurity=False).digest())
    head = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n"

    def received(data: bytes) -> None:
        if data[0] & 15 == 8:
            exchange.write(_CLOSE)
            exchange.leave()
        else:
            exchange.write(_frame({"type": "session.updated"}))

    exchange.switch(head + b"sec-websocket-accept: " + accept + b"\r\n" + headers + b"\r\n", received)
    exchange.write(_frame({"type": "session.created"}))
