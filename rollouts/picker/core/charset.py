"""JSON in another encoding than plain UTF-8, as ``json.loads`` of Python takes it when it is given bytes.

That is what reads the requests of FastAPI, and so of vLLM: UTF-8 with a byte order mark, UTF-16 and UTF-32 of either
order with one or without, told apart by the first four bytes; surrogates may stand alone.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable

from rollouts.picker.core.members import BodyError

__all__ = ["NEEDED", "Transcoder", "transcoder_of"]

NEEDED = 4
"""Bytes that decide."""

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF8, "utf-8"),
)


def transcoder_of(first: bytes) -> Transcoder | None:
    """For a body that begins with these bytes, all of it or at least ``NEEDED``; None for plain UTF-8."""
    if len(first) > 1 and first[0] == 0x7B and first[1]:  # {, the beginning of nearly all
        return None
    for mark, name in _MARKS:
        if first.startswith(mark):
            return Transcoder(name, len(mark))
    name = json.detect_encoding(first)
    return None if name == "utf-8" else Transcoder(name, 0)


class Transcoder:
    """Gives the body as UTF-8, chunk by chunk, and finds places of that again in the body."""

    __slots__ = ("_decoder", "_mark", "_skipped", "name")

    def __init__(self, name: str, mark: int) -> None:
        self.name = name
        self._mark = self._skipped = mark
        self._decoder = self._new()

    def _new(self) -> codecs.IncrementalDecoder:
        return codecs.getincrementaldecoder(self.name)("surrogatepass")

    def feed(self, chunk: bytes) -> bytes:
        """The next bytes as UTF-8. Raises BodyError."""
        if self._skipped:
            skip, chunk = chunk[: self._skipped], chunk[self._skipped :]
            self._skipped -= len(skip)
        return self._decode(chunk, final=False).encode("utf-8", "surrogatepass")

    def _decode(self, chunk: bytes, *, final: bool) -> str:
        try:
            return self._decoder.decode(chunk, final)
        except UnicodeDecodeError:
            raise BodyError(f"the body is not {self.name.upper()}, as which it begins") from None

    def finish(self) -> None:
        """The body is complete. Raises BodyError when it ends inside of a character."""
        self._decode(b"", final=True)

    def encode(self, text: bytes) -> bytes:
        """UTF-8 in the body's encoding."""
        return text.decode("utf-8").encode(self.name)

    def places(self, chunks: Iterable[bytes], wanted: tuple[int, ...]) -> tuple[int, ...]:
        """Where in the body, held in chunks, ascending offsets into its UTF-8 are."""
        again = Transcoder(self.name, self._mark)
        found: list[int] = []
        passed, at = 0, self._mark
        for chunk in chunks:
            text = again.feed(chunk)
            while len(found) < len(wanted) and wanted[len(found)] <= passed + len(text):
                inside = text[: wanted[len(found)] - passed].decode("utf-8", "surrogatepass")
                found.append(at + len(inside.encode(self.name, "surrogatepass")))
            passed += len(text)
            at += len(text.decode("utf-8", "surrogatepass").encode(self.name, "surrogatepass"))
        return tuple(found)
