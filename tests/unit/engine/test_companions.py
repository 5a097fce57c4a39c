"""Prefill beside decode: companions of a version are scaled with it, Ready before its weight, and go after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rollouts.engine.capacity import companion_pods
from rollouts.engine.observation import Blocker, Companion
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import Capacity, PodCount, WarmUp
from rollouts.engine.rollout_status import Phase, ScaleDown
from rollouts.engine.versions import Identity
from tests.kit.fleet import Fleet, PodState
from tests.kit.world import World, pause, pool, spec, weight

V1, V2, V3 = pool("v1"), pool("v2"), pool("v3")
P1, P2, P3 = pool("prefill-v1"), pool("prefill-v2"), pool("prefill-v3")
QUICK = Capacity(scale_down_delay=timedelta(minutes=1), drain_timeout=timedelta(minutes=5))
STEPS = (weight(10), pause(), weight(50))
ROUTE = {V1: 100, V2: 0, V3: 0}


def alone(companion: Identity, role: str = "") -> tuple[Companion, ...]:
    return (Companion(identity=companion, role=role),)


def world(
    capacity: Capacity = QUICK,
    *,
    stable: int = 8,
    prefill: int = 4,
    scaled: Sequence[Identity] = (),
    **fields: Any,
) -> World:
    """The target is v2 now, whose pods and companions are all at 0. ``scaled``: what has an autoscaler."""
    sizes = {V1: stable, V2: 0, V3: 0, P1: prefill, P2: 0, P3: 0}
    made = World(
        spec=spec(*STEPS, target="v1", capacity=capacity, **fields),
        rules=[dict(ROUTE)],
        pools=dict.fromkeys(sizes, 0),
        fleets={arm: replace(Fleet.of(arm.name, size), accelerators=1) for arm, size in sizes.items()},
        companions={V1: alone(P1), V2: alone(P2), V3: alone(P3)},
    )
    for arm in scaled:
        made.fleets[arm].managed_by = "HorizontalPodAutoscaler x"
    made.settle()
    assert made.status.phase is Phase.HEALTHY
    to(made, "v2")
    return made


def to(made: World, name: str) -> None:
    assert made.spec is not None
    made.edit(replace(made.spec, target=replace(made.spec.target, name=name)))


def edit(made: World, capacity: Capacity | None) -> None:
    assert made.spec is not None
    made.edit(replace(made.spec, canary=replace(made.spec.canary, capacity=capacity)))


def come(made: World, *arms: Identity) -> None:
    """Their pods are Ready, and the gateways have heard of it."""
    for arm in arms or made.fleets:
        made.fleets[arm].settle()
    made.settle()
    made.advance(4)


def started(capacity: Capacity = QUICK, **fields: Any) -> World:
    """In the first pause, at 10 %."""
    made = world(capacity, **fields)
    come(made)
    assert made.status.phase is Phase.PAUSED
    return made


def promoted(capacity: Capacity = QUICK, **fields: Any) -> World:
    made = started(capacity, **fields)
    made.say("promote")
    for _ in range(4):
        come(made)
    assert made.status.reason == Reason.PROMOTED
    return made


def replicas(made: World, *arms: Identity) -> list[int]:
    return [made.fleets[arm].replicas for arm in arms]


def scaled(made: World, arm: Identity) -> list[int]:
    return made.fleets[arm].scales


@pytest.mark.parametrize(
    ("pods", "companions", "stable", "needed"),
    [(1, 4, 8, 1), (3, 4, 8, 2), (8, 4, 8, 4), (1, 12, 4, 3), (0, 4, 8, 0), (2, 0, 8, 0), (2, 3, 0, 3)],
)
def test_as_many_per_pod_as_stable_has_and_never_fewer(
    pods: int, companions: int, stable: int, needed: int
) -> None:
    assert companion_pods(pods, companions, stable) == needed


def test_both_are_scaled_and_the_weight_waits_for_both() -> None:
    made = world()

    assert replicas(made, V2, P2) == [1, 1]
    come(made, V2)
    assert (made.status.reason, made.share_of(V2)) == (Reason.WAITING_FOR_PODS, 0)
    assert "needs 1 Ready pods of prefill-v2, 0 are" in made.status.message
    come(made, P2)
    assert made.share_of(V2) * 100 == 10


def test_the_proportion_is_kept_at_each_step() -> None:
    made = started()

    made.say("promote")
    assert replicas(made, V2, P2) == [4, 2]
    come(made, V2)
    assert made.share_of(V2) * 100 == 10
    come(made, P2)
    come(made)
    assert replicas(made, V2, P2) == [8, 4]


def test_numbers_are_stored_before_a_companion_is_scaled() -> None:
    made = world()
    made.companions[V2] = alone(P3)  # before the first step another one is named

    made.step()

    assert made.current.capacity is not None
    assert [one.canary for one in made.current.capacity.companions] == [P3]
    assert scaled(made, P3) == []
    made.settle()
    assert scaled(made, P3) == [1]


def test_a_companion_that_is_none_any_more_before_the_first_step_loses_its_pods() -> None:
    made = world()
    made.companions[V2] = alone(P3)
    made.settle()

    assert [one.identity for one in made.status.scale_downs] == [P2]
    come(made, V2, P3)
    made.advance(70)
    come(made)
    assert replicas(made, V2, P2, P3) == [1, 0, 1]


def test_who_belongs_together_is_settled_with_the_first_step() -> None:
    made = started()
    made.companions[V2] = ()
    made.settle()

    made.say("promote")

    assert replicas(made, V2, P2) == [4, 2]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {V1: ()},
            "v2 has the companion prefill-v2, and v1 has none: label its pool inferencerollouts.dev/with: v1",
        ),
        (
            {V2: ()},
            "v1 has the companion prefill-v1, and v2 has none: label its pool inferencerollouts.dev/with: v2",
        ),
        (
            {V2: alone(P2, "encode")},
            "v2 has the companion prefill-v2 of role encode, and v1 has none of role encode",
        ),
        ({V2: Blocker(reason=Reason.CAPACITY_UNKNOWN, message="two of them")}, "two of them"),
        ({V2: alone(P1)}, "prefill-v1 belongs to both versions"),
    ],
)
def test_companions_that_do_not_go_together_are_refused_before_anything_is_scaled(
    changed: dict[Identity, Any], words: str
) -> None:
    made = world()
    fresh = World(
        spec=made.spec,
        rules=[dict(ROUTE)],
        pools=dict(made.pools),
        fleets={arm: Fleet.of(arm.name, 8 if arm == V1 else 4 if arm == P1 else 0) for arm in made.fleets},
        companions=made.companions | changed,
    )
    assert fresh.spec is not None
    fresh.spec = replace(fresh.spec, target=replace(fresh.spec.target, name="v1"))
    fresh.settle()
    to(fresh, "v2")

    assert fresh.status.reason == Reason.CAPACITY_UNKNOWN
    assert words in fresh.status.message
    assert all(not fleet.scales for fleet in fresh.fleets.values())


def test_several_companions_go_by_their_roles() -> None:
    made = world()
    encode = {V1: pool("encode-v1"), V2: pool("encode-v2")}
    for arm, other in encode.items():
        made.fleets[other] = Fleet.of(other.name, 2 if arm == V1 else 0)
        made.pools[other] = 0
        first = made.companions[arm]
        assert not isinstance(first, Blocker)
        made.companions[arm] = (*alone(other, "encode"), *first)
    made.settle()
    come(made)
    made.say("promote")

    assert replicas(made, V2, P2, encode[V2]) == [4, 2, 1]


def test_a_companion_counts_by_its_own_number_and_the_same_surge() -> None:
    made = world(replace(QUICK, max_surge=PodCount(number=8)), stable=8, prefill=12)

    assert made.status.reason == Reason.CAPACITY_INFEASIBLE
    assert (
        "prefill-v2 beside prefill-v1: the canary's 12 pods at 100% and 12 of stable's 12 are 24"
        in made.status.message
    )
    assert "leaves room for 20, 8 of them from the start" in made.status.message
    assert "set it to 12, or to a percentage that is as much" in made.status.message
    edit(made, replace(QUICK, max_surge=PodCount(number=100, percent=True)))
    assert replicas(made, V2, P2) == [1, 2]


def test_without_room_for_a_companion_it_waits_and_says_whose_pods_take_it() -> None:
    made = started(replace(QUICK, max_surge=PodCount(number=100, percent=True)))
    made.fleets[P1].scale(8)  # somebody needs more of them for now
    made.fleets[P1].settle()
    made.say("promote")
    come(made, V2)

    assert (made.status.reason, replicas(made, V2, P2)) == (Reason.CAPACITY_EXHAUSTED, [4, 1])
    assert "8 of prefill-v1 leave no room within the 8 that maxSurge allows" in made.status.message
    made.fleets[P1].scale(4)
    come(made, P1)
    assert replicas(made, P2) == [2]


def test_after_a_promotion_both_go_when_neither_answers_and_decode_first() -> None:
    made = promoted()
    made.fleets[P1].in_flight = 2
    made.advance(100)

    assert replicas(made, V1, P1) == [8, 4], "a request is with prefill, and its decode pod shows none"
    made.fleets[P1].in_flight = 0
    made.settle()
    made.advance(6)
    assert replicas(made, V1, P1) == [0, 4]
    assert "pods of v1, which it works for, go first" in [one.message for one in made.status.scale_downs]
    come(made)
    made.advance(6)
    come(made)
    assert replicas(made, V1, P1) == [0, 0]
    assert made.status.scale_downs == ()


def test_a_prefill_that_answers_for_ever_keeps_nobody_for_longer_than_the_timeout() -> None:
    made = promoted()
    made.fleets[P1].in_flight = None
    made.advance(70)
    made.advance(301)
    made.advance(6)
    come(made)
    made.advance(6)
    come(made)

    assert replicas(made, V1, P1) == [0, 0]


def test_what_is_left_of_a_loser_keeps_the_proportion() -> None:
    made = promoted(replace(QUICK, scale_down_to=4))

    for _ in range(4):
        made.advance(70)
        come(made)

    assert replicas(made, V1, P1) == [4, 2]


def test_decode_that_keeps_its_pods_keeps_its_prefill() -> None:
    made = promoted()
    made.fleets[V1].used_by = "HTTPRoute preview"
    made.advance(70)
    made.advance(301)
    made.advance(6)
    made.advance(6)

    assert replicas(made, V1, P1) == [8, 4]
    said = [event.message for event in made.events if event.reason is Reason.SCALE_DOWN_LEFT]
    assert "prefill-v1 is not scaled down: its pods work for v1, which keeps its own" in said


def test_an_abort_scales_both_of_the_canary_down() -> None:
    made = started()
    made.say("abort")
    for _ in range(4):
        made.advance(70)
        come(made)

    assert replicas(made, V1, P1, V2, P2) == [8, 4, 0, 0]
    assert made.status.phase is Phase.ABORTED


def test_retry_takes_both_up_again() -> None:
    made = started()
    made.say("abort")
    made.say("retry")

    assert made.status.scale_downs == ()
    assert replicas(made, V2, P2) == [1, 1]
    made.advance(100)
    come(made)
    assert replicas(made, V2, P2) == [1, 1]
    assert made.share_of(V2) * 100 == 10


def test_another_target_has_its_own_and_the_old_ones_go() -> None:
    made = started()
    to(made, "v3")
    for _ in range(4):
        come(made)
        made.advance(70)

    assert replicas(made, V2, P2, V3, P3) == [0, 0, 1, 1]


def test_a_way_back_in_the_rollback_window_brings_both_back() -> None:
    made = promoted(rollback_window=timedelta(hours=2))
    for _ in range(4):
        made.advance(70)
        come(made)
    assert replicas(made, V1, P1) == [0, 0]

    to(made, "v1")
    assert replicas(made, V1, P1) == [8, 4]
    come(made, V1)
    assert made.share_of(V1) == 0
    come(made, P1)
    assert made.share_of(V1) == 1


def test_a_way_back_that_alone_can_serve_does_not_wait_for_what_nobody_knows() -> None:
    made = promoted(rollback_window=timedelta(hours=2))
    made.companions[V1] = Blocker(reason=Reason.CAPACITY_UNKNOWN, message="two of them")
    made.fleets[V2].pods = [PodState.STARTING] * 8
    to(made, "v1")
    made.advance(4)

    assert made.share_of(V1) == 1


UNKNOWN = Blocker(reason=Reason.CAPACITY_UNKNOWN, message="two of them")


@pytest.mark.parametrize(
    "named",
    [
        {V2: ()},
        {V2: UNKNOWN},
        {V1: UNKNOWN},
        {V1: (), V2: ()},
        {V1: (*alone(P1), *alone(P3, "mine"))},
        {V2: alone(P3, "mine")},
        {V1: alone(P3), V2: ()},
    ],
)
def test_a_way_back_goes_by_the_companions_that_both_carried_all_traffic_with(
    named: dict[Identity, Any],
) -> None:
    made = promoted(rollback_window=timedelta(hours=2))
    for _ in range(4):
        made.advance(70)
        come(made)
    assert replicas(made, V1, P1) == [0, 0]

    made.companions |= named
    to(made, "v1")

    assert replicas(made, V1, P1, P3) == [8, 4, 0]
    come(made)
    assert made.share_of(V1) == 1
    made.companions[V1] = alone(P1)
    for _ in range(4):
        made.advance(70)
        come(made)
    assert replicas(made, V2, P2) == [0, 0], "those of what lost go with it"


@pytest.mark.parametrize("deleting", [False, True])
def test_what_a_status_calls_its_own_companion_is_not_waited_for(deleting: bool) -> None:
    made = promoted()
    for _ in range(10):
        come(made)
        made.now += timedelta(minutes=1)
    made.status = replace(made.status, scale_downs=(ScaleDown(identity=V1, of=V1),))
    made.deleting = made.finalizer = deleting

    come(made)

    assert made.status.scale_downs == ()
    assert not made.finalizer


@pytest.mark.parametrize("deleting", [False, True])
def test_companions_that_work_for_each_other_wait_for_nobody(deleting: bool) -> None:
    """Only a status that somebody edited says so. Who works for one of them goes behind it, as ever."""
    made = promoted()
    made.fleets[P3].scale(4)
    made.fleets[P3].settle()
    made.status = replace(
        made.status,
        scale_downs=(
            ScaleDown(identity=P1, of=P3, pods=4, of_pods=8),
            ScaleDown(identity=V1, of=P1, pods=4, of_pods=8),
            ScaleDown(identity=P3, of=P1, pods=4, of_pods=8),
        ),
    )
    made.deleting = made.finalizer = deleting
    for _ in range(10):
        made.advance(70)
        assert replicas(made, P1) == [0] or replicas(made, V1) == [8], "P1 goes first"
        come(made)

    assert made.status.scale_downs == ()
    assert replicas(made, V1, P1, P3) == [0, 0, 0]
    assert not made.finalizer


def test_the_pool_of_stables_companion_may_be_gone_by_then() -> None:
    made = promoted(rollback_window=timedelta(hours=2))
    for _ in range(4):
        made.advance(70)
        come(made)
    made.companions[V2] = ()
    del made.fleets[P2], made.pools[P2]
    to(made, "v1")

    assert replicas(made, V1, P1) == [8, 4]
    come(made)
    assert made.share_of(V1) == 1


@pytest.mark.parametrize("lost", ["gone", "unknown", "shared"])
def test_a_companion_that_is_lost_keeps_no_way_back_and_is_named(lost: str) -> None:
    made = promoted(rollback_window=timedelta(hours=2))
    if lost == "gone":
        del made.fleets[P1], made.pools[P1]
    elif lost == "unknown":
        made.fleets[P1].problem = UNKNOWN
    else:
        made.fleets[P1].name = "v2"
    to(made, "v1")
    come(made, V1)

    assert made.share_of(V1) == 1
    said = [event.message for event in made.events if event.reason is Reason.CAPACITY_UNKNOWN]
    words = {
        "gone": "the pods of prefill-v1 are not known",
        "unknown": "two of them",
        "shared": "Deployment v2 makes",
    }
    assert [words[lost] in one for one in said] == [True]


@pytest.mark.parametrize(
    "named", [{V1: UNKNOWN}, {V2: UNKNOWN}, {V1: alone(P1), V2: ()}, {V1: alone(P1), V2: alone(P2)}]
)
def test_a_way_back_whose_pods_were_never_counted_goes_by_what_is_named(named: dict[Identity, Any]) -> None:
    made = promoted(rollback_window=timedelta(hours=2))
    made.status = replace(
        made.status, history=tuple(replace(one, pods=0, companions=()) for one in made.status.history)
    )
    made.companions |= named
    to(made, "v1")
    come(made)

    assert made.share_of(V1) == 1
    said = [event for event in made.events if event.reason is Reason.CAPACITY_UNKNOWN]
    assert len(said) == (0 if named.get(V2) == alone(P2) else 1)


def test_steps_to_a_version_go_by_the_companion_that_stable_was_promoted_with() -> None:
    made = promoted()
    made.companions[V2] = ()
    to(made, "v3")

    assert replicas(made, V3, P3) == [1, 1]


def test_promote_full_of_a_version_that_never_was_stable_waits_for_what_nobody_knows() -> None:
    made = world()
    made.companions[V2] = UNKNOWN
    made.say("promoteFull")

    assert (made.status.reason, made.share_of(V2)) == (Reason.CAPACITY_UNKNOWN, 0)


def test_promote_full_gets_all_of_both() -> None:
    made = started()
    made.say("promoteFull")

    assert replicas(made, V2, P2) == [8, 4]
    come(made, V2)
    assert made.share_of(V2) * 100 == 10
    come(made, P2)
    assert made.share_of(V2) == 1


def test_a_deletion_scales_both_down_before_the_rollout_goes() -> None:
    made = started()
    made.finalizer = made.deleting = True
    for _ in range(6):
        made.settle()
        made.now += timedelta(seconds=31)
        for fleet in made.fleets.values():
            fleet.settle()

    assert replicas(made, V1, P1, V2, P2) == [8, 4, 0, 0]
    assert not made.finalizer


@pytest.mark.parametrize("arm", [V2, P2])
def test_what_was_said_to_a_rise_leaves_nothing_of_a_deleted_rollout_without_a_try(arm: Identity) -> None:
    made = started()
    made.fleets[arm].refused = "no answer within 10 s"  # it was stored all the same
    made.finalizer = made.deleting = True
    while not made.status.scale_downs:
        made.step()
    made.fleets[arm].refused = ""
    for _ in range(6):
        made.settle()
        made.now += timedelta(seconds=31)
        for fleet in made.fleets.values():
            fleet.settle()

    assert (made.finalizer, replicas(made, V2, P2)) == (False, [0, 0])
    assert left(made) == []


def test_replicas_of_a_companion_that_somebody_lowers_are_restored() -> None:
    made = started()
    made.fleets[P2].scale(0)
    made.settle()

    assert replicas(made, P2) == [1]
    said = [event.message for event in made.events if event.reason is Reason.REPLICAS_RESTORED]
    assert said == ["somebody gave Deployment prefill-v2 0 replicas; restoring 1"]


def test_five_times_in_ten_minutes_and_then_it_is_said() -> None:
    made = started()
    for _ in range(6):
        made.fleets[P2].scale(0)
        made.settle()
    made.say("promote")

    assert replicas(made, P2) == [0]
    assert made.current.capacity is not None
    assert len(made.current.capacity.companions[0].restores) == 5
    come(made, V2)
    assert "somebody lowered the replicas of Deployment prefill-v2 5 times" in made.status.message


def test_an_autoscaler_of_a_companion_is_waited_for() -> None:
    made = world()
    made.fleets[P2].scale(0)
    made.fleets[P2].scales.clear()
    made.fleets[P2].managed_by = "HorizontalPodAutoscaler prefill"
    made.settle()
    come(made, V2)

    assert made.status.reason == Reason.CAPACITY_MANAGED_ELSEWHERE
    assert "scales Deployment prefill-v2, which has 0 replicas" in made.status.message
    assert scaled(made, P2) == []


def test_an_autoscaler_of_stables_companion_keeps_that_of_the_loser() -> None:
    made = started()
    made.fleets[P1].managed_by = "HorizontalPodAutoscaler prefill"
    made.say("abort")
    for _ in range(4):
        made.advance(70)
        come(made)

    assert replicas(made, V2, P2) == [0, 1]


def test_pending_pods_of_a_companion_end_the_delay_of_a_loser() -> None:
    made = started(replace(QUICK, scale_down_delay=timedelta(hours=1)))
    to(made, "v3")
    come(made, V3)
    made.advance(31)
    made.advance(6)

    assert made.fleets[P3].pods == [PodState.PENDING]
    assert replicas(made, V2) == [0]


def test_accelerators_of_companions_are_counted() -> None:
    made = started()

    use = made.status.accelerators
    assert use is not None
    assert (use.own, use.held) == (12, 14)


def test_a_companion_whose_pool_goes_in_the_middle_is_named() -> None:
    made = started()
    del made.fleets[P2]
    made.say("promote")

    assert made.status.reason == Reason.CAPACITY_UNKNOWN
    assert "the pods of prefill-v2 are not known yet" in made.status.message


def test_a_companion_that_moves_to_another_api_group_is_followed() -> None:
    made = started()
    moved = replace(P2, group="inference.networking.k8s.io")
    made.fleets[moved] = made.fleets.pop(P2)
    made.pools[moved] = made.pools.pop(P2)
    made.companions[V2] = alone(moved)
    made.say("promote")

    assert replicas(made, V2, moved) == [4, 2]


def test_a_stable_without_prefill_pods_asks_for_none() -> None:
    made = world(prefill=0)
    come(made, V2)

    assert replicas(made, V2, P2) == [1, 0]
    assert made.share_of(V2) * 100 == 10


def test_pods_of_a_companion_are_not_warmed_up() -> None:
    made = world(replace(QUICK, warm_up=WarmUp()))
    made.fleets[V2].warms = True
    come(made)

    assert made.share_of(V2) * 100 == 10


def test_companions_that_are_named_one_after_the_other_before_the_start_all_count() -> None:
    made = world()
    made.companions |= {V1: (), V2: ()}
    made.settle()
    made.fleets[P2].scale(1)
    made.companions[V2] = alone(P2)
    come(made)
    assert (made.status.reason, made.share_of(V2)) == (Reason.CAPACITY_UNKNOWN, 0)

    made.companions[V1] = alone(P1)
    come(made)
    assert made.share_of(V2) * 100 == 10
    made.say("promote")

    assert replicas(made, V2, P2) == [4, 2]


def test_a_companion_whose_label_is_taken_away_before_the_start_keeps_the_pods_that_it_was_given() -> None:
    made = world()
    assert replicas(made, P2) == [1]
    made.companions |= {V1: (), V2: ()}
    come(made)
    made.advance(100)
    come(made)

    assert (made.share_of(V2) * 100, replicas(made, P2)) == (10, [1])
    said = [event.message for event in made.events if event.reason is Reason.SCALE_DOWN_LEFT]
    assert said == [
        "prefill-v2 is not scaled down: it is no companion of v2 any more, and nothing took its place"
    ]


def test_companions_keep_their_pods_while_nobody_knows_which_stable_has() -> None:
    made = promoted()
    made.companions[V2] = UNKNOWN
    for _ in range(4):
        made.advance(70)
        come(made)
    assert replicas(made, V1, P1) == [0, 4]
    assert [one.message for one in made.status.scale_downs] == [
        "pods of v1 are gone; what works for it goes next",
        "two of them",
    ]

    made.companions[V2] = alone(P1)  # one for both versions, which is seen only now
    made.settle()
    assert made.status.scale_downs == ()

    assert replicas(made, P1) == [4]


def test_a_picture_from_before_the_end_of_decode_keeps_no_prefill() -> None:
    made = promoted()
    made.advance(70)
    assert replicas(made, V1, P1) == [0, 4]
    made.fleets[P1].in_flight = 2
    come(made)
    assert made.fleets[V1].taken == 0

    now = made.fleets[V1]
    made.fleets[V1] = Fleet.of(V1.name, 8)  # as a process sees it that has just begun
    made.fleets[P1].in_flight = 0
    made.step()
    made.fleets[V1] = now
    for _ in range(4):
        made.advance(70)
        come(made)

    assert replicas(made, V1, P1) == [0, 0]
    assert left(made) == []
    assert made.status.scale_downs == ()


def test_nor_does_that_hold_a_deletion() -> None:
    made = promoted()
    made.companions[V2] = UNKNOWN
    made.finalizer = made.deleting = True
    for _ in range(6):
        made.settle()
        made.now += timedelta(seconds=31)
        for fleet in made.fleets.values():
            fleet.settle()

    assert (made.finalizer, replicas(made, V1, P1)) == (False, [0, 4])


def test_what_lost_counts_beside_the_canary_whatever_its_role_was_then() -> None:
    surge = PodCount(number=100, percent=True)
    made = promoted(replace(QUICK, scale_down_delay=timedelta(hours=1), max_surge=surge))
    made.companions |= {V2: alone(P2, "prefill"), V3: alone(P3, "prefill")}
    to(made, "v3")
    made.say("promoteFull")

    assert replicas(made, P1, P2, P3) == [4, 4, 0]


def test_a_version_whose_name_is_too_long_for_a_label_is_to_be_named_in_the_list() -> None:
    made = world()
    long = pool("v" * 64)
    made.pools[long], made.fleets[long] = 0, Fleet.of(long.name, 0)
    for rule in made.rules or []:
        rule[long] = 0
    made.settle()
    to(made, long.name)

    assert (
        f"and {long.name} has none: name it in capacity.with (pool, of: {long.name})" in made.status.message
    )


def test_a_companion_of_what_lost_that_a_label_gives_to_the_next_target_is_said_to_stay() -> None:
    made = started()
    to(made, "v3")
    assert "prefill-v2" in {one.identity.name for one in made.status.scale_downs}

    made.companions[V3] = alone(P2)
    made.companions[V1] = Blocker(reason=Reason.CAPACITY_UNKNOWN, message="two of them")
    made.step()
    made.companions[V3], made.companions[V1] = alone(P3), alone(P1)
    for _ in range(4):
        made.advance(100)
        come(made)

    said = [event.message for event in made.events if event.reason is Reason.SCALE_DOWN_LEFT]
    assert said == ["prefill-v2 is not scaled down: it is a companion of another version by now"]
    assert replicas(made, V2, P2) == [0, 1]


def test_a_label_that_goes_to_another_pool_and_comes_back_leaves_nothing() -> None:
    made = world()
    made.companions[V2] = alone(P3)
    made.step()
    assert [one.identity for one in made.status.scale_downs] == [P2]

    made.companions[V2] = alone(P2)
    for _ in range(4):
        made.advance(100)
        come(made)

    assert replicas(made, V2, P2, P3) == [1, 1, 0]
    assert [event for event in made.events if event.reason is Reason.SCALE_DOWN_LEFT] == []


WIDE = replace(QUICK, max_surge=PodCount(number=100, percent=True))


def left(made: World) -> list[str]:
    """What was said of pods that are not scaled."""
    return [event.message for event in made.events if event.reason is Reason.SCALE_DOWN_LEFT]


def test_a_companion_of_stable_counts_nowhere_once_another_is_named_before_the_first_step_and_that_is_said() -> (
    None
):
    made = world(WIDE)
    assert replicas(made, V2, P1, P2) == [1, 4, 1]
    made.fleets[P3].scale(2)
    made.companions[V1] = alone(P3)
    come(made)
    made.advance(100)
    come(made)

    assert made.share_of(V2) * 100 == 10
    assert left(made) == [
        "prefill-v1 is not scaled down: prefill-v3 is v1's companion now, and its pods count nowhere"
    ]
    assert replicas(made, P1) == [4]


def test_so_it_is_for_what_stable_was_promoted_with() -> None:
    made = promoted(WIDE)
    for _ in range(4):
        made.advance(100)
        come(made)
    assert replicas(made, P1, P2) == [0, 4]
    made.fleets[P1].scale(2)
    made.companions[V2] = alone(P1)
    to(made, "v3")
    come(made)

    assert made.share_of(V3) * 100 == 10
    assert left(made) == [
        "prefill-v2 is not scaled down: prefill-v1 is v2's companion now, and its pods count nowhere"
    ]


@pytest.mark.parametrize("pods", [0, 4])
def test_a_companion_that_has_no_pods_or_is_named_again_is_not_spoken_of(pods: int) -> None:
    made = world(WIDE)
    if pods:
        made.companions[V1] = alone(P1)
    else:
        made.fleets[P1].scale(0)
        made.fleets[P1].settle()
        made.companions[V1] = alone(P3)
    come(made)

    assert left(made) == []


def test_what_a_version_that_is_tried_again_has_is_its_own() -> None:
    made = started()
    made.say("abort")
    made.say("retry")
    come(made)

    assert [event for event in made.events if event.reason is Reason.SCALE_DOWN_LEFT] == []
    assert made.status.scale_downs == ()
