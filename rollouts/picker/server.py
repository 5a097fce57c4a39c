"""The gRPC shell: one coroutine per stream between Envoy and an ``Exchange``.

Messages are handed over as raw bytes: ``wire`` reads and ``encoding`` writes them, so no generated class is built for
them. The loop of a stream holds no state of its own, and whatever goes wrong in one stays in it.

The method is registered as one that returns a single message at its end, and writes the others itself: this
is how grpc.aio sends a last message and the status in one piece. Envoy gives what it has sent to a stream
that ends for lost, so between the end of the request, which lets the pod answer, and the end of the stream
there must be no gap in which a response could come.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from rollouts.picker.core.encoding import encode
from rollouts.picker.core.messages import Outgoing
from rollouts.picker.core.ports import BufferBudget, Observer, Routing
from rollouts.picker.core.protocol import Exchange, ProtocolError
from rollouts.picker.core.wire import WireError, decode
from rollouts.picker.server_metrics import ServerFigures

__all__ = ["EXT_PROC_SERVICE", "HEALTH_NAMES", "LIVENESS", "PickerServer", "ServerConfig"]

EXT_PROC_SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
LIVENESS = "liveness"
HEALTH_NAMES = ("", "readiness", "inference-extension", EXT_PROC_SERVICE)
"""Names that probes of the various releases of the Inference Extension ask for, beside ``liveness``."""

_RESET_FOLLOWS = 0.01
"""Seconds: Envoy half-closes a stream whose client left and resets it in the same breath."""

_METHOD = f"/{EXT_PROC_SERVICE}/Process"
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """``max_message``: bytes of one gRPC message; Envoy sends at most its buffer limit, 1 MiB by default.

    ``request_timeout``: seconds in which a request body that is held back has to be complete; a client that sends
    64 MiB at 1 MiB a second makes it. ``keep_streams``: see every response to its end, for gateways that take a stream
    which ends early for a failure. ``health_address``, when given, serves gRPC health once more, without TLS, for the
    probes of a kubelet. ``variant_header``: of responses, to carry the variant; lower case.
    """

    address: str = "127.0.0.1:9002"
    health_address: str = ""
    max_message: int = 8 << 20
    drain_grace: float = 30.0
    request_timeout: float = 120.0
    keep_streams: bool = False
    variant_header: str = ""


async def _all_but_the_last(replies: Iterable[Outgoing], write: Callable[[bytes], Awaitable[None]]) -> bytes:
    """Write them; the last one, empty where there is none, is returned."""
    last = b""
    for reply in replies:
        if last:
            await write(last)
        last = encode(reply)
    return last


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    """Routes the one method, without (de)serialisers."""

    def __init__(self, process: Callable[..., Any]) -> None:
        self._handler = grpc.stream_unary_rpc_method_handler(process)

    def service(self, handler_call_details: Any) -> Any:
        return self._handler if handler_call_details.method == _METHOD else None


class PickerServer:
    """Serves ext_proc and gRPC health on one port."""

    def __init__(
        self,
        routing: Routing,
        observer: Observer,
        *,
        config: ServerConfig | None = None,
        credentials: Any = None,
        budget: BufferBudget | None = None,
    ) -> None:
        self._routing = routing
        self._observer = observer
        self._config = config or ServerConfig()
        self._credentials = credentials
        self._budget = budget or BufferBudget()
        self._variant_header = self._config.variant_header.encode()
        self._health = health.aio.HealthServicer()
        self._server: Any = None
        self._health_server: Any = None
        self.port = 0
        self.health_port = 0
        self.failures = 0
        """Streams that ended with an exception of ours: each is a bug."""
        self._streams = 0

    def figures(self) -> ServerFigures:
        """What it has counted; grpc.aio does not tell connections."""
        return ServerFigures(failures=self.failures, streams=self._streams)

    async def start(self) -> None:
        """Listen. ``port`` is set afterwards. Raises OSError when the address is taken."""
        size = self._config.max_message
        options = [
            ("grpc.max_receive_message_length", size),
            ("grpc.so_reuseport", 0),
            # The default allows a client to ping every five minutes only; Envoy's keepalive is shorter.
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ]
        server = grpc.aio.server(options=options)
        server.add_generic_rpc_handlers((_Handler(self._process),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        address = self._config.address
        try:
            if self._credentials is None:
                self.port = server.add_insecure_port(address)
            else:
                self.port = server.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}; choose another --grpc-address") from error
        await self._health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        await self.set_ready(False)
        await server.start()
        self._server = server
        if self._config.health_address:
            await self._start_health(self._config.health_address)

    async def _start_health(self, address: str) -> None:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        try:
            self.health_port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}; choose another --health-address") from error
        await server.start()
        self._health_server = server

    async def set_ready(self, ready: bool) -> None:
        """What health says for everything but liveness."""
        serving = health_pb2.HealthCheckResponse.SERVING
        status = serving if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in HEALTH_NAMES:
            await self._health.set(name, status)

    async def drain(self) -> None:
        """Say NOT_SERVING, take no new streams, and give running ones ``drain_grace`` seconds."""
        await self.set_ready(False)
        if self._server is not None:
            await self._server.stop(self._config.drain_grace)
        if self._health_server is not None:
            await self._health_server.stop(0)

    async def _process(self, _: Any, context: Any) -> bytes:
        exchange = Exchange(
            self._routing,
            self._observer,
            self._budget,
            keep=self._config.keep_streams,
            variant_header=self._variant_header,
        )
        read, write, clock, eof = context.read, context.write, time.monotonic, grpc.aio.EOF
        limit = self._config.request_timeout
        timeout = asyncio.timeout(limit)
        self._streams += 1
        try:
            async with timeout:
                while (data := await read()) is not eof:
                    message = decode(data)
                    del data  # while the next one is waited for, nothing is held but what the exchange counts
                    if message is None:
                        continue
                    replies = exchange.receive(message, clock())
                    del message
                    if not exchange.waiting:
                        timeout.reschedule(None)
                    last = await _all_but_the_last(replies, write)
                    if exchange.closing:
                        return last
                    if last:
                        await write(last)
                    del replies, last
                # The other side half-closed first: one reply, or none. Without one grpc.aio sends an empty message
                # along with the status, which changes nothing.
                if exchange.expects_response:
                    await asyncio.sleep(_RESET_FOLLOWS)
                return b"".join(encode(reply) for reply in exchange.half_closed(clock()))
        except TimeoutError:
            _log.info("request_timed_out", state=exchange.state.name, seconds=limit)
            return b"".join(encode(reply) for reply in exchange.expire(limit))  # one reply, or none
        except (WireError, ProtocolError) as error:
            _log.warning("stream_refused", state=exchange.state.name, error=str(error)[:300])
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error)[:300])
        except (asyncio.CancelledError, grpc.aio.BaseError):
            raise  # the client left
        except Exception:
            self.failures += 1
            _log.exception("stream_failed", state=exchange.state.name)
            await context.abort(grpc.StatusCode.INTERNAL, "the endpoint picker failed; see its log")
        finally:
            self._streams -= 1
            exchange.disconnect(clock())
        return b""  # not reached: abort raises
