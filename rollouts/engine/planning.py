"""``plan(observation, now) -> Plan``: the whole decision about one Rollout, pure.

A chain of stages in the order of their authority. Each either ends the plan or lets the next one look. The
order is the safety argument: dropping a canary that nobody asks for any more and aborting a bad one come
before anything that could raise a weight, and both need only what is stored in status.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from rollouts.engine.accelerator_use import count_accelerators
from rollouts.engine.actions import EventType, Plan, WriteReason
from rollouts.engine.approving import denied
from rollouts.engine.carrying import given_up, note_trust, watch_canary
from rollouts.engine.commanding import finish_abort_command, obey_command
from rollouts.engine.conditions import set_conditions
from rollouts.engine.converging import FROZEN, converge, keep_split, show_live
from rollouts.engine.crashes import crashing
from rollouts.engine.deadlines import keep_clocks, missed_target
from rollouts.engine.draft import Draft
from rollouts.engine.ending import abort, drop_canary, show_aborted, terminate_runs
from rollouts.engine.evidence import renewed_run
from rollouts.engine.finalizing import finalize, keep_finalizer
from rollouts.engine.gating import show_refused
from rollouts.engine.headroom import for_way_back
from rollouts.engine.mending import mended
from rollouts.engine.moving import moved
from rollouts.engine.naming import background_run, job_name, step_run
from rollouts.engine.observation import Claim, GateOutcome, JobOutcome, Observation
from rollouts.engine.progressing import deadline_missed, note_unpaused, progress
from rollouts.engine.reasons import Reason
from rollouts.engine.rejections import plain_message, show_rejection
from rollouts.engine.returning import shortfall, watch_return
from rollouts.engine.revision import revision_of, target_identity
from rollouts.engine.rollout_spec import OnDeadline, TrafficMode
from rollouts.engine.rollout_status import HoldReason, Outcome, Phase, RolloutStatus, SettledBy, WaitingFor
from rollouts.engine.scaling import keep_capacity
from rollouts.engine.serving import serve_adapters
from rollouts.engine.starting import (
    first_install,
    nobody_serves,
    serve_stable,
    start_attempt,
    wait_for_target,
)
from rollouts.engine.taking_back import take_up_owed
from rollouts.engine.transitions import Trigger
from rollouts.engine.unmatched import name_unmatched
from rollouts.engine.watching import mirrored, path_alarm
from rollouts.engine.wayback import give_back, keep_record, return_canaries

__all__ = ["plan", "stages"]

_SUMMARIES = 32
"""Lines of ``status.analysis``."""

RECHECK = timedelta(seconds=30)
"""How often a Rollout that waits for the outside looks again without being told (watches usually tell)."""


def plan(obs: Observation, now: datetime) -> Plan:
    """Decide what to do about one Rollout.

    No clock, I/O, randomness or logging inside. ``now`` must be timezone-aware. The plan holds at most one
    ``WriteTraffic``; its status is to be stored after the actions, and only if all of them succeeded.

    Raises ``transitions.IllegalTransition`` when the engine itself is wrong.
    """
    status = mended(obs.status)
    if status is not obs.status:
        obs = replace(obs, status=status)
    target = obs.spec.target if obs.spec is not None else None
    present = moved(status, obs.listed, target, obs.companion_pools)
    draft = Draft(for_way_back(replace(obs, status=present), now), now)
    obs = draft.obs
    draft.set(message=plain_message(status))
    _note_move(draft, status)
    take_up_owed(draft)
    if obs.deleting:
        finalize(draft)
        set_conditions(draft)
        return draft.plan()
    keep_record(draft)
    watch_return(draft)
    for stage in _STAGES:
        if stage(draft):
            break
    else:
        progress(draft)
    show_refused(draft)
    if draft.status.current is not None:
        path = replace(draft.current.path, refuted=draft.refuted)
        draft.set_current(analysis=obs.summaries[:_SUMMARIES], path=path)
    show_live(draft)
    serve_adapters(draft)
    name_unmatched(draft)
    keep_capacity(draft)
    count_accelerators(draft)
    keep_clocks(draft)
    keep_finalizer(draft)
    note_trust(draft)
    set_conditions(draft)
    show_rejection(draft)
    return draft.plan()


def _note_move(draft: Draft, before: RolloutStatus) -> None:
    stable = draft.status.stable
    draft.moved = draft.status.way_back != before.way_back or stable != before.stable
    draft.moved |= draft.status.canary != before.canary
    if draft.moved and stable is not None:
        what = f"{stable.identity.kind} {stable.identity.name}"
        draft.event(EventType.NORMAL, Reason.POOL_MOVED, f"{what} is followed to {stable.identity.group}")


def _return(draft: Draft) -> bool:
    """What is to have no weight has none, or is losing it, whatever spec, template and claims say by now."""
    return_canaries(draft)
    finish_abort_command(draft)
    return False


def _unreadable(draft: Draft) -> bool:
    """There is a spec."""
    if draft.obs.spec is not None:
        return False
    _invalid(draft)
    return True


def _claimed_by_other(draft: Draft) -> bool:
    """The traffic object names us, or nobody: who is named is the one who writes it (design rule 10)."""
    traffic = draft.obs.traffic
    if traffic is None or traffic.claim in (Claim.OURS, Claim.CONSENTED):
        return False
    what = f"{traffic.kind} {traffic.name}"
    if traffic.claim is Claim.OTHER:
        message = (
            f"{what} belongs to Rollout {traffic.claimed_by}: delete that, or use another object. Where that Rollout "
            "is gone, hand it over: take its label inferencerollouts.dev/rollout off, and annotate it with "
            f"inferencerollouts.dev/managed-by: {draft.obs.name}"
        )
        reason = Reason.CLAIMED_BY_OTHER
    elif not traffic.exists:
        return False
    elif traffic.mode is TrafficMode.MANAGED:
        reason = Reason.ROUTE_CONFLICT
        message = (
            f"{what} exists and is not ours: nothing is written. To hand it over, annotate it with "
            f"inferencerollouts.dev/managed-by: {draft.obs.name}"
        )
    else:
        reason = Reason.ROUTE_NOT_CONSENTED
        message = (
            f"{traffic.unclaimed or what} does not consent: nothing is written. Annotate it in Git with "
            f"inferencerollouts.dev/managed-by: {draft.obs.name}"
        )
    draft.traffic_problem = (reason, message)
    draft.move(Phase.INVALID, Trigger.SPEC_INVALID, reason, message)
    return True


def _retarget(draft: Draft) -> bool:
    """The canary, if there is one, is what the spec asks for: another one is dropped, stable stays (design rule 7)."""
    canary, stable = draft.status.canary, draft.status.stable
    if canary is None or stable is None or draft.obs.spec is None:
        return False
    target = target_identity(draft.obs, draft.spec)
    if target == stable.identity:
        drop_canary(draft, Outcome.WITHDRAWN, f"the spec went back to {stable.label}")
    elif not draft.current.is_at(target, draft.spec.target.revision):
        drop_canary(draft, Outcome.SUPERSEDED, f"the spec asks for {draft.spec.target.name}")
    return False


def _abort_triggers(draft: Draft) -> bool:
    """The canary has no reason to be aborted. Before all else about it: a crash after an abort's write repeats it."""
    status, obs, current = draft.status, draft.obs, draft.status.running
    if current is None:
        return False
    relevant = {
        background_run(obs.owner, status),
        renewed_run(draft),
        step_run(obs.owner, status, current.current_step),
    }
    for name, gate in sorted(obs.gates.items()):
        if (
            name in relevant
            and gate.outcome is GateOutcome.ABORT
            and not (current.skip_gates or mirrored(draft))
        ):
            abort(draft, Reason.GATE_FAILED, gate.message or f"{name} failed", at_once=gate.loses_requests)
            return True
    broken = path_alarm(draft)
    if broken is not None:
        abort(draft, *broken)
        return True
    if (refusal := denied(draft)) is not None:
        abort(draft, Reason.APPROVAL_DENIED, refusal)
        return True
    name = job_name(obs.owner, status, current.current_step)
    if obs.jobs.get(name) is JobOutcome.FAILED:
        abort(draft, Reason.JOB_FAILED, f"Job {name} failed")
        return True
    if not obs.exists(current.canary.identity):
        abort(draft, Reason.CANARY_POOL_DELETED, f"{current.canary.identity.name} does not exist any more")
        return True
    if (crashed := crashing(draft)) is not None:
        abort(draft, Reason.CANARY_CRASHED, crashed)
        return True
    watch_canary(draft)
    if (pulled := given_up(draft)) is not None:
        abort(draft, *pulled)
        return True
    if obs.spec is None:
        return False  # how long a step may take is not known
    note_unpaused(draft)
    missed = deadline_missed(draft)
    if missed is None:
        return False
    if draft.spec.canary.on_deadline is OnDeadline.ABORT:
        abort(draft, Reason.PROGRESS_DEADLINE_EXCEEDED, missed)
        return True
    draft.hold(
        HoldReason.DEADLINE, f"{missed}; `promote` or `resume` gives it another deadline, `abort` ends it"
    )
    return False


