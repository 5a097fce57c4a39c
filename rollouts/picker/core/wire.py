"""ext_proc messages to plain values, straight from protobuf bytes; ``encoding`` is the way back.

Building and walking generated message objects costs more than everything else the picker does with a
short request, so the few fields it needs are read by hand. Sources: the protobuf encoding
guide (wire types, varints, "last one wins" for a repeated singular field) and Envoy's
``envoy/service/ext_proc/v3/external_processor.proto`` for the field numbers. A property test holds this
module against the generated ``xds-protos`` classes.

Deviation, harmless because no serializer produces it: a singular sub-message that is split over several
occurrences is not merged, its last occurrence is taken.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from rollouts.picker.core.messages import (
    MAX_HEADER_LIST,
    PER_KEPT_LINE,
    PER_LINE,
    BodyMode,
    Headers,
    Incoming,
    Protocol,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
)

__all__ = ["MAX_METADATA", "MAX_STRUCT_DEPTH", "WireError", "decode", "metadata_value"]

MAX_STRUCT_DEPTH = 16
"""A subset hint is two levels deep; metadata is set by operators but may copy client input."""

MAX_METADATA = 64 << 10
"""Bytes of the metadata that a subset hint may come in: about three thousand addresses. What is read of it takes many
times as much."""

_DEFAULT_PROTOCOL = Protocol()
_JOINED = {b"cookie": b"; ", b"content-encoding": b", ", b"connection": b", ", b"upgrade": b", "}
"""Headers that may come in several lines, and what stands between the values in one."""


class WireError(ValueError):
    """The bytes are not a ``ProcessingRequest`` that this picker can read."""


def _varint(data: bytes, pos: int) -> tuple[int, int]:
    """(value, next position) of a base-128 varint of at most 10 bytes."""
    shift = value = 0
    while True:
        byte = data[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, pos
        shift += 7
        if shift > 63:
            raise WireError("a varint of more than ten bytes")


def _fields(data: bytes, pos: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(field number, wire type, value or start, next position) of each field in ``data[pos:end]``.

    For length-delimited fields the payload is ``data[start:next]``. Fixed-size fields are skipped over:
    no field we read has one, but numbers in a Struct do.
    """
    while pos < end:
        tag = data[pos]
        pos += 1
        if tag >= 0x80:
            tag, pos = _varint(data, pos - 1)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise WireError("field number 0")
        if kind == 2:
            size = data[pos]
            pos += 1
            if size >= 0x80:
                size, pos = _varint(data, pos - 1)
            start, pos = pos, pos + size
            if pos > end:
                raise WireError("a field is longer than its message")
            yield number, kind, start, pos
        elif kind == 0:
            value, pos = _varint(data, pos)
            yield number, kind, value, pos
        elif kind in (1, 5):
            start, pos = pos, pos + (8 if kind == 1 else 4)
            yield number, kind, start, pos
        else:
            raise WireError(f"wire type {kind} is not in use any more")
    if pos != end:
        raise WireError("a field runs over the end of its message")


