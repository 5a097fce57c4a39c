"""From raw cumulative counters per pod to increments per interval.

Rules: a counter that falls was reset, its increment is the new value (a lower bound), never negative; a pod's
first sample is its baseline, unless the process is younger than the interval (then zero is); a new pod is
ignored during its warm-up; a pod that missed a scrape is left out of the interval on both sides of the gap;
when half of an arm or more is missing nobody is judged and the next interval is a long one, since counters
are cumulative; histograms are compared at the bucket bounds that all pods have in common.
"""

import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rollouts.analysis.evidence import ledger
from rollouts.analysis.evidence.model import (
    Arm,
    CountSeries,
    EvidenceSpec,
    GaugeSeries,
    HistogramSeries,
    LostSeries,
    PodSample,
    Scrape,
    Series,
)
from rollouts.analysis.evidence.standstill import Standstill
from rollouts.analysis.evidence.vectors import (
    LARGEST,
    MAX_BUCKETS,
    Vector,
    at_bounds,
    difference,
    pack_vector,
    thinned,
    unpack_vector,
    whole,
    zeros,
)

__all__ = ["Collector", "Interval", "PodIncrement", "SeriesInterval"]

FOLDED = "+folded"
"""Where pods beyond the room of the state are summed; no pod has the name, since a plus is illegal in one."""
_FORGET_AFTER = 300.0
"""Seconds without a sample after which a pod is gone: ten intervals, longer than a rolling restart of the scraper."""
_MISSING_MEMORY = 150.0
"""Seconds: five intervals, so that one missed scrape is 18 % missing and no gate is held by it alone."""
_ARMS = (Arm.STABLE, Arm.CANARY)


@dataclass(frozen=True, slots=True)
class PodIncrement:
    """What one pod added in an interval. `members` > 1: a fold of that many pods.

    values: counts [errors, total]; lost [lost, total, finished beyond answered]; histogram [bucket_0 .. bucket_n,
    sum or NaN]; gauge [value].
    """

    pod: str
    members: int
    values: Vector


@dataclass(slots=True)
class SeriesInterval:
    """One series of one interval, per arm."""

    stable: list[PodIncrement] = field(default_factory=list)
    canary: list[PodIncrement] = field(default_factory=list)


@dataclass(slots=True)
class Interval:
    """All series between two evaluation times."""

    start: float
    end: float
    series: list[SeriesInterval]
    bounds: list[tuple[float, ...]]
    gone: list[tuple[str, str]]


class _Pod:
    """Last accepted sample of one (arm, pod)."""

    __slots__ = ("born", "last", "members", "seen", "vectors")

    def __init__(self, born: float | None, at: float) -> None:
        self.born = born
        self.seen = at
        self.last: float | None = None
        self.members = 1
        self.vectors: list[Vector | None] = []


_Present = dict[Arm, dict[str, tuple[PodSample, int, list[Vector | None]]]]
"""What a scrape holds: per arm and pod the sample, how many pods it stands for, and its values per series."""


