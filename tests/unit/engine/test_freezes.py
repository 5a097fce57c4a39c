"""Freezes: while one holds no weight rises and no attempt begins; aborts, the way back and commands go on."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from rollouts.engine import starting, windows
from rollouts.engine.observation import FreezeView, GateOutcome
from rollouts.engine.rollout_spec import TrafficMode
from rollouts.engine.rollout_status import Phase, WaitingFor
from tests.kit.world import START, World, analysis, pause, pool, spec, weight

UNTIL = START + timedelta(hours=10)
YEAR_END = FreezeView(name="year-end", reason="no changes before New Year", until=UNTIL)
DAY = timedelta(days=1)


def world(*steps, freeze: FreezeView | None = None, **fields) -> World:
    found = World(spec(*(steps or (weight(10), pause(), weight(50))), **fields), freeze=freeze)
    found.settle()
    return found


def live(found: World) -> float:
    return float(found.share_of(pool("v2"))) * 100


def test_no_attempt_begins_and_the_status_says_which_freeze_why_and_until_when():
    found = world(freeze=YEAR_END)
    assert (found.status.phase, found.status.reason) == (Phase.WAITING, "Frozen")
    assert found.status.message.endswith(
        "waits: frozen until 2026-01-01T10:00:00Z by RolloutFreeze year-end: no changes before New Year; "
        "`rollouts promote demo --full` does not wait for it"
    )
    assert found.status.waiting_for is WaitingFor.FREEZE
    assert found.writes == []
    assert [event.reason for event in found.events].count("Frozen") == 1


def test_it_looks_again_when_the_freeze_ends_and_begins_then():
    found = world(freeze=replace(YEAR_END, until=START + timedelta(seconds=20)))
    assert found.step().requeue_after == timedelta(seconds=20)
    found.freeze = None
    found.settle()
    assert live(found) == 10


def test_a_weight_that_is_there_stays_and_the_next_one_waits():
    found = world()
    found.freeze = replace(YEAR_END, until=None)
    found.say("promote")
    found.settle()
    assert (found.status.phase, found.status.reason) == (Phase.PROGRESSING, "Frozen")
    assert found.status.waiting_for is WaitingFor.FREEZE
    assert "step 3/3 (set weight 50%): frozen by RolloutFreeze year-end" in found.status.message
    assert found.status.message.endswith("; weight stays at 10%")
    assert live(found) == 10
    found.freeze = None
    found.settle()
    assert found.status.phase is Phase.HEALTHY


def test_deadlines_stand_from_the_moment_when_a_freeze_begins():
    found = World(spec(weight(10), pause(), progress_deadline=timedelta(minutes=10)))
    found.programmed = False
    found.freeze = replace(YEAR_END, since=START + timedelta(minutes=5))
    found.settle()
    assert live(found) == 10
    assert found.step().requeue_after <= timedelta(minutes=5)
    found.advance(300)
    assert found.status.standing_since == START + timedelta(minutes=5)
    found.advance(3 * 3600)
    assert found.status.aborted is None


def test_it_looks_again_soon_while_freezes_are_not_known():
    found = world(freeze=FreezeView(name="", reason="they cannot be listed"))
    assert found.step().requeue_after == timedelta(seconds=30)


def test_a_weight_that_somebody_lowered_is_said_as_it_is():
    found = world(weight(50), pause())
    found.freeze = YEAR_END
    found.overwrite({pool("v1"): 95, pool("v2"): 5}, manager="argocd-controller", gitops=True)
    found.settle()
    assert found.status.reason == "Frozen"
    assert found.status.message.endswith("; weight stays at 5%")
    assert live(found) == 5


def test_what_is_not_known_freezes():
    found = world(freeze=FreezeView(name="", reason="they cannot be listed"))
    assert found.status.message.endswith(
        "nobody knows whether a freeze holds, so no weight rises: they cannot be listed"
    )


def test_gates_judge_and_abort_in_a_freeze():
    found = world(weight(10), analysis(), weight(50))
    found.freeze = YEAR_END
    found.judge(GateOutcome.ABORT)
    assert found.status.phase is Phase.ABORTED
    assert live(found) == 0


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize(
    ("act", "phase", "share"), [("abort", Phase.ABORTED, 0), ("promoteFull", Phase.HEALTHY, 100)]
)
def test_commands_work_in_a_freeze(begun, act, phase, share):
    found = world(freeze=None if begun else YEAR_END)
    found.freeze = YEAR_END
    found.say(act)
    assert found.status.phase is phase
    assert live(found) == share


def test_going_back_in_git_and_by_the_rollback_window_works_in_a_freeze():
    for freeze in (None, YEAR_END):
        found = world(freeze=freeze)
        found.freeze = YEAR_END
        found.edit(replace(found.spec, target=replace(found.spec.target, name="v1")))
        assert found.status.phase is Phase.HEALTHY
        assert live(found) == 0

    found = world(weight(50), rollback_window=DAY)
    found.freeze = YEAR_END
    found.edit(replace(found.spec, target=replace(found.spec.target, name="v1")))
    assert found.status.phase is Phase.HEALTHY
    assert live(found) == 0


def test_deadlines_stand_in_a_freeze():
    found = World(spec(weight(10), pause(), progress_deadline=timedelta(minutes=10)))
    found.programmed = False
    found.settle()
    found.freeze = YEAR_END
    found.settle()
    found.advance(3 * 3600)
    assert found.status.aborted is None
    found.freeze = None
    found.settle()
    found.advance(601)
    assert found.status.phase is Phase.ABORTED


def test_a_healthy_rollout_is_not_written_when_a_freeze_comes_and_goes():
    found = world(weight(50))
    before = found.status
    found.freeze = YEAR_END
    assert found.step().actions == ()
    assert found.status == before


ACTS = [
    ["promote", "freeze", "promote", "time"],
    ["freeze", "pods", "time", "pods", "time", "time"],
    ["freeze", "steps", "time", "promote", "time"],
    ["freeze", "sync", "time", "resume", "time"],
]


def rises(names: list[str], mode: TrafficMode) -> list[str]:
    """Weights of the canary that rose in the freeze."""
    found, wrong = world(mode=mode), []
    for name in names:
        if name == "freeze":
            found.freeze = YEAR_END
        elif name == "time":
            found.now += timedelta(seconds=45)
        elif name == "pods":
            found.pools[pool("v2")] = 0 if found.pools[pool("v2")] else 4
        elif name == "steps":
            found.edit(replace(found.spec, canary=replace(found.spec.canary, steps=(weight(20), weight(80)))))
        elif name == "sync":
            found.overwrite({pool("v1"): 100, pool("v2"): 0}, manager="argocd-controller", gitops=True)
        else:
            found.tell(name)
        for _ in range(20):
            had, ours = live(found), (found.status.weight.ours or 0) / 100
            found.step()
            if found.freeze is not None and live(found) > max(had, ours):
                wrong.append(f"{name}: {had} became {live(found)}")
    return wrong


@pytest.mark.parametrize("mode", TrafficMode)
@pytest.mark.parametrize("names", ACTS, ids=" ".join)
def test_no_weight_rises_in_a_freeze_whatever_happens(names, mode):
    assert rises(names, mode) == []


def test_an_engine_that_forgets_freezes_is_caught(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(windows, "frozen", lambda _: False)
    monkeypatch.setattr(starting, "waits_for_thaw", lambda _: None)
    assert [text for names in ACTS for text in rises(names, TrafficMode.ADOPTED)] != []