def _command(draft: Draft) -> bool:
    """The last command has been obeyed or rejected; what it changed is stored before anything follows from it."""
    before = draft.status
    obey_command(draft)
    changed = _acted(before, draft.status)
    if changed:
        _show_obeyed(draft)
        draft.wake(timedelta(seconds=1))
    return changed and not draft.obs.problems  # those are said whatever else happened


def _show_obeyed(draft: Draft) -> None:
    """What is true now that a command moved an attempt on or held it: the next plan is a second away.

    Starts, aborts and retries say so themselves.
    """
    status, before = draft.status, draft.obs.status.phase
    if (
        status.running is None
        or before not in (Phase.PROGRESSING, Phase.PAUSED)
        or status.last_command is None
    ):
        return
    if status.hold is not None:
        draft.move(Phase.PAUSED, Trigger.HOLD, status.hold.value, status.hold_message)
    elif draft.obs.spec is not None and not draft.spec.paused:
        trigger = Trigger.RELEASED if before is Phase.PAUSED else Trigger.WAIT
        message = f"{status.last_command.message}; now {draft.where()}"
        draft.move(Phase.PROGRESSING, trigger, Reason.RESUMED, message)


def _acted(before: RolloutStatus, after: RolloutStatus) -> bool:
    """Whether the command changed more than its own record."""
    return after is not before and replace(after, last_command=before.last_command) != before


