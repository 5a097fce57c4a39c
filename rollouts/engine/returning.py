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
from rollouts.engine.capacity import carried, companion_carries, share_of_ready
from rollouts.engine.companions import versions_of
from rollouts.engine.crashes import crashing
from rollouts.engine.draft import Draft
from rollouts.engine.observation import Claim, Draining, NotControllable, WorkloadView
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import Capacity
from rollouts.engine.rollout_status import CompanionScale, ReturnProgress, StableScale, WayBack
from rollouts.engine.versions import Identity
from rollouts.units import FULL, ZERO, Weight

__all__ = [
    "PATIENCE",
    "STARTING",
    "Lent",
    "begin_return",
    "binds",
    "is_gone",
    "pods_missed",
    "ready_of",
    "shortfall",
    "watch_return",
    "way_limit",
    "whole",
]

Lent = StableScale | CompanionScale
"""One workload of stable, its own or a companion's, as it gave pods."""

PATIENCE = timedelta(minutes=2)
"""How long a return may make no progress. All that it does by itself takes seconds: a scale is written within five, a
scheduler binds within one, and a pod that answers nothing ends within its grace, 30 s unless somebody said more; this
is four times that."""

STARTING = timedelta(minutes=10)
"""The same while a pod of stable starts on a node: servers load weights for minutes. A Deployment's own
``progressDeadlineSeconds`` is 600 by default, after which nobody believes any more that its pods come."""

_MOMENT = timedelta(seconds=30)
"""How long requests may be kept from no single pod before nobody waits: a picker that starts anew takes less."""

_DRAIN_STEP = timedelta(seconds=30)
"""How exactly it is stored that pods drained: each drain's status would else be written with every plan."""


def begin_return(draft: Draft, *, at_once: bool = False) -> None:
    """The attempt is over: stable gets the pods back that it gave, and the traffic as it has pods, or at once."""
    lent = draft.status.stable_scale
    if lent is None:
        return
    draft.set(stable_scale=replace(lent, returning=True, immediate=lent.immediate or at_once))
    watch_return(draft)


def whole(lent: Lent) -> int:
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
    canary = record.canary.arm
    if not draft.obs.ready(lent.identity) or _obstacle(draft, lent, canary):
        return ZERO
    # Both by the kind of pods that has the fewest: without its companion's a pod serves nobody.
    share = min(share_of_ready(draft.obs.ready(part.identity), whole(part)) for part in _awaited(draft, lent))
    policy, beside = _policy(draft), _companions(draft, canary)
    theirs = carried(draft.obs.ready(canary), lent.full, policy)
    for part in lent.companions:
        if (companion := beside.get(part.role)) is not None:
            theirs = min(theirs, companion_carries(draft.obs.ready(companion), part.full, policy))
    return min(Weight(FULL - share), theirs)


def binds(draft: Draft, part: Lent) -> bool:
    """Whether no other kind of stable's pods has a smaller part of them Ready."""
    lent = draft.status.stable_scale
    parts = _awaited(draft, lent) if lent is not None else ()
    shares = [share_of_ready(draft.obs.ready(one.identity), whole(one)) for one in parts]
    return share_of_ready(draft.obs.ready(part.identity), whole(part)) <= min(shares, default=FULL)


def _companions(draft: Draft, canary: Identity) -> dict[str, Identity]:
    """By role those of a canary that is over."""
    found = {one.role: one.identity for one in draft.status.scale_downs if one.of == canary}
    current = draft.status.current
    if current is not None and current.canary.identity == canary and current.capacity is not None:
        found |= {one.role: one.canary for one in current.capacity.companions}
    return found


def _awaited(draft: Draft, lent: StableScale) -> list[Lent]:
    """What of stable's the traffic waits for: not for a companion whose pool is gone, and may come again."""
    return [lent, *(one for one in lent.companions if not is_gone(draft, one.identity))]


def is_gone(draft: Draft, arm: Identity) -> bool:
    """Whether an arm has no pool any more."""
    view = draft.obs.workloads.get(arm)
    return view is None or view.gone


