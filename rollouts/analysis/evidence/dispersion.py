"""Noise beyond chance: short bursts (phi) and lasting differences between pods (tau).

Scores come in information units: for one pod and interval S is a score and V its variance under chance, both
scaled so that E S = d V for a pod whose metric is shifted by d against its peers.

phi, the overdispersion, is the largest over block lengths L of 1, 5 and 20 intervals of the mean of
(sum of S in the block)^2 / (sum of V), after the pod's own lasting shift is taken out (Pearson's index with
batch means); tau^2 is the variance of the lasting shifts beyond what phi explains, shrunk to a prior
(the one-way random-effects estimator of DerSimonian & Laird 1986 with a prior of a few pods).
Only running sums are kept: sum (S_b - d V_b)^2/V_b = sum S_b^2/V_b - (sum S_b)^2/sum V_b.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

from rollouts.analysis.evidence.packing import pack, single, unpack

__all__ = ["Dispersion", "DispersionPrior"]

_BLOCKS = (1, 5, 20)
"""Intervals: what bursts within half a minute, and over 2.5 and ten minutes, as queues and batches of clients do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DispersionPrior:
    """`phi` counts as `phi_weight` observations, `tau` (in natural log units) as `tau_weight` pods."""

    phi: float = 1.5
    phi_weight: float = 20.0
    tau: float = 0.05
    tau_weight: float = 3.0


_SCORE, _INFO, _COUNT = 0, 1, 2
_OPEN = (0, 3, 6)
"""Where the open block of each length begins in a pod's row of sums: score, information, count."""
_WIDTH = 9
"""A pod's sums: score, information, blocks of one interval; then open score, open information and closed blocks
for each of the longer blocks."""


