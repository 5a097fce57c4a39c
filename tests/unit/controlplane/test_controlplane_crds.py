"""Upstream CRDs without Go: the minimal ones stand in, and are said to."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.kube.client import Resource
from rollouts.kube.errors import Invalid
from rollouts.lab.controlplane import EVERYTHING, Upstream, install_upstream_crds
from rollouts.lab.memoryapi.store import MemoryApi
from tests.kit.memory_client import MemoryKubeClient

ALPHA = "inference.networking.x-k8s.io"
MODELS = Resource(ALPHA, "v1alpha2", "inferencemodels", "InferenceModel")
REWRITES = Resource(ALPHA, "v1alpha2", "inferencemodelrewrites", "InferenceModelRewrite")


@pytest.fixture(autouse=True)
def no_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")


def rewrite(field: str) -> dict[str, Any]:
    rule = {"matches": [{"model": {"value": "m"}}], field: [{"modelRewrite": "a", "weight": 1}]}
    return {
        "apiVersion": REWRITES.api_version,
        "kind": REWRITES.kind,
        "metadata": {"name": "r"},
        "spec": {"poolRef": {"name": "p"}, "rules": [rule]},
    }


async def test_every_kind_we_use_is_served() -> None:
    client = MemoryKubeClient(MemoryApi())
    await install_upstream_crds(client, [*EVERYTHING, Upstream.LLM_D])
    served = {f"{r.plural}.{r.version}.{r.group}" for r in await client.discover()}

    assert {
        "gateways.v1.gateway.networking.k8s.io",
        "gatewayclasses.v1.gateway.networking.k8s.io",
        "httproutes.v1.gateway.networking.k8s.io",
        "referencegrants.v1beta1.gateway.networking.k8s.io",
        f"inferencepools.v1alpha2.{ALPHA}",
        f"inferencemodels.v1alpha2.{ALPHA}",
        f"inferencemodelrewrites.v1alpha2.{ALPHA}",
        "inferencepools.v1.inference.networking.k8s.io",
        "inferencemodelrewrites.v1alpha2.llm-d.ai",
    } <= served


@pytest.mark.parametrize(
    ("which", "known", "unknown"),
    [(Upstream.INFERENCE_V1, "targets", "split"), (Upstream.REWRITE_SPLIT, "split", "targets")],
)
async def test_a_rewrite_keeps_only_the_spelling_of_its_version(
    which: Upstream, known: str, unknown: str
) -> None:
    client = MemoryKubeClient(MemoryApi())
    await install_upstream_crds(client, [which])
    made = await client.create(REWRITES, "default", rewrite(known), dry_run=True)
    lost = await client.create(REWRITES, "default", rewrite(unknown), dry_run=True)

    assert made["spec"]["rules"][0][known] == [{"modelRewrite": "a", "weight": 1}]
    assert unknown not in lost["spec"]["rules"][0]


async def test_a_model_cannot_have_weight_zero() -> None:
    client = MemoryKubeClient(MemoryApi())
    await install_upstream_crds(client, [Upstream.INFERENCE_ALPHA])
    model = {
        "apiVersion": MODELS.api_version,
        "kind": MODELS.kind,
        "metadata": {"name": "m"},
        "spec": {
            "modelName": "travelhelper",
            "poolRef": {"name": "p"},
            "targetModels": [{"name": "a", "weight": 0}],
        },
    }

    with pytest.raises(Invalid, match=r"spec\.targetModels\[0\]\.weight"):
        await client.create(MODELS, "default", model)
