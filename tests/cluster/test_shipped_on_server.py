"""What users copy is accepted by a real API server, and nothing of it is dropped as unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rollouts.api.crds import all_crds
from rollouts.kube.client import Resource
from rollouts.lab.controlplane import install_crds, install_upstream_crds
from rollouts.objects import kinds
from rollouts.traffic.fields import covers

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
PATTERNS = ("examples/**/*.yaml", "analysis/*.yaml", "charts/*/argocd/*example.yaml", "charts/*/flux/*.yaml")
FILES = sorted(file for pattern in PATTERNS for file in ROOT.glob(pattern))
RESOURCES = {
    (resource.api_version, resource.kind): resource
    for resource in (
        kinds.ROLLOUT,
        kinds.ANALYSIS_TEMPLATE,
        kinds.CLUSTER_ANALYSIS_TEMPLATE,
        kinds.HTTP_ROUTE,
        kinds.POOL_V1,
        kinds.POOL_X,
        kinds.INFERENCE_MODEL,
        Resource("gateway.networking.k8s.io", "v1", "gateways", "Gateway"),
    )
}
OTHERS = {"Application", "Kustomization", "Provider", "Alert"}
"""Kinds of Argo CD and Flux, whose CRDs are not here."""


def objects(file: Path) -> list[dict[str, Any]]:
    found = [item for item in yaml.safe_load_all(file.read_text(encoding="utf-8")) if item]
    return [item for item in found if item["kind"] not in OTHERS]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
async def test_shipped_file(kube, namespace, file):
    await install_upstream_crds(kube)
    await install_crds(kube, all_crds())
    for item in objects(file):
        item["metadata"].pop("namespace", None)
        resource = RESOURCES[item["apiVersion"], item["kind"]]
        stored = await kube.create(resource, namespace if resource.namespaced else None, item, dry_run=True)
        assert covers(stored, item)
