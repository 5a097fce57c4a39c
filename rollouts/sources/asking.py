"""What one measure asks of a server: in as many requests as it takes, which are counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from rollouts.analysis.types import Labelled, Value
from rollouts.sources.base import ScrapeTarget
from rollouts.sources.bounded_session import MAX_BYTES
from rollouts.sources.prometheus_server import AnswerTooLarge, PrometheusServer
from rollouts.sources.prometheus_values import instant_value, matrix
from rollouts.sources.promql import (
    LONGEST_QUERY,
    LOOKBACK,
    PodSelection,
    Queries,
    known_since,
    range_query,
)
from rollouts.sources.raw_windows import RawSeries

__all__ = ["Asking", "all_of"]

_MAX_RAW = 50_000
"""Series of one arm: two dozen buckets of ten histograms on two hundred pods."""
_OWN_BYTES = 4 * 1024 * 1024
"""Of an answer to a query of our own: who is there of 200 pods of eight ports, by two scrape jobs; half an hour of a
histogram of ten pods that are scraped every five seconds.
"""
_USUAL_INTERVAL = 15.0
_SAMPLE_BYTES, _LABELS_BYTES = 25.0, 300.0

T = TypeVar("T")
_Pods = Sequence[Sequence[ScrapeTarget]]
"""The processes of each pod."""


class Asking:
    """Questions about one moment, for one namespace."""

    def __init__(
        self,
        server: PrometheusServer,
        at: datetime,
        namespace: str,
        charge: Callable[[str, int], None] = lambda *_: None,
    ) -> None:
        self._server = server
        self.at = at
        self._namespace = namespace
        self._charge = charge
        self.sent = 0
        """Requests so far."""

    def _sending(self) -> None:
        """Count a request when it is sent; those beyond the first one are charged for."""
        self.sent += 1
        if self.sent > 1:
            self._charge(self._namespace, 1)

    async def value(self, promql: str, limit: int, longest: int = MAX_BYTES) -> Value:
        """A scalar or an instant vector of at most so many series, in an answer of so many bytes."""
        return await self._server.ask(
            promql,
            self.at,
            self._namespace,
            lambda data: instant_value(data, self.at, limit),
            longest,
            self._sending,
        )

    async def answers(self, asked: Iterable[Queries]) -> list[list[Labelled]]:
        """The series that are answered about some of the pods each, to queries of our own."""

        async def about_some(queries: Queries) -> list[Labelled]:
            told = await all_of(self.value(one, _MAX_RAW, _OWN_BYTES) for one in queries)
            return [item for answer in told if isinstance(answer, tuple) for item in answer]

        return await all_of(map(about_some, asked))

    async def series(self, asked: Iterable[Queries]) -> list[Labelled]:
        """As ``answers``, about all pods."""
        return [item for some in await self.answers(asked) for item in some]

    async def samples(
        self,
        names: Iterable[str],
        window: float,
        where: PodSelection,
        series: float,
        read: Callable[[list[RawSeries], list[ScrapeTarget]], T],
    ) -> list[T]:
        """What ``read`` makes, in a thread, of all samples of some pods each and of what is known of these.

        From ``LOOKBACK`` before a window of so many seconds on, or from when their samples count. ``series``: how many
        a pod is expected to have, so that an answer is not too large; it is asked for again in halves if it is.
        """
        wanted, at = sorted(names), self.at.timestamp()
        size = series * (_LABELS_BYTES + _SAMPLE_BYTES * (window + LOOKBACK) / _USUAL_INTERVAL)
        at_once = max(1, int(_OWN_BYTES / 2 / max(1.0, size)))

        async def of(job: str | None, pods: _Pods) -> list[T]:
            flat = [one for some in pods for one in some]
            back = min(window + LOOKBACK, max(at - known_since(one) for one in flat))
            query = range_query(wanted, back, job, replace(where, per_job=((job, tuple(flat)),)))
            if len(pods) == 1 or len(query.encode()) <= LONGEST_QUERY:
                try:
                    return [
                        await self._server.ask(
                            query,
                            self.at,
                            self._namespace,
                            lambda data: read(matrix(data, _MAX_RAW), flat),
                            _OWN_BYTES,
                            self._sending,
                        )
                    ]
                except AnswerTooLarge as error:
                    if len(pods) == 1:
                        raise AnswerTooLarge(
                            f"{error}, of pod {flat[0].owner} alone, which came or changed within the window: measure "
                            "a shorter window, or scrape the pod less often, or fewer of its series"
                        ) from None
            halves = pods[: len(pods) // 2], pods[len(pods) // 2 :]
            return [told for some in await all_of(of(job, half) for half in halves) for told in some]

        pages = _pages(where, at, at_once)
        return [told for some in await all_of(of(job, pods) for job, pods in pages) for told in some]


def _pages(where: PodSelection, at: float, at_once: int) -> list[tuple[str | None, _Pods]]:
    """So many pods of one job each, those of which most is to be read first."""
    found: list[tuple[str | None, _Pods]] = []
    for job, endpoints in where.per_job:
        pods: dict[str, list[ScrapeTarget]] = {}
        for one in sorted(endpoints, key=lambda one: (known_since(one), where.name(one))):
            if known_since(one) < at:
                pods.setdefault(where.name(one), []).append(one)
        some = list(pods.values())
        found += [(job, some[first : first + at_once]) for first in range(0, len(some), at_once)]
    return found


async def all_of(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What all of them tell; the first one that fails ends the others, since a part of an answer is none."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