def _is_whole(draft: Draft, part: Lent) -> bool:
    return draft.obs.ready(part.identity) >= whole(part)


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
    pairs = list(_raised(draft, lent, canary))
    for part, arm in pairs:
        if why := _kept_by(draft, part, arm):
            return why
    name = canary.name
    pool = draft.obs.pools[canary]
    if not draft.obs.ready(canary):
        return f"{name} has no Ready pod"
    if pool.crashes.refusing:
        return f"{name} refuses connections on all of its pods"
    if pool.path.problems or pool.path.picker_down:
        return f"requests do not reach {name}: its endpoint picker, or its gateway"
    for part, arm in pairs:
        if arm is not None and 0 < part.most < draft.obs.ready(part.identity) + 2:
            return f"a pod of {arm.name} does not fit beside the one that {part.identity.name} needs next"
    return ""


def _raised(draft: Draft, lent: StableScale, canary: Identity) -> Iterator[tuple[Lent, Identity | None]]:
    """What of stable's lacks replicas, with the canary's of that kind where that has the room of them: what has its
    replicas, and pods that are not Ready, waits for nobody."""
    beside = _companions(draft, canary)
    for part in _awaited(draft, lent):
        if _is_whole(draft, part) or _view(draft, part.identity).replicas >= part.full:
            continue
        arm = beside.get(part.role) if isinstance(part, CompanionScale) else canary
        has_room = arm is not None and 0 < part.most < part.full + _view(draft, arm).pods
        yield part, arm if has_room else None


def _kept_by(draft: Draft, part: Lent, canary: Identity | None) -> str:
    """Why pods of one kind do not come back to stable, or the canary's do not go, whatever is waited for."""
    for arm in filter(None, (part.identity, canary)):
        view = draft.obs.workloads.get(arm)
        if view is None or not view.what:
            return f"it is not known what makes the pods of {arm.name}"
        if view.managed_by:
            return f"{view.managed_by} scales {view.what}"
    if canary is None:
        return ""
    view, name = draft.obs.workloads[canary], canary.name
    if view.used_by:
        return f"{view.used_by} sends requests to {name} as well, whose pods are not taken then"
    if isinstance(view.drain, NotControllable) and _is_undrained(draft):
        return f"requests cannot be kept from single pods of {name}: {view.drain.why}"
    return "" if draft.obs.ready(canary) else f"{name} has no Ready pod"


def _is_undrained(draft: Draft) -> bool:
    """Whether it has been so for more than the moment that a picker which starts anew needs."""
    lent = draft.status.stable_scale
    since = lent.progress.undrained_since if lent is not None and lent.progress is not None else None
    return since is not None and draft.now - since >= _MOMENT


# --- whether it gets on ----------------------------------------------------------------------------


def watch_return(draft: Draft) -> None:
    """Note the progress of a return for which a canary keeps traffic; without any it becomes immediate, and says why.

    Decided from what is stored, ahead of all that writes: a plan made again after a crash decides the same.
    """
    lent = draft.status.stable_scale
    if lent is None or not lent.returning or lent.immediate:
        return
    kept = list(dict.fromkeys(_kept(draft)))
    if all(_is_whole(draft, part) for part in _awaited(draft, lent)) or not (kept or lent.progress):
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
    if progress.unwritten or draft.now < last:
        draft.set(stable_scale=replace(lent, progress=progress))
        if draft.now < last:
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
    message = f"{lent.identity.name} gets all traffic with {ready_of(draft, lent)}: {why}"
    draft.event(EventType.WARNING, Reason.RETURN_NOT_WAITED_FOR, message)


def _progress(draft: Draft, lent: StableScale, kept: list[Identity]) -> ReturnProgress:
    """The best so far, and since when nothing was better. The clock stands while a weight cannot be written, and while
    pods answer requests, within ``drainTimeout`` of the return's begin."""
    known, views = lent.progress, _views(draft, kept)
    undrained = any(isinstance(view.drain, NotControllable) for view in views)
    since = known.undrained_since if known is not None else None
    since = (since or draft.now) if undrained else None
    if since is not None and draft.now < since + _MOMENT:
        draft.wake_at(since + _MOMENT)
    unwritten = _is_unwritten(draft, kept)
    now = ReturnProgress(
        began=draft.now,
        at=draft.now,
        ready=sum(draft.obs.ready(part.identity) for part in lent.parts),
        replicas=sum(_view(draft, part.identity).replicas for part in lent.parts),
        beside=sum(view.replicas + view.live for view in views),
        undrained_since=since,
        unwritten=unwritten,
    )
    if known is None:
        return now
    better = now.ready > known.ready or now.replicas > known.replicas or now.beside < known.beside
    drains = any(isinstance(view.drain, Draining) for view in views)
    drains = drains and draft.now < known.began + timedelta(seconds=lent.drain_seconds)
    stands = drains and draft.now - known.at >= _DRAIN_STEP
    goes_on = known.unwritten and not unwritten
    return ReturnProgress(
        began=known.began,
        at=draft.now if better or stands or goes_on else known.at,
        ready=max(now.ready, known.ready),
        replicas=max(now.replicas, known.replicas),
        beside=min(now.beside, known.beside),
        undrained_since=since,
        unwritten=unwritten,
    )


