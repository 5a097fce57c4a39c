from __future__ import annotations

import asyncio
import time

import pytest

from tests.kit.clock import EPOCH, VirtualClock, VirtualDeadlock, virtual_time


async def _hours(
    clock: VirtualClock, log: list[tuple[str, float]], name: str, step: float, until: float
) -> None:
    while clock.monotonic() < until:
        await clock.sleep(step)
        log.append((name, clock.monotonic()))


@pytest.mark.timed
def test_a_thousand_virtual_hours_take_less_than_a_real_second() -> None:
    begun = time.perf_counter()

    with virtual_time() as loop:
        loop.run_until_complete(_hours(VirtualClock(), [], "a", 3600.0, 3_600_000.0))
        elapsed = loop.time()

    assert elapsed == 3_600_000.0
    assert time.perf_counter() - begun < 1.0


def test_two_runs_of_one_program_are_the_same() -> None:
    async def program() -> list[tuple[str, float]]:
        clock, log = VirtualClock(), list[tuple[str, float]]()
        await asyncio.gather(
            *(_hours(clock, log, name, step, 1000.0) for name, step in (("a", 7), ("b", 13.5)))
        )
        return log

    logs = []
    for _ in range(2):
        with virtual_time() as loop:
            logs.append(loop.run_until_complete(program()))

    assert len(logs[0]) > 200
    assert logs[0] == logs[1]


def test_the_wall_clock_jumps_and_the_monotonic_one_does_not() -> None:
    async def program() -> None:
        clock = VirtualClock()
        await clock.sleep(10)
        clock.jump_wall(-3600)

        assert clock.monotonic() == 10
        assert (clock.now() - EPOCH).total_seconds() == -3590

    with virtual_time() as loop:
        loop.run_until_complete(program())


def test_timeouts_fire_in_virtual_time() -> None:
    async def program() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(86_400 * 30):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    with virtual_time() as loop:
        assert loop.run_until_complete(program()) == 86_400 * 30


def test_a_deadlock_is_an_error_and_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.kit.clock.DEADLOCK_SECONDS", 0.01)

    with virtual_time() as loop, pytest.raises(VirtualDeadlock, match="wait for each other"):
        loop.run_until_complete(asyncio.Event().wait())


def test_tasks_left_over_are_cancelled_at_the_end() -> None:
    ended: list[str] = []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("forever")

    async def program() -> asyncio.Task[None]:
        task = asyncio.create_task(forever())
        await asyncio.sleep(1)
        return task

    with virtual_time() as loop:
        task = loop.run_until_complete(program())

    assert task.cancelled()
    assert ended == ["forever"]
