"""WrappedClient: the one place that passes the seven methods of a ``KubeClient`` on to another one.

A wrapper says what happens *around* a call: check, count, time, fail. Which method it was is a value, ``Call``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from dataclasses import dataclass
from enum import Enum
from typing import Any, Unpack, cast

from rollouts.kube.client import (
    CreateOptions,
    DeleteOptions,
    KubeClient,
    ListOptions,
    ListPage,
    PatchOptions,
    Resource,
    WatchEvent,
    WatchOptions,
)

__all__ = ["Call", "Verb", "WrappedClient"]

Object = dict[str, Any]


class Verb(Enum):
    """The methods of ``KubeClient``; the value is the name in metrics and messages."""

    GET = "get"
    LIST = "list"
    WATCH = "watch"
    CREATE = "create"
    PATCH = "patch"
    DELETE = "delete"
    DISCOVER = "discover"


_WRITES = frozenset({Verb.CREATE, Verb.PATCH, Verb.DELETE})


@dataclass(frozen=True, slots=True)
class Call:
    """One call about to be made. ``plural`` is empty for discovery, ``name`` where no object is named."""

    verb: Verb
    plural: str = ""
    name: str = ""

    @property
    def writes(self) -> bool:
        """Whether it may change something. Dry runs are writes too: they cost the server as much."""
        return self.verb in _WRITES


class WrappedClient:
    """A ``KubeClient`` that makes each call on ``inner``, inside ``around(call)``."""

    def __init__(self, inner: KubeClient) -> None:
        self._inner = inner

    def around(self, call: Call) -> AbstractAsyncContextManager[None]:
        """Entered before the call, left after its answer; around a watch, from first to last event.

        What it raises on the way in keeps the call from being made. Nothing, unless a wrapper says otherwise.
        """
        return nullcontext()

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        """See ``KubeClient.get``."""
        async with self.around(Call(Verb.GET, resource.plural, name)):
            return await self._inner.get(resource, namespace, name)

    async def list_page(
        self, resource: Resource, namespace: str | None, **options: Unpack[ListOptions]
    ) -> ListPage:
        """See ``KubeClient.list_page``."""
        async with self.around(Call(Verb.LIST, resource.plural)):
            return await self._inner.list_page(resource, namespace, **options)

    async def watch(
        self, resource: Resource, namespace: str | None, **options: Unpack[WatchOptions]
    ) -> AsyncIterator[WatchEvent]:
        """See ``KubeClient.watch``."""
        async with self.around(Call(Verb.WATCH, resource.plural)):
            events = self._inner.watch(resource, namespace, **options)
            # Every implementation is an async generator; closing it ends the connection at once.
            async with aclosing(cast(Any, events)) as stream:
                async for event in stream:
                    yield event

    async def create(
        self,
        resource: Resource,
        namespace: str | None,
        obj: Mapping[str, Any],
        **options: Unpack[CreateOptions],
    ) -> Object:
        """See ``KubeClient.create``."""
        name = str((obj.get("metadata") or {}).get("name", ""))
        async with self.around(Call(Verb.CREATE, resource.plural, name)):
            return await self._inner.create(resource, namespace, obj, **options)

    async def patch(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        patch: Any,
        **options: Unpack[PatchOptions],
    ) -> Object:
        """See ``KubeClient.patch``."""
        async with self.around(Call(Verb.PATCH, resource.plural, name)):
            return await self._inner.patch(resource, namespace, name, patch, **options)

    async def delete(
        self, resource: Resource, namespace: str | None, name: str, **options: Unpack[DeleteOptions]
    ) -> None:
        """See ``KubeClient.delete``."""
        async with self.around(Call(Verb.DELETE, resource.plural, name)):
            await self._inner.delete(resource, namespace, name, **options)

    async def discover(self) -> tuple[Resource, ...]:
        """See ``KubeClient.discover``."""
        async with self.around(Call(Verb.DISCOVER)):
            return await self._inner.discover()
