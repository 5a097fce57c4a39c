"""Real Envoy with endpoint pickers: ext_proc per pool, strict destinations, both failure modes."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable

import aiohttp
import grpc
import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from rollouts.lab.controlplane import create_ready_pod, set_pod_ready
from rollouts.lab.gateway.service import POOLS_V1, POOLS_V1ALPHA2, SERVICES
from rollouts.lab.processes import free_port
from tests.kit.dataplane import NAMESPACE, DataPlane, backend
from tests.kit.fakepicker import FakePicker, ask
from tests.kit.polling import eventually

Messages = AsyncIterator[ext_proc.ProcessingRequest]
StartPicker = Callable[[FakePicker], "asyncio.Future[str]"]


@pytest.mark.parametrize("resource", [POOLS_V1, POOLS_V1ALPHA2], ids=["v1", "v1alpha2"])
@pytest.mark.parametrize("mode", ["FailClose", "FailOpen"])
async def test_the_picker_chooses_the_pod(
    dataplane: DataPlane,
    http: aiohttp.ClientSession,
    start_picker: StartPicker,
    resource: object,
    mode: str,
) -> None:
    group = POOLS_V1 if resource == POOLS_V1 else POOLS_V1ALPHA2
    picker = FakePicker(lambda: "")
    pods = await dataplane.add_pool(
        "v1", pods=3, resource=group, picker=await start_picker(picker), failure_mode=mode
    )
    await dataplane.route(backend("v1", 1, group.group))
    for chosen in (pods[2], pods[0]):
        picker.choose = lambda address=chosen.spec.address: f"{address}:8000"
        seen = Counter([await ask(http, dataplane.url) for _ in range(10)])
        assert seen == {(200, chosen.spec.name): 10}

    assert picker.calls == 20


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_large_bodies_and_streams_pass_through_the_picker(
    dataplane: DataPlane, http: aiohttp.ClientSession, start_picker: StartPicker, stream: bool
) -> None:
    picker = FakePicker(lambda: "")
    (pod,) = await dataplane.add_pool("v1", picker=await start_picker(picker), max_model_len=10_000_000)
    picker.choose = lambda: f"{pod.spec.address}:8000"
    await dataplane.route(backend("v1", 1))

    assert await ask(http, dataplane.url, size=500_000, stream=stream) == (200, "v1-0")
    assert picker.bytes > 500_000


async def test_requests_without_a_body_pass_too(
    dataplane: DataPlane, http: aiohttp.ClientSession, start_picker: StartPicker
) -> None:
    picker = FakePicker(lambda: "")
    (pod,) = await dataplane.add_pool("v1", picker=await start_picker(picker))
    picker.choose = lambda: f"{pod.spec.address}:8000"
    await dataplane.route(backend("v1", 1))
    async with http.get(f"{dataplane.url}/v1/models") as answer:
        assert (answer.status, picker.calls) == (200, 1)


async def test_each_pool_of_a_rule_has_its_own_picker_and_the_draw_is_made_once(
    dataplane: DataPlane, http: aiohttp.ClientSession, start_picker: StartPicker
) -> None:
    pickers = {}
    for name in ("v1", "v2"):
        picker = pickers[name] = FakePicker(lambda: "")
        (pod,) = await dataplane.add_pool(name, picker=await start_picker(picker))
        picker.choose = lambda address=pod.spec.address: f"{address}:8000"
    await dataplane.route(backend("v1", 80), backend("v2", 20))
    seen = Counter(await asyncio.gather(*(ask(http, dataplane.url) for _ in range(300))))

    # A pod answers exactly as often as its own pool's picker was asked.
    assert seen == {(200, f"{name}-0"): picker.calls for name, picker in pickers.items()}
    assert 25 < pickers["v2"].calls < 105


async def test_a_pool_without_picker_beside_one_with_it(
    dataplane: DataPlane, http: aiohttp.ClientSession, start_picker: StartPicker
) -> None:
    picker = FakePicker(lambda: "")
    (pod,) = await dataplane.add_pool("v1", picker=await start_picker(picker))
    picker.choose = lambda: f"{pod.spec.address}:8000"
    await dataplane.add_pool("v2")
    await dataplane.route(backend("v1", 50), backend("v2", 50))
    seen = Counter(await asyncio.gather(*(ask(http, dataplane.url) for _ in range(100))))

    assert seen.keys() == {(200, "v1-0"), (200, "v2-0")}
    assert seen[200, "v1-0"] == picker.calls


@pytest.mark.parametrize(("mode", "status"), [("FailClose", 500), ("FailOpen", 200)])
async def test_a_picker_that_is_down(
    dataplane: DataPlane, http: aiohttp.ClientSession, mode: str, status: int
) -> None:
    await dataplane.add_pool("v1", picker=f"127.0.0.1:{free_port()}", failure_mode=mode)
    await dataplane.route(backend("v1", 1))

    assert (await ask(http, dataplane.url))[0] == status


async def test_a_client_cannot_choose_the_destination(
    dataplane: DataPlane, http: aiohttp.ClientSession
) -> None:
    down = f"127.0.0.1:{free_port()}"
    pods = await dataplane.add_pool("v1", pods=2, picker=down, failure_mode="FailOpen")
    await dataplane.route(backend("v1", 1))
    wanted = f"{pods[0].spec.address}:8000"
    seen = {await ask(http, dataplane.url, x_gateway_destination_endpoint=wanted) for _ in range(8)}

    assert seen == {(200, "v1-0"), (200, "v1-1")}


async def test_a_picker_can_be_added_and_taken_away_while_it_runs(
    dataplane: DataPlane, http: aiohttp.ClientSession, start_picker: StartPicker
) -> None:
    picker = FakePicker(lambda: "")
    pods = await dataplane.add_pool("v1", pods=2)
    picker.choose = lambda: f"{pods[1].spec.address}:8000"
    await dataplane.route(backend("v1", 1))
    assert {await ask(http, dataplane.url) for _ in range(8)} == {(200, "v1-0"), (200, "v1-1")}

    await dataplane.annotate_picker("v1", await start_picker(picker))
    await eventually(lambda: _asked(http, dataplane.url, picker))
    assert {await ask(http, dataplane.url) for _ in range(8)} == {(200, "v1-1")}

    await dataplane.annotate_picker("v1", "")

    async def both() -> bool:
        # What is on its way through the picker when its cluster goes may be cut off.
        with contextlib.suppress(aiohttp.ClientError):
            return len({await ask(http, dataplane.url) for _ in range(8)}) == 2
        return False

    await eventually(both)


@pytest.mark.parametrize(("mode", "status"), [("FailClose", 500), ("FailOpen", 200)])
async def test_a_picker_is_found_by_its_service_and_its_ready_pods(
    dataplane: DataPlane,
    http: aiohttp.ClientSession,
    start_picker: StartPicker,
    mode: str,
    status: int,
) -> None:
    """As in a cluster: the pool names the Service, its selector the Pods, a Pod the port."""
    labels = {"app": "epp"}
    spec = {"selector": labels, "ports": [{"name": "grpc", "port": 9002, "targetPort": "grpc"}]}
    await dataplane.create(SERVICES, "v1-picker", {"spec": spec})
    pods = await dataplane.add_pool("v1", pods=2, failure_mode=mode)
    await dataplane.route(backend("v1", 1))
    picker = FakePicker(lambda: f"{pods[1].spec.address}:8000")
    port = int((await start_picker(picker)).rpartition(":")[2])
    assert (await ask(http, dataplane.url))[0] == status

    await create_ready_pod(
        dataplane.client, NAMESPACE, "epp-0", labels=labels, ip="127.0.0.1", ports={"grpc": port}
    )
    await eventually(lambda: _asked(http, dataplane.url, picker))
    assert {await ask(http, dataplane.url) for _ in range(8)} == {(200, "v1-1")}

    await set_pod_ready(dataplane.client, NAMESPACE, "epp-0", ready=False, ip="127.0.0.1")

    async def left_alone() -> bool:
        calls = picker.calls
        return (await ask(http, dataplane.url))[0] == status and picker.calls == calls

    await eventually(left_alone)


class SlowPicker(FakePicker):
    """Answers when it is told to."""

    def __init__(self, choose: Callable[[], str]) -> None:
        super().__init__(choose)
        self.go_on = asyncio.Event()

    async def Process(  # the name is given by the protocol
        self, requests: Messages, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[ext_proc.ProcessingResponse]:
        async for response in super().Process(requests, context):
            await self.go_on.wait()
            yield response


async def test_a_picker_that_leaves_its_service_finishes_what_it_has_begun(
    dataplane: DataPlane, http: aiohttp.ClientSession, start_picker: StartPicker
) -> None:
    """A rolling update of the picker: the endpoint goes, the streams on it stay."""
    labels = {"app": "epp"}
    spec = {"selector": labels, "ports": [{"name": "grpc", "port": 9002, "targetPort": "grpc"}]}
    await dataplane.create(SERVICES, "v1-picker", {"spec": spec})
    (pod,) = await dataplane.add_pool("v1")
    picker = SlowPicker(lambda: f"{pod.spec.address}:8000")
    port = int((await start_picker(picker)).rpartition(":")[2])
    await create_ready_pod(
        dataplane.client, NAMESPACE, "epp-0", labels=labels, ip="127.0.0.1", ports={"grpc": port}
    )
    await dataplane.route(backend("v1", 1))
    picker.go_on.set()
    await eventually(lambda: _asked(http, dataplane.url, picker))
    picker.go_on.clear()
    calls = picker.calls
    running = asyncio.create_task(ask(http, dataplane.url))
    await eventually(lambda: picker.calls > calls)
    await set_pod_ready(dataplane.client, NAMESPACE, "epp-0", ready=False, ip="127.0.0.1")

    async def refused() -> bool:
        # Sent before Envoy heard of it, a request waits for the picker as the running one does.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                return (await ask(http, dataplane.url))[0] == 500
        return False

    await eventually(refused)
    picker.go_on.set()

    assert await running == (200, "v1-0")


async def _asked(http: aiohttp.ClientSession, url: str, picker: FakePicker) -> bool:
    await ask(http, url)
    return picker.calls > 0
