"""Judging a command against the state it was meant for (design rule 8)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rollouts.engine.actions import EventType
from rollouts.engine.attempt import Attempt
from rollouts.engine.commands import Command, CommandAction, MalformedCommand, parse_command
from rollouts.engine.draft import Draft
from rollouts.engine.ending import abort
from rollouts.engine.evidence import awaited_background, evidence_gate, reads_evidence
from rollouts.engine.naming import background_run, step_run
from rollouts.engine.obeying import has_told, serving
from rollouts.engine.observation import Claim, GateOutcome
from rollouts.engine.reasons import Reason
from rollouts.engine.returning import begin_return
from rollouts.engine.rollout_spec import AnalysisStep, ApproveStep, JobStep, PauseStep, WeightStep
from rollouts.engine.rollout_status import FOR_OTHERS, CommandRecord, CommandResult, HoldReason, RolloutStatus
from rollouts.engine.starting import complete_split, start_attempt
from rollouts.engine.transitions import Trigger
from rollouts.engine.wayback import is_back, return_canaries

__all__ = ["finish_abort_command", "obey_abort", "obey_command"]

_MAX_STORED = 1024
_BACK = "all traffic goes to stable"
_CLAIMLESS = (CommandAction.ABORT, CommandAction.PAUSE)
"""What may be asked for whatever the spec says and whosever the traffic object is."""
_DATED = (CommandAction.PROMOTE, CommandAction.PROMOTE_FULL, CommandAction.RETRY)
"""Actions that raise weight, so that an old one must not act again."""
_AT_START = {
    HoldReason.SPLIT_AT_START: "the other arms go to 0",
    HoldReason.UNMATCHED_PODS: "the split is written; pods that match no variant serve nothing from then on",
}
"""Holds at first sight that `promote` ends, and what it does."""
_VERBS = {
    CommandAction.PROMOTE: "promote",
    CommandAction.PROMOTE_FULL: "promote --full",
    CommandAction.RETRY: "retry",
}


class _Rejected(Exception):
    """The command does not fit; the text says why."""


def obey_command(draft: Draft) -> None:
    """Look at a new command once; it ends Done or Rejected, in status and as an Event."""
    raw = draft.obs.command[:_MAX_STORED]
    last = draft.status.last_command
    if not raw or (last is not None and last.raw == raw):
        return
    action, by = "", ""
    try:
        command = parse_command(draft.obs.command)
        action, by = command.action.value, command.by[:253]
        draft.commanded_by = by
        message = _apply(draft, command)
        result = CommandResult.DONE
        if command.action is CommandAction.ABORT and not (is_back(draft) and has_told(draft)):
            result, message = CommandResult.IN_PROGRESS, _not_back(draft)
    except (MalformedCommand, _Rejected) as refusal:
        message, result = str(refusal), CommandResult.REJECTED
    draft.set(
        last_command=CommandRecord(
            raw=raw, action=action, result=result, message=message, at=draft.now, by=by
        )
    )
    _announce(draft)


def obey_abort(draft: Draft) -> None:
    """While the Rollout is being deleted one command is obeyed: ``abort``, where traffic waits for stable's pods."""
    lent = draft.status.stable_scale
    if lent is None or lent.immediate:
        return
    try:
        command = parse_command(draft.obs.command) if draft.obs.command else None
    except MalformedCommand:
        return
    if command is not None and command.action is CommandAction.ABORT:
        obey_command(draft)


def finish_abort_command(draft: Draft) -> None:
    """An abort is done when traffic object and pickers say so, not when it was decided."""
    last = draft.status.last_command
    if last is None or last.result is not CommandResult.IN_PROGRESS:
        return
    if is_back(draft) and has_told(draft):
        draft.set(last_command=replace(last, result=CommandResult.DONE, message=_back(draft), at=draft.now))
        _announce(draft)
    else:
        draft.set(last_command=replace(last, message=_not_back(draft)))


def _back(draft: Draft) -> str:
    silent = draft.obs.pickers.silent
    return f"{_BACK}: {serving(draft, draft.stable.label)}" if silent else _BACK


def _announce(draft: Draft) -> None:
    last = draft.status.last_command
    assert last is not None
    draft.event(
        EventType.NORMAL if last.result is CommandResult.DONE else EventType.WARNING,
        Reason(f"Command{last.result.value}"),
        f"{last.action or 'command'}{f' by {last.by}' if last.by else ''}: {last.message}",
    )


