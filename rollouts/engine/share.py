"""Does the observed share of traffic refute the weight? (design rule 4)

The band is [w/2, 2w], and the share refutes the weight when two things hold:

- Wilson's 99.9 % score interval of the share (Wilson 1927, JASA 22) lies wholly outside the band. Where the weight
  changed on the way, the band is the mean of the bands, weighted by the arrivals under each weight.
- The evidence against the band is at least 2,000. It is a likelihood ratio against the nearest edge of the band,
  mixed over a few alternatives, hence a supermartingale of mean at most 1 whenever the true share is inside; by
  Ville's inequality (Ville 1939, Etude critique de la notion de collectif) it *ever* reaches 2,000 with probability
  at most 1/2,000, on each of the two sides. So one may look as often as one likes: the interval alone, looked at
  after every request, would be left by chance far more often than once in a thousand.

Both are asked of the arrivals under the present weight and of all arrivals since the first weight. A healthy split is
refuted with probability at most 0.1 % for each weight of an attempt and 0.1 % for the whole of it, however often one
looks. In truth it is far less, since a healthy share is w and not an edge of the band.

A gateway may put a weight in force later than it says so. What arrives until then is the old split's, and would refute
the weight long after it is in force: at 100 % until it is diluted to the slack. So a share that is refuted is looked at
once more: where the counts show that it changed at a moment within the time that a gateway may take (the two 99.9 %
intervals before and after do not meet), and what came after is inside the band, that moment was when the weight came
into force, and nothing refutes it. This only ever takes a refutation back, so the bound above stays. A gateway whose
share is constant and wrong passes by chance when two intervals of one share do not meet: two proportions of equal sizes
are then 4.6 standard errors apart, three in a million.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf, log, sqrt

from rollouts.engine.observation import RiseView, ShareCount, ShareView
from rollouts.units import FULL, Weight

__all__ = [
    "BEFORE_WINDOW",
    "MIN_WINDOW",
    "came_back",
    "expected_canary",
    "fell",
    "observed_weight",
    "recent_window",
    "refuted_side",
    "refutes",
    "wilson",
    "worth_showing",
]

_Z = 3.2905267314919255  # two-sided 99.9 %

_SHOWN_STEP = 50
"""Hundredths of a percent: half a percentage point."""

MIN_WINDOW = 5.0
"""Seconds of counting before a share is looked at: counters are scraped, and lag the weight by a scrape."""

_PROOF = 2000.0
"""Evidence that one side may reach by chance once in 2,000 attempts: 99.9 % over both sides."""

_LESS = (1 / 2, 1 / 8, 0.0)
_MORE = (2.0, 8.0, 64.0)
"""Alternatives, as factors of the odds at the band's edge: a little off, far off, and (nearly) nothing or all."""

_SLACK = 0.02
"""Width of the band at weight 0 and 100 %: requests that were under way when the weight changed."""

BEFORE_WINDOW = 600.0
"""Seconds before a rise whose requests it is compared with."""

_FELL_TO = 0.1
_BEFORE = 100
"""Requests before a rise without which a fall says nothing."""
_EXPECTED = 20
"""Requests that must have been expected: 2 or fewer of 20 come by chance once in two million (Poisson)."""
_SHORTEST = 5.0
_BACK_TO = 0.5
"""Part of the former rate at which requests count as back."""


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


