"""Child processes of the lab: started with their output in a file, stopped cleanly, never orphaned."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

__all__ = ["ChildProcess", "ProcessStartError", "free_port", "port_is_free"]

log = structlog.get_logger(__name__)

# Runs in the child before the program: the kernel ends it when the lab's main thread ends, even by
# SIGKILL. Linux prctl(2), PR_SET_PDEATHSIG = 1. A parent that died in between is noticed by its id.
_LAUNCHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, int(sys.argv[2]))
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[3], sys.argv[3:])
"""


class ProcessStartError(Exception):
    """A child process ended or stayed silent before it was ready; the message has the end of its log."""


class ChildProcess:
    """One program under supervision. Its output goes to ``log_path``, which is kept."""

    def __init__(self, name: str, argv: Sequence[str], *, log_path: Path) -> None:
        self.name = name
        self.log_path = log_path
        self._argv = list(argv)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Process id. Raises RuntimeError before ``start``."""
        return self._running().pid

    @property
    def returncode(self) -> int | None:
        """Exit code, None while it runs."""
        return None if self._process is None else self._process.returncode

    async def start(self, *, env: Mapping[str, str] | None = None) -> None:
        """Start the program. It dies with this process."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), str(int(signal.SIGKILL))]
        with self.log_path.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *launcher,
                *self._argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=None if env is None else dict(env),
            )
        log.info("process_started", name=self.name, pid=self._process.pid, log=str(self.log_path))

    async def stop(self, *, grace: float = 3.0) -> None:
        """SIGTERM, then SIGKILL after ``grace`` seconds. Does nothing when it has already ended."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(grace):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        log.info("process_stopped", name=self.name, code=process.returncode)

    async def wait(self) -> int:
        """Wait for its end; answers the exit code."""
        return await self._running().wait()

    def failure(self, what: str) -> ProcessStartError:
        """An error that shows the last lines of the log."""
        try:
            tail = "\n".join(self.log_path.read_text(errors="replace").splitlines()[-15:])
        except OSError as error:
            tail = f"(no log: {error})"
        return ProcessStartError(f"{self.name}: {what}; log {self.log_path} ends with:\n{tail}")

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started: call start() first")
        return self._process


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int, address: str = "127.0.0.1") -> bool:
    """Whether one can listen on the port right now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
        return True
