"""Verdict tables: measurement, metric, run.

As in Argo Rollouts (docs "Analysis & Progressive Delivery", ``analysis/analysis.go``), with three differences that
close the ways in which it fails open: no data is its own case and never a pass unless the author says so; a
metric without a good measurement cannot be Successful; terminating a run ends it as it stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from rollouts.analysis.conditions import ConditionError, evaluate
from rollouts.analysis.types import (
    CompareSpec,
    Measurement,
    MetricResult,
    MetricSpec,
    NoData,
    OnFail,
    RunPhase,
    RunSpec,
    Value,
)

__all__ = [
    "KEPT",
    "Evaluate",
    "add_measurement",
    "asked_of",
    "judge_value",
    "metric_phase",
    "run_phase",
    "wanted_count",
]

KEPT = 10
"""Newest measurements kept per metric."""

NO_DATA_PATIENCE = timedelta(minutes=10)
"""How long ``noData: Wait`` waits for a first good value, beyond five intervals, before it is inconclusive."""


_NO_CONDITION = "neither successCondition nor failureCondition is set: no value can be judged"


def format_value(value: Value | None) -> str:
    """A result in words."""
    if value is None:
        return "no value"
    if isinstance(value, tuple):
        shown = ", ".join(f"{item.value:.4g}" for item in value[:5])
        return f"[{shown}{', ...' if len(value) > 5 else ''}]"
    return f"{value:.4g}"


def has_data(value: Value | None) -> bool:
    """Whether there is anything to judge: NaN, infinite and empty alike are no data."""
    if value is None:
        return False
    if isinstance(value, tuple):
        return bool(value) and all(math.isfinite(item.value) for item in value)
    return math.isfinite(value)


Evaluate = Callable[[str, Value], bool]
"""The truth of a condition for a value; raises ConditionError."""


def asked_of(metric: MetricSpec, value: Value | None) -> tuple[tuple[str, ...], Value | None]:
    """The conditions that ``judge_value`` will ask for, and of which value; none of silence."""
    if not has_data(value) or value is None:
        return (), None
    texts = (metric.failure_condition, metric.success_condition)
    return tuple(text for text in texts if text), _unwrap(value)


def judge_value(
    metric: MetricSpec,
    value: Value | None,
    at: datetime,
    evaluate: Evaluate = evaluate,
    *,
    why: str = "",
) -> Measurement:
    """One measurement's phase from its value: the four cases of the two conditions, and no data.

    ``why``: in words, where it is known why there is no data.
    """
    if not has_data(value) or value is None:
        return _judge_silence(metric, at, why)
    if not metric.success_condition and not metric.failure_condition:
        # Admission refuses it; a run that was stored before, or by hand, must not pass by it.
        return Measurement(phase=RunPhase.ERROR, at=at, value=value, message=_NO_CONDITION)
    single = _unwrap(value)
    try:
        failed = bool(metric.failure_condition) and evaluate(metric.failure_condition, single)
        passed = bool(metric.success_condition) and evaluate(metric.success_condition, single)
    except ConditionError as error:
        return Measurement(phase=RunPhase.ERROR, at=at, value=value, message=str(error))
    if failed:
        phase = RunPhase.FAILED
    elif metric.success_condition:
        silent = bool(metric.failure_condition)
        phase = RunPhase.SUCCESSFUL if passed else (RunPhase.INCONCLUSIVE if silent else RunPhase.FAILED)
    else:
        phase = RunPhase.SUCCESSFUL
    return Measurement(phase=phase, at=at, value=value)


def _unwrap(value: Value) -> Value:
    """A vector of one series without labels is its number: what ``sum(...)`` answers."""
    if isinstance(value, tuple) and len(value) == 1 and not value[0].labels:
        return value[0].value
    return value


def _judge_silence(metric: MetricSpec, at: datetime, why: str) -> Measurement:
    phases = {
        NoData.WAIT: RunPhase.PENDING,
        NoData.INCONCLUSIVE: RunPhase.INCONCLUSIVE,
        NoData.FAIL: RunPhase.FAILED,
        NoData.PASS: RunPhase.SUCCESSFUL,
    }
    text = f"no data: {why}" if why else "no data"
    return Measurement(phase=phases[metric.no_data], at=at, message=text, no_data=True)


def wanted_count(metric: MetricSpec, run: RunSpec) -> int:
    """Measurements after which the metric is decided; 0 for never.

    Never: in the background with an interval, or until ``consecutiveSuccessLimit`` ends it.
    """
    if metric.count:
        return metric.count
    open_end = run.endless or metric.consecutive_success_limit > 1
    return 0 if metric.interval is not None and open_end else 1


def add_measurement(metric: MetricSpec, result: MetricResult, taken: Measurement) -> MetricResult:
    """The result with one more measurement counted."""
    phase = taken.phase
    kept = (*result.measurements, taken)[-KEPT:]
    silent_since = (result.no_data_since or taken.at) if taken.no_data else None
    failing_since = (result.error_since or taken.at) if phase is RunPhase.ERROR else None
    result = replace(result, measurements=kept, no_data_since=silent_since, error_since=failing_since)
    if phase is RunPhase.ERROR:
        return replace(
            result,
            error=result.error + 1,
            consecutive_error=result.consecutive_error + 1,
            consecutive_success=0,
        )
    if phase is RunPhase.PENDING:  # noData: Wait; after the patience it counts as inconclusive
        patience = NO_DATA_PATIENCE + 5 * (metric.interval or timedelta(0))
        if taken.at - (silent_since or taken.at) >= patience:
            return replace(
                result, inconclusive=result.inconclusive + 1, consecutive_error=0, consecutive_success=0
            )
        return replace(result, consecutive_error=0, consecutive_success=0)
    good = phase is RunPhase.SUCCESSFUL
    return replace(
        result,
        successful=result.successful + good,
        failed=result.failed + (phase is RunPhase.FAILED),
        inconclusive=result.inconclusive + (phase is RunPhase.INCONCLUSIVE),
        consecutive_error=0,
        consecutive_success=result.consecutive_success + 1 if good else 0,
    )


def metric_phase(metric: MetricSpec, result: MetricResult, run: RunSpec) -> tuple[RunPhase, str]:
    """Phase of a metric and why, in Argo's order: limits, early success, count."""
    seen = result.count + result.error
    if metric.failure_limit >= 0 and result.failed > metric.failure_limit:
        return RunPhase.FAILED, _limit_text(metric, result, "failed", result.failed, seen)
    if metric.inconclusive_limit >= 0 and result.inconclusive > metric.inconclusive_limit:
        return RunPhase.INCONCLUSIVE, _limit_text(
            metric, result, "were inconclusive", result.inconclusive, seen
        )
    if result.error_since is not None and result.measurements:
        last, limit = result.measurements[-1], metric.consecutive_error_limit
        told = f"{metric.name}: {result.consecutive_error} errors in a row: {last.message}"
        if limit is not None and result.consecutive_error > limit:
            return RunPhase.ERROR, told
        if last.at - result.error_since >= metric.error_timeout:
            return (
                RunPhase.INCONCLUSIVE,
                f"{told} (for {metric.error_timeout.total_seconds():g} s, errorTimeout)",
            )
    if metric.consecutive_success_limit and result.consecutive_success >= metric.consecutive_success_limit:
        return RunPhase.SUCCESSFUL, _passed_text(metric, result)
    wanted = wanted_count(metric, run)
    if wanted and result.count >= wanted:
        if metric.consecutive_success_limit or not result.successful:
            return (
                RunPhase.INCONCLUSIVE,
                f"{metric.name}: {result.count} measurements without enough successes",
            )
        return RunPhase.SUCCESSFUL, _passed_text(metric, result)
    if run.terminate:
        # As it stands: what was measured well counts, silence does not.
        return (
            (RunPhase.SUCCESSFUL, _passed_text(metric, result))
            if result.successful
            else (RunPhase.INCONCLUSIVE, f"{metric.name}: ended without a good measurement")
        )
    return (
        (RunPhase.RUNNING, _running_text(metric, result)) if result.measurements else (RunPhase.PENDING, "")
    )


