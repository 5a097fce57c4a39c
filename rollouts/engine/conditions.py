"""Conditions: what kstatus, Flux and ``kubectl wait`` read, and what people look up."""

from __future__ import annotations

from datetime import timedelta

from rollouts.engine.actions import EmitEvent, EventType
from rollouts.engine.draft import Draft, Said
from rollouts.engine.obeying import goes_by_other
from rollouts.engine.observation import Claim
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_status import Condition, Phase
from rollouts.engine.starting import nobody_serves
from rollouts.engine.versions import VARIANT_KIND

__all__ = ["set_conditions"]

_ASKED = timedelta(seconds=30)
"""How soon a picker that has not answered, or does not obey, is looked at again; no watch tells of it."""
_BUSY = (Phase.PROGRESSING, Phase.PAUSED, Phase.WAITING, Phase.NEW)
_STUCK = (Phase.ABORTED, Phase.INVALID)


def set_conditions(draft: Draft) -> None:
    """All conditions, in a fixed order; the transition time moves only with the status."""
    status, spec_problems = draft.status, draft.obs.problems
    phase, reason, message = status.phase, status.reason or Reason.UNKNOWN, status.message
    dead = nobody_serves(draft)
    _warn_once(draft, dead)
    # kstatus reads Reconciling before Stalled: a rollout that nobody serves is not "in progress".
    busy, stuck = phase in _BUSY and dead is None, phase in _STUCK or dead is not None
    why = dead or (reason, message)
    rows: list[tuple[str, bool, str, str]] = [
        ("Ready", phase is Phase.HEALTHY and dead is None, *why),
        ("Reconciling", busy, reason if busy else Reason.SETTLED, message if busy else ""),
        ("Stalled", stuck, why[0] if stuck else Reason.NOT_STALLED, why[1] if stuck else ""),
        _row("TargetReady", draft.target_problem, *(draft.target_note or (Reason.READY,))),
        _row("TrafficApplied", draft.traffic_problem or _claimed(draft) or _disobeyed(draft), Reason.APPLIED),
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


def _claimed(draft: Draft) -> Said | None:
    """Whose the traffic object is when it is not ours: also said while an abort or a problem is what people read."""
    traffic = draft.obs.traffic
    if traffic is None or traffic.claim is not Claim.OTHER:
        return None
    return Reason.CLAIMED_BY_OTHER, f"{traffic.kind} {traffic.name} belongs to Rollout {traffic.claimed_by}"


def _disobeyed(draft: Draft) -> Said | None:
    """The pool's picker goes by other weights than those that are stored, by another PoolSplit, or by none."""
    return _unread(draft) or goes_by_other(draft)


def _unread(draft: Draft) -> Said | None:
    stable, traffic = draft.status.stable, draft.obs.traffic
    view = draft.obs.pools.get(stable.identity) if stable is not None else None
    if view is None or view.identity.kind != VARIANT_KIND or traffic is None or not traffic.exists:
        return None
    for problem in view.path.problems:
        draft.wake(_ASKED)
        if problem.reason in (Reason.PICKER_DIALECT, Reason.SPLIT_OVERRULED):
            return problem.reason, f"{traffic.kind} {traffic.name} is not obeyed: {problem.message}"
    return None


def _warn_once(draft: Draft, dead: Said | None) -> None:
    """That nobody serves is an Event in every phase, once: an aborted or paused rollout keeps its own reason."""
    told = any(
        old.type == "Stalled" and old.status == "True" and dead is not None and old.reason == dead[0]
        for old in draft.obs.status.conditions
    )
    if dead is None or told or draft.obs.deleting:
        return
    if not any(isinstance(action, EmitEvent) and action.reason == dead[0] for action in draft.actions):
        draft.event(EventType.WARNING, *dead)


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
