"""Simulated rollouts: a scenario and a seed in, scrapes of cumulative counters out.

Time to first token is lognormal (sigma 0.7, median 0.37 to 0.67 s following load cubed) in vLLM's buckets; the
load swings by 35 % on a three-hour cycle with AR(1) noise; a common AR(1) shock moves every pod. On top come, by
scenario: lasting pod effects, per-pod AR(1) shocks, gamma error bursts, lasting pod error rates, counter resets,
missing scrapes, pods that come and go with a slow first minute, sticky users, changing weights.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from rollouts.analysis.evidence.model import Arm, HistogramSample, Mark, PodSample, Scrape

__all__ = ["BOUNDS", "Harm", "Noise", "Scenario", "scrapes"]

BOUNDS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0, math.inf,
)  # fmt: skip
_LOGS = [math.log(bound) for bound in BOUNDS[:-1]]
_SIGMA = 0.7
_ROOT2 = math.sqrt(2.0)
_ERRORS = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Standard deviations are of log latency; `burst` is the gamma shape of the error rate, 0 for none."""

    pod: float = 0.0
    shock: float = 0.0
    shock_ar: float = 0.5
    burst: float = 0.0
    pod_errors: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Harm:
    """What is wrong with the canary from `onset` seconds on."""

    slower: float = 0.0
    tail_share: float = 0.0
    tail_factor: float = 4.0
    error_rate: float = _ERRORS
    onset: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One row of the study."""

    name: str
    rate: float = 20.0
    weights: tuple[tuple[float, float], ...] = ((0.0, 0.10),)
    canary: int = 2
    stable: int = 18
    noise: Noise = field(default_factory=Noise)
    harm: Harm = field(default_factory=Harm)
    resets: float = 0.0
    missing: float = 0.0
    scaling: bool = False
    cold: bool = False
    """Canary pods start with the rollout and are slow for 90 seconds: caches are empty."""
    users: int = 0
    minutes: int = 60
    history_minutes: int = 60

    @property
    def marks(self) -> tuple[Mark, ...]:
        """The weight steps."""
        return tuple(Mark(at=at, step=i, weight=w) for i, (at, w) in enumerate(self.weights))


class _Pod:
    """Counters and noise of one simulated pod."""

    def __init__(
        self, rng: random.Random, scenario: Scenario, arm: Arm, name: str, born: float | None
    ) -> None:
        noise = scenario.noise
        self.arm, self.name, self.born = arm, name, born
        self.effect = rng.gauss(0.0, noise.pod) if noise.pod else 0.0
        self.error_factor = math.exp(rng.gauss(0.0, noise.pod_errors)) if noise.pod_errors else 1.0
        self.shock = rng.gauss(0.0, noise.shock) if noise.shock else 0.0
        self.zero()

    def zero(self) -> None:
        self.requests = 0
        self.errors = 0
        self.cumulative = [0] * len(BOUNDS)
        self.sum = 0.0

    def sample(self) -> PodSample:
        histogram = HistogramSample(bounds=BOUNDS, cumulative=tuple(self.cumulative), sum=self.sum)
        return PodSample(
            arm=self.arm,
            pod=self.name,
            counters={"requests": self.requests, "errors": self.errors},
            histograms={"ttft": histogram},
            started=self.born,
        )


def poisson(rng: random.Random, mean: float) -> int:
    """One Poisson draw: inversion for small means, rounded normal above 40."""
    if mean <= 0.0:
        return 0
    if mean > 40.0:
        return max(0, round(rng.gauss(mean, math.sqrt(mean))))
    u = rng.random()
    term = total = math.exp(-mean)
    k = 0
    while u > total and k < 200:
        k += 1
        term *= mean / k
        total += term
    return k


def _cdf(mu: float) -> list[float]:
    scale = 1.0 / (_SIGMA * _ROOT2)
    erf = math.erf
    return [0.5 + 0.5 * erf((b - mu) * scale) for b in _LOGS]


def _serve(
    rng: random.Random, pod: _Pod, requests: float, mu: float, tail: tuple[float, float], rate: float
) -> None:
    """Add one interval of traffic to a pod's counters."""
    share, factor = tail
    cdf = _cdf(mu)
    if share:
        slow = _cdf(mu + math.log(factor))
        cdf = [(1 - share) * a + share * b for a, b in zip(cdf, slow, strict=True)]
    below = 0.0
    running = 0
    counts = pod.cumulative
    for k, value in enumerate(cdf):
        mass = (value - below) * requests
        below = value
        if mass > 1e-4:
            running += poisson(rng, mass)
        counts[k] += running
    rest = (1.0 - below) * requests
    if rest > 1e-4:
        running += poisson(rng, rest)
    counts[-1] += running
    pod.requests += running
    pod.errors += min(poisson(rng, running * rate), running)
    pod.sum += running * math.exp(mu + 0.5 * _SIGMA**2) * (1.0 + share * (factor - 1.0))


