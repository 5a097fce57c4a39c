"""``Rollout.status``: JSON to the engine's value and back, by the models.

``write_status`` and ``read_status`` are inverse to each other on every value that the engine makes. A status that
somebody scribbled on must not stop a rollout: what cannot be read is as if it had never been written, and is reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rollouts.api import status_models as models
from rollouts.api.codec import Json, Record
from rollouts.api.former import understood
from rollouts.engine.types import (
    AbortRecord,
    ArmCrashes,
    CommandRecord,
    Condition,
    EntryRef,
    GateSummary,
    HistoryEntry,
    Identity,
    Notice,
    PathStatus,
    Phase,
    ProbeRecord,
    Revision,
    RolloutStatus,
    TargetWait,
    WayBack,
    WeightStatus,
    format_weight,
)

__all__ = ["read_status", "write_status"]


def _shown(status: RolloutStatus) -> Json:
    """What people read: ``2/6``, counted from 1, and the weight in words."""
    count, current = status.step_count, status.current_step
    return {
        "currentStep": current if count else None,
        "step": f"{min(current + 1, count)}/{count}" if count else None,
        "weightText": format_weight(status.weight.applied),
    }


_IDENTITY = Record(Identity, models.ArmModel, whole=True)
_REVISION = Record(
    Revision,
    models.ArmModel,
    of=[_IDENTITY],
    inline="identity",
    whole=True,
    shown=lambda revision: {"text": revision.label},
)
_ENTRY = Record(EntryRef, models.EntryModel, whole=True)
_STATUS = Record(
    RolloutStatus,
    models.RolloutStatusModel,
    of=[
        _REVISION,
        Record(WeightStatus, models.WeightModel),
        Record(PathStatus, models.PathModel),
        Record(TargetWait, models.TargetWaitModel),
        Record(ProbeRecord, models.ProbeModel),
        Record(ArmCrashes, models.ArmCrashesModel),
        Record(WayBack, models.WayBackModel, of=[_ENTRY], whole=True),
        Record(GateSummary, models.SummaryModel),
        Record(AbortRecord, models.AbortModel),
        Record(CommandRecord, models.CommandModel),
        Record(HistoryEntry, models.HistoryModel, of=[_REVISION], inline="revision", whole=True),
        Record(Notice, models.NoticeModel, whole=True),
        Record(Condition, models.ConditionModel, places={"last_transition": "last_transition_time"}),
    ],
    places={
        "hold": "hold.reason",
        "hold_message": "hold.message",
        "canary_crashes": "crashes.canary",
        "stable_crashes": "crashes.stable",
    },
    shown=_shown,
)


def write_status(status: RolloutStatus) -> Json:
    """The JSON of a status; empty fields are left out. Always the same for equal values."""
    return _STATUS.write(status)


def read_status(data: Any) -> tuple[RolloutStatus, tuple[str, ...]]:
    """The status and the paths that could not be read. Never raises."""
    bad = [] if data is None or isinstance(data, Mapping) else ["status"]
    data = data if isinstance(data, Mapping) else {}
    status = _STATUS.read(data, "status", bad)
    known = data.get("stable") or data.get("canary")
    if status.phase is Phase.NEW and (known or data.get("phase", "") != ""):
        status = replace(status, phase=Phase.INVALID)  # what every phase can follow, where it was lost
    return understood(status), tuple(bad)
