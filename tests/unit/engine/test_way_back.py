"""Nothing that a user can edit holds an abort up, and nothing is said that the traffic object does not say."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from fractions import Fraction

import pytest

from rollouts.engine.actions import EmitEvent, ReleaseTraffic, ReturnTraffic, WriteTraffic
from rollouts.engine.observation import Claim, GateOutcome, Observation, Problem, Refused, WayView
from rollouts.engine.planning import plan
from rollouts.engine.rollout_spec import HeaderRouteStep, OnDelete, TrafficMode
from rollouts.engine.rollout_status import CommandResult, Phase
from rollouts.units import FULL, ZERO, Weight
from tests.kit.world import START, World, analysis, pause, pool, spec, weight

V1, V2, V3 = pool("v1"), pool("v2"), pool("v3")
UNREADABLE = (
    Problem(reason="SpecInvalid", message="spec.strategy.canary.progressDeadline is not a duration"),
)
REFUSED = Refused(
    reason="TrafficRefused", message="HTTPRoute route: the API server refuses the write: frozen"
)


def running(**fields) -> World:
    """A rollout in its pause at 50 %."""
    world = World(spec=spec(weight(50), pause(), **fields))
    world.settle()
    return world


def unreadable(world: World) -> None:
    world.spec, world.problems = None, UNREADABLE
    world.generation += 1


def template_refused(world: World) -> None:
    world.problems = (Problem(reason="RouteInvalid", message="spec.rules[0].retry: not declared"),)
    world.structure_current = False


def label_stripped(world: World) -> None:
    world.claim = Claim.UNCLAIMED


EDITS = {
    "unreadable spec": unreadable,
    "refused template": template_refused,
    "stripped label": label_stripped,
}


def condition(world: World, name: str):
    return next(item for item in world.status.conditions if item.type == name)


# --- the record ------------------------------------------------------------------------------------


def test_the_way_back_is_stored_before_the_canary_has_any_weight():
    world = World(spec=spec(weight(10), pause()))
    while not world.weights:
        stored = world.status.way_back
        world.step()

    assert [(record.stable.name, record.canary.name) for record in stored] == [("v1", "v2")]


def test_a_status_of_an_older_version_gets_its_record_while_the_canary_carries():
    world = running()
    world.status = replace(world.status, way_back=())
    world.settle()

    assert [record.canary.name for record in world.status.way_back] == ["v2"]


def _planned_writes(seen: Observation) -> list[WriteTraffic]:
    return [action for action in plan(seen, START).actions if isinstance(action, WriteTraffic)]


def test_a_record_that_is_reckoned_anew_waits_for_its_store() -> None:
    world = World(spec=spec(weight(10), pause()))
    while not _planned_writes(world.observe()):
        world.step()
    seen = world.observe()
    proposed = {key: replace(way, joint=300) for key, way in seen.proposed.items()}
    views = dict.fromkeys(proposed.values(), WayView(exists=True))
    other = replace(seen, proposed=proposed, ways={**seen.ways, **views})
    planned = plan(other, START)

    assert [way.joint for way in planned.status.way_back] == [300]
    assert not _planned_writes(other)
    assert _planned_writes(replace(other, status=planned.status))


def test_a_promoted_canary_has_nothing_to_give_back():
    world = running()
    world.say("promote")

    assert (world.status.stable.identity, world.status.way_back) == (V2, ())
    assert world.share_of(V2) == 1


def test_what_was_given_back_is_forgotten_with_its_canary():
    world = running()
    world.edit(spec(weight(50), pause(), target="v1"))

    assert (world.share_of(V2), world.status.way_back) == (0, ())


def test_a_record_of_an_arm_that_carries_stays_and_another_attempt_makes_it_anew():
    world = World(spec=spec(weight(50), pause(), weight(60), pause()))
    world.settle()
    (fresh,) = world.status.way_back
    old = replace(fresh, spared=("0123abcd",))
    world.status = replace(world.status, way_back=(old,))
    world.say("promote")

    assert (world.share_of(V2), world.status.way_back) == (Fraction(3, 5), (old,))

    world.say("abort")
    world.say("retry")

    assert world.status.way_back == (fresh,)


# --- nothing holds it up ---------------------------------------------------------------------------


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
@pytest.mark.parametrize("how", ["command", "gate", "pool deleted", "endpoints lost"])
def test_no_edit_holds_up_the_way_back(edit, how):
    world = World(spec=spec(weight(50), analysis(), weight(60)))
    world.settle()
    edit(world)
    world.settle()

    assert world.share_of(V2) == Fraction(1, 2)

    if how == "command":
        world.say("abort")
    elif how == "gate":
        world.judge(GateOutcome.ABORT)
    elif how == "pool deleted":
        del world.pools[V2]
        world.settle()
    else:
        world.pools[V2] = 0
        world.settle()
        world.advance(11)

    assert world.share_of(V2) == 0
    assert world.status.weight.applied == ZERO
    assert (world.status.phase is Phase.ABORTED) == (how != "endpoints lost")


def test_an_abort_under_an_invalid_spec_says_both():
    world = running()
    unreadable(world)
    world.say("abort")

    assert (world.status.phase, world.status.last_command.result) == (Phase.ABORTED, CommandResult.DONE)
    assert "progressDeadline" in world.status.message
    assert condition(world, "SpecValid").status == "False"


@pytest.mark.parametrize("action", ["promote", "promoteFull", "retry", "resume"])
def test_nothing_but_aborts_and_pauses_is_obeyed_while_the_spec_cannot_be_read(action):
    world = running()
    unreadable(world)
    world.say(action)

    assert (world.status.last_command.result, world.share_of(V2)) == (CommandResult.REJECTED, Fraction(1, 2))


def test_a_command_for_an_object_that_is_anothers_is_rejected_not_kept_for_later():
    world = running()
    world.claim, world.claimed_by = Claim.OTHER, "another"
    world.say("promote")

    assert world.status.last_command.result is CommandResult.REJECTED

    world.claim, world.claimed_by = Claim.CONSENTED, ""
    world.settle()

    assert world.share_of(V2) == Fraction(1, 2)


def test_a_rise_by_somebody_else_is_taken_back_although_nothing_can_be_rendered():
    world = running()
    template_refused(world)
    world.overwrite({V1: 10, V2: 90})
    world.settle()

    assert (world.share_of(V2), world.status.phase) == (Fraction(1, 2), Phase.INVALID)


def test_a_person_who_lowered_the_canary_is_obeyed_even_if_the_spec_was_invalid_meanwhile():
    world = running()
    unreadable(world)
    world.overwrite({V1: 97, V2: 3})
    world.settle()

    assert (world.status.weight.applied, world.status.weight.written) == (Weight(300), Weight(5000))

    world.spec, world.problems = spec(weight(50), pause()), ()
    world.settle()

    assert (world.status.reason, world.share_of(V2)) == ("ManualOverride", Fraction(3, 100))


def test_a_template_that_pins_the_canary_is_not_applied_against_an_abort():
    world = World(
        spec=spec(weight(50), pause(), mode=TrafficMode.MANAGED), rules=[{V1: 100, V2: 0}], claim=Claim.OURS
    )
    world.settle()
    world.pins, world.structure_current = frozenset({V2}), False
    world.say("abort")

    assert (world.share_of(V2), world.status.reason) == (0, "TemplatePinsCanary")
    assert "take that backendRef out" in world.status.message

    world.pins = frozenset()
    world.settle()

    assert (world.structure_current, world.status.reason) == (True, "AbortedByCommand")


def test_an_object_that_names_another_rollout_is_not_written_and_the_alarm_stays_until_it_is_back():
    world = running()
    world.claim, world.claimed_by = Claim.OTHER, "another"
    world.say("abort")

    assert (world.share_of(V2), world.status.phase) == (Fraction(1, 2), Phase.ABORTED)
    assert (world.status.reason, world.status.weight.applied) == ("AbortBlockedByClaim", Weight(5000))
    assert (condition(world, "TrafficApplied").reason, condition(world, "Ready").status) == (
        "AbortBlockedByClaim",
        "False",
    )
    assert [event.reason for event in world.events].count("AbortBlockedByClaim") == 1
    assert world.status.last_command.result is CommandResult.IN_PROGRESS

    world.claim, world.claimed_by = Claim.UNCLAIMED, ""
    world.settle()

    assert (world.share_of(V2), world.status.reason) == (0, "AbortedByCommand")
    assert world.status.last_command.result is CommandResult.DONE


# --- refusals --------------------------------------------------------------------------------------


def test_a_refused_abort_is_not_said_to_be_done_until_it_is():
    world = running()
    world.refuses = REFUSED
    world.say("abort")

    status = world.status
    assert (status.phase, status.reason) == (Phase.ABORTED, "TrafficRefused")
    assert (status.weight.applied, status.last_command.result) == (Weight(5000), CommandResult.IN_PROGRESS)
    assert "frozen" in status.message
    assert "serves" not in status.message
    assert condition(world, "TrafficApplied").status == "False"
    assert "frozen" in status.last_command.message

    world.refuses = None
    world.settle()

    assert (world.share_of(V2), world.status.reason, world.status.weight.applied) == (
        0,
        "AbortedByCommand",
        ZERO,
    )
    assert (world.status.last_command.result, condition(world, "TrafficApplied").status) == (
        CommandResult.DONE,
        "True",
    )


def test_a_refused_way_back_is_tried_again_within_seconds():
    world = running()
    world.refuses = REFUSED
    world.say("abort")
    decided = world.step()

    assert decided.requeue_after is not None
    assert decided.requeue_after <= timedelta(seconds=5)


def test_a_revert_is_not_healthy_while_the_canary_keeps_its_traffic():
    world = running()
    world.refuses = REFUSED
    world.edit(spec(weight(50), pause(), target="v1"))

    assert (world.status.phase, world.status.reason) == (Phase.WAITING, "TrafficRefused")
    assert (condition(world, "Ready").status, world.status.weight.applied) == ("False", Weight(5000))

    world.refuses = None
    world.settle()

    assert (world.status.phase, world.share_of(V2), world.status.weight.applied) == (Phase.HEALTHY, 0, FULL)


def test_a_third_target_gets_no_weight_before_the_second_gave_its_own_back():
    world = running()
    world.pools[V3] = 4
    world.rules = [{V1: 50, V2: 50, V3: 0}]
    world.refuses = REFUSED
    world.edit(spec(weight(10), pause(), target="v3"))
    world.advance(30)

    assert (world.share_of(V2), world.share_of(V3)) == (Fraction(1, 2), 0)

    world.refuses = None
    world.advance(30)

    assert (world.share_of(V2), world.share_of(V3)) == (0, Fraction(1, 10))
    assert [record.canary.name for record in world.status.way_back] == ["v3"]


def test_a_refused_rise_is_said_and_the_weight_shown_is_the_stored_one():
    world = World(spec=spec(weight(50), pause()))
    world.refuses = REFUSED
    world.settle()

    assert (world.status.phase, world.status.reason) == (Phase.PROGRESSING, "TrafficRefused")
    assert (world.status.weight.applied, world.share_of(V2)) == (ZERO, 0)


def test_a_managed_route_that_is_gone_and_refused_is_said():
    world = World(
        spec=spec(weight(50), pause(), mode=TrafficMode.MANAGED), rules=[{V1: 100, V2: 0}], claim=Claim.OURS
    )
    world.settle()
    world.rules, world.refuses = None, REFUSED
    world.settle()

    assert (world.rules, world.status.reason) == (None, "TrafficRefused")

    world.refuses = None
    world.settle()

    assert world.share_of(V2) == Fraction(1, 2)


# --- nobody serves ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("lost", "reason"), [("pool", "StablePoolMissing"), ("pods", "StableNotReady")])
def test_a_rollout_that_nobody_serves_is_not_healthy(lost, reason):
    world = World(spec=spec(target="v1"))
    world.settle()
    if lost == "pool":
        ready = world.pools.pop(V1)
    else:
        ready, world.pools[V1] = world.pools[V1], 0
    world.settle()

    assert (world.status.phase, world.status.reason) == (Phase.WAITING, reason)
    assert [condition(world, name).status for name in ("Ready", "Reconciling", "Stalled")] == [
        "False",
        "False",
        "True",
    ]

    world.pools[V1] = ready
    world.settle()

    assert (world.status.phase, condition(world, "Stalled").status) == (Phase.HEALTHY, "False")


def test_a_canary_that_serves_alone_is_somebody():
    world = running()
    world.pools[V1] = 0
    world.settle()

    assert condition(world, "Stalled").status == "False"


# --- deletion --------------------------------------------------------------------------------------


def deleted(world: World) -> World:
    world.deleting = True
    for _ in range(6):
        world.step()
    return world


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_deleting_gives_the_traffic_back_whatever_was_edited(edit):
    world = running()
    edit(world)
    world.settle()
    deleted(world)

    assert (world.share_of(V2), world.finalizer) == (0, False)


def test_a_refused_restore_keeps_the_rollout_and_names_the_way_out():
    world = running()
    world.refuses = REFUSED
    deleted(world)

    assert (world.share_of(V2), world.finalizer) == (Fraction(1, 2), True)
    assert "inferencerollouts.dev/release: now" in world.status.message
    assert "frozen" in world.status.message

    world.refuses = None
    deleted(world)

    assert (world.share_of(V2), world.finalizer) == (0, False)


def test_a_person_may_let_a_refused_restore_go():
    world = running()
    world.refuses, world.release_now = REFUSED, True
    deleted(world)

    assert (world.finalizer, world.events[-1].reason) == (False, "TrafficNotRestored")


def test_a_deleted_rollout_whose_object_is_anothers_says_so_and_stays():
    world = running()
    world.claim, world.claimed_by = Claim.OTHER, "another"
    deleted(world)

    assert (world.finalizer, world.status.reason) == (True, "AbortBlockedByClaim")
    assert "inferencerollouts.dev/release: now" in world.status.message


@pytest.mark.parametrize("lost", ["endpoints", "route"])
def test_what_cannot_come_back_lets_a_deleted_rollout_go_at_once(lost):
    world = running()
    if lost == "endpoints":
        world.pools[V1] = 0
    else:
        world.rules = None
    world.settle()
    deleted(world)

    assert world.finalizer is False
    if lost != "route":
        warned = [event for event in world.events if isinstance(event, EmitEvent)]
        assert "TrafficNotRestored" in [event.reason for event in warned]


def test_an_unreadable_spec_still_says_what_deleting_does():
    world = running()
    unreadable(world)
    world.on_delete = OnDelete.KEEP_TRAFFIC
    deleted(world)

    assert (world.share_of(V2), world.finalizer) == (Fraction(1, 2), False)


@pytest.mark.parametrize("mode", [OnDelete.KEEP_TRAFFIC, OnDelete.DELETE_TRAFFIC])
def test_a_managed_object_is_given_up_by_its_record_where_no_spec_names_it(mode):
    world = World(
        spec=spec(weight(50), pause(), mode=TrafficMode.MANAGED), rules=[{V1: 100, V2: 0}], claim=Claim.OURS
    )
    world.settle()
    unreadable(world)
    world.served, world.on_delete, world.deleting = False, mode, True
    decided = world.step()

    released = [action for action in decided.actions if isinstance(action, ReleaseTraffic)]
    assert [action.record.canary.name for action in released if action.record] == ["v2"]
    assert not any(isinstance(action, ReturnTraffic) for action in decided.actions)


def test_an_object_that_is_not_ours_is_not_given_up():
    world = running()
    unreadable(world)
    world.served, world.on_delete, world.deleting = False, OnDelete.KEEP_TRAFFIC, True
    world.step()

    assert (world.finalizer, world.claim) == (False, Claim.CONSENTED)


def test_the_finalizer_stands_while_a_rule_of_ours_leads_past_the_weights():
    world = World(spec=spec(target="v1"), header_routes=(HeaderRouteStep(name="testers", match=()),))
    world.finalizer, world.problems = True, UNREADABLE
    world.settle()

    assert world.finalizer is True


def test_a_split_that_was_found_needs_no_finalizer():
    world = World(spec=spec(target="v2"), rules=[{V1: 10, V2: 90}], finalizer=True)
    world.settle()

    assert (world.status.reason, world.finalizer) == ("SplitAtStart", False)


# --- what holds the Rollout until a canary's weight is given back --------------------------------------


def test_a_finalizer_that_a_replace_took_off_comes_back_while_a_canary_has_weight() -> None:
    world = running()
    assert world.finalizer
    world.finalizer = False  # kubectl replace -f, Argo CD's Replace=true: the file has none
    world.settle()
    assert world.finalizer
    world.deleting = True
    world.settle()
    assert (world.share_of(V2), world.finalizer) == (0, False)


def test_a_rollout_that_finds_its_first_weight_in_force_is_held_like_one_that_wrote_it() -> None:
    made = World(spec=spec(weight(20), pause()), rules=[{V1: 80, V2: 20}])
    made.settle()
    assert made.finalizer
    made.deleting = True
    made.settle()
    assert (made.share_of(V2), made.finalizer) == (0, False)


@pytest.mark.parametrize("how", ["another's", "all stable", "gone"])
def test_no_finalizer_comes_back_where_nothing_is_to_be_given_back(how: str) -> None:
    world = running()
    if how == "another's":
        world.claim = Claim.OTHER
    elif how == "all stable":
        world.say("abort")
        world.settle()
    else:
        world.rules = None
    world.finalizer = False
    world.settle()
    assert not world.finalizer
