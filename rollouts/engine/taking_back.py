"""Stable gets back the pods that it gave (design section 14, ``minStable``), and its companions get theirs.

When the attempt ends otherwise than by a promotion, stable is scaled to N again within the same room: the canary
shrinks to what its share needs, which falls as stable's pods become Ready (``returning.way_limit``). A number is stored
before a workload is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta

from rollouts.engine.actions import EventType, ScaleWorkload
from rollouts.engine.capacity import pods_kept, share_of_ready
from rollouts.engine.companions import companions_in_use, present, versions_of
from rollouts.engine.draft import Draft
from rollouts.engine.drains import drained_to, is_scaled
from rollouts.engine.observation import WorkloadView
from rollouts.engine.parts import role_of
from rollouts.engine.reasons import Reason
from rollouts.engine.returning import STARTING, Lent, binds, whole
from rollouts.engine.rollout_spec import Capacity
from rollouts.engine.rollout_status import CompanionScale, StableScale
from rollouts.engine.versions import Identity
from rollouts.engine.wayback import live_shares
from rollouts.objects.companions import MOST
from rollouts.units import FULL, ZERO, Weight

__all__ = ["gone", "leave_stable", "raise_stable", "take_back", "take_up_owed", "write_stable"]

_SOON = timedelta(seconds=1)
_RECHECK = timedelta(seconds=5)


def take_back(draft: Draft) -> None:
    """Stable gets its replicas again; the versions that lost make room for it."""
    known = draft.status.stable_scale
    assert known is not None
    free = _is_free(draft)
    known = replace(known, returning=True, immediate=known.immediate or free)
    known = replace(
        known,
        companions=tuple(
            replace(one, identity=present(draft, known.identity, one.identity)) for one in known.companions
        ),
    )
    kept = [_note_gone(draft, one) for one in known.companions]
    left = [one for one in kept if _is_left(draft, one)]
    known = replace(known, companions=tuple(one for one in kept if one not in left))
    draft.set(stable_scale=known)
    _owe(draft, known, [one for one in left if gone(draft, one.identity)])
    looked = [_take_back_part(draft, part, free=free) for part in known.parts]
    lead = looked[0][0]
    assert isinstance(lead, StableScale)
    if all(back for _, back in looked):
        draft.set(stable_scale=None)
        if why := _not_ours(
            draft, lead
        ):  # said once: it is looked at as long as a companion is on the way back
            _say_left(draft, lead, why)
        return
    beside = (one for one, _ in looked[1:])
    draft.set(
        stable_scale=replace(lead, companions=tuple(one for one in beside if isinstance(one, CompanionScale)))
    )


def _take_back_part(draft: Draft, part: Lent, *, free: bool) -> tuple[Lent, bool]:
    """One workload of stable; its record, and whether it is back."""
    view = draft.obs.workloads.get(part.identity, WorkloadView())
    part = replace(part, wanted=part.full, ready=draft.obs.ready(part.identity), pending=view.pending)
    if _not_ours(draft, part):
        return part, True
    if not view.what:
        return part, False
    runs = draft.status.running is not None and not draft.obs.deleting
    if view.replicas >= part.full:
        waits = any(live_shares(draft, None)) or (free and _takes_room(draft, part))
        back = part.ready >= whole(part) or not waits
        if not back and free and not runs:
            _make_room(draft, part)
        return part, back
    # While the attempt runs nobody sets a limit any more, and nobody makes the canary give its room.
    _make_room(draft, part)
    raise_stable(draft, part, view, most=0 if free and runs else part.most)
    return part, False


def _is_free(draft: Draft) -> bool:
    """Whether the spec says that nothing is to be scaled: whoever took capacity out waits for no pods."""
    spec = draft.obs.spec
    return spec is not None and not draft.obs.problems and spec.canary.capacity is None


# --- what nobody waits for, and is owed all the same -----------------------------------------------


def take_up_owed(draft: Draft) -> None:
    """Companions that something makes pods of again are waited for again; ahead of all that could begin meanwhile.

    What is owed goes by what is stored, and its number is stored once more before a workload is written.
    """
    owed, stable = draft.status.owed, draft.status.stable
    if owed is None or draft.status.running is not None:
        return
    if stable is None or owed.identity != stable.identity:
        draft.set(owed=None)  # replaced: what it has left is the loser's
        return
    there = [replace(one, identity=present(draft, owed.identity, one.identity)) for one in owed.companions]
    mine = [one for one in there if not _is_of_others(draft, owed.identity, one.identity)]
    back = {one.identity: replace(one, gone_since=None) for one in mine if not gone(draft, one.identity)}
    missing = tuple(one for one in mine if one.identity not in back)
    draft.set(owed=replace(owed, companions=missing) if missing else None)
    if not back:
        return
    lent = draft.status.stable_scale or _whole_but(draft, owed)
    beside = tuple(one for one in lent.companions if one.identity not in back)
    draft.set(stable_scale=replace(lent, companions=(*beside, *back.values())[:MOST]))


def _owe(draft: Draft, lent: StableScale, companions: list[CompanionScale]) -> None:
    if draft.obs.deleting or not companions:
        return
    before, left = draft.status.owed, {one.identity for one in companions}
    known = [one for one in before.companions if one.identity not in left] if before is not None else []
    draft.set(owed=replace(_whole_but(draft, lent), companions=(*known, *companions)[-MOST:]))


def _whole_but(draft: Draft, lent: StableScale) -> StableScale:
    """Stable as it is now, which lacks nothing of its own, and for which no traffic waits."""
    view = draft.obs.workloads.get(lent.identity, WorkloadView())
    return StableScale(
        identity=lent.identity,
        full=view.replicas,
        wanted=view.replicas,
        most=lent.most,
        returning=True,
        immediate=True,
    )


def _is_of_others(draft: Draft, stable: Identity, companion: Identity) -> bool:
    """Whether a pool that was made anew belongs to another version by now."""
    others = (there for arm, there in draft.obs.companions.items() if arm != stable)
    return any(companion == one.identity for there in others if isinstance(there, tuple) for one in there)


# --- what is left as it is -------------------------------------------------------------------------


def leave_stable(draft: Draft, why: str) -> None:
    """Stable keeps what it has, and its companions theirs; that is said."""
    lent = draft.status.stable_scale
    if lent is None:
        return
    draft.set(stable_scale=None)
    _say_left(draft, lent, why)
    for one in lent.companions:
        if draft.obs.workloads.get(one.identity, WorkloadView()).replicas < one.full:
            _say_left(draft, one, why)


def _say_left(draft: Draft, part: Lent, why: str) -> None:
    view = draft.obs.workloads.get(part.identity, WorkloadView())
    has = f"{view.replicas} of" if view.what else "what it has of"
    message = f"{part.identity.name} keeps {has} {part.full} replicas: {why}"
    draft.event(EventType.WARNING, Reason.SCALE_DOWN_LEFT, message)


def _is_left(draft: Draft, part: CompanionScale) -> bool:
    """Whether a companion's workload is nobody's to scale any more, which is said: stable waits for none of it."""
    why = _not_ours(draft, part)
    if why:
        owed = not draft.obs.deleting and gone(draft, part.identity)
        _say_left(draft, part, f"{why}; it gets them when that is over" if owed else why)
    return bool(why)


def _not_ours(draft: Draft, part: Lent) -> str:
    """Why one workload of stable is left as it is, whatever the others get; empty where it gets its pods back."""
    view = draft.obs.workloads.get(part.identity)
    if view is not None and view.managed_by:
        return f"{view.managed_by} scales {view.what}: raise its minimum to {part.full}"
    since = part.gone_since if isinstance(part, CompanionScale) else None
    is_over = draft.obs.deleting or (since is not None and draft.now >= since + STARTING)
    return gone(draft, part.identity) if is_over else ""


def _note_gone(draft: Draft, part: CompanionScale) -> CompanionScale:
    """Since when its pool, or what makes its pods, has not been there: one made anew is gone as long as that takes."""
    if not gone(draft, part.identity):
        return replace(part, gone_since=None)
    since = part.gone_since or draft.now
    draft.wake_at(since + STARTING)
    return replace(part, gone_since=since)


def gone(draft: Draft, arm: Identity) -> str:
    """Why a workload cannot get pods back any more: nothing makes them, or nobody knows what; empty where it can."""
    view = draft.obs.workloads.get(arm)
    if view is None:
        return "its pool is gone"
    return view.problem.message if view.problem is not None else ""


# --- writes ----------------------------------------------------------------------------------------


def raise_stable(draft: Draft, known: Lent, view: WorkloadView, *, most: int) -> None:
    """Replicas towards what is wanted, as far as there is room; ``most`` 0: there is no limit."""
    others = tuple(_others(draft, known))
    taken = sum(draft.obs.workloads.get(arm, WorkloadView()).pods for arm in others)
    allowed = most - taken if most else known.wanted + view.ending
    replicas, lent = min(known.wanted, allowed - view.ending), draft.obs.status.stable_scale
    stored = {one.identity: one.wanted for one in lent.parts} if lent is not None else {}
    if replicas <= view.replicas or view.live > allowed:
        draft.wake(_RECHECK)
    elif stored.get(known.identity) != known.wanted:
        draft.wake(_SOON)  # it must be stored before it takes effect
    else:
        write_stable(draft, replace(known, most=most), view, replicas, others)


def write_stable(
    draft: Draft, known: Lent, view: WorkloadView, replicas: int, others: tuple[Identity, ...] = ()
) -> None:
    """Scale one workload of stable. ``others``: whose pods count beside its own where it rises."""
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


# --- who makes room --------------------------------------------------------------------------------


def _others(draft: Draft, part: Lent) -> Mapping[Identity, Identity]:
    """The workloads whose pods count beside one of stable's, each with its version: those of a canary that runs, and
    of what lost."""
    found = dict[Identity, Identity]()
    current = draft.status.current
    if current is not None and current.aborted is None:
        canary = current.canary.identity
        if not isinstance(part, CompanionScale):
            found[canary] = canary
        else:
            arms = [arm for arm, role in companions_in_use(draft).items() if role == part.role]
            mine = _of_stable(draft)
            found |= {arm: canary for arm in arms if arm not in mine}
    found |= _lost(draft, part)
    found.pop(part.identity, None)
    if draft.obs.deleting or _is_free(draft):
        # What is not ours to take is left with it: waiting had no end.
        views = _views(draft, found)
        found = {arm: of for arm, of in found.items() if _may_give(views[arm]) or not views[arm].replicas}
    return found


def _of_stable(draft: Draft) -> set[Identity]:
    """Companions of stable by what is stored of the attempt, and of what it gave: labels may say something else."""
    lent, current = draft.status.stable_scale, draft.status.current
    capacity = current.capacity if current is not None else None
    found = {one.stable for one in capacity.companions} if capacity is not None else set[Identity]()
    return found | {one.identity for one in lent.companions} if lent is not None else found


def _lost(draft: Draft, part: Lent) -> dict[Identity, Identity]:
    """Likewise of what lost alone."""
    if not isinstance(part, CompanionScale):
        return {arm: arm for arm in versions_of(draft.status.scale_downs)}
    lent, current = draft.status.stable_scale, draft.status.current
    capacity = current.capacity if current is not None else None
    # Of the attempt as well: a kind of which nobody waits for stable's is none that was called otherwise.
    roles = {one.role for one in lent.companions} if lent is not None else set[str]()
    roles |= {one.role for one in capacity.companions} if capacity is not None else set()
    roles |= set(companions_in_use(draft).values())
    return {
        one.identity: one.of
        for one in draft.status.scale_downs
        if one.of is not None and role_of(one.role, roles) in (part.role, None)
    }


def _views(draft: Draft, arms: Iterable[Identity]) -> dict[Identity, WorkloadView]:
    return {arm: draft.obs.workloads.get(arm, WorkloadView()) for arm in arms}


def _takes_room(draft: Draft, known: Lent) -> bool:
    """Whether what lost has pods that stable's could have the room of."""
    views = _views(draft, _others(draft, known)).values()
    pods = sum(view.pods for view in views)
    return pods > known.most - known.full and any(view.replicas and _may_give(view) for view in views)


