"""Work on text that is not trusted, in processes that are killed at their budget and started again.

SandboxError
+-- OverBudget    this request used up its CPU, memory or time, and its process is gone
+-- SandboxBroken the process could not be started, or died for another reason

The event loop only writes a line and reads one. Tenants take turns, and one has a single request in work, so that
whoever asks for too much waits behind themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections import deque
from collections.abc import Hashable
from typing import Any

import structlog

from rollouts.runtime.fairness import FairSlots

__all__ = ["OverBudget", "Sandbox", "SandboxBroken", "SandboxError"]

_log = structlog.get_logger(__name__)

_LINE = 4 << 20
"""Bytes of the longest answer; requests hold a result, which its source has bounded."""
_START_SECONDS = 30.0
_KILLED_FOR_CPU = (-signal.SIGPROF, -signal.SIGXCPU)


class SandboxError(Exception):
    """No answer; the text says why."""


class OverBudget(SandboxError):
    """The request is too expensive, and will be when it is sent again."""


class SandboxBroken(SandboxError):
    """Nothing can be said about the request: it may be sent again."""


class Sandbox:
    """``processes`` children that run ``python -m module`` (``child.serve_requests``), started when needed.

    ``wall`` bounds a request in seconds where its CPU time does not: a child that was stopped, a machine that is full.
    """

    def __init__(self, module: str, *, processes: int = 2, wall: float = 20.0) -> None:
        self._module = module
        self._wall = wall
        self._slots = FairSlots(processes, 1)
        self._idle: deque[asyncio.subprocess.Process] = deque()
        self._alive: set[asyncio.subprocess.Process] = set()
        self.started = 0
        """Processes started so far, for tests and figures."""

    async def ask(self, tenant: Hashable, request: Any) -> Any:
        """The answer to a request. Raises SandboxError."""
        line = json.dumps(request).encode() + b"\n"
        async with self._slots.hold(tenant):
            child = self._idle.pop() if self._idle else await self._start()
            try:
                answer = await self._exchange(child, line)
            except BaseException:
                await self._end(child)
                raise
            self._idle.append(child)
            return answer

    async def close(self) -> None:
        """End the processes."""
        self._idle.clear()
        await asyncio.gather(*(self._end(child) for child in list(self._alive)))

    async def _start(self) -> asyncio.subprocess.Process:
        try:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", self._module),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=_LINE,
            )
        except OSError as error:
            raise SandboxBroken(f"its process does not start: {error.strerror}") from None
        self._alive.add(child)
        self.started += 1
        try:
            async with asyncio.timeout(_START_SECONDS):
                assert child.stdout is not None
                ready = await child.stdout.readline()
        except TimeoutError:
            await self._end(child)
            raise SandboxBroken(f"its process is not ready within {_START_SECONDS:g} s") from None
        except BaseException:
            await self._end(child)
            raise
        if not ready:
            await self._end(child)
            raise SandboxBroken("its process ends at once: see whether memory is short")
        return child

    async def _exchange(self, child: asyncio.subprocess.Process, line: bytes) -> Any:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            async with asyncio.timeout(self._wall):
                child.stdin.write(line)
                with contextlib.suppress(ConnectionError):
                    await child.stdin.drain()
                answer = await child.stdout.readline()
                code = None if answer else await child.wait()
        except TimeoutError:
            raise SandboxBroken(f"no answer within {self._wall:g} s") from None
        if answer:
            return json.loads(answer)
        _log.warning("sandbox_process_ended", module=self._module, code=code)
        if code in _KILLED_FOR_CPU:
            raise OverBudget("it costs too much CPU time")
        raise OverBudget("it needs too much memory, or breaks its evaluator")

    async def _end(self, child: asyncio.subprocess.Process) -> None:
        self._alive.discard(child)
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        if child.stdin is not None:
            child.stdin.close()
        await child.wait()
