"""Stable gives pods to the canary as its share falls, and gets them back (design section 14, ``minStable``)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rollouts.engine.capacity import (
    carried,
    infeasible,
    least_stable,
    most_pods,
    pods_for,
    pods_kept,
    share_of_ready,
    stable_pods_for,
)
from rollouts.engine.observation import (
    Blocker,
    Claim,
    CrashView,
    Drained,
    Draining,
    GateOutcome,
    GateView,
    JobOutcome,
    NotControllable,
    PathView,
    Refused,
)
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import AbortSpeed, Capacity, OnDelete, PodCount
from rollouts.engine.rollout_status import Phase
from rollouts.units import FULL, ZERO, Weight
from tests.kit.fleet import Fleet, PodState
from tests.kit.world import World, analysis, job, pause, pool, spec, weight

V1, V2, V3 = pool("v1"), pool("v2"), pool("v3")
N = 8
TIGHT = Capacity(
    max_surge=PodCount(number=1),
    min_stable=PodCount(number=1),
    scale_down_delay=timedelta(minutes=1),
    drain_timeout=timedelta(minutes=5),
)
STEPS = (weight(10), weight(50), pause())


def world(capacity: Capacity = TIGHT, *steps: Any, stable: int = N, **fields: Any) -> World:
    """Stable on v1 with all pods, and nothing of v2 and v3."""
    made = World(
        spec=spec(*(steps or STEPS), target="v1", capacity=capacity, **fields),
        rules=[{V1: 100, V2: 0, V3: 0}],
        pools={V1: 0, V2: 0, V3: 0},
        fleets={V1: Fleet.of("vllm-v1", stable), V2: Fleet.of("vllm-v2", 0), V3: Fleet.of("vllm-v3", 0)},
    )
    made.settle()
    to(made, "v2")
    return made


def to(made: World, name: str) -> None:
    assert made.spec is not None
    made.edit(replace(made.spec, target=replace(made.spec.target, name=name)))


def policy(made: World, capacity: Capacity | None) -> None:
    assert made.spec is not None
    made.edit(replace(made.spec, canary=replace(made.spec.canary, capacity=capacity)))


def go(made: World, rounds: int = 1) -> None:
    """Pods come and go, and a few seconds pass."""
    for _ in range(rounds):
        for fleet in made.fleets.values():
            fleet.settle()
        made.advance(6)
        assert sum(fleet.taken for fleet in made.fleets.values()) <= N + 1


def replicas(made: World) -> tuple[int, int]:
    return made.fleets[V1].replicas, made.fleets[V2].replicas


def at_half(capacity: Capacity = TIGHT, *steps: Any, **fields: Any) -> World:
    """In the pause at 50 %, with four pods on either side and one to spare."""
    made = world(capacity, *steps, **fields)
    go(made, 10)
    assert made.status.weight.applied == 5000
    assert replicas(made) == (5, 4)
    return made


# --- arithmetic ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stable", [*range(1, 40), 128, 1000])
@pytest.mark.parametrize("headroom", [1.0, 0.5, 1.1, 1.25])
def test_each_pod_of_the_canary_sets_room_free_for_the_next(stable: int, headroom: float) -> None:
    """What is called feasible can be walked, pod by pod; whole numbers never get stuck."""
    for surge in (1, 2, 3):
        for least in (0, 1, 2):
            plan = Capacity(
                headroom=headroom, max_surge=PodCount(number=surge), min_stable=PodCount(number=least)
            )
            most, needed, pods = most_pods(stable, plan), pods_for(FULL, stable, plan), 0
            assert most is not None
            kept = stable
            while pods < needed:
                more = min(needed, most - kept)
                if more <= pods:
                    break
                pods, kept = more, min(kept, stable_pods_for(carried(more, stable, plan), stable, plan))
                assert pods_for(carried(pods, stable, plan), stable, plan) <= pods
                assert kept >= least_stable(stable, plan)
            # A stable that may not give any is not walked but fits whole.
            assert (pods == needed) is (infeasible(stable, plan) is None), (pods, needed, plan)


@pytest.mark.parametrize("stable", [*range(1, 40), 128, 1000])
@pytest.mark.parametrize("headroom", [1.0, 0.5, 1.1, 1.25])
def test_each_pod_that_stable_has_again_sets_room_free_for_the_next(stable: int, headroom: float) -> None:
    plan = Capacity(headroom=headroom, max_surge=PodCount(number=1), min_stable=PodCount(number=1))
    whole = pods_for(FULL, stable, plan)
    most = max(stable, whole) + 1

    for ready in range(1, stable):
        kept = Weight(FULL - share_of_ready(ready, stable))
        assert pods_kept(kept, stable, plan) + ready < most, ready
        assert pods_for(Weight(kept - 1), stable, plan) <= pods_kept(kept, stable, plan)


@pytest.mark.parametrize(
    ("weights", "policy_", "pods"),
    [
        (0, Capacity(min_stable=PodCount(number=1)), 8),
        (1250, Capacity(min_stable=PodCount(number=1)), 7),
        (1249, Capacity(min_stable=PodCount(number=1)), 7),
        (1200, Capacity(min_stable=PodCount(number=1)), 8),
        (FULL, Capacity(min_stable=PodCount(number=50, percent=True)), 4),
        (FULL, Capacity(min_stable=PodCount(number=100)), 8),
        (5000, Capacity(min_stable=PodCount(number=1), headroom=1.25), 5),
        (5000, Capacity(min_stable=PodCount(number=1), headroom=0.5), 4),
    ],
)
def test_what_stable_keeps_under_a_weight(weights: int, policy_: Capacity, pods: int) -> None:
    assert stable_pods_for(Weight(weights), 8, policy_) == pods


@pytest.mark.parametrize(
    ("capacity", "words"),
    [
        (replace(TIGHT, min_stable=PodCount(number=2)), "minStable to 1, or headroom"),
        (replace(TIGHT, min_stable=PodCount(number=50, percent=True)), "set maxSurge to 4, minStable to 1"),
        (replace(TIGHT, min_replicas=2), "set maxSurge to 2"),
        (replace(TIGHT, max_surge=PodCount(number=0), min_stable=PodCount(number=0)), "set maxSurge to 1"),
    ],
)
def test_a_plan_that_cannot_be_met_is_refused_before_anything_with_the_numbers_that_would_do(
    capacity: Capacity, words: str
) -> None:
    made = world(capacity)

    assert made.status.reason == Reason.CAPACITY_INFEASIBLE
    assert words in made.status.message
    assert made.weights == []
    assert replicas(made) == (8, 0)


# --- the way on ------------------------------------------------------------------------------------


def test_one_spare_pod_rolls_a_fleet_of_eight() -> None:
    made = world()
    go(made, 12)
    made.say("promote")
    go(made, 40)

    assert made.status.reason == Reason.PROMOTED
    assert made.weights == [1000, *(1250 * pods for pods in range(1, 9))]
    assert made.fleets[V1].scales == [7, 6, 5, 4, 3, 2, 1, 0]
    assert made.fleets[V2].scales == [1, 2, 3, 4, 5, 6, 7, 8]
    assert (made.status.stable_scale, made.status.drains, made.status.scale_downs) == (None, (), ())


def test_stable_shrinks_no_further_than_the_step_needs() -> None:
    made = at_half()
    go(made, 10)

    assert replicas(made) == (5, 4)
    assert made.status.phase is Phase.PAUSED


def test_replicas_beyond_n_are_left_alone_where_stable_need_not_give_any() -> None:
    made = world(replace(TIGHT, max_surge=PodCount(number=8)))
    made.fleets[V2].settle()
    made.advance(4)
    made.fleets[V1].scale(12)
    for _ in range(3):
        made.fleets[V2].settle()
        made.advance(6)

    assert made.fleets[V1].scales == [12]


def test_without_a_limit_stable_keeps_its_pods() -> None:
    made = world(replace(TIGHT, max_surge=None))
    made.fleets[V2].settle()
    made.settle()
    made.advance(4)
    made.fleets[V2].settle()
    made.advance(4)

    assert made.status.weight.applied == 5000
    assert made.fleets[V1].scales == []


def test_a_spare_that_is_enough_takes_no_pod_of_stable() -> None:
    made = world(replace(TIGHT, max_surge=PodCount(number=8)))
    for _ in range(3):
        made.fleets[V2].settle()
        made.advance(4)

    assert made.weights == [1000, 5000]
    assert made.fleets[V1].scales == []
    assert made.current.capacity is not None
    assert made.current.capacity.ceiling is None


def test_nothing_is_taken_from_stable_before_the_weight_is_seen_to_be_in_force() -> None:
    made = world()
    made.programmed = False
    go(made, 6)
    assert made.status.weight.applied == 1000
    made.programmed = True
    made.share = None
    go(made, 6)
    assert made.status.reason == Reason.SHARE_UNMEASURED
    assert replicas(made) == (8, 1)
    assert made.fleets[V1].scales == []


def test_no_room_is_made_by_a_weight_that_the_gateway_has_not_taken() -> None:
    made = world()
    while (made.status.weight.applied or ZERO) <= Weight(1000):
        go(made)
    made.programmed = False
    go(made, 2)  # room that is there already is taken
    before = replicas(made)
    go(made, 5)

    assert replicas(made) == before
    assert made.status.reason == Reason.WAITING_FOR_GATEWAY

    made.programmed = True
    go(made, 5)
    assert replicas(made) != before


@pytest.mark.parametrize(
    ("drain", "seconds", "left"),
    [
        (Draining(pods=1, requests=3), 299, 8),
        (Draining(pods=1, requests=None), 299, 8),
        (Draining(pods=1, requests=3), 301, 7),
        (Drained(), 1, 7),
        (None, 1, 7),
    ],
)
def test_pods_of_stable_drain_before_they_go(drain: Any, seconds: int, left: int) -> None:
    made = world()
    made.fleets[V1].drain = Draining(pods=1, requests=9)
    go(made, 3)
    assert made.status.reason == Reason.MAKING_ROOM
    assert "1 of 1 pods of v1 that are to go still answer 9 requests" in made.status.message
    [asked] = made.status.drains
    assert (asked.identity, asked.replicas, asked.to) == (V1, 8, 7)
    assert made.status.stable_scale is not None
    assert made.finalizer

    made.fleets[V1].drain = drain
    made.now = asked.since + timedelta(seconds=seconds)
    made.settle()

    assert made.fleets[V1].replicas == left


def test_pods_that_have_drained_go_before_the_others() -> None:
    made = world(replace(TIGHT, max_surge=PodCount(number=4)), weight(50), pause())
    for _ in range(3):
        made.fleets[V2].settle()
        made.advance(4)
    made.fleets[V1].drain = Draining(pods=3, requests=5, free=0)
    made.say("promote")
    made.advance(6)
    assert [one.to for one in made.status.drains] == [4]

    made.fleets[V1].drain = Draining(pods=2, requests=5, free=1)
    made.settle()
    assert made.fleets[V1].scales[:1] == [7]


def test_the_deadline_stands_while_stable_drains_and_each_rise_has_its_own() -> None:
    made = world(replace(TIGHT, drain_timeout=timedelta(hours=2)), progress_deadline=timedelta(minutes=10))
    made.fleets[V1].drain = Draining(pods=1, requests=1)
    go(made, 3)
    made.advance(3600)
    assert made.status.phase is Phase.PROGRESSING

    made.fleets[V1].drain = None
    for pods in (7, 6, 5):
        go(made, 2)
        assert made.fleets[V1].replicas == pods
        made.advance(540)
        assert made.status.phase is Phase.PROGRESSING


@pytest.mark.parametrize("arm", [V1, V2])
@pytest.mark.parametrize("why", ["used", "picker", "pinned"])
def test_a_plan_that_needs_pods_of_a_version_that_cannot_drain_is_refused(why: str, arm: Any) -> None:
    made = World(
        spec=spec(*STEPS, target="v1", capacity=TIGHT),
        fleets={V1: Fleet.of("vllm-v1", 8), V2: Fleet.of("vllm-v2", 0)},
    )
    if why == "used":
        made.fleets[arm].used_by = "HTTPRoute other"
    elif why == "picker":
        made.fleets[arm].drain = NotControllable("its picker is not ours")
    else:
        made.pins = frozenset({arm})
    made.settle()
    to(made, "v2")

    assert made.status.reason == Reason.DRAIN_NOT_CONTROLLABLE
    assert "set maxSurge to 8" in made.status.message
    assert (made.weights, made.fleets[V2].scales) == ([], [])


# --- aborts ----------------------------------------------------------------------------------------


def fail(made: World, *, loses: bool = False) -> None:
    """The background's gate fails."""
    name = next(iter(made.gates))
    made.gates[name] = GateView(
        name=name, outcome=GateOutcome.ABORT, message="p95 4.1 s > 2 s", loses_requests=loses
    )
    made.settle()


