"""How many pods a weight needs, and how many there may be (design section 14). Whole numbers and exact fractions.

N are stable's pods at the start, w is the canary's weight. Weights are whole hundredths of a percent: what c pods carry
is rounded down to one, and such a hundredth keeps no pod of stable's, so that each pod of the canary sets one of
stable's free, whatever N.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from math import ceil, floor

from rollouts.engine.rollout_spec import Capacity, PodCount
from rollouts.units import FULL, ZERO, Weight

__all__ = [
    "carried",
    "companion_carries",
    "companion_infeasible",
    "companion_pods",
    "enough_surge",
    "infeasible",
    "least_stable",
    "most_pods",
    "needs_room",
    "pods_for",
    "pods_kept",
    "share_of_ready",
    "share_pods",
    "stable_pods_for",
    "way_around",
]


def _headroom(policy: Capacity) -> Fraction:
    return Fraction(policy.headroom).limit_denominator(10_000)


def pods_for(weight: Weight, stable: int, policy: Capacity) -> int:
    """Canary pods for weight w where stable has N: max(minReplicas, ceil(w x N x headroom)); none for no weight."""
    if weight <= ZERO:
        return 0
    return max(policy.min_replicas, ceil(Fraction(weight, FULL) * stable * _headroom(policy)))


def pods_kept(weight: Weight, stable: int, policy: Capacity) -> int:
    """Pods of a version whose weight was given back but for w, which is what stable has no pods for, rounded up."""
    return pods_for(Weight(max(weight - 1, min(weight, 1))), stable, policy)


def companion_pods(pods: int, companions: int, stable: int) -> int:
    """Pods of a companion for so many of the version's own: as many per pod as stable has, ``companions`` for its N,
    rounded up, so that there are never fewer. A stable without pods says no proportion: as many as it has."""
    if pods <= 0:
        return 0
    return -(-pods * companions // stable) if stable else companions


def share_pods(weight: Weight, companions: int, policy: Capacity) -> int:
    """Pods of a companion that weight w itself needs, where stable's has so many: what fewer pods of the version than a
    step asks for are given, rounded up to whole pods of each, leaves a spare one of each short."""
    return pods_for(weight, companions, _of_companion(policy)) if companions else 0


def companion_carries(pods: int, companions: int, policy: Capacity) -> Weight:
    """The highest weight for which so many Ready pods of a companion are enough: the inverse of ``share_pods``."""
    return carried(pods, companions, _of_companion(policy)) if companions else FULL


def _of_companion(policy: Capacity) -> Capacity:
    """``minReplicas`` are the version's own."""
    return replace(policy, min_replicas=min(policy.min_replicas, 1))


def carried(pods: int, stable: int, policy: Capacity) -> Weight:
    """The highest weight for which so many Ready canary pods are enough: the inverse of ``pods_for``."""
    if pods < policy.min_replicas:
        return ZERO
    whole = stable * _headroom(policy)
    return FULL if pods >= whole else Weight(floor(pods * FULL / whole))


def least_stable(stable: int, policy: Capacity) -> int:
    """Pods that stable keeps until the promotion: minStable, at most N."""
    return min(stable, policy.min_stable.of(stable))


def stable_pods_for(weight: Weight, stable: int, policy: Capacity) -> int:
    """Pods that stable keeps while the canary has weight w: minStable, and ceil((1 - w) x N x headroom), at most N.

    A headroom below 1 says that the canary's pods do more each, and nothing of stable's.
    """
    if weight <= ZERO:
        return stable
    left = max(FULL - weight - 1, 0)
    needed = ceil(Fraction(left, FULL) * stable * max(Fraction(1), _headroom(policy)))
    return max(least_stable(stable, policy), min(stable, needed))


