"""Adapter rollouts by the assembled controller on a real API server, with upstream's CRDs in every dialect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rollouts.api.crds import all_crds
from rollouts.controller.adapters import AdapterSettings
from rollouts.controller.app import Controller
from rollouts.controller.settings import Settings
from rollouts.kube.client import PatchKind, Resource
from rollouts.kube.http import HttpKubeClient
from rollouts.lab.controlplane import create_ready_pod, install_crds, install_upstream_crds
from rollouts.lab.controlplane.upstream import Upstream
from rollouts.lab.loopback import loopback
from rollouts.lab.vllm.pod import Fleet
from rollouts.lab.vllm.spec import PodSpec
from rollouts.objects import kinds
from rollouts.runtime.clock import SystemClock
from rollouts.runtime.objects import ObjectKey
from tests.kit.polling import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

Object = dict[str, Any]
V1, V2 = "travel-helper-v1", "travel-helper-v2"
CONSENT = {"inferencerollouts.dev/managed-by": "travelhelper"}
POOL = {
    "apiVersion": kinds.POOL_X.api_version,
    "kind": "InferencePool",
    "metadata": {"name": "pool"},
    "spec": {"targetPortNumber": 8000, "selector": {"app": "vllm"}, "extensionRef": {"name": "picker"}},
}
PICKER = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "picker", "annotations": {"inferencerollouts.dev/metrics-port": "9090"}},
    "spec": {"ports": [{"port": 9002}]},
}


def pods(*adapters: str) -> list[PodSpec]:
    loaded = {name: f"/adapters/{name}" for name in adapters}
    return [
        PodSpec(name=f"vllm-{i}", address=loopback(10, i + 1), labels={"app": "vllm"}, adapters=loaded)
        for i in range(2)
    ]


def rollout(kind: str, *, managed: bool, source: str = "") -> Object:
    traffic: Object = {"name": "loramodel", "modelName": "travelhelper", "poolRef": {"name": "pool"}}
    adapter: Object = {"name": V2, **({"source": {"path": source}} if source else {})}
    return {
        "apiVersion": "inferencerollouts.dev/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": "travelhelper"},
        "spec": {
            "target": {"adapter": adapter},
            "traffic": {kind: traffic},
            "strategy": {"canary": {"allowNoTraffic": True, "steps": [{"setWeight": 10}, {"pause": {}}]}},
            **({"stableHint": V1} if managed else {}),
        },
    }


def rewrite(field: str) -> Object:
    return {
        "apiVersion": kinds.REWRITE_X.api_version,
        "kind": "InferenceModelRewrite",
        "metadata": {"name": "loramodel", "annotations": CONSENT},
        "spec": {
            "poolRef": {"group": kinds.POOL_X.group, "kind": "InferencePool", "name": "pool"},
            "rules": [
                {
                    "matches": [{"model": {"type": "Exact", "value": "travelhelper"}}],
                    field: [{"modelRewrite": V1, "weight": 100}],
                },
                {
                    "matches": [{"model": {"type": "Exact", "value": "other"}}],
                    field: [{"modelRewrite": "else", "weight": 7}],
                },
            ],
        },
    }


MODEL = {
    "apiVersion": kinds.INFERENCE_MODEL.api_version,
    "kind": "InferenceModel",
    "metadata": {"name": "loramodel", "annotations": CONSENT},
    "spec": {
        "modelName": "travelhelper",
        "criticality": "Critical",
        "poolRef": {"name": "pool"},
        "targetModels": [{"name": V1, "weight": 90}, {"name": V2, "weight": 10}],
    },
}


@asynccontextmanager
async def running(kube: HttpKubeClient, namespace: str, specs: list[PodSpec]) -> AsyncIterator[Controller]:
    """The pool, its picker's Service, the pods as real HTTP servers, and the controller."""
    await kube.create(kinds.POOL_X, namespace, POOL)
    await kube.create(kinds.SERVICE, namespace, PICKER)
    async with Fleet(specs):
        for spec in specs:
            await create_ready_pod(kube, namespace, spec.name, labels=spec.labels, ip=spec.address)
        settings = Settings(
            namespace=namespace,
            lease_namespace=namespace,
            health_address="127.0.0.1:0",
            metrics_address="127.0.0.1:0",
            leader_elect=False,
            adapters=AdapterSettings(prefixes=("/adapters",)),
        )
        found = Controller(kube.with_field_manager("inference-rollouts"), settings, SystemClock())
        task = asyncio.create_task(found.run())
        try:
            yield found
        finally:
            found.stop()
            await task


