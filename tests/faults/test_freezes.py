"""Freezes at the assembled controller, in virtual time: one in mid-rollout, and whatever breaks in it."""

from __future__ import annotations

import pytest

from rollouts.engine import starting, windows
from rollouts.objects import kinds
from tests.kit.faults.cluster import Cluster
from tests.kit.faults.endstate import is_carrier
from tests.kit.faults.moves import command, healthy_on, phase, reason
from tests.kit.faults.objects import CANARY, base_objects, freeze_object, rollout_object
from tests.kit.faults.several import canary_weight
from tests.kit.faults.simulation import (
    CLEAN,
    Act,
    Condition,
    FaultPlan,
    Move,
    Run,
    Scenario,
    Simulation,
    simulate,
)
from tests.kit.faults.transport import WriteFault

STEPS = [{"setWeight": 10}, {"pause": {"duration": "20s"}}, {"setWeight": 50}]


def freeze(name: str = "launch", **spec: object) -> Act:
    return lambda sim: sim.cluster.create(kinds.ROLLOUT_FREEZE, freeze_object(name, **spec)) and None


def thaw(sim: Simulation) -> None:
    sim.cluster.delete(kinds.ROLLOUT_FREEZE, "launch")


FREEZES = Move(when=reason("PauseStep"), act=freeze(), after=5)


def run(*moves: Move, plan: FaultPlan = CLEAN, goal: Condition | None = None, early: bool = False) -> Run:
    def setup(cluster: Cluster) -> None:
        if early:
            cluster.create(kinds.ROLLOUT_FREEZE, freeze_object("launch"))
        base_objects(cluster, rollout_object(STEPS))

    return simulate(Scenario(name="freezes", setup=setup, moves=moves, goal=goal or healthy_on(CANARY)), plan)


def rises(found: Run) -> list[str]:
    """Weights that the controller raised while a freeze was stored."""
    frozen, wrong = False, []
    for record in found.history.records:
        if record.of(kinds.ROLLOUT_FREEZE):
            frozen = bool(record.after)
        rose = canary_weight(record.after) > canary_weight(record.before)
        if record.ours and frozen and is_carrier(record) and rose:
            wrong.append(f"at {record.seconds:g} s")
    return wrong


@pytest.mark.parametrize("early", [True, False])
def test_nothing_rises_until_the_freeze_is_deleted(early):
    first = () if early else (FREEZES,)
    found = run(*first, Move(when=reason("Frozen"), act=thaw, after=300), early=early)
    assert found.converged
    assert found.history.problems == []
    assert rises(found) == []
    told = [str((record.after.get("status") or {}).get("message")) for record in found.history.records]
    assert any("frozen by RolloutFreeze launch: nothing moves" in text for text in told)


def test_a_freeze_with_an_end_ends_by_itself():
    until = Move(when=reason("PauseStep"), act=freeze(end="2030-01-01T00:10:00Z"), after=5)
    found = run(until)
    assert found.converged
    late = [record.seconds for record in found.history.records if record.ours and is_carrier(record)]
    assert min(seconds for seconds in late if seconds > 60) == pytest.approx(600, abs=2)


@pytest.mark.parametrize(
    ("spec", "held"),
    [
        ({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}}, True),
        ({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}}}, False),
        ({"rolloutSelector": {"matchLabels": {"team": "a"}}}, False),
    ],
)
def test_it_holds_what_it_selects(spec, held):
    chosen = Move(when=reason("PauseStep"), act=freeze(**spec), after=5)
    found = run(chosen, goal=reason("Frozen") if held else healthy_on(CANARY))
    assert found.converged


def test_an_abort_does_not_wait():
    found = run(FREEZES, Move(when=reason("Frozen"), act=command("abort"), after=5), goal=phase("Aborted"))
    assert found.converged
    assert canary_weight([one for one in found.history.records if is_carrier(one)][-1].after) == 0


def test_promote_full_does_not_wait():
    assert run(Move(when=reason("Frozen"), act=command("promoteFull"), after=5), early=True).converged


@pytest.mark.parametrize("number", [1, 3, 4, 5])
def test_no_crash_makes_a_weight_rise_in_a_freeze(number):
    plan = FaultPlan(
        name=f"crash {number}", writes={number: WriteFault.CRASH_AFTER}, lag=4, catch_up=20.0, exact=False
    )
    found = run(FREEZES, Move(when=reason("Frozen"), act=thaw, after=120), plan=plan)
    assert found.converged
    assert found.history.problems == []
    assert rises(found) == []


def test_a_controller_that_forgets_freezes_is_caught(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(windows, "frozen", lambda _: False)
    monkeypatch.setattr(starting, "waits_for_thaw", lambda _: None)
    assert rises(run(FREEZES)) != []
