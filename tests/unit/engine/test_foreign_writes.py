"""Design rule 11: which foreign writes are obeyed, which are restored, and when restoring stops."""

from __future__ import annotations

from datetime import timedelta
from fractions import Fraction

import pytest

from rollouts.engine.actions import ExcludeInterval
from rollouts.engine.observation import Claim, GateOutcome, Problem
from rollouts.engine.rollout_spec import TrafficMode
from rollouts.engine.rollout_status import HoldReason, Phase
from rollouts.units import Weight
from tests.kit.world import World, background, pause, pool, spec, weight

V1, V2 = pool("v1"), pool("v2")


def running(**fields) -> World:
    world = World(spec=spec(weight(10), pause(), weight(50), pause(), **fields))
    world.settle()
    return world


def test_a_person_who_lowers_the_canary_is_obeyed_until_resume():
    world = running()
    world.overwrite({V1: 98, V2: 2})
    world.advance(600)

    assert (world.status.phase, world.status.hold) == (Phase.PAUSED, HoldReason.MANUAL_OVERRIDE)
    assert "kubectl-edit" in world.status.message
    assert world.share_of(V2) == Fraction(2, 100)

    world.say("resume")

    assert world.share_of(V2) == Fraction(10, 100)


def test_lowering_further_under_an_override_is_obeyed_and_raising_is_not():
    world = running()
    world.overwrite({V1: 98, V2: 2})
    world.settle()
    world.overwrite({V1: 99, V2: 1})
    world.settle()

    assert world.share_of(V2) == Fraction(1, 100)

    world.overwrite({V1: 50, V2: 50})
    world.settle()

    assert world.share_of(V2) == Fraction(1, 100)


def test_a_gitops_tool_that_lowers_the_canary_is_restored():
    world = running()
    world.overwrite({V1: 100, V2: 0}, manager="argocd-controller", gitops=True)
    world.settle()

    assert world.share_of(V2) == Fraction(1, 10)
    assert world.status.hold is None
    restored = [event for event in world.events if event.reason == "WeightRestored"]
    assert restored[-1].message == (
        "argocd-controller changed the weights; restoring 10%. `rollouts abort demo` gives all traffic to stable"
    )


def test_a_sync_that_raised_the_canary_is_restored_without_advice():
    world = running()
    world.overwrite({V1: 10, V2: 90}, manager="argocd-controller", gitops=True)
    world.settle()

    restored = [event for event in world.events if event.reason == "WeightRestored"]
    assert restored[-1].message == "argocd-controller changed the weights; restoring 10%"


def test_restoring_away_from_stable_stops_after_five_in_ten_minutes():
    world = running()
    for _ in range(6):
        world.overwrite({V1: 100, V2: 0}, manager="argocd-controller", gitops=True)
        world.advance(60)

    assert (world.status.hold, world.share_of(V2)) == (HoldReason.CONTENDED, 0)
    assert world.weights == [1000] * 6

    world.say("resume")

    assert world.share_of(V2) == Fraction(1, 10)


def test_five_restores_spread_over_more_than_ten_minutes_go_on():
    world = running()
    for _ in range(8):
        world.overwrite({V1: 100, V2: 0}, manager="argocd-controller", gitops=True)
        world.advance(150)

    assert (world.status.hold, world.share_of(V2)) == (None, Fraction(1, 10))


def test_restoring_towards_stable_never_stops():
    world = running()
    for _ in range(30):
        world.overwrite({V1: 10, V2: 90})
        world.advance(1)

    assert (world.status.hold, world.share_of(V2)) == (None, Fraction(1, 10))


def test_a_foreign_write_after_an_abort_is_taken_back():
    world = running()
    world.say("abort")
    world.overwrite({V1: 50, V2: 50})
    world.settle()

    assert (world.share_of(V2), world.status.phase) == (0, Phase.ABORTED)


def test_a_foreign_write_on_a_healthy_rollout_is_taken_back():
    world = World(spec=spec(weight(10)))
    world.settle()
    world.overwrite({V1: 50, V2: 50})
    world.settle()

    assert world.share_of(V2) == 1


def test_a_foreign_entry_keeps_its_share():
    other = pool("other")
    world = World(spec=spec(weight(10), pause()), rules=[{V1: 60, V2: 0, other: 40}])
    world.settle()

    assert world.share_of(other) == Fraction(2, 5)
    assert world.share_of(V2) == Fraction(6, 100)


