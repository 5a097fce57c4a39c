"""A thousand failovers under faults, no two writers at a time; and mutants, to show that it would be seen."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime

import pytest

from rollouts.runtime.clock import Monotonic
from rollouts.runtime.election import LeaderElector
from rollouts.runtime.fencing import WriteFence
from rollouts.runtime.lease import LeaseConfig, LeaseMachine, LeaseRecord, LeaseStep
from tests.kit.failover import Failovers, Parts, violations
from tests.kit.network import Write

SEEDS = range(10)
PER_SEED = 100


@pytest.mark.timed
@pytest.mark.slow
def test_a_thousand_failovers_and_never_two_writers(report: Callable[[str], None]) -> None:
    begun = time.perf_counter()
    reports = [Failovers(seed).run(PER_SEED) for seed in SEEDS]
    seconds = time.perf_counter() - begun

    faults = sum((it.faults for it in reports), Counter[str]())
    failovers, writes = sum(it.failovers for it in reports), sum(it.writes for it in reports)
    hours = sum(it.virtual_seconds for it in reports) / 3600
    report(
        f"lease: {failovers} failovers, {writes} writes, {faults.total()} faults, "
        f"{hours:.1f} virtual hours in {seconds:.1f} s; overlapping writes: "
        f"{sum(len(it.violations) for it in reports)}\n  {dict(sorted(faults.items()))}"
    )
    assert [violation for it in reports for violation in it.violations] == []
    assert failovers >= 1000
    assert writes > 5 * failovers, "leaders did write"
    assert len(faults) == 12
    assert min(faults.values()) >= 100, "each fault happened often"


def test_one_seed_is_one_history() -> None:
    assert Failovers(1).run(10) == Failovers(1).run(10)


# Mutants


class CountsFromTheAnswer(LeaseMachine):
    def _effective_from(self, sent: Monotonic, now: Monotonic) -> Monotonic:
        return now


class NoMargin(LeaseMachine):
    def write_until(self) -> Monotonic:
        return self.held_until()


class TrustsTheWallClock(LeaseMachine):
    _wall: datetime

    def next(self, now: Monotonic, wall: datetime) -> LeaseStep:
        self._wall = wall
        return super().next(now, wall)

    def _may_take(self, record: LeaseRecord, now: Monotonic) -> bool:
        if not record.holder:
            return True
        age = (self._wall - datetime.fromisoformat(record.renewed)).total_seconds()
        return age > record.duration


class TrustsItsOwnDuration(LeaseMachine):
    def _may_take(self, record: LeaseRecord, now: Monotonic) -> bool:
        return not record.holder or now >= self._observed_at + self._config.duration


class TakesAMissingLeaseAtOnce(LeaseMachine):
    def _makes_vacant(self) -> bool:
        return False


class SendsNoPrecondition(LeaseMachine):
    def _precondition(self) -> dict[str, str]:
        return {key: value for key, value in super()._precondition().items() if key != "resourceVersion"}


class SharesItsIdentity(LeaseMachine):
    def __init__(self, config: LeaseConfig, identity: str, rng: random.Random) -> None:
        super().__init__(config, "controller", rng)


class FenceWithoutTime(WriteFence):
    """Open until a task closes it: right for every process that is never stopped."""

    def may_write(self) -> bool:
        return self._until > -math.inf

    def seconds_left(self) -> float:
        return math.inf if self.may_write() else 0.0


class FenceThatLetsAWriteTakeItsTime(WriteFence):
    def seconds_left(self) -> float:
        return math.inf if self.may_write() else 0.0


class FenceThatForgetsWritesUnderWay(WriteFence):
    def unsettled_for(self) -> float:
        return 0.0


class ReleasesBeforeTheWorkHasEnded(LeaderElector):
    async def _end(self, working: asyncio.Future[None], renewing: asyncio.Future[None]) -> None:
        if not renewing.done():
            await self._release()
        await super()._end(working, renewing)


class DoesNotForbidAfterTheWork(LeaderElector):
    """Neither awaits the cancelled work nor closes the fence before it frees the lease."""

    async def _end(self, working: asyncio.Future[None], renewing: asyncio.Future[None]) -> None:
        working.cancel()
        renewing.cancel()
        await asyncio.wait({renewing})
        await self._release()


def with_machine(machine: type[LeaseMachine]) -> Parts:
    class Elector(LeaderElector):
        def _make_machine(self, config: LeaseConfig, identity: str, rng: random.Random) -> LeaseMachine:
            return machine(config, identity, rng)

    return Parts(elector=Elector)


# The seed by which each is known to be found comes first, to save time; the others follow.
MUTANTS: dict[str, tuple[int, Parts]] = {
    "the lease counts from the answer": (1, with_machine(CountsFromTheAnswer)),
    "no margin between the last write and the end of the lease": (9, with_machine(NoMargin)),
    "expiry by wall clock": (0, with_machine(TrustsTheWallClock)),
    "own duration in place of the record's": (0, with_machine(TrustsItsOwnDuration)),
    "a deleted lease is anybody's": (1, with_machine(TakesAMissingLeaseAtOnce)),
    "no resourceVersion": (0, with_machine(SendsNoPrecondition)),
    "one identity for all": (0, with_machine(SharesItsIdentity)),
    "a fence without time": (0, Parts(fence=FenceWithoutTime)),
    "a write may outlast the lease": (0, Parts(fence=FenceThatLetsAWriteTakeItsTime)),
    "writes under way are forgotten": (8, Parts(fence=FenceThatForgetsWritesUnderWay)),
    "release before the work has ended": (3, Parts(elector=ReleasesBeforeTheWorkHasEnded)),
    "the work is not awaited": (6, Parts(elector=DoesNotForbidAfterTheWork)),
}


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_planted_bug_is_seen(mutant: str, report: Callable[[str], None]) -> None:
    """Within the failovers of the real run. The first sentence found is printed."""
    first, parts = MUTANTS[mutant]
    found = ""
    for seed in sorted(SEEDS, key=lambda seed: seed != first):
        outcome = Failovers(seed, parts=parts).run(PER_SEED, stop_on_violation=True)
        if outcome.violations:
            found = f"seed {seed}, failover {outcome.failovers}: {outcome.violations[0]}"
            break

    report(f"mutant '{mutant}': {found}")
    assert found


@pytest.mark.parametrize(
    ("sentence", "writes", "want"),
    [
        ("one after the other", [("a", 0, 1), ("a", 2, 3), ("b", 3, 4), ("c", 5, 6)], 0),
        ("a late write of the former leader", [("a", 0, 1), ("b", 2, 3), ("a", 1, 2.5)], 1),
        ("sent too late although stored in order", [("a", 0, 5), ("b", 4, 6)], 1),
        ("a short leadership inside a long one", [("a", 0, 1), ("b", 3, 4), ("a", 8, 9), ("c", 8.5, 10)], 2),
    ],
)
def test_the_checker(sentence: str, writes: list[tuple[str, float, float]], want: int) -> None:
    history = [Write(writer=writer, epoch=0, sent=sent, stored=stored) for writer, sent, stored in writes]

    assert len(violations(history)) == want, sentence
