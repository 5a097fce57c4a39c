"""HttpKubeClient against a server that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from rollouts.kube import http
from rollouts.kube.client import PatchKind, Resource, WatchType
from rollouts.kube.errors import (
    ApiTimeout,
    ApiUnavailable,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    KubeError,
    TooManyRequests,
)
from rollouts.kube.http import HttpKubeClient, Impersonation, open_client
from rollouts.lab.kubeconfig import write_kubeconfig
from tests.kit.httpclients import acting_as, with_deadline

MAPS = Resource("", "v1", "configmaps", "ConfigMap")
ROUTES = Resource("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Answers every request with ``handler`` and remembers what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[tuple[web.Request, bytes]] = []
        self.handler: Handler = self.ok

    async def ok(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response({"kind": "ConfigMap", "metadata": {"name": "c"}})

    async def dispatch(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request, await request.read()))
        return await self.handler(request)

    def answers(self, status: int, body: Any = b"", **headers: str) -> None:
        async def handler(_request: web.Request) -> web.StreamResponse:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            return web.Response(status=status, body=data, headers=headers)

        self.handler = handler

    def streams(self, *chunks: bytes, then_hang: bool = False) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            for chunk in chunks:
                await response.write(chunk)
            if then_hang:
                await asyncio.Event().wait()
            return response

        self.handler = handler


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", made.dispatch)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture
async def client(server: Server, tmp_path: Path) -> AsyncIterator[HttpKubeClient]:
    write_kubeconfig(tmp_path / "kubeconfig", server=server.url, token="secret")
    async with await open_client(str(tmp_path / "kubeconfig"), deadline=5.0) as made:
        yield made


async def test_a_request_says_who_we_are_and_what_it_is(server: Server, client: HttpKubeClient) -> None:
    await client.patch(
        ROUTES, "ns", "r", [{"op": "add", "path": "/a", "value": 1}], kind=PatchKind.JSON, dry_run=True
    )
    [(request, body)] = server.requests

    assert request.method == "PATCH"
    assert request.path == "/apis/gateway.networking.k8s.io/v1/namespaces/ns/httproutes/r"
    assert dict(request.query) == {"fieldManager": "inference-rollouts", "dryRun": "All"}
    assert request.headers["Authorization"] == "Bearer secret"
    assert request.headers["User-Agent"].startswith("inference-rollouts/")
    assert request.headers["Content-Type"] == "application/json-patch+json"
    assert json.loads(body) == [{"op": "add", "path": "/a", "value": 1}]


@pytest.mark.parametrize("kind", PatchKind)
async def test_every_patch_names_its_content_type(
    server: Server, client: HttpKubeClient, kind: PatchKind
) -> None:
    await client.patch(MAPS, "ns", "c", {}, kind=kind, force=True, subresource="status")
    [(request, _)] = server.requests

    assert request.headers["Content-Type"] == kind.value
    assert request.path.endswith("/configmaps/c/status")
    assert request.query["force"] == "true"


async def test_derived_clients_share_connections_but_not_settings(
    server: Server, client: HttpKubeClient
) -> None:
    await acting_as(client, "system:serviceaccount:a:b", ("g1", "g2")).get(MAPS, "ns", "c")
    await client.with_field_manager("other").create(MAPS, "ns", {})
    await client.get(MAPS, "ns", "c")
    first, second, third = (request for request, _ in server.requests)

    assert first.headers["Impersonate-User"] == "system:serviceaccount:a:b"
    assert first.headers.getall("Impersonate-Group") == ["g1", "g2"]
    assert second.query["fieldManager"] == "other"
    assert "Impersonate-User" not in third.headers
    assert {request.remote for request in (first, second, third)} == {"127.0.0.1"}


async def test_impersonation_can_be_given_at_once(server: Server, tmp_path: Path) -> None:
    write_kubeconfig(tmp_path / "k", server=server.url)
    async with await open_client(str(tmp_path / "k"), impersonate=Impersonation(user="u")) as client:
        await client.get(MAPS, "ns", "c")

    assert server.requests[0][0].headers["Impersonate-User"] == "u"
    assert "Authorization" not in server.requests[0][0].headers


async def test_a_delete_carries_its_preconditions(server: Server, client: HttpKubeClient) -> None:
    await client.delete(MAPS, "ns", "c", uid="u", resource_version="7", grace_period_seconds=0)
    await client.delete(MAPS, "ns", "c")

    assert json.loads(server.requests[0][1])["preconditions"] == {"uid": "u", "resourceVersion": "7"}
    assert json.loads(server.requests[0][1])["gracePeriodSeconds"] == 0
    assert json.loads(server.requests[1][1]) == {"kind": "DeleteOptions", "apiVersion": "v1"}


@pytest.mark.parametrize("name", ["a/b", "..%2f", "a?x=1", "ä"])
async def test_a_hostile_name_stays_one_path_segment(
    server: Server, client: HttpKubeClient, name: str
) -> None:
    await client.get(MAPS, "ns", name)

    request = server.requests[0][0]
    assert request.raw_path.split("?")[0].count("/") == "/api/v1/namespaces/ns/configmaps/x".count("/")
    assert not request.query


@pytest.mark.parametrize("name", [".", ".."])
async def test_a_name_that_walks_paths_is_not_sent(server: Server, client: HttpKubeClient, name: str) -> None:
    with pytest.raises(Invalid):
        await client.get(MAPS, "ns", name)
    assert server.requests == []


async def test_what_is_not_json_is_not_sent(server: Server, client: HttpKubeClient) -> None:
    with pytest.raises(Invalid):
        await client.create(MAPS, "ns", {"a": float("nan")})
    with pytest.raises(Invalid):
        await client.create(MAPS, "ns", {"a": object()})
    assert server.requests == []


@pytest.mark.parametrize(
    ("body", "want"),
    [
        pytest.param(b"<html>hello</html>", ApiUnavailable, id="HTML with 200"),
        pytest.param(b'{"kind":', ApiUnavailable, id="cut off"),
        pytest.param(b"[1]", ApiUnavailable, id="a list"),
        pytest.param(b"[" * 200_000, ApiUnavailable, id="nested without end"),
        pytest.param(b"", ApiUnavailable, id="nothing"),
    ],
)
async def test_a_lying_200_is_an_unavailable_server(
    server: Server, client: HttpKubeClient, body: bytes, want: type[KubeError]
) -> None:
    server.answers(200, body)

    with pytest.raises(want):
        await client.get(MAPS, "ns", "c")


async def test_a_refusal_is_mapped_with_its_headers(server: Server, client: HttpKubeClient) -> None:
    server.answers(429, b"slow down", **{"Retry-After": "9"})
    with pytest.raises(TooManyRequests) as caught:
        await client.get(MAPS, "ns", "c")
    assert caught.value.retry_after == 9.0

    server.answers(422, {"kind": "Status", "reason": "Invalid", "message": "no", "details": {}})
    guard = {"op": "test", "path": "/metadata/resourceVersion", "value": "1"}
    with pytest.raises(Conflict):
        await client.patch(MAPS, "ns", "c", [guard], kind=PatchKind.JSON)
    with pytest.raises(Invalid):
        await client.patch(MAPS, "ns", "c", [], kind=PatchKind.JSON)


async def test_a_redirect_is_not_followed(server: Server, client: HttpKubeClient) -> None:
    async def elsewhere(request: web.Request) -> web.StreamResponse:
        if request.path == "/elsewhere":
            return await server.ok(request)
        return web.Response(status=302, headers={"Location": f"{server.url}/elsewhere"})

    server.handler = elsewhere
    with pytest.raises(ApiUnavailable):
        await client.get(MAPS, "ns", "c")
    assert len(server.requests) == 1


async def test_an_answer_over_the_cap_is_refused(
    server: Server, client: HttpKubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rollouts.kube.connection._MAX_BODY", 1000)
    server.answers(200, {"kind": "List", "items": ["x" * 2000]})

    with pytest.raises(Invalid, match="1000 bytes"):
        await client.list_page(MAPS, "ns")


async def test_a_hung_server_meets_the_deadline(server: Server, client: HttpKubeClient) -> None:
    async def hang(_request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    server.handler = hang
    with pytest.raises(ApiTimeout, match=r"0\.05 s"):
        await with_deadline(client, 0.05).get(MAPS, "ns", "c")
    server.streams(b'{"kind":', then_hang=True)
    with pytest.raises(ApiTimeout):
        await with_deadline(client, 0.05).get(MAPS, "ns", "c")


async def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    write_kubeconfig(tmp_path / "k", server="http://127.0.0.1:1")
    async with await open_client(str(tmp_path / "k")) as client:
        with pytest.raises(ApiUnavailable):
            await client.get(MAPS, "ns", "c")
        with pytest.raises(ApiUnavailable):
            await anext(aiter(client.watch(MAPS, "ns", resource_version="1", timeout_seconds=1)))


async def test_after_a_401_the_token_is_read_again_and_the_request_sent_once_more(
    server: Server, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server.url}}],
        "users": [{"name": "u", "user": {"tokenFile": str(token)}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    (tmp_path / "k").write_text(json.dumps(config))

    async def only_new(request: web.Request) -> web.StreamResponse:
        if request.headers["Authorization"] != "Bearer new":
            return web.Response(status=401)
        return await server.ok(request)

    server.handler = only_new
    async with await open_client(str(tmp_path / "k")) as client:
        with pytest.raises(Forbidden):
            await client.get(MAPS, "ns", "c")
        token.write_text("new")
        found = await client.create(MAPS, "ns", {"a": 1})

    assert found["metadata"]["name"] == "c"
    assert [body for _, body in server.requests[-2:]] == [b'{"a": 1}', b'{"a": 1}']


async def test_items_without_a_kind_are_given_theirs(server: Server, client: HttpKubeClient) -> None:
    server.answers(200, {"metadata": {"resourceVersion": "5"}, "items": [{"metadata": {}}, "junk"]})

    page = await client.list_page(MAPS, None)

    assert page.items == [{"metadata": {}, "apiVersion": "v1", "kind": "ConfigMap"}]
    assert (page.resource_version, page.continue_token) == ("5", "")


async def test_classic_discovery_leaves_out_a_broken_group(server: Server, client: HttpKubeClient) -> None:
    documents: dict[str, Any] = {
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {
            "groups": [
                {"name": "good.test", "versions": [{"version": "v1"}]},
                {"name": "bad.test", "versions": [{"version": "v1"}]},
            ]
        },
        "/api/v1": {"resources": [{"name": "configmaps", "kind": "ConfigMap", "namespaced": True}]},
        "/apis/good.test/v1": {"resources": [{"name": "things", "kind": "Thing", "namespaced": True}]},
    }

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path in documents:
            return web.json_response(documents[request.path])
        return web.Response(status=503)

    server.handler = handler
    assert await client.discover() == (MAPS, Resource("good.test", "v1", "things", "Thing"))


# Watches


def line(kind: str, obj: Any) -> bytes:
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"


async def watch(client: HttpKubeClient) -> list[tuple[WatchType, str]]:
    events = client.watch(MAPS, "ns", resource_version="7", timeout_seconds=3, label_selector="a=b")
    return [(event.type, event.object["metadata"]["name"]) async for event in events]


async def test_a_watch_asks_for_bookmarks_and_an_end(server: Server, client: HttpKubeClient) -> None:
    server.streams(line("ADDED", {"metadata": {"name": "a"}}), line("BOOKMARK", {"metadata": {"name": ""}}))

    assert await watch(client) == [(WatchType.ADDED, "a"), (WatchType.BOOKMARK, "")]
    assert dict(server.requests[0][0].query) == {
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": "7",
        "timeoutSeconds": "3",
        "labelSelector": "a=b",
    }


async def test_events_arrive_whole_however_they_are_cut(server: Server, client: HttpKubeClient) -> None:
    stream = line("ADDED", {"metadata": {"name": "a"}}) + line("DELETED", {"metadata": {"name": "b"}})
    server.streams(*(stream[i : i + 7] for i in range(0, len(stream), 7)))

    assert await watch(client) == [(WatchType.ADDED, "a"), (WatchType.DELETED, "b")]


async def test_an_event_of_ten_megabytes_passes(server: Server, client: HttpKubeClient) -> None:
    server.streams(line("ADDED", {"metadata": {"name": "a"}, "data": "x" * 10_000_000}))

    assert await watch(client) == [(WatchType.ADDED, "a")]


@pytest.mark.parametrize(
    ("chunk", "want"),
    [
        pytest.param(line("ERROR", {"kind": "Status", "code": 410}), Gone, id="ERROR event 410"),
        pytest.param(line("ERROR", {"code": 429}), TooManyRequests, id="ERROR event 429"),
        pytest.param(line("ERROR", {"code": 504}), ApiTimeout, id="ERROR event 504"),
        pytest.param(line("ERROR", {"code": "x"}), ApiUnavailable, id="ERROR event without a code"),
        pytest.param(line("SURPRISE", {}), ApiUnavailable, id="unknown type"),
        pytest.param(b'{"type":"ADDED"}\n', ApiUnavailable, id="no object"),
        pytest.param(b"<html>\n", ApiUnavailable, id="no JSON"),
        pytest.param(b'{"type":"ADDED","obj', ApiUnavailable, id="ends within an event"),
    ],
)
async def test_a_broken_watch_ends_with_the_matching_error(
    server: Server, client: HttpKubeClient, chunk: bytes, want: type[KubeError]
) -> None:
    server.streams(line("ADDED", {"metadata": {"name": "a"}}), chunk)
    events = aiter(client.watch(MAPS, "ns", resource_version="7", timeout_seconds=3))
    first = await anext(events)
    with pytest.raises(want) as caught:
        await anext(events)

    assert type(caught.value) is want
    assert first.object["metadata"]["name"] == "a"


@pytest.mark.parametrize(("status", "want"), [(410, Gone), (403, Forbidden), (503, ApiUnavailable)])
async def test_a_refused_watch_raises_what_the_status_says(
    server: Server, client: HttpKubeClient, status: int, want: type[KubeError]
) -> None:
    server.answers(status, {"kind": "Status", "code": status})

    with pytest.raises(want):
        await watch(client)


async def test_a_watch_that_falls_silent_is_given_up(
    server: Server, client: HttpKubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_WATCH_SLACK", -2.9)
    server.streams(line("ADDED", {"metadata": {"name": "a"}}), then_hang=True)

    with pytest.raises(ApiTimeout, match="half-open"):
        await watch(client)


async def test_a_watch_that_never_begins_meets_the_deadline(server: Server, client: HttpKubeClient) -> None:
    async def hang(_request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    server.handler = hang
    with pytest.raises(ApiTimeout):
        await watch(with_deadline(client, 0.05))


async def test_a_connection_cut_within_a_chunk_is_unavailable(server: Server, client: HttpKubeClient) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"type":')
        assert request.transport is not None
        request.transport.abort()
        return response

    server.handler = cut
    with pytest.raises(ApiUnavailable):
        await watch(client)