def share_of_ready(ready: int, stable: int) -> Weight:
    """The share of all traffic that stable's Ready pods take of N: Ready / N, rounded down."""
    return FULL if ready >= stable else Weight(ready * FULL // stable)


def most_pods(stable: int, policy: Capacity) -> int | None:
    """Pods that all versions may have together: N + maxSurge; None where nobody set a limit."""
    return None if policy.max_surge is None else stable + policy.max_surge.of(stable)


def needs_room(needed: int, stable: int, policy: Capacity) -> bool:
    """Whether so many canary pods fit only where stable, which may give some, does."""
    most = most_pods(stable, policy)
    return most is not None and stable + needed > most and least_stable(stable, policy) < stable


def enough_surge(needed: int, first: int, stable: int, policy: Capacity) -> int:
    """The least maxSurge, in pods, for ``needed`` at 100 % of which the ``first`` ones serve beside all of stable's.

    What stable keeps fits beside those needed. A stable that gives pods has one left until the canary has all of its
    own, and gives none before the canary's first ones serve.
    """
    return max(needed + _kept(stable, policy) - stable, first)


def _kept(stable: int, policy: Capacity) -> int:
    least = least_stable(stable, policy)
    return least if least == stable else max(least, 1)


def infeasible(stable: int, policy: Capacity, companions: Sequence[int] = ()) -> str | None:
    """Why the canary cannot come to 100 % within N + maxSurge, and which numbers would do; None when it can.

    It can where ceil(N x headroom) + minStable fit (``enough_surge``). ``companions``: what stable has of each role;
    the numbers do for those as well.
    """
    needed, most = pods_for(FULL, stable, policy), most_pods(stable, policy)
    if most is None or most - stable >= enough_surge(needed, policy.min_replicas, stable, policy):
        return None
    lower = "".join(_less(needed, most, stable, policy, companions))
    enough = _enough_for_all(stable, policy, companions)
    return f"the canary's {_too_many(needed, most, stable, policy)}: set maxSurge to {enough}{lower}"


def companion_infeasible(stable: int, pods: int, policy: Capacity, companions: Sequence[int]) -> str | None:
    """The same of a companion, of which stable has so many for its N."""
    needed = companion_pods(pods_for(FULL, stable, policy), pods, stable)
    most, first = most_pods(pods, policy), min(needed, 1)
    if most is None or most - pods >= enough_surge(needed, first, pods, policy):
        return None
    left = most - needed
    fits = 1 <= left < pods and _fits(stable, replace(policy, min_stable=PodCount(number=left)), companions)
    return (
        f"the canary's {_too_many(needed, most, pods, policy)}; maxSurge counts for each pool by itself: set it to "
        f"{_enough_for_all(stable, policy, companions)}, or to a percentage that is as much"
        f"{f', or minStable to {left}' if fits else ''}"
    )


def way_around(needed: Iterable[int]) -> str:
    """What to do where stable gives no pods because somebody else scales a workload; ``needed``: pods of each kind at
    100 %, for all of which there is room beside all of stable's with as large a maxSurge."""
    return f"take that away, or set maxSurge to {max(needed)}, so that stable keeps all of its pods"


def _enough_for_all(stable: int, policy: Capacity, companions: Sequence[int]) -> int:
    """The least maxSurge, in pods, with which every kind comes to what 100 % needs."""
    return max(
        enough_surge(needed, first, pods, policy)
        for needed, first, pods in _kinds(stable, policy, companions)
    )


def _fits(stable: int, policy: Capacity, companions: Sequence[int]) -> bool:
    return all(
        (most := most_pods(pods, policy)) is None or most - pods >= enough_surge(needed, first, pods, policy)
        for needed, first, pods in _kinds(stable, policy, companions)
    )


def _kinds(stable: int, policy: Capacity, companions: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Of each kind of pods what 100 % needs, how many serve first, and what stable has."""
    lead = pods_for(FULL, stable, policy)
    yield lead, policy.min_replicas, stable
    for pods in companions:
        needed = companion_pods(lead, pods, stable)
        yield needed, min(needed, 1), pods


def _too_many(needed: int, most: int, stable: int, policy: Capacity) -> str:
    keeps = _kept(stable, policy)
    return (
        f"{needed} pods at 100% and {keeps} of stable's {stable} are {needed + keeps}, and maxSurge leaves room for "
        f"{most}, {most - stable} of them from the start"
    )


def _less(needed: int, most: int, stable: int, policy: Capacity, companions: Sequence[int]) -> Iterator[str]:
    """A lower minStable or headroom that would do within maxSurge, for all kinds of pods."""
    spare = most - stable
    if spare < max(policy.min_replicas, 1) or not stable:
        return
    ways, left = list[str](), most - needed
    if 1 <= left < stable and _fits(stable, replace(policy, min_stable=PodCount(number=left)), companions):
        ways.append(f"minStable to {left}")
    tenths = spare * 10 // stable  # never more pods than there is room for beside all of stable's
    if tenths and _fits(stable, replace(policy, headroom=tenths / 10), companions):
        ways.append(f"headroom (endpointRatio as well, where that is more) to {tenths / 10:g}")
    yield from (f", {way}" for way in ways[:-1])
    yield from (f", or {way}" for way in ways[-1:])
