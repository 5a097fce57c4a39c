"""The dashboard's HTTP server: pages, their events, and, where that was asked for, commands."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager

import structlog
from aiohttp import web

from rollouts.api.parsing import parse_rollout
from rollouts.cli.verbs import write_command
from rollouts.dashboard.guard import COOKIE, host_problem, origin_problem, token_of
from rollouts.dashboard.looking import ArmPods, ClusterView
from rollouts.dashboard.pages import SCRIPT, ShownPart, fragment, list_main, page_of, rollout_main
from rollouts.engine.commands import CommandAction
from rollouts.kube.client import KubeClient
from rollouts.kube.errors import KubeError
from rollouts.report.markup import Element
from rollouts.runtime.clock import Clock
from rollouts.runtime.health import HttpServer, ListenAddress

__all__ = ["Dashboard"]

_log = structlog.get_logger(__name__)

_STREAMS = 32
"""Pages that are kept live at once; the others stay as they were loaded."""
_LEAST_SECONDS = 1.0
"""Between two versions of a page: nobody reads faster, and a canary that is judged often would cost the browser."""
_REFRESH_SECONDS = 10.0
"""Without a change: pods are asked for, and what time moves is told anew."""
_HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",  # the rest is in the page; this one counts only here
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # without any, browsers send "Origin: null" with a form
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Dashboard:
    """``hosts`` are names that it answers to, beside addresses and ``localhost``; without ``allow_commands`` it writes
    nothing and shows no button."""

    def __init__(
        self,
        client: KubeClient,
        cluster: ClusterView,
        clock: Clock,
        address: ListenAddress,
        *,
        hosts: Collection[str] = (),
        allow_commands: bool = False,
    ) -> None:
        self._client = client
        self._cluster = cluster
        self._clock = clock
        self._hosts = frozenset(host.lower() for host in hosts)
        self._allow_commands = allow_commands
        self._secret = secrets.token_bytes(32)
        self._streams = 0
        routes = [
            web.get("/", self._list),
            web.get("/live", self._list_events),
            web.get("/live.js", self._script),
            web.get("/rollouts/{namespace}/{name}", self._rollout),
            web.get("/rollouts/{namespace}/{name}/live", self._rollout_events),
        ]
        if allow_commands:
            routes.append(web.post("/command", self._command))
        self._server = HttpServer(address, routes, middlewares=[self._guarded])

    async def run(self, listening: Callable[[int], None]) -> None:
        """Watch and serve until cancelled; ``listening`` hears of the port. Raises OSError where it cannot be had."""
        async with asyncio.TaskGroup() as group:
            for reflector in self._cluster.reflectors:
                group.create_task(reflector.run())
            await self._cluster.synced()
            group.create_task(self._server.run())
            listening(await self._server.started())

    # --- what every request goes through ---

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        problem = host_problem(request.host, self._hosts)
        if problem:
            return web.Response(status=421, text=problem + "\n", headers=_HEADERS)
        response = await handler(request)
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response

    def _session(self, request: web.Request) -> str:
        """The reader's session; a new one where there is none. Without commands there are none."""
        if not self._allow_commands:
            return ""
        given = request.cookies.get(COOKIE, "")
        return given if len(given) == 43 and given.isascii() else secrets.token_urlsafe(32)

    def _shown(self, session: str) -> ShownPart:
        token = token_of(self._secret, session) if session else ""
        return ShownPart(now=self._clock.now(), token=token)

    # --- pages ---

    async def _list(self, request: web.Request) -> web.StreamResponse:
        main = list_main(self._cluster.rollouts())
        return _html(page_of("Rollouts", main, live="/live", forms=False))

    async def _rollout(self, request: web.Request) -> web.StreamResponse:
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        session = self._session(request)
        main = await self._main(namespace, name, session)
        if main is None:
            raise web.HTTPNotFound(
                text="there is no such Rollout, or it is not watched here\n", headers=_HEADERS
            )
        live = f"/rollouts/{namespace}/{name}/live"
        page = page_of(f"Rollout {namespace}/{name}", main, live=live, forms=self._allow_commands)
        response = _html(page)
        if session:
            response.set_cookie(COOKIE, session, httponly=True, samesite="Strict", path="/")
        return response

    async def _main(self, namespace: str, name: str, session: str) -> list[Element] | None:
        rollout = self._cluster.rollout(namespace, name)
        if rollout is None:
            return None
        arms: list[ArmPods] = await self._cluster.arms(rollout)
        live = await self._cluster.strategy(rollout)
        return list(rollout_main(rollout, self._cluster.runs(rollout), arms, self._shown(session), live))

    async def _script(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text=SCRIPT, content_type="text/javascript")

    # --- events ---

    async def _list_events(self, request: web.Request) -> web.StreamResponse:
        async def render() -> str:
            return fragment(list_main(self._cluster.rollouts()))

        return await self._events(request, render)

    async def _rollout_events(self, request: web.Request) -> web.StreamResponse:
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        session = self._session(request)

        async def render() -> str:
            main = await self._main(namespace, name, session)
            return fragment(main if main is not None else ["This Rollout is gone."])

        return await self._events(request, render)

    async def _events(self, request: web.Request, render: Callable[[], Awaitable[str]]) -> web.StreamResponse:
        """Server-sent events (WHATWG HTML, 9.2): the inside of the page, whenever that is another one."""
        if self._streams >= _STREAMS:
            raise web.HTTPServiceUnavailable(text="too many live pages\n", headers=_HEADERS)
        async with self._stream(request) as response:
            told = ""
            while True:
                version = self._cluster.version
                text = await render()
                line = f"event: page\ndata: {json.dumps(text)}\n\n" if text != told else ": still here\n\n"
                told = text
                try:
                    await response.write(line.encode())
                except ConnectionError:
                    return response
                await self._clock.sleep(_LEAST_SECONDS)
                await self._cluster.changed(version, _REFRESH_SECONDS)

    @asynccontextmanager
    async def _stream(self, request: web.Request) -> AsyncIterator[web.StreamResponse]:
        self._streams += 1
        try:
            response = web.StreamResponse(headers={**_HEADERS, "Content-Type": "text/event-stream"})
            await response.prepare(request)
            yield response
        finally:
            self._streams -= 1

    # --- commands ---

    async def _command(self, request: web.Request) -> web.StreamResponse:
        problem = origin_problem(
            request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site"), request.host
        )
        form = {} if problem else {name: str(value) for name, value in (await request.post()).items()}
        session = request.cookies.get(COOKIE, "")
        expected = token_of(self._secret, session)
        if not problem and not (
            session and secrets.compare_digest(form.get("token", "").encode(), expected.encode())
        ):
            problem = "the form is of another session: load the page again"
        if problem:
            raise web.HTTPForbidden(text=problem + "\n", headers=_HEADERS)
        return await self._written(form)

    async def _written(self, form: dict[str, str]) -> web.StreamResponse:
        """Write the annotation, bound to what the reader saw."""
        namespace, name = form.get("namespace", ""), form.get("name", "")
        rollout = self._cluster.rollout(namespace, name)
        actions = {action.value for action in CommandAction}
        if rollout is None or form.get("action") not in actions:
            raise web.HTTPBadRequest(text="no such Rollout or action\n", headers=_HEADERS)
        status = parse_rollout(rollout).status
        revision = status.canary or status.stable
        seen = (form.get("revision"), form.get("attempt"), form.get("step"))
        if revision is None or seen != (revision.hash, str(status.attempt), str(status.current_step)):
            text = "the Rollout has moved on since the page was made: nothing was written; look at it again\n"
            raise web.HTTPConflict(text=text, headers=_HEADERS)
        try:
            await write_command(self._client, rollout, form["action"])
        except KubeError as error:
            raise web.HTTPForbidden(text=f"the API server refuses it: {error}\n", headers=_HEADERS) from None
        _log.info("command_written", namespace=namespace, rollout=name, action=form["action"])
        raise web.HTTPSeeOther(f"/rollouts/{namespace}/{name}", headers=_HEADERS)


def _html(text: str) -> web.Response:
    return web.Response(text=text, content_type="text/html")
