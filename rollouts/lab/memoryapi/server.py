"""MemoryApiServer: a MemoryApi over HTTP on loopback, good enough for kubectl and for other processes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import structlog
from aiohttp import web

from rollouts.kube.discovery import AGGREGATED
from rollouts.kube.errors import Forbidden, Invalid, KindNotServed, KubeError
from rollouts.lab.memoryapi import documents
from rollouts.lab.memoryapi.history import WatchSubscription
from rollouts.lab.memoryapi.requests import (
    RequestTarget,
    manager_of,
    parse_body,
    status_of,
    target_of,
    wants_table,
)
from rollouts.lab.memoryapi.store import LIMITS, MemoryApi
from rollouts.lab.memoryapi.tables import table
from rollouts.runtime.clock import Clock, SystemClock

__all__ = ["MemoryApiServer"]

Object = dict[str, Any]
_log = structlog.get_logger(__name__)
# As kube-apiserver: larger request bodies are refused.
_MAX_BODY = 3 * 1024 * 1024
_BOOKMARK_SECONDS = 60.0
_DEFAULT_WATCH_SECONDS = 1800
_VERSION = {
    "major": "1",
    "minor": "32",
    "gitVersion": "v1.32.0+memoryapi",
    "platform": "memory",
    "limits": LIMITS,
}


class MemoryApiServer:
    """Serves ``api`` on 127.0.0.1. ``port`` 0 takes a free one; with ``token``, requests must carry it.

    ``on_request`` hears of each request as it arrives: a log for tests. An async context manager; ``url`` is
    known once it has started.
    """

    def __init__(
        self,
        api: MemoryApi,
        *,
        port: int = 0,
        token: str = "",
        clock: Clock | None = None,
        on_request: Callable[[web.Request], None] = lambda _: None,
    ) -> None:
        self.api = api
        self.url = ""
        self._port = port
        self._token = token
        self._on_request = on_request
        self._clock = clock or SystemClock()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> MemoryApiServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        app = web.Application(client_max_size=_MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        _log.warning("memory_api_started", url=self.url, limits=LIMITS)

    async def stop(self) -> None:
        """End all watches and stop listening."""
        self.api.close_watches()
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        target: RequestTarget | None = None
        self._on_request(request)
        try:
            if self._token and request.headers.get("Authorization") != f"Bearer {self._token}":
                raise Forbidden("Unauthorized", status=401)
            document = self._document(request)
            if document is not None:
                return document
            target = target_of(self.api, request.raw_path.split("?")[0])
            return await self._object(request, target)
        except KubeError as error:
            if isinstance(error, KindNotServed):
                return web.Response(status=404, text="404 page not found\n")
            return web.json_response(status_of(error, target), status=error.status or 500)
        except web.HTTPRequestEntityTooLarge:
            too_large = Invalid(f"Request entity too large: limit is {_MAX_BODY}", status=413)
            return web.json_response(status_of(too_large, target), status=413)

    # Documents

    def _document(self, request: web.Request) -> web.Response | None:
        parts = request.path.strip("/").split("/")
        kinds = self.api.kinds()
        if parts[0] in ("healthz", "livez", "readyz"):
            return web.Response(text="ok")
        if parts == ["version"]:
            return web.json_response(_VERSION)
        if parts[:2] == ["openapi", "v3"]:
            return self._openapi(parts[2:])
        if parts in (["api"], ["apis"]):
            return self._discovery(request, core=parts == ["api"])
        if parts[0] == "api" and len(parts) == 2:
            return _document(documents.resource_list(kinds, "", parts[1]))
        if parts[0] == "apis" and len(parts) == 2:
            return _document(documents.group(kinds, parts[1]))
        if parts[0] == "apis" and len(parts) == 3:
            return _document(documents.resource_list(kinds, parts[1], parts[2]))
        return None

    def _discovery(self, request: web.Request, *, core: bool) -> web.Response:
        kinds = self.api.kinds()
        if "g=apidiscovery.k8s.io;v=v2;" in request.headers.get("Accept", ""):
            body = json.dumps(documents.aggregated(kinds, core=core)).encode()
            return web.Response(body=body, headers={"Content-Type": AGGREGATED})
        return _document(documents.legacy_versions() if core else documents.group_list(kinds))

    def _openapi(self, parts: list[str]) -> web.Response:
        kinds = self.api.kinds()
        if not parts:
            return _document(documents.openapi_index(kinds, self.api.revision))
        group, version = (parts[1], parts[2]) if len(parts) == 3 else ("", parts[-1])
        return _document(documents.openapi_document(kinds, group, version))

    # Objects

    async def _object(self, request: web.Request, target: RequestTarget) -> web.StreamResponse:
        if request.method == "GET":
            if not target.name and request.query.get("watch", "") in ("true", "1"):
                return await self._watch(request, target)
            return self._read(request, target)
        if "protobuf" in request.content_type:
            hint = "this server reads JSON and YAML, not protobuf: `kubectl apply -f` sends JSON"
            raise Invalid(hint, status=415)
        body = parse_body(await request.read())
        if request.method == "DELETE" and target.name:
            return self._delete(request, target, body)
        return self._write(request, target, body)

    def _read(self, request: web.Request, target: RequestTarget) -> web.Response:
        query = request.query
        if target.name:
            found = self.api.get(target.resource, target.namespace, target.name)
            metadata = {"resourceVersion": found["metadata"]["resourceVersion"]}
            return self._answer(request, target, found, [found], metadata)
        page = self.api.list_page(
            target.resource,
            target.namespace,
            limit=int(query.get("limit") or 0),
            continue_token=query.get("continue", ""),
            label_selector=query.get("labelSelector", ""),
            field_selector=query.get("fieldSelector", ""),
        )
        metadata = {"resourceVersion": page.resource_version}
        if page.continue_token:
            metadata["continue"] = page.continue_token
        listed = {
            "kind": f"{target.kind.name}List",
            "apiVersion": target.resource.api_version,
            "metadata": metadata,
            "items": page.items,
        }
        return self._answer(request, target, listed, page.items, metadata)

    def _answer(
        self, request: web.Request, target: RequestTarget, body: Object, items: list[Object], metadata: Object
    ) -> web.Response:
        if wants_table(request.headers.get("Accept", "")):
            body = self._table(request, target, items, metadata)
        return web.json_response(body)

    def _table(
        self, request: web.Request, target: RequestTarget, items: list[Object], metadata: Object
    ) -> Object:
        return table(
            target.kind,
            target.resource.version,
            items,
            now=self._clock.now(),
            include=request.query.get("includeObject", "Metadata"),
            metadata=metadata,
        )

    def _write(self, request: web.Request, target: RequestTarget, body: Any) -> web.Response:
        query = request.query
        how: dict[str, Any] = {
            "manager": manager_of(query, request.headers),
            "dry_run": "All" in query.getall("dryRun", []),
            "strict": query.get("fieldValidation") == "Strict",
        }
        resource, namespace, name = target.resource, target.namespace, target.name
        if request.method == "POST" and not name:
            return web.json_response(self.api.create(resource, namespace, body, **how), status=201)
        if request.method == "PUT" and name:
            stored = self.api.replace(resource, namespace, name, body, subresource=target.subresource, **how)
            return web.json_response(stored)
        if request.method == "PATCH" and name:
            stored = self.api.patch(
                resource,
                namespace,
                name,
                body,
                content_type=request.content_type,
                subresource=target.subresource,
                force=query.get("force") == "true",
                **how,
            )
            return self._answer(request, target, stored, [stored], {})
        raise Invalid(f"{request.method} is not supported on this resource", status=405)

    def _delete(self, request: web.Request, target: RequestTarget, body: Any) -> web.Response:
        options = body if isinstance(body, dict) else {}
        guards = options.get("preconditions") or {}
        dry_run = "All" in [*request.query.getall("dryRun", []), *(options.get("dryRun") or ())]
        grace = options.get("gracePeriodSeconds", request.query.get("gracePeriodSeconds"))
        last = self.api.delete(
            target.resource,
            target.namespace,
            target.name,
            uid=str(guards.get("uid") or ""),
            resource_version=str(guards.get("resourceVersion") or ""),
            dry_run=dry_run,
            manager=manager_of(request.query, request.headers),
            grace_period_seconds=None if grace is None else int(grace),
        )
        if "deletionTimestamp" in last["metadata"]:
            return web.json_response(last)
        details = {"name": target.name, "kind": target.kind.plural, "uid": last["metadata"]["uid"]}
        if target.resource.group:
            details["group"] = target.resource.group
        body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        return web.json_response({**body, "details": details})

    # Watches

    async def _watch(self, request: web.Request, target: RequestTarget) -> web.StreamResponse:
        query = request.query
        try:
            watch = self.api.subscribe(
                target.resource,
                target.namespace,
                resource_version=query.get("resourceVersion", ""),
                label_selector=query.get("labelSelector", ""),
                field_selector=query.get("fieldSelector", ""),
            )
        except KubeError as error:
            if error.status != 410:
                raise
            # As the watch cache does: the stream starts well and its first event is the error.
            line = json.dumps({"type": "ERROR", "object": status_of(error, None)})
            return web.Response(text=line + "\n", content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        try:
            await response.prepare(request)
            await self._stream(request, target, watch, response)
        except ConnectionError:
            _log.debug("watch_client_left", plural=target.kind.plural)
        finally:
            watch.close()
        return response

    async def _stream(
        self,
        request: web.Request,
        target: RequestTarget,
        watch: WatchSubscription,
        response: web.StreamResponse,
    ) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + float(request.query.get("timeoutSeconds") or _DEFAULT_WATCH_SECONDS)
        bookmarks = request.query.get("allowWatchBookmarks") in ("true", "1")
        bookmark = min(loop.time() + _BOOKMARK_SECONDS, end)
        first = True
        while True:
            while watch.pending:
                kind, change = watch.pending.popleft()
                obj = self.api.render(target.resource, change)
                if wants_table(request.headers.get("Accept", "")):
                    obj = self._table(request, target, [obj], {})
                    obj["columnDefinitions"] = obj["columnDefinitions"] if first else None
                    first = False
                await _send(response, kind.value, obj)
            now = loop.time()
            if now >= bookmark and bookmarks:
                await _send(response, "BOOKMARK", self._bookmark(target))
            if watch.closed or now >= end:
                return
            if now >= bookmark:
                bookmark = min(now + _BOOKMARK_SECONDS, end)
            await watch.changed(max(bookmark - now, 0.001))

    def _bookmark(self, target: RequestTarget) -> Object:
        metadata = {"resourceVersion": str(self.api.revision), "creationTimestamp": None}
        return {
            "kind": target.kind.name,
            "apiVersion": target.resource.api_version,
            "metadata": metadata,
        }


async def _send(response: web.StreamResponse, kind: str, obj: Object) -> None:
    await response.write(json.dumps({"type": kind, "object": obj}).encode() + b"\n")


def _document(body: Object | None) -> web.Response:
    if body is None:
        raise KindNotServed("404 page not found", status=404)
    return web.json_response(body)