def judged(capacity: Capacity = TIGHT) -> World:
    return at_half(capacity, *STEPS[:2], analysis())


def test_an_abort_returns_the_traffic_as_stable_has_pods_for_it() -> None:
    made = judged()
    fail(made)

    assert made.status.phase is Phase.ABORTED
    assert made.status.reason == Reason.RETURNING_WITH_PODS
    assert made.weights[-1] == 3750
    assert "v1 has 5 of 8 Ready pods, 3 are waited for, and v2 keeps 37.5%" in made.status.message
    go(made, 20)

    assert made.status.reason == Reason.GATE_FAILED
    assert made.weights[-5:] == [5000, 3750, 2500, 1250, 0]
    assert replicas(made) == (8, 0)
    assert (made.status.stable_scale, made.status.drains, made.status.scale_downs) == (None, (), ())
    assert not made.finalizer


def test_at_once_where_requests_are_lost_or_the_policy_says_so() -> None:
    made, other = judged(), judged(replace(TIGHT, abort=AbortSpeed.IMMEDIATE))
    fail(made, loses=True)
    fail(other)

    for one in (made, other):
        assert one.weights[-2:] == [5000, 0]
        assert one.status.reason == Reason.GATE_FAILED
        go(one, 20)
        assert replicas(one) == (8, 0)
        assert one.status.stable_scale is None


