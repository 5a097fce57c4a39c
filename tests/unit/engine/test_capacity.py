"""Capacity: the canary is scaled up before its weight, what lost is scaled down after it (design section 14)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest

from rollouts.engine.capacity import infeasible, most_pods, pods_for
from rollouts.engine.observation import Blocker, Claim
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import Capacity, OnDelete, PodCount, TrafficMode
from rollouts.engine.rollout_status import Phase, ScaleDown
from rollouts.engine.versions import Identity
from rollouts.units import FULL, Weight
from tests.kit.fleet import Fleet, PodState
from tests.kit.world import World, pause, pool, spec, weight

V1, V2, V3 = pool("v1"), pool("v2"), pool("v3")
QUICK = Capacity(scale_down_delay=timedelta(minutes=1), drain_timeout=timedelta(minutes=5))
STEPS = (weight(10), pause(), weight(50))


def world(capacity: Capacity = QUICK, *steps: Any, stable: int = 8, canary: int = 0, **fields: Any) -> World:
    made = World(
        spec=spec(*(steps or STEPS), target="v1", capacity=capacity, **fields),
        fleets={V1: Fleet.of("vllm-v1", stable), V2: Fleet.of("vllm-v2", canary)},
    )
    made.settle()
    assert made.status.phase is Phase.HEALTHY
    assert made.spec is not None
    made.edit(replace(made.spec, target=replace(made.spec.target, name="v2")))
    return made


def started(capacity: Capacity = QUICK, *steps: Any, **fields: Any) -> World:
    """In the first pause, at 10 %."""
    made = world(capacity, *steps, **fields)
    come(made, V2)
    assert made.status.phase is Phase.PAUSED
    return made


def promoted(**fields: Any) -> World:
    made = started(**fields)
    made.say("promote")
    for _ in range(3):
        come(made, V2)
    assert made.status.reason == Reason.PROMOTED
    return made


def come(made: World, arm: Identity) -> None:
    """All pods that come are Ready, and the gateways have heard of it."""
    made.fleets[arm].settle()
    made.settle()
    made.advance(4)


def to(made: World, name: str) -> None:
    assert made.spec is not None
    made.edit(replace(made.spec, target=replace(made.spec.target, name=name)))


@pytest.mark.parametrize(
    ("percent", "stable", "policy", "pods"),
    [
        (1, 8, Capacity(), 1),
        (10, 8, Capacity(), 1),
        (50, 8, Capacity(), 4),
        (51, 8, Capacity(), 5),
        (100, 8, Capacity(), 8),
        (100, 8, Capacity(headroom=1.25), 10),
        (100, 8, Capacity(headroom=0.5), 4),
        (10, 8, Capacity(min_replicas=3), 3),
        (100, 3, Capacity(headroom=1.1), 4),
        (0, 8, Capacity(min_replicas=3), 0),
    ],
)
def test_pods_for_a_weight(percent: int, stable: int, policy: Capacity, pods: int) -> None:
    assert pods_for(Weight(percent * 100), stable, policy) == pods


@pytest.mark.parametrize(
    ("policy", "most"),
    [
        (Capacity(), None),
        (Capacity(max_surge=PodCount(number=3)), 11),
        (Capacity(max_surge=PodCount(number=30, percent=True)), 11),
    ],
)
def test_pods_that_both_may_have(policy: Capacity, most: int | None) -> None:
    assert most_pods(8, policy) == most


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (
            Capacity(max_surge=PodCount(number=4)),
            "set maxSurge to 8, minStable to 4, or headroom (endpointRatio as well, where that is more) to 0.5",
        ),
        (Capacity(max_surge=PodCount(number=4), min_replicas=5), "set maxSurge to 8"),
        (Capacity(max_surge=PodCount(number=0)), "set maxSurge to 8"),
        (Capacity(max_surge=PodCount(number=25, percent=True)), "where that is more) to 0.2"),
    ],
)
def test_numbers_that_would_do(policy: Capacity, words: str) -> None:
    told = infeasible(8, policy)

    assert told is not None
    assert told.endswith(words)


def test_what_is_offered_is_feasible() -> None:
    for stable in range(1, 40):
        for spare in range(1, stable):
            tight = Capacity(max_surge=PodCount(number=spare))
            told = infeasible(stable, tight)
            assert told is not None
            assert infeasible(stable, replace(tight, max_surge=PodCount(number=stable))) is None
            if "headroom" in told:
                assert infeasible(stable, replace(tight, headroom=float(told.rsplit(" ", 1)[1]))) is None


def test_the_canary_is_scaled_before_its_first_weight_and_waited_for() -> None:
    made = world()

    assert made.fleets[V2].scales == [1]
    assert made.status.phase is Phase.WAITING
    assert made.status.reason == Reason.WAITING_FOR_PODS
    assert "1 Pending, 0/2 nodes are available: 2 Insufficient nvidia.com/gpu." in made.status.message
    assert made.weights == []

    come(made, V2)

    assert made.weights == [1000]


def test_each_weight_waits_for_its_pods() -> None:
    made = started()
    made.say("promote")

    assert made.fleets[V2].scales == [1, 4]
    assert made.weights == [1000]
    assert made.status.reason == Reason.WAITING_FOR_PODS

    come(made, V2)
    assert made.weights == [1000, 5000]
    assert made.fleets[V2].scales == [1, 4, 8]

    come(made, V2)
    assert made.weights == [1000, 5000, FULL]
    assert made.status.reason == Reason.PROMOTED
    assert made.fleets[V1].scales == []


def test_the_loser_keeps_its_pods_for_the_delay_and_while_it_answers() -> None:
    made = promoted()
    old = made.fleets[V1]
    old.in_flight = 3

    made.advance(59)
    assert made.finalizer
    assert "keeps its pods until" in made.status.scale_downs[0].message
    made.advance(2)
    assert "answers requests" in made.status.scale_downs[0].message
    assert old.scales == []

    old.in_flight = 0
    made.settle()
    assert old.scales == [0]
    assert made.status.scale_downs[0].message == "pods of v1 are ending"
    old.settle()
    made.settle()
    assert made.status.scale_downs == ()
    assert not made.finalizer


@pytest.mark.parametrize("busy", [3, None])
def test_after_drain_timeout_it_is_scaled_down_all_the_same(busy: int | None) -> None:
    made = promoted()
    made.fleets[V1].in_flight = busy

    made.advance(60 + 290)
    assert made.fleets[V1].scales == []
    made.advance(11)
    assert made.fleets[V1].scales == [0]


def test_scale_down_to() -> None:
    made = promoted(capacity=replace(QUICK, scale_down_to=2))

    made.advance(61)

    assert made.fleets[V1].scales == [2]
    come(made, V1)
    assert made.status.scale_downs == ()


def test_an_infeasible_plan_scales_nothing_and_writes_nothing() -> None:
    made = world(Capacity(max_surge=PodCount(number=1)))

    assert made.status.reason == Reason.CAPACITY_INFEASIBLE
    assert "set maxSurge to 8" in made.status.message
    assert made.fleets[V2].scales == []
    assert made.weights == []


def test_an_edit_of_capacity_in_the_middle_applies_to_what_is_left() -> None:
    made = started()
    assert made.spec is not None
    tight = replace(made.spec.canary, capacity=Capacity(max_surge=PodCount(number=2)))
    made.edit(replace(made.spec, canary=tight))
    made.say("promote")

    assert made.status.reason == Reason.CAPACITY_INFEASIBLE
    assert made.fleets[V2].scales == [1]

    wide = replace(made.spec.canary, capacity=Capacity(headroom=1.5))
    made.edit(replace(made.spec, canary=wide))
    assert made.fleets[V2].scales == [1, 6]


def test_capacity_taken_out_in_the_middle_leaves_all_as_it_is() -> None:
    made = started()
    assert made.spec is not None
    made.edit(replace(made.spec, canary=replace(made.spec.canary, capacity=None)))

    assert made.current.capacity is None
    made.say("abort")
    made.advance(3600)
    assert made.fleets[V2].replicas == 1
    assert made.status.scale_downs == ()


def test_an_abort_gives_traffic_back_at_once_and_the_pods_later() -> None:
    made = started()
    made.say("abort")

    assert made.weights[-1] == 0
    assert made.fleets[V2].scales == [1]
    made.advance(61)
    assert made.fleets[V2].scales == [1, 0]
    assert made.fleets[V1].replicas == 8


def test_retry_takes_the_pods_that_are_there() -> None:
    made = started()
    made.say("abort")
    made.say("retry")

    assert made.status.scale_downs == ()
    assert made.status.phase is Phase.PAUSED
    assert made.fleets[V2].scales == [1]


def test_retry_after_the_scale_down_scales_up_again() -> None:
    made = started()
    made.say("abort")
    made.advance(61)
    made.fleets[V2].settle()
    made.say("retry")

    assert made.fleets[V2].scales == [1, 0, 1]
    come(made, V2)
    assert made.status.phase is Phase.PAUSED


def test_a_revert_drops_the_canary_and_its_pods() -> None:
    made = started()
    to(made, "v1")

    assert made.status.phase is Phase.HEALTHY
    made.advance(61)
    assert made.fleets[V2].scales == [1, 0]


def test_a_third_target_waits_for_room_and_shortens_the_delay() -> None:
    made = started(
        Capacity(max_surge=PodCount(number=100, percent=True), scale_down_delay=timedelta(hours=1))
    )
    made.pools[V3] = 0
    made.rules = [{V1: 90, V2: 10, V3: 0}]
    made.fleets[V3] = Fleet.of("vllm-v3", 0)
    made.fleets[V2].scale(8)
    made.fleets[V2].settle()
    to(made, "v3")

    assert made.status.reason == Reason.CAPACITY_EXHAUSTED
    assert "8 of v1 and 8 of v2 leave no room within the 16" in made.status.message
    assert made.fleets[V3].scales == []
    made.advance(31)
    assert made.fleets[V2].scales == [1, 8, 0]
    made.advance(6)
    assert made.fleets[V3].scales == []  # they are still ending
    made.fleets[V2].settle()
    made.advance(6)
    assert made.fleets[V3].scales == [1]


def test_room_is_not_there_before_the_last_pod_is_gone_however_long_that_takes() -> None:
    """A delay that ends because of the next attempt makes the drain's end lie in the past."""
    made = started(
        Capacity(max_surge=PodCount(number=100, percent=True), scale_down_delay=timedelta(hours=2))
    )
    made.pools[V3] = 0
    made.rules = [{V1: 90, V2: 10, V3: 0}]
    made.fleets[V3] = Fleet.of("vllm-v3", 0)
    made.fleets[V2].scale(8)
    made.fleets[V2].settle()
    made.say("pause")
    to(made, "v3")
    made.advance(3600)

    assert made.fleets[V2].scales == [1, 8, 0]
    assert made.fleets[V3].scales == []
    assert made.status.reason == Reason.CAPACITY_EXHAUSTED
    come(made, V2)
    assert made.fleets[V3].scales == [1]


