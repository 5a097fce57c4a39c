"""Pools whose pods work for those of a version, and move in step with them: prefill beside decode (design section 14).

Each version has companions of its own; stable's and the canary's are told to be alike by their role. The canary's has
as many pods per pod of the canary as stable's has per pod of stable; where stable gives pods, its companions do, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rollouts.engine.capacity import companion_infeasible, companion_pods, infeasible
from rollouts.engine.draft import Draft
from rollouts.engine.moving import same_pool
from rollouts.engine.observation import Blocker, Companion, WorkloadView
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import Capacity
from rollouts.engine.rollout_status import KeptCompanion, ScaleDown
from rollouts.engine.versions import Identity

__all__ = [
    "Pair",
    "companions_in_use",
    "is_way_back",
    "known_pairs",
    "left_out",
    "pairs",
    "present",
    "too_large",
    "versions_of",
]

_LABEL = 63
"""Characters of a label's value (Kubernetes, "Labels and Selectors"); a pool's name may have more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The companions of one role: stable's, which had ``pods`` at the start, and the canary's."""

    role: str
    stable: Identity
    canary: Identity
    pods: int

    def needed(self, pods: int, stable: int) -> int:
        """Pods of the canary's for so many of the canary, where stable has N."""
        return companion_pods(pods, self.pods, stable)


def pairs(draft: Draft, canary: Identity) -> tuple[Pair, ...] | Blocker:
    """The companions of both versions, by role; why they are not known, or do not go together.

    From the first step on those that the attempt began with, whatever labels and ``with`` say by now.
    """
    current, stored = draft.status.current, draft.obs.status
    # The plan that starts it decides by what is there now: the record may say what was there before it waited.
    began = stored.attempt == draft.status.attempt and stored.started_at is not None
    if began and current is not None and current.started_at is not None and current.capacity is not None:
        return tuple(
            Pair(
                role=one.role,
                stable=present(draft, draft.stable.identity, one.stable),
                canary=present(draft, canary, one.canary),
                pods=one.stable_at_start,
            )
            for one in current.capacity.companions
        )
    if is_way_back(draft, canary):
        return _of_way_back(draft, canary)[0]
    return _observed(draft, canary)


def left_out(draft: Draft, canary: Identity) -> tuple[str, ...]:
    """Why a way back that is about to begin goes without a companion, in words; empty where it has all of them."""
    return _of_way_back(draft, canary)[1] if is_way_back(draft, canary) else ()


def is_way_back(draft: Draft, canary: Identity) -> bool:
    """Whether a version that was stable before takes the traffic back at once: no label and no list keeps it."""
    current = draft.status.current
    return current is not None and current.skip_gates and draft.status.promoted(canary) is not None


def _of_way_back(draft: Draft, canary: Identity) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """The companions that both had when they carried all traffic, and what is left out of them with the reason.

    Whoever may label a pool, and whoever reverts the list, could else keep everybody on a version that is bad.
    """
    stable, found, without = draft.stable.identity, list[Pair](), list[str]()
    mine, theirs = _had(draft, canary), _had(draft, stable)
    if isinstance(mine, Blocker):
        return (), (mine.message,)
    if isinstance(theirs, Blocker):
        return (), (theirs.message,)
    views = draft.obs.workloads
    taken = {
        views[arm].what
        for arm in (canary, stable, *(one.identity for one in theirs.values()))
        if arm in views
    }
    for role, one in sorted(mine.items()):
        view, other = views.get(one.identity), theirs.get(role)
        if other is None:
            without.append(_alone(Companion(identity=one.identity, role=role), canary, stable).message)
        elif view is None or view.problem is not None:
            said = view.problem.message if view is not None and view.problem is not None else ""
            without.append(said or f"the pods of {one.identity.name} are not known")
        elif view.what in taken:
            without.append(f"{view.what} makes pods of another version, or companion, as well")
        else:
            taken.add(view.what)
            known = views.get(other.identity, WorkloadView()).what
            pods = _pods(draft, other.identity) if known else other.pods  # its pool may be gone
            found.append(Pair(role=role, stable=other.identity, canary=one.identity, pods=pods))
    return tuple(found), tuple(without)


def _had(draft: Draft, arm: Identity) -> dict[str, KeptCompanion] | Blocker:
    """By role what a version had when it carried all traffic; where that was never counted, what it is said to have."""
    entry, there = draft.status.promoted(arm), draft.obs.companions.get(arm, ())
    if entry is not None and (entry.pods or entry.companions):
        return {
            one.role: replace(one, identity=present(draft, arm, one.identity)) for one in entry.companions
        }
    if isinstance(there, Blocker):
        return there
    return {one.role: KeptCompanion(identity=one.identity, role=one.role) for one in there}


