"""Workloads whose InferencePools move from the alpha group to v1, in the order that people do it."""

from __future__ import annotations

import copy
from typing import Any

from rollouts.objects import kinds
from tests.kit.faults.cluster import NAMESPACE
from tests.kit.faults.moves import at_step, begun, both, command, healthy_on, phase, retarget
from tests.kit.faults.objects import CANARY, RELEASES, ROUTE, STABLE, STEPS, base_objects, rollout_object
from tests.kit.faults.simulation import Act, Condition, Move, Scenario, Simulation

__all__ = [
    "MOVED_AT_REST",
    "MOVED_IN_ATTEMPT",
    "POOL_MOVES",
    "create_twins",
    "delete_old_pools",
    "switch_route",
]

Object = dict[str, Any]

_OLD, _NEW = kinds.POOL_X.group, kinds.POOL_V1.group


def create_twins(sim: Simulation) -> None:
    """Pools of the same names and pods in the group v1, beside the old ones."""
    for name, release in RELEASES.items():
        if sim.cluster.get(kinds.POOL_V1, name) is None:
            spec: Object = {
                "targetPorts": [{"number": 8000}],
                "selector": {"matchLabels": {"app": "custom-serving", "release": release}},
                "endpointPickerRef": {"name": f"{name}-epp", "port": {"number": 9002}},
            }
            meta = {"name": name, "namespace": NAMESPACE}
            obj = {
                "apiVersion": kinds.POOL_V1.api_version,
                "kind": "InferencePool",
                "metadata": meta,
                "spec": spec,
            }
            sim.cluster.create(kinds.POOL_V1, obj)


def switch_route(weights: dict[str, int] | None = None) -> Act:
    """Git lists the new pools in place of the old ones, with these weights; None leaves the live ones."""

    def act(sim: Simulation) -> None:
        route = sim.cluster.get(kinds.HTTP_ROUTE, ROUTE)
        assert route is not None
        rules = copy.deepcopy(route["spec"]["rules"])
        for ref in (ref for rule in rules for ref in rule["backendRefs"]):
            ref["group"] = _NEW if ref["group"] == _OLD else ref["group"]
            if weights is not None:
                ref["weight"] = weights.get(ref["name"], 0)
        sim.cluster.merge(kinds.HTTP_ROUTE, ROUTE, {"spec": {"rules": rules}}, manager="argocd-controller")

    return act


def delete_old_pools(sim: Simulation) -> None:
    """The last step of the move."""
    for name in RELEASES:
        if sim.cluster.get(kinds.POOL_X, name) is not None:
            sim.cluster.delete(kinds.POOL_X, name)


def _move(when: Condition, weights: dict[str, int] | None = None) -> tuple[Move, ...]:
    return (
        Move(when=when, act=create_twins),
        Move(when=begun, act=switch_route(weights), after=5),
        Move(when=begun, act=delete_old_pools, after=5),
    )


def _scenario(name: str, target: str, moves: tuple[Move, ...], goal: Condition, **more: Any) -> Scenario:
    rollout = rollout_object(more.pop("steps", STEPS), target=target, **more.pop("fields", {}))
    return Scenario(
        name=name,
        setup=lambda cluster: base_objects(cluster, copy.deepcopy(rollout)),
        moves=moves,
        goal=goal,
        measured=more.pop("measured", True),
        **more,
    )


def _in_new_group(sim: Simulation) -> bool:
    return bool((sim.status.get("stable") or {}).get("group") == _NEW)


_SHORT: list[Object] = [{"setWeight": 10}, {"pause": {"duration": "30s"}}, {"setWeight": 50}]

MOVED_AT_REST = _scenario(
    "pools move to v1 at rest, then a canary",
    STABLE,
    (*_move(phase("Healthy")), Move(when=phase("Healthy"), act=retarget(CANARY), after=10)),
    both(healthy_on(CANARY), _in_new_group),
)
"""Meets no faults: what follows the move is every other scenario."""

MOVED_IN_ATTEMPT = _scenario(
    "pools move to v1 during an attempt",
    CANARY,
    _move(at_step(1)),
    both(healthy_on(CANARY), _in_new_group),
    steps=_SHORT,
    measured=False,
)
"""Meets no faults: the scenario below begins in the same way."""

POOL_MOVES = (
    _scenario(
        "pools move to v1 during an attempt, then abort",
        CANARY,
        (*_move(at_step(1)), Move(when=at_step(1), act=command("abort"))),
        both(phase("Aborted"), _in_new_group),
        steps=_SHORT,
        measured=False,
        stride=4,
    ),
)
