"""Reads one response as it passes by: time to first token, tokens, end, and errors inside the stream.

Facts about the answers, all from vLLM's OpenAI server: a stream is ``data: <json>`` lines and ends with
``data: [DONE]``; the status line goes out before any token, so time to headers is not time to first token;
a failure in mid-stream is an event with a top-level ``error`` under status 200; usage comes in the last event
when it was asked for. Lines are put together again wherever the chunks split them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

__all__ = ["Ending", "ObservedResponse", "ResponseMeter", "TokenCount"]

MAX_LINE = 65_536
"""Longest part of a line that is kept for the next chunk; a longer event is counted but not read."""

TAIL = 16_384
"""Bytes kept of a plain answer's end, where the usage is: logprobs come before it."""

_TEXT = re.compile(rb'"(?:content|text|reasoning_content|reasoning|delta)"\s*:\s*"((?:[^"\\]|\\.)*)"')
_ROLE = re.compile(rb'"role"\s*:\s*"')
_USAGE = re.compile(rb'"usage"\s*:\s*(\{(?:[^{}]|\{[^{}]*\})*\})')


class Ending(Enum):
    """How a response ended, as far as the picker saw."""

    COMPLETE = "complete"
    HEADERS_ONLY = "only its headers were shown"
    ABORTED = "aborted"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedResponse:
    """One response. Times in seconds since the request was dispatched, None where there was no such moment.

    ``status`` 0: no response headers came. Token counts None: not known.
    """

    ending: Ending
    status: int
    e2e: float | None
    ttft: float | None = None
    time_per_output_token: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    @property
    def error(self) -> bool:
        """Whether it counts against the version that answered.

        5xx, an error event in the stream, and 404: vLLM's answer for an adapter that the pod does not have.
        Other 4xx are the client's doing.
        """
        return self.ending is Ending.FAILED or self.status >= 500 or self.status == 404


class TokenCount:
    """Tokens of a streamed text whose events may hold several, without a tokenizer.

    Under load vLLM puts several tokens into one event, whatever they are; half of a character is an event without
    text. What is known: a token never goes on over a space into the next word, so that every beginning of a word is
    a boundary of tokens. Of those (all seen in the text) a share is also a boundary of events; the boundaries of
    events inside words are the same share of all of those: the estimate of Lincoln and Petersen. Where nothing is
    merged it is the number of events.
    """

    __slots__ = ("_begun", "_last", "_words", "events", "inside")

    def __init__(self) -> None:
        self.events = 0
        self.inside = 0
        """Boundaries of events inside words, or inside a character."""
        self._begun = 0
        """Boundaries of events at which a word begins."""
        self._words = 0
        """Words that begin anywhere in the text."""
        self._last = b""

    def add(self, text: bytes) -> None:
        """The text of one event, as it stands in its JSON string."""
        text = text.replace(b"\\n", b"\n").replace(b"\\t", b"\t").replace(b"\\r", b"\r")
        if self.events:
            begins = bool(text) and text[:1] == b" " and not self._last.isspace() and self._last != b""
            self._begun += begins
            self._words += begins
            self.inside += not begins
        self.events += 1
        self._words += sum(text[at - 1 : at].strip() != b"" for at in _positions(text))
        self._last = text[-1:]

    @property
    def tokens(self) -> int:
        """The estimate, never less than the events."""
        if self.events == 1:
            return 1 + self._words
        if not self._begun:  # no spaces, as in Chinese, or none that begins an event: nothing to go by
            return self.events
        return max(self.events, round(1 + self._words + self.inside * self._words / self._begun))


def _positions(text: bytes) -> Iterator[int]:
    """Where there is a space, the first and the last place left out."""
    at = text.find(b" ", 1)
    while 0 < at < len(text) - 1:
        yield at
        at = text.find(b" ", at + 1)


class ResponseMeter:
    """Fed with the parts of one response and the time of each."""

    __slots__ = (
        "_carry",
        "_events",
        "_failed",
        "_first",
        "_last",
        "_skipping",
        "_sse",
        "_start",
        "_status",
        "_tail",
        "_tokens",
        "_usage",
    )

    def __init__(self, start: float) -> None:
        self._start = start
        self._status = 0
        self._sse = False
        self._carry = b""
        self._skipping = False  # inside a line whose beginning was too long to keep
        self._tail = b""
        self._first: float | None = None
        self._last = start
        self._events = 0
        self._tokens = TokenCount()
        self._usage: dict[str, Any] = {}
        self._failed = False

    def headers(self, status: bytes, content_type: bytes) -> None:
        """``:status`` and ``content-type`` of the response."""
        self._status = int(status) if status.isdigit() and len(status) == 3 else 0
        self._sse = content_type.startswith(b"text/event-stream")

    def body(self, chunk: bytes, now: float) -> None:
        """The next bytes of the response."""
        if not self._sse:
            self._tail = (self._tail + chunk)[-TAIL:]
            return
        lines = (self._carry + chunk).split(b"\n")
        self._carry = lines.pop()
        for line in lines:
            if self._skipping:
                self._skipping = False
            else:
                self._line(line, now)
        if len(self._carry) > MAX_LINE:
            self._line(self._carry[:MAX_LINE], now)
            self._carry = b""
            self._skipping = True
        elif self._skipping:
            self._carry = b""

    def _line(self, line: bytes, now: float) -> None:
        if not line.startswith(b"data:"):
            return
        data = line[5:].strip()
        if not data or data == b"[DONE]":
            return
        if self._first is None:
            self._first = now
        self._events += 1
        found = _TEXT.search(data)
        if found is not None and (found.group(1) or not _ROLE.search(data)):
            self._tokens.add(found.group(1))
            self._last = now
        if b'"error"' in data and _has_error(data):
            self._failed = True
        if b'"usage"' in data:
            self._read_usage(data)

    def _read_usage(self, data: bytes) -> None:
        found = _USAGE.findall(data)
        if found:
            try:
                value = json.loads(found[-1])
            except (ValueError, RecursionError):
                return
            self._usage = value  # the regular expression begins with a brace: it is an object

    def finish(self, ending: Ending, now: float) -> ObservedResponse:
        """The response is over."""
        if self._sse:
            if self._carry and not self._skipping:
                self._line(self._carry, now)
        elif self._status < 400:
            self._read_usage(self._tail)
        if self._failed and ending is Ending.COMPLETE:
            ending = Ending.FAILED
        completion = _count(self._usage, "completion_tokens", "output_tokens")
        if completion is None and self._sse and self._events:
            completion = self._tokens.tokens
        return ObservedResponse(
            ending=ending,
            status=self._status,
            e2e=now - self._start if ending is Ending.COMPLETE else None,
            ttft=None if self._first is None or self._failed else self._first - self._start,
            time_per_output_token=self._per_token(completion),
            prompt_tokens=_count(self._usage, "prompt_tokens", "input_tokens"),
            completion_tokens=completion,
        )

    def _per_token(self, completion: int | None) -> float | None:
        if self._first is None or not completion or completion < 2 or self._last <= self._first:
            return None
        return (self._last - self._first) / (completion - 1)


def _has_error(data: bytes) -> bool:
    """Whether the event is an object with a top-level ``error`` that says something."""
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(event, dict) and bool(event.get("error"))


def _count(usage: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = usage.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40:
            return value
    return None
