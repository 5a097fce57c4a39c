"""Which versions lost, with their companions, and are to be scaled down: what is owed, until it is done or left.

What is used again has not lost. What nobody is to scale any more is said to somebody (``leave``), and owed no longer.
"""

from __future__ import annotations

from dataclasses import replace

from rollouts.engine.actions import EventType
from rollouts.engine.attempt import Attempt, AttemptCapacity, CompanionCapacity
from rollouts.engine.companions import companions_in_use, known_pairs
from rollouts.engine.draft import Draft
from rollouts.engine.observation import WorkloadView
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_status import RolloutStatus, ScaleDown
from rollouts.engine.stopping import loses_when_stopped
from rollouts.engine.versions import Identity
from rollouts.engine.wayback import carries

__all__ = [
    "SCALE_DOWNS",
    "add_owed",
    "companion_owed",
    "has_weight",
    "leave",
    "note_losers",
    "note_weights",
    "owe",
]

SCALE_DOWNS = 8
"""Versions in status that wait for their end; more would need more abandoned attempts within one ``delay``."""


def note_losers(draft: Draft) -> None:
    """An attempt with capacity ended in this plan: which of its versions lost. What is used again has not."""
    before, status = draft.obs.status, draft.status
    scaled = before.stable_scale is not None or (
        before.current is not None
        and (before.current.capacity is not None or loses_when_stopped(draft, before.current.canary.identity))
    )
    if scaled and before.current is not None and before.stable is not None:
        loser = _lost(before.current, before.stable.identity, status, same=before.attempt == status.attempt)
        if loser is not None:
            owe(draft, loser, before.current)
    used = {arm.identity for arm in (status.stable, status.canary if status.aborted is None else None) if arm}
    beside = companions_in_use(draft)
    mine = used | _coming(draft)
    for one in draft.status.scale_downs:
        if one.of is not None and one.identity in beside and one.of not in mine:
            leave(draft, one.identity, "it is a companion of another version by now")
    used |= beside.keys()
    draft.set(scale_downs=tuple(one for one in draft.status.scale_downs if one.identity not in used))


def _coming(draft: Draft) -> set[Identity]:
    """Companions of the version that is rolled out: one that lost to another before the first step may be so again."""
    current = draft.status.current
    if current is None:
        return set()
    return {pair.canary for pair in known_pairs(draft, current.canary.identity)}


def note_weights(draft: Draft) -> None:
    """While nothing is scaled down, a loser that has weight again still begins anew when it has lost that."""
    looked = (
        replace(one, since=None, decided=False) if has_weight(draft, one.of or one.identity) else one
        for one in draft.status.scale_downs
    )
    draft.set(scale_downs=tuple(looked))


def has_weight(draft: Draft, identity: Identity) -> bool:
    """Whether the traffic object, or the record of the way back, still sends requests to a version, or may.

    What only gets copies (a mirror) is in use by somebody else: ``used_by``, which ends.
    """
    traffic, arm = draft.obs.traffic, identity.arm
    if traffic is None:
        return True  # nobody knows
    listed = any(rule.entries.get(arm, 0) > 0 for rule in traffic.rules)
    ways = (draft.obs.ways.get(record) for record in draft.status.way_back if record.canary.arm == arm)
    return listed or arm in traffic.pins or any(map(carries, ways))


def _lost(before: Attempt, stable: Identity, status: RolloutStatus, *, same: bool) -> Identity | None:
    canary = before.canary.identity
    if before.aborted is not None:
        return None  # noted when it was aborted
    if status.stable is not None and status.stable.identity == canary:
        return stable
    if status.aborted is not None or status.current is None or not same:
        return canary
    return None


def owe(draft: Draft, identity: Identity, attempt: Attempt) -> None:
    """A version of an attempt lost, and its companions with it."""
    view = draft.obs.workloads.get(identity, WorkloadView())
    owed = [ScaleDown(identity=identity, selector=view.selector)]
    is_canary = identity == attempt.canary.identity
    if (capacity := attempt.capacity) is not None:
        for one in capacity.companions:
            owed.append(companion_owed(draft, identity, capacity, one, is_canary=is_canary))
    add_owed(draft, *owed)


def companion_owed(
    draft: Draft,
    version: Identity,
    capacity: AttemptCapacity,
    one: CompanionCapacity,
    *,
    is_canary: bool,
) -> ScaleDown:
    """What is owed of a companion of ``version``: the canary's of the pair, or stable's."""
    identity = one.canary if is_canary else one.stable
    return ScaleDown(
        identity=identity,
        of=version,
        role=one.role,
        pods=one.stable_at_start,
        of_pods=capacity.stable_at_start,
        selector=draft.obs.workloads.get(identity, WorkloadView()).selector,
    )


def add_owed(draft: Draft, *owed: ScaleDown) -> None:
    """Owe these as well, in the place of what was owed of the same workloads; the oldest versions are left."""
    again = {one.identity for one in owed}
    known = (*(one for one in draft.status.scale_downs if one.identity not in again), *owed)
    late = [*dict.fromkeys(one.of or one.identity for one in known)][-SCALE_DOWNS:]
    for one in known:
        if (one.of or one.identity) not in late:
            leave(draft, one.identity, f"{SCALE_DOWNS} versions that lost later wait for the same")
    draft.set(scale_downs=tuple(one for one in known if (one.of or one.identity) in late))


def leave(draft: Draft, identity: Identity, why: str) -> None:
    """Owe nothing any more, and say what stays."""
    stops = draft.obs.workloads.get(identity, WorkloadView()).stops
    what = "stopped" if stops else "scaled down"
    draft.event(EventType.WARNING, Reason.SCALE_DOWN_LEFT, f"{identity.name} is not {what}: {why}")
