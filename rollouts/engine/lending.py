"""Stable gives pods to the canary as its share falls, and gets them back (design section 14, ``minStable``).

Rules kept here:

- Stable shrinks only under a weight that is written, seen in the stored object and not refuted, never below
  ``minStable`` or what its share needs, and only where the canary has no other room. Its pods drain first.
- A number is stored before a workload is written. What stable has too few of is restored at once, as far as there is
  room.
- When the attempt ends otherwise than by a promotion, stable is scaled to N again within the same room: the canary
  shrinks to what its share needs, which falls as stable's pods become Ready (``returning.way_limit``).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from rollouts.engine.actions import EventType, ScaleWorkload
from rollouts.engine.capacity import carried, most_pods, needs_room, pods_for, pods_kept, stable_pods_for
from rollouts.engine.companions import ready_units, versions_of
from rollouts.engine.draft import Draft
from rollouts.engine.drains import drained_to, is_scaled, open_drain
from rollouts.engine.observation import WorkloadView
from rollouts.engine.reasons import Reason
from rollouts.engine.returning import whole
from rollouts.engine.rollout_spec import AbortSpeed, Capacity, WeightStep
from rollouts.engine.rollout_status import RolloutStatus, StableScale
from rollouts.engine.shortage import RESTORE_LIMIT, RESTORE_WINDOW, is_unknown, passing, undrained
from rollouts.engine.versions import Identity
from rollouts.engine.wayback import live_shares
from rollouts.units import FULL, ZERO, Weight

__all__ = ["leave_stable", "needs_back", "next_ceiling", "restart_clock", "settle_stable", "take_back"]

_SOON = timedelta(seconds=1)
_RECHECK = timedelta(seconds=5)


def settle_stable(draft: Draft, policy: Capacity | None) -> None:
    """Stable's workload in this plan; nothing where it has its pods, and nobody needs them."""
    lent, stable = draft.status.stable_scale, draft.status.stable
    if lent is not None and (stable is None or lent.identity != stable.identity):
        draft.set(stable_scale=None)  # replaced: what it has left is the loser's
        return
    current = draft.status.running
    if policy is not None and current is not None and current.capacity is not None:
        lend(draft, policy)
    elif lent is not None:
        take_back(draft)


def needs_back(status: RolloutStatus) -> bool:
    """Whether stable is to get pods back."""
    return status.stable_scale is not None and status.stable_scale.returning


def leave_stable(draft: Draft, why: str) -> None:
    """Stable keeps what it has, and that is said."""
    lent = draft.status.stable_scale
    if lent is None:
        return
    draft.set(stable_scale=None)
    view = draft.obs.workloads.get(lent.identity, WorkloadView())
    has = f"{view.replicas} of" if view.what else "what it has of"
    message = f"{lent.identity.name} keeps {has} {lent.full} replicas: {why}"
    draft.event(EventType.WARNING, Reason.SCALE_DOWN_LEFT, message)


def next_ceiling(draft: Draft, policy: Capacity, pods: int, asked: Weight) -> Weight | None:
    """The weight that the canary's Ready pods carry, where stable has to give pods for what the step asks.

    It rises only when what is in force under it is as it says, and falls only to what is in force: a canary that lost
    its weight comes back by what it carries then.
    """
    current = draft.current
    before = current.capacity.ceiling if current.capacity is not None else None
    if current.started_at is None:
        return None
    ready = min(asked, carried(ready_units(draft, current.canary.identity, pods), pods, policy))
    given = draft.status.weight.ours or ZERO
    carries = max(given, ready)
    if before is not None:  # of a weight that is 0 nothing can be seen: it begins anew
        return carries if draft.in_force or given == ZERO else min(before, carries)
    return carries if needs_room(pods_for(asked, pods, policy), pods, policy) else None


def restart_clock(draft: Draft) -> None:
    """Each rise within a step has a step's time."""
    if isinstance(draft.step, WeightStep) or draft.step is None:
        draft.set_current(step_started_at=draft.now)


# --- under an attempt ------------------------------------------------------------------------------


