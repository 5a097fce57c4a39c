"""Workloads: what lies between gateway and pods fails, and pods that crash."""

from __future__ import annotations

import copy
from typing import Any

from rollouts.engine.attempt import ProbeVerdict
from rollouts.objects import kinds
from tests.kit.faults.cluster import NAMESPACE, Cluster
from tests.kit.faults.moves import (
    at_step,
    begun,
    command,
    crash_pods,
    delete,
    gone,
    healthy_on,
    phase,
    picker,
    probes,
    reason,
    retarget,
)
from tests.kit.faults.objects import (
    CANARY,
    PARENTS,
    RELEASES,
    STABLE,
    TEMPLATE,
    base_objects,
    rollout_object,
)
from tests.kit.faults.simulation import Condition, Move, Scenario

__all__ = ["PATH_SCENARIOS"]

_NEXT = Move(when=healthy_on(STABLE), act=retarget(CANARY), after=5)
_RISING: list[dict[str, Any]] = [{"setWeight": 10}, {"setWeight": 50}]
_WAITING: list[dict[str, Any]] = [{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}]


def _scenario(name: str, moves: list[Move], goal: Condition) -> Scenario:
    def setup(cluster: Cluster) -> None:
        base_objects(cluster, copy.deepcopy(rollout_object(_WAITING)))

    return Scenario(name=f"path: {name}", setup=setup, moves=tuple(moves), goal=goal, stride=2)


def _refused_long_ago(name: str, goal: Condition) -> Scenario:
    """The pools were there before their pickers' Services, and the gateway never looked again, as istiod does not."""
    parent = {**PARENTS[0], "namespace": NAMESPACE}
    stale = {
        "type": "ResolvedRefs",
        "status": "False",
        "reason": "InvalidExtensionRef",
        "message": "not found",
    }

    def setup(cluster: Cluster) -> None:
        base_objects(cluster, copy.deepcopy(rollout_object(_RISING)))
        for pool in (STABLE, CANARY):
            status = {"parent": [{"parentRef": parent, "conditions": [stale]}]}
            cluster.write_status(kinds.POOL_X, pool, status, manager="istiod")

    return Scenario(name=f"path: {name}", setup=setup, moves=(), goal=goal, stride=2)


def _managed(name: str, moves: list[Move], goal: Condition, **canary: Any) -> Scenario:
    """A Managed route, whose path is probed before the second target's first weight."""
    rollout = rollout_object(
        [{"setWeight": 20}, {"pause": {"duration": "10s"}}],
        target=STABLE,
        route={"template": TEMPLATE},
        canary=canary,
    )

    def setup(cluster: Cluster) -> None:
        base_objects(cluster, copy.deepcopy(rollout), route=False)

    return Scenario(name=f"path: {name}", setup=setup, moves=tuple(moves), goal=goal, stride=2)


PATH_SCENARIOS = (
    _managed(
        "probe fails, and is reported",
        [Move(when=begun, act=probes(ProbeVerdict.FAILED)), _NEXT],
        healthy_on(CANARY),
    ),
    _managed("probe gets no answer", [Move(when=begun, act=probes(None)), _NEXT], healthy_on(CANARY)),
    _managed(
        "required probe never passes",
        [Move(when=begun, act=probes(ProbeVerdict.FAILED)), _NEXT],
        phase("Aborted"),
        pathProbe="Require",
    ),
    _managed(
        "rollout deleted while it is probed",
        [
            Move(when=begun, act=probes(ProbeVerdict.FAILED)),
            _NEXT,
            Move(when=reason("PathProbeFailed"), act=delete(kinds.ROLLOUT, "mymodel"), after=7),
        ],
        gone,
        pathProbe="Require",
    ),
    _refused_long_ago("a gateway still misses the pickers' Services, which are there", healthy_on(CANARY)),
    _scenario(
        "picker pod dies mid-canary, and comes back",
        [
            Move(when=at_step(1), act=picker(CANARY, ready=False), after=5),
            Move(when=reason("PickerNotReady"), act=picker(CANARY, ready=True), after=20),
            Move(when=at_step(1), act=command("promote"), after=20),
        ],
        healthy_on(CANARY),
    ),
    _scenario(
        "picker Service deleted mid-canary",
        [Move(when=at_step(1), act=delete(kinds.SERVICE, f"{CANARY}-epp"), after=5)],
        phase("Aborted"),
    ),
    _scenario(
        "picker not Ready at first",
        [
            Move(when=begun, act=picker(CANARY, ready=False)),
            Move(when=phase("WaitingForTarget"), act=picker(CANARY, ready=True), after=60),
            Move(when=at_step(1), act=command("promote"), after=5),
        ],
        healthy_on(CANARY),
    ),
    _scenario(
        "canary crash-loops",
        [Move(when=at_step(1), act=crash_pods(RELEASES[CANARY]), after=after) for after in (5, 20, 40, 80)],
        phase("Aborted"),
    ),
)
