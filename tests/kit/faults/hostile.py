"""Objects that no schema would admit, but that may be stored all the same: from before a CRD was tightened, by
a server whose CRDs were edited, or by an author who looks for the field that nobody checks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from rollouts.kube.client import Resource
from rollouts.objects import kinds
from tests.kit.faults.cluster import NAMESPACE, POOL_GROUP, Cluster
from tests.kit.faults.objects import ROUTE, rollout_object

__all__ = ["HOSTILE", "PREFIX", "open_schema", "plant"]

Object = dict[str, Any]

PREFIX = "zz-hostile"  # on equal age the name decides, and the good one was there first


def open_schema(crd: Object) -> Object:
    """The CRD with a schema that admits anything; that of Rollouts keeps its defaults in front of it."""
    crd = copy.deepcopy(crd)
    for version in crd["spec"]["versions"]:
        version["schema"] = {
            "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        }
    return crd


def _deep(depth: int) -> Any:
    value: Any = "bottom"
    for _ in range(depth):
        value = {"deeper": value}
    return value


def _rollout(change: Callable[[Object], Any]) -> tuple[Resource, Object]:
    obj = rollout_object(name=PREFIX)
    obj["spec"]["traffic"]["httpRoutes"][0]["name"] = "hostile-route"
    change(obj)
    return kinds.ROLLOUT, obj


def _spec(value: Any) -> tuple[Resource, Object]:
    return _rollout(lambda obj: obj.update(spec=value))


def _status(value: Any) -> tuple[Resource, Object]:
    return _rollout(lambda obj: obj.update(status=value))


def _steps(value: Any) -> tuple[Resource, Object]:
    return _rollout(lambda obj: obj["spec"]["strategy"]["canary"].update(steps=value))


def _annotation(value: str) -> tuple[Resource, Object]:
    annotations = {"inferencerollouts.dev/command": value}
    return _rollout(lambda obj: obj["metadata"].update(annotations=annotations))


def _other(resource: Resource, **fields: Any) -> tuple[Resource, Object]:
    meta = {"name": PREFIX, "namespace": NAMESPACE, **fields.pop("metadata", {})}
    return resource, {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": meta, **fields}


_OWNED = {
    "ownerReferences": [
        {
            "apiVersion": f"{kinds.GROUP}/{kinds.VERSION}",
            "kind": "Rollout",
            "name": "mymodel",
            "uid": "",  # filled in by ``plant``
            "controller": True,
        }
    ]
}
_SCRIBBLE: Object = {
    "phase": "Dancing",
    "attempt": "three",
    "currentStep": -7,
    "canary": {"name": 5, "hash": []},
    "stable": "mymodel-pool-v1",
    "weight": [],
    "aborted": {"hash": None},
    "history": [None, 3, {"outcome": "Eaten"}],
    "conditions": {"type": "Ready"},
    "lastCommand": True,
    "restores": ["yesterday"],
}

HOSTILE: dict[str, tuple[Resource, Object]] = {
    "a spec that is a string": _spec("promote everything"),
    "a spec that is empty": _spec({}),
    "a spec nested 300 deep": _spec(_deep(300)),
    "steps that are a map": _steps({"setWeight": 10}),
    "a step of a hundred fields": _steps([{f"field{i}": i for i in range(100)}]),
    "ten thousand steps": _steps([{"setWeight": 1}] * 10_000),
    "a weight that is a list": _steps([{"setWeight": [1, 2]}]),
    "a malformed CEL condition": _steps(
        [
            {
                "analysis": {
                    "metrics": [
                        {
                            "name": "m",
                            "measure": {"preset": "ttft"},
                            "successCondition": "((((result" * 50,
                        }
                    ]
                }
            }
        ]
    ),
    "a scribbled status": _status(_SCRIBBLE),
    "a status that is a list": _status(["Healthy"]),
    "a command of 200 kB": _annotation("x" * 200_000),
    "a command of brackets": _annotation("[" * 1500),
    "a rollout that claims our route": _rollout(
        lambda obj: obj["spec"]["traffic"]["httpRoutes"][0].update(name=ROUTE)
    ),
    "a run of ours without a spec": _other(kinds.ANALYSIS_RUN, metadata=_OWNED),
    "a run of ours that says it failed": _other(
        kinds.ANALYSIS_RUN, metadata=_OWNED, spec={"rollout": 7}, status={"phase": "Failed"}
    ),
    "a run with wrong types": _other(
        kinds.ANALYSIS_RUN, spec={"metrics": "all", "attempt": {}, "canary": []}, status={"phase": 3}
    ),
    "a route with wrong types": _other(
        kinds.HTTP_ROUTE,
        spec={"parentRefs": [], "rules": [{"backendRefs": "all of them", "matches": {"path": 1}}]},
    ),
    "a pool with wrong types": _other(
        kinds.POOL_X, spec={"selector": ["app"], "targetPortNumber": "eight", "extensionRef": "me"}
    ),
    "a pool that selects every pod": _other(
        kinds.POOL_X,
        spec={
            "selector": {"app": "custom-serving"},
            "targetPortNumber": 8000,
            "extensionRef": {"name": "nobody"},
        },
    ),
    "a model with wrong types": _other(kinds.INFERENCE_MODEL, spec={"modelName": {}, "poolRef": POOL_GROUP}),
    "a template with wrong types": _other(kinds.ANALYSIS_TEMPLATE, spec={"metrics": {"name": []}}),
    "a pod that matches, with a status of strings": _other(
        kinds.POD,
        metadata={"labels": {"app": "custom-serving", "release": "deepseek-r1"}},
        status={"podIP": 4, "conditions": ["Ready"]},
    ),
}


def plant(cluster: Cluster, name: str, number: int) -> None:
    """Store one of them, its status included."""
    resource, obj = copy.deepcopy(HOSTILE[name])
    obj["metadata"]["name"] = f"{PREFIX}-{number}"
    for owner in obj["metadata"].get("ownerReferences", ()):
        rollout = cluster.get(kinds.ROLLOUT, "mymodel")
        owner["uid"] = rollout["metadata"]["uid"] if rollout is not None else ""
    status = obj.get("status")
    cluster.create(resource, obj)
    if status is not None and resource != kinds.POD:
        cluster.write_status(resource, obj["metadata"]["name"], status)
