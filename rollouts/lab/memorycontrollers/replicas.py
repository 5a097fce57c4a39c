"""What a Deployment and its ReplicaSets ask for: objects to make, and statuses. Values in, values out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rollouts.lab.memorycontrollers.deletion import is_active, is_ready

__all__ = [
    "TEMPLATE_HASH",
    "deployment_status",
    "is_owned_by",
    "owner_uid",
    "pod_of",
    "replica_set_of",
    "replica_set_status",
    "replicas_of",
]

Object = Mapping[str, Any]

TEMPLATE_HASH = "pod-template-hash"
"""Label by which a Deployment tells the Pods of its templates apart."""


def owner_uid(obj: Object) -> str:
    """UID of the controller that owns it; empty for none."""
    references = obj["metadata"].get("ownerReferences") or ()
    return next((str(one["uid"]) for one in references if one.get("controller")), "")


def is_owned_by(obj: Object, owner: Object) -> bool:
    """Whether ``owner`` is its controller."""
    return owner_uid(obj) == str(owner["metadata"]["uid"])


def replicas_of(workload: Object) -> int:
    """``spec.replicas``, 1 where it is left out."""
    return int(workload["spec"].get("replicas", 1))


def replica_set_of(deployment: Object) -> dict[str, Any]:
    """The ReplicaSet for the Deployment's template, as many replicas included."""
    template = deployment["spec"]["template"]
    text = json.dumps(template, sort_keys=True).encode()
    word = hashlib.sha256(text).hexdigest()[:10]
    labels = {**(template["metadata"].get("labels") or {}), TEMPLATE_HASH: word}
    selector = (deployment["spec"].get("selector") or {}).get("matchLabels") or {}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{deployment['metadata']['name']}-{word}",
            "namespace": deployment["metadata"]["namespace"],
            "labels": labels,
            "ownerReferences": [_reference(deployment, "Deployment")],
        },
        "spec": {
            "replicas": replicas_of(deployment),
            "selector": {"matchLabels": {**selector, TEMPLATE_HASH: word}},
            "template": {**template, "metadata": {**template["metadata"], "labels": labels}},
        },
    }


def pod_of(replica_set: Object) -> dict[str, Any]:
    """A Pod of a ReplicaSet, its name left to the API server."""
    template, meta = replica_set["spec"]["template"], replica_set["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **{
                name: value
                for name, value in template["metadata"].items()
                if name in ("labels", "annotations")
            },
            "generateName": f"{meta['name']}-",
            "namespace": meta["namespace"],
            "ownerReferences": [_reference(replica_set, "ReplicaSet")],
        },
        "spec": template["spec"],
    }


def _reference(owner: Object, kind: str) -> dict[str, Any]:
    meta = owner["metadata"]
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "name": meta["name"],
        "uid": meta["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def replica_set_status(replica_set: Object, pods: Sequence[Object]) -> dict[str, int]:
    """Of the Pods that it owns."""
    active = [pod for pod in pods if is_active(pod)]
    ready = sum(map(is_ready, active))
    return {
        "observedGeneration": int(replica_set["metadata"].get("generation", 0)),
        "replicas": len(active),
        "fullyLabeledReplicas": len(active),
        "readyReplicas": ready,
        "availableReplicas": ready,
        "terminatingReplicas": sum("deletionTimestamp" in pod["metadata"] for pod in pods),
    }


def deployment_status(
    deployment: Object, newest: Object, statuses: Sequence[Mapping[str, int]]
) -> dict[str, int]:
    """Of the statuses of its ReplicaSets; ``newest`` is that of its present template."""

    def total(name: str) -> int:
        return sum(one.get(name, 0) for one in statuses)

    available = total("availableReplicas")
    return {
        "observedGeneration": int(deployment["metadata"].get("generation", 0)),
        "replicas": total("replicas"),
        "updatedReplicas": int((newest.get("status") or {}).get("replicas", 0)),
        "readyReplicas": total("readyReplicas"),
        "availableReplicas": available,
        "unavailableReplicas": max(replicas_of(deployment) - available, 0),
        "terminatingReplicas": total("terminatingReplicas"),
    }
