"""A queue of keys to reconcile, with the semantics of client-go's workqueue.

- A key is in the queue at most once, however often it is added.
- A key is never handed to two workers: added while it runs, it is queued again when it is done.
- First in, first out: a hot key goes to the tail each time, so it delays the others by one turn at most.
- Tenants take turns (``fairness``), and one has at most ``most`` keys in workers' hands: thousands of keys of one
  delay those of another by a turn, and keys that take long cannot hold every worker.
- ``add_after`` keeps the earliest time per key; a failed key comes back after its own back-off. Unlike there,
  ``set_due`` replaces that time: a reconcile that answers "in an hour" knows better than the one before it.

``QueueMachine`` is the pure part (``now`` is an argument); ``WorkQueue`` adds waiting, and nothing else.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from rollouts.runtime.backoff import BackoffPolicy
from rollouts.runtime.clock import Clock, Monotonic
from rollouts.runtime.fairness import FairLine

__all__ = ["QueueClosed", "QueueMachine", "QueueStats", "WorkQueue"]

K = TypeVar("K", bound=Hashable)

# Keys come from objects, and the API server bounds their number less than our memory does. Beyond this many
# distinct keys, new ones are refused and counted; the next resync brings them back.
DEFAULT_CAPACITY = 100_000

_log = structlog.get_logger(__name__)


def _nobody(_key: Hashable) -> Hashable:
    """All keys belong together."""
    return ""


class QueueClosed(Exception):
    """The queue is shut down and empty: the worker may end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """A snapshot for metrics: keys that wait for a worker, keys that are due later, and the longest wait in seconds."""

    depth: int
    delayed: int
    oldest_age: float


