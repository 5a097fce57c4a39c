"""What the dashboard knows: Rollouts and AnalysisRuns by watch, pods of a Rollout's arms when somebody looks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from rollouts.api.parsing import parse_rollout
from rollouts.api.strategy_words import LiveStrategy
from rollouts.carriers import pods_of
from rollouts.cli.strategies import fetch_strategy
from rollouts.engine.rollout_spec import AdapterTraffic, VariantTraffic
from rollouts.engine.variants import labels_of
from rollouts.engine.versions import Identity
from rollouts.kube.client import KubeClient
from rollouts.kube.errors import KubeError, NotFound
from rollouts.kube.paging import list_all
from rollouts.objects import kinds
from rollouts.objects.fields import items_at
from rollouts.objects.pods import Pod, read_pod
from rollouts.objects.pools import POOL_KIND, Pool
from rollouts.runtime.clock import Clock
from rollouts.runtime.objects import ObjectKey
from rollouts.runtime.reflector import Reflector
from rollouts.runtime.store import Store

__all__ = ["ArmPods", "ClusterView"]

_OWNER = "owner"
_PODS = 200
"""Pods of an arm that a page lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmPods:
    """One version and its pods; ``problem`` says why they are not known."""

    role: str
    name: str
    pods: tuple[Pod, ...] = ()
    problem: str = ""


def _by_owner(run: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for reference in items_at(run, "metadata", "ownerReferences"):
        if reference.get("kind") == kinds.ROLLOUT.kind and isinstance(reference.get("uid"), str):
            yield run["metadata"].get("namespace", ""), reference["uid"]


class ClusterView:
    """``namespace`` None watches all."""

    def __init__(self, client: KubeClient, clock: Clock, namespace: str | None) -> None:
        self._client = client
        self._rollouts = Store(keep_managed_fields=True)
        self._runs = Store(indexes={_OWNER: _by_owner})
        self.reflectors = [
            Reflector(client, resource, store, clock, namespace=namespace)
            for resource, store in ((kinds.ROLLOUT, self._rollouts), (kinds.ANALYSIS_RUN, self._runs))
        ]
        self._waiters: set[asyncio.Event] = set()
        self.version = 0
        """Counts changes of anything."""
        for store in (self._rollouts, self._runs):
            store.subscribe(self._wake)

    def _wake(self, _key: ObjectKey) -> None:
        self.version += 1
        for waiter in self._waiters:
            waiter.set()

    async def synced(self) -> None:
        """Wait until everything was listed once."""
        for reflector in self.reflectors:
            await reflector.wait_for_sync()

    async def changed(self, since: int, seconds: float) -> None:
        """Wait until ``version`` is another one, or so many seconds."""
        if self.version != since:
            return
        waiter = asyncio.Event()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter.wait()
        except TimeoutError:
            return
        finally:
            self._waiters.discard(waiter)

    def rollouts(self) -> list[dict[str, Any]]:
        """All Rollouts, by namespace and name."""
        return [obj for key in sorted(self._rollouts) if (obj := self._rollouts.get(key)) is not None]

    def rollout(self, namespace: str, name: str) -> dict[str, Any] | None:
        """One of them."""
        return self._rollouts.get(ObjectKey(namespace, name))

    def runs(self, rollout: dict[str, Any]) -> list[dict[str, Any]]:
        """Its AnalysisRuns, oldest first."""
        meta = rollout["metadata"]
        found = self._runs.by_index(_OWNER, (meta.get("namespace", ""), meta.get("uid", "")))
        return sorted(found, key=lambda run: str(run["metadata"].get("creationTimestamp", "")))

    async def arms(self, rollout: dict[str, Any]) -> list[ArmPods]:
        """Pods of both versions, as the API server has them now."""
        parsed = parse_rollout(rollout)
        status, traffic = parsed.status, parsed.spec.traffic if parsed.spec is not None else None
        found: list[ArmPods] = []
        for role, revision in (("canary", status.canary), ("stable", status.stable)):
            if revision is None:
                continue
            identity = revision.identity
            if isinstance(traffic, VariantTraffic):
                pool = Identity(kind=POOL_KIND, group=traffic.pool_group, name=traffic.pool_name)
                arm = await self._arm(parsed.namespace, role, pool, labels_of(identity))
                found.append(replace(arm, name=identity.name))
                continue
            if isinstance(traffic, AdapterTraffic):
                pool = Identity(kind=POOL_KIND, group=traffic.pool_group, name=traffic.pool_name)
                both = "canary and stable" if status.canary is not None else "stable"
                return [await self._arm(parsed.namespace, both, pool)]
            found.append(await self._arm(parsed.namespace, role, identity))
        return found

    async def strategy(self, rollout: dict[str, Any]) -> LiveStrategy:
        """The shared strategy that it names, as it is now; None where it cannot be read."""
        try:
            return await fetch_strategy(self._client, rollout)
        except KubeError:
            return None

    async def _arm(
        self, namespace: str, role: str, identity: Identity, labels: Mapping[str, str] = MappingProxyType({})
    ) -> ArmPods:
        """The pods of a pool that have these labels as well."""
        try:
            pool = await self._pool(namespace, identity)
            if pool is None:
                what = f"{identity.kind} {identity.name}"
                return ArmPods(role=role, name=identity.name, problem=f"{what} does not exist")
            selector = pool.narrowed(labels).selector
            pods = await list_all(self._client, kinds.POD, namespace) if selector else []
        except KubeError as error:
            return ArmPods(role=role, name=identity.name, problem=f"its pods could not be read: {error}")
        mine = [pod for pod in pods if _selected(pod, selector)]
        read = [found for pod in mine if (found := read_pod(pod, identity.name)) is not None]
        return ArmPods(
            role=role, name=identity.name, pods=tuple(sorted(read, key=lambda pod: pod.name)[:_PODS])
        )

    async def _pool(self, namespace: str, identity: Identity) -> Pool | None:
        for resource, read in pods_of(identity):
            try:
                return read(await self._client.get(resource, namespace, identity.name))
            except NotFound:
                continue
        return None


def _selected(pod: dict[str, Any], selector: tuple[tuple[str, str], ...]) -> bool:
    labels = pod["metadata"].get("labels") or {}
    return all(labels.get(key) == value for key, value in selector)
