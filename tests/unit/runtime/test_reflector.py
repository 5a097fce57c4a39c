from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from rollouts.kube.client import KubeClient, ListPage, Resource, WatchEvent, WatchType
from rollouts.kube.errors import ApiUnavailable, Gone, KindNotServed, TooManyRequests
from rollouts.runtime.objects import ObjectKey
from rollouts.runtime.reflector import Reflector, ReflectorConfig, SyncState
from rollouts.runtime.store import Store
from tests.kit.clock import VirtualClock

POOLS = Resource(
    group="inference.networking.k8s.io", version="v1", plural="inferencepools", kind="InferencePool"
)


def make(name: str, version: int, uid: str, **extra: Any) -> dict[str, Any]:
    metadata = {"namespace": "ns", "name": name, "uid": uid, "resourceVersion": str(version)}
    return {"metadata": metadata, **extra}


@dataclass
class FakeServer:
    """One kind on an API server with history, compaction, paging, bookmarks and faults."""

    version: int = 100
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    history: list[tuple[int, WatchEvent]] = field(default_factory=list)
    compacted: int = 0
    served: bool = True
    bookmarks: bool = True
    mute: bool = False  # half-open: the watch stays, nothing comes any more
    on_list: list[Exception | None] = field(default_factory=list)  # next answers; None: a good one
    on_watch: list[Exception | None] = field(default_factory=list)
    break_streams: Exception | None = None
    filter_event: Callable[[WatchEvent], list[WatchEvent]] = lambda event: [event]
    lists: list[tuple[float, int, str]] = field(default_factory=list)  # (time, limit, continue token)
    watches: list[tuple[float, str, int]] = field(default_factory=list)  # (time, version, timeout)
    longest_stream: float | None = None  # seconds, in place of what the client asked for
    open_watches: int = 0
    uids: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    after_page: Callable[[], None] = lambda: None

    def put(self, name: str, **extra: Any) -> None:
        old = self.objects.get(name)
        if old is None:
            self.uids += 1
        uid = old["metadata"]["uid"] if old else f"uid-{self.uids}"
        self.version += 1
        self.objects[name] = make(name, self.version, uid, **extra)
        self._log(WatchType.MODIFIED if old else WatchType.ADDED, self.objects[name])

    def delete(self, name: str) -> None:
        self.version += 1
        old = self.objects.pop(name)
        self._log(WatchType.DELETED, make(name, self.version, old["metadata"]["uid"]))

    def compact(self) -> None:
        self.compacted = self.version
        self.history.clear()

    def restore(self, objects: dict[str, dict[str, Any]], *, version: int) -> None:
        """From a backup, as it was at that version; connections break."""
        self.objects, self.version = dict(objects), version
        self.history.clear()
        self.end_streams(ApiUnavailable("reset"))

    def end_streams(self, error: Exception) -> None:
        self.break_streams = error
        self._pulse()

    def _log(self, type_: WatchType, obj: dict[str, Any]) -> None:
        self.history.append((self.version, WatchEvent(type=type_, object=obj)))
        self._pulse()

    def _pulse(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def _check(self, errors: list[Exception | None]) -> None:
        if errors and (error := errors.pop(0)) is not None:
            raise error
        if not self.served:
            raise KindNotServed("the server could not find the requested resource", status=404)

    async def list_page(
        self,
        resource: Resource,
        namespace: str | None,
        *,
        limit: int = 500,
        continue_token: str = "",
        label_selector: str = "",
    ) -> ListPage:
        self.lists.append((asyncio.get_running_loop().time(), limit, continue_token))
        await asyncio.sleep(0.01)
        self._check(self.on_list)
        version, start = (
            (int(part) for part in continue_token.split(":")) if continue_token else (self.version, 0)
        )
        if continue_token and version < self.compacted:
            raise Gone("The provided continue parameter is too old", status=410)
        names = sorted(self.objects)
        end = start + limit if limit else len(names)
        token = f"{version}:{end}" if end < len(names) else ""
        page = ListPage([self.objects[name] for name in names[start:end]], str(version), token)
        self.after_page()
        return page

    async def watch(
        self,
        resource: Resource,
        namespace: str | None,
        *,
        resource_version: str,
        timeout_seconds: int,
        label_selector: str = "",
    ) -> AsyncGenerator[WatchEvent, None]:
        loop = asyncio.get_running_loop()
        self.watches.append((loop.time(), resource_version, timeout_seconds))
        self._check(self.on_watch)
        seen = int(resource_version)
        if seen < self.compacted:
            raise Gone("too old resource version", status=410)
        end = loop.time() + (timeout_seconds if self.longest_stream is None else self.longest_stream)
        self.open_watches += 1
        try:
            while True:
                for version, event in [entry for entry in self.history if entry[0] > seen]:
                    seen = version
                    for filtered in self.filter_event(event):
                        yield filtered
                told = self.bookmarks and not self.mute and seen <= self.version
                if not await self._wait(end) and told:
                    bookmark = {"kind": "InferencePool", "metadata": {"resourceVersion": str(self.version)}}
                    yield WatchEvent(type=WatchType.BOOKMARK, object=bookmark)
                if loop.time() >= end and not self.mute:
                    return
                if self.break_streams is not None:
                    error, self.break_streams = self.break_streams, None
                    raise error
        finally:
            self.open_watches -= 1

    async def _wait(self, end: float) -> bool:
        """Wait for a change, at most a minute; whether there was one."""
        left = max(0.001, min(60.0, end - asyncio.get_running_loop().time()))
        try:
            async with asyncio.timeout(None if self.mute else left):
                await self.changed.wait()
        except TimeoutError:
            return False
        return True


@dataclass
class Running:
    server: FakeServer
    reflector: Reflector
    store: Store
    task: asyncio.Task[None]

    def agrees(self) -> bool:
        """Whether the store holds exactly what the server has."""
        mine = {
            key.name: obj["metadata"]["resourceVersion"] for key in self.store if (obj := self.store.get(key))
        }
        return mine == {name: obj["metadata"]["resourceVersion"] for name, obj in self.server.objects.items()}


@asynccontextmanager
async def running(server: FakeServer, config: ReflectorConfig | None = None) -> AsyncIterator[Running]:
    store = Store()
    reflector = Reflector(
        cast("KubeClient", server), POOLS, store, VirtualClock(), config=config, rng=random.Random(5)
    )
    task = asyncio.create_task(reflector.run())
    try:
        yield Running(server, reflector, store, task)
        assert not task.done(), "nothing may end the loop but a cancel"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert server.open_watches == 0, "a clean stop closes its request"


async def test_a_list_and_then_every_change() -> None:
    server = FakeServer()
    for name in ("a", "b", "c"):
        server.put(name)

    async with running(server) as it:
        assert not it.reflector.has_synced
        await it.reflector.wait_for_sync()
        listed = it.agrees()
        server.put("a", spec=1)
        server.delete("b")
        server.put("d")
        await asyncio.sleep(1)

        assert listed
        assert it.agrees()
        assert it.reflector.state is SyncState.SYNCED
        assert len(server.lists) == 1


async def test_a_long_list_comes_in_pages() -> None:
    server = FakeServer()
    for number in range(25):
        server.put(f"p{number:02}")

    async with running(server, ReflectorConfig(page_size=10)) as it:
        await it.reflector.wait_for_sync()

        assert [limit for _, limit, _ in server.lists] == [10, 10, 10]
        assert it.agrees()
        assert len(it.store) == 25


async def test_a_page_token_that_expires_starts_over_in_one_piece() -> None:
    server = FakeServer()
    for number in range(25):
        server.put(f"p{number:02}")
    pages = 0

    def compact_after_first_page() -> None:
        nonlocal pages
        pages += 1
        if pages == 1:
            server.delete("p00")
            server.compact()

    server.after_page = compact_after_first_page

    async with running(server, ReflectorConfig(page_size=10)) as it:
        await it.reflector.wait_for_sync()

        assert [limit for _, limit, _ in server.lists] == [10, 10, 0]
        assert it.agrees()


@pytest.mark.parametrize("where", ["as a status", "as an ERROR event in the stream"])
async def test_410(where: str) -> None:
    """An expired version leads to a new list, which also tells what was deleted unseen."""
    server = FakeServer()
    server.put("kept")
    server.put("deleted-unseen")
    server.put("recreated-unseen")

    async with running(server) as it:
        await it.reflector.wait_for_sync()
        await asyncio.sleep(1)
        old_uid = server.objects["recreated-unseen"]["metadata"]["uid"]
        server.filter_event = lambda event: []  # the stream stalls while these happen
        server.delete("deleted-unseen")
        server.delete("recreated-unseen")
        server.put("recreated-unseen")
        server.compact()
        gone = Gone("too old resource version", status=410)
        server.end_streams(gone if where == "as an ERROR event in the stream" else ApiUnavailable("reset"))
        await asyncio.sleep(10)

        assert len(server.lists) == 2
        assert it.agrees()
        obj = it.store.get(ObjectKey("ns", "recreated-unseen"))
        assert obj is not None
        assert obj["metadata"]["uid"] != old_uid


async def test_410_for_ever_is_no_busy_loop() -> None:
    server = FakeServer(on_watch=[Gone("too old", status=410)] * 100)

    async with running(server):
        await asyncio.sleep(600)

    assert 15 < len(server.lists) < 40


async def test_bookmarks_alone_keep_the_version_fresh() -> None:
    """A quiet kind survives compactions without a relist, since bookmarks move its version on."""
    server = FakeServer()
    server.put("quiet")

    async with running(server) as it:
        await it.reflector.wait_for_sync()
        for _ in range(100):
            server.version += 50  # other kinds of the same etcd change
            await asyncio.sleep(120)
            server.compacted = server.version - 60

        # Only the periodic relist (every half hour), none because of an expired version.
        assert len(server.lists) <= 1 + 100 * 120 / 1800


async def test_the_server_ends_each_watch_after_a_random_time() -> None:
    server = FakeServer()

    async with running(server) as it:
        await it.reflector.wait_for_sync()
        await asyncio.sleep(24 * 3600)

    timeouts = [timeout for _, _, timeout in server.watches]
    assert all(290 <= timeout <= 590 for timeout in timeouts)
    assert len(set(timeouts)) > 50
    starts = [time for time, _, _ in server.watches]
    gaps = [
        later - (earlier + timeout)
        for (earlier, _, timeout), later in zip(server.watches, starts[1:], strict=False)
    ]
    assert max(gaps) < 0.1, "a watch that ended in peace is resumed at once"


async def test_a_half_open_connection_is_noticed() -> None:
    """Nothing comes and nothing ends: the client's own deadline ends it and resumes without a relist."""
    server = FakeServer()

    async with running(server) as it:
        await it.reflector.wait_for_sync()
        await asyncio.sleep(1)
        server.mute = True
        server.end_streams(ApiUnavailable("reset"))
        await asyncio.sleep(5)
        server.history.append(
            (server.version + 1, WatchEvent(WatchType.ADDED, make("late", server.version + 1, "u")))
        )
        server.version += 1
        server.objects["late"] = server.history[-1][1].object
        server.mute = False
        stale = it.agrees()
        await asyncio.sleep(200)

        assert not stale
        assert it.agrees()
        assert len(server.lists) == 1


async def test_a_history_that_went_back_is_noticed_although_the_server_says_nothing() -> None:
    """etcd was restored from a backup: kube-apiserver sends neither event nor bookmark to a version of its future."""
    server = FakeServer()
    server.put("kept")
    kept = dict(server.objects)
    for number in range(1000):
        server.put(f"late{number % 3}")

    async with running(server) as it:
        await it.reflector.wait_for_sync()
        await asyncio.sleep(1)
        server.restore(kept, version=102)
        server.put("made-since")
        await asyncio.sleep(320)

        assert it.agrees()
        assert len(server.lists) == 2
        server.put("kept", changed=True)
        await asyncio.sleep(1)
        assert it.agrees()


async def test_a_quiet_kind_without_bookmarks_is_listed_seldom() -> None:
    server = FakeServer(bookmarks=False)
    server.put("quiet")

    async with running(server) as it:
        await it.reflector.wait_for_sync()
        await asyncio.sleep(6 * 3600)

    assert len(server.lists) <= 3 + 6 * 3600 / 1800, "no more often than others, once that is known"


async def test_a_slow_watch_is_not_taken_for_a_dead_one() -> None:
    """One event every 140 s and no bookmark: slow, but alive."""
    server = FakeServer(bookmarks=False)

    async with running(server) as it:
        await it.reflector.wait_for_sync()
        await asyncio.sleep(1)
        for number in range(50):
            await asyncio.sleep(140)
            server.put(f"o{number}")
        await asyncio.sleep(1)

        assert it.agrees()
    per_hour = len(server.watches) / (50 * 140 / 3600)
    assert per_hour < 15, "as many as the server's own timeouts make"


async def test_streams_cut_at_once_are_no_busy_loop() -> None:
    server = FakeServer(on_watch=[ApiUnavailable("reset by peer")] * 10_000)

    async with running(server):
        await asyncio.sleep(3600)

    assert 3600 / 40 < len(server.watches) + len(server.lists) < 3600 / 15


async def test_streams_that_end_in_peace_at_once_are_no_busy_loop() -> None:
    """A proxy with a short timeout, say."""
    server = FakeServer()
    server.longest_stream = 0.01

    async with running(server):
        await asyncio.sleep(3600)

    assert 3600 / 40 < len(server.watches) + len(server.lists) < 3600 / 15


async def test_a_stream_that_the_server_never_ends_is_ended_by_the_client() -> None:
    server = FakeServer()
    server.longest_stream = math.inf

    async with running(server) as it:
        await it.reflector.wait_for_sync()
        for _ in range(120):
            await asyncio.sleep(60)
            assert server.open_watches <= 1, "the former one is closed before the next is opened"
        server.put("a")
        await asyncio.sleep(1)

        assert it.agrees()
        assert 7200 / 620 - 1 < len(server.watches) < 7200 / 290 + 1


async def test_a_refused_port_is_retried_with_a_growing_delay() -> None:
    server = FakeServer(on_list=[ApiUnavailable("connection refused")] * 8)

    async with running(server) as it:
        await it.reflector.wait_for_sync()

        times = [time for time, _, _ in server.lists]
        delays = [later - earlier for earlier, later in itertools.pairwise(times)]
        want = [0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30]
        assert all(0.8 * w <= d <= 1.2 * w + 0.02 for d, w in zip(delays, want, strict=True))


async def test_the_delay_resets_only_after_a_healthy_minute() -> None:
    reset = ApiUnavailable("reset by peer")
    server = FakeServer(on_list=[reset] * 6)

    async with running(server) as it:
        await it.reflector.wait_for_sync()
        await asyncio.sleep(30)
        begun = len(server.watches)
        server.end_streams(reset)
        await asyncio.sleep(20)
        unhealthy = len(server.watches) - begun
        await asyncio.sleep(120)
        begun = len(server.watches)
        server.end_streams(reset)
        await asyncio.sleep(2)
        healthy = len(server.watches) - begun

        assert (unhealthy, healthy) == (0, 1)


async def test_a_429_is_not_retried_before_the_server_allows() -> None:
    server = FakeServer(on_list=[TooManyRequests("slow down", retry_after=17.0)])

    async with running(server) as it:
        await it.reflector.wait_for_sync()

        assert server.lists[1][0] - server.lists[0][0] >= 17


async def test_a_kind_that_is_not_served_is_waited_for(logs: list[MutableMapping[str, Any]]) -> None:
    server = FakeServer(served=False)

    async with running(server) as it:
        await it.reflector.wait_for_sync()
        absent = it.reflector.state
        await asyncio.sleep(3600)
        tries = len(server.lists)
        server.served = True
        server.put("a")
        await asyncio.sleep(40)

        assert absent is SyncState.NOT_SERVED
        assert 3600 / 40 < tries < 3600 / 20, "slowly"
        assert it.reflector.state is SyncState.SYNCED
        assert it.agrees()
    assert [entry["event"] for entry in logs].count("kind_not_served") == 1, "said once, not every time"


async def test_a_crd_that_is_removed_takes_its_objects_along() -> None:
    server = FakeServer()
    server.put("a")
    heard: list[ObjectKey] = []

    async with running(server) as it:
        await it.reflector.wait_for_sync()
        it.store.subscribe(heard.append)
        server.served = False
        server.end_streams(ApiUnavailable("reset"))
        await asyncio.sleep(5)

        assert it.reflector.state is SyncState.NOT_SERVED
        assert len(it.store) == 0
        assert heard == [ObjectKey("ns", "a")]


def _duplicated(event: WatchEvent) -> list[WatchEvent]:
    return [event, event]


def _old_ones_replayed() -> Callable[[WatchEvent], list[WatchEvent]]:
    seen: list[WatchEvent] = []

    def replay(event: WatchEvent) -> list[WatchEvent]:
        seen.append(event)
        return [event, *seen]

    return replay


def _reordered() -> Callable[[WatchEvent], list[WatchEvent]]:
    held: list[WatchEvent] = []

    def swap(event: WatchEvent) -> list[WatchEvent]:
        held.append(event)
        if len(held) < 3:
            return []
        out = list(reversed(held))
        held.clear()
        return out

    return swap


@pytest.mark.parametrize(
    "make_filter",
    [lambda: _duplicated, _old_ones_replayed, _reordered],
    ids=["every event twice", "all history after each event", "events reversed in threes"],
)
async def test_disorder_ends_in_the_true_state(
    make_filter: Callable[[], Callable[[WatchEvent], list[WatchEvent]]],
) -> None:
    server = FakeServer(filter_event=make_filter())

    async with running(server) as it:
        await it.reflector.wait_for_sync()
        for number in range(4):
            server.put("a", spec=number)
            server.put("b", spec=number)
            server.delete("a")
        server.put("a", spec="final")
        server.put("c")
        server.delete("c")
        await asyncio.sleep(5)

        assert it.agrees()
        assert len(server.lists) == 1


@pytest.mark.parametrize("lost", range(5))
async def test_a_lost_event_is_healed_by_the_periodic_list(lost: int) -> None:
    count = 0

    def drop(event: WatchEvent) -> list[WatchEvent]:
        nonlocal count
        count += 1
        return [] if count == lost + 1 else [event]

    server = FakeServer(filter_event=drop)
    server.put("z")

    async with running(server) as it:
        await it.reflector.wait_for_sync()
        server.put("a")
        server.put("a", spec=1)
        server.delete("z")
        server.put("b")
        server.delete("b")
        await asyncio.sleep(1800 + 600)

        assert it.agrees()


HOSTILE: list[Any] = [
    {},
    {"metadata": None},
    {"metadata": {"resourceVersion": "150"}},
    {"metadata": {"name": 3, "resourceVersion": ["x"]}},
    [],
    "text",
    None,
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=repr)
@pytest.mark.parametrize("type_", [WatchType.ADDED, WatchType.DELETED, WatchType.BOOKMARK])
async def test_a_hostile_object_does_not_stop_the_stream(hostile: Any, type_: WatchType) -> None:
    server = FakeServer()

    async with running(server) as it:
        await it.reflector.wait_for_sync()
        await asyncio.sleep(1)
        server.version += 1
        server._log(type_, hostile)
        server.put("good")
        await asyncio.sleep(1)

        assert it.agrees()
        assert (len(server.lists), len(server.watches)) == (1, 1)


async def test_an_event_that_breaks_the_transport_each_time_ends_in_a_relist() -> None:
    """A line that cannot be read would come again on every resumed watch."""
    server = FakeServer()

    async with running(server) as it:
        await it.reflector.wait_for_sync()
        await asyncio.sleep(1)

        def unreadable(event: WatchEvent) -> list[WatchEvent]:
            raise ValueError("line is too long")

        server.filter_event = unreadable
        server.put("huge")
        await asyncio.sleep(60)

        assert it.agrees()
        assert len(server.lists) == 2


async def test_a_timeout_of_the_transport_is_a_failure_and_not_a_quiet_stream() -> None:
    server = FakeServer(on_watch=[TimeoutError("read")])

    async with running(server) as it:
        await it.reflector.wait_for_sync()
        await asyncio.sleep(3)

        assert 0.6 < server.watches[1][0] - server.watches[0][0] < 1.0


async def test_a_bug_in_the_transport_is_logged_with_its_traceback(
    logs: list[MutableMapping[str, Any]],
) -> None:
    server = FakeServer(on_watch=[KeyError("items")])

    async with running(server) as it:
        await it.reflector.wait_for_sync()
        await asyncio.sleep(3)

    (entry,) = [entry for entry in logs if entry["event"] == "reflector_retry"]
    assert (entry["error"], entry["exc_info"]) == ("KeyError", True)


async def test_a_ten_megabyte_object_passes_and_the_next_event_too() -> None:
    server = FakeServer()

    async with running(server) as it:
        await it.reflector.wait_for_sync()
        server.put("big", spec={"blob": "x" * 10_000_000})
        server.put("next")
        await asyncio.sleep(1)

        assert it.agrees()


async def test_a_list_that_never_answers_is_given_up() -> None:
    server = FakeServer()
    answer = server.list_page
    hung = 0

    async def hang_once(*args: Any, **kwargs: Any) -> ListPage:
        nonlocal hung
        hung += 1
        if hung == 1:
            await asyncio.sleep(1e9)
        return await answer(*args, **kwargs)

    server.list_page = hang_once  # type: ignore[method-assign]  # the first answer never comes

    async with running(server) as it:
        await it.reflector.wait_for_sync()

        assert 60 < it.reflector._clock.monotonic() < 63


async def test_an_outage_is_no_standstill() -> None:
    server = FakeServer()

    async with running(server) as it:
        await it.reflector.wait_for_sync()
        server.on_list = [ApiUnavailable("down")] * 10_000
        server.on_watch = [ApiUnavailable("down")] * 10_000
        server.end_streams(ApiUnavailable("down"))
        oldest_activity = 0.0
        for _ in range(1800):
            await asyncio.sleep(1)
            oldest_activity = max(oldest_activity, it.reflector.activity_age())

        assert oldest_activity < 60, "the loop still tries: alive"


async def test_quiescence_a_day_of_nothing_changes_nothing() -> None:
    server = FakeServer()
    for number in range(50):
        server.put(f"o{number}")
    heard: list[ObjectKey] = []

    async with running(server) as it:
        await it.reflector.wait_for_sync()
        it.store.subscribe(heard.append)
        await asyncio.sleep(24 * 3600)

        assert heard == []
        assert len(server.lists) > 40, "lists were read, and told nothing new"
