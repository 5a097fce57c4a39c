"""How many pods a weight needs, and how many there may be (design section 14). Whole numbers and exact fractions."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

from rollouts.engine.rollout_spec import Capacity
from rollouts.units import FULL, ZERO, Weight

__all__ = ["infeasible", "most_pods", "pods_for"]


def pods_for(weight: Weight, stable: int, policy: Capacity) -> int:
    """Canary pods for weight w where stable has N: max(minReplicas, ceil(w x N x headroom)); none for no weight."""
    if weight <= ZERO:
        return 0
    headroom = Fraction(policy.headroom).limit_denominator(10_000)
    return max(policy.min_replicas, ceil(Fraction(weight, FULL) * stable * headroom))


def most_pods(stable: int, policy: Capacity) -> int | None:
    """Pods that all versions may have together: N + maxSurge; None where nobody set a limit."""
    return None if policy.max_surge is None else stable + policy.max_surge.of(stable)


def infeasible(stable: int, policy: Capacity) -> str | None:
    """Why the canary cannot come to 100 % beside all of stable's pods, and which numbers would do; None when it can."""
    needed, most = pods_for(FULL, stable, policy), most_pods(stable, policy)
    if most is None or stable + needed <= most:
        return None
    spare, lower = most - stable, ""
    if spare >= max(policy.min_replicas, 1) and stable:
        tenths = spare * 10 // stable  # never more pods than there is room for
        if tenths:
            lower = f", or headroom (endpointRatio as well, where that is more) to {tenths / 10:g}"
    return (
        f"stable's {stable} pods and the canary's {needed} at 100% are {stable + needed}, and maxSurge leaves room for "
        f"{most}: set maxSurge to {needed}{lower}"
    )
