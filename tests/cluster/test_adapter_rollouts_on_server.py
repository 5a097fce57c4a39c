"""Rollouts of adapters and of variants by the assembled controller on a real API server, with upstream's CRDs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

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
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
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
            namespaces=(namespace,),
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


def version_pods(*releases: str) -> list[PodSpec]:
    """Pods of one pool, two of each release."""
    return [
        PodSpec(
            name=f"{release}-{i}",
            address=loopback(11, 10 * number + i + 1),
            labels={"app": "vllm", "release": release},
        )
        for number, release in enumerate(releases)
        for i in range(2)
    ]


def variant_rollout() -> Object:
    """The example's, in this pool and in two steps."""
    text = (EXAMPLES / "one-pool" / "rollout.yaml").read_text(encoding="utf-8")
    found: Object = yaml.safe_load(text)
    found["metadata"] = {"name": "travelhelper"}
    found["spec"]["traffic"]["inferencePool"]["name"] = "pool"
    found["spec"]["strategy"]["canary"] |= {
        "allowNoTraffic": True,
        "steps": [{"setWeight": "0.5%"}, {"pause": {}}],
    }
    return found


async def test_variants_of_one_pool_are_rolled_out_from_what_stable_hint_names(kube, namespace):
    rollout = variant_rollout()
    hint = rollout["spec"].pop("stableHint")
    await kube.create(kinds.ROLLOUT, namespace, rollout)
    async with running(kube, namespace, version_pods("qwen", "deepseek-r1")):
        held = await reaches(kube, namespace, "Paused")
        assert held["reason"] == "UnmatchedPods"
        assert f"stableHint: {hint}" in held["message"]
        assert (await kube.list_page(kinds.POOL_SPLIT, namespace)).items == []

        body = {"spec": {"stableHint": hint}}
        await kube.patch(kinds.ROLLOUT, namespace, "travelhelper", body, kind=PatchKind.MERGE)

        async def at_the_pause() -> Object:
            status: Object = (await kube.get(kinds.ROLLOUT, namespace, "travelhelper"))["status"]
            return status if status.get("reason") == "PauseStep" else {}

        paused = await eventually(at_the_pause, timeout=60)
        live = await kube.get(kinds.POOL_SPLIT, namespace, "pool")
        assert {one["name"]: (one["labels"], one["weight"]) for one in live["spec"]["variants"]} == {
            "qwen": ({"release": "qwen"}, 199),
            "deepseek-r1": ({"release": "deepseek-r1"}, 1),
        }
        await promote(kube, namespace, paused["canary"]["hash"])
        await reaches(kube, namespace, "Healthy")

    live = await kube.get(kinds.POOL_SPLIT, namespace, "pool")
    assert [(one["name"], one["weight"]) for one in live["spec"]["variants"]] == [("deepseek-r1", 100)]
    assert live["metadata"]["labels"] == {"inferencerollouts.dev/rollout": "travelhelper"}
    assert "ownerReferences" not in live["metadata"]
