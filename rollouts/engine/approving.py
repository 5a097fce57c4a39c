"""Approvals: a step waits for the answer of somebody that the administrator named (design section 18.4).

What is asked is stored before it is asked, under an id that is made of the Rollout, the attempt and the step, so that
a process that is started anew asks the same again, and an answer to anything else is nobody's. Asking is the shell's:
no plan waits for it, and no abort.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from rollouts.engine.actions import EventType
from rollouts.engine.attempt import ApprovalDecision, ApprovalRecord, DecidedApproval
from rollouts.engine.draft import Draft
from rollouts.engine.observation import ApprovalView
from rollouts.engine.reasons import Reason

__all__ = ["approved", "awaiting", "denied"]

_KEPT = 8
"""Answers that an attempt remembers, newest last: for its history, not for its decisions."""


def approved(draft: Draft, webhook: str) -> bool:
    """Ask, and say whether it has been approved; called while the step is waited in."""
    record = draft.current.approval
    if record is None or record.webhook != webhook:
        fresh = ApprovalRecord(id=_id(draft, webhook), webhook=webhook, since=draft.now)
        draft.set_current(approval=fresh)
        return False
    if record.granted:
        return True
    view = _answer(draft)
    if view is None:
        return False
    if view.decision is not ApprovalDecision.APPROVE:
        draft.set_current(approval=replace(record, answer=view.words))
        return False
    said = f": {view.message}" if view.message else ""
    _keep(draft, webhook, view)
    draft.set_current(approval=replace(record, answer=view.words, granted=True))
    draft.event(EventType.NORMAL, Reason.APPROVED, f"{draft.where()} approved by {view.by or webhook}{said}")
    return True


def _keep(draft: Draft, webhook: str, view: ApprovalView) -> None:
    """Remember an answer that decides."""
    assert view.decision is not None
    given = DecidedApproval(
        step=draft.current.current_step,
        webhook=webhook,
        decision=view.decision,
        at=draft.now,
        by=view.by,
        message=view.message,
    )
    draft.set_current(approvals=(*draft.current.approvals, given)[-_KEPT:])


def awaiting(draft: Draft, webhook: str) -> str:
    """What is waited for, in words."""
    record, view = draft.current.approval, _answer(draft)
    said = view.words if view is not None else record.answer if record is not None else ""
    last = f"; last answer: {said}" if said else ""
    return (
        f"{draft.where()}: waits for approval by {webhook}{last}; `rollouts promote {draft.obs.name}` goes on "
        "without it"
    )


def denied(draft: Draft) -> str | None:
    """Why the attempt is to be aborted: the answer to what its present step asks is a denial, which is kept."""
    view = _answer(draft)
    if view is None or view.decision is not ApprovalDecision.DENY:
        return None
    record = draft.current.approval
    assert record is not None
    if record.granted:
        return None
    _keep(draft, record.webhook, view)
    return f"denied by {view.by or record.webhook}{f': {view.message}' if view.message else ''}"


def _answer(draft: Draft) -> ApprovalView | None:
    """The last answer to what is stored as asked; to anything else there is none."""
    current, view = draft.status.running, draft.obs.approval
    if current is None or current.approval is None or view is None or view.id != current.approval.id:
        return None
    return view


def _id(draft: Draft, webhook: str) -> str:
    """The time is in it since steps that were edited run again, and are asked for again."""
    step, hash_ = draft.current.current_step, draft.current.steps_hash
    parts = (draft.obs.uid, draft.status.attempt, step, hash_, webhook, draft.now.isoformat())
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:32]