def test_back_within_the_rollback_window_the_pods_are_still_there() -> None:
    made = promoted(rollback_window=timedelta(hours=1))
    to(made, "v1")

    assert made.status.reason == Reason.PROMOTED
    assert made.status.stable is not None
    assert made.status.stable.identity == V1
    assert made.fleets[V1].scales == []
    made.advance(61)
    assert made.fleets[V2].scales[-1] == 0


def test_back_within_the_rollback_window_pods_are_made_again() -> None:
    made = promoted(rollback_window=timedelta(hours=1))
    made.advance(61)
    made.fleets[V1].settle()
    to(made, "v1")

    assert made.fleets[V1].scales == [0, 8]
    assert made.status.reason == Reason.WAITING_FOR_PODS
    come(made, V1)
    assert made.status.reason == Reason.PROMOTED


def test_promote_full_waits_for_all_pods() -> None:
    made = started()
    made.say("promoteFull")

    assert made.fleets[V2].scales == [1, 8]
    assert made.weights == [1000]
    come(made, V2)
    assert made.status.reason == Reason.PROMOTED


@pytest.mark.parametrize("how", ["command", "spec"])
def test_a_pause_holds_the_pods_where_they_are(how: str) -> None:
    made = world()
    assert made.spec is not None
    if how == "command":
        made.say("pause")
    else:
        made.edit(replace(made.spec, paused=True))
    made.fleets[V2].scale(0)
    made.advance(600)

    assert made.fleets[V2].replicas == 0
    if how == "command":
        made.say("resume")
    else:
        made.edit(replace(made.spec, paused=False))
    assert made.fleets[V2].replicas == 1


