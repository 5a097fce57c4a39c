"""Before the rollout: how long each gate will take, and the smallest regression it can prove.

Closed forms with the engine's own constants; noise comes from a history recording or from priors. The times are
expectations for a healthy canary (pass) and for a canary that is worse by a given amount (abort).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rollouts.analysis.backtest import finite
from rollouts.analysis.comparisons import evidence_spec
from rollouts.analysis.evidence.counts import CountTest
from rollouts.analysis.evidence.effect import (
    MIXING_PRICE,
    Pace,
    detectable,
    harm_information,
    proof_information,
    smallest_provable,
)
from rollouts.analysis.evidence.histogram import HistogramTest
from rollouts.analysis.evidence.model import (
    Arm,
    CompareMetric,
    CountSeries,
    EvidenceSpec,
    GaugeSeries,
    HistogramSeries,
    OnUndecided,
    Require,
    comparable,
    judged_with_one_pod,
)
from rollouts.analysis.evidence.process import EvidenceProcess
from rollouts.analysis.evidence.words import SINGLE_POD
from rollouts.analysis.recording import Recording, RecordingError
from rollouts.analysis.types import Comparison
from rollouts.units import percent

__all__ = [
    "Forecast",
    "GatePlan",
    "PlannedGate",
    "plan_gate",
    "plan_rollout",
    "planned_gates",
    "traffic_of",
]

_SPREAD = 0.078
_SLOPE = 0.38
_TAIL_SHARE = 0.10
_TAIL_HAZARD = 2.5
_TAIL_TOLERANCE = 1.5
_GAUGE_MINUTES = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What the gates will see. `rate` in requests per second over both arms.

    `canary_pods` None: as many as the readiness rule asks for, half of the weight's share of the stable pods.
    `latency_phi`, `error_phi`: overdispersion; `pod_sd`, `pod_error_sd`: lasting differences between pods (log).
    """

    rate: float
    stable_pods: int
    canary_pods: int | None = None
    coupled: bool = False
    error_rate: float = 0.005
    latency_phi: float = 1.5
    error_phi: float = 1.3
    pod_sd: float = 0.05
    pod_error_sd: float = 0.25
    slope: float = _SLOPE
    from_history: bool = False

    def canary_at(self, weight: float) -> int:
        """Canary pods at a weight."""
        if self.coupled:
            return self.stable_pods
        return self.canary_pods or max(1, math.ceil(weight * self.stable_pods * 0.5))

    def pods_spread(self, weight: float, factor: int = 1) -> float:
        """1/Kc + 1/Ks, with `factor` times the canary pods."""
        canary = 1.0 / (factor * self.canary_at(weight))
        return canary if self.coupled else canary + 1.0 / self.stable_pods


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedGate:
    """A gate of the rollout: step (from 0, None for the background), the weight in force, its metric."""

    step: int | None
    weight: float
    metric: CompareMetric
    spec: EvidenceSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class GatePlan:
    """Expected minutes (infinite: never) and what can be proven."""

    gate: PlannedGate
    minutes_to_pass: float
    harm: tuple[tuple[float, float], ...]
    smallest_ever: float
    smallest_in_an_hour: float
    smallest_with_twice_the_pods: float
    comparable: bool = True

    @property
    def words(self) -> str:
        """One gate in two sentences."""
        metric = self.gate.metric
        where = "background" if self.gate.step is None else f"step {self.gate.step + 1}"
        if not self.comparable:
            return f"{where} at {self.gate.weight:.3g} of the traffic, {metric.name}: {self._not_compared()}."
        passes = (
            f"passes a healthy canary after about {self.minutes_to_pass:.0f} min"
            if self.minutes_to_pass < math.inf
            else f"can never prove {percent(metric.tolerance)} with these pods"
        )
        found = ", ".join(
            f"{percent(size)} {'in about ' + format(minutes, '.0f') + ' min' if minutes < math.inf else 'never'}"
            for size, minutes in self.harm
        )
        return (
            f"{where} at {self.gate.weight:.3g} of the traffic, {metric.name} ({metric.require.value}): {passes}; "
            f"finds {found}. Smallest regression it can ever prove {percent(self.smallest_ever)}, within an hour "
            f"{percent(self.smallest_in_an_hour)}, with twice the canary pods "
            f"{percent(self.smallest_with_twice_the_pods)}."
        )

    def _not_compared(self) -> str:
        """What `evidence.gates.judge` does with it."""
        metric = self.gate.metric
        if self.minutes_to_pass < math.inf:
            return (
                f"not compared with a single stable pod; passes after about {self.minutes_to_pass:.0f} min when errors "
                "and what was lost show no harm"
            )
        ends = "fails" if metric.on_undecided is OnUndecided.FAIL else "waits for a person (`promote`)"
        return f"never passes, {ends} after {metric.min_dwell / 60.0:.0f} min: {SINGLE_POD}"

    def to_json(self) -> dict[str, object]:
        """Plain values; infinite becomes null."""
        return {
            "step": self.gate.step,
            "weight": self.gate.weight,
            "name": self.gate.metric.name,
            "require": self.gate.metric.require.value,
            "minutesToPass": finite(self.minutes_to_pass),
            "minutesToFind": [{"effect": size, "minutes": finite(minutes)} for size, minutes in self.harm],
            "smallestProvable": finite(self.smallest_ever),
            "smallestInAnHour": finite(self.smallest_in_an_hour),
            "smallestWithTwiceTheCanaryPods": finite(self.smallest_with_twice_the_pods),
            "words": self.words,
        }


