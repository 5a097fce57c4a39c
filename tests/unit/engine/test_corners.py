"""Corners of the rules: short ways through rarely met states, each with what must come out."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from fractions import Fraction

import pytest

from rollouts.engine.actions import CreateRun, DesiredTraffic
from rollouts.engine.converging import rule_share
from rollouts.engine.naming import Owner, background_run
from rollouts.engine.observation import Blocker, GateOutcome, GateView, Problem, RuleView, ShareView
from rollouts.engine.planning import plan
from rollouts.engine.rollout_spec import OnDeadline, TrafficMode
from rollouts.engine.rollout_status import HoldReason, Phase, RolloutStatus
from rollouts.engine.share import refutes
from rollouts.engine.steps import required_endpoints
from rollouts.engine.transitions import TRANSITIONS, IllegalTransition, Trigger, check, mermaid
from rollouts.units import FULL, ZERO, Weight, format_weight
from tests.kit.world import World, analysis, background, pause, pool, spec, weight

V1, V2, V3 = pool("v1"), pool("v2"), pool("v3")


def running(*steps, **fields) -> World:
    world = World(spec=spec(*(steps or (weight(10), pause(), weight(50), pause())), **fields))
    world.settle()
    return world


# --- commands --------------------------------------------------------------------------------------


def test_promote_gives_a_missed_deadline_another_one():
    world = World(
        spec=spec(weight(10), on_deadline=OnDeadline.PAUSE, progress_deadline=timedelta(minutes=5)),
        programmed=False,
    )
    world.settle()
    world.advance(301)

    assert world.status.hold is HoldReason.DEADLINE

    world.say("promote")

    assert (world.status.hold, world.status.current.step_started_at) == (None, world.now)


def test_promote_full_completes_a_split_at_start():
    world = World(spec=spec(target="v2"), rules=[{V1: 10, V2: 90}])
    world.settle()
    world.say("promoteFull")

    assert (world.status.phase, world.share_of(V2)) == (Phase.HEALTHY, 1)


def test_promote_full_ends_the_background_run():
    world = running(weight(10), pause(), weight(50), pause(), analysis=background())
    name = background_run(Owner(name="demo"), world.status)

    assert world.gates[name].outcome is GateOutcome.RUNNING

    world.say("promoteFull")

    assert (world.status.phase, world.gates[name].outcome) == (Phase.HEALTHY, GateOutcome.PASSED)


def test_an_overridden_background_run_does_not_keep_the_promotion_back():
    world = running(weight(10), pause(), analysis=background())
    world.judge(GateOutcome.INCONCLUSIVE)

    assert world.status.hold is HoldReason.GATE_INCONCLUSIVE

    world.say("promote")
    world.say("promote")

    assert (world.status.phase, world.status.stable.identity) == (Phase.HEALTHY, V2)


def overridden_background(outcome: GateOutcome) -> tuple[World, str]:
    """A promoted rollout whose background run had ended so, in the pause after the next weight; that run's name."""
    world = running(weight(10), pause(600), weight(50), pause(), analysis=background())
    world.judge(outcome)
    world.say("promote")
    return world, background_run(Owner(name="demo"), world.status)


def test_an_overridden_inconclusive_background_run_is_followed_by_one_that_goes_on_judging():
    world, first = overridden_background(GateOutcome.INCONCLUSIVE)

    assert {name: gate.outcome for name, gate in world.gates.items()} == {
        first: GateOutcome.INCONCLUSIVE,
        f"{first}-r2": GateOutcome.RUNNING,
    }
    assert world.status.hold is None

    world.judge(GateOutcome.ABORT)

    assert (world.status.phase, world.share_of(V2)) == (Phase.ABORTED, 0)


def test_the_second_background_run_may_be_inconclusive_too_and_is_followed_by_a_third():
    world, first = overridden_background(GateOutcome.INCONCLUSIVE)
    world.judge(GateOutcome.INCONCLUSIVE)

    assert world.status.hold is HoldReason.GATE_INCONCLUSIVE
    assert f"{first}-r2 is inconclusive" in world.status.message

    world.say("promote")

    assert world.gates[f"{first}-r3"].outcome is GateOutcome.RUNNING


def test_a_failed_background_run_stays_overridden():
    world, first = overridden_background(GateOutcome.PAUSE)
    world.advance(600)

    assert set(world.gates) == {first}
    assert world.status.hold is None


def test_comparisons_are_not_begun_anew():
    world = running(weight(10), pause(600), weight(50), pause(), analysis=background())
    world.judge(GateOutcome.INCONCLUSIVE)
    world.tell("promote")
    world.step()

    decided = plan(replace(world.observe(), compares=True), world.now)

    assert [action for action in decided.actions if isinstance(action, CreateRun)] == []


