"""How an attempt ends: promoted, aborted, or dropped because the spec moved on."""

from __future__ import annotations

from dataclasses import replace

from rollouts.engine.actions import EventType, TerminateRun, WriteReason
from rollouts.engine.converging import converge
from rollouts.engine.draft import HISTORY_LIMIT, Draft
from rollouts.engine.observation import GateOutcome
from rollouts.engine.transitions import Trigger
from rollouts.engine.types import (
    FULL,
    ZERO,
    AbortRecord,
    HistoryEntry,
    Outcome,
    Phase,
    Revision,
    WeightStatus,
    format_weight,
)

__all__ = ["abort", "drop_canary", "promote", "settle_aborted", "terminate_runs"]


def abort(draft: Draft, reason: str, why: str) -> None:
    """100 % stable with the very next write; terminal for the canary's hash (design rule 6)."""
    canary, stable = draft.status.canary, draft.status.stable
    assert canary is not None
    assert stable is not None
    at = f"at {draft.where()}, weight {format_weight(draft.status.weight.applied)}"
    if draft.status.started_at is None:
        at = "before any traffic"
    message = (
        f"Aborted {canary.label} {at}: {why.rstrip('. ')}. {stable.label} serves; the spec still asks for "
        f"{canary.identity.name}: revert or push a fix, or `rollouts retry {draft.obs.name}`"
    )
    draft.record(canary, Outcome.ABORTED, f"{reason}: {why}")
    draft.set(
        aborted=AbortRecord(
            hash=canary.hash, step=draft.status.current_step, at=draft.now, reason=reason, message=message
        ),
        hold=None,
        hold_message="",
        pulled=False,
        weight_cap=None,
        unready_since=None,
        skip_gates=False,
    )
    draft.move(Phase.ABORTED, Trigger.ABORT, reason, message)
    terminate_runs(draft)
    if draft.obs.status.started_at is not None:
        converge(draft, WriteReason.ABORT)
    settle_aborted(draft)


def settle_aborted(draft: Draft) -> None:
    """Say plainly when an aborted canary still carries traffic because stable cannot take it."""
    record = draft.status.aborted
    assert record is not None
    message = record.message
    if draft.traffic_problem is not None:
        message = f"{draft.traffic_problem[1]}. {message}"
    draft.set(message=message)


def promote(draft: Draft) -> None:
    """The canary becomes stable by swapping the reference; nothing is reloaded (design rule 5)."""
    canary, stable = draft.status.canary, draft.status.stable
    assert canary is not None
    assert stable is not None
    overridden = f", gates overridden: {', '.join(draft.status.overrides)}" if draft.status.overrides else ""
    history = _retire(draft.status.history, stable, draft)
    draft.set(history=history)
    draft.record(canary, Outcome.PROMOTED, f"promoted{overridden}")
    message = f"{canary.label} is stable; {stable.label} was stable before"
    steps = draft.status.step_count
    draft.clear_attempt(
        stable=canary,
        aborted=None,
        current_step=steps,  # people read 6/6 of a finished rollout
        step_count=steps,
        weight=WeightStatus(desired=FULL, applied=FULL),
        attempt=draft.status.attempt,
    )
    draft.move(Phase.HEALTHY, Trigger.STEPS_DONE, "Promoted", message)
    terminate_runs(draft)


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
    return (*known, entry)[-HISTORY_LIMIT:]


def drop_canary(draft: Draft, outcome: Outcome, why: str) -> None:
    """Forget the canary because the spec asks for something else; the caller converges afterwards."""
    canary = draft.status.canary
    assert canary is not None
    if draft.status.aborted is None:
        draft.record(canary, outcome, why)
    carried = draft.obs.status.started_at is not None
    applied = draft.status.weight.applied if carried else None
    draft.event(EventType.NORMAL, "CanaryDropped", f"{canary.label} dropped: {why}")
    draft.clear_attempt(aborted=None, weight=WeightStatus(desired=ZERO, applied=applied))
    terminate_runs(draft)


def terminate_runs(draft: Draft) -> None:
    """End every run that still measures: its attempt is over."""
    for name, gate in sorted(draft.obs.gates.items()):
        if gate.outcome is GateOutcome.RUNNING:
            draft.actions.append(TerminateRun(name=name))
