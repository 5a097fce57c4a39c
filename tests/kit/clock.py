"""Virtual time: an asyncio event loop that jumps to the next timer as soon as nothing is left to run.

A thousand virtual hours cost seconds, and every run of the same program takes the same path. The idea
is trio's autojump clock; the mechanism is a selector that moves the clock where a real one would wait.

Real sockets still work (they are polled before each jump), but time may jump while a peer is thinking:
give such tests a real loop. Threads (``run_in_executor``) are invisible to the clock.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from rollouts.runtime.clock import Monotonic

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

__all__ = [
    "EPOCH",
    "JumpingSelector",
    "Timeline",
    "VirtualClock",
    "VirtualDeadlock",
    "VirtualTimeLoop",
    "virtual_time",
]

EPOCH = datetime(2030, 1, 1, tzinfo=UTC)
"""Wall time at virtual second 0. Arbitrary, but the same in every run."""

# A loop with neither timers nor ready callbacks can only be woken by a real descriptor. A second is
# eternal for a test; a program that waits longer waits for something that will never come.
DEADLOCK_SECONDS = 1.0


class VirtualDeadlock(RuntimeError):
    """Every task waits for something that no timer and no socket can bring."""


class Timeline:
    """The instant that one or several loops and clocks share. Seconds, starting at 0."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = 0.0

    def advance(self, seconds: float) -> None:
        """Move forward by ``seconds``; time never goes back."""
        self.now += max(0.0, seconds)


class JumpingSelector(selectors.BaseSelector):
    """Polls the real descriptors; instead of waiting, calls ``on_idle(timeout)`` (None: for ever)."""

    def __init__(self, on_idle: Callable[[float | None], None]) -> None:
        self._real = selectors.DefaultSelector()
        self._on_idle = on_idle

    def wait_for_descriptors(self, seconds: float) -> bool:
        """Whether a real descriptor becomes ready within so many real seconds."""
        return bool(self._real.select(seconds))

    def register(
        self, fileobj: FileDescriptorLike, events: int, data: object = None
    ) -> selectors.SelectorKey:
        """As in ``selectors``."""
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        """As in ``selectors``."""
        return self._real.unregister(fileobj)

    def modify(self, fileobj: FileDescriptorLike, events: int, data: object = None) -> selectors.SelectorKey:
        """As in ``selectors``."""
        return self._real.modify(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Descriptors that are ready now; never waits."""
        # One descriptor is the loop's own (its self-pipe): with no other there is nothing to poll, and a
        # system call per iteration would be most of the cost of a simulation.
        if timeout is None or len(self._real.get_map()) > 1:
            events = self._real.select(0)
            if events:
                return events
        if timeout is None or timeout > 0:
            self._on_idle(timeout)
        return []

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey]:
        """As in ``selectors``."""
        return self._real.get_map()

    def close(self) -> None:
        """As in ``selectors``."""
        self._real.close()


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time. ``loop.time()`` counts virtual seconds from 0."""

    def __init__(self, timeline: Timeline | None = None) -> None:
        self.timeline = timeline or Timeline()
        self._descriptors = JumpingSelector(self._idle)
        super().__init__(self._descriptors)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self.timeline.now

    def _idle(self, timeout: float | None) -> None:
        """Nothing is left to run before ``timeout`` seconds from now (None: no timer is set)."""
        if timeout is not None:
            self.timeline.advance(timeout)
        elif not self._descriptors.wait_for_descriptors(DEADLOCK_SECONDS):
            raise VirtualDeadlock(
                "all tasks wait for each other: no timer is set and no socket is ready; "
                "look at asyncio.all_tasks() for the one that should have been woken"
            )


class VirtualClock:
    """``rollouts.runtime.clock.Clock`` on virtual time; its wall clock can be moved at will.

    Without a timeline it follows the running loop, which must be a ``VirtualTimeLoop``.
    """

    def __init__(self, timeline: Timeline | None = None, *, start: datetime = EPOCH) -> None:
        self._timeline = timeline
        self._start = start
        self._wall_offset = timedelta()

    def now(self) -> datetime:
        """Virtual wall time: the start, plus virtual seconds, plus all jumps."""
        return self._start + timedelta(seconds=self._seconds()) + self._wall_offset

    def monotonic(self) -> Monotonic:
        """Virtual seconds; jumps of the wall clock do not show."""
        return Monotonic(self._seconds())

    async def sleep(self, seconds: float) -> None:
        """Wait in virtual time."""
        await asyncio.sleep(seconds)

    def jump_wall(self, seconds: float) -> None:
        """Move the wall clock forward or (negative) back, as NTP or an operator would."""
        self._wall_offset += timedelta(seconds=seconds)

    def _seconds(self) -> float:
        if self._timeline is not None:
            return self._timeline.now
        return asyncio.get_running_loop().time()


@contextmanager
def virtual_time() -> Iterator[VirtualTimeLoop]:
    """A loop on virtual time, set as the current one; its left-over tasks are cancelled at the end."""
    loop = VirtualTimeLoop()
    asyncio.set_event_loop(loop)
    try:
        yield loop
    finally:
        try:
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()
