"""Workloads: rollouts of the base-model example, each with its own story."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from rollouts.controller import kinds
from rollouts.kube.client import Resource
from rollouts.lab.testing.faults.cluster import NAMESPACE, POOL_GROUP, Cluster
from rollouts.lab.testing.faults.simulation import Move, Scenario, Simulation
from rollouts.lab.testing.faults.source import Answer

__all__ = ["SCENARIOS", "base_objects", "edit_spec", "overwrite_route", "rollout_object"]

Object = dict[str, Any]

ROUTE = "inference-route"
STABLE, CANARY, THIRD = "mymodel-pool-v1", "mymodel-pool-v2", "mymodel-pool-v3"
RELEASES = {STABLE: "qwen", CANARY: "deepseek-r1", THIRD: "llama"}
_GATEWAYS = Resource("gateway.networking.k8s.io", "v1", "gateways", "Gateway")

GATE: Object = {
    "metrics": [
        {
            "name": "errors",
            "measure": {"preset": "error-rate", "window": "30s"},
            "successCondition": "result < 0.05",
            "interval": "10s",
            "count": 2,
        }
    ]
}
GUARD: Object = {
    "startingStep": 1,
    "metrics": [
        {
            "name": "guard",
            "measure": {"preset": "error-rate", "window": "30s"},
            "failureCondition": "result > 0.5",
            "interval": "20s",
            "failureLimit": 0,
        }
    ],
}
STEPS: list[Object] = [
    {"setWeight": 1},
    {"pause": {"duration": "20s"}},
    {"setWeight": 10},
    {"analysis": GATE},
    {"setWeight": 50},
]
PARENTS: list[Object] = [
    {
        "group": "gateway.networking.k8s.io",
        "kind": "Gateway",
        "name": "inference-gateway",
        "sectionName": "llm-gw",
    }
]
MATCHES: list[Object] = [{"path": {"type": "PathPrefix", "value": "/"}}]


# --- objects ---------------------------------------------------------------------------------------


def _pool(name: str) -> Object:
    return {
        "apiVersion": f"{POOL_GROUP}/v1alpha2",
        "kind": "InferencePool",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "targetPortNumber": 8000,
            "selector": {"app": "custom-serving", "release": RELEASES[name]},
            "extensionRef": {"name": f"{name}-epp"},
        },
    }


def _ref(name: str, weight: int) -> Object:
    return {"group": POOL_GROUP, "kind": "InferencePool", "name": name, "port": 8000, "weight": weight}


def _route() -> Object:
    refs = [_ref(STABLE, 100), _ref(CANARY, 0), _ref(THIRD, 0)]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {
            "name": ROUTE,
            "namespace": NAMESPACE,
            "annotations": {"inferencerollouts.dev/managed-by": "mymodel"},
        },
        "spec": {"parentRefs": PARENTS, "rules": [{"matches": MATCHES, "backendRefs": refs}]},
    }


def rollout_object(
    steps: list[Object] | None = None, *, target: str = CANARY, name: str = "mymodel", **fields: Any
) -> Object:
    """The Rollout of the example; ``fields`` are spec fields, ``canary`` fields of the strategy."""
    canary = {"steps": copy.deepcopy(STEPS if steps is None else steps), **fields.pop("canary", {})}
    return {
        "apiVersion": f"{kinds.GROUP}/{kinds.VERSION}",
        "kind": "Rollout",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "target": {"pool": {"name": target}},
            "traffic": {"httpRoutes": [{"name": ROUTE, **fields.pop("route", {})}]},
            "strategy": {"canary": canary},
            **fields,
        },
    }


def base_objects(cluster: Cluster, rollout: Object, *, route: bool = True) -> None:
    """Pools with pods and pickers, the gateway, the route and the Rollout."""
    gateway: Object = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "inference-gateway", "namespace": NAMESPACE},
        "spec": {"gatewayClassName": "inference-gateway", "listeners": []},
    }
    cluster.create(_GATEWAYS, gateway)
    for name, release in RELEASES.items():
        cluster.create(kinds.POOL_X, _pool(name))
        service: Object = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": f"{name}-epp", "namespace": NAMESPACE},
            "spec": {"ports": [{"port": 9002}]},
        }
        cluster.create(kinds.SERVICE, service)
        cluster.scale(release, 4 if name == STABLE else 2)
    if route:
        cluster.create(kinds.HTTP_ROUTE, _route())
    cluster.create(kinds.ROLLOUT, rollout)


# --- what people do --------------------------------------------------------------------------------


def edit_spec(change: Callable[[Object], None]) -> Callable[[Simulation], None]:
    """Edit the Rollout's spec, as a sync from Git does."""

    def act(sim: Simulation) -> None:
        rollout = sim.cluster.get(kinds.ROLLOUT, "mymodel")
        assert rollout is not None
        spec = copy.deepcopy(rollout["spec"])
        change(spec)
        sim.cluster.merge(kinds.ROLLOUT, "mymodel", {"spec": spec}, manager="argocd-controller")

    return act