async def reaches(kube: HttpKubeClient, namespace: str, *phases: str) -> Object:
    """The status, once the Rollout is in one of the phases."""

    async def look() -> Object:
        status: Object = (await kube.get(kinds.ROLLOUT, namespace, "travelhelper")).get("status") or {}
        return status if status.get("phase") in phases else {}

    return await eventually(look, timeout=40)


async def promote(kube: HttpKubeClient, namespace: str, revision: str) -> None:
    raw = f'{{"action":"promote","revision":"{revision}","attempt":1,"at":"now"}}'
    body = {"metadata": {"annotations": {"inferencerollouts.dev/command": raw}}}
    await kube.patch(kinds.ROLLOUT, namespace, "travelhelper", body, kind=PatchKind.MERGE)


@pytest.fixture(autouse=True)
async def crds(kube: HttpKubeClient) -> AsyncIterator[None]:
    await install_upstream_crds(kube)
    await install_crds(kube, all_crds())
    yield
    await install_upstream_crds(kube, [Upstream.INFERENCE_V1])


async def test_an_adopted_inference_model_goes_over_the_steps_to_the_new_adapter(kube, namespace):
    await kube.create(kinds.INFERENCE_MODEL, namespace, MODEL)
    await kube.create(kinds.ROLLOUT, namespace, rollout("inferenceModel", managed=False))
    async with running(kube, namespace, pods(V1, V2)):
        paused = await reaches(kube, namespace, "Paused")
        await promote(kube, namespace, paused["canary"]["hash"])
        await reaches(kube, namespace, "Healthy")

    found = (await kube.get(kinds.INFERENCE_MODEL, namespace, "loramodel"))["spec"]
    assert found["targetModels"] == [{"name": V2, "weight": 100}]
    assert found["criticality"] == "Critical"


@pytest.mark.parametrize("managed", [False, True], ids=["adopted", "managed"])
@pytest.mark.parametrize(
    ("crd", "field"),
    [(Upstream.REWRITE_SPLIT, "split"), (Upstream.INFERENCE_V1, "targets")],
    ids=["v1.2 split", "v1.5 targets"],
)
async def test_a_rewrite_is_written_in_the_dialect_that_the_server_keeps(
    kube, namespace, crd, field, managed
):
    await install_upstream_crds(kube, [crd])
    resource: Resource = kinds.REWRITE_X
    if not managed:
        await kube.create(resource, namespace, rewrite(field))
    await kube.create(kinds.ROLLOUT, namespace, rollout("inferenceModelRewrite", managed=managed))
    async with running(kube, namespace, pods(V1, V2)):
        paused = await reaches(kube, namespace, "Paused")
        live = await kube.get(resource, namespace, "loramodel")
        shares = {item["modelRewrite"]: item["weight"] for item in live["spec"]["rules"][0][field]}
        assert shares[V1] == 9 * shares[V2]
        await promote(kube, namespace, paused["canary"]["hash"])
        await reaches(kube, namespace, "Healthy")

    live = await kube.get(resource, namespace, "loramodel")
    assert [item["modelRewrite"] for item in live["spec"]["rules"][0][field]] == [V2]
    assert "ownerReferences" not in live["metadata"]
    if not managed:
        assert live["spec"]["rules"][1][field] == [{"modelRewrite": "else", "weight": 7}]


async def test_an_adapter_with_a_source_is_loaded_on_every_pod_before_any_weight(kube, namespace):
    await kube.create(
        kinds.INFERENCE_MODEL,
        namespace,
        MODEL | {"spec": MODEL["spec"] | {"targetModels": [{"name": V1, "weight": 100}]}},
    )
    await kube.create(
        kinds.ROLLOUT, namespace, rollout("inferenceModel", managed=False, source="/adapters/v2")
    )
    async with running(kube, namespace, pods(V1)) as controller:
        await reaches(kube, namespace, "Paused")
        serving = controller.adapters.serving(ObjectKey(namespace, "travelhelper"), V2)
        assert (serving.proven, serving.lacking) == (2, ())
        live = await kube.get(kinds.INFERENCE_MODEL, namespace, "loramodel")
        assert {t["name"]: t["weight"] for t in live["spec"]["targetModels"]} == {V1: 90, V2: 10}
