"""Tenants take turns, and none holds all there is."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollouts.runtime.clock import Monotonic
from rollouts.runtime.fairness import FairLine, FairShares, FairSlots
from rollouts.runtime.workqueue import QueueMachine


def tenant_of(key: str) -> str:
    return key.partition("/")[0]


def test_a_key_waits_for_one_turn_of_a_tenant_with_thousands():
    queue = QueueMachine[str](tenant=tenant_of)
    for number in range(5000):
        queue.add(f"greedy/{number}", Monotonic(0.0))
    queue.add("modest/0", Monotonic(0.0))

    taken = [queue.take(Monotonic(0.0)) for _ in range(2)]

    assert taken == ["greedy/0", "modest/0"]


def test_keys_that_take_long_leave_workers_to_the_others():
    queue = QueueMachine[str](tenant=tenant_of, most=2)
    for number in range(9):
        queue.add(f"slow/{number}", Monotonic(0.0))

    taken = [queue.take(Monotonic(0.0)) for _ in range(3)]
    queue.add("modest/0", Monotonic(1.0))

    assert taken == ["slow/0", "slow/1", None]
    assert queue.take(Monotonic(1.0)) == "modest/0"
    queue.done("slow/0")
    assert queue.take(Monotonic(1.0)) == "slow/2"


@given(
    st.lists(st.tuples(st.sampled_from(["push", "pop", "release"]), st.sampled_from("abc")), max_size=80),
    st.integers(1, 3),
)
def test_a_line_hands_out_each_item_once_in_order_and_within_the_limit(moves, most):
    line: FairLine[tuple[str, int]] = FairLine(lambda item: item[0], most)
    pushed: Counter[str] = Counter()
    out: list[tuple[str, int]] = []
    handed: list[tuple[str, int]] = []
    for move, tenant in moves:
        if move == "push":
            line.push((tenant, pushed[tenant]))
            pushed[tenant] += 1
        elif move == "pop":
            ready, item = line.ready(), line.pop()
            assert ready == (item is not None)
            if item is not None:
                out.append(item)
                handed.append(item)
        elif out:
            line.release(out.pop(0))
        held = Counter(item[0] for item in out)
        assert max(held.values(), default=0) <= most

    assert len(line) + len(handed) == pushed.total()
    for tenant in "abc":
        numbers = [number for name, number in handed if name == tenant]
        assert numbers == list(range(len(numbers)))


async def test_one_tenant_cannot_hold_all_slots():
    slots, entered, end = FairSlots(3, 2), list[str](), asyncio.Event()

    async def work(tenant: str) -> None:
        async with slots.hold(tenant):
            entered.append(tenant)
            await end.wait()

    tasks = [asyncio.create_task(work("greedy")) for _ in range(5)]
    tasks.append(asyncio.create_task(work("modest")))
    for _ in range(5):
        await asyncio.sleep(0)

    assert sorted(entered) == ["greedy", "greedy", "modest"]

    end.set()
    await asyncio.gather(*tasks)
    assert Counter(entered) == {"greedy": 5, "modest": 1}


@pytest.mark.parametrize("turns", range(4))
async def test_a_slot_survives_whoever_is_cancelled_on_the_way_to_it(turns):
    slots = FairSlots(1, 1)

    async def work() -> None:
        async with slots.hold("a"):
            await asyncio.sleep(0)

    first, second = asyncio.create_task(work()), asyncio.create_task(work())
    for _ in range(turns):
        await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)

    async with asyncio.timeout(1), slots.hold("b"):
        assert first.done()


async def test_who_holds_least_is_next_and_a_large_share_is_not_overtaken():
    shares = FairShares(8, 6)
    first = shares.join("a", "a/1", 4)
    again, other, modest = (
        shares.join("a", "a/1", 2),
        shares.join("a", "a/2", 4),
        shares.join("b", "b/1", 4),
    )
    assert [one.turn.done() for one in (first, again, other, modest)] == [True, True, False, False]

    small = shares.join("b", "b/1", 1)
    assert not small.turn.done()  # two are free, and its elder waits for four
    shares.leave(again)
    assert [one.turn.done() for one in (other, modest, small)] == [False, True, False]
    shares.leave(first)
    assert [one.turn.done() for one in (other, small)] == [True, False]
    shares.leave(modest)
    assert small.turn.done()


async def test_who_leaves_the_line_holds_nothing():
    shares = FairShares(4, 4)
    first, second, third = (shares.join(name, name, 4) for name in "abc")
    shares.leave(second)
    shares.leave(first)

    assert (second.turn.done(), third.turn.done()) == (False, True)


@pytest.mark.parametrize("turns", range(4))
async def test_a_share_survives_whoever_is_cancelled_on_the_way_to_it(turns):
    shares = FairShares(2, 2)

    async def work() -> None:
        share = shares.join("a", "a", 2)
        try:
            await share.turn
            await asyncio.sleep(0)
        finally:
            shares.leave(share)

    first, second = asyncio.create_task(work()), asyncio.create_task(work())
    for _ in range(turns):
        await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)

    assert shares.join("b", "b", 2).turn.done()
