"""The kinds of pods that the versions of an attempt have: their own, and their companions' by role (``companions``).

Each kind is counted by itself, in pods: N + maxSurge of the versions' own, P + maxSurge of a companion, minStable of
each. The weight of both versions binds them: the canary's is no higher than what its Ready pods of every kind carry,
and stable keeps of every kind what its share needs.
"""

from __future__ import annotations

from dataclasses import dataclass

from rollouts.engine.attempt import AttemptCapacity, CompanionCapacity
from rollouts.engine.capacity import (
    carried,
    companion_carries,
    companion_pods,
    most_pods,
    needs_room,
    pods_for,
    share_pods,
)
from rollouts.engine.companions import known_pairs, versions_of
from rollouts.engine.draft import Draft
from rollouts.engine.observation import WorkloadView
from rollouts.engine.rollout_spec import Capacity
from rollouts.engine.versions import Identity
from rollouts.units import FULL, Weight

__all__ = ["Part", "carries", "gives_pods", "parts", "role_of", "room", "stable_pods"]


def stable_pods(draft: Draft) -> int:
    """N: stable's replicas at the start, or its Ready pods where those are more; until then those of now.

    Not what is Ready alone: what is to replace a version that is sick has to carry what all of its pods would.
    """
    current = draft.status.current
    if current is not None and current.started_at is not None and current.capacity is not None:
        return current.capacity.stable_at_start
    view = draft.obs.workloads.get(draft.stable.identity, WorkloadView())
    return max(draft.obs.ready(draft.stable.identity), view.replicas)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A workload of the version that is rolled out, its own or a companion's, and stable's of the same kind."""

    identity: Identity
    lends: Identity
    """Stable's, which may give it pods."""
    role: str | None = None
    """Of a companion; None: the version's own."""
    lead: int
    """N, whichever kind this is."""
    stable: int
    """What stable's of this kind had at the start: N of the version's own."""
    beside: tuple[Identity, ...]
    """Whose pods count together with it: stable's of this kind, and those that lost and are not yet gone."""
    record: AttemptCapacity | CompanionCapacity | None
    """What the attempt has of it."""

    def needed(self, weight: Weight, policy: Capacity) -> int:
        """Pods that a step of this weight asks for."""
        own = pods_for(weight, self.lead, policy)
        return own if self.role is None else companion_pods(own, self.stable, self.lead)

    def least(self, weight: Weight, policy: Capacity) -> int:
        """Ready pods of a companion that are enough for the weight itself; for all of it all that are asked for."""
        return share_pods(weight, self.stable, policy) if weight < FULL else self.needed(weight, policy)

    def carried(self, pods: int, policy: Capacity) -> Weight:
        """The highest weight for which so many Ready pods are enough."""
        if self.role is None:
            return carried(pods, self.stable, policy)
        found = companion_carries(pods, self.stable, policy)
        return found if pods >= self.needed(FULL, policy) else min(found, Weight(FULL - 1))

    def needs_room(self, weight: Weight, policy: Capacity) -> bool:
        """Whether what the step asks for fits only where stable, which may give some, does."""
        return needs_room(self.needed(weight, policy), self.stable, policy)


def parts(draft: Draft, canary: Identity) -> tuple[Part, ...]:
    """The canary's own workload, then its companions', as far as they are known."""
    lost, current, lead = draft.status.scale_downs, draft.status.current, stable_pods(draft)
    record = current.capacity if current is not None else None
    known = {one.canary: one for one in record.companions} if record is not None else {}
    own = Part(
        identity=canary,
        lends=draft.stable.identity,
        lead=lead,
        stable=lead,
        beside=_others(canary, draft.stable.identity, *versions_of(lost)),
        record=record,
    )
    pairs_there = known_pairs(draft, canary)
    roles = {pair.role for pair in pairs_there}
    beside = (
        Part(
            identity=pair.canary,
            lends=pair.stable,
            role=pair.role,
            lead=lead,
            stable=pair.pods,
            beside=_others(
                pair.canary,
                pair.stable,
                *(one.identity for one in lost if one.of and role_of(one.role, roles) in (pair.role, None)),
            ),
            record=known.get(pair.canary),
        )
        for pair in pairs_there
    )
    return (own, *beside)


def role_of(role: str, roles: set[str]) -> str | None:
    """The role of a companion that lost; None, which is every one, where it may have been edited since."""
    return role if role in roles else None


def _others(mine: Identity, *others: Identity) -> tuple[Identity, ...]:
    return tuple(dict.fromkeys(arm for arm in others if arm != mine))


def room(draft: Draft, part: Part, wanted: int) -> int:
    """Pods that a workload, which is to have ``wanted``, may have beside the others: all of them without maxSurge."""
    policy = draft.spec.canary.capacity
    assert policy is not None
    most = most_pods(part.stable, policy)
    if most is None:
        return wanted + draft.obs.workloads[part.identity].ending
    return most - sum(draft.obs.workloads.get(arm, WorkloadView()).pods for arm in part.beside)


def carries(draft: Draft, part: Part, policy: Capacity) -> Weight:
    """The weight that the canary's Ready pods of one kind carry."""
    return part.carried(draft.obs.ready(part.identity), policy)


def gives_pods(draft: Draft, canary: Identity, policy: Capacity) -> bool:
    """Whether stable has to give pods of some kind before the canary has all of its own."""
    return any(part.needs_room(FULL, policy) for part in parts(draft, canary))
