"""Kinds of which an API server may serve one version or another: asked for by the first, read as what is there.

Only for kinds that are read alike in all of their versions, and written by JSON or merge patches. The resourceVersions
of an object are the same in each, so that a watch goes on when the server is upgraded and serves one of them no more.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar, Unpack, cast

from rollouts.kube.client import (
    DeleteOptions,
    KubeClient,
    ListOptions,
    ListPage,
    PatchOptions,
    Resource,
    WatchEvent,
    WatchOptions,
)
from rollouts.kube.errors import KindNotServed
from rollouts.kube.wrapping import WrappedClient

__all__ = ["AnyVersion"]

Object = dict[str, Any]
T = TypeVar("T")


class AnyVersion(WrappedClient):
    """A ``KubeClient``. ``others``: by resource the versions to ask for where the server does not serve its own."""

    def __init__(self, inner: KubeClient, others: Mapping[Resource, Sequence[Resource]]) -> None:
        super().__init__(inner)
        self._others = others
        self._served: dict[Resource, Resource] = {}

    def _versions(self, resource: Resource, *, afresh: bool = False) -> list[Resource]:
        """The versions in the order in which they are asked; ``afresh``: the best first, whatever was served."""
        known = [] if afresh else [self._served.get(resource, resource)]
        return list(dict.fromkeys([*known, resource, *self._others.get(resource, ())]))

    async def _first(
        self, resource: Resource, ask: Callable[[Resource], Awaitable[T]], *, afresh: bool = False
    ) -> T:
        *versions, last = self._versions(resource, afresh=afresh)
        for one in versions:
            try:
                answer = await ask(one)
            except KindNotServed:
                continue
            self._served[resource] = one
            return answer
        answer = await ask(last)
        self._served[resource] = last
        return answer

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        """See ``KubeClient.get``."""
        return await self._first(resource, lambda one: self._inner.get(one, namespace, name))

    async def list_page(
        self, resource: Resource, namespace: str | None, **options: Unpack[ListOptions]
    ) -> ListPage:
        """See ``KubeClient.list_page``. A list that begins finds out which version is the best by now."""
        afresh = not options.get("continue_token")
        return await self._first(
            resource, lambda one: self._inner.list_page(one, namespace, **options), afresh=afresh
        )

    async def watch(
        self, resource: Resource, namespace: str | None, **options: Unpack[WatchOptions]
    ) -> AsyncIterator[WatchEvent]:
        """See ``KubeClient.watch``."""
        versions = self._versions(resource)
        for one in versions:
            try:
                events = self._inner.watch(one, namespace, **options)
                async with aclosing(cast(Any, events)) as stream:
                    async for event in stream:
                        self._served[resource] = one
                        yield event
            except KindNotServed:
                if one == versions[-1]:
                    raise
            else:
                return

    async def patch(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        patch: Any,
        **options: Unpack[PatchOptions],
    ) -> Object:
        """See ``KubeClient.patch``."""
        return await self._first(
            resource, lambda one: self._inner.patch(one, namespace, name, patch, **options)
        )

    async def delete(
        self, resource: Resource, namespace: str | None, name: str, **options: Unpack[DeleteOptions]
    ) -> None:
        """See ``KubeClient.delete``."""
        await self._first(resource, lambda one: self._inner.delete(one, namespace, name, **options))