@pytest.mark.parametrize("how", ["command", "crashes", "pool", "not ready"])
def test_aborts_that_never_wait_for_pods(how: str) -> None:
    made = at_half()
    if how == "command":
        made.say("abort")
    elif how == "crashes":
        for restarts in range(3, 30, 3):
            made.crashes = {V2: CrashView(pods=4, restarts=restarts), V1: CrashView(pods=5)}
            made.advance(30)
    elif how == "pool":
        del made.pools[V2]
        made.settle()
    else:
        made.fleets[V2].pods = []
        made.settle()
        made.advance(11)

    assert made.share_of(V2) == 0


def test_the_command_abort_ends_the_waiting_of_another_abort() -> None:
    made = judged()
    fail(made)
    assert made.weights[-1] == 3750

    made.say("abort")

    assert made.weights[-1] == 0
    assert made.status.last_command is not None
    assert made.status.last_command.result.value == "Done"
    go(made, 20)
    assert replicas(made) == (8, 0)


@pytest.mark.parametrize("trouble", ["unknown", "autoscaler", "canary's autoscaler"])
def test_who_cannot_be_scaled_is_not_waited_for(trouble: str) -> None:
    made = judged()
    fail(made)
    if trouble == "unknown":
        made.fleets[V1].problem = Blocker(reason=Reason.CAPACITY_UNKNOWN, message="two of them")
    else:
        made.fleets[V1 if trouble == "autoscaler" else V2].managed_by = "HorizontalPodAutoscaler x"
    made.settle()

    assert made.weights[-1] == 0


