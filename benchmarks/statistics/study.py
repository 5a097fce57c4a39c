"""Runs scenarios through the production engine and the rival rules, and adds the outcomes up."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.statistics.generate import Harm, Scenario, scrapes
from rollouts.analysis.evidence.gates import Verdict, harm, judge, report
from rollouts.analysis.evidence.model import CompareMetric, CountSeries, EvidenceSpec, HistogramSeries
from rollouts.analysis.evidence.process import EvidenceProcess
from rollouts.analysis.rivals import Rivals

__all__ = ["Outcome", "Summary", "exact_bounds", "run_one", "spec_of", "summarize"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One simulated rollout; times in minutes, None for never.

    `covered`: the shown interval of the latency effect contained the truth at every look (checked each five
    minutes). `forecast` is predicted over actual time of the decision, asked at half of the actual time.
    """

    aborted: float | None
    promoted: float | None
    covered: bool | None
    forecast: float | None
    rivals: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One row of the table."""

    scenario: Scenario
    runs: int
    aborted: float
    aborted_bounds: tuple[float, float]
    abort_minutes: float
    promoted: float
    promote_minutes: float
    coverage: float
    forecast: tuple[float, float, float]
    rivals: tuple[tuple[float, float], ...]


def spec_of(margin: float) -> EvidenceSpec:
    """Time to first token and errors at a false abort rate of 5 %."""
    ttft = CompareMetric(name="ttft", series=HistogramSeries(name="ttft"), margin=margin, tolerance=0.15)
    errors = CompareMetric(
        name="errors",
        series=CountSeries(errors="errors", of="requests"),
        margin=0.1 if margin else 0.0,
        tolerance=2.0,
    )
    return EvidenceSpec(metrics=(ttft, errors))


def run_one(scenario: Scenario, seed: int, margin: float, with_rivals: bool = True) -> Outcome:
    """Simulate one rollout and judge it."""
    watch = _Watch(scenario, EvidenceProcess(spec_of(margin)))
    rivals = Rivals(watch.process.spec)
    for scrape in scrapes(scenario, seed):
        if with_rivals:
            rivals.observe(scrape)
        elif watch.ended:
            break
        if not watch.ended and watch.process.observe(scrape):
            watch.look()
    return watch.outcome(
        tuple(_minutes(rival.aborted_at, scenario.harm) for rival in rivals.decisions())
        if with_rivals
        else ()
    )


class _Watch:
    """Looks at a process as a rollout would, after every interval; an abort ends it."""

    def __init__(self, scenario: Scenario, process: EvidenceProcess) -> None:
        self.scenario, self.process = scenario, process
        process.schedule(scenario.marks, ())
        self.ended = False
        self.aborted: float | None = None
        self.promoted: float | None = None
        self.covered: bool | None = None
        self.passed = [False] * len(process.tests)
        self.forecasts: list[tuple[float, float, float]] = []

    def look(self) -> None:
        """One look at the evidence."""
        process = self.process
        now, began = process.judged_until, process.began
        if now is None or began is None:
            return
        found = harm(process)
        if found is not None and found.held is None:
            self.aborted, self.ended = now, True
            return
        for index in range(len(self.passed)):
            verdict = judge(process, index, began, now).verdict if not self.passed[index] else Verdict.PASS
            self.passed[index] = verdict is Verdict.PASS
        if self.promoted is None and all(self.passed):
            self.promoted = now
        if now % 60 == 0 and self.promoted is None:
            self._forecast(now)
        if now % 300 == 0 and not self.scenario.harm.onset and not self.scenario.harm.tail_share:
            self._cover()

    def _forecast(self, now: float) -> None:
        reports = [report(self.process, index) for index in range(len(self.passed))]
        to_abort = min(one.minutes_to_abort for one in reports)
        to_pass = max(
            one.minutes_to_pass if not done else 0.0 for one, done in zip(reports, self.passed, strict=True)
        )
        self.forecasts.append((now / 60, now / 60 + to_abort, now / 60 + to_pass))

    def _cover(self) -> None:
        effect = self.process.tests[0].effect(-1, 0.05)
        if effect is not None:
            inside = effect.low <= self.scenario.harm.slower <= effect.high
            self.covered = inside if self.covered is None else self.covered and inside

    def outcome(self, rivals: tuple[float | None, ...]) -> Outcome:
        """What became of it."""
        aborted = _minutes(self.aborted, self.scenario.harm)
        promoted = None if self.promoted is None else self.promoted / 60
        return Outcome(
            aborted=aborted,
            promoted=promoted,
            covered=self.covered,
            forecast=self._accuracy(),
            rivals=rivals,
        )

    def _accuracy(self) -> float | None:
        actual = self.aborted if self.aborted is not None else self.promoted
        if actual is None or actual < 360.0:
            return None
        column = 1 if self.aborted is not None else 2
        before = [row for row in self.forecasts if row[0] <= actual / 120]
        if not before or not math.isfinite(before[-1][column]):
            return None
        return before[-1][column] / (actual / 60)


def _minutes(seconds: float | None, fault: Harm) -> float | None:
    return None if seconds is None else (seconds - fault.onset) / 60


def summarize(scenario: Scenario, outcomes: Sequence[Outcome]) -> Summary:
    """Add up the runs of one scenario."""
    runs = len(outcomes)
    aborted = [o.aborted for o in outcomes if o.aborted is not None]
    promoted = [o.promoted for o in outcomes if o.promoted is not None]
    covered = [o.covered for o in outcomes if o.covered is not None]
    forecasts = sorted(o.forecast for o in outcomes if o.forecast is not None)
    rivals = []
    for index in range(len(outcomes[0].rivals)):
        times = [time for o in outcomes if (time := o.rivals[index]) is not None]
        rivals.append((len(times) / runs, _median(times, runs)))
    return Summary(
        scenario=scenario,
        runs=runs,
        aborted=len(aborted) / runs,
        aborted_bounds=exact_bounds(len(aborted), runs),
        abort_minutes=_median(aborted, runs),
        promoted=len(promoted) / runs,
        promote_minutes=_median(promoted, runs),
        coverage=sum(covered) / len(covered) if covered else math.nan,
        forecast=_spread(forecasts),
        rivals=tuple(rivals),
    )


def _median(times: Sequence[float], runs: int) -> float:
    """The median over all runs, infinite when under half of them got there."""
    return statistics.median_low([*times, *[math.inf] * (runs - len(times))])


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) < 5:
        return math.nan, math.nan, math.nan
    tenth = len(values) // 10
    return values[tenth], statistics.median(values), values[-1 - tenth]


def exact_bounds(hits: int, runs: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper & Pearson (1934) interval of a share."""
    each = (1 - confidence) / 2

    def below(share: float, count: int) -> float:
        return math.fsum(math.comb(runs, k) * share**k * (1 - share) ** (runs - k) for k in range(count + 1))

    def solve(count: int, level: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if below(middle, count) > level else (low, middle)
        return low

    lower = 0.0 if hits == 0 else solve(hits - 1, 1 - each)
    upper = 1.0 if hits == runs else solve(hits, each)
    return lower, upper
