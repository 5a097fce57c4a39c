"""Gateways that do not speak to pickers as Envoy does, played by a process between Envoy and the picker.

- NGINX Gateway Fabric: its shim asks for a destination with the headers and the body in one piece, half-closes the
  stream and takes nothing but the destination from the answer; the body goes on as the client sent it.
- agentgateway (its issue 3436): a picker that ends the stream before the response is seen has failed; the request is
  answered 500.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc as ext_proc_grpc
from envoy.type.v3 import http_status_pb2

from rollouts.lab.gateway.model import Cluster, GatewayConfig, LbEndpoint, PickerBackend

__all__ = ["PickerShims", "SpeakAs", "agentgateway", "nginx"]

_HOST = "127.0.0.1"
_PIECE = 64 * 1024
"""Bytes in a message of a body that is given back to Envoy: its own size."""

Requests = AsyncIterator[ext_proc.ProcessingRequest]
SpeakAs = Callable[
    [ext_proc_grpc.ExternalProcessorStub, Requests], AsyncIterator[ext_proc.ProcessingResponse]
]
"""From the gateway's messages to its answers, with a picker at hand."""


async def nginx(
    picker: ext_proc_grpc.ExternalProcessorStub, requests: Requests
) -> AsyncIterator[ext_proc.ProcessingResponse]:
    """Ask for a destination alone. What the picker would change in the body is lost."""
    head, body = await _whole(requests)
    if head is None:
        return
    stream = picker.Process()
    for message in _asked(head, body):
        await stream.write(message)
    await stream.done_writing()
    async for reply in stream:
        if reply.WhichOneof("response") != "request_headers":
            yield reply  # an immediate response: Envoy ends the request
            return
        yield _destination_only(reply)
        break
    stream.cancel()
    pieces = [body[start : start + _PIECE] for start in range(0, len(body), _PIECE)]
    for index, piece in enumerate(pieces):
        yield _body(piece, last=index == len(pieces) - 1)


async def _whole(requests: Requests) -> tuple[ext_proc.ProcessingRequest | None, bytes]:
    head, body = None, bytearray()
    async for message in requests:
        kind = message.WhichOneof("request")
        if kind == "request_headers":
            head = message
            if message.request_headers.end_of_stream:
                break
        elif kind == "request_body":
            body += message.request_body.body
            if message.request_body.end_of_stream:
                break
        else:
            break  # trailers
    return head, bytes(body)


def _asked(head: ext_proc.ProcessingRequest, body: bytes) -> Iterable[ext_proc.ProcessingRequest]:
    """As Go spells headers, and without pseudo headers: the shim is no proxy."""
    asked = ext_proc.ProcessingRequest()
    asked.request_headers.end_of_stream = not body
    for header in head.request_headers.headers.headers:
        if not header.key.startswith(":"):
            value = header.value or header.raw_value.decode("utf-8", "replace")
            asked.request_headers.headers.headers.add(key=header.key.title(), value=value)
    yield asked
    if body:
        tail = ext_proc.ProcessingRequest()
        tail.request_body.body, tail.request_body.end_of_stream = body, True
        yield tail


def _destination_only(reply: ext_proc.ProcessingResponse) -> ext_proc.ProcessingResponse:
    kept = ext_proc.ProcessingResponse()
    response = kept.request_headers.response
    response.clear_route_cache = True
    for option in reply.request_headers.response.header_mutation.set_headers:
        if option.header.key.lower() == "x-gateway-destination-endpoint":
            response.header_mutation.set_headers.append(option)
    return kept


def _body(piece: bytes, *, last: bool) -> ext_proc.ProcessingResponse:
    message = ext_proc.ProcessingResponse()
    streamed = message.request_body.response.body_mutation.streamed_response
    streamed.body, streamed.end_of_stream = piece, last
    return message


async def agentgateway(
    picker: ext_proc_grpc.ExternalProcessorStub, requests: Requests
) -> AsyncIterator[ext_proc.ProcessingResponse]:
    """Pass everything on, and take an end before the response's for a failure."""
    stream, seen = picker.Process(), _Seen()
    sending = asyncio.create_task(_send(stream, requests, seen))
    try:
        async for reply in stream:
            yield reply
        if not seen.response:
            yield ext_proc.ProcessingResponse(
                immediate_response=ext_proc.ImmediateResponse(
                    status=http_status_pb2.HttpStatus(code=http_status_pb2.InternalServerError)
                )
            )
    finally:
        sending.cancel()
        stream.cancel()


@dataclass(slots=True)
class _Seen:
    response: bool = False


async def _send(stream: Any, requests: Requests, seen: _Seen) -> None:
    async for message in requests:
        if (message.WhichOneof("request") or "").startswith("response"):
            seen.response = True
        await stream.write(message)
    await stream.done_writing()


class _Shim(ext_proc_grpc.ExternalProcessorServicer):  # type: ignore[misc]  # untyped base class
    """One picker, as the gateway speaks to it. ``endpoints`` may change; they take turns."""

    def __init__(self, speak: SpeakAs) -> None:
        self._speak = speak
        self._turn = itertools.count()
        self._channels: dict[LbEndpoint, Any] = {}
        self.endpoints: tuple[LbEndpoint, ...] = ()

    async def Process(  # the name is given by the protocol
        self, requests: Requests, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[ext_proc.ProcessingResponse]:
        if not self.endpoints:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no picker")
        endpoint = self.endpoints[next(self._turn) % len(self.endpoints)]
        if endpoint not in self._channels:
            self._channels[endpoint] = grpc.aio.insecure_channel(f"{endpoint.address}:{endpoint.port}")
        stub = ext_proc_grpc.ExternalProcessorStub(self._channels[endpoint])
        try:
            async for reply in self._speak(stub, requests):
                yield reply
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details())

    async def close(self) -> None:
        """Close the connections to the picker."""
        for channel in self._channels.values():
            await channel.close()


@dataclass(slots=True)
class PickerShims:
    """Puts a shim before every picker of a plan. Without ``speak`` plans stay as they are."""

    speak: SpeakAs | None
    _running: dict[str, tuple[_Shim, Any, LbEndpoint]] = field(default_factory=dict)

    async def before(self, plan: GatewayConfig) -> GatewayConfig:
        """The plan with a shim's address in place of each picker's."""
        if self.speak is None:
            return plan
        pickers = {one.picker.name: one.picker for one in plan.clusters if one.picker is not None}
        for name, picker in pickers.items():
            await self._follow(name, picker, self.speak)
        return replace(plan, clusters=tuple(self._led(cluster) for cluster in plan.clusters))

    async def _follow(self, name: str, picker: PickerBackend, speak: SpeakAs) -> None:
        if name not in self._running:
            shim, server = _Shim(speak), grpc.aio.server()
            ext_proc_grpc.add_ExternalProcessorServicer_to_server(shim, server)
            port = server.add_insecure_port(f"{_HOST}:0")
            await server.start()
            self._running[name] = (shim, server, LbEndpoint(address=_HOST, port=port))
        self._running[name][0].endpoints = picker.endpoints

    def _led(self, cluster: Cluster) -> Cluster:
        if cluster.picker is None or not cluster.picker.endpoints:
            return cluster
        return replace(
            cluster, picker=replace(cluster.picker, endpoints=(self._running[cluster.picker.name][2],))
        )

    async def stop(self) -> None:
        """End all of them."""
        for shim, server, _ in self._running.values():
            await server.stop(grace=0)
            await shim.close()
        self._running = {}
