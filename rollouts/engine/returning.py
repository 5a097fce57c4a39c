"""How much of its traffic a canary keeps while stable gets its pods back, and when nobody waits for those any longer.

A return waits for pods only while that leads somewhere: where the canary cannot serve, or its pods cannot go, all of
the traffic goes back at once, and so it does when the return makes no progress, whatever keeps it. Progress is judged
by the best that was seen so far, so that what comes and goes is none: a return ends in bounded time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

from rollouts.engine.actions import EventType
from rollouts.engine.capacity import carried, share_of_ready
from rollouts.engine.companions import versions_of
from rollouts.engine.crashes import crashing
from rollouts.engine.draft import Draft
from rollouts.engine.observation import Draining, NotControllable, WorkloadView
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import Capacity
from rollouts.engine.rollout_status import ReturnProgress, StableScale, WayBack
from rollouts.engine.versions import Identity
from rollouts.units import FULL, ZERO, Weight

__all__ = [
    "PATIENCE",
    "STARTING",
    "begin_return",
    "pods_missed",
    "shortfall",
    "watch_return",
    "way_limit",
    "whole",
]

PATIENCE = timedelta(minutes=2)
"""How long a return may make no progress. All that it does by itself takes seconds: a scale is written within five, a
scheduler binds within one, and a pod that answers nothing ends within its grace, 30 s unless somebody said more; this
is four times that."""

STARTING = timedelta(minutes=10)
"""The same while a pod of stable starts on a node: servers load weights for minutes. A Deployment's own
``progressDeadlineSeconds`` is 600 by default, after which nobody believes any more that its pods come."""

_DRAIN_STEP = timedelta(seconds=30)
"""How exactly it is stored that pods drained: each drain's status would else be written with every plan."""


def begin_return(draft: Draft, *, at_once: bool = False) -> None:
    """The attempt is over: stable gets the pods back that it gave, and the traffic as it has pods, or at once."""
    lent = draft.status.stable_scale
    if lent is None:
        return
    draft.set(stable_scale=replace(lent, returning=True, immediate=lent.immediate or at_once))
    watch_return(draft)


def whole(lent: StableScale) -> int:
    """Ready pods with which stable is what it was: N, or those that it had at the start where some were not Ready."""
    return min(lent.full, lent.ready_at_start or lent.full)


def way_limit(draft: Draft, record: WayBack) -> Weight:
    """The weight that a canary keeps for now: the share that stable has no Ready pods for yet.

    None where stable gave no pods or has them again, where waiting leads nowhere, and for a canary that was only
    pulled. Never more than the canary's own Ready pods carry.
    """
    lent, stable = draft.status.stable_scale, draft.status.stable
    if lent is None or stable is None or lent.identity != stable.identity or not lent.returning:
        return ZERO
    if lent.immediate or draft.obs.in_haste or not _is_over(draft, record):
        return ZERO
    ready, canary = draft.obs.ready(lent.identity), record.canary.arm
    if not ready or _obstacle(draft, lent, canary):
        return ZERO
    lacking = Weight(FULL - share_of_ready(ready, whole(lent)))
    return min(lacking, carried(draft.obs.ready(canary), lent.full, _policy(draft)))


def _policy(draft: Draft) -> Capacity:
    """What says how much a pod of the canary carries; one pod is enough to keep what it carries."""
    spec = draft.obs.spec
    policy = spec.canary.capacity if spec is not None else None
    return replace(policy or Capacity(), min_replicas=0)


def _is_over(draft: Draft, record: WayBack) -> bool:
    """Whether the attempt of a record's canary has ended; a canary that was pulled cannot serve."""
    current = draft.status.current
    if current is None or current.canary.identity.arm != record.canary.arm:
        return True
    return current.started_at is None or current.aborted is not None or draft.obs.deleting


def _obstacle(draft: Draft, lent: StableScale, canary: Identity) -> str:
    """Why no waiting gives stable its pods back from this canary, or why that cannot serve meanwhile."""
    name = canary.name
    for arm in (lent.identity, canary):
        view = draft.obs.workloads.get(arm)
        if view is None or not view.what:
            return f"it is not known what makes the pods of {arm.name}"
        if view.managed_by:
            return f"{view.managed_by} scales {view.what}"
    view = draft.obs.workloads[canary]
    if view.used_by:
        return f"{view.used_by} sends requests to {name} as well, whose pods are not taken then"
    if isinstance(view.drain, NotControllable):
        return f"requests cannot be kept from single pods of {name}: {view.drain.why}"
    if not draft.obs.ready(canary):
        return f"{name} has no Ready pod"
    pool = draft.obs.pools[canary]
    if pool.crashes.refusing:
        return f"{name} refuses connections on all of its pods"
    if pool.path.problems or pool.path.picker_down:
        return f"requests do not reach {name}: its endpoint picker, or its gateway"
    if lent.most and lent.most < draft.obs.ready(lent.identity) + 2:
        return f"a pod of {name} does not fit beside the one that {lent.identity.name} needs next"
    return ""


# --- whether it gets on ----------------------------------------------------------------------------


