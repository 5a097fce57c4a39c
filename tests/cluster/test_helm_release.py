"""The life of a release by a real helm on a real API server: hooks in order, Deployments that get ready, no rest."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from rollouts.kube.client import Resource
from rollouts.objects import kinds
from tests.kit.helm import CHART

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

RBAC = "rbac.authorization.k8s.io"
DEPLOYMENT = Resource("apps", "v1", "deployments", "Deployment")
MADE = (
    DEPLOYMENT,
    kinds.SERVICE,
    kinds.JOB,
    kinds.POD,
    Resource("", "v1", "serviceaccounts", "ServiceAccount"),
    Resource("", "v1", "configmaps", "ConfigMap"),
    Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget"),
    Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy"),
    Resource(RBAC, "v1", "roles", "Role"),
    Resource(RBAC, "v1", "rolebindings", "RoleBinding"),
    Resource(RBAC, "v1", "clusterroles", "ClusterRole", namespaced=False),
    Resource(RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False),
)
VALUES: dict[str, Any] = {
    "crds": {"upgradeJob": {"enabled": True}},
    "clusterTemplates": True,
    "pickers": [{"pool": "v1", "service": "v1-picker"}],
    "networkPolicy": {"enabled": True, "egress": {"enabled": True}},
    "pathProbe": {"enabled": False},
}


async def test_install_upgrade_test_and_uninstall(whole, whole_plane, living, helm: Path, tmp_path: Path):
    folders = {f"HELM_{name}_HOME": str(tmp_path / name) for name in ("CACHE", "CONFIG", "DATA")}
    release = f"r-{living}"

    def run(*words: str, values: dict[str, Any] | None = None) -> str:
        place = ["--kubeconfig", str(whole_plane.plane.kubeconfig), "--namespace", living]
        given = ["--values", "-"] if values is not None else []
        done = subprocess.run(
            [str(helm), *words, *place, "--timeout", "40s", *given],
            input=yaml.safe_dump(values) if values is not None else None,
            env={**os.environ, **folders},
            capture_output=True,
            text=True,
            check=False,
            timeout=50,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    async def of_release(resource: Resource) -> list[str]:
        page = await whole.list_page(
            resource,
            living if resource.namespaced else None,
            label_selector=f"app.kubernetes.io/instance={release}",
        )
        return [item["metadata"]["name"] for item in page.items]

    said = await asyncio.to_thread(run, "install", release, str(CHART), "--wait", values=VALUES)
    assert f"controller looks at namespace {living}." in said
    assert len(await of_release(DEPLOYMENT)) == 2
    # The account that may write CRDs went with its Job.
    for resource in MADE:
        assert [name for name in await of_release(resource) if name.endswith("-crds")] == [], resource.kind

    changed = {**VALUES, "replicas": 3, "podDisruptionBudget": {"maxUnavailable": 2}}
    await asyncio.to_thread(run, "upgrade", release, str(CHART), "--wait", values=changed)
    ready = {
        item["metadata"]["name"]: item["status"]["readyReplicas"]
        for item in (await whole.list_page(DEPLOYMENT, living)).items
    }
    assert sorted(ready.values()) == [2, 3]

    tested = await asyncio.to_thread(run, "test", release)
    assert "Succeeded" in tested

    await asyncio.to_thread(run, "uninstall", release, "--wait")
    left = {resource.kind: await of_release(resource) for resource in MADE if resource != kinds.POD}
    assert {kind: names for kind, names in left.items() if names} == {}
    crds = {item["metadata"]["name"] for item in (await whole.list_page(kinds.CRD, None)).items}
    assert "rollouts.inferencerollouts.dev" in crds
