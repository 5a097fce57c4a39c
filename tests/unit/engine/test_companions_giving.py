"""Stable gives pods of both kinds, prefill beside decode, and gets them back: each within its own room."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from rollouts.api.status import read_status, write_status
from rollouts.engine.observation import Blocker, Companion, Draining, NotControllable, Refused
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import AbortSpeed, Capacity, OnDeadline, OnDelete, PodCount
from rollouts.engine.rollout_status import CompanionScale, Phase, ScaleDown, StableScale
from rollouts.engine.versions import Identity
from rollouts.objects.companions import MOST
from rollouts.units import format_weight
from tests.kit.fleet import Fleet, PodState
from tests.kit.world import World, pool, spec
from tests.unit.engine.test_companions import (
    P1,
    P2,
    P3,
    STEPS,
    V1,
    V2,
    V3,
    alone,
    come,
    edit,
    replicas,
    to,
    world,
)

SPARE = Capacity(
    max_surge=PodCount(number=1),
    min_stable=PodCount(number=1),
    scale_down_delay=timedelta(minutes=1),
    drain_timeout=timedelta(minutes=5),
)


def fits(made: World, decode: int, prefill: int) -> None:
    assert made.fleets[V1].taken + made.fleets[V2].taken <= decode
    assert made.fleets[P1].taken + made.fleets[P2].taken <= prefill


def walked(made: World, rounds: int, decode: int = 9, prefill: int = 5) -> None:
    """Pods come and go, and each look is within the room."""
    for _ in range(rounds):
        for _ in range(8):
            made.step()
            fits(made, decode, prefill)
        for fleet in made.fleets.values():
            fleet.settle()
        made.now += timedelta(seconds=6)


def at_half(capacity: Capacity = SPARE) -> World:
    """In the step of 50 %, which stable has given pods for."""
    made = world(capacity)
    walked(made, 8)
    assert made.status.phase is Phase.PAUSED
    made.say("promote")
    for _ in range(60):
        if made.share_of(V2) * 2 >= 1:
            return made
        walked(made, 1)
    raise AssertionError(made.status.message)


@pytest.mark.parametrize(("stable", "prefill"), [(8, 4), (4, 3), (3, 9), (2, 2), (8, 1)])
def test_both_kinds_walk_to_the_end_with_one_spare_pod_each(stable: int, prefill: int) -> None:
    made = world(SPARE, stable=stable, prefill=prefill)

    for _ in range(60):
        walked(made, 1, stable + 1, prefill + 1)
        if made.status.phase is Phase.PAUSED:
            made.say("promote")
    assert made.status.reason == Reason.PROMOTED
    assert replicas(made, V2, P2) == [stable, prefill]
    assert made.status.stable_scale is None
    for _ in range(4):
        made.advance(100)
        come(made)
    assert replicas(made, V1, P1) == [0, 0]


def test_the_weight_is_what_the_pods_of_both_kinds_carry() -> None:
    made = world(SPARE, stable=4, prefill=3)
    while made.share_of(V2) * 10 < 1:
        walked(made, 1, 5, 4)
    made.say("promote")
    walked(made, 5, 5, 4)

    shown = {format_weight(weight) for weight in made.weights}
    assert "33.33%" in shown, "one prefill pod of three, whatever decode has"


def test_stable_keeps_of_each_kind_what_its_share_needs() -> None:
    made = at_half()

    assert made.status.stable_scale is not None
    assert replicas(made, V1, P1) == [4, 2]
    assert [one.full for one in made.status.stable_scale.parts] == [8, 4]


def test_an_abort_gives_both_kinds_back_and_traffic_by_the_one_that_has_fewer() -> None:
    made = at_half()
    to(made, "v1")
    fits(made, 9, 5)

    limits = list[int]()
    for _ in range(30):
        walked(made, 1)
        limits.append(round(made.share_of(V2) * 10_000))
    assert limits == sorted(limits, reverse=True)
    assert limits[-1] == 0
    assert replicas(made, V1, P1) == [8, 4]
    assert made.status.stable_scale is None
    for _ in range(4):
        made.advance(100)
        come(made)
    assert replicas(made, V2, P2) == [0, 0]


def test_a_companion_that_lacks_pods_keeps_traffic_where_it_is() -> None:
    made = at_half()
    to(made, "v1")
    made.fleets[V1].scale(8)
    made.fleets[V1].settle()
    made.step()

    assert made.share_of(V2) * 2 == 1, "prefill of stable has 2 of 4 pods"
    assert "2 of 4 of prefill-v1" in made.status.message
    made.say("abort")
    assert made.share_of(V2) == 0


def test_a_return_is_not_waited_for_where_a_companion_of_the_canary_cannot_go() -> None:
    made = at_half()
    made.fleets[P2].drain = NotControllable("not ours")
    to(made, "v1")
    walked(made, 6)

    assert made.share_of(V2) == 0
    assert Reason.RETURN_NOT_WAITED_FOR in [event.reason for event in made.events]


@pytest.mark.parametrize("whose", ["stable", "canary"])
def test_what_cannot_be_drained_is_said_of_either_kind(whose: str) -> None:
    made = world(SPARE, stable=8, prefill=4)
    arm = P1 if whose == "stable" else P2
    made.fleets[arm].drain = NotControllable("its picker is not ours")
    made = replace_start(made)

    assert made.status.reason == Reason.DRAIN_NOT_CONTROLLABLE
    assert arm.name in made.status.message
    assert "its picker is not ours; set maxSurge to 4" in made.status.message
    edit(made, replace(SPARE, max_surge=PodCount(number=4)))
    made.settle()
    assert made.status.reason != Reason.DRAIN_NOT_CONTROLLABLE


def replace_start(made: World) -> World:
    """The same from the beginning: another target, and this one again."""
    to(made, "v1")
    for _ in range(4):
        made.advance(100)
        come(made)
    to(made, "v2")
    return made


def test_only_the_kind_without_room_gives_pods() -> None:
    made = world(replace(SPARE, max_surge=PodCount(number=4)))
    for _ in range(12):
        walked(made, 1, 12, 8)
        if made.status.phase is Phase.PAUSED:
            made.say("promote")

    assert made.status.reason == Reason.PROMOTED
    assert made.fleets[P1].scales == [], "four spare ones are enough for prefill"


def test_the_numbers_that_would_do_are_said() -> None:
    made = world(replace(SPARE, min_stable=PodCount(number=50, percent=True)))

    assert made.status.reason == Reason.CAPACITY_INFEASIBLE
    edit(made, replace(SPARE, min_stable=PodCount(number=4), max_surge=PodCount(number=4)))
    assert made.status.reason != Reason.CAPACITY_INFEASIBLE, "8 + 4 <= 12, and 4 + 4 <= 8"
    made = world(replace(SPARE, min_stable=PodCount(number=3), max_surge=PodCount(number=30, percent=True)))
    assert made.status.reason == Reason.CAPACITY_INFEASIBLE
    assert "set it to 3" in made.status.message or "set maxSurge to 3" in made.status.message


def test_the_number_that_is_said_does_for_all_kinds_of_pods() -> None:
    policy = replace(SPARE, headroom=1.5)
    made = world(policy, stable=4, prefill=8)

    assert made.status.reason == Reason.CAPACITY_INFEASIBLE
    assert "set maxSurge to 5" in made.status.message
    edit(made, replace(policy, max_surge=PodCount(number=5)))
    assert made.status.reason != Reason.CAPACITY_INFEASIBLE


def test_a_lower_minimum_is_said_only_where_it_does_for_all() -> None:
    made = world(
        replace(SPARE, max_surge=PodCount(number=2), min_stable=PodCount(number=4)), stable=8, prefill=3
    )

    assert made.status.reason == Reason.CAPACITY_INFEASIBLE
    assert ", minStable to 2" in made.status.message
    edit(made, replace(SPARE, max_surge=PodCount(number=2), min_stable=PodCount(number=2)))
    assert made.status.reason != Reason.CAPACITY_INFEASIBLE
    made = world(replace(SPARE, min_stable=PodCount(number=4), headroom=1.5), stable=8, prefill=3)
    assert "minStable" not in made.status.message


def test_pods_of_a_companion_that_answer_are_waited_for() -> None:
    made = world(SPARE)
    walked(made, 8)
    made.say("promote")
    made.fleets[P1].drain = Draining(1, 2)
    walked(made, 12)

    assert made.fleets[P1].replicas == 4
    assert "that are to go still answer 2 requests" in made.status.message
    made.now += timedelta(minutes=6)
    walked(made, 2)
    assert made.fleets[P1].replicas < 4, "drainTimeout is over"


def test_what_somebody_takes_from_a_companion_of_stable_is_given_back() -> None:
    made = at_half()
    made.fleets[P1].scale(1)
    walked(made, 3)

    assert made.fleets[P1].replicas == 2


def test_what_somebody_gives_a_companion_of_stable_is_taken_again_when_it_has_drained() -> None:
    made = at_half()
    walked(made, 2)
    made.fleets[P1].scale(4)
    made.fleets[P1].settle()
    for _ in range(4):
        made.advance(6)

    assert made.fleets[P1].replicas == 2
    assert Reason.REPLICAS_RESTORED in [event.reason for event in made.events]


def test_an_autoscaler_of_a_companion_of_stable_has_it_left() -> None:
    made = at_half()
    made.fleets[P1].managed_by = "HorizontalPodAutoscaler x"
    to(made, "v1")
    walked(made, 30)

    assert made.fleets[P1].replicas == 2
    assert made.fleets[V1].replicas == 8
    assert made.status.stable_scale is None
    said = [event.message for event in made.events if event.reason is Reason.SCALE_DOWN_LEFT]
    assert any("prefill-v1 keeps 2 of 4 replicas" in words for words in said)


def test_what_an_autoscaler_leaves_of_one_kind_takes_no_pods_of_it_from_the_canary_for_another_kind() -> None:
    made = with_roles(prefill=8, encode=4)
    (v1, v2), encode = (pool("prefill-v1"), pool("prefill-v2")), pool("encode-v1")
    while made.share_of(V2) * 2 < 1:
        if made.status.phase is Phase.PAUSED:
            made.say("promote")
        walked(made, 1, 9, 9)
    assert replicas(made, v2, v1, encode) == [4, 4, 2]

    made.fleets[v1].managed_by = "HorizontalPodAutoscaler x"
    made.refuses = Refused(reason=Reason.TRAFFIC_REFUSED, message="a webhook says no")
    to(made, "v1")
    walked(made, 20, 9, 9)
    assert (made.share_of(V2) * 2, made.fleets[encode].replicas) == (1, 3), "the spare one"
    assert replicas(made, V2, v2, pool("encode-v2")) == [4, 4, 2], "what half of the requests need"


def without(made: World, arm: Identity, rounds: int) -> None:
    for _ in range(rounds):
        made.advance(6)
        for one, fleet in made.fleets.items():
            if one != arm:
                fleet.settle()


def test_a_companion_of_stable_whose_pool_is_gone_is_waited_for_some_minutes_and_no_traffic_with_it() -> None:
    made = at_half()
    del made.fleets[P1], made.pools[P1]
    to(made, "v1")
    without(made, P1, 20)

    assert made.fleets[V1].replicas == 8
    assert made.share_of(V2) == 0
    assert made.status.stable_scale is not None
    to(made, "v3")
    made.advance(1)
    assert "the pool prefill-v1 is gone: it is waited for until " in made.status.message
    made.now += timedelta(minutes=10)
    without(made, P1, 2)
    assert made.status.stable_scale is None
    said = [event.message for event in made.events if event.reason is Reason.SCALE_DOWN_LEFT]
    kept = "prefill-v1 keeps what it has of 4 replicas: its pool is gone; it gets them when that is over"
    assert said == [kept]


def test_a_pool_that_is_made_anew_gets_its_pods_back() -> None:
    made = at_half()
    to(made, "v1")
    fleet = made.fleets.pop(P1)
    made.step()
    assert made.share_of(V2) * 2 == 1, "v1 has 4 of 8 pods"
    made.fleets[P1] = fleet
    walked(made, 40)

    assert replicas(made, V1, P1) == [8, 4]
    assert made.status.stable_scale is None
    assert Reason.RETURN_NOT_WAITED_FOR not in [event.reason for event in made.events]


@pytest.mark.parametrize("ends", ["abort", "deadline"])
def test_a_companion_of_stable_whose_workload_is_gone_holds_up_nobody_for_longer_than_ten_minutes(
    ends: str,
) -> None:
    made = at_half()
    fleet = made.fleets[P1]
    fleet.problem = Blocker(reason=Reason.CAPACITY_UNKNOWN, message="no Deployment makes them")
    fleet.replicas, fleet.pods = 0, []
    if ends == "abort":
        made.say("abort")
    else:
        made.advance(1801)
        assert "has not come into force for 30m" in made.status.message
        assert "no Deployment makes them" in made.status.message
    walked(made, 10)
    assert made.share_of(V2) == 0
    assert replicas(made, V1) == [8]
    assert "no Deployment makes them: it is waited for until " in made.status.message

    made.advance(600)
    assert made.status.stable_scale is None
    said = [event.message for event in made.events if event.reason is Reason.SCALE_DOWN_LEFT]
    kept = (
        "prefill-v1 keeps what it has of 4 replicas: no Deployment makes them; it gets them when that is over"
    )
    assert said == [kept]
    fleet.problem = None
    fleet.scale(4)
    walked(made, 2)
    made.say("retry")
    walked(made, 10)
    assert made.share_of(V2) > 0


def test_a_workload_of_a_companion_of_the_canary_that_is_gone_ends_the_step_by_its_deadline() -> None:
    made = at_half()
    made.fleets[P2].problem = Blocker(reason=Reason.CAPACITY_UNKNOWN, message="no Deployment makes them")
    made.fleets[P2].replicas, made.fleets[P2].pods = 0, []
    walked(made, 2)
    assert made.status.reason == Reason.CAPACITY_UNKNOWN
    made.advance(1801)

    assert made.status.phase is Phase.ABORTED
    assert "no Deployment makes them" in made.status.message
    walked(made, 40)
    assert replicas(made, V1, P1, V2) == [8, 4, 0]
    for _ in range(3):
        made.advance(400)
    assert made.status.scale_downs == ()


def test_what_makes_no_pods_of_a_companion_of_stable_any_more_is_said() -> None:
    made = at_half()
    made.fleets[P1].problem = Blocker(reason=Reason.CAPACITY_UNKNOWN, message="no Deployment makes them")
    made.say("abort")
    walked(made, 20)
    to(made, "v3")
    made.settle()

    assert "no Deployment makes them" in made.status.message
    made.fleets[P1].problem = None
    walked(made, 20)
    assert replicas(made, P1) == [4]


def owed(why: str = "the controller may not scale anything", *, everything: bool = False) -> World:
    """Aborted at half, and ten minutes later nothing is known to make the pods of stable's prefill."""
    made = at_half()
    for arm, fleet in made.fleets.items():
        if arm == P1 or everything:
            fleet.problem = Blocker(reason=Reason.CAPACITY_UNKNOWN, message=why)
    made.say("abort")
    walked(made, 20)
    made.advance(660)
    assert made.status.owed is not None
    assert [one.identity for one in made.status.owed.companions] == [P1]
    assert read_status(write_status(made.status))[0].owed == made.status.owed
    said = [event.message for event in made.events if event.reason is Reason.SCALE_DOWN_LEFT]
    assert (
        said.count(f"prefill-v1 keeps what it has of 4 replicas: {why}; it gets them when that is over") == 1
    )
    return made