def _make_room(draft: Draft, known: Lent) -> None:
    """Versions that lost shrink to what their share needs, as far as stable lacks their room."""
    if not known.most:
        return
    others = _others(draft, known)
    views = _views(draft, others)
    lacking = sum(view.pods for view in views.values()) - (known.most - known.full)
    lost = set(_lost(draft, known))
    if draft.obs.deleting or draft.status.started_at is None:
        lost |= set(others)  # whoever waits to begin makes room as well
    for arm, view in views.items():
        lacking -= view.ending
        keeps = max(_carries(draft, others[arm], known), view.replicas - max(lacking, 0))
        if arm not in lost or not _may_give(view) or keeps >= view.replicas:
            continue
        lacking -= view.replicas - keeps
        now = drained_to(draft, arm, view, keeps)
        if now < view.replicas and not is_scaled(draft, arm):
            draft.actions.append(
                ScaleWorkload(identity=arm, replicas=now, resource_version=view.resource_version)
            )


def _may_give(view: WorkloadView) -> bool:
    """Whether pods of a version that lost are ours to take."""
    return bool(view.what) and not view.managed_by and not view.used_by


def _carries(draft: Draft, version: Identity, known: Lent) -> int:
    """Pods of one kind that a version which lost needs for the share that it still has."""
    shares = live_shares(draft, version.arm)
    traffic = draft.obs.traffic
    for rule in traffic.rules if traffic is not None else ():
        total = sum(rule.entries.values())
        shares.append(Weight(-(-rule.entries.get(version.arm, 0) * FULL // total) if total else ZERO))
    spec = draft.obs.spec
    policy = (spec.canary.capacity if spec is not None else None) or Capacity()
    if isinstance(known, CompanionScale):
        policy = replace(policy, min_replicas=1)
    share = max(shares, default=ZERO)
    kept = pods_kept(share, known.full, policy)
    if not binds(draft, known) or share > FULL - share_of_ready(known.ready, whole(known)):
        return kept  # another kind's follow its share, and all do one whose write is refused, or to come
    # Whatever was edited meanwhile: there is room for one more pod of stable than are Ready (see ``way_limit``).
    return min(kept, max(known.most - known.ready - 1, 0))
