"""Undoes the content codings of a request body (RFC 9110, section 8.4) as it comes, within bounds.

gzip and deflate by zlib, zstd (RFC 8878) and br (RFC 7932) by their reference libraries; several of them may be nested.
A body may unfold to ``MAX_RATIO`` times its size and not beyond the limit that holds for bodies without a coding:
what lies in between on the way counts like the result.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

import brotli
from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

__all__ = ["MAX_NESTED", "MAX_RATIO", "CodingError", "Decoding", "ExpandedTooFar", "codings_of"]

MAX_RATIO = 200
"""Prompts compress to a tenth; 200 is text that repeats itself, gzip can reach 1,000 and the others have no end."""

FREE = 1 << 20
"""Bytes that may come out whatever went in."""

MAX_NESTED = 3
"""Codings of one body: two on top of each other are a mistake already."""

PIECE = 65_536
"""Bytes that come out at once."""

_MAX_MEMBERS = 4096
"""Of a gzip or zstd body: each costs a new decoder. Parallel compressors write one in 64 KiB or more."""

_WINDOW_LOG = 23
"""8 MiB, the largest window that RFC 9659 allows the coding ``zstd``: a frame may ask for 2 GiB of memory."""


class CodingError(ValueError):
    """The body is not what its content-encoding says. The message names the coding."""


class ExpandedTooFar(ValueError):
    """The body unfolds to more than is taken. The message says to how much."""


class _Beyond(ValueError):
    """There is more than the one body that there may be. The message says of what."""


class _Codec(Protocol):
    finished: bool

    def feed(self, data: bytes) -> Iterator[bytes]: ...


class _Inflate:
    """gzip, of one or more members, and deflate, with or without zlib's wrapping: both are sent."""

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._first = b""
        self._members = 0
        self._zlib = zlib.decompressobj(31) if gzip else None
        self.finished = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._zlib is None:
            self._first += data
            if len(self._first) < 2:
                return
            data = self._first
            wrapped = data[0] & 15 == 8 and (data[0] << 8 | data[1]) % 31 == 0
            self._zlib = zlib.decompressobj(15 if wrapped else -15)
        pending = bool(data)
        while pending:
            if self._zlib.eof:
                self._next()
            piece = self._zlib.decompress(data, PIECE)
            if piece:
                yield piece
            data = self._zlib.unused_data if self._zlib.eof else self._zlib.unconsumed_tail
            # A full piece may leave output behind in the decoder although all of the input is gone.
            pending = bool(data) or (len(piece) == PIECE and not self._zlib.eof)
        self.finished = self._zlib.eof

    def _next(self) -> None:
        self._members += 1
        if not self._gzip or self._members > _MAX_MEMBERS:
            raise _Beyond("something follows its end")
        self._zlib = zlib.decompressobj(31)


class _Zstd:
    """zstd, of one or more frames."""

    def __init__(self) -> None:
        self._frames = 0
        self._frame = self._new()
        self.finished = False

    def _new(self) -> ZstdDecompressor:
        self._frames += 1
        if self._frames > _MAX_MEMBERS:
            raise _Beyond("too many frames")
        return ZstdDecompressor(options={DecompressionParameter.window_log_max: _WINDOW_LOG})

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._frame.eof:
                self._frame = self._new()
            yield self._frame.decompress(data, PIECE)
            while not self._frame.eof and not self._frame.needs_input:
                yield self._frame.decompress(b"", PIECE)
            data = self._frame.unused_data if self._frame.eof else b""
        self.finished = self._frame.eof


class _Brotli:
    """br."""

    def __init__(self) -> None:
        self._stream = brotli.Decompressor()
        self.finished = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        if data and self.finished:
            raise _Beyond("something follows its end")
        piece = self._stream.process(data, output_buffer_limit=PIECE)
        yield piece
        # A full piece may leave output behind in the decoder, which then says that it can accept more.
        while len(piece) >= PIECE or not self._stream.can_accept_more_data():
            piece = self._stream.process(b"", output_buffer_limit=PIECE)
            yield piece
        self.finished = self._stream.is_finished()


_CODECS: dict[str, Callable[[], _Codec]] = {
    "gzip": lambda: _Inflate(gzip=True),
    "x-gzip": lambda: _Inflate(gzip=True),
    "deflate": lambda: _Inflate(gzip=False),
    "zstd": _Zstd,
    "br": _Brotli,
}
_ERRORS = (zlib.error, ZstdError, brotli.error, EOFError)


def codings_of(value: bytes) -> tuple[str, ...]:
    """The codings in a ``content-encoding`` header, in the order in which they were applied."""
    names = (name.strip().lower() for name in value.decode("latin-1").split(","))
    return tuple(name for name in names if name not in ("", "identity"))


class Decoding:
    """Undoes ``codings``, fed with chunks; ``size`` counts what came out. Raises LookupError for unknown ones."""

    __slots__ = ("_codecs", "_fed", "_limit", "_made", "size")

    def __init__(self, codings: tuple[str, ...], limit: int) -> None:
        if len(codings) > MAX_NESTED:
            raise LookupError(f"{len(codings)} codings on top of each other")
        self._codecs = [(name, _CODECS[name]()) for name in reversed(codings)]
        self._made = [0] * len(codings)
        self._limit = limit
        self._fed = 0
        self.size = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The next bytes without their codings, piece by piece. Raises CodingError and ExpandedTooFar."""
        self._fed += len(data)
        for piece in self._through(0, data):
            self.size += len(piece)
            yield piece

    def _through(self, level: int, data: bytes) -> Iterator[bytes]:
        if level == len(self._codecs):
            yield data
            return
        name, codec = self._codecs[level]
        try:
            for piece in codec.feed(data):
                if piece:
                    self._count(level, len(piece))
                    yield from self._through(level + 1, piece)
        except _ERRORS:  # the words of each library are its own, and tell a client nothing
            raise CodingError(f"the body is not valid {name}, which its content-encoding says") from None
        except _Beyond as error:
            text = f"the body is not valid {name}, which its content-encoding says: {error}"
            raise CodingError(text) from None

    def _count(self, level: int, size: int) -> None:
        self._made[level] += size
        made = self._made[level]
        if made > self._limit:
            raise ExpandedTooFar(f"the request body is larger than {self._limit} bytes without its coding")
        if made > FREE and made > MAX_RATIO * self._fed:
            raise ExpandedTooFar(f"the request body unfolds to more than {MAX_RATIO} times its size")

    def finish(self) -> None:
        """The body is complete. Raises CodingError when it is cut off."""
        for name, codec in self._codecs:
            if self._fed and not codec.finished:
                raise CodingError(f"the body is cut off: its {name} data do not end")
