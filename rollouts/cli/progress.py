"""That a command still works: a line on stderr after two seconds of silence, where a person watches."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rollouts.terminal import printable

__all__ = ["progress"]

_SILENCE = 2.0
"""Seconds: nobody wonders sooner."""
_EVERY = 0.5


@contextmanager
def progress(doing: str, *, file: TextIO | None = None, silence: float = _SILENCE) -> Iterator[None]:
    """``doing ... (3 s)`` on a terminal's stderr while the block takes longer than ``silence`` seconds, gone after it.

    For blocks that print nothing themselves. A thread of its own, since the block may compute.
    """
    screen = file or sys.stderr
    if not screen.isatty():
        yield
        return
    over, begun = threading.Event(), time.monotonic()

    def show() -> None:
        wait = silence
        while not over.wait(wait):
            screen.write(f"\r\x1b[K{printable(doing)} ... ({time.monotonic() - begun:.0f} s)")
            screen.flush()
            wait = _EVERY
        if wait == _EVERY:
            screen.write("\r\x1b[K")
            screen.flush()

    thread = threading.Thread(target=show, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
