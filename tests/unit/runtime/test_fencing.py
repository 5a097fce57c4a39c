from __future__ import annotations

import asyncio
import math
from typing import Any, cast

import pytest

from rollouts.kube.client import KubeClient, ListPage, PatchKind, Resource
from rollouts.kube.errors import ApiTimeout, ApiUnavailable, Conflict, Forbidden, KubeError, RetryableError
from rollouts.runtime.clock import Monotonic
from rollouts.runtime.fencing import FencedClient, NotLeading, WriteFence
from tests.kit.clock import VirtualClock

ROUTES = Resource(group="g", version="v1", plural="routes", kind="Route")


class Recorder:
    """A client that notes its calls and answers after ``takes`` seconds."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.takes = 0.0
        self.error: Exception | None = None

    async def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.calls.append((name, args, kwargs))
        await asyncio.sleep(self.takes)
        if self.error is not None:
            raise self.error
        return ListPage([], "1") if name == "list_page" else {"from": name}

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self._call(name, args, kwargs)

    async def watch(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(("watch", args, kwargs))
        yield "event"


@pytest.fixture
def fence(clock: VirtualClock) -> WriteFence:
    return WriteFence(clock)


@pytest.fixture
def inner() -> Recorder:
    return Recorder()


@pytest.fixture
def client(inner: Recorder, fence: WriteFence) -> FencedClient:
    return FencedClient(cast("KubeClient", inner), fence)


async def write_all_ways(client: FencedClient) -> list[Any]:
    return [
        await client.create(ROUTES, "ns", {}, dry_run=True),
        await client.patch(
            ROUTES, "ns", "a", [], kind=PatchKind.JSON, subresource="status", force=True, dry_run=True
        ),
        await client.delete(ROUTES, "ns", "a", uid="u", resource_version="7"),
    ]


async def test_a_new_fence_is_closed(client: FencedClient, inner: Recorder) -> None:
    for write in (
        client.create(ROUTES, "ns", {}),
        client.patch(ROUTES, "ns", "a", {}, kind=PatchKind.MERGE),
        client.delete(ROUTES, "ns", "a"),
    ):
        with pytest.raises(NotLeading, match="does not hold the lease"):
            await write

    assert inner.calls == [], "nothing was sent"
    assert issubclass(NotLeading, RetryableError)


async def test_reads_pass_a_closed_fence(client: FencedClient, inner: Recorder) -> None:
    await client.get(ROUTES, "ns", "a")
    await client.list_page(ROUTES, None, limit=3, continue_token="c", label_selector="l", field_selector="f")
    options = {"resource_version": "7", "timeout_seconds": 300, "label_selector": "l", "field_selector": "f"}
    assert [event async for event in client.watch(ROUTES, None, **options)] == ["event"]
    await client.discover()

    assert [name for name, _, _ in inner.calls] == ["get", "list_page", "watch", "discover"]
    assert inner.calls[1][2] == {
        "limit": 3,
        "continue_token": "c",
        "label_selector": "l",
        "field_selector": "f",
    }
    assert inner.calls[2][2] == options


async def test_an_open_fence_passes_writes_on_unchanged(
    client: FencedClient, inner: Recorder, fence: WriteFence
) -> None:
    fence.open_for_ever()

    answers = await write_all_ways(client)

    assert answers[0] == {"from": "create"}
    assert [kwargs for _, _, kwargs in inner.calls] == [
        {"dry_run": True},
        {"kind": PatchKind.JSON, "subresource": "status", "force": True, "dry_run": True},
        {"uid": "u", "resource_version": "7"},
    ]


async def test_time_alone_closes_the_fence(fence: WriteFence, clock: VirtualClock) -> None:
    fence.open(until=Monotonic(10.0), epoch=3, settle=5)
    opened = (fence.may_write(), fence.seconds_left(), fence.epoch)
    await clock.sleep(9.999)
    before = fence.may_write()
    await clock.sleep(0.001)

    assert opened == (True, 10.0, 3)
    assert before
    assert (fence.may_write(), fence.seconds_left()) == (False, 0.0)


async def test_a_closed_fence_is_not_opened_by_a_late_renewal(fence: WriteFence) -> None:
    fence.open(until=Monotonic(10.0), epoch=3, settle=5)
    fence.extend(Monotonic(20.0))
    fence.extend(Monotonic(5.0))
    extended = fence.seconds_left()
    fence.close()
    fence.extend(Monotonic(30.0))

    assert extended == 20.0
    assert not fence.may_write()


async def test_a_write_ends_with_the_lease(
    client: FencedClient, inner: Recorder, fence: WriteFence, clock: VirtualClock
) -> None:
    fence.open(until=Monotonic(10.0), epoch=3, settle=5)
    await clock.sleep(8)
    inner.takes = 100

    with pytest.raises(ApiTimeout, match="the lease ended during the write"):
        await client.create(ROUTES, "ns", {})

    assert clock.monotonic() == 10
    assert fence.unsettled_for() == 5


@pytest.mark.parametrize(
    ("sentence", "error", "want"),
    [
        ("stored", None, 0),
        ("refused", Forbidden("no"), 0),
        ("in conflict", Conflict("changed"), 0),
        ("cut off", ApiUnavailable("reset"), 5),
        ("unanswered", ApiTimeout("?"), 5),
    ],
)
async def test_a_write_without_an_answer_is_unsettled_for_a_while(
    client: FencedClient,
    inner: Recorder,
    fence: WriteFence,
    clock: VirtualClock,
    sentence: str,
    error: KubeError | None,
    want: float,
) -> None:
    fence.open(until=Monotonic(math.inf), epoch=0, settle=5)
    inner.error, inner.takes = error, 1.0
    task = asyncio.create_task(client.create(ROUTES, "ns", {}))
    await clock.sleep(0.5)
    under_way = fence.unsettled_for()
    await asyncio.gather(task, return_exceptions=True)
    right_after = fence.unsettled_for()
    await clock.sleep(5)

    assert under_way == 5
    assert right_after == want, sentence
    assert fence.unsettled_for() == 0


async def test_a_cancelled_write_is_unsettled(
    client: FencedClient, inner: Recorder, fence: WriteFence, clock: VirtualClock
) -> None:
    fence.open(until=Monotonic(math.inf), epoch=0, settle=5)
    inner.takes = 100
    task = asyncio.create_task(client.create(ROUTES, "ns", {}))
    await clock.sleep(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert fence.unsettled_for() == 5


async def test_a_timeout_of_the_transport_is_its_own(
    client: FencedClient, inner: Recorder, fence: WriteFence
) -> None:
    fence.open_for_ever()
    inner.error = TimeoutError("inner")

    with pytest.raises(TimeoutError, match="inner"):
        await client.create(ROUTES, "ns", {})
