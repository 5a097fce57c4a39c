"""The scale subresource: autoscaling/v1 Scale out of a workload, and its replicas back into it."""

from __future__ import annotations

from typing import Any

from rollouts.kube.errors import Invalid

__all__ = ["scale_of", "scaled"]

Object = dict[str, Any]

_KEPT = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")


def scale_of(workload: Object) -> Object:
    """The Scale of a workload; replicas are 1 where they are left out, as the API server would have filled in."""
    meta, spec = workload["metadata"], workload.get("spec") or {}
    status = workload.get("status") or {}
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {name: meta[name] for name in _KEPT if name in meta},
        "spec": {"replicas": spec.get("replicas", 1)},
        "status": {"replicas": status.get("replicas", 0)},
    }


def scaled(workload: Object, scale: Any) -> Object:
    """The workload with the replicas and the resourceVersion of a Scale. Raises Invalid."""
    try:
        replicas = scale["spec"].get("replicas", 0)
        version = scale["metadata"].get("resourceVersion", "")
    except (KeyError, TypeError, AttributeError):
        raise Invalid("the Scale is malformed", status=400) from None
    if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
        raise Invalid(
            f"spec.replicas: Invalid value: {replicas}: must be greater than or equal to 0", status=422
        )
    return {
        **workload,
        "metadata": {**workload["metadata"], "resourceVersion": version},
        "spec": {**(workload.get("spec") or {}), "replicas": replicas},
    }
