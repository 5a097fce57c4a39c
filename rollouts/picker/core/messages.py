"""Plain values that go in and out of an ext_proc stream, free of any gRPC or protobuf type.

Named tuples and not dataclasses: a stream makes a handful of them per request and a frozen dataclass costs
three times as much to build. Header names and values are bytes, as they are on the wire; names are lower
case (HTTP/2, RFC 9113 section 8.2.1).
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

__all__ = [
    "MAX_HEADER_LIST",
    "PER_KEPT_LINE",
    "PER_LINE",
    "BodyMode",
    "BodyReply",
    "BufferedReply",
    "Headers",
    "HeadersReply",
    "ImmediateReply",
    "Incoming",
    "Outgoing",
    "Protocol",
    "RequestBody",
    "RequestHeaders",
    "RequestTrailers",
    "ResponseBody",
    "ResponseHeaders",
    "ResponseTrailers",
    "Side",
    "TrailersReply",
]

Headers = dict[bytes, bytes]

MAX_HEADER_LIST = 256 << 10
"""Bytes of all names and values, and ``PER_LINE`` for each line, that headers may have: Envoy takes
60 KiB and 100 lines unless told otherwise."""

PER_LINE = 32
"""RFC 9113, section 6.5.2."""

PER_KEPT_LINE = 160
"""Bytes that a line takes beside its name and value while it is kept: two objects, and a place in a dictionary."""


class BodyMode(IntEnum):
    """``ProcessingMode.BodySendMode`` of Envoy; the numbers are those of the protobuf enum."""

    NONE = 0
    STREAMED = 1
    BUFFERED = 2
    BUFFERED_PARTIAL = 3
    FULL_DUPLEX_STREAMED = 4
    GRPC = 5


class Protocol(NamedTuple):
    """``ProtocolConfiguration``: what Envoy says, on the first message, about the bodies to come."""

    request_body: BodyMode = BodyMode.FULL_DUPLEX_STREAMED
    response_body: BodyMode = BodyMode.FULL_DUPLEX_STREAMED


class Side(IntEnum):
    """Which half of the HTTP exchange a reply belongs to."""

    REQUEST = 0
    RESPONSE = 1


class RequestHeaders(NamedTuple):
    """The request's headers. ``metadata`` is the serialized ``Metadata`` message, empty when absent.

    ``too_large``: the headers are more than ``MAX_HEADER_LIST``, and left out. ``kept``: bytes that they take
    while they are kept.
    """

    headers: Headers
    end_of_stream: bool = False
    metadata: bytes = b""
    protocol: Protocol = Protocol()
    too_large: bool = False
    kept: int = 0


class RequestBody(NamedTuple):
    """One chunk of the request body."""

    body: bytes
    end_of_stream: bool = False
    metadata: bytes = b""


class RequestTrailers(NamedTuple):
    """The request's trailers: the end of a body whose last chunk did not say so."""


class ResponseHeaders(NamedTuple):
    """The response's headers, from the pod or from Envoy itself (a local reply). None beyond ``MAX_HEADER_LIST``."""

    headers: Headers
    end_of_stream: bool = False
    metadata: bytes = b""
    protocol: Protocol = Protocol()


class ResponseBody(NamedTuple):
    """One chunk of the response body."""

    body: bytes
    end_of_stream: bool = False


class ResponseTrailers(NamedTuple):
    """The response's trailers: the end of a response whose last chunk did not say so."""


Incoming = RequestHeaders | RequestBody | RequestTrailers | ResponseHeaders | ResponseBody | ResponseTrailers


class HeadersReply(NamedTuple):
    """Answer to headers. A non-empty ``endpoint`` is also sent as dynamic metadata ``envoy.lb``."""

    side: Side
    set_headers: tuple[tuple[bytes, bytes], ...] = ()
    remove_headers: tuple[bytes, ...] = ()
    clear_route_cache: bool = False
    endpoint: bytes = b""


class BodyReply(NamedTuple):
    """One chunk of a full-duplex streamed body."""

    side: Side
    body: bytes
    end_of_stream: bool


class BufferedReply(NamedTuple):
    """Answer to a body that is not full-duplex. ``body`` None leaves it as it is."""

    side: Side
    body: bytes | None = None
    set_headers: tuple[tuple[bytes, bytes], ...] = ()
    remove_headers: tuple[bytes, ...] = ()
    clear_route_cache: bool = False
    endpoint: bytes = b""


class TrailersReply(NamedTuple):
    """Answer to trailers, which stay as they are."""

    side: Side


class ImmediateReply(NamedTuple):
    """An answer to the client in place of the pod's. ``details`` shows up in Envoy's access log."""

    status: int
    body: bytes
    details: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


Outgoing = HeadersReply | BodyReply | BufferedReply | TrailersReply | ImmediateReply
