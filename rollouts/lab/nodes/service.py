"""The lab's kubelet: nodes that stay Ready, and the Pods that the scheduler bound to them, until they have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from rollouts.kube.client import PatchKind
from rollouts.kube.errors import AlreadyExists, KubeError
from rollouts.lab.controlplane.pods import PODS, STATIC_POD, remove_pod
from rollouts.lab.kubelet import PodClient
from rollouts.lab.nodes.node import (
    LEASE_NAMESPACE,
    LEASES,
    NODES,
    Node,
    lease_object,
    lease_renewal,
    node_object,
    node_status,
    timestamp,
)
from rollouts.lab.nodes.runtime import PodRuntime, PodState
from rollouts.runtime.clock import SystemClock
from rollouts.runtime.objects import ObjectKey
from rollouts.runtime.reflector import Reflector
from rollouts.runtime.store import Store

__all__ = ["Nodes"]

log = structlog.get_logger(__name__)

Object = Mapping[str, Any]
_HEARTBEAT_SECONDS = 10.0
_PROBE_SECONDS = 0.3
_RETRY_SECONDS = 1.0
_FAILURE_THRESHOLD = 3
"""Probes in a row that a Ready Pod may fail, as a kubelet counts by default: one comes late where a machine is busy."""

# 128 + SIGTERM, and what a program that ends by itself answers.
_TERMINATED, _FAILED, _DONE = 143, 1, 0


class Nodes:
    """Registers ``nodes`` and runs what is bound to them with ``runtime``. ``start`` and ``stop`` it."""

    def __init__(self, client: PodClient, nodes: Sequence[Node], runtime: PodRuntime) -> None:
        self._client = client
        self._nodes = {node.name: node for node in nodes}
        self._runtime = runtime
        self._store = Store()
        self._reflector = Reflector(client, PODS, self._store, SystemClock())
        self._tasks: list[asyncio.Task[None]] = []
        self._pods: dict[str, asyncio.Task[None]] = {}
        self._deleting: dict[str, asyncio.Event] = {}
        self._names: dict[str, ObjectKey] = {}

    async def start(self) -> None:
        """Register the nodes and take their Pods. Raises KubeError."""
        for node in self._nodes.values():
            await self._register(node)
        self._store.subscribe(self._changed)
        self._tasks = [asyncio.create_task(self._reflector.run()), asyncio.create_task(self._heartbeats())]
        await self._reflector.wait_for_sync()

    async def stop(self) -> None:
        """Stop all of it; the objects stay, what runs ends."""
        pods = [self._store.get(key) for key in list(self._keys())]
        tasks = [*self._tasks, *self._pods.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for pod in pods:
            if pod is not None and not _static(pod):
                await self._runtime.stop(pod, 0.0)

    async def _register(self, node: Node) -> None:
        for resource, namespace, body in (
            (NODES, None, node_object(node)),
            (LEASES, LEASE_NAMESPACE, lease_object(node)),
        ):
            try:
                await self._client.create(resource, namespace, body)
            except AlreadyExists:
                log.info("node_known", node=node.name, kind=resource.kind)
        status = {"status": node_status(node)}
        await self._client.patch(NODES, None, node.name, status, kind=PatchKind.MERGE, subresource="status")

    async def _heartbeats(self) -> None:
        while True:
            await asyncio.sleep(_HEARTBEAT_SECONDS)
            for name in self._nodes:
                try:
                    await self._client.patch(
                        LEASES, LEASE_NAMESPACE, name, lease_renewal(), kind=PatchKind.MERGE
                    )
                except KubeError as error:
                    log.warning("heartbeat_failed", node=name, reason=str(error)[:200])

    def _keys(self) -> list[ObjectKey]:
        return [
            ObjectKey(pod["metadata"]["namespace"], pod["metadata"]["name"])
            for pod in self._store.values()
            if pod["spec"].get("nodeName") in self._nodes
        ]

    def _changed(self, key: ObjectKey) -> None:
        pod = self._store.get(key)
        for other, ending in self._deleting.items():
            # Gone without a grace period, or its name was given to another one.
            if self._names.get(other) == key and (pod is None or pod["metadata"]["uid"] != other):
                ending.set()
        if pod is None or pod["spec"].get("nodeName") not in self._nodes:
            return
        uid = pod["metadata"]["uid"]
        if uid not in self._pods:
            self._deleting[uid], self._names[uid] = asyncio.Event(), key
            self._pods[uid] = asyncio.create_task(self._live(key, pod))
            self._pods[uid].add_done_callback(lambda _: self._forget(uid))
        if pod["metadata"].get("deletionTimestamp"):
            self._deleting[uid].set()

    def _forget(self, uid: str) -> None:
        self._pods.pop(uid, None)
        self._deleting.pop(uid, None)
        self._names.pop(uid, None)

    async def _live(self, key: ObjectKey, pod: Object) -> None:
        """From the binding of a Pod to its end: run it, report it, and confirm its deletion."""
        deleting = self._deleting[pod["metadata"]["uid"]]
        if not _static(pod) and not _ended(pod):
            work = asyncio.create_task(self._work(key, pod))
            await _first(work, deleting)
        await deleting.wait()
        await self._end(key, pod)

    async def _work(self, key: ObjectKey, pod: Object) -> None:
        """Start it and keep its status true, until its containers have ended."""
        address = await self._start(pod)
        written: PodState | None = None
        failures = 0
        while written not in (PodState.SUCCEEDED, PodState.FAILED):
            state = await self._runtime.state(pod)
            failures = failures + 1 if state is PodState.STARTING else 0
            if written is PodState.READY and 0 < failures < _FAILURE_THRESHOLD:
                state = PodState.READY
            if state is not written and await self._report(key, pod, state, address):
                written = state
            await asyncio.sleep(_PROBE_SECONDS)

    async def _start(self, pod: Object) -> str:
        while True:
            try:
                return await self._runtime.start(pod)
            except OSError as error:
                log.warning("pod_not_started", pod=pod["metadata"]["name"], reason=str(error))
                await asyncio.sleep(_RETRY_SECONDS)

    async def _end(self, key: ObjectKey, pod: Object) -> None:
        """What a kubelet does with a Pod that is being deleted: preStop, stop, a last status, and the object goes."""
        current = self._current(key, pod)
        if not _static(pod):
            grace = 0.0
            if current is not None:
                grace = float(current["metadata"].get("deletionGracePeriodSeconds") or 0)
                hook = min(_pre_stop(current), grace)
                await asyncio.sleep(hook)
                grace -= hook
            await self._runtime.stop(pod, grace)
            if current is not None and not _ended(current):
                address = (current.get("status") or {}).get("podIP")
                await self._report(key, pod, PodState.FAILED, address, _TERMINATED)
        try:
            await remove_pod(self._client, key.namespace, key.name, uid=pod["metadata"]["uid"])
        except KubeError as error:
            log.info("pod_not_deleted", pod=key.name, reason=str(error)[:200])
        log.info("pod_ended", pod=key.name)

    def _current(self, key: ObjectKey, pod: Object) -> Object | None:
        """The Pod as it is stored now; None when it is gone."""
        found = self._store.get(key)
        return found if found is not None and found["metadata"]["uid"] == pod["metadata"]["uid"] else None

    async def _report(
        self, key: ObjectKey, pod: Object, state: PodState, address: str | None, code: int | None = None
    ) -> bool:
        current = self._current(key, pod)
        if current is None:
            return False
        patch = {"metadata": {"uid": current["metadata"]["uid"]}}
        patch["status"] = _status(current, state, address, code)
        try:
            await self._client.patch(
                PODS, key.namespace, key.name, patch, kind=PatchKind.MERGE, subresource="status"
            )
        except KubeError as error:
            log.warning("pod_status_not_written", pod=key.name, reason=str(error)[:200])
            return False
        log.info("pod_state", pod=key.name, state=state.value)
        return True


def _static(pod: Object) -> bool:
    return STATIC_POD in (pod["metadata"].get("annotations") or {})


def _ended(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _pre_stop(pod: Object) -> float:
    """Seconds of the containers' ``lifecycle.preStop.sleep``, the one hook that needs no program."""
    hooks = [(one.get("lifecycle") or {}).get("preStop") or {} for one in pod["spec"]["containers"]]
    return max((float((hook.get("sleep") or {}).get("seconds") or 0) for hook in hooks), default=0.0)


