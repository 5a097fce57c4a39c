"""Capacity where things are already bad: stable is sick, nobody serves, others scale, writes fail."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rollouts.api.status import read_status, write_status
from rollouts.engine.capacity import infeasible
from rollouts.engine.observation import (
    Blocker,
    DependencyState,
    DependencyView,
    FreezeView,
    StrategyView,
    TurnView,
    WindowView,
)
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import Capacity, Dependency, PodCount, Window
from rollouts.engine.rollout_status import WaitingFor
from tests.kit.fleet import Fleet, PodState
from tests.kit.world import START, World, spec, weight
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


# --- who waits for others gets no pods yet ---------------------------------------------------------

DAYS = timedelta(days=3)
OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any], Reason, WaitingFor]] = {
    "freeze": (
        {},
        {"freeze": FreezeView(name="year-end", until=START + DAYS, reason="none")},
        Reason.FROZEN,
        WaitingFor.FREEZE,
    ),
    "window": (
        {"windows": (Window(schedule="0 9 * * 1", duration=timedelta(hours=1), time_zone="UTC"),)},
        {"window": WindowView(opens_at=START + DAYS, closes_at=START + DAYS + timedelta(hours=1))},
        Reason.OUTSIDE_WINDOW,
        WaitingFor.WINDOW,
    ),
    "turn": (
        {},
        {"turn": TurnView(where="in namespace a", limit=1, holders=("a/x",))},
        Reason.WAITING_FOR_TURN,
        WaitingFor.TURN,
    ),
    "order": (
        {"depends_on": (Dependency(namespace="a", name="x", soak=timedelta(0)),)},
        {
            "dependencies": (
                DependencyView(
                    name="x", state=DependencyState.UNHEALTHY, soak=timedelta(0), detail="Progressing"
                ),
            )
        },
        Reason.WAITING_FOR_DEPENDENCY,
        WaitingFor.DEPENDENCY,
    ),
}


def behind(what: str) -> World:
    """A new target without pods, whose attempt has to wait for others."""
    fields, views, reason, waiting_for = OTHERS[what]
    made = World(
        spec=spec(*STEPS, target="v1", capacity=QUICK, **fields),
        fleets={V1: Fleet.of("vllm-v1", 8), V2: Fleet.of("vllm-v2", 0)},
    )
    made.settle()
    for name, view in views.items():
        setattr(made, name, view)
    to(made, "v2")
    made.advance(60)
    assert made.status.reason == reason
    assert made.status.waiting_for is waiting_for
    return made


@pytest.mark.parametrize("what", OTHERS)
def test_no_pods_are_made_for_an_attempt_that_waits_for_others(what: str) -> None:
    made = behind(what)

    assert made.fleets[V2].scales == []
    made.say("promote")
    assert made.status.last_command is not None
    assert "`promote --full` does" in made.status.last_command.message


@pytest.mark.parametrize("what", OTHERS)
def test_promote_full_makes_the_pods_and_begins(what: str) -> None:
    made = behind(what)
    made.say("promoteFull")

    assert made.fleets[V2].scales == [8]
    for _ in range(2):
        come(made, V2)
    assert made.status.reason == Reason.PROMOTED


@pytest.mark.parametrize("what", OTHERS)
def test_when_that_is_over_pods_are_made(what: str) -> None:
    made = behind(what)
    made.freeze, made.turn, made.now = None, None, START + DAYS
    made.dependencies = tuple(
        replace(view, state=DependencyState.HEALTHY, since=START) for view in made.dependencies
    )
    made.settle()

    assert made.fleets[V2].scales == [1]
    come(made, V2)
    assert made.weights == [1000]


def test_a_target_s_deadline_stands_while_it_waits_for_others_without_pods() -> None:
    made = behind("turn")
    assert made.spec is not None
    limit = timedelta(minutes=10)
    made.edit(replace(made.spec, canary=replace(made.spec.canary, target_deadline=limit)))
    made.advance(3600)
    assert made.status.waiting_for is WaitingFor.TURN

    made.turn = None
    made.settle()
    assert made.status.reason == Reason.WAITING_FOR_PODS
    made.advance(601)
    assert made.status.reason == Reason.TARGET_DEADLINE_EXCEEDED


# --- what lost -------------------------------------------------------------------------------------


def hide(made: World) -> Capacity:
    """The shared strategy that ``capacity`` was in is gone; what was in it."""
    assert made.spec is not None
    capacity = made.spec.canary.capacity
    assert capacity is not None
    problem = Blocker(reason=Reason.STRATEGY_MISSING, message="RolloutStrategy a does not exist")
    made.strategy = StrategyView(used=None, problem=problem)
    made.spec = replace(made.spec, canary=replace(made.spec.canary, capacity=None))
    return capacity


def test_a_shared_strategy_that_is_missing_for_a_while_makes_nothing_forgotten() -> None:
    made = promoted()
    assert made.spec is not None
    capacity = hide(made)
    made.settle()
    made.advance(600)
    assert made.fleets[V1].scales == []

    made.strategy = None
    made.spec = replace(made.spec, canary=replace(made.spec.canary, capacity=capacity))
    made.settle()
    made.advance(61)
    assert made.fleets[V1].scales == [0]


@pytest.mark.parametrize("how", ["strategy", "spec"])
def test_who_loses_while_nobody_can_read_the_policy_is_not_forgotten(how: str) -> None:
    made = started()
    assert made.spec is not None
    kept = made.spec
    if how == "strategy":
        hide(made)
    else:
        made.spec = None
    made.say("abort")
    made.settle()
    assert [one.identity for one in made.status.scale_downs] == [V2]

    made.strategy, made.spec = None, kept
    made.settle()
    made.advance(61)
    assert made.fleets[V2].scales == [1, 0]


def test_a_rollout_is_deleted_together_with_its_strategy() -> None:
    made = promoted()
    hide(made)
    made.deleting = True
    made.advance(1)

    assert not made.finalizer
    assert made.events[-1].message == "v1 is not scaled down: RolloutStrategy a does not exist"


def test_a_mirror_to_an_aborted_canary_is_waited_for_no_longer_than_the_drain() -> None:
    made = started()
    made.say("abort")
    made.mirrored = frozenset({V2})
    made.fleets[V2].used_by = "a mirror of HTTPRoute mymodel"
    made.settle()
    made.advance(61)
    assert made.status.scale_downs[0].message == "a mirror of HTTPRoute mymodel sends requests to v2"
    made.advance(300)

    assert made.status.scale_downs == ()
    assert made.fleets[V2].scales == [1]


def test_an_autoscaler_at_zero_is_to_be_woken() -> None:
    made = world()
    made.fleets[V2].scale(0)
    made.fleets[V2].managed_by = "HorizontalPodAutoscaler vllm-v2"
    made.advance(10)

    assert made.status.message.endswith("scale it to its minimum once; an autoscaler does nothing at 0")


def test_a_deleted_rollout_is_let_go_where_nobody_will_be_left() -> None:
    made = started()
    made.deleting = True
    made.fleets[V2].in_flight = 2
    made.advance(1)
    assert made.finalizer

    made.in_haste = True
    made.settle()
    assert not made.finalizer
    assert made.weights[-1] == 0
    assert "its namespace ends, or the controller is being stopped" in made.events[-1].message


def test_a_loser_that_somebody_scales_up_again_is_left_after_five_times() -> None:
    made = promoted()
    made.advance(61)
    old = made.fleets[V1]
    for _ in range(8):
        if old.replicas == 0:
            old.replicas, old.version = 8, old.version + 1
            old.follow()
        made.advance(10)

    assert old.scales == [0] * 6
    assert old.replicas == 8
    assert made.status.scale_downs == ()
    assert made.events[-1].message.endswith(
        "somebody scaled Deployment vllm-v1 up again 5 times in 10 minutes"
    )


def test_a_loser_that_is_scaled_up_again_now_and_then_is_scaled_down_each_time() -> None:
    made = promoted()
    made.advance(61)
    old = made.fleets[V1]
    for _ in range(8):
        old.replicas, old.version = 8, old.version + 1
        old.follow()
        made.advance(180)

    assert old.scales == [0] * 9
    assert len(made.status.scale_downs[0].restores) <= 5


def test_what_is_all_zero_is_stored_as_nothing() -> None:
    """Else a status would not be read as it was written."""
    made = behind("freeze")
    made.fleets[V1].scale(0)
    made.fleets[V1].settle()
    made.settle()

    assert made.current.capacity is None
    assert made.status == read_status(write_status(made.status))[0]
