"""Statuses of before state had fields of its own: their printed reasons are understood, those of later ones never."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.api.status import read_status, write_status
from rollouts.engine.attempt import PathAlarm, PathStatus
from rollouts.engine.rollout_status import RolloutStatus, SettledBy, WaitingFor

ARM = {"kind": "InferencePool", "name": "v2", "hash": "0" * 64}
FORMER: dict[str, Any] = {
    "phase": "Progressing",
    "stable": ARM,
    "canary": ARM,
    "stepsHash": "0123456789abcdef",
}


def read(**fields: Any) -> RolloutStatus:
    status, unreadable = read_status(FORMER | fields)
    assert unreadable == ()
    return status


@pytest.mark.parametrize(
    ("reason", "waits"),
    [
        ("NoTraffic", WaitingFor.REQUESTS),
        ("ShareUnmeasured", WaitingFor.COUNTS),
        ("AwaitingAnalysis", WaitingFor.ANALYSIS),
        ("PausedBySpec", WaitingFor.SPEC),
        ("SettingWeight", None),
        ("", None),
    ],
)
def test_what_a_former_attempt_waits_for(reason, waits):
    assert read(reason=reason).waiting_for is waits


@pytest.mark.parametrize("reason", ["NoTraffic", "PausedBySpec"])
def test_no_printed_reason_of_a_later_status_is_read(reason):
    assert read(reason=reason, stepsHash="1:0123456789abcdef").waiting_for is None
    assert read(reason=reason, waitingFor="Analysis").waiting_for is WaitingFor.ANALYSIS


@pytest.mark.parametrize(
    ("reason", "by"),
    [("Promoted", SettledBy.PROMOTED), ("Initialized", SettledBy.INITIALIZED), ("TargetIsStable", None)],
)
def test_how_a_former_rollout_became_healthy(reason, by):
    assert read(phase="Healthy", canary=None, reason=reason).settled_by is by
    assert read(phase="Paused", reason=reason).settled_by is None


@pytest.mark.parametrize(
    ("alarm", "kind"),
    [
        ("ShareNotProgrammed: none of 900", PathAlarm.NOT_PROGRAMMED),
        ("PathBroken: they came back", PathAlarm.BROKEN),
        ("scribbled on", PathAlarm.NOT_PROGRAMMED),
    ],
)
def test_a_former_alarm_still_aborts(alarm, kind):
    assert read(path={"alarm": alarm}).current.path == PathStatus(alarm=alarm, alarm_kind=kind)


def test_a_share_that_was_refuted_is_not_told_of_again():
    said = {"type": "TrafficApplied", "status": "False", "reason": "ShareMismatch"}
    condition = {**said, "lastTransitionTime": "2026-01-01T00:00:00Z"}

    assert read(conditions=[condition]).current.path.refuted
    assert not read(conditions=[condition], stepsHash="1:0123456789abcdef").current.path.refuted


def test_what_was_understood_is_written_as_fields():
    data = write_status(read(reason="PausedBySpec", path={"alarm": "PathBroken: x"}))

    assert (data["waitingFor"], data["path"]["alarmKind"]) == ("Spec", "PathBroken")
