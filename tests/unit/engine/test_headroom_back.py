"""A way back within the rollback window needs the pods that the old version had, whatever ``headroom`` says by now."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import Capacity, PodCount
from tests.kit.world import World
from tests.unit.engine.test_capacity import QUICK, V1, V2, come, to, world


def swapped(policy: Capacity, *, stable: int = 8) -> World:
    """v2 replaced v1, whose workload has been scaled down."""
    made = world(policy, stable=stable, rollback_window=timedelta(hours=1))
    come(made, V2)
    made.say("promote")
    for _ in range(12):
        come(made, V2)
        come(made, V1)
    assert made.status.reason == Reason.PROMOTED
    for _ in range(4):
        made.advance(60)
        come(made, V1)
    assert made.fleets[V1].replicas == 0
    return made


def edited(made: World, **changes: object) -> None:
    assert made.spec is not None
    policy = made.spec.canary.capacity
    assert policy is not None
    capacity = replace(policy, **changes)  # type: ignore[arg-type]
    made.edit(replace(made.spec, canary=replace(made.spec.canary, capacity=capacity)))


@pytest.mark.parametrize(("headroom", "new"), [(0.5, 4), (1.0, 8), (1.25, 10)])
def test_the_old_version_gets_the_pods_that_it_had(headroom: float, new: int) -> None:
    made = swapped(replace(QUICK, headroom=headroom))
    assert made.fleets[V2].replicas == new

    to(made, "v1")
    made.settle()

    assert made.fleets[V1].replicas == 8
    come(made, V1)
    come(made, V1)
    assert made.status.stable is not None
    assert made.status.stable.identity == V1


def test_it_is_so_whatever_the_revert_made_of_headroom() -> None:
    made = swapped(replace(QUICK, headroom=0.5))
    edited(made, headroom=1.0)
    to(made, "v1")
    made.settle()

    assert made.fleets[V1].replicas == 8


def test_it_takes_no_more_than_fits_beside_stable() -> None:
    made = swapped(replace(QUICK, headroom=0.5))
    edited(made, max_surge=PodCount(number=6))
    to(made, "v1")
    made.settle()

    assert made.fleets[V1].replicas == 6


def test_what_is_scaled_meanwhile_counts_in_proportion() -> None:
    made = swapped(replace(QUICK, headroom=0.5))
    made.fleets[V2].scale(6)
    come(made, V2)
    to(made, "v1")
    made.settle()

    assert made.fleets[V1].replicas == 12


def test_after_the_window_the_spec_says_how_many() -> None:
    made = swapped(replace(QUICK, headroom=0.5))
    made.advance(7200)
    to(made, "v1")
    made.settle()
    come(made, V1)
    made.say("promote")
    made.settle()
    come(made, V1)

    assert max(made.fleets[V1].scales) == 2


def test_no_more_ready_endpoints_are_asked_for_than_pods_that_the_old_version_had() -> None:
    made = swapped(replace(QUICK, headroom=4.0), stable=2)
    assert made.fleets[V2].replicas == 8

    to(made, "v1")
    come(made, V1)
    come(made, V1)

    assert made.fleets[V1].replicas == 2
    assert made.status.stable is not None
    assert made.status.stable.identity == V1


def test_when_the_window_is_over_the_specs_headroom_counts_from_the_first_look_on() -> None:
    made = swapped(replace(QUICK, headroom=2.0, max_surge=PodCount(number=8)), stable=4)
    made.advance(7200)
    made.fleets[V1].scale(4)
    come(made, V1)
    to(made, "v1")

    assert made.status.started_at is None
    assert made.status.reason == Reason.CAPACITY_INFEASIBLE
    assert "the canary's 16 pods at 100%" in made.status.message
