"""Windows that are longer than the traffic they are to judge can last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta

from rollouts.analysis.types import MetricSpec
from rollouts.analysis.windows import longest_wait, window_of
from rollouts.api.parsing import ParsedRollout
from rollouts.engine.rollout_spec import (
    AnalysisStep,
    ApproveStep,
    CanaryStrategy,
    JobStep,
    PauseStep,
    Step,
    WeightStep,
)
from rollouts.engine.steps import weight_at

__all__ = ["too_long"]


def too_long(parsed: ParsedRollout, place: str, metrics: Iterable[MetricSpec]) -> Iterator[str]:
    """Metrics of a gate (``step N``, counted from 1, or the background) whose window can never be full, in words."""
    if parsed.spec is None:
        return
    step = place.removeprefix("step ")
    canary = parsed.spec.canary
    lasts = _before(canary.steps, int(step) - 1) if step.isdecimal() else _attempt(canary)
    if lasts is None:
        return
    for metric in metrics:
        window, most = window_of(metric), lasts + longest_wait(metric)
        if window > most:
            yield (
                f"metric {metric.name} looks back {window.total_seconds():g} s, but there are only "
                f"{most.total_seconds():g} s of the traffic that it judges: shorten its window, lengthen the pause "
                "before it, or set initialDelay"
            )


def _before(steps: Sequence[Step], index: int) -> timedelta | None:
    """How long its weight has been in force when a gate begins; None where that is not written down."""
    total = timedelta(0)
    for number in range(index - 1, -1, -1):
        match steps[number]:
            case WeightStep() if weight_at(steps, number - 1) != weight_at(steps, index):
                return total
            case PauseStep(duration=timedelta() as duration):
                total += duration
            case PauseStep() | ApproveStep() | AnalysisStep() | JobStep():
                return None
    return total


def _attempt(canary: CanaryStrategy) -> timedelta | None:
    """How long the canary carries traffic at least; None where gates, jobs or people decide it."""
    if any(isinstance(step, AnalysisStep | JobStep | ApproveStep) for step in canary.steps):
        return None
    carrying = [step for number, step in enumerate(canary.steps) if weight_at(canary.steps, number) > 0]
    pauses = [step for step in carrying if isinstance(step, PauseStep)]
    if any(pause.duration is None for pause in pauses):
        return None
    return canary.bake + sum((pause.duration or timedelta(0) for pause in pauses), timedelta(0))
