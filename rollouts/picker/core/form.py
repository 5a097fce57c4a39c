"""Finds the fields of a multipart form (RFC 7578) as it comes: speech to text sends its ``model`` in one.

Parsed by the library, and by the rules, of Starlette and so of vLLM: of several fields of a name the last one counts,
a part with a file name is a file whatever its name is, and ``charset`` of the content type says how names and values
are encoded. What the library does not tell is where in the body a value stands; that is counted here.
"""

from __future__ import annotations

import codecs
from typing import NamedTuple

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from rollouts.picker.core.members import BodyError

__all__ = ["MAX_PARTS", "FormField", "FormScanner"]

MAX_PARTS = 2000
"""Starlette takes 1,000 files and 1,000 fields."""

MAX_VALUE = 4096
"""Longest value that is kept, as in JSON."""

_CHARSETS = frozenset({"utf-8", "ascii"})
"""Any other is read as ISO 8859-1: a client must not choose among all codecs of Python, of which some are costly. In
what forms are sent in, a name of a model in ASCII reads the same."""


class FormField(NamedTuple):
    """A field: its text, and where its value stands; ``start`` -1: not known, nothing can be put there."""

    text: str
    start: int
    end: int
    clipped: bool = False


class FormScanner:
    """Fed with the chunks of one body; ``fields`` has the wanted fields that have ended.

    A part without an end is none, for Starlette either.

    Raises BodyError when the content type has no boundary, or the body is no form.
    """

    def __init__(self, content_type: bytes, wanted: frozenset[str]) -> None:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if not boundary:
            raise BodyError("the content-type multipart/form-data needs a boundary")
        self.charset = _charset(options.get(b"charset", b"utf-8"))
        self.boundary = boundary
        self._wanted = wanted
        self._base = 0  # of the chunk in the body
        self._parts = 0
        self._header = self._value = self._disposition = b""
        self._name = ""  # of the part, if wanted
        self._start = -1
        self._size = self._early = 0
        self._kept: list[bytes] = []
        self._chunk = b""
        self.fields: dict[str, FormField] = {}
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part,
                    "on_header_field": self._on_header,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers,
                    "on_part_data": self._on_data,
                    "on_part_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise BodyError(f"the content-type is no good: {error}") from None

    def feed(self, chunk: bytes) -> None:
        """Look at the next bytes. Raises BodyError."""
        self._chunk = chunk
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise BodyError(f"the body is no multipart form: {error}") from None
        self._chunk = b""
        self._base += len(chunk)

    def encode(self, text: str) -> bytes:
        """A value as it stands in this form."""
        return text.encode(self.charset, "replace")

    # --- what the parser calls; positions are those in the chunk, or in bytes that it held back ---------

    def _on_part(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise FormParserError(f"more than {MAX_PARTS} parts")
        self._disposition = b""

    def _on_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _on_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise FormParserError("a part has no name")
        name = _text(options[b"name"], self.charset)
        self._name = name if name in self._wanted and b"filename" not in options else ""
        self._start = -1
        self._size = self._early = 0
        self._kept = []

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if not self._name:
            return
        if self._start < 0:
            if data is self._chunk:
                self._start = self._base + start - self._early
            else:  # looked like the beginning of a boundary, in the chunk before
                self._early += end - start
        self._size += end - start
        if self._size <= MAX_VALUE:
            self._kept.append(data[start:end])

    def _on_end(self) -> None:
        if self._name:
            text = _text(b"".join(self._kept), self.charset)
            clipped = self._size > MAX_VALUE
            self.fields[self._name] = FormField(text, self._start, self._start + self._size, clipped)


def _charset(name: bytes) -> str:
    try:
        known = codecs.lookup(name.decode("latin-1")).name
    except (LookupError, ValueError):  # no codec, or no name for one
        return "latin-1"
    return known if known in _CHARSETS else "latin-1"


def _text(data: bytes, charset: str) -> str:
    try:
        return data.decode(charset)
    except UnicodeError:
        return data.decode("latin-1")
