"""``targetDeadline``, and clocks that stand while somebody holds the rollout up."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from rollouts.engine.observation import Blocker
from rollouts.engine.rollout_status import Phase
from rollouts.units import ZERO
from tests.kit.world import START, World, pause, pool, spec, weight

TEN = timedelta(minutes=10)


def waiting(**fields: object) -> World:
    """v1 serves, and v2 has no pod."""
    world = World(spec=spec(weight(10), pause(), **{"target_deadline": TEN, **fields}))
    world.pools[pool("v2")] = 0
    world.settle()
    return world


def test_a_target_that_never_gets_ready_is_aborted_with_what_was_missing_and_nothing_is_written():
    world = waiting()
    world.advance(599)
    assert world.status.phase is Phase.WAITING

    world.advance(1)
    assert (world.status.phase, world.status.reason) == (Phase.ABORTED, "TargetDeadlineExceeded")
    assert "did not become Ready within 10m: v2 has 0 Ready endpoints" in world.status.message
    assert world.writes == []
    assert world.status.target_wait is None


def test_the_default_is_two_hours():
    world = World(spec=spec(weight(10)))
    world.pools[pool("v2")] = 0
    world.settle()
    world.advance(7199)
    assert world.status.phase is Phase.WAITING
    world.advance(1)
    assert world.status.phase is Phase.ABORTED


def test_without_a_deadline_it_waits_for_ever():
    world = waiting(target_deadline=None)
    world.advance(86_400 * 30)
    assert world.status.phase is Phase.WAITING


def test_without_a_stable_version_it_waits_for_ever():
    world = World(spec=spec(weight(10), target_deadline=TEN), rules=[{pool("v1"): 0}])
    world.pools.clear()
    world.settle()
    world.advance(86_400)
    assert (world.status.phase, world.status.stable) == (Phase.WAITING, None)


def test_a_target_that_is_ready_when_the_controller_comes_back_too_late_is_started():
    world = waiting()
    world.pools[pool("v2")] = 4
    world.advance(86_400)
    assert world.status.phase is Phase.WAITING  # for the seconds that gateways get to hear of its pods
    world.advance(3)
    assert world.status.phase is Phase.PAUSED
    assert world.status.weight.applied == 1000


def test_the_wake_up_is_at_the_deadline():
    world = waiting()
    decided = world.step()
    assert decided.requeue_after is not None
    assert decided.requeue_after <= TEN


def test_a_pool_that_no_api_group_has_is_waited_for_and_given_up_as_well():
    world = World(spec=spec(weight(10), target="v9", target_deadline=TEN), rules=[{pool("v1"): 100}])
    world.settle()
    world.edit(spec(weight(10), target="v1", target_deadline=TEN))
    world.edit(spec(weight(10), target="v9", target_deadline=TEN))
    assert (world.status.phase, world.status.canary) == (Phase.WAITING, None)

    world.advance(600)
    assert (world.status.phase, world.status.reason) == (Phase.ABORTED, "TargetDeadlineExceeded")
    assert world.status.canary is not None
    assert world.status.canary.identity.name == "v9"
    assert "v9 does not exist" in world.status.message

    world.edit(spec(weight(10), target="v1", target_deadline=TEN))
    assert world.status.phase is Phase.HEALTHY


def test_what_discovery_says_of_a_missing_pool_is_told():
    world = World(spec=spec(weight(10), target="v1"), rules=[{pool("v1"): 100}])
    world.settle()
    world.target_blocker = Blocker(reason="PoolMissing", message="InferencePool v9 does not exist in a or b")
    world.edit(spec(weight(10), target="v9", target_deadline=TEN))
    world.advance(600)
    assert "InferencePool v9 does not exist in a or b" in world.status.message


def test_another_target_has_a_clock_of_its_own():
    world = waiting()
    world.pools[pool("v3")] = 0
    world.advance(500)
    world.edit(spec(weight(10), target="v3", target_deadline=TEN))
    world.advance(599)
    assert world.status.phase is Phase.WAITING
    world.advance(1)
    assert world.status.phase is Phase.ABORTED


def test_retry_starts_the_clock_anew():
    world = waiting()
    world.advance(600)
    world.say("retry")
    assert world.status.phase is Phase.WAITING
    world.advance(599)
    assert world.status.phase is Phase.WAITING
    world.advance(1)
    assert (world.status.phase, world.status.attempt) == (Phase.ABORTED, 2)


def hold_by_spec(world: World) -> None:
    assert world.spec is not None
    world.edit(replace(world.spec, paused=True))


def release_by_spec(world: World) -> None:
    assert world.spec is not None
    world.edit(replace(world.spec, paused=False))


HOLDS = {
    "by command": (lambda world: world.say("pause"), lambda world: world.say("resume")),
    "by the spec": (hold_by_spec, release_by_spec),
}


@pytest.mark.parametrize("how", HOLDS)
def test_time_in_a_pause_does_not_count(how):
    hold, release = HOLDS[how]
    world = waiting()
    world.advance(500)
    hold(world)
    world.advance(86_400)
    assert world.status.phase is Phase.PAUSED

    release(world)
    world.advance(99)
    assert world.status.phase is Phase.WAITING
    world.advance(1)
    assert world.status.phase is Phase.ABORTED


def test_a_pause_counts_from_the_plan_that_stored_it_even_if_the_controller_dies_then():
    world = waiting()
    world.advance(500)
    world.tell("pause")
    world.step()
    world.now += timedelta(days=1)  # no process was there
    world.tell("resume")
    world.settle()
    assert world.status.phase is Phase.WAITING
    world.advance(98)
    assert world.status.phase is Phase.WAITING


def test_the_turn_of_another_rollout_does_not_count():
    world = waiting()
    world.blockers = (Blocker(reason="PoolInRollout", message="Rollout base is moving traffic"),)
    world.settle()
    world.advance(86_400)
    assert world.status.phase is Phase.WAITING
    world.blockers = ()
    world.settle()
    world.advance(599)
    assert world.status.phase is Phase.WAITING
    world.advance(2)
    assert world.status.phase is Phase.ABORTED


def test_missing_models_do_count():
    world = waiting()
    world.blockers = (Blocker(reason="MissingModels", message="v2 serves no model m"),)
    world.advance(600)
    assert "v2 serves no model m" in world.status.message


def test_a_split_that_was_taken_over_is_given_back_to_stable():
    world = World(spec=spec(weight(10), target_deadline=TEN), rules=[{pool("v1"): 80, pool("v2"): 20}])
    world.pools[pool("v2")] = 0
    world.settle()
    assert (world.status.current.adopted_split, world.writes) == (True, [])
    world.advance(600)
    assert world.status.phase is Phase.ABORTED
    assert world.weights == [ZERO]
    assert world.share_of(pool("v1")) == 1


def test_an_unreadable_spec_leaves_the_clocks_alone():
    world = waiting()
    kept = world.spec
    world.advance(100)
    world.spec = None
    world.advance(86_400)
    world.spec = kept
    world.settle()
    assert world.status.phase is Phase.ABORTED


def test_a_healthy_rollout_with_a_scribbled_clock_is_not_aborted():
    world = waiting()
    wait = world.status.target_wait
    assert wait is not None
    world.status = replace(
        world.status, phase=Phase.HEALTHY, current=None, target_wait=replace(wait, since=START)
    )
    world.now += timedelta(days=1)
    world.step()
    assert world.status.phase is Phase.WAITING


def test_a_pulled_canary_does_not_use_up_its_deadline_in_a_pause():
    """The clock of missing endpoints ran on in pauses: a canary was aborted right after ``resume``."""
    world = World(spec=spec(weight(10), pause(), progress_deadline=TEN))
    world.settle()
    world.pools[pool("v2")] = 0
    world.settle()
    world.advance(11)
    assert world.status.current.pulled
    world.say("pause")
    world.advance(86_400)
    world.say("resume")
    world.advance(580)
    assert world.status.current.aborted is None
    world.advance(20)
    assert world.status.reason == "ProgressDeadlineExceeded"


def test_what_was_set_anew_in_a_pause_is_not_moved_into_the_future():
    world = World(spec=spec(weight(10), progress_deadline=TEN), programmed=False)
    world.settle()
    world.say("pause")
    world.advance(86_400)
    world.say("resume")
    assert world.status.current.step_started_at == world.now
    world.advance(600)
    assert world.status.reason == "ProgressDeadlineExceeded"


def test_a_pause_step_keeps_its_own_time():
    world = World(spec=spec(weight(10), pause(60)))
    world.settle()
    since = world.status.current.step_started_at
    world.say("pause")
    world.advance(10)
    world.say("resume")
    assert world.status.current.step_started_at == since