def test_replicas_that_a_tool_resets_are_restored_and_then_left() -> None:
    made = started()
    fleet = made.fleets[V2]
    for _ in range(5):
        fleet.scale(0)
        made.advance(6)
        assert fleet.replicas == 1
    fleet.scale(0)
    made.advance(6)

    assert fleet.replicas == 0
    assert [event.reason for event in made.events].count(Reason.REPLICAS_RESTORED) == 5
    made.advance(600)
    assert fleet.replicas == 1


def test_replicas_that_somebody_keeps_lowering_are_told() -> None:
    made = world()
    fleet = made.fleets[V2]
    for _ in range(6):
        fleet.scale(0)
        made.advance(6)

    assert made.status.reason == Reason.REPLICAS_CONTENDED
    assert "lowered the replicas of Deployment vllm-v2" in made.status.message


def test_more_replicas_than_wanted_are_left() -> None:
    made = started()
    made.fleets[V2].scale(6)
    made.advance(60)

    assert made.fleets[V2].scales == [1, 6]


def test_a_workload_that_an_autoscaler_has_is_waited_for_and_never_scaled() -> None:
    made = world()
    made.fleets[V2].scale(0)
    made.fleets[V2].managed_by = "HorizontalPodAutoscaler vllm-v2"
    made.advance(10)

    assert made.status.reason == Reason.CAPACITY_MANAGED_ELSEWHERE
    assert (
        "HorizontalPodAutoscaler vllm-v2 scales Deployment vllm-v2, which has 0 replicas"
        in made.status.message
    )
    made.fleets[V2].scale(8)
    come(made, V2)
    made.say("promote")
    assert made.status.reason == Reason.PROMOTED
    made.advance(3600)
    assert made.fleets[V1].scales == []
    assert made.status.scale_downs == ()
    assert made.events[-1].reason == Reason.SCALE_DOWN_LEFT


