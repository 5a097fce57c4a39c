"""GPUs as they are counted beside a demo: those that Pods have, and those that they wait for."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.kube.client import PatchKind
from rollouts.lab.controlplane.pods import PODS
from rollouts.lab.gpumeter import GpuMeter, GpuUse, PodStage, count_gpus
from rollouts.lab.memoryapi.store import MemoryApi
from tests.kit.memory_client import MemoryKubeClient
from tests.kit.polling import eventually

Object = dict[str, Any]
READY = {"conditions": [{"type": "Ready", "status": "True"}]}


def pod(name: str, *, node: str = "n", gpus: int = 1, status: Object | None = None, **meta: Any) -> Object:
    container = {
        "name": "c",
        "image": "i",
        "resources": {"limits": {"nvidia.com/gpu": str(gpus)}} if gpus else {},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"release": name.partition("-")[0]}, **meta},
        "spec": {"containers": [container], **({"nodeName": node} if node else {})},
        "status": status or {},
    }


def test_what_ends_counts_until_it_is_gone_and_what_waits_is_asked_for() -> None:
    pods = [
        pod("old-1", status=READY),
        pod("old-2", status=READY, deletionTimestamp="2030-01-01T00:00:00Z"),
        pod("new-1", gpus=2),
        pod("new-2", node=""),
        pod("new-3", status={"phase": "Failed"}),
        pod("picker-1", gpus=0, status=READY),
    ]

    assert count_gpus(pods, "release") == GpuUse(
        in_use=4,
        asked=5,
        stages={
            "old": {PodStage.READY: 1, PodStage.TERMINATING: 1},
            "new": {PodStage.STARTING: 1, PodStage.PENDING: 1},
        },
    )


async def test_the_most_of_all_counts_is_kept_and_changes_are_told() -> None:
    client = MemoryKubeClient(MemoryApi())
    told: list[int] = []

    async def has(count: int) -> None:
        await eventually(lambda: told[-1:] == [count])

    async with GpuMeter(
        client, "ns", label="release", on_change=lambda use: told.append(use.in_use)
    ) as meter:
        for name in ("a-1", "a-2"):
            await client.create(PODS, "ns", pod(name))
        await has(2)
        await client.delete(PODS, "ns", "a-1")
        await has(1)
        await client.create(PODS, "ns", pod("a-3", node=""))
        await client.patch(PODS, "ns", "a-2", {"spec": {"nodeName": "m"}}, kind=PatchKind.MERGE)
        await eventually(lambda: meter.now.asked == 2)

    assert (meter.most_in_use, meter.most_asked) == (2, 2)
    assert meter.gpu_seconds > 0
    assert meter.counts >= 3


@pytest.mark.parametrize("asked", ["requests", "limits"])
def test_gpus_are_those_of_all_containers(asked: str) -> None:
    containers = [
        {"resources": {asked: {"nvidia.com/gpu": "2"}}},
        {"resources": {asked: {"nvidia.com/gpu": 1}}},
    ]
    found = pod("a-1")
    found["spec"]["containers"] = containers

    assert count_gpus([found], "release").in_use == 3