def watch_return(draft: Draft) -> None:
    """Note the progress of a return for which a canary keeps traffic; without any it becomes immediate, and says why.

    Decided from what is stored, ahead of all that writes: a plan made again after a crash decides the same.
    """
    lent = draft.status.stable_scale
    if lent is None or not lent.returning or lent.immediate:
        return
    kept = list(dict.fromkeys(_kept(draft)))
    if draft.obs.ready(lent.identity) >= whole(lent) or not (kept or lent.progress):
        draft.set(stable_scale=replace(lent, progress=None))
        return
    for canary in kept:
        if why := _obstacle(draft, lent, canary):
            _end(draft, lent, why)
            return
    if draft.status.aborted is not None and (crashed := crashing(draft)) is not None:
        _end(draft, lent, crashed)
        return
    progress = _progress(draft, lent, kept)
    last = progress.at + (STARTING if _starts(draft, lent) else PATIENCE)
    if draft.now < last:
        draft.set(stable_scale=replace(lent, progress=progress))
        draft.wake_at(last)
        return
    minutes = round((draft.now - progress.at) / timedelta(minutes=1))
    why = pods_missed(draft, lent) or "nothing is known to keep it"
    _end(draft, lent, f"no progress for {minutes} minutes: {why}")


def _kept(draft: Draft) -> Iterator[Identity]:
    """The canaries that are over and still have traffic while stable has a Ready pod that could take it."""
    lent = draft.status.stable_scale
    assert lent is not None
    for record in draft.status.way_back:
        view = draft.obs.ways.get(record)
        carrying = view is not None and view.exists and view.share > ZERO
        if carrying and _is_over(draft, record) and draft.obs.ready(lent.identity):
            yield record.canary.arm


def _end(draft: Draft, lent: StableScale, why: str) -> None:
    """Wait no longer."""
    draft.set(stable_scale=replace(lent, immediate=True, progress=None, blocked=why))
    name, ready = lent.identity.name, draft.obs.ready(lent.identity)
    message = f"{name} gets all traffic with {ready} of {whole(lent)} Ready pods: {why}"
    draft.event(EventType.WARNING, Reason.RETURN_NOT_WAITED_FOR, message)


def _progress(draft: Draft, lent: StableScale, kept: list[Identity]) -> ReturnProgress:
    """The best so far, and since when nothing was better. Pods that answer requests stand the clock, within
    ``drainTimeout`` of the return's begin."""
    known, views = lent.progress, _views(draft, kept)
    now = ReturnProgress(
        began=draft.now,
        at=draft.now,
        ready=draft.obs.ready(lent.identity),
        replicas=draft.obs.workloads.get(lent.identity, WorkloadView()).replicas,
        beside=sum(view.replicas + view.live for view in views),
    )
    if known is None:
        return now
    better = now.ready > known.ready or now.replicas > known.replicas or now.beside < known.beside
    drains = any(isinstance(view.drain, Draining) for view in views)
    drains = drains and draft.now < known.began + timedelta(seconds=lent.drain_seconds)
    return ReturnProgress(
        began=known.began,
        at=draft.now if better or (drains and draft.now - known.at >= _DRAIN_STEP) else known.at,
        ready=max(now.ready, known.ready),
        replicas=max(now.replicas, known.replicas),
        beside=min(now.beside, known.beside),
    )


def _views(draft: Draft, kept: list[Identity]) -> list[WorkloadView]:
    """Of all that is to make room."""
    arms = dict.fromkeys((*kept, *versions_of(draft.status.scale_downs)))
    return [draft.obs.workloads.get(arm, WorkloadView()) for arm in arms]


def _starts(draft: Draft, lent: StableScale) -> bool:
    """Whether a pod of stable has a node and is not Ready yet."""
    return _starting(draft, lent) > 0


def _starting(draft: Draft, lent: StableScale) -> int:
    view = draft.obs.workloads.get(lent.identity, WorkloadView())
    return min(view.live, view.replicas) - view.pending - draft.obs.ready(lent.identity)


# --- in words --------------------------------------------------------------------------------------


def pods_missed(draft: Draft, lent: StableScale) -> str:
    """What keeps stable's pods from it, as far as that is known; empty where nothing is."""
    name, found = lent.identity.name, list[str]()
    view = draft.obs.workloads.get(lent.identity, WorkloadView())
    if view.refused:
        found.append(f"the API server refuses to scale {view.what}: {view.refused}")
    if view.pending:
        found.append(f"{view.pending} Pending: {view.words or 'no node is said to fit'}")
    if (starting := _starting(draft, lent)) > 0:
        found.append(f"{starting} pods of {name} start and are not Ready")
    arms = [record.canary.arm for record in draft.status.way_back]
    for arm in dict.fromkeys((*arms, *versions_of(draft.status.scale_downs))):
        found += _holds(draft, arm)
    return "; ".join(found)


def _holds(draft: Draft, arm: Identity) -> Iterator[str]:
    """Why an arm still has the room of pods that are to go."""
    view = draft.obs.workloads.get(arm, WorkloadView())
    if view.refused:
        yield f"the API server refuses to scale {view.what}: {view.refused}"
    if view.ending:
        yield f"{view.ending} pods of {arm.name} are still Terminating"
    if isinstance(view.drain, Draining):
        yield f"{view.drain.pods} pods of {arm.name} that are to go still answer requests"


def shortfall(draft: Draft) -> str:
    """What stable lacks although no canary keeps traffic for it, as the end of a message; empty where it is whole."""
    lent, stable = draft.status.stable_scale, draft.status.stable
    if lent is None or stable is None or lent.identity != stable.identity or not lent.returning:
        return ""
    ready, full = draft.obs.ready(lent.identity), whole(lent)
    if ready >= full:
        return ""
    why = [words for words in (lent.blocked, pods_missed(draft, lent)) if words]
    return f" ({lent.identity.name} has {ready} of {full} Ready pods{': ' if why else ''}{'; '.join(why)})"
