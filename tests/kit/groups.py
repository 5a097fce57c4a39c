"""Pods as a LeaderWorkerSet's controller and webhook make them (sigs.k8s.io/lws 0.7)."""

from __future__ import annotations

from typing import Any

__all__ = ["group", "plain_pod"]

Object = dict[str, Any]
_PREFIX = "leaderworkerset.sigs.k8s.io"


def plain_pod(name: str, *, app: str = "v1") -> Object:
    """A pod of no group."""
    meta = {"name": name, "namespace": "default", "uid": name, "labels": {"app": app}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {}, "status": {"phase": "Running"}}


def group(name: str, index: int, size: int, *, app: str = "v1", workers_app: str = "") -> list[Object]:
    """The leader and its workers; ``workers_app`` is the workers' label, by default that of no pool."""
    leader = f"{name}-{index}"
    pods = []
    for number in range(size):
        pod = plain_pod(
            leader if number == 0 else f"{leader}-{number}", app=app if number == 0 else workers_app
        )
        meta = pod["metadata"]
        meta["labels"] |= {
            f"{_PREFIX}/name": name,
            f"{_PREFIX}/group-index": str(index),
            f"{_PREFIX}/worker-index": str(number),
            f"{_PREFIX}/group-key": f"key-{name}-{index}",
            f"{_PREFIX}/template-revision-hash": "6fdc",
        }
        meta["annotations"] = {f"{_PREFIX}/size": str(size)}
        owner = name if number == 0 else leader
        meta["ownerReferences"] = [
            {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": owner, "uid": owner, "controller": True}
        ]
        pods.append(pod)
    return pods
