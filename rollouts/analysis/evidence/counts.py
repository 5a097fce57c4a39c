"""Event rates: errors, aborted and length-limited shares, preemptions."""

import math
from typing import Any

from rollouts.analysis.evidence.channel import Channel
from rollouts.analysis.evidence.channels import ChannelTest, Shown
from rollouts.analysis.evidence.collect import PodIncrement, SeriesInterval
from rollouts.analysis.evidence.dispersion import DispersionPrior
from rollouts.analysis.evidence.effect import MIXING_PRICE, Effect, Link, interval_radius
from rollouts.analysis.evidence.model import CompareMetric, Direction
from rollouts.analysis.evidence.noise import Context, strata
from rollouts.analysis.evidence.scores import (
    COUNT_RATIOS,
    burst_divisors,
    count_growth,
    exp_capped,
    floor_growth,
    floor_proof,
    floor_rates,
)

__all__ = ["CountTest"]

_PRIOR = DispersionPrior(phi=1.3, tau=0.25)
"""Bursts of errors double the variance at times (1.6 in recordings); pods differ in errors more than in latency."""
_LOG_RATIOS = tuple(math.log(ratio) for ratio in COUNT_RATIOS)


class CountTest(ChannelTest):
    """Evidence that the canary's rate exceeds the stable rate by more than the margin, and the floor.

    Harm is the smaller of two e-processes: relative (against stable, same interval) and absolute (against the
    floor), because it must be real in both senses. A pass is shown relative to stable or by lying below the
    floor, whichever; their mean is an e-value for "neither".
    """

    def __init__(self, metric: CompareMetric) -> None:
        super().__init__()
        self._metric = metric
        self._null = math.log1p(metric.margin)
        self._bets = tuple(self._null + ratio for ratio in _LOG_RATIOS)
        self._tolerance = math.log1p(metric.tolerance)
        self._floor = floor_rates(metric.floor)
        self._below = floor_proof(metric.floor)
        self._rate = Channel(len(self._bets), _PRIOR)
        self._absolute = Channel(len(self._floor), _PRIOR)
        self._under = [0.0] * len(self._below)
        self._mantel = [0.0, 0.0, 0.0]
        self._mantel_bases: list[list[float]] = []
        self.errors = [0.0, 0.0]
        self._phi = 1.0
        self._sigma2 = 0.0
        self._least: list[float] = []
        self._least_floor: list[float] = []

    def absorb(self, data: SeriesInterval, bounds: tuple[float, ...], context: Context) -> None:
        """Take in one interval."""
        if self._metric.direction is Direction.HIGHER:
            data = SeriesInterval(_complement(data.stable), _complement(data.canary))
        if not context.coupled:
            self._learn_noise(data)
        if context.judge:
            self._judge(data, context)
        self._set_noise(self.exposure.phi(self._rate.dispersion.phi))
        self._sigma2 = self._rate.dispersion.tau2(1.0) * self.exposure.spread

    def _set_noise(self, phi: float) -> None:
        self._phi = phi
        self._least = burst_divisors(phi, _LOG_RATIOS)
        self._least_floor = burst_divisors(phi, [bad for bad, _ in self._floor])

    def _learn_noise(self, data: SeriesInterval) -> None:
        rows = [(row.pod, row.values[0], row.values[1]) for row in data.stable if row.members == 1]
        errors = math.fsum([row[1] for row in rows])
        total = math.fsum([row[2] for row in rows])
        if errors <= 0 or len(rows) < 2:
            return
        self._rate.dispersion.add(
            [(pod, e - n * errors / total, errors * n * (total - n) / (total * total)) for pod, e, n in rows]
        )

    def _judge(self, data: SeriesInterval, context: Context) -> None:
        scores = []
        seen = False
        for pod, canary, stable in strata(data.canary, data.stable, context.coupled):
            e_c = math.fsum([row.values[0] for row in canary])
            n_c = math.fsum([row.values[1] for row in canary])
            e_s = math.fsum([row.values[0] for row in stable])
            n_s = math.fsum([row.values[1] for row in stable])
            if n_c <= 0 or n_s <= 0:
                continue
            seen = True
            score, info = self._add(e_c, e_s, n_c, n_s, context.certify)
            scores.append((pod, score, info))
        if not seen:
            return
        if context.coupled:
            self._rate.dispersion.contrast = False
            self._rate.dispersion.add(scores)
        self.exposure.add(
            [(row.pod, row.members, row.values[1]) for row in data.canary],
            [(row.pod, row.members, row.values[1]) for row in data.stable],
            context.coupled,
        )

    def _add(self, e_c: float, e_s: float, n_c: float, n_s: float, certify: bool) -> tuple[float, float]:
        errors, total = e_c + e_s, n_c + n_s
        share = n_c / total
        score, info = e_c - errors * share, errors * share * (1 - share)
        self._rate.add(count_growth(e_c, e_s, n_c, n_s, self._bets, self._null), score, info)
        self._absolute.add(floor_growth(e_c, n_c, self._floor), 0.0, 0.0)
        self.errors[0] += e_c
        self.errors[1] += e_s
        self._mantel[0] += e_c * (1 - share)
        self._mantel[1] += e_s * share
        self._mantel[2] += info
        if certify:
            (growth,) = count_growth(e_c, e_s, n_c, n_s, (0.0,), self._tolerance)
            outside = n_c * math.exp(self._tolerance) / (n_c * math.exp(self._tolerance) + n_s)
            self._rate.add_proof(growth, errors * outside * (1 - outside))
            self._under = [
                u + g for u, g in zip(self._under, floor_growth(e_c, n_c, self._below), strict=True)
            ]
        return score, info

    def evidence(self, start: int) -> float:
        """Harm evidence since a restart (-1: since the beginning)."""
        relative = self._rate.evidence(start, self._phi, self._sigma2, self._least)
        return min(relative, self._absolute.evidence(start, self._phi, 0.0, self._least_floor))

    def proof(self) -> float:
        """Evidence that the rate is within tolerance or below the floor."""
        relative = self._rate.proof_evidence(self._phi, self._sigma2)
        below = math.fsum([exp_capped(u / self._phi) for u in self._under]) / len(self._under)
        return 0.5 * (relative + below)

    def effect(self, start: int, alpha: float) -> Effect | None:
        """Rate ratio minus one (Mantel & Haenszel 1959, variance of Greenland & Robins 1985).

        Where more is better it is the change of the complement: of what failed to happen.
        """
        base = self._mantel_bases[start] if start >= 0 else (0.0, 0.0, 0.0)
        up, down, pairs = (a - b for a, b in zip(self._mantel, base, strict=True))
        n_c, n_s = self.exposure.canary.total, self.exposure.stable.total
        if n_c <= 0 or n_s <= 0 or sum(self.errors) <= 0:
            return None  # without a single event there is no ratio to estimate
        share = n_c / (n_c + n_s)
        if up <= 0 or down <= 0:
            up, down = up + 0.5 * (1 - share), down + 0.5 * share
            pairs += 0.5 * share * (1 - share)
        info = up * down / pairs
        variance = self._phi * info + self._sigma2 * info * info
        shift = math.log(up / down)
        radius = interval_radius(info, variance, 1.0, alpha)
        return Effect(estimate=Link.log(shift), low=Link.log(shift - radius), high=Link.log(shift + radius))

    @property
    def _channels(self) -> tuple[Channel, ...]:
        return self._rate, self._absolute

    @property
    def _shown(self) -> Shown:
        return Shown(self._rate, 1.0, self._phi, self._sigma2)

    def restart(self) -> None:
        """Begin another start."""
        super().restart()
        self._mantel_bases.append(list(self._mantel))

    def retire(self) -> None:
        """Drop the oldest restart."""
        super().retire()
        del self._mantel_bases[0]

    def multiples(self, log_abort: float, log_pass: float) -> tuple[float, float]:
        """How many times the data seen so far an abort and a pass are expected to need at the present rates.

        Canary errors needed for an abort: L phi rho/(rho ln rho - rho + 1).
        """
        effect = self.effect(-1, 0.5)
        e_c, n_c = self.errors[0], self.exposure.canary.total
        if effect is None or n_c <= 0:
            return math.inf, math.inf
        shift = math.log1p(max(effect.estimate, -0.999))
        excess = shift - self._null
        harm = math.inf
        if excess > 0 and e_c > 0 and e_c / n_c > self._metric.floor:
            rho = math.exp(excess)
            gain = rho * excess - rho + 1
            cap = 0.5 * excess * excess > (log_abort + MIXING_PRICE) * self._sigma2
            harm = (log_abort + MIXING_PRICE) * self._phi * rho / gain / e_c if cap else math.inf
        info = self._rate.proof_info
        level = log_pass + math.log(2.0)
        gain = self._rate.proof / info - level * self._sigma2 if info > 0 else 0.0
        relative = level * self._phi / gain / info if gain > 0 else math.inf
        best = max(self._under)
        below = level * self._phi / best if best > 0 else math.inf
        return harm, min(relative, below)

    def dump(self) -> list[object]:
        """Plain values for the checkpoint."""
        return [
            self.exposure.dump(),
            self._rate.dump(),
            self._absolute.dump(),
            self._under,
            self._mantel,
            self._mantel_bases,
            self.errors,
            [self._phi, self._sigma2],
        ]

    def load(self, raw: Any) -> None:
        """Inverse of `dump`."""
        exposure, rate, absolute, under, mantel, bases, errors, noise = raw
        self.exposure.load(exposure)
        self._rate.load(rate)
        self._absolute.load(absolute)
        self._under, self._mantel, self.errors = list(under), list(mantel), list(errors)
        self._mantel_bases = [list(base) for base in bases]
        phi, self._sigma2 = noise
        self._set_noise(phi)


def _complement(rows: list[PodIncrement]) -> list[PodIncrement]:
    return [
        PodIncrement(row.pod, row.members, [row.values[1] - row.values[0], row.values[1]]) for row in rows
    ]