def _comparison(metric: MetricSpec) -> str:
    if isinstance(metric.what, CompareSpec):
        return ""
    return metric.failure_condition or (f"not {metric.success_condition}" if metric.success_condition else "")


def _last_value(result: MetricResult, *phases: RunPhase) -> str:
    for taken in reversed(result.measurements):
        if not phases or taken.phase in phases:
            return format_value(taken.value) if not taken.no_data else taken.message or "no data"
    return "no value"


def _limit_text(metric: MetricSpec, result: MetricResult, what: str, count: int, seen: int) -> str:
    phase = RunPhase.FAILED if what == "failed" else RunPhase.INCONCLUSIVE
    value = _last_value(result, phase, RunPhase.PENDING)
    why = f" ({_comparison(metric)})" if _comparison(metric) else ""
    return f"{metric.name} = {value}{why}: {count} of {seen} measurements {what}"


def _passed_text(metric: MetricSpec, result: MetricResult) -> str:
    return f"{metric.name} = {_last_value(result)}: {result.successful} of {result.count} measurements passed"


def _running_text(metric: MetricSpec, result: MetricResult) -> str:
    counts = f"{result.successful} passed, {result.failed} failed so far"
    if result.error_since is not None:
        return f"{metric.name}: held by an error: {result.measurements[-1].message}; {counts}"
    return f"{metric.name} = {_last_value(result)}: {counts}"


_ORDER = (RunPhase.SUCCESSFUL, RunPhase.INCONCLUSIVE, RunPhase.ERROR, RunPhase.FAILED)


def run_phase(run: RunSpec, results: tuple[MetricResult, ...]) -> tuple[RunPhase, str, OnFail | None]:
    """Phase of a run, why, and what it asks for: the worst metric that counts.

    A Failed metric with ``onFail: Alert`` and dry-run metrics are shown, but decide nothing. A bad metric ends the
    run at once; a good end needs every counting metric to have ended.
    """
    pairs = list(zip(run.metrics, results, strict=True))
    counting = [
        (metric, result)
        for metric, result in pairs
        if not metric.dry_run and not (result.phase is RunPhase.FAILED and metric.on_fail is OnFail.ALERT)
    ]
    ended = [(metric, result) for metric, result in counting if result.phase.terminal]
    bad = [(metric, result) for metric, result in ended if result.phase is not RunPhase.SUCCESSFUL]
    if bad:
        worst = max((result.phase for _, result in bad), key=_ORDER.index)
        text = "; ".join(result.message for _, result in bad if result.phase is worst)
        asks = None
        if worst is RunPhase.FAILED:
            failed = [metric.on_fail for metric, result in bad if result.phase is RunPhase.FAILED]
            asks = OnFail.ABORT if OnFail.ABORT in failed else OnFail.PAUSE
        return worst, text, asks
    if len(ended) == len(counting) and (run.terminate or all(r.phase.terminal for _, r in pairs)):
        return RunPhase.SUCCESSFUL, "; ".join(result.message for _, result in ended), None
    started = any(result.measurements for _, result in pairs)
    text = "; ".join(result.message for _, result in pairs if result.message)
    return (RunPhase.RUNNING if started else RunPhase.PENDING), text, None
