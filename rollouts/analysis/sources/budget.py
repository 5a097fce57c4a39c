"""How many queries each namespace may send to the configured servers: one tenant must not starve the others."""

from __future__ import annotations

from collections import OrderedDict

from rollouts.analysis.sources.base import SourceUnavailable
from rollouts.runtime.clock import Clock, Monotonic

__all__ = ["QUERIES_PER_MINUTE", "BudgetExceeded", "QueryBudget"]

QUERIES_PER_MINUTE = 1200
"""Twenty Rollouts of sixteen metrics every thirty seconds are 640."""

_BUCKETS = 10_000


class BudgetExceeded(SourceUnavailable):
    """The namespace has used up its queries of this minute; the query was not sent."""


class QueryBudget:
    """A token bucket per namespace, filled evenly, over all servers in ``sources``.

    It holds one minute's worth, so that Rollouts that start together are not held up. ``per_minute`` 0 is no
    limit. Sources that are not named (pods and pickers, which are scraped once for everybody) cost nothing.
    """

    def __init__(self, clock: Clock, per_minute: int, sources: frozenset[str]) -> None:
        self._clock = clock
        self._per_minute = per_minute
        self._sources = sources
        self._buckets: OrderedDict[str, tuple[float, Monotonic]] = OrderedDict()

    def spend(self, source: str, namespace: str) -> None:
        """Take one query out of the namespace's budget. Raises BudgetExceeded when none is left."""
        if not self._per_minute or source not in self._sources:
            return
        now, full = self._clock.monotonic(), float(self._per_minute)
        left, since = self._buckets.pop(namespace, (full, now))
        left = min(full, left + (now - since) * full / 60.0)
        allowed = left >= 1.0
        self._buckets[namespace] = (left - 1.0 if allowed else left, now)
        if len(self._buckets) > _BUCKETS:
            # The one that asked longest ago: its bucket has had the most time to fill up.
            self._buckets.popitem(last=False)
        if not allowed:
            raise BudgetExceeded(
                f"source {source}: namespace {namespace} has used up its query budget of {self._per_minute} a "
                "minute: measure less often, or raise --queries-per-minute"
            )
