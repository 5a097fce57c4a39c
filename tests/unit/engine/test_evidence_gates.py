"""Gates that read the attempt's evidence: one run for all of them, verdicts by step, and what people may override."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rollouts.engine.naming import Owner, background_run
from rollouts.engine.observation import GateOutcome, GateView, StepVerdict
from rollouts.engine.rollout_status import HoldReason, Outcome, Phase
from tests.kit.world import World, analysis, background, pause, pool, spec, weight


def world(*steps: Any, only: bool = True, **fields: Any) -> World:
    """Steps whose analyses compare; with ``only`` they measure nothing else."""
    compared = frozenset(i for i, step in enumerate(steps) if type(step).__name__ == "AnalysisStep")
    made = World(
        spec=spec(
            *steps, **{name: fields.pop(name) for name in ("analysis", "progress_deadline") if name in fields}
        ),
        compared=compared,
        only_compared=compared if only else frozenset(),
        **fields,
    )
    made.settle()
    return made


def evidence(found: World) -> GateView:
    return found.gates[background_run(Owner(name="demo"), found.status)]


def say(found: World, *, step: int | None, outcome: GateOutcome, message: str = "ttft +3 %") -> None:
    """The evidence's word to a step's gate, or (None) to the background's."""
    view, verdict = evidence(found), StepVerdict(outcome=outcome, message=message)
    changed = (
        replace(view, background=verdict)
        if step is None
        else replace(view, steps={**view.steps, step: verdict})
    )
    found.gates[view.name] = changed
    found.settle()


def test_a_comparing_gate_makes_no_run_of_its_own_and_passes_by_the_attempts():
    found = world(weight(10), analysis(), weight(50))
    assert list(found.gates) == [background_run(Owner(name="demo"), found.status)]
    assert found.status.message == "step 2/3 (analysis): comparing the canary with stable"

    say(found, step=1, outcome=GateOutcome.RUNNING, message="ttft: not decided yet.")
    assert found.status.current_step == 1
    assert "not decided yet" in found.status.message
    say(found, step=1, outcome=GateOutcome.PASSED)
    assert found.status.phase is Phase.HEALTHY


def test_each_step_is_marked_once_as_it_begins():
    found = world(weight(10), analysis(), weight(50), pause())
    assert evidence(found).marked == {0, 1}
    say(found, step=1, outcome=GateOutcome.PASSED)
    assert evidence(found).marked == {0, 1, 2, 3}


def test_a_gate_that_measures_and_compares_needs_both():
    found = world(weight(10), analysis(), weight(50), only=False)
    assert len(found.gates) == 2
    say(found, step=1, outcome=GateOutcome.PASSED)
    assert found.status.current_step == 1
    found.judge(GateOutcome.PASSED, containing="-1-1-")
    assert found.status.phase is Phase.HEALTHY


def test_harm_aborts_at_any_step():
    found = world(weight(10), pause(), analysis())
    found.judge(GateOutcome.ABORT, message="ttft: shown to be worse")
    assert found.status.phase is Phase.ABORTED
    assert "ttft: shown to be worse" in found.status.message


def test_an_inconclusive_reading_holds_until_promote_overrides_it():
    found = world(weight(10), analysis(), weight(50))
    say(found, step=1, outcome=GateOutcome.INCONCLUSIVE, message="15 % can never be proven.")
    assert found.status.hold is HoldReason.GATE_INCONCLUSIVE
    assert "15 % can never be proven" in found.status.message
    found.say("promote")
    assert found.status.phase is Phase.HEALTHY
    assert "gates overridden" in found.status.history[-1].message


def test_promote_leaves_a_reading_that_is_still_open():
    found = world(weight(10), analysis(), pause())
    found.say("promote")
    assert found.status.current_step == 2


def test_a_failure_that_only_pauses_is_overridden_for_all_later_readings_too():
    found = world(weight(10), analysis(), weight(50), analysis())
    found.judge(GateOutcome.PAUSE)
    assert found.status.hold is HoldReason.GATE_FAILED
    found.say("promote")
    assert found.status.phase is Phase.HEALTHY  # the evidence has ended: a person went on against it


def test_edited_steps_are_told_and_old_verdicts_say_nothing_meanwhile():
    found = world(weight(10), pause(), analysis())
    say(found, step=1, outcome=GateOutcome.PASSED)
    before = evidence(found).steps_hash
    found.compared = found.only_compared = frozenset({1})
    found.spec = spec(weight(10), analysis("other"), weight(50))
    found.generation += 1
    found.step()
    assert evidence(found).steps_hash == before
    found.settle()
    assert evidence(found).steps_hash == found.status.current.steps_hash != before
    assert found.status.current_step == 1  # the old pass was of another list


@pytest.mark.parametrize("last", [weight(50), pause(5.0)], ids=["weight", "pause"])
def test_the_background_has_to_pass_before_100_percent(last):
    found = world(weight(10), last, analysis=background(), background_compares=True)
    found.advance(30)
    assert found.status.phase is Phase.PROGRESSING
    assert found.status.reason == "AwaitingAnalysis"
    assert found.share_of(pool("v2")) < 1
    say(found, step=None, outcome=GateOutcome.PASSED)
    found.gates[evidence(found).name] = replace(evidence(found), may_pass=True)
    found.settle()
    assert found.status.history[-1].outcome is Outcome.PROMOTED


def test_waiting_for_the_background_is_no_missed_deadline():
    found = world(weight(10), analysis=background(), background_compares=True)
    found.advance(4000)
    assert found.status.reason == "AwaitingAnalysis"


def test_an_inconclusive_background_holds_before_100_percent_and_promote_goes_on():
    found = world(weight(10), analysis=background(), background_compares=True)
    say(found, step=None, outcome=GateOutcome.INCONCLUSIVE, message="undecided at the end of its time.")
    assert found.status.hold is HoldReason.GATE_INCONCLUSIVE
    found.say("promote")
    assert found.status.phase is Phase.HEALTHY


def test_promote_full_ends_the_evidence():
    found = world(weight(10), pause(), analysis())
    found.say("promoteFull")
    assert found.status.phase is Phase.HEALTHY
    assert {view.outcome for view in found.gates.values()} == {GateOutcome.PASSED}


def test_before_the_first_weight_there_is_nothing_to_compare():
    found = world(pause(), weight(10), analysis())
    assert found.gates == {}
