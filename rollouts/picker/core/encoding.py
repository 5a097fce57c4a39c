"""Replies to the bytes of their ext_proc messages; the counterpart of ``wire``, for the same reasons.

Field numbers are those of Envoy's ``envoy/service/ext_proc/v3/external_processor.proto``.
"""

from __future__ import annotations

import functools

from rollouts.picker.core.messages import (
    BodyReply,
    BufferedReply,
    HeadersReply,
    ImmediateReply,
    Outgoing,
    Side,
    TrailersReply,
)

__all__ = ["encode"]


def _size(value: int) -> bytes:
    """A length as a varint."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _bytes(tag: bytes, payload: bytes) -> bytes:
    return b"%b%b%b" % (tag, _size(len(payload)), payload)


@functools.lru_cache(maxsize=4096)
def _option(name: bytes, value: bytes) -> bytes:
    """``HeaderValueOption`` in ``set_headers``. Cached: addresses and lengths come again and again."""
    pair = _bytes(b"\x0a", _bytes(b"\x0a", name) + _bytes(b"\x1a", value))
    # append_action OVERWRITE_IF_EXISTS_OR_ADD: the default of the API would append.
    return _bytes(b"\x0a", pair + b"\x18\x02")


def _mutation(set_headers: tuple[tuple[bytes, bytes], ...], remove: tuple[bytes, ...]) -> bytes:
    """``HeaderMutation`` that overwrites. Values go into raw_value, as Envoy wants them by default."""
    out = [_option(name, value) for name, value in set_headers]
    out.extend(_bytes(b"\x12", name) for name in remove)
    return b"".join(out)


@functools.lru_cache(maxsize=4096)
def _endpoint_metadata(endpoint: bytes) -> bytes:
    """dynamic_metadata {"envoy.lb": {"x-gateway-destination-endpoint": endpoint}} (EPP protocol)."""
    inner = _bytes(
        b"\x0a",
        _bytes(b"\x0a", b"x-gateway-destination-endpoint") + _bytes(b"\x12", _bytes(b"\x1a", endpoint)),
    )
    outer = _bytes(b"\x0a", _bytes(b"\x0a", b"envoy.lb") + _bytes(b"\x12", _bytes(b"\x2a", inner)))
    return _bytes(b"\x42", outer)


def _common(reply: HeadersReply | BufferedReply) -> bytes:
    mutation = _mutation(reply.set_headers, reply.remove_headers)
    common = _bytes(b"\x12", mutation) if mutation else b""
    if isinstance(reply, BufferedReply) and reply.body is not None:
        common += _bytes(b"\x1a", _bytes(b"\x0a", reply.body))
    return common + b"\x28\x01" if reply.clear_route_cache else common


def _message(number: int, common: bytes, endpoint: bytes) -> bytes:
    """A ``ProcessingResponse`` whose field ``number`` holds ``common`` as its ``response``."""
    body = _bytes(b"\x0a", common) if common else b""
    out = _bytes(bytes((number << 3 | 2,)), body)
    return out + _endpoint_metadata(endpoint) if endpoint else out


_UNCHANGED = HeadersReply(Side.RESPONSE)


def encode(reply: Outgoing) -> bytes:
    """The serialized ``ProcessingResponse`` of one reply."""
    if isinstance(reply, BodyReply):
        return _streamed_body(reply)
    if isinstance(reply, HeadersReply):
        if reply == _UNCHANGED:
            return b"\x12\x00"
        return _message(1 + reply.side, _common(reply), reply.endpoint)
    if isinstance(reply, BufferedReply):
        return _message(3 + reply.side, _common(reply), reply.endpoint)
    if isinstance(reply, TrailersReply):
        return b"\x2a\x00" if reply.side == 0 else b"\x32\x00"
    return _immediate(reply)


def _streamed_body(reply: BodyReply) -> bytes:
    """BodyResponse.response.body_mutation.streamed_response, with one copy of the body."""
    tail = b"\x10\x01" if reply.end_of_stream else b""
    return b"".join((_streamed_head(reply.side, len(reply.body), len(tail)), reply.body, tail))


@functools.lru_cache(maxsize=4096)
def _streamed_head(side: int, body: int, tail: int) -> bytes:
    """What comes before ``body`` bytes and a tail. Cached: events of a stream come in a few lengths."""
    head = b"\x0a" + _size(body) if body else b""
    size = len(head) + body + tail
    for tag in (b"\x1a", b"\x1a", b"\x0a", b"\x1a" if side == 0 else b"\x22"):
        length = tag + _size(size)
        head = length + head
        size += len(length)
    return head


def _immediate(reply: ImmediateReply) -> bytes:
    out = _bytes(b"\x0a", b"\x08" + _size(reply.status))
    if reply.headers:
        out += _bytes(b"\x12", _mutation(reply.headers, ()))
    if reply.body:
        out += _bytes(b"\x1a", reply.body)
    if reply.details:
        out += _bytes(b"\x2a", reply.details)
    return _bytes(b"\x3a", out)
