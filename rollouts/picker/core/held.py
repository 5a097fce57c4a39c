"""The body of one request while it is held back, in the chunks that it came in."""

from __future__ import annotations

from collections import deque

from rollouts.picker.core.ports import BufferBudget
from rollouts.picker.core.refusals import OVERLOADED, too_large
from rollouts.picker.core.routing import Refusal

__all__ = ["BLOCK", "HeldBody"]

BLOCK = 4096
"""Chunks are put together up to this many bytes: each that is kept by itself costs about fifty beyond its own, so that
a body in chunks of one byte would take many times what is counted."""


class HeldBody:
    """Counts its bytes in the budget that all streams share, until ``release``.

    ``chunks`` may be taken off as they are sent, to let go of them early; ``size`` is that of the whole.
    """

    __slots__ = ("_budget", "chunks", "size")

    def __init__(self, budget: BufferBudget) -> None:
        self._budget = budget
        self.chunks: deque[bytes] = deque()
        self.size = 0

    def add(self, chunk: bytes) -> Refusal | None:
        """Hold one more chunk; the refusal when it is too much for this stream or for all of them."""
        budget, size = self._budget, len(chunk)
        if self.size + size > budget.body_limit:
            return too_large(budget.body_limit)
        if not budget.take(size, self.size + size):
            return OVERLOADED
        self.size += size
        if self.chunks and len(self.chunks[-1]) + size <= BLOCK:
            self.chunks[-1] += chunk
        else:
            self.chunks.append(chunk)
        return None

    def read(self, start: int, size: int) -> bytes:
        """At most ``size`` bytes from ``start`` on."""
        found = b""
        for chunk in self.chunks:
            if start < len(chunk):
                found += chunk[start : start + size - len(found)]
                if len(found) >= size:
                    break
            start = max(0, start - len(chunk))
        return found

    def release(self) -> None:
        """Let go of everything. Safe to call more than once."""
        self._budget.used -= self.size
        self.size = 0
        self.chunks.clear()
