"""Approvals in the engine: no weight rises past one that was not given, and no abort waits for one."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from rollouts.api.status import read_status, write_status
from rollouts.engine import progressing
from rollouts.engine.attempt import ApprovalDecision, ApprovalRecord
from rollouts.engine.observation import ApprovalView
from rollouts.engine.rollout_spec import ApproveStep, PauseStep
from rollouts.engine.rollout_status import Outcome, Phase
from rollouts.units import FULL
from tests.kit.world import World, background, pool, spec, weight

BOARD = ApproveStep(webhook="board")


def world(*steps) -> World:
    made = World(spec(*(steps or (weight(10), BOARD, weight(50)))))
    made.settle()
    return made


def asked(found: World) -> ApprovalRecord:
    assert found.status.current is not None
    assert found.status.current.approval is not None
    return found.status.current.approval


def answer(found: World, decision: ApprovalDecision | None, **fields) -> None:
    fields = {"id": asked(found).id, **fields}
    found.approval = ApprovalView(decision=decision, **fields)
    found.settle()


def live(found: World) -> float:
    return float(found.share_of(pool("v2"))) * 100


def test_it_waits_and_says_for_whom():
    found = world()
    assert (found.status.phase, found.status.reason) == (Phase.PAUSED, "AwaitingApproval")
    assert found.status.message == (
        "step 2/3 (approval by board): waits for approval by board; `rollouts promote demo` goes on without it"
    )
    assert asked(found).webhook == "board"
    found.advance(timedelta(days=3).total_seconds())
    assert live(found) == 10


def test_an_approval_goes_on_and_is_remembered():
    found = world()
    answer(found, ApprovalDecision.APPROVE, message="ticket 4711", by="ann")
    assert found.status.phase is Phase.HEALTHY
    assert live(found) == 100
    assert [event.message for event in found.events if event.reason == "Approved"] == [
        "step 2/3 (approval by board) approved by ann: ticket 4711"
    ]
    promoted = [entry for entry in found.status.history if entry.outcome is Outcome.PROMOTED]
    assert promoted[-1].message == "promoted, approved: step 2 by ann: ticket 4711"


def test_an_approval_that_waits_for_the_background_analysis_is_said_once_and_kept():
    """And after a restart nobody is asked again; a denial that comes later is too late."""
    found = World(spec(weight(10), BOARD, analysis=background()), background_compares=True)
    found.settle()
    answer(found, ApprovalDecision.APPROVE, by="ann")
    waits = found.status
    found.approval = None
    found.settle()
    assert (waits.reason, found.status.reason) == ("AwaitingAnalysis", "AwaitingAnalysis")
    answer(found, ApprovalDecision.DENY)
    assert found.status.phase is not Phase.ABORTED
    assert [event.reason for event in found.events].count("Approved") == 1
    assert found.status.current is not None
    assert [one.words for one in found.status.current.approvals] == ["step 2 by ann"]


def test_who_decided_what_and_when_outlives_the_attempt():
    found = world(weight(10), BOARD, weight(50), BOARD)
    answer(found, ApprovalDecision.APPROVE, message="ticket 4711", by="ann")
    later = found.now
    answer(found, ApprovalDecision.DENY, message="no", by="ben")
    kept = found.status.history[-1].approvals

    assert found.status.phase is Phase.ABORTED
    assert [(one.step, one.webhook, one.decision, one.by, one.message) for one in kept] == [
        (1, "board", ApprovalDecision.APPROVE, "ann", "ticket 4711"),
        (3, "board", ApprovalDecision.DENY, "ben", "no"),
    ]
    assert kept[-1].at >= later
    assert read_status(write_status(found.status)) == (found.status, ())


def test_without_a_name_the_receiver_is_named():
    found = world()
    answer(found, ApprovalDecision.APPROVE)
    assert found.status.history[-1].message == "promoted, approved: step 2 by board"


@pytest.mark.parametrize("decision", [ApprovalDecision.WAIT, None])
def test_what_is_no_approval_holds_and_is_shown(decision: ApprovalDecision | None):
    found = world()
    answer(found, decision, message="HTTP 503", by="x" if decision else "")
    assert live(found) == 10
    words = "wait by x (HTTP 503)" if decision else "none (HTTP 503)"
    assert f"last answer: {words};" in found.status.message
    assert asked(found).answer == words
    found.approval = None  # as after a restart
    found.settle()
    assert f"last answer: {words};" in found.status.message


def test_a_denial_aborts_even_while_it_is_held():
    for held in (False, True):
        found = world()
        if held:
            found.say("pause")
        answer(found, ApprovalDecision.DENY, message="freeze", by="ann")
        assert (found.status.phase, found.status.reason) == (Phase.ABORTED, "ApprovalDenied")
        assert "denied by ann: freeze" in found.status.message
        assert live(found) == 0


def test_a_denial_without_words_names_the_receiver():
    found = world()
    answer(found, ApprovalDecision.DENY)
    assert found.status.history[-1].message == "ApprovalDenied: denied by board"


@pytest.mark.parametrize("decision", [ApprovalDecision.APPROVE, ApprovalDecision.DENY])
def test_an_answer_to_another_question_is_nobodys(decision: ApprovalDecision):
    found = world()
    answer(found, decision, id="another")
    assert (found.status.phase, live(found)) == (Phase.PAUSED, 10)


def test_each_step_and_each_attempt_asks_anew():
    found = world(weight(10), BOARD, weight(50), BOARD)
    first = asked(found)
    answer(found, ApprovalDecision.APPROVE)
    second = asked(found)
    assert (second.id == first.id, live(found)) == (False, 50)
    found.say("abort")
    found.command = ""
    found.say("retry")
    assert asked(found).id not in (first.id, second.id)
    assert live(found) == 10


def test_steps_that_were_edited_are_asked_for_again():
    found = world()
    first = asked(found)
    found.spec = spec(weight(10), BOARD, weight(60))
    found.settle()
    assert found.status.current_step == 1
    assert asked(found).id != first.id
    found.spec = spec(weight(10), ApproveStep(webhook="other"), weight(60))
    found.settle()
    assert asked(found).webhook == "other"


def test_a_person_goes_on_without_it():
    found = world()
    found.say("promote")
    assert live(found) == 100


def test_an_abort_waits_for_nobody():
    found = world()
    found.say("abort")
    assert (found.status.phase, live(found)) == (Phase.ABORTED, 0)
    answer_after = ApprovalView(id="x", decision=ApprovalDecision.APPROVE)
    found.approval = answer_after
    found.settle()
    assert found.status.phase is Phase.ABORTED


def test_a_pause_ends_by_approval_or_by_promote():
    pause = PauseStep(duration=None, approve="board")
    found = world(weight(10), pause, weight(50))
    assert (found.status.reason, live(found)) == ("AwaitingApproval", 10)
    answer(found, ApprovalDecision.APPROVE)
    assert live(found) == 100


def test_a_pause_with_a_time_ends_by_whichever_comes_first():
    timed = PauseStep(duration=timedelta(minutes=10), approve="board")
    found = world(weight(10), timed, weight(50))
    assert (found.status.phase, found.status.reason) == (Phase.PAUSED, "PauseStep")
    assert "or until approved by board" in found.status.message
    found.advance(601)
    assert live(found) == 100
    found = world(weight(10), timed, weight(50))
    answer(found, ApprovalDecision.APPROVE)
    assert live(found) == 100


def test_an_engine_that_takes_silence_for_approval_is_caught(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progressing, "approved", lambda *_: True)
    assert world().share_of(pool("v2")) * FULL != 0.1 * FULL


def test_a_stored_question_keeps_its_id():
    found = world()
    before = asked(found)
    found.advance(3600)
    found.say("pause")
    found.command = ""
    found.say("resume")
    assert replace(asked(found), answer="") == before