def test_busy_pods_of_the_canary_keep_their_room_until_the_timeout_and_idle_ones_give_theirs() -> None:
    made = judged()
    made.fleets[V2].drain = Draining(pods=1, requests=2, free=0)
    made.fleets[V2].in_flight = 2
    fail(made)
    go(made, 4)
    assert replicas(made) == (5, 4)

    made.fleets[V2].drain = Draining(pods=2, requests=2, free=1)
    go(made, 2)
    assert replicas(made) == (6, 3)
    made.fleets[V2].drain = Draining(pods=2, requests=2, free=0)
    go(made, 2)
    made.advance(301)
    go(made, 1)
    assert made.fleets[V1].replicas == 7


# --- other ends ------------------------------------------------------------------------------------


def test_a_revert_at_half_returns_as_capacity_allows_and_ends_healthy() -> None:
    made = at_half()
    to(made, "v1")

    assert made.status.reason == Reason.RETURNING_WITH_PODS
    assert made.share_of(V2) * 8 == 3
    go(made, 20)
    assert made.status.phase is Phase.HEALTHY
    assert replicas(made) == (8, 0)
    assert made.status.stable_scale is None


def test_another_target_waits_until_stable_is_whole() -> None:
    made = at_half()
    to(made, "v3")
    go(made, 1)

    assert made.status.phase is Phase.WAITING
    assert "v1 gets the pods back that it gave" in made.status.message
    assert made.fleets[V3].scales == []
    go(made, 30)
    assert made.status.weight.applied == 5000
    assert [made.fleets[arm].replicas for arm in (V1, V2, V3)] == [5, 0, 4]