def _is_unwritten(draft: Draft, kept: list[Identity]) -> bool:
    """Whether the API server refuses the weight that is to fall, or another Rollout has the object: no waiting ends
    that, and pods that stable gets meanwhile are what it lacks when it is over. Of other refusals nothing waits.

    A plan that tries it again does not know yet: it is as it was until the weight has fallen.
    """
    lent = draft.status.stable_scale
    known = lent.progress if lent is not None else None
    records = (record for record in draft.status.way_back if record.canary.arm in kept)
    found = [(record, view) for record in records if (view := draft.obs.ways.get(record)) is not None]
    if any(view.claim is Claim.OTHER for _, view in found):
        return True
    refused = draft.obs.refused is not None or (known is not None and known.unwritten)
    return refused and any(view.share > way_limit(draft, record) for record, view in found)


def _views(draft: Draft, kept: list[Identity]) -> list[WorkloadView]:
    """Of all that is to make room."""
    beside = (arm for canary in kept for arm in _companions(draft, canary).values())
    arms = dict.fromkeys((*kept, *beside, *(one.identity for one in draft.status.scale_downs)))
    return [_view(draft, arm) for arm in arms]


def _view(draft: Draft, arm: Identity) -> WorkloadView:
    return draft.obs.workloads.get(arm, WorkloadView())


def _starts(draft: Draft, lent: StableScale) -> bool:
    """Whether a pod of stable has a node and is not Ready yet."""
    return any(_starting(draft, part) > 0 for part in lent.parts)


def _starting(draft: Draft, lent: Lent) -> int:
    view = _view(draft, lent.identity)
    return min(view.live, view.replicas) - view.pending - draft.obs.ready(lent.identity)


# --- in words --------------------------------------------------------------------------------------


def pods_missed(draft: Draft, lent: StableScale) -> str:
    """What keeps stable's pods from it, as far as that is known; empty where nothing is."""
    found = [words for part in lent.parts for words in _lacks(draft, part)]
    arms = [record.canary.arm for record in draft.status.way_back]
    lost = draft.status.scale_downs if lent.companions else ()
    beside = (one.identity for one in lost if one.of is not None)
    for arm in dict.fromkeys((*arms, *versions_of(draft.status.scale_downs), *beside)):
        found += _holds(draft, arm)
    return "; ".join(found)


def _lacks(draft: Draft, part: Lent) -> Iterator[str]:
    view = _view(draft, part.identity)
    since = part.gone_since if isinstance(part, CompanionScale) else None
    until = f": it is waited for until {since + STARTING:%H:%M:%SZ}" if since is not None else ""
    if until and is_gone(draft, part.identity):
        yield f"the pool {part.identity.name} is gone{until}"
    elif view.problem is not None:
        yield f"{view.problem.message}{until}"
    if view.managed_by:
        yield f"{view.managed_by} scales {view.what}: raise its minimum to {part.full}"
    if view.refused:
        yield f"the API server refuses to scale {view.what}: {view.refused}"
    if view.pending:
        yield f"{view.pending} Pending: {view.words or 'no node is said to fit'}"
    if (starting := _starting(draft, part)) > 0:
        yield f"{starting} pods of {part.identity.name} start and are not Ready"


def ready_of(draft: Draft, lent: StableScale) -> str:
    """``3 of 8 Ready pods``, and of its companions those that lack some: ``, 1 of 4 of prefill-v1``."""
    found = f"{draft.obs.ready(lent.identity)} of {whole(lent)} Ready pods"
    for part in lent.companions:
        if not _is_whole(draft, part):
            found += f", {draft.obs.ready(part.identity)} of {whole(part)} of {part.identity.name}"
    return found


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
    if all(_is_whole(draft, part) for part in lent.parts):
        return ""
    why = [words for words in (lent.blocked, pods_missed(draft, lent)) if words]
    return f" ({lent.identity.name} has {ready_of(draft, lent)}{': ' if why else ''}{'; '.join(why)})"