def _headers(data: bytes, start: int, end: int) -> tuple[Headers, int, int]:
    """``HeaderMap``, the bytes of all its names and values, and the number of its lines.

    The first value of a repeated name wins, but cookies (RFC 9113 8.2.3) and lists are joined.

    This is ``_fields`` written out twice, because it is the hottest loop of a short request, and once more for
    a header as Envoy writes nearly all: a name and a raw value, all lengths below 128.
    """
    found: Headers = {}
    total = lines = 0
    data, pos, end = (
        data[start:end],
        0,
        end - start,
    )  # what is behind it is no part of it, whatever its lengths say
    while pos < end:
        if pos + 3 < end and data[pos] == 0x0A and data[pos + 2] == 0x0A and (size := data[pos + 1]) < 0x80:
            middle = pos + 4 + data[pos + 3]
            stop = pos + 2 + size
            if (
                middle + 1 < stop <= end
                and data[middle] == 0x1A
                and data[middle + 1] == stop - middle - 2 < 0x80
            ):
                name = data[pos + 4 : middle]
                lines += 1
                total += size - 4
                if name not in found:
                    found[name] = data[middle + 2 : stop]
                elif name in _JOINED:
                    found[name] += _JOINED[name] + data[middle + 2 : stop]
                pos = stop
                continue
        if data[pos] != 0x0A:  # anything but HeaderMap.headers
            for _, _, _, after in _fields(data, pos, end):
                pos = after
                break
            continue
        size = data[pos + 1]
        pos += 2
        if size >= 0x80:
            size, pos = _varint(data, pos - 1)
        stop = pos + size
        if stop > end:
            raise WireError("a header is longer than its map")
        name = value = b""
        while pos < stop:
            tag = data[pos]
            size = data[pos + 1]
            pos += 2
            if tag not in (0x0A, 0x12, 0x1A):
                raise WireError("an unknown field in a header")
            if size >= 0x80:
                size, pos = _varint(data, pos - 1)
            if tag == 0x0A:
                name = data[pos : pos + size]
            elif size:
                value = data[pos : pos + size]
            pos += size
        if pos != stop:
            raise WireError("a header runs over its end")
        lines += 1
        total += len(name) + len(value)
        if name not in found:
            found[name] = value
        elif name in _JOINED:
            found[name] += _JOINED[name] + value
    kept = (
        total + lines * PER_LINE <= MAX_HEADER_LIST
    )  # what is too large is left out, however its names are spelled
    if kept and b":method" not in found and b":status" not in found:
        return _headers_in_any_case(data, 0, end)
    return found, total, lines


def _headers_in_any_case(data: bytes, start: int, end: int) -> tuple[Headers, int, int]:
    """The same for what no proxy of HTTP/2 wrote: NGINX Gateway Fabric sends names as Go spells them."""
    found: Headers = {}
    total = lines = 0
    for number, kind, begin, stop in _fields(data, start, end):
        if number != 1 or kind != 2:
            continue
        name = value = b""
        for part, _, at, after in _fields(data, begin, stop):
            if part == 1:
                name = data[at:after].lower()
            elif after > at:
                value = data[at:after]
        lines += 1
        total += len(name) + len(value)
        if name not in found:
            found[name] = value
        elif name in _JOINED:
            found[name] += _JOINED[name] + value
    return found, total, lines


def _http_headers(data: bytes, start: int, end: int) -> tuple[Headers, bool, bool, int]:
    """``HttpHeaders``: (headers, end_of_stream, whether they are too large, bytes that they take).

    Of those that are too large all but the status of a response are left out.
    """
    headers: Headers = {}
    eos, size, lines = False, 0, 0
    for number, kind, value, after in _fields(data, start, end):
        if number == 1 and kind == 2:
            headers, size, lines = _headers(data, value, after)
        elif number == 3 and kind == 0:
            eos = value != 0
    large = size + lines * PER_LINE > MAX_HEADER_LIST
    if large:  # a status comes first
        headers = dict(item for item in itertools.islice(headers.items(), 1) if item[0] == b":status")
    return headers, eos, large, size + lines * PER_KEPT_LINE


def _http_body(data: bytes, start: int, end: int) -> tuple[bytes, bool]:
    """``HttpBody``: (body, end_of_stream or end_of_stream_without_message)."""
    body = b""
    eos = False
    for number, kind, value, after in _fields(data, start, end):
        if number == 1 and kind == 2:
            body = data[value:after]
        elif number in (2, 3) and kind == 0:
            eos = eos or value != 0
    return body, eos


def _protocol(data: bytes, start: int, end: int) -> Protocol:
    """``ProtocolConfiguration``; a mode that we do not know counts as NONE: nothing to expect."""
    modes = {1: 0, 2: 0}
    for number, kind, value, _ in _fields(data, start, end):
        if number in modes and kind == 0:
            modes[number] = value
    known = {mode.value for mode in BodyMode}
    return Protocol(*(BodyMode(mode if mode in known else 0) for mode in modes.values()))


def decode(data: bytes) -> Incoming | None:
    """A serialized ``ProcessingRequest``; None when it holds none of the six messages.

    Raises WireError for bytes that are not such a message.
    """
    try:
        return _plain_body(data) or _decode(data)
    except IndexError:
        raise WireError("the message ends in the middle of a field") from None


