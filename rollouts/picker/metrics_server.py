"""``/metrics``, ``/healthz``, ``/readyz`` and ``/splits`` over plain HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from rollouts.picker.metrics import PickerMetrics

__all__ = ["MetricsServer"]


class MetricsServer:
    """A small aiohttp server. ``port`` is set by ``start``. ``splits``: the PoolSplits as the picker goes by them."""

    def __init__(
        self,
        metrics: PickerMetrics,
        address: str,
        ready: Callable[[], bool],
        splits: Callable[[], list[dict[str, Any]]],
    ) -> None:
        self._metrics = metrics
        host, _, port = address.rpartition(":")
        self._host, self._wanted = host.strip("[]"), int(port)
        self._ready = ready
        self._splits = splits
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen. Raises OSError when the address is taken."""
        app = web.Application()
        app.router.add_get("/metrics", self._expose)
        app.router.add_get("/healthz", self._healthy)
        app.router.add_get("/readyz", self._readiness)
        app.router.add_get("/splits", self._say_splits)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host or None, self._wanted)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close the port."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _expose(self, request: web.Request) -> web.Response:
        body, content_type = self._metrics.expose(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _say_splits(self, _: web.Request) -> web.Response:
        return web.json_response({"poolSplits": self._splits()})

    async def _healthy(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readiness(self, _: web.Request) -> web.Response:
        if self._ready():
            return web.Response(text="ok\n")
        return web.Response(status=503, text="not ready: a pool has not been seen yet, or it is draining\n")
