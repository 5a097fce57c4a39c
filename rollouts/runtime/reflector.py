"""Keeps a ``Store`` equal to what the API server has of one kind.

List in pages, then watch from the list's resourceVersion; list again only when the server says that this
version is gone (410). See "Efficient detection of changes" in the Kubernetes API concepts.

``ReflectorMachine`` decides what to do next from what happened; ``Reflector`` does it. Nothing that a server
or an object does ends the loop: a failure is an attempt that failed, and the next one comes after a back-off.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from enum import Enum
from typing import cast

import structlog

from rollouts.kube.client import KubeClient, ListPage, Resource, WatchEvent, WatchType
from rollouts.kube.errors import Forbidden, Gone, KindNotServed, KubeError, TooManyRequests
from rollouts.runtime.backoff import Backoff, BackoffPolicy, bounded_wait
from rollouts.runtime.clock import Clock, Monotonic
from rollouts.runtime.objects import MalformedObject, Order, compare_versions, version_of
from rollouts.runtime.store import Replacement, Store

__all__ = ["Reflector", "ReflectorConfig", "ReflectorMachine", "Step", "StepKind", "SyncState"]

_log = structlog.get_logger(__name__)

BACKOFF = BackoffPolicy(initial=0.8, maximum=30.0, jitter=0.2)


_SILENT_WATCHES = 2
"""The first one may be a connection that is half open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReflectorConfig:
    """Times in seconds.

    ``watch_timeout``: range of the server-side duration, random so that kinds and replicas do not reconnect
    together. ``silence``: longest wait for the next event; a server sends a bookmark about once a minute, so
    two missing ones mean a half-open connection, or a kind of which nothing was written since it was listed. A
    second watch that is as silent may mean that the server's history went back (etcd restored from a backup): to
    who asks for what follows a version that it never had it says nothing, no bookmark either, and only a list
    tells. Where that finds no older version, twice as many are waited for the next time. ``relist_every``: a list
    now and then heals a store that lost an event. ``blind_retries``: watches that fail one after the other without
    a single event before the list is read anew, for an event that can not be read would come again each time.
    """

    page_size: int = 500
    watch_timeout: tuple[int, int] = (290, 590)
    silence: float = 150.0
    list_timeout: float = 60.0
    not_served_retry: float = 30.0
    relist_every: float = 1800.0
    blind_retries: int = 5
    backoff: BackoffPolicy = BACKOFF


class SyncState(Enum):
    """What is known of the kind."""

    PENDING = "pending"
    SYNCED = "synced"
    NOT_SERVED = "not served"