def test_a_retry_waits_as_well() -> None:
    made = judged()
    fail(made)
    made.gates.clear()
    made.say("retry")
    go(made, 1)
    assert made.status.phase is Phase.WAITING
    go(made, 40)

    assert made.status.weight.applied == 5000
    assert replicas(made) == (5, 4)


def test_promote_full_goes_on_by_what_pods_carry() -> None:
    made = at_half()
    made.say("promoteFull")
    assert made.weights[-1] == 5000
    go(made, 40)

    assert made.status.reason == Reason.PROMOTED
    assert replicas(made) == (0, 8)


def test_the_way_back_within_the_window_makes_room_the_same_way() -> None:
    made = at_half(rollback_window=timedelta(hours=1))
    made.say("promoteFull")
    go(made, 40)
    to(made, "v1")
    go(made, 60)

    assert made.status.stable is not None
    assert made.status.stable.identity == V1
    assert made.status.phase is Phase.HEALTHY
    assert replicas(made) == (8, 0)


def test_while_paused_by_command_nothing_is_taken_and_resume_goes_on() -> None:
    made = world()
    made.fleets[V1].drain = Draining(pods=1, requests=1)
    go(made, 3)
    assert made.status.drains
    made.say("pause")
    assert made.status.drains == ()
    made.fleets[V1].drain = None
    go(made, 3)
    assert made.fleets[V1].scales == []

    made.say("resume")
    go(made, 2)
    assert made.fleets[V1].scales[:1] == [7]


def test_a_share_that_a_person_lowers_gives_stable_pods_where_there_is_room() -> None:
    made = at_half()
    made.fleets[V2].scale(2)
    made.fleets[V2].settle()
    made.overwrite({V1: 90, V2: 10, V3: 0})
    go(made, 2)

    assert made.status.reason == Reason.MANUAL_OVERRIDE
    assert made.fleets[V1].replicas == 7


def test_a_canary_that_cannot_serve_is_no_reason_to_scale_it_down() -> None:
    made = at_half()
    made.fleets[V2].pods = [PodState.STARTING] * 4
    made.settle()
    made.advance(11)

    assert made.share_of(V2) == 0
    assert replicas(made) == (5, 4)


# --- edits, others, and the end --------------------------------------------------------------------


def test_capacity_taken_out_gives_stable_its_pods_back_without_a_limit() -> None:
    made = at_half()
    policy(made, None)
    for _ in range(4):
        made.fleets[V1].settle()
        made.advance(6)

    assert made.fleets[V1].replicas == 8
    assert made.status.stable_scale is None
    assert made.fleets[V2].replicas == 4


def test_capacity_taken_out_is_no_reason_to_wait_for_pods_that_find_no_node() -> None:
    made = at_half()
    policy(made, None)
    assert made.fleets[V1].replicas == 8
    assert made.fleets[V1].ready == 5
    to(made, "v1")

    assert made.share_of(V2) == 0


def test_a_higher_floor_is_kept_as_soon_as_there_is_room() -> None:
    made = at_half()
    policy(made, replace(TIGHT, min_stable=PodCount(number=7), max_surge=PodCount(number=4)))
    made.fleets[V1].settle()
    made.settle()

    assert made.fleets[V1].replicas == 8


def test_a_spec_that_cannot_be_read_holds_up_no_return() -> None:
    made = judged()
    fail(made)
    made.spec, made.generation = None, made.generation + 1
    go(made, 20)

    assert made.share_of(V2) == 0
    assert made.fleets[V1].replicas == 8
    assert made.status.stable_scale is None


