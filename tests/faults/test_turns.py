"""Turns at the assembled controller, in virtual time: three Rollouts, one place, and whatever breaks on the way."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from rollouts.controller import turns as turning
from rollouts.controller.turns import Turns
from rollouts.engine import starting
from rollouts.engine.turns import LimitScope
from rollouts.kube.errors import ApiTimeout, ApiUnavailable, KubeError
from rollouts.objects import kinds
from rollouts.runtime.objects import ObjectKey
from tests.kit.clock import VirtualClock, virtual_time
from tests.kit.faults.cluster import NAMESPACE, Cluster
from tests.kit.faults.history import History
from tests.kit.faults.moves import command, edit_spec, phase, reason
from tests.kit.faults.objects import CANARY, STABLE
from tests.kit.faults.process import Process
from tests.kit.faults.several import Limited, begun_at, early_rises, in_progress, place, status_of
from tests.kit.faults.simulation import (
    CLEAN,
    Condition,
    Delivery,
    FaultPlan,
    Move,
    Run,
    Scenario,
    Simulation,
    simulate,
)
from tests.kit.faults.source import ScriptedSource
from tests.kit.faults.transport import FaultyClient, Feed, WriteFault

Object = dict[str, Any]

ONE_IN_A_NAMESPACE = {LimitScope.NAMESPACE: 1}
NAMES = ("mymodel", "second", "third")


def setup(cluster: Cluster) -> None:
    place(cluster, {name: {} for name in NAMES})


def statuses(sim: Simulation) -> list[Object]:
    return [status_of(sim, name) for name in NAMES]


def all_promoted(sim: Simulation) -> bool:
    return all(
        status.get("phase") == "Healthy" and status["stable"]["name"] == CANARY for status in statuses(sim)
    )


def scenario(*moves: Move, goal: Condition = all_promoted) -> Scenario:
    return Scenario(name="turns", setup=setup, moves=moves, goal=goal)


def run(plan: FaultPlan = CLEAN, *moves: Move, goal: Condition = all_promoted) -> Run:
    return simulate(scenario(*moves, goal=goal), plan, Limited(ONE_IN_A_NAMESPACE))


# --- the oracle: nothing but what was stored --------------------------------------------------------


def most_in_progress(found: Run) -> int:
    present: dict[str, bool] = {}
    most = 0
    for record in found.history.records:
        if record.of(kinds.ROLLOUT):
            present[record.change.name] = in_progress(record.after)
            most = max(most, sum(present.values()))
    return most


# --- undisturbed ------------------------------------------------------------------------------------


def test_one_after_the_other_in_the_order_in_which_they_asked():
    found = run()
    assert found.converged
    assert found.history.problems == []
    assert most_in_progress(found) == 1
    assert early_rises(found) == []
    told = [record.after.get("status") or {} for record in found.history.records if record.of(kinds.ROLLOUT)]
    waits = [status["message"] for status in told if status.get("reason") == "WaitingForTurn"]
    assert any(
        "2nd in line behind default/second: 1 of 1 rollouts in progress in namespace default" in text
        for text in waits
    )
    assert list(begun_at(found)) == list(NAMES)


def test_the_next_one_begins_as_soon_as_there_is_a_place():
    found = run()
    ends = [
        record.seconds
        for record in found.history.records
        if record.of(kinds.ROLLOUT) and (record.after.get("status") or {}).get("reason") == "Promoted"
    ]
    begins = [
        record.seconds
        for record in found.history.records
        if record.of(kinds.ROLLOUT) and (record.after.get("status") or {}).get("reason") == "Started"
    ]
    assert begins[1] - ends[0] <= 2.0


@pytest.mark.parametrize("kind", ["deleted", "paused", "invalid", "retargeted"])
def test_whoever_is_in_front_and_leaves_holds_nobody_up(kind):
    def act(sim: Simulation) -> None:
        change = {
            "paused": {"spec": {"paused": True}},
            "invalid": {"spec": {"strategy": {"canary": {"steps": [{"setWeight": 50}, {"setWeight": 10}]}}}},
            "retargeted": {"spec": {"target": {"pool": {"name": STABLE}}}},
        }
        if kind == "deleted":
            sim.cluster.delete(kinds.ROLLOUT, "second")
        else:
            sim.cluster.merge(kinds.ROLLOUT, "second", change[kind])

    def goal(sim: Simulation) -> bool:
        mine, _, third = statuses(sim)
        return (mine.get("phase"), third.get("phase")) == ("Healthy", "Healthy") and third["stable"][
            "name"
        ] == CANARY

    leaves = Move(when=lambda sim: statuses(sim)[2].get("reason") == "WaitingForTurn", act=act, after=2)
    found = run(CLEAN, leaves, goal=goal)
    assert found.converged
    assert most_in_progress(found) == 1


def test_one_in_progress_that_gets_another_target_goes_to_the_end_of_the_line():
    begun = lambda sim: bool(statuses(sim)[0].get("startedAt")) and statuses(sim)[2].get("queuedAt")  # noqa: E731
    again = Move(when=begun, act=edit_spec(lambda spec: spec["target"].update(revision="r2")), after=1)
    found = run(CLEAN, again)
    assert found.converged
    assert most_in_progress(found) == 1
    began: dict[tuple[str, int], None] = {}
    for record in found.history.records:
        if record.of(kinds.ROLLOUT) and in_progress(record.after):
            began[record.change.name, record.after["status"]["attempt"]] = None
    assert list(began) == [("mymodel", 1), ("second", 1), ("third", 1), ("mymodel", 2)]


def test_a_command_to_abort_and_a_revert_wait_for_nobody():
    waits = lambda sim: statuses(sim)[2].get("reason") == "WaitingForTurn"  # noqa: E731
    aborted = run(CLEAN, Move(when=waits, act=command("abort"), after=1), goal=phase("Aborted"))
    assert aborted.converged
    back = Move(when=waits, act=edit_spec(lambda spec: spec["target"]["pool"].update(name=STABLE)), after=1)
    assert run(CLEAN, back, goal=phase("Healthy")).converged


def test_promote_full_does_not_wait():
    def act(sim: Simulation) -> None:
        sim.cluster.merge(kinds.ROLLOUT, "mymodel", {"metadata": {"annotations": {}}})
        command("promoteFull")(sim)

    def first_waits(cluster: Cluster) -> None:
        setup(cluster)
        cluster.merge(kinds.ROLLOUT, "mymodel", {"spec": {"paused": True}})

    moves = (
        Move(
            when=lambda sim: statuses(sim)[1].get("phase") == "Paused",
            act=edit_spec(lambda spec: spec.update(paused=False)),
        ),
        Move(when=reason("WaitingForTurn"), act=act),
    )
    found = simulate(
        Scenario(name="full", setup=first_waits, moves=moves, goal=phase("Healthy")),
        CLEAN,
        Limited(ONE_IN_A_NAMESPACE),
    )
    assert found.converged
    assert most_in_progress(found) == 2


# --- disturbed --------------------------------------------------------------------------------------

LATE = Delivery(delays=(("rollouts", 20.0),))
"""Watch events of Rollouts come twenty seconds late."""


KINDS = (
    WriteFault.CRASH_BEFORE,
    WriteFault.CRASH_AFTER,
    WriteFault.TIMEOUT_AFTER,
    WriteFault.TIMEOUT_BEFORE,
    WriteFault.CONFLICT,
)


def disturbed(
    number: int, fault: WriteFault, *, lag: int = 0, delivery: Delivery = CLEAN.delivery
) -> FaultPlan:
    """A fault at one write; a new process is ``lag`` events behind for twenty seconds."""
    late = f"{lag} events behind, {delivery.staleness:g} s late"
    return FaultPlan(
        name=f"{fault.value} at write {number}, {late}",
        writes={number: fault},
        lag=lag,
        catch_up=20.0,
        delivery=delivery,
        exact=False,
    )


def every_plan() -> list[FaultPlan]:
    return [
        disturbed(number, fault, lag=lag, delivery=delivery)
        for number in range(36)
        for fault in KINDS
        for lag, delivery in ((0, CLEAN.delivery), (1, CLEAN.delivery), (4, CLEAN.delivery), (0, LATE))
    ]


def broken(chosen: list[FaultPlan]) -> list[str]:
    wrong = []
    for plan in chosen:
        found = run(plan)
        most, early = most_in_progress(found), early_rises(found)
        if most > 1 or early or found.history.problems or not found.converged:
            wrong.append(f"{plan.name}: {most} at once, {early}, {found.history.problems}, {found.converged}")
    return wrong


FEW = [
    disturbed(1, WriteFault.CRASH_AFTER, lag=1),
    disturbed(1, WriteFault.CRASH_AFTER, lag=4),
    disturbed(0, WriteFault.TIMEOUT_AFTER, delivery=LATE),
    disturbed(0, WriteFault.TIMEOUT_BEFORE, delivery=LATE),
    disturbed(16, WriteFault.CRASH_BEFORE, lag=4),
    disturbed(17, WriteFault.CRASH_AFTER, lag=4),
    disturbed(17, WriteFault.CONFLICT, delivery=LATE),
]
"""Around the first and the second beginning."""


def test_whatever_breaks_there_are_never_two_at_once():
    assert broken(FEW) == []


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", KINDS, ids=lambda fault: fault.name)
def test_whatever_breaks_at_any_write_there_are_never_two_at_once(fault):
    assert broken([plan for plan in every_plan() if fault in plan.writes.values()]) == []


class Slow(FaultyClient):
    """Other tasks run while a patch is under way."""

    async def patch(self, *place: Any, **options: Any) -> Object:
        """See ``KubeClient.patch``."""
        for _ in range(10):
            await asyncio.sleep(0)
        return await super().patch(*place, **options)


async def work_at_once() -> int:
    clock = VirtualClock()
    cluster, history = Cluster(clock), History(staleness=0.0)
    feed = Feed(cluster.api, clock, CLEAN.delivery)
    feed.watch(Simulation.watched())
    setup(cluster)
    cluster.react()
    client, source = Slow(cluster.api, clock, history), ScriptedSource(clock)
    process = Process(client, clock, feed, source, history, Limited(ONE_IN_A_NAMESPACE))
    keys = [ObjectKey(NAMESPACE, name) for name in NAMES]
    for _ in range(2):  # before the first begins Rollouts are listed, and looked at again
        await asyncio.gather(*map(process.parts.rollouts.reconcile, keys))
    return sum(in_progress(one) for one in cluster.all(kinds.ROLLOUT))


def begun_by_workers_at_once() -> int:
    """How many are in progress after all three were reconciled by as many workers at the same time."""
    with virtual_time() as loop:
        return loop.run_until_complete(work_at_once())


def test_workers_that_look_at_the_same_moment_begin_one():
    assert begun_by_workers_at_once() == 1


class Deaf(FaultyClient):
    """Nothing of ``mymodel`` is stored: its admission webhook is down, or each request is lost."""

    error: KubeError | None = None

    async def patch(self, *place: Any, **options: Any) -> Object:
        """See ``KubeClient.patch``."""
        if self.error is not None and "mymodel" in place:
            raise self.error
        return await super().patch(*place, **options)


DOWN = ApiUnavailable(
    'Internal error occurred: failed calling webhook "a.example.com": failed to call webhook: no route',
    status=500,
)


async def begun_beside(error: KubeError, after: float) -> list[str]:
    """Who is in progress ``after`` seconds of each trying again and again."""
    clock = VirtualClock()
    cluster, history = Cluster(clock), History(staleness=0.0)
    feed = Feed(cluster.api, clock, CLEAN.delivery)
    feed.watch(Simulation.watched())
    setup(cluster)
    cluster.react()
    client, source = Deaf(cluster.api, clock, history), ScriptedSource(clock)
    process = Process(client, clock, feed, source, history, Limited(ONE_IN_A_NAMESPACE))
    client.error = error
    await process.parts.rollouts.reconcile(ObjectKey(NAMESPACE, "mymodel"))  # lists the Rollouts first
    for _ in range(int(after / 5.0)):
        for name in NAMES[:2]:
            with contextlib.suppress(KubeError):
                await process.parts.rollouts.reconcile(ObjectKey(NAMESPACE, name))
        await clock.sleep(5.0)
    return [one["metadata"]["name"] for one in cluster.all(kinds.ROLLOUT) if in_progress(one)]


@pytest.mark.parametrize(
    ("error", "after", "begun"),
    [
        (DOWN, 15.0, ["second"]),
        (ApiTimeout("no answer"), 50.0, []),
        (ApiTimeout("no answer"), 120.0, ["second"]),
        (ApiUnavailable("connection reset"), 120.0, ["second"]),
    ],
)
def test_one_whose_beginning_is_never_stored_does_not_hold_its_place_for_ever(error, after, begun):
    with virtual_time() as loop:
        assert loop.run_until_complete(begun_beside(error, after)) == begun


# --- planted bugs -----------------------------------------------------------------------------------


def test_a_controller_that_has_no_limits_is_caught(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(starting, "waits_for_turn", lambda _: None)
    assert most_in_progress(run()) == 3


def test_a_new_process_that_trusts_a_late_watch_is_caught(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Turns, "must_look", lambda *_: False)
    assert any("2 at once" in text for text in broken(FEW[:2]))


def test_a_claim_that_is_forgotten_with_a_lost_answer_is_caught(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(turning, "_NOT_STORED", (Exception,))
    assert any("2 at once" in text for text in broken(FEW[2:3]))


def test_workers_that_claim_nothing_are_caught(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Turns, "claiming", lambda *_: contextlib.nullcontext())
    assert begun_by_workers_at_once() > 1
