"""MemoryKubeClient: the KubeClient protocol straight onto a MemoryApi, without sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from rollouts.kube.client import ListPage, PatchKind, Resource, WatchEvent, WatchType
from rollouts.lab.memoryapi.store import MemoryApi

__all__ = ["MemoryKubeClient"]

Object = dict[str, Any]
# A real server sends bookmarks about once a minute.
_BOOKMARK_SECONDS = 60.0


class MemoryKubeClient:
    """In-process client. Each call yields to the event loop once, before it acts, as a request would.

    Watch time-outs and bookmarks use the loop's own timers, so a loop with virtual time covers them.
    """

    def __init__(self, api: MemoryApi, *, field_manager: str = "inference-rollouts") -> None:
        self.api = api
        self._manager = field_manager

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        """See ``KubeClient.get``."""
        await asyncio.sleep(0)
        return self.api.get(resource, namespace, name)

    async def list_page(
        self,
        resource: Resource,
        namespace: str | None,
        *,
        limit: int = 500,
        continue_token: str = "",
        label_selector: str = "",
        field_selector: str = "",
    ) -> ListPage:
        """See ``KubeClient.list_page``."""
        await asyncio.sleep(0)
        return self.api.list_page(
            resource,
            namespace,
            limit=limit,
            continue_token=continue_token,
            label_selector=label_selector,
            field_selector=field_selector,
        )

    async def watch(
        self,
        resource: Resource,
        namespace: str | None,
        *,
        resource_version: str,
        timeout_seconds: int,
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncIterator[WatchEvent]:
        """See ``KubeClient.watch``."""
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_seconds
        bookmark = min(loop.time() + _BOOKMARK_SECONDS, end)
        watch = self.api.subscribe(
            resource,
            namespace,
            resource_version=resource_version,
            label_selector=label_selector,
            field_selector=field_selector,
        )
        try:
            while True:
                while watch.pending:
                    kind, change = watch.pending.popleft()
                    yield WatchEvent(kind, self.api.render(resource, change))
                if watch.closed:
                    return
                now = loop.time()
                if now >= bookmark:
                    bookmark = min(now + _BOOKMARK_SECONDS, end)
                    yield WatchEvent(WatchType.BOOKMARK, self._bookmark(resource))
                if now >= end:
                    return
                await watch.changed(bookmark - now if bookmark > now else end - now)
        finally:
            watch.close()

    def _bookmark(self, resource: Resource) -> Object:
        return {
            "kind": resource.kind,
            "apiVersion": resource.api_version,
            "metadata": {"resourceVersion": str(self.api.revision), "creationTimestamp": None},
        }

    async def create(
        self,
        resource: Resource,
        namespace: str | None,
        obj: Mapping[str, Any],
        *,
        dry_run: bool = False,
        strict: bool = False,
    ) -> Object:
        """See ``KubeClient.create``."""
        await asyncio.sleep(0)
        return self.api.create(
            resource, namespace, obj, manager=self._manager, dry_run=dry_run, strict=strict
        )

    async def patch(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        patch: Any,
        *,
        kind: PatchKind,
        subresource: str = "",
        force: bool = False,
        dry_run: bool = False,
    ) -> Object:
        """See ``KubeClient.patch``."""
        await asyncio.sleep(0)
        return self.api.patch(
            resource,
            namespace,
            name,
            patch,
            content_type=kind.value,
            manager=self._manager,
            subresource=subresource,
            force=force,
            dry_run=dry_run,
        )

    async def delete(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        uid: str = "",
        resource_version: str = "",
        grace_period_seconds: int | None = None,
    ) -> None:
        """See ``KubeClient.delete``."""
        await asyncio.sleep(0)
        self.api.delete(
            resource,
            namespace,
            name,
            uid=uid,
            resource_version=resource_version,
            manager=self._manager,
            grace_period_seconds=grace_period_seconds,
        )

    async def discover(self) -> tuple[Resource, ...]:
        """See ``KubeClient.discover``."""
        await asyncio.sleep(0)
        return tuple(kind.resource(version) for kind in self.api.kinds() for version in kind.versions)
