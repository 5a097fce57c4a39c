"""Whose requests come on top of a Rollout's split: rules of its route that it does not weigh, and other routes."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rollouts.api.parsing import parse_rollout
from rollouts.controller.other_rules import reached_by_others
from rollouts.engine.versions import Identity
from rollouts.objects import kinds
from tests.kit.clock import virtual_time
from tests.kit.faults.moves import phase
from tests.kit.faults.objects import CANARY, ROUTE, STABLE, base_objects, rollout_object
from tests.kit.faults.process import Assembler
from tests.kit.faults.simulation import CLEAN, Scenario, Simulation

GROUP = kinds.POOL_X.group
POOLS = {name: Identity(kind="InferencePool", group=GROUP, name=name) for name in (STABLE, CANARY)}


def ref(name: str, weight: int = 1, **more: Any) -> dict[str, Any]:
    return {"group": GROUP, "kind": "InferencePool", "name": name, "weight": weight, **more}


@pytest.mark.parametrize(
    ("own", "other", "arms"),
    [
        ([], None, []),
        ([{"name": "testers", "backendRefs": [ref(CANARY)]}], None, [CANARY]),
        ([{"name": "testers", "backendRefs": [ref(CANARY, 0), ref(STABLE)]}], None, [STABLE]),
        ([], {"rules": [{"backendRefs": [ref(STABLE)]}]}, [STABLE]),
        ([], {"rules": [{"backendRefs": [ref(CANARY, 0), ref("else")]}]}, []),
        ([], {"rules": [{"backendRefs": [ref(CANARY, namespace="tenant-b")]}]}, []),
    ],
    ids=repr,
)
def test_others_reach_an_arm(own: list[Any], other: dict[str, Any] | None, arms: list[str]) -> None:
    rollout = rollout_object(target=STABLE)
    rollout["spec"]["traffic"]["httpRoutes"][0]["ruleNames"] = ["live"]

    def setup(cluster: Any) -> None:
        base_objects(cluster, rollout)
        route = copy.deepcopy(cluster.get(kinds.HTTP_ROUTE, ROUTE))
        route["spec"]["rules"][0]["name"] = "live"
        rules = [{"op": "replace", "path": "/spec/rules", "value": [*route["spec"]["rules"], *own]}]
        where = (kinds.HTTP_ROUTE, "default", ROUTE)
        cluster.api.patch(*where, rules, content_type="application/json-patch+json", manager="git")
        if other is not None:
            named = {"name": "other", "namespace": "default"}
            cluster.create(kinds.HTTP_ROUTE, {**route, "metadata": named, "spec": {**route["spec"], **other}})

    made: list[Simulation] = []

    async def whole() -> bool:
        scenario = Scenario(name="others", setup=setup, moves=(), goal=phase("Healthy"))
        made.append(Simulation(scenario, CLEAN, Assembler()))
        return (await made[0].run()).converged

    with virtual_time() as loop:
        assert loop.run_until_complete(whole())
    process, live = made[0].process, made[0].cluster.get(kinds.ROLLOUT, "mymodel")
    assert process is not None
    assert live is not None

    found = reached_by_others(process.caches, parse_rollout(live), POOLS.values())

    assert found == {POOLS[name] for name in arms}