def _problems(draft: Draft) -> bool:
    """The spec can be executed."""
    if not draft.obs.problems:
        return False
    _invalid(draft)
    return True


def _pin_strategy(draft: Draft) -> bool:
    """The attempt's shared strategy is the one that the spec names, pinned; an edit of the object changes nothing."""
    view = draft.obs.strategy
    if draft.status.current is not None:
        draft.set_current(strategy=view.used if view is not None else None)
    return False


def _invalid(draft: Draft) -> None:
    problems = draft.obs.problems
    reason = problems[0].reason if problems else Reason.UNREADABLE
    message = "; ".join(problem.message for problem in problems) or "the spec cannot be read"
    draft.move(Phase.INVALID, Trigger.SPEC_INVALID, reason, message)
    _keep_down(draft)


def _keep_down(draft: Draft) -> None:
    """While nothing may be rendered, somebody else's rise of the canary is still taken back."""
    asked, records = draft.status.weight.desired, draft.status.way_back
    if draft.status.hold in FROZEN:  # somebody else's weight, unless it is gone with its object
        records = tuple(one for one in records if one in draft.obs.ways and draft.obs.ways[one].unsplit)
    if asked is not None and draft.status.started_at is not None:
        give_back(draft, records, WriteReason.RESTORE, asked)
    keep_split(draft)


def _first(draft: Draft) -> bool:
    """A stable version is known."""
    if draft.status.stable is not None:
        return False
    draft.release()  # what the last look held for may be over
    target = target_identity(draft.obs, draft.spec)
    if target is None:
        _unresolved(draft)
    else:
        first_install(draft, target)
    return True


def _unresolved(draft: Draft) -> None:
    """The target cannot be resolved: its pool does not exist in any API group, or in two."""
    blocker = draft.obs.target_blocker
    reason = blocker.reason if blocker else Reason.POOL_MISSING
    message = blocker.message if blocker else f"{draft.spec.target.name} does not exist: create it"
    draft.target_problem = (reason, message)
    draft.wake(RECHECK)
    draft.move(Phase.WAITING, Trigger.NEW_TARGET, reason, message)
    converge(draft, may_raise=False)


