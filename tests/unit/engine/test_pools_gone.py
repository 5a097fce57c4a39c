"""A pool that goes in the middle: its pods take room until they are gone, by the labels that the status has kept."""

from __future__ import annotations

import pytest

from rollouts.engine.observation import Blocker
from rollouts.engine.reasons import Reason
from tests.kit.fleet import PodState
from tests.kit.world import World
from tests.unit.engine.test_making_room import V1, V2, V3, N, at_half, to

GONE = Blocker(reason=Reason.CAPACITY_UNKNOWN, message="InferencePool v2 is gone")
LABELS = "app=vllm,version=v2"


def pruned() -> World:
    """At 50 % one commit takes the canary's pool and Deployment away, and names v3: the pods end slowly."""
    made = at_half()
    made.fleets[V2].selector = LABELS
    made.settle()
    fleet = made.fleets[V2]
    fleet.replicas, fleet.problem = 0, GONE
    fleet.pods = [PodState.ENDING for _ in fleet.pods]
    to(made, "v3")
    return made


def taken(made: World) -> int:
    return sum(fleet.taken for fleet in made.fleets.values())


def test_the_labels_of_the_canary_s_pool_are_kept_while_it_may_have_pods() -> None:
    made = pruned()
    kept = at_half()
    kept.fleets[V2].selector = LABELS
    kept.settle()

    assert kept.status.current is not None
    assert kept.status.current.capacity is not None
    assert kept.status.current.capacity.selector == LABELS
    assert [(one.identity, one.selector) for one in made.status.scale_downs] == [(V2, LABELS)]


def test_pods_that_stay_although_their_pool_is_gone_count_for_the_drain_s_time_and_are_said() -> None:
    made = pruned()
    made.fleets[V2].pods = [PodState.READY] * 4
    for _ in range(400):
        for arm in (V1, V3):
            made.fleets[arm].settle()
        made.advance(6)

    assert made.status.scale_downs == ()
    assert "v2 is not scaled down: InferencePool v2 is gone" in [event.message for event in made.events]


@pytest.mark.parametrize("minutes", [0, 1, 10])
def test_pods_of_a_pool_that_is_gone_take_room_until_they_are(minutes: int) -> None:
    made, most = pruned(), 0
    for _ in range(10 * minutes):
        for arm in (V1, V3):
            made.fleets[arm].settle()
        made.advance(6)
        most = max(most, taken(made))
    held = made.fleets[V1].replicas, made.fleets[V3].replicas
    made.fleets[V2].pods = []
    for _ in range(40):
        for fleet in made.fleets.values():
            fleet.settle()
        made.advance(6)
        most = max(most, taken(made))

    assert most <= N + 1
    assert held == (5, 0)
    assert made.fleets[V3].replicas > 0
