"""Closed forms of the likelihoods: pure functions of one interval, no state.

Notation: c, s are canary and stable; n requests; m_k bucket counts of both arms together; N = n_c + n_s.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "BODY_SHIFTS",
    "COUNT_RATIOS",
    "MAX_EXPONENT",
    "Ridits",
    "Tail",
    "body_growth",
    "body_slope",
    "burst_divisors",
    "choose_tail",
    "count_growth",
    "exp_capped",
    "floor_growth",
    "floor_proof",
    "floor_rates",
    "ridits",
    "shifted_survival",
]

BODY_SHIFTS = (0.05, 0.10, 0.15, 0.20, 0.30, 0.50, 1.0, 2.0)
"""Relative latency changes that the harm evidence bets on, in equal parts: close together where a regression is likely,
and up to a threefold; a bet between two of them loses little (`benchmarks/statistics`)."""

COUNT_RATIOS = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
"""Rate ratios that the harm evidence bets on, in equal parts: failures multiply where latencies grow by shares."""

MAX_EXPONENT = 600.0
"""Evidence is capped at exp(600): far above any decision, far below the overflow of a double."""

_FLOOR_RATIOS = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0, 300.0)
"""Up to all requests failing where the floor is 0.3 %."""
_MIN_SPREAD = 1e-3
"""Variance of ranks (1/12 where no two are alike) below which all requests lie in one bucket: nothing to rank."""
_SHIFT = 0.1
"""The shift by which slopes are measured: small against a bucket, large against rounding."""
_LOG_SHIFT = math.log1p(_SHIFT)
_MAX_HAZARD = 8.0
"""Of a tail: steeper ones are made of a bucket that is nearly empty, and would bet everything on it."""


def exp_capped(value: float) -> float:
    """exp without overflow."""
    return math.exp(min(value, MAX_EXPONENT))


@dataclass(frozen=True, slots=True)
class Ridits:
    """Centred mid-rank scores of one interval.

    `scores[k]` is a_k - 1/2 with a_k = (M_(k-1) + m_k/2)/N, M the cumulative pooled counts (Bross 1958);
    `spread` is s^2 = sum m_k (a_k - 1/2)^2 / N, at most 1/12.
    """

    scores: list[float]
    spread: float
    total: float

    @property
    def usable(self) -> bool:
        """False when nearly all mass lies in one bucket."""
        return self.spread > _MIN_SPREAD


def ridits(pooled: Sequence[float]) -> Ridits:
    """Scores from pooled bucket counts; invariant to any common change of latency."""
    total = math.fsum(pooled)
    if total <= 0:
        return Ridits([0.0] * len(pooled), 0.0, 0.0)
    scores = []
    below = 0.0
    spread = 0.0
    for count in pooled:
        score = (below + 0.5 * count) / total - 0.5
        scores.append(score)
        spread += count * score * score
        below += count
    return Ridits(scores, spread / total, total)


def body_growth(
    slopes: Sequence[float], observed: float, n_c: float, pooled: Sequence[float], scores: Ridits
) -> list[float]:
    """Log growth of each bet against "no shift" in one interval.

    `slopes` are the score shifts d_j; `observed` is O = sum_k c_k (a_k - 1/2); lambda = d / s^2. For canary
    shares up to 20 % this is the exact conditional bound: the expectation of exp(lambda O) over draws
    without replacement is below the one with replacement (Hoeffding 1963), so each growth is an e-value
    whatever the ties and however small n_c. Above 20 % that bound keeps only (1 - w) of the growth and the
    Gaussian form with the finite-population variance takes over, from 30 requests per arm on.
    """
    total = scores.total
    spread = scores.spread
    n_s = total - n_c
    if n_c > 0.2 * total and min(n_c, n_s) >= 30:
        variance = n_c * n_s / total * spread * total / (total - 1)
        return [d / spread * observed - 0.5 * (d / spread) ** 2 * variance for d in slopes]
    filled = [(m / total, a) for m, a in zip(pooled, scores.scores, strict=True) if m]
    growth = []
    for d in slopes:
        lam = d / spread
        if abs(lam) > 2 * MAX_EXPONENT:
            growth.append(0.0)
            continue
        moment = sum([m * math.exp(lam * a) for m, a in filled])
        growth.append(lam * observed - n_c * math.log(moment))
    return growth


def count_growth(
    e_c: float, e_s: float, n_c: float, n_s: float, log_ratios: Sequence[float], log_null: float
) -> list[float]:
    """Log growth of each rate ratio against the null ratio, given the errors of the interval.

    Conditional on e = e_c + e_s the canary's errors are Binomial(e, pi) with pi = n_c rho/(n_c rho + n_s)
    (the conditional test of two Poisson rates, Przyborowski & Wilenski 1940), so the log likelihood ratio is
    e_c (ln rho_j - ln rho_0) - e ln((n_c rho_j + n_s)/(n_c rho_0 + n_s)).
    """
    errors = e_c + e_s
    if errors <= 0 or n_c <= 0 or n_s <= 0:
        return [0.0] * len(log_ratios)
    base = math.log(n_c * math.exp(log_null) + n_s)
    return [
        e_c * (log_ratio - log_null) - errors * (math.log(n_c * math.exp(log_ratio) + n_s) - base)
        for log_ratio in log_ratios
    ]


def burst_divisors(phi: float, log_ratios: Sequence[float], product: float = 0.5) -> list[float]:
    """Least divisor of each bet on counts that come in bursts.

    Gamma-Poisson counts of overdispersion phi have E exp(s e) = (1 - (phi-1)(e^s - 1))^(-k), which runs away
    from the Gaussian value on which dividing by phi rests, and diverges, as (phi-1)(e^s - 1) nears 1. The weight
    of one event s = ln rho_j / D is kept where that product is at most `product`: at 1/2 both about agree. A power
    1/D < 1 of a likelihood ratio is never anti-conservative (Jensen), so this only slows extreme bets.
    """
    if phi <= 1.0 + 1e-9:
        return [0.0] * len(log_ratios)
    reach = math.log1p(product / (phi - 1.0))
    return [log_ratio / reach for log_ratio in log_ratios]


def floor_rates(floor: float) -> tuple[tuple[float, float], ...]:
    """The error rates above the floor that the one-sample evidence bets on, as log factors per event.

    Each pair is (ln(p_j/p_f), ln((1-p_j)/(1-p_f))).
    """
    rates = [min(floor * ratio, 0.95) for ratio in _FLOOR_RATIOS]
    return tuple((math.log(p / floor), math.log((1 - p) / (1 - floor))) for p in rates)


def floor_growth(e_c: float, n_c: float, factors: Sequence[tuple[float, float]]) -> list[float]:
    """Log growth of each rate above the floor against the floor itself, canary only (Wald 1945)."""
    good = n_c - e_c
    return [e_c * bad_factor + good * good_factor for bad_factor, good_factor in factors]


def floor_proof(floor: float) -> tuple[tuple[float, float], ...]:
    """The same factors for rates below the floor: evidence that the canary errs less than the floor."""
    rates = (floor / 10, floor / 3)
    return tuple((math.log(p / floor), math.log((1 - p) / (1 - floor))) for p in rates)


def shifted_survival(counts: Sequence[float], bounds: Sequence[float]) -> tuple[list[float], list[float]]:
    """P(X > bound) per bound now, and after every value has grown by 10 %.

    Between two bounds logit F is interpolated linearly in log latency (a log-logistic curve through the
    bucket bounds); spreading a bucket's mass evenly instead underrates the slope of a lognormal in vLLM's
    buckets by 5 to 11 %. Where F is 0 or 1 at one end, F(b_k/(1+d)) = (1-w_k) F_k + w_k F_(k-1) with
    w_k = ln(1+d)/ln(b_k/b_(k-1)), and evenly in the first bucket, which has no lower bound.
    """
    total = math.fsum(counts)
    now: list[float] = []
    then: list[float] = []
    below = 0.0
    previous_f = 0.0
    previous_bound = 0.0
    for count, bound in zip(counts, bounds, strict=True):
        below += count
        f = below / total
        now.append(1.0 - f)
        then.append(1.0 - _before(previous_f, f, previous_bound, bound))
        previous_f = f
        previous_bound = bound
    return now, then


def _before(lower: float, upper: float, start: float, end: float) -> float:
    """F at end/1.1, from F at both ends of a bucket."""
    if math.isinf(end) or end <= 0 or upper <= lower:
        return upper
    if start <= 0:
        return upper - _SHIFT / (1 + _SHIFT) * (upper - lower)
    share = min(1.0, _LOG_SHIFT / math.log(end / start))
    if lower <= 0.0 or upper >= 1.0 - 1e-12:
        return upper - share * (upper - lower)
    high, low = math.log(upper / (1 - upper)), math.log(lower / (1 - lower))
    return 1.0 / (1.0 + math.exp(share * (high - low) - high))


def body_slope(now: Sequence[float], then: Sequence[float]) -> float:
    """Score shift (AUC - 1/2) per unit of log latency, from survival functions 10 % apart."""
    auc = 0.0
    before_now = before_then = 1.0
    for survival, shifted in zip(now, then, strict=True):
        mass = before_then - shifted
        auc += mass * (1.0 - 0.5 * (before_now + survival))
        before_now, before_then = survival, shifted
    return max((auc - 0.5) / _LOG_SHIFT, 0.0)


@dataclass(frozen=True, slots=True)
class Tail:
    """ "Slower than a bound": the first bucket beyond it, its share, and the share's log hazard.

    `hazard` is d ln P(X > B) / d ln latency, at most 8.
    """

    first: int
    bound: float
    share: float
    hazard: float


def choose_tail(
    target: float, bounds: Sequence[float], now: Sequence[float], then: Sequence[float]
) -> Tail | None:
    """The bucket bound whose exceedance is nearest to `target`, None when no bound is within a factor 4."""
    best: Tail | None = None
    distance = math.log(4.0)
    for k, (bound, share, shifted) in enumerate(zip(bounds, now, then, strict=True)):
        if share <= 1e-9 or shifted <= 0 or math.isinf(bound):
            continue
        gap = abs(math.log(share / target))
        if gap < distance:
            distance = gap
            hazard = min(max(math.log(shifted / share) / _LOG_SHIFT, 0.0), _MAX_HAZARD)
            best = Tail(k + 1, bound, share, hazard)
    return best if best is not None and best.hazard > 0.05 else None
