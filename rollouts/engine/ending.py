"""How an attempt ends: promoted, aborted, or dropped because the spec moved on."""

from __future__ import annotations

from dataclasses import replace

from rollouts.engine.actions import EventType, TerminateRun
from rollouts.engine.attempt import AbortRecord
from rollouts.engine.draft import HISTORY_LIMIT, Draft
from rollouts.engine.obeying import serving
from rollouts.engine.observation import GateOutcome, WorkloadView
from rollouts.engine.reasons import Reason, printed
from rollouts.engine.returning import begin_return, shortfall
from rollouts.engine.rollout_status import (
    HistoryEntry,
    KeptCompanion,
    Outcome,
    Phase,
    SettledBy,
    WeightStatus,
)
from rollouts.engine.transitions import Trigger
from rollouts.engine.unmatched import served_instead
from rollouts.engine.versions import Identity, Revision
from rollouts.engine.wayback import return_canaries
from rollouts.units import FULL, ZERO, format_weight

__all__ = ["abort", "drop_canary", "promote", "show_aborted", "terminate_runs"]

_OVERRIDING = ("promote", "promoteFull")
"""Commands that go on against a gate; the last of them speaks for all of an attempt."""


_AT_ONCE = frozenset(
    {
        Reason.ABORTED_BY_COMMAND,
        Reason.CANARY_CRASHED,
        Reason.CANARY_POOL_DELETED,
        Reason.PATH_BROKEN,
        Reason.SHARE_NOT_PROGRAMMED,
    }
)
"""Aborts that give stable all traffic at once, also where it gave pods: fewer answers are worse than slow ones."""


def abort(draft: Draft, reason: Reason, why: str, *, at_once: bool = False) -> None:
    """100 % stable with the very next write; terminal for the canary's hash (design rule 6).

    Where stable gave pods: with as much as it has pods for, unless the reason or ``at_once`` says otherwise.
    """
    current = draft.current
    at = f"at {draft.where()}, weight {format_weight(draft.status.weight.applied)}"
    if current.started_at is None:
        at = f"before any {'step' if current.adopted_split else 'traffic'}"
    message = f"Aborted {current.canary.label} {at}: {why.rstrip('. ')}"
    draft.record(current.canary, Outcome.ABORTED, f"{reason}: {why}")
    draft.set_current(
        aborted=AbortRecord(
            hash=current.canary.hash,
            step=current.current_step,
            at=draft.now,
            reason=str(reason),
            message=message,
        ),
        pulled=False,
        weight_cap=None,
        unready_since=None,
        skip_gates=False,
    )
    draft.release()
    terminate_runs(draft)
    begin_return(draft, at_once=at_once or reason in _AT_ONCE)
    return_canaries(draft)
    show_aborted(draft, Trigger.ABORT)
    if (
        draft.traffic_problem is not None and draft.traffic_problem[0] != reason
    ):  # the move has told of that one
        draft.event(EventType.WARNING, reason, message)


def show_aborted(draft: Draft, trigger: Trigger) -> None:
    """The abort in words; plainly first what keeps an aborted canary from losing its traffic."""
    record = draft.current.aborted
    assert record is not None
    wants = f"the spec still asks for {draft.current.canary.identity.name}"
    if draft.obs.spec is None:
        wants = "the spec cannot be read"
    if draft.obs.problems:
        wants += f" ({draft.obs.problems[0].message})"
    way_out = f"{wants}: revert or push a fix, or `rollouts retry {draft.obs.name}`"
    if draft.traffic_problem is not None:
        reason, problem = draft.traffic_problem
        draft.move(Phase.ABORTED, trigger, reason, f"{problem}. {record.message}; {way_out}")
    else:
        instead = served_instead(draft)
        serves = (
            f"{draft.stable.label} HAS NO READY ENDPOINT: {instead}"
            if instead
            else f"{serving(draft, draft.stable.label)}{shortfall(draft)}"
        )
        message = f"{record.message}. {serves}; {way_out}"
        draft.move(Phase.ABORTED, trigger, printed(record.reason), message)


