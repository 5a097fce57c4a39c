"""``rollouts record``: raw counters of a live rollout, or of the past from Prometheus, as a recording."""

from __future__ import annotations

import asyncio
import contextlib
import select
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import structlog

from rollouts.analysis.catalogue import COMPARED
from rollouts.analysis.evidence import Arm, CompareMetric, EvidenceSpec, Exclusion, Mark, PodSample
from rollouts.analysis.logical import Wanted, wanted_of
from rollouts.analysis.recording import exclusion_line, header_line, mark_line, sample_line
from rollouts.analysis.sources.base import Place, Source, SourceError
from rollouts.analysis.sources.scraper import PodScraper
from rollouts.analysis.types import ArmRef, RunSpec
from rollouts.api.parsing import ParsedRollout, parse_rollout
from rollouts.api.runs import ParsedRun, parse_run
from rollouts.api.scalars import parse_duration
from rollouts.cli.connect import EXIT_CODES, connection_options, default_namespace, fetch, with_client
from rollouts.cli.logs import configure_logs
from rollouts.controller.assembly import open_sources
from rollouts.controller.caches import Caches
from rollouts.controller.gates import arm_ref
from rollouts.controller.settings import SettingsError, source_option
from rollouts.engine.naming import Owner, background_run
from rollouts.engine.types import FULL, AdapterTraffic, Identity, Phase, RolloutStatus
from rollouts.kube.client import KubeClient
from rollouts.kube.kubeconfig import ContextChoice
from rollouts.objects import kinds
from rollouts.runtime.clock import Clock, SystemClock
from rollouts.runtime.objects import ObjectKey
from rollouts.terminal import document, say

__all__ = ["record"]

_log = structlog.get_logger(__name__)

_MOST_SCRAPES = 5760
"""Two days at 30 seconds: a recording is a file that people send around."""
_OVER = (Phase.HEALTHY, Phase.ABORTED, Phase.INVALID)


def _duration(_: click.Context, parameter: click.Parameter, text: str | None) -> timedelta | None:
    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param=parameter) from None


@click.command("record", epilog=EXIT_CODES)
@click.argument("name")
@connection_options
@click.option("-f", "--file", "path", type=click.Path(dir_okay=False, path_type=Path), help="Else stdout.")
@click.option("--interval", default="30s", show_default=True, callback=_duration, help="Between two scrapes.")
@click.option("--duration", default="1h", show_default=True, callback=_duration, help="At most this long.")
@click.option("--since", callback=_duration, help="The past instead: from this long ago, from --source.")
@click.option("--until", callback=_duration, help="End of the past, this long ago; now, unless said.")
@click.option(
    "--run", "chosen", metavar="NAME", help="With --since: the attempt of this AnalysisRun; else the newest."
)
@click.option(
    "--source", metavar="NAME=URL", help="A Prometheus-compatible server; without it the pods themselves."
)
def record(
    name: str,
    namespace: str | None,
    kubeconfig: str | None,
    context: ContextChoice,
    path: Path | None,
    interval: timedelta,
    duration: timedelta,
    since: timedelta | None,
    until: timedelta | None,
    chosen: str | None,
    source: str | None,
) -> None:
    """Record NAME's raw counters for `rollouts backtest`: until its end, --duration or Ctrl-C.

    t = 0 is the start of the attempt; what was before it is history. Of the past, the AnalysisRuns with comparisons of
    the newest attempt, or of that of --run, tell arms, steps and exclusions, also when it is over; without one, only
    the present step is known. The past comes from the pods of today: what Prometheus knows of pods that are gone is not
    looked for.
    """
    if since is not None and source is None:
        raise click.UsageError("--since reads the past: name a Prometheus with --source default=URL")
    if chosen is not None and since is None:
        raise click.UsageError("--run chooses an attempt of the past: say with --since where to begin")
    if until is not None and (since is None or until >= since):
        raise click.UsageError("--until ends the past that --since begins: it has to be shorter ago")
    if interval < timedelta(seconds=1) or (since or duration) / interval > _MOST_SCRAPES:
        raise click.UsageError(f"at most {_MOST_SCRAPES} scrapes, one second apart: take a longer --interval")
    try:
        configured = dict([source_option(source)]) if source else {}
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    configure_logs()
    where = namespace or default_namespace(kubeconfig, context)

    async def work(client: KubeClient) -> _Tape:
        clock = SystemClock()
        await fetch(client, where, name)
        async with _watching(client, clock, where) as caches:
            scraper = PodScraper(clock)
            sources = open_sources(configured, caches, scraper, clock)
            recorder = _Recorder(
                caches, sources, next(iter(configured), "pods"), ObjectKey(where, name), chosen
            )
            try:
                if since is not None:
                    now = datetime.now(UTC)
                    await recorder.past(now - since, now - (until or timedelta(0)), interval)
                else:
                    await recorder.live(
                        clock, interval, duration, _reader_gone if path is None else lambda: False
                    )
            finally:
                for one in sources.values():
                    await one.close()
            return recorder.tape

    tape = with_client(kubeconfig, context, work)
    lines = tape.lines(interval.total_seconds())
    if path is None:
        document("\n".join(lines))
    else:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for text in tape.empty_arms():
        say(text, err=True)
    say(
        f"{path or 'stdout'}: {len(tape.samples)} samples of {tape.scrapes} scrapes, {len(tape.marks)} steps",
        err=True,
    )
    if not tape.samples:
        raise click.ClickException(f"no pod answered: {tape.problem or 'there is none'}")