async def _first(work: asyncio.Task[None], deleting: asyncio.Event) -> None:
    """Until the work is done or the Pod is being deleted, which ends the work."""
    waiting = asyncio.create_task(deleting.wait())
    try:
        await asyncio.wait((work, waiting), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (work, waiting):
            task.cancel()
        results = await asyncio.gather(work, waiting, return_exceptions=True)
    if isinstance(results[0], Exception):
        log.error("pod_lost", reason=f"{type(results[0]).__name__}: {results[0]}")


def _status(pod: Object, state: PodState, address: str | None, code: int | None) -> dict[str, Any]:
    now = timestamp()
    ready = state is PodState.READY
    ended = {PodState.SUCCEEDED: _DONE, PodState.FAILED: _FAILED}.get(state)
    phase = {PodState.SUCCEEDED: "Succeeded", PodState.FAILED: "Failed"}.get(state, "Running")
    before = (pod.get("status") or {}).get("conditions") or ()
    ours = {"Initialized": True, "ContainersReady": ready, "Ready": ready}
    kept = [one for one in before if one["type"] not in ours]
    made = [{"type": kind, "status": str(is_so), "lastTransitionTime": now} for kind, is_so in ours.items()]
    running: dict[str, Any] = {"running": {"startedAt": now}}
    if ended is not None:
        over = {"exitCode": ended if code is None else code, "finishedAt": now}
        running = {"running": None, "terminated": {**over, "reason": "Completed" if ended == 0 else "Error"}}
    containers = [
        {
            "name": one["name"],
            "image": one.get("image", ""),
            "imageID": "",
            "ready": ready,
            "restartCount": 0,
            "state": running,
        }
        for one in pod["spec"]["containers"]
    ]
    at = {"podIP": address, "podIPs": [{"ip": address}]} if address else {}
    started = (pod.get("status") or {}).get("startTime") or now
    return {
        "phase": phase,
        **at,
        "hostIP": "127.0.0.1",
        "startTime": started,
        "conditions": [*kept, *made],
        "containerStatuses": containers,
    }