def lend(draft: Draft, policy: Capacity) -> None:
    """What stable has while the attempt runs: as much as leaves the canary room, and as its share needs."""
    current, stable = draft.current, draft.stable.identity
    capacity = current.capacity
    assert capacity is not None
    if is_unknown(draft, current.canary.identity) is not None:
        return
    view, n = draft.obs.workloads[stable], capacity.stable_at_start
    if view.managed_by or draft.obs.workloads[current.canary.identity].managed_by:
        return
    most, lent = most_pods(n, policy), draft.status.stable_scale
    wanted = n if most is None else min(n, max(_floor(draft, n, policy), most - capacity.wanted))
    known = lent or StableScale(identity=stable, full=n, wanted=n, most=0)
    known = replace(
        known,
        full=n,
        wanted=wanted,
        most=most or 0,
        returning=False,
        immediate=policy.abort is AbortSpeed.IMMEDIATE,
        ready_at_start=capacity.stable_ready,
        drain_seconds=int(policy.drain_timeout.total_seconds()),
        progress=None,
        blocked="",
        ready=draft.obs.ready(stable),
        pending=view.pending,
        reached=view.replicas <= wanted or (known.reached and known.wanted == wanted),
    )
    if lent is not None and view.replicas < wanted:
        _raise(draft, known, view, most=known.most)
    elif wanted < min(n, view.replicas) and _may_shrink(draft, known, view):
        _shrink(draft, known, view)
    elif lent is not None:
        draft.set(stable_scale=None if min(wanted, view.replicas) >= n else known)


def _floor(draft: Draft, n: int, policy: Capacity) -> int:
    """The least that stable may have under the weight that is in force, by the status and by every rule."""
    weights = [draft.obs.status.weight.applied or ZERO, draft.status.weight.applied or ZERO]
    weights += _shares(draft)
    return stable_pods_for(min(weights), n, policy)


