"""Statuses of before a field was there: what they say in other words.

Up to 28 November 2026 some state was read back from printed reasons. Such a status is told by a ``stepsHash`` without a
version, and by what it lacks.
"""

from __future__ import annotations

from dataclasses import replace

from rollouts.engine.types import PathAlarm, Phase, RolloutStatus, SettledBy, WaitingFor

__all__ = ["understood"]

_WAITING = {
    "NoTraffic": WaitingFor.REQUESTS,
    "ShareUnmeasured": WaitingFor.COUNTS,
    "AwaitingAnalysis": WaitingFor.ANALYSIS,
    "PausedBySpec": WaitingFor.SPEC,
}
_SETTLED = {"Initialized": SettledBy.INITIALIZED, "Promoted": SettledBy.PROMOTED}
_ALARMS: dict[str, PathAlarm] = {kind.value: kind for kind in PathAlarm}


def understood(status: RolloutStatus) -> RolloutStatus:
    """The status with the fields that its printed reasons stood for."""
    path, kind = status.path, status.path.alarm_kind
    if path.alarm and kind is None:
        kind = _ALARMS.get(path.alarm.partition(": ")[0], PathAlarm.NOT_PROGRAMMED)
        status = replace(status, path=replace(path, alarm_kind=kind))
    if status.phase is Phase.HEALTHY and status.settled_by is None:
        return replace(status, settled_by=_SETTLED.get(status.reason))
    if status.canary is None or ":" in status.steps_hash or status.waiting_for is not None:
        return status
    refuted = any(condition.reason == "ShareMismatch" for condition in status.conditions)
    path = replace(status.path, refuted=status.path.refuted or refuted)
    return replace(status, waiting_for=_WAITING.get(status.reason), path=path)
