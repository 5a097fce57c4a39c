"""What a Rollout reads of its AnalysisRuns: phase, decision, verdicts and figures, from raw objects."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rollouts.engine.attempt import GateSummary
from rollouts.engine.observation import GateOutcome, GateView, StepVerdict
from rollouts.objects.fields import list_of, map_of, text_of

__all__ = [
    "GateFigures",
    "attempt_in",
    "attempt_of",
    "finished_run",
    "gate_figures",
    "gate_summaries",
    "gate_view",
    "is_finished",
    "step_of",
]

_TEXT = 512


def _text(value: Any) -> str:
    return text_of(value)[:_TEXT]


def _outcome(status: Mapping[str, Any]) -> GateOutcome:
    phase = status.get("phase")
    if phase == "Successful":
        return GateOutcome.PASSED
    if phase == "Failed":
        return GateOutcome.PAUSE if status.get("decision") == "Pause" else GateOutcome.ABORT
    if phase in ("Inconclusive", "Error"):
        return GateOutcome.INCONCLUSIVE
    return GateOutcome.RUNNING


def is_finished(run: Mapping[str, Any]) -> bool:
    """Whether nothing of the run changes any more."""
    return _outcome(map_of(run.get("status"))) is not GateOutcome.RUNNING


def attempt_of(run: Mapping[str, Any]) -> int:
    """The attempt that the run belongs to; 0 where it does not say."""
    return _whole(map_of(run.get("spec")).get("attempt")) or 0


def attempt_in(rollout: Mapping[str, Any]) -> int:
    """The attempt that a raw Rollout is at; 0 before the first."""
    return _whole(map_of(rollout.get("status")).get("attempt")) or 0


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


_JUDGED = {
    "metricResults": ("name", "phase", "effect", "message"),
    "comparisons": ("name", "verdict", "effect", "message", "figures"),
    "gates": ("step", "verdict", "message"),
}


_JUDGING = ("metrics", "comparisons")
_LOSSES = ("error-rate", "lost-rate")
"""Presets whose failure means that requests get no answer, or none that is of use."""


def _preset_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """Name and preset of a metric or comparison of a run's spec, as they are written there."""
    found: dict[str, Any] = {"name": item.get("name")}
    for form in ("measure", "compare"):
        preset = map_of(item.get(form)).get("preset")
        if preset:
            found[form] = {"preset": preset}
    return found


def _loses_requests(run: Mapping[str, Any]) -> bool:
    """Whether something that failed counts errors or lost requests."""
    spec, status = map_of(run.get("spec")), map_of(run.get("status"))
    failed = {
        map_of(item).get("name")
        for field, state in (("metricResults", "phase"), ("comparisons", "verdict"))
        for item in list_of(status.get(field))
        if map_of(item).get(state) in ("Failed", "Fail")
    }
    rows = (_preset_of(map_of(item)) for field in _JUDGING for item in list_of(spec.get(field)))
    lossy = (row for row in rows if any(form.get("preset") in _LOSSES for form in _forms(row)))
    return any(row["name"] in failed for row in lossy)


