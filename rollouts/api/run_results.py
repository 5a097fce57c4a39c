"""The status of an AnalysisRun: JSON and the analysis' values, by the models."""

from __future__ import annotations

import math
from typing import Any

from rollouts.analysis.types import (
    ComparisonResult,
    Labelled,
    Measurement,
    MetricResult,
    RunPhase,
    RunStatus,
    Value,
)
from rollouts.api import run_status_models as models
from rollouts.api.codec import Codec, Json, Record, Unreadable
from rollouts.api.scalars import format_time

__all__ = ["read_run_status", "write_run_status"]

_WORDS = ("message", "effect", "evidence", "reason", "earned", "since", "timeline")
_SERIES = 10
"""Of a vector that a query answered with."""


def _write_value(value: Value) -> str:
    if isinstance(value, tuple):
        return ",".join(f"{item.value:.9g}" for item in value[:_SERIES])
    return f"{value:.9g}"


def _read_value(text: Any, _path: str, _bad: list[str]) -> Value:
    numbers = [float(part) for part in text.split(",")[:_SERIES]]
    if any(math.isnan(number) for number in numbers):
        raise ValueError("not a number")
    return numbers[0] if len(numbers) == 1 else tuple(Labelled(value=number) for number in numbers)


def _shown(status: RunStatus) -> Json:
    """What was compared is there from the first look on, and not before."""
    judged = ("checkpoint", "comparisons", "gates")
    return {} if status.judged_at is not None else dict.fromkeys(judged)


_MEASUREMENT = Record(
    Measurement, models.MeasurementModel, codecs={"value": Codec(_read_value, _write_value)}
)
_STATUS = Record(
    RunStatus,
    models.AnalysisRunStatusModel,
    of=[
        Record(MetricResult, models.MetricResultModel, of=[_MEASUREMENT]),
        Record(
            ComparisonResult, models.ComparisonResultModel, places={"words": "message"}, unstored=("brief",)
        ),
    ],
    places={"metrics": "metric_results"},
    shown=_shown,
)


def write_run_status(status: RunStatus) -> Json:
    """The JSON of a run's status."""
    return {**_STATUS.write(status), "conditions": _conditions(status)}


def _conditions(status: RunStatus) -> list[Json]:
    """Ready, Reconciling and Stalled, as kstatus reads them (sigs.k8s.io/cli-utils, pkg/kstatus): a run that ended
    without success is Failed there. Each changes once at most, when the run ends."""
    begun = status.started_at or status.completed_at
    if begun is None:
        return []
    ended, passed = status.phase.terminal, status.phase is RunPhase.SUCCESSFUL
    rows = (
        ("Ready", False, passed),
        ("Reconciling", True, not ended),
        ("Stalled", False, ended and not passed),
    )
    return [
        {
            "type": kind,
            "status": "True" if now else "False",
            "reason": status.phase.value,
            "message": status.message[:1024] if now else "",
            "lastTransitionTime": format_time((status.completed_at or begun) if now is not before else begun),
        }
        for kind, before, now in rows
    ]


def read_run_status(data: Any) -> RunStatus:
    """A status, or an empty one: a run whose status was scribbled on starts over, which never passes anything.

    Words may be lost: nothing is decided by them, and without ``earned`` nothing passes.
    """
    bad: list[str] = []
    try:
        status = _STATUS.read(data, "status", bad)
    except Unreadable:
        return RunStatus()
    return status if all(path.rpartition(".")[2] in _WORDS for path in bad) else RunStatus()
