"""Fresh pods of the canary are warmed up before they count: what is asked for, waited for and said."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from rollouts.engine.actions import WarmPods
from rollouts.engine.observation import NotControllable
from rollouts.engine.planning import plan
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import PodCount, WarmUp
from rollouts.engine.rollout_status import Phase
from tests.kit.fleet import Fleet, PodState
from tests.kit.world import World
from tests.unit.engine.test_capacity import QUICK, V1, V2, come, to, world

WARM = replace(QUICK, warm_up=WarmUp(requests=5))


def cold_world() -> World:
    made = world(WARM)
    made.fleets[V2].warms = True
    made.settle()
    return made


def pods_are(made: World, state: PodState) -> None:
    made.fleets[V2].pods = [state] * made.fleets[V2].replicas
    made.settle()


def asked(made: World) -> list[WarmPods]:
    return [one for one in plan(made.observe(), made.now).actions if isinstance(one, WarmPods)]


def test_no_weight_before_the_pods_are_warm() -> None:
    made = cold_world()
    assert asked(made) == [WarmPods(identity=V2, warm_up=WarmUp(requests=5))]

    pods_are(made, PodState.WARMING)
    assert made.weights == []
    assert made.status.reason == Reason.WAITING_FOR_PODS
    assert made.status.message.endswith("needs 1 Ready pods of v2, 0 are; waiting for 1: 1 warm up")
    assert made.status.current is not None
    assert made.status.current.capacity is not None
    assert (made.status.current.capacity.ready, made.status.current.capacity.warming) == (0, 1)

    pods_are(made, PodState.READY)
    made.advance(4)
    assert made.weights == [1000]
    assert asked(made) == []


def test_what_keeps_a_pod_from_getting_warm_is_said() -> None:
    made = cold_world()
    made.fleets[V2].warm_problem = "pod v2-a: /v1/completions answers 400: too long"
    pods_are(made, PodState.WARMING)

    assert made.status.reason == Reason.WARM_UP_FAILED
    assert made.status.message.endswith("1 warm up, pod v2-a: /v1/completions answers 400: too long")


@pytest.mark.parametrize(
    ("waiting", "words"), [(1, "1 of them waits for its turn"), (2, "2 of them wait for their turn")]
)
def test_a_pod_that_waits_for_its_turn_is_said_to_and_has_not_failed(waiting: int, words: str) -> None:
    made = cold_world()
    made.fleets[V2].warm_waiting = waiting
    pods_are(made, PodState.WARMING)

    assert made.status.reason == Reason.WAITING_FOR_PODS
    assert made.status.message.endswith(f"1 warm up, {words}")


def test_a_rise_waits_for_warm_pods_as_well() -> None:
    made = cold_world()
    pods_are(made, PodState.READY)
    made.advance(4)
    made.say("promote")
    made.settle()
    made.fleets[V2].pods = [PodState.READY, *[PodState.WARMING] * 3]
    made.settle()

    assert made.weights == [1000]
    assert "3 warm up" in made.status.message
    assert len(asked(made)) == 1


def test_one_spare_pod_is_warmed_before_the_weight_rises_by_it() -> None:
    lends = replace(WARM, max_surge=PodCount(number=1), min_stable=PodCount(number=1))
    made = world(lends)
    made.fleets[V2].warms = True
    come(made, V2)
    made.say("promote")
    for _ in range(6):
        made.settle()
        made.advance(3)
        made.fleets[V1].settle()
    made.fleets[V2].pods = [PodState.READY, *[PodState.WARMING] * (made.fleets[V2].replicas - 1)]
    made.settle()

    assert made.status.reason == Reason.MAKING_ROOM
    assert "warm up" in made.status.message


@pytest.mark.parametrize("end", ["abort", "revert", "edit"])
def test_when_it_is_over_nobody_is_kept_from_requests(end: str) -> None:
    made = cold_world()
    pods_are(made, PodState.WARMING)
    if end == "abort":
        made.say("abort")
    elif end == "revert":
        to(made, "v1")
    else:
        assert made.spec is not None
        made.edit(replace(made.spec, canary=replace(made.spec.canary, capacity=QUICK)))
    made.settle()

    assert asked(made) == []


def test_promote_full_waits_for_no_warm_up() -> None:
    made = cold_world()
    pods_are(made, PodState.READY)
    made.advance(4)
    made.say("promoteFull")
    made.settle()

    assert made.fleets[V2].replicas == 8
    assert asked(made) == []


def test_where_requests_cannot_be_kept_from_a_pod_nothing_begins() -> None:
    made = world(WARM)
    to(made, "v1")
    made.settle()
    made.fleets[V2] = replace(
        Fleet.of("vllm-v2", 0), warms=True, drain=NotControllable("the picker is not ours")
    )
    to(made, "v2")
    made.settle()

    assert made.status.phase is Phase.WAITING
    assert made.status.reason == Reason.WARM_UP_NOT_CONTROLLABLE
    assert made.status.message.endswith(
        "the picker is not ours; leave warmUp out, or use the picker of this project"
    )
    assert made.fleets[V2].scales == []
    assert asked(made) == []


def test_a_picker_that_says_nothing_for_a_moment_opens_no_cold_pod() -> None:
    made = cold_world()
    pods_are(made, PodState.READY)
    made.advance(4)
    made.say("promote")
    made.settle()
    made.fleets[V2].drain = NotControllable("the picker gives no answer")
    made.now += timedelta(seconds=1)

    assert len(asked(made)) == 1