class _World:
    """State of one simulated rollout."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        self.rng = random.Random(seed)
        self.pods = [_Pod(self.rng, scenario, Arm.STABLE, f"s{i}", None) for i in range(scenario.stable)]
        self.phase = self.rng.uniform(0.0, 2 * math.pi)
        self.load_noise = 0.0
        self.common = 0.0
        self.made = scenario.stable

    def step(self, now: float, weight: float) -> None:
        """Serve the interval that ends at `now`."""
        rng, scenario, noise = self.rng, self.scenario, self.scenario.noise
        self.load_noise = 0.8 * self.load_noise + rng.gauss(0.0, 0.05)
        self.common = 0.8 * self.common + rng.gauss(0.0, 0.06)
        load = (1 + 0.35 * math.sin(self.phase + 2 * math.pi * now / 10800)) * math.exp(self.load_noise)
        median = 0.37 + 0.30 * min(max((load - 0.65) / 0.7, 0.0), 1.3) ** 3
        base = math.log(median) + self.common
        arms = {arm: [pod for pod in self.pods if pod.arm is arm] for arm in Arm}
        keep = math.sqrt(1 - noise.shock_ar**2)
        for pod in self.pods:
            canary = pod.arm is Arm.CANARY
            share = weight if canary else 1 - weight
            requests = scenario.rate * load * 30.0 * share / len(arms[pod.arm])
            if noise.shock:
                pod.shock = noise.shock_ar * pod.shock + keep * rng.gauss(0.0, noise.shock)
            mu = base + pod.effect + pod.shock
            rate = _ERRORS
            tail = (0.0, 1.0)
            if canary and now > scenario.harm.onset:
                mu += math.log1p(scenario.harm.slower)
                rate = scenario.harm.error_rate
                tail = (scenario.harm.tail_share, scenario.harm.tail_factor)
            if pod.born is not None and now - pod.born <= 90:
                mu += 0.5
            if noise.burst:
                rate *= rng.gammavariate(noise.burst, 1 / noise.burst)
            _serve(rng, pod, requests, mu + self._user_shift(pod), tail, min(rate * pod.error_factor, 0.9))

    def _user_shift(self, pod: _Pod) -> float:
        """Sticky users: a few heavy ones at a time set a pod's prompt mix for the interval."""
        users = self.scenario.users
        return self.rng.gauss(0.0, 0.5 / math.sqrt(users)) if users else 0.0

    def upset(self, now: float) -> None:
        """Resets and autoscaling."""
        scenario, rng = self.scenario, self.rng
        for pod in self.pods:
            if scenario.resets and rng.random() < scenario.resets:
                pod.zero()
        if scenario.scaling and now % 600 == 0:
            stable = [pod for pod in self.pods if pod.arm is Arm.STABLE]
            if rng.random() < 0.5 and len(stable) > scenario.stable - 3:
                self.pods.remove(stable[0])
            else:
                self.pods.append(_Pod(rng, scenario, Arm.STABLE, f"s{self.made}", now))
                self.made += 1

    def admit_canary(self) -> None:
        for i in range(self.scenario.canary):
            born = 0.0 if self.scenario.cold else None
            self.pods.append(_Pod(self.rng, self.scenario, Arm.CANARY, f"c{i}", born))

    def scrape(self, at: float) -> Scrape:
        missing = self.scenario.missing
        seen = [p.sample() for p in self.pods if not missing or self.rng.random() >= missing]
        return Scrape(at=at, pods=tuple(seen))


def scrapes(scenario: Scenario, seed: int) -> Iterator[Scrape]:
    """The scrapes of one rollout, history first; t = 0 is the first weight."""
    world = _World(scenario, seed)
    for index in range(-scenario.history_minutes * 2, scenario.minutes * 2 + 1):
        now = index * 30.0
        weights = [w for at, w in scenario.weights if at < now]
        if index > -scenario.history_minutes * 2:
            world.upset(now)
            world.step(now, weights[-1] if index > 0 else 0.0)
        if index == 0:
            world.admit_canary()
        yield world.scrape(now)