def _split_at_start(draft: Draft) -> bool:
    """Nobody has to say first which of the versions that were found is stable."""
    if draft.status.hold is HoldReason.UNMATCHED_PODS:
        draft.set(stable=None)  # the pods may be gone by now, or named
        return _first(draft)
    if draft.status.hold is not HoldReason.SPLIT_AT_START:
        return False
    target = target_identity(draft.obs, draft.spec)
    if draft.status.stable is not None and target != draft.status.stable.identity:
        # The spec moved on before anybody promoted: look at live traffic afresh, for the new target.
        draft.set(stable=None)
        return _first(draft)
    draft.move(Phase.PAUSED, Trigger.SPLIT_AT_START, Reason.SPLIT_AT_START, draft.status.hold_message)
    return True


def _target(draft: Draft) -> bool:
    """There is a canary: without one the target is stable, or a new attempt begins."""
    if draft.status.current is not None:
        return False
    target = target_identity(draft.obs, draft.spec)
    if target is None:
        _unresolved(draft)
    elif target == draft.stable.identity:
        _healthy(draft)
    else:
        start_attempt(draft, revision_of(target, draft.spec.target.revision))
    return True


def _healthy(draft: Draft) -> None:
    traffic = draft.obs.traffic
    terminate_runs(draft)
    settled_by = draft.obs.status.settled_by if draft.obs.status.phase is Phase.HEALTHY else None
    reason, message = (
        settled_by.value if settled_by else Reason.TARGET_IS_STABLE,
        f"{draft.stable.label} is stable{shortfall(draft)}",
    )
    if settled_by is SettledBy.PROMOTED:
        message = plain_message(draft.obs.status)
    draft.target_problem = nobody_serves(draft)
    if traffic is not None and not traffic.exists and traffic.mode is TrafficMode.ADOPTED:
        missing = f"{traffic.kind} {traffic.name} does not exist: add it to Git"
        draft.traffic_problem = (Reason.ROUTE_MISSING, missing)
        if draft.obs.status.phase in (Phase.NEW, Phase.HEALTHY, Phase.WAITING, Phase.INVALID):
            draft.move(Phase.WAITING, Trigger.TRAFFIC_MISSING, Reason.ROUTE_MISSING, missing)
            return
    serve_stable(draft, reason, message, settled_by)


def _aborted(draft: Draft) -> bool:
    """The attempt has not been aborted."""
    if draft.status.aborted is None:
        return False
    terminate_runs(draft)
    traffic = draft.obs.traffic
    ours = traffic is not None and (not traffic.exists or traffic.claim in (Claim.OURS, Claim.CONSENTED))
    if ours and draft.obs.spec is not None and not draft.obs.problems:
        converge(draft, may_raise=False)
    else:
        keep_split(draft)
    show_aborted(draft, Trigger.SPEC_VALID if draft.obs.status.phase is Phase.INVALID else Trigger.ABORT)
    return True


def _waiting(draft: Draft) -> bool:
    """The attempt has started: its target could take its first weight."""
    if draft.status.started_at is not None:
        return False
    if draft.status.hold is HoldReason.COMMAND or draft.spec.paused:
        message = draft.status.hold_message or "spec.paused holds the start: set it to false to go on"
        reason = draft.status.hold.value if draft.status.hold else Reason.PAUSED_BY_SPEC
        by_spec = None if draft.status.hold else WaitingFor.SPEC
        draft.move(Phase.PAUSED, Trigger.HOLD, reason, message, waiting_for=by_spec)
        converge(draft, may_raise=False)
        return True
    draft.wake(RECHECK)
    released = draft.obs.status.phase is Phase.PAUSED
    wait_for_target(draft, Trigger.RELEASED if released else Trigger.NEW_TARGET)
    return True


def stages() -> Iterator[tuple[str, str]]:
    """Name of each stage, in order, and what is ensured behind it."""
    for stage in _STAGES:
        yield stage.__name__.lstrip("_"), " ".join(str(stage.__doc__).split())


_STAGES: tuple[Callable[[Draft], bool], ...] = (
    _retarget,
    missed_target,
    _abort_triggers,
    _command,
    _return,
    _aborted,
    _unreadable,
    _claimed_by_other,
    _problems,
    _pin_strategy,
    _first,
    _split_at_start,
    _target,
    _waiting,
)
"""Each ends the plan, or ensures for those behind it what its first line says."""
