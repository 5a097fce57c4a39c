"""The status of an AnalysisRun: JSON and the analysis' values. Reading never raises on what somebody scribbled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rollouts.analysis.types import (
    ComparisonResult,
    GateState,
    Labelled,
    Measurement,
    MetricResult,
    OnFail,
    Phase,
    RunStatus,
    Value,
)
from rollouts.api.scalars import format_time, parse_time

__all__ = ["read_run_status", "write_run_status"]

Json = dict[str, Any]
_TEXT = 512


def write_run_status(status: RunStatus) -> Json:
    """The JSON of a run's status."""
    result: Json = {
        "phase": status.phase.value,
        "message": status.message[:1024],
        "metricResults": [_write_result(item) for item in status.metrics],
        "earned": status.earned,
    }
    if status.started_at is not None:
        result["startedAt"] = format_time(status.started_at)
    result["conditions"] = _conditions(status)
    if status.completed_at is not None:
        result["completedAt"] = format_time(status.completed_at)
    if status.decision is not None:
        result["decision"] = status.decision.value
    if status.judged_at is not None:
        result["judgedAt"] = format_time(status.judged_at)
        result["checkpoint"] = status.checkpoint
        result["comparisons"] = [_write_comparison(item) for item in status.comparisons]
        result["gates"] = [_write_gate(gate) for gate in status.gates]
    return result


def _conditions(status: RunStatus) -> list[Json]:
    """Ready, Reconciling and Stalled, as kstatus reads them (sigs.k8s.io/cli-utils, pkg/kstatus): a run that ended
    without success is Failed there. Each changes once at most, when the run ends."""
    begun = status.started_at or status.completed_at
    if begun is None:
        return []
    ended, passed = status.phase.terminal, status.phase is Phase.SUCCESSFUL
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


def _write_comparison(item: ComparisonResult) -> Json:
    full: Json = {
        "name": item.name,
        "verdict": item.verdict,
        "reason": item.reason,
        "message": item.words[:1024],
        "effect": item.effect,
        "evidence": item.evidence,
        "figures": dict(item.figures),
    }
    return {name: value for name, value in full.items() if value}


def _read_comparison(data: Mapping[str, Any]) -> ComparisonResult:
    figures = data.get("figures") or {}
    return ComparisonResult(
        name=str(data["name"]),
        verdict=str(data["verdict"]),
        reason=str(data.get("reason", "")),
        words=str(data.get("message", "")),
        effect=str(data.get("effect", "")),
        evidence=str(data.get("evidence", "")),
        figures={str(name): float(value) for name, value in figures.items()},
    )


def _write_gate(gate: GateState) -> Json:
    found: Json = {"verdict": gate.verdict, "message": gate.message[:_TEXT]}
    return found if gate.step is None else {"step": gate.step, **found}


def _read_gate(data: Mapping[str, Any]) -> GateState:
    step = data.get("step")
    return GateState(
        step=None if step is None else _count(data, "step"),
        verdict=str(data["verdict"]),
        message=str(data.get("message", "")),
    )


def _write_result(result: MetricResult) -> Json:
    found: Json = {
        "name": result.name,
        "phase": result.phase.value,
        "message": result.message[:_TEXT],
        "successful": result.successful,
        "failed": result.failed,
        "inconclusive": result.inconclusive,
        "error": result.error,
        "consecutiveError": result.consecutive_error,
        "consecutiveSuccess": result.consecutive_success,
        "measurements": [_write_measurement(item) for item in result.measurements],
    }
    if result.no_data_since is not None:
        found["noDataSince"] = format_time(result.no_data_since)
    if result.error_since is not None:
        found["errorSince"] = format_time(result.error_since)
    return found


def _write_measurement(taken: Measurement) -> Json:
    found: Json = {"phase": taken.phase.value, "at": format_time(taken.at)}
    if taken.value is not None:
        found["value"] = _write_value(taken.value)
    if taken.message:
        found["message"] = taken.message[:_TEXT]
    if taken.no_data:
        found["noData"] = True
    return found


def _write_value(value: Value) -> str:
    if isinstance(value, tuple):
        return ",".join(f"{item.value:.9g}" for item in value[:10])
    return f"{value:.9g}"


def read_run_status(data: Any) -> RunStatus:
    """A status, or an empty one: a run whose status was scribbled on starts over, which never passes anything."""
    if not isinstance(data, Mapping):
        return RunStatus()
    try:
        decision = data.get("decision")
        return RunStatus(
            phase=Phase(data.get("phase", "Pending")),
            message=str(data.get("message", ""))[:1024],
            started_at=None if data.get("startedAt") is None else parse_time(data["startedAt"]),
            completed_at=None if data.get("completedAt") is None else parse_time(data["completedAt"]),
            metrics=tuple(_read_result(item) for item in data.get("metricResults") or []),
            decision=None if decision is None else OnFail(decision),
            earned=data.get("earned") is True,
            comparisons=tuple(_read_comparison(item) for item in data.get("comparisons") or []),
            gates=tuple(_read_gate(item) for item in data.get("gates") or []),
            checkpoint=str(data.get("checkpoint", "")),
            judged_at=None if data.get("judgedAt") is None else parse_time(data["judgedAt"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return RunStatus()


def _count(data: Mapping[str, Any], name: str) -> int:
    value = data.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(name)
    return value


def _read_result(data: Mapping[str, Any]) -> MetricResult:
    since, failing = data.get("noDataSince"), data.get("errorSince")
    return MetricResult(
        name=str(data["name"]),
        phase=Phase(data["phase"]),
        message=str(data.get("message", "")),
        successful=_count(data, "successful"),
        failed=_count(data, "failed"),
        inconclusive=_count(data, "inconclusive"),
        error=_count(data, "error"),
        consecutive_error=_count(data, "consecutiveError"),
        consecutive_success=_count(data, "consecutiveSuccess"),
        no_data_since=None if since is None else parse_time(since),
        error_since=None if failing is None else parse_time(failing),
        measurements=tuple(_read_measurement(item) for item in data.get("measurements") or []),
    )


def _read_measurement(data: Mapping[str, Any]) -> Measurement:
    text = data.get("value")
    return Measurement(
        phase=Phase(data["phase"]),
        at=parse_time(data["at"]),
        value=None if text is None else _read_value(str(text)),
        message=str(data.get("message", "")),
        no_data=data.get("noData") is True,
    )


def _read_value(text: str) -> Value:
    numbers = [float(part) for part in text.split(",")[:10]]
    if any(math.isnan(number) for number in numbers):
        raise ValueError("not a number")
    return numbers[0] if len(numbers) == 1 else tuple(Labelled(value=number) for number in numbers)