def test_two_rules_move_together():
    world = World(spec=spec(weight(10), pause()), rules=[{V1: 100, V2: 0}, {V1: 1, V2: 0}])
    world.settle()

    assert world.rules == [{V1: 90, V2: 10}, {V1: 9, V2: 1}]
    assert len(world.writes) == 1


def test_a_write_of_ours_whose_status_was_lost_is_not_foreign():
    world = running()
    before = world.status
    world.say("promote")
    lost = world.status
    world.status = before  # the crash: traffic says 50 %, status still 10 %
    world.settle()

    assert lost.hold is None
    assert world.status.hold is None
    assert world.share_of(V2) == Fraction(1, 2)


@pytest.mark.parametrize("at_zero", [True, False])
def test_a_crash_between_the_abort_write_and_its_status_aborts_again(at_zero):
    world = running(analysis=background())
    before = world.status
    world.judge(GateOutcome.ABORT)
    world.status = before
    if not at_zero:
        world.overwrite({V1: 90, V2: 10}, manager="inference-rollouts")
    world.settle()

    assert (world.status.phase, world.share_of(V2)) == (Phase.ABORTED, 0)


def test_a_managed_route_that_was_deleted_is_made_again_with_the_current_weights():
    world = World(spec=spec(weight(10), pause(), mode=TrafficMode.MANAGED), claim=Claim.OURS)
    world.settle()
    world.rules = None
    world.settle()

    assert world.share_of(V2) == Fraction(1, 10)


def test_a_route_with_a_new_uid_restarts_the_steps_clock():
    world = World(spec=spec(weight(10), pause(60), weight(50), pause()))
    world.settle()
    world.now = world.now.replace(second=50)
    world.uid = "another"
    world.settle()
    world.advance(30)

    assert world.share_of(V2) == Fraction(1, 10)

    world.advance(30)

    assert world.share_of(V2) == Fraction(1, 2)


def test_an_adopted_route_that_was_deleted_is_waited_for():
    world = running()
    world.rules = None
    world.settle()
    writes = len(world.writes)

    assert "does not exist" in world.status.message

    world.overwrite({V1: 90, V2: 10})
    world.settle()

    assert (len(world.writes), world.status.phase) == (writes, Phase.PAUSED)


def test_the_polluted_interval_is_excluded_from_the_analysis():
    world = running(analysis=background())
    world.overwrite({V1: 100, V2: 0}, manager="argocd-controller", gitops=True)
    decided = world.step()

    excluded = [action for action in decided.actions if isinstance(action, ExcludeInterval)]
    assert len(excluded) == 1
    assert excluded[0].end == world.now


def test_a_trickle_is_not_called_nothing():
    world = World(spec=spec(weight(10)))
    world.settle()
    world.overwrite({V1: 1, V2: 999_999})
    world.settle()

    assert world.share_of(V2) == 1


def test_an_edited_template_is_written_without_moving_weight():
    world = World(spec=spec(weight(10), pause(), mode=TrafficMode.MANAGED), claim=Claim.OURS)
    world.settle()
    world.structure_current = False
    world.settle()

    assert world.weights == [1000, 1000]


def test_a_template_that_is_known_to_be_wrong_is_not_written_but_aborts_are():
    world = World(spec=spec(weight(10), pause(), mode=TrafficMode.MANAGED), claim=Claim.OURS)
    world.settle()
    world.structure_current = False
    world.problems = (Problem(reason="TemplateInvalid", message="every rule has backendRefs"),)
    written = len(world.weights)
    world.settle()

    assert (world.status.phase, len(world.weights)) == (Phase.INVALID, written)

    world.say("abort")

    assert world.share_of(V2) == 0


def test_a_weight_is_in_force_since_it_was_written_or_restored_and_plans_in_between_forget_nothing():
    world = World(spec=spec(weight(10), pause()))
    world.settle()
    since = [world.status.weight.since]
    world.advance(60)
    since.append(world.status.weight.since)
    world.overwrite({V1: 50, V2: 50})
    world.claim = Claim.UNCLAIMED  # nothing is written: it is only shown
    world.advance(60)
    shown = world.status.weight
    world.claim = Claim.OURS
    world.advance(60)
    since.append(world.status.weight.since)

    assert (shown.applied, shown.since) == (Weight(5000), since[0])
    assert since[:2] == [world.now - timedelta(seconds=180)] * 2
    assert since[2] == world.now
