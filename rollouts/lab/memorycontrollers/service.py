"""The controllers and the scheduler at work on a MemoryApi: each change is followed by what it asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import structlog

from rollouts.kube.client import PatchKind, Resource
from rollouts.kube.errors import KubeError
from rollouts.lab.memoryapi.history import Change
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.lab.memorycontrollers.deletion import first_to_go, is_active
from rollouts.lab.memorycontrollers.replicas import (
    deployment_status,
    is_owned_by,
    owner_uid,
    pod_of,
    replica_set_of,
    replica_set_status,
    replicas_of,
)
from rollouts.lab.memorycontrollers.scheduling import place
from rollouts.objects.workloads import WORKLOADS
from rollouts.runtime.clock import Clock, SystemClock

__all__ = ["MemoryControllers"]

log = structlog.get_logger(__name__)

Object = dict[str, Any]
_DEPLOYMENTS = WORKLOADS["Deployment"]
_REPLICA_SETS = Resource("apps", "v1", "replicasets", "ReplicaSet")
_PODS = Resource("", "v1", "pods", "Pod")
_NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
_LOOKED_AT = frozenset(one.plural for one in (_DEPLOYMENTS, _REPLICA_SETS, _PODS, _NODES))
_MANAGER, _SCHEDULER = "kube-controller-manager", "kube-scheduler"
_BURST = 500
"""Pods that a ReplicaSet makes or deletes at once (``BurstReplicas``)."""
_ROUNDS = 50
"""Rounds within which objects must be at rest: Deployment, ReplicaSet, Pods, scheduler and statuses take five."""


class MemoryControllers:
    """``start`` and ``stop`` it, or call ``react`` where time does not run by itself.

    While it runs, Pods are deleted as where there is a kubelet (``MemoryApi.has_kubelet``), which somebody has to be.
    """

    def __init__(self, api: MemoryApi, *, clock: Clock | None = None) -> None:
        self._api = api
        self._clock = clock or SystemClock()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Follow what is there, and every change from now on."""
        self._api.has_kubelet = True
        self._api.observers.append(self._observe)
        self._changed.set()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Follow no more; the objects stay."""
        if self._task is not None:
            self._api.observers.remove(self._observe)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def _observe(self, change: Change) -> None:
        if change.plural in _LOOKED_AT:
            self._changed.set()

    async def _run(self) -> None:
        while True:
            await self._changed.wait()
            # Those who made one change may be about to make another: they go first, as over a network.
            await asyncio.sleep(0)
            self._changed.clear()
            try:
                self.react()
            except KubeError as error:
                # An object that was deleted or refused meanwhile; the next change is looked at again.
                log.warning("memory_controllers_failed", reason=str(error)[:200])

    def react(self) -> None:
        """All that the present objects ask for. Raises KubeError where an object is refused."""
        for _ in range(_ROUNDS):
            before = self._api.revision
            self._collect()
            for deployment in self._list(_DEPLOYMENTS):
                self._deploy(deployment)
            for replica_set in self._list(_REPLICA_SETS):
                self._replicate(replica_set)
            self._schedule()
            if self._api.revision == before:
                return
        log.error("memory_controllers_restless", rounds=_ROUNDS)

    def _list(self, resource: Resource) -> list[Object]:
        return self._api.list_page(resource, None).items

    def _collect(self) -> None:
        """What is owned by something that is gone goes, too."""
        owners = [*self._list(_DEPLOYMENTS), *self._list(_REPLICA_SETS)]
        known = {one["metadata"]["uid"] for one in owners}
        for resource, kind in ((_REPLICA_SETS, "Deployment"), (_PODS, "ReplicaSet")):
            for obj in self._list(resource):
                kinds = {
                    one["kind"]
                    for one in obj["metadata"].get("ownerReferences") or ()
                    if one.get("controller")
                }
                ending = "deletionTimestamp" in obj["metadata"]
                if kind in kinds and owner_uid(obj) not in known and not ending:
                    self._delete(resource, obj)

    def _deploy(self, deployment: Object) -> None:
        wanted = replica_set_of(deployment)
        owned = [one for one in self._list(_REPLICA_SETS) if is_owned_by(one, deployment)]
        name, namespace = wanted["metadata"]["name"], deployment["metadata"]["namespace"]
        newest = next((one for one in owned if one["metadata"]["name"] == name), None)
        if newest is None:
            newest = self._api.create(_REPLICA_SETS, namespace, wanted, manager=_MANAGER)
        for one in owned:
            replicas = replicas_of(deployment) if one is newest else 0
            if replicas_of(one) != replicas:
                self._patch(_REPLICA_SETS, one, {"spec": {"replicas": replicas}})
        status = deployment_status(deployment, newest, [one.get("status") or {} for one in owned])
        self._write_status(_DEPLOYMENTS, deployment, status)

    def _replicate(self, replica_set: Object) -> None:
        pods = self._list(_PODS)
        owned = [pod for pod in pods if is_owned_by(pod, replica_set)]
        active = [pod for pod in owned if is_active(pod)]
        over = len(active) - replicas_of(replica_set)
        for _ in range(min(-over, _BURST)):
            body = pod_of(replica_set)
            self._api.create(_PODS, replica_set["metadata"]["namespace"], body, manager=_MANAGER)
        if over > 0:
            siblings = self._siblings(replica_set)
            related = [pod for pod in pods if owner_uid(pod) in siblings]
            for pod in first_to_go(active, related, self._clock.now())[: min(over, _BURST)]:
                self._delete(_PODS, pod)
        left = [pod for pod in self._list(_PODS) if is_owned_by(pod, replica_set)]
        self._write_status(_REPLICA_SETS, replica_set, replica_set_status(replica_set, left))

    def _siblings(self, replica_set: Object) -> set[str]:
        """UIDs of all ReplicaSets of its Deployment, its own among them."""
        uid, owner = replica_set["metadata"]["uid"], owner_uid(replica_set)
        others = self._list(_REPLICA_SETS) if owner else []
        return {uid, *(one["metadata"]["uid"] for one in others if owner_uid(one) == owner)}

    def _schedule(self) -> None:
        pods = self._list(_PODS)
        placement = place(pods, self._list(_NODES))
        for pod in pods:
            uid = pod["metadata"]["uid"]
            if uid in placement.nodes:
                # The condition first: whoever runs the Pod writes its status as soon as it has a node.
                self._condition(pod, {"type": "PodScheduled", "status": "True"})
                self._patch(_PODS, pod, {"spec": {"nodeName": placement.nodes[uid]}}, manager=_SCHEDULER)
            elif uid in placement.refusals:
                words = {"reason": "Unschedulable", "message": placement.refusals[uid]}
                self._condition(pod, {"type": "PodScheduled", "status": "False", **words})

    def _condition(self, pod: Object, condition: Mapping[str, str]) -> None:
        before = [one for one in pod["status"].get("conditions") or () if one["type"] == condition["type"]]
        if before and all(before[0].get(name) == value for name, value in condition.items()):
            return
        others = [one for one in pod["status"].get("conditions") or () if one["type"] != condition["type"]]
        made = {**condition, "lastTransitionTime": f"{self._clock.now():%Y-%m-%dT%H:%M:%SZ}"}
        status = {"status": {"conditions": [*others, made]}}
        self._patch(_PODS, pod, status, subresource="status", manager=_SCHEDULER)

    def _write_status(self, resource: Resource, obj: Object, status: Mapping[str, int]) -> None:
        if any((obj.get("status") or {}).get(name) != value for name, value in status.items()):
            self._patch(resource, obj, {"status": dict(status)}, subresource="status")

    def _patch(
        self,
        resource: Resource,
        obj: Object,
        patch: Object,
        *,
        subresource: str = "",
        manager: str = _MANAGER,
    ) -> None:
        meta = obj["metadata"]
        self._api.patch(
            resource,
            meta.get("namespace"),
            meta["name"],
            patch,
            content_type=PatchKind.MERGE.value,
            subresource=subresource,
            manager=manager,
        )

    def _delete(self, resource: Resource, obj: Mapping[str, Any]) -> None:
        meta = obj["metadata"]
        self._api.delete(resource, meta.get("namespace"), meta["name"], manager=_MANAGER)
