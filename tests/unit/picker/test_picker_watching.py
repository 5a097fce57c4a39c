"""Objects by watch: a change arrives, and a lost API server changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rollouts.kube.client import ListPage, PatchKind, WatchEvent
from rollouts.kube.errors import ApiUnavailable
from rollouts.lab.controlplane import create_ready_pod, install_crds, minimal, set_pod_ready
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.objects import kinds
from rollouts.objects.pods import DRAINING_ANNOTATION
from rollouts.picker.core.objects import PoolName
from rollouts.picker.core.routing import Decision, Request
from rollouts.picker.main import Picker, PickerConfig
from rollouts.picker.watching import RESOURCES
from tests.kit.memory_client import MemoryKubeClient
from tests.kit.polling import eventually

POOL, MODEL = (
    next(r for r in RESOURCES if (r.kind, r.version) == wanted)
    for wanted in (("InferencePool", "v1alpha2"), ("InferenceModel", "v1alpha2"))
)


class Unreliable(MemoryKubeClient):
    """A client whose server can be taken away."""

    def __init__(self, api: MemoryApi) -> None:
        super().__init__(api)
        self.lost = asyncio.Event()

    async def list_page(self, *args: Any, **kwargs: Any) -> ListPage:
        if self.lost.is_set():
            raise ApiUnavailable("gone")
        return await super().list_page(*args, **kwargs)

    async def watch(self, *args: Any, **kwargs: Any) -> AsyncIterator[WatchEvent]:
        stream = super().watch(*args, **kwargs)
        while not self.lost.is_set():
            nxt, lost = asyncio.ensure_future(anext(stream)), asyncio.ensure_future(self.lost.wait())
            try:
                await asyncio.wait((nxt, lost), return_when=asyncio.FIRST_COMPLETED)
                if not nxt.done():
                    break
                yield nxt.result()
            finally:
                nxt.cancel()
                lost.cancel()
                await asyncio.gather(nxt, lost, return_exceptions=True)
        raise ApiUnavailable("gone")


@pytest.fixture
async def client(objects: Any) -> Unreliable:
    made = Unreliable(MemoryApi())
    await install_crds(made, (*minimal.INFERENCE_ALPHA, *minimal.INFERENCE_V1))
    for resource, obj in ((POOL, objects.pool()), (MODEL, objects.model({"v1": 1}))):
        obj["spec"].setdefault("extensionRef", {"name": "picker"})
        obj["metadata"].pop("creationTimestamp", None)
        await made.create(resource, "default", obj)
    await create_ready_pod(made, "default", "p0", labels={"app": "pool"}, ip="10.0.0.1")
    return made


@pytest.fixture
async def picker(client: Unreliable) -> AsyncIterator[Picker]:
    config = PickerConfig(
        pools=(PoolName("default", "pool"),),
        grpc_address="127.0.0.1:0",
        metrics_address="127.0.0.1:0",
        secure_serving=False,
        scrape=False,
        drain_grace=0.0,
    )
    running = Picker(config, client=client)
    await running.start()
    await eventually(lambda: running.ready)
    yield running
    await running.stop()


def route(picker: Picker) -> str:
    outcome = picker.router.route(Request({}, "travelhelper"), 1.0)
    return (
        f"{outcome.target}@{outcome.endpoint.pod}" if isinstance(outcome, Decision) else str(outcome.status)
    )


async def test_changes_arrive(picker: Picker, client: Unreliable) -> None:
    first = route(picker)
    patch = {"spec": {"targetModels": [{"name": "v2", "weight": 1}]}}
    await client.patch(MODEL, "default", "m", patch, kind=PatchKind.MERGE)
    await eventually(lambda: route(picker) == "v2@p0")
    await set_pod_ready(client, "default", "p0", ready=False, ip="10.0.0.1")
    await eventually(lambda: route(picker) == "503")

    assert first == "v1@p0"


async def test_an_annotation_alone_takes_a_pod_out_of_choice_and_back(
    picker: Picker, client: Unreliable
) -> None:
    await create_ready_pod(client, "default", "p1", labels={"app": "pool"}, ip="10.0.0.2")
    await eventually(lambda: {route(picker) for _ in range(9)} == {"v1@p0", "v1@p1"})
    for value, want in (("true", {"v1@p1"}), (None, {"v1@p0", "v1@p1"})):
        patch = {"metadata": {"annotations": {DRAINING_ANNOTATION: value}}}
        await client.patch(kinds.POD, "default", "p0", patch, kind=PatchKind.MERGE)
        await eventually(lambda want=want: {route(picker) for _ in range(9)} == want)

    assert {route(picker) for _ in range(9)} == {"v1@p0", "v1@p1"}


async def test_a_lost_api_server_leaves_the_last_state_serving(picker: Picker, client: Unreliable) -> None:
    client.lost.set()
    for _ in range(200):
        await asyncio.sleep(0)
    while_lost = (route(picker), picker.ready)
    client.lost.clear()
    patch = {"spec": {"targetModels": [{"name": "v2", "weight": 1}]}}
    await client.patch(MODEL, "default", "m", patch, kind=PatchKind.MERGE)

    await eventually(lambda: route(picker) == "v2@p0")
    assert while_lost == ("v1@p0", True)
