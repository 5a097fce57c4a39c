"""A pod that answers over TLS, and only to whoever has its key."""

from __future__ import annotations

import ssl
from pathlib import Path

from aiohttp import web

from rollouts.picker.credentials import self_signed_pair

__all__ = ["PAGE", "GuardedPods"]

PAGE = "vllm:num_requests_waiting 3\n"


class GuardedPods:
    """``start`` pods, then ``stop`` them. Their certificates are for ``vllm.example``, authority ``ca.pem``."""

    def __init__(self, folder: Path) -> None:
        self.ca = folder / "ca.pem"
        self.keys: list[str | None] = []
        """What each request carried as Authorization, in turn."""
        self._private = folder / "key.pem"
        self._runners: list[web.AppRunner] = []

    async def start(self, *, tls: bool = True, key: str = "", metrics_too: bool = False) -> str:
        """Host and port of a pod that asks for ``key`` on its API and, ``metrics_too``, on its page."""

        async def answer(request: web.Request) -> web.Response:
            sent, metrics = request.headers.get("authorization"), request.path == "/metrics"
            self.keys.append(sent)
            if key and sent != f"Bearer {key}" and (metrics_too or not metrics):
                return web.json_response({"error": "Unauthorized"}, status=401)
            return web.Response(text=PAGE if metrics else '{"data":[{"id":"v1","parent":"m"}]}')

        app = web.Application()
        app.router.add_get("/{tail:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        self._runners.append(runner)
        # The address is not a name of the certificate, as a pod's never is.
        site = web.TCPSite(runner, "127.0.0.2", 0, ssl_context=self._context() if tls else None)
        await site.start()
        return f"127.0.0.2:{runner.addresses[0][1]}"

    def _context(self) -> ssl.SSLContext:
        private, certificate = self_signed_pair("vllm.example")
        self.ca.write_bytes(certificate)
        self._private.write_bytes(private)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca, self._private)
        return context

    async def stop(self) -> None:
        """End all of them."""
        for runner in self._runners:
            await runner.cleanup()
