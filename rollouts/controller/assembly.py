"""Putting the controller together from its parts; no decisions, no waiting."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from rollouts.analysis.types import ArmRef
from rollouts.controller.adapter_views import AdapterPods, AdapterViews
from rollouts.controller.approvals import Approver
from rollouts.controller.arrivals import PROPAGATION
from rollouts.controller.caches import Caches
from rollouts.controller.conditions import Conditions, InlineConditions
from rollouts.controller.contention import Contention
from rollouts.controller.crashes import CrashSource
from rollouts.controller.dialects import Dialects
from rollouts.controller.draining import PodDrains
from rollouts.controller.events import EventRecorder
from rollouts.controller.freezes import Freezes
from rollouts.controller.gates import Gates
from rollouts.controller.gathered import ShareSource
from rollouts.controller.gathering import Gatherer
from rollouts.controller.loaded_weights import LoadedWeights
from rollouts.controller.metrics import ControllerMetrics
from rollouts.controller.notifier import Notifier
from rollouts.controller.pages import metrics_pages
from rollouts.controller.path_views import PathViews
from rollouts.controller.performing import Performer
from rollouts.controller.pickers import PickerHealth
from rollouts.controller.probes import PathProbes
from rollouts.controller.rollouts import RolloutReconciler
from rollouts.controller.runs import RunReconciler
from rollouts.controller.share_watch import ShareWatch
from rollouts.controller.shares import ShareCounter
from rollouts.controller.split_readers import SplitReaders
from rollouts.controller.turns import Turns
from rollouts.controller.warming import WarmUps
from rollouts.controller.windows import WindowCalendar
from rollouts.controller.workloads import InFlight, ScaleRefusals, WorkloadViews
from rollouts.engine.actions import WriteReason
from rollouts.engine.turns import LimitScope
from rollouts.engine.variants import read_selector
from rollouts.kube.client import KubeClient
from rollouts.objects.gitops import GITOPS_MANAGERS
from rollouts.runtime.clock import Clock
from rollouts.runtime.store import ReadOnce
from rollouts.sources.base import Endpoints, MetricSource, ScrapeTarget
from rollouts.sources.budget import QueryBudget
from rollouts.sources.picker import PickerSource
from rollouts.sources.pods import PodsSource
from rollouts.sources.prometheus import PrometheusConfig, PrometheusSource
from rollouts.sources.scraper import PodScraper

__all__ = [
    "Parts",
    "assemble",
    "open_sources",
    "picker_endpoints",
    "pool_endpoints",
    "share_counter",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The assembled controller: two reconcilers over one set of caches."""

    caches: Caches
    rollouts: RolloutReconciler
    runs: RunReconciler
    metrics: ControllerMetrics
    sources: Mapping[str, MetricSource]
    turns: Turns
    share_watch: ShareWatch


def pool_endpoints(caches: Caches) -> Endpoints:
    """Ready pods of an arm, from the caches; both adapters of a rollout are on all pods of one pool.

    Not those that are warmed up: what they answer is no user's, and who measures begins when that is over.
    """

    read_pages: ReadOnce[list[ScrapeTarget]] = ReadOnce(caches.pods)

    def endpoints(namespace: str, arm: ArmRef) -> list[ScrapeTarget]:
        pool = caches.pool(arm.group, namespace, arm.pool or arm.name)
        if pool is None:
            return []
        asked = pool.narrowed(read_selector(arm.labels)) if arm.labels else pool

        def read() -> list[ScrapeTarget]:
            ready = [found for found in caches.endpoints(asked) if found.ready and not found.warming]
            return metrics_pages(ready, asked.processes, namespace)

        return list(read_pages.get((namespace, asked.name, asked.selector, asked.processes), read))

    return endpoints


def picker_endpoints(caches: Caches) -> Endpoints:
    """Metrics pages of the endpoint pickers that serve an arm's pool."""

    def endpoints(namespace: str, arm: ArmRef) -> list[ScrapeTarget]:
        pool = caches.pool(arm.group, namespace, arm.pool or arm.name)
        if pool is None:
            return []
        return [
            ScrapeTarget(pod=found.name, ip=found.ip, port=found.metrics_port, namespace=namespace)
            for found in caches.picker_pods(pool)
            if found.metrics_port is not None
        ]

    return endpoints


def open_sources(
    configured: Mapping[str, PrometheusConfig],
    caches: Caches,
    scraper: PodScraper,
    clock: Clock,
    budget: QueryBudget | None = None,
) -> dict[str, MetricSource]:
    """All sources by name: the configured servers, ``pods``, ``picker``, and ``default`` where none is configured.

    Of the ``budget`` the servers take what a measurement needs beyond its first request.
    """
    endpoints, within = pool_endpoints(caches), budget or _unlimited(clock)
    pods = PodsSource(scraper, endpoints, clock)
    sources: dict[str, MetricSource] = {
        name: PrometheusSource(name, config, endpoints, functools.partial(within.charge, name))
        for name, config in configured.items()
    }
    sources["pods"] = pods
    sources["picker"] = PickerSource(scraper, picker_endpoints(caches), clock)
    sources.setdefault("default", pods)
    return sources


