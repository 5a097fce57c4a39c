"""GuardedClient: a KubeClient that refuses to write without the lease, and counts what it sends."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from rollouts.kube.client import KubeClient, ListPage, PatchKind, Resource, WatchEvent
from rollouts.kube.errors import KubeError, NotLeader

__all__ = ["GuardedClient", "RequestRecord"]

Object = dict[str, Any]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One finished request. ``status`` is the HTTP code of the answer, 0 where there was none."""

    verb: str
    plural: str
    status: int
    seconds: float


def _ignore(_record: RequestRecord) -> None:
    """Nobody counts."""


class GuardedClient:
    """Wraps a client: ``may_write`` is asked right before each write; ``on_request`` sees each request.

    A refused write raises NotLeader, is not sent and not counted. Dry runs are writes too: they cost the
    server as much.
    """

    def __init__(
        self,
        inner: KubeClient,
        may_write: Callable[[], bool],
        *,
        on_request: Callable[[RequestRecord], None] = _ignore,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inner = inner
        self._may_write = may_write
        self._on_request = on_request
        self._monotonic = monotonic

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        """See ``KubeClient.get``."""
        return await self._counted("get", resource.plural, self._inner.get(resource, namespace, name))

    async def list_page(
        self,
        resource: Resource,
        namespace: str | None,
        *,
        limit: int = 500,
        continue_token: str = "",
        label_selector: str = "",
    ) -> ListPage:
        """See ``KubeClient.list_page``."""
        page = self._inner.list_page(
            resource, namespace, limit=limit, continue_token=continue_token, label_selector=label_selector
        )
        return await self._counted("list", resource.plural, page)

    async def watch(
        self,
        resource: Resource,
        namespace: str | None,
        *,
        resource_version: str,
        timeout_seconds: int,
        label_selector: str = "",
    ) -> AsyncIterator[WatchEvent]:
        """See ``KubeClient.watch``. Counted once, when it ends; ``seconds`` is its whole life."""
        started, status = self._monotonic(), 200
        events = self._inner.watch(
            resource,
            namespace,
            resource_version=resource_version,
            timeout_seconds=timeout_seconds,
            label_selector=label_selector,
        )
        try:
            # Every implementation is an async generator; closing it ends the connection at once.
            async with aclosing(cast(Any, events)) as stream:
                async for event in stream:
                    yield event
        except KubeError as error:
            status = error.status
            raise
        finally:
            self._record("watch", resource.plural, status, started)

    async def create(
        self, resource: Resource, namespace: str | None, obj: Mapping[str, Any], *, dry_run: bool = False
    ) -> Object:
        """See ``KubeClient.create``. Raises NotLeader."""
        self._check("create", resource, str((obj.get("metadata") or {}).get("name", "")))
        created = self._inner.create(resource, namespace, obj, dry_run=dry_run)
        return await self._counted("create", resource.plural, created)

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
        """See ``KubeClient.patch``. Raises NotLeader."""
        self._check("patch", resource, name)
        patched = self._inner.patch(
            resource,
            namespace,
            name,
            patch,
            kind=kind,
            subresource=subresource,
            force=force,
            dry_run=dry_run,
        )
        return await self._counted("patch", resource.plural, patched)

    async def delete(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        uid: str = "",
        resource_version: str = "",
    ) -> None:
        """See ``KubeClient.delete``. Raises NotLeader."""
        self._check("delete", resource, name)
        deleted = self._inner.delete(resource, namespace, name, uid=uid, resource_version=resource_version)
        await self._counted("delete", resource.plural, deleted)

    async def discover(self) -> tuple[Resource, ...]:
        """See ``KubeClient.discover``."""
        return await self._counted("discover", "", self._inner.discover())

    def _check(self, verb: str, resource: Resource, name: str) -> None:
        if not self._may_write():
            raise NotLeader(
                f"{verb} of {resource.plural} {name!r} was not sent: this process does not hold the lease; "
                "the leader will do it"
            )

    async def _counted(self, verb: str, plural: str, request: Awaitable[_T]) -> _T:
        started, status = self._monotonic(), 0
        try:
            answer = await request
            status = 200
        except KubeError as error:
            status = error.status
            raise
        finally:
            self._record(verb, plural, status, started)
        return answer

    def _record(self, verb: str, plural: str, status: int, started: float) -> None:
        seconds = self._monotonic() - started
        self._on_request(RequestRecord(verb=verb, plural=plural, status=status, seconds=seconds))
