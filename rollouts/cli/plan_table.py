"""``rollouts plan`` as a table: per gate when it passes, what it finds and from where on, and the time of it all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from rich.table import Table

from rollouts.analysis.evidence.model import Require
from rollouts.analysis.forecasting import Forecast, GatePlan
from rollouts.analysis.types import CompareSpec, MetricSpec
from rollouts.analysis.windows import window_of
from rollouts.engine.rollout_spec import AnalysisStep, ApproveStep, JobStep, PauseStep, RolloutSpec
from rollouts.engine.steps import weight_at
from rollouts.units import FULL, format_weight, percent

__all__ = [
    "PlanRow",
    "Total",
    "minutes_of",
    "pods_line",
    "rows_of",
    "spoken",
    "table_of",
    "total_of",
]

_COLUMNS = ("STEP", "METRIC", "NEEDS", "PASSES-AFTER", "FINDS-+20%", "FINDS-+50%", "FLOOR")
_LONGEST = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRow:
    """One metric of one gate. ``step`` from 0, None for the background; minutes are infinite for never.

    ``finds`` and ``floor`` are a comparison's: a limit of one's own finds what crosses it, however small or large.
    """

    step: int | None
    metric: str
    needs: str
    minutes: float
    finds: Mapping[float, float] | None = None
    floor: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Of a threshold, whose other figures nobody knows."""
        return {"step": self.step, "name": self.metric, "needs": self.needs, "minutesToPass": self.minutes}


def rows_of(
    plans: Iterable[GatePlan], gates: Iterable[tuple[int | None, Sequence[MetricSpec]]]
) -> list[PlanRow]:
    """Comparisons as they were planned, and the limits of the same gates, by step; the background's last."""
    rows = [_compared(plan) for plan in plans]
    rows += [
        _limited(step, metric)
        for step, metrics in gates
        for metric in metrics
        if not isinstance(metric.what, CompareSpec) and not metric.dry_run
    ]
    return sorted(rows, key=lambda row: math.inf if row.step is None else row.step)


def _compared(plan: GatePlan) -> PlanRow:
    metric = plan.gate.metric
    proof = metric.require is Require.WITHIN_TOLERANCE
    return PlanRow(
        step=plan.gate.step,
        metric=metric.name,
        needs=f"within {percent(metric.tolerance)} of stable" if proof else "no sign of harm",
        minutes=plan.minutes_to_pass,
        finds=dict(plan.harm),
        floor=plan.smallest_ever,
    )


def _limited(step: int | None, metric: MetricSpec) -> PlanRow:
    """A limit passes with its last measurement; the first one waits until its window is full of this weight."""
    count = max(metric.count, metric.consecutive_success_limit, 1)
    between = (metric.interval.total_seconds() if metric.interval is not None else 0.0) * (count - 1)
    seconds = max(metric.initial_delay.total_seconds(), window_of(metric).total_seconds()) + between
    condition = metric.success_condition or f"not {metric.failure_condition}"
    needs = f"{count} x {condition}" if count > 1 else condition
    return PlanRow(step=step, metric=metric.name, needs=needs, minutes=seconds / 60.0)


def table_of(rows: Iterable[PlanRow]) -> Table:
    """The rows for people."""
    table = Table(box=None, pad_edge=False, header_style="", show_edge=False)
    for name in _COLUMNS:
        table.add_column(name, no_wrap=name != "NEEDS")
    for row in rows:
        finds = row.finds or {}
        table.add_row(
            "background" if row.step is None else str(row.step + 1),
            row.metric,
            row.needs if len(row.needs) <= _LONGEST else f"{row.needs[: _LONGEST - 1]}…",
            spoken(row.minutes),
            *(spoken(finds[size]) if size in finds else "-" for size in (0.2, 0.5)),
            "-" if row.floor is None else "never" if math.isinf(row.floor) else percent(row.floor),
        )
    return table


def spoken(minutes: float) -> str:
    """Minutes as people say them."""
    if math.isinf(minutes):
        return "never"
    if minutes < 90:
        return f"{math.ceil(minutes)} min"
    hours, rest = divmod(math.ceil(minutes), 60)
    return f"{hours} h {rest:02} min" if hours < 48 else f"{hours / 24:.0f} days"


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """The whole attempt: minutes (infinite where a gate never passes), and steps (from 0) that somebody else ends."""

    minutes: float
    people: tuple[int, ...]
    jobs: tuple[int, ...]
    asked: tuple[tuple[int, str], ...] = ()
    """Steps that wait for an approval, and whose."""

    @property
    def words(self) -> str:
        """One line."""
        more = [f"step {index + 1} waits for `promote`" for index in self.people]
        more += [f"step {index + 1} for its Job" for index in self.jobs]
        more += [f"step {index + 1} for approval by {name}" for index, name in self.asked]
        also = "".join(f", {one}" for one in more)
        if math.isinf(self.minutes):
            return f"Total: without end, as a gate never passes{also}."
        return f"Total: about {spoken(self.minutes)}, and what pods and gateway take{also}."


def total_of(spec: RolloutSpec, rows: Sequence[PlanRow]) -> Total:
    """Pauses, gates and bake, one after the other; the background has to have passed by the end."""
    people, jobs, asked = list[int](), list[int](), list[tuple[int, str]]()
    for index, step in enumerate(spec.canary.steps):
        match step:
            case PauseStep(duration=None):
                people.append(index)
            case JobStep():
                jobs.append(index)
            case ApproveStep():
                asked.append((index, step.webhook))
            case _:
                pass
    minutes = sum(minutes_of(spec, rows))
    return Total(minutes=minutes, people=tuple(people), jobs=tuple(jobs), asked=tuple(asked))


def minutes_of(spec: RolloutSpec, rows: Sequence[PlanRow]) -> list[float]:
    """How long each step takes, as far as it is written down, and last what comes after them: bake, and what the
    background still needs then."""
    found = []
    for index, step in enumerate(spec.canary.steps):
        match step:
            case PauseStep(duration=timedelta() as duration):
                found.append(duration.total_seconds() / 60.0)
            case AnalysisStep():
                found.append(max([row.minutes for row in rows if row.step == index], default=0.0))
            case _:
                found.append(0.0)
    behind = max([row.minutes for row in rows if row.step is None], default=0.0)
    bake = spec.canary.bake.total_seconds() / 60.0
    spent = sum(found)
    return [*found, bake if math.isinf(spent) else max(bake, behind - spent)]


def pods_line(spec: RolloutSpec, traffic: Forecast) -> str:
    """How many canary pods each weight is reckoned with."""
    return f"Pods: {traffic.stable_pods} stable; canary {', '.join(_at_weights(spec, traffic))}."


def _at_weights(spec: RolloutSpec, traffic: Forecast) -> Iterator[str]:
    steps = spec.canary.steps
    for weight in sorted({weight_at(steps, index) for index in range(len(steps))} - {0}):
        yield f"{traffic.canary_at(weight / FULL)} at {format_weight(weight)}"
