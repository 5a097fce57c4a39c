"""One Rollout followed by a watch, through outages of the API server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, cast

from rollouts.kube.client import KubeClient, WatchType
from rollouts.kube.errors import Gone, RetryableError, TooManyRequests
from rollouts.objects import kinds
from rollouts.runtime.backoff import Backoff, BackoffPolicy, bounded_wait
from rollouts.runtime.clock import Monotonic

__all__ = ["follow"]

_WATCH_SECONDS = 300
"""A server ends a watch after that time and we begin another: as `kubectl` and informers do."""
_BACKOFF = BackoffPolicy(initial=0.5, maximum=10.0)

Object = dict[str, Any]


async def follow(
    client: KubeClient, namespace: str, name: str, *, away: Callable[[str], None], back: Callable[[], None]
) -> AsyncGenerator[Object | None, None]:
    """The Rollout as it is and whenever it changes; None while there is none. Never ends by itself.

    ``away`` is called with the reason when the API server cannot be asked, once per outage, ``back`` when it answers
    again. Raises KubeError for refusals, which trying again does not mend.
    """
    loop, backoff, out = asyncio.get_running_loop(), Backoff(_BACKOFF, random.Random()), False
    while True:
        try:
            async with aclosing(_watched(client, namespace, name)) as states:
                async for obj in states:
                    if out:
                        back()
                    out = False
                    backoff.healthy(Monotonic(loop.time()))
                    yield obj
        except RetryableError as error:
            if not out:
                away(str(error))
            out = True
            wait = backoff.failed(Monotonic(loop.time()))
            asked = bounded_wait(error.retry_after, 60.0) if isinstance(error, TooManyRequests) else 0.0
            await asyncio.sleep(max(wait, asked))


async def _watched(client: KubeClient, namespace: str, name: str) -> AsyncGenerator[Object | None, None]:
    """The Rollout, then its changes, until the server has forgotten where we are or ends the watch."""
    only = f"metadata.name={name}"
    page = await client.list_page(kinds.ROLLOUT, namespace, field_selector=only)
    yield page.items[0] if page.items else None
    events = client.watch(
        kinds.ROLLOUT,
        namespace,
        resource_version=page.resource_version,
        timeout_seconds=_WATCH_SECONDS,
        field_selector=only,
    )
    try:
        async with aclosing(cast(Any, events)) as changes:
            async for event in changes:
                if event.type is not WatchType.BOOKMARK:
                    yield None if event.type is WatchType.DELETED else event.object
    except Gone:
        return
