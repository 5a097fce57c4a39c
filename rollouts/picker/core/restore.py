"""Puts the name that the client asked for back into the response, where this was asked for.

Only the top-level ``model`` of the answer, or of each event of a stream, is replaced; text that merely looks
like it stays. Lines of a stream are put together again wherever the chunks split them, so the last, unfinished
line of a chunk waits for the next chunk.
"""

from __future__ import annotations

import json
from collections import deque

from rollouts.picker.core.body import BodyScanner
from rollouts.picker.core.members import BodyError, JsonType
from rollouts.picker.core.ports import BufferBudget, Charge
from rollouts.picker.core.splicing import splice

__all__ = ["MAX_HELD", "NameRestorer"]

MAX_HELD = 8 << 20
"""Bytes of a plain answer, or of one line of a stream, that are held back; a longer one passes unchanged."""

_MODEL = frozenset({"model"})


class NameRestorer:
    """Fed with the chunks of one response; gives the chunks to send on. ``name`` replaces only ``target``.

    What is held counts in the budget of all streams; where that is full, the answer passes unchanged, too.
    """

    __slots__ = ("_charge", "_given_up", "_held", "_new", "_sse", "_target")

    def __init__(self, name: str, target: str, budget: BufferBudget) -> None:
        self._charge = Charge(budget)
        self._new = json.dumps(name, ensure_ascii=False).encode("utf-8", "replace")
        self._target = target
        self._sse = False
        self._held = b""
        self._given_up = False

    def headers(self, content_type: bytes) -> None:
        """``content-type`` of the response."""
        self._sse = content_type.startswith(b"text/event-stream")
        self._given_up = not self._sse and not content_type.startswith(b"application/json")

    def feed(self, chunk: bytes, *, end: bool) -> bytes:
        """What can be sent on now; all that is left when ``end``."""
        if self._given_up:
            return chunk
        whole = self._held + chunk
        ready, self._held = whole, b""
        if not end:
            cut = whole.rfind(b"\n") + 1 if self._sse else 0
            ready, self._held = whole[:cut], whole[cut:]
            if len(self._held) > MAX_HELD or not self._charge.count(len(self._held)):
                self.release()
                self._given_up = True
                return whole
        else:
            self.release()
        if not self._sse:
            return self._replace(ready) if end else b""
        return b"".join(map(self._line, ready.splitlines(keepends=True)))

    def release(self) -> None:
        """Let go of what is held. Safe to call more than once."""
        self._held = b""
        self._charge.count(0)

    def _line(self, line: bytes) -> bytes:
        start = line.find(b"{")
        if not line.startswith(b"data:") or start < 0 or b"odel" not in line:
            return line
        return line[:start] + self._replace(line[start:])

    def _replace(self, document: bytes) -> bytes:
        scanner = BodyScanner(_MODEL)
        try:
            scanner.feed(document)
            scanner.finish()
        except BodyError:
            return document
        field = scanner.fields.get("model")
        if (
            field is None
            or field.kind is not JsonType.STRING
            or field.clipped
            or field.text() != self._target
        ):
            return document
        return b"".join(splice(deque([document]), field.start, field.end, self._new))