def _not_back(draft: Draft) -> str:
    if draft.traffic_problem is None and is_back(draft):
        return f"the abort is written: {serving(draft, draft.stable.label)}"
    why = draft.traffic_problem[1] if draft.traffic_problem is not None else "more objects are to be written"
    return f"the abort is decided, the canary still has traffic: {why}"


def _apply(draft: Draft, command: Command) -> str:
    revision = draft.status.canary or draft.status.stable
    if revision is None or not command.fits(revision.hash):
        raise _Rejected(
            f"it was meant for revision {command.revision[:8]}, the current one is "
            f"{revision.short if revision else 'none'}"
        )
    _demand_attempt(draft.status, command)
    if command.step is not None and command.step != draft.status.current_step:
        raise _Rejected(
            f"it was meant for step {command.step + 1}, the rollout is at {draft.status.current_step + 1}"
        )
    if command.action not in _CLAIMLESS:
        if draft.obs.problems:
            raise _Rejected("the spec is invalid: fix it first")
        traffic = draft.obs.traffic
        if traffic is not None and traffic.claim is Claim.OTHER:
            raise _Rejected(f"{traffic.kind} {traffic.name} belongs to Rollout {traffic.claimed_by}")
    return _ACTIONS[command.action](draft)


def _demand_attempt(status: RolloutStatus, command: Command) -> None:
    """Refuse what was meant for another attempt: Git applies an old annotation again whenever it syncs.

    An abort without an attempt is taken at any time: it is never held up.
    """
    if command.attempt is not None:
        if command.attempt != status.attempt:
            raise _Rejected(f"it was meant for attempt {command.attempt}, this is attempt {status.attempt}")
        return
    if command.action not in _DATED:
        return
    began = _began(status)
    if command.at is None or began is None or command.at <= began:
        since = (
            f"{began:%Y-%m-%dT%H:%M:%SZ}, when attempt {status.attempt} began" if began else "its beginning"
        )
        raise _Rejected(
            f"it names no attempt and no time `at` after {since}: it may be an old one that was applied again; "
            f'say "attempt":{status.attempt}, as `rollouts {_VERBS[command.action]}` does'
        )


def _began(status: RolloutStatus) -> datetime | None:
    """When the attempt began to carry weight; where none did, when it was aborted, or the Rollout first seen."""
    if status.started_at is not None:
        return status.started_at
    if status.aborted is not None:
        return status.aborted.at
    return min((condition.last_transition for condition in status.conditions), default=None)


def _attempt(draft: Draft) -> Attempt:
    if draft.status.current is None:
        raise _Rejected("no rollout is in progress")
    return draft.status.current


def _waits_for_others(draft: Draft) -> bool:
    """Whether nothing but others keep an attempt from beginning."""
    current = draft.status.current
    unbegun = current is not None and current.started_at is None and current.aborted is None
    return unbegun and draft.obs.status.waiting_for in FOR_OTHERS


def _started(draft: Draft, verb: str) -> Attempt:
    current = _attempt(draft)
    if current.aborted is not None:
        raise _Rejected(f"the revision was aborted: `retry` starts it again, `{verb}` does not")
    if _waits_for_others(draft):
        raise _Rejected(
            f"it has not begun ({draft.obs.status.reason}): `{verb}` does not change that, `promote --full` does"
        )
    if current.started_at is None:
        raise _Rejected(f"the target is not ready yet: `{verb}` never overrides readiness")
    return current


def _promote(draft: Draft) -> str:
    hold = draft.status.hold
    if hold in _AT_START:
        complete_split(draft)
        return _AT_START[hold]
    current = _started(draft, "promote")
    if hold in (HoldReason.GATE_FAILED, HoldReason.GATE_INCONCLUSIVE):
        return _override_gates(draft)
    if hold is HoldReason.DEADLINE:
        _release(draft)
        return "the step's clock starts again"
    if hold is not None:
        raise _Rejected(f"it is held ({hold.value}): `resume` first, or `abort`")
    index, step = current.current_step, draft.step
    if isinstance(step, AnalysisStep):
        name = step_run(draft.obs.owner, draft.status, index)
        names = (name, evidence_gate(draft)[0]) if reads_evidence(draft) else (name,)
        _override(draft, *names)
    if isinstance(step, AnalysisStep | JobStep | PauseStep | ApproveStep):
        draft.enter_step(index + 1)
        return f"left step {index + 1}"
    if step is None and current.bake_started_at is not None:
        draft.set_current(skip_gates=True)
        return "left the bake"
    what = "the weight of this step" if isinstance(step, WeightStep) else "this step"
    raise _Rejected(f"there is no pause or gate to leave: {what} is still being put in force")


