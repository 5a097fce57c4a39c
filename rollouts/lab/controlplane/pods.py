"""Pods without a kubelet: created on no real node, with the status a kubelet would write."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from rollouts.kube.client import KubeClient, PatchKind, Resource

__all__ = ["PODS", "STATIC_POD", "PodRemover", "create_ready_pod", "remove_pod", "set_pod_ready"]

Object = dict[str, Any]
PODS = Resource("", "v1", "pods", "Pod")
STATIC_POD = "kubernetes.io/config.source"
"""Annotation of Pods that come from the node itself, as a kubelet marks them: nobody else is to run them."""
_NODE = "lab"
_CONTAINER = "server"


class PodRemover(Protocol):
    """A client whose delete takes a grace period, as ``HttpKubeClient``."""

    async def delete(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        uid: str = "",
        grace_period_seconds: int | None,
    ) -> None:
        """Delete, with an explicit grace period in seconds; ``uid`` is a precondition."""
        ...


def _status(*, ready: bool, ip: str, container: str) -> Object:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    word = "True" if ready else "False"
    conditions = [
        {"type": kind, "status": word, "lastTransitionTime": now} for kind in ("ContainersReady", "Ready")
    ]
    return {
        "phase": "Running",
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Initialized", "status": "True", "lastTransitionTime": now}, *conditions],
        "containerStatuses": [
            {
                "name": container,
                "ready": ready,
                "restartCount": 0,
                "image": "lab",
                "imageID": "",
                "state": {"running": {"startedAt": now}},
            }
        ],
    }


async def create_ready_pod(
    client: KubeClient,
    namespace: str,
    name: str,
    *,
    labels: Mapping[str, str],
    ip: str,
    port: int = 8000,
    ports: Mapping[str, int] | None = None,
    annotations: Mapping[str, str] | None = None,
    ready: bool = True,
) -> Object:
    """Create a Pod and report it Running at ``ip``; answers it with its status. Raises KubeError.

    ``ports`` are named container ports, in place of the one nameless ``port``.
    """
    listed: list[Object] = [{"name": key, "containerPort": value} for key, value in (ports or {}).items()]
    body: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": dict(labels),
            "annotations": {STATIC_POD: "file", **(annotations or {})},
        },
        "spec": {
            "nodeName": _NODE,
            "containers": [
                {"name": _CONTAINER, "image": "lab", "ports": listed or [{"containerPort": port}]}
            ],
        },
    }
    await client.create(PODS, namespace, body)
    return await set_pod_ready(client, namespace, name, ready=ready, ip=ip)


async def set_pod_ready(client: KubeClient, namespace: str, name: str, *, ready: bool, ip: str) -> Object:
    """Write a Pod's status: Running at ``ip``, Ready or not. Raises KubeError."""
    patch = {"status": _status(ready=ready, ip=ip, container=_CONTAINER)}
    return await client.patch(PODS, namespace, name, patch, kind=PatchKind.MERGE, subresource="status")


async def remove_pod(client: PodRemover, namespace: str, name: str, *, uid: str = "") -> None:
    """Delete a Pod at once, as a kubelet confirms its end: only a grace period of 0 removes it. Raises KubeError."""
    await client.delete(PODS, namespace, name, uid=uid, grace_period_seconds=0)