@pytest.mark.parametrize("which", [V1, V2])
def test_an_unknown_workload_keeps_an_attempt_from_starting(which: Identity) -> None:
    made = world()
    made.fleets[which].problem = Blocker(
        reason=Reason.CAPACITY_UNKNOWN, message="two Deployments match: a, b"
    )
    made.settle()

    assert made.status.reason == Reason.CAPACITY_UNKNOWN
    assert "a, b" in made.status.message
    assert made.weights == []


def test_both_pools_of_one_workload_are_refused() -> None:
    made = world()
    made.fleets[V2].name = "vllm-v1"
    made.settle()

    assert made.status.reason == Reason.CAPACITY_UNKNOWN
    assert "Deployment vllm-v1 makes the pods of v2 and of v1" in made.status.message


def test_a_target_that_lacks_something_else_gets_no_pods_yet() -> None:
    made = World(
        spec=spec(*STEPS, capacity=QUICK),
        fleets={V1: Fleet.of("vllm-v1", 8), V2: Fleet.of("vllm-v2", 0)},
        blockers=(Blocker(reason=Reason.MISSING_MODELS, message="v2 serves no model m: add it"),),
    )
    made.settle()

    assert made.status.phase is Phase.WAITING
    assert made.fleets[V2].scales == []
    made.blockers = ()
    made.settle()
    assert made.fleets[V2].scales == [1]