@pytest.mark.parametrize("everything", [False, True])
def test_a_companion_that_nobody_waited_for_gets_its_pods_when_something_makes_them_again(
    everything: bool,
) -> None:
    made = owed(everything=everything)
    assert made.fleets[P1].replicas < 4
    assert (made.status.stable_scale is None) is not everything
    for fleet in made.fleets.values():
        fleet.problem = None
    walked(made, 40, 12, 8)  # what lost was left as it is, if nothing of it could be scaled

    assert replicas(made, V1, P1) == [8, 4]
    assert (made.status.stable_scale, made.status.owed) == (None, None)
    made.say("retry")
    promoted(made, 12, 8)
    assert replicas(made, V2, P2) == [8, 4]


def test_a_workload_that_is_made_anew_with_one_pod_gets_all_before_the_next_attempt_begins() -> None:
    made = owed("no Deployment makes them")
    to(made, "v3")
    for arm, size in {V3: 1, P3: 1, P1: 1}.items():
        made.fleets[arm].scale(size)
        made.fleets[arm].settle()
    made.settle()
    assert made.status.started_at is None
    made.fleets[P1].problem = None
    made.step()

    assert made.status.started_at is None
    assert "v1 gets the pods back that it gave: 8 of 8 are Ready, 1 of 4 of prefill-v1" in made.status.message
    for _ in range(40):
        made.step()
        for fleet in made.fleets.values():
            fleet.settle()
        made.now += timedelta(seconds=6)
    assert made.fleets[P1].replicas == 4
    assert made.status.started_at is not None
    assert made.status.current is not None
    assert made.status.current.capacity is not None
    assert [one.stable_at_start for one in made.status.current.capacity.companions] == [4]


