"""Pickers follow the pools: a process, a Service under the pool's name for it, a Ready Pod behind it."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rollouts.kube.client import PatchKind
from rollouts.kube.errors import NotFound
from rollouts.kube.http import open_client
from rollouts.lab.controlplane import install_crds, minimal
from rollouts.lab.controlplane.pods import PODS
from rollouts.lab.gateway.service import POOLS_V1ALPHA2
from rollouts.lab.kubeconfig import write_kubeconfig
from rollouts.lab.kubelet import Kubelet
from rollouts.lab.memoryapi.server import MemoryApiServer
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.lab.pickers import SERVICES, Pickers, wanted_pickers
from tests.kit.polling import eventually

Object = dict[str, Any]
X = POOLS_V1ALPHA2.api_version
V1 = "inference.networking.k8s.io/v1"


def pool(name: str, service: str = "epp", *, api_version: str = X, namespace: str = "default") -> Object:
    spec: Object = {"selector": {"app": name}, "targetPortNumber": 8000, "extensionRef": {"name": service}}
    if api_version == V1:
        reference = {"name": service, "port": {"number": 9005}}
        spec = {
            "selector": {"matchLabels": {"app": name}},
            "targetPorts": [{"number": 8000}],
            "endpointPickerRef": reference,
        }
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": api_version, "kind": "InferencePool", "metadata": metadata, "spec": spec}


@pytest.mark.parametrize(
    ("sentence", "pools", "wanted"),
    [
        ("a picker for each Service", [pool("a", "one"), pool("b", "two")], {"one": "a", "two": "b"}),
        ("pools that share a Service share it", [pool("b"), pool("a")], {"epp": "a b"}),
        ("both groups with one name are one pool", [pool("a"), pool("a", api_version=V1)], {"epp": "a"}),
        ("a pool that names none", [{**pool("a"), "spec": {"selector": {"a": "b"}}}], {}),
        ("an object of nonsense", [{"metadata": {"name": "x"}, "spec": 3}], {}),
    ],
)
def test_the_pools_name_the_pickers(sentence: str, pools: list[Object], wanted: dict[str, str]) -> None:
    found = {picker.service: " ".join(picker.pools) for picker in wanted_pickers(pools).values()}

    assert found == wanted, sentence


def test_the_port_is_the_one_that_the_pool_names() -> None:
    ports = [one.port for api in (X, V1) for one in wanted_pickers([pool("a", api_version=api)]).values()]

    assert ports == [9002, 9005]


class Cluster:
    """An API server over HTTP, a kubelet and the pickers."""

    def __init__(self, client: Any, pickers: Pickers) -> None:
        self.client, self.pickers = client, pickers

    async def apply(self, obj: Object) -> None:
        await self.client.patch(
            POOLS_V1ALPHA2, "default", obj["metadata"]["name"], obj, kind=PatchKind.APPLY, force=True
        )

    async def ready(self, name: str) -> bool:
        try:
            found = await self.client.get(PODS, "default", name)
        except NotFound:
            return False
        conditions = found.get("status", {}).get("conditions", ())
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    async def gone(self, resource: Any, name: str) -> bool:
        try:
            await self.client.get(resource, "default", name)
        except NotFound:
            return True
        return False


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    server = MemoryApiServer(MemoryApi())
    await server.start()
    kubeconfig = tmp_path / "kubeconfig"
    write_kubeconfig(kubeconfig, server=server.url)
    async with await open_client(str(kubeconfig), field_manager="kubectl") as client:
        await install_crds(client, (*minimal.INFERENCE_ALPHA, *minimal.INFERENCE_V1))
        kubelet = Kubelet(client, period=0.05)
        pickers = Pickers(client, kubelet, kubeconfig=kubeconfig, directory=tmp_path, namespace="default")
        yield Cluster(client, pickers)
        await pickers.stop()
        await kubelet.stop()
    await server.stop()


@pytest.mark.slow
async def test_pickers_come_and_go_with_the_pools_and_are_restarted(cluster: Cluster) -> None:
    pickers = cluster.pickers
    await cluster.apply(pool("a"))
    await pickers.start()
    await pickers.wait_ready()
    stored = await cluster.client.get(PODS, "default", "epp-0")
    service = await cluster.client.get(SERVICES, "default", "epp")
    port = stored["metadata"]["annotations"]["inferencerollouts.dev/metrics-port"]

    assert service["spec"]["selector"].items() <= stored["metadata"]["labels"].items()
    assert pickers.metrics_urls["epp"] == f"http://{stored['status']['podIP']}:{port}/metrics"
    async with aiohttp.ClientSession() as http, http.get(pickers.metrics_urls["epp"]) as answer:
        assert answer.status == 200

    first = pickers.processes["epp"].pid
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: pickers.processes["epp"].pid != first)
    await pickers.wait_ready()
    second = pickers.processes["epp"].pid

    await cluster.client.delete(POOLS_V1ALPHA2, "default", "a")
    await eventually(lambda: cluster.gone(SERVICES, "epp"))
    assert await cluster.gone(PODS, "epp-0")
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)
    assert not pickers.processes
    assert pickers.metrics_urls == {}


@pytest.mark.slow
async def test_a_service_that_is_there_keeps_its_selector_and_is_not_deleted(cluster: Cluster) -> None:
    service = {"metadata": {"name": "epp"}, "spec": {"selector": {"mine": "yes"}, "ports": [{"port": 9002}]}}
    body = {"apiVersion": "v1", "kind": "Service", **service}
    await cluster.client.create(SERVICES, "default", body)
    await cluster.pickers.start()
    await cluster.apply(pool("a"))
    await eventually(lambda: cluster.ready("epp-0"), timeout=30)
    stored = await cluster.client.get(PODS, "default", "epp-0")
    await cluster.client.delete(POOLS_V1ALPHA2, "default", "a")
    await eventually(lambda: cluster.gone(PODS, "epp-0"))

    assert stored["metadata"]["labels"] == {"mine": "yes"}
    assert not await cluster.gone(SERVICES, "epp")


async def test_a_service_without_selector_is_somebody_elses_picker(cluster: Cluster) -> None:
    body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "epp"}}
    await cluster.client.create(SERVICES, "default", {**body, "spec": {"ports": [{"port": 9002}]}})
    await cluster.apply(pool("a"))
    await cluster.pickers.start()
    await cluster.pickers.wait_ready()

    assert not cluster.pickers.processes
