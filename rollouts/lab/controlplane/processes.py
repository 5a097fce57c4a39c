"""One child process: its log, its start, and an end that is certain."""

from __future__ import annotations

import asyncio
import ctypes
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import structlog

from rollouts.lab.controlplane.errors import ControlPlaneError

__all__ = ["Child"]

_log = structlog.get_logger(__name__)
_STOP_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1
# Loaded before any fork: the child may only make the call.
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    """Runs in the child: the kernel kills it when its parent ends, however that happens."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Child:
    """A process with its output in a file."""

    def __init__(self, name: str, log_file: Path) -> None:
        self.name = name
        self.log_file = log_file
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, command: Sequence[str]) -> None:
        """Start it, in its own process group, so that Ctrl-C reaches only us."""
        with self._open_log() as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        _log.debug("process_started", name=self.name, pid=self._process.pid, log=str(self.log_file))

    def _open_log(self) -> BinaryIO:
        return self.log_file.open("ab")

    def check(self) -> None:
        """Raises ControlPlaneError, with the end of the log, when the process has ended."""
        if self._process is None or self._process.returncode is not None:
            lines = self.log_file.read_text(errors="replace").splitlines()[-8:]
            code = None if self._process is None else self._process.returncode
            raise ControlPlaneError(
                f"{self.name} ended with code {code}; the end of {self.log_file}:\n" + "\n".join(lines)
            )

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL after ten seconds; returns when it is gone."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            _log.warning("process_killed", name=self.name, pid=process.pid)
            process.kill()
            await process.wait()
