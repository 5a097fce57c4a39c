"""A gateway that only reports: every HTTPRoute is Accepted and ResolvedRefs at its generation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import structlog

from rollouts.kube.client import KubeClient, PatchKind
from rollouts.kube.errors import KubeError
from rollouts.objects import kinds
from rollouts.runtime.clock import SystemClock
from rollouts.runtime.objects import ObjectKey
from rollouts.runtime.reflector import Reflector
from rollouts.runtime.store import Store

__all__ = ["stub_gateway"]

_log = structlog.get_logger(__name__)
_WORKERS = 3


@asynccontextmanager
async def stub_gateway(client: KubeClient, namespace: str | None) -> AsyncIterator[None]:
    """Report the routes of a namespace, or of all, as programmed while the block runs."""
    store = Store()
    changed: asyncio.Queue[ObjectKey] = asyncio.Queue()
    store.subscribe(changed.put_nowait)
    reflector = Reflector(client, kinds.HTTP_ROUTE, store, SystemClock(), namespace=namespace)

    async def report() -> None:
        while True:
            key = await changed.get()
            route = store.get(key)
            if route is not None and not _programmed(route):
                await _report(client, key, route)

    tasks = [asyncio.create_task(reflector.run())]
    tasks += [asyncio.create_task(report()) for _ in range(_WORKERS)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _report(client: KubeClient, key: ObjectKey, route: Mapping[str, Any]) -> None:
    parents = [_parent(ref, route["metadata"]["generation"]) for ref in route["spec"]["parentRefs"]]
    body = {"status": {"parents": parents}}
    try:
        await client.patch(
            kinds.HTTP_ROUTE, key.namespace, key.name, body, kind=PatchKind.MERGE, subresource="status"
        )
    except KubeError as error:
        _log.info("route_not_reported", route=key.name, error=type(error).__name__)


def _programmed(route: Mapping[str, Any]) -> bool:
    parents = (route.get("status") or {}).get("parents") or []
    return any(
        condition.get("observedGeneration") == route["metadata"]["generation"]
        for parent in parents
        for condition in parent["conditions"]
    )


def _parent(reference: Mapping[str, Any], generation: int) -> dict[str, Any]:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    conditions = [
        {
            "type": name,
            "status": "True",
            "reason": name,
            "message": "",
            "observedGeneration": generation,
            "lastTransitionTime": now,
        }
        for name in ("Accepted", "ResolvedRefs")
    ]
    kept = {key: reference[key] for key in ("group", "kind", "name", "sectionName") if key in reference}
    return {"parentRef": kept, "controllerName": "test.example/gateway", "conditions": conditions}
