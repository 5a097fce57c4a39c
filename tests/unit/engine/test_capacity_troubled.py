"""Capacity where things are already bad: stable is sick, nobody serves, others scale, writes fail."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rollouts.engine.capacity import infeasible
from rollouts.engine.observation import Blocker
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import Capacity, PodCount
from tests.kit.fleet import Fleet, PodState
from tests.kit.world import World, spec, weight
from tests.unit.engine.test_capacity import QUICK, V1, V2, V3, come, promoted, started, to, world

STEPS = (weight(10), weight(50))


def sick(unready: int, capacity: Capacity = QUICK) -> World:
    """Stable has 8 replicas, and so many of their pods are not Ready when the target changes."""
    made = World(
        spec=spec(*STEPS, target="v1", capacity=capacity),
        fleets={V1: Fleet.of("vllm-v1", 8), V2: Fleet.of("vllm-v2", 0)},
    )
    made.settle()
    made.fleets[V1].pods[:unready] = [PodState.STARTING] * unready
    made.settle()
    to(made, "v2")
    return made


@pytest.mark.parametrize("unready", [1, 5, 7])
@pytest.mark.parametrize("surge", [None, PodCount(number=8)])
def test_a_fix_for_a_sick_stable_gets_the_pods_that_stable_is_meant_to_have(
    unready: int, surge: PodCount | None
) -> None:
    made = sick(unready, replace(QUICK, max_surge=surge))
    for _ in range(8):
        come(made, V2)

    assert made.status.reason == Reason.PROMOTED
    assert made.fleets[V2].scales == [1, 4, 8]


def test_stable_s_replicas_that_come_in_the_middle_exhaust_nothing_without_max_surge() -> None:
    made = started()
    made.fleets[V1].scale(9)
    made.fleets[V1].settle()
    made.say("promoteFull")
    come(made, V2)

    assert made.status.reason == Reason.PROMOTED


def test_without_max_surge_a_third_version_waits_for_nobody() -> None:
    made = started()
    made.pools[V3] = 0
    made.rules = [{V1: 90, V2: 10, V3: 0}]
    made.fleets[V3] = Fleet.of("vllm-v3", 0)
    made.fleets[V2].scale(8)
    made.fleets[V2].settle()
    to(made, "v3")

    assert made.fleets[V3].scales == [1]


def test_pods_that_no_node_has_room_for_end_the_loser_s_delay() -> None:
    made = started(replace(QUICK, scale_down_delay=timedelta(hours=1)))
    made.pools[V3] = 0
    made.rules = [{V1: 90, V2: 10, V3: 0}]
    made.fleets[V3] = Fleet.of("vllm-v3", 0)
    to(made, "v3")
    made.advance(31)

    assert made.status.reason == Reason.WAITING_FOR_PODS
    assert made.fleets[V2].scales == [1, 0]


def test_before_it_starts_an_attempt_goes_by_the_pods_of_now() -> None:
    made = world()
    made.fleets[V1].scale(3)
    made.fleets[V1].settle()
    made.settle()
    capacity = made.current.capacity

    assert capacity is not None
    assert capacity.stable_at_start == 3


def test_without_max_surge_nothing_is_infeasible() -> None:
    assert infeasible(8, Capacity(headroom=10.0, min_replicas=500)) is None


# --- the way back ----------------------------------------------------------------------------------


def gone(**fields: Any) -> World:
    """v2 was promoted, and v1 has no pods any more; back to it costs no gates."""
    made = promoted(rollback_window=timedelta(hours=1), **fields)
    made.advance(61)
    made.fleets[V1].settle()
    made.settle()
    assert made.fleets[V1].replicas == 0
    return made


def test_back_to_pods_that_are_there_whatever_became_of_stable_s_workload() -> None:
    made = promoted(rollback_window=timedelta(hours=1))
    made.fleets[V2].problem = Blocker(reason=Reason.CAPACITY_UNKNOWN, message="no Deployment matches v2")
    made.fleets[V2].pods, made.fleets[V2].replicas = [], 0
    made.settle()
    to(made, "v1")
    come(made, V1)

    assert made.share_of(V1) == 1


def test_back_to_pods_that_are_there_although_stable_grew_beyond_max_surge() -> None:
    made = promoted(rollback_window=timedelta(hours=1), capacity=replace(QUICK, max_surge=PodCount(number=8)))
    made.fleets[V2].scale(9)
    made.fleets[V2].pods = [PodState.READY, *[PodState.STARTING] * 8]
    made.fleets[V1].scale(9)
    made.fleets[V1].settle()
    made.settle()
    to(made, "v1")
    made.advance(5)

    assert made.status.reason == Reason.PROMOTED


def test_back_with_what_is_ready_where_nobody_serves() -> None:
    made = gone()
    made.fleets[V2].pods = [PodState.STARTING] * 8
    made.settle()
    to(made, "v1")
    assert made.fleets[V1].scales == [0, 8]
    made.fleets[V1].pods = [PodState.READY, *[PodState.PENDING] * 7]
    made.settle()
    made.advance(5)

    assert made.share_of(V1) == 1


def test_a_way_back_that_does_not_fit_at_once_takes_what_fits() -> None:
    made = gone(capacity=replace(QUICK, max_surge=PodCount(number=100, percent=True), headroom=1.0))
    assert made.spec is not None
    tight = replace(QUICK, max_surge=PodCount(number=4))
    made.edit(replace(made.spec, canary=replace(made.spec.canary, capacity=tight)))
    to(made, "v1")

    assert made.status.reason == Reason.CAPACITY_EXHAUSTED
    assert made.fleets[V1].scales == [0, 4]
