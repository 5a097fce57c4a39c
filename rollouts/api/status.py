"""``Rollout.status``: JSON to the engine's value and back, by the models.

``write_status`` and ``read_status`` are inverse to each other on every value that the engine makes. A status that
somebody scribbled on must not stop a rollout: what cannot be read is as if it had never been written, and is reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from rollouts.api import capacity_status_models as scaled
from rollouts.api import status_models as models
from rollouts.api.codec import Json, Record
from rollouts.api.former import understood
from rollouts.engine.attempt import ApprovalRecord, Attempt, CompanionCapacity, PinnedStrategy
from rollouts.engine.rollout_status import (
    AcceleratorUse,
    CompanionScale,
    Condition,
    Drain,
    EntryRef,
    HistoryEntry,
    KeptCompanion,
    Notice,
    Phase,
    RolloutStatus,
    ScaleDown,
    StableScale,
    WayBack,
)
from rollouts.engine.versions import Identity, Revision
from rollouts.objects.lines import brief
from rollouts.units import format_weight

__all__ = ["read_status", "write_status"]


def _shown(status: RolloutStatus) -> Json:
    """What people read: ``2/6``, counted from 1, the weight in words, the message in one line."""
    return {
        "currentStep": status.current_step if status.step_count else None,
        "step": status.step_text or None,
        "weightText": format_weight(status.weight.applied),
        "messageLine": brief(status.message) or None,
    }


_Kind = TypeVar("_Kind")


def _of_version(
    kind: type[_Kind], model: type[Any], *parts: Record[Any], whole: bool = True, **how: Any
) -> Record[_Kind]:
    """What has the fields of a version among its own; ``how`` are further arguments of ``Record``."""
    return Record(
        kind, model, of=[Record(Identity, model, whole=True), *parts], inline="identity", whole=whole, **how
    )


_REVISION = _of_version(Revision, models.ArmModel, shown=lambda revision: {"text": revision.label})
_ATTEMPT = Record(
    Attempt,
    models.RolloutStatusModel,
    of=[
        _REVISION,
        Record(ApprovalRecord, models.ApprovalModel, whole=True),
        Record(PinnedStrategy, models.PinnedStrategyModel, whole=True),
        Record(
            CompanionCapacity,
            scaled.CompanionCapacityModel,
            of=[Record(Identity, scaled.CompanionRefModel, whole=True)],
        ),
    ],
    places={"canary_crashes": "crashes.canary", "stable_crashes": "crashes.stable"},
)
_STATUS = Record(
    RolloutStatus,
    models.RolloutStatusModel,
    of=[
        _REVISION,
        _ATTEMPT,
        Record(
            WayBack, models.WayBackModel, of=[Record(EntryRef, models.EntryModel, whole=True)], whole=True
        ),
        _of_version(ScaleDown, scaled.ScaleDownModel, whole=False),
        _of_version(Drain, scaled.DrainModel),
        _of_version(
            StableScale, scaled.StableScaleModel, _of_version(CompanionScale, scaled.CompanionScaleModel)
        ),
        Record(AcceleratorUse, scaled.AcceleratorUseModel, whole=True),
        Record(
            HistoryEntry,
            models.HistoryModel,
            of=[
                _REVISION,
                _of_version(KeptCompanion, scaled.KeptCompanionModel),
            ],
            inline="revision",
            whole=True,
        ),
        Record(Notice, models.NoticeModel, whole=True),
        Record(Condition, models.ConditionModel, places={"last_transition": "last_transition_time"}),
    ],
    inline="current",
    places={"hold": "hold.reason", "hold_message": "hold.message"},
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
