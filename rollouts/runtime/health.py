"""Health and metrics over HTTP, on loopback unless an address says otherwise.

``/livez`` (also ``/healthz``): is a restart of any use? An outage of the API server is not a reason.
``/readyz``: are the caches synced? ``/metrics``: the Prometheus text format.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from rollouts.runtime.reflector import Reflector
from rollouts.runtime.supervisor import LoopMonitor

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = [
    "Check",
    "HttpServer",
    "ListenAddress",
    "health_routes",
    "liveness",
    "metrics_routes",
    "parse_address",
    "readiness",
]

Check = Callable[[], str]
"""Answers why something is not well, or nothing."""

# Beyond these a restart may help: no reflector waits that long between two attempts, and a loop that has been
# late by seconds for a whole minute misses its lease anyway.
MAX_INACTIVITY = 600.0
MAX_LAG = 5.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen. ``port`` 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> ListenAddress:
    """Read ``host:port``, ``[ipv6]:port`` or ``:port``, the last on loopback. Raises ValueError.

    ``[::]:port`` and ``0.0.0.0:port`` are all interfaces: what a Pod needs for the kubelet's probes.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host or "[" in host or "]" in host:
        raise ValueError(f"{text!r} is no address: write an IPv6 host in brackets, as in [::1]:8080")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f"{text!r} is no address: write HOST:PORT or :PORT, with a port from 0 to 65535")
    return ListenAddress(host or "127.0.0.1", int(port))


def liveness(reflectors: Iterable[Reflector], monitor: LoopMonitor) -> dict[str, Check]:
    """Checks that the event loop and each reflector are going on."""

    def loop() -> str:
        lag = monitor.sustained()
        return f"late by {lag:.1f} s for a minute" if lag > MAX_LAG else ""

    def going_on(reflector: Reflector) -> Check:
        def check() -> str:
            age = reflector.activity_age()  # infinite before it was started, which is for others to judge
            return f"did nothing for {age:.0f} s" if MAX_INACTIVITY < age < math.inf else ""

        return check

    return {"event-loop": loop} | {reflector.name: going_on(reflector) for reflector in reflectors}


def readiness(reflectors: Iterable[Reflector]) -> dict[str, Check]:
    """Checks that each cache has been filled."""

    def filled(reflector: Reflector) -> Check:
        return lambda: "" if reflector.has_synced else "not yet listed"

    return {reflector.name: filled(reflector) for reflector in reflectors}


def health_routes(*, live: Mapping[str, Check], ready: Mapping[str, Check]) -> list[web.RouteDef]:
    """``/livez``, ``/healthz`` and ``/readyz``."""

    async def livez(request: web.Request) -> web.Response:
        return _answer(live)

    async def readyz(request: web.Request) -> web.Response:
        return _answer(ready)

    return [web.get("/livez", livez), web.get("/healthz", livez), web.get("/readyz", readyz)]


def metrics_routes(registry: CollectorRegistry) -> list[web.RouteDef]:
    """``/metrics`` of ``registry``."""

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return [web.get("/metrics", metrics)]


class HttpServer:
    """Serves ``routes`` on one address; a part for the supervisor."""

    def __init__(
        self,
        address: ListenAddress,
        routes: Iterable[web.RouteDef],
        *,
        middlewares: Iterable[Middleware] = (),
    ) -> None:
        self._address = address
        self._middlewares = list(middlewares)
        self._routes = list(routes)
        self._port = 0
        self._started = asyncio.Event()

    async def started(self) -> int:
        """Wait until it listens; answers the port, also when the system chose it."""
        await self._started.wait()
        return self._port

    async def run(self) -> None:
        """Serve until cancelled. Raises OSError when the address cannot be used."""
        listening = _listen(self._address)
        app = web.Application(client_max_size=1024, middlewares=self._middlewares)
        app.add_routes(self._routes)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        try:
            await runner.setup()
            await web.SockSite(runner, listening).start()
            self._port = int(listening.getsockname()[1])
            self._started.set()
            _log.info("listening", address=str(ListenAddress(self._address.host, self._port)))
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()
            listening.close()


def _listen(address: ListenAddress) -> socket.socket:
    """A listening socket. Raises OSError. ``::`` means IPv4 too, as everywhere outside of asyncio."""
    where = (address.host, address.port)
    if address.host == "::":
        if socket.has_dualstack_ipv6():
            return socket.create_server(where, family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("0.0.0.0", address.port))
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.create_server(where, family=family)


def _answer(checks: Mapping[str, Check]) -> web.Response:
    results = {name: check() for name, check in checks.items()}
    failed = {name: reason for name, reason in results.items() if reason}
    if not failed:
        return web.Response(text="ok\n")
    lines = [f"{name}: {reason}\n" for name, reason in failed.items()]
    return web.Response(status=503, text="".join(lines))
