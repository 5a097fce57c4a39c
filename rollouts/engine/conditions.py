"""Conditions: what kstatus, Flux and ``kubectl wait`` read, and what people look up."""

from __future__ import annotations

from rollouts.engine.draft import Draft
from rollouts.engine.types import Condition, Phase

__all__ = ["set_conditions"]

_BUSY = (Phase.PROGRESSING, Phase.PAUSED, Phase.WAITING, Phase.NEW)
_STUCK = (Phase.ABORTED, Phase.INVALID)


def set_conditions(draft: Draft) -> None:
    """All conditions, in a fixed order; the transition time moves only with the status."""
    status, spec_problems = draft.status, draft.obs.problems
    phase, reason, message = status.phase, status.reason or "Unknown", status.message
    rows: list[tuple[str, bool, str, str]] = [
        ("Ready", phase is Phase.HEALTHY, reason, message),
        (
            "Reconciling",
            phase in _BUSY,
            reason if phase in _BUSY else "Settled",
            message if phase in _BUSY else "",
        ),
        (
            "Stalled",
            phase in _STUCK,
            reason if phase in _STUCK else "NotStalled",
            message if phase in _STUCK else "",
        ),
        _row("TargetReady", draft.target_problem, "Ready", draft.target_note),
        _row("TrafficApplied", draft.traffic_problem, "Applied"),
        (
            "TrafficContended",
            bool(draft.contended),
            "ForeignWrite" if draft.contended else "None",
            draft.contended,
        ),
    ]
    if spec_problems:
        text = "; ".join(problem.message for problem in spec_problems)
        rows.append(("SpecValid", False, spec_problems[0].reason, text))
    else:
        rows.append(("SpecValid", True, "Valid", ""))
    draft.set(conditions=tuple(_condition(draft, *row) for row in rows))


def _row(name: str, problem: tuple[str, str] | None, fine: str, note: str = "") -> tuple[str, bool, str, str]:
    return (name, False, *problem) if problem is not None else (name, True, fine, note)


def _condition(draft: Draft, name: str, true: bool, reason: str, message: str) -> Condition:
    value = "True" if true else "False"
    since = draft.now
    for old in draft.obs.status.conditions:
        if old.type == name and old.status == value:
            since = old.last_transition
    return Condition(
        type=name,
        status=value,
        reason=reason,
        message=message[:1024],
        observed_generation=draft.obs.generation,
        last_transition=since,
    )
