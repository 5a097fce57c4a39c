"""What a decision makes of a request: its headers, and its body with another model where one is due."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from rollouts.picker.core.messages import (
    BodyReply,
    BufferedReply,
    Headers,
    HeadersReply,
    Outgoing,
    Side,
    TrailersReply,
)
from rollouts.picker.core.reader import BodyEdit, RequestReader
from rollouts.picker.core.routing import Decision
from rollouts.picker.core.splicing import splice

__all__ = ["DESTINATION", "NO_CHANGE", "Answer", "in_pieces"]

DESTINATION = b"x-gateway-destination-endpoint"
NO_CHANGE = BodyEdit()

# What only the picker may say, and what was meant for the picker alone.
_STRIPPED = frozenset((
    b"x-gateway-destination-endpoint-served",
    b"x-gateway-destination-endpoint-subset",
    b"x-gateway-inference-objective",
    b"x-gateway-inference-fairness-id",
    b"x-gateway-model-name-rewrite",
))  # fmt: skip

_MAX_LAST, _TAIL = 16_384, 512
"""The end of a request that is left goes out with the end of the stream. Envoy reads both at once when they
are short: beyond one HTTP/2 frame a short tail is cut off for that."""


_MAX_LENGTH_DIGITS = 19
"""A content-length of more digits than any 64-bit number has is none."""


class _Routed(NamedTuple):
    """The part of a reply that routes the request, in the order of ``HeadersReply`` and ``BufferedReply``."""

    set_headers: tuple[tuple[bytes, bytes], ...]
    remove_headers: tuple[bytes, ...]
    clear_route_cache: bool
    endpoint: bytes


class Answer(NamedTuple):
    """A decision with what it does to the request; ``plain``: the body is sent without its codings.

    Of the request's headers it keeps what is needed: a response may last for hours.
    """

    decision: Decision
    stripped: tuple[bytes, ...]
    content_length: int | None
    change: BodyEdit
    plain: bool

    @classmethod
    def to(
        cls, decision: Decision, headers: Headers, change: BodyEdit = NO_CHANGE, *, plain: bool = False
    ) -> Answer:
        """For a request with these headers."""
        stripped = () if _STRIPPED.isdisjoint(headers) else tuple(sorted(_STRIPPED & headers.keys()))
        length = headers.get(b"content-length", b"")
        known = length.isdigit() and len(length) <= _MAX_LENGTH_DIGITS
        return cls(decision, stripped, int(length) if known else None, change, plain)

    def head(self) -> HeadersReply:
        """The reply to the headers of a request whose body is not known."""
        return HeadersReply(Side.REQUEST, *self._routed(None))

    def _routed(self, length: int | None) -> _Routed:
        """What the decision does to the headers; ``length`` of a body that has a known one."""
        address = self.decision.endpoint.address.encode()
        headers: tuple[tuple[bytes, bytes], ...] = ((DESTINATION, address),)
        if length is not None:
            headers = (*headers, (b"content-length", b"%d" % length))
        removed = (*self.stripped, b"content-encoding") if self.plain else self.stripped
        return _Routed(headers, removed, True, address)

    def _pieces(self, reader: RequestReader) -> tuple[Iterator[bytes], int]:
        """The body to send, in pieces, and its length."""
        start, end, new = self.change
        size = reader.plain.size if self.plain else reader.held.size
        return splice(reader.chunks(plain=self.plain), start, end, new), size - (end - start) + len(new)

    def streamed(self, reader: RequestReader, *, trailers: bool, leaving: bool) -> Iterator[Outgoing]:
        """Headers, body, trailers of a full-duplex request. Bytes are let go of as they are sent."""
        pieces, length = self._pieces(reader)
        # HTTP/1.1 has trailers only where there is no content-length.
        yield HeadersReply(Side.REQUEST, *self._routed(None if trailers or not length else length))
        previous = next(pieces)
        for piece in pieces:
            yield BodyReply(Side.REQUEST, previous, False)
            previous = piece
        reader.release()
        if leaving and len(previous) > _MAX_LAST:
            yield BodyReply(Side.REQUEST, previous[:-_TAIL], False)
            previous = previous[-_TAIL:]
        yield BodyReply(Side.REQUEST, previous, not trailers)
        if trailers:
            yield TrailersReply(Side.REQUEST)

    def buffered(self, reader: RequestReader) -> BufferedReply:
        """The reply to a buffered body: in this mode it may still change the headers."""
        pieces, _ = self._pieces(reader)
        body = b"".join(pieces) if self.change.new or self.plain else None
        reader.release()
        return BufferedReply(Side.REQUEST, body, *self._routed(None if body is None else len(body)))

    def passing(self, reader: RequestReader) -> Iterator[Outgoing]:
        """Headers and what is there of a body that goes on as it comes."""
        yield HeadersReply(Side.REQUEST, *self._routed(self.content_length))
        for piece in splice(reader.chunks(plain=False), 0, 0, b""):
            yield BodyReply(Side.REQUEST, piece, False)
        reader.release()


def in_pieces(side: Side, body: bytes, *, end: bool) -> Iterator[Outgoing]:
    """A chunk of any size; nothing for an empty one that is not the end."""
    if body or end:
        pieces = list(splice(deque([body]), 0, 0, b""))
        for index, piece in enumerate(pieces):
            yield BodyReply(side, piece, end and index == len(pieces) - 1)
