"""Namespaces that end, and releases that go and come back: the chart's own Deployment as a process, on real nodes.

Kubernetes deletes all Pods of a namespace first and everything else after they are gone (KEP-5080), so a controller
that is in there ends before the first of its Rollouts is deleted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rollouts.kube.client import Propagation
from rollouts.kube.http import HttpKubeClient
from rollouts.lab.environment import apply_objects
from rollouts.lab.gateway.envoy import EnvoyNotInstalledError, find_envoy
from rollouts.objects import kinds
from tests.cluster.conftest import NAMESPACES
from tests.kit.helm import built_helm, render_chart
from tests.kit.stage import DEPLOYMENT, NAME, Stage, gone, staged

pytestmark = [pytest.mark.cluster, pytest.mark.gateway, pytest.mark.slow, pytest.mark.timeout(180)]

RELEASE = "r-inference-rollouts"


@pytest.fixture
async def stage(whole: HttpKubeClient, living: str, tmp_path: Path) -> AsyncIterator[Stage]:
    try:
        find_envoy()
    except EnvoyNotInstalledError as error:
        pytest.skip(str(error))
    async with staged(whole, living, tmp_path / "gateway") as made:
        yield made


@pytest.fixture
def helm() -> Path:
    found = built_helm()
    if found is None:
        pytest.skip("no helm: `python -m tests.kit.helm` builds one (Go, three minutes once)")
    return found


async def install(stage: Stage, helm: Path, *, release: str = "", **values: object) -> list[dict[str, Any]]:
    """Install the chart into ``release``, else where the Rollout is; answers its objects."""
    where = release or stage.namespace
    objects = render_chart(helm, {"jobs": {"enabled": True}, **values}, namespace=where)
    await apply_objects(stage.kube, objects, namespace=where)

    async def available() -> bool:
        found = await stage.kube.get(DEPLOYMENT, where, RELEASE)
        return bool((found.get("status") or {}).get("availableReplicas"))

    await stage.until(available, timeout=40)
    return objects


async def in_mid_canary(stage: Stage) -> None:
    await stage.install("v1")
    await stage.retarget("v2")
    await stage.step(1)


async def test_a_namespace_with_controller_and_a_canary_in_it_ends(stage: Stage, helm):
    await install(stage, helm)
    await in_mid_canary(stage)
    await stage.kube.delete(NAMESPACES, None, stage.namespace)

    await gone(stage.kube, NAMESPACES, None, stage.namespace, timeout=50)


async def test_a_namespace_with_a_canary_ends_while_its_controller_lives_elsewhere(stage: Stage, helm):
    """All Pods go first, so nobody could take the traffic: the Rollout is let go and says so."""
    elsewhere = f"{stage.namespace}-ctl"
    await stage.kube.create(
        NAMESPACES, None, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": elsewhere}}
    )
    await install(stage, helm, release=elsewhere, watch={"namespace": stage.namespace})
    await in_mid_canary(stage)
    await stage.kube.delete(NAMESPACES, None, stage.namespace)

    await gone(stage.kube, NAMESPACES, None, stage.namespace, timeout=50)
    pods = (await stage.kube.list_page(kinds.POD, elsewhere)).items
    lasting = [pod for pod in pods if "helm.sh/hook" not in pod["metadata"].get("annotations", {})]
    assert [pod["status"]["phase"] for pod in lasting] == ["Running"]
    await stage.kube.delete(DEPLOYMENT, elsewhere, RELEASE)


async def test_a_release_is_uninstalled_in_mid_canary_and_comes_back(stage: Stage, helm):
    """``helm uninstall`` takes rights and Deployment together; CRDs, Rollout and route stay."""
    objects = await install(stage, helm)
    await in_mid_canary(stage)
    served = {(one.api_version, one.kind): one for one in await stage.kube.discover()}
    async with stage.traffic() as seen:
        for one in objects:
            resource = served[one["apiVersion"], one["kind"]]
            where = one["metadata"].get("namespace") if resource.namespaced else None
            await stage.kube.delete(
                resource, where, one["metadata"]["name"], propagation=Propagation.BACKGROUND
            )
        await stage.until(lambda: without_controller(stage), timeout=50)
        between = await stage.weights()
        await install(stage, helm)
        await stage.delete(kinds.ROLLOUT, NAME, Propagation.FOREGROUND)
        window = await seen()

    assert between == {"v1": 80, "v2": 20}
    assert await stage.weights() == {"v1": 100, "v2": 0}
    assert (window.failed, {result.status for result in window.results}) == (0, {200})


async def without_controller(stage: Stage) -> bool:
    pods = (await stage.kube.list_page(kinds.POD, stage.namespace)).items
    return not any(pod["metadata"]["name"].startswith(RELEASE) for pod in pods)
