"""The evidence process of one attempt: collect, judge one interval late, restart, combine, decide.

E_total = sum over starts of share x (sum over metrics of weight x E). Averages of e-values are e-values under
any dependence (Vovk & Wang 2021), so there is no correction per metric, step or look; the chance that a
healthy canary ever reaches 1/rate is at most the rate (Ville 1939).

Late regressions: an e-process that began at minute 0 remembers the good half hour. Half of the stake starts
with the attempt; at each weight step and every ten minutes a fifth of what is left starts anew, and what has
not started yet is worth its stake. When all slots are taken the oldest restart is cashed in.

What was lost has no share at first (see `sleeping`). The interval after the first loss of either arm is a restart
in which it has one: a stake that was not yet placed is bet on what was known before, which keeps the bound.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rollouts.analysis.evidence.collect import Collector, Interval, PodIncrement, SeriesInterval
from rollouts.analysis.evidence.counts import CountTest
from rollouts.analysis.evidence.gauges import GaugeTest
from rollouts.analysis.evidence.histogram import HistogramTest
from rollouts.analysis.evidence.lost import LostTest
from rollouts.analysis.evidence.metric_tests import (
    MetricTest,
    build_test,
    metric_weights,
    mix_metrics,
    room,
    series_of,
    sleeping,
)
from rollouts.analysis.evidence.model import (
    Arm,
    EvidenceSpec,
    Exclusion,
    Mark,
    Scrape,
    comparable,
)
from rollouts.analysis.evidence.noise import Context
from rollouts.analysis.evidence.packing import dump_interval, load_interval

__all__ = ["EvidenceProcess", "Guards", "Start"]

_RESTART_EVERY = 600.0
"""Seconds: a late regression is then found as fast as an early one, within some ten minutes."""
_STAKE_FIRST = 0.5
"""Of the whole stake: the attempt as a whole gives log 2 away for what restarts may find."""
_STAKE_NEXT = 0.2
"""Of what is left: the tenth restart still has 13 % of what the first had."""
_LOAD_TOLERANCE = 1.2
"""Load per pod over that of stable up to which latency is compared as it is: gateways balance no better."""
_LOAD_ELASTICITY = 2.0
"""Latency may grow with the square of the load: queueing below saturation grows no faster."""
_LOAD_MEMORY = 600.0
"""Seconds in which the ratio of loads is averaged: twenty intervals, so that chance is a few percent."""
_ROUTING_FACTOR = 3.0
"""Times off the weight: neither chance (20 requests are asked for) nor sessions explain more."""


@dataclass(slots=True)
class Start:
    """One start of the restart mixture."""

    at: float
    share: float
    awake: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Guards:
    """What makes a verdict weaker than its evidence.

    `missing` is the larger recent share of missing scrapes of the arms, `load_ratio` requests per canary pod
    over requests per stable pod, `mix_evidence` the evidence that prompts differ between the arms,
    `misrouted` the number of intervals dropped because the realised share was more than three times off;
    `canary_stands`: requests are in flight on the canary, and its engines generate nothing.
    """

    missing: float
    load_ratio: float
    mix_evidence: float
    stable_pods: int
    canary_pods: int
    misrouted: int
    restarts: int
    canary_stands: bool
    history: bool


class EvidenceProcess:
    """All evidence of one attempt. Feed `observe`, read `evidence`, `contribution` and the metric tests."""

    def __init__(self, spec: EvidenceSpec, *, pod_limit: int | None = None) -> None:
        self.spec = spec
        self.tests: tuple[MetricTest, ...] = tuple(build_test(metric) for metric in spec.metrics)
        self.weights = metric_weights(spec.metrics)
        self._woken = metric_weights(spec.metrics, awake=True)
        self._sleeping = sleeping(spec.metrics)
        self._awake = False
        self._mix = tuple(HistogramTest(metric) for metric in mix_metrics(spec.mix_histogram))
        limit, self._slots = room(len(spec.metrics) - sum(self._sleeping))
        if pod_limit is not None:
            limit = pod_limit
        self._collector = Collector(spec, series_of(spec), limit)
        self._pending: Interval | None = None
        self._marks: tuple[Mark, ...] = ()
        self._exclusions: tuple[Exclusion, ...] = ()
        self.began: float | None = None
        self.judged_until: float | None = None
        self.heard_until: float | None = None
        """End of the last interval in which the canary was heard of."""
        self.unheard = 0.0
        """Canary requests that the weight lets expect since it was last heard of, a lower bound."""
        self.history_seconds = 0.0
        self.judged_seconds = 0.0
        self._starts: list[Start] = []
        self._cash = 1.0 - _STAKE_FIRST
        self._marked = 0
        self._load = [0.0, 0.0, 0.0, 0.0]
        self._pods = (0, 0)
        self._misrouted = 0
        self.requests_at_mark: list[tuple[float, list[float]]] = []
        self._cache: tuple[list[float], float] | None = None

    # -- input --------------------------------------------------------------------------------------------

    def schedule(self, marks: Sequence[Mark], exclusions: Sequence[Exclusion]) -> None:
        """Tell the process the weight steps and excluded times known so far; call it before `observe`."""
        self._marks = tuple(sorted(marks, key=lambda mark: mark.at))
        self._exclusions = tuple(exclusions)

    def observe(self, scrape: Scrape) -> bool:
        """Take in one evaluation time. The interval before the one it ends is judged now; True if one was."""
        interval = self._collector.observe(scrape, self._odds(scrape.at))
        if interval is None:
            return False
        ready, self._pending = self._pending, interval
        if ready is None:
            return False
        self._absorb(ready)
        return True

    def finish(self) -> bool:
        """Judge the last interval: nothing more can be learned about it."""
        ready, self._pending = self._pending, None
        if ready is None:
            return False
        self._absorb(ready)
        return True

    def _odds(self, now: float) -> float:
        """Requests that the canary should have had since the last scrape for each of stable's; 0: not known."""
        since = self._collector.accepted
        if since is None or any(e.start < now and since < e.end for e in self._exclusions):
            return 0.0
        weight = min(self._weights_during(since, now), default=0.0)
        return weight / (1.0 - weight) if weight < 1.0 else 0.0

    # -- one interval -------------------------------------------------------------------------------------

    def _absorb(self, interval: Interval) -> None:
        self._cache = None
        self.judged_until = interval.end
        for arm, pod in interval.gone:
            for test in (*self.tests, *self._mix):
                test.forget(arm, pod)
        if any(e.start < interval.end and interval.start < e.end for e in self._exclusions):
            return
        context = self._context(interval)
        if context is None:
            return
        if context.judge:
            self._restart(interval)
            self.judged_seconds += context.seconds
        elif self.began is None:
            self.history_seconds += context.seconds
        width = len(self.tests)
        for index, test in enumerate(self.tests):
            test.absorb(interval.series[index], interval.bounds[index], self._for(index, context))
        for test in self._mix:
            test.absorb(interval.series[width + 1], interval.bounds[width + 1], context)

    def _for(self, index: int, context: Context) -> Context:
        """With a single stable pod only counts are judged: lasting pod differences cannot be seen."""
        if not comparable(self.spec.metrics[index].series, self._pods[0], coupled=context.coupled):
            return Context(seconds=context.seconds, judge=False)
        return context

    def _context(self, interval: Interval) -> Context | None:
        """What is known about the interval; None when traffic was not where the weight says."""
        load = self._load_rows(interval)
        stable, canary = load.stable, load.canary
        seconds = interval.end - interval.start
        if not stable or not canary:
            return Context(seconds=seconds, judge=False)
        n_s, n_c = _total(stable), _total(canary)
        self._pods = (sum(r.members for r in stable), sum(r.members for r in canary))
        heard = n_c > 0 or self._lost_by_canary(interval)
        weight = min(self._weights_during(interval.start, interval.end), default=0.0)
        self.unheard = 0.0 if heard else self.unheard + weight * n_s
        if self._astray(interval, n_c, n_s):
            self._misrouted += 1
            return None
        shared = {r.pod for r in stable} & {r.pod for r in canary}
        coupled = 2 * len(shared) >= len(canary)
        if not coupled:
            keep = math.exp(-seconds / _LOAD_MEMORY)
            now = (n_c, self._pods[1], n_s, self._pods[0])
            self._load = [keep * a + b for a, b in zip(self._load, now, strict=True)]
        if heard:
            self.heard_until = interval.end
        ratio, slack = self._unequal_load()
        return Context(
            seconds=seconds,
            certify=self._certifies(interval),
            slack=slack,
            coupled=coupled,
            balanced=1 / _LOAD_TOLERANCE <= ratio <= _LOAD_TOLERANCE,
        )

    def _unequal_load(self) -> tuple[float, float]:
        """Requests per canary pod over requests per stable pod, and the log latency it may explain.

        Latency may grow with the square of the load per pod beyond 1.2 times stable's; two standard errors
        of the ratio are granted first, or the chance of a busy half minute would raise the bar.
        """
        n_c, k_c, n_s, k_s = self._load
        if n_c <= 0 or n_s <= 0:
            return 1.0, 0.0
        ratio = n_c / k_c * k_s / n_s
        excess = math.log(ratio / _LOAD_TOLERANCE) - 2.0 * math.sqrt(1.0 / n_c + 1.0 / n_s)
        return ratio, max(0.0, _LOAD_ELASTICITY * excess)

    def _load_rows(self, interval: Interval) -> SeriesInterval:
        """Requests per pod: the load counter, or the first metric that counts requests."""
        load = interval.series[len(self.tests)]
        if load.stable or load.canary:
            return load
        for test, rows in zip(self.tests, interval.series, strict=False):
            if not isinstance(test, GaugeTest) and (rows.stable or rows.canary):
                pick = _last if isinstance(test, CountTest) else _bucket_total
                return SeriesInterval([pick(r) for r in rows.stable], [pick(r) for r in rows.canary])
        first = interval.series[0]
        return SeriesInterval([_one(r) for r in first.stable], [_one(r) for r in first.canary])

    def _astray(self, interval: Interval, n_c: float, n_s: float) -> bool:
        """Realised share more than three times off every weight in force, with enough requests to tell.

        Too few are not astray where the canary lost some: they came, and did not end.
        """
        weights = self._weights_during(interval.start, interval.end)
        if not weights or n_c + n_s <= 0:
            return False
        low, high = min(weights) / _ROUTING_FACTOR, max(weights) * _ROUTING_FACTOR
        expected = min(weights) * (n_c + n_s)
        share = n_c / (n_c + n_s)
        return (share > high and n_c >= 20) or (
            share < low and expected >= 20 and not self._lost_by_canary(interval)
        )

    def _lost_by_canary(self, interval: Interval) -> bool:
        return any(
            row.values[0] > 0
            for test, rows in zip(self.tests, interval.series, strict=False)
            if isinstance(test, LostTest)
            for row in rows.canary
        )

    def _weights_during(self, start: float, end: float) -> list[float]:
        before = [mark.weight for mark in self._marks if mark.at <= start]
        inside = [mark.weight for mark in self._marks if start < mark.at < end]
        return [*before[-1:], *inside]

    def _certifies(self, interval: Interval) -> bool:
        weights = self._weights_during(interval.start, interval.end)
        return not weights or min(weights) >= self.spec.certify_from_weight - 1e-9

    # -- restarts -----------------------------------------------------------------------------------------

    def _restart(self, interval: Interval) -> None:
        passed = sum(1 for mark in self._marks if mark.at <= interval.start)
        stepped = passed > self._marked
        while len(self.requests_at_mark) < passed:
            at = self._marks[len(self.requests_at_mark)].at
            self.requests_at_mark.append((at, [test.requests[0] for test in self.tests]))
        self._marked = passed
        if self.began is None:
            self.began = interval.start
            return
        last = self._starts[-1].at if self._starts else self.began
        due = interval.start - last >= (60.0 if stepped else _RESTART_EVERY)
        if not (self._wakes() or due):
            return
        if len(self._starts) >= self._slots:
            self._cash += self._starts[0].share * self._combined(0)
            del self._starts[0]
            for test in self.tests:
                test.retire()
        stake = _STAKE_NEXT * self._cash
        self._cash -= stake
        self._starts.append(Start(interval.start, stake, self._awake))
        for test in self.tests:
            test.restart()

    def _wakes(self) -> bool:
        """Whether a metric without a share has seen something since the last interval."""
        if self._awake:
            return False
        self._awake = any(
            asleep and isinstance(test, LostTest) and test.seen
            for asleep, test in zip(self._sleeping, self.tests, strict=True)
        )
        return self._awake

    def _combined(self, start: int) -> float:
        weights = self._woken if self._starts[start].awake else self.weights
        return math.fsum([w * test.evidence(start) for w, test in zip(weights, self.tests, strict=True) if w])

    # -- output -------------------------------------------------------------------------------------------

    def _totals(self) -> tuple[list[float], float]:
        """Contribution of each metric, and the largest start's evidence."""
        if self._cache is None and self._awake:
            parts = [self._part(index) for index in range(len(self.tests))]
            self._cache = parts, math.fsum(parts)
        if self._cache is None:
            shares = [(-1, _STAKE_FIRST), *((i, s.share) for i, s in enumerate(self._starts))]
            parts = [
                w * (self._cash + math.fsum([share * test.evidence(start) for start, share in shares]))
                if w
                else 0.0
                for w, test in zip(self.weights, self.tests, strict=True)
            ]
            self._cache = parts, math.fsum(parts)
        return self._cache

    def _part(self, index: int) -> float:
        """What metric `index` holds once the starts do not share alike."""
        test, early, late = self.tests[index], self.weights[index], self._woken[index]
        first = early * _STAKE_FIRST * test.evidence(-1) if early else 0.0
        starts = [
            (late if start.awake else early) * start.share * test.evidence(number)
            for number, start in enumerate(self._starts)
            if (late if start.awake else early)
        ]
        return first + late * self._cash + math.fsum(starts)

    @property
    def evidence(self) -> float:
        """Evidence that some metric of the canary is harmed; 1 at the start."""
        return self._totals()[1]

    def contribution(self, index: int) -> float:
        """The part of `evidence` that metric `index` holds."""
        return self._totals()[0][index]

    def leading_start(self, index: int) -> tuple[int, float]:
        """The start (-1: the attempt) in which the metric's evidence is largest, and when it was."""
        began = self.began if self.began is not None else 0.0
        test = self.tests[index]
        best = (_STAKE_FIRST * test.evidence(-1), -1, began)
        for number, start in enumerate(self._starts):
            value = start.share * test.evidence(number)
            if value > best[0]:
                best = (value, number, start.at)
        return best[1], best[2]

    @property
    def restarts(self) -> int:
        """How many restarts are running."""
        return len(self._starts)

    @property
    def guards(self) -> Guards:
        """What weakens verdicts at the moment."""
        ratio, _ = self._unequal_load()
        mix = math.fsum([test.evidence(-1) for test in self._mix]) / len(self._mix)
        missing = self._collector.missing
        return Guards(
            missing=max(missing.values()),
            load_ratio=ratio,
            mix_evidence=mix,
            stable_pods=self._pods[0],
            canary_pods=self._pods[1],
            misrouted=self._misrouted,
            restarts=self._collector.restarts[Arm.CANARY],
            canary_stands=self._collector.canary_stands,
            history=self.history_seconds >= 600.0,
        )

    # -- checkpoint ---------------------------------------------------------------------------------------

    def dump(self) -> dict[str, object]:
        """Plain values for the checkpoint."""
        pending = None if self._pending is None else dump_interval(self._pending)
        return {
            "collector": self._collector.dump(),
            "tests": [test.dump() for test in self.tests],
            "mix": [test.dump() for test in self._mix],
            "pending": pending,
            "times": [self.began, self.judged_until, self.history_seconds, self.judged_seconds],
            "starts": [[s.at, s.share, True] if s.awake else [s.at, s.share] for s in self._starts],
            "awake": self._awake,
            "heard": self.heard_until,
            "unheard": self.unheard,
            "stake": [self._cash, self._marked, self._misrouted],
            "load": [self._load, list(self._pods)],
            "marks": [[at, counts] for at, counts in self.requests_at_mark],
        }

    def load(self, raw: Any) -> None:
        """Inverse of `dump`, into a process of the same specification."""
        self._collector.load(raw["collector"])
        for test, dumped in zip((*self.tests, *self._mix), (*raw["tests"], *raw["mix"]), strict=True):
            test.load(dumped)
        self._pending = None if raw["pending"] is None else load_interval(raw["pending"])
        self.began, self.judged_until, self.history_seconds, self.judged_seconds = raw["times"]
        self._starts = [Start(*start) for start in raw["starts"]]
        self._awake = raw.get("awake", False)
        self.heard_until = raw.get("heard", self.judged_until)
        self.unheard = raw.get("unheard", 0.0)
        self._cash, self._marked, self._misrouted = raw["stake"]
        load, pods = raw["load"]
        self._load = list(load)
        self._pods = (pods[0], pods[1])
        self.requests_at_mark = [(at, list(row)) for at, row in raw["marks"]]
        self._cache = None


def _total(rows: Sequence[PodIncrement]) -> float:
    return math.fsum([row.values[-1] for row in rows])


def _last(row: PodIncrement) -> PodIncrement:
    return PodIncrement(row.pod, row.members, [row.values[1]])


def _bucket_total(row: PodIncrement) -> PodIncrement:
    return PodIncrement(row.pod, row.members, [math.fsum(row.values[:-1])])


def _one(row: PodIncrement) -> PodIncrement:
    return PodIncrement(row.pod, row.members, [float(row.members)])
