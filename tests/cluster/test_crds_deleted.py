"""CRDs that are deleted while Rollouts hold traffic: their end waits for a controller, which ends it and works on.

On a control plane of its own: deleting CRDs takes the objects of all other tests along.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rollouts.api.crds import all_crds
from rollouts.cli.doctor import diagnose
from rollouts.kube.errors import KindNotServed, NotFound
from rollouts.kube.http import HttpKubeClient, open_client
from rollouts.lab.controlplane import (
    Choice,
    ControlPlane,
    Upstream,
    install_crds,
    install_upstream_crds,
)
from rollouts.lab.controlplane.upstream import CRDS
from rollouts.objects import kinds
from tests.cluster.conftest import NAMESPACES
from tests.cluster.test_controller import Look, controller, rollout, route, world_objects
from tests.kit.polling import eventually
from tests.kit.stubgateway import stub_gateway

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(180)]

NAMESPACE = "models"
NAMES = [crd["metadata"]["name"] for crd in all_crds()]


@pytest.fixture
async def kube(control_plane: ControlPlane, tmp_path: Path) -> AsyncIterator[HttpKubeClient]:
    del control_plane  # only says whether there is one
    async with (
        ControlPlane(tmp_path / "plane", choice=Choice.REAL) as plane,
        await open_client(str(plane.kubeconfig), field_manager="test") as client,
    ):
        await install_upstream_crds(client, (Upstream.GATEWAY, Upstream.INFERENCE_ALPHA))
        await install_crds(client, all_crds())
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        await client.create(NAMESPACES, None, body)
        await world_objects(client, NAMESPACE)
        await client.create(kinds.HTTP_ROUTE, NAMESPACE, route())
        async with stub_gateway(client.with_field_manager("gateway"), NAMESPACE):
            yield client


async def delete_crds(kube: HttpKubeClient) -> None:
    for name in NAMES:
        await kube.delete(CRDS, None, name)


async def crds_gone(kube: HttpKubeClient) -> bool:
    for name in NAMES:
        try:
            await kube.get(CRDS, None, name)
        except NotFound:
            continue
        return False
    return True


async def test_crds_that_are_deleted_wait_for_a_controller_which_gives_the_traffic_back(kube):
    look = Look(kube, NAMESPACE)
    await kube.create(kinds.ROLLOUT, NAMESPACE, rollout())
    async with controller(kube, NAMESPACE):
        await eventually(lambda: look.phase("Paused"), timeout=40)
    await delete_crds(kube)
    held = await kube.get(kinds.ROLLOUT, NAMESPACE, "demo")
    assert held["metadata"]["finalizers"] == ["inferencerollouts.dev/restore-traffic"]
    assert await look.weights() == [90, 10]
    said = [check.text for check in await diagnose(kube, NAMESPACE, None, None, "argocd")]
    assert any(text.startswith("CRDs are being deleted: rollouts.inferencerollouts.dev") for text in said), (
        said
    )

    async with controller(kube, NAMESPACE) as running:
        await eventually(lambda: crds_gone(kube), timeout=30)
        assert await look.weights() == [100, 0]
        with pytest.raises((KindNotServed, NotFound)):
            await kube.get(kinds.ROLLOUT, NAMESPACE, "demo")
        # Installed again, under a controller that never stopped.
        await install_crds(kube, all_crds())
        await kube.create(kinds.ROLLOUT, NAMESPACE, rollout())
        await eventually(lambda: look.phase("Paused"), timeout=50)
        assert running.leading
