"""EndpointSlices of Services, as a kube-controller-manager makes them, as far as a gateway needs them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

from rollouts.kube.client import KubeClient, PatchKind, Resource
from rollouts.kube.errors import KubeError
from rollouts.kube.paging import list_all
from rollouts.objects import kinds
from rollouts.objects.pods import read_pod

__all__ = ["EndpointSlices"]

Object = Mapping[str, Any]
_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
_EVERY = 0.2


class EndpointSlices:
    """Looks at the Services and pods of a namespace a few times a second, and writes what changed."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self._written: dict[str, dict[str, Any]] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(KubeError):
                await self._look()
            await asyncio.sleep(_EVERY)

    async def _look(self) -> None:
        services = await list_all(self._client, kinds.SERVICE, self._namespace)
        pods = await list_all(self._client, kinds.POD, self._namespace)
        for service in services:
            name = service["metadata"]["name"]
            wanted = _slice(service, pods)
            if wanted is not None and self._written.get(name) != wanted:
                await self._client.patch(
                    _SLICES, self._namespace, f"{name}-0", wanted, kind=PatchKind.APPLY, force=True
                )
                self._written[name] = wanted


def _slice(service: Object, pods: list[dict[str, Any]]) -> dict[str, Any] | None:
    selector = service["spec"].get("selector")
    if not selector:
        return None
    chosen = [pod for pod in pods if selector.items() <= (pod["metadata"].get("labels") or {}).items()]
    name = service["metadata"]["name"]
    return {
        "apiVersion": _SLICES.api_version,
        "kind": _SLICES.kind,
        "metadata": {"name": f"{name}-0", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "endpoints": [_endpoint(pod) for pod in chosen if (pod.get("status") or {}).get("podIP")],
        "ports": [
            {"name": port.get("name", ""), "port": _number(port, chosen), "protocol": "TCP"}
            for port in service["spec"]["ports"]
        ],
    }


def _endpoint(pod: Object) -> dict[str, Any]:
    found = read_pod(pod)
    ready = found is not None and found.ready
    reference = {"kind": "Pod", "name": pod["metadata"]["name"], "namespace": pod["metadata"]["namespace"]}
    return {
        "addresses": [pod["status"]["podIP"]],
        "conditions": {"ready": ready, "serving": ready, "terminating": False},
        "targetRef": reference,
    }


def _number(port: Object, pods: list[dict[str, Any]]) -> int:
    """The number of a target port; a name is looked up in the pods."""
    target = port.get("targetPort", port["port"])
    if isinstance(target, int):
        return target
    for pod in pods:
        for container in pod["spec"].get("containers") or ():
            for one in container.get("ports") or ():
                if one.get("name") == target:
                    return int(one["containerPort"])
    return int(port["port"])