def test_the_number_that_is_owed_is_stored_before_it_is_written() -> None:
    made = owed()
    made.fleets[P1].problem = None
    made.now += timedelta(seconds=1)
    before = made.fleets[P1].replicas
    made.step()

    assert made.fleets[P1].replicas == before
    assert made.status.stable_scale is not None
    assert [(one.identity, one.full) for one in made.status.stable_scale.companions] == [(P1, 4)]
    made.say("abort")
    assert made.status.owed is None


def test_no_more_is_owed_than_a_status_holds() -> None:
    """Of pools that went in other attempts; stable was given others since."""
    made = at_half()
    made.fleets[P1].problem = Blocker(reason=Reason.CAPACITY_UNKNOWN, message="no Deployment makes them")
    made.say("abort")
    walked(made, 20)
    lent = made.status.stable_scale
    assert lent is not None
    former = [pool(f"former-{number}") for number in range(MOST)]
    records = tuple(replace(lent.companions[0], identity=one) for one in former)
    made.status = replace(made.status, owed=replace(lent, companions=records))
    made.advance(660)

    def owed_now() -> list[Identity]:
        return [one.identity for one in made.status.owed.companions] if made.status.owed is not None else []

    assert owed_now() == [*former[1:], P1]
    another = pool("another")
    for one in (*former, P1, another):
        made.fleets[one] = replace(made.fleets[P1], problem=None)
    beside = (replace(lent.companions[0], identity=another),)
    made.status = replace(made.status, stable_scale=replace(lent, companions=beside))
    made.step()
    assert made.status.stable_scale is not None
    assert len(made.status.stable_scale.companions) == MOST
    assert owed_now() == []


