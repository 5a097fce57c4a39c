"""Conditions in files: checked in a process under a budget, since a pull request may bring anything.

A condition is another's text also where the command's user asks for it: CI checks what a stranger proposes.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType

from rollouts.cli.logs import quiet_logs
from rollouts.controller.conditions import SandboxedConditions

__all__ = ["FileConditions"]

_TOTAL_SECONDS = 30.0
"""Of all conditions of one command: a healthy one takes 0.02 s, and 1,000 Rollouts seldom have 100 different ones."""
_ANYWHERE = "files"


class FileConditions:
    """What is wrong with a condition, as ``analysis.templates.Check``. A context manager; starts no process unless
    a condition needs one. Not for use inside a running event loop: give it a thread there.

    ``seconds`` bounds what all conditions together may take; those after it are problems, not waited for.
    """

    def __init__(self, *, seconds: float = _TOTAL_SECONDS) -> None:
        self._seconds = seconds
        self._quiet = quiet_logs()
        self._runner = asyncio.Runner()
        self._conditions = SandboxedConditions()

    def __enter__(self) -> FileConditions:
        self._quiet.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._runner.run(self._conditions.close())
        finally:
            self._runner.close()
            self._quiet.__exit__(None, None, None)

    def __call__(self, text: str) -> str | None:
        """What is wrong with a condition; None when it can be used."""
        if self._seconds <= 0:
            return "not checked, as the conditions before it took too long: make those simpler, or check fewer files"
        begun = time.monotonic()
        try:
            return self._runner.run(self._conditions.settled(_ANYWHERE, text))
        finally:
            self._seconds -= time.monotonic() - begun
