"""Rollouts between members of a KServe group on a real kube-apiserver, with a CRD of KServe's fields and a stand-in for
its controller: what the server refuses, who it says wrote a weight, and that the rights of the chart are enough."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rollouts.api.crds import all_crds
from rollouts.controller.app import Controller
from rollouts.controller.settings import Settings
from rollouts.kube.client import KubeClient, PatchKind
from rollouts.kube.errors import Invalid
from rollouts.kube.http import HttpKubeClient
from rollouts.kube.versions import AnyVersion
from rollouts.lab.controlplane import create_ready_pod, install_crds, install_upstream_crds
from rollouts.lab.controlplane.minimal import KSERVE
from rollouts.lab.controlplane.upstream import CRDS
from rollouts.lab.kserve import KServe
from rollouts.lab.loopback import loopback
from rollouts.objects import kinds
from rollouts.objects.llm_services import STOP_ANNOTATION, pods_of_service
from rollouts.objects.resource import Resource
from rollouts.runtime.clock import SystemClock
from rollouts.traffic.fields import last_writer
from rollouts.traffic.llm_service_stop import STOPPED_BY
from tests.kit.polling import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

Object = dict[str, Any]
OLD = kinds.LLM_SERVICE_V1ALPHA1


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


async def _weights(kube: KubeClient, namespace: str) -> dict[str, int]:
    found = (await kube.list_page(kinds.LLM_SERVICE, namespace)).items
    return {one["metadata"]["name"]: one["spec"]["router"]["route"]["weight"] for one in found}


@asynccontextmanager
async def running(kube: HttpKubeClient, namespace: str) -> AsyncIterator[None]:
    """The stand-in for KServe, and our controller."""
    theirs = AnyVersion(kube.with_field_manager("kserve"), kinds.OTHER_VERSIONS)
    kserve = KServe(theirs, namespace, [{"name": "gateway"}])
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


def rollout(target: str, **canary: Any) -> Object:
    steps = [{"setWeight": 10}, {"pause": {}}]
    return {
        "apiVersion": kinds.ROLLOUT.api_version,
        "kind": kinds.ROLLOUT.kind,
        "metadata": {"name": "demo"},
        "spec": {
            "target": {"llmInferenceService": {"name": target}},
            "traffic": {"llmInferenceServiceGroup": {"group": "llama"}},
            "strategy": {"canary": {"allowNoTraffic": True, "steps": steps, **canary}},
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


def only(version: str) -> Object:
    """KServe's CRD as a server has it that serves one version alone; the other may be stored by an earlier release."""
    crd = copy.deepcopy(dict(KSERVE[0]))
    for one in crd["spec"]["versions"]:
        one["served"] = one["name"] == version
    return crd


async def serve(kube: HttpKubeClient, crd: Object) -> None:
    """Bring the CRD to this, and wait until the server serves it so."""
    await kube.patch(CRDS, None, crd["metadata"]["name"], {"spec": crd["spec"]}, kind=PatchKind.MERGE)
    wanted = {one["name"]: one["served"] for one in crd["spec"]["versions"]}

    async def so() -> bool:
        found = {one.version for one in await kube.discover() if one.plural == kinds.LLM_SERVICE.plural}
        return found == {name for name, served in wanted.items() if served}

    await eventually(so, timeout=30)


async def test_a_server_of_the_old_version_alone_is_enough_and_an_upgrade_in_the_middle_stops_nothing(
    kube: HttpKubeClient, namespace: str
) -> None:
    """What people and KServe write, and what the controller reads and writes, are the same fields in both."""
    await serve(kube, only("v1alpha1"))
    try:
        for name, weight in (("v1", 9), ("v2", 0)):
            await kube.create(OLD, namespace, service(name, weight, resource=OLD))
            await _pod_of(kube, namespace, name)
        await kube.create(kinds.ROLLOUT, namespace, rollout("v1"))
        async with running(kube, namespace):
            await eventually(lambda: _is_in(kube, namespace, "Healthy"), timeout=60)
            spec = rollout("v2")["spec"]
            await kube.patch(kinds.ROLLOUT, namespace, "demo", {"spec": spec}, kind=PatchKind.MERGE)
            await eventually(lambda: _is_in(kube, namespace, "Paused"), timeout=60)
            assert await _weights(AnyVersion(kube, kinds.OTHER_VERSIONS), namespace) == {"v1": 9, "v2": 1}

            await serve(kube, only("v1alpha2"))
            await kube.delete(kinds.ROLLOUT, namespace, "demo")

            async def given_back() -> bool:
                return await _weights(kube, namespace) == {"v1": 9, "v2": 0}

            await eventually(given_back, timeout=90)
    finally:
        await serve(kube, dict(KSERVE[0]))


