"""What lies between a gateway and a Rollout's pods, gathered: the arms' paths, their crashes, and the probe."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rollouts.api.parsing import ParsedRollout
from rollouts.carriers import Carrier
from rollouts.controller.caches import Caches
from rollouts.controller.crashes import CrashSource, KubeletCrashes
from rollouts.controller.pages import metrics_pages
from rollouts.controller.pickers import Gateway, PickerHealth, PickerPaths, gateways_of
from rollouts.controller.probes import CanaryPods, PathProbes
from rollouts.engine.observation import PoolView, ProbeView, TrafficView
from rollouts.engine.rollout_status import RolloutStatus
from rollouts.engine.variants import labels_of
from rollouts.engine.versions import Identity
from rollouts.objects import kinds
from rollouts.objects.pools import Pool
from rollouts.runtime.objects import ObjectKey

__all__ = ["PathViews"]


def _parents(raw: dict[str, Any] | None, carrier: Carrier | None, namespace: str) -> frozenset[Gateway]:
    """The gateways of the route as it is, and as its template will have them; none for model objects."""
    if carrier is None or carrier.resource != kinds.HTTP_ROUTE:
        return frozenset()
    template = carrier.route
    return gateways_of((raw or {}).get("spec"), namespace) | gateways_of(template, namespace)


class PathViews:
    """Adds to the views of a Rollout what the pools and pods alone do not say. ``probes`` None: nobody probes."""

    def __init__(
        self,
        caches: Caches,
        *,
        health: PickerHealth | None = None,
        crashes: CrashSource | None = None,
        probes: PathProbes | None = None,
    ) -> None:
        self._caches = caches
        self._paths = PickerPaths(caches, health)
        self._crashes = crashes or KubeletCrashes()
        self._probes = probes

    def forget(self, key: ObjectKey) -> None:
        """The Rollout is gone."""
        self._paths.forget(key)
        self._crashes.drop(key)
        if self._probes is not None:
            self._probes.drop(key)

    def pools(
        self,
        parsed: ParsedRollout,
        views: dict[Identity, PoolView],
        target: Identity | None,
        raw: dict[str, Any] | None,
        carrier: Carrier | None,
    ) -> dict[Identity, PoolView]:
        """Views of InferencePools with the candidate's path, and how the pods of a running attempt live."""
        key, status = ObjectKey(parsed.namespace, parsed.name), parsed.status
        stable = status.stable.identity if status.stable is not None else None
        gateways = _parents(raw, carrier, parsed.namespace)
        views = self._paths.of_pools(key, views, _candidate(status, target), stable, gateways)
        pools = [
            self._caches.pool(arm.identity.group, key.namespace, arm.identity.name) for arm in status.arms
        ]
        return self._with_crashes(key, views, status, pools)

    def adapters(
        self,
        parsed: ParsedRollout,
        views: dict[Identity, PoolView],
        target: Identity | None,
        pool: Pool | None,
    ) -> dict[Identity, PoolView]:
        """Views of versions that share a pool, with the candidate's path."""
        key = ObjectKey(parsed.namespace, parsed.name)
        status = parsed.status
        stable = status.stable.identity if status.stable is not None else None
        return self._paths.of_adapters(key, views, _candidate(status, target), stable, pool)

    def variants(
        self,
        parsed: ParsedRollout,
        views: dict[Identity, PoolView],
        target: Identity | None,
        pool: Pool | None,
    ) -> dict[Identity, PoolView]:
        """Views of variants with the path of their one pool, and how the pods of a running attempt live."""
        views = self.adapters(parsed, views, target, pool)
        status = parsed.status
        pools = [pool.narrowed(labels_of(arm.identity)) if pool else None for arm in status.arms]
        return self._with_crashes(ObjectKey(parsed.namespace, parsed.name), views, status, pools)

    def probe(
        self, parsed: ParsedRollout, carrier: Carrier | None, traffic: TrafficView | None
    ) -> ProbeView | None:
        """What is known of the probe of a Managed route's path."""
        key, canary = ObjectKey(parsed.namespace, parsed.name), parsed.status.canary
        template = carrier.route if carrier is not None else None
        if self._probes is None or template is None or traffic is None or canary is None:
            return None
        pool = self._caches.pool(canary.identity.group, key.namespace, canary.identity.name)
        if pool is None:
            return None
        ready = [found for found in self._caches.endpoints(pool) if found.ready]
        endpoints = metrics_pages(ready, pool.processes, key.namespace)
        picker = f"Service {pool.picker.name}" if pool.picker is not None else pool.picker_kind or "none"
        pods = CanaryPods(pool=pool.name, picker=picker, endpoints=endpoints)
        return self._probes.view(key, parsed, template, traffic, pods)

    def _with_crashes(
        self,
        key: ObjectKey,
        views: dict[Identity, PoolView],
        status: RolloutStatus,
        pools: list[Pool | None],
    ) -> dict[Identity, PoolView]:
        """How the pods of a running attempt's arms live; ``pools``: those that select them."""
        arms, current = [arm.identity for arm in status.arms], status.current
        stable, canary = pools if len(pools) == 2 else (None, None)
        if canary is None or stable is None or current is None or current.aborted is not None:
            self._crashes.drop(key)
            return views
        ours, theirs = self._crashes.views(
            key,
            self._caches.endpoints(canary),
            self._caches.endpoints(stable),
            (canary.processes, stable.processes),
        )
        found = dict(zip(arms, (theirs, ours), strict=True))
        return {
            arm: replace(view, crashes=found[arm]) if arm in found else view for arm, view in views.items()
        }


def _candidate(status: RolloutStatus, target: Identity | None) -> Identity | None:
    """Whose path matters: the canary's, or that of a target which may become one."""
    return status.canary.identity if status.canary is not None else target