def worth_showing(seen: Weight | None, shown: Weight | None) -> bool:
    """Whether the observed share differs from the shown one by more than what is not worth a write and its echo."""
    return seen is not None and (shown is None or abs(seen - shown) > max(_SHOWN_STEP, shown // 10))


def expected_canary(share: ShareView, weight: Weight) -> float:
    """Requests that the canary should have had of those that arrived under the present weight."""
    return (share.canary + share.stable) * weight / FULL


def refutes(share: ShareView | None, weight: Weight) -> bool:
    """Whether the counters show that the gateway does not do what the weight says.

    No counters and no traffic refute nothing.
    """
    return share is not None and refuted_side(share, weight) != 0


def refuted_side(share: ShareView, weight: Weight) -> int:
    """-1: the canary gets too little for its weights, 1: too much, 0: neither is shown.

    What was counted under earlier weights adds up with what is counted now, but speaks alone against nothing: a
    controller that was late in hearing of a write has counted some of it under the wrong weight, once and for all.
    """
    present = ShareCount(weight=weight, canary=share.canary, stable=share.stable)
    alone = _side((present,))
    if alone and _came_into_force(present, share.later):
        return 0
    if alone or not share.earlier or not present.canary + present.stable:
        return alone
    low, high = _band(weight)
    seen = present.canary / (present.canary + present.stable)
    together = _side((*share.earlier, present))
    return together if (together < 0 and seen < low) or (together > 0 and seen > high) else 0


_ENOUGH = 10
"""Requests since the moment that the smaller arm should have had, or all of them at 0 and 100 %: of two requests one
stray is half, and differs from a thousand before."""


def _came_into_force(present: ShareCount, later: Sequence[ShareCount]) -> bool:
    """Whether the share changed after the weight was applied, and has been inside the band since then."""
    low, high = _band(present.weight)
    for after in later:
        total = after.canary + after.stable
        canary = present.canary - after.canary
        before = wilson(canary, canary + present.stable - after.stable)
        since = wilson(after.canary, total)
        differs = since[0] > before[1] or since[1] < before[0]
        smaller = min(present.weight, FULL - present.weight) or FULL
        if total * smaller >= _ENOUGH * FULL and low <= after.canary / total <= high and differs:
            return True
    return False


def _band(weight: Weight) -> tuple[float, float]:
    if weight <= 0:
        return 0.0, _SLACK
    if weight >= FULL:
        return 1.0 - _SLACK, 1.0
    return weight / FULL / 2, min(1.0, 2 * weight / FULL)


def _side(counts: Sequence[ShareCount]) -> int:
    canary = sum(count.canary for count in counts)
    total = canary + sum(count.stable for count in counts)
    low, high = wilson(canary, total)
    bands = [(_band(count.weight), count) for count in counts]
    floor, ceiling = (
        sum(band[edge] * (count.canary + count.stable) for band, count in bands) / max(total, 1)
        for edge in (0, 1)
    )
    if high < floor and _evidence([(band[0], count) for band, count in bands], _LESS) >= _PROOF:
        return -1
    if low > ceiling and _evidence([(band[1], count) for band, count in bands], _MORE) >= _PROOF:
        return 1
    return 0


def _evidence(counts: Sequence[tuple[float, ShareCount]], factors: Sequence[float]) -> float:
    """Likelihood ratio of shares off by ``factors`` of the odds against those at the edges, averaged."""
    ratios = (sum(_log_ratio(edge, factor, count) for edge, count in counts) for factor in factors)
    return sum(exp(min(ratio, 700.0)) for ratio in ratios) / len(factors)


def _log_ratio(edge: float, factor: float, count: ShareCount) -> float:
    if not 0.0 < edge < 1.0:  # no share is beyond such an edge
        return 0.0
    other = factor * edge / (1 - edge + factor * edge)
    seen = 0.0
    if count.canary:
        seen = count.canary * log(other / edge) if other else -inf
    return seen + count.stable * log((1 - other) / (1 - edge))


# --- a path that broke -----------------------------------------------------------------------------


def recent_window(before: int, seconds: float) -> float:
    """Seconds in which enough requests are expected, at the rate of ``before`` in ``seconds``, to see them missing."""
    if before <= 0 or seconds <= 0:
        return inf
    return max(_SHORTEST, _EXPECTED * seconds / before)


def fell(path: RiseView) -> bool:
    """Whether the requests of both arms, and of each, fell by 90 % or more after the rise."""
    if path.before < _BEFORE or path.before_seconds <= 0:
        return False
    scale = path.recent_seconds / path.before_seconds
    if path.before * scale < _EXPECTED * 0.99:  # sampled, the window is hardly ever met exactly
        return False
    stable, stable_before = path.recent - path.canary_recent, path.before - path.canary_before
    return (
        path.recent <= _FELL_TO * scale * path.before
        and stable <= _FELL_TO * scale * stable_before
        and (not path.canary_before or path.canary_recent <= _FELL_TO * scale * path.canary_before)
    )


def came_back(share: ShareView, requests_before: int) -> bool:
    """Whether requests come again at half of their former rate (``requests_before`` in ten minutes) or more."""
    windows = [(share.canary + share.stable, share.seconds)]
    if share.path is not None:
        windows.append((share.path.recent, share.path.recent_seconds))
    rate = requests_before / BEFORE_WINDOW
    return any(
        seen >= _BACK_TO * rate * seconds and rate * seconds >= _EXPECTED / 2 for seen, seconds in windows
    )
