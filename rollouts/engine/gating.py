"""Gates: runs of the attempt and of its steps, what they say, and what a person has to decide (design rules 4, 8)."""

from __future__ import annotations

from rollouts.engine.actions import CreateJob, CreateRun, EventType, MarkRun, TerminateRun, UpdateRun
from rollouts.engine.converging import step_weight
from rollouts.engine.draft import Draft
from rollouts.engine.evidence import (
    awaited_background,
    evidence_gate,
    is_overridden,
    is_stale,
    reads_evidence,
    renewed_run,
)
from rollouts.engine.naming import background_run, step_run
from rollouts.engine.observation import GateOutcome, GateView
from rollouts.engine.rollout_status import HoldReason
from rollouts.engine.watching import mirrored
from rollouts.units import ZERO

__all__ = ["accompany", "begins_watch", "judge_gates", "lacks_watch", "show_refused", "step_gate", "unearned"]


def accompany(draft: Draft) -> None:
    """Start the background run at its step, mark the steps in it, end runs of steps that are over."""
    analysis, status, current = draft.spec.canary.analysis, draft.status, draft.current
    name = background_run(draft.obs.owner, status)
    gate_run = step_run(draft.obs.owner, status, current.current_step)
    renewed = None if current.skip_gates else renewed_run(draft)
    for other, gate in sorted(draft.obs.gates.items()):
        if gate.outcome is GateOutcome.RUNNING and other not in (name, gate_run, renewed):
            draft.actions.append(TerminateRun(name=other))
    measures = analysis is not None and current.current_step >= analysis.starting_step
    run_view = draft.obs.gates.get(name)
    if current.skip_gates:
        if run_view is not None and run_view.outcome is GateOutcome.RUNNING:
            draft.actions.append(TerminateRun(name=name))
        return
    if not (measures or draft.obs.compares):
        return
    missing = name if run_view is None else renewed
    carries = (status.weight.applied or ZERO) > ZERO
    if missing is not None and missing not in draft.obs.gates and carries:
        run = CreateRun(name=missing, step=None, revision=current.canary, attempt=status.attempt)
        draft.actions.append(run)
    if run_view is None:
        return
    if run_view.outcome is GateOutcome.RUNNING and is_stale(draft, run_view):
        draft.actions.append(UpdateRun(name=name, revision=current.canary, attempt=status.attempt))
    elif run_view.outcome is GateOutcome.RUNNING and current.current_step not in run_view.marked:
        _mark(draft, name)


def _mark(draft: Draft, name: str) -> None:
    """Tell the attempt's run that a step has begun: its gate opens, and its weight is in force."""
    current, weight = draft.current, step_weight(draft.status, draft.spec)
    if draft.obs.compares and current.step_started_at is not None:
        draft.actions.append(
            MarkRun(name=name, at=current.step_started_at, step=current.current_step, weight=weight)
        )


def show_refused(draft: Draft) -> None:
    """What the API server has just refused to make is not asked for again in this plan; its words are shown."""
    refused, makes = draft.obs.gate_refused, (CreateRun, CreateJob)
    if refused is None or not any(isinstance(action, makes) for action in draft.actions):
        return
    draft.actions = [action for action in draft.actions if not isinstance(action, makes)]
    if draft.obs.refused is not None:
        return  # that of the traffic object is said
    message = f"{draft.where()}: {refused.message}; it is tried again"
    if draft.obs.status.reason != refused.reason:
        draft.event(EventType.WARNING, refused.reason, message)
    draft.set(reason=str(refused.reason), message=message)


def begins_watch(draft: Draft) -> bool:
    """Whether the plan makes the background run: no weight rises before it is known to be there."""
    return any(isinstance(action, CreateRun) and action.step is None for action in draft.actions)


def lacks_watch(draft: Draft) -> bool:
    """Whether the API server has just refused to make the background run: no step ends without what watches it."""
    return draft.obs.gate_refused is not None and begins_watch(draft)


