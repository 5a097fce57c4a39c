"""Rollouts between members of a KServe group on a real kube-apiserver, with a CRD of KServe's fields and a stand-in for
its controller: what the server refuses, who it says wrote a weight, and that the rights of the chart are enough."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rollouts.api.crds import all_crds
from rollouts.controller.app import Controller
from rollouts.controller.settings import Settings
from rollouts.kube.client import PatchKind
from rollouts.kube.errors import Invalid
from rollouts.kube.http import HttpKubeClient
from rollouts.lab.controlplane import create_ready_pod, install_crds, install_upstream_crds
from rollouts.lab.controlplane.minimal import KSERVE
from rollouts.lab.kserve import KServe
from rollouts.lab.loopback import loopback
from rollouts.objects import kinds
from rollouts.objects.llm_services import pods_of_service
from rollouts.objects.resource import Resource
from rollouts.runtime.clock import SystemClock
from rollouts.traffic.fields import last_writer
from tests.kit.polling import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

Object = dict[str, Any]
OLD = Resource(kinds.LLM_SERVICE.group, "v1alpha1", kinds.LLM_SERVICE.plural, kinds.LLM_SERVICE.kind)


@pytest.fixture(autouse=True)
async def crds(kube: HttpKubeClient) -> None:
    await install_upstream_crds(kube)
    await install_crds(kube, [*all_crds(), *KSERVE])


def service(name: str, weight: Any, *, resource: Resource = kinds.LLM_SERVICE) -> Object:
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"name": name, "annotations": {"inferencerollouts.dev/managed-by": "demo"}},
        "spec": {
            "model": {"name": "llama"},
            "router": {"route": {"group": "llama", "weight": weight}, "scheduler": {}},
        },
    }


@pytest.mark.parametrize("weight", [-1, 1_000_001, "9"])
async def test_the_server_holds_kserves_bounds(kube: HttpKubeClient, namespace: str, weight: Any) -> None:
    with pytest.raises(Invalid, match="weight"):
        await kube.create(kinds.LLM_SERVICE, namespace, service("v1", weight))


async def _weights(kube: HttpKubeClient, namespace: str) -> dict[str, int]:
    found = (await kube.list_page(kinds.LLM_SERVICE, namespace)).items
    return {one["metadata"]["name"]: one["spec"]["router"]["route"]["weight"] for one in found}


@asynccontextmanager
async def running(kube: HttpKubeClient, namespace: str) -> AsyncIterator[None]:
    """The stand-in for KServe, and our controller."""
    kserve = KServe(kube.with_field_manager("kserve"), namespace, [{"name": "gateway"}])
    settings = Settings(
        namespaces=(namespace,),
        lease_namespace=namespace,
        health_address="127.0.0.1:0",
        metrics_address="127.0.0.1:0",
        leader_elect=False,
    )
    controller = Controller(kube.with_field_manager("inference-rollouts"), settings, SystemClock())
    await kserve.start()
    task = asyncio.create_task(controller.run())
    try:
        yield
    finally:
        controller.stop()
        await task
        await kserve.stop()


def rollout(target: str) -> Object:
    steps = [{"setWeight": 10}, {"pause": {}}]
    return {
        "apiVersion": kinds.ROLLOUT.api_version,
        "kind": kinds.ROLLOUT.kind,
        "metadata": {"name": "demo"},
        "spec": {
            "target": {"llmInferenceService": {"name": target}},
            "traffic": {"llmInferenceServiceGroup": {"group": "llama"}},
            "strategy": {"canary": {"allowNoTraffic": True, "steps": steps}},
        },
    }


async def test_a_share_moves_and_is_given_back(kube: HttpKubeClient, namespace: str) -> None:
    await kube.create(kinds.LLM_SERVICE, namespace, service("v1", 9))
    await kube.create(OLD, namespace, service("v2", 0, resource=OLD))  # the server converts it
    other = service("other", 0)
    del other["metadata"]["annotations"]
    await kube.create(kinds.LLM_SERVICE, namespace, other)
    for number, name in enumerate(("v1", "v2")):
        labels = dict(pods_of_service({"metadata": {"name": name}}).selector)
        await create_ready_pod(kube, namespace, f"{name}-0", labels=labels, ip=loopback(19, number + 1))
    await kube.create(kinds.ROLLOUT, namespace, rollout("v1"))

    async def status() -> Object:
        found: Object = (await kube.get(kinds.ROLLOUT, namespace, "demo")).get("status") or {}
        return found

    async def is_in(phase: str) -> bool:
        return (await status()).get("phase") == phase

    async with running(kube, namespace):
        await eventually(lambda: is_in("Healthy"), timeout=30)
        assert await _weights(kube, namespace) == {"v1": 9, "v2": 0, "other": 0}
        await kube.patch(
            kinds.ROLLOUT, namespace, "demo", {"spec": rollout("v2")["spec"]}, kind=PatchKind.MERGE
        )
        await eventually(lambda: is_in("Paused"), timeout=60)
        assert await _weights(kube, namespace) == {"v1": 9, "v2": 1, "other": 0}
        canary = await kube.get(kinds.LLM_SERVICE, namespace, "v2")
        assert last_writer(canary, "router.route.weight", "x")[0] == "inference-rollouts"
        (record,) = (await status())["wayBack"]
        assert (record["name"], record["stable"]["name"], record["canary"]["name"]) == ("llama", "v1", "v2")

        await kube.delete(kinds.ROLLOUT, namespace, "demo")
        await eventually(lambda: _given_back(kube, namespace), timeout=30)


async def _given_back(kube: HttpKubeClient, namespace: str) -> bool:
    return await _weights(kube, namespace) == {"v1": 9, "v2": 0, "other": 0}