def test_promote_full_ends_the_second_background_run_too():
    world, first = overridden_background(GateOutcome.INCONCLUSIVE)
    world.say("promoteFull")

    assert (world.status.phase, world.gates[f"{first}-r2"].outcome) == (Phase.HEALTHY, GateOutcome.PASSED)


def test_promote_leaves_an_analysis_step_and_records_the_override():
    world = running(weight(10), analysis(), weight(50), pause())
    world.say("promote")

    assert (world.share_of(V2), len(world.status.current.overrides)) == (Fraction(1, 2), 1)


# --- traffic ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stable", "canary", "share"),
    [(999_999, 1, 1), (1, 999_999, FULL - 1), (1, 0, ZERO), (0, 1, FULL), (2, 1, 3333), (0, 0, None)],
)
def test_rounding_calls_neither_a_trickle_nothing_nor_nearly_everything_all(stable, canary, share):
    desired = DesiredTraffic(stable=V1, canary=V2, weight=Weight(1))

    assert rule_share(RuleView(name="0", entries={V1: stable, V2: canary}), desired) == share


def test_an_adopted_route_that_loses_its_rules_is_reported():
    world = running()
    world.rules = []
    world.settle()
    applied = next(item for item in world.status.conditions if item.type == "TrafficApplied")

    assert (applied.status, applied.reason) == ("False", "NoRules")


def test_a_managed_route_is_made_again_without_a_canary_that_has_no_endpoint():
    world = running(mode=TrafficMode.MANAGED)
    world.edit(world.spec)
    world.rules = None
    world.pools[V2] = 0
    world.step()

    assert world.share_of(V2) == 0


def test_a_retired_arm_that_somebody_gives_weight_is_set_back_to_nothing():
    world = running()
    world.pools[V3] = 4
    world.rules = [{**world.rules[0], V3: 0}]
    world.edit(spec(weight(10), pause(), target="v3"))
    world.overwrite({V1: 80, V2: 10, V3: 10})
    world.settle()

    assert (world.share_of(V2), world.share_of(V3)) == (0, Fraction(1, 10))
    assert world.status.hold is None


def test_weight_never_goes_back_to_a_stable_version_without_endpoints():
    world = running()
    world.edit(spec(target="v1"))
    world.overwrite({V1: 90, V2: 10})
    world.pools[V1] = 0
    world.settle()

    assert world.share_of(V2) == Fraction(1, 10)
    assert "HAS NO READY ENDPOINT" in world.status.message


def test_rules_without_weight_say_nothing_about_who_is_stable():
    world = World(spec=spec(target="v1"), rules=[{V1: 0, V2: 0}, {V1: 100, V2: 0}])
    world.settle()

    assert (world.status.phase, world.status.stable.identity) == (Phase.HEALTHY, V1)


def test_going_back_to_stable_while_the_adopted_route_is_missing():
    world = running()
    world.rules = None
    world.edit(spec(target="v1"))
    applied = next(item for item in world.status.conditions if item.type == "TrafficApplied")

    assert (world.status.canary, applied.reason) == (None, "RouteMissing")


def test_a_new_target_while_the_managed_route_is_missing():
    world = World(
        spec=spec(weight(10), pause(), target="v1", mode=TrafficMode.MANAGED),
        rules=None,
    )
    world.settle()
    world.rules = None
    world.edit(spec(weight(10), pause(), target="v2", mode=TrafficMode.MANAGED))

    assert world.share_of(V2) == Fraction(1, 10)


def test_a_kind_of_traffic_object_that_is_no_longer_served_is_waited_for():
    world = running()
    world.served = False
    world.settle()

    assert (world.status.phase, len(world.writes)) == (Phase.PROGRESSING, 1)


# --- targets ---------------------------------------------------------------------------------------


def test_a_split_at_start_is_looked_at_again_for_another_target():
    world = World(spec=spec(target="v2"), rules=[{V1: 10, V2: 90}])
    world.settle()

    assert world.status.hold is HoldReason.SPLIT_AT_START

    world.edit(spec(weight(10), pause(), target="v1"))

    assert (world.status.stable.identity, world.status.canary.identity) == (V2, V1)


def test_a_stable_pool_that_comes_back_is_no_longer_called_missing():
    world = World(spec=spec(target="v1"))
    world.settle()
    ready = world.pools.pop(V1)
    world.settle()

    assert world.status.reason == "StablePoolMissing"

    world.pools[V1] = ready
    world.settle()

    assert world.status.reason == "TargetIsStable"


def test_what_keeps_a_missing_pool_back_is_said():
    world = World(spec=spec(weight(10), pause()), rules=[{V1: 100, V2: 0}])
    world.pool_blockers = (Blocker(reason="PickerMissing", message="no picker Service"),)
    world.settle()
    del world.pools[V2]
    world.settle()

    assert (world.status.phase, world.status.reason) == (Phase.WAITING, "PickerMissing")


