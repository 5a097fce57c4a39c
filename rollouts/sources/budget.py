"""What each namespace may take of what all share: queries to the configured servers, time to read its pods' pages."""

from __future__ import annotations

from collections import OrderedDict

from rollouts.analysis.exposition import ExpositionError
from rollouts.runtime.clock import Clock, Monotonic
from rollouts.sources.base import SourceUnavailable

__all__ = ["QUERIES_PER_MINUTE", "BudgetExceeded", "QueryBudget", "ReadingTime"]

QUERIES_PER_MINUTE = 4800
"""Requests. Twenty Rollouts of sixteen metrics every thirty seconds are 640 measurements, of two to four requests each:
1,280 to 2,560. As many again are room for what decides nothing (``spare``), and for retries."""

_BUCKETS = 10_000


class BudgetExceeded(SourceUnavailable):
    """The namespace has used up its queries of this minute; the query was not sent."""


class _Buckets:
    """A token bucket per namespace: ``full`` tokens at first, filled at ``rate`` a second."""

    def __init__(self, clock: Clock, *, full: float, rate: float) -> None:
        self._clock = clock
        self._full = full
        self._rate = rate
        self._left: OrderedDict[str, tuple[float, Monotonic]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._left)

    def left(self, namespace: str) -> float:
        """Tokens now; below zero after more was taken than there was."""
        now = self._clock.monotonic()
        left, since = self._left.get(namespace, (self._full, now))
        return min(self._full, left + (now - since) * self._rate)

    def take(self, namespace: str, amount: float) -> None:
        """Take tokens, whether or not they are there."""
        self._left[namespace] = (self.left(namespace) - amount, self._clock.monotonic())
        self._left.move_to_end(namespace)
        if len(self._left) > _BUCKETS:
            # The one that asked longest ago: its bucket has had the most time to fill up.
            self._left.popitem(last=False)


class ReadingTime:
    """CPU seconds for reading the pages of a namespace's pods, beyond what any page may take.

    A vLLM pod's page takes 3 ms (vLLM 0.32, 55 KB) and costs nothing here, however many there are; what a page takes
    beyond 10 ms comes out of a tenth of a core, two seconds of it at once. ``spend`` may be called by a thread.
    """

    _FREE = 0.01

    def __init__(self, clock: Clock) -> None:
        self._buckets = _Buckets(clock, full=2.0, rate=0.1)

    def check(self, namespace: str) -> None:
        """Raise ExpositionError when the namespace has used up its time."""
        if self._buckets.left(namespace) < 0.0:
            raise ExpositionError(
                "its namespace's metrics pages take too long to read: they are read less often until they are shorter"
            )

    def spend(self, namespace: str, seconds: float) -> None:
        """Count what reading a page took."""
        if seconds > self._FREE:
            self._buckets.take(namespace, seconds - self._FREE)


class QueryBudget:
    """A token bucket per namespace, filled evenly, over all servers in ``sources``: a token is a request to one.

    It holds one minute's worth, so that Rollouts that start together are not held up. ``per_minute`` 0 is no
    limit. Sources that are not named (pods and pickers, which are scraped once for everybody) cost nothing.
    """

    def __init__(self, clock: Clock, per_minute: int, sources: frozenset[str]) -> None:
        self._per_minute = per_minute
        self._sources = sources
        self._buckets = _Buckets(clock, full=float(per_minute), rate=per_minute / 60.0)

    def spare(self, source: str, namespace: str) -> bool:
        """Whether there is enough left for a query that decides nothing: half of what there may be."""
        limited = self._per_minute and source in self._sources
        return not limited or self._buckets.left(namespace) >= self._per_minute / 2

    def spend(self, source: str, namespace: str) -> None:
        """Take a measurement's first request out of the namespace's budget. Raises BudgetExceeded when none is left."""
        if not self._per_minute or source not in self._sources:
            return
        if self._buckets.left(namespace) >= 1.0:
            self._buckets.take(namespace, 1.0)
        else:
            raise BudgetExceeded(
                f"source {source}: namespace {namespace} has used up its query budget of {self._per_minute} a "
                "minute, which counts requests to the servers (a measurement is one to four, or more): measure less "
                "often, or raise --queries-per-minute"
            )

    def charge(self, source: str, namespace: str, requests: int) -> None:
        """Take the requests that a measurement needed beyond its first one, also where they are not there.

        A measurement that had begun is not given up half way: the next one waits for longer, by half a minute at most.
        """
        if self._per_minute and source in self._sources:
            owed = self._buckets.left(namespace) + self._per_minute / 2
            self._buckets.take(namespace, max(0.0, min(float(requests), owed)))