def known_pairs(draft: Draft, canary: Identity) -> tuple[Pair, ...]:
    """``pairs``; none where they are not known."""
    found = pairs(draft, canary)
    return () if isinstance(found, Blocker) else found


def present(draft: Draft, arm: Identity, stored: Identity) -> Identity:
    """A pool that the attempt began with, in the API group that it has by now."""
    found = draft.obs.companions.get(arm, ())
    there = () if isinstance(found, Blocker) else found
    moved = (one.identity for one in there if same_pool(one.identity, stored))
    return stored if stored in draft.obs.workloads else next(moved, stored)


def _observed(draft: Draft, canary: Identity) -> tuple[Pair, ...] | Blocker:
    stable, found = draft.stable.identity, list[dict[str, Companion]]()
    for arm in (canary, stable):
        there = draft.obs.companions.get(arm, ())
        if isinstance(there, Blocker):
            return there
        found.append({one.role: one for one in there})
    mine, theirs = found
    theirs = theirs or _unnamed(draft, stable, mine)
    for one, other, have, lack in ((mine, theirs, canary, stable), (theirs, mine, stable, canary)):
        for role in sorted(one.keys() - other.keys()):
            return _alone(one[role], have, lack)
    return tuple(
        Pair(role=role, stable=there.identity, canary=mine[role].identity, pods=_pods(draft, there.identity))
        for role, there in sorted(theirs.items())
    )


def _unnamed(draft: Draft, stable: Identity, roles: Iterable[str]) -> dict[str, Companion]:
    """Of stable, of which nobody says anything: what it was promoted with, where the canary has one of that role."""
    entry = draft.status.promoted(stable)
    kept = {one.role: one for one in entry.companions} if entry is not None else {}
    return {
        role: Companion(identity=present(draft, stable, kept[role].identity), role=role)
        for role in roles
        if role in kept
    }


def _alone(companion: Companion, have: Identity, lack: Identity) -> Blocker:
    role = f" of role {companion.role}" if companion.role else ""
    label = f"label its pool inferencerollouts.dev/with: {lack.name}, or " if len(lack.name) <= _LABEL else ""
    message = (
        f"{have.name} has the companion {companion.identity.name}{role}, and {lack.name} has none{role}: "
        f"{label}name it in capacity.with (pool, of: {lack.name}); where "
        f"{lack.name} needs none, take label and entry of {companion.identity.name} away and scale it by hand"
    )
    return Blocker(reason=Reason.CAPACITY_UNKNOWN, message=message)


def _pods(draft: Draft, companion: Identity) -> int:
    view = draft.obs.workloads.get(companion, WorkloadView())
    return max(draft.obs.ready(companion), view.replicas)


def too_large(draft: Draft, canary: Identity, stable: int, policy: Capacity) -> str | None:
    """Why the canary, or a companion, cannot come to what 100 % needs beside what stable keeps; None when all can."""
    found = known_pairs(draft, canary)
    sizes = [pair.pods for pair in found]
    if (wrong := infeasible(stable, policy, sizes)) is not None:
        return wrong
    for pair in found:
        if (wrong := companion_infeasible(stable, pair.pods, policy, sizes)) is not None:
            return f"{pair.canary.name} beside {pair.stable.name}: {wrong}"
    return None


def companions_in_use(draft: Draft) -> dict[Identity, str]:
    """Companions of the versions that may serve, with their roles: by the attempt, and as they are named now.

    While stable lacks pods that it gave, what lost with a canary makes room for those of its own, whatever label calls
    it stable's meanwhile.
    """
    status, current, lent = draft.status, draft.status.current, draft.status.stable_scale
    lost = {one.identity for one in status.scale_downs if one.of is not None and lent is not None}
    there = _there(draft, status.stable.identity) if status.stable is not None else ()
    found = {one.identity: one.role for one in there if one.identity not in lost}
    if status.canary is not None and status.aborted is None:
        found |= {one.identity: one.role for one in _there(draft, status.canary.identity)}
    if current is not None and current.capacity is not None and current.aborted is None:
        for one in current.capacity.companions:
            found |= {one.stable: one.role, one.canary: one.role}
    if lent is not None and status.stable is not None and lent.identity == status.stable.identity:
        found |= {one.identity: one.role for one in lent.companions}
    return found


def _there(draft: Draft, arm: Identity) -> tuple[Companion, ...]:
    found, entry = draft.obs.companions.get(arm, ()), draft.status.promoted(arm)
    kept = entry.companions if entry is not None else ()
    there = () if isinstance(found, Blocker) else found
    return there or tuple(Companion(identity=one.identity, role=one.role) for one in kept)


def versions_of(scale_downs: Iterable[ScaleDown]) -> Iterator[Identity]:
    """What lost, without its companions: those count beside each other."""
    return (one.identity for one in scale_downs if one.of is None)