async def test_what_lost_is_stopped_and_kserve_takes_its_route_away(
    kube: HttpKubeClient, namespace: str
) -> None:
    for name, weight in (("v1", 9), ("v2", 0)):
        await kube.create(kinds.LLM_SERVICE, namespace, service(name, weight))
        await _pod_of(kube, namespace, name)
    stop = {"capacity": {"scaleDown": {"delay": "1s"}, "drainTimeout": "1s"}, "steps": [{"setWeight": 50}]}
    await kube.create(kinds.ROLLOUT, namespace, rollout("v1", **stop))
    async with running(kube, namespace):
        await eventually(lambda: _is_in(kube, namespace, "Healthy"), timeout=60)
        spec = rollout("v2", **stop)["spec"]
        await kube.patch(kinds.ROLLOUT, namespace, "demo", {"spec": spec}, kind=PatchKind.MERGE)

        async def is_stopped() -> bool:
            marks = (await kube.get(kinds.LLM_SERVICE, namespace, "v1"))["metadata"]["annotations"]
            return marks.get(STOP_ANNOTATION) == "true" and marks.get(STOPPED_BY) == "demo"

        async def one_route() -> bool:
            found = (await kube.list_page(kinds.HTTP_ROUTE, namespace)).items
            return [one["metadata"]["name"] for one in found] == ["v2-kserve-route"]

        await eventually(is_stopped, timeout=120)
        await eventually(one_route, timeout=30)
        assert await _weights(kube, namespace) == {"v1": 0, "v2": 10_000}

        spec = rollout("v1", **stop)["spec"]
        await kube.patch(kinds.ROLLOUT, namespace, "demo", {"spec": spec}, kind=PatchKind.MERGE)

        async def starts() -> bool:
            one = await kube.get(kinds.LLM_SERVICE, namespace, "v1")
            return not {STOP_ANNOTATION, STOPPED_BY} & one["metadata"]["annotations"].keys()

        await eventually(starts, timeout=30)


@pytest.mark.parametrize(
    ("capacity", "words"),
    [
        ({}, "needs scaleDown, which stops what lost"),
        ({"scaleDown": {"to": 1}}, "is 0: it is stopped as a whole"),
        ({"scaleDown": {}, "maxSurge": 1}, "capacity.maxSurge is not for an llmInferenceService"),
        ({"scaleDown": {}, "minStable": "50%"}, "capacity.minStable is not for"),
        ({"scaleDown": {}, "minReplicas": 2}, "capacity.minReplicas is not for"),
        ({"scaleDown": {}, "headroom": 2}, "capacity.headroom is not for"),
        ({"scaleDown": {}, "abort": "Immediate"}, "capacity.abort is not for"),
        ({"scaleDown": {}, "warmUp": {}}, "capacity.warmUp is not for"),
    ],
    ids=repr,
)
async def test_the_server_refuses_what_kserve_does_itself(
    kube: HttpKubeClient, namespace: str, capacity: Object, words: str
) -> None:
    with pytest.raises(Invalid, match=words):
        await kube.create(kinds.ROLLOUT, namespace, rollout("v2", capacity=capacity))


async def _pod_of(kube: HttpKubeClient, namespace: str, name: str) -> None:
    labels = dict(pods_of_service({"metadata": {"name": name}}).selector)
    ip = loopback(20, 1 + int(name[1:]))
    await create_ready_pod(kube, namespace, f"{name}-0", labels=labels, ip=ip)


async def _is_in(kube: HttpKubeClient, namespace: str, phase: str) -> bool:
    found = await kube.get(kinds.ROLLOUT, namespace, "demo")
    return (found.get("status") or {}).get("phase") == phase
