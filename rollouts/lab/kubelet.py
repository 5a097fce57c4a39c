"""Pod objects for the lab's processes, and a readiness loop that keeps their status true, as a kubelet does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

import aiohttp
import structlog

from rollouts.kube.client import KubeClient, PatchKind
from rollouts.kube.errors import AlreadyExists, KubeError, NotFound
from rollouts.lab.controlplane import create_ready_pod, remove_pod, set_pod_ready
from rollouts.lab.controlplane.pods import PODS, PodRemover
from rollouts.lab.vllm.spec import PodSpec

__all__ = ["Kubelet", "LabPod", "PodClient"]

log = structlog.get_logger(__name__)

_PROBE_SECONDS = 0.3
_PROBE_TIMEOUT = 2.0


class PodClient(KubeClient, PodRemover, Protocol):  # type: ignore[misc]  # two forms of delete
    """A client that can also remove a pod without a grace period."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabPod:
    """A process of the lab as a pod: Ready while ``probe``, a URL, answers 200.

    It takes ``failure_threshold`` failed probes in a row until it is not Ready.
    """

    namespace: str
    name: str
    address: str
    ports: Mapping[str, int]
    probe: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    failure_threshold: int = 1


def _simulated(spec: PodSpec) -> LabPod:
    return LabPod(
        namespace=spec.namespace,
        name=spec.name,
        address=spec.address,
        ports={"http": spec.port},
        probe=f"http://{spec.address}:{spec.port}/health",
        labels=spec.labels,
    )


class Kubelet:
    """Creates the Pod objects and probes; the Ready condition follows within a probe or two."""

    def __init__(self, client: PodClient, *, period: float = _PROBE_SECONDS) -> None:
        self._client = client
        self._period = period
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self.probes = 0
        """Probes made so far, of all pods."""

    async def add(self, pod: PodSpec | LabPod) -> None:
        """Create the Pod object (one that is there stays) and begin to probe."""
        pod = _simulated(pod) if isinstance(pod, PodSpec) else pod
        try:
            await create_ready_pod(
                self._client,
                pod.namespace,
                pod.name,
                labels=pod.labels,
                annotations=pod.annotations,
                ip=pod.address,
                ports=pod.ports,
                ready=False,
            )
            started = {"status": {"startTime": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}}
            await self._client.patch(
                PODS, pod.namespace, pod.name, started, kind=PatchKind.MERGE, subresource="status"
            )
        except AlreadyExists:
            log.info("pod_exists", pod=pod.name)
        self._tasks[(pod.namespace, pod.name)] = asyncio.create_task(self._follow(pod))

    async def add_all(self, specs: Iterable[PodSpec]) -> None:
        """Add several pods."""
        for spec in specs:
            await self.add(spec)

    async def remove(self, pod: PodSpec | LabPod) -> None:
        """Stop probing and delete the Pod object."""
        await self._end(self._tasks.pop((pod.namespace, pod.name), None))
        try:
            await remove_pod(self._client, pod.namespace, pod.name)
        except NotFound:
            log.info("pod_already_deleted", pod=pod.name)

    async def stop(self) -> None:
        """Stop probing; the objects stay."""
        for task in self._tasks.values():
            await self._end(task)
        self._tasks.clear()

    async def _end(self, task: asyncio.Task[None] | None) -> None:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _follow(self, pod: LabPod) -> None:
        timeout = aiohttp.ClientTimeout(total=_PROBE_TIMEOUT)
        written: bool | None = None
        failures = 0
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                failures = 0 if await _healthy(session, pod) else failures + 1
                self.probes += 1
                ready = failures == 0 if written is not True else failures < pod.failure_threshold
                if ready is not written and await self._write(pod, ready):
                    written = ready
                await asyncio.sleep(self._period)

    async def _write(self, pod: LabPod, ready: bool) -> bool:
        try:
            await set_pod_ready(self._client, pod.namespace, pod.name, ready=ready, ip=pod.address)
        except KubeError as error:
            log.warning("pod_status_not_written", pod=pod.name, reason=str(error)[:200])
            return False
        log.info("pod_ready_changed", pod=pod.name, ready=ready)
        return True


async def _healthy(session: aiohttp.ClientSession, pod: LabPod) -> bool:
    try:
        async with session.get(pod.probe) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False
