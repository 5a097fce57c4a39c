"""Pools that move to another API group with the route are followed: nothing is written for it, and no hash changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rollouts.objects import kinds
from tests.kit.faults.endstate import weights_of
from tests.kit.faults.moves import at_step, begun, both, command, phase, reason, retarget
from tests.kit.faults.objects import CANARY, ROUTE, STABLE, base_objects, rollout_object
from tests.kit.faults.pool_moves import (
    MOVED_AT_REST,
    MOVED_IN_ATTEMPT,
    POOL_MOVES,
    create_twins,
    delete_old_pools,
    switch_route,
)
from tests.kit.faults.simulation import Act, Condition, Move, Run, Scenario, Simulation, simulate

PAUSED: list[dict[str, Any]] = [{"setWeight": 10}, {"pause": {}}]


def in_new_group(sim: Simulation) -> bool:
    return bool((sim.status.get("stable") or {}).get("group") == kinds.POOL_V1.group)


def status_of(run: Run) -> dict[str, Any]:
    last = [one.after for one in run.history.records if one.change.plural == kinds.ROLLOUT.plural][-1]
    found: dict[str, Any] = last["status"]
    return found


def story(target: str, moves: list[Move], goal: Condition, **more: Any) -> Run:
    rollout = rollout_object(PAUSED, target=target, **more)
    return simulate(
        Scenario(
            name="move",
            setup=lambda cluster: base_objects(cluster, copy.deepcopy(rollout)),
            moves=tuple(moves),
            goal=goal,
        )
    )


@pytest.mark.parametrize("scenario", [MOVED_AT_REST, MOVED_IN_ATTEMPT, *POOL_MOVES], ids=lambda one: one.name)
def test_a_rollout_goes_on_when_its_pools_move(scenario: Scenario) -> None:
    run = simulate(scenario)

    assert run.converged, status_of(run)


def test_no_weight_falls_for_a_move_during_an_attempt() -> None:
    run = simulate(MOVED_IN_ATTEMPT)

    assert [dict(rules[0])[CANARY] for rules in run.weights] == [10, 50, 100]


def test_the_move_is_no_new_version_and_no_write_of_traffic() -> None:
    moves = [
        Move(when=phase("Healthy"), act=create_twins),
        Move(when=begun, act=switch_route()),
        Move(when=begun, act=delete_old_pools, after=5),
    ]
    run = story(STABLE, moves, phase("Healthy"))
    hashes = {
        one.after["status"]["stable"]["hash"]
        for one in run.history.records
        if one.change.plural == kinds.ROLLOUT.plural and "stable" in one.after.get("status", {})
    }

    assert run.converged
    assert (len(hashes), run.weights) == (1, ())
    assert status_of(run)["stable"]["group"] == kinds.POOL_V1.group


def test_an_abort_follows_the_move_though_the_spec_cannot_be_read_any_more() -> None:
    def switch_and_break(sim: Simulation) -> None:
        steps = {"strategy": {"canary": {"steps": [{"setWeight": "ten"}]}}}
        sim.cluster.merge(kinds.ROLLOUT, "mymodel", {"spec": steps})
        switch_route()(sim)

    def back(sim: Simulation) -> bool:
        route = sim.cluster.get(kinds.HTTP_ROUTE, ROUTE)
        assert route is not None
        return dict(weights_of(route)[0])[CANARY] == 0

    moves = [
        Move(when=at_step(1), act=create_twins),
        Move(when=begun, act=switch_and_break),
        Move(when=begun, act=delete_old_pools, after=5),
        Move(when=begun, act=command("abort"), after=5),
    ]

    assert story(CANARY, moves, back).converged


def test_a_rule_that_was_left_behind_is_named() -> None:
    def add_rule(sim: Simulation) -> None:
        route = sim.cluster.get(kinds.HTTP_ROUTE, ROUTE)
        assert route is not None
        (rule,) = copy.deepcopy(route["spec"]["rules"])
        other = {**copy.deepcopy(rule), "matches": [{"path": {"type": "PathPrefix", "value": "/other"}}]}
        for ref in other["backendRefs"]:
            ref["group"] = kinds.POOL_V1.group
        sim.cluster.merge(kinds.HTTP_ROUTE, ROUTE, {"spec": {"rules": [rule, other]}})

    moves = [Move(when=phase("Healthy"), act=add_rule), Move(when=begun, act=retarget(CANARY), after=5)]
    run = story(STABLE, moves, reason("BackendMissing"))

    assert run.converged, status_of(run)
    assert f"lists InferencePool {STABLE} in {kinds.POOL_V1.group}" in status_of(run)["message"]


def test_a_target_that_both_groups_have_is_the_one_that_the_route_lists() -> None:
    moves = [Move(when=phase("Healthy"), act=create_twins), Move(when=begun, act=retarget(CANARY), after=5)]
    run = story(STABLE, moves, at_step(1))

    assert run.converged, status_of(run)
    assert status_of(run)["canary"]["group"] == kinds.POOL_X.group


def ask_for_group(name: str) -> Act:
    """Git names the new group in the Rollout."""

    def act(sim: Simulation) -> None:
        target = {"pool": {"name": name, "group": kinds.POOL_V1.group}}
        sim.cluster.merge(kinds.ROLLOUT, "mymodel", {"spec": {"target": target}})

    return act


@pytest.mark.parametrize(
    ("target", "when"), [(STABLE, phase("Healthy")), (CANARY, at_step(1))], ids=["at rest", "in an attempt"]
)
def test_a_group_that_git_names_before_its_pools_are_there_says_which_step_was_too_early(
    target: str, when: Condition
) -> None:
    run = story(target, [Move(when=when, act=ask_for_group(target), after=5)], reason("PoolMissing"))
    said = status_of(run)["message"]

    assert run.converged, status_of(run)
    assert f"{target} does not exist in {kinds.POOL_V1.group}, which target.pool.group names" in said
    assert f"it does in {kinds.POOL_X.group}: create it in {kinds.POOL_V1.group} beside that one" in said


def test_a_group_that_was_named_too_early_is_rolled_to_as_soon_as_its_pool_is_there() -> None:
    moves = [
        Move(when=phase("Healthy"), act=ask_for_group(STABLE), after=5),
        Move(when=reason("PoolMissing"), act=create_twins, after=5),
        Move(when=reason("BackendMissing"), act=switch_route(), after=5),
    ]
    run = story(STABLE, moves, both(phase("Healthy"), in_new_group))

    assert run.converged, status_of(run)
    assert run.weights == ()


@pytest.mark.parametrize("group", ["", kinds.POOL_V1.group])
def test_a_pool_that_no_group_has_is_to_be_created_and_nothing_more_is_said(group: str) -> None:
    def ask(sim: Simulation) -> None:
        target = {"pool": {"name": "nobody", **({"group": group} if group else {})}}
        sim.cluster.merge(kinds.ROLLOUT, "mymodel", {"spec": {"target": target}})

    run = story(STABLE, [Move(when=phase("Healthy"), act=ask, after=5)], reason("PoolMissing"))

    assert run.converged, status_of(run)
    assert ": create it, the rollout then starts by itself" in status_of(run)["message"]
    assert "target.pool.group" not in status_of(run)["message"]
