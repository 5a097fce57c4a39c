"""Arithmetic of weights within one list of entries (design section 2).

The canary's weight is its share of the joint weight of *our* entries. Entries of others keep their share of
the whole: where our share is no whole number, all weights of the list are scaled by the least factor that
makes it one.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from fractions import Fraction
from typing import TypeVar

from rollouts.units import FULL, Weight

__all__ = ["MAX_WEIGHT", "WeightTooLarge", "split"]

MAX_WEIGHT = 1_000_000
"""Maximum of a backendRef's weight (Gateway API) and of a model target's weight (Inference Extension)."""

DEFAULT_JOINT = 100

K = TypeVar("K", bound=Hashable)


class WeightTooLarge(ValueError):
    """Scaling would take an entry beyond ``MAX_WEIGHT``."""


def split(
    entries: Mapping[K, int], ours: frozenset[K], stable: K, canary: K | None, weight: Weight
) -> dict[K, int]:
    """New weights for all entries: canary ``weight`` of our joint weight, stable the rest, others their share.

    ``entries`` are the present weights; ``ours`` those that are ours to set, to 0 unless stable or canary. A
    joint weight of 0 counts as 100. The result names every key of ``entries``, stable, and canary when there
    is one. Raises WeightTooLarge.
    """
    joint = sum(
        entries.get(key, 0) for key in ours | {stable} | ({canary} if canary is not None else frozenset())
    )
    joint = joint or DEFAULT_JOINT
    part = Fraction(weight if canary is not None else 0, FULL) * joint
    scale = part.denominator
    result = {key: (0 if key in ours else value * scale) for key, value in entries.items()}
    result[stable] = int((joint - part) * scale)
    if canary is not None:
        result[canary] = int(part * scale)
    if max(result.values(), default=0) > MAX_WEIGHT:
        raise WeightTooLarge(f"the weights would have to be scaled by {scale}, beyond {MAX_WEIGHT}")
    return result