def _override_gates(draft: Draft) -> str:
    """Leave a failed or inconclusive gate: a recorded override, never a pass."""
    judged = (GateOutcome.PAUSE, GateOutcome.INCONCLUSIVE, GateOutcome.ABORT)
    names = sorted(name for name, gate in draft.obs.gates.items() if gate.outcome in judged)
    reading, verdict = evidence_gate(draft)
    compared = verdict is not None and verdict.outcome in judged
    if compared:
        names.append(reading)
    awaited = awaited_background(draft)
    whole = background_run(draft.obs.owner, draft.status)
    if awaited is not None and awaited.outcome in judged:
        names.append(whole)
    compared |= reads_evidence(draft) and whole in names
    new = tuple(name for name in names if name not in draft.current.overrides)
    _override(draft, *new)
    index = draft.current.current_step
    step_gate = step_run(draft.obs.owner, draft.status, index)
    _release(draft)
    if isinstance(draft.step, JobStep) or step_gate in new or compared:
        draft.enter_step(index + 1)
    return f"gate overridden: {', '.join(new) or 'job'}"


def _override(draft: Draft, *names: str) -> None:
    draft.set_current(overrides=(*draft.current.overrides, *names)[-16:])


def _promote_full(draft: Draft) -> str:
    if draft.status.hold in _AT_START:
        return _promote(draft)
    begins = _waits_for_others(draft)
    if not begins:
        _started(draft, "promoteFull")
    draft.release()
    draft.set_current(skip_gates=True)
    _override(draft, background_run(draft.obs.owner, draft.status))
    if begins:
        return "it begins without waiting for others; steps and gates are skipped, readiness is not"
    draft.enter_step(len(draft.spec.canary.steps))
    return "all remaining steps and gates are skipped, readiness is not"


def _abort(draft: Draft) -> str:
    lent = draft.status.stable_scale
    if lent is not None and lent.returning and not lent.immediate:
        begin_return(draft, at_once=True)
        return_canaries(draft)
        return f"{_BACK}, without waiting for its pods"
    if draft.status.aborted is not None:
        raise _Rejected("the revision is aborted already")
    if draft.status.current is None:
        raise _Rejected("the target is stable: there is nothing to abort; revert in Git to go back")
    abort(draft, Reason.ABORTED_BY_COMMAND, f"aborted by {draft.commanded_by or 'command'}")
    return _BACK


def _retry(draft: Draft) -> str:
    current = _attempt(draft)
    if current.aborted is None:
        raise _Rejected("only an aborted revision can be retried")
    if draft.strategy_problem is not None:
        raise _Rejected(draft.strategy_problem.message)
    start_attempt(draft, current.canary, trigger=Trigger.RETRY)
    return f"attempt {draft.status.attempt}"


def _pause(draft: Draft) -> str:
    if _attempt(draft).aborted is not None:
        raise _Rejected("the revision was aborted")
    if draft.status.hold is not None:
        raise _Rejected(f"it is held already ({draft.status.hold.value})")
    draft.hold(HoldReason.COMMAND, "paused by command; `resume` goes on")
    return "steps are held; analysis and aborts are not"


def _resume(draft: Draft) -> str:
    lifted = (HoldReason.COMMAND, HoldReason.MANUAL_OVERRIDE, HoldReason.CONTENDED, HoldReason.DEADLINE)
    if draft.status.hold not in lifted:
        hold = draft.status.hold
        raise _Rejected(
            f"`resume` does not lift {hold.value}: `promote` does" if hold else "nothing is held by command"
        )
    _release(draft)
    return "going on"


def _release(draft: Draft) -> None:
    """Lift the hold; the clock of a weight step starts again, since holds do not count against it."""
    draft.release()
    if draft.status.current is None:
        return
    draft.set_current(restores=())
    if not isinstance(draft.step, PauseStep | ApproveStep) and draft.status.started_at is not None:
        draft.set_current(step_started_at=draft.now)


_ACTIONS = {
    CommandAction.PROMOTE: _promote,
    CommandAction.PROMOTE_FULL: _promote_full,
    CommandAction.ABORT: _abort,
    CommandAction.RETRY: _retry,
    CommandAction.PAUSE: _pause,
    CommandAction.RESUME: _resume,
}
