"""``dependsOn`` at the assembled controller, in virtual time: a small model first, the large one behind it."""

from __future__ import annotations

import pytest

from rollouts.api.scalars import parse_time
from rollouts.engine import starting
from rollouts.objects import kinds
from tests.kit.faults.cluster import Cluster
from tests.kit.faults.moves import command, edit_spec, phase
from tests.kit.faults.objects import STABLE
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
from tests.kit.faults.transport import WriteFault

SOAK = 60
LATE = Delivery(delays=(("rollouts", 20.0),))


def setup(cluster: Cluster) -> None:
    place(cluster, {"mymodel": {"dependsOn": [{"name": "small", "soak": f"{SOAK}s"}]}, "small": {}})


def run(plan: FaultPlan = CLEAN, *moves: Move, goal: Condition | None = None) -> Run:
    found = Scenario(name="order", setup=setup, moves=moves, goal=goal or phase("Healthy"))
    return simulate(found, plan, Limited())


def too_early(found: Run) -> list[str]:
    """Beginnings of ``mymodel`` that what was stored of ``small`` did not allow."""
    wrong, healthy, began = [], None, False
    for record in found.history.records:
        if not record.of(kinds.ROLLOUT):
            continue
        status = (record.after or {}).get("status") or {}
        if record.change.name == "small":
            ready = [
                one
                for one in status.get("conditions", [])
                if one["type"] == "Ready" and one["status"] == "True"
            ]
            healthy = parse_time(ready[0]["lastTransitionTime"]) if ready else None
        elif in_progress(record.after) and not began:
            began = True
            if healthy is None or (record.now - healthy).total_seconds() < SOAK - 1:
                wrong.append(f"at {record.seconds:g} s")
    return wrong + early_rises(found)


def small(**status: str) -> Condition:
    return lambda sim: all(status_of(sim, "small").get(name) == value for name, value in status.items())


def abort_small(sim: Simulation) -> None:
    revision = status_of(sim, "small")["canary"]["hash"]
    raw = f'{{"action":"abort","revision":"{revision}","at":"t","by":"ann"}}'
    sim.cluster.merge(
        kinds.ROLLOUT, "small", {"metadata": {"annotations": {"inferencerollouts.dev/command": raw}}}
    )


def told(found: Run) -> list[str]:
    statuses = [
        record.after.get("status") or {} for record in found.history.records if record.of(kinds.ROLLOUT)
    ]
    return list(dict.fromkeys(status["reason"] for status in statuses if status.get("reason")))


def test_the_second_begins_when_the_first_was_healthy_for_its_soak():
    found = run()
    assert found.converged
    assert found.history.problems == []
    assert too_early(found) == []
    began = begun_at(found)
    assert list(began) == ["small", "mymodel"]
    assert SOAK + 20 <= began["mymodel"] - began["small"] <= SOAK + 40
    assert "WaitingForDependency" in told(found)


def test_one_that_aborts_stops_the_one_behind_it():
    aborts = Move(when=small(reason="PauseStep"), act=abort_small, after=3)
    found = run(CLEAN, aborts, goal=lambda sim: sim.status.get("reason") == "DependencyAborted")
    assert found.converged
    assert list(begun_at(found)) == ["small"]
    assert any("small, which goes first, was aborted (AbortedByCommand)" in text for text in messages(found))


def messages(found: Run) -> list[str]:
    return [
        str((record.after.get("status") or {}).get("message"))
        for record in found.history.records
        if record.of(kinds.ROLLOUT)
    ]


@pytest.mark.parametrize("name", ["deleted", "renamed"])
def test_one_that_is_not_there_any_more_is_waited_for(name):
    def act(sim: Simulation) -> None:
        if name == "deleted":
            sim.cluster.delete(kinds.ROLLOUT, "small")
        else:
            edit_spec(lambda spec: spec.update(dependsOn=[{"name": "tiny"}]))(sim)

    leaves = Move(when=small(reason="PauseStep"), act=act, after=1)
    found = run(CLEAN, leaves, goal=lambda sim: sim.status.get("reason") == "DependencyMissing")
    assert found.converged
    assert "mymodel" not in begun_at(found)


def test_a_new_attempt_of_the_first_does_not_stop_the_second_half_way():
    again = Move(
        when=lambda sim: sim.status.get("reason") == "PauseStep",
        act=lambda sim: sim.cluster.merge(
            kinds.ROLLOUT, "small", {"spec": {"target": {"revision": "again"}}}
        ),
    )
    assert run(CLEAN, again).converged


def test_an_abort_and_a_revert_do_not_wait():
    waits = lambda sim: sim.status.get("reason") == "WaitingForDependency"  # noqa: E731
    found = run(CLEAN, Move(when=waits, act=command("abort"), after=1), goal=phase("Aborted"))
    assert found.converged
    back = Move(when=waits, act=edit_spec(lambda spec: spec["target"]["pool"].update(name=STABLE)), after=1)
    assert run(CLEAN, back).converged


def plans(*numbers: int) -> list[FaultPlan]:
    return [
        FaultPlan(
            name=f"{fault.value} at write {number}, {lag} events behind, {delivery.staleness:g} s late",
            writes={number: fault},
            lag=lag,
            catch_up=20.0,
            delivery=delivery,
            exact=False,
        )
        for number in numbers
        for fault in (WriteFault.CRASH_AFTER, WriteFault.TIMEOUT_AFTER)
        for lag, delivery in ((4, CLEAN.delivery), (0, LATE))
    ]


def broken(chosen: list[FaultPlan]) -> list[str]:
    found = [(plan.name, run(plan)) for plan in chosen]
    return [
        f"{name}: {too_early(one)}, {one.history.problems}, {one.converged}"
        for name, one in found
        if too_early(one) or one.history.problems or not one.converged
    ]


def test_whatever_breaks_it_does_not_begin_early():
    assert broken(plans(12)) == []


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_whatever_breaks_at_any_write_it_does_not_begin_early():
    assert broken(plans(*range(26))) == []


def test_a_controller_that_forgets_the_order_is_caught(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(starting, "waits_for_dependencies", lambda _: None)
    assert too_early(run()) != []
