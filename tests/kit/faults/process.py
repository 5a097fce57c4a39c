"""One controller process in virtual time: fresh memory, the assembled reconcilers, and what is due when."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Mapping
from typing import Any

from rollouts.api.run_status import is_finished
from rollouts.controller.assembly import Parts, assemble
from rollouts.controller.caches import Caches
from rollouts.controller.metrics import ControllerMetrics
from rollouts.controller.model_server_calls import ServerAnswer
from rollouts.controller.wakes import on_rollout_change
from rollouts.controller.warming import WarmUps
from rollouts.kube.errors import RetryableError, TooManyRequests
from rollouts.objects.pods import Pod
from rollouts.objects.pools import Pool
from rollouts.runtime.clock import Clock
from rollouts.runtime.objects import ObjectKey
from rollouts.sources.base import MetricSource, ScrapeTarget
from tests.kit.adapters import FakeAdapters
from tests.kit.faults.clients import Clients, CountedShares
from tests.kit.faults.cluster import NAMESPACE
from tests.kit.faults.history import History
from tests.kit.faults.transport import FaultyClient, Feed
from tests.kit.probes import FakeProbes

__all__ = ["Assembler", "Process"]

ADAPTERS = ("travel-helper-v1", "travel-helper-v2", "travel-helper-v3")
"""On every simulated pod."""

_ROLLOUT, _RUN = "rollout", "analysisrun"
Item = tuple[str, ObjectKey]


class FakeInFlight:
    """Pods that say how many requests they answer; ``counts`` by pool, else none.

    ``uncontrolled``: by pool, why pods cannot be drained.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int | None] = {}
        self.uncontrolled: dict[str, str] = {}

    def requests(self, pool: Pool) -> int | None:
        """See ``InFlight``."""
        return self.counts.get(pool.name, 0)

    def loads(self, pool: Pool) -> Mapping[str, int]:
        """See ``InFlight``: who is idlest is not known, and the choice waits for that."""
        return {}

    def uncontrollable(self, pool: Pool) -> str:
        """See ``InFlight``."""
        return self.uncontrolled.get(pool.name, "")

    def unlisted(self, pool: Pool) -> str:
        """See ``InFlight``: each pool has a picker of its own."""
        return ""

    def leaving(self, pool: Pool, names: Collection[str], *, hidden: float = 0.0) -> Mapping[str, int | None]:
        """See ``InFlight``: each of them answers what the pool does."""
        return dict.fromkeys(names, self.counts.get(pool.name, 0))


class FakeServers:
    """Model servers that answer after a second, and show no figures."""

    async def ask(
        self,
        namespace: str,
        pod: Pod,
        port: int,
        method: str,
        path: str,
        request: Any,
        timeout: float,
        keep: int = 0,
    ) -> ServerAnswer:
        """See ``AsksServers``."""
        await asyncio.sleep(1.0)
        return ServerAnswer(status=200, body='{"data": [{"id": "mymodel"}]}')

    async def read(self, endpoint: ScrapeTarget, names: Collection[str]) -> None:
        """See ``ReadsPages``."""

    async def close(self) -> None:
        """Nothing is open."""


class Assembler:
    """How a process is put together; a mutant overrides it. ``adapters`` and ``clients`` outlive processes."""

    def __init__(self) -> None:
        self.adapters = FakeAdapters(ADAPTERS)
        self.probes = FakeProbes()
        self.clients = Clients()
        self.in_flight = FakeInFlight()
        self.warm_ups: WarmUps | None = None
        """Of the present process."""

    def __call__(self, client: FaultyClient, clock: Clock, caches: Caches, source: MetricSource) -> Parts:
        """The parts of a process."""
        return self.assembled(client, clock, caches, source)

    def assembled(
        self, client: FaultyClient, clock: Clock, caches: Caches, source: MetricSource, **beside: Any
    ) -> Parts:
        """The usual parts; ``beside``: what ``assemble`` takes more, or other metrics."""
        servers = FakeServers()
        self.warm_ups = WarmUps(client, caches, clock, servers, servers)
        return assemble(
            client,
            clock,
            caches=caches,
            sources={"default": source, "picker": source},
            shares=CountedShares(clock, self.clients),
            adapters=self.adapters,
            probes=self.probes,
            in_flight=self.in_flight,
            warm_ups=self.warm_ups,
            **{
                "metrics": ControllerMetrics(),
                "readers": self.clients.replicas,
                "loaded": self.clients.replicas,
                **beside,
            },
        )


