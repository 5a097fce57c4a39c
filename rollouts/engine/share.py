"""Does the observed share of traffic refute the weight? (design rule 4)

A step counts as done unless the 99.9 % interval of the canary's share, from request counters of both
arms' pods, lies wholly outside [w/2, 2w]. Wilson's score interval (Wilson 1927, JASA 22): honest at small
counts and at shares near 0 and 1, where the plain normal interval is not.
"""

from __future__ import annotations

from math import sqrt

from rollouts.engine.observation import ShareView
from rollouts.engine.types import FULL, Weight

__all__ = ["MIN_WINDOW", "observed_weight", "refutes", "wilson"]

_Z = 3.2905267314919255  # two-sided 99.9 %

MIN_WINDOW = 5.0
"""Seconds of counting before a share is looked at: counters are scraped, and lag the weight by a scrape."""


def wilson(successes: int, total: int, z: float = _Z) -> tuple[float, float]:
    """Wilson score interval of a proportion; (0, 1) without observations."""
    if total <= 0:
        return 0.0, 1.0
    p = successes / total
    centre = p + z * z / (2 * total)
    spread = z * sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def observed_weight(share: ShareView | None) -> Weight | None:
    """The observed share as a Weight; None without traffic."""
    if share is None or share.canary + share.stable <= 0:
        return None
    return Weight(round(FULL * share.canary / (share.canary + share.stable)))


def refutes(share: ShareView | None, weight: Weight) -> bool:
    """Whether the counters show that the gateway does not do what the weight says.

    No counters and no traffic refute nothing. At weight 0 and 100 % the band is the point itself, widened by
    2 % for requests that were under way when the weight changed.
    """
    if share is None:
        return False
    low, high = wilson(share.canary, share.canary + share.stable)
    w = weight / FULL
    if weight <= 0:
        return low > 0.02
    if weight >= FULL:
        return high < 0.98
    return high < w / 2 or low > min(1.0, 2 * w)
