"""A process that is stopped between the fence and the socket, however long, does not send what it was about to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from rollouts.kube.client import PatchKind, Resource
from rollouts.kube.credentials import load_credentials
from rollouts.kube.errors import ApiUnavailable
from rollouts.kube.http import HttpKubeClient
from rollouts.kube.last_look import looking_last
from rollouts.lab.kubeconfig import write_kubeconfig
from rollouts.runtime.clock import Monotonic
from rollouts.runtime.fencing import FencedClient, NotLeading, WriteFence
from tests.kit.clock import Timeline, VirtualClock

MAPS = Resource("", "v1", "configmaps", "ConfigMap")
LARGE = {"data": {"text": "x" * 200_000}}

Write = Callable[[FencedClient], Awaitable[object]]
WRITES: dict[str, Write] = {
    "create": lambda client: client.create(MAPS, "ns", {}),
    "create of a large object": lambda client: client.create(MAPS, "ns", LARGE),
    "patch": lambda client: client.patch(MAPS, "ns", "a", {}, kind=PatchKind.MERGE),
    "delete": lambda client: client.delete(MAPS, "ns", "a"),
}


class Stage:
    """A server, and a client of it whose process may be stopped while its token is renewed."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.clock = VirtualClock(timeline)
        self.received: list[str] = []
        self.stopped_for = 0.0
        self.refuses_first_token = False

    async def handle(self, request: web.Request) -> web.Response:
        self.received.append(request.method)
        await request.read()
        if self.refuses_first_token and len(self.received) == 1:
            return web.json_response({}, status=401)
        return web.json_response({"kind": "ConfigMap"})

    async def renew(self) -> None:
        self.timeline.advance(self.stopped_for)


@pytest.fixture
def stage() -> Stage:
    return Stage(Timeline())


@pytest.fixture
async def inner(stage: Stage, tmp_path: Path) -> AsyncIterator[HttpKubeClient]:
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", stage.handle)
    async with TestServer(app) as server:
        config = tmp_path / "kubeconfig"
        write_kubeconfig(config, server=str(server.make_url("")), token="secret")
        credentials = await load_credentials(str(config))
        credentials._reload = stage.renew
        async with HttpKubeClient(credentials) as made:
            yield made


@pytest.fixture
def fence(stage: Stage) -> WriteFence:
    made = WriteFence(stage.clock)
    made.open(until=Monotonic(stage.clock.monotonic() + 10), epoch=0, settle=5.0)
    return made


@pytest.mark.parametrize("write", WRITES.values(), ids=list(WRITES))
async def test_a_write_that_was_begun_under_the_lease_is_not_sent_after_it(
    write: Write, inner: HttpKubeClient, fence: WriteFence, stage: Stage
) -> None:
    stage.stopped_for, stage.refuses_first_token = 11.0, True

    with pytest.raises(NotLeading, match="does not hold the lease"):
        await write(FencedClient(inner, fence))

    assert len(stage.received) == 1, "what the server refused, and nothing after the stop"


@pytest.mark.parametrize("write", WRITES.values(), ids=list(WRITES))
async def test_a_write_that_was_held_up_within_the_lease_is_sent(
    write: Write, inner: HttpKubeClient, fence: WriteFence, stage: Stage
) -> None:
    stage.stopped_for, stage.refuses_first_token = 9.0, True

    await write(FencedClient(inner, fence))

    assert len(stage.received) == 2


async def test_the_look_is_made_by_whoever_writes_and_by_nobody_else(
    inner: HttpKubeClient, fence: WriteFence, stage: Stage
) -> None:
    stage.timeline.advance(11.0)

    with pytest.raises(NotLeading):
        await FencedClient(inner, fence).create(MAPS, "ns", {})
    await inner.create(MAPS, "ns", {})
    await FencedClient(inner, fence).get(MAPS, "ns", "a")

    assert stage.received == ["POST", "GET"], "the lease itself is written past the fence"


async def test_no_look_is_made_before_there_is_a_connection(tmp_path: Path) -> None:
    config = tmp_path / "kubeconfig"
    write_kubeconfig(config, server="http://127.0.0.1:9", token="secret")
    looked = []

    with pytest.raises(ApiUnavailable), looking_last(lambda: looked.append(1)):
        async with HttpKubeClient(await load_credentials(str(config))) as client:
            await client.create(MAPS, "ns", {})

    assert looked == [], "nothing was about to leave"
