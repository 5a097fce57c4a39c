"""A recorder of everything that an API server stores of some kinds, by watches of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from benchmarks.controller.judging import Event, History
from rollouts.kube.client import KubeClient, Resource, WatchType
from rollouts.kube.errors import KubeError
from rollouts.objects import kinds

__all__ = ["recorded"]

_KINDS = (kinds.ROLLOUT, kinds.HTTP_ROUTE, kinds.INFERENCE_MODEL, kinds.ANALYSIS_RUN)
_NAMESPACE = "default"


@asynccontextmanager
async def recorded(client: KubeClient, history: History, now: Callable[[], float]) -> AsyncIterator[None]:
    """Append every event of the four kinds to ``history`` until the end of the block."""
    tasks = []
    for kind in _KINDS:
        page = await client.list_page(kind, _NAMESPACE)
        tasks.append(asyncio.create_task(_follow(client, kind, page.resource_version, history, now)))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for result in ended:
        if isinstance(result, Exception):
            raise result  # a hole in the history proves nothing


async def _follow(
    client: KubeClient, kind: Resource, version: str, history: History, now: Callable[[], float]
) -> None:
    """Watch on from where the last watch ended; an expired version is an error, since events would be lost."""
    while True:
        try:
            async for event in client.watch(kind, _NAMESPACE, resource_version=version, timeout_seconds=300):
                version = event.object["metadata"]["resourceVersion"]
                if event.type is not WatchType.BOOKMARK:
                    history.events.append(
                        Event(
                            version=int(version),
                            seconds=now(),
                            kind=kind.kind,
                            name=event.object["metadata"]["name"],
                            obj=event.object,
                            gone=event.type is WatchType.DELETED,
                        )
                    )
        except KubeError as error:
            if error.status == 410:
                raise
