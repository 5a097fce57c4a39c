"""That what was recorded of Kubernetes' own controllers and scheduler is still what they do."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from rollouts.kube.http import open_client
from rollouts.lab.controlplane import Choice, ControlPlane
from tests.kit.workloads import looks, played, started

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.full, pytest.mark.timeout(600)]


async def test_the_real_control_plane_does_what_was_recorded(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        plane = await stack.enter_async_context(ControlPlane(tmp_path, choice=Choice.REAL))
        client = await stack.enter_async_context(await open_client(str(plane.kubeconfig)))
        await plane.start_controllers()
        stage = await started(client, stack)

        assert await played(stage) == looks()
