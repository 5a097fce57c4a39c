"""HTTP of the controller: /healthz, /readyz and /metrics, on loopback unless told otherwise."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from rollouts.controller.app import Controller

__all__ = ["parse_address", "serve"]

_STALE = 120.0
"""Seconds without any activity of a reflector after which the process counts as stuck."""


def parse_address(text: str) -> tuple[str, int]:
    """``HOST:PORT``, ``[::1]:PORT`` or ``:PORT`` (all addresses). Raises ValueError."""
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is not HOST:PORT")
    return host.strip("[]") or "0.0.0.0", int(port)


@asynccontextmanager
async def serve(controller: Controller) -> AsyncIterator[None]:
    """Answer probes and scrapes while the block runs."""

    async def healthz(_: web.Request) -> web.Response:
        stuck = [
            r.resource.plural
            for r in controller.caches.reflectors
            if _STALE < r.activity_age() < float("inf")
        ]
        return web.Response(
            status=500 if stuck else 200, text=f"stuck: {', '.join(stuck)}" if stuck else "ok"
        )

    async def readyz(_: web.Request) -> web.Response:
        missing = [r.resource.plural for r in controller.caches.reflectors if not r.has_synced]
        return web.Response(
            status=503 if missing else 200, text=f"not synced: {', '.join(missing)}" if missing else "ok"
        )

    async def metrics(_: web.Request) -> web.Response:
        body = generate_latest(controller.metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    runners = [
        await _listen(controller.settings.health_address, {"/healthz": healthz, "/readyz": readyz}),
        await _listen(controller.settings.metrics_address, {"/metrics": metrics}),
    ]
    try:
        yield
    finally:
        for runner in runners:
            await runner.cleanup()


Handler = Callable[[web.Request], Awaitable[web.Response]]


async def _listen(address: str, routes: dict[str, Handler]) -> web.AppRunner:
    host, port = parse_address(address)
    application = web.Application()
    for path, handler in routes.items():
        application.router.add_get(path, handler)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
