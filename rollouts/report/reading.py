"""What the cluster keeps of one attempt, as one value: from a Rollout, its AnalysisRuns and its Events. Pure.

Everything is read as it is stored; nothing is asked of a metrics server, and nothing is judged again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rollouts.analysis.comparisons import GatesError, metric_of
from rollouts.analysis.evidence.model import Direction
from rollouts.analysis.timeline import TimePoint, read_timeline
from rollouts.analysis.types import ComparisonResult, GateState, MeasureSpec, MetricResult, QuerySpec
from rollouts.api.parsing import ParsedRollout, parse_rollout
from rollouts.api.run_status import attempt_of
from rollouts.api.runs import ParsedRun, parse_run
from rollouts.api.scalars import format_time
from rollouts.api.strategy_words import LiveStrategy, StrategyField, effective_fields, strategy_lines
from rollouts.engine.attempt import PinnedStrategy
from rollouts.engine.rollout_status import HistoryEntry, Phase, RolloutStatus
from rollouts.engine.steps import describe
from rollouts.objects.fields import text_at
from rollouts.objects.managed_fields import managed_fields
from rollouts.report.decisions import RecordedDecision, decisions_of, marks_of
from rollouts.units import format_weight

__all__ = [
    "COMMIT_ANNOTATION",
    "ApprovalRow",
    "AttemptReport",
    "ComparedMetric",
    "NoAttemptError",
    "Origin",
    "StepRow",
    "Threshold",
    "read_attempt",
]

COMMIT_ANNOTATION = "inferencerollouts.dev/commit"
"""Set by CI to the commit that it applied; whoever may write the Rollout may write it."""
_CHANGES = 8


class NoAttemptError(ValueError):
    """The Rollout has no such attempt, or nothing of it is kept; the text says which there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Who asked for something, as far as it is known: ``what`` in two or three words, the answer beside it."""

    what: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """One step, ``number`` from 1. ``state`` is done, current, failed or ahead; ``verdict`` of its gate, if any."""

    number: int
    text: str
    state: str
    began: datetime | None = None
    verdict: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRow:
    """One question to a receiver: ``decision`` is approve, deny, or open while it waits; ``step`` from 1."""

    step: int
    webhook: str
    decision: str
    at: datetime
    """When it was decided, or since when it is asked."""
    by: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedMetric:
    """One comparison of the attempt. ``harmful`` and ``tolerated`` are relative effects: harm begins beyond the first,
    a pass rules out what is beyond the second. ``index`` is its place in the points of the time line."""

    index: int
    result: ComparisonResult
    steps: tuple[int, ...]
    source: str
    harmful: float | None = None
    tolerated: float | None = None
    advisory: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """One metric with conditions of its own. ``asks`` is how it is measured, ``conditions`` what it is held to."""

    run: str
    step: int | None
    result: MetricResult
    asks: str
    conditions: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptReport:
    """Everything that a report tells."""

    namespace: str
    name: str
    number: int
    newest: int
    outcome: str
    message: str
    canary: str
    canary_hash: str
    stable: str
    running: bool
    began: datetime | None
    ended: datetime | None
    asked: tuple[Origin, ...]
    steps: tuple[StepRow, ...]
    weight: tuple[str, str, str]
    """Desired, applied, observed; of a running attempt."""
    marks: tuple[tuple[datetime, int, float], ...]
    """From when on which step (from 0) asked for which share."""
    points: tuple[TimePoint, ...]
    compared: tuple[ComparedMetric, ...]
    gates: tuple[GateState, ...]
    abort_at: float | None
    pass_at: float | None
    thresholds: tuple[Threshold, ...]
    decisions: tuple[RecordedDecision, ...]
    approvals: tuple[ApprovalRow, ...]
    strategy: tuple[str, ...]
    """What the attempt goes by, where that is a shared strategy; of the newest attempt."""
    strategy_fields: tuple[StrategyField, ...]
    """The shared fields and the Rollout's own, as they are in force."""
    history: tuple[HistoryEntry, ...]
    missing: tuple[str, ...] = field(default=())
    """What is not known, and why."""