def _target(name: str) -> Callable[[Simulation], None]:
    def change(spec: Object) -> None:
        spec["target"]["pool"]["name"] = name

    return edit_spec(change)


def _steps(steps: list[Object]) -> Callable[[Simulation], None]:
    def change(spec: Object) -> None:
        spec["strategy"]["canary"]["steps"] = copy.deepcopy(steps)

    return edit_spec(change)


def overwrite_route(weights: dict[str, int], manager: str) -> Callable[[Simulation], None]:
    """Somebody else writes the route's weights."""

    def act(sim: Simulation) -> None:
        route = sim.cluster.get(kinds.HTTP_ROUTE, ROUTE)
        assert route is not None
        rules = copy.deepcopy(route["spec"]["rules"])
        for rule in rules:
            for ref in rule["backendRefs"]:
                ref["weight"] = weights.get(ref["name"], 0)
        sim.cluster.merge(kinds.HTTP_ROUTE, ROUTE, {"spec": {"rules": rules}}, manager=manager)

    return act


def _command(action: str, tag: str = "t1") -> Callable[[Simulation], None]:
    return lambda sim: sim.cluster.command(action, tag=tag)


def _answer(answer: Answer) -> Callable[[Simulation], None]:
    def act(sim: Simulation) -> None:
        sim.source.answer = answer

    return act


def _scale(release: str, ready: int, unready: int = 0) -> Callable[[Simulation], None]:
    return lambda sim: sim.cluster.scale(release, ready, unready=unready)


# --- when ------------------------------------------------------------------------------------------


def _phase(*phases: str, attempt: int = 0) -> Callable[[Simulation], bool]:
    def holds(sim: Simulation) -> bool:
        status = sim.status
        return status.get("phase") in phases and status.get("attempt", 0) >= attempt

    return holds


def _at_step(step: int) -> Callable[[Simulation], bool]:
    """The step runs and its weight is in force."""

    def holds(sim: Simulation) -> bool:
        status = sim.status
        running = status.get("phase") in ("Progressing", "Paused")
        return running and status.get("startedAt") is not None and status.get("currentStep", 0) == step

    return holds


def _reason(reason: str) -> Callable[[Simulation], bool]:
    return lambda sim: sim.status.get("reason") == reason


def _healthy_on(name: str) -> Callable[[Simulation], bool]:
    def holds(sim: Simulation) -> bool:
        status = sim.status
        return status.get("phase") == "Healthy" and (status.get("stable") or {}).get("name") == name

    return holds


def _scenario(
    name: str,
    rollout: Object,
    moves: list[Move],
    goal: Callable[[Simulation], bool],
    *,
    route: bool = True,
) -> Scenario:
    return Scenario(
        name=name,
        setup=lambda cluster: base_objects(cluster, copy.deepcopy(rollout), route=route),
        moves=tuple(moves),
        goal=goal,
    )


def _make() -> list[Scenario]:
    guarded: Any = {"canary": {"analysis": GUARD}}
    promote = _scenario(
        "promote through pause, gate and manual pause",
        rollout_object([*STEPS, {"pause": {}}], **copy.deepcopy(guarded)),
        [Move(when=_at_step(5), act=_command("promote"), after=7)],
        _healthy_on(CANARY),
    )
    gate_abort = _scenario(
        "gate failure aborts",
        rollout_object(**copy.deepcopy(guarded)),
        [Move(when=_at_step(3), act=_answer(Answer.BAD), after=3)],
        _phase("Aborted"),
    )
    return [promote, gate_abort]


SCENARIOS: dict[str, Scenario] = {scenario.name: scenario for scenario in _make()}
