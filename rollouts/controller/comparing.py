"""The evidence of attempts: raw counters in, verdicts out, one process per AnalysisRun with comparisons.

The process lives in memory and is written to the run's status every two minutes and with each change of a verdict.
What a restart loses are the scrapes since then: counters are cumulative, so they come back as one longer interval.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import structlog

from rollouts.analysis.comparing import Compared, judge_all
from rollouts.analysis.comparisons import GatesError, evidence_spec, interval_of
from rollouts.analysis.evidence.checkpoint import CheckpointError, restore, save
from rollouts.analysis.evidence.model import Arm, EvidenceSpec, Exclusion, Mark, PodSample, Scrape
from rollouts.analysis.evidence.process import EvidenceProcess
from rollouts.analysis.logical import Wanted, wanted_of
from rollouts.analysis.timeline import (
    FINISHED_LIMIT,
    TimePoint,
    extended,
    metric_point,
    read_timeline,
    thinned,
    write_timeline,
)
from rollouts.analysis.types import ComparisonResult, GateState, RunPhase, RunSpec, RunStatus
from rollouts.runtime.clock import Clock, Monotonic
from rollouts.runtime.objects import ObjectKey
from rollouts.sources.base import MetricSource, Place, RawPod, SourceError
from rollouts.sources.budget import QueryBudget

__all__ = ["Comparer", "compared_phase"]

_log = structlog.get_logger(__name__)

CHECKPOINT_EVERY = timedelta(seconds=120)
_PAST = timedelta(minutes=60)
_HISTORY = 120
_UNSTORED_POINTS = 64
"""Sixteen times what comes between two writes: the rest of the time line while the API server takes none."""
_DEADLINE = 15.0
"""Seconds that one scrape of an arm may take, whatever its source allows itself."""


@dataclass(slots=True)
class _Attempt:
    process: EvidenceProcess
    spec: EvidenceSpec
    offset: float
    """Wall seconds at monotonic zero: jumps of the wall clock do not reach the evidence."""
    scraped: Monotonic | None = None
    trouble: dict[tuple[str, str], str] = field(default_factory=dict)
    """Why a source said nothing of an arm at the last look."""
    told: str = ""
    points: list[TimePoint] = field(default_factory=list)
    """Of the time line, since the last status that was stored."""
    drawn: str | None = None
    """The time line with them, until it is known to be stored."""

    def note(self, status: RunStatus, point: TimePoint) -> None:
        """One more point, which waits for a status that is stored anyway: it is no reason for a write."""
        if status.timeline == self.drawn:
            self.points, self.drawn = [], None
        self.points = [*self.points[1 - _UNSTORED_POINTS :], point]

    def draw(self, status: RunStatus, names: list[str]) -> str:
        """The time line of ``status`` with what has been noted since."""
        before = [result.name for result in status.comparisons]
        self.drawn = extended(status.timeline, before, names, self.points)
        return self.drawn


class Comparer:
    """Keeps the evidence processes of running attempts."""

    def __init__(self, sources: Mapping[str, MetricSource], clock: Clock, budget: QueryBudget) -> None:
        self._sources = sources
        self._budget = budget
        self._clock = clock
        self._attempts: dict[ObjectKey, _Attempt] = {}

    def forget(self, key: ObjectKey) -> None:
        """The run is over or gone."""
        self._attempts.pop(key, None)

    def ended(self, key: ObjectKey, status: RunStatus) -> RunStatus:
        """What is kept of a run that is over: no checkpoint, and a time line that ends where the run does."""
        attempt, timeline = self._attempts.get(key), status.timeline
        if attempt is not None:
            timeline = attempt.draw(status, [result.name for result in status.comparisons])
        kept = write_timeline(thinned(read_timeline(timeline), FINISHED_LIMIT))
        return replace(status, checkpoint="", timeline=kept)

    def wait(self, key: ObjectKey, run: RunSpec) -> float:
        """Seconds until the next scrape; 0 when it is due."""
        attempt = self._attempts.get(key)
        if attempt is None or attempt.scraped is None:
            return 0.0
        elapsed = self._clock.monotonic() - attempt.scraped
        return max(0.0, interval_of(run.comparisons).total_seconds() - elapsed)

    async def compare(self, key: ObjectKey, run: RunSpec, status: RunStatus) -> RunStatus:
        """Scrape both arms and judge; the status to store, which is the old one while nothing new is to be said."""
        try:
            attempt = await self._attempt(key, run, status)
        except GatesError as error:
            return replace(status, phase=RunPhase.ERROR, message=f"the comparisons cannot be judged: {error}")
        now = self._clock.now()
        at = attempt.offset + self._clock.monotonic()
        attempt.scraped = self._clock.monotonic()
        process = attempt.process
        process.schedule(_marks(run), _exclusions(run))
        pods = await self._scrape(key.namespace, run, attempt)
        process.observe(Scrape(at=at, pods=pods))
        found = judge_all(process, run.comparisons, _marks(run), status.gates, at)
        found = replace(found, gates=_dated(found.gates, status.gates, now))
        attempt.note(status, _point(run, status, found, now))
        trouble = "; ".join(dict.fromkeys(attempt.trouble.values()))[:256]
        if trouble == attempt.told and not self._worth_storing(run, status, found, now):
            return status
        attempt.told = trouble
        if trouble:
            found = replace(found, gates=tuple(_held(gate, trouble) for gate in found.gates))
        try:
            checkpoint = save(process)
        except CheckpointError as error:
            _log.warning("checkpoint_too_large", run=str(key), reason=str(error))
            checkpoint = status.checkpoint  # the last good one: what came since is one long interval to it
        if found.failure is not None:
            text, asks = found.failure
            status = replace(
                status, phase=RunPhase.FAILED, decision=asks, completed_at=now.replace(microsecond=0)
            )
        return replace(
            status,
            comparisons=found.results,
            gates=found.gates,
            checkpoint=checkpoint,
            timeline=attempt.draw(status, [result.name for result in found.results]),
            judged_at=now.replace(microsecond=0),
            message=(text if found.failure is not None else trouble)[:1024],
        )

    async def _attempt(self, key: ObjectKey, run: RunSpec, status: RunStatus) -> _Attempt:
        spec = evidence_spec(run.comparisons, run.false_abort_rate)
        known = self._attempts.get(key)
        if known is not None and known.spec == spec:
            return known
        process = EvidenceProcess(spec)
        if status.checkpoint:
            try:
                process = restore(spec, status.checkpoint)
            except CheckpointError as error:
                _log.warning("evidence_starts_again", run=str(key), reason=str(error))
        offset = self._clock.now().timestamp() - self._clock.monotonic()
        attempt = self._attempts[key] = _Attempt(process=process, spec=spec, offset=offset)
        if not status.checkpoint:
            await self._remember(key.namespace, run, attempt)
        return attempt

    async def _remember(self, namespace: str, run: RunSpec, attempt: _Attempt) -> None:
        """What the stable pods did before the rollout, where a source knows the past: noise is learned from it.

        At most an hour and ``_HISTORY`` moments; a source that is slow or silent gives less, which is only a caution.
        """
        names = sorted(
            name
            for name in {item.source for item in run.comparisons}
            if name in self._sources and self._sources[name].remembers
        )
        if not names or run.stable is None or not run.marks:
            return
        step = interval_of(run.comparisons)
        first = run.marks[0].at
        moments = [first - step * number for number in range(min(_HISTORY, int(_PAST / step)), 0, -1)]
        place, wanted = Place(namespace=namespace, arm=run.stable), wanted_of(attempt.spec)
        slots = asyncio.Semaphore(4)

        async def at(moment: datetime) -> Scrape:
            async with slots:
                samples = [
                    sample
                    for name in names
                    for sample in await self._ask(name, place, Arm.STABLE, wanted, attempt, moment)
                ]
            return Scrape(at=moment.timestamp(), pods=tuple(samples))

        try:
            async with asyncio.timeout(_DEADLINE):
                past = await asyncio.gather(*(at(moment) for moment in moments))
        except TimeoutError:
            _log.info("history_not_read", rollout=run.rollout, reason="too slow")
            return
        for scrape in past:
            if scrape.pods:
                attempt.process.observe(scrape)

    def _worth_storing(self, run: RunSpec, status: RunStatus, found: Compared, now: datetime) -> bool:
        """A changed verdict at once, figures every two minutes (or four intervals, where those are shorter)."""

        def verdicts(results: tuple[ComparisonResult, ...]) -> list[tuple[str, str, str]]:
            return [(result.name, result.verdict, result.reason) for result in results]

        if found.failure is not None or status.judged_at is None:
            return True
        if verdicts(found.results) != verdicts(status.comparisons):
            return True
        if [(g.step, g.verdict) for g in found.gates] != [(g.step, g.verdict) for g in status.gates]:
            return True
        age = min(CHECKPOINT_EVERY, 4 * interval_of(run.comparisons))
        return now - status.judged_at >= age or now < status.judged_at

    # --- collecting ---

    async def _scrape(self, namespace: str, run: RunSpec, attempt: _Attempt) -> tuple[PodSample, ...]:
        """One sample per pod and arm; a source that says nothing leaves its pods missing."""
        wanted = wanted_of(attempt.spec)
        names = sorted({item.source for item in run.comparisons})
        arms = [(Arm.STABLE, run.stable), (Arm.CANARY, run.canary)]
        asked = [
            self._ask(name, Place(namespace=namespace, arm=ref), arm, wanted, attempt)
            for name in names
            for arm, ref in arms
            if ref is not None
        ]
        merged: dict[tuple[Arm, str], PodSample] = {}
        for samples in await asyncio.gather(*asked):
            for sample in samples:
                key = (sample.arm, sample.pod)
                merged[key] = _joined(merged[key], sample) if key in merged else sample
        return tuple(merged[key] for key in sorted(merged))

    async def _ask(
        self,
        name: str,
        place: Place,
        arm: Arm,
        wanted: Wanted,
        attempt: _Attempt,
        at: datetime | None = None,
    ) -> list[PodSample]:
        source = self._sources.get(name)
        if source is None:
            attempt.trouble[name, arm.value] = f"no source is called {name}"
            return []
        try:
            self._budget.spend(name, place.namespace)
            async with asyncio.timeout(_DEADLINE):
                found: Mapping[str, RawPod] = await source.raw(
                    wanted.raw_names(source.offer), place, at or self._clock.now()
                )
        except (SourceError, TimeoutError) as error:
            why = str(error) or f"source {name} does not answer"
            if at is None:
                attempt.trouble[name, arm.value] = why
            _log.info("arm_not_scraped", source=name, arm=place.arm.name, reason=why)
            return []
        if at is None:
            attempt.trouble.pop((name, arm.value), None)
        return [
            wanted.sample(raw.sample, source.offer, arm, pod, raw.started)
            for pod, raw in sorted(found.items())
        ]


def _dated(
    gates: tuple[GateState, ...], before: tuple[GateState, ...], now: datetime
) -> tuple[GateState, ...]:
    """Each gate with the time since when its verdict stands."""
    known = {(gate.step, gate.verdict): gate.since for gate in before}
    at = now.replace(microsecond=0)
    return tuple(replace(gate, since=known.get((gate.step, gate.verdict), at)) for gate in gates)


def _point(run: RunSpec, status: RunStatus, found: Compared, now: datetime) -> TimePoint:
    """This moment of the time line."""
    figures = [result.figures for result in found.results]
    passed = {gate.step for gate in found.gates if gate.verdict == "Pass"}
    canary, stable = max(
        ((one.get("canaryRequests", 0.0), one.get("stableRequests", 0.0)) for one in figures),
        default=(0.0, 0.0),
    )
    return TimePoint(
        at=int(now.timestamp()),
        weight=next((mark.weight for mark in reversed(run.marks) if mark.at <= now), 0.0),
        canary_requests=int(canary),
        stable_requests=int(stable),
        decision=found.failure is not None
        or not passed <= {gate.step for gate in status.gates if gate.verdict == "Pass"},
        harm=next((one["harmTotal"] for one in figures if "harmTotal" in one), None),
        metrics=tuple(map(metric_point, figures)),
    )


def _held(gate: GateState, trouble: str) -> GateState:
    """An open gate says what keeps its figures back."""
    if gate.verdict in ("Pass", "Fail"):
        return gate
    return replace(gate, message=f"{trouble}; {gate.message}")


def compared_phase(run: RunSpec, status: RunStatus) -> RunStatus:
    """The run's phase, comparisons included: they end with the attempt, and their background gate has to be earned."""
    if not run.comparisons or status.phase in (
        RunPhase.FAILED,
        RunPhase.INCONCLUSIVE,
        RunPhase.ERROR,
    ):
        return status
    background = [gate for gate in status.gates if gate.step is None]
    needed = any(not item.steps and not item.dry_run for item in run.comparisons)
    earned = not needed or any(gate.verdict == "Pass" for gate in background)
    told = "; ".join(text for text in (status.message, _summary(status)) if text)[:1024]
    if run.terminate:
        return replace(status, phase=RunPhase.SUCCESSFUL, message=told, earned=status.earned and earned)
    return replace(
        status, phase=RunPhase.RUNNING, completed_at=None, message=told, earned=status.earned and earned
    )


def _summary(status: RunStatus) -> str:
    return "; ".join(f"{item.name} {item.effect or 'no estimate yet'}" for item in status.comparisons)


def _marks(run: RunSpec) -> tuple[Mark, ...]:
    return tuple(Mark(at=m.at.timestamp(), step=m.step, weight=m.weight) for m in run.marks)


def _exclusions(run: RunSpec) -> tuple[Exclusion, ...]:
    return tuple(
        Exclusion(start=start.timestamp(), end=end.timestamp()) for start, end in run.exclude if start <= end
    )


def _joined(left: PodSample, right: PodSample) -> PodSample:
    """One pod as two sources see it."""
    return replace(
        left,
        counters={**right.counters, **left.counters},
        gauges={**right.gauges, **left.gauges},
        histograms={**right.histograms, **left.histograms},
        started=left.started if left.started is not None else right.started,
    )
