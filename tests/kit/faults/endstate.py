"""What is compared between a disturbed run and the clean one: state without times, and counts of writes."""

from __future__ import annotations

from typing import Any

from rollouts.carriers import TRAFFIC_KINDS
from rollouts.engine.naming import UID_DIGITS
from rollouts.kube.client import Resource
from rollouts.kube.errors import KindNotServed
from rollouts.objects import kinds
from rollouts.objects.llm_services import STOP_ANNOTATION
from rollouts.traffic.llm_service_stop import STOPPED_BY
from tests.kit.faults.cluster import Cluster
from tests.kit.faults.deployments import DEPLOYMENT
from tests.kit.faults.groups import PARTS, place_of
from tests.kit.faults.history import History, Record

__all__ = ["CARRIERS", "differences", "end_state", "is_carrier", "route_weights", "weights_of"]

Object = dict[str, Any]

_NAMES = {
    "pool": "inference-route",
    "adapter": "loramodel",
    "variant": "mymodel-pool",
}
_GROUP = "mymodel-group"
CARRIERS = tuple(
    (resource, _GROUP if kind.made_of else _NAMES[kind.target.field])
    for kind in TRAFFIC_KINDS
    for resource in kind.resources
)
"""The traffic objects of the workloads, by name."""
_CARRIER_KEYS = frozenset((resource.group, resource.plural, name) for resource, name in CARRIERS)

_MASKED = frozenset(
    {
        "accelerators",
        "at",
        "lastTransitionTime",
        "alarm",
        "approval",
        "message",
        "messageLine",
        "observed",
        "progress",
        "readySince",
        "requestsBefore",
        "restores",
        "since",
        "goneSince",
        "undrainedSince",
        "undoneAt",
        "stableUntil",
        "queuedAt",
        "seenAt",
        "startedAt",
        "stepStartedAt",
        "bakeStartedAt",
        "trafficUID",
        "unreadySince",
        "standingSince",
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
    for resource in (kinds.INFERENCE_MODEL, *kinds.REWRITES, kinds.POOL_SPLIT):
        for model in _good(cluster, resource):
            labels = model["metadata"].get("labels") or {}
            found[f"model {model['metadata']['name']}"] = {"spec": model["spec"], "labels": labels}
    for resource, kind in PARTS:
        for part in _good(cluster, resource):
            place = place_of(kind, part)
            if place is not None:
                (one,) = kind.lists(kind.joined(*place, [part]) or {})
                marks = part["metadata"].get("annotations") or {}
                stopped = {name: marks[name] for name in (STOP_ANNOTATION, STOPPED_BY) if name in marks}
                found[f"member {part['metadata']['name']}"] = {"of": place[1], **one.entries[0], **stopped}
    for run in _good(cluster, kinds.ANALYSIS_RUN):
        found[f"run {run['metadata']['name']}"] = (run.get("status") or {}).get("phase")
    for deployment in _good(cluster, DEPLOYMENT):
        found[f"deployment {deployment['metadata']['name']}"] = deployment["spec"].get("replicas")
    for job in _good(cluster, kinds.JOB):
        found[f"job {job['metadata']['name']}"] = "there"
    ends = [f"-{rollout['metadata']['uid'][:UID_DIGITS]}" for rollout in _good(cluster, kinds.ROLLOUT)]
    masked: dict[str, Any] = _mask_ends(found, ends)
    return masked


def _mask_ends(value: Any, ends: list[str]) -> Any:
    """A Rollout that was made in the middle has the UID of that moment, and names end in it."""
    if isinstance(value, dict):
        return {_mask_ends(key, ends): _mask_ends(item, ends) for key, item in value.items()}
    if isinstance(value, list):
        return [_mask_ends(item, ends) for item in value]
    if isinstance(value, str):
        for end in ends:
            value = f"{value.removesuffix(end)}-uid" if value.endswith(end) else value
    return value


def _good(cluster: Cluster, resource: Resource) -> list[Object]:
    try:
        found = cluster.all(resource)
    except KindNotServed:
        return []
    return [obj for obj in found if not obj["metadata"]["name"].startswith("zz-hostile")]


def weights_of(carrier: Object, *, marked: bool = True) -> tuple[tuple[tuple[str, int], ...], ...]:
    """Weights of each rule by the name of its backend or adapter; 1 where omitted. A model object is one rule.

    A backend of another namespace is called ``namespace/name``.
    ``marked`` False leaves out rules of ours for marked requests: what they send to the canary is no weight.
    """
    spec = carrier.get("spec") or {}
    for one in (spec[field] for field in ("targetModels", "shares", "variants") if field in spec):
        return (tuple((str(item["name"]), int(item.get("weight", 1))) for item in one),)
    return tuple(
        tuple(
            (_backend_name(ref), int(ref.get("weight", 1)))
            for ref in rule.get("backendRefs") or rule.get("targets") or rule.get("split") or []
        )
        for rule in spec.get("rules") or []
        if marked or not str(rule.get("name", "")).startswith("rollout-header-")
    )


def _backend_name(ref: Object) -> str:
    name = str(ref.get("name") or ref.get("modelRewrite"))
    return f"{ref['namespace']}/{name}" if "namespace" in ref else name


def is_carrier(record: Record) -> bool:
    """Whether the record is of an object that carries the weights of ``mymodel``."""
    change = record.change
    return (change.group, change.plural, change.name) in _CARRIER_KEYS


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
