"""Which whole numbers say a share of two members of a group, and which member is written next on the way there. Pure.

KServe takes weights from 0 to 1,000,000, each in the object of its member, and a tool may set one of them back to what
Git says at any moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from math import gcd, lcm

from rollouts.traffic.weights import MAX_WEIGHT
from rollouts.units import FULL, ZERO, Weight

__all__ = ["BASE", "after_reset", "fine_weight", "goal", "next_write", "pair"]

BASE = 10_000
"""The least weight of a member that has everything, beside which one that is reset to a small weight has little; fine
enough for each hundredth of a percent."""


def pair(weight: Weight, grain: int) -> tuple[int, int]:
    """The weights of stable and canary that say a share; ``grain``: what stable is declared with, more than 0.

    Stable's is ``grain`` where that says it to a hundredth of a percent, else the next below it that says it exactly,
    else the least that does.
    """
    part = round(Fraction(grain * weight, FULL - weight))
    if 0 < part <= MAX_WEIGHT and round(Fraction(part, grain + part) * FULL) == weight:
        return grain, part
    common = gcd(weight, FULL - weight)
    stable, canary = (FULL - weight) // common, weight // common
    times = max(1, min(grain // stable, MAX_WEIGHT // max(stable, canary)))
    return stable * times, canary * times


def after_reset(weight: Weight, grain: int) -> Fraction:
    """The canary's share, of 1, at this weight while stable is set to ``grain`` again; 1 where that is 0."""
    if weight <= ZERO or weight >= FULL:
        return Fraction(weight, FULL)
    part = pair(weight, grain or BASE)[1]
    return Fraction(part, grain + part)


def fine_weight(weights: Iterable[Weight], grain: int) -> int:
    """The least weight of stable, from ``grain`` on, beside which whole numbers say all of these shares."""
    parts = [(FULL - one) // gcd(one, FULL - one) for one in weights if ZERO < one < FULL]
    least = lcm(*parts)
    return -(-max(grain, 1) // least) * least if least <= BASE else max(grain, BASE)


def goal(stable: int, canary: int, weight: Weight, joint: int, grain: int) -> tuple[int, int]:
    """The weights of both that say ``weight``; ``joint`` 0: nobody else has any weight."""
    joint = min(joint, MAX_WEIGHT)  # more for one the API server refuses, and an abort must not hang on that
    if weight >= FULL:
        return 0, joint or max(canary, BASE)
    if weight <= ZERO:
        return joint or stable or grain or BASE, 0
    if joint:
        part = round(Fraction(joint * weight, FULL))
        return joint - part, part
    return pair(weight, grain or stable or BASE)


def next_write(
    weights: Mapping[str, int], stable: str, canary: str | None, weight: Weight, joint: int, grain: int
) -> tuple[str, int] | None:
    """The one member that is to be written next, and its weight; None when all say what is asked.

    ``weights`` are those of our members: stable, the canary, and retired ones, which are to have none. ``joint`` is
    what stable and canary have together beside others; 0: nobody else has any weight. ``grain``: what stable is
    declared with.
    """
    live, carried = weights.get(stable, 0), weights.get(canary or "", 0)
    wanted, part = goal(live, carried, weight if canary is not None else ZERO, joint, grain)
    steps: list[tuple[str, int]] = [(stable, wanted)] if live < wanted else []
    if canary is not None and carried > part:
        steps.append((canary, part))
    steps += [(name, 0) for name, left in weights.items() if left and name not in (stable, canary)]
    if canary is not None and carried < part:
        steps.append((canary, part))
    if live > wanted:
        steps.append((stable, wanted))
    return steps[0] if steps else None
