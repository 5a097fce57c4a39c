"""The lease fence around the count of requests, as the controller wears them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from rollouts.kube.client import PatchKind, Resource
from rollouts.kube.counting import CountingClient, RequestRecord
from rollouts.kube.errors import NotFound, RetryableError
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.runtime.fencing import FencedClient, NotLeading, WriteFence
from tests.kit.clock import Timeline, VirtualClock
from tests.kit.memory_client import MemoryKubeClient

MAPS = Resource("", "v1", "configmaps", "ConfigMap")
BODY: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}


@dataclass
class Fence:
    """A lease that a test can take away, and what was counted."""

    seconds: float = 0.0
    records: list[RequestRecord] = field(default_factory=list)
    api: MemoryApi = field(default_factory=MemoryApi)
    fence: WriteFence = field(default_factory=lambda: WriteFence(VirtualClock(Timeline())))

    def __post_init__(self) -> None:
        self.fence.open_for_ever()

    def client(self) -> FencedClient:
        def tick() -> float:
            self.seconds += 0.5
            return self.seconds

        inner = MemoryKubeClient(self.api)
        return FencedClient(CountingClient(inner, self.records.append, monotonic=tick), self.fence)


Write = Callable[[FencedClient], Awaitable[Any]]
WRITES: dict[str, Write] = {
    "create": lambda c: c.create(MAPS, "default", {**BODY, "metadata": {"name": "d"}}),
    "create, dry run": lambda c: c.create(MAPS, "default", {**BODY, "metadata": {"name": "d"}}, dry_run=True),
    "patch": lambda c: c.patch(MAPS, "default", "c", {"data": {"a": "b"}}, kind=PatchKind.MERGE),
    "apply": lambda c: c.patch(MAPS, "default", "c", BODY, kind=PatchKind.APPLY, force=True),
    "delete": lambda c: c.delete(MAPS, "default", "c"),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
async def test_without_the_lease_nothing_is_sent_and_nothing_counted(write: Write) -> None:
    fence = Fence()
    await MemoryKubeClient(fence.api).create(MAPS, "default", BODY)
    before = fence.api.revision
    fence.fence.close()

    with pytest.raises(NotLeading, match="lease") as caught:
        await write(fence.client())

    assert isinstance(caught.value, RetryableError)
    assert (fence.api.revision, fence.records) == (before, [])


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
async def test_with_the_lease_a_write_passes_and_is_counted(write: Write) -> None:
    fence = Fence()
    await MemoryKubeClient(fence.api).create(MAPS, "default", BODY)

    await write(fence.client())

    [record] = fence.records
    assert (record.plural, record.status, record.seconds) == ("configmaps", 200, 0.5)


async def test_reading_needs_no_lease() -> None:
    fence = Fence()
    fence.fence.close()
    client = fence.client()
    with pytest.raises(NotFound):
        await client.get(MAPS, "default", "c")
    page = await client.list_page(MAPS, "default")
    async for _ in client.watch(MAPS, "default", resource_version=page.resource_version, timeout_seconds=0):
        pass
    assert await client.discover()

    assert [(record.verb, record.status) for record in fence.records] == [
        ("get", 404),
        ("list", 200),
        ("watch", 200),
        ("discover", 200),
    ]


async def test_the_lease_is_asked_before_each_write() -> None:
    fence = Fence()
    client = fence.client()
    await client.create(MAPS, "default", BODY)
    fence.fence.close()

    with pytest.raises(NotLeading):
        await client.delete(MAPS, "default", "c")
    assert (await client.get(MAPS, "default", "c"))["metadata"]["name"] == "c"


async def test_leaving_a_watch_closes_it_at_once() -> None:
    fence = Fence()
    client = fence.client()
    await client.create(MAPS, "default", BODY)
    events = client.watch(MAPS, "default", resource_version="0", timeout_seconds=300)
    async for event in events:
        assert event.object["metadata"]["name"] == "c"
        break
    await events.aclose()  # type: ignore[attr-defined]  # it is a generator

    assert [record.verb for record in fence.records] == ["create", "watch"]
