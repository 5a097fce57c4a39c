"""InferencePools that change their API group (v1alpha2 to v1), as a cluster moves from one to the other.

The group is part of a version's identity, for both groups may have a pool of one name, and they may be split against
each other. Whether a stored version has moved is said by who routes to it: the traffic object lists its name in
another group, and no longer in the one that is stored. Then the stored version is that pool, under the hash that it
has: the move is no new version, and whatever runs goes on. Pods are followed as after an edit of a pool's selector.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from rollouts.engine.attempt import Attempt
from rollouts.engine.rollout_status import (
    EntryRef,
    HistoryEntry,
    RolloutStatus,
    ScaleDown,
    StableScale,
    WayBack,
)
from rollouts.engine.versions import Identity, Revision, Target

__all__ = ["moved", "same_pool", "stored_companions", "twin"]


def same_pool(one: Identity, other: Identity) -> bool:
    """Whether two identities differ in the API group at most."""
    return (one.kind, one.name, one.source) == (other.kind, other.name, other.source)


def twin(arm: Identity, listed: Iterable[Identity]) -> Identity | None:
    """The pool of the arm's name in another group that is listed in its place; None where the arm is listed."""
    found = {other for other in listed if same_pool(arm, other)}
    return found.pop() if len(found) == 1 and arm not in found else None


def stored_companions(status: RolloutStatus) -> Iterator[tuple[Identity, Identity]]:
    """The pools of all companions that a status names, each with the version that it works for."""
    current, stable = status.current, status.stable
    if current is not None and current.capacity is not None and stable is not None:
        for one in current.capacity.companions:
            yield one.stable, stable.identity
            yield one.canary, current.canary.identity
    yield from ((one.identity, one.of) for one in status.scale_downs if one.of is not None)
    for lent in filter(None, (status.stable_scale, status.owed)):
        yield from ((one.identity, lent.identity) for one in lent.companions)
    for entry in status.history:
        yield from ((one.identity, entry.revision.identity) for one in entry.companions)


def moved(
    status: RolloutStatus,
    listed: frozenset[Identity],
    target: Target | None,
    beside: frozenset[Identity] = frozenset(),
) -> RolloutStatus:
    """``status`` with every stored version in the group that it is listed in; itself where none has moved.

    What ``target`` names with its group stays there, and no version turns into the other one that carries.
    ``beside``: pools that there are of the names of its companions, which are followed likewise.
    """
    current = status.current
    arms = {one.identity for one in (*status.arms, *(entry.revision for entry in status.history))}
    arms |= {ref.arm for record in status.way_back for ref in (record.stable, record.canary)}
    carrying = _carrying(status)
    found = {arm: twin(arm, listed) for arm in arms if not _said(target, arm)}
    places = {arm: place for arm, place in found.items() if place is not None and place not in carrying}
    for companion, version in stored_companions(status):
        near = replace(companion, group=places.get(version, version).group)
        place = near if near in beside else twin(companion, beside)
        if place not in (None, companion):
            places[companion] = place
    if not places:
        return status

    def revision(one: Revision) -> Revision:
        return replace(one, identity=places.get(one.identity, one.identity))

    return replace(
        status,
        stable=revision(status.stable) if status.stable is not None else None,
        current=_attempt(current, places) if current is not None else None,
        history=tuple(
            _entry(replace(entry, revision=revision(entry.revision)), places) for entry in status.history
        ),
        way_back=tuple(_way(record, places) for record in status.way_back),
        scale_downs=tuple(_scale_down(one, places) for one in status.scale_downs),
        drains=tuple(replace(one, identity=places.get(one.identity, one.identity)) for one in status.drains),
        stable_scale=_scale(status.stable_scale, places),
        owed=_scale(status.owed, places),
    )


def _attempt(one: Attempt, places: Mapping[Identity, Identity]) -> Attempt:
    canary = replace(one.canary, identity=places.get(one.canary.identity, one.canary.identity))
    capacity = one.capacity
    if capacity is not None:
        beside = (
            replace(
                pair, stable=places.get(pair.stable, pair.stable), canary=places.get(pair.canary, pair.canary)
            )
            for pair in capacity.companions
        )
        capacity = replace(capacity, companions=tuple(beside))
    return replace(one, canary=canary, capacity=capacity)


def _entry(one: HistoryEntry, places: Mapping[Identity, Identity]) -> HistoryEntry:
    kept = (replace(kept, identity=places.get(kept.identity, kept.identity)) for kept in one.companions)
    return replace(one, companions=tuple(kept))


def _scale_down(one: ScaleDown, places: Mapping[Identity, Identity]) -> ScaleDown:
    of = one.of if one.of is None else places.get(one.of, one.of)
    return replace(one, identity=places.get(one.identity, one.identity), of=of)


def _scale(lent: StableScale | None, places: Mapping[Identity, Identity]) -> StableScale | None:
    if lent is None:
        return None
    kept = (replace(one, identity=places.get(one.identity, one.identity)) for one in lent.companions)
    return replace(lent, identity=places.get(lent.identity, lent.identity), companions=tuple(kept))


def _said(target: Target | None, arm: Identity) -> bool:
    return target is not None and (target.name, target.group) == (arm.name, arm.group)


def _carrying(status: RolloutStatus) -> set[Identity]:
    carries = status.current is not None and status.current.may_carry
    return {arm.identity for arm in status.arms if carries or arm is status.stable}


def _way(record: WayBack, places: Mapping[Identity, Identity]) -> WayBack:
    def entry(ref: EntryRef) -> EntryRef:
        place = places.get(ref.arm)
        return ref if place is None else replace(ref, group=place.group)

    return replace(record, stable=entry(record.stable), canary=entry(record.canary))