def test_an_autoscaler_of_stable_keeps_it_as_it_is() -> None:
    made = world()
    made.fleets[V1].managed_by = "HorizontalPodAutoscaler vllm-v1"
    go(made, 6)

    assert made.status.reason == Reason.CAPACITY_MANAGED_ELSEWHERE
    assert "minStable is not ours to keep" in made.status.message
    assert made.fleets[V1].scales == []


def test_an_autoscaler_that_appears_at_half_is_left_with_what_there_is_after_an_abort() -> None:
    made = at_half()
    made.fleets[V1].managed_by = "HorizontalPodAutoscaler vllm-v1"
    made.say("abort")
    go(made, 20)

    assert made.status.stable_scale is None
    assert replicas(made) == (5, 4)
    left = [event.message for event in made.events if event.reason is Reason.SCALE_DOWN_LEFT]
    assert any("v1 keeps 5 of 8 replicas" in message and "minimum to 8" in message for message in left)


def test_replicas_that_somebody_gives_stable_are_taken_again_five_times() -> None:
    made = at_half()
    for number in range(7):
        made.fleets[V1].scale(8)
        for _ in range(6):
            made.advance(6)
        assert made.fleets[V1].replicas == (5 if number < 5 else 8)
        made.fleets[V1].settle()

    told = [event for event in made.events if event.reason is Reason.REPLICAS_RESTORED]
    assert len(told) == 5


def test_replicas_that_somebody_takes_from_stable_are_given_back() -> None:
    made = at_half()
    made.fleets[V1].scale(0)
    made.settle()
    assert made.fleets[V1].replicas == 0  # five pods end, and hold their GPUs until they have

    made.fleets[V1].settle()
    made.advance(6)
    assert made.fleets[V1].replicas == 5


def test_pods_that_end_take_room_beside_those_that_a_rise_makes() -> None:
    """Replicas that are raised while pods still end make new ones at once: the old ones do not come back."""
    made = at_half()
    made.fleets[V2].scale(1)  # three pods end
    made.settle()
    made.advance(6)
    assert made.fleets[V2].replicas == 1

    made.fleets[V2].settle()
    made.advance(6)
    assert made.fleets[V2].replicas == 4


@pytest.mark.parametrize("speed", AbortSpeed)
def test_a_rollout_that_is_deleted_leaves_stable_whole(speed: AbortSpeed) -> None:
    made = at_half(replace(TIGHT, abort=speed))
    made.deleting = True
    made.settle()
    assert made.share_of(V2) * 8 == (3 if speed is AbortSpeed.AS_CAPACITY_ALLOWS else 0)
    assert made.finalizer
    go(made, 30)

    assert not made.finalizer
    assert made.share_of(V2) == 0
    assert replicas(made) == (8, 0)


def test_deleted_with_keep_traffic_all_stays_and_that_is_said() -> None:
    made = at_half(on_delete=OnDelete.KEEP_TRAFFIC)
    made.deleting = True
    made.settle()

    assert not made.finalizer
    assert replicas(made) == (5, 4)
    assert any("v1 keeps 5 of 8 replicas" in event.message for event in made.events)


@pytest.mark.parametrize("how", ["release", "haste", "not ready"])
def test_who_is_let_go_in_haste_says_what_stable_keeps(how: str) -> None:
    made = at_half()
    made.deleting = True
    made.release_now = how == "release"
    made.in_haste = how == "haste"
    if how == "not ready":
        made.fleets[V1].pods = []
    made.settle()

    assert not made.finalizer
    assert any("of 8 replicas" in event.message for event in made.events)


def test_a_crash_between_any_two_writes_changes_nothing() -> None:
    """Each plan is carried out up to an action, and then made again from what is stored."""
    made = world()
    for _ in range(14):
        for fleet in made.fleets.values():
            fleet.settle()
        for _ in range(8):
            before = made.status
            made.step()
            made.status = before  # the write of the status did not happen
            made.step()
        made.now += timedelta(seconds=6)
        assert sum(fleet.taken for fleet in made.fleets.values()) <= N + 1

    assert made.status.weight.applied == 5000
    assert replicas(made) == (5, 4)
    assert made.status.stable_scale is not None
    assert made.status.stable_scale.full == 8


def test_a_job_that_fails_before_stable_gave_pods_is_one_write() -> None:
    made = world(TIGHT, weight(10), job())
    go(made, 3)
    made.jobs = dict.fromkeys(made.jobs, JobOutcome.FAILED)
    made.settle()

    assert made.weights == [1000, ZERO]
    assert made.status.reason == Reason.JOB_FAILED


