"""Reads the body of one request, whatever it is written in, and says how to put another model into it.

Bytes go through up to three layers, each only where the request has it: content codings are undone, other encodings
than plain UTF-8 become UTF-8, and a scanner for JSON or for forms finds the model. What is sent on are the bytes that
came; a body whose coding was undone is sent without it where the model changes, or may.
"""

from __future__ import annotations

import functools
import json
from collections import deque
from typing import NamedTuple

from rollouts.picker.core.body import BodyScanner
from rollouts.picker.core.charset import NEEDED, Transcoder, transcoder_of
from rollouts.picker.core.coding import CodingError, Decoding, ExpandedTooFar, codings_of
from rollouts.picker.core.content import Content, content_of
from rollouts.picker.core.endpoints import Subset
from rollouts.picker.core.form import FormScanner
from rollouts.picker.core.held import HeldBody
from rollouts.picker.core.members import BodyError, Field, JsonType
from rollouts.picker.core.messages import Headers
from rollouts.picker.core.ports import BufferBudget
from rollouts.picker.core.prefix import MAX_PREFIX
from rollouts.picker.core.refusals import bad_request, too_expanded, unsupported
from rollouts.picker.core.routing import PROMPTS, Refusal, Request, Unread

__all__ = ["BodyEdit", "RequestReader"]


class BodyEdit(NamedTuple):
    """``[start, end)`` of the body to replace by ``new``; nothing by nothing changes nothing."""

    start: int = 0
    end: int = 0
    new: bytes = b""