def _plain_body(data: bytes) -> Incoming | None:
    """A body message with nothing but a body and perhaps its end, which is what nearly all are; else None."""
    if not data or data[0] not in (0x22, 0x2A):
        return None
    size, pos = data[1], 2
    if size >= 0x80:
        size, pos = _varint(data, 1)
    if pos + size != len(data) or not size or data[pos] != 0x0A:
        return None
    size, pos = data[pos + 1], pos + 2
    if size >= 0x80:
        size, pos = _varint(data, pos - 1)
    end = pos + size
    left = len(data) - end
    if left == 2:
        if data[end] != 0x10 or data[end + 1] != 1:
            return None
    elif left:
        return None
    kind = RequestBody if data[0] == 0x22 else ResponseBody
    return kind(data[pos:end], left == 2)


def _decode(data: bytes) -> Incoming | None:
    which = start = stop = 0
    metadata = b""
    protocol = _DEFAULT_PROTOCOL
    for number, kind, value, after in _fields(data, 0, len(data)):
        if kind != 2:
            continue
        if 2 <= number <= 7:
            which, start, stop = number, value, after
        elif number == 8:
            metadata = data[value:after]
        elif number == 11:
            protocol = _protocol(data, value, after)
    if which == 4:
        return RequestBody(*_http_body(data, start, stop), metadata)
    if which == 5:
        return ResponseBody(*_http_body(data, start, stop))
    if which == 2:
        headers, eos, large, kept = _http_headers(data, start, stop)
        return RequestHeaders(headers, eos, metadata, protocol, large, kept)
    if which == 3:
        headers, eos, *_ = _http_headers(data, start, stop)
        return ResponseHeaders(headers, eos, metadata, protocol)
    if which == 6:
        return RequestTrailers()
    return ResponseTrailers() if which == 7 else None


def metadata_value(metadata: bytes, namespace: bytes, key: bytes) -> Any:
    """``filter_metadata[namespace][key]`` of a serialized ``Metadata`` as Python values, else None.

    ``google.protobuf.Struct`` maps to dict, list, str, float, bool; its null is None as well.
    Raises WireError, for more than ``MAX_METADATA`` too.
    """
    if namespace not in metadata:  # the common case, decided at the speed of memchr
        return None
    if len(metadata) > MAX_METADATA:
        raise WireError(f"metadata of {len(metadata)} bytes; at most {MAX_METADATA} are read")
    try:
        for number, kind, start, stop in _fields(metadata, 0, len(metadata)):
            if number == 1 and kind == 2:
                name, value = _entry(metadata, start, stop)
                if name == namespace and value is not None:
                    return _struct(metadata, *value, 0).get(key.decode())
    except IndexError:
        raise WireError("the metadata ends in the middle of a field") from None
    except UnicodeDecodeError:
        raise WireError("a string in the metadata is not UTF-8") from None
    return None


def _entry(data: bytes, start: int, end: int) -> tuple[bytes, tuple[int, int] | None]:
    """(key, span of the value) of one protobuf map entry."""
    key = b""
    span = None
    for number, kind, value, after in _fields(data, start, end):
        if number == 1 and kind == 2:
            key = data[value:after]
        elif number == 2 and kind == 2:
            span = (value, after)
    return key, span


def _struct(data: bytes, start: int, end: int, depth: int) -> dict[str, Any]:
    if depth > MAX_STRUCT_DEPTH:
        raise WireError("metadata is nested too deeply")
    found: dict[str, Any] = {}
    for number, kind, value, after in _fields(data, start, end):
        if number == 1 and kind == 2:
            key, span = _entry(data, value, after)
            found[key.decode()] = None if span is None else _value(data, *span, depth + 1)
    return found


def _value(data: bytes, start: int, end: int, depth: int) -> Any:
    """``google.protobuf.Value``: the last member of the oneof that is present."""
    if depth > MAX_STRUCT_DEPTH:
        raise WireError("metadata is nested too deeply")
    found: Any = None
    for number, kind, value, after in _fields(data, start, end):
        if number == 3 and kind == 2:
            found = data[value:after].decode()
        elif number == 4 and kind == 0:
            found = value != 0
        elif number == 5 and kind == 2:
            found = _struct(data, value, after, depth + 1)
        elif number == 6 and kind == 2:
            spans = [(s, e) for n, k, s, e in _fields(data, value, after) if n == 1 and k == 2]
            found = [_value(data, s, e, depth + 1) for s, e in spans]
        elif number in (1, 2):
            found = None  # null, or a number: nothing we ask for is one
    return found
