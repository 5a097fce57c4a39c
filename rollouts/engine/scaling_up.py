"""The canary's workload and its companions' get the pods of a weight before that is written (design section 14).

The number that is wanted is stored before a workload is written, so that neither a crash nor a late cache scales.
Within an attempt it only ever rises, and all versions together never come beyond N + maxSurge by us.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from rollouts.engine.actions import EventType, ScaleWorkload
from rollouts.engine.attempt import AttemptCapacity, CompanionCapacity
from rollouts.engine.capacity import most_pods, pods_for
from rollouts.engine.companions import companions_in_use, known_pairs, left_out
from rollouts.engine.converging import asked_weight
from rollouts.engine.draft import Draft
from rollouts.engine.drains import is_scaled
from rollouts.engine.lending import needs_back, next_ceiling, restart_clock
from rollouts.engine.losers import add_owed, companion_owed, leave
from rollouts.engine.observation import WorkloadView
from rollouts.engine.parts import Part, parts, room, stable_pods
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import Capacity
from rollouts.engine.rollout_status import FOR_OTHERS
from rollouts.engine.shortage import (
    CAPACITY_REASONS,
    RESTORE_LIMIT,
    RESTORE_WINDOW,
    contended,
    is_quick,
    is_unknown,
    not_warmable,
    not_whole,
    shortage,
    uncontrolled,
)
from rollouts.engine.steps import first_weight
from rollouts.engine.versions import Identity
from rollouts.engine.windows import outside
from rollouts.units import FULL, ZERO, Weight

__all__ = ["lacks_room", "scale_up"]

_SOON = timedelta(seconds=1)
_RECHECK = timedelta(seconds=5)
"""How often room, and replicas that others wrote, are looked at again."""


def scale_up(draft: Draft, policy: Capacity) -> None:
    """Note what the weight that is asked for needs, and raise what has fewer replicas, once that is stored."""
    current, canary = draft.current, draft.current.canary.identity
    _say_left_out(draft, canary)
    if is_unknown(draft, canary) is not None:
        return
    view, pods, before = (
        draft.obs.workloads[canary],
        stable_pods(draft),
        current.capacity or AttemptCapacity(),
    )
    needed = pods_for(_asked(draft), pods, policy)
    grows = _may_grow(draft) and (is_quick(draft) or not_whole(draft, canary, policy) is None)
    grows = grows and not needs_back(draft.status) and uncontrolled(draft, policy, canary) is None
    grows = grows and not_warmable(draft, canary) is None
    wanted = max(before.wanted, needed) if grows else before.wanted
    capacity = replace(
        before,
        stable_at_start=pods,
        wanted=wanted,
        selector=view.selector,
        reached=max(before.reached, min(view.replicas, wanted)),
        ceiling=next_ceiling(draft, policy, _asked(draft)),
        ready=draft.obs.ready(canary),
        pending=view.pending,
        warming=view.warming,
        stable_ready=draft.obs.ready(draft.stable.identity)
        if current.started_at is None
        else before.stable_ready,
        companions=_companions(draft, before, needed if grows else 0),
    )
    _leave_former(draft, before, capacity)
    if capacity.ceiling != before.ceiling:
        restart_clock(draft)
    # All zero (stable has no pods, and none are asked for yet) is stored as nothing.
    says = replace(capacity, selector="") != AttemptCapacity()
    draft.set_current(capacity=capacity if says else None)
    _say_unnamed(draft, before)
    if not grows or any(is_scaled(draft, part.lends) for part in parts(draft, canary)):
        return
    few = [part for part in parts(draft, canary) if _has_too_few(draft, part)]
    if few and _stored(draft) != _numbers(capacity):
        draft.wake(_SOON)  # the numbers must be stored before they take effect
        return
    for part in few:
        _raise(draft, part, policy)


def _say_left_out(draft: Draft, canary: Identity) -> None:
    """A way back begins, and a companion does not go with it: it must not wait for that, and somebody has to know."""
    before = draft.obs.status
    if draft.status.started_at is None or (
        before.attempt == draft.status.attempt and before.started_at is not None
    ):
        return
    for words in left_out(draft, canary):
        draft.event(
            EventType.WARNING, Reason.CAPACITY_UNKNOWN, f"the way back goes on without a companion: {words}"
        )


def _companions(draft: Draft, before: AttemptCapacity, needed: int) -> tuple[CompanionCapacity, ...]:
    """What the attempt has of the canary's companions; ``needed``: pods of the canary that they are to have theirs for,
    0 where nothing may grow."""
    stable, found = stable_pods(draft), list[CompanionCapacity]()
    known = {(one.stable, one.canary): one for one in before.companions}
    for pair in known_pairs(draft, draft.current.canary.identity):
        view = draft.obs.workloads[pair.canary]
        fresh = CompanionCapacity(stable=pair.stable, canary=pair.canary)
        one = known.get((pair.stable, pair.canary), fresh)
        wanted = max(one.wanted, pair.needed(needed, stable))
        found.append(
            replace(
                one,
                role=pair.role,
                stable_at_start=pair.pods,
                wanted=wanted,
                selector=view.selector,
                reached=max(one.reached, min(view.replicas, wanted)),
                ready=draft.obs.ready(pair.canary),
                pending=view.pending,
                stable_ready=draft.obs.ready(pair.stable)
                if draft.current.started_at is None
                else one.stable_ready,
            )
        )
    return tuple(found)


def _leave_former(draft: Draft, before: AttemptCapacity, now: AttemptCapacity) -> None:
    """A companion that was given pods and is none any more, before the first step, has lost to the one in its place.

    Where there is none its pods stay: they may be what the canary serves with, whatever labels say.
    """
    present, roles = {one.canary for one in now.companions}, {one.role for one in now.companions}
    canary = draft.current.canary.identity
    for one in before.companions:
        if not one.wanted or one.canary in present:
            continue
        if one.role not in roles:
            leave(
                draft, one.canary, f"it is no companion of {canary.name} any more, and nothing took its place"
            )
        else:
            add_owed(draft, companion_owed(draft, one.canary, before, one, is_canary=True))


def _say_unnamed(draft: Draft, before: AttemptCapacity) -> None:
    """A pool that was stable's companion until another one was named for its role: nobody counts its pods any more.

    Until the first step labels and list say what stable has, and whom its pods serve else is not ours to know. But
    where they were changed by mistake, those pods take room that was meant for others.
    """
    capacity, stable, used = draft.current.capacity, draft.stable.identity, companions_in_use(draft)
    entry = draft.status.promoted(stable)
    had = {one.role: one.identity for one in (entry.companions if entry is not None else ())}
    had |= {one.role: one.stable for one in before.companions}
    used |= {one.identity: one.role for one in draft.status.scale_downs}
    for one in capacity.companions if capacity is not None else ():
        former = had.get(one.role, one.stable)
        if former not in used and draft.obs.workloads.get(former, WorkloadView()).pods:
            leave(
                draft,
                former,
                f"{one.stable.name} is {stable.name}'s companion now, and its pods count nowhere",
            )


def _has_too_few(draft: Draft, part: Part) -> bool:
    view = draft.obs.workloads[part.identity]
    return part.record is not None and view.replicas < part.record.wanted and not view.managed_by


def _stored(draft: Draft) -> object:
    """The numbers of this very attempt, as the stored status has them."""
    stored = draft.obs.status.current
    if stored is None or stored.capacity is None or draft.obs.status.attempt != draft.status.attempt:
        return None
    return _numbers(stored.capacity)


def _numbers(capacity: AttemptCapacity) -> object:
    """N and what is wanted, of each workload."""
    beside = ((one.canary, one.stable_at_start, one.wanted) for one in capacity.companions)
    return capacity.stable_at_start, capacity.wanted, *beside


def _raise(draft: Draft, part: Part, policy: Capacity) -> None:
    """Ask for the replicas that there is room for; what somebody else lowered is restored, and said."""
    capacity, view = part.record, draft.obs.workloads[part.identity]
    assert capacity is not None
    wanted = capacity.wanted
    allowed = room(draft, part, wanted)
    replicas = min(wanted, allowed - view.ending)
    if replicas <= view.replicas or view.live > allowed:
        draft.wake(_RECHECK)
        return
    if contended(capacity, view, draft.now):
        draft.wake_at(min(at for at in capacity.restores if draft.now - at < RESTORE_WINDOW) + RESTORE_WINDOW)
        return
    if view.replicas < capacity.reached:
        recent = [at for at in capacity.restores if draft.now - at < RESTORE_WINDOW]
        _note(draft, replace(capacity, restores=(*recent, draft.now)[-RESTORE_LIMIT:]))
        message = f"somebody gave {view.what} {view.replicas} replicas; restoring {replicas}"
        draft.event(EventType.WARNING, Reason.REPLICAS_RESTORED, message)
    draft.wake(_RECHECK)  # the write may fail
    draft.actions.append(
        ScaleWorkload(
            identity=part.identity,
            replicas=replicas,
            resource_version=view.resource_version,
            beside=part.beside,
            at_most=most_pods(part.stable, policy),
        )
    )


def _note(draft: Draft, record: AttemptCapacity | CompanionCapacity) -> None:
    """Put what changed of one workload in the place of what the attempt has of it."""
    if isinstance(record, CompanionCapacity):
        capacity = draft.current.capacity
        assert capacity is not None
        changed = (record if one.canary == record.canary else one for one in capacity.companions)
        record = replace(capacity, companions=tuple(changed))
    draft.set_current(capacity=record)


def _asked(draft: Draft) -> Weight:
    """The weight whose pods are wanted now: none while the target lacks, or waits for, something else than pods."""
    current = draft.current
    if current.started_at is not None:
        return asked_weight(draft.status, draft.spec)
    if not current.skip_gates and draft.status.waiting_for in FOR_OTHERS:
        return ZERO  # pods of one in line could be what somebody in front of it lacks
    lacking = draft.target_problem
    if lacking is not None and lacking[0] not in (*CAPACITY_REASONS, Reason.TARGET_NOT_READY):
        return ZERO
    return FULL if current.skip_gates else first_weight(draft.spec.canary.steps)


def _may_grow(draft: Draft) -> bool:
    return draft.status.hold is None and not draft.spec.paused and not outside(draft)


def lacks_room(draft: Draft) -> bool:
    """Whether an attempt waits for what the pods of a loser take, by maxSurge or on the nodes: ``delay`` is over.

    So it is where stable needs the room.
    """
    if needs_back(draft.status):
        return True
    current = draft.status.current
    if (
        current is None
        or current.aborted is not None
        or is_unknown(draft, current.canary.identity) is not None
    ):
        return False
    blocker = shortage(draft, current.canary.identity, _asked(draft))
    if blocker is None:
        return False
    pending = any(draft.obs.workloads[one.identity].pending for one in parts(draft, current.canary.identity))
    no_node = blocker.reason is Reason.WAITING_FOR_PODS and pending
    return no_node or blocker.reason is Reason.CAPACITY_EXHAUSTED
