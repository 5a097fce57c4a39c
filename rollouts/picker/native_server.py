"""The native gRPC server behind the interface of ``PickerServer``: its threads, its health, its log."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from rollouts.picker.credentials import self_signed_pair
from rollouts.picker.server import ServerConfig
from rollouts.picker.server_metrics import PortFigures, ServerFigures

__all__ = ["NativeServer", "TlsFiles"]

_EVENTS_EVERY = 1.0  # seconds between looks for what is to be logged
_INFORMATIVE = frozenset({"request_timed_out", "certificate_reloaded"})
_BUGS = frozenset({"stream_failed", "panicked"})
_log = structlog.get_logger(__name__)


class TlsFiles:
    """Where certificates come from: a folder, or none for a self-signed one. ``client_ca``: see ``credentials``."""

    def __init__(self, folder: Path | None = None, client_ca: Path | None = None) -> None:
        self.options: dict[str, Any] = {"client_ca": client_ca}
        if folder is None:
            self.options["pair"] = self_signed_pair()
        else:
            self.options["folder"] = folder


class NativeServer:
    """Serves ext_proc and gRPC health; ``picker`` is the native one, which decides. No request takes the GIL."""

    def __init__(
        self, picker: Any, *, config: ServerConfig | None = None, tls: TlsFiles | None = None
    ) -> None:
        self._picker = picker
        self._config = config or ServerConfig()
        self._tls = tls
        self._server: Any = None
        self._logging: asyncio.Task[None] | None = None
        self._told_dropped = 0
        self.port = 0
        self.health_port = 0

    @property
    def failures(self) -> int:
        """Bugs of ours: streams that ended with one, and panics elsewhere."""
        return self.figures().failures

    def figures(self) -> ServerFigures:
        """What it has counted, also once it has stopped."""
        found, server = ServerFigures(failures=int(self._picker.failures)), self._server
        if server is None:
            return found
        return replace(
            found,
            failures=found.failures + server.failures,
            streams=server.streams,
            dropped_events=server.dropped_events,
            connections=tuple(
                PortFigures(port=port, open=count, limit=limit, closed=dict(closed))
                for port, count, limit, closed in server.connections()
            ),
        )

    async def start(self) -> None:
        """Listen. ``port`` is set afterwards. Raises OSError when the address is taken."""
        from inference_rollouts_native import serve

        config = self._config
        self._server = serve(
            self._picker,
            config.address,
            now=time.monotonic(),
            health_address=config.health_address,
            max_message=config.max_message,
            request_timeout=config.request_timeout,
            **({} if self._tls is None else self._tls.options),
        )
        self.port, self.health_port = self._server.port, self._server.health_port
        self._logging = asyncio.create_task(self._log_events(), name="native-events")

    async def set_ready(self, ready: bool) -> None:
        """What health says for everything but liveness."""
        self._picker.set_ready(ready)
        if self._server is not None:
            self._server.announce()

    async def drain(self) -> None:
        """Say NOT_SERVING, take no new streams, and give running ones ``drain_grace`` seconds."""
        await self.set_ready(False)
        if self._server is not None:
            await asyncio.to_thread(self._server.stop, self._config.drain_grace)
        if self._logging is not None:
            self._logging.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._logging
            self._tell()

    async def _log_events(self) -> None:
        while True:
            await asyncio.sleep(_EVENTS_EVERY)
            self._tell()

    def _tell(self) -> None:
        for event, keys in self._server.events():
            level = "info" if event in _INFORMATIVE else "error" if event in _BUGS else "warning"
            getattr(_log, level)(event, **keys)
        dropped = self._server.dropped_events
        if dropped > self._told_dropped:
            _log.warning("log_events_dropped", count=dropped - self._told_dropped)
            self._told_dropped = dropped
