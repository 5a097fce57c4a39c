"""``plan_run``: what to measure now, and what all measurements so far mean. Pure.

The shell calls it, takes the measurements that it asks for, and calls it again with what came out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rollouts.analysis.types import (
    CompareSpec,
    Measurement,
    MetricResult,
    MetricSpec,
    RunPhase,
    RunSpec,
    RunStatus,
)
from rollouts.analysis.verdicts import add_measurement, metric_phase, run_phase

__all__ = ["RunPlan", "plan_run"]

ERROR_RETRY = timedelta(seconds=10)
"""Spacing after an error, as in Argo Rollouts; a shorter interval wins."""

NO_INTERVAL_RETRY = timedelta(seconds=10)
"""Spacing of a metric without an interval that has no verdict yet (no data, errors)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """Metrics that are due (by name), the status to store, and when to look again."""

    due: tuple[MetricSpec, ...]
    status: RunStatus
    requeue_after: timedelta | None


def plan_run(
    run: RunSpec, status: RunStatus, now: datetime, taken: Mapping[str, Measurement] | None = None
) -> RunPlan:
    """Decide about one run.

    ``taken`` are the measurements of the previous plan's ``due`` metrics. A terminal status is never changed.
    """
    now = now.replace(microsecond=0)
    if status.phase.terminal:
        return RunPlan(due=(), status=status, requeue_after=None)
    # A start in the future was noted before the clock was set back: the run begins at the new time.
    started = min(status.started_at or now, now)
    before = {result.name: result for result in status.metrics}
    results = tuple(
        _advance(metric, before.get(metric.name) or MetricResult(name=metric.name), run, taken or {})
        for metric in run.metrics
    )
    phase, message, decision = run_phase(run, results)
    status = replace(
        status,
        phase=phase,
        message=message,
        started_at=started,
        completed_at=now if phase.terminal else None,
        metrics=results,
        decision=decision,
        earned=_earned(run, results),
    )
    if phase.terminal:
        return RunPlan(due=(), status=status, requeue_after=None)
    moments = {metric.name: _next(metric, result, started, now) for metric, result in _open(run, results)}
    due = tuple(metric for metric, _ in _open(run, results) if moments[metric.name] <= now)
    later = [moment - now for moment in moments.values() if moment > now]
    return RunPlan(due=due, status=status, requeue_after=min(later, default=None))


def _open(run: RunSpec, results: tuple[MetricResult, ...]) -> list[tuple[MetricSpec, MetricResult]]:
    if not run.measuring:
        return []
    pairs = zip(run.metrics, results, strict=True)
    return [
        (metric, result)
        for metric, result in pairs
        if not result.phase.terminal and not isinstance(metric.what, CompareSpec)
    ]


def _advance(
    metric: MetricSpec, result: MetricResult, run: RunSpec, taken: Mapping[str, Measurement]
) -> MetricResult:
    if result.phase.terminal:
        return result
    new = taken.get(metric.name)
    if new is not None:
        result = add_measurement(metric, result, new)
    phase, message = metric_phase(metric, result, run)
    return replace(result, phase=phase, message=message[:512])


def _next(metric: MetricSpec, result: MetricResult, started: datetime, now: datetime) -> datetime:
    """When the metric is measured next: anchored to the start, so that slow sources do not make it drift.

    A last measurement in the future means that the clock was set back: how long ago it was is unknown, and
    waiting until the old time comes again would leave the canary unjudged. The metric is due at once.
    """
    first = started + metric.initial_delay
    last = result.measurements[-1] if result.measurements else None
    if last is None:
        return first
    if last.at > now:
        return now
    interval = metric.interval
    if last.phase is RunPhase.ERROR:
        return last.at + (min(ERROR_RETRY, interval) if interval else ERROR_RETRY)
    if interval is None:
        return last.at + NO_INTERVAL_RETRY
    # The first grid point after the last measurement: points missed meanwhile are not caught up in a burst.
    passed = (last.at - first) // interval if interval else 0
    return first + (passed + 1) * interval


def _earned(run: RunSpec, results: tuple[MetricResult, ...]) -> bool:
    pairs = zip(run.metrics, results, strict=True)
    return all(result.successful > 0 for metric, result in pairs if not metric.dry_run)
