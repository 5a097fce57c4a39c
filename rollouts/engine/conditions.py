"""Conditions: what kstatus, Flux and ``kubectl wait`` read, and what people look up."""

from __future__ import annotations

from rollouts.engine.draft import Draft, Said
from rollouts.engine.reasons import Reason
from rollouts.engine.starting import nobody_serves
from rollouts.engine.types import Condition, Phase

__all__ = ["set_conditions"]

_BUSY = (Phase.PROGRESSING, Phase.PAUSED, Phase.WAITING, Phase.NEW)
_STUCK = (Phase.ABORTED, Phase.INVALID)


def set_conditions(draft: Draft) -> None:
    """All conditions, in a fixed order; the transition time moves only with the status."""
    status, spec_problems = draft.status, draft.obs.problems
    phase, reason, message = status.phase, status.reason or Reason.UNKNOWN, status.message
    dead = nobody_serves(draft)
    # kstatus reads Reconciling before Stalled: a rollout that nobody serves is not "in progress".
    busy, stuck = phase in _BUSY and dead is None, phase in _STUCK or dead is not None
    why = dead or (reason, message)
    rows: list[tuple[str, bool, str, str]] = [
        ("Ready", phase is Phase.HEALTHY and dead is None, *why),
        ("Reconciling", busy, reason if busy else Reason.SETTLED, message if busy else ""),
        ("Stalled", stuck, why[0] if stuck else Reason.NOT_STALLED, why[1] if stuck else ""),
        _row("TargetReady", draft.target_problem, *(draft.target_note or (Reason.READY,))),
        _row("TrafficApplied", draft.traffic_problem, Reason.APPLIED),
        (
            "TrafficContended",
            bool(draft.contended),
            Reason.FOREIGN_WRITE if draft.contended else Reason.NONE,
            draft.contended,
        ),
    ]
    if spec_problems:
        text = "; ".join(problem.message for problem in spec_problems)
        rows.append(("SpecValid", False, spec_problems[0].reason, text))
    else:
        rows.append(("SpecValid", True, Reason.VALID, ""))
    draft.set(conditions=tuple(_condition(draft, *row) for row in rows))


def _row(name: str, problem: Said | None, fine: Reason, note: str = "") -> tuple[str, bool, str, str]:
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
