"""Pod objects follow the simulated pods."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from rollouts.kube.errors import NotFound
from rollouts.lab.controlplane.pods import PODS, STATIC_POD
from rollouts.lab.kubelet import Kubelet, LabPod
from rollouts.lab.loopback import loopback
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.lab.vllm.pod import SimulatedPod
from rollouts.lab.vllm.spec import PodSpec
from tests.kit.memory_client import MemoryKubeClient
from tests.kit.polling import eventually

StartPod = Callable[..., Awaitable[SimulatedPod]]
Object = dict[str, Any]


@pytest.fixture
def kube() -> MemoryKubeClient:
    return MemoryKubeClient(MemoryApi())


@pytest.fixture
async def kubelet(kube: MemoryKubeClient) -> AsyncIterator[Kubelet]:
    made = Kubelet(kube, period=0.005)
    yield made
    await made.stop()


async def condition(kube: MemoryKubeClient, name: str) -> str:
    pod = await kube.get(PODS, "default", name)
    found = {c["type"]: c["status"] for c in pod.get("status", {}).get("conditions", ())}
    return str(found.get("Ready", ""))


async def test_the_ready_condition_follows_health(
    start_pod: StartPod, kube: MemoryKubeClient, kubelet: Kubelet
) -> None:
    pod = await start_pod(name="p", address=loopback(25, 1), port=8000, labels={"release": "a"})
    await kubelet.add(pod.spec)

    async def is_now(word: str) -> bool:
        return await condition(kube, "p") == word

    await eventually(lambda: is_now("True"))
    pod.crash(restart_after=None)
    await eventually(lambda: is_now("False"))
    await pod.start()
    await eventually(lambda: is_now("True"))
    stored = await kube.get(PODS, "default", "p")

    assert stored["metadata"]["labels"] == {"release": "a"}
    assert stored["status"]["podIP"] == loopback(25, 1)
    assert stored["status"]["startTime"]


async def test_nothing_is_written_while_nothing_changes(
    start_pod: StartPod, kube: MemoryKubeClient, kubelet: Kubelet
) -> None:
    pod = await start_pod(name="p", address=loopback(25, 2), port=8000)
    await kubelet.add(pod.spec)

    async def ready() -> bool:
        return await condition(kube, "p") == "True"

    await eventually(ready)
    assert pod.server is not None
    revision, probes = kube.api.revision, kubelet.probes
    await eventually(lambda: kubelet.probes > probes + 5)

    assert kube.api.revision == revision


async def test_a_removed_pod_has_no_object(
    start_pod: StartPod, kube: MemoryKubeClient, kubelet: Kubelet
) -> None:
    spec = PodSpec(name="p", address=loopback(25, 3))
    await kubelet.add(spec)
    await kubelet.remove(spec)

    with pytest.raises(NotFound):
        await kube.get(PODS, "default", "p")


async def test_a_pod_may_fail_some_probes_before_it_is_not_ready(
    start_pod: StartPod, kube: MemoryKubeClient, kubelet: Kubelet
) -> None:
    pod = await start_pod(name="p", address=loopback(25, 4), port=8000)
    named = LabPod(
        namespace="default",
        name="p",
        address=pod.spec.address,
        ports={"grpc": 9002},
        probe=f"{pod.url}/health",
        annotations={"a": "b"},
        failure_threshold=1_000_000,
    )
    await kubelet.add(named)

    async def ready() -> bool:
        return await condition(kube, "p") == "True"

    await eventually(ready)
    stored = await kube.get(PODS, "default", "p")
    pod.crash()
    probes = kubelet.probes
    await eventually(lambda: kubelet.probes > probes + 5)

    assert await ready()
    assert stored["metadata"]["annotations"] == {"a": "b", STATIC_POD: "file"}
    assert stored["spec"]["containers"][0]["ports"] == [{"name": "grpc", "containerPort": 9002}]
