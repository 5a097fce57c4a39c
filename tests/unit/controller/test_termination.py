"""A namespace that ends: who is refused a creation there lets its Rollouts go before rights and process are gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Unpack

import pytest

from rollouts.api.crds import all_crds
from rollouts.api.parsing import FINALIZER
from rollouts.controller.app import Controller
from rollouts.controller.settings import Settings
from rollouts.kube.client import CreateOptions, KubeClient, PatchKind, Resource
from rollouts.kube.statuses import error_from_status
from rollouts.kube.wrapping import Call, WrappedClient
from rollouts.lab.controlplane import create_ready_pod, install_crds, minimal, set_pod_ready
from rollouts.lab.loopback import loopback
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.objects import kinds
from rollouts.runtime.clock import SystemClock
from tests.kit.memory_client import MemoryKubeClient
from tests.kit.polling import eventually
from tests.kit.stubgateway import stub_gateway

Object = dict[str, Any]
NAMESPACE = "models"

pytestmark = pytest.mark.slow


class EndingNamespace(WrappedClient):
    """Refuses creations from the moment ``ends`` is set, as NamespaceLifecycle does (kube-apiserver 1.36)."""

    def __init__(self, inner: KubeClient) -> None:
        super().__init__(inner)
        self.ends = False

    def around(self, call: Call) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def create(
        self,
        resource: Resource,
        namespace: str | None,
        obj: Mapping[str, Any],
        **options: Unpack[CreateOptions],
    ) -> Object:
        if not self.ends:
            return await super().create(resource, namespace, obj, **options)
        why = f"unable to create new content in namespace {namespace} because it is being terminated"
        cause = {
            "reason": "NamespaceTerminating",
            "message": f"namespace {namespace} is being terminated",
            "field": "metadata.namespace",
        }
        raise error_from_status(403, {"reason": "Forbidden", "message": why, "details": {"causes": [cause]}})


@pytest.fixture
async def kube() -> AsyncIterator[MemoryKubeClient]:
    client = MemoryKubeClient(MemoryApi())
    await install_crds(client, (*minimal.GATEWAY, *minimal.INFERENCE_ALPHA, *all_crds()))
    for number, name in enumerate(("v1", "v2")):
        spec = {
            "targetPortNumber": 8000,
            "selector": {"release": name},
            "extensionRef": {"name": f"{name}-picker"},
        }
        await make(client, kinds.POOL_X, name, spec)
        await make(client, kinds.SERVICE, f"{name}-picker", {"ports": [{"port": 9002}]})
        address = loopback(44, number + 1)
        await create_ready_pod(client, NAMESPACE, f"{name}-0", labels={"release": name}, ip=address)
    async with stub_gateway(MemoryKubeClient(client.api, field_manager="gateway"), NAMESPACE):
        yield client


async def make(client: MemoryKubeClient, resource: Resource, name: str, spec: Object) -> None:
    head = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}}
    await client.create(resource, NAMESPACE, {**head, "spec": spec})


async def set_all(kube: MemoryKubeClient, *, ready: bool) -> None:
    for number, name in enumerate(("v1-0", "v2-0")):
        await set_pod_ready(kube, NAMESPACE, name, ready=ready, ip=loopback(44, number + 1))


def rollout(target: str) -> Object:
    template = {
        "parentRefs": [{"name": "gw"}],
        "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}],
    }
    steps = [{"setWeight": 10}, {"pause": {}}]
    canary = {"allowNoTraffic": True, "pathProbe": "Off", "steps": steps}
    return {
        "target": {"pool": {"name": target}},
        "traffic": {"httpRoutes": [{"name": "made", "template": template}]},
        "strategy": {"canary": canary},
    }


class Running:
    """A controller in mid-canary."""

    def __init__(self, kube: MemoryKubeClient) -> None:
        self.kube = kube
        self.namespace = EndingNamespace(MemoryKubeClient(kube.api, field_manager="inference-rollouts"))
        settings = Settings(
            namespaces=(NAMESPACE,),
            lease_namespace=NAMESPACE,
            health_address="127.0.0.1:0",
            metrics_address="127.0.0.1:0",
            leader_elect=False,
        )
        self.controller = Controller(self.namespace, settings, SystemClock())
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Running:
        self._task = asyncio.create_task(self.controller.run())
        await make(self.kube, kinds.ROLLOUT, "demo", rollout("v1"))
        await eventually(lambda: self.phase("Healthy"), timeout=30)
        target = {"spec": {"target": {"pool": {"name": "v2"}}}}
        await self.kube.patch(kinds.ROLLOUT, NAMESPACE, "demo", target, kind=PatchKind.MERGE)
        await eventually(lambda: self.phase("Paused"), timeout=30)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.controller.stop()
        assert self._task is not None
        await self._task

    async def phase(self, wanted: str) -> bool:
        found = await self.kube.get(kinds.ROLLOUT, NAMESPACE, "demo")
        return bool((found.get("status") or {}).get("phase") == wanted)

    async def held(self) -> bool:
        found = await self.kube.get(kinds.ROLLOUT, NAMESPACE, "demo")
        return FINALIZER in (found["metadata"].get("finalizers") or ())

    async def free(self) -> bool:
        return not await self.held()

    async def weights(self) -> list[int]:
        route = await self.kube.get(kinds.HTTP_ROUTE, NAMESPACE, "made")
        return [one["weight"] for one in route["spec"]["rules"][0]["backendRefs"]]


async def test_a_controller_in_it_lets_go_when_it_is_asked_to_stop(kube: MemoryKubeClient) -> None:
    """Its Pod ends before one Rollout is deleted: waiting for that would be in vain."""
    async with Running(kube) as running:
        before = await running.held()
        running.namespace.ends = True
        await running.controller.leave()

        assert before
        assert await running.free()
        assert await running.weights() == [100, 0]
    assert "deletionTimestamp" not in (await kube.get(kinds.ROLLOUT, NAMESPACE, "demo"))["metadata"]


async def test_a_controller_elsewhere_lets_go_at_the_first_refusal(kube: MemoryKubeClient) -> None:
    """Its Role may be deleted before the Rollouts are. The Pods go first, and what it says of that is refused."""
    async with Running(kube) as running:
        running.namespace.ends = True
        await set_all(kube, ready=False)

        await eventually(running.free, timeout=20)


async def test_a_namesake_in_a_namespace_of_the_same_name_is_not_taken_for_deleted(
    kube: MemoryKubeClient,
) -> None:
    async with Running(kube) as running:
        running.namespace.ends = True
        await set_all(kube, ready=False)
        await eventually(running.free, timeout=20)
        await kube.delete(kinds.ROLLOUT, NAMESPACE, "demo")
        running.namespace.ends = False
        await set_all(kube, ready=True)
        await make(kube, kinds.ROLLOUT, "demo", rollout("v1"))

        # It takes over with the weights that are there: Paused (`SplitAtStart`) where they are split.
        await eventually(lambda: taken_over(running), timeout=30)


async def taken_over(running: Running) -> bool:
    return await running.phase("Paused") or await running.phase("Healthy")


async def test_a_stop_in_a_namespace_that_stays_keeps_the_canary(kube: MemoryKubeClient) -> None:
    async with Running(kube) as running:
        await running.controller.leave()

        assert await running.held()
        assert await running.weights() == [90, 10]
    events = (await kube.list_page(kinds.EVENT, NAMESPACE)).items
    assert "Leaving" not in {one["reason"] for one in events}