class RequestReader:
    """Fed with the chunks of a body, which it holds; ``held`` is what came, ``plain`` that without codings.

    ``unread`` says why there is nothing to find in it, as soon as that is known.
    """

    __slots__ = (
        "_content",
        "_decoding",
        "_field",
        "_first",
        "_form",
        "_headers",
        "_opened",
        "_scanner",
        "_transcoder",
        "_wanted",
        "held",
        "plain",
        "unread",
    )

    _scanner: BodyScanner | None
    _form: FormScanner | None
    _transcoder: Transcoder | None
    _decoding: Decoding | None
    _field: Field | None  # the model in JSON, if it has one
    unread: Unread | None

    def __init__(self, headers: Headers, wanted: frozenset[str], budget: BufferBudget) -> None:
        self._headers = headers
        self._wanted = wanted
        self._scanner = self._form = self._transcoder = self._decoding = self._field = self.unread = None
        self._first = b""
        self._opened = 0
        self._content = content_of(headers)
        self.held = self.plain = HeldBody(budget)
        if coding := headers.get(b"content-encoding"):
            self._undo(coding, budget)
        if self._content is Content.FORM and self.unread is None:
            self._begin_form()

    def _undo(self, coding: bytes, budget: BufferBudget) -> None:
        codings = codings_of(coding)
        if not codings:
            return
        try:
            self._decoding = Decoding(codings, budget.body_limit)
        except LookupError:
            name = coding.decode("latin-1")[:100]
            text = f"the model of a body with content-encoding {name!r} cannot be read: send it without, or as gzip"
            self.unread = Unread(unsupported(text), hidden=True)
        self.plain = HeldBody(budget)

    def _begin_form(self) -> None:
        try:
            self._form = FormScanner(self._headers[b"content-type"], self._wanted)
        except BodyError as error:
            self.unread = Unread(bad_request(str(error)), hidden=False)

    # --- chunks ---------------------------------------------------------------------------------------

    def feed(self, chunk: bytes) -> Refusal | None:
        """Hold and read the next bytes; the refusal when they are too many, or no JSON where it must be."""
        if (refusal := self.held.add(chunk)) is not None:
            return refusal
        if self.unread is not None:
            return None
        if self._decoding is None:
            return self._read(chunk)
        try:
            for piece in self._decoding.feed(chunk):
                if (refusal := self.plain.add(piece) or self._read(piece)) is not None:
                    return refusal
                if self.unread is not None:
                    break
        except CodingError as error:
            self._give_up(Unread(bad_request(str(error)), hidden=True))
        except ExpandedTooFar as error:
            self._give_up(Unread(too_expanded(str(error)), hidden=True))
        return None

    def _give_up(self, unread: Unread) -> None:
        self.unread = unread
        if self.plain is not self.held:
            self.plain.release()

    def _read(self, piece: bytes) -> Refusal | None:
        try:
            if self._scanner is not None:
                self._scanner.feed(piece if self._transcoder is None else self._transcoder.feed(piece))
            elif self._form is not None:
                self._form.feed(piece)
            else:
                self._begin_json(piece, end=False)
        except BodyError as error:
            return self._not_read(error)
        return None

    def _begin_json(self, piece: bytes, *, end: bool) -> None:
        self._first += piece
        if len(self._first) < NEEDED and not end:
            return
        first, self._first = self._first, b""
        transcoder = self._transcoder = transcoder_of(first)
        self._scanner = BodyScanner(self._wanted)
        self._scanner.feed(first if transcoder is None else transcoder.feed(first))

    def _not_read(self, error: BodyError) -> Refusal | None:
        """What is said to be JSON is refused when it is not; anything else just has no model that can be read."""
        if self._content is Content.JSON:
            begin = self.plain.read(0, 4)
            coded = next((name for magic, name in _MAGIC.items() if begin.startswith(magic)), "")
            hint = f"; it begins like {coded}, which no content-encoding says" if coded else ""
            return bad_request(f"{error}{hint}")
        if self._content is Content.FORM:
            self._give_up(Unread(bad_request(str(error)), hidden=False))
            return None
        media = self._headers.get(b"content-type", b"").decode("latin-1")[:100]
        text = (
            f"this pool splits the requests of all models, and a body of type {media!r} names none: send JSON"
        )
        self._give_up(Unread(unsupported(text), hidden=False))
        return None

    # --- the end --------------------------------------------------------------------------------------

    def finish(self, subset: Subset | None) -> Request | Refusal:
        """The body is complete: what it asks for."""
        if self.unread is None and (refusal := self._end()) is not None:
            return refusal
        headers, self._headers = self._headers, {}  # a response may last for hours
        if self.unread is not None:
            return Request(headers, subset=subset, has_body=True, unread=self.unread)
        try:
            read = self._form_request if self._form is not None else self._json_request
            return read(headers, subset)
        except BodyError as error:
            return bad_request(str(error))

    def _end(self) -> Refusal | None:
        try:
            if self._decoding is not None:
                self._decoding.finish()
            if self._first:
                self._begin_json(b"", end=True)
            if self._transcoder is not None:
                self._transcoder.finish()
            if self._scanner is not None:
                self._scanner.finish()
        except CodingError as error:
            self._give_up(Unread(bad_request(str(error)), hidden=True))
        except BodyError as error:
            return self._not_read(error)
        return None

    def _json_request(self, headers: Headers, subset: Subset | None) -> Request:
        if self._scanner is None:  # not a byte: what it is for is between client and pod
            return Request(headers, subset=subset)
        fields, self._opened = self._scanner.fields, self._scanner.opened
        self._scanner = None  # with the text that it has in hand
        model = self._model(fields.get("model"))
        prompt = next((fields[name].start for name in PROMPTS if name in fields), None)
        wanted = {name: field.text() for name, field in fields.items() if name != "model" and field.raw}
        begin = b"" if prompt is None or self._transcoder else self.plain.read(prompt, MAX_PREFIX)
        return Request(headers, model, wanted, begin, subset, has_body=True)

    def _model(self, field: Field | None) -> str:
        """The name, empty where vLLM takes its base model: ``model`` missing, null or empty."""
        self._field = field
        if field is None or (field.kind is JsonType.SCALAR and field.raw == "null"):
            return ""
        if field.kind is not JsonType.STRING:
            raise BodyError(f'the "model" of the request has to be a string, not {_ARTICLE[field.kind]}')
        if field.clipped:
            raise BodyError('the "model" of the request is too long for a name')
        return field.text()

    def _form_request(self, headers: Headers, subset: Subset | None) -> Request:
        assert self._form is not None  # the caller checked
        fields = self._form.fields
        model = fields.get("model")
        if model is not None and model.clipped:
            raise BodyError('the "model" of the form is too long for a name')
        wanted = {name: field.text for name, field in fields.items() if name != "model"}
        unread = None
        if model is None or model.start < 0:
            text = "this pool splits the requests of all models, and this form names none: add a field model"
            unread = Unread(bad_request(text), hidden=False)
        name = "" if model is None else model.text
        return Request(headers, name, wanted, b"", subset, has_body=True, unread=unread)

    # --- another model --------------------------------------------------------------------------------

    def change(self, target: str) -> BodyEdit:
        """What to do to ``plain`` for the model to be ``target``."""
        if self._form is not None:
            place = self._form.fields["model"]
            return BodyEdit(place.start, place.end, self._form.encode(target))
        field, new = self._field, _json(target)
        if field is None:
            start = end = self._opened
            empty = self.plain.read(self._raw(start)[0], _LOOK).strip(b" \t\r\n\0")[:1] == b"}"
            new = b'"model":%b%b' % (new, b"" if empty else b",")
        else:
            start, end = field.start, field.end
        if self._transcoder is not None:
            new = self._transcoder.encode(new)
        start, end = self._raw(start, end)
        return BodyEdit(start, end, new)

    def _raw(self, *places: int) -> tuple[int, ...]:
        if self._transcoder is None:
            return places
        return self._transcoder.places(self.plain.chunks, places)

    @property
    def decoded(self) -> bool:
        """Whether ``plain`` is not what came."""
        return self.plain is not self.held

    def release(self) -> None:
        """Let go of everything. Safe to call more than once."""
        self.held.release()
        self.plain.release()

    def chunks(self, *, plain: bool) -> deque[bytes]:
        """What is held, to be taken off: without codings, or as it came. The other is let go of."""
        if self.decoded:
            (self.held if plain else self.plain).release()
        return self.plain.chunks if plain else self.held.chunks


_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}

_ARTICLE = {JsonType.SCALAR: "a number, true or false", JsonType.CONTAINER: "an object or array"}

_LOOK = 4096
"""Bytes of white space behind an opening brace that are looked through."""


@functools.lru_cache(maxsize=1024)
def _json(name: str) -> bytes:
    """A name as it stands in the body. Cached: a split has a handful of targets."""
    return json.dumps(name, ensure_ascii=False).encode("utf-8", "replace")
