"""Executing the steps of an attempt that has started (design rules 3, 4, 5)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from rollouts.engine.actions import CreateJob, EventType, MarkRun, WriteReason
from rollouts.engine.approving import approved, awaiting
from rollouts.engine.carrying import pulled_because
from rollouts.engine.converging import asked_weight, converge, step_weight
from rollouts.engine.deadlines import standing
from rollouts.engine.draft import Draft, Said
from rollouts.engine.ending import promote
from rollouts.engine.evidence import awaited_background
from rollouts.engine.gating import accompany, begins_watch, judge_gates, lacks_watch, step_gate, unearned
from rollouts.engine.naming import background_run, job_name
from rollouts.engine.observation import GateOutcome, JobOutcome
from rollouts.engine.probing import probe_open, probe_path, probing
from rollouts.engine.reasons import Reason
from rollouts.engine.rejections import plain_message
from rollouts.engine.rollout_spec import (
    AnalysisStep,
    ApproveStep,
    HeaderRouteStep,
    JobStep,
    PauseStep,
    WeightStep,
)
from rollouts.engine.rollout_status import Phase, WaitingFor
from rollouts.engine.serving import content_blocker, unserved
from rollouts.engine.share import MIN_WINDOW, observed_weight, worth_showing
from rollouts.engine.shortage import making_room
from rollouts.engine.stamps import is_foreign, is_same, restamped
from rollouts.engine.steps import describe, format_seconds, landing, steps_hash
from rollouts.engine.transitions import Trigger
from rollouts.engine.watching import (
    UNCOUNTED,
    keep_counting,
    mirrored,
    note_rise,
    share_problem,
    waiting,
    watch,
)
from rollouts.engine.windows import outside, shut_out
from rollouts.units import FULL, ZERO, format_weight

__all__ = ["deadline_missed", "note_unpaused", "progress"]

_AWAITING = Reason.AWAITING_ANALYSIS

_SHARE_RECHECK = timedelta(seconds=5)
_SAMPLING = timedelta(seconds=1.5)
"""How late the first sample of request counters may come, and how old the newest may be when it is looked at."""


def progress(draft: Draft) -> None:
    """One round of the current step."""
    if _relanded(draft):
        return
    accompany(draft)
    if draft.status.hold is None:
        judge_gates(draft)
    if watch(draft):
        return
    held = _held(draft)
    shut = outside(draft)
    looking = not held and (not shut or probe_open(draft.current)) and probe_path(draft)
    # A person may have ended a pause, or the step is the first that is watched.
    may_raise = not (held or looking or shut or begins_watch(draft))
    settled = converge(draft, _write_reason(draft), may_raise=may_raise)
    note_rise(draft)
    keep_counting(draft)
    held = _held(draft)  # converging may have found a manual override
    if held:
        by_spec = WaitingFor.SPEC if draft.status.hold is None else None
        draft.move(Phase.PAUSED, Trigger.HOLD, *held, waiting_for=by_spec)
        _observe(draft)
        return
    if probe_open(draft.current):
        reason, what = probing(draft.current)
        _go_on(draft, reason, f"{draft.where()}: {what}")
        return
    if looking:
        _putting_in_force(draft)
        return
    late = None if settled or draft.traffic_problem else shut_out(draft)
    if late is not None:
        _observe(draft)
        _go_on(draft, *late, WaitingFor.FREEZE if late[0] is Reason.FROZEN else WaitingFor.WINDOW)
        return
    if not settled or draft.current.pulled:
        _waiting_for_traffic(draft)
        return
    late = waiting(draft)
    if late is not None:
        _observe(draft)
        _go_on(draft, *late, UNCOUNTED.get(late[0]))
        return
    if _rises_further(draft):
        return
    if isinstance(draft.step, PauseStep | ApproveStep | AnalysisStep | JobStep):
        draft.in_force = draft.obs.traffic is not None and draft.obs.traffic.parents.programmed
        draft.in_force = draft.in_force and not draft.refuted and draft.current.path.ceiling is None
    _execute(draft)


def _rises_further(draft: Draft) -> bool:
    """The step's weight is above what the canary's pods carry: what is in force is looked at, and room is made."""
    asked = asked_weight(draft.status, draft.spec)
    if asked <= step_weight(draft.status, draft.spec):
        return False
    if draft.spec.canary.capacity is None:
        _putting_in_force(draft)  # taken out just now: pods bound the weight no longer, once that is stored
        draft.wake(timedelta(seconds=1))
    elif _in_force(draft):
        draft.in_force = True
        reason, what, drains = making_room(draft, asked)
        _go_on(draft, reason, f"{draft.where()}: {what}", WaitingFor.DRAIN if drains else None)
    return True


def _write_reason(draft: Draft) -> WriteReason:
    if draft.current.pulled:
        return WriteReason.PULL
    return WriteReason.PROBE if probe_open(draft.current) else WriteReason.STEP


def _relanded(draft: Draft) -> bool:
    """Steps were edited: go on at the first step at or above the current weight, its gates run again."""
    steps = draft.spec.canary.steps
    before, stored, new = draft.current, draft.current.steps_hash, steps_hash(steps)
    if is_same(stored, new):
        return False
    if is_foreign(stored) and len(steps) == draft.status.step_count:
        draft.set_current(steps_hash=restamped(stored, new))
        return False
    current = (
        step_weight(draft.status, draft.spec) if draft.status.hold else (draft.status.weight.ours or ZERO)
    )
    found = landing(steps, current)
    done = before.current_step >= draft.status.step_count
    draft.set(step_count=len(steps))
    draft.set_current(steps_hash=new)
    if before.skip_gates or (done and current == FULL):
        draft.set_current(current_step=len(steps))
    else:
        draft.enter_step(found.index)
        draft.set_current(weight_cap=found.cap)
    message = f"the steps changed: going on at {draft.where()}, weight stays at most {format_weight(current)}"
    draft.event(EventType.NORMAL, Reason.STEPS_CHANGED, message)
    draft.set(message=message)
    draft.wake(timedelta(seconds=1))
    return True


def note_unpaused(draft: Draft) -> None:
    """``spec.paused`` was lifted: like any hold, it does not count against the step's clock."""
    lifted = draft.obs.status.waiting_for is WaitingFor.SPEC and not draft.spec.paused
    if lifted and not isinstance(draft.step, PauseStep | ApproveStep):
        draft.set_current(step_started_at=draft.now)


