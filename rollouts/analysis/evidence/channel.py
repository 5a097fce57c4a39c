"""One test statistic: its running log likelihoods, information and noise, and the evidence they give.

For X ~ N(d I, phi I) with a random lasting shift N(0, sigma^2) under both hypotheses the marginal likelihood
ratio is exp{[(d_j - d_0) X - (d_j^2 - d_0^2) I / 2] / (phi + sigma^2 I)}: a martingale when phi and sigma are
known and X is Gaussian, the exact e-process when phi = 1 and sigma = 0. With estimated phi and sigma it is an
approximate e-process, whose error rate is kept under test by the simulation study.
"""

import math
from array import array
from collections.abc import Sequence
from typing import Any

from rollouts.analysis.evidence.dispersion import Dispersion, DispersionPrior
from rollouts.analysis.evidence.packing import pack, single, unpack
from rollouts.analysis.evidence.scores import MAX_EXPONENT, exp_capped

__all__ = ["Channel"]


class Channel:
    """Running sums of one statistic since the attempt began.

    `growth[j]` is the log likelihood ratio of bet j against the null; `info` the information about the shift
    (Var X = phi info); `x` the score sum (E X = d info). `proof`, `proof_info` and `proof_x` belong to the
    swapped question, "is the shift below tolerance?", and start when the weight allows certifying.
    `bases` are the copies taken at restarts, which make later starts differences.
    """

    __slots__ = ("bases", "dispersion", "growth", "info", "proof", "proof_info", "x")

    def __init__(self, bets: int, prior: DispersionPrior, *, contrast: bool = True) -> None:
        self.growth = [0.0] * bets
        self.info = 0.0
        self.x = 0.0
        self.proof = 0.0
        self.proof_info = 0.0
        self.bases: list[array[float]] = []
        self.dispersion = Dispersion(prior, contrast=contrast)

    def add(self, growth: Sequence[float], x: float, info: float) -> None:
        """One interval of harm evidence."""
        self.growth = [a + b for a, b in zip(self.growth, growth, strict=True)]
        self.x += x
        self.info += info

    def add_proof(self, growth: float, info: float) -> None:
        """One interval of evidence that the shift is below tolerance."""
        self.proof += growth
        self.proof_info += info

    def restart(self) -> None:
        """Remember where a new start begins."""
        self.bases.append(single([*self.growth, self.info, self.x]))

    def retire(self) -> None:
        """Drop the oldest restart."""
        del self.bases[0]

    def since(self, start: int) -> tuple[float, float]:
        """(x, information) since restart `start`; -1 is the beginning."""
        if start < 0:
            return self.x, self.info
        base = self.bases[start]
        return self.x - base[-1], self.info - base[-2]

    def evidence(self, start: int, phi: float, sigma2: float, least: Sequence[float] = ()) -> float:
        """Mean over the bets of exp(log likelihood / (phi + sigma^2 I)) since a start; 1 without data.

        `least` are lower limits of the divisor per bet (see `burst_divisors`).
        """
        growth, info = self.growth, self.info
        if start >= 0:
            base = self.bases[start]
            growth = [g - b for g, b in zip(growth, base, strict=False)]
            info = max(info - base[-2], 0.0)
        divisor = phi + sigma2 * info
        if least:
            shares = [g / (d if d > divisor else divisor) for g, d in zip(growth, least, strict=True)]
        else:
            shares = [g / divisor for g in growth]
        if max(shares) > MAX_EXPONENT:
            return sum([exp_capped(share) for share in shares]) / len(shares)
        exp = math.exp
        return sum([exp(share) for share in shares]) / len(shares)

    def proof_evidence(self, phi: float, sigma2: float) -> float:
        """Evidence that the shift is below tolerance."""
        return exp_capped(self.proof / (phi + sigma2 * self.proof_info))

    def dump(self) -> list[object]:
        """Plain values for the checkpoint."""
        sums = [self.info, self.x, self.proof, self.proof_info]
        return [self.growth, sums, [pack(base) for base in self.bases], self.dispersion.dump()]

    def load(self, raw: Any) -> None:
        """Inverse of `dump`."""
        growth, sums, bases, dispersion = raw
        self.growth = list(growth)
        self.info, self.x, self.proof, self.proof_info = sums
        self.bases = [unpack(base) for base in bases]
        self.dispersion.load(dispersion)
