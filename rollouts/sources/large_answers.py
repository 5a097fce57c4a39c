"""Room for answers that are larger than most: a few in the process, however many servers there are.

What is made of an answer takes ten times its bytes, in each of the threads that read one.
"""

from __future__ import annotations

import threading
from collections import Counter

__all__ = ["LargeAnswers"]


class LargeAnswers:
    """``total`` at a time, of which one namespace has ``of_one``. For threads."""

    def __init__(self, total: int, of_one: int) -> None:
        self._total = total
        self._of_one = of_one
        self._held = Counter[str]()
        self._changed = threading.Condition()

    def enter(self, namespace: str, seconds: float) -> bool:
        """Wait for room, so many seconds; whether there is. ``leave`` must follow where there was."""
        with self._changed:
            entered = self._changed.wait_for(lambda: self._is_free(namespace), max(0.0, seconds))
            if entered:
                self._held[namespace] += 1
            return entered

    def leave(self, namespace: str) -> None:
        """All that was made of the answer is gone."""
        with self._changed:
            self._held[namespace] -= 1
            self._held = +self._held  # without those that have none
            self._changed.notify_all()

    def _is_free(self, namespace: str) -> bool:
        return self._held.total() < self._total and self._held[namespace] < self._of_one
