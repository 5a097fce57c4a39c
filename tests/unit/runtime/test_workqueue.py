from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import pytest

from rollouts.runtime.backoff import BackoffPolicy
from rollouts.runtime.clock import Monotonic
from rollouts.runtime.workqueue import QueueClosed, QueueMachine, WorkQueue
from tests.kit.clock import VirtualClock

EXACT = BackoffPolicy(initial=1, maximum=8, jitter=0)


def at(seconds: float) -> Monotonic:
    return Monotonic(seconds)


@pytest.fixture
def machine() -> QueueMachine[str]:
    return QueueMachine(rng=random.Random(1))


@pytest.fixture
def queue(clock: VirtualClock) -> WorkQueue[str]:
    return WorkQueue(clock, rng=random.Random(1))


def drain(machine: QueueMachine[str], now: float) -> list[str]:
    taken = []
    while (key := machine.take(at(now))) is not None:
        taken.append(key)
        machine.done(key)
    return taken


def test_a_key_is_queued_once_and_in_order(machine: QueueMachine[str]) -> None:
    for key in ("a", "b", "a", "c", "b"):
        machine.add(key, at(0))

    assert drain(machine, 0) == ["a", "b", "c"]


def test_a_key_is_never_with_two_workers_and_is_queued_again_when_done(machine: QueueMachine[str]) -> None:
    machine.add("a", at(0))
    first = machine.take(at(0))
    machine.add("a", at(1))
    machine.add("a", at(2))
    second = machine.take(at(2))
    machine.done("a")
    third = machine.take(at(3))
    machine.done("a")

    assert (first, second, third, machine.take(at(9))) == ("a", None, "a", None)


def test_a_hot_key_delays_the_others_by_one_turn_at_most(machine: QueueMachine[str]) -> None:
    for key in ("hot", "b", "c", "d"):
        machine.add(key, at(0))
    order = []
    for turn in range(8):
        key = machine.take(at(turn))
        assert key is not None
        order.append(key)
        machine.add("hot", at(turn))  # while it runs, and while it waits
        machine.done(key)

    assert order == ["hot", "b", "c", "d", "hot", "hot", "hot", "hot"]


@pytest.mark.parametrize(
    ("sentence", "delays", "want_times"),
    [
        ("a later time does not push it back", [5, 9], [5]),
        ("an earlier time wins", [9, 5], [5]),
        ("an equal one changes nothing", [5, 5], [5]),
        ("no delay is now, and the later time stays", [5, 0], [0, 5]),
        ("a negative delay is now", [-3], [0]),
    ],
)
def test_the_earliest_wins(
    machine: QueueMachine[str], sentence: str, delays: list[float], want_times: list[float]
) -> None:
    for delay in delays:
        machine.add_after("a", delay, at(0))

    times = [quarter / 4 for quarter in range(80) if drain(machine, quarter / 4)]

    assert times == want_times, sentence


def test_delayed_keys_come_in_the_order_of_their_times(machine: QueueMachine[str]) -> None:
    rng = random.Random(2)
    delays = {f"k{number}": rng.uniform(0, 100) for number in range(500)}
    for key, delay in delays.items():
        machine.add_after(key, delay + 50, at(0))
        machine.add_after(key, delay, at(0))

    assert drain(machine, 1000) == sorted(delays, key=delays.__getitem__)


def test_the_heap_of_delays_does_not_grow_with_replaced_entries(machine: QueueMachine[str]) -> None:
    for number in range(100_000):
        machine.add_after("a", 1_000_000 - number, at(0))

    assert len(machine._heap) <= 130
    assert machine.next_due() == 900_001


def test_failures_back_off_per_key_until_forgotten(machine: QueueMachine[str]) -> None:
    delays = [machine.add_failed("a", EXACT, at(0)) for _ in range(5)]
    other = machine.add_failed("b", EXACT, at(0))
    machine.forget("a")
    after = machine.add_failed("a", EXACT, at(0))

    assert (delays, other, after) == ([1, 2, 4, 8, 8], 1, 1)
    assert machine.add_failed("b", EXACT, at(0), at_least=30) == 30


def test_a_full_queue_refuses_new_keys_only() -> None:
    machine: QueueMachine[str] = QueueMachine(capacity=2)

    assert machine.add("a", at(0))
    assert machine.add_after("b", 5, at(0))
    assert not machine.add("c", at(0))
    assert not machine.add_after("d", 5, at(0))
    assert machine.add("a", at(0))
    assert machine.add("b", at(0))


def test_figures(machine: QueueMachine[str]) -> None:
    for key in ("a", "b", "c"):
        machine.add(key, at(10))
    machine.add_after("d", 100, at(10))
    machine.take(at(13))
    machine.add_failed("e", EXACT, at(13))

    stats = machine.stats(at(20))

    assert (stats.depth, stats.delayed, stats.oldest_age) == (2, 2, 10)


async def test_a_waiting_worker_is_woken_by_an_add(queue: WorkQueue[str], clock: VirtualClock) -> None:
    task = asyncio.create_task(queue.get())
    await clock.sleep(5)
    queue.add("a")

    assert await task == "a"
    assert clock.monotonic() == 5


