"""Who is scaled (design section 14): the canary up before its weight, what lost down after it has none.

Rules kept here:

- The number that is wanted is stored before a workload is written, so that neither a crash nor a late cache scales.
- Within an attempt the canary is only ever scaled up, and all versions together never beyond N + maxSurge by us.
- Stable is scaled where ``minStable`` lets it give pods (``lending``); else it becomes ours to scale when it has lost.
- What lost is scaled down when it has had no weight for ``scaleDown.delay`` and answers nothing any more, or
  ``drainTimeout`` later; never while something else sends requests to it, or somebody else scales it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from rollouts.engine.actions import EventType, ScaleWorkload
from rollouts.engine.attempt import Attempt, AttemptCapacity, CompanionCapacity
from rollouts.engine.capacity import companion_pods, most_pods, pods_for
from rollouts.engine.companions import companions_in_use, is_way_back, known_pairs, left_out
from rollouts.engine.converging import asked_weight, show_live
from rollouts.engine.draft import Draft
from rollouts.engine.drains import forget_drains, is_scaled
from rollouts.engine.lending import (
    needs_back,
    next_ceiling,
    restart_clock,
    settle_stable,
)
from rollouts.engine.observation import Blocker, WorkloadView
from rollouts.engine.parts import Part, parts, room, stable_pods
from rollouts.engine.reasons import Reason
from rollouts.engine.returning import pods_missed
from rollouts.engine.rollout_spec import Capacity, LoserPolicy, OnDelete
from rollouts.engine.rollout_status import FOR_OTHERS, RolloutStatus, ScaleDown
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
from rollouts.engine.stopping import loses_when_stopped, start_again
from rollouts.engine.taking_back import leave_stable, take_back
from rollouts.engine.versions import Identity
from rollouts.engine.warming import warm_pods
from rollouts.engine.wayback import carries
from rollouts.engine.windows import outside
from rollouts.units import FULL, ZERO, Weight

__all__ = ["RELEASE_ANNOTATION", "finish_scaling", "keep_capacity", "owes_scaling", "return_stable"]

SETTLE = timedelta(seconds=30)
"""The least time without weight before a version is scaled down, whatever ``delay`` says: gateways go on sending for
a moment after a weight was written (``carrying.SETTLE``), and the count of requests is read every few seconds."""

RELEASE_ANNOTATION = "inferencerollouts.dev/release"
"""``now``: take the finalizer off, whatever the traffic object and the workloads say."""

_HASTE = "its namespace ends, or the controller is being stopped"
_SOON = timedelta(seconds=1)
_RECHECK = timedelta(seconds=5)
"""How often requests in flight are looked at again."""

SCALE_DOWNS = 8
"""Versions in status that wait for their end; more would need more abandoned attempts within one ``delay``."""


def keep_capacity(draft: Draft) -> None:
    """What this plan does about workloads; behind all that decides about weights and phases."""
    if draft.status.stable is None:
        return
    forget_drains(draft)
    start_again(draft)
    if draft.obs.spec is None or draft.obs.problems or _is_hidden(draft):
        _note_losers(draft)  # nothing is scaled by a policy that nobody can read, and nothing is forgotten
        _note_weights(draft)
        settle_stable(draft, None)
        return
    policy, loser = draft.spec.canary.capacity, draft.spec.canary.loser
    if loser is None:
        _settle_without(draft)
        return
    _note_losers(draft)
    settle_stable(draft, policy)
    if policy is not None and draft.status.current is not None and draft.current.aborted is None:
        _scale_up(draft, policy)
        warm_pods(draft, policy)
    if not draft.spec.paused or needs_back(draft.status):
        _scale_down(draft, loser, hurry=_needs_room(draft))


def _settle_without(draft: Draft) -> None:
    """Capacity was taken out: nothing is scaled but to give stable, when the attempt is over, its pods back."""
    if draft.status.stable_scale is not None and draft.status.running is None:
        _note_losers(draft)
        _note_weights(draft)
    else:
        _forget_losers(draft)
    if draft.status.current is not None:
        draft.set_current(capacity=None)
    settle_stable(draft, None)
    if draft.status.stable_scale is None:
        _forget_losers(draft)


def _forget_losers(draft: Draft) -> None:
    for one in draft.status.scale_downs:
        view = draft.obs.workloads.get(one.identity, WorkloadView())
        if view.pods and (one.since is not None or not view.stops):  # else nobody may ever have asked for it
            _leave(draft, one.identity, "strategy.canary.capacity was taken out")
    draft.set(scale_downs=())


def _is_hidden(draft: Draft) -> bool:
    """Whether the policy may be in a shared strategy that is missing, or cannot be used."""
    return draft.strategy_problem is not None and draft.spec.canary.loser is None


def owes_scaling(draft: Draft) -> bool:
    """Whether a workload is to be scaled down before the Rollout may go."""
    status, current = draft.status, draft.status.current
    if status.scale_downs or status.stable_scale is not None:
        return True
    if current is None or current.aborted is not None:
        return False
    return current.capacity is not None or (draft.obs.spec is not None and draft.spec.canary.stop is not None)


def return_stable(draft: Draft) -> None:
    """The Rollout is being deleted: stable gets the pods back that it gave, before and while traffic returns to it."""
    if draft.status.stable_scale is not None:
        forget_drains(draft)
        take_back(draft)


def finish_scaling(draft: Draft) -> bool:
    """The Rollout is being deleted: what lost is scaled down first, without delay. True while that is not done."""
    spec = draft.obs.spec
    keeps = draft.obs.on_delete is OnDelete.KEEP_TRAFFIC
    if keeps:
        leave_stable(draft, "onDelete KeepTraffic leaves all as it is")
    elif draft.obs.in_haste:
        leave_stable(draft, _HASTE)
    elif draft.status.stable_scale is not None:
        _say_stable(draft)
        return True
    if keeps or spec is None or draft.obs.problems or spec.canary.loser is None:
        if draft.strategy_problem is not None:
            for one in draft.status.scale_downs:
                _leave(draft, one.identity, draft.strategy_problem.message)
        return False
    _owe_canary(draft)
    if draft.obs.in_haste:
        for one in draft.status.scale_downs:
            _leave(draft, one.identity, _HASTE)
        return False
    _scale_down(draft, spec.canary.loser, hurry=True)
    if not draft.status.scale_downs:
        return False
    show_live(draft)  # a crash may have come between the last write of traffic and its status
    draft.set(message="; ".join(one.message for one in draft.status.scale_downs if one.message))
    return True


def _owe_canary(draft: Draft) -> None:
    """The attempt ends with its Rollout: once, since what is owed takes its place in the status."""
    current = draft.status.current
    if current is None:
        return
    scaled, identity = current.capacity is not None, current.canary.identity
    known = any(one.identity == identity for one in draft.status.scale_downs)
    stopped = loses_when_stopped(draft, identity) and not known
    if current.aborted is None and (scaled or stopped):
        _owe(draft, identity, current)
    draft.set_current(capacity=None)


def _say_stable(draft: Draft) -> None:
    lent = draft.status.stable_scale
    assert lent is not None
    show_live(draft)
    why = pods_missed(draft, lent)
    draft.set(
        message=(
            f"{lent.identity.name} gets its {lent.full} replicas back first{f' ({why})' if why else ''}; annotate "
            f"{RELEASE_ANNOTATION}: now to delete the Rollout all the same"
        )
    )


# --- the canary ------------------------------------------------------------------------------------


def _scale_up(draft: Draft, policy: Capacity) -> None:
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
            _leave(
                draft, one.canary, f"it is no companion of {canary.name} any more, and nothing took its place"
            )
        else:
            _add_owed(draft, _companion_owed(draft, one.canary, before, one, is_canary=True))


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


def _needs_room(draft: Draft) -> bool:
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


# --- what lost -------------------------------------------------------------------------------------


def _note_losers(draft: Draft) -> None:
    """An attempt with capacity ended in this plan: which of its versions lost. What is used again has not."""
    before, status = draft.obs.status, draft.status
    scaled = before.stable_scale is not None or (
        before.current is not None
        and (before.current.capacity is not None or loses_when_stopped(draft, before.current.canary.identity))
    )
    if scaled and before.current is not None and before.stable is not None:
        loser = _lost(before.current, before.stable.identity, status, same=before.attempt == status.attempt)
        if loser is not None:
            _owe(draft, loser, before.current)
    used = {arm.identity for arm in (status.stable, status.canary if status.aborted is None else None) if arm}
    beside = companions_in_use(draft)
    mine = used | _coming(draft)
    for one in draft.status.scale_downs:
        if one.of is not None and one.identity in beside and one.of not in mine:
            _leave(draft, one.identity, "it is a companion of another version by now")
    used |= beside.keys()
    draft.set(scale_downs=tuple(one for one in draft.status.scale_downs if one.identity not in used))


def _coming(draft: Draft) -> set[Identity]:
    """Companions of the version that is rolled out: one that lost to another before the first step may be so again."""
    current = draft.status.current
    if current is None:
        return set()
    return {pair.canary for pair in known_pairs(draft, current.canary.identity)}


def _note_weights(draft: Draft) -> None:
    """While nothing is scaled down, a loser that has weight again still begins anew when it has lost that."""
    looked = (
        replace(one, since=None, decided=False) if _has_weight(draft, one.of or one.identity) else one
        for one in draft.status.scale_downs
    )
    draft.set(scale_downs=tuple(looked))


def _lost(before: Attempt, stable: Identity, status: RolloutStatus, *, same: bool) -> Identity | None:
    canary = before.canary.identity
    if before.aborted is not None:
        return None  # noted when it was aborted
    if status.stable is not None and status.stable.identity == canary:
        return stable
    if status.aborted is not None or status.current is None or not same:
        return canary
    return None


def _owe(draft: Draft, identity: Identity, attempt: Attempt) -> None:
    """A version of an attempt lost, and its companions with it."""
    view = draft.obs.workloads.get(identity, WorkloadView())
    owed = [ScaleDown(identity=identity, selector=view.selector)]
    is_canary = identity == attempt.canary.identity
    if (capacity := attempt.capacity) is not None:
        for one in capacity.companions:
            owed.append(_companion_owed(draft, identity, capacity, one, is_canary=is_canary))
    _add_owed(draft, *owed)


def _companion_owed(
    draft: Draft,
    version: Identity,
    capacity: AttemptCapacity,
    one: CompanionCapacity,
    *,
    is_canary: bool,
) -> ScaleDown:
    identity = one.canary if is_canary else one.stable
    return ScaleDown(
        identity=identity,
        of=version,
        role=one.role,
        pods=one.stable_at_start,
        of_pods=capacity.stable_at_start,
        selector=draft.obs.workloads.get(identity, WorkloadView()).selector,
    )


def _add_owed(draft: Draft, *owed: ScaleDown) -> None:
    again = {one.identity for one in owed}
    known = (*(one for one in draft.status.scale_downs if one.identity not in again), *owed)
    late = [*dict.fromkeys(one.of or one.identity for one in known)][-SCALE_DOWNS:]
    for one in known:
        if (one.of or one.identity) not in late:
            _leave(draft, one.identity, f"{SCALE_DOWNS} versions that lost later wait for the same")
    draft.set(scale_downs=tuple(one for one in known if (one.of or one.identity) in late))


def _scale_down(draft: Draft, policy: LoserPolicy, *, hurry: bool) -> None:
    """One look at each version that lost; ``hurry``: its pods are needed, or nobody will come back to them."""
    looked = [_look(draft, one, policy, hurry=hurry) for one in draft.status.scale_downs]
    draft.set(scale_downs=tuple(one for one in looked if one is not None))


def _look(draft: Draft, one: ScaleDown, policy: LoserPolicy, *, hurry: bool) -> ScaleDown | None:
    """What is still owed; None when it is done, or nobody's to do."""
    name, to = one.identity.name, _goal(one, policy)
    if _has_weight(draft, one.of or one.identity):
        if not draft.obs.deleting:
            return replace(one, since=None, decided=False, message=f"{name} still has weight")
        _leave(draft, one.identity, "it still has weight")
        return None
    since = one.since or draft.now
    due = since + (SETTLE if hurry else max(policy.delay, SETTLE))
    last = due + policy.drain_timeout
    view = draft.obs.workloads.get(one.identity, WorkloadView())
    one = replace(one, since=since)
    unknown = _may_be_used(draft, one)
    if unknown and draft.obs.deleting:
        _leave(draft, one.identity, unknown)
        return None
    if unknown:
        return replace(one, decided=False, message=unknown)
    over = draft.now >= last or draft.obs.deleting
    if view.problem is not None and view.ending and not view.replicas and not draft.obs.deleting:
        over = False  # all that is left of it ends, and takes room until it has
    left = _not_ours(draft, one, view, over=over)
    if left:
        _leave(draft, one.identity, left)
        return None
    if view.what and view.replicas <= to:
        # Pods that are ending count beside a canary's until they are gone.
        gone = draft.obs.deleting or view.live <= to
        return None if gone else replace(one, reached=True, message=f"pods of {name} are ending")
    # While stable lacks pods it may need the room of these: they are left when that is over.
    if not needs_back(draft.status) and _works_for_kept(draft, one, policy):
        _leave(
            draft, one.identity, f"its pods work for {one.of.name if one.of else name}, which keeps its own"
        )
        return None
    waits = _waits(draft, view, name, due, last) or _waits_for_others(draft, one, policy, last)
    if waits:
        return replace(one, decided=False, message=waits)
    recent = tuple(at for at in one.restores if draft.now - at < RESTORE_WINDOW)
    if one.reached and len(recent) >= RESTORE_LIMIT:
        again = f"started {view.what}" if view.stops else f"scaled {view.what} up"
        _leave(draft, one.identity, f"somebody {again} again {RESTORE_LIMIT} times in 10 minutes")
        return None
    if one.reached:
        one = replace(one, reached=False, restores=(*recent, draft.now))
        message = f"somebody gave {view.what} {view.replicas} replicas; it lost, and gets {to}"
        if view.stops:
            message = f"somebody started {view.what} again; it lost, and is stopped"
        draft.event(EventType.WARNING, Reason.REPLICAS_RESTORED, message)
    return _write_down(draft, one, view, to)


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


def _leave(draft: Draft, identity: Identity, why: str) -> None:
    """Owe nothing any more, and say what stays."""
    stops = draft.obs.workloads.get(identity, WorkloadView()).stops
    what = "stopped" if stops else "scaled down"
    draft.event(EventType.WARNING, Reason.SCALE_DOWN_LEFT, f"{identity.name} is not {what}: {why}")


def _has_weight(draft: Draft, identity: Identity) -> bool:
    """Whether the traffic object, or the record of the way back, still sends requests to a version, or may.

    What only gets copies (a mirror) is in use by somebody else: ``used_by``, which ends.
    """
    traffic, arm = draft.obs.traffic, identity.arm
    if traffic is None:
        return True  # nobody knows
    listed = any(rule.entries.get(arm, 0) > 0 for rule in traffic.rules)
    ways = (draft.obs.ways.get(record) for record in draft.status.way_back if record.canary.arm == arm)
    return listed or arm in traffic.pins or any(map(carries, ways))


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
    return f"{view.used_by} sends requests to it" if view.used_by else view.refused


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
