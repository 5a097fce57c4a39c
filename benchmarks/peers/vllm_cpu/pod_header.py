"""Middleware that vLLM loads (``--middleware``): which pod answered, as a header. Imports nothing but Python's own."""

from __future__ import annotations

import os
from typing import Any

__all__ = ["PodHeader"]


class PodHeader:
    """ASGI middleware; the pod's name comes from the environment."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._header = (b"x-inference-pod", os.environ["POD_NAME"].encode())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""

        async def named(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), self._header]}
            await send(message)

        await self._app(scope, receive, named)
