"""Runs the parts of a process and ends them together.

Every part is meant to run for ever, so the end of any of them, with an error or without, is the end of the
process: Kubernetes starts a fresh one, which is better than one that lives on without its watch. A part that
fails in silence is the failure that nobody sees.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from rollouts.runtime.clock import Clock, Monotonic

__all__ = ["LoopMonitor", "PartEnded", "Supervisor"]

# For parts to unwind after their cancellation, when nothing else is left to wait for.
LAST_GRACE = 5.0

_log = structlog.get_logger(__name__)


class PartEnded(Exception):
    """A part that should run for ever has ended. The cause is what it raised, if anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    name: str
    run: Callable[[], Awaitable[None]]
    stop: Callable[[], object] | None
    grace: float


class Supervisor:
    """Starts parts in the order in which they were added and stops them in the opposite one.

    So a part may rely on those before it: caches first, then what works with them.
    """

    def __init__(self) -> None:
        self._parts: list[_Part] = []

    def add(
        self,
        name: str,
        run: Callable[[], Awaitable[None]],
        *,
        stop: Callable[[], object] | None = None,
        grace: float = 10.0,
    ) -> None:
        """Add a part.

        ``stop`` asks it to come to an end by itself, within ``grace`` seconds; a part without it, or still
        there after that, is cancelled.
        """
        self._parts.append(_Part(name=name, run=run, stop=stop, grace=grace))

    async def run(self, stopping: asyncio.Event) -> None:
        """Run all parts until ``stopping`` is set. Raises PartEnded when one ends before that."""
        tasks = {asyncio.create_task(_call(part.run), name=part.name): part for part in self._parts}
        asked = asyncio.create_task(stopping.wait(), name="stopping")
        try:
            await asyncio.wait({asked, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            ended = [task for task in tasks if task.done() and not asked.done()]
            for task in ended:
                _log.error("part_ended", part=task.get_name(), error=_describe(task))
            for task, part in reversed(tasks.items()):
                await self._end(task, part)
        finally:
            asked.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.wait({asked, *tasks}, timeout=LAST_GRACE)
        if ended:
            names = ", ".join(repr(task.get_name()) for task in ended)
            raise PartEnded(f"part {names} ended unexpectedly: {_describe(ended[0])}") from _error(ended[0])
        for task in tasks:
            if (error := _error(task)) is not None:
                raise error

    async def _end(self, task: asyncio.Task[None], part: _Part) -> None:
        if task.done():
            return
        if part.stop is not None:
            result = part.stop()
            if isinstance(result, Awaitable):
                asking = asyncio.ensure_future(result)
                await asyncio.wait({asking}, timeout=part.grace)
                asking.cancel()
            await asyncio.wait({task}, timeout=part.grace)
            if not task.done():
                _log.warning("part_outlasts_its_grace", part=part.name, seconds=part.grace)
        task.cancel()
        await asyncio.wait({task}, timeout=part.grace)
        if not task.done():
            _log.error("part_ignores_its_cancellation", part=part.name)


class LoopMonitor:
    """Measures how late the event loop is, in seconds: for so long some callback keeps it from all else."""

    def __init__(self, clock: Clock, *, interval: float = 1.0, window: int = 60) -> None:
        self._clock = clock
        self._interval = interval
        self._lags: deque[float] = deque(maxlen=window)
        self._last: Monotonic | None = None

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            self._last = self._clock.monotonic()
            await self._clock.sleep(self._interval)
            self._lags.append(max(0.0, self._clock.monotonic() - self._last - self._interval))

    def worst(self) -> float:
        """The greatest lag of the last minute."""
        return max(self._lags, default=0.0)

    def sustained(self) -> float:
        """The lag that was never undercut in the last minute; 0 before it has been watched for so long."""
        return min(self._lags) if len(self._lags) == self._lags.maxlen else 0.0


async def _call(run: Callable[[], Awaitable[None]]) -> None:
    await run()


def _error(task: asyncio.Task[None]) -> BaseException | None:
    return task.exception() if task.done() and not task.cancelled() else None


def _describe(task: asyncio.Task[None]) -> str:
    error = _error(task)
    if error is None:
        return "was cancelled" if task.cancelled() else "returned"
    return f"{type(error).__name__}: {error}"[:500]
