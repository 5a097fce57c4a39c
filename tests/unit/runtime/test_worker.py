from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rollouts.kube.errors import ApiTimeout, Conflict, Forbidden, TooManyRequests
from rollouts.runtime.worker import WorkerConfig, WorkerPool, WorkOutcome
from rollouts.runtime.workqueue import WorkQueue
from tests.kit.clock import VirtualClock

Reconcile = Callable[[str], Awaitable[float | None]]


class Crash(BaseException):
    """What no ``except Exception`` may swallow."""


class Recorder:
    """A reconciler that plays a script per key and notes when it was called."""

    def __init__(self, clock: VirtualClock, script: dict[str, list[Any]] | None = None) -> None:
        self.calls: dict[str, list[float]] = defaultdict(list)
        self._clock = clock
        self._script = script or {}

    async def __call__(self, key: str) -> float | None:
        self.calls[key].append(self._clock.monotonic())
        steps = self._script.get(key, [])
        step = steps.pop(0) if steps else None
        if isinstance(step, BaseException):
            raise step
        return step  # type: ignore[no-any-return]  # a number or None


@asynccontextmanager
async def pool_of(
    reconcile: Reconcile, clock: VirtualClock, config: WorkerConfig | None = None, **kwargs: Any
) -> AsyncIterator[tuple[WorkQueue[str], WorkerPool[str], asyncio.Task[None]]]:
    queue: WorkQueue[str] = WorkQueue(clock, rng=random.Random(1))
    pool = WorkerPool(queue, reconcile, clock, config=config, **kwargs)
    task = asyncio.create_task(pool.run())
    try:
        yield queue, pool, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_key_comes_back_when_it_asked_to(clock: VirtualClock) -> None:
    recorder = Recorder(clock, {"a": [30.0, 5, 0.0, None]})

    async with pool_of(recorder, clock) as (queue, pool, _):
        queue.add("a")
        await clock.sleep(1000)

        assert recorder.calls["a"] == [0, 30, 35, 35]
        assert pool.outcomes == {WorkOutcome.REQUEUED: 3, WorkOutcome.DONE: 1}


@pytest.mark.parametrize(
    ("sentence", "error", "want_outcome", "want_delay"),
    [
        ("a conflict is retried soon", Conflict("changed"), WorkOutcome.RETRY, (0.2, 0.3)),
        ("so is an unanswered write", ApiTimeout("no answer"), WorkOutcome.RETRY, (0.2, 0.3)),
        ("a 429 waits as told", TooManyRequests("slow", retry_after=7), WorkOutcome.THROTTLED, (7, 7)),
        (
            "a 429 for a day does not",
            TooManyRequests("slow", retry_after=86_400),
            WorkOutcome.THROTTLED,
            (60, 60),
        ),
        (
            "a 429 of NaN neither",
            TooManyRequests("?", retry_after=float("nan")),
            WorkOutcome.THROTTLED,
            (0.2, 0.3),
        ),
        ("a refusal nobody handled is a bug", Forbidden("RBAC"), WorkOutcome.BUG, (0.8, 1.2)),
        ("a bug backs off longer", KeyError("spec"), WorkOutcome.BUG, (0.8, 1.2)),
        ("an own TimeoutError is a bug", TimeoutError("inner"), WorkOutcome.BUG, (0.8, 1.2)),
        (
            "a group of retryable errors is retryable",
            ExceptionGroup("tasks", [Conflict("a"), ExceptionGroup("inner", [ApiTimeout("b")])]),
            WorkOutcome.RETRY,
            (0.2, 0.3),
        ),
        (
            "a group with one bug is a bug",
            ExceptionGroup("tasks", [Conflict("a"), ValueError("b")]),
            WorkOutcome.BUG,
            (0.8, 1.2),
        ),
    ],
)
async def test_error_families(
    clock: VirtualClock,
    sentence: str,
    error: Exception,
    want_outcome: WorkOutcome,
    want_delay: tuple[float, float],
) -> None:
    recorder = Recorder(clock, {"a": [error]})

    async with pool_of(recorder, clock) as (queue, pool, _):
        queue.add("a")
        await clock.sleep(1000)

        first, second = recorder.calls["a"]
        assert want_delay[0] <= second - first <= want_delay[1] + 1e-6, sentence
        assert pool.outcomes == {want_outcome: 1, WorkOutcome.DONE: 1}


async def test_an_infinite_requeue_is_a_bug_and_not_a_lost_key(clock: VirtualClock) -> None:
    recorder = Recorder(clock, {"a": [float("nan"), float("inf"), None]})

    async with pool_of(recorder, clock) as (queue, pool, _):
        queue.add("a")
        await clock.sleep(1000)

        assert pool.outcomes == {WorkOutcome.BUG: 2, WorkOutcome.DONE: 1}


