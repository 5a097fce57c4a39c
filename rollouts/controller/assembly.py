"""Putting the controller together from its parts; no decisions, no waiting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rollouts.analysis.sources.base import Endpoint, Endpoints, Source
from rollouts.analysis.sources.budget import QUERIES_PER_MINUTE, QueryBudget
from rollouts.analysis.sources.picker import PickerSource
from rollouts.analysis.sources.pods import PodsSource
from rollouts.analysis.sources.prometheus import PrometheusConfig, PrometheusSource
from rollouts.analysis.sources.scraper import PodScraper
from rollouts.analysis.types import ArmRef
from rollouts.api.scalars import parse_time
from rollouts.controller.adapter_views import AdapterPods, AdapterViews
from rollouts.controller.caches import Caches
from rollouts.controller.dialects import Dialects
from rollouts.controller.events import EventRecorder
from rollouts.controller.gates import Gates
from rollouts.controller.metrics import ControllerMetrics
from rollouts.controller.observing import DEFAULT_GITOPS_MANAGERS, Gatherer, ShareSource
from rollouts.controller.performing import Performer
from rollouts.controller.rollouts import RolloutReconciler
from rollouts.controller.runs import RunReconciler
from rollouts.controller.shares import ShareCounter
from rollouts.engine.actions import WriteTraffic
from rollouts.kube.client import KubeClient
from rollouts.runtime.clock import Clock

__all__ = [
    "Parts",
    "assemble",
    "open_sources",
    "picker_endpoints",
    "pool_endpoints",
    "query_budget",
    "share_counter",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The assembled controller: two reconcilers over one set of caches."""

    caches: Caches
    rollouts: RolloutReconciler
    runs: RunReconciler
    metrics: ControllerMetrics
    sources: Mapping[str, Source]


def pool_endpoints(caches: Caches) -> Endpoints:
    """Ready pods of an arm, from the caches; both adapters of a rollout are on the pods of one pool."""

    def endpoints(namespace: str, arm: ArmRef) -> list[Endpoint]:
        pool = caches.pool(arm.group, namespace, arm.pool or arm.name)
        if pool is None:
            return []
        several = len(pool.ports) > 1
        return [
            Endpoint(
                pod=f"{found.pod}:{port}" if several else found.pod,
                ip=found.ip,
                port=port,
                started=_seconds(found.started),
                of=found.pod if several else "",
            )
            for found in caches.endpoints(pool)
            if found.ready
            for port in pool.ports or (pool.port,)
        ]

    return endpoints


def _seconds(text: str) -> float | None:
    """A time as the API server writes it, in seconds since 1970; None where there is none."""
    try:
        return parse_time(text).timestamp() if text else None
    except ValueError:
        return None


def picker_endpoints(caches: Caches) -> Endpoints:
    """Metrics pages of the endpoint pickers that serve an arm's pool."""

    def endpoints(namespace: str, arm: ArmRef) -> list[Endpoint]:
        pool = caches.pool(arm.group, namespace, arm.pool or arm.name)
        if pool is None:
            return []
        return [
            Endpoint(pod=found.pod, ip=found.ip, port=found.metrics_port)
            for found in caches.picker_pods(pool)
            if found.metrics_port is not None
        ]

    return endpoints


def open_sources(
    configured: Mapping[str, PrometheusConfig], caches: Caches, scraper: PodScraper, clock: Clock
) -> dict[str, Source]:
    """All sources by name: the configured servers, ``pods``, ``picker``, and ``default`` where none is configured."""
    endpoints = pool_endpoints(caches)
    pods = PodsSource(scraper, endpoints, clock)
    sources: dict[str, Source] = {
        name: PrometheusSource(name, config, endpoints) for name, config in configured.items()
    }
    sources["pods"] = pods
    sources["picker"] = PickerSource(scraper, picker_endpoints(caches), clock)
    sources.setdefault("default", pods)
    return sources


def query_budget(
    sources: Mapping[str, Source], clock: Clock, per_minute: int = QUERIES_PER_MINUTE
) -> QueryBudget:
    """The budget of each namespace over all configured servers."""
    servers = frozenset(name for name, source in sources.items() if isinstance(source, PrometheusSource))
    return QueryBudget(clock, per_minute, servers)


def assemble(
    client: KubeClient,
    clock: Clock,
    *,
    caches: Caches,
    sources: Mapping[str, Source],
    shares: ShareSource,
    adapters: AdapterPods,
    metrics: ControllerMetrics | None = None,
    budget: QueryBudget | None = None,
    gitops_managers: tuple[str, ...] = DEFAULT_GITOPS_MANAGERS,
    on_traffic_write: Callable[[WriteTraffic], None] = lambda _: None,
) -> Parts:
    """The reconcilers over ``caches``; ``client`` is the one that writes (behind the fence)."""
    metrics = metrics or ControllerMetrics()
    gates = Gates(caches, frozenset(sources))
    events = EventRecorder(client, clock)

    def written(action: WriteTraffic) -> None:
        metrics.traffic_writes.labels(action.reason.value).inc()
        on_traffic_write(action)

    dialects = Dialects(client, caches, clock)
    views = AdapterViews(caches, adapters, dialects)
    gatherer = Gatherer(caches, shares, gates, views, gitops_managers=gitops_managers)
    performer = Performer(client, caches, events, gates, views, on_traffic_write=written)
    return Parts(
        caches=caches,
        rollouts=RolloutReconciler(gatherer, performer, clock, metrics, dialects),
        runs=RunReconciler(client, caches, sources, clock, budget or query_budget(sources, clock)),
        metrics=metrics,
        sources=sources,
    )


def share_counter(caches: Caches, scraper: PodScraper, clock: Clock) -> ShareCounter:
    """A share counter over the caches' pools and pickers."""
    return ShareCounter(scraper, pool_endpoints(caches), picker_endpoints(caches), clock)
