"""Shared strategies at the assembled controller, in virtual time: edits and deletions in mid-attempt, with crashes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rollouts.controller import strategies as shared
from rollouts.objects import kinds
from tests.kit.faults.cluster import Cluster
from tests.kit.faults.endstate import is_carrier, weights_of
from tests.kit.faults.invariants import check
from tests.kit.faults.moves import at_step, command, edit_spec, healthy_on, phase, reason, retarget
from tests.kit.faults.objects import CANARY, STABLE, THIRD, base_objects, rollout_object
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

Object = dict[str, Any]

STEPS = [{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}]
OTHER = [{"setWeight": 30}, {"pause": {}}, {"setWeight": 70}]
FALLING = [{"setWeight": 30}, {"setWeight": 10}]
MISSING = [{"setWeight": 10}, {"analysis": {"templates": [{"templateName": "missing"}]}}]


def strategy(steps: list[Object], **fields: Any) -> Object:
    return {
        "apiVersion": "inferencerollouts.dev/v1alpha1",
        "kind": "RolloutStrategy",
        "metadata": {"name": "careful"},
        "spec": {"canary": {"steps": copy.deepcopy(steps), **fields}},
    }


def scenario(
    *moves: Move, goal: Condition | None = None, made: bool = True, target: str = CANARY, **own: Any
) -> Scenario:
    rollout = rollout_object([], target=target)
    rollout["spec"]["strategy"] = {"canaryFrom": {"name": "careful"}}
    if own:
        rollout["spec"]["strategy"]["canary"] = own

    def setup(cluster: Cluster) -> None:
        base_objects(cluster, copy.deepcopy(rollout))
        if made:
            cluster.create(kinds.ROLLOUT_STRATEGY, strategy(STEPS))

    return Scenario(name="strategies", setup=setup, moves=moves, goal=goal or healthy_on(CANARY))


def make(sim: Simulation) -> None:
    sim.cluster.create(kinds.ROLLOUT_STRATEGY, strategy(STEPS))


def edit(steps: list[Object]) -> Act:
    def act(sim: Simulation) -> None:
        changed = {"spec": {"canary": {"steps": copy.deepcopy(steps)}}}
        sim.cluster.merge(kinds.ROLLOUT_STRATEGY, "careful", changed, manager="argocd-controller")

    return act


def remove(sim: Simulation) -> None:
    sim.cluster.delete(kinds.ROLLOUT_STRATEGY, "careful")


def weights(run: Run) -> list[int]:
    """The canaries' share after each of our writes of the route that changed it, in percent."""
    found: list[int] = []
    for record in run.history.records:
        if record.ours and is_carrier(record):
            (first, *_) = weights_of(record.after).values() if _is_map(record) else weights_of(record.after)
            pairs = dict(first)
            total = sum(pairs.values())
            stable = pairs.get(STABLE, 0)
            share = round(100 * (total - stable) / total) if total else 0
            if not found or found[-1] != share:
                found.append(share)
    return found


def _is_map(record: Any) -> bool:
    return isinstance(weights_of(record.after), dict)


def statuses(run: Run) -> list[Object]:
    return [
        record.after.get("status") or {}
        for record in run.history.records
        if record.change.plural == "rollouts" and record.ours
    ]


PROMOTE = Move(when=at_step(1), act=command("promote"), after=60)


def during(act: Act) -> tuple[Move, ...]:
    return (Move(when=at_step(1), act=act, after=20), PROMOTE)


def test_an_attempt_goes_by_the_strategy_that_it_names():
    clean = simulate(scenario(PROMOTE))
    assert [str(found) for found in check(clean, clean)] == []
    assert weights(clean) == [10, 50, 100]


@pytest.mark.parametrize(
    "act",
    [edit(OTHER), edit(MISSING), edit(FALLING), remove],
    ids=["edited", "without its template", "invalid", "deleted"],
)
@pytest.mark.parametrize(
    "write", [None, 4, *(pytest.param(number, marks=pytest.mark.full) for number in range(16))]
)
def test_what_becomes_of_the_object_changes_nothing_until_the_next_attempt(act: Act, write: int | None):
    plan = CLEAN if write is None else FaultPlan(name="crash", writes={write: WriteFault.CRASH_AFTER})
    found = simulate(scenario(*during(act)), plan)
    assert found.converged
    assert found.history.problems == []
    assert weights(found) == [10, 50, 100]
    assert {status["phase"] for status in statuses(found)} <= {
        *("WaitingForTarget", "Progressing", "Paused", "Healthy", "")
    }


def test_an_edit_counts_from_the_next_attempt_on():
    moves = (
        Move(when=at_step(1), act=edit(OTHER), after=20),
        Move(when=at_step(1), act=retarget(THIRD), after=40),
        Move(when=at_step(1), act=command("promote", tag="t2"), after=30),
    )
    found = simulate(scenario(*moves, goal=healthy_on(THIRD)))
    assert found.converged
    assert weights(found) == [10, 0, 30, 70, 100]


def test_a_retry_is_another_attempt():
    moves = (
        Move(when=at_step(1), act=edit(OTHER), after=20),
        Move(when=at_step(1), act=command("abort"), after=40),
        Move(when=phase("Aborted"), act=command("retry", tag="t2"), after=30),
        Move(when=at_step(1), act=command("promote", tag="t3"), after=30),
    )
    found = simulate(scenario(*moves))
    assert found.converged
    assert weights(found) == [10, 0, 30, 70, 100]


