"""The lab's kubelet on the in-memory API server, where the test is the scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from rollouts.kube.client import PatchKind
from rollouts.kube.errors import NotFound
from rollouts.lab.controlplane import create_ready_pod
from rollouts.lab.controlplane.pods import PODS
from rollouts.lab.memoryapi.history import Change
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.lab.nodes import Node, Nodes, PodState, PretendRuntime, SimulatedServers
from rollouts.lab.nodes.node import LEASE_NAMESPACE, LEASES, NODES
from rollouts.lab.vllm.knobs import Hang, Knobs
from tests.kit.clock import VirtualClock, virtual_time
from tests.kit.memory_client import MemoryKubeClient
from tests.kit.polling import eventually

Object = dict[str, Any]


@pytest.fixture
def client() -> MemoryKubeClient:
    return MemoryKubeClient(MemoryApi())


@pytest.fixture
def servers() -> SimulatedServers:
    return SimulatedServers(block=42)


@pytest.fixture
async def nodes(client: MemoryKubeClient, servers: SimulatedServers) -> AsyncIterator[Nodes]:
    running = Nodes(client, [Node(name="n1", gpus=8), Node(name="lab", schedulable=False)], servers)
    await running.start()
    yield running
    await running.stop()


async def bound(client: MemoryKubeClient, name: str, *words: str, node: str = "n1", **spec: Any) -> None:
    container = {"name": "c", "image": "i", "args": list(words)}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}}
    await client.create(PODS, "ns", {**body, "spec": {"nodeName": node, "containers": [container], **spec}})


async def status(client: MemoryKubeClient, name: str) -> Object:
    return dict((await client.get(PODS, "ns", name)).get("status") or {})


async def reaches(client: MemoryKubeClient, name: str, phase: str, *, ready: bool = False) -> Object:
    async def there() -> Object | None:
        found = await status(client, name)
        words = {one["type"]: one["status"] for one in found.get("conditions") or ()}
        return found if found.get("phase") == phase and words.get("Ready") == str(ready) else None

    return dict(await eventually(there))


async def gone(client: MemoryKubeClient, name: str) -> bool:
    try:
        await client.get(PODS, "ns", name)
    except NotFound:
        return True
    return False


async def test_nodes_are_ready_with_their_gpus_and_a_lease(client: MemoryKubeClient, nodes: Nodes) -> None:
    one, own = await client.get(NODES, None, "n1"), await client.get(NODES, None, "lab")
    lease = await client.get(LEASES, LEASE_NAMESPACE, "n1")

    assert one["status"]["capacity"] == {"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": "8"}
    assert one["status"]["conditions"][0]["status"] == "True"
    assert (one["spec"].get("unschedulable"), own["spec"]["unschedulable"]) == (None, True)
    assert "nvidia.com/gpu" not in own["status"]["allocatable"]
    assert lease["spec"]["holderIdentity"] == "n1"


async def test_a_bound_pod_runs_and_one_of_another_node_is_left_alone(
    client: MemoryKubeClient, nodes: Nodes
) -> None:
    await bound(client, "other", node="elsewhere")
    await bound(client, "mine")
    found = await reaches(client, "mine", "Running", ready=True)

    assert found["podIP"].startswith("10.244.")
    assert [one["name"] for one in found["containerStatuses"]] == ["c"]
    assert await status(client, "other") == {"phase": "Pending"}


async def test_conditions_of_others_are_kept(client: MemoryKubeClient, nodes: Nodes) -> None:
    scheduled = {"type": "PodScheduled", "status": "True"}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}
    container = {"name": "c", "image": "i"}
    await client.create(PODS, "ns", {**body, "spec": {"containers": [container]}})
    patch = {"status": {"conditions": [scheduled]}}
    await client.patch(PODS, "ns", "p", patch, kind=PatchKind.MERGE, subresource="status")
    await client.patch(PODS, "ns", "p", {"spec": {"nodeName": "n1"}}, kind=PatchKind.MERGE)

    assert scheduled in (await reaches(client, "p", "Running", ready=True))["conditions"]


async def test_a_job_s_pod_ends_as_its_command_says(client: MemoryKubeClient, nodes: Nodes) -> None:
    await bound(client, "good", "true", restartPolicy="Never")
    await bound(client, "bad", "false", restartPolicy="Never")
    await bound(client, "long", "sleep", "9", restartPolicy="Never")
    bad = await reaches(client, "bad", "Failed")

    await reaches(client, "good", "Succeeded")
    await reaches(client, "long", "Running", ready=True)
    assert bad["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 1


@pytest.mark.parametrize(
    "words",
    [
        (
            "serve",
            "org/model",
            "--served-model-name",
            "mymodel",
            "--port=8100",
            "--lora-modules",
            "a=/adapters/a",
        ),
        (
            "--model",
            "org/model",
            "--served-model-name=mymodel",
            "--port",
            "8100",
            "--lora-modules",
            '{"name": "a", "path": "/adapters/a"}',
        ),
    ],
    ids=["serve", "flags"],
)
async def test_a_pod_that_runs_vllm_serves_what_its_arguments_say_until_it_is_deleted(
    client: MemoryKubeClient, nodes: Nodes, servers: SimulatedServers, words: tuple[str, ...]
) -> None:
    await bound(client, "server", *words)
    found = await reaches(client, "server", "Running", ready=True)
    url = f"http://{found['podIP']}:8100/v1/models"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        models = {one["id"]: one["root"] for one in (await answer.json())["data"]}
    assert models == {"mymodel": "org/model", "a": "/adapters/a"}

    await client.delete(PODS, "ns", "server")
    await eventually(lambda: gone(client, "server"))
    await eventually(lambda: not servers.servers)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(url)


async def test_a_server_that_is_not_healthy_is_not_ready(
    client: MemoryKubeClient, nodes: Nodes, servers: SimulatedServers
) -> None:
    await bound(client, "server", "--model", "m")
    await reaches(client, "server", "Running", ready=True)
    servers.servers["server"].crash()

    await reaches(client, "server", "Running", ready=False)


class Flickering(PretendRuntime):
    """Fails the probes that ``script`` has as False, once it was Ready."""

    def __init__(self, *script: bool) -> None:
        super().__init__()
        self.script = list(script)
        self.done = asyncio.Event()

    async def state(self, pod: Any) -> PodState:
        if not self.script:
            self.done.set()
            return PodState.READY
        return PodState.READY if self.script.pop(0) else PodState.STARTING


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ((True, False, False, True, False, False), ["True"]),
        ((True, False, False, False), ["True", "False", "True"]),
    ],
    ids=["two in a row", "three in a row"],
)
def test_a_pod_is_ready_until_three_probes_in_a_row_have_failed(
    script: tuple[bool, ...], words: list[str]
) -> None:
    with virtual_time() as loop:

        async def live() -> list[str]:
            client = MemoryKubeClient(MemoryApi(clock=VirtualClock()))
            runtime = Flickering(*script)
            seen = readiness(client)
            running = Nodes(client, [Node(name="n1")], runtime)
            await running.start()
            await bound(client, "p")
            await runtime.done.wait()
            await eventually(lambda: seen[-1:] == ["True"])
            await running.stop()
            return seen

        assert loop.run_until_complete(live()) == words


async def test_a_static_pod_is_not_run_only_let_go(client: MemoryKubeClient, nodes: Nodes) -> None:
    await create_ready_pod(client, "ns", "static", labels={}, ip="127.0.0.9")
    before = await status(client, "static")
    await bound(client, "witness")
    await reaches(client, "witness", "Running", ready=True)
    assert await status(client, "static") == before

    await client.delete(PODS, "ns", "static")
    await eventually(lambda: gone(client, "static"))


async def test_an_address_that_is_taken_is_tried_again(client: MemoryKubeClient) -> None:
    class Taken(PretendRuntime):
        refused = False

        async def start(self, pod: Object) -> str:
            if not self.refused:
                self.refused = True
                raise OSError("address in use")
            return await super().start(pod)

    running = Nodes(client, [Node(name="n1")], Taken())
    await running.start()
    try:
        await bound(client, "late")
        await reaches(client, "late", "Running", ready=True)
    finally:
        await running.stop()


STREAM = {"model": "mymodel", "messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 8}
HANGS = Knobs(hang=Hang.REQUESTS)


@pytest.fixture
async def ending(servers: SimulatedServers) -> AsyncIterator[MemoryKubeClient]:
    """A client of an API server that leaves the ends of Pods to their kubelet."""
    api = MemoryApi()
    api.has_kubelet = True
    client = MemoryKubeClient(api)
    running = Nodes(client, [Node(name="n1", gpus=8)], servers)
    await running.start()
    yield client
    await running.stop()


async def streams(client: MemoryKubeClient, servers: SimulatedServers, **spec: Any) -> str:
    """A server whose streams begin and do not end; its URL."""
    await bound(client, "server", "--model", "m", "--served-model-name=mymodel", **spec)
    found = await reaches(client, "server", "Running", ready=True)
    turn(servers, HANGS)
    return f"http://{found['podIP']}:8000/v1/chat/completions"


def turn(servers: SimulatedServers, knobs: Knobs) -> None:
    """Turn the knobs of the server, also where its port is closed."""
    server = servers.servers["server"].server
    assert server is not None
    server.engine.knobs = knobs


async def refused(url: str) -> bool:
    try:
        async with aiohttp.ClientSession() as session, session.get(url):
            return False
    except aiohttp.ClientConnectorError:
        return True


async def test_a_pod_that_is_deleted_ends_its_streams_and_takes_no_more(
    ending: MemoryKubeClient, servers: SimulatedServers
) -> None:
    url = await streams(ending, servers)
    async with aiohttp.ClientSession() as session, session.post(url, json=STREAM) as answer:
        await ending.delete(PODS, "ns", "server")
        await eventually(lambda: refused(url))
        assert not await gone(ending, "server")
        turn(servers, Knobs())
        text = await answer.text()

    assert text.rstrip().endswith("data: [DONE]")
    await eventually(lambda: gone(ending, "server"))


async def test_a_stream_that_outlasts_the_grace_is_cut(
    ending: MemoryKubeClient, servers: SimulatedServers
) -> None:
    url = await streams(ending, servers, terminationGracePeriodSeconds=1)
    async with aiohttp.ClientSession() as session, session.post(url, json=STREAM) as answer:
        await ending.delete(PODS, "ns", "server")
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.text()

    await eventually(lambda: gone(ending, "server"))


def readiness(client: MemoryKubeClient) -> list[str]:
    """Every word of a Ready condition that is written from now on."""
    words: list[str] = []

    def note(change: Change) -> None:
        found = (change.obj.get("status") or {}).get("conditions") or () if change.plural == "pods" else ()
        words.extend(one["status"] for one in found if one["type"] == "Ready")

    client.api.observers.append(note)
    return words


async def test_a_server_that_loads_is_running_and_not_ready_until_it_answers(
    client: MemoryKubeClient,
) -> None:
    servers = SimulatedServers(block=42, startup=0.4)
    running = Nodes(client, [Node(name="n1", gpus=8)], servers)
    words = readiness(client)
    await running.start()
    try:
        await bound(client, "server", "--model", "m")
        await reaches(client, "server", "Running", ready=True)
        assert words == ["False", "True"]

        await bound(client, "given-up", "--model", "m")
        await eventually(lambda: "given-up" in servers.servers)
        await client.delete(PODS, "ns", "given-up")
        await eventually(lambda: "given-up" not in servers.servers)
    finally:
        await running.stop()


def test_a_pod_that_pretends_takes_its_time_to_start_and_to_end() -> None:
    with virtual_time() as loop:

        async def live() -> tuple[list[str], float]:
            client = MemoryKubeClient(MemoryApi(clock=VirtualClock()))
            client.api.has_kubelet = True
            words = readiness(client)
            running = Nodes(client, [Node(name="n1")], PretendRuntime(startup=60.0, ending=20.0))
            await running.start()
            await bound(client, "p", terminationGracePeriodSeconds=600)
            await eventually(lambda: words[-1:] == ["True"], timeout=90.0, every=0.5)
            began = loop.time()
            await client.delete(PODS, "ns", "p")
            await eventually(lambda: gone(client, "p"), timeout=90.0, every=0.5)
            await running.stop()
            return words[:2], loop.time() - began

        words, took = loop.run_until_complete(live())

    assert words == ["False", "True"]
    assert 20.0 <= took <= 21.0
