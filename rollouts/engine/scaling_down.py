"""What lost is scaled down, once nobody asks it for anything: one look at each in every plan (design section 14).

When it has had no weight for ``scaleDown.delay`` and answers nothing any more, or ``drainTimeout`` later; never while
something else sends requests to it, or somebody else scales it. Companions go behind the pods that they work for.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from rollouts.engine.actions import EventType, ScaleWorkload
from rollouts.engine.capacity import companion_pods
from rollouts.engine.companions import companions_in_use, is_way_back
from rollouts.engine.draft import Draft
from rollouts.engine.drains import is_scaled
from rollouts.engine.lending import needs_back
from rollouts.engine.losers import has_weight, leave
from rollouts.engine.observation import Blocker, WorkloadView
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import LoserPolicy
from rollouts.engine.rollout_status import ScaleDown
from rollouts.engine.shortage import RESTORE_LIMIT, RESTORE_WINDOW

__all__ = ["SETTLE", "scale_down"]

SETTLE = timedelta(seconds=30)
"""The least time without weight before a version is scaled down, whatever ``delay`` says: gateways go on sending for
a moment after a weight was written (``carrying.SETTLE``), and the count of requests is read every few seconds."""

_SOON = timedelta(seconds=1)
_RECHECK = timedelta(seconds=5)
"""How often requests in flight are looked at again."""


def scale_down(draft: Draft, policy: LoserPolicy, *, hurry: bool) -> None:
    """One look at each version that lost; ``hurry``: its pods are needed, or nobody will come back to them."""
    _untangle(draft)
    for one in sorted(draft.status.scale_downs, key=lambda one: one.of is None):  # who is followed goes last
        looked = _look(draft, one, policy, hurry=hurry)
        left = (looked if other is one else other for other in draft.status.scale_downs)
        draft.set(scale_downs=tuple(other for other in left if other is not None))


def _untangle(draft: Draft) -> None:
    """Companions that are said to work for each other, as only somebody who edits the status can say, work for none:
    each would wait for the other for good."""
    works_for = {one.identity: one.of for one in draft.status.scale_downs}
    looked = list[ScaleDown]()
    for one in draft.status.scale_downs:
        of = one.of
        for _ in works_for:
            if of is None or of == one.identity:
                break
            of = works_for.get(of)
        looked.append(replace(one, of=one.identity) if of == one.identity else one)
    draft.set(scale_downs=tuple(looked))


def _look(draft: Draft, one: ScaleDown, policy: LoserPolicy, *, hurry: bool) -> ScaleDown | None:
    """What is still owed; None when it is done, or nobody's to do."""
    name, to = one.identity.name, _goal(one, policy)
    if has_weight(draft, one.of or one.identity):
        if not draft.obs.deleting:
            return replace(one, since=None, decided=False, message=f"{name} still has weight")
        leave(draft, one.identity, "it still has weight")
        return None
    since = one.since or draft.now
    due = since + (SETTLE if hurry else max(policy.delay, SETTLE))
    last = due + policy.drain_timeout
    view = draft.obs.workloads.get(one.identity, WorkloadView())
    one = replace(one, since=since)
    unknown = _may_be_used(draft, one)
    if unknown and draft.obs.deleting:
        leave(draft, one.identity, unknown)
        return None
    if unknown:
        return replace(one, decided=False, message=unknown)
    over = draft.now >= last or draft.obs.deleting
    if view.problem is not None and view.ending and not view.replicas and not draft.obs.deleting:
        over = False  # all that is left of it ends, and takes room until it has
    left = _not_ours(draft, one, view, over=over)
    if left:
        leave(draft, one.identity, left)
        return None
    if view.what and view.replicas <= to:
        # Pods that are ending count beside a canary's until they are gone.
        ending = view.live > to
        if not (_is_followed(draft, one) or (ending and not draft.obs.deleting)):
            return None
        then = "are ending" if ending else "are gone; what works for it goes next"
        return replace(one, reached=True, message=f"pods of {name} {then}")
    # While stable lacks pods it may need the room of these: they are left when that is over.
    if not needs_back(draft.status) and _works_for_kept(draft, one, policy):
        whose = one.of.name if one.of else name
        leave(draft, one.identity, f"its pods work for {whose}, which keeps its own")
        return None
    waits = _waits(draft, view, name, due, last) or _waits_for_others(draft, one, policy, last)
    if waits:
        return replace(one, decided=False, message=waits)
    restored = _restored(draft, one, view, to)
    return None if restored is None else _write_down(draft, restored, view, to)


def _restored(draft: Draft, one: ScaleDown, view: WorkloadView, to: int) -> ScaleDown | None:
    """It may be scaled down; where it was before, somebody scaled it up again: None after the fifth time in a row."""
    if not one.reached:
        return one
    recent = tuple(at for at in one.restores if draft.now - at < RESTORE_WINDOW)
    if len(recent) >= RESTORE_LIMIT:
        again = f"started {view.what}" if view.stops else f"scaled {view.what} up"
        leave(draft, one.identity, f"somebody {again} again {RESTORE_LIMIT} times in 10 minutes")
        return None
    message = f"somebody gave {view.what} {view.replicas} replicas; it lost, and gets {to}"
    if view.stops:
        message = f"somebody started {view.what} again; it lost, and is stopped"
    draft.event(EventType.WARNING, Reason.REPLICAS_RESTORED, message)
    return replace(one, reached=False, restores=(*recent, draft.now))