class StepKind(Enum):
    """What the driver is to do next."""

    LIST = "list"
    WATCH = "watch"
    WAIT = "wait"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The next thing to do: one page, one watch, or a pause of ``seconds``."""

    kind: StepKind
    seconds: float = 0.0
    continue_token: str = ""
    limit: int = 0
    resource_version: str = ""


class ReflectorMachine:
    """The decisions: pure, told what happened and when."""

    def __init__(self, config: ReflectorConfig, rng: random.Random, now: Monotonic) -> None:
        self.state = SyncState.PENDING
        self._config = config
        self._rng = rng
        self._backoff = Backoff(config.backoff, rng)
        self._version = ""  # to watch from; empty: list first
        self._continue = ""
        self._paged = True
        self._listed_at = now
        self._wait = 0.0
        self._blind = 0
        self._silent = 0
        self._most_silent = _SILENT_WATCHES
        self._doubted = ""  # the version that silent watches went on from
        self._watched_since = now

    def next(self, now: Monotonic) -> Step:
        """What to do now."""
        if self._wait > 0:
            seconds, self._wait = self._wait, 0.0
            return Step(kind=StepKind.WAIT, seconds=seconds)
        if self._version:
            self._watched_since = now
            low, high = self._config.watch_timeout
            seconds = self._rng.randint(low, high)
            return Step(kind=StepKind.WATCH, seconds=seconds, resource_version=self._version)
        limit = self._config.page_size if self._paged else 0
        return Step(kind=StepKind.LIST, limit=limit, continue_token=self._continue)

    def on_page(self, page: ListPage, now: Monotonic) -> bool:
        """Note one page; answers whether the list is complete."""
        self._backoff.healthy(now)
        self._continue = page.continue_token
        if page.continue_token:
            return False
        self._paged = True
        self._blind = 0
        self._version = page.resource_version
        if self._doubted:
            self._learn_of_silence()
        self._listed_at = now
        self.state = SyncState.SYNCED
        return True

    def on_event(self, event: WatchEvent) -> None:
        """Note an event: a sign of life since the watch began, and the version from which to go on."""
        self._silent = 0
        self._backoff.healthy(self._watched_since)
        try:
            version = version_of(event.object)
        except MalformedObject:
            return
        if version:
            self._blind = 0
            self._version = version

    def on_watch_end(self, now: Monotonic) -> None:
        """The server ended the watch, or it was silent for too long: go on where it stopped."""
        if now - self._listed_at >= self._config.relist_every:
            self._restart()
        if now - self._watched_since < self._config.backoff.maximum:
            # A proxy that cuts every stream must not turn this into a busy loop.
            self._wait = self._backoff.failed(now)
        else:
            self._backoff.healthy(self._watched_since)

    def on_silence(self) -> None:
        """Not even bookmarks came; some times in a row, and the version is not worth to go on from."""
        self._silent += 1
        if self._silent >= self._most_silent:
            doubted = self._version
            self._restart()
            self._doubted = doubted

    def _learn_of_silence(self) -> None:
        """A list tells whether silent watches meant a history that went back, or a quiet kind."""
        went_back = compare_versions(self._version, self._doubted) is Order.OLDER
        most = max(_SILENT_WATCHES, round(self._config.relist_every / self._config.silence))
        self._most_silent = _SILENT_WATCHES if went_back else min(2 * self._most_silent, most)
        self._doubted = ""

    def on_gone(self, now: Monotonic) -> None:
        """410: the version, or the continue token, is too old."""
        if self._continue:
            # Expired between two pages: the list takes longer than the server keeps its history
            # (5 minutes by default), so ask for it in one piece.
            self._paged = False
        self._restart()
        self._wait = self._backoff.failed(now)

    def on_not_served(self) -> None:
        """The kind does not exist on this server (yet)."""
        self.state = SyncState.NOT_SERVED
        self._restart()
        self._wait = self._config.not_served_retry * (0.8 + 0.4 * self._rng.random())

    def on_failure(self, now: Monotonic, *, at_least: float = 0.0) -> float:
        """Anything else went wrong; answers the seconds to wait."""
        if self._version:
            self._blind += 1
            if self._blind >= self._config.blind_retries:
                self._restart()
        else:
            self._restart()
        self._wait = max(at_least, self._backoff.failed(now))
        return self._wait

    def _restart(self) -> None:
        self._version = self._continue = ""
        self._blind = self._silent = 0


class Reflector:
    """Runs a ``ReflectorMachine`` against a ``KubeClient``; one per kind and namespace.

    Those of several namespaces may fill one store: each touches its own namespace's objects alone.
    """

    def __init__(
        self,
        client: KubeClient,
        resource: Resource,
        store: Store,
        clock: Clock,
        *,
        namespace: str | None = None,
        label_selector: str = "",
        config: ReflectorConfig | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._client = client
        self._resource = resource
        self._store = store
        self._clock = clock
        self._namespace = namespace
        self._selector = label_selector
        self._config = config or ReflectorConfig()
        self._rng = rng or random.Random()
        self._machine: ReflectorMachine | None = None
        self._replacement = Replacement(store, known_before="")
        self._last_activity: Monotonic | None = None
        self._settled = asyncio.Event()
        self.refusals = 0
        """Tries in a row that the server forbade: who can do without the kind need not wait for rights."""

    @property
    def resource(self) -> Resource:
        """The kind that is watched."""
        return self._resource

    @property
    def name(self) -> str:
        """Resource and namespace, for people: ``httproutes.gateway.networking.k8s.io in team-a``."""
        resource = self._resource
        full = f"{resource.plural}.{resource.group}" if resource.group else resource.plural
        return f"{full} in {self._namespace}" if self._namespace else full

    @property
    def state(self) -> SyncState:
        """What is known of the kind."""
        return self._machine.state if self._machine else SyncState.PENDING

    @property
    def has_synced(self) -> bool:
        """Whether the store can be relied on: listed once, or known not to be served."""
        return self._settled.is_set()

    async def wait_for_sync(self) -> None:
        """Wait for ``has_synced``."""
        await self._settled.wait()

    def activity_age(self) -> float:
        """Seconds since the loop last did anything, failed attempts included: the measure of liveness.

        An outage of the API server is no reason to restart; a loop that stands still is.
        """
        return self._age(self._last_activity)

    async def run(self) -> None:
        """List and watch until cancelled."""
        machine = self._machine = ReflectorMachine(self._config, self._rng, self._clock.monotonic())
        while True:
            step = machine.next(self._clock.monotonic())
            self._was_active()
            try:
                if step.kind is StepKind.WAIT:
                    await self._clock.sleep(step.seconds)
                elif step.kind is StepKind.LIST:
                    await self._list(machine, step)
                else:
                    await self._watch(machine, step)
            except Exception as error:
                self._failed(machine, step, error)

    async def _list(self, machine: ReflectorMachine, step: Step) -> None:
        if not step.continue_token:
            self._replacement = Replacement(
                self._store,
                known_before=self._store.latest_version(self._namespace),
                namespace=self._namespace,
            )
        async with asyncio.timeout(self._config.list_timeout):
            page = await self._client.list_page(
                self._resource,
                self._namespace,
                limit=step.limit,
                continue_token=step.continue_token,
                label_selector=self._selector,
            )
        self._was_active()
        self.refusals = 0
        # Page by page, so that no more than one page is held untrimmed.
        self._replacement.add(page.items, page.resource_version)
        if not machine.on_page(page, self._clock.monotonic()):
            return
        self._replacement.finish()
        self._settled.set()
        _log.debug("listed", kind=self._resource.kind, objects=len(self._store))

    async def _watch(self, machine: ReflectorMachine, step: Step) -> None:
        stream = self._client.watch(
            self._resource,
            self._namespace,
            resource_version=step.resource_version,
            timeout_seconds=int(step.seconds),
            label_selector=self._selector,
        )
        # The server ends the watch itself; these are for a server, or a network, that does not.
        end = self._clock.monotonic() + step.seconds + 30.0
        try:
            while (remaining := end - self._clock.monotonic()) > 0:
                event = await self._next_event(machine, stream, min(self._config.silence, remaining))
                if event is None:
                    break
                self._was_active()
                self._take(event)
                machine.on_event(event)
        finally:
            await _close(stream)
        machine.on_watch_end(self._clock.monotonic())

    async def _next_event(
        self, machine: ReflectorMachine, stream: AsyncIterator[WatchEvent], seconds: float
    ) -> WatchEvent | None:
        """The next event, or None when the stream ended or was silent for ``seconds``."""
        try:
            async with asyncio.timeout(seconds) as deadline:
                return await anext(stream)
        except StopAsyncIteration:
            return None
        except TimeoutError:
            if not deadline.expired():
                raise
            _log.info("watch_silent", kind=self._resource.kind, seconds=round(seconds, 1))
            if seconds >= self._config.silence:
                machine.on_silence()
            return None

    def _take(self, event: WatchEvent) -> None:
        try:
            if event.type is WatchType.DELETED:
                self._store.remove(event.object)
            elif event.type is not WatchType.BOOKMARK:
                self._store.apply(event.object)
        except Exception:
            # One hostile object must not stop the stream for all the others.
            _log.exception("event_skipped", kind=self._resource.kind)

    def _failed(self, machine: ReflectorMachine, step: Step, error: Exception) -> None:
        now = self._clock.monotonic()
        kind = self._resource.kind
        if isinstance(error, Gone):
            self._was_active()
            machine.on_gone(now)
            _log.info("version_gone", kind=kind, step=step.kind.value)
        elif isinstance(error, KindNotServed):
            self._was_active()
            if machine.state is not SyncState.NOT_SERVED:
                _log.warning("kind_not_served", kind=kind, api_version=self._resource.api_version)
            machine.on_not_served()
            self._store.clear(self._namespace)
            self._settled.set()
        else:
            self.refusals = self.refusals + 1 if isinstance(error, Forbidden) else 0
            at_least = bounded_wait(error.retry_after, 60.0) if isinstance(error, TooManyRequests) else 0.0
            seconds = machine.on_failure(now, at_least=at_least)
            _log.warning(
                "reflector_retry",
                kind=kind,
                step=step.kind.value,
                error=type(error).__name__,
                reason=str(error)[:500],
                retry_in=round(seconds, 2),
                exc_info=not isinstance(error, KubeError | TimeoutError),
            )

    def _was_active(self) -> None:
        self._last_activity = self._clock.monotonic()

    def _age(self, since: Monotonic | None) -> float:
        return float("inf") if since is None else self._clock.monotonic() - since


async def _close(stream: AsyncIterator[WatchEvent]) -> None:
    """End the request at once instead of when the garbage collector comes by."""
    if hasattr(stream, "aclose"):
        await cast("AsyncGenerator[WatchEvent, None]", stream).aclose()
