"""The few fields of cached objects that matter: of ten thousand pods, whole objects would be most of the memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rollouts.objects.accelerators import accelerators, container_with
from rollouts.objects.fields import list_of, map_of
from rollouts.objects.groups import SIZE_ANNOTATION
from rollouts.objects.leaving import COST_ANNOTATION
from rollouts.objects.pods import (
    DRAINING_ANNOTATION,
    HEALTH_PORTS,
    METRICS_PORT_ANNOTATION,
    WARMED_ANNOTATION,
    holds_resources,
)
from rollouts.objects.workloads import pod_labels
from rollouts.runtime.objects import Object

__all__ = [
    "trim_autoscaler",
    "trim_namespace",
    "trim_pod",
    "trim_scaled_pod",
    "trim_service",
    "trim_workload",
]

_OF_PODS = (METRICS_PORT_ANNOTATION, SIZE_ANNOTATION)

_OF_DRAINS = (DRAINING_ANNOTATION, COST_ANNOTATION, WARMED_ANNOTATION)


def trim_pod(pod: Object) -> Object:
    """The few fields of a pod that matter: pods are the bulk of a cluster."""
    meta, status = pod.get("metadata") or {}, pod.get("status") or {}
    kept = ("name", "namespace", "uid", "resourceVersion", "labels", "deletionTimestamp")
    trimmed = {name: meta[name] for name in kept if name in meta}
    annotations = meta.get("annotations") or {}
    told = {name: annotations[name] for name in _OF_PODS if annotations.get(name) is not None}
    if told:
        trimmed["annotations"] = told
    found: dict[str, Any] = {
        "metadata": trimmed,
        "status": {
            "podIP": status.get("podIP"),
            "startTime": status.get("startTime"),
            "conditions": [c for c in status.get("conditions") or [] if _tells(c)],
        },
    }
    if not holds_resources(pod):
        found["status"]["phase"] = status["phase"]
    crashed = [{"restartCount": c["restartCount"]} for c in _containers(status) if c.get("restartCount")]
    if crashed:  # most pods never do
        found["status"]["containerStatuses"] = crashed
    ports = [port for container in _ported(pod) for port in container if port.get("name") in HEALTH_PORTS]
    if ports:
        found["spec"] = {"containers": [{"ports": ports}]}
    return found


def trim_scaled_pod(pod: Object) -> Object:
    """The same where workloads are scaled: also who made it, what it holds, and what decides whether it goes first."""
    found, meta = trim_pod(pod), pod.get("metadata") or {}
    kept = {name: meta[name] for name in ("ownerReferences",) if name in meta}
    annotations = map_of(meta.get("annotations"))
    marks = {name: annotations[name] for name in _OF_DRAINS if name in annotations}
    if marks:
        kept["annotations"] = {**found["metadata"].get("annotations", {}), **marks}
    found["metadata"].update(kept)
    phase, node = map_of(pod.get("status")).get("phase"), map_of(pod.get("spec")).get("nodeName")
    if phase:
        found["status"]["phase"] = phase
    if node:
        found["spec"] = {**found.get("spec", {}), "nodeName": node}
    if taken := accelerators(pod):
        containers = found.get("spec", {}).get("containers", [])
        found["spec"] = {**found.get("spec", {}), "containers": [*containers, container_with(taken)]}
    return found


def trim_namespace(namespace: Object) -> Object:
    """Names and labels, which freezes select by."""
    meta = namespace.get("metadata") or {}
    return {"metadata": {k: meta[k] for k in ("name", "uid", "resourceVersion", "labels") if k in meta}}


def trim_workload(workload: Object) -> Object:
    """What says which pods it makes, how many, and for whom."""
    meta, spec = workload.get("metadata") or {}, map_of(workload.get("spec"))
    kept = ("name", "namespace", "uid", "resourceVersion", "ownerReferences")
    return {
        "metadata": {name: meta[name] for name in kept if name in meta},
        "spec": {"template": {"metadata": {"labels": dict(pod_labels(workload))}}}
        | {name: spec[name] for name in ("replicas", "ordinals") if name in spec},
    }


def trim_autoscaler(autoscaler: Object) -> Object:
    """What it scales."""
    meta = autoscaler.get("metadata") or {}
    kept = ("name", "namespace", "uid", "resourceVersion")
    return {
        "metadata": {name: meta[name] for name in kept if name in meta},
        "spec": {"scaleTargetRef": dict(map_of(map_of(autoscaler.get("spec")).get("scaleTargetRef")))},
    }


def trim_service(service: Object) -> Object:
    """What it selects, and what its annotations say."""
    meta = service.get("metadata") or {}
    kept = ("name", "namespace", "uid", "resourceVersion", "annotations")
    return {
        "metadata": {name: meta[name] for name in kept if name in meta},
        "spec": {"selector": map_of(map_of(service.get("spec")).get("selector"))},
    }


def _tells(condition: Mapping[str, Any]) -> bool:
    """Whether a pod's condition is looked at: that it is Ready, and that no node takes it."""
    kind = condition.get("type")
    return kind == "Ready" or (kind == "PodScheduled" and condition.get("status") == "False")


def _containers(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [item for item in list_of(status.get("containerStatuses")) if isinstance(item, Mapping)]


def _ported(pod: Object) -> list[list[Mapping[str, Any]]]:
    """The declared ports of each container."""
    containers = map(map_of, list_of(map_of(pod.get("spec")).get("containers")))
    ports = [list_of(item.get("ports")) for item in containers]
    return [[port for port in found if isinstance(port, Mapping)] for found in ports]
