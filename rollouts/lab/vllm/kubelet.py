"""Pod objects for simulated pods, and a readiness loop that keeps their status true, as a kubelet does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import aiohttp
import structlog

from rollouts.kube.client import KubeClient, PatchKind, Resource
from rollouts.kube.errors import AlreadyExists, KubeError, NotFound
from rollouts.lab.vllm.spec import PodSpec

__all__ = ["PODS", "Kubelet", "pod_object", "pod_status"]

log = structlog.get_logger(__name__)

PODS = Resource("", "v1", "pods", "Pod")
_PROBE_SECONDS = 0.3
_PROBE_TIMEOUT = 2.0


def pod_object(spec: PodSpec) -> dict[str, Any]:
    """The Pod of one simulated server, without status."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": spec.name, "namespace": spec.namespace, "labels": dict(spec.labels)},
        "spec": {
            "containers": [
                {
                    "name": "vllm",
                    "image": "simulated-vllm",
                    "ports": [{"name": "http", "containerPort": spec.port, "protocol": "TCP"}],
                }
            ]
        },
    }


def pod_status(spec: PodSpec, *, ready: bool, now: datetime) -> dict[str, Any]:
    """The status of a running pod, as a merge patch for the status subresource."""
    word = "True" if ready else "False"
    stamp = f"{now:%Y-%m-%dT%H:%M:%SZ}"
    return {
        "status": {
            "phase": "Running",
            "podIP": spec.address,
            "podIPs": [{"ip": spec.address}],
            "conditions": [
                {"type": kind, "status": word, "lastTransitionTime": stamp}
                for kind in ("Ready", "ContainersReady")
            ],
        }
    }


class Kubelet:
    """Creates the Pod objects and probes ``/health``; the Ready condition follows within a probe or two."""

    def __init__(self, client: KubeClient, *, period: float = _PROBE_SECONDS) -> None:
        self._client = client
        self._period = period
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.probes = 0
        """Probes made so far, of all pods."""

    async def add(self, spec: PodSpec) -> None:
        """Create the Pod object (one that is there stays) and begin to probe."""
        try:
            await self._client.create(PODS, spec.namespace, pod_object(spec))
        except AlreadyExists:
            log.info("pod_exists", pod=spec.name)
        self._tasks[spec.name] = asyncio.create_task(self._follow(spec))

    async def add_all(self, specs: Iterable[PodSpec]) -> None:
        """Add several pods."""
        for spec in specs:
            await self.add(spec)

    async def remove(self, spec: PodSpec) -> None:
        """Stop probing and delete the Pod object."""
        await self._end(self._tasks.pop(spec.name, None))
        try:
            await self._client.delete(PODS, spec.namespace, spec.name)
        except NotFound:
            log.info("pod_already_deleted", pod=spec.name)

    async def stop(self) -> None:
        """Stop probing; the objects stay."""
        for task in self._tasks.values():
            await self._end(task)
        self._tasks.clear()

    async def _end(self, task: asyncio.Task[None] | None) -> None:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _follow(self, spec: PodSpec) -> None:
        timeout = aiohttp.ClientTimeout(total=_PROBE_TIMEOUT)
        written: bool | None = None
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                ready = await _healthy(session, spec)
                self.probes += 1
                if ready is not written and await self._write(spec, ready):
                    written = ready
                await asyncio.sleep(self._period)

    async def _write(self, spec: PodSpec, ready: bool) -> bool:
        status = pod_status(spec, ready=ready, now=datetime.now(UTC))
        try:
            await self._client.patch(
                PODS, spec.namespace, spec.name, status, kind=PatchKind.MERGE, subresource="status"
            )
        except KubeError as error:
            log.warning("pod_status_not_written", pod=spec.name, reason=str(error)[:200])
            return False
        log.info("pod_ready_changed", pod=spec.name, ready=ready)
        return True


async def _healthy(session: aiohttp.ClientSession, spec: PodSpec) -> bool:
    try:
        async with session.get(f"http://{spec.address}:{spec.port}/health") as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False