class QueueMachine(Generic[K]):
    """The queue without waiting: the caller says what time it is. Not thread-safe."""

    def __init__(
        self,
        *,
        rng: random.Random | None = None,
        capacity: int = DEFAULT_CAPACITY,
        tenant: Callable[[K], Hashable] = _nobody,
        most: int | None = None,
    ) -> None:
        self._rng = rng or random.Random()
        self._capacity = capacity
        self._ready: FairLine[K] = FairLine(tenant, most)
        self._dirty: dict[K, Monotonic] = {}  # waiting for a worker, or to be re-queued -> since when
        self._running: dict[K, Monotonic] = {}  # handed out -> since when
        self._due: dict[K, Monotonic] = {}  # delayed -> when it becomes dirty
        self._heap: list[tuple[Monotonic, int, K]] = []  # stale entries are those that differ from _due
        self._sequence = 0
        self._failures: dict[K, int] = {}

    def add(self, key: K, now: Monotonic) -> bool:
        """Queue ``key`` now. False when the queue is full of other keys."""
        if key in self._dirty:
            return True
        if not self._has_room(key):
            return False
        self._dirty[key] = now
        if key not in self._running:
            self._ready.push(key)
        return True

    def add_after(self, key: K, seconds: float, now: Monotonic) -> bool:
        """Queue ``key`` in ``seconds``, or earlier when it is already due earlier."""
        if seconds <= 0:
            return self.add(key, now)
        due = Monotonic(now + seconds)
        planned = self._due.get(key)
        if planned is not None and planned <= due:
            return True
        if not self._has_room(key):
            return False
        self._due[key] = due
        self._sequence += 1
        heapq.heappush(self._heap, (due, self._sequence, key))
        if len(self._heap) > 64 and len(self._heap) > 2 * len(self._due):
            self._heap = [entry for entry in self._heap if self._due.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)
        return True

    def set_due(self, key: K, seconds: float | None, now: Monotonic) -> bool:
        """Queue ``key`` in ``seconds``, whatever was planned for it before; None: when it is added."""
        self._due.pop(key, None)
        return seconds is None or self.add_after(key, seconds, now)

    def add_failed(self, key: K, policy: BackoffPolicy, now: Monotonic, *, at_least: float = 0.0) -> float:
        """Count a failure of ``key`` and queue it after its back-off; answers the seconds."""
        failures = self._failures.get(key, 0) + 1
        self._failures[key] = failures
        seconds = max(at_least, policy.delay(failures, self._rng))
        self.add_after(key, seconds, now)
        return seconds

    def forget(self, key: K) -> None:
        """End the series of failures of ``key``."""
        self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        """Failures of ``key`` in a row."""
        return self._failures.get(key, 0)

    def take(self, now: Monotonic) -> K | None:
        """Hand out the next key, or None when none is ready. ``done`` must follow."""
        self._wake_due(now)
        key = self._ready.pop()
        if key is None:
            return None
        del self._dirty[key]
        self._running[key] = now
        return key

    def done(self, key: K) -> None:
        """The worker has finished with ``key``."""
        del self._running[key]
        self._ready.release(key)
        if key in self._dirty:
            self._ready.push(key)

    def next_due(self) -> Monotonic | None:
        """When the earliest delayed key becomes ready, None when there is none."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def has_ready(self, now: Monotonic) -> bool:
        """Whether ``take`` would hand out a key."""
        self._wake_due(now)
        return self._ready.ready()

    @property
    def running(self) -> frozenset[K]:
        """Keys in the hands of workers."""
        return frozenset(self._running)

    def discard_waiting(self) -> None:
        """Drop everything that no worker has begun, as at shutdown."""
        self._ready.clear()
        self._dirty.clear()
        self._due.clear()
        self._heap.clear()

    def stats(self, now: Monotonic) -> QueueStats:
        """Figures for metrics."""
        return QueueStats(
            depth=len(self._ready),
            delayed=len(self._due),
            oldest_age=max((now - self._dirty[key] for key in self._ready.heads()), default=0.0),
        )

    def _has_room(self, key: K) -> bool:
        if key in self._running or key in self._due or key in self._dirty:
            return True
        return len(self._dirty) + len(self._due) < self._capacity

    def _wake_due(self, now: Monotonic) -> None:
        while (due := self.next_due()) is not None and due <= now:
            key = heapq.heappop(self._heap)[2]
            del self._due[key]
            self.add(key, due)


class WorkQueue(Generic[K]):
    """The queue that workers await. All methods belong to one event loop."""

    def __init__(
        self,
        clock: Clock,
        *,
        rng: random.Random | None = None,
        capacity: int = DEFAULT_CAPACITY,
        tenant: Callable[[K], Hashable] = _nobody,
        most: int | None = None,
    ) -> None:
        self._clock = clock
        self._machine: QueueMachine[K] = QueueMachine(rng=rng, capacity=capacity, tenant=tenant, most=most)
        self._getters: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = Monotonic(0.0)
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, key: K) -> None:
        """Queue ``key``, once however often it is added. Ignored after shutdown."""
        self._admit(key, 0.0)

    def add_after(self, key: K, seconds: float) -> None:
        """Queue ``key`` in ``seconds``; the earliest of several such calls wins."""
        self._admit(key, seconds)

    def set_due(self, key: K, seconds: float | None) -> None:
        """Queue ``key`` in ``seconds`` and not earlier, unless it is added; None takes back what was planned.

        For a worker that has just looked: what it asks for now is newer than all it asked for before.
        """
        if not self._closed:
            self._admitted(key, self._machine.set_due(key, seconds, self._clock.monotonic()))

    def add_failed(self, key: K, policy: BackoffPolicy, *, at_least: float = 0.0) -> float:
        """Queue a failed ``key`` after its back-off, in ``at_least`` seconds or more; answers the delay."""
        if self._closed:
            return 0.0
        seconds = self._machine.add_failed(key, policy, self._clock.monotonic(), at_least=at_least)
        self._wake()
        return seconds

    def forget(self, key: K) -> None:
        """End the series of failures of ``key``."""
        self._machine.forget(key)

    def failures(self, key: K) -> int:
        """Failures of ``key`` in a row."""
        return self._machine.failures(key)

    async def get(self) -> K:
        """Wait for a key. ``done`` must follow. Raises QueueClosed after shutdown."""
        while not self._closed:
            key = self._machine.take(self._clock.monotonic())
            if key is not None:
                self._idle.clear()
                self._wake()
                return key
            getter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._getters.append(getter)
            self._set_timer()
            try:
                await getter
            except asyncio.CancelledError:
                if getter in self._getters:
                    self._getters.remove(getter)
                else:
                    self._wake()  # the wake-up was meant for a getter that is leaving: pass it on
                raise
        raise QueueClosed("the queue is shut down")

    def done(self, key: K) -> None:
        """The worker has finished with ``key``; queues it again if it was added meanwhile."""
        self._machine.done(key)
        if not self._machine.running:
            self._idle.set()
        if not self._closed:
            self._wake()

    def shutdown(self) -> None:
        """Hand out nothing more: waiting keys are dropped, running ones are left to finish."""
        self._closed = True
        self._machine.discard_waiting()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._getters:
            self._release_getter()

    async def drained(self) -> None:
        """Wait until no worker holds a key."""
        await self._idle.wait()

    @property
    def closed(self) -> bool:
        """Whether ``shutdown`` was called."""
        return self._closed

    def stats(self) -> QueueStats:
        """Figures for metrics."""
        return self._machine.stats(self._clock.monotonic())

    def _admit(self, key: K, seconds: float) -> None:
        if not self._closed:
            self._admitted(key, self._machine.add_after(key, seconds, self._clock.monotonic()))

    def _admitted(self, key: K, admitted: bool) -> None:
        if not admitted:
            _log.error("queue_full", key=str(key), hint="keys are dropped until the backlog shrinks")
        self._wake()

    def _wake(self) -> None:
        """Wake one waiting worker if a key is ready, else at the next due time.

        Without a waiting worker there is nobody to wake, now or later: the next ``get`` looks for itself.
        """
        if not self._getters:
            return
        if self._machine.has_ready(self._clock.monotonic()):
            self._release_getter()
        else:
            self._set_timer()

    def _release_getter(self) -> None:
        getter = self._getters.popleft()
        if not getter.done():
            getter.set_result(None)

    def _set_timer(self) -> None:
        due = self._machine.next_due()
        if due is None:
            return
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        self._timer_due = due
        delay = max(0.0, due - self._clock.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._wake()
