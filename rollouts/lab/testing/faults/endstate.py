"""What is compared between a disturbed run and the clean one: state without times, and counts of writes."""

from __future__ import annotations

from typing import Any

from rollouts.controller import kinds
from rollouts.kube.client import Resource
from rollouts.lab.testing.faults.cluster import Cluster
from rollouts.lab.testing.faults.history import History, Record

__all__ = ["CARRIERS", "differences", "end_state", "is_carrier", "route_weights", "weights_of"]

Object = dict[str, Any]

CARRIERS = (
    (kinds.HTTP_ROUTE, "inference-route"),
    (kinds.INFERENCE_MODEL, "loramodel"),
    (kinds.REWRITE_X, "loramodel"),
)
"""The traffic objects of the workloads, by name."""

_MASKED = frozenset(
    {
        "at",
        "lastTransitionTime",
        "message",
        "restores",
        "since",
        "stableUntil",
        "startedAt",
        "stepStartedAt",
        "bakeStartedAt",
        "trafficUID",
        "unreadySince",
        "evidence",
        "raw",
    }
)


def _mask(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _mask(item) for key, item in value.items() if key not in _MASKED}
    if isinstance(value, list):
        return [_mask(item) for item in value]
    return value


def end_state(cluster: Cluster) -> dict[str, Any]:
    """Masked final state: Rollouts, routes, runs with their phases, Jobs."""
    found: dict[str, Any] = {}
    # Hostile neighbours are no part of what is compared.
    for rollout in _good(cluster, kinds.ROLLOUT):
        meta = rollout["metadata"]
        found[f"rollout {meta['name']}"] = {
            "target": rollout["spec"]["target"],
            "status": _mask(rollout.get("status") or {}),
            "finalizers": meta.get("finalizers") or [],
        }
    for route in _good(cluster, kinds.HTTP_ROUTE):
        labels = route["metadata"].get("labels") or {}
        found[f"route {route['metadata']['name']}"] = {"rules": route["spec"]["rules"], "labels": labels}
    for resource in (kinds.INFERENCE_MODEL, kinds.REWRITE_X):
        for model in _good(cluster, resource):
            labels = model["metadata"].get("labels") or {}
            found[f"model {model['metadata']['name']}"] = {"spec": model["spec"], "labels": labels}
    for run in _good(cluster, kinds.ANALYSIS_RUN):
        found[f"run {run['metadata']['name']}"] = (run.get("status") or {}).get("phase")
    for job in _good(cluster, kinds.JOB):
        found[f"job {job['metadata']['name']}"] = "there"
    return found


def _good(cluster: Cluster, resource: Resource) -> list[Object]:
    return [obj for obj in cluster.all(resource) if not obj["metadata"]["name"].startswith("zz-hostile")]


def weights_of(carrier: Object) -> tuple[tuple[tuple[str, int], ...], ...]:
    """Weights of each rule by the name of its backend or adapter; 1 where omitted. A model object is one rule."""
    spec = carrier.get("spec") or {}
    if "targetModels" in spec:
        return (tuple((str(item["name"]), int(item.get("weight", 1))) for item in spec["targetModels"]),)
    return tuple(
        tuple(
            (str(ref.get("name") or ref.get("modelRewrite")), int(ref.get("weight", 1)))
            for ref in rule.get("backendRefs") or rule.get("targets") or []
        )
        for rule in spec.get("rules") or []
    )


def is_carrier(record: Record) -> bool:
    """Whether the record is of an object that carries the weights of ``mymodel``."""
    return any(record.of(resource) and record.change.name == name for resource, name in CARRIERS)


def route_weights(history: History) -> tuple[Any, ...]:
    """Weights after each of the controller's writes of traffic."""
    return tuple(weights_of(record.after) for record in history.records if record.ours and is_carrier(record))


def differences(clean: Any, other: Any, path: str = "") -> list[str]:
    """Where two masked states differ, in words."""
    if isinstance(clean, dict) and isinstance(other, dict):
        found = []
        for key in sorted(clean.keys() | other.keys()):
            found += differences(clean.get(key), other.get(key), f"{path}.{key}" if path else str(key))
        return found
    return [] if clean == other else [f"{path}: {clean!r:.200} without the fault, {other!r:.200} with it"]
