"""The wire between the controller and the cluster: a client that fails on cue, a watch that lies on cue."""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Unpack

from rollouts.controller.caches import Caches
from rollouts.kube.client import CreateOptions, ListPage, PatchKind, Resource, WatchEvent, WatchType
from rollouts.kube.errors import (
    ApiTimeout,
    ApiUnavailable,
    Conflict,
    Forbidden,
    Invalid,
    KindNotServed,
    KubeError,
    TooManyRequests,
)
from rollouts.lab.memoryapi.history import Change
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.objects import kinds
from rollouts.runtime.clock import Clock
from tests.kit.faults.cluster import NAMESPACE
from tests.kit.faults.history import History, Request
from tests.kit.faults.refusals import Refused, refusal
from tests.kit.memory_client import MemoryKubeClient
from tests.kit.stores import replace_all

__all__ = ["REFUSALS", "Crash", "Delivery", "FaultyClient", "Feed", "WriteFault"]

Object = dict[str, Any]


class Crash(BaseException):
    """The process dies here. A BaseException, so that no ``except Exception`` of the code swallows it."""


class WriteFault(Enum):
    """What happens to one request."""

    CRASH_BEFORE = "crash before send"
    CRASH_AFTER = "crash after commit"
    CONFLICT = "409"
    THROTTLED = "429"
    SERVER_ERROR = "500"
    TIMEOUT_BEFORE = "time-out, not stored"
    TIMEOUT_AFTER = "time-out, stored"
    REFUSED_FIELD = Refused.FIELD.value
    REFUSED_POLICY = Refused.POLICY.value
    REFUSED_WEBHOOK = Refused.WEBHOOK.value
    REFUSED_RBAC = Refused.RBAC.value
    REFUSED_UNDECLARED = Refused.UNDECLARED.value

    @property
    def commits(self) -> bool:
        """Whether the write reaches the server."""
        return self in (WriteFault.CRASH_AFTER, WriteFault.TIMEOUT_AFTER)

    @property
    def refuses(self) -> bool:
        """Whether the server understood the write and does not want it."""
        return self in REFUSALS


REFUSALS = tuple(WriteFault(why.value) for why in Refused)
"""The faults after which the same write is refused again."""

_ERRORS: dict[WriteFault, Callable[[], KubeError]] = {
    WriteFault.CONFLICT: lambda: Conflict("the object has been modified", status=409),
    WriteFault.THROTTLED: lambda: TooManyRequests("slow down", retry_after=2.0),
    WriteFault.SERVER_ERROR: lambda: ApiUnavailable("etcdserver: leader changed", status=500),
    WriteFault.TIMEOUT_BEFORE: lambda: ApiTimeout("no answer within 10 s"),
    WriteFault.TIMEOUT_AFTER: lambda: ApiTimeout("no answer within 10 s"),
}

Chooser = Callable[[int, float, Resource], WriteFault | None]
"""Number of the write (Events excluded, from 0), seconds, resource: the fault, if any."""