def traffic_of(recording: Recording, spec: EvidenceSpec, canary_pods: int | None = None) -> Forecast:
    """Rate, pods and noise of a recording's stable pods; raises RecordingError when it holds too little."""
    process = EvidenceProcess(spec)
    for scrape in recording.scrapes:
        process.observe(scrape)
    process.finish()
    total, errors = _counted(recording, spec.load_counter), _counted(recording, "errors")
    seconds = recording.scrapes[-1].at - recording.scrapes[0].at if recording.scrapes else 0.0
    if total <= 0 or seconds <= 0:
        raise RecordingError(
            f"the recording has no counter {spec.load_counter!r} that rises; give --rate instead"
        )
    pods = max(sum(1 for p in scrape.pods if p.arm is Arm.STABLE) for scrape in recording.scrapes)
    return _with_noise(process, total / seconds, pods, errors / total, canary_pods)


def _counted(recording: Recording, counter: str) -> float:
    """Rise of a counter over all pods, falls left out."""
    total = 0.0
    last: dict[tuple[Arm, str], float] = {}
    for scrape in recording.scrapes:
        for pod in scrape.pods:
            value = pod.counters.get(counter, math.nan)
            if math.isfinite(value):
                total += max(value - last.get((pod.arm, pod.pod), value), 0.0)
                last[pod.arm, pod.pod] = value
    return total


def _with_noise(
    process: EvidenceProcess, rate: float, pods: int, error_rate: float, canary_pods: int | None
) -> Forecast:
    latency = [t for t in process.tests if isinstance(t, HistogramTest) and t.noise_pods]
    counts = [t for t in process.tests if isinstance(t, CountTest) and t.noise_pods]
    return Forecast(
        rate=rate,
        stable_pods=pods,
        canary_pods=canary_pods,
        error_rate=error_rate,
        latency_phi=max([t.phi for t in latency], default=1.5),
        pod_sd=max([math.sqrt(t.log_tau2) for t in latency], default=0.05),
        slope=latency[0].pace.slope if latency else _SLOPE,
        error_phi=max([t.phi for t in counts], default=1.3),
        pod_error_sd=max([math.sqrt(t.log_tau2) for t in counts], default=0.25),
        from_history=True,
    )


def planned_gates(
    comparisons: Sequence[Comparison], weights: Sequence[float], rate: float
) -> list[PlannedGate]:
    """The gates of an attempt in order, the background's last; what only informs holds none. Raises GatesError.

    ``weights`` are those in force at each step (fractions), ``rate`` bounds the attempt's false aborts.
    """
    if not comparisons:
        return []
    spec = evidence_spec(comparisons, rate)
    heaviest = max((weight for weight in weights if weight < 1), default=0.0)
    found = [
        PlannedGate(step=step, weight=heaviest if step is None else weights[step], metric=metric, spec=spec)
        for item, metric in zip(comparisons, spec.metrics, strict=True)
        if not metric.advisory and metric.weight != 0.0
        for step in item.steps or (None,)
    ]
    return sorted(found, key=lambda gate: math.inf if gate.step is None else gate.step)


def plan_rollout(gates: Sequence[PlannedGate], traffic: Forecast) -> tuple[GatePlan, ...]:
    """Every gate that carries traffic."""
    return tuple(plan_gate(gate, traffic) for gate in gates if 0 < gate.weight < 1)