def promote(draft: Draft) -> None:
    """The canary becomes stable by swapping the reference; nothing is reloaded (design rule 5)."""
    canary, stable = draft.current.canary, draft.stable
    kept = _companions(draft, canary.identity)
    history = _retire(draft.status.history, stable, draft)
    draft.set(history=history)
    draft.record(canary, Outcome.PROMOTED, f"promoted{_overridden(draft)}{_approved(draft)}")
    *former, promoted = draft.status.history
    pods = draft.current.capacity.wanted if draft.current.capacity is not None else 0
    draft.set(history=(*former, replace(promoted, pods=pods, companions=kept)))
    message = f"{canary.label} is stable; {stable.label} was stable before"
    draft.set(stable=canary, current=None, weight=WeightStatus(desired=FULL, applied=FULL), way_back=())
    draft.release()
    draft.move(Phase.HEALTHY, Trigger.STEPS_DONE, Reason.PROMOTED, message, settled_by=SettledBy.PROMOTED)
    terminate_runs(draft)


def _overridden(draft: Draft) -> str:
    """Which gates a person overrode, and who, where the last command tells."""
    names, last = draft.current.overrides, draft.status.last_command
    who = f" by {last.by}" if last is not None and last.by and last.action in _OVERRIDING else ""
    return f", gates overridden{who}: {', '.join(names)}" if names else ""


def _approved(draft: Draft) -> str:
    given = [one.words for one in draft.current.approvals]
    return f", approved: {'; '.join(given)}" if given else ""


def _retire(history: tuple[HistoryEntry, ...], stable: Revision, draft: Draft) -> tuple[HistoryEntry, ...]:
    """Note until when the outgoing stable was stable; the rollback window counts from there."""
    known = [
        entry
        for entry in history
        if entry.revision.identity != stable.identity or entry.outcome is not Outcome.PROMOTED
    ]
    entry = HistoryEntry(
        revision=stable, attempt=0, outcome=Outcome.PROMOTED, at=draft.now, stable_until=draft.now
    )
    for old in history:
        if old.revision.identity == stable.identity and old.outcome is Outcome.PROMOTED:
            entry = replace(old, stable_until=draft.now)
    pods = draft.current.capacity.stable_at_start if draft.current.capacity is not None else 0
    kept = _companions(draft, stable.identity)
    return (*known, replace(entry, pods=pods, companions=kept))[-HISTORY_LIMIT:]


def _companions(draft: Draft, arm: Identity) -> tuple[KeptCompanion, ...]:
    """What a version of this attempt has of companions; those that it had before where the attempt went without."""
    capacity, before = draft.current.capacity, draft.status.promoted(arm)
    is_canary = arm == draft.current.canary.identity
    found = tuple(
        KeptCompanion(
            identity=one.canary if is_canary else one.stable,
            role=one.role,
            pods=one.wanted if is_canary else one.stable_at_start,
            selector=draft.obs.workloads.get(
                one.canary if is_canary else one.stable, WorkloadView()
            ).selector,
        )
        for one in (capacity.companions if capacity is not None else ())
    )
    return found or (before.companions if before is not None else ())


def drop_canary(draft: Draft, outcome: Outcome, why: str) -> None:
    """Forget the canary because the spec asks for something else; the caller converges afterwards."""
    current = draft.current
    if current.aborted is None:
        draft.record(current.canary, outcome, why)
    applied = draft.status.weight.ours if current.started_at is not None else None
    draft.event(EventType.NORMAL, Reason.CANARY_DROPPED, f"{current.canary.label} dropped: {why}")
    draft.set(current=None, step_count=0, weight=WeightStatus(desired=ZERO, applied=applied))
    draft.release()
    begin_return(draft)
    terminate_runs(draft)


def terminate_runs(draft: Draft) -> None:
    """End every run that still measures: its attempt is over."""
    for name, gate in sorted(draft.obs.gates.items()):
        if gate.outcome is GateOutcome.RUNNING:
            draft.actions.append(TerminateRun(name=name))