def _shares(draft: Draft) -> list[Weight]:
    """The canary's share in each rule of the live object, rounded down; nothing is given where nobody knows."""
    traffic, canary, stable = draft.obs.traffic, draft.current.canary.identity.arm, draft.stable.identity.arm
    found = [ZERO] if traffic is None or not traffic.rules else []
    for rule in traffic.rules if traffic is not None else ():
        mine, other = rule.entries.get(canary, 0), rule.entries.get(stable, 0)
        found.append(Weight(mine * FULL // (mine + other)) if mine + other else ZERO)
    return found


def _may_shrink(draft: Draft, known: StableScale, view: WorkloadView) -> bool:
    """Whether pods may be taken from stable now: the split has been seen to be as it says, or pods drain already."""
    if undrained(draft, known.identity) or passing(draft) or draft.status.hold is not None:
        return False
    if draft.spec.paused or draft.current.pulled or draft.current.path.undone_at is not None:
        return False
    if _contended(draft, known, view):
        return False
    return draft.in_force or open_drain(draft, known.identity) is not None


def _contended(draft: Draft, known: StableScale, view: WorkloadView) -> bool:
    """Whether somebody gave stable replicas so often that they are kept for now."""
    recent = [at for at in known.restores if draft.now - at < RESTORE_WINDOW]
    return known.reached and view.replicas > known.wanted and len(recent) >= RESTORE_LIMIT


def _shrink(draft: Draft, known: StableScale, view: WorkloadView) -> None:
    """Take the pods away that have drained; stored, with what stable is to get back, before the first of them is."""
    now = drained_to(draft, known.identity, view, known.wanted)
    if now < view.replicas:
        if known.reached:
            recent = [at for at in known.restores if draft.now - at < RESTORE_WINDOW]
            known = replace(known, restores=(*recent, draft.now)[-RESTORE_LIMIT:])
            message = f"somebody gave {view.what} {view.replicas} replicas; the canary has their room: restoring {now}"
            draft.event(EventType.WARNING, Reason.REPLICAS_RESTORED, message)
        _write(draft, known, view, now)
    draft.set(stable_scale=replace(known, reached=known.reached and now >= view.replicas))


def _raise(draft: Draft, known: StableScale, view: WorkloadView, *, most: int) -> None:
    """Replicas towards what is wanted, as far as there is room; ``most`` 0: there is no limit."""
    others = _others(draft, known.identity)
    taken = sum(draft.obs.workloads.get(arm, WorkloadView()).pods for arm in others)
    allowed = most - taken if most else known.wanted + view.ending
    replicas, stored = min(known.wanted, allowed - view.ending), draft.obs.status.stable_scale
    draft.set(stable_scale=known)
    if replicas <= view.replicas or view.live > allowed:
        draft.wake(_RECHECK)
    elif stored is None or (stored.identity, stored.wanted) != (known.identity, known.wanted):
        draft.wake(_SOON)  # it must be stored before it takes effect
    else:
        _write(draft, replace(known, most=most), view, replicas, others)


def _others(draft: Draft, stable: Identity) -> tuple[Identity, ...]:
    """The arms whose pods count beside stable's: a canary that runs or was aborted, and what lost."""
    current = draft.status.current
    arms = (
        *((current.canary.identity,) if current is not None and current.aborted is None else ()),
        *versions_of(draft.status.scale_downs),
    )
    return tuple(dict.fromkeys(arm for arm in arms if arm != stable))


def _write(
    draft: Draft, known: StableScale, view: WorkloadView, replicas: int, others: tuple[Identity, ...] = ()
) -> None:
    draft.wake(_RECHECK)  # the write may fail
    draft.actions.append(
        ScaleWorkload(
            identity=known.identity,
            replicas=replicas,
            resource_version=view.resource_version,
            beside=others,
            at_most=(known.most or None) if replicas > view.replicas else None,
        )
    )


# --- after it --------------------------------------------------------------------------------------


def take_back(draft: Draft) -> None:
    """Stable gets its replicas again; the versions that lost make room for it."""
    known = draft.status.stable_scale
    assert known is not None
    stable = known.identity
    view = draft.obs.workloads.get(stable, WorkloadView())
    free = _is_free(draft)
    known = replace(
        known,
        wanted=known.full,
        returning=True,
        immediate=known.immediate or free,
        ready=draft.obs.ready(stable),
        pending=view.pending,
    )
    if view.managed_by:
        leave_stable(draft, f"{view.managed_by} scales {view.what}: raise its minimum to {known.full}")
        return
    if not view.what:
        draft.set(stable_scale=known)
        return
    runs = draft.status.running is not None
    if view.replicas >= known.full:
        waits = any(live_shares(draft, None)) or (free and _takes_room(draft, known))
        back = known.ready >= whole(known) or not waits
        draft.set(stable_scale=None if back else known)
        if not back and free and not runs:
            _make_room(draft, known)
        return
    # While the attempt runs nobody sets a limit any more, and nobody makes the canary give its room.
    _make_room(draft, known)
    _raise(draft, known, view, most=0 if free and runs else known.most)


def _is_free(draft: Draft) -> bool:
    """Whether the spec says that nothing is to be scaled: whoever took capacity out waits for no pods."""
    spec = draft.obs.spec
    return spec is not None and not draft.obs.problems and spec.canary.capacity is None


def _takes_room(draft: Draft, known: StableScale) -> bool:
    """Whether what lost has pods that stable's could have the room of."""
    views = [draft.obs.workloads.get(arm, WorkloadView()) for arm in _others(draft, known.identity)]
    pods = sum(view.pods for view in views)
    return pods > known.most - known.full and any(view.replicas and may_give(view) for view in views)


def _make_room(draft: Draft, known: StableScale) -> None:
    """Versions that lost shrink to what their share needs, as far as stable lacks their room."""
    if not known.most:
        return
    others = _others(draft, known.identity)
    pods = {arm: draft.obs.workloads.get(arm, WorkloadView()) for arm in others}
    lacking = sum(view.pods for view in pods.values()) - (known.most - known.full)
    lost = set(versions_of(draft.status.scale_downs))
    if draft.obs.deleting or draft.status.started_at is None:
        lost |= set(others)  # whoever waits to begin makes room as well
    for arm, view in pods.items():
        lacking -= view.ending
        keeps = max(_carries(draft, arm, known), view.replicas - max(lacking, 0))
        if arm not in lost or not may_give(view) or keeps >= view.replicas:
            continue
        lacking -= view.replicas - keeps
        now = drained_to(draft, arm, view, keeps)
        if now < view.replicas and not is_scaled(draft, arm):
            draft.actions.append(
                ScaleWorkload(identity=arm, replicas=now, resource_version=view.resource_version)
            )


def may_give(view: WorkloadView) -> bool:
    """Whether pods of a version that lost are ours to take."""
    return bool(view.what) and not view.managed_by and not view.used_by


def _carries(draft: Draft, arm: Identity, known: StableScale) -> int:
    """Pods that a version which lost needs for the share that it still has."""
    shares = live_shares(draft, arm.arm)
    traffic = draft.obs.traffic
    for rule in traffic.rules if traffic is not None else ():
        total = sum(rule.entries.values())
        shares.append(Weight(-(-rule.entries.get(arm.arm, 0) * FULL // total) if total else ZERO))
    spec = draft.obs.spec
    policy = spec.canary.capacity if spec is not None else None
    kept = pods_kept(max(shares, default=ZERO), known.full, policy or Capacity())
    # Whatever was edited meanwhile: there is room for one more pod of stable than are Ready (see ``way_limit``).
    return min(kept, max(known.most - known.ready - 1, 0))
