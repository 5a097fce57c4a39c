"""A Rollout goes and its split goes on: each session stays where it is, as the picker reads the very object."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rollouts.objects import kinds
from rollouts.objects.stickiness import STICKY_ANNOTATION
from rollouts.picker.core.objects import PoolName, read_snapshot
from rollouts.picker.core.policies import KeySource, ModelPolicy, StickyKey
from tests.kit.faults.cluster import NAMESPACE
from tests.kit.faults.moves import at_step, delete, edit_spec, gone
from tests.kit.faults.objects import SHARED, STABLE, variant_rollout
from tests.kit.faults.simulation import Move, Simulation
from tests.unit.controller.test_variants import STEPS, cluster_with, run

STICKY = {"header": "X-Session", "pinHeader": True}


def keeping(sticky: Any) -> Any:
    rollout = variant_rollout(STEPS, onDelete="KeepTraffic")
    if sticky is not None:
        rollout["spec"]["strategy"]["canary"]["sticky"] = sticky
    return rollout


def policy_of(simulation: Simulation) -> ModelPolicy:
    """What a picker makes of the objects that are there."""
    cluster = simulation.cluster
    objects = [
        obj
        for kind in (kinds.POOL_X, kinds.POD, kinds.POOL_SPLIT, kinds.ROLLOUT)
        for obj in cluster.all(kind)
    ]
    (rule,) = read_snapshot([PoolName(NAMESPACE, SHARED)], objects).variants
    return rule.policy


def unreadable(spec: Any) -> None:
    spec["strategy"]["canary"]["steps"] = [{"setWeight": "ten"}]


@pytest.mark.parametrize("edits", [[], [Move(when=at_step(1), act=edit_spec(unreadable), after=5)]], ids=len)
def test_sessions_outlive_a_rollout_that_leaves_its_traffic(edits: list[Move]) -> None:
    left = run(
        cluster_with(keeping(STICKY), weights={STABLE: 100}),
        gone,
        *edits,
        Move(when=at_step(1), act=delete(kinds.ROLLOUT, "mymodel"), after=15),
    )

    (split,) = left.cluster.all(kinds.POOL_SPLIT)
    assert sorted(one["weight"] for one in split["spec"]["variants"]) == [10, 90]
    assert policy_of(left) == ModelPolicy(
        sticky=StickyKey(KeySource.HEADER, "x-session"), pinned_by_header=True
    )


def test_what_an_earlier_rollout_left_goes_with_one_that_has_no_key() -> None:
    def stale(simulation: Simulation) -> None:
        patch = {"metadata": {"annotations": {STICKY_ANNOTATION: json.dumps(STICKY)}}}
        simulation.cluster.merge(kinds.POOL_SPLIT, SHARED, patch)

    left = run(
        cluster_with(keeping(None), weights={STABLE: 100}),
        gone,
        Move(when=at_step(1), act=stale, after=5),
        Move(when=at_step(1), act=delete(kinds.ROLLOUT, "mymodel"), after=15),
    )

    assert policy_of(left) == ModelPolicy()
