"""What users copy is accepted whole, and applied again in each way it is as it was: no difference that nobody made."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from rollouts.api.crds import all_crds
from rollouts.kube.client import PatchKind, Resource
from rollouts.lab.controlplane import install_crds, install_upstream_crds
from rollouts.objects import kinds
from rollouts.traffic.fields import covers
from tests.kit.argodiff import merged_differences, server_side_differences

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
PATTERNS = ("examples/**/*.yaml", "analysis/*.yaml", "charts/*/argocd/*example.yaml", "charts/*/flux/*.yaml")
RESOURCES = {
    (resource.api_version, resource.kind): resource
    for resource in (
        kinds.ROLLOUT,
        kinds.ANALYSIS_TEMPLATE,
        kinds.CLUSTER_ANALYSIS_TEMPLATE,
        kinds.ROLLOUT_STRATEGY,
        kinds.CLUSTER_ROLLOUT_STRATEGY,
        kinds.HTTP_ROUTE,
        kinds.POOL_V1,
        kinds.POOL_X,
        kinds.INFERENCE_MODEL,
        Resource("gateway.networking.k8s.io", "v1", "gateways", "Gateway"),
    )
}
KUBECTL = shutil.which("kubectl")
needs_kubectl = pytest.mark.skipif(not KUBECTL, reason="kubectl is not on the PATH: its apply is not tried")
Object = dict[str, Any]

TERSE: tuple[Object, ...] = (
    {"setWeight": 10},
    {"pause": {}},
    {"setHeaderRoute": {"name": "t", "match": [{"headerName": "x", "headerValue": {"exact": "1"}}]}},
    {"analysis": {"templates": [{"templateName": "t"}]}},
    {"analysis": {"metrics": [{"name": "m", "query": "up", "successCondition": "result > 0"}]}},
    {
        "analysis": {
            "metrics": [{"name": "m", "measure": {"preset": "ttft"}, "successCondition": "result < 2.0"}]
        }
    },
    {"analysis": {"metrics": [{"name": "m", "compare": {"preset": "ttft"}}]}},
    {"analysis": {"metrics": [{"name": "m", "compare": {"gauge": "x", "margin": "5%", "weight": 2}}]}},
    {"analysis": {"preset": "default", "args": [{"name": "a"}]}},
    {"job": {"spec": {"template": {"spec": {}}}}},
)
"""Each kind of step with as little as it takes: whatever a schema adds to one of these, nobody wrote."""


def terse() -> list[Object]:
    """Rollouts and a template that say as little as they may."""
    head = {"apiVersion": kinds.ROLLOUT.api_version, "kind": "Rollout"}
    template = {"parentRefs": [{"name": "gateway"}], "rules": [{"name": "r"}]}
    pools = {
        "target": {"pool": {"name": "v2"}},
        "traffic": {"httpRoutes": [{"name": "r", "template": template}]},
        "strategy": {"canary": {"steps": list(TERSE), "analysis": {"preset": "default"}}},
    }
    adapters = {
        "target": {"adapter": {"name": "a2"}},
        "traffic": {"inferenceModel": {"name": "m", "modelName": "m", "poolRef": {"name": "v1"}}},
        "strategy": {"canary": {"steps": [{"setWeight": 10}], "sticky": {"header": "x"}}},
    }
    metrics = [metric for step in TERSE for metric in step.get("analysis", {}).get("metrics", [])]
    renamed = [{**metric, "name": f"m{number}"} for number, metric in enumerate(metrics)]
    return [
        {**head, "metadata": {"name": "terse-pools"}, "spec": pools},
        {**head, "metadata": {"name": "terse-adapters"}, "spec": adapters},
        {
            "apiVersion": head["apiVersion"],
            "kind": "AnalysisTemplate",
            "metadata": {"name": "terse"},
            "spec": {"metrics": renamed, "args": [{"name": "a"}]},
        },
    ]


def shipped() -> list[Object]:
    """Every object that users copy, under names of their own, and the terse ones."""
    found = terse()
    files = sorted(file for pattern in PATTERNS for file in ROOT.glob(pattern))
    for number, file in enumerate(files):
        for item in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            if item and (item["apiVersion"], item["kind"]) in RESOURCES:
                item["metadata"].pop("namespace", None)
                item["metadata"]["name"] += f"-{number}"
                found.append(item)
    return found


def named(item: Object) -> str:
    return f"{item['kind']}/{item['metadata']['name']}"


def resource_of(item: Object) -> Resource:
    return RESOURCES[item["apiVersion"], item["kind"]]


@pytest.fixture(autouse=True)
async def crds(kube):
    await install_upstream_crds(kube)
    await install_crds(kube, all_crds())


async def apply(kube, namespace: str, manager: str) -> dict[str, Object]:
    """Server-side apply of everything, not forced: a conflict raises."""
    client, found = kube.with_field_manager(manager), {}
    for item in shipped():
        name, resource = item["metadata"]["name"], resource_of(item)
        body = copy.deepcopy(item)
        found[named(item)] = await client.patch(resource, namespace, name, body, kind=PatchKind.APPLY)
    return found


async def differences(kube, namespace: str) -> list[str]:
    """What Argo CD would show OutOfSync, in either of its server-side modes."""
    found = []
    for item in shipped():
        where, resource = named(item), resource_of(item)
        live = await kube.get(resource, namespace, item["metadata"]["name"])
        paths = await server_side_differences(kube, resource, namespace, item)
        if resource.group == kinds.GROUP:
            paths += merged_differences(item["spec"], live["spec"], "spec")
        found += [f"{where}: {path}" for path in paths]
    return found


def versions(found: dict[str, Object]) -> dict[str, Object]:
    """What tells whether an object was stored anew."""
    return {name: obj["metadata"]["resourceVersion"] for name, obj in found.items()}


def generations(found: dict[str, Object]) -> dict[str, Object]:
    """What tells so but for the default of a `status`, which is stored with the second write, or by a controller."""
    return {name: obj["metadata"].get("generation") for name, obj in found.items()}


async def test_applied_twice_on_the_server_by_one_manager_and_by_two_it_is_unchanged(kube, namespace):
    made = await apply(kube, namespace, "argocd-controller")
    first = await apply(kube, namespace, "argocd-controller")
    again = await apply(kube, namespace, "argocd-controller")
    by_other = await apply(kube, namespace, "kustomize-controller")

    assert len(first) > 20
    assert [item["metadata"]["name"] for item in shipped() if not covers(first[named(item)], item)] == []
    assert generations(first) == generations(made)
    assert versions(again) == versions(first)
    assert {name: obj["spec"] for name, obj in by_other.items()} == {
        name: obj["spec"] for name, obj in first.items()
    }
    assert await differences(kube, namespace) == []


async def kubectl(control_plane, namespace: str, *arguments: str) -> list[str]:
    assert KUBECTL
    process = await asyncio.create_subprocess_exec(
        KUBECTL,
        *arguments,
        "-f",
        "-",
        "-n",
        namespace,
        env={**os.environ, "KUBECONFIG": str(control_plane.kubeconfig)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    listed = {"apiVersion": "v1", "kind": "List", "items": shipped()}
    output, _ = await process.communicate(json.dumps(listed).encode())
    assert process.returncode == 0, output.decode()
    return [line for line in output.decode().splitlines() if line]


@needs_kubectl
async def test_applied_twice_by_kubectl_it_says_unchanged(kube, control_plane, namespace):
    await kubectl(control_plane, namespace, "apply")
    again = await kubectl(control_plane, namespace, "apply")
    by_other = await kubectl(control_plane, namespace, "apply", "--server-side", "--field-manager=other")

    assert [line for line in again if not line.endswith(" unchanged")] == []
    assert len(by_other) == len(again) == len(shipped())
    assert await differences(kube, namespace) == []