def _reader_gone() -> bool:
    """Whether whoever read stdout has closed it: nothing is written before the end, so no write would tell."""
    try:
        poller = select.poll()
        poller.register(sys.stdout.fileno(), 0)
        return bool(poller.poll(0))
    except (OSError, ValueError):  # no file, as under a test
        return False


@contextlib.asynccontextmanager
async def _watching(client: KubeClient, clock: Clock, namespace: str) -> AsyncIterator[Caches]:
    """The controller's own caches, filled and kept current."""
    caches = Caches(client, clock, namespaces=(namespace,), cluster_templates=False)
    tasks = [asyncio.create_task(reflector.run()) for reflector in caches.reflectors]
    try:
        await caches.wait_for_sync()
        yield caches
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(slots=True)
class _Tape:
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


class _Recorder:
    def __init__(
        self, caches: Caches, sources: dict[str, Source], source: str, key: ObjectKey, chosen: str | None
    ) -> None:
        self.tape = _Tape()
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
        begun = status.started_at is not None and at >= status.started_at
        if status.canary is not None and begun:
            arms.append((Arm.CANARY, status.canary.identity))
        return arms

    def _ref(self, parsed: ParsedRollout, identity: Identity) -> ArmRef:
        traffic = parsed.spec.traffic if parsed.spec is not None else None
        if isinstance(traffic, AdapterTraffic):
            groups = [traffic.pool_group] if traffic.pool_group else [pool.group for pool in kinds.POOLS]
            found = [g for g in groups if self._caches.pool(g, self._key.namespace, traffic.pool_name)]
            return arm_ref(identity, replace(traffic, pool_group=(found or groups)[0]))
        return arm_ref(identity)

    def _note(self, status: RolloutStatus, now: datetime) -> None:
        if status.started_at is None or status.canary is None:
            return
        self.tape.started = status.started_at.timestamp()
        weight = (status.weight.applied or 0) / FULL
        last = self.tape.marks[-1] if self.tape.marks else None
        if last is not None and (last.step, last.weight) == (status.current_step, weight):
            return
        # A step begins when the status says; a weight that changes within one (an abort) when it is seen.
        new_step = last is None or last.step != status.current_step
        begun = (status.step_started_at or status.started_at) if new_step else now
        at = max(begun.timestamp(), last.at if last is not None else 0.0)
        self.tape.marks.append(Mark(at=at, step=status.current_step, weight=weight))

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