class Process:
    """Work queues without threads: keys and the time from which on they are due, retried as the worker does."""

    def __init__(
        self,
        client: FaultyClient,
        clock: Clock,
        feed: Feed,
        source: MetricSource,
        history: History,
        assembler: Assembler,
        *,
        lag: int = 0,
        catch_up: float = 0.0,
        capacity_kinds: tuple[str, ...] = (),
    ) -> None:
        self._clock = clock
        self._history = history
        self._due: dict[Item, float] = {}
        self._failures: dict[Item, int] = {}
        self._feed = feed
        self.caches = Caches(
            client, clock, namespaces=(NAMESPACE,), freezes=True, capacity_kinds=capacity_kinds
        )
        # No reflector runs here: the feed fills the stores.
        self.caches.knows_freezes = lambda: True  # type: ignore[method-assign]
        self.parts = assembler(client, clock, self.caches, source)
        assembler.adapters.on_change = lambda key: self._add((_ROLLOUT, key))
        self.parts.share_watch.on_change = lambda key: self._add((_ROLLOUT, key))
        self.parts.turns.on_change = lambda key: self._add((_ROLLOUT, key))
        assembler.probes.on_change = lambda key: self._add((_ROLLOUT, key))
        if assembler.warm_ups is not None:
            assembler.warm_ups.on_change = lambda key: self._add((_ROLLOUT, key))
        on_rollout_change(self.caches, lambda key: self._add((_ROLLOUT, key)))
        self.caches.runs.subscribe(lambda key: self._add((_RUN, key)))
        feed.connect(self.caches, lag=lag, catch_up=catch_up)
        self.enqueue_all()

    def _add(self, item: Item) -> None:
        # Whoever waits already keeps its place, as in the worker's queue: a slow neighbour must not pass it twice.
        self._due[item] = min(self._due.get(item, math.inf), self._clock.monotonic())

    def enqueue_all(self) -> None:
        """Every key is due now, as after a start and at each resync."""
        for key in self.caches.rollouts:
            self._add((_ROLLOUT, key))
        for key in self.caches.runs:
            self._add((_RUN, key))

    def next_due(self) -> float:
        """When the next key is due; infinity for never."""
        return min([self.parts.share_watch.next_due(), *self._due.values()])

    async def reconcile_one(self) -> bool:
        """Reconcile the key that has been due longest; False when none is due."""
        now = self._clock.monotonic()
        await self.parts.share_watch.count_due()
        item = min(self._due, key=lambda item: (self._due[item], item), default=None)
        if item is None or self._due[item] > now:
            return False
        del self._due[item]
        kind, key = item
        reconciler = self.parts.rollouts if kind == _ROLLOUT else self.parts.runs
        try:
            wait = await reconciler.reconcile(key)
        except RetryableError as error:
            self._retry(item, 0.25, 5.0, error.retry_after if isinstance(error, TooManyRequests) else 0.0)
            return True
        except Exception as error:
            self._history.problems.append(f"bug while reconciling {kind} {key}: {error!r}")
            self._retry(item, 1.0, 60.0, 0.0)
            return True
        self._failures.pop(item, None)
        if wait is None and kind == _RUN and self._unfinished(key):
            self._history.problems.append(f"bug: run {key} has not ended, and nobody will look at it again")
        if wait is not None:
            self._due[item] = min(self._due.get(item, math.inf), self._clock.monotonic() + wait)
        return True

    def _unfinished(self, key: ObjectKey) -> bool:
        run = self.caches.runs.get(key)
        return run is not None and "deletionTimestamp" not in run["metadata"] and not is_finished(run)

    def _retry(self, item: Item, initial: float, maximum: float, at_least: float) -> None:
        """The worker's back-off, without its jitter: every run takes the same path."""
        failures = self._failures[item] = self._failures.get(item, 0) + 1
        wait = max(at_least, min(maximum, initial * 2.0 ** min(failures - 1, 16)))
        self._due[item] = self._clock.monotonic() + wait
