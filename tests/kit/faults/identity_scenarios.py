"""Workloads in which something bears the name of what is ours: old runs, old commands, others' runs and pools."""

from __future__ import annotations

import copy
from typing import Any

from rollouts.objects import kinds
from tests.kit.faults.cluster import Cluster
from tests.kit.faults.moves import (
    answer,
    at_step,
    command,
    delete,
    gone,
    healthy_on,
    make_anew,
    old_command,
    phase,
    squat,
)
from tests.kit.faults.objects import CANARY, GATE, ROUTE, base_objects, rollout_object
from tests.kit.faults.simulation import Condition, Move, Scenario
from tests.kit.faults.source import Answer

__all__ = ["IDENTITY_SCENARIOS"]

Object = dict[str, Any]


def _made_anew() -> Scenario:
    """Deleted after its gate has passed, and made anew under its name, while its runs are still there."""
    last: list[Object] = [{"pause": {"duration": "60s"}}, {"setWeight": 50}]
    rollout = rollout_object([{"setWeight": 10}, {"analysis": GATE}, *last])

    def setup(cluster: Cluster) -> None:
        cluster.collects_garbage = False
        base_objects(cluster, copy.deepcopy(rollout))

    return Scenario(
        name="made anew under its name, beside its old runs",
        setup=setup,
        moves=(
            Move(when=at_step(2), act=delete(kinds.ROLLOUT, "mymodel"), after=15),
            Move(when=gone, act=answer(Answer.BAD)),
            Move(when=gone, act=make_anew(rollout), after=30),
        ),
        goal=phase("Aborted"),
        measured=True,
        stride=2,
    )


def _gated(name: str, steps: list[Object], *moves: Move, goal: Condition) -> Scenario:
    return Scenario(
        name=name,
        setup=lambda cluster: base_objects(cluster, rollout_object(steps)),
        moves=moves,
        goal=goal,
        measured=True,
        stride=2,
    )


def _squatted() -> Scenario:
    """Somebody else's object has the name of the gate's run; it says what they like."""
    return _gated(
        "somebody else's run has the name of ours",
        [{"setWeight": 10}, {"analysis": GATE}, {"setWeight": 50}],
        Move(when=at_step(0), act=answer(Answer.BAD)),
        Move(when=at_step(0), act=squat(kinds.ANALYSIS_RUN)),
        goal=phase("Aborted"),
    )


def _old_command() -> Scenario:
    """Git applies a command of the first attempt again in the third, whose gate is about to fail."""
    return _gated(
        "old promoteFull applied again by Git, two attempts later",
        [{"setWeight": 10}, {"pause": {}}, {"analysis": GATE}, {"setWeight": 50}],
        Move(when=at_step(1), act=command("abort"), after=5),
        Move(when=phase("Aborted"), act=command("retry", tag="t2"), after=20),
        Move(when=at_step(1), act=command("abort", tag="t3"), after=5),
        Move(when=phase("Aborted"), act=command("retry", tag="t4"), after=20),
        Move(when=at_step(1), act=answer(Answer.BAD), after=2),
        Move(when=at_step(1), act=old_command("promoteFull"), after=3),
        Move(when=at_step(1), act=command("promote", tag="t5"), after=10),
        goal=phase("Aborted"),
    )


def _elsewhere() -> Scenario:
    """Before ours the route lists another tenant's pool of the canary's name."""
    steps: list[Object] = [{"setWeight": 10}, {"pause": {"duration": "20s"}}, {"setWeight": 50}]

    def setup(cluster: Cluster) -> None:
        base_objects(cluster, rollout_object(steps))
        rules = copy.deepcopy((cluster.get(kinds.HTTP_ROUTE, ROUTE) or {})["spec"]["rules"])
        refs = rules[0]["backendRefs"]
        refs.insert(0, {**refs[1], "namespace": "tenant-b"})
        cluster.merge(kinds.HTTP_ROUTE, ROUTE, {"spec": {"rules": rules}})

    return Scenario(
        name="another tenant's pool of the same name in the route",
        setup=setup,
        moves=(),
        goal=healthy_on(CANARY),
        stride=2,
    )


IDENTITY_SCENARIOS = (_old_command(), _made_anew(), _squatted(), _elsewhere())
