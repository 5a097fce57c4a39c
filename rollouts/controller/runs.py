"""The AnalysisRun reconciler: plan, measure what is due, plan again, store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import structlog

from rollouts.analysis.conditions import ConditionError
from rollouts.analysis.run_plan import plan_run
from rollouts.analysis.types import (
    Arm,
    ArmRef,
    Measurement,
    MeasureSpec,
    MetricSpec,
    QuerySpec,
    RunPhase,
    RunSpec,
    RunStatus,
    Value,
)
from rollouts.analysis.verdicts import asked_of, has_data, judge_value
from rollouts.analysis.windows import collected, too_early, why_silent, window_of
from rollouts.api.run_results import write_run_status
from rollouts.api.run_status import is_finished
from rollouts.api.runs import ParsedRun, parse_run
from rollouts.controller.caches import Caches
from rollouts.controller.comparing import Comparer, compared_phase
from rollouts.controller.conditions import Conditions
from rollouts.controller.gates import NAME_LABEL
from rollouts.controller.performing import merge_patch
from rollouts.controller.unstored import Unstored
from rollouts.kube.client import KubeClient, PatchKind
from rollouts.kube.errors import KubeError, NotFound, RefusedError, UnansweredError
from rollouts.objects import kinds
from rollouts.objects.owners import owner_of
from rollouts.runtime.clock import Clock
from rollouts.runtime.objects import ObjectKey, uid_of
from rollouts.sources.base import MetricSource, Place, QueryRefused, SourceError
from rollouts.sources.budget import QueryBudget

__all__ = ["RunReconciler"]

_log = structlog.get_logger(__name__)

MEASURE_DEADLINE = 15.0
"""Seconds that one measurement may take, whatever its source allows itself."""
_COUNT_DEADLINE = 3.0
"""Seconds that a count of requests may take, which is only shown."""
_STORE_AGAIN = 5.0
"""Seconds until a status is stored again that was refused."""
_AGAINST = (RunPhase.FAILED, RunPhase.INCONCLUSIVE, RunPhase.ERROR)


def _orphaned(run: Mapping[str, Any]) -> bool:
    """Whether a Rollout made it that is gone: deleting one with ``--cascade=orphan`` takes the reference off.

    Nobody is left who would end such a run.
    """
    labels = run["metadata"].get("labels") or {}
    return NAME_LABEL in labels and owner_of(run, kinds.ROLLOUT.kind) is None


def _arm(run: RunSpec, arm: Arm) -> ArmRef | None:
    return run.canary if arm is Arm.CANARY else run.stable


class RunReconciler:
    """Brings one AnalysisRun forward. It reads nothing of the Rollout: the run stands by itself."""

    def __init__(
        self,
        client: KubeClient,
        caches: Caches,
        sources: Mapping[str, MetricSource],
        clock: Clock,
        budget: QueryBudget,
        conditions: Conditions,
    ) -> None:
        self._client = client
        self._caches = caches
        self._sources = sources
        self._clock = clock
        self._budget = budget
        self._conditions = conditions
        self._comparer = Comparer(sources, clock, budget)
        self._unstored = Unstored()

    async def reconcile(self, key: ObjectKey) -> float | None:
        """Measure what is due; the seconds until the next measurement, None when the run has ended."""
        raw = self._caches.runs.get(key)
        if raw is None or raw["metadata"].get("deletionTimestamp") or is_finished(raw):
            self._forget(key)
            return None
        parsed = parse_run(raw)
        run, status = parsed.spec, self._unstored.newest(key, raw, parsed.status)
        if run is None:
            return await self._store_or_hold(key, raw, self._unreadable(status, parsed.problem), None)
        if _orphaned(raw):
            run = replace(run, terminate=True)
        planned = plan_run(run, status, self._clock.now())
        if planned.due:
            taken = await self._measure(parsed, run, planned.due)
            planned = plan_run(run, planned.status, self._clock.now(), taken)
        status, waits = planned.status, planned.requeue_after
        wait = None if waits is None else waits.total_seconds()
        if planned.due:
            wait = 0.0  # the source took longer than the interval
        if run.comparisons:
            status, wait = await self._compare(key, run, status, wait)
        if status.phase.terminal:
            status = self._comparer.ended(key, status)
        later = self._unstored.keep(key, raw, parsed.status, status, self._clock.now())
        if later is None:
            return await self._store_or_hold(key, raw, status, wait)
        return max(0.1, later if wait is None else min(wait, later))

    def _unreadable(self, known: RunStatus, problem: str) -> RunStatus:
        """The end of a run whose spec cannot be read; what speaks against the canary already stays as it was said."""
        if known.phase in _AGAINST:
            return known
        return RunStatus(phase=RunPhase.ERROR, message=problem, completed_at=self._clock.now())

    async def _store_or_hold(
        self, key: ObjectKey, raw: Mapping[str, Any], status: RunStatus, wait: float | None
    ) -> float | None:
        """Store the newest status, or go on from it where the API server does not take it; when to look again."""
        try:
            await self._store(raw, status)
        except (RefusedError, UnansweredError) as error:
            self._hold(key, raw, status, error)
            if isinstance(error, UnansweredError):
                raise
            return _STORE_AGAIN if wait is None else min(max(0.1, wait), _STORE_AGAIN)
        self._caches.trust_run(key)
        self._unstored.was_stored(key, self._clock.now())
        return None if wait is None else max(0.1, wait)

    def _hold(self, key: ObjectKey, raw: Mapping[str, Any], status: RunStatus, error: KubeError) -> None:
        """What speaks against the canary counts at once; what speaks for it waits until it is stored, in words."""
        again = self._unstored.hold(key, raw, status)
        _log.warning("run_not_stored", namespace=key.namespace, run=key.name, reason=str(error))
        if status.phase in _AGAINST:
            self._caches.know_run(key, uid_of(raw), write_run_status(status))
        elif again or not isinstance(error, UnansweredError):
            message = f"{key.name} cannot pass, as its status is not stored: {error}"
            self._caches.know_run(key, uid_of(raw), {**(raw.get("status") or {}), "message": message})

    def _forget(self, key: ObjectKey) -> None:
        """The run is over or gone."""
        self._comparer.forget(key)
        self._unstored.forget(key)
        self._caches.trust_run(key)

    async def _compare(
        self, key: ObjectKey, run: RunSpec, status: RunStatus, wait: float | None
    ) -> tuple[RunStatus, float | None]:
        """The comparisons' part of the run; a run that has ended is not judged any more."""
        ended = status.phase in (RunPhase.FAILED, RunPhase.INCONCLUSIVE, RunPhase.ERROR) or run.terminate
        if not ended and self._comparer.wait(key, run) == 0.0:
            status = await self._comparer.compare(key, run, status)
        status = compared_phase(run, status)
        if status.phase.terminal:
            return status, None
        later = self._comparer.wait(key, run)
        return status, later if wait is None else min(wait, later)

    async def _measure(
        self, parsed: ParsedRun, run: RunSpec, due: tuple[MetricSpec, ...]
    ) -> dict[str, Measurement]:
        at = self._clock.now().replace(microsecond=0)
        async with asyncio.TaskGroup() as group:
            tasks = {
                metric.name: group.create_task(self._measure_one(parsed.namespace, run, metric, at))
                for metric in due
            }
        return {name: task.result() for name, task in tasks.items()}

    async def _measure_one(
        self, namespace: str, run: RunSpec, metric: MetricSpec, at: datetime
    ) -> Measurement:
        source = self._sources.get(metric.source)
        if source is None:
            known = ", ".join(sorted(self._sources))
            text = f"no source is called {metric.source}; configured are {known}"
            return Measurement(phase=RunPhase.ERROR, at=at, message=text)
        early = too_early(run, metric, at)
        if early:
            return await self._judge_silence(namespace, run, metric, at, early)
        try:
            self._budget.spend(metric.source, namespace)
            async with asyncio.timeout(MEASURE_DEADLINE):
                value = await self._ask(source, namespace, run, metric, at)
        except SourceError as error:
            level = "query_refused" if isinstance(error, QueryRefused) else "source_unavailable"
            _log.info(level, namespace=namespace, metric=metric.name, source=metric.source, reason=str(error))
            return Measurement(phase=RunPhase.ERROR, at=at, message=str(error))
        except TimeoutError:
            text = f"source {metric.source}: no value within {MEASURE_DEADLINE:g} s"
            return Measurement(phase=RunPhase.ERROR, at=at, message=text)
        if not has_data(value):
            return await self._judge_silence(namespace, run, metric, at)
        return await self._judge(namespace, metric, value, at)

    async def _judge_silence(
        self, namespace: str, run: RunSpec, metric: MetricSpec, at: datetime, early: str = ""
    ) -> Measurement:
        """No data, and how much there is. What cannot be told is left out, whatever the reason."""
        seen, what = None, metric.what
        arm = _arm(run, what.arm) if isinstance(what, MeasureSpec) and window_of(metric) else None
        if arm is not None and isinstance(what, MeasureSpec) and self._budget.spare(metric.source, namespace):
            place, since = Place(namespace=namespace, arm=arm), collected(run, metric, at)
            with contextlib.suppress(SourceError, TimeoutError):
                self._budget.spend(metric.source, namespace)
                async with asyncio.timeout(_COUNT_DEADLINE):
                    seen = await self._sources[metric.source].requests(what, place, since, at)
        return judge_value(metric, None, at, why=why_silent(metric, early, seen))

    async def _judge(
        self, namespace: str, metric: MetricSpec, value: Value | None, at: datetime
    ) -> Measurement:
        """The conditions are the author's text: they are asked for first, elsewhere, then the table is read."""
        texts, single = asked_of(metric, value)
        truths: dict[str, bool] = {}
        for text in texts:
            assert single is not None  # silence asks for nothing
            try:
                truths[text] = await self._conditions.holds(namespace, text, single)
            except ConditionError as error:
                return Measurement(phase=RunPhase.ERROR, at=at, value=value, message=str(error))
        return judge_value(metric, value, at, lambda text, _: truths[text])

    @staticmethod
    async def _ask(
        source: MetricSource, namespace: str, run: RunSpec, metric: MetricSpec, at: datetime
    ) -> Any:
        what = metric.what
        if isinstance(what, QuerySpec):
            return await source.query(what.promql, at, namespace)
        assert isinstance(what, MeasureSpec)
        arm = _arm(run, what.arm)
        if arm is None:
            raise QueryRefused(f"the run names no {what.arm.value} arm")
        return await source.measure(what, Place(namespace=namespace, arm=arm), at)

    async def _store(self, raw: Mapping[str, Any], status: RunStatus) -> None:
        patch = merge_patch(raw.get("status") or {}, write_run_status(status))
        if not patch:
            return
        meta = raw["metadata"]
        body = {"metadata": {"resourceVersion": meta["resourceVersion"]}, "status": patch}
        try:
            stored = await self._client.patch(
                kinds.ANALYSIS_RUN,
                meta["namespace"],
                meta["name"],
                body,
                kind=PatchKind.MERGE,
                subresource="status",
            )
        except NotFound:
            return
        self._caches.runs.record_write(stored)