def test_pods_that_hang_pending_end_at_the_deadline_with_stable_whole() -> None:
    made = world(progress_deadline=timedelta(minutes=10))
    go(made, 2)
    fleet = made.fleets[V2]
    for _ in range(20):
        made.fleets[V1].settle()
        fleet.pods = [pod for pod in fleet.pods if pod is not PodState.ENDING]
        made.advance(60)

    assert made.status.phase is Phase.ABORTED
    assert made.fleets[V1].replicas == 8
    assert (fleet.replicas, fleet.ready) == (0, 0)


def test_a_canary_that_was_taken_out_comes_back_by_what_it_carries() -> None:
    """No request was counted under its last weight, and none can be before it has some again."""
    made = world()
    go(made, 2)
    assert made.status.weight.applied == 1250
    capacity, path = made.current.capacity, made.current.path
    assert capacity is not None
    made.rules = [{V1: 100, V2: 0, V3: 0}]
    made.writer = "inference-rollouts"
    made.change(capacity=replace(capacity, ceiling=ZERO), path=replace(path, ceiling=Weight(1250)))
    made.status = replace(
        made.status, weight=replace(made.status.weight, desired=ZERO, applied=ZERO, written=None)
    )
    made.settle()
    made.advance(6)

    assert made.share_of(V2) * 8 == 1


# --- corners ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capacity", "gives"),
    [
        (TIGHT, True),
        (replace(TIGHT, max_surge=None), False),
        (replace(TIGHT, min_stable=PodCount(number=100, percent=True)), False),
        (replace(TIGHT, min_stable=PodCount(number=50, percent=True)), True),
        (replace(TIGHT, min_stable=PodCount(number=100)), True),
    ],
)
def test_whether_stable_may_have_to_give_pods(capacity: Capacity, gives: bool) -> None:
    assert capacity.gives is gives


def test_pods_whose_requests_cannot_be_kept_away_keep_no_traffic_and_go_after_the_timeout() -> None:
    made = judged()
    made.fleets[V2].drain, made.fleets[V2].in_flight = NotControllable("its picker is not ours"), 3
    fail(made)
    made.advance(31)  # its picker may have been starting anew
    assert made.share_of(V2) == 0
    assert "requests cannot be kept from 3 pods of v2" in made.status.drains[0].message
    made.advance(290)
    assert replicas(made) == (5, 4)
    made.advance(11)
    assert replicas(made) == (5, 1)


@pytest.mark.parametrize("arm", [V1, V2])
def test_nothing_is_taken_while_it_is_not_known_what_makes_the_pods(arm: Any) -> None:
    made = world()
    made.fleets[arm].problem = None
    go(made, 2)
    taken = made.fleets[V1].scales[:]
    made.fleets[arm].problem = Blocker(reason=Reason.CAPACITY_UNKNOWN, message="two of them")
    go(made, 3)

    assert made.fleets[V1].scales == taken
    assert "two of them" in made.status.message


def test_what_drains_gets_requests_again_while_the_spec_pauses() -> None:
    made = world()
    made.fleets[V1].drain = Draining(pods=1, requests=1)
    go(made, 3)
    assert made.status.drains
    assert made.spec is not None
    made.edit(replace(made.spec, paused=True))

    assert made.status.drains == ()
    assert made.fleets[V1].scales == []


def test_capacity_taken_out_between_two_moves_lets_the_step_go_on_by_endpoints() -> None:
    made = world()
    go(made, 2)
    assert made.status.weight.applied == 1250
    made.fleets[V2].scale(4)
    made.fleets[V2].settle()
    policy(made, None)
    made.advance(6)

    assert made.status.weight.applied == 5000


def test_a_loser_is_scaled_once_in_a_plan() -> None:
    """By the drain that makes room, and by its own end, which comes in the same moment."""
    made = at_half(replace(TIGHT, abort=AbortSpeed.IMMEDIATE))
    made.fleets[V2].drain, made.fleets[V2].in_flight = Draining(pods=4, requests=4), 4
    to(made, "v1")
    for _ in range(8):
        made.advance(6)
    made.fleets[V2].drain, made.fleets[V2].in_flight = Drained(), 0
    go(made, 12)

    assert replicas(made) == (8, 0)