async def test_a_waiting_worker_is_woken_on_time(queue: WorkQueue[str], clock: VirtualClock) -> None:
    task = asyncio.create_task(queue.get())
    await clock.sleep(1)
    queue.add_after("late", 60)
    queue.add_after("early", 10)

    assert await task == "early"
    assert clock.monotonic() == 11
    assert await queue.get() == "late"
    assert clock.monotonic() == 61


async def test_keys_that_are_due_together_wake_as_many_workers(
    queue: WorkQueue[str], clock: VirtualClock
) -> None:
    tasks = [asyncio.create_task(queue.get()) for _ in range(3)]
    await clock.sleep(1)
    for key in ("a", "b", "c"):
        queue.add_after(key, 10)
    await clock.sleep(10.001)

    assert sorted(task.result() for task in tasks) == ["a", "b", "c"]


async def test_a_key_added_while_it_ran_goes_to_another_idle_worker(
    queue: WorkQueue[str], clock: VirtualClock
) -> None:
    queue.add("a")
    assert await queue.get() == "a"
    idle = asyncio.create_task(queue.get())
    await clock.sleep(1)
    queue.add("a")
    await clock.sleep(1)
    assert not idle.done()

    queue.done("a")

    assert await asyncio.wait_for(idle, 1) == "a"


async def test_no_wake_up_is_lost_when_a_waiting_worker_is_cancelled(
    queue: WorkQueue[str], clock: VirtualClock
) -> None:
    leaving, staying = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await clock.sleep(1)
    queue.add("a")  # wakes the first one ...
    leaving.cancel()  # ... which leaves before it runs

    assert await asyncio.wait_for(staying, 1) == "a"
    assert leaving.cancelled()


async def test_many_workers_and_adders_lose_and_double_nothing(
    queue: WorkQueue[int], clock: VirtualClock
) -> None:
    rng = random.Random(11)
    running: set[int] = set()
    state = dict.fromkeys(range(40), 0)  # what the world is at
    seen = dict.fromkeys(range(40), 0)  # what the last reconcile of the key saw

    async def work() -> None:
        while True:
            try:
                key = await queue.get()
            except QueueClosed:
                return
            assert key not in running
            running.add(key)
            seen[key] = state[key]
            await clock.sleep(rng.uniform(0, 0.3))
            running.discard(key)
            queue.done(key)

    async def change() -> None:
        for _ in range(2000):
            key = rng.randrange(40)
            state[key] += 1
            if rng.random() < 0.5:
                queue.add(key)
            else:
                queue.add_after(key, rng.uniform(0, 1))
            await clock.sleep(rng.uniform(0, 0.05))

    workers = [asyncio.create_task(work()) for _ in range(5)]
    await change()
    await clock.sleep(30)
    queue.shutdown()
    await asyncio.gather(*workers)

    assert seen == state
    assert queue.stats().depth == queue.stats().delayed == 0


async def test_shutdown_ends_waiting_workers_and_lets_running_ones_finish(
    queue: WorkQueue[str], clock: VirtualClock
) -> None:
    waiting = asyncio.create_task(queue.get())
    await clock.sleep(0)
    queue.add("a")
    assert await waiting == "a"
    idle = asyncio.create_task(queue.get())
    await clock.sleep(1)
    queue.add_after("b", 1)
    queue.add("a")

    queue.shutdown()
    drained = asyncio.create_task(queue.drained())
    with pytest.raises(QueueClosed):
        await idle
    assert not drained.done()
    queue.done("a")
    await drained
    queue.add("c")
    queue.add_after("d", 1)

    assert queue.closed
    assert queue.stats().depth == queue.stats().delayed == 0
    with pytest.raises(QueueClosed):
        await queue.get()


@pytest.mark.timed
async def test_a_thousand_keys_are_cheap(
    queue: WorkQueue[str], clock: VirtualClock, report: Callable[[str], None]
) -> None:
    keys = [f"ns/rollout-{number}" for number in range(1000)]
    begun = time.process_time()
    for _ in range(20):
        for key in keys:
            queue.add_after(key, 10)
        for _ in keys:
            queue.done(await queue.get())
    seconds = time.process_time() - begun

    report(f"1,000 keys: {seconds / 20_000 * 1e6:.1f} us per key and turn")
    assert seconds < 2


@pytest.mark.parametrize(
    ("earlier", "newest", "comes"),
    [(5.0, 60.0, 60.0), (60.0, 5.0, 5.0), (5.0, None, None), (5.0, 5.0, 5.0), (None, 7.0, 7.0)],
    ids=["later", "earlier", "taken back", "the same", "the first"],
)
def test_what_a_worker_asks_for_replaces_what_it_asked_for_before(
    machine: QueueMachine[str], earlier: float | None, newest: float | None, comes: float | None
) -> None:
    machine.set_due("a", earlier, at(0))
    machine.set_due("a", newest, at(0))

    assert machine.next_due() == comes
    if comes is not None:
        assert machine.take(at(comes - 0.1)) is None
        assert machine.take(at(comes)) == "a"
        machine.done("a")
    assert machine.take(at(1000)) is None


def test_what_was_added_is_not_taken_back(machine: QueueMachine[str]) -> None:
    machine.add("a", at(0))
    machine.set_due("a", None, at(0))

    assert machine.take(at(0)) == "a"