def _may_be_used(draft: Draft, one: ScaleDown) -> str:
    """Of a companion: why it may be one of a version that serves; empty where that is known, or a way back, which no
    label keeps, waits for the room."""
    status = draft.status
    canary = status.canary.identity if status.canary is not None and status.aborted is None else None
    if one.of is None or (canary is not None and is_way_back(draft, canary)):
        return ""
    arms = (status.stable.identity if status.stable is not None else None, canary)
    said = (draft.obs.companions.get(arm) for arm in arms if arm is not None)
    return next((found.message for found in said if isinstance(found, Blocker)), "")


def _goal(one: ScaleDown, policy: LoserPolicy) -> int:
    """Replicas of what lost: scaleDown.to, and of a companion what goes with so many."""
    to = policy.to
    return to if one.of is None else companion_pods(to, one.pods, one.of_pods)


def _is_followed(draft: Draft, one: ScaleDown) -> bool:
    """Whether companions are still to follow a version whose pods are gone: it stays for as long, so that a picture
    from before, which a new process may begin with, says nothing about a version that keeps its pods."""
    others = (other for other in draft.status.scale_downs if other.identity != one.identity)
    return any(other.of == one.identity for other in others)


def _works_for_kept(draft: Draft, one: ScaleDown, policy: LoserPolicy) -> bool:
    """Whether a companion's version is not scaled down any more, and has pods that need it."""
    if one.of is None or any(other.identity == one.of for other in draft.status.scale_downs):
        return False
    return draft.obs.workloads.get(one.of, WorkloadView()).replicas > policy.to


def _waits_for_others(draft: Draft, one: ScaleDown, policy: LoserPolicy, last: datetime) -> str:
    """A companion waits until the pods that it works for are gone, and those until it works on nothing for them."""
    if one.of == one.identity:
        return ""
    if one.of is not None:
        version = draft.obs.workloads.get(one.of, WorkloadView())
        if version.replicas > policy.to or (version.live > policy.to and draft.now < last):
            draft.wake(_RECHECK)
            return f"pods of {one.of.name}, which it works for, go first"
        return ""
    for other in draft.status.scale_downs:
        view = draft.obs.workloads.get(other.identity, WorkloadView())
        if other.of == one.identity and view.what and view.in_flight != 0 and draft.now < last:
            draft.wake(_RECHECK)
            name, works = one.identity.name, other.identity.name
            return f"{works} may work on requests of {name}, which keeps its pods until that is over"
    return ""


def _not_ours(draft: Draft, one: ScaleDown, view: WorkloadView, *, over: bool) -> str:
    """Why what lost keeps its pods for good; empty while it does not."""
    others = [arm.identity for arm in draft.status.arms if arm.identity != one.identity]
    if one.of is not None:
        in_use = companions_in_use(draft).items()
        others = [arm for arm, role in in_use if role == one.role and arm != one.identity]
    for other in (draft.obs.workloads.get(arm, WorkloadView()) for arm in others):
        if view.what and view.what == other.what:
            return f"{view.what} makes the pods of both versions"
        if other.managed_by:
            return f"{other.managed_by} scales {other.what}"
    if view.managed_by:
        return f"{view.managed_by} scales {view.what}"
    if not over:
        return ""
    if view.problem is not None:
        return view.problem.message
    if not view.what:
        return "it is gone"
    if view.used_by:
        return f"{view.used_by} sends requests to it"
    # Said to a rise, before it lost, it is no reason to leave it without a try.
    tried = any(old.identity == one.identity for old in draft.obs.status.scale_downs)
    return view.refused if tried else ""


def _waits(draft: Draft, view: WorkloadView, name: str, due: datetime, last: datetime) -> str:
    """What a version that lost waits for before it is scaled down; empty when it waits for nothing."""
    if draft.now < due:
        draft.wake_at(due)
        return f"{name} keeps its pods until {due:%Y-%m-%dT%H:%M:%SZ}"
    if draft.now < last:
        draft.wake_at(last)
    if view.problem is not None or not view.what:
        return view.problem.message if view.problem is not None else f"the pods of {name} are not known yet"
    if view.used_by:
        return f"{view.used_by} sends requests to {name}"
    if view.in_flight != 0 and draft.now < last:
        draft.wake(_RECHECK)
        what = "answers requests" if view.in_flight else "does not say whether it answers requests"
        return f"{name} {what}; it keeps its pods until that is over, {last:%Y-%m-%dT%H:%M:%SZ} at the latest"
    return ""


def _write_down(draft: Draft, one: ScaleDown, view: WorkloadView, to: int) -> ScaleDown:
    """Scale down what may be, once that is stored."""
    stored = any(old.decided and old.identity == one.identity for old in draft.obs.status.scale_downs)
    if is_scaled(draft, one.identity):
        draft.wake(_SOON)
    elif one.decided and stored:
        draft.wake(_RECHECK)
        draft.actions.append(
            ScaleWorkload(identity=one.identity, replicas=to, resource_version=view.resource_version)
        )
    else:
        draft.wake(_SOON)
    failed = f"; the API server refuses that: {view.refused}" if view.refused else ""
    failed = failed or (f"; not yet: {view.unanswered}" if view.unanswered else "")
    done = "is stopped" if view.stops else f"is scaled to {to}"
    return replace(one, decided=True, message=f"{view.what} {done}{failed}")
