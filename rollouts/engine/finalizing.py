"""Deleting a Rollout never leaves a half-weighted route behind (design rule 12)."""

from __future__ import annotations

from rollouts.engine.actions import (
    EventType,
    ReleaseTraffic,
    ReleaseTrafficMode,
    SetFinalizer,
    WriteReason,
)
from rollouts.engine.commanding import finish_abort_command, obey_abort
from rollouts.engine.converging import desired_traffic, rule_share, show_live
from rollouts.engine.draft import Draft
from rollouts.engine.ending import terminate_runs
from rollouts.engine.observation import Claim
from rollouts.engine.reasons import Reason
from rollouts.engine.returning import begin_return
from rollouts.engine.rollout_spec import OnDelete, TrafficMode
from rollouts.engine.scaling_at_deletion import (
    RELEASE_ANNOTATION,
    finish_scaling,
    owes_scaling,
    return_stable,
)
from rollouts.engine.taking_back import leave_stable
from rollouts.engine.wayback import carries, give_back, keep_record
from rollouts.units import FULL, ZERO

__all__ = ["RELEASE_ANNOTATION", "finalize", "keep_finalizer"]


def finalize(draft: Draft) -> None:
    """One round of saying goodbye: traffic first, then the label, then the finalizer."""
    if not draft.obs.has_finalizer:
        return
    terminate_runs(draft)
    keep_record(draft)
    if draft.obs.on_delete is not OnDelete.KEEP_TRAFFIC:
        begin_return(draft)
        obey_abort(draft)
        return_stable(draft)
    if draft.obs.release_now:
        _let_go(draft, "released by annotation; the traffic object stays as it is")
    elif not _restore(draft) and not _release(draft) and not finish_scaling(draft):
        draft.actions.append(SetFinalizer(present=False))
    _show_kept(draft)
    finish_abort_command(draft)


def _show_kept(draft: Draft) -> None:
    """The API server has just refused to take the finalizer off: its words, and not the same try again."""
    refused = draft.obs.refused
    if refused is not None and SetFinalizer(present=False) in draft.actions:
        draft.actions.remove(SetFinalizer(present=False))
        _warn(draft, refused.reason, refused.message)
        draft.set(reason=str(refused.reason), message=refused.message)


def _warn(draft: Draft, reason: Reason, message: str) -> None:
    """An Event, the first time that the status has this reason."""
    if reason != draft.obs.status.reason:
        draft.event(EventType.WARNING, reason, message)


def _let_go(draft: Draft, why: str) -> None:
    """Take the finalizer off although a canary may still have traffic."""
    draft.actions.append(SetFinalizer(present=False))
    draft.event(EventType.WARNING, Reason.TRAFFIC_NOT_RESTORED, f"the Rollout goes: {why}")
    leave_stable(draft, "the Rollout goes")


def _restore(draft: Draft) -> bool:
    """RestoreStable: 100 % stable, unless stable has no endpoint that could take it. True: not done yet."""
    if draft.obs.on_delete is not OnDelete.RESTORE_STABLE or draft.status.stable is None:
        return False
    is_back = give_back(draft, draft.status.way_back, WriteReason.ABORT)
    if not draft.writes_traffic:
        show_live(draft)  # a crash, or the deletion, may have come between the last write and its status
    if is_back:
        return False
    if draft.traffic_problem is None:
        return True
    reason, problem = draft.traffic_problem
    _warn(draft, reason, problem)
    if reason == Reason.STABLE_NOT_READY:
        _let_go(draft, problem)
        return True
    _say_waits(draft, reason, problem)
    return True


def _say_waits(draft: Draft, reason: Reason, problem: str) -> None:
    """A refusal, or a claim of another Rollout: it keeps this one until it ends, or until a person lets go."""
    message = (
        f"{problem}. It is tried again; annotate {RELEASE_ANNOTATION}: now to delete the Rollout all the same"
    )
    draft.set(reason=str(reason), message=message)


def _is_refused(draft: Draft) -> bool:
    """Whether the API server has just refused to let the object go: said in place of another try."""
    refused = draft.obs.refused
    if refused is None:
        return False
    _warn(draft, refused.reason, refused.message)
    _say_waits(draft, refused.reason, refused.message)
    return True


def _release(draft: Draft) -> bool:
    """Drop our label, or delete the object; True while there is something to release."""
    delete = draft.obs.on_delete is OnDelete.DELETE_TRAFFIC
    mode = ReleaseTrafficMode.DELETE if delete else ReleaseTrafficMode.DROP_LABEL
    traffic = draft.obs.traffic
    if traffic is not None:
        held = traffic.exists and traffic.claim is Claim.OURS and not traffic.deleting
        if held and traffic.mode is TrafficMode.MANAGED:
            if not _is_refused(draft):
                draft.actions.append(ReleaseTraffic(mode=mode, resource_version=traffic.resource_version))
            return True
        return False
    for record in draft.status.way_back:
        view = draft.obs.ways.get(record)
        if (
            view is not None
            and view.exists
            and view.claim is Claim.OURS
            and record.mode is TrafficMode.MANAGED
        ):
            if not _is_refused(draft):
                draft.actions.append(
                    ReleaseTraffic(mode=mode, resource_version=view.resource_version, record=record)
                )
            return True
    return False


def keep_finalizer(draft: Draft) -> None:
    """The finalizer exists only while both arms carry weight, with DeleteTraffic, or while pods of ours outlive it.

    It is added together with the write that needs it (``converging``), and here where that write is past: the weights
    were there before this Rollout, or somebody took it off since, as each ``replace`` from a file does. It is taken
    away here.
    """
    wanted = draft.obs.on_delete is OnDelete.DELETE_TRAFFIC or owes_scaling(draft) or _given(draft)
    lacks = wanted and not draft.obs.has_finalizer and draft.obs.refused is None
    if lacks and not any(isinstance(action, SetFinalizer) for action in draft.actions):
        draft.actions.append(SetFinalizer(present=True))
    if wanted or not draft.obs.has_finalizer or draft.writes_traffic or draft.obs.refused is not None:
        return  # the write that is tried again needs it
    if not _split(draft):
        draft.actions.append(SetFinalizer(present=False))


def _given(draft: Draft) -> bool:
    """Whether a canary has weight that a deletion has to take back."""
    stable = draft.status.stable.identity.arm if draft.status.stable is not None else None
    views = (draft.obs.ways.get(record) for record in draft.status.way_back if record.canary.arm != stable)
    return any(carries(view) and view.claim is not Claim.OTHER for view in views if view is not None)


def _split(draft: Draft) -> bool:
    """Whether both arms carry weight, or are about to, or a rule of ours leads past the weights."""
    status, traffic = draft.status, draft.obs.traffic
    if any(carries(draft.obs.ways.get(record)) for record in status.way_back):
        return True
    if status.current is not None and ZERO < (status.weight.desired or ZERO) < FULL:
        return True
    if traffic is not None and traffic.header_routes:
        return True
    if draft.obs.spec is None or traffic is None or not traffic.exists:
        return False
    desired = desired_traffic(draft, status)
    if desired is None:
        return False
    return any(ZERO < (rule_share(rule, desired) or ZERO) < FULL for rule in traffic.rules)