def read_attempt(
    rollout: Mapping[str, Any],
    runs: Sequence[Mapping[str, Any]],
    events: Sequence[Mapping[str, Any]] | None = None,
    number: int | None = None,
    live: LiveStrategy = None,
) -> AttemptReport:
    """Attempt ``number``, or the newest. ``events`` None: they could not be read. ``live``: the shared strategy now.

    Raises NoAttemptError.
    """
    parsed = parse_rollout(rollout)
    if parsed.strategy is None and isinstance(live, PinnedStrategy):
        parsed = parse_rollout(rollout, strategy=live)
    status = parsed.status
    number = status.attempt if number is None else number
    mine = [parse_run(run) for run in runs if attempt_of(run) == number]
    entry = next((one for one in reversed(status.history) if one.attempt == number), None)
    current = number == status.attempt
    if number < 1 or not (current or mine or entry):
        raise NoAttemptError(_known(parsed, runs))
    evidence = next((run for run in reversed(mine) if run.spec is not None and run.spec.comparisons), None)
    ended = _ended(status, entry, current=current)
    marks = marks_of(evidence)
    compared = tuple(_compared(evidence)) if evidence is not None else ()
    figures = [one.result.figures for one in compared]
    running = current and entry is None and status.phase not in (Phase.ABORTED, Phase.HEALTHY)
    began = (status.started_at if current and running else None) or _began(mine)
    stable = evidence.spec.stable.name if evidence and evidence.spec and evidence.spec.stable else ""
    canary = entry.revision if entry else (status.canary or status.stable) if current else None
    return AttemptReport(
        namespace=parsed.namespace,
        name=parsed.name,
        number=number,
        newest=status.attempt,
        outcome=entry.outcome.value if entry else status.phase.value or "New" if current else "not recorded",
        message=(status.message if current else entry.message if entry else ""),
        canary=canary.label if canary else _arm(mine),
        canary_hash=canary.hash if canary else "",
        stable=(status.stable.label if current and status.canary and status.stable else "") or stable or "-",
        running=running,
        began=began,
        ended=ended,
        asked=tuple(_asked(rollout, parsed, entry, current=current)),
        steps=tuple(_steps(parsed, evidence, mine)) if current else (),
        weight=_weight(status),
        marks=marks,
        points=read_timeline(evidence.status.timeline) if evidence is not None else (),
        compared=compared,
        gates=evidence.status.gates if evidence is not None else (),
        abort_at=next((one["abortAt"] for one in figures if "abortAt" in one), None),
        pass_at=next((one["passAt"] for one in figures if "passAt" in one), None),
        thresholds=tuple(_thresholds(mine)),
        approvals=tuple(_approvals(status, entry, current=current)),
        strategy=tuple(strategy_lines(parsed, rollout.get("spec"), live)) if current else (),
        strategy_fields=tuple(effective_fields(rollout.get("spec"), parsed.strategy)) if current else (),
        decisions=tuple(decisions_of(parsed, mine, evidence, entry, events, began, ended)),
        history=status.history,
        missing=(*_missing(mine, evidence, events, current=current), *_unpinned(parsed, current=current)),
    )


def _approvals(status: RolloutStatus, entry: HistoryEntry | None, *, current: bool) -> Iterator[ApprovalRow]:
    """What was decided in the attempt, and what is asked now."""
    running = status.current if current else None
    given = entry.approvals if entry is not None else running.approvals if running is not None else ()
    for one in given:
        yield ApprovalRow(
            step=one.step + 1,
            webhook=one.webhook,
            decision=one.decision.value,
            at=one.at,
            by=one.by,
            message=one.message,
        )
    asked = running.approval if running is not None and running.aborted is None else None
    if running is not None and asked is not None and not asked.granted:
        yield ApprovalRow(
            step=running.current_step + 1,
            webhook=asked.webhook,
            decision="open",
            at=asked.since,
            message=asked.answer,
        )


def _known(parsed: ParsedRollout, runs: Sequence[Mapping[str, Any]]) -> str:
    kept = {attempt_of(run) for run in runs} | {entry.attempt for entry in parsed.status.history}
    kept = (kept | {parsed.status.attempt}) - {0}
    name = f"Rollout {parsed.namespace}/{parsed.name}"
    if not kept:
        return f"{name} has had no attempt yet: its first target became stable without one, or no controller saw it"
    return f"{name} keeps nothing of that attempt; there are {', '.join(map(str, sorted(kept)))}"


def _arm(runs: Sequence[ParsedRun]) -> str:
    arms = (run.spec.canary for run in runs if run.spec is not None)
    return next((arm.name for arm in arms if arm is not None), "-")


def _weight(status: RolloutStatus) -> tuple[str, str, str]:
    weight = status.weight
    return format_weight(weight.desired), format_weight(weight.applied), format_weight(weight.observed)


def _began(runs: Sequence[ParsedRun]) -> datetime | None:
    known = [run.status.started_at for run in runs if run.status.started_at is not None]
    known += [mark.at for run in runs if run.spec is not None for mark in run.spec.marks]
    return min(known, default=None)


def _ended(status: RolloutStatus, entry: HistoryEntry | None, *, current: bool) -> datetime | None:
    if entry is not None:
        return entry.at
    return status.aborted.at if current and status.aborted is not None else None


# --- who asked -------------------------------------------------------------------------------------


def _asked(
    rollout: Mapping[str, Any], parsed: ParsedRollout, entry: HistoryEntry | None, *, current: bool
) -> Iterator[Origin]:
    status = parsed.status
    revision = entry.revision if entry else (status.canary or status.stable) if current else None
    if revision is not None and revision.revision:
        yield Origin(what="spec.target.revision", answer=revision.revision)
    if not current:
        return
    commit = text_at(rollout, "metadata", "annotations", COMMIT_ANNOTATION)
    if commit:
        yield Origin(what="Commit", answer=commit)
    for line in list(_changes(rollout))[-_CHANGES:]:
        yield Origin(what="Spec written by", answer=line)
    last = status.last_command
    if last is not None:
        by = last.by or "somebody who did not say"
        done = f"{last.action} by {by} at {_stamp(last.at)}: {last.result.value}"
        yield Origin(what="Last command", answer=f"{done}. {last.message}" if last.message else done)
    for name in status.current.overrides if status.current else ():
        yield Origin(what="Overridden gate", answer=name)


