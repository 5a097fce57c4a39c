"""Several processes on one virtual time line, each with an event loop of its own.

This is how to try what happens *between* processes: one is stopped (SIGSTOP) while the others run on, and
when it wakes its timers are late and its sockets are full, exactly as for a real process. One loop for
all could not do that. Everything is single-threaded and deterministic.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable, Coroutine
from typing import Any

from tests.kit.clock import JumpingSelector, Timeline, VirtualClock

__all__ = ["Process", "World"]


class _ProcessLoop(asyncio.SelectorEventLoop):
    """Runs until idle, then returns to the world instead of waiting."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.wakes_at = math.inf
        super().__init__(JumpingSelector(self._idle))

    def time(self) -> float:
        return self.timeline.now

    def _idle(self, timeout: float | None) -> None:
        self.wakes_at = math.inf if timeout is None else self.timeline.now + timeout
        self.stop()


class Process:
    """One simulated process. Made by ``World.spawn``."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.clock = VirtualClock(world.timeline)
        self.stopped = False
        self.alive = True
        self._loop = _ProcessLoop(world.timeline)
        self._main: asyncio.Task[Any] | None = None
        self._runnable = False

    def start(self, main: Coroutine[Any, Any, Any]) -> None:
        """Begin to run ``main``; the process ends with it."""
        self._main = self._loop.create_task(main)
        self._runnable = True

    def deliver(self, callback: Callable[[], None]) -> None:
        """Run ``callback`` in the process, as an answer that arrives; a stopped one gets it when it wakes."""
        if self.alive:
            self._loop.call_soon(callback)
            self._runnable = True

    def suspend(self) -> None:
        """SIGSTOP."""
        self.stopped = True

    def resume(self) -> None:
        """SIGCONT."""
        self.stopped = False
        self._runnable = True

    def kill(self) -> None:
        """SIGKILL: nothing of it reaches the world any more, no clean-up either."""
        self.alive = False

    @property
    def ended(self) -> bool:
        """Whether ``main`` is over or the process was killed."""
        return not self.alive or (self._main is not None and self._main.done())

    def failure(self) -> BaseException | None:
        """What ``main`` raised."""
        done = self._main is not None and self._main.done() and not self._main.cancelled()
        return self._main.exception() if done and self._main else None

    def wakes_at(self) -> float:
        """When it wants to run next, in virtual seconds."""
        if not self.alive or self.stopped:
            return math.inf
        return -math.inf if self._runnable else self._loop.wakes_at

    def run_until_idle(self) -> None:
        """Run all that can run at this instant."""
        self._runnable = False
        self._loop.run_forever()

    def dispose(self) -> None:
        """Unwind what is left, unseen: whatever reaches out of a process must check ``alive`` first."""
        self.alive = False
        while left := asyncio.all_tasks(self._loop):
            for task in left:
                task.cancel()
            self._loop.run_forever()
        self._loop.close()


class World:
    """The time line, its processes, and what happens outside of them.

    ``failures`` is what the processes that have ended raised (None: nothing, or killed).
    """

    def __init__(self) -> None:
        self.timeline = Timeline()
        self.processes: list[Process] = []
        self.failures: list[BaseException | None] = []
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0

    @property
    def now(self) -> float:
        """Virtual seconds since the beginning."""
        return self.timeline.now

    def spawn(self, name: str) -> Process:
        """A new process; ``start`` it."""
        process = Process(self, name)
        self.processes.append(process)
        return process

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something outside of all processes in ``seconds``."""
        self._sequence += 1
        heapq.heappush(self._agenda, (self.now + seconds, self._sequence, action))

    def run(self, until: Callable[[], bool], *, limit: float = math.inf) -> bool:
        """Run until ``until()`` holds; False when time reached ``limit`` or nothing is left to do."""
        while not until():
            wakes = [(process.wakes_at(), process) for process in self.processes]
            at = min((wake for wake, _ in wakes), default=math.inf)
            if self._agenda:
                at = min(at, self._agenda[0][0])
            if at > limit or at == math.inf:
                return False
            self.timeline.advance(at - self.now)
            while self._agenda and self._agenda[0][0] <= self.now:
                heapq.heappop(self._agenda)[2]()
            for process in list(self.processes):
                if process.wakes_at() <= self.now:
                    process.run_until_idle()
            for process in [process for process in self.processes if process.ended]:
                self.processes.remove(process)
                self.failures.append(process.failure())
                process.dispose()
        return True

    def dispose(self) -> None:
        """Kill and free all processes."""
        for process in self.processes:
            process.dispose()
        self.processes.clear()