def test_what_something_else_sends_requests_to_is_left() -> None:
    made = promoted()
    made.fleets[V1].used_by = "HTTPRoute other"
    made.advance(61)

    assert made.fleets[V1].scales == []
    assert made.status.scale_downs[0].message == "HTTPRoute other sends requests to v1"
    made.advance(300)
    assert made.fleets[V1].scales == []
    assert made.status.scale_downs == ()


def test_a_version_that_too_many_others_followed_is_left_with_a_word() -> None:
    made = started()
    olds = [pool(f"old-{number}") for number in range(8)]
    made.status = replace(made.status, scale_downs=tuple(ScaleDown(identity=old) for old in olds))
    to(made, "v1")
    made.settle()
    said = [event.message for event in made.events if event.reason == Reason.SCALE_DOWN_LEFT]

    assert [one.identity for one in made.status.scale_downs] == [*olds[1:], V2]
    assert said == ["old-0 is not scaled down: 8 versions that lost later wait for the same"]


def test_a_loser_that_gets_weight_again_is_not_scaled_down() -> None:
    made = promoted()
    made.spec = None  # nobody restores it
    made.overwrite({V1: 50, V2: 50})
    made.advance(3600)

    assert made.fleets[V1].scales == []


def test_a_refusal_is_told_and_tried_again() -> None:
    made = started()
    made.say("promote")
    made.fleets[V2].scale(1)
    made.fleets[V2].refused = "deployments.apps is forbidden"
    made.step()

    assert made.status.reason == Reason.SCALE_REFUSED
    assert (
        "the API server refuses to scale Deployment vllm-v2: deployments.apps is forbidden"
        in made.status.message
    )
    assert made.fleets[V2].scales == [1, 4, 1, 4]


def test_a_refused_scale_down_is_told_and_given_up() -> None:
    made = promoted()
    old = made.fleets[V1]
    old.refused = "deployments.apps is forbidden"
    made.now += timedelta(seconds=61)
    made.step()
    told = made.step().status.scale_downs

    assert "the API server refuses that: deployments.apps is forbidden" in told[0].message
    old.scale(8)
    old.pods = [PodState.READY] * 8
    made.now += timedelta(seconds=300)
    assert made.step().status.scale_downs == ()
    assert made.events[-1].message == "v1 is not scaled down: deployments.apps is forbidden"


def test_deleting_the_rollout_scales_the_canary_down_first() -> None:
    made = started()
    made.deleting = True
    made.fleets[V2].in_flight = 2
    made.advance(1)
    assert made.weights[-1] == 0
    assert made.finalizer
    made.advance(31)
    assert made.finalizer
    assert "answers requests" in made.status.message
    made.fleets[V2].in_flight = 0
    made.advance(6)

    assert made.fleets[V2].scales == [1, 0]
    assert not made.finalizer
    assert made.fleets[V1].replicas == 8


def test_deleting_with_keep_traffic_scales_nothing() -> None:
    made = started(on_delete=OnDelete.KEEP_TRAFFIC)
    made.deleting = True
    made.advance(3600)

    assert made.fleets[V2].scales == [1]
    assert not made.finalizer


def test_deleting_with_the_traffic() -> None:
    made = started(on_delete=OnDelete.DELETE_TRAFFIC, mode=TrafficMode.MANAGED)
    assert made.claim is Claim.OURS
    made.deleting = True
    made.advance(1)
    made.advance(31)

    assert made.rules is None
    assert made.fleets[V2].scales == [1, 0]
    assert not made.finalizer


