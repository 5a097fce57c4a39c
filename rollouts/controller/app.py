"""The controller process: caches, sources, lease, work queues, and their orderly end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from rollouts.api.parsing import FINALIZER
from rollouts.controller.adapters import AdapterWatch
from rollouts.controller.approvals import Approver
from rollouts.controller.assembly import Parts, assemble, open_sources, share_counter
from rollouts.controller.caches import Caches
from rollouts.controller.conditions import SandboxedConditions
from rollouts.controller.crashes import CrashWatch
from rollouts.controller.gate_metrics import GateCollector
from rollouts.controller.housekeeping import prune_runs
from rollouts.controller.in_flight import PodsInFlight
from rollouts.controller.loaded_weights import ScrapedWeights
from rollouts.controller.metrics import ControllerMetrics
from rollouts.controller.model_server_calls import ModelServerCalls
from rollouts.controller.notifier import Notifier
from rollouts.controller.orphaned_splits import remove_orphaned_splits
from rollouts.controller.picker_health import PickerHealthWatch
from rollouts.controller.probes import Prober
from rollouts.controller.reporting import report_annotations
from rollouts.controller.settings import Settings
from rollouts.controller.split_readers import ScrapedSplitReaders
from rollouts.controller.termination import TerminationNotice, ask_whether_it_ends
from rollouts.controller.wakes import on_rollout_change
from rollouts.controller.warming import AT_ONCE, OF_ONE_NAMESPACE, WarmUps
from rollouts.kube.client import KubeClient
from rollouts.kube.counting import CountingClient, RequestRecord
from rollouts.kube.versions import AnyVersion
from rollouts.objects import kinds
from rollouts.runtime.clock import Clock
from rollouts.runtime.election import LeaderElector, Leadership, unique_identity
from rollouts.runtime.fencing import FencedClient, WriteFence
from rollouts.runtime.health import (
    HttpServer,
    health_routes,
    liveness,
    metrics_routes,
    parse_address,
    readiness,
)
from rollouts.runtime.lease import LeaseConfig
from rollouts.runtime.modelservers import ModelServerBook
from rollouts.runtime.objects import ObjectKey, key_of
from rollouts.runtime.supervisor import LoopMonitor, Supervisor
from rollouts.runtime.worker import WorkerConfig, WorkerPool, WorkOutcome
from rollouts.runtime.workqueue import WorkQueue
from rollouts.sources.budget import QueryBudget
from rollouts.sources.scraper import PodScraper

__all__ = ["LEASE_NAME", "Controller", "lease_name"]

_log = structlog.get_logger(__name__)

LEASE_NAME = "inference-rollouts"
_LEAVE_SECONDS = 8.0
"""Beside the ten seconds that running work may take it stays below the thirty that a Pod has to end."""
_DELETION_MAY_FOLLOW_SECONDS = 3.0
"""Whoever deletes both one by one deletes Pods and Rollouts within a second or two, in any order."""
_LEAVE_POLL_SECONDS = 0.2
_RESYNC_SECONDS = 300
_PRUNE_SECONDS = 60
_STATS_SECONDS = 5
_NAMESPACES_AT_ONCE = 4
"""Namespaces that can have all their reconciles waiting for something slow before others wait for them."""


def _namespace_of(key: ObjectKey) -> str:
    return key.namespace


def lease_name(settings: Settings) -> str:
    """One lease per set of Rollouts: controllers of other namespaces keep theirs beside it and do not wait for it.

    Who watches the lease's own namespace, or several, has the plain name unless it is given another: a name made of
    several would change with them, and old and new replicas would not wait for each other.
    """
    if settings.lease_name:
        return settings.lease_name
    only = settings.namespaces[0] if len(settings.namespaces) == 1 else settings.lease_namespace
    return LEASE_NAME if only == settings.lease_namespace else f"{LEASE_NAME}-{only}"


class Controller:
    """Everything that one process runs. ``run`` ends after ``stop``, or raises when a part fails."""

    def __init__(self, client: KubeClient, settings: Settings, clock: Clock) -> None:
        self.settings = settings
        self.metrics = ControllerMetrics()
        self._clock = clock
        self._counted = AnyVersion(CountingClient(client, self._count), kinds.OTHER_VERSIONS)
        self._fence = WriteFence(clock)
        fenced = FencedClient(TerminationNotice(self._counted, self._namespace_ends), self._fence)
        self.caches = Caches(
            fenced,
            clock,
            namespaces=settings.namespaces,
            cluster_templates=settings.cluster_templates,
            freezes=settings.freezes,
            capacity_kinds=settings.capacity_kinds,
            unwatched=settings.unwatched,
        )
        model_servers = ModelServerBook(settings.model_servers)
        self._scraper = PodScraper(clock, model_servers=model_servers)
        self.metrics.registry.register(GateCollector(self.caches, lambda: self.leading))
        budget = QueryBudget(clock, settings.queries_per_minute, frozenset(settings.sources))
        self._sources = open_sources(settings.sources, self.caches, self._scraper, clock, budget)
        self._shares = share_counter(
            self.caches, self._scraper, clock, sources=self._sources, propagation=settings.propagation
        )
        self.adapters = AdapterWatch(clock, settings.adapters, model_servers)
        self.health = PickerHealthWatch(clock)
        self.crashes = CrashWatch(self._scraper, clock)
        self.prober = Prober(fenced, self._scraper, clock, settings.path_probe)
        self.notifier = Notifier(settings.notifications, clock, self.metrics)
        self.approver = Approver(settings.notifications, clock, self.metrics)
        calls = ModelServerCalls(model_servers, AT_ONCE, OF_ONE_NAMESPACE)
        self.warm_ups = WarmUps(fenced, self.caches, clock, self._scraper, calls)
        self._conditions = SandboxedConditions()
        self.parts: Parts = assemble(
            fenced,
            clock,
            caches=self.caches,
            sources=self._sources,
            shares=self._shares,
            adapters=self.adapters,
            metrics=self.metrics,
            budget=budget,
            conditions=self._conditions,
            gitops_managers=settings.gitops_managers,
            health=self.health,
            crashes=self.crashes,
            probes=self.prober,
            notifier=self.notifier,
            approver=self.approver,
            parallelism=settings.parallelism,
            in_flight=PodsInFlight(self._scraper, self.caches, clock),
            readers=ScrapedSplitReaders(self._scraper),
            loaded=ScrapedWeights(self._scraper, clock),
            warm_ups=self.warm_ups,
        )
        self._writer = fenced
        self._rollout_queue = self._queue()
        self._run_queue = self._queue()
        self._stopping = asyncio.Event()
        self._elector: LeaderElector | None = None
        self.leading = False

    def _queue(self) -> WorkQueue[ObjectKey]:
        """Namespaces take turns, and one has ``workers`` reconciles at a time, a quarter of all."""
        return WorkQueue(self._clock, tenant=_namespace_of, most=self.settings.workers)

    def stop(self) -> None:
        """Ask ``run`` to end: finish what is being written, hand the lease over."""
        self._stopping.set()

    async def leave(self) -> None:
        """Stop, but not before Rollouts that are being deleted were let go.

        Where controller and Rollouts are deleted together (their namespace, one release), nobody else would do it: a
        Rollout that gives traffic back is waited for, and for a moment one that may be deleted any time now. In a
        namespace that ends Rollouts are deleted after the last Pod has gone, so they are taken for deleted now.
        """
        begun, self.caches.leaving = self._clock.monotonic(), True
        for one in filter(self._goes, self._held_rollouts()):
            self._rollout_queue.add(key_of(one))  # it may wait for a drain that ends too late
        while self.leading and not self._stopping.is_set():
            waited = self._clock.monotonic() - begun
            held = list(self._held_rollouts())
            deleted = any(self._goes(one) for one in held)
            if not held or waited >= (_LEAVE_SECONDS if deleted else _DELETION_MAY_FOLLOW_SECONDS):
                break
            if any(
                not self._goes(one) and key_of(one).namespace == self.settings.lease_namespace for one in held
            ):
                await ask_whether_it_ends(self._writer, self.settings.lease_namespace)
            await self._clock.sleep(_LEAVE_POLL_SECONDS)
        self.stop()

    def _goes(self, rollout: dict[str, Any]) -> bool:
        meta = rollout["metadata"]
        return bool(meta.get("deletionTimestamp")) or meta["uid"] in self.caches.doomed

    def _namespace_ends(self, namespace: str) -> None:
        """Its Rollouts are taken for deleted: when they are, nobody may be left who could let them go."""
        ending = [one for one in self.caches.rollouts.values() if one["metadata"]["namespace"] == namespace]
        new = [one for one in ending if one["metadata"]["uid"] not in self.caches.doomed]
        if not new:
            return
        _log.warning("namespace_ends", namespace=namespace, rollouts=len(new))
        self.caches.doomed &= {one["metadata"]["uid"] for one in self.caches.rollouts.values()}
        for one in new:
            self.caches.doomed.add(one["metadata"]["uid"])
            self._rollout_queue.add(key_of(one))

    def _held_rollouts(self) -> Iterator[dict[str, Any]]:
        """Rollouts that a deletion would have to wait for us with."""
        for key in self.caches.rollouts:
            rollout = self.caches.rollouts.get(key)
            if rollout is not None and FINALIZER in (rollout["metadata"].get("finalizers") or []):
                yield rollout

    async def run(self) -> None:
        """Run until stopped. Raises PartEnded when a part ends before that (its cause may be LeaseLost)."""
        supervisor = Supervisor()
        monitor = LoopMonitor(self._clock)
        reflectors = self.caches.reflectors
        health = health_routes(live=liveness(reflectors, monitor), ready=readiness(reflectors))
        supervisor.add("event-loop", monitor.run)
        supervisor.add("health", HttpServer(parse_address(self.settings.health_address), health).run)
        metrics = metrics_routes(self.metrics.registry)
        supervisor.add("metrics", HttpServer(parse_address(self.settings.metrics_address), metrics).run)
        supervisor.add("scraper", self._scraper.run)
        supervisor.add("shares", self._shares.run)
        supervisor.add("share-watch", self.parts.share_watch.run)
        supervisor.add("adapters", self.adapters.run)
        supervisor.add("picker-health", self.health.run)
        supervisor.add("crashes", self.crashes.run)
        supervisor.add("prober", self.prober.run)
        supervisor.add("notifier", self.notifier.run)
        supervisor.add("approver", self.approver.run)
        for reflector in reflectors:
            supervisor.add(reflector.name, reflector.run)
        supervisor.add("controller", self._lead, stop=self._stop_leading, grace=20.0)
        try:
            await supervisor.run(self._stopping)
        finally:
            await self._conditions.close()
            await self.warm_ups.close()
            for source in self._sources.values():
                await source.close()

    async def _synced(self) -> bool:
        """Wait for the caches; False when asked to stop before they were filled."""
        filled = asyncio.ensure_future(self.caches.wait_for_sync())
        asked = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait({filled, asked}, return_when=asyncio.FIRST_COMPLETED)
        for task in (filled, asked):
            task.cancel()
        return not self._stopping.is_set()

    def _stop_leading(self) -> None:
        if self._elector is not None:
            self._elector.stop()

    async def _lead(self) -> None:
        if not await self._synced():
            return
        _log.info("caches_synced", rollouts=len(self.caches.rollouts), pods=len(self.caches.pods))
        if not self.settings.leader_elect:
            self._fence.open_for_ever()
            await self._work(Leadership(epoch=0, stopping=self._stopping))
            return
        identity = unique_identity()
        config = LeaseConfig(
            namespace=self.settings.lease_namespace,
            name=lease_name(self.settings),
            annotations=report_annotations(self.settings, identity),
        )
        self._elector = LeaderElector(self._counted, config, identity, self._clock, self._fence)
        await self._elector.run(self._work)

    async def _work(self, leadership: Leadership) -> None:
        self.leading = True
        self.metrics.leader.set(1)
        _log.info("leading", epoch=leadership.epoch)
        pools = [
            self._pool("rollout", self._rollout_queue, self.parts.rollouts.reconcile),
            self._pool("analysisrun", self._run_queue, self.parts.runs.reconcile),
        ]
        on_rollout_change(self.caches, self._rollout_queue.add)
        watches = (
            self.adapters,
            self.health,
            self.crashes,
            self.prober,
            self.notifier,
            self.approver,
            self.warm_ups,
            self.parts.turns,
            self.parts.share_watch,
        )
        for watch in watches:
            watch.on_change = self._rollout_queue.add
        self.adapters.on_change = self._rollout_queue.add
        self._conditions.on_change = self._rollout_queue.add
        self.caches.runs.subscribe(self._run_queue.add)
        self.resync()
        scheduler = self._housekeeping()
        try:
            async with asyncio.TaskGroup() as group:
                for pool in pools:
                    group.create_task(pool.run())
                await leadership.stopping.wait()
                for pool in pools:
                    await pool.stop()
        finally:
            scheduler.shutdown(wait=False)
            self.leading = False
            self.metrics.leader.set(0)

    def _pool(
        self,
        name: str,
        queue: WorkQueue[ObjectKey],
        reconcile: Callable[[ObjectKey], Awaitable[float | None]],
    ) -> WorkerPool[ObjectKey]:
        def observe(_key: ObjectKey, outcome: WorkOutcome, seconds: float) -> None:
            self.metrics.reconcile_seconds.labels(name, outcome.value).observe(seconds)

        return WorkerPool(
            queue,
            reconcile,
            self._clock,
            config=WorkerConfig(workers=self.settings.workers * _NAMESPACES_AT_ONCE),
            observe=observe,
        )

    # --- housekeeping ---

    def _housekeeping(self) -> AsyncIOScheduler:
        scheduler = AsyncIOScheduler(timezone="UTC")
        scheduler.add_job(self.resync, "interval", seconds=_RESYNC_SECONDS, jitter=30)
        scheduler.add_job(self._prune, "interval", seconds=_PRUNE_SECONDS, max_instances=1)
        scheduler.add_job(self._publish_stats, "interval", seconds=_STATS_SECONDS)
        scheduler.start()
        return scheduler

    def resync(self) -> None:
        """Look at everything again: the safety net under the watches. It writes nothing where nothing changed."""
        for key in self.caches.rollouts:
            self._rollout_queue.add(key)
        for key in self.caches.runs:
            self._run_queue.add(key)

    async def _prune(self) -> None:
        await prune_runs(self._writer, self.caches)
        await remove_orphaned_splits(self._writer, self.caches)

    def _publish_stats(self) -> None:
        for name, queue in (("rollout", self._rollout_queue), ("analysisrun", self._run_queue)):
            stats = queue.stats()
            self.metrics.queue_depth.labels(name).set(stats.depth)
            self.metrics.queue_oldest.labels(name).set(stats.oldest_age)

    def _count(self, record: RequestRecord) -> None:
        self.metrics.api_requests.labels(record.verb, record.plural, str(record.status)).inc()
