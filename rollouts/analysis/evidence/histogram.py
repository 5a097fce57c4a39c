"""Latency histograms: body, two tails, and the mean where the buckets are too coarse."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul
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
from rollouts.analysis.evidence.model import CompareMetric, Direction, HistogramSeries
from rollouts.analysis.evidence.noise import Context, strata
from rollouts.analysis.evidence.scores import (
    BODY_SHIFTS,
    Ridits,
    Tail,
    body_growth,
    burst_divisors,
    count_growth,
    ridits,
)
from rollouts.analysis.evidence.shape import Shape

__all__ = ["HistogramTest"]

_LOG_SHIFTS = tuple(math.log1p(shift) for shift in BODY_SHIFTS)
_PRIOR = DispersionPrior(phi=1.5, tau=0.05)
"""Before history: 1.3 to 5.4 was seen in realistic streams, and 4 to 5 % between pods (`benchmarks/statistics`)."""
_TAIL_PRIOR = DispersionPrior(phi=1.3, tau=0.05)
"""The slowest requests are few, so they burst less than the body; pods differ as in the body."""
_MIN_SLOPE = 0.02
"""Rank information per log latency below which the body lies in one bucket: a shift would hardly move a rank."""
_TOO_COARSE = "bucket too coarse"
_TAIL_PRODUCT = 0.25
"""Largest product of a burst divisor and a bet at which the Gaussian form still bounds bursty counts."""
_TAIL_TOLERANCE = 1.5
"""The slowest requests may be half as many again where the tolerance of latency would allow less."""
_PARTS = ("body", "slowest tenth", "slowest fiftieth", "mean")
"""In the order of the shares below."""
_WEIGHTS = (0.5, 0.25, 0.25, 0.0)
"""Half for the body, which decides first; the tails share the rest, the mean tells nothing more."""
_WEIGHTS_COARSE = (0.25, 0.125, 0.125, 0.5)
"""Where buckets hide the body the mean takes half."""
_WEIGHTS_UPWARD = (1.0, 0.0, 0.0, 0.0)
"""More is better: tails of slow requests do not exist."""


@dataclass(slots=True)
class _Rows:
    """One arm of one interval: its pods, bucket totals, requests and sum of values."""

    rows: list[PodIncrement]
    counts: list[float]
    requests: float
    total: float

    @classmethod
    def of(cls, rows: list[PodIncrement], width: int) -> "_Rows":
        if not rows:
            return cls(rows, [0.0] * width, 0.0, 0.0)
        columns = [math.fsum(column) for column in zip(*[row.values for row in rows], strict=True)]
        total = columns.pop()
        return cls(rows, columns, math.fsum(columns), total)


class HistogramTest(ChannelTest):
    """Evidence that canary requests are slower than stable ones of the same interval."""

    def __init__(self, metric: CompareMetric) -> None:
        super().__init__()
        self._metric = metric
        self._up = metric.direction is Direction.HIGHER
        self._margin = math.log1p(metric.margin)
        self._tolerance = math.log1p(metric.tolerance)
        self._shape = Shape()
        bets = len(_LOG_SHIFTS)
        self._body = Channel(bets, _PRIOR)
        self._tails = (Channel(bets, _TAIL_PRIOR), Channel(bets, _TAIL_PRIOR))
        self._mean = Channel(bets, _PRIOR)
        self._mean_noise = [0.0, 0.0]
        self._coarse: bool | None = None
        self._unusable = ""
        self._noise: list[tuple[float, float]] = [(1.0, 0.0)] * 4
        self._least: list[list[float]] = [[], [], [], []]

    # -- one interval -------------------------------------------------------------------------------------

    def absorb(self, data: SeriesInterval, bounds: tuple[float, ...], context: Context) -> None:
        """Take in one interval."""
        width = len(bounds)
        if width < 2 or not data.stable:
            return
        self._shape.align(bounds)
        stable = _Rows.of(data.stable, width)
        canary = _Rows.of(data.canary, width)
        if stable.requests <= 0 or not self._shape.predict(stable.counts):
            return
        pooled = [a + b for a, b in zip(stable.counts, canary.counts, strict=True)]
        scores = ridits(pooled)
        if not context.coupled:
            self._learn_noise(stable, scores)
        if context.judge and canary.requests > 0 and stable.requests > 0:
            self._judge(data, scores, context, width)
        self._shape.learn(stable.counts, stable.total / stable.requests, context.seconds)
        self._refresh()

    def _learn_noise(self, stable: _Rows, scores: Ridits) -> None:
        n_s = stable.requests
        rows = [row for row in stable.rows if row.members == 1]
        if n_s <= 0 or len(rows) < 2:
            return
        a = scores.scores
        centre = math.fsum(map(mul, stable.counts, a)) / n_s
        spread = math.fsum([c * z * z for c, z in zip(stable.counts, a, strict=True)]) / n_s - centre * centre
        tails = [tail.first if tail is not None and not self._up else 0 for tail in self._shape.tails]
        slow = [math.fsum(stable.counts[first:]) if first else 0.0 for first in tails]
        body: list[tuple[str, float, float]] = []
        tail_scores: tuple[list[tuple[str, float, float]], ...] = ([], [])
        for row in rows:
            counts = row.values[:-1]
            n = sum(counts)
            if n <= 0 or n >= n_s:
                continue
            share = n * (n_s - n) / n_s
            if spread > 1e-4:
                score = sum(map(mul, counts, a)) - n * centre
                body.append((row.pod, score / spread, share / spread))
            for first, events, into in zip(tails, slow, tail_scores, strict=True):
                if events > 0:
                    into.append((row.pod, sum(counts[first:]) - n * events / n_s, events * share / n_s))
        self._body.dispersion.add(body)
        for channel, into in zip(self._tails, tail_scores, strict=True):
            channel.dispersion.add(into)
        if self._coarse is not False:
            self._learn_mean_noise(stable, rows)

    def _learn_mean_noise(self, stable: _Rows, rows: list[PodIncrement]) -> None:
        reference = self._shape.mean
        if not math.isfinite(stable.total) or reference <= 0:
            return
        centre = stable.total / stable.requests
        found = []
        for row in rows:
            n = sum(row.values[:-1])
            if 0 < n < stable.requests and math.isfinite(row.values[-1]):
                found.append(
                    (row.pod, (row.values[-1] - n * centre) / reference, n * (1 - n / stable.requests))
                )
        variance = self._mean_variance
        if variance > 0:
            self._mean.dispersion.add(
                [(pod, score / variance, info / variance) for pod, score, info in found]
            )
        for _, score, info in found:
            self._mean_noise[0] += score * score / info
            self._mean_noise[1] += 1.0

    @property
    def _mean_variance(self) -> float:
        """Variance of one request's value in units of the mean, from stable pods; 0 while unknown."""
        total, count = self._mean_noise
        return total / count if count >= 20 else 0.0

    def _judge(self, data: SeriesInterval, whole: Ridits, context: Context, width: int) -> None:
        if self._coarse is None:
            series = self._metric.series
            forced = isinstance(series, HistogramSeries) and series.coarse
            self._coarse = (forced or self._shape.coarse) and math.isfinite(data.canary[0].values[-1])
            if not self._coarse:
                self._mean = Channel(len(_LOG_SHIFTS), _PRIOR)
        self._unusable = (
            "" if whole.usable or self._shape.massive_bounds >= 2 or self._coarse else _TOO_COARSE
        )
        seen: list[tuple[str, float, float]] = []
        for pod, c_rows, s_rows in strata(data.canary, data.stable, context.coupled):
            canary, stable = _Rows.of(c_rows, width), _Rows.of(s_rows, width)
            if canary.requests <= 0 or stable.requests <= 0:
                continue
            pooled = [a + b for a, b in zip(canary.counts, stable.counts, strict=True)]
            scores = ridits(pooled) if context.coupled else whole
            score, info = self._add_body(canary, stable, pooled, scores, context)
            seen.append((pod, score, info))
            for channel, tail in zip(self._tails, self._shape.tails, strict=True):
                if tail is not None and not self._up:
                    self._add_tail(channel, tail, canary, stable, context)
            if self._coarse:
                self._add_mean(canary, stable, context)
        if context.coupled and seen:
            self._body.dispersion.contrast = False
            self._body.dispersion.add([row for row in seen if row[2] > 0])
        self.exposure.add(
            [(row.pod, row.members, sum(row.values[:-1])) for row in data.canary],
            [(row.pod, row.members, sum(row.values[:-1])) for row in data.stable],
            context.coupled,
        )

    def _add_body(
        self, canary: _Rows, stable: _Rows, pooled: list[float], scores: Ridits, context: Context
    ) -> tuple[float, float]:
        slope = self._shape.slope
        if slope < _MIN_SLOPE or not scores.usable:
            return 0.0, 0.0
        observed = math.fsum(map(mul, canary.counts, scores.scores))
        if self._up:
            observed = -observed
        null = slope * (self._margin + context.slack)
        growth = _above(body_growth, slope, null, observed, canary.requests, pooled, scores)
        score = observed / scores.spread
        info = canary.requests * stable.requests / scores.total / scores.spread
        self._body.add(growth, score, info)
        if context.certify:
            limit = slope * self._tolerance
            self._body.add_proof(limit * (0.5 * limit * info - score), info)
        return score, info

    def _add_tail(self, channel: Channel, tail: Tail, canary: _Rows, stable: _Rows, context: Context) -> None:
        e_c, e_s = math.fsum(canary.counts[tail.first :]), math.fsum(stable.counts[tail.first :])
        n_c, n_s = canary.requests, stable.requests
        null = tail.hazard * (self._margin + context.slack)
        bets = [null + tail.hazard * shift for shift in _LOG_SHIFTS]
        share = n_c / (n_c + n_s)
        errors = e_c + e_s
        channel.add(
            count_growth(e_c, e_s, n_c, n_s, bets, null), e_c - errors * share, errors * share * (1 - share)
        )
        if context.certify:
            limit = max(math.log(_TAIL_TOLERANCE), tail.hazard * self._tolerance)
            (growth,) = count_growth(e_c, e_s, n_c, n_s, (0.0,), limit)
            outside = n_c * math.exp(limit) / (n_c * math.exp(limit) + n_s)
            channel.add_proof(growth, errors * outside * (1 - outside))

    def _add_mean(self, canary: _Rows, stable: _Rows, context: Context) -> None:
        variance, reference = self._mean_variance, self._shape.mean
        difference = canary.total / canary.requests - stable.total / stable.requests
        if variance <= 0 or reference <= 0 or not math.isfinite(difference):
            return
        info = canary.requests * stable.requests / (canary.requests + stable.requests) / variance
        shift = difference / reference * (-1.0 if self._up else 1.0)
        null = math.expm1(self._margin + context.slack)
        bets = [null + math.expm1(step) for step in _LOG_SHIFTS]
        score = shift * info
        self._mean.add(
            [(bet - null) * score - 0.5 * (bet * bet - null * null) * info for bet in bets], score, info
        )
        if context.certify:
            limit = math.expm1(self._tolerance)
            self._mean.add_proof(limit * (0.5 * limit * info - score), info)

    # -- what it says -------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        spread = self.exposure.spread
        first, second = (tail.hazard if tail is not None else 1.0 for tail in self._shape.tails)
        self._noise = [
            (self.exposure.phi(channel.dispersion.phi), channel.dispersion.tau2(slope) * spread)
            for channel, slope in zip(self._channels, (self._shape.slope, first, second, 1.0), strict=True)
        ]
        self._set_least()

    def _set_least(self) -> None:
        """Exceedances come in bursts that outlast an interval and are skewed: stricter than for errors."""
        for number, tail in enumerate(self._shape.tails, 1):
            hazard = tail.hazard if tail is not None else 1.0
            bets = [hazard * shift for shift in _LOG_SHIFTS]
            self._least[number] = burst_divisors(self._noise[number][0], bets, _TAIL_PRODUCT)

    @property
    def _channels(self) -> tuple[Channel, ...]:
        return (self._body, *self._tails, self._mean)

    @property
    def _shown(self) -> Shown:
        if self._coarse:
            return Shown(self._mean, 1.0, *self._noise[3])
        return Shown(self._body, max(self._shape.slope, _MIN_SLOPE), *self._noise[0])

    @property
    def _weights(self) -> tuple[float, ...]:
        if self._up:
            return _WEIGHTS_UPWARD
        return _WEIGHTS_COARSE if self._coarse else _WEIGHTS

    def evidence(self, start: int) -> float:
        """Harm evidence since a restart (-1: since the beginning)."""
        return math.fsum(self._held(start))

    def _held(self, start: int) -> list[float]:
        rows = zip(self._weights, self._channels, self._noise, self._least, strict=True)
        return [w * c.evidence(start, *noise, least) if w else 0.0 for w, c, noise, least in rows]

    def part(self, start: int) -> str:
        """Which part of the distribution holds most of the harm evidence since a start."""
        held = self._held(start)
        return _PARTS[held.index(max(held))]

    def proof(self) -> float:
        """Evidence that the metric is within tolerance: body and slowest tenth, or the mean."""
        if self._coarse:
            return self._mean.proof_evidence(*self._noise[3])
        body = self._body.proof_evidence(*self._noise[0])
        if self._up or self._tails[0].proof_info <= 0:
            return body
        return min(body, self._tails[0].proof_evidence(*self._noise[1]))

    def effect(self, start: int, alpha: float) -> Effect | None:
        """Relative change of a typical request, from the rank shift (or from the mean if coarse)."""
        shown = self._shown
        x, info = shown.channel.since(start)
        slope = self._shape.slope
        if info <= 0 or (slope < _MIN_SLOPE and not self._coarse):
            return None
        kappa = 0.2 * (1.0 if self._coarse else slope)
        radius = interval_radius(info, shown.phi * info + shown.sigma2 * info * info, kappa, alpha)
        shift = x / info
        points = [Link.linear(v) if self._coarse else Link.probit(v, slope) for v in _around(shift, radius)]
        result = Effect(estimate=points[1], low=points[0], high=points[2])
        return result.mirrored() if self._up else result

    def multiples(self, log_abort: float, log_pass: float) -> tuple[float, float]:
        """How many times the data seen so far abort and pass are expected to need at this shift."""
        shown = self._shown
        channel, phi, sigma2 = shown.channel, shown.phi, shown.sigma2
        slope = 1.0 if self._coarse else self._shape.slope
        x, info = channel.since(-1)
        if info <= 0:
            return math.inf, math.inf
        shift = x / info
        harm = harm_information(shift - slope * self._margin, log_abort, phi, sigma2) / info
        limit = slope * self._tolerance
        certified = channel.proof_info
        if certified <= 0:
            return harm, math.inf
        passing = proof_information(limit, shift, log_pass, phi, sigma2) / certified
        if not self._coarse and not self._up and self._tails[0].proof_info > 0:
            passing = max(passing, self._tail_multiple(log_pass))
        return harm, passing

    def _tail_multiple(self, log_pass: float) -> float:
        tail, (phi, sigma2) = self._tails[0], self._noise[1]
        gain = tail.proof / tail.proof_info - log_pass * sigma2
        return log_pass * phi / gain / tail.proof_info if gain > 0 else math.inf

    # -- bookkeeping --------------------------------------------------------------------------------------

    @property
    def warning(self) -> str:  # type: ignore[override]  # a constant in most tests
        """What keeps the histogram from being judged, empty when nothing does."""
        if len(self._shape.bounds) and len(self._shape.bounds) < 3:
            return "fewer than three bucket bounds in common"
        return self._unusable

    def dump(self) -> list[object]:
        """Plain values for the checkpoint."""
        channels = [channel.dump() for channel in self._channels]
        state = [self._coarse, self._unusable, self._mean_noise, [list(pair) for pair in self._noise]]
        return [self.exposure.dump(), self._shape.dump(), channels, state]

    def load(self, raw: Any) -> None:
        """Inverse of `dump`."""
        exposure, shape, channels, (self._coarse, self._unusable, mean_noise, noise) = raw
        self.exposure.load(exposure)
        self._shape.load(shape)
        for channel, dumped in zip(self._channels, channels, strict=True):
            channel.load(dumped)
        self._mean_noise = list(mean_noise)
        self._noise = [(phi, sigma2) for phi, sigma2 in noise]
        self._set_least()


def _around(shift: float, radius: float) -> tuple[float, float, float]:
    return shift - radius, shift, shift + radius


def _above(
    body: Any, slope: float, null: float, observed: float, n_c: float, pooled: Sequence[float], scores: Ridits
) -> list[float]:
    """Growth of the bets beyond the null, against the null."""
    bets = [null + slope * shift for shift in _LOG_SHIFTS]
    if null == 0.0:
        growth: list[float] = body(bets, observed, n_c, pooled, scores)
        return growth
    *growth, base = body([*bets, null], observed, n_c, pooled, scores)
    return [value - base for value in growth]
