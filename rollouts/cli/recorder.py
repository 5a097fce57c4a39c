"""What `rollouts record` puts on its tape: samples of both arms, marks of steps, and what is not to be judged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import click
import structlog

from rollouts.analysis.catalogue import COMPARED
from rollouts.analysis.evidence.model import Arm, CompareMetric, EvidenceSpec, Exclusion, Mark, PodSample
from rollouts.analysis.logical import Wanted, wanted_of
from rollouts.analysis.recording import exclusion_line, header_line, mark_line, sample_line
from rollouts.analysis.types import ArmRef, RunSpec
from rollouts.api.parsing import ParsedRollout, parse_rollout
from rollouts.api.runs import ParsedRun, parse_run
from rollouts.controller.caches import Caches
from rollouts.controller.gates import arm_ref
from rollouts.engine.naming import Owner, background_run
from rollouts.engine.rollout_spec import PickerTraffic
from rollouts.engine.rollout_status import Phase, RolloutStatus
from rollouts.engine.versions import Identity
from rollouts.objects import kinds
from rollouts.runtime.clock import Clock
from rollouts.runtime.objects import ObjectKey
from rollouts.sources.base import MetricSource, Place, SourceError
from rollouts.units import FULL

__all__ = ["Recorder", "Tape"]

_log = structlog.get_logger(__name__)

_OVER = (Phase.HEALTHY, Phase.ABORTED, Phase.INVALID)


@dataclass(slots=True)
class Tape:
    """What was recorded, in seconds since 1970 until it is written."""

    samples: list[tuple[float, PodSample]] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    exclusions: list[Exclusion] = field(default_factory=list)
    scrapes: int = 0
    started: float | None = None
    problem: str = ""
    asked: dict[Arm, str] = field(default_factory=dict)
    """What each arm was taken to be."""
    problems: dict[Arm, str] = field(default_factory=dict)

    def empty_arms(self) -> list[str]:
        """Of which arm nothing was recorded, and why: nothing can be compared with it."""
        seen = {sample.arm for _, sample in self.samples}
        said = []
        for arm in (Arm.STABLE, Arm.CANARY):
            if arm in seen:
                continue
            name = f" ({self.asked[arm]})" if arm in self.asked else ""
            unasked = "there was none in this time" if arm not in self.asked else "no pod of it was found"
            said.append(f"the {arm.value} arm{name} is empty: {self.problems.get(arm, unasked)}")
        return said

    def lines(self, interval: float) -> list[str]:
        """The recording; its t = 0 is the start of the attempt, else the end of what was recorded."""
        times = [at for at, _ in self.samples]
        zero = self.started if self.started is not None else max(times, default=0.0)
        rows = [
            (at - zero, 1, sample_line(round(at - zero, 3), _shifted(sample, zero)))
            for at, sample in self.samples
        ]
        for mark in self.marks:
            moved = Mark(at=round(mark.at - zero, 3), step=mark.step, weight=mark.weight)
            rows.append((moved.at, 0, mark_line(moved)))
        for gap in self.exclusions:
            moved_gap = Exclusion(start=gap.start - zero, end=gap.end - zero)
            rows.append((moved_gap.end, 0, exclusion_line(moved_gap.end, moved_gap)))
        return [header_line(interval), *(line for _, _, line in sorted(rows, key=lambda row: row[:2]))]


def _shifted(sample: PodSample, zero: float) -> PodSample:
    return sample if sample.started is None else replace(sample, started=round(sample.started - zero, 3))


def _everything() -> Wanted:
    """All logical series there are."""
    series = {row.series: name for name, row in COMPARED.items() if row.series is not None}
    metrics = tuple(
        CompareMetric(name=name, series=one, margin=0.0, tolerance=1.0) for one, name in series.items()
    )
    return wanted_of(EvidenceSpec(metrics=metrics))


def _arms_of(run: RunSpec, at: datetime) -> list[tuple[Arm, ArmRef]]:
    """Before the first weight everything is stable."""
    arms = [(Arm.STABLE, run.stable), (Arm.CANARY, run.canary if at >= run.marks[0].at else None)]
    return [(arm, ref) for arm, ref in arms if ref is not None]


class Recorder:
    """Scrapes the arms of one Rollout onto a tape; ``chosen`` names an AnalysisRun of the attempt, None: the newest."""

    def __init__(
        self,
        caches: Caches,
        sources: dict[str, MetricSource],
        source: str,
        key: ObjectKey,
        chosen: str | None,
    ) -> None:
        self.tape = Tape()
        self._caches = caches
        self._sources = sources
        self._source = source
        self._key = key
        self._chosen = chosen
        self._attempt: tuple[int, list[tuple[Arm, ArmRef]]] | None = None
        self._wanted = _everything()

    async def live(
        self, clock: Clock, interval: timedelta, duration: timedelta, given_up: Callable[[], bool]
    ) -> None:
        """Scrape until the attempt that is seen has ended, or the time is over. Ctrl-C keeps what there is."""
        end = clock.monotonic() + duration.total_seconds()
        try:
            while not given_up():
                parsed = self._rollout()
                if parsed is None:
                    return
                now, status = datetime.now(UTC), parsed.status
                if self._attempt is not None and status.attempt != self._attempt[0]:
                    return  # the next attempt has a beginning of its own
                self._note(status, now)
                await self._scrape(self._live_arms(parsed, now), now)
                over = self._attempt is not None and status.phase in _OVER
                if over or clock.monotonic() + interval.total_seconds() > end:
                    return
                await clock.sleep(interval.total_seconds())
        except asyncio.CancelledError:
            return
        finally:
            self._gaps()

    def _live_arms(self, parsed: ParsedRollout, now: datetime) -> list[tuple[Arm, ArmRef]]:
        """The arms of the attempt, also once it is over: what is promoted stays the canary of its recording."""
        if parsed.status.canary is not None:
            if self._attempt is None:
                _log.info("attempt_is_recorded", rollout=str(self._key), attempt=parsed.status.attempt)
            self._attempt = parsed.status.attempt, self._refs(parsed, now)
        return self._refs(parsed, now) if self._attempt is None else self._attempt[1]

    async def past(self, start: datetime, end: datetime, interval: timedelta) -> None:
        """Ask for every moment of the past in turn."""
        parsed, runs = self._rollout(), self._runs()
        if parsed is None:
            return
        run = runs[0].spec if runs else None
        ends = [one.status.completed_at for one in runs]
        over = None if None in ends else max((at for at in ends if at is not None), default=None)
        at, end = start, min(end, over or end)
        while at <= end:
            if run is None:
                self._note(parsed.status, at)
            await self._scrape(self._refs(parsed, at) if run is None else _arms_of(run, at), at)
            at += interval
        if run is None:
            self._gaps()
            return
        self.tape.started = run.marks[0].at.timestamp()
        specs = [one.spec for one in runs if one.spec is not None]
        marks = {(mark.at, mark.step): mark for spec in specs for mark in spec.marks if mark.at <= end}
        for _, mark in sorted(marks.items()):
            self.tape.marks.append(Mark(at=mark.at.timestamp(), step=mark.step, weight=mark.weight))
        for gap in sorted({gap for spec in specs for gap in spec.exclude}):
            self._exclude(gap)

    def _runs(self) -> list[ParsedRun]:
        """The evidence of one attempt, the earliest mark first: a run that was replaced has the steps before it."""
        parsed = self._rollout()
        owned = self._caches.owned_runs(self._key, parsed.uid) if parsed is not None else []
        owned.sort(key=lambda run: str(run["metadata"].get("creationTimestamp", "")))
        named = {str(run["metadata"]["name"]): parse_run(run) for run in owned}
        found = {
            name: run for name, run in named.items() if run.spec and run.spec.comparisons and run.spec.marks
        }
        if self._chosen is not None and self._chosen not in found:
            there = ", ".join(found) or "none"
            raise click.UsageError(f"no AnalysisRun {self._chosen} with comparisons; there are: {there}")
        if not found:
            return []
        wanted = found[self._chosen] if self._chosen is not None else list(found.values())[-1]
        same = [
            run
            for run in found.values()
            if run.spec and wanted.spec and run.spec.attempt == wanted.spec.attempt
        ]
        return sorted(same, key=lambda run: run.spec.marks[0].at if run.spec else datetime.now(UTC))

    def _rollout(self) -> ParsedRollout | None:
        obj = self._caches.rollouts.get(self._key)
        return None if obj is None else parse_rollout(obj)

    def _refs(self, parsed: ParsedRollout, at: datetime) -> list[tuple[Arm, ArmRef]]:
        return [(arm, self._ref(parsed, identity)) for arm, identity in self._arms(parsed.status, at)]

    async def _scrape(self, arms: list[tuple[Arm, ArmRef]], at: datetime) -> None:
        self.tape.scrapes += 1
        for arm, ref in arms:
            self.tape.asked[arm] = ref.name
            source = (
                self._sources["picker"]
                if ref.pool and self._source == "pods"
                else self._sources[self._source]
            )
            place = Place(namespace=self._key.namespace, arm=ref)
            try:
                pods = await source.raw(self._wanted.raw_names(source.offer), place, at)
            except SourceError as error:
                self.tape.problem = self.tape.problems[arm] = str(error)
                continue
            for pod, raw in sorted(pods.items()):
                sample = self._wanted.sample(raw.sample, source.offer, arm, pod, raw.started)
                self.tape.samples.append((at.timestamp(), sample))

    @staticmethod
    def _arms(status: RolloutStatus, at: datetime) -> list[tuple[Arm, Identity]]:
        """Before the attempt everything is stable."""
        arms = [(Arm.STABLE, status.stable.identity)] if status.stable is not None else []
        if status.canary is not None and status.started_at is not None and at >= status.started_at:
            arms.append((Arm.CANARY, status.canary.identity))
        return arms

    def _ref(self, parsed: ParsedRollout, identity: Identity) -> ArmRef:
        traffic = parsed.spec.traffic if parsed.spec is not None else None
        if isinstance(traffic, PickerTraffic):
            groups = [traffic.pool_group] if traffic.pool_group else [pool.group for pool in kinds.POOLS]
            found = [g for g in groups if self._caches.pool(g, self._key.namespace, traffic.pool_name)]
            return arm_ref(identity, replace(traffic, pool_group=(found or groups)[0]))
        return arm_ref(identity)

    def _note(self, status: RolloutStatus, now: datetime) -> None:
        current = status.current
        if current is None or current.started_at is None:
            return
        self.tape.started = current.started_at.timestamp()
        weight = (status.weight.applied or 0) / FULL
        last = self.tape.marks[-1] if self.tape.marks else None
        if last is not None and (last.step, last.weight) == (current.current_step, weight):
            return
        # A step begins when the status says; a weight that changes within one (an abort) when it is seen.
        new_step = last is None or last.step != current.current_step
        begun = (current.step_started_at or current.started_at) if new_step else now
        at = max(begun.timestamp(), last.at if last is not None else 0.0)
        self.tape.marks.append(Mark(at=at, step=current.current_step, weight=weight))

    def _gaps(self) -> None:
        """Times that the attempt's own evidence leaves out."""
        parsed = self._rollout()
        if parsed is None:
            return
        runs = {run["metadata"]["name"]: run for run in self._caches.owned_runs(self._key, parsed.uid)}
        owner = Owner(name=parsed.name, uid=parsed.uid, present=frozenset(runs))
        run = runs.get(background_run(owner, parsed.status))
        spec = parse_run(run).spec if run is not None else None
        for gap in spec.exclude if spec is not None else ():
            self._exclude(gap)

    def _exclude(self, gap: tuple[datetime, datetime]) -> None:
        self.tape.exclusions.append(Exclusion(start=gap[0].timestamp(), end=gap[1].timestamp()))
