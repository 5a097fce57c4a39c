"""Pod objects for simulated pods, and a readiness loop that keeps their status true, as a kubelet does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Protocol

import aiohttp
import structlog

from rollouts.kube.client import KubeClient, PatchKind
from rollouts.kube.errors import AlreadyExists, KubeError, NotFound
from rollouts.lab.controlplane import create_ready_pod, remove_pod, set_pod_ready
from rollouts.lab.controlplane.pods import PODS, PodRemover
from rollouts.lab.vllm import PodSpec

__all__ = ["Kubelet", "PodClient"]

log = structlog.get_logger(__name__)

_PROBE_SECONDS = 0.3
_PROBE_TIMEOUT = 2.0


class PodClient(KubeClient, PodRemover, Protocol):  # type: ignore[misc]  # two forms of delete
    """A client that can also remove a pod without a grace period."""


class Kubelet:
    """Creates the Pod objects and probes ``/health``; the Ready condition follows within a probe or two."""

    def __init__(self, client: PodClient, *, period: float = _PROBE_SECONDS) -> None:
        self._client = client
        self._period = period
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.probes = 0
        """Probes made so far, of all pods."""

    async def add(self, spec: PodSpec) -> None:
        """Create the Pod object (one that is there stays) and begin to probe."""
        try:
            await create_ready_pod(
                self._client,
                spec.namespace,
                spec.name,
                labels=spec.labels,
                ip=spec.address,
                port=spec.port,
                ready=False,
            )
            started = {"status": {"startTime": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}}
            await self._client.patch(
                PODS, spec.namespace, spec.name, started, kind=PatchKind.MERGE, subresource="status"
            )
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
            await remove_pod(self._client, spec.namespace, spec.name)
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
        try:
            await set_pod_ready(self._client, spec.namespace, spec.name, ready=ready, ip=spec.address)
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