def test_several_companions_are_owed_and_come_one_by_one() -> None:
    made, others = with_roles(a=4, b=4), [pool("a-v1"), pool("b-v1")]
    for _ in range(60):
        for _ in range(8):
            made.step()
        for fleet in made.fleets.values():
            fleet.settle()
        made.now += timedelta(seconds=6)
        if made.status.phase is Phase.PAUSED:
            made.say("promote")
        if made.share_of(V2) * 2 >= 1:
            break
    nobody = Blocker(reason=Reason.CAPACITY_UNKNOWN, message="two of them")

    def waits(seconds: int) -> None:
        for _ in range(seconds // 12):
            made.advance(12)
            for arm, fleet in made.fleets.items():
                if arm not in others:
                    fleet.settle()

    def owed_now() -> list[Identity]:
        owed = made.status.owed
        return [one.identity for one in owed.companions] if owed is not None else []

    for arm in others:
        made.fleets[arm].problem = nobody
    made.say("abort")
    waits(720)
    assert owed_now() == others
    made.fleets[others[0]].problem = None
    made.step()
    made.fleets[others[0]].problem = nobody
    assert owed_now() == others[1:]
    waits(720)
    assert owed_now() == others[::-1]
    for number, arm in enumerate(others):
        made.fleets[arm].problem = None
        for _ in range(10):
            made.advance(6)
            made.fleets[arm].settle()
        assert made.fleets[arm].replicas == 4
        assert owed_now() == others[number + 1 :]


@pytest.mark.parametrize("why", ["of another version", "replaced"])
def test_nothing_is_owed_to_what_is_stables_no_more(why: str) -> None:
    made = owed("no Deployment makes them")
    if why == "of another version":
        made.companions = {V1: (), V2: (), V3: alone(P1)}
        made.fleets[P1].problem = None
        made.settle()
        before = made.fleets[P1].replicas
    else:
        made.companions = {}
        edit(made, None)
        made.fleets[V2].scale(8)
        made.fleets[V2].settle()
        made.say("retry")
        for _ in range(60):
            made.advance(6)
            if made.status.phase is Phase.PAUSED:
                made.say("promote")
        assert made.status.stable is not None
        assert made.status.stable.identity == V2
        before = made.fleets[P1].replicas
        made.fleets[P1].problem = None
        made.settle()
    assert made.status.owed is None
    assert made.fleets[P1].replicas == before


def test_pods_that_are_owed_come_where_capacity_was_taken_out() -> None:
    made = owed()
    edit(made, None)
    made.fleets[P1].problem = None
    for _ in range(10):
        made.advance(6)
    assert made.fleets[P1].replicas == 4


def test_a_pool_that_moves_to_another_group_is_owed_its_pods_there() -> None:
    made = owed()
    assert made.status.owed is not None
    v1, p1 = (
        replace(V1, group="inference.networking.k8s.io"),
        replace(P1, group="inference.networking.k8s.io"),
    )
    twins = {arm: replace(arm, group=v1.group) for arm in (V1, V2, V3, P1, P2, P3)}
    made.fleets = {twins[arm]: fleet for arm, fleet in made.fleets.items()}
    made.pools = {twins[arm]: size for arm, size in made.pools.items()}
    made.companions = {twins[arm]: alone(twins[one]) for arm, one in ((V1, P1), (V2, P2), (V3, P3))}
    assert made.rules is not None
    made.rules = [{twins[arm]: weight for arm, weight in rule.items()} for rule in made.rules]
    made.settle()
    assert made.status.owed is not None
    assert made.status.owed.identity == v1
    made.fleets[p1].problem = None
    for _ in range(10):
        made.advance(6)
        made.fleets[p1].settle()
    assert made.fleets[p1].replicas == 4


@pytest.mark.parametrize("late", [False, True])
def test_an_autoscaler_of_decode_has_that_left_and_prefill_gets_its_pods_back(late: bool) -> None:
    made = at_half()
    if late:
        to(made, "v1")
        walked(made, 1)
    made.fleets[V1].managed_by = "HorizontalPodAutoscaler x"
    left = made.fleets[V1].replicas
    made.say("abort") if not late else None
    walked(made, 40)

    assert replicas(made, V1, P1) == [left, 4]
    assert made.status.stable_scale is None
    said = [event.message for event in made.events if event.reason is Reason.SCALE_DOWN_LEFT]
    words = "HorizontalPodAutoscaler x scales Deployment v1: raise its minimum to 8"
    assert said.count(f"v1 keeps {left} of 8 replicas: {words}") == 1
    assert not any(message.startswith("prefill-v1") for message in said)


def test_deleted_while_nothing_makes_pods_of_decode_prefill_gets_its_own_back_first() -> None:
    made = at_half()
    made.fleets[V1].problem = Blocker(reason=Reason.CAPACITY_UNKNOWN, message="none does")
    made.finalizer = made.deleting = True
    walked(made, 40)

    assert made.fleets[P1].replicas == 4
    assert not made.finalizer


def test_a_companion_that_gave_none_is_not_said_to_be_left() -> None:
    made = world(replace(SPARE, max_surge=PodCount(number=4)))
    walked(made, 4, 12, 8)
    made.say("promote")
    while made.status.stable_scale is None:
        walked(made, 1, 12, 8)
    made.fleets[V1].managed_by = "HorizontalPodAutoscaler x"
    to(made, "v1")
    made.advance(6)

    said = [event.message for event in made.events if event.reason is Reason.SCALE_DOWN_LEFT]
    assert any("v1 keeps" in words for words in said)
    assert not any("prefill-v1" in words for words in said)


def test_capacity_taken_out_gives_both_back_at_once() -> None:
    made = at_half()
    edit(made, None)
    walked(made, 4, 100, 100)

    assert replicas(made, V1, P1) == [8, 4]
    assert made.status.stable_scale is None


def test_minimum_raised_in_the_middle_gives_no_more() -> None:
    made = at_half()
    made.say("pause")
    edit(made, replace(SPARE, min_stable=PodCount(number=100, percent=True)))
    walked(made, 4)

    assert replicas(made, V1, P1) == [5, 3], "what there is room for, and no more is given"


def test_deleted_in_the_middle_both_kinds_are_given_back_first() -> None:
    made = at_half(replace(SPARE, abort=AbortSpeed.IMMEDIATE))
    made.finalizer = made.deleting = True
    walked(made, 1)
    assert made.finalizer
    walked(made, 40)

    assert replicas(made, V1, P1, V2, P2) == [8, 4, 0, 0]
    assert not made.finalizer


def test_deleted_while_nobody_knows_what_makes_a_companion() -> None:
    made = at_half()
    made.fleets[P1].problem = Blocker(reason=Reason.CAPACITY_UNKNOWN, message="two of them")
    made.finalizer = made.deleting = True
    walked(made, 40)

    assert made.fleets[V1].replicas == 8
    assert not made.finalizer


def test_kept_traffic_keeps_the_pods_of_both() -> None:
    made = at_half()
    assert made.spec is not None
    made.edit(replace(made.spec, on_delete=OnDelete.KEEP_TRAFFIC))
    made.finalizer = made.deleting = True
    made.step()

    said = [event.message for event in made.events if event.reason is Reason.SCALE_DOWN_LEFT]
    assert any("prefill-v1 keeps 2 of 4 replicas" in words for words in said)


def test_kept_traffic_says_nothing_of_a_companion_that_gave_none() -> None:
    made = world(replace(SPARE, max_surge=PodCount(number=4)))
    walked(made, 4, 12, 8)
    made.say("promote")
    while made.status.stable_scale is None:
        walked(made, 1, 12, 8)
    assert made.spec is not None
    made.edit(replace(made.spec, on_delete=OnDelete.KEEP_TRAFFIC))
    made.finalizer = made.deleting = True
    made.step()

    said = [event.message for event in made.events if event.reason is Reason.SCALE_DOWN_LEFT]
    assert any(words.startswith("v1 keeps") for words in said)
    assert not any("prefill-v1" in words for words in said)


def test_the_next_attempt_waits_for_both() -> None:
    made = at_half()
    to(made, "v3")
    made.step()

    assert "of 4 of prefill-v1" in made.status.message
    for _ in range(60):
        walked(made, 1)
        if made.status.phase is Phase.PAUSED and made.status.started_at is not None:
            break
    assert made.share_of(V3) * 10 == 1
    assert replicas(made, V2, P2) == [0, 0]


def prefill_with_room() -> World:
    """In the step of 50 %, where two spare pods are room enough for all of prefill: decode alone has given any."""
    made = world(replace(SPARE, max_surge=PodCount(number=2)), stable=8, prefill=2)
    for arm in (P1, P2):
        made.fleets[arm].drain = NotControllable("its picker does not pick among its pods")
    for _ in range(60):
        if made.share_of(V2) * 2 >= 1:
            return made
        walked(made, 1, 10, 4)
        if made.status.phase is Phase.PAUSED:
            made.say("promote")
    raise AssertionError(made.status.message)


@pytest.mark.parametrize("also", ["", "HTTPRoute x"])
def test_a_pod_of_a_companion_that_restarts_sends_no_traffic_to_a_stable_that_has_not_its_pods(
    also: str,
) -> None:
    made = prefill_with_room()
    to(made, "v1")
    made.fleets[P1].pods[0] = PodState.STARTING
    made.fleets[P2].used_by = also
    for _ in range(3):
        made.step()

    assert made.share_of(V2) * 2 == 1, "v1 has 4 of 8 pods"
    assert Reason.RETURN_NOT_WAITED_FOR not in [event.reason for event in made.events]
    walked(made, 30, 10, 4)
    assert made.share_of(V2) == 0
    assert replicas(made, V1, P1) == [8, 2]


@pytest.mark.parametrize("arm", [V2, P2])
def test_a_picker_that_starts_anew_ends_no_return(arm: Identity) -> None:
    made = at_half()
    to(made, "v1")
    made.fleets[arm].drain = NotControllable("its picker does not pick among its pods")
    made.step()
    made.now += timedelta(seconds=20)
    made.step()
    made.fleets[arm].drain = None
    for _ in range(2):
        made.step()

    assert made.share_of(V2) * 2 == 1, "v1 has 4 of 8 pods"
    assert Reason.RETURN_NOT_WAITED_FOR not in [event.reason for event in made.events]


def test_a_companion_that_no_status_can_keep_gives_nothing() -> None:
    """As where the CRD is older than the controller."""
    made = world()
    edit(made, SPARE)
    for _ in range(40):
        for _ in range(4):
            made.step()
            if made.status.stable_scale is not None:
                made.status = replace(
                    made.status, stable_scale=replace(made.status.stable_scale, companions=())
                )
        for fleet in made.fleets.values():
            fleet.settle()
        made.now += timedelta(seconds=6)
        if made.status.phase is Phase.PAUSED:
            made.say("promote")
    assert min(made.fleets[P1].scales, default=4) == 4


def test_pods_of_a_companion_whose_pool_is_gone_count_beside_those_of_a_way_back() -> None:
    made = world(SPARE, rollback_window=timedelta(hours=1))
    made.fleets[P2].selector = "app=p2"
    for _ in range(60):
        walked(made, 1)
        if made.status.phase is Phase.PAUSED:
            made.say("promote")
    assert made.status.reason == Reason.PROMOTED
    kept = [one.selector for past in made.status.history for one in past.companions]
    assert "app=p2" in kept
    gone = made.fleets[P2]
    gone.problem, gone.gone = Blocker(reason=Reason.CAPACITY_UNKNOWN, message="its pool is gone"), True
    to(made, "v1")
    for _ in range(40):
        walked(made, 1)

    assert replicas(made, P1) == [1]
    assert "4 of prefill-v2 leave no room within the 5 that maxSurge allows" in made.status.message
    gone.scale(0)
    walked(made, 20)
    assert replicas(made, V1, P1) == [8, 4]
    assert made.share_of(V1) == 1


RELABELLED = {
    "taken over": {V1: alone(P2), V2: alone(P2), V3: alone(P3)},
    "swapped": {V1: alone(P2), V2: alone(P1), V3: alone(P3)},
    "given to stable": {V1: alone(P2), V2: (), V3: alone(P3)},
}


@pytest.mark.parametrize("label", RELABELLED)
def test_labels_that_change_in_an_attempt_make_no_room(label: str) -> None:
    made = at_half()
    made.companions = dict(RELABELLED[label])
    made.overwrite({V1: 100, V2: 0, V3: 0})
    walked(made, 8)


@pytest.mark.parametrize("label", RELABELLED)
def test_what_lost_goes_whatever_labels_say_and_stable_gets_its_own_back(label: str) -> None:
    made = at_half()
    made.companions = dict(RELABELLED[label])
    made.say("abort")
    walked(made, 40)

    assert replicas(made, V1, P1) == [8, 4]
    assert made.status.stable_scale is None
    said = [event.message for event in made.events if event.reason is Reason.SCALE_DOWN_LEFT]
    assert replicas(made, V2, P2) == [0, 1]
    assert "prefill-v2 is not scaled down: it is a companion of another version by now" in said


def with_roles(**roles: int) -> World:
    """Stable has 8 pods, and so many of a companion of each role."""
    sizes, beside = {V1: 8, V2: 0}, dict[Identity, tuple[Companion, ...] | Blocker]()
    for arm in (V1, V2):
        there = tuple(Companion(identity=pool(f"{role}-{arm.name}"), role=role) for role in roles)
        beside[arm] = there
        sizes |= {one.identity: roles[one.role] if arm == V1 else 0 for one in there}
    made = World(
        spec=spec(*STEPS, target="v1", capacity=SPARE),
        rules=[{V1: 100, V2: 0}],
        pools=dict.fromkeys(sizes, 0),
        fleets={arm: Fleet.of(arm.name, size) for arm, size in sizes.items()},
        companions=beside,
    )
    made.settle()
    to(made, "v2")
    return made


def test_the_status_of_the_most_companions_that_may_be_is_stored_and_read() -> None:
    made, most = with_roles(**dict.fromkeys("abcdefgh", 4)), 0
    for _ in range(40):
        for _ in range(8):
            made.step()
            most = max(most, len(made.status.drains))
            assert read_status(write_status(made.status))[0].drains == made.status.drains
        for fleet in made.fleets.values():
            fleet.settle()
        made.now += timedelta(seconds=6)
        if made.status.phase is Phase.PAUSED and made.share_of(V2) * 2 < 1:
            made.say("promote")
        if made.share_of(V2) * 2 >= 1:
            made.say("abort")
    assert most > 8


# --- an autoscaler of one kind ---------------------------------------------------------------------


@pytest.mark.parametrize("scaled", [P1, P2, V2])
@pytest.mark.parametrize("surge", [1, 4])
def test_a_plan_that_an_autoscaler_of_one_kind_stops_waits_before_anything_moves(
    scaled: Identity, surge: int
) -> None:
    made = world(replace(SPARE, max_surge=PodCount(number=surge)), stable=9, scaled=[scaled])
    walked(made, 8, 9 + surge, 4 + surge)

    assert (made.status.phase, made.status.reason) == (Phase.WAITING, Reason.CAPACITY_INFEASIBLE)
    assert "the plan takes pods from v1 while it serves" in made.status.message
    assert (
        f"HorizontalPodAutoscaler x scales Deployment {scaled.name}: take that away, or set maxSurge "
        "to 9, so that stable keeps all of its pods" in made.status.message
    )
    assert [fleet.scales for fleet in made.fleets.values()] == [[]] * 6
    assert made.share_of(V2) == 0


def promoted(made: World, decode: int = 17, prefill: int = 9) -> World:
    for _ in range(60):
        walked(made, 1, decode, prefill)
        if made.status.phase is Phase.PAUSED:
            made.say("promote")
    assert made.status.reason == Reason.PROMOTED, made.status.message
    return made


@pytest.mark.parametrize("surge", [1, 4])
@pytest.mark.parametrize(
    ("scaled", "there"),
    [((V2,), {V2: 8}), ((V2, P2), {V2: 8, P2: 4}), ((P1,), {V2: 8, P2: 4})],
    ids=["decode", "both", "by hand"],
)
def test_a_canary_that_has_all_of_its_pods_needs_none_of_stables(
    scaled: tuple[Identity, ...], there: dict[Identity, int], surge: int
) -> None:
    count = PodCount(number=surge)
    made = world(replace(SPARE, max_surge=count, min_stable=count))
    if P2 not in there:
        made.companions = {}
    to(made, "v1")
    for arm, size in there.items():
        made.fleets[arm].scale(size)
        made.fleets[arm].settle()
    for arm in scaled:
        made.fleets[arm].managed_by = "HorizontalPodAutoscaler x"
    made.settle()
    to(made, "v2")

    promoted(made, 17, 16)
    assert made.fleets[V2].replicas == 8


def test_a_canary_that_lacks_one_of_its_pods_is_told_what_it_lacks() -> None:
    made = world(SPARE, scaled=[V2])
    for arm, size in {V2: 7, P2: 4}.items():
        made.fleets[arm].scale(size)
    come(made)

    assert made.status.reason == Reason.CAPACITY_INFEASIBLE
    assert "the plan takes pods from v1 while it serves" in made.status.message
    made.fleets[V2].scale(8)
    come(made)
    promoted(made, 17, 16)


def test_a_kind_that_is_complete_is_not_the_one_that_is_to_give_pods() -> None:
    made = world(SPARE, scaled=[P2])
    made.fleets[V2].scale(8)
    come(made)

    assert "the plan takes pods from prefill-v1 while it serves" in made.status.message


def split_found(canary: int) -> World:
    """A first install beside a split of 60/40, where an autoscaler scales the target."""
    sizes = {V1: 4, V2: canary, V3: 0}
    made = World(
        spec=spec(*STEPS, target="v2", capacity=SPARE),
        rules=[{V1: 60, V2: 40, V3: 0}],
        pools=dict.fromkeys(sizes, 0),
        fleets={arm: Fleet.of(arm.name, size) for arm, size in sizes.items()},
    )
    made.fleets[V2].managed_by = "HorizontalPodAutoscaler x"
    made.settle()
    return made


@pytest.mark.parametrize("canary", [2, 4, 6])
def test_a_split_that_is_taken_over_has_its_gates_whoever_scales(canary: int) -> None:
    made = split_found(canary)

    assert made.status.current is not None
    assert made.status.current.adopted_split
    assert (made.status.phase, made.status.reason) == (Phase.PAUSED, Reason.PAUSE_STEP)
    made.say("promote")
    for _ in range(20):
        made.advance(6)
    if canary >= 4:
        assert made.status.reason == Reason.PROMOTED
        return
    assert made.status.reason == Reason.CAPACITY_MANAGED_ELSEWHERE
    made.advance(1900)
    made.settle()
    assert made.status.reason == Reason.PROGRESS_DEADLINE_EXCEEDED


def test_a_split_that_is_taken_over_had_traffic_before_its_first_step() -> None:
    made = split_found(0)
    assert made.status.started_at is None
    made.say("abort")

    assert "before any step: aborted by command" in made.status.message
    assert made.share_of(V2) == 0


def test_an_autoscaler_of_a_companion_without_pods_makes_no_room_for_anybody() -> None:
    made = world(SPARE, prefill=0, scaled=[P1])
    made.fleets[V1].drain = NotControllable("its picker is not ours")
    made.settle()
    made.fleets[V1].settle()
    to(made, "v3")
    made.settle()

    assert made.status.reason == Reason.DRAIN_NOT_CONTROLLABLE
    assert made.share_of(V1) == 1


@pytest.mark.parametrize("way", ["taken away", "maxSurge"])
def test_what_the_refusal_says_is_enough(way: str) -> None:
    made = world(SPARE, scaled=[P1])
    assert made.status.reason == Reason.CAPACITY_INFEASIBLE

    if way == "maxSurge":
        edit(made, replace(SPARE, max_surge=PodCount(number=8)))
    else:
        made.fleets[P1].managed_by = ""
    for _ in range(60):
        walked(made, 1, 16, 12)
        if made.status.phase is Phase.PAUSED:
            made.say("promote")
    assert made.status.reason == Reason.PROMOTED


def test_where_all_that_is_to_give_pods_is_scaled_by_others_they_make_the_room() -> None:
    made = world(SPARE, scaled=[V1, P1])
    walked(made, 8)
    assert made.share_of(V2) > 0
    made.fleets[V1].scale(4)
    made.fleets[P1].scale(2)
    for _ in range(60):
        walked(made, 1)
        if made.status.phase is Phase.PAUSED:
            made.say("promote")
    assert made.share_of(V2) * 2 >= 1


@pytest.mark.parametrize("ends", list(OnDeadline))
@pytest.mark.parametrize("scaled", [V1, P1, V2, P2])
def test_an_autoscaler_that_appears_in_the_middle_ends_the_step_by_its_deadline(
    scaled: Identity, ends: OnDeadline
) -> None:
    made = world(SPARE)
    assert made.spec is not None
    made.edit(replace(made.spec, canary=replace(made.spec.canary, on_deadline=ends)))
    walked(made, 8)
    made.say("promote")
    walked(made, 6)
    assert 0.1 < made.share_of(V2) < 0.5
    made.fleets[scaled].managed_by = "HorizontalPodAutoscaler x"
    walked(made, 20)
    assert made.status.reason == Reason.CAPACITY_MANAGED_ELSEWHERE
    assert "take that away, or set maxSurge to 8, so that stable keeps all of its pods" in made.status.message

    made.advance(1900)
    made.settle()
    assert f"HorizontalPodAutoscaler x scales Deployment {scaled.name}" in made.status.message
    if ends is OnDeadline.PAUSE:
        assert (made.status.phase, made.status.reason) == (Phase.PAUSED, Reason.PROGRESS_DEADLINE_EXCEEDED)
        made.say("abort")
    walked(made, 40, 17, 9)
    assert made.status.phase is Phase.ABORTED
    assert made.share_of(V2) == 0
    assert made.status.stable_scale is None

    made.fleets[scaled].managed_by = ""
    made.fleets[V1].scale(8)
    made.fleets[P1].scale(4)
    walked(made, 40, 17, 9)
    made.say("retry")
    walked(made, 20, 17, 9)
    assert made.share_of(V2) > 0


def test_what_is_in_the_way_of_several_kinds_drains_once() -> None:
    made = with_roles(encode=4, prefill=4)
    to(made, "v1")
    made.fleets |= {pool("old"): Fleet.of("old", 3), V2: Fleet.of("v2", 0)}
    lent = [
        CompanionScale(identity=pool(f"{role}-v1"), role=role, full=6, wanted=6, most=7)
        for role in ("encode", "prefill")
    ]
    made.status = replace(
        made.status,
        scale_downs=(ScaleDown(identity=pool("old"), of=V2, role="another"),),
        stable_scale=StableScale(
            identity=V1, full=8, wanted=8, most=9, returning=True, drain_seconds=300, companions=tuple(lent)
        ),
    )
    made.step()

    assert [one.identity.name for one in made.status.drains] == ["old"]
    for _ in range(8):
        made.step()
        for fleet in made.fleets.values():
            fleet.settle()
        made.now += timedelta(seconds=31)
    assert [made.fleets[pool(name)].replicas for name in ("old", "encode-v1", "prefill-v1")] == [0, 6, 6]


# --- pools that move to another API group ----------------------------------------------------------


def switched(made: World, *arms: Identity) -> None:
    """These pools are in the other API group from now on, and the route lists them there."""
    places = {arm: replace(arm, group="inference.networking.k8s.io") for arm in arms}

    def at(arm: Identity) -> Identity:
        return places.get(arm, arm)

    made.fleets = {at(arm): fleet for arm, fleet in made.fleets.items()}
    made.pools = {at(arm): ready for arm, ready in made.pools.items()}
    made.rules = [{at(arm): share for arm, share in rule.items()} for rule in made.rules or []]
    for arm, there in list(made.companions.items()):
        assert isinstance(there, tuple)
        del made.companions[arm]
        made.companions[at(arm)] = tuple(replace(one, identity=at(one.identity)) for one in there)


@pytest.mark.parametrize("when", ["in a step", "on the way back"])
@pytest.mark.parametrize(
    "which", [(V1, V2, V3), (P1, P2, P3), (V1, V2, V3, P1, P2, P3)], ids=["v", "p", "all"]
)
def test_a_return_goes_on_when_pools_move_and_prefill_keeps_what_its_decode_needs(
    which: tuple[Identity, ...], when: str
) -> None:
    made = at_half()
    if when == "in a step":
        switched(made, *which)
        made.settle()
        assert made.status.scale_downs == (), "nothing has lost"
        to(made, "v1")
    else:
        to(made, "v1")
        switched(made, *which)
    for _ in range(60):
        for _ in range(6):
            made.step()
            by_name = {arm.name: (fleet.taken, fleet.ready) for arm, fleet in made.fleets.items()}
            share = next(made.share_of(arm) for arm in made.fleets if arm.name == "v2")
            assert by_name["prefill-v1"][0] + by_name["prefill-v2"][0] <= 5
            assert by_name["prefill-v2"][1] >= share * 4, "what its share needs"
        for fleet in made.fleets.values():
            fleet.settle()
        made.now += timedelta(seconds=6)
    assert {arm.name: fleet.replicas for arm, fleet in made.fleets.items() if fleet.replicas} == {
        "v1": 8,
        "prefill-v1": 4,
    }
    assert not [event.message for event in made.events if event.reason is Reason.SCALE_DOWN_LEFT]
    assert not [event.message for event in made.events if event.reason is Reason.RETURN_NOT_WAITED_FOR]
