"""GPUs that Pods have and ask for, counted ten times a second: what a capacity demo promises, measured from outside."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import structlog

from rollouts.kube.client import KubeClient
from rollouts.kube.errors import KubeError
from rollouts.lab.controlplane.pods import PODS
from rollouts.lab.memorycontrollers.deletion import is_ready
from rollouts.lab.memorycontrollers.scheduling import gpus_of
from rollouts.objects.pods import holds_resources

__all__ = ["GpuMeter", "GpuUse", "PodStage", "count_gpus"]

log = structlog.get_logger(__name__)

Object = Mapping[str, Any]
_SECONDS = 0.1


class PodStage(Enum):
    """Where a Pod is in its life, as ``kubectl get pods`` has it."""

    PENDING = "Pending"
    STARTING = "starting"
    READY = "Ready"
    TERMINATING = "Terminating"


@dataclass(frozen=True, slots=True)
class GpuUse:
    """One count. ``in_use``: of Pods that have a node; ``asked`` those of Pending ones, too. Terminating Pods count.

    ``stages`` has the number of Pods with GPUs by the value of a label and their stage.
    """

    in_use: int = 0
    asked: int = 0
    stages: Mapping[str, Mapping[PodStage, int]] = field(default_factory=dict)


def count_gpus(pods: Iterable[Object], label: str) -> GpuUse:
    """Of all Pods that have not ended; ``label`` tells the workloads apart."""
    in_use = asked = 0
    stages: dict[str, Counter[PodStage]] = {}
    for pod in pods:
        gpus = gpus_of(pod)
        if not gpus or not holds_resources(pod):
            continue
        asked += gpus
        stage = _stage(pod)
        if stage is not PodStage.PENDING:
            in_use += gpus
        name = str((pod["metadata"].get("labels") or {}).get(label, ""))
        stages.setdefault(name, Counter())[stage] += 1
    return GpuUse(in_use=in_use, asked=asked, stages=stages)


def _stage(pod: Object) -> PodStage:
    if not pod["spec"].get("nodeName"):
        return PodStage.PENDING
    if pod["metadata"].get("deletionTimestamp"):
        return PodStage.TERMINATING
    return PodStage.READY if is_ready(pod) else PodStage.STARTING


class GpuMeter:
    """Counts while it is open, as an async context manager; ``on_change`` hears of each count that is another."""

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        *,
        label: str,
        on_change: Callable[[GpuUse], None] = lambda _: None,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._label = label
        self._on_change = on_change
        self._task: asyncio.Task[None] | None = None
        self.now = GpuUse()
        """The last count."""
        self.counts = 0
        """How often it was counted."""
        self.most_in_use = 0
        self.most_asked = 0
        self.gpu_seconds = 0.0
        """GPUs that were in use, over time."""

    async def __aenter__(self) -> GpuMeter:
        await self._count()
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(_SECONDS)
            try:
                await self._count()
            except KubeError as error:
                log.warning("gpus_not_counted", reason=str(error)[:200])
            now = time.monotonic()
            self.gpu_seconds += self.now.in_use * (now - last)
            last = now

    async def _count(self) -> None:
        pods = (await self._client.list_page(PODS, self._namespace)).items
        found = count_gpus(pods, self._label)
        self.counts += 1
        self.most_in_use = max(self.most_in_use, found.in_use)
        self.most_asked = max(self.most_asked, found.asked)
        if found != self.now:
            self.now = found
            self._on_change(found)
