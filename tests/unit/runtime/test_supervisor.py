from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import pytest

from rollouts.runtime.supervisor import LoopMonitor, PartEnded, Supervisor
from tests.kit.clock import VirtualClock


class Parts:
    """Makes parts that note what happens to them."""

    def __init__(self, clock: VirtualClock) -> None:
        self.log: list[tuple[float, str]] = []
        self._clock = clock

    def note(self, what: str) -> None:
        self.log.append((self._clock.monotonic(), what))

    def part(
        self, name: str, *, ends_after: float = 1e9, unwinds: float = 0.0
    ) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            self.note(f"{name} starts")
            try:
                await self._clock.sleep(ends_after)
            finally:
                await self._clock.sleep(unwinds)
                self.note(f"{name} ends")

        return run

    def failing(self, after: float, error: BaseException) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            await self._clock.sleep(after)
            raise error

        return run


@pytest.fixture
def parts(clock: VirtualClock) -> Parts:
    return Parts(clock)


async def stop_after(seconds: float) -> asyncio.Event:
    stopping = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, stopping.set)
    return stopping


async def test_parts_start_in_order_and_stop_in_reverse(parts: Parts) -> None:
    supervisor = Supervisor()
    for name in ("caches", "health", "controller"):
        supervisor.add(name, parts.part(name, unwinds=1))

    await supervisor.run(await stop_after(10))

    assert parts.log == [
        (0, "caches starts"),
        (0, "health starts"),
        (0, "controller starts"),
        (11, "controller ends"),
        (12, "health ends"),
        (13, "caches ends"),
    ]


async def test_a_part_that_returns_ends_the_process_with_its_name(
    parts: Parts, logs: list[MutableMapping[str, Any]]
) -> None:
    supervisor = Supervisor()
    supervisor.add("caches", parts.part("caches"))
    supervisor.add("watch", parts.part("watch", ends_after=5))

    with pytest.raises(PartEnded, match="part 'watch' ended unexpectedly: returned"):
        await supervisor.run(asyncio.Event())

    assert parts.log[-1] == (5, "caches ends")
    assert [entry["part"] for entry in logs if entry["event"] == "part_ended"] == ["watch"]


async def test_a_part_that_fails_ends_the_process_with_its_error(parts: Parts) -> None:
    supervisor = Supervisor()
    supervisor.add("caches", parts.part("caches"))
    supervisor.add("lease", parts.failing(5, ValueError("lost")))

    with pytest.raises(PartEnded, match="part 'lease' ended unexpectedly: ValueError: lost") as caught:
        await supervisor.run(asyncio.Event())

    assert isinstance(caught.value.__cause__, ValueError)
    assert parts.log[-1] == (5, "caches ends")


async def test_a_part_may_come_to_an_end_by_itself(parts: Parts, clock: VirtualClock) -> None:
    asked = asyncio.Event()

    async def polite() -> None:
        await asked.wait()
        await clock.sleep(3)
        parts.note("done")

    supervisor = Supervisor()
    supervisor.add("polite", polite, stop=asked.set, grace=5)

    await supervisor.run(await stop_after(10))

    assert parts.log == [(13, "done")]


async def test_a_stop_may_be_a_coroutine(parts: Parts, clock: VirtualClock) -> None:
    asked = asyncio.Event()

    async def ask() -> bool:
        await clock.sleep(2)
        asked.set()
        return True

    async def polite() -> None:
        await asked.wait()
        parts.note("done")

    supervisor = Supervisor()
    supervisor.add("polite", polite, stop=ask, grace=5)

    await supervisor.run(await stop_after(10))

    assert parts.log == [(12, "done")]


async def test_a_part_that_does_not_come_to_an_end_is_cancelled(parts: Parts, clock: VirtualClock) -> None:
    supervisor = Supervisor()
    supervisor.add("deaf", parts.part("deaf"), stop=lambda: None, grace=5)

    await supervisor.run(await stop_after(10))

    assert parts.log[-1] == (15, "deaf ends")


async def test_a_part_that_ignores_its_cancellation_does_not_hold_up_the_end(
    parts: Parts, clock: VirtualClock
) -> None:
    async def clings() -> None:
        while clock.monotonic() < 1000:
            try:
                await clock.sleep(2000)
            except asyncio.CancelledError:
                parts.note("ignored")

    supervisor = Supervisor()
    supervisor.add("clings", clings, grace=5)

    await supervisor.run(await stop_after(10))

    assert 15 <= clock.monotonic() <= 25
    assert parts.log[0] == (10, "ignored")


async def test_an_error_while_stopping_is_not_lost(parts: Parts, clock: VirtualClock) -> None:
    async def fails_to_stop() -> None:
        try:
            await clock.sleep(1e9)
        finally:
            raise ValueError("the lease was lost while stopping")

    supervisor = Supervisor()
    supervisor.add("caches", parts.part("caches"))
    supervisor.add("lease", fails_to_stop)

    with pytest.raises(ValueError, match="while stopping"):
        await supervisor.run(await stop_after(10))

    assert parts.log[-1] == (10, "caches ends")


async def test_a_cancelled_supervisor_leaves_nothing_behind(parts: Parts, clock: VirtualClock) -> None:
    supervisor = Supervisor()
    supervisor.add("a", parts.part("a"))
    task = asyncio.create_task(supervisor.run(asyncio.Event()))
    await clock.sleep(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert task.cancelled()
    assert parts.log[-1] == (1, "a ends")


async def test_the_monitor_measures_how_late_the_loop_is(clock: VirtualClock) -> None:
    monitor = LoopMonitor(clock, window=5)
    task = asyncio.create_task(monitor.run())
    loop: Any = asyncio.get_running_loop()

    async def hog(seconds: float, times: int) -> None:
        for _ in range(times):
            await clock.sleep(0.9)
            loop.timeline.advance(seconds)  # a callback that computes for so long

    await clock.sleep(3)
    calm = (monitor.worst(), monitor.sustained())
    await hog(4, 1)
    await clock.sleep(1)
    once = (monitor.worst(), monitor.sustained())
    await hog(6, 8)
    always = monitor.sustained()
    await clock.sleep(30)
    after = (monitor.worst(), monitor.sustained())
    task.cancel()

    assert calm == (0, 0)
    assert once[0] > 2.5
    assert once[1] == 0
    assert always > 4
    assert after == pytest.approx((0, 0), abs=1e-6)
