"""Pods of a Rollout's arms as series, where ``strategy.canary.capacity`` is set: what its status says of them."""

from __future__ import annotations

from collections.abc import Iterator

from rollouts.engine.attempt import AttemptCapacity, CompanionCapacity
from rollouts.engine.rollout_status import CompanionScale, RolloutStatus, StableScale
from rollouts.engine.versions import Identity

__all__ = ["ArmPodCounts", "pod_counts"]

ArmPodCounts = tuple[tuple[str, str, int], ...]
"""(arm, state, pods)."""


def pod_counts(status: RolloutStatus) -> ArmPodCounts:
    """Of the canary and of stable and their companions, as far as the status has them; draining ones are among the
    others. A companion's arm is called by its version and role: ``canary/prefill``."""
    current, lent = status.current, status.stable_scale
    capacity = current.capacity if current is not None else None
    gave = {one.role: one for one in lent.companions} if lent is not None else {}
    found = list[tuple[str, str, int]]()
    if current is not None and capacity is not None and status.aborted is None:
        if capacity.warming:
            found.append(("canary", "warming", capacity.warming))
        found += _counts("canary", status, current.canary.identity, capacity)
        for one in capacity.companions:
            found += _counts(_arm("canary", one.role), status, one.canary, one)
    if lent is not None:
        found += _counts("stable", status, lent.identity, lent)
        for part in lent.companions:
            found += _counts(_arm("stable", part.role), status, part.identity, part)
    elif capacity is not None and capacity.stable_at_start:
        found.append(("stable", "wanted", capacity.stable_at_start))
    for one in capacity.companions if capacity is not None else ():
        if one.role not in gave and one.stable_at_start:
            found.append((_arm("stable", one.role), "wanted", one.stable_at_start))
    return tuple(found)


def _arm(version: str, role: str) -> str:
    return f"{version}/{role or 'companion'}"


def _counts(
    arm: str,
    status: RolloutStatus,
    identity: Identity,
    record: AttemptCapacity | CompanionCapacity | StableScale | CompanionScale,
) -> Iterator[tuple[str, str, int]]:
    """What is kept of one workload, and how many of its pods are to go."""
    drain = next((one for one in status.drains if one.identity == identity), None)
    going = max(drain.replicas - drain.to, 0) if drain is not None else 0
    yield arm, "wanted", record.wanted
    yield arm, "ready", record.ready
    yield arm, "pending", record.pending
    yield arm, "draining", going
