"""Windows at the assembled controller, in virtual time: one that closes in mid-step, crashes on both sides of it."""

from __future__ import annotations

from datetime import datetime

import pytest

from rollouts.api.scalars import parse_time
from rollouts.engine import progressing
from tests.kit.faults.endstate import is_carrier, weights_of
from tests.kit.faults.invariants import check
from tests.kit.faults.moves import command, healthy_on, phase, reason
from tests.kit.faults.objects import CANARY, STABLE, base_objects, rollout_object
from tests.kit.faults.simulation import CLEAN, Condition, FaultPlan, Move, Run, Scenario, simulate
from tests.kit.faults.transport import WriteFault

# Virtual time begins at 2030-01-01T00:00:00Z: open for a minute each quarter of an hour.
EVERY_QUARTER = [{"schedule": "*/15 * * * *", "duration": "1m"}]
STEPS = [{"setWeight": 10}, {"pause": {"duration": "55s"}}, {"setWeight": 50}]


def scenario(*moves: Move, goal: Condition | None = None) -> Scenario:
    rollout = rollout_object(STEPS)
    rollout["spec"]["strategy"]["canary"]["windows"] = EVERY_QUARTER
    return Scenario(
        name="windows",
        setup=lambda cluster: base_objects(cluster, rollout),
        moves=moves,
        goal=goal or healthy_on(CANARY),
    )


def rises(run: Run) -> list[tuple[datetime, int]]:
    """When the controller gave the canary more than it had, and how much."""
    found, had = [], 0
    for record in run.history.records:
        if not is_carrier(record):
            continue
        has = _canary(weights_of(record.after))
        if record.ours and has > had:
            found.append((record.now, has))
        had = has
    return found


def _canary(weights: object) -> int:
    """The canary's share in the first rule, in percent."""
    entries = weights[0] if isinstance(weights, list | tuple) else weights
    pairs = dict(entries) if not isinstance(entries, dict) else entries
    joint = sum(pairs.get(name, 0) for name in (STABLE, CANARY))
    return 0 if not joint else round(100 * pairs.get(CANARY, 0) / joint)


def outside(run: Run) -> list[str]:
    return [f"{at:%H:%M:%S} {weight}" for at, weight in rises(run) if at.minute % 15 != 0]


def test_a_window_that_closes_in_mid_step_keeps_its_weight_until_the_next_one():
    clean = simulate(scenario())
    assert [str(found) for found in check(clean, clean)] == []
    assert clean.converged
    assert outside(clean) == []
    assert [weight for _, weight in rises(clean)] == [10, 50, 100]
    assert [at.minute for at, _ in rises(clean)] == [0, 15, 15]
    told = [record.after.get("status", {}) for record in clean.history.records]
    waits = [status for status in told if status.get("reason") == "OutsideWindow"]
    assert "the next one opens at 2030-01-01T00:15:00Z (Tue 00:15 UTC)" in waits[0]["message"]
    assert {status["waitingFor"] for status in waits} == {"Window"}
    assert parse_time(waits[0]["standingSince"]).minute == 1


@pytest.mark.parametrize("number", range(1, 18, 4))
def test_no_crash_makes_a_weight_rise_outside(number):
    plan = FaultPlan(name=f"crash {number}", writes={number: WriteFault.CRASH_AFTER})
    found = simulate(scenario(), plan)
    assert found.converged
    assert found.history.problems == []
    assert outside(found) == []


def test_an_abort_does_not_wait_for_a_window():
    shut = Move(when=reason("OutsideWindow"), act=command("abort"), after=20)
    found = simulate(scenario(shut, goal=phase("Aborted")))
    assert found.converged
    back = [record for record in found.history.records if record.ours and is_carrier(record)][-1]
    assert _canary(weights_of(back.after)) == 0
    assert 1 <= back.now.minute < 15


def test_a_controller_that_forgets_the_windows_is_caught(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progressing, "outside", lambda _: False)
    assert outside(simulate(scenario(), CLEAN)) != []