class Dispersion:
    """Running estimate of phi and tau from the pods that did not change.

    `contrast` says that a pod's score is against the other pods (stable pods among each other), which
    stretches lasting shifts by K/(K-1); with scores of two arms inside one pod it is False.
    """

    __slots__ = (
        "_chance",
        "_phi",
        "_pods",
        "_prior",
        "_quadratic",
        "_retired",
        "_tau",
        "_tick",
        "contrast",
        "observations",
    )

    def __init__(self, prior: DispersionPrior, *, contrast: bool = True) -> None:
        self._prior = prior
        self.contrast = contrast
        self._pods: dict[str, array[float]] = {}
        self._quadratic = [0.0, 0.0, 0.0]
        self._retired = [0.0, 0.0, 0.0]
        self._tick = 0
        self.observations = [0, 0, 0]
        self._phi: float | None = None
        self._tau: tuple[float, int] | None = None
        self._chance = 0.0

    def add(self, scores: Iterable[tuple[str, float, float]]) -> None:
        """Take in one interval: (pod, S, V) for each pod that was seen."""
        quadratic = 0.0
        seen = 0
        for name, score, info in scores:
            if info <= 0.0:
                continue
            pod = self._pods.get(name)
            if pod is None:
                pod = self._pods[name] = single([0.0] * _WIDTH)
            pod[_SCORE] += score
            pod[_INFO] += info
            pod[_COUNT] += 1
            quadratic += score * score / info
            seen += 1
            pod[3] += score
            pod[4] += info
            pod[6] += score
            pod[7] += info
        self._quadratic[0] += quadratic
        self.observations[0] += seen
        self._tick += 1
        for index in (1, 2):
            if self._tick % _BLOCKS[index] == 0:
                self._close(index)
        self._phi = self._tau = None

    def _close(self, index: int) -> None:
        at = _OPEN[index]
        for pod in self._pods.values():
            info = pod[at + 1]
            if info > 0.0:
                self._quadratic[index] += pod[at] ** 2 / info
                pod[at] = pod[at + 1] = 0.0
                pod[at + 2] += 1
                self.observations[index] += 1

    def forget(self, name: str) -> None:
        """A pod is gone: what it taught about phi stays, its lasting shift no longer counts."""
        pod = self._pods.pop(name, None)
        if pod is None:
            return
        for index in range(3):
            if pod[_OPEN[index] + _COUNT]:
                self._retired[index] += _centre(pod, index)
                self.observations[index] -= 1
        self._phi = self._tau = None

    @property
    def phi(self) -> float:
        """Overdispersion, at least 1."""
        if self._phi is None:
            weight = self._prior.phi_weight
            worst = 1.0
            for index in range(3):
                centre = self._retired[index]
                freedom = self.observations[index]
                for pod in self._pods.values():
                    if pod[_OPEN[index] + _COUNT]:
                        centre += _centre(pod, index)
                        freedom -= 1
                excess = max(self._quadratic[index] - centre, 0.0)
                worst = max(worst, (weight * self._prior.phi + excess) / (weight + max(freedom, 0)))
            self._phi = worst
        return self._phi

    def tau2(self, slope: float) -> float:
        """Variance of the lasting pod shifts in score units; `slope` converts log units to score units.

        The estimate is raised by 2/(degrees of freedom), for it enters a divisor and few pods know it badly.
        """
        if self._tau is None:
            self._tau = self._estimate()
        estimate, pods = self._tau
        weight = self._prior.tau_weight
        prior = (slope * self._prior.tau) ** 2
        freedom = weight + max(pods - 1, 0)
        mean = (weight * prior + max(pods - 1, 0) * estimate) / freedom
        return mean * (1.0 + 2.0 / freedom) if pods else mean

    def settled_tau2(self, slope: float) -> float:
        """`tau2` once it is known well enough to call something impossible by it; before that the prior.

        Well enough: chance alone moves a pod's shift by no more than twice the prior's variance.
        """
        if self._tau is None:
            self._tau = self._estimate()
        prior = (slope * self._prior.tau) ** 2
        return min(self.tau2(slope), prior) if self._chance > 2.0 * prior else self.tau2(slope)

    def _estimate(self) -> tuple[float, int]:
        self._chance = 0.0
        pods = [pod for pod in self._pods.values() if pod[_INFO] > 0.0]
        if len(pods) < 2:
            return 0.0, 0
        enough = 0.1 * sum([pod[_INFO] for pod in pods]) / len(pods)
        pods = [pod for pod in pods if pod[_INFO] >= enough]
        k = len(pods)
        if k < 2:
            return 0.0, 0
        shifts = [pod[_SCORE] / pod[_INFO] for pod in pods]
        mean = sum(shifts) / k
        variance = sum([(shift - mean) ** 2 for shift in shifts]) / (k - 1)
        chance = self._chance = self.phi * sum([1.0 / pod[_INFO] for pod in pods]) / k
        stretch = ((k - 1) / k) ** 2 if self.contrast else 1.0
        return max(variance - chance, 0.0) * stretch, k

    @property
    def pods(self) -> int:
        """How many pods the estimates rest on."""
        return len(self._pods)

    def dump(self) -> list[object]:
        """Plain values for the checkpoint, in an order that `load` restores exactly."""
        return [
            self.contrast,
            self._tick,
            self._quadratic,
            self._retired,
            self.observations,
            list(self._pods),
            pack(single(chain.from_iterable(self._pods.values()))),
        ]

    def load(self, raw: Any) -> None:
        """Inverse of `dump`."""
        self.contrast, self._tick, quadratic, retired, observations, names, sums = raw
        self._quadratic = list(quadratic)
        self._retired = list(retired)
        self.observations = list(observations)
        flat = unpack(sums)
        self._pods = {name: flat[i * _WIDTH : (i + 1) * _WIDTH] for i, name in enumerate(names)}
        self._phi = self._tau = None


def _centre(pod: "array[float]", index: int) -> float:
    """(sum S)^2 / sum V over the closed blocks of one length."""
    score, info = pod[_SCORE], pod[_INFO]
    if index:
        score -= pod[_OPEN[index]]
        info -= pod[_OPEN[index] + 1]
    return score * score / info if info > 1e-12 else 0.0
