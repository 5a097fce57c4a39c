"""Objects of the base-model example, small enough for thousands of runs."""

from __future__ import annotations

import copy
from enum import Enum
from typing import Any

from rollouts.kube.client import Resource
from rollouts.lab.controlplane import minimal
from rollouts.objects import kinds
from rollouts.objects.llm_services import pods_of_service
from tests.kit.faults.cluster import NAMESPACE, POOL_GROUP, Cluster

__all__ = [
    "ADAPTER_OF",
    "CANARY",
    "GATE",
    "GROUP",
    "GUARD",
    "MODEL",
    "PARENTS",
    "PREFILL",
    "PREFILL_RELEASES",
    "RELEASES",
    "ROUTE",
    "SHARED",
    "STABLE",
    "STEPS",
    "TEMPLATE",
    "THIRD",
    "Carrier",
    "adapter_rollout",
    "backend_ref",
    "base_objects",
    "carried",
    "carrier_object",
    "freeze_object",
    "pool_object",
    "prefill_object",
    "rollout_object",
    "service_object",
    "service_objects",
    "service_rollout",
    "shared_objects",
    "shared_pool",
    "split_entries",
    "split_object",
    "variant_of",
    "variant_rollout",
]

Object = dict[str, Any]

ROUTE = "inference-route"
STABLE, CANARY, THIRD = "mymodel-pool-v1", "mymodel-pool-v2", "mymodel-pool-v3"
SHARED = "mymodel-pool"
"""The pool of whose pods variants are made, and their PoolSplit: a variant has the name of the pool of its role."""
MODEL = "loramodel"
ADAPTER_OF = {STABLE: "travel-helper-v1", CANARY: "travel-helper-v2", THIRD: "travel-helper-v3"}
"""Adapters of the same roles as the pools: all of them on the pods of STABLE."""
GROUP = "mymodel-group"
"""The routing group of KServe, whose members have the names of the pools."""
RELEASES = {STABLE: "qwen", CANARY: "deepseek-r1", THIRD: "llama"}
PREFILL = {STABLE: "prefill-v1", CANARY: "prefill-v2", THIRD: "prefill-v3"}
"""Companions of the pools, by these: pools whose pods work for theirs, and that no route names."""
PREFILL_RELEASES = {PREFILL[pool]: f"{release}-prefill" for pool, release in RELEASES.items()}
_GATEWAYS = Resource("gateway.networking.k8s.io", "v1", "gateways", "Gateway")


class Carrier(Enum):
    """The object that carries weights between adapters: its spec field, resource, and what it calls its list."""

    MODEL = ("inferenceModel", kinds.INFERENCE_MODEL, "targetModels")
    TARGETS = ("inferenceModelRewrite", kinds.REWRITE_X, "targets")
    SPLIT = ("inferenceModelRewrite", kinds.REWRITE_X, "split")
    LLM_D = ("inferenceModelRewrite", kinds.REWRITE_LLMD, "targets")

    @property
    def field(self) -> str:
        """Field of ``spec.traffic``."""
        return self.value[0]

    @property
    def resource(self) -> Resource:
        """Where the object lives."""
        return self.value[1]

    @property
    def targets(self) -> str:
        """The list's name."""
        return self.value[2]

    def reshape(self, crd: Object) -> Object:
        """A CRD as a cluster has it that serves rewrites in this dialect only."""
        if self is Carrier.MODEL or crd["spec"]["names"]["kind"] != kinds.REWRITE_X.kind:
            return crd
        return minimal.rewrite_crd(self.resource.group, self.targets)


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
            "selector": {"app": "custom-serving", "release": (RELEASES | PREFILL_RELEASES)[name]},
            "extensionRef": {"name": f"{name}-epp"},
        },
    }


def prefill_object(pool: str) -> Object:
    """The companion of a pool, which its label names."""
    found = pool_object(PREFILL[pool])
    found["metadata"]["labels"] = {"inferencerollouts.dev/with": pool}
    return found


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


def freeze_object(name: str, **spec: Any) -> Object:
    """A RolloutFreeze of everything, without an end, unless ``spec`` says otherwise."""
    return {
        "apiVersion": f"{kinds.GROUP}/{kinds.VERSION}",
        "kind": "RolloutFreeze",
        "metadata": {"name": name},
        "spec": {"reason": "nothing moves", **spec},
    }


def adapter_rollout(
    steps: list[Object] | None = None, *, carrier: Carrier = Carrier.MODEL, role: str = CANARY, **fields: Any
) -> Object:
    """A Rollout between the adapters of the same roles."""
    found = rollout_object(steps, **fields)
    found["spec"]["target"] = {"adapter": {"name": ADAPTER_OF[role]}}
    found["spec"]["traffic"] = {
        carrier.field: {"name": MODEL, "modelName": "travelhelper", "poolRef": {"name": STABLE}}
    }
    return found


def variant_of(role: str, **fields: Any) -> Object:
    """A variant as a target says it; its pods are those of the pool of the role."""
    return {"name": role, "labels": {"release": RELEASES.get(role, role)}, **fields}