class Collector:
    """Turns scrapes into intervals; keeps the last sample of each pod.

    `series` are read in the given order; each has a warm-up in seconds. At most `pod_limit` pods per arm are
    kept apart, the rest are added up as one. `restarts` counts resets per arm, `missing` is the recent share
    of missing scrapes per arm (time constant 150 seconds).
    """

    def __init__(
        self, spec: EvidenceSpec, series: Sequence[tuple[Series, float]], pod_limit: int = 32
    ) -> None:
        self._interval = spec.interval
        self._series = tuple(series)
        self._limit = pod_limit
        self._lost = next(
            ((index, one) for index, (one, _) in enumerate(series) if isinstance(one, LostSeries)), None
        )
        self._standstill = Standstill()
        self._patience = math.nan
        self._pods: dict[Arm, dict[str, _Pod]] = {arm: {} for arm in _ARMS}
        self._bounds: list[tuple[float, ...]] = [() for _ in series]
        self._at: float | None = None
        self._accepted: float | None = None
        self._born: dict[Arm, float | None] = dict.fromkeys(_ARMS)
        self._fold: dict[Arm, int] = dict.fromkeys(_ARMS, 0)
        self.restarts: dict[Arm, int] = dict.fromkeys(_ARMS, 0)
        self.missing: dict[Arm, float] = dict.fromkeys(_ARMS, 0.0)

    @property
    def accepted(self) -> float | None:
        """The evaluation time that began the present interval."""
        return self._accepted

    @property
    def canary_stands(self) -> bool:
        """Whether the canary's engines stood still in the last interval."""
        return self._standstill.canary_stands

    def observe(self, scrape: Scrape, odds: float = 0.0) -> Interval | None:
        """Take in one evaluation time; the interval that it ends, or None when it cannot be judged.

        ``odds``: requests that the canary should have had for each one of stable's; 0 where nobody knows.
        """
        if self._at is not None and scrape.at <= self._at:
            return None
        known = {arm: set(self._pods[arm]) for arm in _ARMS}
        gone = self._forget(scrape.at)
        present = self._read(scrape)
        self._at = scrape.at
        for arm in _ARMS:
            for name in present[arm].keys() & self._pods[arm].keys():
                self._pods[arm][name].seen = scrape.at
        if self._count_missing(known, present):
            return None
        previous, self._accepted = self._accepted, scrape.at
        result = [SeriesInterval() for _ in self._series]
        self._reckon(present, odds)
        for arm in _ARMS:
            for name, (sample, members, vectors) in present[arm].items():
                self._advance(arm, name, sample, members, vectors, previous, scrape.at, result)
        if self._lost is not None:  # after the readings: patience is known before what it judges
            self._patience = self._waited(ledger.longest_answer(scrape, self._lost[1].longest))
        if previous is None:
            return None
        return Interval(previous, scrape.at, result, list(self._bounds), gone)

    def _reckon(self, present: _Present, odds: float) -> None:
        """What waits in pods that stand still is added to what their gauges say is in flight."""
        if self._lost is None:
            return
        index, series = self._lost
        pages: dict[Arm, dict[str, Vector]] = {arm: {} for arm in _ARMS}
        for arm in _ARMS:
            for name, (sample, _, vectors) in present[arm].items():
                vector = vectors[index]
                if vector is not None:
                    pages[arm][name] = [*vector, sample.counters.get(series.progress, math.nan)]
        for (arm, name), held in self._standstill.reckon(pages, odds).items():
            vector = present[arm][name][2][index]
            assert vector is not None
            vector[2] += held

    def _waited(self, longest: float) -> float:
        """Seconds after which a request is taken not to end: at least two looks; NaN as long as nobody knows."""
        if math.isnan(longest):
            return self._patience
        known = 0.0 if math.isnan(self._patience) else self._patience
        return max(known, longest, 2.0 * self._interval)

    # -- reading ------------------------------------------------------------------------------------------

    def _read(self, scrape: Scrape) -> _Present:
        self._intersect(scrape.pods)
        found: _Present = {arm: {} for arm in _ARMS}
        spare: dict[Arm, list[tuple[PodSample, list[Vector | None]]]] = {arm: [] for arm in _ARMS}
        for sample in scrape.pods:
            arm = sample.arm
            vectors = [self._vector(index, sample) for index in range(len(self._series))]
            pods = self._pods[arm]
            new = len(found[arm].keys() - pods.keys())
            if sample.pod in pods or len(pods.keys() - {FOLDED}) + new < self._limit:
                found[arm][sample.pod] = (sample, 1, vectors)
            else:
                spare[arm].append((sample, vectors))
        for arm in _ARMS:
            if spare[arm]:
                found[arm][FOLDED] = self._folded(arm, spare[arm])
            else:
                self._fold[arm] = 0
        return found

    def _folded(
        self, arm: Arm, spare: list[tuple[PodSample, list[Vector | None]]]
    ) -> tuple[PodSample, int, list[Vector | None]]:
        """Add the pods beyond the limit up; a change of membership starts a new baseline."""
        names = sorted(sample.pod for sample, _ in spare)
        digest = zlib.crc32("\0".join(names).encode()) or 1
        if digest != self._fold[arm]:
            self._pods[arm].pop(FOLDED, None)
            self._fold[arm] = digest
        sums: list[Vector | None] = []
        for index, (series, _) in enumerate(self._series):
            rows = [vectors[index] for _, vectors in spare]
            full = [row for row in rows if row is not None]
            if len(full) < len(rows):
                sums.append(None)
                continue
            total = [math.fsum(column) for column in zip(*full, strict=True)]
            if isinstance(series, GaugeSeries):
                total = [value / len(full) for value in total]
            sums.append(total)
        return PodSample(arm=arm, pod=FOLDED), len(spare), sums

    def _intersect(self, pods: Iterable[PodSample]) -> None:
        """Shrink the common bounds to those that every pod has, and what is kept of earlier samples too."""
        for index, (series, _) in enumerate(self._series):
            if not isinstance(series, HistogramSeries):
                continue
            seen = {
                sample.histograms[series.name].bounds for sample in pods if series.name in sample.histograms
            }
            common = self._bounds[index]
            for bounds in seen:
                if bounds == common:
                    continue
                if not common:
                    common = bounds if len(bounds) <= MAX_BUCKETS else thinned(bounds)
                elif not set(common) <= set(bounds):
                    common = tuple(bound for bound in common if bound in set(bounds))
            if common != self._bounds[index]:
                self._rebase(index, common)

    def _rebase(self, index: int, common: tuple[float, ...]) -> None:
        old = self._bounds[index]
        self._bounds[index] = common
        if not old:
            return
        picks = [old.index(bound) for bound in common]
        for pods in self._pods.values():
            for pod in pods.values():
                vector = pod.vectors[index] if pod.vectors else None
                if vector is not None:
                    pod.vectors[index] = [*(vector[pick] for pick in picks), vector[-1]]

    def _vector(self, index: int, sample: PodSample) -> Vector | None:
        series = self._series[index][0]
        if isinstance(series, LostSeries):
            total = sample.counters.get(series.of, math.nan)
            finished = sample.counters.get(series.finished, math.nan)
            if not (0.0 <= total <= LARGEST and 0.0 <= finished <= LARGEST):
                return None
            flying = sample.gauges.get(series.in_flight, math.nan)
            return [total, finished, flying if abs(flying) <= LARGEST else math.nan]
        if isinstance(series, CountSeries):
            errors = sample.counters.get(series.errors, math.nan)
            total = sample.counters.get(series.of, math.nan)
            return [errors, total] if 0.0 <= errors <= LARGEST and 0.0 <= total <= LARGEST else None
        if isinstance(series, GaugeSeries):
            value = sample.gauges.get(series.name, math.nan)
            return [value] if abs(value) <= LARGEST else None
        histogram = sample.histograms.get(series.name)
        return None if histogram is None else at_bounds(histogram, self._bounds[index])

    # -- differences --------------------------------------------------------------------------------------

    def _advance(
        self,
        arm: Arm,
        name: str,
        sample: PodSample,
        members: int,
        vectors: list[Vector | None],
        previous: float | None,
        now: float,
        result: list[SeriesInterval],
    ) -> None:
        pod = self._pods[arm].get(name)
        if pod is None:
            pod = self._pods[arm][name] = self._admit(arm, sample, previous, now)
            if pod.last is not None:
                pod.vectors = [
                    zeros(vector, s, pod.last) for vector, (s, _) in zip(vectors, self._series, strict=True)
                ]
        pod.members = members
        contiguous = pod.last is not None and pod.last == previous
        reset = False
        for index, (series, warm_up) in enumerate(self._series):
            new = vectors[index]
            old = pod.vectors[index] if pod.vectors else None
            if new is None:
                continue
            if isinstance(series, LostSeries):
                if old is None:
                    vectors[index] = ledger.begin(new, now)
                    continue
                vectors[index], values, fell = ledger.advance(
                    old, new, now, self._standstill.patience(arm, name, self._patience)
                )
                reset = reset or fell
                if not contiguous:
                    continue
            elif isinstance(series, GaugeSeries):
                values = new
            elif old is None or not contiguous:
                continue
            else:
                values, fell = difference(old, new, isinstance(series, HistogramSeries))
                reset = reset or fell
            if pod.born is not None and now - pod.born < warm_up + self._interval * 0.5:
                continue
            target = result[index].stable if arm is Arm.STABLE else result[index].canary
            target.append(PodIncrement(name, members, values))
        self.restarts[arm] += reset
        pod.vectors, pod.last, pod.seen = vectors, now, now

    def _admit(self, arm: Arm, sample: PodSample, previous: float | None, now: float) -> _Pod:
        """A new key. A pod that joins an arm already watched is young even when it does not say so."""
        born = sample.started
        if born is None and self._born[arm] not in (None, now) and sample.pod != FOLDED:
            born = now
        if self._born[arm] is None:
            self._born[arm] = now
        pod = _Pod(born, now)
        if sample.started is not None and previous is not None and previous <= sample.started:
            pod.last = previous
        return pod

    # -- presence -----------------------------------------------------------------------------------------

    def _forget(self, now: float) -> list[tuple[str, str]]:
        gone = []
        for arm in _ARMS:
            pods = self._pods[arm]
            for name in [name for name, pod in pods.items() if now - pod.seen > _FORGET_AFTER]:
                if self._at is not None and self._at - pods[name].seen >= self._interval:
                    del pods[name]
                    gone.append((arm.value, name))
        return gone

    def _count_missing(self, known: dict[Arm, set[str]], present: dict[Arm, Any]) -> bool:
        """Update the share of missing scrapes; True when an arm lost half of its pods or more at once."""
        silent = False
        for arm in _ARMS:
            expected = {name for name in known[arm] if name in self._pods[arm]} - {FOLDED}
            if not expected:
                continue
            share = len(expected - present[arm].keys()) / len(expected)
            keep = math.exp(-self._interval / _MISSING_MEMORY)
            self.missing[arm] = keep * self.missing[arm] + (1 - keep) * share
            silent = silent or share >= 0.5
        return silent

    # -- checkpoint ---------------------------------------------------------------------------------------

    def dump(self) -> list[object]:
        """Plain values for the checkpoint."""
        pods = [
            [arm.value, name, pod.born, pod.seen, pod.last, pod.members, _packed(pod, self._series)]
            for arm in _ARMS
            for name, pod in self._pods[arm].items()
        ]
        per_arm = [
            [arm.value, self._born[arm], self._fold[arm], self.restarts[arm], self.missing[arm]]
            for arm in _ARMS
        ]
        bounds = [["inf" if math.isinf(b) else b for b in row] for row in self._bounds]
        patience = "inf" if math.isinf(self._patience) else whole(self._patience)
        return [self._at, self._accepted, bounds, per_arm, pods, patience, self._standstill.dump()]

    def load(self, raw: Any) -> None:
        """Inverse of `dump`."""
        self._at, self._accepted, bounds, per_arm, pods, *later = raw
        patience, *still = later or [None]  # states from before there was one
        if still:
            self._standstill.load(still[0])
        self._patience = math.nan if patience is None else float(patience)
        self._bounds = [tuple(math.inf if b == "inf" else b for b in row) for row in bounds]
        for value, born, fold, restarts, missing in per_arm:
            arm = Arm(value)
            self._born[arm], self._fold[arm] = born, fold
            self.restarts[arm], self.missing[arm] = restarts, missing
        for value, name, born, seen, last, members, vectors in pods:
            pod = _Pod(born, seen)
            pod.last, pod.members = last, members
            pod.vectors = [unpack_vector(v) for v in vectors]
            self._pods[Arm(value)][name] = pod


def _packed(pod: _Pod, series: Sequence[tuple[Series, float]]) -> list[Any]:
    return [pack_vector(vector, one) for vector, (one, _) in zip(pod.vectors, series, strict=False)]
