"""What a Rollout reads of its AnalysisRuns: phase, decision and verdicts, from raw objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rollouts.engine.observation import GateOutcome, GateView, StepVerdict
from rollouts.engine.types import GateSummary

__all__ = ["attempt_in", "attempt_of", "finished_run", "gate_summaries", "gate_view", "is_finished"]

_TEXT = 512


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value[:_TEXT] if isinstance(value, str) else ""


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
    return _outcome(_dict(run.get("status"))) is not GateOutcome.RUNNING


def attempt_of(run: Mapping[str, Any]) -> int:
    """The attempt that the run belongs to; 0 where it does not say."""
    return _number(_dict(run.get("spec")).get("attempt"))


def attempt_in(rollout: Mapping[str, Any]) -> int:
    """The attempt that a raw Rollout is at; 0 before the first."""
    return _number(_dict(rollout.get("status")).get("attempt"))


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


_JUDGED = {
    "metricResults": ("name", "phase", "effect", "message"),
    "comparisons": ("name", "verdict", "effect", "message"),
    "gates": ("step", "verdict", "message"),
}


def finished_run(run: Mapping[str, Any], *, is_read: bool) -> dict[str, Any]:
    """Metadata and outcome of a finished run; with ``is_read`` what the functions below read of it, too.

    The rest is for people, who ask the API server: time lines, figures, what was to be measured.
    """
    spec, status = _dict(run.get("spec")), _dict(run.get("status"))
    kept_of_spec = ("attempt", "stepsHash", "marks", "exclude") if is_read else ("attempt",)
    kept_of_status = ("phase", "decision", "message", "earned") if is_read else ("phase",)
    kept = {name: status[name] for name in kept_of_status if name in status}
    if is_read:
        for field, names in _JUDGED.items():
            rows = [_dict(item) for item in _list(status.get(field))]
            kept[field] = [{name: row[name] for name in names if name in row} for row in rows]
    return {
        "metadata": _dict(run.get("metadata")),
        "spec": {name: spec[name] for name in kept_of_spec if name in spec},
        "status": kept,
    }


def gate_view(run: Mapping[str, Any]) -> GateView:
    """An AnalysisRun as a gate. Whatever is not plainly Successful is no pass."""
    status = _dict(run.get("status"))
    return GateView(
        name=str(_dict(run.get("metadata")).get("name", "")),
        outcome=_outcome(status),
        message=_text(status.get("message")),
        may_pass=status.get("earned") is True,
        steps={step: verdict for step, verdict in _verdicts(status) if step is not None},
        background=next((verdict for step, verdict in _verdicts(status) if step is None), None),
        steps_hash=_text(_dict(run.get("spec")).get("stepsHash")),
        marked=_marked(_dict(run.get("spec"))),
    )


def _marked(spec: Mapping[str, Any]) -> frozenset[int]:
    steps = (_dict(mark).get("step") for mark in _list(spec.get("marks")))
    return frozenset(step for step in steps if isinstance(step, int))


_VERDICTS = {
    "Pass": GateOutcome.PASSED,
    "Inconclusive": GateOutcome.INCONCLUSIVE,
    "Undecided": GateOutcome.RUNNING,
}


def _verdicts(status: Mapping[str, Any]) -> Iterator[tuple[int | None, StepVerdict]]:
    """What the attempt's evidence says to gates, by step; a Fail is told by the run's phase."""
    for item in map(_dict, _list(status.get("gates"))):
        step = item.get("step")
        if step is None or (isinstance(step, int) and not isinstance(step, bool)):
            outcome = _VERDICTS.get(_text(item.get("verdict")), GateOutcome.RUNNING)
            yield step, StepVerdict(outcome=outcome, message=_text(item.get("message")))


def gate_summaries(run: Mapping[str, Any]) -> Iterator[GateSummary]:
    """One line per metric of a run."""
    name = str(_dict(run.get("metadata")).get("name", ""))
    for item in _list(_dict(run.get("status")).get("metricResults")):
        result = _dict(item)
        yield GateSummary(
            run=name,
            metric=_text(result.get("name")),
            verdict=_text(result.get("phase")),
            effect=_text(result.get("effect")),
            evidence=_text(result.get("message")),
        )
    for item in _list(_dict(run.get("status")).get("comparisons")):
        compared = _dict(item)
        yield GateSummary(
            run=name,
            metric=_text(compared.get("name")),
            verdict=_text(compared.get("verdict")),
            effect=_text(compared.get("effect")),
            evidence=_text(compared.get("message")),
        )
