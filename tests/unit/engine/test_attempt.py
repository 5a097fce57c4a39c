"""An attempt is one value: nothing of it is left when it is over, and nothing of it is in the next."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from rollouts.engine.attempt import Attempt
from rollouts.engine.observation import Blocker
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import TrafficMode
from rollouts.engine.rollout_status import CommandResult, HoldReason, Phase
from rollouts.units import Weight
from tests.kit.world import World, analysis, changed, pause, pool, spec, weight

V2, V3 = pool("v2"), pool("v3")
SCARS = {
    "pulls": 3,
    "weight_cap": Weight(100),
    "overrides": ("demo-x",),
    "skip_gates": True,
    "adopted_split": True,
    "stable_endpoints_at_start": 9,
}
"""What an attempt may have gone through."""


def scarred() -> World:
    world = World(spec=spec(weight(10), pause(), weight(50), analysis()))
    world.settle()
    world.say("pause")
    world.status = changed(world.status, **SCARS)
    return world


def promoted() -> World:
    world = World(spec=spec(weight(10), weight(50)))
    world.settle()
    assert (world.status.phase, world.status.current) == (Phase.HEALTHY, None)
    return world


def test_an_attempt_at_another_target_begins_like_a_first_one() -> None:
    world, fresh = scarred(), World(spec=spec(weight(10), target="v3"))
    assert world.status.hold is HoldReason.COMMAND
    for one in (world, fresh):
        one.pools[V3] = 0
        one.edit(spec(weight(10), target="v3"))

    assert world.status.current == fresh.status.current
    assert (world.status.hold, world.status.step_count, world.status.attempt) == (None, 1, 2)


def test_nothing_of_a_withdrawn_attempt_is_left() -> None:
    world = scarred()
    world.edit(spec(weight(10), target="v1"))

    assert (world.status.current, world.status.hold, world.status.step_count) == (None, None, 0)


def test_a_finished_rollout_shows_all_of_its_steps_and_runs_none() -> None:
    world = promoted()

    assert (world.status.current_step, world.status.step_text) == (2, "2/2")


@pytest.mark.parametrize("found", [False, True], ids=["its pool was never found", "it waited for a pod"])
def test_a_target_that_is_given_up_is_at_its_own_first_step(found: bool) -> None:
    """It was at the last step of the rollout before, whose number nobody had taken back."""
    world = promoted()
    if found:
        world.pools[V3] = 0
    else:
        world.target_blocker = Blocker(reason=Reason.POOL_MISSING, message="v3 does not exist")
    steps = (weight(5), pause(), weight(20))
    world.edit(spec(*steps, target="v3", mode=TrafficMode.MANAGED, target_deadline=timedelta(minutes=10)))
    world.advance(601)

    assert world.status.phase is Phase.ABORTED
    current = world.status.current
    assert isinstance(current, Attempt)
    assert current.aborted is not None
    assert (current.canary.identity, current.aborted.step) == (V3, 0)
    assert (world.status.step_text, world.status.attempt) == ("1/3", 2)


def test_a_hold_of_no_attempt_is_lifted_like_any_other() -> None:
    """Nobody but a person writes it, by hand."""
    world = World(spec=spec(weight(10), target="v1"))
    world.settle()
    world.status = replace(world.status, hold=HoldReason.COMMAND, hold_message="by hand")
    world.say("resume")

    assert (world.status.hold, world.status.last_command.result) == (None, CommandResult.DONE)
    assert (world.status.phase, world.status.current) == (Phase.HEALTHY, None)