def test_a_canary_whose_picker_is_down_keeps_nothing() -> None:
    made = judged()
    made.paths = {V2: PathView(problems=(Blocker(reason=Reason.PICKER_MISSING, message="gone"),))}
    fail(made)

    assert made.share_of(V2) == 0


def test_a_route_of_another_rollout_is_said_before_pods_are() -> None:
    made = judged()
    made.claim, made.claimed_by = Claim.OTHER, "other"
    fail(made)

    assert made.status.reason == Reason.ABORT_BLOCKED_BY_CLAIM


@pytest.mark.parametrize("who", ["the API server", "another Rollout"])
def test_a_canary_whose_weight_cannot_be_lowered_keeps_the_pods_for_it(who: str) -> None:
    made = judged()
    if who == "the API server":
        made.refuses = Refused(reason=Reason.TRAFFIC_REFUSED, message="a webhook says no")
    else:
        made.claim, made.claimed_by = Claim.OTHER, "other"
    fail(made)
    for _ in range(40):
        go(made, 1)
        assert (made.share_of(V2) * 2, *replicas(made)) == (1, 5, 4), "four pods for half of the requests"

    made.refuses, made.claim = None, Claim.CONSENTED
    go(made, 20)
    assert made.weights[-4:] == [3750, 2500, 1250, 0], "as stable has pods, and not at once"
    assert replicas(made) == (8, 0)
    assert Reason.RETURN_NOT_WAITED_FOR not in [event.reason for event in made.events]


@pytest.mark.parametrize("begins", ["in a step", "on the way back"])
@pytest.mark.parametrize("ends", ["the Rollout is deleted", "capacity is taken out"])
@pytest.mark.parametrize("why", ["used", "scaled", "unknown", "gone"])
def test_a_canary_that_is_not_ours_to_take_does_not_keep_stable_short_for_ever(
    why: str, ends: str, begins: str
) -> None:
    made = judged()
    if begins == "on the way back":
        fail(made)
    canary = made.fleets[V2]
    if why == "used":
        canary.used_by = "HTTPRoute preview"
    elif why == "scaled":
        canary.managed_by = "HorizontalPodAutoscaler x"
    else:
        canary.problem = Blocker(reason=Reason.CAPACITY_UNKNOWN, message="nobody knows its workload")
        canary.gone = why == "gone"
    if ends == "the Rollout is deleted":
        made.finalizer = made.deleting = True
        made.settle()
    else:
        policy(made, None)
        fail(made)
    for _ in range(20):
        made.fleets[V1].settle()
        canary.pods = [pod for pod in canary.pods if pod is not PodState.ENDING]
        made.advance(6)

    assert (made.share_of(V2), made.fleets[V1].replicas) == (0, N)
    assert made.status.stable_scale is None
    assert made.finalizer is False
    assert any("v2 is not scaled down: " in event.message for event in made.events)


@pytest.mark.parametrize("edit", ["headroom", "surge", "least"])
def test_no_edit_of_the_numbers_holds_up_a_return(edit: str) -> None:
    made = judged()
    changes: dict[str, Any] = {
        "headroom": {"headroom": 3.0},
        "surge": {"max_surge": PodCount(number=0)},
        "least": {"min_replicas": 9},
    }
    policy(made, replace(TIGHT, **changes[edit]))
    go(made, 1)
    fail(made)
    go(made, 30)

    assert made.share_of(V2) == 0
    assert made.fleets[V1].replicas == 8
    assert made.status.stable_scale is None


def test_beside_entries_of_others_the_status_has_the_whole_weights_that_the_canary_keeps() -> None:
    """Theirs are never touched on the way back, so that 37.5 % of our 100 is 37."""
    made = at_half()
    made.rules = [{V1: 50, V2: 50, V3: 5}]
    made.version += 1
    made.settle()
    to(made, "v1")

    assert made.rules == [{V1: 63, V2: 37, V3: 5}]
    assert made.status.weight.applied == 6300, "of the target, which is stable again"
    assert "v2 keeps 37% until then" in made.status.message
    go(made, 20)
    assert made.rules == [{V1: 100, V2: 0, V3: 5}]
    assert replicas(made) == (8, 0)