class FaultyClient:
    """A ``KubeClient`` whose writes fail as ``choose`` says; ``choose_read`` does the same for reads."""

    def __init__(self, api: MemoryApi, clock: Clock, history: History) -> None:
        self.writes = 0
        self.choose: Chooser = lambda number, seconds, resource: None
        self.choose_event: Chooser = lambda number, seconds, resource: None
        self.choose_read: Chooser = lambda number, seconds, resource: None
        self._inner = MemoryKubeClient(api)
        self._asked = kinds.EVENT
        self._clock = clock
        self._history = history

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        """See ``KubeClient.get``."""
        self._note("get", resource, name)
        fault = self.choose_read(self.writes, self._clock.monotonic(), resource)
        if fault is not None:
            raise self._error(fault)
        return await self._inner.get(resource, namespace, name)

    async def create(
        self,
        resource: Resource,
        namespace: str | None,
        obj: Mapping[str, Any],
        **options: Unpack[CreateOptions],
    ) -> Object:
        """See ``KubeClient.create``."""
        self._note("create", resource, str(obj["metadata"]["name"]))
        fault = self._before(resource)
        if fault is None or fault.commits:
            stored = await self._inner.create(resource, namespace, obj, **options)
        self._after(fault)
        return stored

    async def patch(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        patch: Any,
        *,
        kind: PatchKind,
        subresource: str = "",
        force: bool = False,
        dry_run: bool = False,
    ) -> Object:
        """See ``KubeClient.patch``."""
        self._note("patch", resource, name, subresource)
        fault = self._before(resource)
        request = self._history.requests[-1]
        if fault is None or fault.commits:
            try:
                stored = await self._inner.patch(
                    resource,
                    namespace,
                    name,
                    patch,
                    kind=kind,
                    subresource=subresource,
                    force=force,
                    dry_run=dry_run,
                )
            except (Invalid, Forbidden, ApiUnavailable):
                request.refused = True
                raise
        self._after(fault)
        return stored

    async def delete(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        uid: str = "",
        resource_version: str = "",
    ) -> None:
        """See ``KubeClient.delete``."""
        self._note("delete", resource, name)
        fault = self._before(resource)
        if fault is None or fault.commits:
            await self._inner.delete(resource, namespace, name, uid=uid, resource_version=resource_version)
        self._after(fault)

    async def list_page(
        self,
        resource: Resource,
        namespace: str | None,
        *,
        limit: int = 500,
        continue_token: str = "",
        label_selector: str = "",
        field_selector: str = "",
    ) -> ListPage:
        """See ``KubeClient.list_page``."""
        return await self._inner.list_page(
            resource,
            namespace,
            limit=limit,
            continue_token=continue_token,
            label_selector=label_selector,
            field_selector=field_selector,
        )

    def watch(
        self,
        resource: Resource,
        namespace: str | None,
        *,
        resource_version: str,
        timeout_seconds: int,
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncIterator[WatchEvent]:
        """See ``KubeClient.watch``."""
        return self._inner.watch(
            resource,
            namespace,
            resource_version=resource_version,
            timeout_seconds=timeout_seconds,
            label_selector=label_selector,
            field_selector=field_selector,
        )

    async def discover(self) -> tuple[Resource, ...]:
        """See ``KubeClient.discover``."""
        return await self._inner.discover()

    def _note(self, verb: str, resource: Resource, name: str, subresource: str = "") -> None:
        self._asked = resource
        now = self._clock.monotonic()
        self._history.requests.append(Request(now, verb, resource.plural, name, subresource))

    def _before(self, resource: Resource) -> WriteFault | None:
        if resource == kinds.EVENT:
            fault = self.choose_event(self.writes, self._clock.monotonic(), resource)
        else:
            fault = self.choose(self.writes, self._clock.monotonic(), resource)
            self.writes += 1
        if fault is WriteFault.CRASH_BEFORE:
            raise Crash
        if fault is not None and not fault.commits:
            raise self._error(fault)
        return fault

    def _after(self, fault: WriteFault | None) -> None:
        if fault is WriteFault.CRASH_AFTER:
            raise Crash
        if fault is not None:
            raise self._error(fault)

    def _error(self, fault: WriteFault) -> KubeError:
        request = self._history.requests[-1]
        request.failed = True
        if not fault.refuses:
            return _ERRORS[fault]()
        request.refused = True
        return refusal(Refused(fault.value), self._asked, NAMESPACE, request.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How watch events reach the stores. Events are numbered over all kinds, from 0."""

    dropped: frozenset[int] = frozenset()
    duplicated: frozenset[int] = frozenset()
    """Delivered twice, the second time after everything that follows within five seconds."""
    delays: tuple[tuple[str, float], ...] = ()
    """Seconds by which all events of a kind (its plural) are late: kinds overtake each other."""
    coalesced: float = 0.0
    """Events are held so long (seconds) and only the last one of each object arrives."""

    @property
    def staleness(self) -> float:
        """The longest time that a store may lag behind by this."""
        return max([self.coalesced, *(seconds for _, seconds in self.delays)])


@dataclass(order=True, slots=True)
class _Pending:
    due: float
    number: int
    resource: Resource
    type: WatchType
    change: Change


class Feed:
    """Carries changes of the API server into the stores of a process, in virtual time."""

    def __init__(self, api: MemoryApi, clock: Clock, delivery: Delivery) -> None:
        self.events = 0
        self.log: list[tuple[Resource, Change]] = []
        self._api = api
        self._clock = clock
        self._delivery = delivery
        self._pending: list[_Pending] = []
        self._resources: dict[tuple[str, str], Resource] = {}
        self._caches: Caches | None = None

    def watch(self, resources: Mapping[Resource, Any]) -> None:
        """Follow these kinds from now on."""
        self._resources = {(resource.group, resource.plural): resource for resource in resources}
        self._api.observers.append(self._observe)

    def begin(self) -> None:
        """What was set up is what the first list shows; events are numbered from here."""
        self.events = 0
        self._pending.clear()

    def _observe(self, change: Change) -> None:
        resource = self._resources.get((change.group, change.plural))
        if resource is None:
            return
        self.log.append((resource, change))
        number, self.events = self.events, self.events + 1
        if number in self._delivery.dropped:
            return
        now = self._clock.monotonic()
        delay = dict(self._delivery.delays).get(resource.plural, 0.0)
        if self._delivery.coalesced:
            delay = self._delivery.coalesced - now % self._delivery.coalesced
        self._push(now + delay, number, resource, change)
        if number in self._delivery.duplicated:
            self._push(now + delay + 5.0, number, resource, change)

    def _push(self, due: float, number: int, resource: Resource, change: Change) -> None:
        heapq.heappush(self._pending, _Pending(due, number, resource, change.type, change))

    def next_due(self) -> float | None:
        """When the next event is to be delivered."""
        return self._pending[0].due if self._pending else None

    def deliver(self) -> None:
        """Hand over what is due."""
        now = self._clock.monotonic()
        batch: list[_Pending] = []
        while self._pending and self._pending[0].due <= now:
            batch.append(heapq.heappop(self._pending))
        if self._delivery.coalesced:
            last = {(p.resource, p.change.namespace, p.change.name): p for p in batch}
            batch = sorted(last.values())
        for pending in batch:
            self._apply(pending)

    def _apply(self, pending: _Pending) -> None:
        if self._caches is None:
            return
        store = self._caches.by_resource()[pending.resource]
        obj = self._api.render(pending.resource, pending.change)
        if pending.type is WatchType.DELETED:
            store.remove(obj)
        else:
            store.apply(obj)

    # --- lists ---

    def connect(self, caches: Caches, *, lag: int = 0, catch_up: float = 0.0) -> None:
        """A new process: list everything as it was ``lag`` events ago; the rest follows ``catch_up`` later."""
        self._caches = caches
        self._pending.clear()
        lag = min(lag, len(self.log))
        if not lag:
            self.relist()
            return
        cut = len(self.log) - lag
        past, rest = self.log[:cut], self.log[cut:]
        revision = str(past[-1][1].revision if past else 1)
        for resource, store in caches.by_resource().items():
            live: dict[tuple[str, str], Change] = {}
            for kind, change in past:
                if kind == resource:
                    live[change.namespace, change.name] = change
            present = [c for c in live.values() if c.type is not WatchType.DELETED]
            replace_all(store, [self._api.render(resource, change) for change in present], revision)
        for number, (resource, change) in enumerate(rest):
            self._push(self._clock.monotonic() + catch_up, number - lag, resource, change)

    def relist(self) -> None:
        """List every kind from the live server, as a reflector does after a broken watch."""
        if self._caches is None:
            return
        for resource, store in self._caches.by_resource().items():
            try:
                page = self._api.list_page(resource, None)
            except KindNotServed:
                continue
            replace_all(store, page.items, page.resource_version, known_before=store.latest_version())

    def disconnect(self) -> None:
        """The process is gone."""
        self._caches = None
        self._pending.clear()
