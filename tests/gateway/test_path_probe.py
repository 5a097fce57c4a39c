"""The path to a canary on real Envoy: probed before its first weight, and left at once when its only pod dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rollouts.kube.client import PatchKind
from rollouts.lab.checkout import EXAMPLES
from rollouts.lab.environment import Lab, base_model_pods, read_objects
from rollouts.lab.gateway.service import GATEWAYS
from rollouts.lab.processes import free_port
from rollouts.objects import kinds
from tests.kit.polling import eventually

pytestmark = [pytest.mark.gateway, pytest.mark.slow, pytest.mark.timeout(120)]

Object = dict[str, Any]
BASE = EXAMPLES / "base-model"
PATIENCE = 40.0


def rollout(target: str, **canary: Any) -> Object:
    template = {
        "parentRefs": [{"group": GATEWAYS.group, "kind": "Gateway", "name": "inference-gateway"}],
        "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}],
    }
    steps = [{"setWeight": 30}, {"pause": {}}]
    return {
        "apiVersion": kinds.ROLLOUT.api_version,
        "kind": "Rollout",
        "metadata": {"name": "mymodel"},
        "spec": {
            "target": {"pool": {"name": target}},
            "traffic": {"httpRoutes": [{"name": "inference-route", "template": template}]},
            "allowMissingModels": True,
            "strategy": {"canary": {"steps": steps, **canary}},
        },
    }


class Stage:
    """The lab with three stable pods and one of the canary."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    async def status(self) -> Object:
        found = await self.lab.client.get(kinds.ROLLOUT, "default", "mymodel")
        return dict(found.get("status") or {})

    async def route(self) -> Object:
        return await self.lab.client.get(kinds.HTTP_ROUTE, "default", "inference-route")

    async def canary_weights(self) -> list[int]:
        rules = (await self.route())["spec"]["rules"]
        return [
            ref["weight"]
            for rule in rules
            if not rule.get("name", "").startswith("rollout-header-")
            for ref in rule["backendRefs"]
            if ref["name"] == "mymodel-pool-v2"
        ]

    async def until(self, **wanted: Any) -> Object:
        async def look() -> Object | None:
            status = await self.status()
            return status if all(status.get(name) == value for name, value in wanted.items()) else None

        found = await eventually(look, timeout=PATIENCE)
        assert found is not None
        return found

    async def begin(self, **canary: Any) -> None:
        await self.lab.apply([rollout("mymodel-pool-v1", **canary)])
        await self.until(phase="Healthy")
        await self.lab.apply([rollout("mymodel-pool-v2", **canary)])

    async def events(self, reason: str) -> list[str]:
        page = await self.lab.client.list_page(kinds.EVENT, "default")
        return [
            item.get("message") or item.get("note", "") for item in page.items if item["reason"] == reason
        ]


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    config = tmp_path / "config.yaml"
    config.write_text("pathProbe: {allow: [127.0.0.0/8]}")
    async with Lab(tmp_path / "lab", pods=base_model_pods(3, 1), pickers=False) as lab:
        gateway = read_objects(BASE / "gateway.yaml")
        gateway[0]["spec"]["listeners"][0]["port"] = free_port()  # a probe takes the listener's word for it
        await lab.apply([*gateway, *read_objects(BASE / "pools.yaml")])
        await lab.start_pickers()
        await lab.gateway.wait_for_gateway()
        await lab.start_controller("--config", str(config))
        yield Stage(lab)


async def test_a_path_that_works_is_probed_and_nothing_of_the_probe_is_left(stage: Stage) -> None:
    await stage.begin(pathProbe="Require")
    status = await stage.until(phase="Paused", reason="PauseStep")
    route = await stage.route()

    assert status["probe"]["verdict"] == "Passed", status["probe"]
    assert await stage.canary_weights() == [30]
    assert [rule.get("name") for rule in route["spec"]["rules"]] == [None]
    assert await stage.events("PathProbeFailed") == []
    assert len(await stage.events("PathProbed")) == 1


async def test_a_route_whose_canary_answers_5xx_is_held_with_the_cause(stage: Stage) -> None:
    # The pool's port is one on which no pod listens: Ready pods, and 503 by the gateway.
    wrong = {"spec": {"targetPortNumber": free_port()}}
    await stage.lab.client.patch(kinds.POOL_X, "default", "mymodel-pool-v2", wrong, kind=PatchKind.MERGE)
    await stage.begin(pathProbe="Require")
    held = await stage.until(reason="PathProbeFailed")
    weights = await stage.canary_weights()
    right = {"spec": {"targetPortNumber": 8000}}
    await stage.lab.client.patch(kinds.POOL_X, "default", "mymodel-pool-v2", right, kind=PatchKind.MERGE)
    await stage.until(phase="Paused", reason="PauseStep")

    assert "are answered 503" in held["message"]
    assert "mymodel-pool-v2" in held["message"]
    assert sum(weights) == 0
    assert len(await stage.events("PathProbeFailed")) == 1


async def test_a_sole_canary_pod_that_dies_loses_its_weight_long_before_ten_seconds(stage: Stage) -> None:
    await stage.begin(pathProbe="Off")
    await stage.until(phase="Paused", reason="PauseStep")
    loop = asyncio.get_running_loop()
    died = loop.time()
    stage.lab.fleet.pods["deepseek-r1-0"].crash()

    async def gone() -> bool:
        return await stage.canary_weights() == [0]

    await eventually(gone, timeout=PATIENCE)
    took = loop.time() - died
    status = await stage.until(pulled=True)
    await stage.lab.fleet.pods["deepseek-r1-0"].start()

    async def back() -> bool:
        return await stage.canary_weights() == [30]

    await eventually(back, timeout=PATIENCE)

    assert took < 5.0
    assert (status["pulled"], status["currentStep"]) == (True, 1)
    assert len(await stage.events("CanaryRefusesConnections")) >= 1

    async def counted() -> bool:
        crashes = (await stage.status()).get("crashes") or {}
        return bool((crashes.get("canary") or {}).get("count") == 1)

    await eventually(counted, timeout=PATIENCE)
