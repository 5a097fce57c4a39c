"""What the evidence says in numbers: effect with interval, time to decide, smallest provable regression."""

import math
from dataclasses import dataclass
from statistics import NormalDist

__all__ = [
    "MIXING_PRICE",
    "Effect",
    "Link",
    "Pace",
    "detectable",
    "harm_information",
    "interval_radius",
    "proof_information",
    "provable",
    "smallest_provable",
]

_NORMAL = NormalDist()
_ROOT_TWO_PI = math.sqrt(2.0 * math.pi)
MIXING_PRICE = math.log(16.0)
"""ln 16: half of the evidence goes to each of body and tails, an eighth of that to each bet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """Relative change of the canary against stable (1.0 is doubled), with an anytime-valid interval."""

    estimate: float
    low: float
    high: float

    def mirrored(self) -> "Effect":
        """The same for values of which more is better."""
        low, estimate, high = (1.0 / max(1.0 + v, 1e-12) - 1.0 for v in (self.high, self.estimate, self.low))
        return Effect(estimate=estimate, low=low, high=high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast a statistic learns: information so far (score units), slope per log unit, noise."""

    info: float
    slope: float
    phi: float
    sigma2: float


class Link:
    """Between score shifts and relative changes."""

    @staticmethod
    def log(shift: float) -> float:
        """Shifts that are logs of ratios."""
        return math.expm1(min(max(shift, -30.0), 30.0))

    @staticmethod
    def linear(shift: float) -> float:
        """Shifts that are relative changes."""
        return max(shift, -1.0)

    @staticmethod
    def probit(shift: float, slope: float) -> float:
        """AUC - 1/2 of two lognormals that differ by a factor: exact there, first-order right elsewhere."""
        auc = min(max(0.5 + shift, 1e-9), 1.0 - 1e-9)
        return Link.log(_NORMAL.inv_cdf(auc) / (slope * _ROOT_TWO_PI))


def interval_radius(info: float, variance: float, kappa: float, alpha: float) -> float:
    """Half width of the time-uniform interval of a shift X/I with Var X = variance.

    |d - d_hat| <= (1/I) sqrt(2 V (V + kappa^2 I^2)/(kappa^2 I^2) ln((1/alpha) sqrt(1 + kappa^2 I^2/V))), the
    normal-mixture boundary of Robbins (1970) with mixing scale kappa.
    """
    scaled = (kappa * info) ** 2
    ratio = scaled / variance
    bound = 2.0 * variance * (variance + scaled) / scaled
    return math.sqrt(bound * (math.log(1.0 / alpha) + 0.5 * math.log1p(ratio))) / info


def harm_information(distance: float, log_level: float, phi: float, sigma2: float) -> float:
    """Information at which a shift `distance` beyond the margin is expected to reach the level.

    I = L phi/(distance^2/2 - L sigma^2), L the log level with the price of mixing; infinite when lasting pod
    differences are too large for this shift, however long one waits.
    """
    level = log_level + MIXING_PRICE
    gain = 0.5 * distance * distance - level * sigma2
    return level * phi / gain if distance > 0 and gain > 0 else math.inf


def proof_information(tolerance: float, shift: float, log_level: float, phi: float, sigma2: float) -> float:
    """Information at which a true `shift` is expected to be shown below `tolerance` (both in score units)."""
    gain = tolerance * (0.5 * tolerance - shift) - log_level * sigma2
    return log_level * phi / gain if gain > 0 else math.inf


def provable(tolerance: float, log_level: float, tau2: float, spread: float) -> bool:
    """False when ln(1+tolerance)^2 <= 2 L tau^2 (1/Kc + 1/Ks): no amount of time gives the proof.

    `tau2` in squared natural log units.
    """
    return math.log1p(tolerance) ** 2 > 2.0 * log_level * tau2 * spread


def smallest_provable(log_level: float, tau2: float, spread: float) -> float:
    """exp(tau sqrt(2 L (1/Kc + 1/Ks))) - 1: smaller regressions drown in the differences between pods."""
    return Link.log(math.sqrt(2.0 * (log_level + MIXING_PRICE) * tau2 * spread))


def detectable(pace: Pace, info: float, log_level: float) -> float:
    """Relative change expected to just reach the level: exp(sqrt(2 L (phi/I + sigma^2))/b) - 1."""
    if info <= 0:
        return math.inf
    shift = math.sqrt(2.0 * (log_level + MIXING_PRICE) * (pace.phi / info + pace.sigma2))
    return Link.log(shift / pace.slope)