def plan_gate(gate: PlannedGate, traffic: Forecast) -> GatePlan:
    """Expected times of one gate at its own weight, as if it began there."""
    metric, weight = gate.metric, gate.weight
    waiting = max(metric.min_dwell / 60.0, metric.min_requests / (60.0 * traffic.rate * weight))
    if not comparable(metric.series, traffic.stable_pods, coupled=traffic.coupled):
        weaker = metric.on_undecided is OnUndecided.PROMOTE_IF_NO_HARM and judged_with_one_pod(
            gate.spec.metrics
        )
        return GatePlan(
            gate=gate,
            minutes_to_pass=waiting if weaker else math.inf,
            harm=tuple((size, math.inf) for size in (0.1, 0.2, 0.5)),
            smallest_ever=math.inf,
            smallest_in_an_hour=math.inf,
            smallest_with_twice_the_pods=math.inf,
            comparable=False,
        )
    match metric.series:
        case CountSeries():
            pace = _count_pace(traffic, weight)
        case HistogramSeries() | GaugeSeries():
            pace = _latency_pace(traffic, weight)
    log_abort, log_pass = math.log(gate.spec.abort_at), math.log(gate.spec.pass_at)
    passing = waiting
    if metric.require is Require.WITHIN_TOLERANCE:
        passing = max(waiting, _minutes_to_pass(metric, traffic, weight, pace, log_pass))
    if isinstance(metric.series, GaugeSeries):
        passing = max(passing, _GAUGE_MINUTES)
    sizes = (0.2, 0.5, 1.0, 9.0) if isinstance(metric.series, CountSeries) else (0.1, 0.2, 0.5)
    tau2 = (pace.sigma2 / traffic.pods_spread(weight)) / pace.slope**2
    return GatePlan(
        gate=gate,
        minutes_to_pass=passing,
        harm=tuple(
            (size, _minutes_to_find(metric, traffic, weight, pace, size, log_abort)) for size in sizes
        ),
        smallest_ever=smallest_provable(log_abort, tau2, traffic.pods_spread(weight)),
        smallest_in_an_hour=detectable(pace, pace.info * 60.0, log_abort),
        smallest_with_twice_the_pods=smallest_provable(log_abort, tau2, traffic.pods_spread(weight, 2)),
    )


def _latency_pace(traffic: Forecast, weight: float) -> Pace:
    """`info` is per minute."""
    share = 60.0 * traffic.rate * weight * (1 - weight)
    sigma2 = (traffic.slope * traffic.pod_sd) ** 2 * traffic.pods_spread(weight)
    return Pace(info=share / _SPREAD, slope=traffic.slope, phi=traffic.latency_phi, sigma2=sigma2)


def _count_pace(traffic: Forecast, weight: float) -> Pace:
    share = 60.0 * traffic.rate * traffic.error_rate * weight * (1 - weight)
    sigma2 = traffic.pod_error_sd**2 * traffic.pods_spread(weight)
    return Pace(info=share, slope=1.0, phi=traffic.error_phi, sigma2=sigma2)


def _minutes_to_pass(
    metric: CompareMetric, traffic: Forecast, weight: float, pace: Pace, log_pass: float
) -> float:
    if isinstance(metric.series, CountSeries):
        level = log_pass + math.log(2.0)
        relative = _ratio_minutes(
            traffic.error_rate, math.log1p(metric.tolerance), traffic, weight, pace.phi, pace.sigma2, level
        )
        return min(relative, _floor_minutes(metric, traffic, weight, level))
    limit = pace.slope * math.log1p(metric.tolerance)
    body = proof_information(limit, 0.0, log_pass, pace.phi, pace.sigma2) / pace.info
    if isinstance(metric.series, GaugeSeries):
        return body
    ratio = max(math.log(_TAIL_TOLERANCE), _TAIL_HAZARD * math.log1p(metric.tolerance))
    sigma2 = (_TAIL_HAZARD * traffic.pod_sd) ** 2 * traffic.pods_spread(weight)
    return max(body, _ratio_minutes(_TAIL_SHARE, ratio, traffic, weight, 1.3, sigma2, log_pass))


def _ratio_minutes(
    share: float,
    log_ratio: float,
    traffic: Forecast,
    weight: float,
    phi: float,
    sigma2: float,
    level: float,
) -> float:
    """Minutes until equal rates are shown to differ by less than the ratio."""
    events = 60.0 * traffic.rate * share
    ratio = math.exp(log_ratio)
    growth = events * (math.log(weight * ratio + 1 - weight) - weight * log_ratio)
    outside = weight * ratio / (weight * ratio + 1 - weight)
    gain = growth - level * sigma2 * events * outside * (1 - outside)
    return level * phi / gain if gain > 0 else math.inf


def _floor_minutes(metric: CompareMetric, traffic: Forecast, weight: float, level: float) -> float:
    """Minutes until a rate below the floor is shown to be."""
    p, floor = traffic.error_rate, metric.floor
    bet = floor / 3
    growth = p * math.log(bet / floor) + (1 - p) * math.log((1 - bet) / (1 - floor))
    return level * traffic.error_phi / (60.0 * traffic.rate * weight * growth) if growth > 0 else math.inf


def _minutes_to_find(
    metric: CompareMetric, traffic: Forecast, weight: float, pace: Pace, size: float, log_abort: float
) -> float:
    distance = math.log1p(size) - math.log1p(metric.margin)
    if not isinstance(metric.series, CountSeries):
        return harm_information(pace.slope * distance, log_abort, pace.phi, pace.sigma2) / pace.info
    level = log_abort + MIXING_PRICE
    if distance <= 0 or 0.5 * distance * distance <= level * pace.sigma2:
        return math.inf
    rho = math.exp(distance)
    needed = level * pace.phi * rho / (rho * distance - rho + 1)
    return needed / (60.0 * traffic.rate * weight * traffic.error_rate * (1 + size))