def _unlimited(clock: Clock) -> QueryBudget:
    return QueryBudget(clock, 0, frozenset())


def assemble(
    client: KubeClient,
    clock: Clock,
    *,
    caches: Caches,
    sources: Mapping[str, MetricSource],
    shares: ShareSource,
    adapters: AdapterPods,
    metrics: ControllerMetrics | None = None,
    budget: QueryBudget | None = None,
    conditions: Conditions | None = None,
    gitops_managers: tuple[str, ...] = GITOPS_MANAGERS,
    on_traffic_write: Callable[[WriteReason], None] = lambda _: None,
    health: PickerHealth | None = None,
    crashes: CrashSource | None = None,
    probes: PathProbes | None = None,
    notifier: Notifier | None = None,
    approver: Approver | None = None,
    parallelism: Mapping[LimitScope, int] = MappingProxyType({}),
    in_flight: InFlight | None = None,
    readers: SplitReaders | None = None,
    loaded: LoadedWeights | None = None,
    warm_ups: WarmUps | None = None,
) -> Parts:
    """The reconcilers over ``caches``; ``client`` is the one that writes (behind the fence)."""
    metrics = metrics or ControllerMetrics()
    conditions = conditions or InlineConditions()
    gates = Gates(caches, {name: source.offer for name, source in sources.items()}, conditions)
    dialects = Dialects(client, caches, clock)
    views = AdapterViews(caches, adapters, dialects)
    turns = Turns(client, caches, clock, parallelism)
    share_watch = ShareWatch(shares, clock)
    scaling = _scaling(client, caches, clock, in_flight, warm_ups)
    gatherer = Gatherer(
        caches,
        shares,
        gates,
        views,
        gitops_managers=gitops_managers,
        windows=WindowCalendar(clock),
        turns=turns,
        freezes=Freezes(caches, clock),
        paths=PathViews(caches, health=health, crashes=crashes, probes=probes),
        approver=approver,
        workloads=scaling.views,
        readers=readers,
        loaded=loaded,
    )
    events = EventRecorder(client, clock)
    performer = Performer(
        client,
        caches,
        events,
        gates,
        views,
        refusals=scaling.refusals,
        drains=scaling.drains,
        warm_ups=warm_ups,
        on_traffic_write=_counted(metrics, on_traffic_write),
    )
    reconciler = RolloutReconciler(
        gatherer,
        performer,
        clock,
        metrics,
        dialects,
        turns,
        share_watch,
        Contention(client, caches, events),
        notifier,
        approver,
    )
    return Parts(
        caches=caches,
        rollouts=reconciler,
        runs=RunReconciler(client, caches, sources, clock, budget or _unlimited(clock), conditions),
        metrics=metrics,
        sources=sources,
        turns=turns,
        share_watch=share_watch,
    )


class _Scaling(NamedTuple):
    """What the gatherer and the performer share of workloads; nobody looks at those without ``InFlight``."""

    views: WorkloadViews | None
    drains: PodDrains | None
    refusals: ScaleRefusals


def _scaling(
    client: KubeClient, caches: Caches, clock: Clock, in_flight: InFlight | None, warm_ups: WarmUps | None
) -> _Scaling:
    refusals: ScaleRefusals = {}
    if in_flight is None:
        return _Scaling(None, None, refusals)
    drains = PodDrains(client, caches, clock, in_flight)
    return _Scaling(WorkloadViews(caches, in_flight, refusals, drains, warm_ups), drains, refusals)


def _counted(
    metrics: ControllerMetrics, tell: Callable[[WriteReason], None]
) -> Callable[[WriteReason], None]:
    """Writes of traffic objects, counted and told."""

    def written(reason: WriteReason) -> None:
        metrics.traffic_writes.labels(reason.value).inc()
        tell(reason)

    return written


def share_counter(
    caches: Caches,
    scraper: PodScraper,
    clock: Clock,
    *,
    sources: Mapping[str, MetricSource] | None = None,
    propagation: float = PROPAGATION,
) -> ShareCounter:
    """A share counter over the caches' pools and pickers; the Prometheus source ``default`` where pods are silent."""
    server = (sources or {}).get("default")
    return ShareCounter(
        scraper,
        pool_endpoints(caches),
        picker_endpoints(caches),
        clock,
        server=server if isinstance(server, PrometheusSource) else None,
        propagation=propagation,
    )