def _forms(row: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    return map_of(row.get("measure")), map_of(row.get("compare"))


def finished_run(run: Mapping[str, Any], *, is_read: bool) -> dict[str, Any]:
    """Metadata and outcome of a finished run; with ``is_read`` what the functions below read of it, too.

    The rest is for people, who ask the API server: time lines, earlier measurements, what was to be measured.
    """
    spec, status = map_of(run.get("spec")), map_of(run.get("status"))
    kept_of_spec = ("attempt", "step", "stepsHash", "marks", "exclude") if is_read else ("attempt",)
    kept_of_status = ("phase", "decision", "message", "earned") if is_read else ("phase",)
    kept = {name: status[name] for name in kept_of_status if name in status}
    kept_spec = {name: spec[name] for name in kept_of_spec if name in spec}
    if is_read:
        for field, names in _JUDGED.items():
            rows = [map_of(item) for item in list_of(status.get(field))]
            kept[field] = [{name: row[name] for name in names if name in row} for row in rows]
        for field in _JUDGING:
            kept_spec[field] = [_preset_of(map_of(item)) for item in list_of(spec.get(field))]
        for row, whole in zip(kept["metricResults"], list_of(status.get("metricResults")), strict=True):
            row["measurements"] = list_of(map_of(whole).get("measurements"))[-1:]
    return {
        "metadata": map_of(run.get("metadata")),
        "spec": kept_spec,
        "status": kept,
    }


def gate_view(run: Mapping[str, Any]) -> GateView:
    """An AnalysisRun as a gate. Whatever is not plainly Successful is no pass."""
    status = map_of(run.get("status"))
    return GateView(
        name=str(map_of(run.get("metadata")).get("name", "")),
        outcome=_outcome(status),
        message=_text(status.get("message")),
        may_pass=status.get("earned") is True,
        steps={step: verdict for step, verdict in _verdicts(status) if step is not None},
        background=next((verdict for step, verdict in _verdicts(status) if step is None), None),
        steps_hash=_text(map_of(run.get("spec")).get("stepsHash")),
        marked=_marked(map_of(run.get("spec"))),
        loses_requests=_loses_requests(run),
    )


def _marked(spec: Mapping[str, Any]) -> frozenset[int]:
    steps = (map_of(mark).get("step") for mark in list_of(spec.get("marks")))
    return frozenset(step for step in steps if isinstance(step, int))


_VERDICTS = {
    "Pass": GateOutcome.PASSED,
    "Inconclusive": GateOutcome.INCONCLUSIVE,
    "Undecided": GateOutcome.RUNNING,
}


def _verdicts(status: Mapping[str, Any]) -> Iterator[tuple[int | None, StepVerdict]]:
    """What the attempt's evidence says to gates, by step; a Fail is told by the run's phase."""
    for item in map(map_of, list_of(status.get("gates"))):
        step = item.get("step")
        if step is None or (isinstance(step, int) and not isinstance(step, bool)):
            outcome = _VERDICTS.get(_text(item.get("verdict")), GateOutcome.RUNNING)
            yield step, StepVerdict(outcome=outcome, message=_text(item.get("message")))


_TOLD = (("metricResults", "phase"), ("comparisons", "verdict"))
"""Where a run's status tells of its metrics, and what says there how one stands."""


def gate_summaries(run: Mapping[str, Any]) -> Iterator[GateSummary]:
    """One line per metric of a run."""
    name, status = str(map_of(run.get("metadata")).get("name", "")), map_of(run.get("status"))
    for told, verdict in _TOLD:
        for item in map(map_of, list_of(status.get(told))):
            yield GateSummary(
                run=name,
                metric=_text(item.get("name")),
                verdict=_text(item.get(verdict)),
                effect=_text(item.get("effect")),
                evidence=_text(item.get("message")),
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class GateFigures:
    """The numbers of one metric of a run, as far as they are known and finite.

    ``value`` is the last measurement of a threshold, where it was one number. ``figures`` are those of a comparison,
    by their names in ``status.comparisons[].figures``; effects are relative, 1 is doubled.
    """

    metric: str
    value: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)


def gate_figures(run: Mapping[str, Any]) -> Iterator[GateFigures]:
    """The numbers of a run, metric by metric."""
    status = map_of(run.get("status"))
    for result in map(map_of, list_of(status.get("metricResults"))):
        measurements = list_of(result.get("measurements"))
        newest = map_of(measurements[-1]) if measurements else {}
        yield GateFigures(metric=_text(result.get("name")), value=_number(newest.get("value")))
    for compared in map(map_of, list_of(status.get("comparisons"))):
        figures = {name: _number(value) for name, value in map_of(compared.get("figures")).items()}
        known = {name: value for name, value in figures.items() if value is not None}
        yield GateFigures(metric=_text(compared.get("name")), figures=known)


def _number(value: Any) -> float | None:
    """A finite number, also as the text of a measurement; None for the several numbers of a vector."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value[:_TEXT] if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def step_of(run: Mapping[str, Any]) -> int | None:
    """The 0-based step that the run judges; None: the whole attempt."""
    return _whole(map_of(run.get("spec")).get("step"))
