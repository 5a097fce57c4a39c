"""What need not be stored at once: successes and figures. All else is, and a restart forgets nothing that counts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rollouts.analysis.types import Measurement, MetricResult, OnFail, RunPhase, RunStatus
from rollouts.api.run_results import write_run_status
from rollouts.controller.unstored import STORE_EVERY, Unstored, only_figures
from rollouts.engine.attempt import Attempt, GateSummary
from rollouts.engine.revision import revision_of
from rollouts.engine.rollout_status import Condition, Phase, RolloutStatus, WeightStatus
from rollouts.runtime.objects import ObjectKey
from rollouts.units import Weight
from tests.kit.world import changed, pool

KEY = ObjectKey("default", "run")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
METRIC = MetricResult(name="m", phase=RunPhase.RUNNING, successful=2, consecutive_success=2)
STORED = RunStatus(phase=RunPhase.RUNNING, started_at=NOW, earned=True, metrics=(METRIC,))


def grown(**changes: Any) -> RunStatus:
    """One more measurement."""
    taken = Measurement(phase=RunPhase.SUCCESSFUL, at=NOW, value=1.0)
    more = replace(METRIC, successful=3, consecutive_success=3, measurements=(taken,), message="1 of 5")
    return replace(STORED, metrics=(replace(more, **changes),), message="1 of 5")


def raw(status: RunStatus = STORED, uid: str = "u") -> dict[str, Any]:
    return {"metadata": {"uid": uid}, "status": write_run_status(status)}


def stored_just_now() -> Unstored:
    unstored = Unstored()
    unstored.was_stored(KEY, NOW)
    return unstored


def test_successes_are_kept_for_a_while_and_gone_on_from() -> None:
    unstored, later = stored_just_now(), NOW + timedelta(seconds=4)

    assert unstored.keep(KEY, raw(), STORED, grown(), later) == 6.0
    assert unstored.newest(KEY, raw(), STORED) == grown()
    assert unstored.keep(KEY, raw(), STORED, grown(successful=4), NOW + STORE_EVERY) is None


@pytest.mark.parametrize(
    "status",
    [
        STORED,
        grown(failed=1),
        grown(inconclusive=1),
        grown(error=1, error_since=NOW),
        grown(no_data_since=NOW),
        grown(phase=RunPhase.SUCCESSFUL),
        replace(grown(), phase=RunPhase.SUCCESSFUL, completed_at=NOW),
        replace(grown(), earned=False),
        replace(grown(), decision=OnFail.ABORT),
        replace(grown(), judged_at=NOW),
        replace(grown(), metrics=()),
    ],
    ids=lambda status: repr(status)[:60],
)
def test_whatever_else_changes_is_stored_at_once(status: RunStatus) -> None:
    assert stored_just_now().keep(KEY, raw(), STORED, status, NOW) is None


def test_the_first_look_after_a_start_is_stored() -> None:
    assert Unstored().keep(KEY, raw(), STORED, grown(), NOW) is None


def test_a_clock_that_is_set_back_keeps_nothing() -> None:
    assert stored_just_now().keep(KEY, raw(), STORED, grown(), NOW - timedelta(hours=1)) is None


@pytest.mark.parametrize(
    "other", [raw(grown(failed=1)), raw(uid="another")], ids=["a foreign write", "a namesake"]
)
def test_what_was_kept_is_dropped_when_the_stored_run_is_another(other: dict[str, Any]) -> None:
    unstored = stored_just_now()
    unstored.keep(KEY, raw(), STORED, grown(), NOW)

    assert unstored.newest(KEY, other, STORED) == STORED


@pytest.mark.parametrize("end", ["was_stored", "forget"])
def test_nothing_is_kept_after_it_was_stored_or_the_run_ended(end: str) -> None:
    unstored = stored_just_now()
    unstored.keep(KEY, raw(), STORED, grown(), NOW)
    unstored.was_stored(KEY, NOW) if end == "was_stored" else unstored.forget(KEY)

    assert unstored.newest(KEY, raw(), STORED) == STORED


LINE = GateSummary(run="r", metric="m", verdict="Running", effect="", evidence="1 of 5")
READY = Condition(
    type="Ready",
    status="False",
    reason="Analysing",
    message="1 of 5",
    observed_generation=1,
    last_transition=NOW,
)
SHOWN = RolloutStatus(
    phase=Phase.PROGRESSING,
    reason="Analysing",
    message="1 of 5",
    current=Attempt(canary=revision_of(pool("v2"), ""), analysis=(LINE,)),
    conditions=(READY,),
    weight=WeightStatus(desired=Weight(1000), applied=Weight(1000), observed=Weight(900)),
)


@pytest.mark.parametrize(
    "new",
    [
        changed(SHOWN, analysis=(replace(LINE, evidence="2 of 5"),)),
        replace(SHOWN, message="2 of 5", conditions=(replace(READY, message="2 of 5"),)),
        replace(SHOWN, weight=replace(SHOWN.weight, observed=Weight(1100))),
    ],
    ids=["evidence", "message", "share"],
)
def test_figures_are_only_shown(new: RolloutStatus) -> None:
    assert only_figures(SHOWN, new)


@pytest.mark.parametrize(
    "new",
    [
        SHOWN,
        changed(SHOWN, analysis=(replace(LINE, verdict="Failed"),)),
        changed(SHOWN, analysis=()),
        replace(SHOWN, message="x", reason="StepCompleted"),
        replace(SHOWN, conditions=(replace(READY, reason="Other"),)),
        replace(SHOWN, weight=replace(SHOWN.weight, observed=None)),
        replace(SHOWN, weight=replace(SHOWN.weight, applied=Weight(0))),
        replace(SHOWN, phase=Phase.PAUSED),
        changed(SHOWN, current_step=1),
    ],
    ids=lambda status: f"{status.phase.value}-{status.reason}-{status.weight.observed}-{status.current_step}",
)
def test_what_says_something_new_is_stored(new: RolloutStatus) -> None:
    assert not only_figures(SHOWN, new)


def test_a_message_under_another_reason_is_news() -> None:
    old = replace(SHOWN, reason="NoTraffic")

    assert not only_figures(old, replace(old, message="other"))
