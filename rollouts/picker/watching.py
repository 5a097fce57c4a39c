"""Objects from an API server, by list and watch.

When the API server is lost, the stores keep what they had and the picker serves on; the reflectors come back
by themselves. A kind that the server does not know is an empty one. PoolSplits that the picker may not read are none,
too: a role from before there were any must not keep a new picker from serving; what it lacks, it says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import structlog

from rollouts.kube.client import KubeClient, Resource
from rollouts.kube.http import open_client
from rollouts.objects import kinds
from rollouts.runtime.clock import Clock, SystemClock
from rollouts.runtime.objects import ObjectKey
from rollouts.runtime.reflector import Reflector, SyncState
from rollouts.runtime.store import Store

__all__ = ["RESOURCES", "WatchSource", "connect"]

RESOURCES = (
    *kinds.POOLS,
    kinds.POD,
    kinds.INFERENCE_MODEL,
    kinds.REWRITE_X,
    kinds.REWRITE_LLMD,
    kinds.ROLLOUT,
    kinds.POOL_SPLIT,
)
"""Every kind that is read, in every dialect."""

_SETTLE = 0.02
"""Seconds in which changes are gathered: a rolling update changes pods in bursts, an abort must not wait."""

_REFUSALS = 3
"""Lists of PoolSplits that the server forbids in a row until they are taken for unreadable, about four seconds: an API
server that has just started may forbid what it allows."""
_LOOK = 0.1
_log = structlog.get_logger(__name__)


class WatchSource:
    """Calls ``on_change`` with all objects once every kind was listed, and after each change."""

    def __init__(
        self,
        client: KubeClient,
        namespaces: Iterable[str],
        on_change: Callable[[list[Mapping[str, Any]]], None],
        *,
        clock: Clock | None = None,
    ) -> None:
        self._on_change = on_change
        self._clock = clock or SystemClock()
        self._changed = asyncio.Event()
        self._stores: list[tuple[Resource, Store]] = []
        self._reflectors: list[Reflector] = []
        for namespace in sorted(set(namespaces)):
            for resource in RESOURCES:
                store = Store(transform=_trimmed if resource.kind == "Pod" else None)
                store.subscribe(self._note)
                self._stores.append((resource, store))
                self._reflectors.append(Reflector(client, resource, store, self._clock, namespace=namespace))

    def _note(self, _: ObjectKey) -> None:
        self._changed.set()

    def reads_pool_splits(self) -> bool:
        """Whether PoolSplits of every namespace are known; not where the kind is not served, or may not be read."""
        return all(
            reflector.state is SyncState.SYNCED
            for reflector in self._reflectors
            if reflector.resource == kinds.POOL_SPLIT
        )

    def objects(self) -> list[Mapping[str, Any]]:
        """All objects. Items of a list carry no kind of their own, so it is put back."""
        return [
            {**obj, "apiVersion": resource.api_version, "kind": resource.kind}
            for resource, store in self._stores
            for obj in store.values()
        ]

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as group:
            for reflector in self._reflectors:
                group.create_task(reflector.run())
            for reflector in self._reflectors:
                await self._known(reflector)
            while True:
                self._changed.clear()
                self._on_change(self.objects())
                await self._changed.wait()
                await self._clock.sleep(_SETTLE)

    async def _known(self, reflector: Reflector) -> None:
        """Wait until what a kind has is known, or that this cannot be known of PoolSplits."""
        if reflector.resource != kinds.POOL_SPLIT:
            return await reflector.wait_for_sync()
        while not reflector.has_synced and reflector.refusals < _REFUSALS:
            await self._clock.sleep(_LOOK)
        if not reflector.has_synced:
            advice = "let its Role list and watch poolsplits.inferencerollouts.dev, as the chart does"
            _log.warning("pool_splits_not_read", kind=reflector.name, advice=advice)
        return None


def _trimmed(pod: dict[str, Any]) -> dict[str, Any]:
    """A pod without what nobody here reads, which is most of it."""
    return {"metadata": pod.get("metadata"), "status": pod.get("status")}


async def connect(kubeconfig: str) -> KubeClient:
    """A client for ``kubeconfig``, or for the cluster that this pod runs in when it is empty."""
    return await open_client(kubeconfig or None)