@pytest.mark.parametrize(
    ("lost", "reason"), [("pool", "PoolMissing"), ("route", "RouteMissing"), ("endpoints", "TargetNotReady")]
)
def test_what_an_attempt_waits_for(lost, reason):
    world = World(spec=spec(weight(10), pause(), target="v1"))
    world.settle()
    world.pools[V2] = 0
    world.edit(spec(weight(10), pause(), target="v2"))
    if lost == "pool":
        del world.pools[V2]
    elif lost == "route":
        world.rules = None
    world.settle()

    assert (world.status.phase, world.status.reason) == (Phase.WAITING, reason)


def test_a_spec_that_is_invalid_at_first_sight_changes_nothing():
    world = World(spec=spec(), problems=(Problem(reason="SpecInvalid", message="x"),))
    world.settle()

    assert (world.status.phase, world.status.stable, world.writes) == (Phase.INVALID, None, [])


def test_a_step_under_way_goes_on_when_the_spec_is_valid_again():
    world = World(spec=spec(weight(10), pause()), programmed=False)
    world.settle()
    world.problems = (Problem(reason="SpecInvalid", message="x"),)
    world.settle()

    assert world.status.phase is Phase.INVALID

    world.problems = ()
    world.settle()

    assert (world.status.phase, world.status.reason) == (Phase.PROGRESSING, "WaitingForGateway")


# --- steps -----------------------------------------------------------------------------------------


def test_steps_edited_while_it_bakes_do_not_start_again():
    world = running(weight(50), bake=timedelta(minutes=10))

    assert world.status.current.bake_started_at is not None

    world.edit(spec(weight(20), pause(), bake=timedelta(minutes=10)))
    world.advance(600)

    assert (world.status.phase, world.status.stable.identity) == (Phase.HEALTHY, V2)


def test_steps_edited_before_any_weight_start_over():
    world = running(pause(), weight(10))
    world.edit(spec(weight(5), pause()))

    assert (world.share_of(V2), world.status.current_step) == (Fraction(5, 100), 1)


def test_a_canary_without_weight_may_be_without_endpoints():
    world = running(weight(0), pause(), weight(50))
    world.pools[V2] = 0
    world.advance(60)

    assert (world.status.phase, world.status.current.pulls) == (Phase.PAUSED, 0)


def test_a_run_of_a_step_that_is_over_is_ended():
    world = running()
    world.gates["demo-of-old"] = GateView(name="demo-of-old", outcome=GateOutcome.RUNNING)
    world.settle()

    assert world.gates["demo-of-old"].outcome is GateOutcome.PASSED


def test_a_step_whose_start_is_unreadable_has_no_deadline():
    world = World(spec=spec(weight(10), progress_deadline=timedelta(minutes=5)), programmed=False)
    world.settle()
    world.change(step_started_at=None)
    world.advance(3600)

    assert (world.status.phase, world.status.current.aborted) == (Phase.PROGRESSING, None)


def test_steps_without_a_weight_go_from_nothing_to_all():
    world = running(pause(30))

    assert world.share_of(V2) == 0

    world.advance(30)

    assert (world.status.phase, world.share_of(V2)) == (Phase.HEALTHY, 1)


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (ZERO, "0%"), (Weight(50), "0.5%"), (FULL, "100%")])
def test_weights_in_words(value, text):
    assert format_weight(value) == text


@pytest.mark.parametrize(("at", "needed"), [(ZERO, 0), (Weight(1), 1), (Weight(5000), 1), (FULL, 2)])
def test_required_endpoints(at, needed):
    assert required_endpoints(at, 4, 0.5) == needed


@pytest.mark.parametrize(
    ("at", "canary", "stable", "refuted"),
    [
        (FULL, 1000, 0, False),
        (FULL, 500, 500, True),
        (ZERO, 0, 1000, False),
        (ZERO, 500, 500, True),
        (Weight(5000), 500, 500, False),
        (Weight(5000), 0, 1000, True),
        (Weight(5000), 0, 0, False),
    ],
)
def test_the_observed_share_refutes_a_weight(at, canary, stable, refuted):
    assert refutes(ShareView(canary=canary, stable=stable, seconds=60.0), at) is refuted


# --- names and transitions -------------------------------------------------------------------------


def test_long_names_are_shortened_and_stay_apart():
    status = RolloutStatus()
    names = {background_run(Owner(name="a" * 250 + end), status) for end in "xy"}

    assert len(names) == 2
    assert all(len(name) <= 220 for name in names)


def test_a_move_that_is_not_in_the_table_is_a_bug():
    with pytest.raises(IllegalTransition, match="HEALTHY -> PAUSED by WAIT"):
        check(Phase.HEALTHY, Phase.PAUSED, Trigger.WAIT)


def test_the_diagram_shows_every_row():
    lines = mermaid().splitlines()

    assert len(lines) == 1 + sum(len(row.sources) for row in TRANSITIONS)
    assert "    [*] --> Healthy: the target is stable" in lines
