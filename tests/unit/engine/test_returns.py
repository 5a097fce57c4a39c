"""A return of traffic with pods ends, whatever keeps the pods, and no canary that cannot serve keeps any."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from rollouts.engine.actions import ReturnTraffic, SetFinalizer
from rollouts.engine.observation import Blocker, Claim, CrashView, Draining, NotControllable, Problem, Refused
from rollouts.engine.planning import plan
from rollouts.engine.reasons import Reason
from rollouts.engine.returning import PATIENCE, STARTING
from rollouts.engine.rollout_status import Phase
from rollouts.engine.versions import Identity
from rollouts.units import FULL, Weight
from tests.kit.fleet import Fleet, PodState
from tests.kit.world import World, pause, spec, weight
from tests.unit.engine.test_making_room import (
    TIGHT,
    V1,
    V2,
    N,
    at_half,
    fail,
    go,
    judged,
    policy,
    replicas,
    to,
    world,
)

Trouble = Callable[[World], None]


def still(made: World, seconds: int = 0, *, step: int = 10) -> None:
    """Time passes, and no pod changes."""
    for _ in range(seconds // step):
        made.advance(step)


def told(made: World) -> list[str]:
    return [event.message for event in made.events if event.reason is Reason.RETURN_NOT_WAITED_FOR]


# --- no progress -----------------------------------------------------------------------------------


def test_a_return_that_makes_no_progress_is_waited_for_no_longer() -> None:
    made, words = judged(), "1 pods of v2 are still Terminating"
    fail(made)
    assert made.share_of(V2) * 8 == 3
    still(made, int(PATIENCE.total_seconds()) - 10)
    assert made.share_of(V2) * 8 == 3
    assert words in made.status.message

    still(made, 30)

    assert made.share_of(V2) == 0
    [said] = told(made)
    assert said.startswith("v1 gets all traffic with 5 of 8 Ready pods: no progress for 2 minutes")
    assert words in said
    assert "serves (v1 has 5 of 8 Ready pods: no progress for 2 minutes" in made.status.message
    assert words in made.status.message


def test_a_finalizer_that_is_refused_makes_no_return_wait_for_longer() -> None:
    made = judged()
    fail(made)
    made.finalizer = False
    refusal = Refused(reason=Reason.TRAFFIC_REFUSED, message="the API server refuses the Rollout's finalizer")

    for _ in range(30):
        decided = plan(made.observe(), made.now)
        if any(isinstance(action, SetFinalizer) for action in decided.actions):
            for action in decided.actions:
                if isinstance(action, ReturnTraffic):  # comes first
                    made.perform(action)
            decided = plan(replace(made.observe(), refused=refusal), made.now)
        for action in decided.actions:
            made.perform(action)
        made.status = decided.status
        made.now += timedelta(seconds=5)

    assert made.share_of(V2) == 0
    assert len(told(made)) == 1


@pytest.mark.parametrize("arm", [V1, V2])
def test_a_scale_that_is_refused_ends_it_and_is_said(arm: Identity) -> None:
    made = judged()
    fail(made)
    if arm == V1:
        made.fleets[V2].settle()
        made.settle()
    made.fleets[V2].settle()
    had = replicas(made)
    made.fleets[arm].refused = "forbidden"
    for _ in range(30):
        made.now += timedelta(seconds=6)
        made.step()
        fleet = made.fleets[arm]
        fleet.replicas = had[0 if arm == V1 else 1]  # the API server stored nothing
        fleet.pods = fleet.pods[: fleet.replicas]

    assert made.share_of(V2) == 0
    assert f"the API server refuses to scale Deployment vllm-{arm.name}: forbidden" in told(made)[0]


def test_pods_of_stable_that_find_no_node_are_waited_for_as_long() -> None:
    made = judged()
    fail(made)
    made.fleets[V2].settle()
    made.advance(6)
    assert replicas(made) == (6, 3)
    still(made, 150)

    assert made.share_of(V2) == 0
    assert "1 Pending: 0/2 nodes are available" in told(made)[0]


@pytest.mark.parametrize(("minutes", "back"), [(9, False), (11, True)])
def test_a_pod_of_stable_that_starts_has_the_time_that_servers_take(minutes: int, back: bool) -> None:
    made = judged()
    fail(made)
    made.fleets[V2].settle()
    made.advance(6)
    made.fleets[V1].pods[-1] = PodState.STARTING
    still(made, minutes * 60, step=30)

    assert (made.share_of(V2) == 0) is back
    assert timedelta(minutes=9) < STARTING < timedelta(minutes=11)
    assert [("1 pods of v1 start and are not Ready" in said) for said in told(made)] == [True] * back


def test_pods_that_come_and_go_are_no_progress() -> None:
    made = judged()
    fail(made)
    for _ in range(20):
        made.fleets[V1].pods[0] = PodState.STARTING
        made.advance(20)
        made.fleets[V1].pods[0] = PodState.READY
        made.advance(20)

    assert made.share_of(V2) == 0
    assert len(told(made)) == 1


def test_a_drain_is_waited_for_within_drain_timeout_of_the_whole_return_whatever_is_edited() -> None:
    made = judged()
    made.fleets[V2].drain = Draining(pods=1, requests=2, free=0)
    made.fleets[V2].in_flight = 2
    fail(made)
    policy(made, replace(TIGHT, drain_timeout=timedelta(hours=100)))
    still(made, 290)
    assert made.share_of(V2) * 8 == 3
    still(made, 150)

    assert made.share_of(V2) == 0
    assert "1 pods of v2 that are to go still answer requests" in told(made)[0]
    assert replicas(made) == (5, 3), "drainTimeout as it was: the edit counts for nothing"


def test_each_step_further_has_its_own_time_and_a_return_that_gets_on_is_not_ended() -> None:
    made = judged()
    fail(made)
    for _ in range(12):
        still(made, 100)
        for fleet in made.fleets.values():
            fleet.settle()

    assert told(made) == []
    assert replicas(made) == (N, 0)
    assert made.share_of(V2) == 0


def test_a_crash_before_the_status_is_stored_decides_the_same_again() -> None:
    made = judged()
    fail(made)
    still(made, 110)
    made.now += timedelta(seconds=30)
    before = made.status
    made.step()
    made.status = before
    made.settle()

    assert made.share_of(V2) == 0
    assert made.status.stable_scale is not None
    assert made.status.stable_scale.immediate
    assert made.weights[-1] == 0


def test_a_revert_and_a_deletion_end_as_well() -> None:
    made, other = at_half(), at_half()
    to(made, "v1")
    other.deleting = True
    other.settle()
    for one in (made, other):
        assert one.share_of(V2) * 8 == 3
        still(one, 180)
        assert one.share_of(V2) == 0
        assert len(told(one)) == 1
    assert "v1 (" in made.status.message
    assert "has 5 of 8 Ready pods" in made.status.message


# --- a canary that cannot serve --------------------------------------------------------------------


def not_controllable(made: World) -> None:
    made.fleets[V2].drain = NotControllable("its picker is not ours")


def used(made: World) -> None:
    made.fleets[V2].used_by = "HTTPRoute preview"


def refusing(made: World) -> None:
    made.crashes = {V2: CrashView(pods=3, refusing=True), V1: CrashView(pods=5)}


@pytest.mark.parametrize("trouble", [not_controllable, used, refusing])
@pytest.mark.parametrize("early", [True, False])
def test_what_makes_waiting_senseless_ends_it_at_once(trouble: Trouble, early: bool) -> None:
    made = judged()
    if early:
        trouble(made)
        fail(made)
    else:
        fail(made)
        assert made.share_of(V2) * 8 == 3
        trouble(made)
        made.settle()

    if trouble is not_controllable:
        assert made.share_of(V2) * 8 == 3, "its picker may be starting anew"
        made.now += timedelta(seconds=31)
        made.settle()

    assert made.share_of(V2) == 0
    assert len(told(made)) == 1


def test_crashes_count_on_after_an_abort() -> None:
    made = judged()
    fail(made)
    for restarts in range(5, 60, 5):
        made.crashes = {V2: CrashView(pods=3, restarts=restarts), V1: CrashView(pods=5)}
        made.advance(11)

    assert made.share_of(V2) == 0
    assert "its pods crashed" in told(made)[0]


def test_a_canary_keeps_no_more_than_its_ready_pods_carry() -> None:
    made = judged()
    fail(made)
    made.fleets[V2].pods = [PodState.READY, PodState.STARTING, PodState.STARTING]
    made.settle()

    assert made.share_of(V2) * 8 == 1
    made.fleets[V2].pods = [PodState.READY] * 3
    made.advance(10)
    assert made.share_of(V2) * 8 == 1, "it never rises again"


def test_a_canary_that_is_pulled_has_nothing_whatever_was_edited() -> None:
    made = at_half()
    made.problems = (Problem(reason=Reason.UNREADABLE, message="no such field"),)
    made.settle()
    refusing(made)
    made.settle()

    assert made.status.phase is Phase.INVALID
    assert made.share_of(V2) == 0
    assert told(made) == []


def test_a_canary_that_was_pulled_at_its_first_weight_comes_back_by_what_it_carries() -> None:
    made = world(TIGHT, weight(50), pause())
    made.fleets[V2].settle()
    made.share = None
    for _ in range(2):
        made.advance(6)
    assert made.status.weight.applied == 1250
    refusing(made)
    made.settle()
    assert made.share_of(V2) == 0
    made.crashes = {}
    for _ in range(3):
        made.advance(6)

    assert made.status.weight.applied == 1250


@pytest.mark.parametrize(("seconds", "aborted"), [(110, False), (130, True)])
def test_stable_is_not_kept_short_for_a_canary_that_cannot_serve(seconds: int, aborted: bool) -> None:
    made = at_half()
    made.fleets[V2].pods = [PodState.STARTING] * 4
    made.settle()
    still(made, seconds)

    assert made.share_of(V2) == 0
    assert (made.status.phase is Phase.ABORTED) is aborted
    if aborted:
        assert "has no Ready endpoint" in made.status.message
        assert "v1, which serves with 5 of 8 pods, gets the others back" in made.status.message
        go(made, 10)
        assert replicas(made) == (N, 0)


# --- the end of the Rollout ------------------------------------------------------------------------


def deleted() -> World:
    made = at_half()
    made.deleting = True
    made.settle()
    assert made.share_of(V2) * 8 == 3
    return made


def test_while_it_is_deleted_abort_returns_all_of_it_at_once_and_nothing_else_is_obeyed() -> None:
    made = deleted()
    made.command = "{"
    made.settle()
    made.say("pause")
    assert made.share_of(V2) * 8 == 3
    assert made.status.last_command is None

    made.say("abort")

    assert made.share_of(V2) == 0
    assert made.status.last_command is not None
    assert made.status.last_command.result.value == "Done"
    go(made, 20)
    assert not made.finalizer
    assert replicas(made) == (N, 0)


def test_what_the_canary_keeps_in_a_deletion_is_said_as_it_is_stored_after_a_crash_behind_the_write() -> None:
    made = deleted()
    before = replace(made.status, weight=made.status.weight.put(Weight(5_000), made.now))
    made.status = before
    made.step()

    assert made.share_of(V2) * 8 == 3
    assert made.status.weight.applied == 3_750


def _deleted(made: World) -> None:
    made.deleting = True


def _unreadable(made: World) -> None:
    made.spec, made.generation = None, made.generation + 1
    made.problems = (Problem(reason=Reason.SPEC_INVALID, message="no"),)


def _without_a_template(made: World) -> None:
    made.problems = (Problem(reason=Reason.SPEC_INVALID, message="AnalysisTemplate x does not exist"),)


def _claimed(made: World) -> None:
    made.claim, made.claimed_by = Claim.OTHER, "another"


@pytest.mark.parametrize("edit", [_deleted, _unreadable, _without_a_template, _claimed])
def test_what_comes_just_behind_the_write_that_ends_a_revert_hides_nothing_that_is_stored(
    edit: Trouble,
) -> None:
    made = at_half()
    to(made, "v1")
    before = made.status
    made.rules[0] = {V1: 8, V2: 0}  # as written by the plan whose status met a conflict, or a crash
    edit(made)

    made.step()

    assert before.weight.applied != FULL
    assert made.status.weight.applied == FULL


@pytest.mark.parametrize("gone", ["workload", "pool"])
def test_a_stable_whose_workload_is_deleted_as_well_keeps_no_finalizer(gone: str) -> None:
    made = deleted()
    made.say("abort")
    if gone == "workload":
        why = "no Deployment has a Pod template that matches"
        made.fleets[V1].problem = Blocker(reason=Reason.CAPACITY_UNKNOWN, message=why)
    else:
        why = "its pool is gone"
        del made.fleets[V1], made.pools[V1]
    made.settle()
    made.advance(60)

    assert not made.finalizer
    left = [event.message for event in made.events if event.reason is Reason.SCALE_DOWN_LEFT]
    assert any(f"v1 keeps what it has of 8 replicas: {why}" in message for message in left)


def test_what_keeps_stables_pods_from_it_is_said_with_the_way_out() -> None:
    made = deleted()
    made.say("abort")
    made.advance(60)

    assert made.finalizer
    assert "3 pods of v2 are still Terminating" in made.status.message
    assert "annotate inferencerollouts.dev/release: now" in made.status.message


def test_who_waits_for_stable_is_told_what_keeps_its_pods() -> None:
    made = at_half()
    made.say("abort")
    assert "serves (v1 has 5 of 8 Ready pods: " in made.status.message
    to(made, "v3")
    made.advance(60)

    assert made.status.phase is Phase.WAITING
    assert "5 of 8 are Ready; 4 pods of v2 are still Terminating" in made.status.message


# --- the commit that brought capacity is reverted --------------------------------------------------


def on_nine_gpus(made: World) -> None:
    """Pods come as far as there are GPUs for them, and go."""
    for fleet in made.fleets.values():
        fleet.pods = [pod for pod in fleet.pods if pod is not PodState.ENDING]
    for fleet in made.fleets.values():
        for index, pod in enumerate(fleet.pods):
            has = sum(one is PodState.READY for other in made.fleets.values() for one in other.pods)
            if pod is PodState.PENDING and has <= N:
                fleet.pods[index] = PodState.READY
    made.advance(6)


def test_a_revert_of_target_and_capacity_gives_stable_its_pods_all_the_same() -> None:
    made = at_half()
    assert made.spec is not None
    canary = replace(made.spec.canary, capacity=None)
    made.edit(replace(made.spec, target=replace(made.spec.target, name="v1"), canary=canary))

    assert made.share_of(V2) == 0
    assert made.status.phase is Phase.HEALTHY
    assert "v1 has 5 of 8 Ready pods" in made.status.message
    for _ in range(20):
        on_nine_gpus(made)

    assert made.fleets[V1].ready == N
    assert (made.status.stable_scale, made.status.scale_downs, made.finalizer) == (None, (), False)
    left = [event.message for event in made.events if event.reason is Reason.SCALE_DOWN_LEFT]
    assert left == ["v2 is not scaled down: strategy.canary.capacity was taken out"]
    assert "Ready pods" not in made.status.message


def test_capacity_taken_out_before_an_abort_changes_nothing_about_its_pods() -> None:
    made = at_half()
    policy(made, None)
    assert made.fleets[V1].replicas == N
    on_nine_gpus(made)
    assert made.fleets[V1].ready == 5
    made.say("abort")
    for _ in range(20):
        on_nine_gpus(made)

    assert made.share_of(V2) == 0
    assert made.fleets[V1].ready == N
    assert made.status.stable_scale is None


def test_capacity_taken_out_before_a_deletion_holds_it_up_for_no_gpu() -> None:
    made = at_half()
    policy(made, None)
    on_nine_gpus(made)
    assert made.fleets[V1].ready == 5
    made.deleting = True
    for _ in range(20):
        on_nine_gpus(made)

    assert made.share_of(V2) == 0
    assert made.fleets[V1].ready == N
    assert not made.finalizer


def test_what_lost_and_has_no_pods_left_is_not_spoken_of() -> None:
    made = at_half()
    assert made.spec is not None
    canary = replace(made.spec.canary, capacity=None)
    made.edit(replace(made.spec, target=replace(made.spec.target, name="v1"), canary=canary))
    made.fleets[V2].scale(0)
    go(made, 10)

    assert replicas(made) == (N, 0)
    assert made.status.scale_downs == ()
    assert not [event for event in made.events if event.reason is Reason.SCALE_DOWN_LEFT]


def test_without_a_limit_nobody_has_to_make_room_for_stable() -> None:
    made = at_half()
    assert made.spec is not None
    canary = replace(made.spec.canary, capacity=replace(TIGHT, max_surge=None))
    made.spec, made.generation = replace(made.spec, canary=canary), made.generation + 1
    made.step()
    assert made.fleets[V1].replicas == 5, "stored first"
    made.say("abort")

    assert made.share_of(V2) == 0
    assert made.fleets[V1].replicas == N


# --- what was there before -------------------------------------------------------------------------


def test_pods_that_were_never_ready_are_not_waited_for() -> None:
    """Seven of eight served before, and the last never had a node: nine that it shares with the canary's spare."""
    made = World(
        spec=spec(weight(10), weight(50), pause(), target="v1", capacity=TIGHT),
        rules=[{V1: 100, V2: 0}],
        pools={V1: 0, V2: 0},
        fleets={V1: Fleet.of("vllm-v1", N), V2: Fleet.of("vllm-v2", 0)},
    )
    stable = made.fleets[V1]
    stable.pods[-1] = PodState.PENDING
    made.settle()
    to(made, "v2")

    def come() -> None:
        for fleet in made.fleets.values():
            fleet.settle()
        if stable.replicas == N:
            stable.pods[-1] = PodState.PENDING
        made.advance(6)

    for _ in range(12):
        come()
    assert (made.status.weight.applied, replicas(made)) == (5000, (5, 4))
    to(made, "v1")
    assert made.status.reason == Reason.RETURNING_WITH_PODS
    for _ in range(20):
        come()

    assert (stable.ready, told(made)) == (7, [])
    assert made.status.stable_scale is None
    assert made.share_of(V2) == 0
