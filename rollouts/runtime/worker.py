"""The loop around a reconciler: take a key, reconcile it, decide when to look at it again.

Errors come in three families. What is *terminal for the spec* is the reconciler's own business (it writes a
status and returns None). Here remain:

- retry: ``RetryableError`` and a reconcile that took too long; the key comes back after a short back-off
  (429: not before the server allows it);
- bug: any other exception; logged with its traceback, counted, and the key comes back after a long back-off.

Neither ever touches another key.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

import structlog

from rollouts.kube.errors import RetryableError, TooManyRequests
from rollouts.runtime.backoff import BackoffPolicy, bounded_wait
from rollouts.runtime.clock import Clock
from rollouts.runtime.workqueue import QueueClosed, WorkQueue

__all__ = ["WorkOutcome", "WorkerConfig", "WorkerPool"]

K = TypeVar("K", bound=Hashable)

_log = structlog.get_logger(__name__)

RETRY = BackoffPolicy(initial=0.25, maximum=5.0, jitter=0.2)
BUG = BackoffPolicy(initial=1.0, maximum=60.0, jitter=0.2)


class WorkOutcome(Enum):
    """How one reconcile ended; the values are label values of metrics."""

    DONE = "done"
    REQUEUED = "requeued"
    RETRY = "retry"
    THROTTLED = "throttled"
    TIMEOUT = "timeout"
    BUG = "bug"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """Limits of a pool. Times in seconds.

    ``retry`` starts at 0.25 s, so that a key is retried at most five times a second, and ends at 5 s, so
    that everything has been tried again within seconds of the end of an outage.
    """

    workers: int = 8
    timeout: float = 60.0
    drain: float = 5.0
    retry: BackoffPolicy = RETRY
    bug: BackoffPolicy = BUG


class WorkerPool(Generic[K]):
    """N workers that pull keys from ``queue`` and call ``reconcile(key)``.

    ``reconcile`` answers the seconds after which it wants to see the key again, or None. ``observe`` is
    called with (key, outcome, seconds) after each reconcile, for metrics.
    """

    def __init__(
        self,
        queue: WorkQueue[K],
        reconcile: Callable[[K], Awaitable[float | None]],
        clock: Clock,
        *,
        config: WorkerConfig | None = None,
        observe: Callable[[K, WorkOutcome, float], None] | None = None,
    ) -> None:
        self.outcomes: Counter[WorkOutcome] = Counter()
        self._queue = queue
        self._reconcile = reconcile
        self._clock = clock
        self._config = config or WorkerConfig()
        self._observe = observe

    async def run(self) -> None:
        """Work until the queue is shut down and the running reconciles have ended.

        Cancelled, it cancels the running reconciles at once; ``stop`` is the gentle way.
        """
        async with asyncio.TaskGroup() as group:
            for number in range(self._config.workers):
                group.create_task(self._work(), name=f"worker-{number}")

    async def stop(self) -> bool:
        """Hand out no more keys and wait for the running reconciles; False if some outlast ``drain``."""
        self._queue.shutdown()
        try:
            async with asyncio.timeout(self._config.drain):
                await self._queue.drained()
        except TimeoutError:
            _log.warning("drain_incomplete", seconds=self._config.drain)
            return False
        return True

    async def _work(self) -> None:
        while True:
            try:
                key = await self._queue.get()
            except QueueClosed:
                return
            try:
                await self._process(key)
            finally:
                self._queue.done(key)

    async def _process(self, key: K) -> None:
        begun = self._clock.monotonic()
        outcome = await self._attempt(key)
        self.outcomes[outcome] += 1
        if self._observe is None:
            return
        try:
            self._observe(key, outcome, self._clock.monotonic() - begun)
        except Exception:
            _log.exception("observer_failed", key=str(key))

    async def _attempt(self, key: K) -> WorkOutcome:
        deadline = asyncio.timeout(self._config.timeout)
        try:
            async with deadline:
                requeue = await self._reconcile(key)
            return self._succeeded(key, requeue)
        except Exception as error:
            if isinstance(error, TimeoutError) and deadline.expired():
                self._retry_later(key, TimeoutError(f"no result within {self._config.timeout} s"))
                return WorkOutcome.TIMEOUT
            return self._failed(key, error)

    def _failed(self, key: K, error: Exception) -> WorkOutcome:
        causes = list(_leaves(error))
        if not all(isinstance(cause, RetryableError) for cause in causes):
            seconds = self._queue.add_failed(key, self._config.bug)
            _log.exception("reconcile_bug", key=str(key), retry_in=round(seconds, 3))
            return WorkOutcome.BUG
        waits = [cause.retry_after for cause in causes if isinstance(cause, TooManyRequests)]
        # The server's word, but not beyond our longest delay: a wrong header must not park a key for days.
        wait = bounded_wait(max(waits, default=0.0), self._config.bug.maximum)
        self._retry_later(key, causes[0], at_least=wait)
        return WorkOutcome.THROTTLED if waits else WorkOutcome.RETRY

    def _succeeded(self, key: K, requeue: float | None) -> WorkOutcome:
        if requeue is not None and not math.isfinite(requeue):
            raise ValueError(f"reconcile asked to be called again in {requeue} seconds")
        self._queue.forget(key)
        self._queue.set_due(key, requeue)
        return WorkOutcome.DONE if requeue is None else WorkOutcome.REQUEUED

    def _retry_later(self, key: K, error: BaseException, *, at_least: float = 0.0) -> None:
        seconds = self._queue.add_failed(key, self._config.retry, at_least=at_least)
        _log.info(
            "reconcile_retry",
            key=str(key),
            error=type(error).__name__,
            reason=str(error)[:500],
            failures=self._queue.failures(key),
            retry_in=round(seconds, 3),
        )


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions inside a (nested) group, such as a TaskGroup raises; else the exception itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