def judge_gates(draft: Draft) -> None:
    """Gates that ask for a person hold the rollout, unless a person has overridden them already."""
    for name, gate in sorted(draft.obs.gates.items()):
        if name in draft.current.overrides or not _concerns_now(draft, name):
            continue
        if gate.outcome is GateOutcome.ABORT:  # elsewhere it has aborted before
            message = (
                f"{name} failed: {gate.message}; a RequestMirror filter copies requests to {mirrored(draft)}, so that "
                "these figures may be those of copies; `promote` overrides it, `abort` goes back to stable"
            )
            draft.hold(HoldReason.GATE_FAILED, message)
        elif gate.outcome is GateOutcome.PAUSE:
            message = f"{name} failed: {gate.message}; `promote` overrides it, `abort` goes back to stable"
            draft.hold(HoldReason.GATE_FAILED, message)
        elif gate.outcome is GateOutcome.INCONCLUSIVE:
            message = (
                f"{name} is inconclusive: {gate.message}; `promote` overrides it, `abort` goes back to stable"
            )
            draft.hold(HoldReason.GATE_INCONCLUSIVE, message)
    name, verdict = evidence_gate(draft)
    verdict = verdict or awaited_background(draft)
    if (
        verdict is not None
        and verdict.outcome is GateOutcome.INCONCLUSIVE
        and name not in draft.current.overrides
        and not is_overridden(draft)
    ):
        message = (
            f"{draft.where()} is inconclusive: {verdict.message} `promote` overrides it, "
            "`abort` goes back to stable"
        )
        draft.hold(HoldReason.GATE_INCONCLUSIVE, message)


def _concerns_now(draft: Draft, name: str) -> bool:
    status = draft.status
    return name in (
        background_run(draft.obs.owner, status),
        renewed_run(draft),
        step_run(draft.obs.owner, status, draft.current.current_step),
    )


def step_gate(draft: Draft) -> tuple[bool, str]:
    """Whether every part of the present analysis step has passed, and what those say that are waited for, or all."""
    parts = [_measured_gate(draft)] if _measures(draft) else []
    if reads_evidence(draft):
        parts.append(_compared_gate(draft))
    waiting = [message for passed, message in parts if not passed]
    return not waiting, "; ".join(waiting or [message for _, message in parts if message])


def _measures(draft: Draft) -> bool:
    return draft.current.current_step not in draft.obs.only_compared


def _measured_gate(draft: Draft) -> tuple[bool, str]:
    """The step's own run: made when it is not there. Whether it passed, and what it says."""
    current, number = draft.current, draft.status.attempt
    name = step_run(draft.obs.owner, draft.status, current.current_step)
    gate = draft.obs.gates.get(name)
    if gate is None:
        run = CreateRun(name=name, step=current.current_step, revision=current.canary, attempt=number)
        draft.actions.append(run)
    elif gate.outcome is GateOutcome.PASSED:
        return True, gate.message
    return False, _gate_message(gate, name)


def _compared_gate(draft: Draft) -> tuple[bool, str]:
    """What the attempt's evidence says to this step; a person may have overridden it."""
    name, verdict = evidence_gate(draft)
    if name in draft.current.overrides or is_overridden(draft):
        return True, "overridden"
    if verdict is None:
        return False, "comparing the canary with stable"
    return verdict.outcome is GateOutcome.PASSED, verdict.message


def _gate_message(gate: GateView | None, name: str) -> str:
    if gate is None:
        return f"starting {name}"
    return gate.message or f"{name} is {gate.outcome.value.lower()}"


def unearned(draft: Draft) -> str | None:
    """Why the background run has not earned its pass yet; None when nothing is in the way."""
    if draft.spec.canary.analysis is None:
        return None
    name = background_run(draft.obs.owner, draft.status)
    if name in draft.current.overrides:
        return None
    gate = draft.obs.gates.get(name)
    if gate is None or (gate.outcome is GateOutcome.RUNNING and not gate.may_pass):
        said = f": {gate.message}" if gate is not None and gate.message else ""
        return f"{name} has not earned its pass yet, and silence never counts as one{said}"
    return None
