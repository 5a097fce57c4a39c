"""Warm-up on Kubernetes' own control plane: a fresh pod of the canary, our picker, the chart's rights."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rollouts.kube.http import open_client
from rollouts.lab.kubelet import Kubelet
from rollouts.lab.nodes import Node, Nodes, PretendRuntime
from rollouts.lab.nodes.node import NODES
from rollouts.lab.pickers import Pickers
from rollouts.objects import kinds
from rollouts.objects.pods import DRAINING_ANNOTATION, WARMED_ANNOTATION, is_ready
from tests.cluster.test_chart_on_server import controlling, install
from tests.cluster.test_scaling_on_server import ROLES, _route
from tests.kit.helm import render_chart
from tests.kit.httpclients import acting_as
from tests.kit.stage import DEPLOYMENT, NAME, ROUTE, Stage
from tests.kit.stubgateway import stub_gateway
from tests.kit.whole import WholePlane

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(280)]

Object = dict[str, Any]
_PATIENCE = 90.0
_REQUESTS = 7
_OWN_NODE = Node(name="lab", schedulable=False)
"""Where the lab's kubelet says that its Pods stand."""
MARK = f"Rollout {NAME} warms it up"
PROMPTS = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "prompts", "annotations": {"inferencerollouts.dev/prompts": "true"}},
    "data": {"lines": "one\ntwo words\n"},
}


@asynccontextmanager
async def our_pickers(plane: WholePlane, namespace: str, directory: Path) -> AsyncIterator[None]:
    """A process of ours behind each pool of the namespace."""
    kubeconfig = plane.plane.kubeconfig
    async with await open_client(str(kubeconfig), field_manager="kubelet") as client:
        kubelet, nodes = Kubelet(client), Nodes(client, (_OWN_NODE,), PretendRuntime())
        pickers = Pickers(client, kubelet, kubeconfig=kubeconfig, directory=directory, namespace=namespace)
        try:
            await nodes.start()
            await pickers.start()
            await pickers.wait_ready(timeout=_PATIENCE)
            yield
        finally:
            await pickers.stop()
            await kubelet.stop()
            await nodes.stop()
            await client.delete(NODES, None, _OWN_NODE.name)  # the plane is the other tests' as well


def _rollout() -> Object:
    warm_up = {"requests": _REQUESTS, "prompts": {"configMap": "prompts", "key": "lines"}}
    canary = {
        "steps": [{"setWeight": 50}, {"pause": {}}],
        "allowNoTraffic": True,
        "pathProbe": "Off",
        "capacity": {"maxSurge": "100%", "warmUp": warm_up},
    }
    return {
        "target": {"pool": {"name": "v1", "group": kinds.POOL_V1.group}},
        "traffic": {"httpRoutes": [{"name": ROUTE}]},
        "allowMissingModels": True,
        "strategy": {"canary": canary},
    }


async def test_a_fresh_pod_is_marked_warmed_and_unmarked_under_the_charts_rights(
    whole_plane, whole, living, helm, tmp_path
):
    """Scaled up, spared, asked and released before the weight rises; stable's pods are not touched."""
    values = {"capacity": {"enabled": True, "promptConfigMaps": True}}
    objects = render_chart(helm, values, namespace=living)
    await install(whole, [item for item in objects if item["kind"] in ROLES])
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{living}", "system:authenticated")
    client = acting_as(whole, f"system:serviceaccount:{living}:r-inference-rollouts", groups)
    stage, seen = Stage(whole, living, ""), list[tuple[bool, str, int]]()
    await stage.add_version("v1", trusted=False)
    await stage.add_version("v2", pods=0, trusted=False)
    await whole.create(kinds.CONFIG_MAP, living, PROMPTS)
    consent = {"metadata": {"name": ROUTE, "annotations": {"inferencerollouts.dev/managed-by": NAME}}}
    await stage.create(kinds.HTTP_ROUTE, ROUTE, _route(), **consent)
    await stage.create(kinds.ROLLOUT, NAME, _rollout())

    async def pods(release: str) -> list[Object]:
        found = (await whole.list_page(kinds.POD, living)).items
        return [pod for pod in found if (pod["metadata"].get("labels") or {}).get("release") == release]

    async def paused() -> bool:
        weight = (await stage.weights()).get("v2", 0)
        for pod in await pods("v2"):
            said = pod["metadata"].get("annotations") or {}
            seen.append((is_ready(pod), said.get(DRAINING_ANNOTATION, ""), weight))
        return (await stage.status()).get("phase") == "Paused"

    may = {"namespaces": (living,), "capacity_kinds": ("Deployment", "StatefulSet"), "leader_elect": False}
    async with (
        our_pickers(whole_plane, living, tmp_path),
        stub_gateway(whole.with_field_manager("gateway"), living),
        controlling(client, **may),
    ):
        await stage.phase("Healthy", timeout=_PATIENCE)
        await stage.retarget("v2")
        await stage.until(paused, timeout=_PATIENCE)

        (canary,) = await pods("v2")
        asked = await _asked(canary)
    assert await stage.weights() == {"v1": 50, "v2": 50}
    assert [said for said in canary["metadata"]["annotations"] if said.startswith("inferencerollouts")] == [
        WARMED_ANNOTATION
    ]
    assert asked == _REQUESTS
    assert {mark for _, mark, _ in seen} == {"", MARK}
    assert {weight for _, mark, weight in seen if mark} == {0}
    assert (await whole.get(DEPLOYMENT, living, "v2"))["spec"]["replicas"] == 1
    for pod in await pods("v1"):
        assert (
            not {DRAINING_ANNOTATION, WARMED_ANNOTATION} & (pod["metadata"].get("annotations") or {}).keys()
        )


async def _asked(pod: Object) -> int:
    """Completions that a server has answered."""
    url = f"http://{pod['status']['podIP']}:8000/metrics"
    async with aiohttp.ClientSession(trust_env=False) as session, session.get(url) as answer:
        page = await answer.text()
    lines = [line for line in page.splitlines() if line.startswith("vllm:request_params_n_count")]
    return round(sum(float(line.rpartition(" ")[2]) for line in lines))
