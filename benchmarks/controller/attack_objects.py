"""Objects of the attack: healthy teams, and what one tenant may write in a namespace of their own."""

from __future__ import annotations

from typing import Any

from rollouts.objects import kinds

__all__ = ["MALLORY", "edited", "flooding", "hostile_pods", "hostile_runs", "small", "team"]

Object = dict[str, Any]

MALLORY = "mallory"
_READY = [{"type": "Ready", "status": "True"}]


def _pool(version: str, port: int) -> Object:
    return {
        "apiVersion": kinds.POOL_V1.api_version,
        "kind": "InferencePool",
        "metadata": {"name": version},
        "spec": {
            "selector": {"matchLabels": {"release": version}},
            "targetPorts": [{"number": port}],
            "endpointPickerRef": {"name": f"{version}-epp", "kind": "Service", "port": {"number": 9002}},
        },
    }


def _service(version: str) -> Object:
    # No selector: a picker that the gateway brings.
    spec = {"ports": [{"name": "grpc", "port": 9002}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"{version}-epp"}, "spec": spec}


def _pod(name: str, version: str, ip: str) -> Object:
    spec = {"containers": [{"name": "vllm", "image": "vllm"}]}
    meta = {"name": name, "labels": {"release": version}}
    status = {"phase": "Running", "podIP": ip, "conditions": _READY, "startTime": "2026-01-01T00:00:00Z"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec, "status": status}


def _route() -> Object:
    refs = [
        {"group": kinds.POOL_V1.group, "kind": "InferencePool", "name": name, "port": 8000, "weight": weight}
        for name, weight in (("v1", 100), ("v2", 0))
    ]
    return {
        "apiVersion": kinds.HTTP_ROUTE.api_version,
        "kind": "HTTPRoute",
        "metadata": {"name": "route", "annotations": {"inferencerollouts.dev/managed-by": "mymodel"}},
        "spec": {"parentRefs": [{"name": "gateway"}], "rules": [{"backendRefs": refs}]},
    }


def _rollout(metrics: list[Object], steps: list[Object] | None = None, name: str = "mymodel") -> Object:
    canary: Object = {"steps": steps or [{"setWeight": 50}, {"pause": {}}]}
    if metrics:
        canary["analysis"] = {"metrics": metrics, "startingStep": 1}
    return {
        "apiVersion": kinds.ROLLOUT.api_version,
        "kind": "Rollout",
        "metadata": {"name": name},
        "spec": {
            "target": {"pool": {"name": "v2"}},
            "traffic": {"httpRoutes": [{"name": "route"}]},
            "allowMissingModels": True,
            "strategy": {"canary": canary},
        },
    }


def team(namespace: str, port: int) -> list[Object]:
    """Two pools, their pods and a Rollout at 50 %, judged each second by a query of its own."""
    judged = {
        "name": "errors",
        "query": f'errors{{team="{namespace}"}}',
        "failureCondition": "result > 0.5",
        "interval": "1s",
        "failureLimit": 0,
    }
    objects = [part for version in ("v1", "v2") for part in (_pool(version, port), _service(version))]
    objects += [_pod(f"{version}-0", version, "127.0.0.1") for version in ("v1", "v2")]
    return [*objects, _route(), _rollout([judged])]


def _run(name: str, metrics: list[Object]) -> Object:
    spec = {
        "rollout": "nobody",
        "metrics": metrics,
        "canary": {"kind": "InferencePool", "group": kinds.POOL_V1.group, "name": "v2"},
    }
    meta = {"name": name}
    return {
        "apiVersion": kinds.ANALYSIS_RUN.api_version,
        "kind": "AnalysisRun",
        "metadata": meta,
        "spec": spec,
    }


def hostile_runs(count: int, what: dict[str, Any], condition: str) -> list[Object]:
    """Runs that measure each second; whoever may write a Rollout may write them."""
    metric = {"name": "m", "interval": "1s", "failureLimit": -1, "inconclusiveLimit": -1, **what}
    metric |= {"failureCondition": condition, "consecutiveErrorLimit": 100_000}
    return [_run(f"hostile-{number}", [metric]) for number in range(count)]


def hostile_pods(addresses: list[str], port: int) -> list[Object]:
    """A pool of pods that serve what Mallory likes."""
    pods = [_pod(f"p{number}", "v2", address) for number, address in enumerate(addresses)]
    return [_pool("v2", port), _service("v2"), *pods]


def flooding(count: int) -> list[Object]:
    """Rollouts of many steps, each with metrics of long conditions that are all different."""
    rollouts = []
    for number in range(count):
        gates = [
            {
                "name": f"m{m}",
                "query": "up",
                "successCondition": f"result < {number}.{m} " + "|| result < 1.0 " * 40,
            }
            for m in range(16)
        ]
        steps = [{"setWeight": 10}, *[{"analysis": {"metrics": gates}}] * 8]
        rollouts.append(_rollout([], steps, name=f"flood-{number}"))
    return rollouts


def small() -> Object:
    """A Rollout as people write it."""
    return _rollout([])


def edited(rollout: Object, turn: int) -> Object:
    """The same Rollout with conditions that nobody has seen yet."""
    steps = rollout["spec"]["strategy"]["canary"]["steps"]
    gates = [{**metric, "successCondition": f"result < {turn}.5 " + metric["successCondition"][9:]}
             for metric in steps[1]["analysis"]["metrics"]]  # fmt: skip
    return _rollout([], [steps[0], *[{"analysis": {"metrics": gates}}] * 8], name=rollout["metadata"]["name"])
