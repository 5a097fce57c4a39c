"""Finds the model of a JSON request without parsing it, chunk by chunk.

``BodyScanner`` is a push-down recogniser for RFC 8259 that builds no values: it knows where it is (a state
and a stack of brackets), remembers the spans of the wanted top-level members, and is as strict as a full
parser, so that what it accepts a model server can read. Strings are skipped by the C routine of Python's
own decoder. Each chunk is scanned once, when it comes, so that a 64 MB body never blocks the other streams
for long and a string of any length costs linear time. Where a long string probably ends is guessed, and proved
by pydantic-core's parser, which is four times as fast as that routine but tells no positions.

Choices where the RFC leaves room are those of Python's ``json.loads``, with which vLLM reads requests: of duplicate
keys the last one counts, NaN and Infinity are numbers, surrogates may stand alone, even in UTF-8. Beyond that the whole
must be an object; nesting is limited to ``MAX_DEPTH`` and a number to ``MAX_TOKEN`` characters. Other encodings than
UTF-8 are for ``charset``.
"""

from __future__ import annotations

import codecs
import re
from enum import Enum
from json.decoder import scanstring  # type: ignore[attr-defined]  # the C scanner of the stdlib decoder

from pydantic_core import from_json

from rollouts.picker.core.members import BodyError, Field, JsonType

__all__ = ["LONG", "MAX_DEPTH", "MAX_TOKEN", "BodyScanner"]

MAX_DEPTH = 512
"""Chat requests with tool schemas reach about 20; vLLM's own parser gives up near 1000."""

MAX_TOKEN = 1024
"""Longest number: it must be seen whole, so it bounds what is scanned again with the next chunk."""

MAX_CAPTURE = 4096
"""Longest string value that is kept: model names have at most 253 characters, session keys not many more."""

LONG = 2048
"""Characters from which on a string is worth a guess where it ends, in place of a scan."""

_GUESSES = 3
"""Guesses per chunk: each copies what is left of it, so that without a limit many strings cost their square."""

_WINDOW = 512
"""What follows the prompt in a request seldom is longer."""

_WS = re.compile(r"[ \t\n\r]*+")
_MEMBER = re.compile(r'[ \t\n\r]*+"([^"\\\x00-\x1f]*+)"[ \t\n\r]*+:[ \t\n\r]*+')
_AFTER = re.compile(r"[ \t\n\r]*+([,}\]])[ \t\n\r]*+")
_NUMBER_OR_WORD = r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][-+]?+[0-9]++)?+|true|false|null|NaN|-?Infinity"
# A scalar ends at a terminator that we see: "12" at the end of a chunk may yet become "123".
_SCALAR = re.compile(rf"(?:{_NUMBER_OR_WORD})(?=[ \t\n\r,}}\]])")
# Most members are a plain key and a short plain value: one match instead of four steps.
_SIMPLE_MEMBER = re.compile(
    r'[ \t\n\r]*+"([^"\\\x00-\x1f]*+)"[ \t\n\r]*+:[ \t\n\r]*+'
    rf'(?:("[^"\\\x00-\x1f]{{0,128}}+")|({_NUMBER_OR_WORD}))[ \t\n\r]*+([,}}])[ \t\n\r]*+'
)
# Prompts may be arrays of token ids: swallow a run of them in one step.
_INTEGERS = re.compile(r"(?:(?:[1-9][0-9]*+|0),[ \t\n\r]*+)*+")


class _State(Enum):
    """What the grammar allows next."""

    __hash__ = object.__hash__  # in C; the one of Enum costs a Python call per token

    START = "the opening brace of the request"
    KEY_OR_END = "a key or }"
    KEY = "a key"
    COLON = "a colon"
    VALUE = "a value"
    VALUE_OR_END = "a value or ]"
    AFTER = "a comma or a closing bracket"
    END = "nothing more"