def variant_rollout(steps: list[Object] | None = None, *, role: str = CANARY, **fields: Any) -> Object:
    """A Rollout between variants of one pool's pods."""
    found = rollout_object(steps, **fields)
    found["spec"]["target"] = {"variant": variant_of(role)}
    found["spec"]["traffic"] = {"inferencePool": {"name": SHARED}}
    return found


def service_rollout(steps: list[Object] | None = None, *, role: str = CANARY, **fields: Any) -> Object:
    """A Rollout between LLMInferenceServices of one group; a member has the name of the pool of its role."""
    found = rollout_object(steps, **fields)
    found["spec"]["target"] = {"llmInferenceService": {"name": role}}
    found["spec"]["traffic"] = {"llmInferenceServiceGroup": {"group": GROUP}}
    return found


def service_object(name: str, weight: int, *, owner: str = "mymodel") -> Object:
    """A member of the group; ``owner``: the Rollout that it consents to, empty for none."""
    return {
        "apiVersion": kinds.LLM_SERVICE.api_version,
        "kind": kinds.LLM_SERVICE.kind,
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "annotations": {"inferencerollouts.dev/managed-by": owner} if owner else {},
        },
        "spec": {
            "model": {"name": "mymodel", "uri": f"hf://example/{name}"},
            "router": {"route": {"group": GROUP, "weight": weight}, "scheduler": {}},
        },
    }


def service_objects(cluster: Cluster, weights: dict[str, int], others: dict[str, int]) -> None:
    """The members of the group, ours and those of others; pods have KServe's labels beside their own."""
    for role, release in RELEASES.items():
        cluster.more_labels[release] = dict(pods_of_service(service_object(role, 0)).selector)
    for name, weight in (*weights.items(), *others.items()):
        cluster.create(
            kinds.LLM_SERVICE, service_object(name, weight, owner="mymodel" if name in weights else "")
        )
        if name in others:
            cluster.more_labels[name] = dict(pods_of_service(service_object(name, 0)).selector)
            cluster.scale(name, 1)


def split_object(weights: dict[str, int]) -> Object:
    """A PoolSplit that an earlier Rollout of the name left; weights by role."""
    return {
        "apiVersion": kinds.POOL_SPLIT.api_version,
        "kind": kinds.POOL_SPLIT.kind,
        "metadata": {
            "name": SHARED,
            "namespace": NAMESPACE,
            "annotations": {"inferencerollouts.dev/managed-by": "mymodel"},
        },
        "spec": {"poolRef": {"name": SHARED}, "variants": split_entries(weights)},
    }


def split_entries(weights: dict[str, int]) -> list[Object]:
    """The list of a PoolSplit."""
    return [variant_of(role, weight=weight) for role, weight in weights.items()]


def shared_pool() -> Object:
    """The pool that variants share; pods of all releases are its own."""
    pool = pool_object(STABLE)
    pool["metadata"]["name"] = SHARED
    pool["spec"]["selector"] = {"app": "custom-serving"}
    pool["spec"]["extensionRef"] = {"name": f"{SHARED}-epp"}
    return pool


def shared_objects(cluster: Cluster) -> None:
    """The pool that variants share, with its picker."""
    cluster.create(kinds.POOL_X, shared_pool())
    cluster.create(kinds.SERVICE, _picker_service(SHARED))
    cluster.set_picker(SHARED, ready=True)


def _picker_service(pool: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"{pool}-epp", "namespace": NAMESPACE},
        "spec": {"selector": {"app": f"{pool}-epp"}, "ports": [{"port": 9002}]},
    }


def carrier_object(carrier: Carrier, weights: dict[str, int]) -> Object:
    """The adopted model object; weights by the role of the adapter."""
    spec: Object = {"poolRef": {"name": STABLE}}
    if carrier is Carrier.MODEL:
        spec |= {"modelName": "travelhelper", "criticality": "Critical"}
    return {
        "apiVersion": carrier.resource.api_version,
        "kind": carrier.resource.kind,
        "metadata": {
            "name": MODEL,
            "namespace": NAMESPACE,
            "annotations": {"inferencerollouts.dev/managed-by": "mymodel"},
        },
        "spec": spec | carried(carrier, weights),
    }


def carried(carrier: Carrier, weights: dict[str, int]) -> Object:
    """The part of a model object's spec that says the weights."""
    key = "name" if carrier is Carrier.MODEL else "modelRewrite"
    targets = [
        {key: ADAPTER_OF.get(role, role), "weight": weight} for role, weight in weights.items() if weight
    ]
    if carrier is Carrier.MODEL:
        return {carrier.targets: targets}
    matches = [{"model": {"type": "Exact", "value": "travelhelper"}}]
    return {"rules": [{"matches": matches, carrier.targets: targets}]}


def base_objects(cluster: Cluster, rollout: Object, *, route: bool = True, pods: bool = True) -> None:
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
        cluster.create(kinds.SERVICE, _picker_service(name))
        cluster.set_picker(name, ready=True)
        if pods:
            cluster.scale(release, 4 if name == STABLE else 2)
    if route:
        cluster.create(kinds.HTTP_ROUTE, _route())
    cluster.create(kinds.ROLLOUT, rollout)
