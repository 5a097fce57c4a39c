"""Design rule 8: commands are bound to a revision and a step, looked at once, and end Done or Rejected."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction

import pytest

from rollouts.engine.commands import MAX_RAW, MalformedCommand, parse_command
from rollouts.engine.observation import GateOutcome, Problem
from rollouts.engine.rollout_status import CommandResult, HoldReason, Phase
from tests.kit.world import World, analysis, background, pause, pool, spec, weight

V1, V2 = pool("v1"), pool("v2")
DONE, REJECTED = CommandResult.DONE, CommandResult.REJECTED


def at_pause(*steps, **fields) -> World:
    world = World(spec=spec(*(steps or (weight(10), pause(), weight(50), pause())), **fields))
    world.settle()
    return world


def waiting() -> World:
    world = World(spec=spec(weight(10)), pools={V1: 4, V2: 0})
    world.settle()
    return world


def aborted() -> World:
    world = at_pause()
    world.say("abort")
    return world


def healthy() -> World:
    world = World(spec=spec(target="v1"))
    world.settle()
    return world


def setting_weight() -> World:
    world = World(spec=spec(weight(10), pause()), programmed=False)
    world.settle()
    return world


def gate_failed() -> World:
    world = at_pause(weight(10), analysis(), weight(50), pause())
    world.judge(GateOutcome.PAUSE)
    return world


def gate_inconclusive() -> World:
    world = at_pause(weight(10), analysis(), weight(50), pause())
    world.judge(GateOutcome.INCONCLUSIVE)
    return world


def baking() -> World:
    return at_pause(weight(10), bake=timedelta(hours=1))


def held() -> World:
    world = at_pause()
    world.say("pause")
    return world


def overridden() -> World:
    world = at_pause()
    world.overwrite({V1: 98, V2: 2})
    world.settle()
    return world


def invalid() -> World:
    world = at_pause()
    world.problems = (Problem(reason="TemplateMissing", message="gone"),)
    world.settle()
    return world


STATES = {
    "pause": at_pause,
    "waiting": waiting,
    "aborted": aborted,
    "healthy": healthy,
    "setting weight": setting_weight,
    "gate failed": gate_failed,
    "gate inconclusive": gate_inconclusive,
    "baking": baking,
    "held": held,
    "overridden": overridden,
    "invalid": invalid,
}

ACCEPTED = {
    "pause": {"promote", "promoteFull", "abort", "pause"},
    "waiting": {"abort", "pause"},
    "aborted": {"retry"},
    "healthy": set(),
    "setting weight": {"promoteFull", "abort", "pause"},
    "gate failed": {"promote", "promoteFull", "abort"},
    "gate inconclusive": {"promote", "promoteFull", "abort"},
    "baking": {"promote", "promoteFull", "abort", "pause"},
    "held": {"promoteFull", "abort", "resume"},
    "overridden": {"promoteFull", "abort", "resume"},
    "invalid": {"abort", "pause"},
}

ACTIONS = ("promote", "promoteFull", "abort", "retry", "pause", "resume")


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("action", ACTIONS)
def test_every_command_in_every_state_is_done_or_rejected(state, action):
    world = STATES[state]()
    world.say(action)

    want = DONE if action in ACCEPTED[state] else REJECTED
    assert (world.status.last_command.action, world.status.last_command.result) == (action, want)
    assert world.status.last_command.message
    assert world.events[-1].reason or world.events


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("action", ACTIONS)
def test_a_rejected_command_changes_nothing_but_its_own_record(state, action):
    world = STATES[state]()
    before, writes = world.status, list(world.weights)
    world.say(action)
    if world.status.last_command.result is DONE:
        assert action in ACCEPTED[state]
        return

    assert (world.status.phase, world.status.hold, world.status.current_step, world.status.attempt) == (
        before.phase,
        before.hold,
        before.current_step,
        before.attempt,
    )
    assert world.weights == writes


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"revision": "f" * 64}, "meant for revision ffffffff"),
        ({"step": 0}, "meant for step 1"),
    ],
)
def test_a_command_meant_for_another_revision_or_step_is_rejected(fields, why):
    world = at_pause()
    world.say("promote", **fields)

    assert world.status.last_command.result is REJECTED
    assert why in world.status.last_command.message
    assert world.status.phase is Phase.PAUSED


def test_a_command_is_looked_at_once():
    world = at_pause(weight(10), pause(), weight(50), pause())
    world.say("promote", step=1)
    seen = [event for event in world.events if event.reason == "CommandDone"]
    world.advance(60)

    assert len([event for event in world.events if event.reason == "CommandDone"]) == len(seen) == 1
    assert world.share_of(V2) == Fraction(1, 2)


def test_promote_leaves_one_pause_and_promote_full_all_of_them():
    world = at_pause()
    world.say("promote")

    assert world.share_of(V2) == Fraction(1, 2)

    world = at_pause()
    world.say("promoteFull")

    assert (world.status.phase, world.status.stable.identity) == (Phase.HEALTHY, V2)


def test_promote_full_never_overrides_readiness():
    world = at_pause(weight(10), pause(), endpoint_ratio=1.0)
    world.pools[V2] = 1
    world.say("promoteFull")

    assert (world.share_of(V2), world.status.reason) == (Fraction(1, 10), "NotEnoughEndpoints")

    world.pools[V2] = 4
    world.settle()

    assert world.status.phase is Phase.HEALTHY


def test_promoting_over_a_failed_gate_is_a_recorded_override():
    world = gate_failed()
    name = next(iter(world.gates))
    world.say("promote")

    assert name in world.status.current.overrides
    assert world.share_of(V2) == Fraction(1, 2)


def test_an_overridden_background_gate_does_not_hold_again():
    world = at_pause(weight(10), pause(), weight(50), pause(), analysis=background())
    world.judge(GateOutcome.INCONCLUSIVE)

    assert world.status.hold is HoldReason.GATE_INCONCLUSIVE

    world.say("promote")
    world.advance(60)

    assert (world.status.hold, world.status.current_step) == (None, 1)


def test_a_background_failure_aborts_even_while_held_by_command():
    world = at_pause(weight(10), pause(), analysis=background())
    world.say("pause")
    world.judge(GateOutcome.ABORT)

    assert (world.status.phase, world.share_of(V2)) == (Phase.ABORTED, 0)


def test_abort_while_waiting_marks_the_hash_without_a_write():
    world = waiting()
    world.say("abort")

    assert (world.status.phase, world.writes) == (Phase.ABORTED, [])

    world.pools[V2] = 4
    world.advance(60)

    assert (world.status.phase, world.writes) == (Phase.ABORTED, [])


def test_retry_is_a_new_attempt_with_new_gates():
    world = at_pause(weight(10), analysis(), weight(50))
    world.judge(GateOutcome.ABORT)
    before = set(world.gates)
    world.say("retry")

    assert (world.status.attempt, world.status.phase) == (2, Phase.PROGRESSING)
    assert set(world.gates) - before
    assert world.share_of(V2) == Fraction(1, 10)


def test_retry_is_obeyed_in_the_very_plan_that_finds_the_spec_valid_again():
    world = aborted()
    world.problems = (Problem(reason="TemplateMissing", message="gone"),)
    world.settle()

    assert (world.status.phase, "gone" in world.status.message) == (Phase.ABORTED, True)

    world.problems = ()
    world.pools[V2] = 0
    world.say("retry")

    assert (world.status.phase, world.status.attempt) == (Phase.WAITING, 2)


def test_pause_and_resume_hold_and_release_steps():
    world = at_pause(weight(10), pause(60), weight(50), pause())
    world.say("pause")
    world.advance(3600)

    assert (world.share_of(V2), world.status.hold) == (Fraction(1, 10), HoldReason.COMMAND)

    world.say("resume")

    assert world.share_of(V2) == Fraction(1, 2)


def test_pausing_before_the_start_holds_the_start():
    world = waiting()
    world.say("pause")
    world.pools[V2] = 4
    world.settle()

    assert (world.status.phase, world.writes) == (Phase.PAUSED, [])

    world.say("resume")
    world.advance(3)

    assert world.status.stable.identity == V2


def test_spec_paused_holds_everything_but_aborts():
    world = World(spec=spec(weight(10), weight(50), pause(), paused=True))
    world.settle()

    assert (world.status.phase, world.writes) == (Phase.PAUSED, [])

    world.edit(spec(weight(10), pause(60), weight(50), pause(), paused=False))
    world.edit(spec(weight(10), pause(60), weight(50), pause(), paused=True))
    world.advance(3600)

    assert (world.status.reason, world.share_of(V2)) == ("PausedBySpec", Fraction(1, 10))

    world.say("abort")

    assert (world.status.phase, world.share_of(V2)) == (Phase.ABORTED, 0)


def test_time_under_spec_paused_does_not_count_against_the_deadline():
    limit = timedelta(minutes=1)
    world = World(spec=spec(weight(10), progress_deadline=limit), programmed=False)
    world.settle()
    world.edit(spec(weight(10), progress_deadline=limit, paused=True))
    world.advance(3600)
    world.edit(spec(weight(10), progress_deadline=limit))
    world.advance(59)

    assert world.status.phase is Phase.PROGRESSING


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ("x" * (MAX_RAW + 1), "longer than"),
        ("not json", "not JSON"),
        ("[" * 1500, "not JSON"),
        ("[]", "not a JSON object"),
        ('{"action":"destroy","revision":"12345678"}', "unknown action"),
        ('{"action":["promote"],"revision":"12345678"}', "unknown action"),
        ('{"action":"promote"}', "names no revision"),
        ('{"action":"promote","revision":"123"}', "names no revision"),
        ('{"action":"promote","revision":"12345678","step":"1"}', "not a whole number"),
        ('{"action":"promote","revision":"12345678","step":true}', "not a whole number"),
        ('{"action":"promote","revision":"12345678","attempt":"1"}', "attempt is not a whole number"),
        ('{"action":"promote","revision":"12345678","attempt":true}', "attempt is not a whole number"),
    ],
)
def test_malformed_commands_say_why(raw, why):
    with pytest.raises(MalformedCommand, match=why):
        parse_command(raw)


def test_a_malformed_command_is_rejected_in_status():
    world = at_pause()
    world.command = "promote please"
    world.settle()

    assert world.status.last_command.result is REJECTED
    assert world.status.phase is Phase.PAUSED


def test_who_sent_a_command_is_kept_as_a_claim():
    assert parse_command('{"action":"abort","revision":"12345678","by":"ada"}').by == "ada"
    assert parse_command('{"action":"abort","revision":"12345678","by":7}').by == ""


TOLD = {
    "promote of a pause names the next step": (
        at_pause,
        "promote",
        Phase.PROGRESSING,
        "left step 2; now step 3/4 (set weight 50%)",
    ),
    "promote over a gate": (
        gate_inconclusive,
        "promote",
        Phase.PROGRESSING,
        "gate overridden: demo",
    ),
    "promote of the last pause": (
        lambda: at_pause(weight(10), pause()),
        "promote",
        Phase.PROGRESSING,
        "left step 2; now after step 2/2",
    ),
    "pause while a weight is put in force": (setting_weight, "pause", Phase.PAUSED, "paused by command"),
    "resume": (held, "resume", Phase.PROGRESSING, "going on; now step 2/4"),
}


@pytest.mark.parametrize("case", TOLD)
def test_the_plan_that_obeys_a_command_says_what_is_true_after_it(case):
    make, action, phase, message = TOLD[case]
    world = make()
    world.tell(action)

    world.step()

    assert world.status.phase is phase
    assert world.status.message.startswith(message)


def test_a_command_leaves_the_message_of_a_hold_that_it_does_not_lift():
    world = at_pause()
    world.spec = replace(world.spec, paused=True)
    world.settle()
    before = world.status.message
    world.tell("promote")

    world.step()

    assert (world.status.phase, world.status.message) == (Phase.PAUSED, before)


@pytest.mark.parametrize("make", [waiting, invalid])
def test_a_command_outside_the_steps_leaves_phase_and_message_to_the_next_plan(make):
    world = make()
    before = world.status
    world.tell("pause")

    world.step()

    assert (world.status.phase, world.status.message) == (before.phase, before.message)
    assert world.status.hold is HoldReason.COMMAND


# --- the attempt ---


def raw(world: World, action: str, **fields) -> str:
    current = world.status.canary or world.status.stable
    return json.dumps({"action": action, "revision": current.hash, **fields})


def obey(world: World, text: str):
    world.command = text
    world.settle()
    return world.status.last_command.result


DATED = {"promote": at_pause, "promoteFull": at_pause, "retry": aborted}
OTHERS = {"abort": at_pause, "pause": at_pause, "resume": held}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("shift", [-1, 1])
def test_a_command_for_another_attempt_is_rejected(action, shift):
    world = (DATED | OTHERS)[action]()
    attempt = world.status.attempt + shift

    assert obey(world, raw(world, action, attempt=attempt, at="2027-01-01T00:00:00Z")) is REJECTED
    assert f"meant for attempt {attempt}" in world.status.last_command.message


@pytest.mark.parametrize("action", ACTIONS)
def test_a_command_for_this_attempt_needs_no_time(action):
    world = (DATED | OTHERS)[action]()

    assert obey(world, raw(world, action, attempt=world.status.attempt)) is DONE


@pytest.mark.parametrize("action", DATED)
@pytest.mark.parametrize("at", [None, 7, "", "now", "2027-01-01T00:00:00", "9" * 50, "START", "BEFORE"])
def test_without_an_attempt_it_needs_a_time_after_the_beginning(action, at):
    world = DATED[action]()
    began = world.status.current.started_at
    times = {"START": began.isoformat(), "BEFORE": (began - timedelta(days=1)).isoformat()}

    assert obey(world, raw(world, action, at=times.get(at, at))) is REJECTED
    assert '"attempt":1' in world.status.last_command.message


@pytest.mark.parametrize("action", DATED)
def test_a_later_time_will_do_without_an_attempt(action):
    world = DATED[action]()
    later = world.status.current.started_at + timedelta(seconds=1)

    assert obey(world, raw(world, action, at=f"{later.isoformat()}#3")) is DONE


@pytest.mark.parametrize("action", OTHERS)
@pytest.mark.parametrize("fields", [{}, {"at": "2020-01-01T00:00:00Z"}, {"at": 7}])
def test_what_lowers_or_holds_never_looks_at_the_time(action, fields):
    world = OTHERS[action]()

    assert obey(world, raw(world, action, **fields)) is DONE


def test_a_retry_of_what_was_aborted_before_it_carried_weight_is_dated_by_that():
    world = waiting()
    world.say("abort")
    assert world.status.current.started_at is None

    assert obey(world, raw(world, "retry", at=world.status.current.aborted.at.isoformat())) is REJECTED
    later = world.status.current.aborted.at + timedelta(seconds=1)
    assert obey(world, raw(world, "retry", at=later.isoformat())) is DONE


def test_the_promotion_of_a_split_is_dated_by_when_it_was_first_seen():
    world = World(spec=spec(weight(10), pause(), target="v2"), rules=[{V1: 10, V2: 90}])
    world.settle()
    assert world.status.hold is HoldReason.SPLIT_AT_START
    first = min(condition.last_transition for condition in world.status.conditions)

    assert obey(world, raw(world, "promote", at=first.isoformat())) is REJECTED
    assert obey(world, raw(world, "promote", at=(first + timedelta(seconds=1)).isoformat())) is DONE


def test_an_old_promote_full_that_git_applies_again_skips_no_gate_two_attempts_later():
    world = at_pause(weight(10), analysis(), weight(50), pause())
    old = raw(world, "promoteFull", at=(world.now + timedelta(seconds=1)).isoformat())
    for _ in range(2):
        world.say("abort")
        world.advance(60)
        world.say("retry")

    assert obey(world, old) is REJECTED
    assert (world.status.attempt, world.status.current_step) == (3, 1)
