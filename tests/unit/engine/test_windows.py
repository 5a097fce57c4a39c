"""Windows: outside of them no weight rises and deadlines stand; aborts, the way back and commands go on."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.engine import progressing
from rollouts.engine.observation import GateOutcome, WindowView
from rollouts.engine.rollout_spec import TrafficMode, Window
from rollouts.engine.rollout_status import Phase
from rollouts.units import FULL, ZERO
from tests.kit.world import START, World, analysis, pause, pool, spec, weight

HOURS = (Window(schedule="0 9 * * *", duration=timedelta(hours=8)),)
DAY = timedelta(days=1)


def opened(hours: float = 8.0) -> WindowView:
    return WindowView(opens_at=START - DAY, closes_at=START + timedelta(hours=hours))


def later(hours: float) -> WindowView:
    opens = START + timedelta(hours=hours)
    return WindowView(opens_at=opens, closes_at=opens + timedelta(hours=8), local="Mon 09:00 Europe/Berlin")


def world(*steps, window: WindowView | None, **fields) -> World:
    made = World(spec(*(steps or (weight(10), weight(50))), windows=HOURS, **fields), window=window)
    made.settle()
    return made


def live(found: World) -> float:
    return float(found.share_of(pool("v2"))) * 100


def test_in_a_window_it_goes_on_as_ever():
    found = world(window=opened())
    found.settle()
    assert found.status.phase is Phase.HEALTHY
    assert live(found) == 100


def test_outside_nothing_rises_and_the_status_says_when_it_will():
    found = world(window=later(10))
    assert (found.status.phase, found.status.reason) == (Phase.PROGRESSING, "OutsideWindow")
    assert found.status.message == (
        "step 1/2 (set weight 10%): outside of its windows, weight stays at 0%; the next one opens at "
        "2026-01-01T10:00:00Z (Mon 09:00 Europe/Berlin); `rollouts promote demo --full` does not wait for it"
    )
    assert found.writes == []


def test_it_looks_again_when_a_window_opens_and_when_it_closes():
    found = world(window=later(10))
    assert found.step().requeue_after == timedelta(hours=10)
    found = world(weight(10), pause(), window=opened(1 / 3600))
    assert found.step().requeue_after == timedelta(seconds=1)


@pytest.mark.parametrize("window", [None, WindowView(opens_at=START - DAY, closes_at=START)])
def test_what_is_not_known_is_shut(window):
    found = world(window=window)
    assert found.status.reason == "OutsideWindow"
    assert "when one opens is not known yet" in found.status.message
    assert found.writes == []


def test_a_window_that_closes_in_mid_rollout_keeps_the_weight_and_one_that_opens_goes_on():
    found = world(weight(10), pause(60), weight(50), pause(), window=opened(1 / 60))
    assert live(found) == 10
    found.window = later(20)
    found.advance(120)  # the pause is over, the window is, too
    assert found.status.reason == "OutsideWindow"
    assert live(found) == 10
    found.now = START + timedelta(hours=20)
    found.settle()
    assert live(found) == 50
    assert found.status.phase is Phase.PAUSED


def test_gates_judge_and_abort_outside():
    found = world(weight(10), analysis(), weight(50), window=opened(1))
    found.now += timedelta(hours=2)
    found.window = later(20)
    found.settle()
    found.judge(GateOutcome.ABORT)
    assert found.status.phase is Phase.ABORTED
    assert live(found) == 0


def test_commands_work_outside_and_promote_full_does_not_wait():
    found = world(weight(10), weight(50), window=later(10))
    found.say("pause")
    assert found.status.phase is Phase.PAUSED
    found.say("resume")
    assert found.status.reason == "OutsideWindow"
    found.say("promoteFull")
    assert found.status.phase is Phase.HEALTHY
    assert live(found) == 100


def test_an_abort_by_command_works_outside():
    found = world(weight(10), pause(), window=opened(1))
    found.now += timedelta(hours=2)
    found.window = later(20)
    found.say("abort")
    assert found.status.phase is Phase.ABORTED
    assert live(found) == 0


def test_going_back_in_git_works_outside_and_so_does_the_rollback_window():
    found = world(weight(10), pause(), window=opened(1))
    found.now += timedelta(hours=2)
    found.window = later(20)
    assert found.spec is not None
    found.edit(replace(found.spec, target=replace(found.spec.target, name="v1")))
    assert found.status.phase is Phase.HEALTHY
    assert live(found) == 0

    found = world(weight(50), window=opened(1), rollback_window=DAY)
    assert live(found) == 100
    found.now += timedelta(hours=2)
    found.window = later(20)
    assert found.spec is not None
    found.edit(replace(found.spec, target=replace(found.spec.target, name="v1")))
    assert found.status.phase is Phase.HEALTHY
    assert live(found) == 0


def test_deadlines_stand_outside():
    found = World(
        spec(weight(10), pause(), windows=HOURS, progress_deadline=timedelta(minutes=10)), window=opened(0.1)
    )
    found.programmed = False
    found.settle()
    assert found.status.reason == "WaitingForGateway"
    found.now = START + timedelta(minutes=6)
    found.window = later(10)
    found.settle()
    found.advance(3 * 3600)
    assert found.status.aborted is None
    found.now = START + timedelta(hours=10)
    found.advance(60)
    assert found.status.aborted is None  # six minutes and one of its ten
    found.advance(240)
    assert found.status.phase is Phase.ABORTED


def test_a_target_that_is_not_ready_has_its_time_in_windows_only():
    found = World(spec(weight(10), windows=HOURS, target_deadline=timedelta(hours=1)), window=opened(0.5))
    found.pools[pool("v2")] = 0
    found.settle()
    found.window = later(10)
    found.now = START + timedelta(minutes=30)
    found.settle()
    found.advance(5 * 3600)
    assert found.status.aborted is None
    found.now = START + timedelta(hours=10)
    found.settle()
    found.advance(31 * 60)
    assert found.status.phase is Phase.ABORTED


def test_a_healthy_rollout_is_not_written_when_windows_come_and_go():
    found = world(window=opened())
    before = found.status
    for hours in (9, 20):
        found.now = START + timedelta(hours=hours)
        found.window = later(10)
        plan = found.step()
        assert plan.actions == ()
        assert found.status == before


def test_a_route_that_is_made_again_outside_has_the_weight_that_it_had():
    found = World(
        spec(weight(10), pause(60), weight(50), mode=TrafficMode.MANAGED, windows=HOURS),
        window=opened(1 / 60),
    )
    found.settle()
    found.window = later(20)
    found.advance(120)
    assert found.status.reason == "OutsideWindow"
    found.rules = None
    found.settle()
    assert live(found) == 10


# --- whatever happens ------------------------------------------------------------------------------

acts = st.lists(
    st.sampled_from(
        [
            "open",
            "shut",
            "time",
            "sync",
            "lower",
            "pods",
            "gate",
            "pause",
            "resume",
            "promote",
            "steps",
            "delete",
        ]
    ),
    max_size=25,
)


def violations(names: list[str], mode: TrafficMode) -> list[str]:
    """Writes outside of a window that gave the canary more than it had."""
    found = World(spec(weight(10), pause(30), weight(30), analysis(), weight(60), mode=mode, windows=HOURS))
    found.window = opened(10_000)
    found.settle()
    wrong = []
    is_open = True
    for name in names:
        is_open = {"open": True, "shut": False}.get(name, is_open)
        _act(found, name)
        found.window = (
            WindowView(opens_at=found.now - DAY, closes_at=found.now + DAY)
            if is_open
            else WindowView(opens_at=found.now + DAY, closes_at=found.now + 2 * DAY)
        )
        for _ in range(30):
            before, had = found.status, found.share_of(pool("v2")) if found.rules is not None else None
            ours = before.weight.ours or ZERO
            written = len(found.writes)
            plan = found.step()
            has = found.share_of(pool("v2")) if found.rules is not None else None
            allowed = max(had if had is not None else 0, ours / FULL if had is None else 0)
            if len(found.writes) > written and not is_open and has is not None and has > allowed:
                wrong.append(f"{name}: {had} became {has}")
            if not plan.actions and found.status == before:
                break
    return wrong


def _act(found: World, name: str) -> None:
    if name == "time":
        found.now += timedelta(seconds=45)
    elif name in ("sync", "lower") and found.rules is not None:
        shares = [{pool("v1"): 100, pool("v2"): 0}] if name == "sync" else [{pool("v1"): 95, pool("v2"): 5}]
        found.overwrite(*shares, manager="argocd-controller", gitops=name == "sync")
    elif name == "pods":
        found.pools[pool("v2")] = 0 if found.pools[pool("v2")] else 4
        found.now += timedelta(seconds=15)
    elif name == "gate":
        for run, gate in found.gates.items():
            found.gates[run] = replace(gate, outcome=GateOutcome.PASSED)
    elif name in ("pause", "resume", "promote"):
        found.tell(name)
    elif name == "steps" and found.spec is not None:
        steps = (weight(20), weight(80))
        found.spec = replace(found.spec, canary=replace(found.spec.canary, steps=steps))
        found.generation += 1
    elif name == "delete" and found.mode is TrafficMode.MANAGED:
        found.rules = None


@settings(max_examples=30, deadline=None, derandomize=True)
@given(acts, st.sampled_from(TrafficMode))
def test_no_weight_rises_outside_of_windows_whatever_happens(names, mode):
    assert violations(names, mode) == []


CASES = [
    ["shut", "time", "gate", "resume"],
    ["shut", "sync", "time"],
    ["shut", "pods", "time", "pods", "time", "time"],
    ["shut", "steps", "time"],
]


def test_an_engine_that_forgets_the_windows_is_caught(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progressing, "outside", lambda _: False)
    found = [text for names in CASES for text in violations(names, TrafficMode.ADOPTED)]
    assert found != []


def test_the_cases_that_catch_it_are_sound_with_the_engine_as_it_is():
    assert [text for names in CASES for text in violations(names, TrafficMode.ADOPTED)] == []