class BodyScanner:
    """Recognises one JSON object, fed in chunks; ``fields`` holds the wanted members after ``finish``.

    ``long``: how many characters make a string long; only tests need another than ``LONG``.
    """

    __slots__ = (
        "_base",
        "_capture",
        "_captured",
        "_carry",
        "_closed",
        "_decoder",
        "_guesses",
        "_in_key",
        "_in_string",
        "_key",
        "_long",
        "_split_char",
        "_stack",
        "_start",
        "_state",
        "_wanted",
        "fields",
        "opened",
        "size",
    )

    def __init__(self, wanted: frozenset[str], *, long: int = LONG) -> None:
        self._wanted = wanted
        self._long = long
        self._guesses = 0  # left in this chunk
        self._state = _State.START
        self._stack: list[str] = []
        self._carry = self._closed = ""
        self._base = 0  # offset in the body of the text being scanned
        self._in_string = self._in_key = False
        self._capture = False  # whether the string being read is kept
        self._captured: list[str] = []
        self._start = 0
        self._key = ""  # the top-level key whose value comes next, if wanted
        self._decoder: codecs.IncrementalDecoder | None = None
        self._split_char = False  # a UTF-8 sequence continues in the next chunk
        self.fields: dict[str, Field] = {}
        self.opened = 0  # offset behind the opening brace
        self.size = 0

    def feed(self, chunk: bytes) -> None:
        """Scan the next bytes. Raises BodyError as soon as it is sure that this is no JSON object."""
        if not chunk.isascii() or self._split_char:
            self._check_utf8(chunk)
        self._base = self.size - len(self._carry)
        self.size += len(chunk)
        text = self._carry + chunk.decode("latin-1")
        self._carry = self._closed = ""
        self._guesses = _GUESSES
        pos = self._string(text, 0) if self._in_string else 0
        while 0 <= pos < len(text):
            pos = _STEPS[self._state](self, text, pos)

    def finish(self) -> None:
        """The body is complete. Raises BodyError when the object is not."""
        if self._split_char:
            raise BodyError("the body ends in the middle of a UTF-8 character")
        if self._state is not _State.END:
            where = "the middle of a string" if self._in_string else f"a place that needs {self._state.value}"
            raise BodyError(f"the JSON ends in {where}")

    def _check_utf8(self, chunk: bytes) -> None:
        if self._decoder is None:
            self._decoder = codecs.getincrementaldecoder("utf-8")("surrogatepass")
        try:
            self._decoder.decode(chunk)
        except UnicodeDecodeError:
            raise BodyError("the body is not UTF-8") from None
        self._split_char = self._decoder.getstate()[0] != b""

    # Each step takes the text and a position, and returns the position to go on at, or -1 when it has to
    # wait for the next chunk.

    def _wait(self, text: str, pos: int) -> int:
        if len(text) - pos > MAX_TOKEN:
            raise BodyError(f"invalid JSON at byte {self._base + pos}: expected {self._state.value}")
        self._carry = text[pos:]
        return -1

    def _top(self, text: str, pos: int) -> int:
        pos = _WS.match(text, pos).end()  # type: ignore[union-attr]  # matches the empty string
        if pos == len(text):
            return pos
        if text[pos] != "{":
            raise BodyError("the body is not a JSON object")
        self.opened = self._base + pos + 1
        return self._open(text, pos)

    def _open(self, text: str, pos: int) -> int:
        if len(self._stack) == MAX_DEPTH:
            raise BodyError(f"the JSON is nested more than {MAX_DEPTH} levels deep")
        bracket = text[pos]
        self._stack.append(bracket)
        self._state = _State.KEY_OR_END if bracket == "{" else _State.VALUE_OR_END
        return pos + 1

    def _close(self, pos: int) -> int:
        self._stack.pop()
        self._state = _State.AFTER if self._stack else _State.END
        return pos

    def _member(self, text: str, pos: int) -> int:
        match = _SIMPLE_MEMBER.match(text, pos)
        if match is not None:
            return self._simple_member(match)
        match = _MEMBER.match(text, pos)
        if match is not None:
            if len(self._stack) == 1:
                self._set_key(match[1])
            self._state = _State.VALUE
            return match.end()
        pos = _WS.match(text, pos).end()  # type: ignore[union-attr]  # matches the empty string
        if pos == len(text):
            return pos
        if text[pos] == '"':
            self._in_key = True
            self._begin_string(pos, capture=len(self._stack) == 1)
            return self._string(text, pos + 1)
        if text[pos] == "}" and self._state is _State.KEY_OR_END:
            return self._close(pos + 1)
        raise BodyError(f"invalid JSON at byte {self._base + pos}: expected {self._state.value}")

    def _simple_member(self, match: re.Match[str]) -> int:
        if len(self._stack) == 1 and match[1] in self._wanted:
            self._key = match[1]
            group = 2 if match[2] is not None else 3
            kind = JsonType.STRING if group == 2 else JsonType.SCALAR
            start, end = match.span(group)
            self._keep(Field(kind, self._base + start, self._base + end, match[group]))
        if match[4] == ",":
            self._state = _State.KEY
            return match.end()
        return self._close(match.end())

    def _set_key(self, raw: str) -> None:
        if "\\" in raw:
            raw = scanstring(raw + '"', 0, True)[0]
        self._key = raw if raw in self._wanted else ""

    def _colon(self, text: str, pos: int) -> int:
        pos = _WS.match(text, pos).end()  # type: ignore[union-attr]  # matches the empty string
        if pos == len(text):
            return pos
        if text[pos] != ":":
            raise BodyError(f"invalid JSON at byte {self._base + pos}: expected a colon")
        self._state = _State.VALUE
        return pos + 1

    def _value(self, text: str, pos: int) -> int:
        char = text[pos]
        if char not in '"{[':
            if self._stack[-1] == "[":
                end = _INTEGERS.match(text, pos).end()  # type: ignore[union-attr]  # matches the empty string
                if end > pos:
                    self._state = _State.VALUE
                    pos = end
            pos = _WS.match(text, pos).end()  # type: ignore[union-attr]  # matches the empty string
            if pos == len(text):
                return pos
            char = text[pos]
        wanted = self._key if len(self._stack) == 1 else ""
        if char == '"':
            self._begin_string(pos, capture=wanted != "")
            return self._string(text, pos + 1)
        if char in "{[":
            if wanted:
                self._keep(Field(JsonType.CONTAINER, self._base + pos, self._base + pos, ""))
            return self._open(text, pos)
        if char == "]" and self._state is _State.VALUE_OR_END:
            return self._close(pos + 1)
        match = _SCALAR.match(text, pos)
        if match is None:
            return self._wait(text, pos)
        if wanted:
            self._keep(Field(JsonType.SCALAR, self._base + pos, self._base + match.end(), match[0]))
        self._state = _State.AFTER
        return match.end()

    def _after(self, text: str, pos: int) -> int:
        match = _AFTER.match(text, pos)
        if match is None:
            pos = _WS.match(text, pos).end()  # type: ignore[union-attr]  # matches the empty string
            if pos == len(text):
                return pos
            raise BodyError(f"invalid JSON at byte {self._base + pos}: expected {self._state.value}")
        bracket = self._stack[-1]
        if match[1] == ",":
            self._state = _State.KEY if bracket == "{" else _State.VALUE
            return match.end()
        if (bracket == "{") is not (match[1] == "}"):
            raise BodyError(f"invalid JSON at byte {self._base + match.start(1)}: the brackets do not match")
        return self._close(match.end())

    def _end(self, text: str, pos: int) -> int:
        pos = _WS.match(text, pos).end()  # type: ignore[union-attr]  # matches the empty string
        if pos < len(text):
            raise BodyError(f"invalid JSON at byte {self._base + pos}: something follows the object")
        return pos

    # Strings, which may go on over any number of chunks.

    def _begin_string(self, pos: int, *, capture: bool) -> None:
        self._in_string = True
        self._capture = capture
        self._captured = []
        self._start = self._base + pos

    def _string(self, text: str, pos: int) -> int:
        end = self._guess(text, pos) if self._guesses and len(text) - pos >= self._long else 0
        if not end:
            # With a quote at its end every string in the text is terminated, so that one scan tells how far it
            # goes, be it complete or not.
            self._closed = self._closed or text + '"'
            try:
                end = scanstring(self._closed, pos, True)[1]
            except ValueError:
                return self._cut_string(text, pos)  # invalid, or cut off in an escape
        if end > len(text):
            return self._part(text, pos, len(text))
        if self._capture:
            self._captured.append(text[pos : end - 1])
        self._end_string(end)
        return end

    def _guess(self, text: str, pos: int) -> int:
        """The same as ``scanstring``'s end if the string ends close to the end of the text, or not in it; else 0.

        Text that parses as one string between two quotes has no quote of its own: the guess was right.
        """
        self._guesses -= 1
        size = len(text)
        end = text.find('"', max(pos, size - min(_WINDOW, self._long)))
        while end > pos and text[end - 1] == "\\":  # escaped, most likely
            end = text.find('"', end + 1)
        try:
            from_json(f'"{text[pos : size if end < 0 else end]}"')
        except ValueError:
            return 0
        return size + 1 if end < 0 else end + 1

    def _cut_string(self, text: str, pos: int) -> int:
        """The text ends in the middle of an escape in this string, or it is no string at all."""
        cut = _escape_cut(text, pos)
        try:
            end = scanstring(text[pos:cut] + '"', 0, True)[1]
        except ValueError:
            end = 0
        if cut == len(text) or end != cut - pos + 1:
            raise BodyError(f"invalid JSON: a bad character or escape after byte {self._base + pos}")
        return self._part(text, pos, cut)

    def _part(self, text: str, pos: int, cut: int) -> int:
        """The string goes on in the next chunk, which will see again what is beyond ``cut``."""
        if self._capture:
            self._captured.append(text[pos:cut])
            if len(self._captured) > 64:  # keeps one-byte chunks linear
                self._captured = ["".join(self._captured)]
            self._clip()
        self._carry = text[cut:]
        return -1

    def _clip(self) -> None:
        """Forget a string that is too long to be a name."""
        if sum(map(len, self._captured)) > MAX_CAPTURE:
            self._capture = False
            self._captured = []

    def _end_string(self, end: int) -> None:
        self._in_string = False
        if self._capture:
            self._clip()
        raw = "".join(self._captured)
        if self._in_key:
            self._in_key = False
            self._state = _State.COLON
            if len(self._stack) == 1:
                self._set_key(raw if self._capture else "")
            return
        self._state = _State.AFTER
        if self._key and len(self._stack) == 1:
            clipped = not self._capture
            text = "" if clipped else f'"{raw}"'
            self._keep(Field(JsonType.STRING, self._start, self._base + end, text, clipped))

    def _keep(self, field: Field) -> None:
        self.fields[self._key] = field


_STEPS = {
    _State.START: BodyScanner._top,
    _State.KEY_OR_END: BodyScanner._member,
    _State.KEY: BodyScanner._member,
    _State.COLON: BodyScanner._colon,
    _State.VALUE: BodyScanner._value,
    _State.VALUE_OR_END: BodyScanner._value,
    _State.AFTER: BodyScanner._after,
    _State.END: BodyScanner._end,
}


def _escape_cut(text: str, pos: int) -> int:
    """Where an escape begins that is cut off at the end of ``text``, if one is; else the text's length."""
    size = len(text)
    slash = text.rfind("\\", max(pos, size - 5))
    cut_off = slash == size - 1 or (slash >= 0 and text[slash + 1] == "u")
    return slash if slash >= 0 and cut_off else size