def _changes(rollout: Mapping[str, Any]) -> Iterator[str]:
    """Field managers of the spec, by time: who applied the change, as the API server saw it."""
    spec = [one for one in managed_fields(rollout) if one.owns("spec")]
    for one in sorted(spec, key=lambda one: str(one.at or "")):
        at = format_time(one.at) if one.at is not None else "an unknown time"
        yield f"{one.manager} ({one.operation}) at {at}"


# --- steps and gates -------------------------------------------------------------------------------


def _steps(parsed: ParsedRollout, evidence: ParsedRun | None, runs: Sequence[ParsedRun]) -> Iterator[StepRow]:
    status = parsed.status
    began: dict[int, datetime] = {}
    for at, marked, _ in marks_of(evidence):
        began[marked] = at
    verdicts = {gate.step: gate.verdict for gate in (evidence.status.gates if evidence else ())}
    for run in runs:
        if run.spec is not None and run.spec.step is not None:
            verdicts.setdefault(run.spec.step, run.status.phase.value)
            if run.status.started_at is not None:
                began.setdefault(run.spec.step, run.status.started_at)
    for index, step in enumerate(parsed.known_steps):
        yield StepRow(
            number=index + 1,
            text=describe(step),
            state=_state(status, index),
            began=began.get(index),
            verdict=verdicts.get(index, ""),
        )


def _state(status: RolloutStatus, index: int) -> str:
    if status.canary is None and status.phase is Phase.HEALTHY:
        return "done" if status.current_step >= status.step_count > 0 else "ahead"
    if index < status.current_step:
        return "done"
    if index > status.current_step or status.started_at is None:
        return "ahead"
    return "failed" if status.aborted is not None else "current"


def _compared(evidence: ParsedRun) -> Iterator[ComparedMetric]:
    assert evidence.spec is not None
    asked = {item.name: item for item in evidence.spec.comparisons}
    for index, result in enumerate(evidence.status.comparisons):
        item = asked.get(result.name)
        try:
            metric = metric_of(item) if item is not None else None
        except GatesError:
            metric = None
        yield ComparedMetric(
            index=index,
            result=result,
            steps=item.steps if item is not None else (),
            source=item.source if item is not None else "",
            harmful=None if metric is None else _effect_of(metric.margin, metric.direction),
            tolerated=None if metric is None else _effect_of(metric.tolerance, metric.direction),
            advisory=metric is not None and metric.advisory,
        )


def _effect_of(growth: float, direction: Direction) -> float:
    """Growth that is worse, as a relative effect: where more is better it is a fall by the same factor."""
    return growth if direction is Direction.LOWER else -growth / (1.0 + growth)


def _thresholds(runs: Sequence[ParsedRun]) -> Iterator[Threshold]:
    for run in runs:
        metrics = {metric.name: metric for metric in (run.spec.metrics if run.spec is not None else ())}
        for result in run.status.metrics:
            metric = metrics.get(result.name)
            asks, conditions = "", ""
            if metric is not None:
                what = metric.what
                asks = what.promql if isinstance(what, QuerySpec) else ""
                if isinstance(what, MeasureSpec):
                    asks = f"{what.stat.value + ' of ' if what.stat else ''}{what.name}, {what.arm.value}"
                held = (("passes when", metric.success_condition), ("fails when", metric.failure_condition))
                conditions = "; ".join(f"{words} {text}" for words, text in held if text)
            step = run.spec.step if run.spec is not None else None
            yield Threshold(run=run.name, step=step, result=result, asks=asks, conditions=conditions)


def _missing(
    runs: Sequence[ParsedRun],
    evidence: ParsedRun | None,
    events: Sequence[Mapping[str, Any]] | None,
    *,
    current: bool,
) -> Iterator[str]:
    if not current:
        yield "Steps and commands are those of an earlier attempt, which a Rollout does not keep."
    if not runs:
        yield "No AnalysisRun of this attempt is in the cluster: nothing was measured, or it was pruned."
    elif evidence is None:
        yield "Nothing was compared: weights and effects over time are kept of comparisons only."
    elif not evidence.status.timeline:
        yield "The run has no time line: it was written by a version of the controller that kept none."
    if events is None:
        yield "Events could not be read (not allowed, perhaps): decisions are those of runs and status."


def _unpinned(parsed: ParsedRollout, *, current: bool) -> Iterator[str]:
    if current and parsed.status.current is None and parsed.strategy is not None:
        label = f"{parsed.strategy.kind} {parsed.strategy.name}"
        yield f"Steps are those of {label} as it is now: what an attempt went by is kept while it lasts."


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
