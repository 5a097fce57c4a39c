"""Pods of a Rollout's arms as series, where ``strategy.canary.capacity`` is set: what its status says of them."""

from __future__ import annotations

from rollouts.engine.rollout_status import Drain, RolloutStatus

__all__ = ["ArmPodCounts", "pod_counts"]

ArmPodCounts = tuple[tuple[str, str, int], ...]
"""(arm, state, pods)."""


def pod_counts(status: RolloutStatus) -> ArmPodCounts:
    """Of the canary and of stable, as far as the status has them; draining ones are among the others."""
    capacity, lent = status.current.capacity if status.current is not None else None, status.stable_scale
    drains = {one.identity: one for one in status.drains}
    found = list[tuple[str, str, int]]()
    if status.current is not None and status.aborted is None and capacity is not None:
        going = _going(drains.get(status.current.canary.identity))
        counts = (capacity.wanted, capacity.ready, capacity.pending, going)
        if capacity.warming:
            found.append(("canary", "warming", capacity.warming))
        found += (("canary", state, count) for state, count in zip(_STATES, counts, strict=True))
    if lent is not None:
        counts = (lent.wanted, lent.ready, lent.pending, _going(drains.get(lent.identity)))
        found += (("stable", state, count) for state, count in zip(_STATES, counts, strict=True))
    elif capacity is not None and capacity.stable_at_start:
        found.append(("stable", "wanted", capacity.stable_at_start))
    return tuple(found)


_STATES = ("wanted", "ready", "pending", "draining")


def _going(drain: Drain | None) -> int:
    return 0 if drain is None else max(drain.replicas - drain.to, 0)
