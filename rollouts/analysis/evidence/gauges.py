"""Gauges: batch means of one minute per pod, on the log1p scale."""

import math
from typing import Any

from rollouts.analysis.evidence.channel import Channel
from rollouts.analysis.evidence.channels import ChannelTest, Shown
from rollouts.analysis.evidence.collect import PodIncrement, SeriesInterval
from rollouts.analysis.evidence.dispersion import DispersionPrior
from rollouts.analysis.evidence.effect import (
    Effect,
    Link,
    harm_information,
    interval_radius,
    proof_information,
)
from rollouts.analysis.evidence.model import CompareMetric, Direction
from rollouts.analysis.evidence.noise import Context
from rollouts.analysis.evidence.scores import BODY_SHIFTS

__all__ = ["GaugeTest"]

_LOG_SHIFTS = tuple(math.log1p(shift) for shift in BODY_SHIFTS)
_PRIOR = DispersionPrior(phi=1.5, tau=0.10)
"""Levels wander for minutes (queues), and pods differ in them twice as much as in latency."""
_BLOCK = 60.0
"""Seconds: a gauge is a snapshot, so its samples depend on each other; means of a minute much less."""
_MIN_BLOCKS = 6
"""Six minutes: fewer means tell the level of an arm from its noise by luck."""
_ENOUGH = 20.0
"""Deviations of pods from which on their variance is known to a third: sqrt(2 / 20)."""