def _held(draft: Draft) -> Said | None:
    if draft.status.hold is not None:
        return draft.status.hold.value, draft.status.hold_message
    if draft.spec.paused:
        return (
            Reason.PAUSED_BY_SPEC,
            "spec.paused holds the steps; analysis and aborts go on: set it to false to go on",
        )
    return None


def deadline_missed(draft: Draft) -> str | None:
    """Why ``progressDeadline`` is over, in words; None while it is not.

    The clock runs from the first weight, per step, and not during pauses, analysis and jobs, nor while clocks stand.
    """
    current, limit = draft.current, draft.spec.canary.progress_deadline
    if standing(draft):
        return None
    if draft.obs.status.waiting_for is WaitingFor.ANALYSIS:
        return None
    if current.pulled and current.unready_since is not None:
        start = current.unready_since
        what = f"{current.canary.identity.name} could not serve for {format_seconds(limit)}: {pulled_because(draft)[1]}"
    elif isinstance(draft.step, WeightStep | HeaderRouteStep) or (
        draft.step is None and current.bake_started_at is None
    ):
        if current.step_started_at is None:
            return None
        start = current.step_started_at
        what = f"{draft.where()} has not come into force for {format_seconds(limit)}: {plain_message(draft.obs.status)}"
    else:
        return None
    if draft.now - start >= limit:
        return what
    draft.wake_at(start + limit)
    return None


