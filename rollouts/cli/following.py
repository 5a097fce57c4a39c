"""Objects followed by one watch, through outages of the API server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

from rollouts.kube.client import KubeClient, Resource, WatchType
from rollouts.kube.errors import Gone, RetryableError, TooManyRequests
from rollouts.kube.paging import list_from
from rollouts.objects import kinds
from rollouts.runtime.backoff import Backoff, BackoffPolicy, bounded_wait
from rollouts.runtime.clock import Monotonic

__all__ = ["Followed", "follow", "follow_all"]

_WATCH_SECONDS = 300
"""A server ends a watch after that time and we begin another: as `kubectl` and informers do."""
_BRIEFEST = 1.0
"""Seconds from one list to the next, whatever ended the watch."""
_BACKOFF = BackoffPolicy(initial=0.5, maximum=10.0)

Object = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """What is followed: objects of a kind and a namespace, by selectors as the API server knows them."""

    resource: Resource
    namespace: str
    fields: str = ""
    labels: str = ""


async def follow(
    client: KubeClient, namespace: str, name: str, *, away: Callable[[str], None], back: Callable[[], None]
) -> AsyncGenerator[Object | None, None]:
    """The Rollout as it is and whenever it changes; None while there is none. See ``follow_all``."""
    one = Followed(resource=kinds.ROLLOUT, namespace=namespace, fields=f"metadata.name={name}")
    async with aclosing(follow_all(client, one, away=away, back=back)) as states:
        async for found in states:
            yield found.get(name)


async def follow_all(
    client: KubeClient, what: Followed, *, away: Callable[[str], None], back: Callable[[], None]
) -> AsyncGenerator[Mapping[str, Object], None]:
    """The objects by name, as they are and whenever one changes. Never ends by itself.

    ``away`` is called with the reason when the API server cannot be asked, once per outage, ``back`` when it answers
    again. Raises KubeError for refusals, which trying again does not mend.
    """
    loop, backoff, out = asyncio.get_running_loop(), Backoff(_BACKOFF, random.Random()), False
    while True:
        begun = loop.time()
        try:
            async with aclosing(_watched(client, what)) as states:
                async for found in states:
                    if out:
                        back()
                    out = False
                    backoff.healthy(Monotonic(loop.time()))
                    yield found
        except RetryableError as error:
            if not out:
                away(str(error))
            out = True
            wait = backoff.failed(Monotonic(loop.time()))
            asked = bounded_wait(error.retry_after, 60.0) if isinstance(error, TooManyRequests) else 0.0
            await asyncio.sleep(max(wait, asked))
        else:
            # A proxy that ends each watch at once, or a version that is always too old, is not asked at full speed.
            await asyncio.sleep(max(0.0, _BRIEFEST - (loop.time() - begun)))


async def _watched(client: KubeClient, what: Followed) -> AsyncGenerator[Mapping[str, Object], None]:
    """The objects, then their changes, until the server has forgotten where we are or ends the watch."""
    objects, version = await list_from(
        client, what.resource, what.namespace, label_selector=what.labels, field_selector=what.fields
    )
    found = {obj["metadata"]["name"]: obj for obj in objects}
    yield found
    events = client.watch(
        what.resource,
        what.namespace,
        resource_version=version,
        timeout_seconds=_WATCH_SECONDS,
        label_selector=what.labels,
        field_selector=what.fields,
    )
    try:
        async with aclosing(cast(Any, events)) as changes:
            async for event in changes:
                if event.type is WatchType.BOOKMARK:
                    continue
                if event.type is WatchType.DELETED:
                    found.pop(event.object["metadata"]["name"], None)
                else:
                    found[event.object["metadata"]["name"]] = event.object
                yield found
    except Gone:
        return