async def test_a_bug_is_logged_with_its_key_and_traceback(
    clock: VirtualClock, logs: list[MutableMapping[str, Any]]
) -> None:
    async with pool_of(Recorder(clock, {"a": [KeyError("spec")]}), clock) as (queue, _, _):
        queue.add("a")
        await clock.sleep(1)

    (entry,) = [entry for entry in logs if entry["event"] == "reconcile_bug"]
    assert (entry["key"], entry["exc_info"]) == ("a", True)


async def test_a_key_that_always_fails_never_holds_up_the_others(clock: VirtualClock) -> None:
    recorder = Recorder(clock, {"bad": [ValueError("bug")] * 1000, "other": [10.0] * 1000})

    async with pool_of(recorder, clock, WorkerConfig(workers=1)) as (queue, _, _):
        queue.add("bad")
        queue.add("other")
        await clock.sleep(3600)

    assert len(recorder.calls["other"]) == 361
    assert 3600 / 72 < len(recorder.calls["bad"]) < 3600 / 48 + 8


async def test_retries_stay_within_five_a_second_per_key(clock: VirtualClock) -> None:
    recorder = Recorder(clock, {"a": [Conflict("changed")] * 1000})

    async with pool_of(recorder, clock) as (queue, _, _):
        queue.add("a")
        await clock.sleep(60)

        calls = recorder.calls["a"]
        assert max(sum(start <= call < start + 1 for call in calls) for start in calls) <= 5
        assert calls[-1] > 60 - 6.1, "and after a storm of a minute the next attempt is seconds away"


async def test_success_ends_the_series_of_failures(clock: VirtualClock) -> None:
    recorder = Recorder(clock, {"a": [*[Conflict("x")] * 5, 100.0, Conflict("x"), None]})

    async with pool_of(recorder, clock) as (queue, _, _):
        queue.add("a")
        await clock.sleep(1000)

        assert recorder.calls["a"][7] - recorder.calls["a"][6] < 0.31


async def test_a_reconcile_that_hangs_is_given_up_and_retried(clock: VirtualClock) -> None:
    calls: list[float] = []

    async def reconcile(key: str) -> float | None:
        calls.append(clock.monotonic())
        if len(calls) == 1:
            await clock.sleep(1e9)
        return None

    async with pool_of(reconcile, clock, WorkerConfig(timeout=20)) as (queue, pool, _):
        queue.add("a")
        await clock.sleep(30)

        assert calls[0] == 0
        assert 20.2 <= calls[1] <= 20.3
        assert pool.outcomes[WorkOutcome.TIMEOUT] == 1


async def test_the_observer_sees_each_reconcile_and_may_fail(clock: VirtualClock) -> None:
    seen: list[tuple[str, WorkOutcome, float]] = []

    async def reconcile(key: str) -> float | None:
        await clock.sleep(2)
        return None

    def observe(key: str, outcome: WorkOutcome, seconds: float) -> None:
        seen.append((key, outcome, seconds))
        raise ValueError("a bug in the metrics")

    async with pool_of(reconcile, clock, observe=observe) as (queue, _, task):
        queue.add("a")
        queue.add("b")
        await clock.sleep(10)

        assert seen == [("a", WorkOutcome.DONE, 2), ("b", WorkOutcome.DONE, 2)]
        assert not task.done()


async def test_a_crash_is_not_swallowed(clock: VirtualClock) -> None:
    async with pool_of(Recorder(clock, {"a": [Crash()]}), clock) as (queue, _, task):
        queue.add("a")
        await clock.sleep(1)

        assert task.done()
        error = task.exception()
        assert isinstance(error, BaseExceptionGroup)
        assert isinstance(error.exceptions[0], Crash)


async def test_stop_lets_running_reconciles_finish_and_starts_no_new_one(clock: VirtualClock) -> None:
    finished: list[str] = []

    async def reconcile(key: str) -> float | None:
        await clock.sleep(3)
        finished.append(key)
        return 1.0

    async with pool_of(reconcile, clock, WorkerConfig(workers=2, drain=5)) as (queue, pool, task):
        for key in ("a", "b", "c"):
            queue.add(key)
        await clock.sleep(1)

        assert await pool.stop()
        await task

        assert finished == ["a", "b"]
        assert clock.monotonic() == 3


async def test_stop_reports_a_reconcile_that_does_not_end(clock: VirtualClock) -> None:
    async def reconcile(key: str) -> float | None:
        await clock.sleep(1e9)
        return None

    async with pool_of(reconcile, clock, WorkerConfig(drain=5)) as (queue, pool, task):
        queue.add("a")
        await clock.sleep(1)

        assert not await pool.stop()
        assert clock.monotonic() == 6
        assert not task.done()