def _waiting_for_traffic(draft: Draft) -> None:
    """The write is under way, or something keeps it back: say what."""
    problem = draft.traffic_problem or draft.target_problem
    if draft.current.pulled:
        problem = pulled_because(draft)
    if problem is not None:
        _go_on(draft, problem[0], f"{draft.where()}: {problem[1]}")
    elif lacks_watch(draft):
        message = f"{draft.where()}: waiting for the background analysis"
        _go_on(draft, _AWAITING, message, WaitingFor.ANALYSIS)
    else:
        if begins_watch(draft):
            draft.set_current(step_started_at=draft.now)  # from here on nothing but the write is waited for
        _putting_in_force(draft)


def _putting_in_force(draft: Draft) -> None:
    """From the intent to the first count of requests: one thing to a person, and one write of the status."""
    weight = format_weight(step_weight(draft.status, draft.spec))
    _go_on(draft, Reason.SETTING_WEIGHT, f"{draft.where()}: putting {weight} in force and counting requests")


def _go_on(draft: Draft, reason: Reason, what: str, waiting_for: WaitingFor | None = None) -> None:
    """A step is under way, whatever it was before."""
    came_from = {Phase.INVALID: Trigger.SPEC_VALID, Phase.PAUSED: Trigger.RELEASED}
    trigger = came_from.get(draft.obs.status.phase, Trigger.WAIT)
    draft.move(Phase.PROGRESSING, trigger, reason, what, waiting_for=waiting_for)


def _observe(draft: Draft) -> None:
    """Show the observed share; small movements are not worth a status write (and its echo) each."""
    copied = mirrored(draft)
    seen, shown = None if copied else observed_weight(draft.obs.share), draft.status.weight.observed
    if worth_showing(seen, shown):
        draft.set(weight=replace(draft.status.weight, observed=seen))


def _execute(draft: Draft) -> None:
    traffic = draft.obs.traffic
    assert traffic is not None
    step = draft.step
    match step:
        case WeightStep() | HeaderRouteStep():
            if _in_force(draft):
                _advance(draft, f"{draft.where()} done")
        case PauseStep():
            _pause(draft, step)
        case ApproveStep():
            _approve(draft, step)
        case AnalysisStep():
            _analyse(draft)
        case JobStep():
            _run_job(draft)
        case _:
            _finish(draft)


def _in_force(draft: Draft) -> bool:
    """Accepted and ResolvedRefs on every parent, and the observed share does not refute the weight."""
    traffic = draft.obs.traffic
    assert traffic is not None
    weight = step_weight(draft.status, draft.spec)
    if not traffic.parents.programmed:
        draft.traffic_problem = (Reason.NOT_PROGRAMMED, traffic.parents.message)
        _go_on(draft, Reason.WAITING_FOR_GATEWAY, f"{draft.where()}: {traffic.parents.message}")
        return False
    share = draft.obs.share
    if share is not None and weight > ZERO and share.seconds < MIN_WINDOW and not mirrored(draft):
        first_sample = timedelta(0) if share.seconds else _SAMPLING
        draft.wake(timedelta(seconds=MIN_WINDOW - share.seconds) + first_sample)
        _putting_in_force(draft)
        return False
    _observe(draft)
    problem = share_problem(draft)
    if problem is not None:
        message = f"{draft.where()}: {problem}"
        draft.traffic_problem = (Reason.SHARE_MISMATCH, message)
        draft.refuted = True
        draft.wake(_SHARE_RECHECK)
        _go_on(draft, Reason.SHARE_MISMATCH, message)
        return False
    return True


