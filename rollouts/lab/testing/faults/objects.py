"""Objects of the base-model example, small enough for thousands of runs."""

from __future__ import annotations

import copy
from typing import Any

from rollouts.controller import kinds
from rollouts.kube.client import Resource
from rollouts.lab.testing.faults.cluster import NAMESPACE, POOL_GROUP, Cluster

__all__ = [
    "ADAPTER_OF",
    "CANARY",
    "GATE",
    "GUARD",
    "MODEL",
    "PARENTS",
    "RELEASES",
    "ROUTE",
    "STABLE",
    "STEPS",
    "TEMPLATE",
    "THIRD",
    "adapter_rollout",
    "backend_ref",
    "base_objects",
    "model_object",
    "pool_object",
    "rewrite_object",
    "rollout_object",
]

Object = dict[str, Any]

ROUTE = "inference-route"
STABLE, CANARY, THIRD = "mymodel-pool-v1", "mymodel-pool-v2", "mymodel-pool-v3"
MODEL = "loramodel"
ADAPTER_OF = {STABLE: "travel-helper-v1", CANARY: "travel-helper-v2", THIRD: "travel-helper-v3"}
"""Adapters of the same roles as the pools: all of them on the pods of STABLE."""
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
TEMPLATE: Object = {"parentRefs": PARENTS, "rules": [{"matches": MATCHES}]}


def pool_object(name: str) -> Object:
    """An InferencePool whose pods are those of its release."""
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


def backend_ref(name: str, weight: int) -> Object:
    """An entry of a rule for a pool."""
    return {"group": POOL_GROUP, "kind": "InferencePool", "name": name, "port": 8000, "weight": weight}


def _route() -> Object:
    refs = [backend_ref(STABLE, 100), backend_ref(CANARY, 0), backend_ref(THIRD, 0)]
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
    canary = {
        "steps": copy.deepcopy(STEPS if steps is None else steps),
        "progressDeadline": "5m",
        **copy.deepcopy(fields.pop("canary", {})),
    }
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


def adapter_rollout(
    steps: list[Object] | None = None, *, kind: str = "inferenceModel", role: str = CANARY, **fields: Any
) -> Object:
    """A Rollout between the adapters of the same roles."""
    found = rollout_object(steps, **fields)
    found["spec"]["target"] = {"adapter": {"name": ADAPTER_OF[role]}}
    found["spec"]["traffic"] = {
        kind: {"name": MODEL, "modelName": "travelhelper", "poolRef": {"name": STABLE}}
    }
    return found


def model_object(weights: dict[str, int]) -> Object:
    """The adopted InferenceModel."""
    targets = [{"name": ADAPTER_OF[role], "weight": weight} for role, weight in weights.items()]
    return {
        "apiVersion": kinds.INFERENCE_MODEL.api_version,
        "kind": "InferenceModel",
        "metadata": {
            "name": MODEL,
            "namespace": NAMESPACE,
            "annotations": {"inferencerollouts.dev/managed-by": "mymodel"},
        },
        "spec": {
            "modelName": "travelhelper",
            "criticality": "Critical",
            "poolRef": {"name": STABLE},
            "targetModels": targets,
        },
    }


def rewrite_object(weights: dict[str, int]) -> Object:
    """The adopted InferenceModelRewrite, beside a rule that is not ours."""
    targets = [{"modelRewrite": ADAPTER_OF[role], "weight": weight} for role, weight in weights.items()]
    found = model_object(weights)
    return {
        **found,
        "apiVersion": kinds.REWRITE_X.api_version,
        "kind": kinds.REWRITE_X.kind,
        "spec": {
            "poolRef": {"name": STABLE},
            "rules": [
                {"matches": [{"model": {"type": "Exact", "value": "travelhelper"}}], "targets": targets}
            ],
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
        cluster.create(kinds.POOL_X, pool_object(name))
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
