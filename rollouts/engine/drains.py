"""An arm that may have requests loses pods: which arm, to how many, since when, and when it may be scaled.

Which pods go, and that they get no new requests, is the controller's doing (``DrainPods``); what they still answer
comes back as ``DrainView``. A drain is stored before a pod is touched, and lives only as long as each plan asks for it
again.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from rollouts.engine.actions import DrainPods, ScaleWorkload
from rollouts.engine.draft import Draft
from rollouts.engine.observation import Drained, Draining, NotControllable, WorkloadView
from rollouts.engine.rollout_spec import Capacity
from rollouts.engine.rollout_status import Drain
from rollouts.engine.versions import Identity

__all__ = ["drained_to", "forget_drains", "is_scaled", "open_drain"]

_SOON = timedelta(seconds=1)
_RECHECK = timedelta(seconds=5)


def open_drain(draft: Draft, identity: Identity) -> Drain | None:
    """The drain of an arm as the stored status has it."""
    return next((one for one in draft.obs.status.drains if one.identity == identity), None)


def forget_drains(draft: Draft) -> None:
    """None is asked for yet: what this plan does not ask for again is over."""
    draft.set(drains=())


def is_scaled(draft: Draft, identity: Identity) -> bool:
    """Whether this plan scales the workload of an arm already: one write of each, planned on what is there."""
    return any(isinstance(action, ScaleWorkload) and action.identity == identity for action in draft.actions)


def drained_to(draft: Draft, identity: Identity, view: WorkloadView, to: int) -> int:
    """Drain an arm's pods down to ``to``; the replicas that its workload may have now.

    The timeout counts from when so many pods were first to go: more of them begin anew, fewer do not. Who asks first in
    a plan is served: pods of a role that is not known any more may be in the way of several kinds.
    """
    if any(one.identity == identity for one in draft.status.drains):
        return view.replicas
    stored = open_drain(draft, identity)
    since = draft.now if stored is None or to < stored.to else stored.since
    asked = Drain(identity=identity, replicas=view.replicas, to=to, since=since)
    last = since + _timeout(draft)
    settled = stored is not None and (stored.to, stored.replicas) == (to, view.replicas)
    now = _may_have(view, to, over=draft.now >= last) if settled else view.replicas
    draft.set(drains=(*draft.status.drains, replace(asked, message=_words(view, asked, now))))
    if settled:
        draft.actions.append(DrainPods(identity=identity, to=to))
        draft.wake_at(max(last, draft.now + _SOON))
        draft.wake(_RECHECK)
    else:
        draft.wake(_SOON)  # it must be stored before a pod is touched
    return now


def _timeout(draft: Draft) -> timedelta:
    lent, spec = draft.status.stable_scale, draft.obs.spec
    if lent is not None and lent.returning:
        return timedelta(seconds=lent.drain_seconds)  # no edit makes a return longer
    policy = spec.canary.capacity if spec is not None else None
    return (policy or Capacity()).drain_timeout


def _may_have(view: WorkloadView, to: int, *, over: bool) -> int:
    """Replicas once those pods are gone that may go."""
    if over:
        return to
    match view.drain:
        case Drained():
            return to
        case Draining(free=free):
            return max(to, view.replicas - free)
        case _:
            return view.replicas


def _words(view: WorkloadView, asked: Drain, now: int) -> str:
    name, go = asked.identity.name, asked.replicas - asked.to
    if now <= asked.to:
        return f"{go} pods of {name} have drained"
    match view.drain:
        case Draining(pods=pods, requests=requests):
            what = "their requests" if requests is None else f"{requests} requests"
            return f"{pods} of {go} pods of {name} that are to go still answer {what}"
        case NotControllable(why=why):
            return f"requests cannot be kept from {go} pods of {name} that are to go: {why}"
        case _:
            return f"{go} pods of {name} drain"