def test_a_pod_that_hangs_pending_ends_the_attempt_at_its_deadline() -> None:
    made = world(progress_deadline=timedelta(minutes=10))
    come(made, V2)
    made.say("promote")
    made.advance(599)
    assert made.status.reason == Reason.WAITING_FOR_PODS
    made.advance(2)

    assert made.status.phase is Phase.ABORTED
    assert "3 Pending" in made.status.message
    made.advance(61)
    assert made.fleets[V2].replicas == 0


def test_pods_beyond_what_is_allowed_are_not_asked_for() -> None:
    made = started(Capacity(max_surge=PodCount(number=8)))
    made.fleets[V1].scale(11)  # somebody else's doing
    made.fleets[V1].pods = [PodState.READY] * 11
    made.say("promoteFull")

    assert made.fleets[V2].scales == [1, 5]
    come(made, V2)
    assert made.status.reason == Reason.CAPACITY_EXHAUSTED
    assert "11 of v1 leave no room within the 16" in made.status.message


def test_a_deleted_rollout_does_not_wait_for_what_nobody_can_take_away() -> None:
    """An Adopted route with DeleteTraffic keeps its weights, and so does one of a kind that is not served any more."""
    made = started(on_delete=OnDelete.DELETE_TRAFFIC)
    made.deleting = True
    made.advance(1)

    assert not made.finalizer
    assert made.events[-1].message == "v2 is not scaled down: it still has weight"

    made = started()
    made.say("abort")
    made.served = False
    made.deleting = True
    made.advance(1)
    assert not made.finalizer


def test_a_rollout_is_deleted_after_an_abort() -> None:
    made = started()
    made.say("abort")
    made.deleting = True
    made.advance(31)

    assert made.fleets[V2].scales == [1, 0]
    assert not made.finalizer


def test_capacity_taken_out_after_the_end_leaves_the_loser() -> None:
    made = promoted()
    assert made.spec is not None
    made.edit(replace(made.spec, canary=replace(made.spec.canary, capacity=None)))
    made.advance(3600)

    assert made.fleets[V1].scales == []
    assert not made.finalizer


@pytest.mark.parametrize("what", ["same workload", "autoscaler", "unknown", "gone", "unknown for a while"])
def test_a_loser_that_is_not_ours_to_scale_is_left(what: str) -> None:
    made = promoted()
    old, words = made.fleets[V1], ""
    unknown = Blocker(reason=Reason.CAPACITY_UNKNOWN, message="two Deployments match: a, b")
    if what == "same workload":
        old.name, words = "vllm-v2", "Deployment vllm-v2 makes the pods of both versions"
    elif what == "autoscaler":
        old.managed_by, words = (
            "HorizontalPodAutoscaler old",
            "HorizontalPodAutoscaler old scales Deployment vllm-v1",
        )
    elif what == "gone":
        del made.fleets[V1]
        words = "it is gone"
    else:
        old.problem, words = unknown, unknown.message
    made.advance(61)
    if what in ("unknown", "gone"):
        expected = unknown.message if what == "unknown" else "the pods of v1 are not known yet"
        assert made.status.scale_downs[0].message == expected
        made.advance(301)
    elif what == "unknown for a while":
        old.problem = None
        made.settle()
        assert old.scales == [0]
        return

    assert old.scales == []
    assert made.status.scale_downs == ()
    assert made.events[-1].message == f"v1 is not scaled down: {words}"


def test_a_route_that_nobody_can_read_keeps_the_loser_s_pods() -> None:
    made = promoted()
    made.served = False
    made.advance(3600)

    assert made.fleets[V1].scales == []


def test_a_managed_route_is_made_again_with_the_weight_that_it_had() -> None:
    """Its pods died with the route: those that are left carry what they carried."""
    made = started(mode=TrafficMode.MANAGED)
    made.say("promote")
    come(made, V2)
    had = made.status.weight.ours
    made.fleets[V2].pods = [PodState.READY]
    made.rules = None
    made.settle()

    assert had == Weight(5000)
    assert made.share_of(V2) == Fraction(1, 2)
