"""Stable gives pods to the canary as its share falls (design section 14, ``minStable``); its companions do with it.

Rules kept here, for each kind of pods by itself (``parts``):

- Stable shrinks only under a weight that is written, seen in the stored object and not refuted, never below
  ``minStable`` or what its share needs, and only where the canary has no other room. Its pods drain first.
- A number is stored before a workload is written. What stable has too few of is restored at once, as far as there is
  room.

How it gets them back is in ``taking_back``.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from rollouts.engine.actions import EventType
from rollouts.engine.capacity import most_pods, stable_pods_for
from rollouts.engine.draft import Draft
from rollouts.engine.drains import drained_to, open_drain
from rollouts.engine.observation import WorkloadView
from rollouts.engine.parts import Part, carries, parts
from rollouts.engine.reasons import Reason
from rollouts.engine.returning import Lent
from rollouts.engine.rollout_spec import AbortSpeed, Capacity, WeightStep
from rollouts.engine.rollout_status import CompanionScale, RolloutStatus, StableScale
from rollouts.engine.shortage import RESTORE_LIMIT, RESTORE_WINDOW, is_unknown, scaler_of, undrained
from rollouts.engine.taking_back import raise_stable, take_back, write_stable
from rollouts.units import FULL, ZERO, Weight

__all__ = ["needs_back", "next_ceiling", "restart_clock", "settle_stable"]

_RECHECK = timedelta(seconds=5)


def settle_stable(draft: Draft, policy: Capacity | None) -> None:
    """Stable's workloads in this plan; nothing where it has its pods, and nobody needs them."""
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


def next_ceiling(draft: Draft, policy: Capacity, asked: Weight) -> Weight | None:
    """The weight that the canary's Ready pods carry, where stable has to give pods for what the step asks.

    It rises only when what is in force under it is as it says, and falls only to what is in force: a canary that lost
    its weight comes back by what it carries then.
    """
    current, there = draft.current, parts(draft, draft.current.canary.identity)
    before = current.capacity.ceiling if current.capacity is not None else None
    if current.started_at is None:
        return None
    ready = min(asked, *(carries(draft, part, policy) for part in there))
    given = draft.status.weight.ours or ZERO
    rises = max(given, ready)
    if before is not None:  # of a weight that is 0 nothing can be seen: it begins anew
        return rises if draft.in_force or given == ZERO else min(before, rises)
    return rises if any(part.needs_room(asked, policy) for part in there) else None


def restart_clock(draft: Draft) -> None:
    """Each rise within a step has a step's time."""
    if isinstance(draft.step, WeightStep) or draft.step is None:
        draft.set_current(step_started_at=draft.now)


def lend(draft: Draft, policy: Capacity) -> None:
    """What stable has while the attempt runs: as much as leaves the canary room, and as its share needs."""
    canary = draft.current.canary.identity
    if is_unknown(draft, canary) is not None:
        return
    there = parts(draft, canary)
    if scaler_of(draft, there):
        return
    lead, *beside = there
    beside = [part for part in beside if part.stable]
    settled = [_settle(draft, policy, part) for part in (lead, *beside)]
    if not any(gives for _, gives in settled):
        draft.set(stable_scale=None)
        return
    known, companions = settled[0][0], [one for one, _ in settled[1:]]
    assert isinstance(known, StableScale)
    kept = tuple(one for one in companions if isinstance(one, CompanionScale))
    draft.set(
        stable_scale=replace(
            known,
            returning=False,
            immediate=policy.abort is AbortSpeed.IMMEDIATE,
            drain_seconds=int(policy.drain_timeout.total_seconds()),
            progress=None,
            blocked="",
            companions=kept,
        )
    )


def _settle(draft: Draft, policy: Capacity, part: Part) -> tuple[Lent, bool]:
    """Stable's workload of one kind; the record of it, and whether it has, or is to have, fewer pods than N."""
    n, most = part.stable, most_pods(part.stable, policy)
    view, before = draft.obs.workloads.get(part.lends, WorkloadView()), _known(draft, part)
    given = part.record.wanted if part.record is not None else 0
    wanted = n if most is None else min(n, max(_floor(draft, n, policy), most - given))
    known = replace(
        before if before is not None else _new(part, n),
        full=n,
        wanted=wanted,
        most=most or 0,
        ready_at_start=part.record.stable_ready if part.record is not None else 0,
        ready=draft.obs.ready(part.lends),
        pending=view.pending,
        reached=view.replicas <= wanted
        or (before is not None and before.reached and before.wanted == wanted),
    )
    if not view.what:  # a way back asks nobody for what stable had
        return known, False
    if before is not None and view.replicas < wanted:
        raise_stable(draft, known, view, most=known.most)
        return known, True
    if wanted < min(n, view.replicas) and _may_shrink(draft, known, view):
        return _shrink(draft, known, view), True
    return known, before is not None and min(wanted, view.replicas) < n


def _known(draft: Draft, part: Part) -> Lent | None:
    lent = draft.status.stable_scale
    return next((one for one in lent.parts if one.identity == part.lends), None) if lent is not None else None


def _new(part: Part, n: int) -> Lent:
    if part.role is None:
        return StableScale(identity=part.lends, full=n, wanted=n, most=0)
    return CompanionScale(identity=part.lends, role=part.role, full=n, wanted=n, most=0)


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


def _may_shrink(draft: Draft, known: Lent, view: WorkloadView) -> bool:
    """Whether pods may be taken from stable now: the split has been seen to be as it says, or pods drain already."""
    if undrained(draft, known.identity) or draft.status.hold is not None:
        return False
    if draft.spec.paused or draft.current.pulled or draft.current.path.undone_at is not None:
        return False
    if _contended(draft, known, view):
        return False
    return draft.in_force or open_drain(draft, known.identity) is not None


def _contended(draft: Draft, known: Lent, view: WorkloadView) -> bool:
    """Whether somebody gave stable replicas so often that they are kept for now."""
    recent = [at for at in known.restores if draft.now - at < RESTORE_WINDOW]
    return known.reached and view.replicas > known.wanted and len(recent) >= RESTORE_LIMIT


def _shrink(draft: Draft, known: Lent, view: WorkloadView) -> Lent:
    """Take the pods away that have drained; stored, with what stable is to get back, before the first of them is."""
    now, lent = drained_to(draft, known.identity, view, known.wanted), draft.obs.status.stable_scale
    stored = lent is not None and any(one.identity == known.identity for one in lent.parts)
    if now < view.replicas and not stored:
        draft.wake(_RECHECK)  # a CRD that is older than the controller drops what it does not know
    elif now < view.replicas:
        if known.reached:
            recent = [at for at in known.restores if draft.now - at < RESTORE_WINDOW]
            known = replace(known, restores=(*recent, draft.now)[-RESTORE_LIMIT:])
            message = f"somebody gave {view.what} {view.replicas} replicas; the canary has their room: restoring {now}"
            draft.event(EventType.WARNING, Reason.REPLICAS_RESTORED, message)
        write_stable(draft, known, view, now)
    return replace(known, reached=known.reached and now >= view.replicas)