def _advance(draft: Draft, message: str) -> None:
    if lacks_watch(draft):
        _go_on(draft, _AWAITING, f"{message}; waiting for the background analysis", WaitingFor.ANALYSIS)
        return
    awaited = awaited_background(draft)
    if awaited is not None:
        text = f"{message}; waiting for the background analysis: {awaited.message}"
        _go_on(draft, _AWAITING, text, WaitingFor.ANALYSIS)
        return
    observed = draft.status.weight.observed
    mark = background_run(draft.obs.owner, draft.status)
    draft.enter_step(draft.current.current_step + 1)
    draft.set(weight=replace(draft.status.weight, observed=observed))
    draft.event(EventType.NORMAL, Reason.STEP_COMPLETED, message)
    gate = draft.obs.gates.get(mark)
    if draft.obs.compares and gate is not None and gate.outcome is GateOutcome.RUNNING:
        weight = step_weight(draft.status, draft.spec)
        draft.actions.append(MarkRun(name=mark, at=draft.now, step=draft.current.current_step, weight=weight))
    reason = Reason.RESUMED if draft.obs.status.phase is Phase.PAUSED else Reason.STEP_COMPLETED
    step = draft.step
    if isinstance(step, PauseStep) and (step.duration is None or step.duration > timedelta(0)):
        # Nothing but time or a person stands between: no need for another look.
        _pause(draft, step)
        return
    _go_on(draft, reason, f"{message}; next {draft.where()}")
    draft.wake(timedelta(seconds=1))


def _approve(draft: Draft, step: ApproveStep) -> None:
    _observe(draft)
    if approved(draft, step.webhook):
        _advance(draft, f"{draft.where()} given")
        return
    draft.move(Phase.PAUSED, Trigger.PAUSE_STEP, Reason.AWAITING_APPROVAL, awaiting(draft, step.webhook))


def _pause(draft: Draft, step: PauseStep) -> None:
    _observe(draft)
    start = draft.current.step_started_at or draft.now
    if step.approve and approved(draft, step.approve):
        _advance(draft, f"{draft.where()} ended by approval")
        return
    if step.duration is None:
        reason, message = Reason.PAUSE_STEP, f"{draft.where()}: `rollouts promote {draft.obs.name}` goes on"
        if step.approve:
            reason, message = Reason.AWAITING_APPROVAL, awaiting(draft, step.approve)
        draft.move(Phase.PAUSED, Trigger.PAUSE_STEP, reason, message)
        return
    end = start + step.duration
    if draft.now >= end:
        _advance(draft, f"{draft.where()} over")
        return
    draft.wake_at(end)
    message = f"{draft.where()} until {end:%Y-%m-%dT%H:%M:%SZ}"
    draft.move(Phase.PAUSED, Trigger.PAUSE_STEP, Reason.PAUSE_STEP, message)


def _analyse(draft: Draft) -> None:
    _observe(draft)
    passed, told = step_gate(draft)
    if not passed:
        _go_on(draft, Reason.ANALYSING, f"{draft.where()}: {told}")
        return
    _advance(draft, f"{draft.where()} passed{f': {told}' if told else ''}")


def _run_job(draft: Draft) -> None:
    _observe(draft)
    name = job_name(draft.obs.owner, draft.status, draft.current.current_step)
    outcome = draft.obs.jobs.get(name)
    if outcome is JobOutcome.SUCCEEDED:
        _advance(draft, f"{draft.where()} succeeded")
        return
    if outcome is None:
        draft.actions.append(CreateJob(name=name, step=draft.current.current_step))
    _go_on(draft, Reason.JOB_RUNNING, f"{draft.where()}: Job {name} is running")


def _finish(draft: Draft) -> None:
    """Past the last step: 100 % in force, then bake, then the swap."""
    if draft.current.bake_started_at is None:
        if not _in_force(draft):
            return
        draft.set_current(bake_started_at=draft.now)
    current = draft.current
    bake_end = (current.bake_started_at or draft.now) + draft.spec.canary.bake
    if not current.skip_gates and draft.now < bake_end:
        draft.wake_at(bake_end)
        _go_on(draft, Reason.BAKING, f"{describe(None)}: baking at 100% until {bake_end:%Y-%m-%dT%H:%M:%SZ}")
        return
    if not current.skip_gates and (waiting := unearned(draft)) is not None:
        _go_on(draft, _AWAITING, f"all steps done; {waiting}", WaitingFor.ANALYSIS)
        return
    identity = current.canary.identity
    if (blocker := unserved(draft, identity) or content_blocker(draft, identity)) is not None:
        draft.target_problem = (blocker.reason, blocker.message)
        _go_on(draft, blocker.reason, f"all steps done, but not promoted: {blocker.message}")
        return
    promote(draft)