def test_no_retry_without_the_strategy():
    moves = (
        Move(when=at_step(1), act=remove, after=20),
        Move(when=at_step(1), act=command("abort"), after=40),
        Move(when=phase("Aborted"), act=command("retry", tag="t2"), after=30),
    )
    found = simulate(scenario(*moves, goal=phase("Aborted")))
    assert weights(found) == [10, 0]
    last = statuses(found)[-1]
    assert (last["phase"], last["lastCommand"]["result"]) == ("Aborted", "Rejected")
    assert "RolloutStrategy careful does not exist" in last["lastCommand"]["message"]


def test_nothing_moves_without_a_strategy_and_the_status_says_what_to_do():
    moves = (Move(when=reason("StrategyMissing"), act=make, after=30), PROMOTE)
    found = simulate(scenario(*moves, made=False))
    assert found.converged
    assert weights(found) == [10, 50, 100]
    waits = [status for status in statuses(found) if status.get("reason") == "StrategyMissing"]
    assert waits[0]["phase"] == "WaitingForTarget"
    assert waits[0]["message"] == (
        "RolloutStrategy careful does not exist: create it, correct strategy.canaryFrom, or write canary.steps"
    )


def test_a_rollout_at_rest_needs_no_strategy():
    gone = Move(when=healthy_on(STABLE), act=remove, after=20)
    back = Move(when=reason("StrategyMissing"), act=make, after=30)
    moves = (gone, Move(when=healthy_on(STABLE), act=retarget(CANARY), after=40), back, PROMOTE)
    found = simulate(scenario(*moves, target=STABLE))
    assert found.converged
    assert weights(found)[-3:] == [10, 50, 100]
    phases = [status["phase"] for status in statuses(found)]
    assert "Invalid" not in phases


def test_fields_of_the_rollout_win_and_its_own_edits_count_at_once():
    def longer(spec: Object) -> None:
        spec["strategy"]["canary"]["steps"] = [{"setWeight": 10}, {"pause": {}}, {"setWeight": 60}]

    moves = (Move(when=at_step(1), act=edit_spec(longer), after=20), PROMOTE)
    own = simulate(scenario(*moves, steps=[{"setWeight": 10}, {"pause": {}}, {"setWeight": 20}]))
    assert own.converged
    assert weights(own) == [10, 60, 100]


def test_gates_that_cannot_run_keep_the_next_attempt_from_beginning_and_nothing_else():
    moves = (
        Move(when=healthy_on(STABLE), act=edit(MISSING), after=20),
        Move(when=healthy_on(STABLE), act=retarget(CANARY), after=40),
        Move(when=reason("TemplateMissing"), act=edit(STEPS), after=30),
        PROMOTE,
    )
    found = simulate(scenario(*moves, target=STABLE))
    assert found.converged
    assert weights(found)[-3:] == [10, 50, 100]
    assert "Invalid" not in {status["phase"] for status in statuses(found)}
    (text,) = {s["message"] for s in statuses(found) if s["reason"] == "TemplateMissing"}
    assert text.startswith("RolloutStrategy careful: AnalysisTemplate missing does not exist")


@pytest.mark.parametrize("again", [command("retry"), retarget(THIRD)], ids=["retry", "another target"])
def test_an_edit_in_mid_attempt_is_looked_at_before_the_next_attempt_begins(again: Act):
    """What an attempt has pinned, no edit mends any more."""
    moves = (
        Move(when=at_step(1), act=edit(MISSING), after=20),
        Move(when=at_step(1), act=command("abort"), after=40),
        Move(when=phase("Aborted"), act=again, after=30),
        Move(when=lambda _: True, act=edit(STEPS), after=40),
        Move(when=lambda _: True, act=command("retry", tag="t2"), after=20),
        PROMOTE,
    )
    found = simulate(scenario(*moves, goal=lambda sim: sim.status.get("phase") == "Healthy"))
    assert found.converged
    assert "Invalid" not in {status["phase"] for status in statuses(found)}


def test_a_wrong_reference_in_mid_attempt_keeps_the_weight_and_an_abort_works():
    def wrong(spec: Object) -> None:
        spec["strategy"]["canaryFrom"]["name"] = "carefull"

    moves = (
        Move(when=at_step(1), act=edit_spec(wrong), after=20),
        Move(when=phase("Invalid"), act=command("abort"), after=60),
    )
    found = simulate(scenario(*moves, goal=phase("Aborted")))
    assert weights(found) == [10, 0]
    invalid = next(status for status in statuses(found) if status["phase"] == "Invalid")
    assert invalid["reason"] == "StrategyMissing"


def test_an_abort_needs_no_strategy():
    moves = (
        Move(when=at_step(1), act=remove, after=20),
        Move(when=at_step(1), act=command("abort"), after=40),
    )
    found = simulate(scenario(*moves, goal=phase("Aborted")))
    assert weights(found) == [10, 0]


def _unpinned(real: Callable[..., Any]) -> Callable[..., Any]:
    """A controller that goes by the object as it is now."""

    def parse(self: Any, rollout: Object) -> Any:
        status = {key: value for key, value in (rollout.get("status") or {}).items() if key != "strategy"}
        parsed, view = real(self, {**rollout, "status": status})
        return replace(parsed, status=shared.parse_rollout(rollout).status), view

    return parse


def test_a_controller_that_does_not_go_by_what_is_pinned_is_caught(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shared.SharedStrategies, "parse", _unpinned(shared.SharedStrategies.parse))
    assert weights(simulate(scenario(*during(edit(OTHER))))) != [10, 50, 100]
