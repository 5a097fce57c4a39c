"""Which arms a RequestMirror filter reaches: by name of the pool, or by a Service in front of its pods."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.controller.mirroring import mirrored_arms
from rollouts.engine.versions import Identity
from rollouts.objects import kinds
from tests.kit.clock import virtual_time
from tests.kit.faults.moves import phase
from tests.kit.faults.objects import CANARY, ROUTE, STABLE, base_objects, rollout_object
from tests.kit.faults.process import Assembler
from tests.kit.faults.simulation import CLEAN, Scenario, Simulation

POOLS = {
    name: Identity(kind="InferencePool", group=kinds.POOL_X.group, name=name) for name in (STABLE, CANARY)
}


def service(name: str, selector: dict[str, str]) -> dict[str, Any]:
    spec = {"ports": [{"port": 8000}], "selector": selector}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


def mirror(ref: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"type": "RequestMirror", "requestMirror": {"backendRef": ref}}]


@pytest.mark.parametrize(
    ("ref", "arms"),
    [
        ({"group": kinds.POOL_X.group, "kind": "InferencePool", "name": CANARY}, [CANARY]),
        ({"group": kinds.POOL_V1.group, "kind": "InferencePool", "name": CANARY}, []),
        ({"name": "canary", "port": 8000}, [CANARY]),
        ({"name": "everybody", "port": 8000}, [STABLE, CANARY]),
        ({"name": "others", "port": 8000}, []),
        ({"name": "without-selector", "port": 8000}, []),
        ({"name": "gone", "port": 8000}, []),
        ({"name": "canary", "namespace": "elsewhere", "port": 8000}, []),
    ],
    ids=repr,
)
def test_copies_reach_an_arm(ref: dict[str, Any], arms: list[str]) -> None:
    def setup(cluster: Any) -> None:
        base_objects(cluster, rollout_object(target=STABLE))
        for name, selector in (
            ("canary", {"app": "custom-serving", "release": "deepseek-r1"}),
            ("everybody", {"app": "custom-serving"}),
            ("others", {"app": "logs"}),
            ("without-selector", {}),
        ):
            cluster.create(kinds.SERVICE, service(name, selector))

    made: list[Simulation] = []

    async def whole() -> bool:
        scenario = Scenario(name="mirror", setup=setup, moves=(), goal=phase("Healthy"))
        made.append(Simulation(scenario, CLEAN, Assembler()))
        return (await made[0].run()).converged

    with virtual_time() as loop:
        assert loop.run_until_complete(whole())
    process, route = made[0].process, made[0].cluster.get(kinds.HTTP_ROUTE, ROUTE)
    assert process is not None
    assert route is not None
    route["spec"]["rules"][0]["filters"] = mirror(ref)
    found = mirrored_arms(process.caches, "default", route, POOLS.values())

    assert found == {POOLS[name] for name in arms}
