"""Node and Lease objects, as a kubelet writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rollouts.kube.client import Resource

__all__ = [
    "LEASES",
    "LEASE_NAMESPACE",
    "NODES",
    "Node",
    "lease_object",
    "lease_renewal",
    "node_object",
    "node_status",
]

Object = dict[str, Any]
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
LEASE_NAMESPACE = "kube-node-lease"
# The kubelet's own defaults: nodeLeaseDurationSeconds 40, of which a renewal takes a quarter.
_LEASE_SECONDS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What a node offers. ``cpu`` in cores, ``memory`` as a quantity, ``gpus`` as ``nvidia.com/gpu``."""

    name: str
    cpu: int = 64
    memory: str = "512Gi"
    pods: int = 110
    gpus: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    schedulable: bool = True


def node_object(node: Node) -> Object:
    """The Node as it registers itself."""
    labels = {"kubernetes.io/hostname": node.name, "kubernetes.io/os": "linux", **node.labels}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": labels},
        "spec": {} if node.schedulable else {"unschedulable": True},
    }


def node_status(node: Node) -> Object:
    """The status of a node that is well."""
    now = timestamp()
    capacity = {"cpu": str(node.cpu), "memory": node.memory, "pods": str(node.pods)}
    if node.gpus:
        capacity["nvidia.com/gpu"] = str(node.gpus)
    conditions = [
        {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "message": "the lab's kubelet is ready",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
    ]
    addresses = [{"type": "Hostname", "address": node.name}]
    return {"capacity": capacity, "allocatable": capacity, "conditions": conditions, "addresses": addresses}


def lease_object(node: Node) -> Object:
    """The node's heartbeat."""
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": node.name},
        "spec": {
            "holderIdentity": node.name,
            "leaseDurationSeconds": _LEASE_SECONDS,
            "renewTime": _micro_timestamp(),
        },
    }


def lease_renewal() -> Object:
    """A merge patch of the Lease."""
    return {"spec": {"renewTime": _micro_timestamp()}}


def timestamp() -> str:
    """Now, as metav1.Time is written."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _micro_timestamp() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