class GaugeTest(ChannelTest):
    """Evidence that the canary's pods stand higher than the stable ones in the same minute.

    One observation is one pod's mean over one block, log1p of it; autocorrelation between blocks is caught by
    the dispersion over 5 and 20 blocks. Gauges follow the load per pod, so only blocks in which both arms
    serve the same per pod (within 20 %) count.
    """

    def __init__(self, metric: CompareMetric) -> None:
        super().__init__()
        self._up = metric.direction is Direction.HIGHER
        self._margin = math.log1p(metric.margin)
        self._tolerance = math.log1p(metric.tolerance)
        self._level = Channel(len(_LOG_SHIFTS), _PRIOR)
        self._block: dict[tuple[str, str], list[float]] = {}
        self._open = 0.0
        self._usable = True
        self._certify = True
        self._variance = [0.0, 0.0]
        self._centre = [0.0, 0.0]
        self._blocks = 0
        self._bases: list[int] = []

    def absorb(self, data: SeriesInterval, bounds: tuple[float, ...], context: Context) -> None:
        """Take in one interval; a full block is judged."""
        for arm, rows in (("stable", data.stable), ("canary", data.canary)):
            for row in rows:
                entry = self._block.setdefault((arm, row.pod), [0.0, 0.0, 0.0])
                entry[0] += math.log1p(max(row.values[0], 0.0))
                entry[1] += 1.0
                entry[2] = float(row.members)
        self._open += context.seconds
        self._usable = self._usable and context.judge and context.balanced
        self._certify = self._certify and context.certify
        if self._open < _BLOCK * 0.99:
            return
        block, self._block = self._block, {}
        self._close(block, context.coupled)
        self._open, self._usable, self._certify = 0.0, True, True

    def _close(self, block: dict[tuple[str, str], list[float]], coupled: bool) -> None:
        means = {
            arm: [PodIncrement(pod, int(m), [t / n]) for (a, pod), (t, n, m) in block.items() if a == arm]
            for arm in ("stable", "canary")
        }
        stable, canary = means["stable"], means["canary"]
        k_s, k_c = sum(row.members for row in stable), sum(row.members for row in canary)
        if not k_s:
            return
        centre = math.fsum([row.values[0] * row.members for row in stable]) / k_s
        variance = self._scale
        if self._usable and k_c and variance > 0 and not coupled:
            there = math.fsum([row.values[0] * row.members for row in canary]) / k_c
            self._judge(there - centre, k_c * k_s / (k_c + k_s) / variance)
            self.exposure.add(
                [(row.pod, row.members, float(row.members)) for row in canary],
                [(row.pod, row.members, float(row.members)) for row in stable],
                False,
            )
        self._learn(stable, centre, k_s)

    def _judge(self, difference: float, info: float) -> None:
        slope = self._slope
        null = slope * self._margin
        score = (-difference if self._up else difference) * info
        bets = [null + slope * shift for shift in _LOG_SHIFTS]
        growth = [(bet - null) * score - 0.5 * (bet * bet - null * null) * info for bet in bets]
        self._level.add(growth, score, info)
        self._blocks += 1
        if self._certify:
            limit = slope * self._tolerance
            self._level.add_proof(limit * (0.5 * limit * info - score), info)

    def _learn(self, stable: list[PodIncrement], centre: float, k_s: int) -> None:
        single = [row for row in stable if row.members == 1]
        if len(single) >= 2:
            share = 1.0 - 1.0 / k_s
            variance = self._scale
            if variance > 0:
                self._level.dispersion.add(
                    [(row.pod, (row.values[0] - centre) / variance, share / variance) for row in single]
                )
            for row in single:
                self._variance[0] += (row.values[0] - centre) ** 2 / share
                self._variance[1] += 1.0
        self._centre[0] += centre
        self._centre[1] += 1.0

    @property
    def _scale(self) -> float:
        """Variance of one pod's block mean around the others, floored: a constant gauge is no proof."""
        total, count = self._variance
        return max(total / count, (0.01 * self._slope) ** 2) if count >= _ENOUGH else 0.0

    @property
    def _slope(self) -> float:
        """d log1p(x) / d ln x at the stable level."""
        total, count = self._centre
        level = math.expm1(total / count) if count else 0.0
        return max(level / (1.0 + level), 0.05)

    @property
    def _noise(self) -> tuple[float, float]:
        return (
            self._level.dispersion.phi,
            self._level.dispersion.tau2(self._slope) * self.exposure.spread,
        )

    def evidence(self, start: int) -> float:
        """Harm evidence since a restart (-1: since the beginning); 1 before six blocks."""
        since = self._blocks - (self._bases[start] if start >= 0 else 0)
        return self._level.evidence(start, *self._noise) if since >= _MIN_BLOCKS else 1.0

    def proof(self) -> float:
        """Evidence that the gauge is within tolerance."""
        return self._level.proof_evidence(*self._noise) if self._blocks >= _MIN_BLOCKS else 0.0

    def effect(self, start: int, alpha: float) -> Effect | None:
        """Relative change of the level."""
        x, info = self._level.since(start)
        if info <= 0:
            return None
        phi, sigma2 = self._noise
        slope = self._slope
        radius = interval_radius(info, phi * info + sigma2 * info * info, 0.2 * slope, alpha)
        low, middle, high = (Link.log(v / slope) for v in (x / info - radius, x / info, x / info + radius))
        result = Effect(estimate=middle, low=low, high=high)
        return result.mirrored() if self._up else result

    def multiples(self, log_abort: float, log_pass: float) -> tuple[float, float]:
        """How many times the data seen so far an abort and a pass are expected to need."""
        x, info = self._level.since(-1)
        if info <= 0:
            return math.inf, math.inf
        phi, sigma2 = self._noise
        harm = harm_information(x / info - self._slope * self._margin, log_abort, phi, sigma2) / info
        certified = self._level.proof_info
        if certified <= 0:
            return harm, math.inf
        limit = self._slope * self._tolerance
        return harm, proof_information(limit, x / info, log_pass, phi, sigma2) / certified

    @property
    def _channels(self) -> tuple[Channel, ...]:
        return (self._level,)

    @property
    def _shown(self) -> Shown:
        return Shown(self._level, self._slope, *self._noise)

    def restart(self) -> None:
        """Begin another start."""
        super().restart()
        self._bases.append(self._blocks)

    def retire(self) -> None:
        """Drop the oldest restart."""
        super().retire()
        del self._bases[0]

    def dump(self) -> list[object]:
        """Plain values for the checkpoint."""
        block = [[arm, pod, *entry] for (arm, pod), entry in self._block.items()]
        state = [self._open, self._usable, self._certify, self._blocks, self._bases]
        return [self.exposure.dump(), self._level.dump(), block, state, self._variance, self._centre]

    def load(self, raw: Any) -> None:
        """Inverse of `dump`."""
        exposure, level, block, state, variance, centre = raw
        self.exposure.load(exposure)
        self._level.load(level)
        self._block = {(row[0], row[1]): list(row[2:]) for row in block}
        self._open, self._usable, self._certify, self._blocks, bases = state
        self._bases = list(bases)
        self._variance, self._centre = list(variance), list(centre)
