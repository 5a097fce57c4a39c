"""Statuses of before a field was there: what they say in other words.

Up to 28 November 2026 some state was read back from printed reasons. Such a status is told by a ``stepsHash`` without a
version, and by what it lacks.
"""

from __future__ import annotations

from dataclasses import replace

from rollouts.engine.attempt import PathAlarm
from rollouts.engine.rollout_status import Phase, RolloutStatus, SettledBy, WaitingFor

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
    if status.phase is Phase.HEALTHY and status.settled_by is None:
        status = replace(status, settled_by=_SETTLED.get(status.reason))
    current = status.current
    if current is None:
        return status
    path = current.path
    if path.alarm and path.alarm_kind is None:
        kind = _ALARMS.get(path.alarm.partition(": ")[0], PathAlarm.NOT_PROGRAMMED)
        path = replace(path, alarm_kind=kind)
    if ":" not in current.steps_hash and status.waiting_for is None:
        refuted = any(condition.reason == "ShareMismatch" for condition in status.conditions)
        path = replace(path, refuted=path.refuted or refuted)
        status = replace(status, waiting_for=_WAITING.get(status.reason))
    return replace(status, current=replace(current, path=path))
