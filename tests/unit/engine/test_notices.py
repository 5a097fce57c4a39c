"""When a change of a status owes a notice, and until when."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from rollouts.engine.notices import NOTICES_LIMIT, NoticeTrigger, owed
from rollouts.engine.rollout_status import Notice, Phase, RolloutStatus

NOW = datetime(2026, 1, 1, 12, 0, 0, 7, tzinfo=UTC)
ABORTED = NoticeTrigger(name="on-aborted", phases=frozenset({Phase.ABORTED}))
HELD = NoticeTrigger(
    name="on-held", phases=frozenset({Phase.PAUSED}), reasons=frozenset({"GateFailed", "ManualOverride"})
)
RUNNING = RolloutStatus(phase=Phase.PROGRESSING, reason="Analysing", attempt=1)


def at(phase: Phase, reason: str = "GateFailed", attempt: int = 1) -> RolloutStatus:
    return replace(RUNNING, phase=phase, reason=reason, attempt=attempt, message="m" * 600)


def told(
    before: RolloutStatus, after: RolloutStatus, *triggers: NoticeTrigger, delivered=()
) -> tuple[Notice, ...]:
    asked = [(trigger, "ops") for trigger in triggers]
    return owed(before, after, asked, delivered, uid="u", now=NOW).notices


def test_coming_into_a_phase_is_owed_with_what_the_status_says():
    (notice,) = told(RUNNING, at(Phase.ABORTED), ABORTED)
    assert (notice.trigger, notice.receiver, notice.phase, notice.reason, notice.attempt) == (
        "on-aborted",
        "ops",
        "Aborted",
        "GateFailed",
        1,
    )
    assert notice.message == "m" * 512
    assert notice.at == NOW.replace(microsecond=0)


@pytest.mark.parametrize(
    ("before", "after", "trigger", "fires"),
    [
        (at(Phase.ABORTED), at(Phase.ABORTED), ABORTED, False),
        (at(Phase.ABORTED), at(Phase.ABORTED, "StableNotReady"), ABORTED, False),
        (at(Phase.ABORTED), at(Phase.ABORTED, attempt=2), ABORTED, True),
        (RUNNING, at(Phase.PAUSED), HELD, True),
        (RUNNING, at(Phase.PAUSED, "PausedByCommand"), HELD, False),
        (at(Phase.PAUSED, "PausedByCommand"), at(Phase.PAUSED), HELD, True),
        (at(Phase.PAUSED), at(Phase.PAUSED, "ManualOverride"), HELD, True),
        (at(Phase.PAUSED), RUNNING, HELD, False),
    ],
)
def test_it_fires_for_something_new_alone(before, after, trigger, fires):
    assert bool(told(before, after, trigger)) is fires


def test_what_is_owed_stays_until_it_is_delivered():
    first = owed(RUNNING, at(Phase.ABORTED), [(ABORTED, "a"), (ABORTED, "b")], (), uid="u", now=NOW)
    one, other = first.notices
    assert one.id != other.id
    later = at(Phase.HEALTHY, "TargetIsStable")
    assert owed(first, later, [], (), uid="u", now=NOW).notices == (one, other)
    assert owed(first, later, [], {one.id}, uid="u", now=NOW).notices == (other,)


def test_nothing_changes_where_nobody_asks():
    after = at(Phase.ABORTED)
    assert owed(RUNNING, after, [], (), uid="u", now=NOW) is after


def test_the_list_is_bounded_and_the_oldest_go():
    status = RUNNING
    for attempt in range(1, NOTICES_LIMIT + 4):
        status = owed(status, at(Phase.ABORTED, attempt=attempt), [(ABORTED, "ops")], (), uid="u", now=NOW)
    assert [notice.attempt for notice in status.notices] == list(range(4, NOTICES_LIMIT + 4))
