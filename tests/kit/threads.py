"""The in-memory API server in a thread, for commands that run an event loop of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

from rollouts.lab.memoryapi.server import MemoryApiServer
from rollouts.lab.memoryapi.store import MemoryApi

__all__ = ["ApiInThread"]


class ApiInThread:
    """Use as a context manager, which gives the server's URL."""

    def __init__(self, api: MemoryApi) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server = MemoryApiServer(api)

    def __enter__(self) -> str:
        self._thread.start()
        self._run(self._server.start())
        return self._server.url

    def __exit__(self, *_: object) -> None:
        self._run(self._server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)
