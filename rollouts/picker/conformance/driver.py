"""Sends the messages of a case over one gRPC connection and collects the replies, as Envoy would."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Mapping
from typing import Any

import grpc
import grpc.aio
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

__all__ = ["ExtProcStream", "Failure"]

_CHUNK = 65_536
_MARK = "${MODEL}"  # becomes a JSON string
_NAME = "${NAME}"  # becomes the name as it is


class Failure(AssertionError):
    """The picker does not do what the case wants. The message says what it did."""


class ExtProcStream:
    """One case at one picker. ``timeout``: for a reply; ``silence``: how long no reply counts as none."""

    def __init__(self, channel: Any, model: str, *, timeout: float = 5.0, silence: float = 0.15) -> None:
        self._channel = channel
        self._stub = external_processor_pb2_grpc.ExternalProcessorStub(channel)
        self._model = model
        self._timeout = timeout
        self._silence = silence
        self._stream: Any = None
        self._reading: asyncio.Task[Any] | None = None
        self.sent = b""
        """The request body so far."""
        self.spans: list[tuple[int, int]] = []
        """Where in it the model value was put."""
        self._returned: Any = None
        self._subset: Any = None  # Envoy forwards dynamic metadata with every message of the stream

    async def close(self) -> None:
        """End the stream, if there is one."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            self._reading = None
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None
        self.sent, self.spans, self._subset, self._returned = b"", [], None, None

    async def send(self, what: Mapping[str, Any]) -> None:
        """One message of a case; a body is cut into chunks as Envoy does. Nothing once the picker left."""
        if self._stream is None:
            self._stream = self._stub.Process()
        self._subset = what.get("headers", {}).get("subset", self._subset)
        for message in self._messages(what):
            if self._subset is not None:
                hint = message.metadata_context.filter_metadata["envoy.lb.subset_hint"]
                hint.update({"x-gateway-destination-endpoint-subset": self._subset})
            if self._stream.done():
                return
            try:
                await self._stream.write(message)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return  # what the picker said, or did not say, is for the next step to judge

    def _messages(self, what: Mapping[str, Any]) -> list[Any]:
        if "headers" in what:
            return [_request_headers(what["headers"])]
        if "body" in what:
            return self._body(what)
        message = ext_proc.ProcessingRequest()
        if "trailers" in what:
            message.request_trailers.trailers.headers.add(key="x-checksum", raw_value=b"1")
        elif "response_trailers" in what:
            message.response_trailers.trailers.headers.add(key="x-checksum", raw_value=b"1")
        elif "response_body" in what:
            message.response_body.body = what["response_body"].encode()
            message.response_body.end_of_stream = what.get("end", False)
        else:
            message.response_headers.headers.headers.add(key=":status", raw_value=b"200")
            for name, value in what["response_headers"].items():
                message.response_headers.headers.headers.add(key=name, raw_value=value.encode())
        return [message]

    def _body(self, what: Mapping[str, Any]) -> list[Any]:
        text, charset = what["body"], what.get("charset", "utf-8")
        mark, value = (_NAME, self._model) if _NAME in text else (_MARK, json.dumps(self._model))
        before, found, after = text.partition(mark)
        data = before.encode(charset)
        if found:
            start = len(self.sent) + len(data)
            self.spans.append((start, start + len(value.encode())))
            data = (before + value + after).encode(charset)
        data += b"x" * what.get("fill", 0) + what.get("tail", "").encode()
        if what.get("gzip"):
            data = gzip.compress(data)
        self.sent += data
        messages = []
        for at in range(0, max(1, len(data)), _CHUNK):
            message = ext_proc.ProcessingRequest()
            message.request_body.body = data[at : at + _CHUNK]
            message.request_body.end_of_stream = what.get("end", False) and at + _CHUNK >= len(data)
            messages.append(message)
        return messages

    def give_back(self, reply: Any) -> None:
        """The reply was looked at only: it comes again."""
        self._returned = reply

    async def reply(self) -> Any:
        """The next reply; None when the picker has ended the stream cleanly. Raises Failure."""
        if self._returned is not None:
            reply, self._returned = self._returned, None
            return reply
        try:
            reply = await self._next(self._timeout)
        except TimeoutError:
            raise Failure(f"no reply within {self._timeout:g} s") from None
        except grpc.aio.AioRpcError as error:
            raise Failure(f"the stream ended with {error.code().name}: {error.details()}") from None
        return None if reply is grpc.aio.EOF else reply

    async def silent(self) -> None:
        """Raises Failure when a reply comes, or the stream ends with an error."""
        try:
            reply = await self._next(self._silence)
        except TimeoutError:
            return
        except grpc.aio.AioRpcError as error:
            raise Failure(f"the stream ended with {error.code().name}: {error.details()}") from None
        if reply is not grpc.aio.EOF:
            raise Failure(f"a reply that nothing asked for: {reply.WhichOneof('response')}")

    async def _next(self, seconds: float) -> Any:
        """The read goes on in the background when the time is up, for a read cannot be taken back."""
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._stream.read())
        done, _ = await asyncio.wait((self._reading,), timeout=seconds)
        if not done:
            raise TimeoutError
        reading, self._reading = self._reading, None
        reply = reading.result()
        if reply is grpc.aio.EOF and await self._stream.code() is not grpc.StatusCode.OK:
            code, details = await self._stream.code(), await self._stream.details()
            raise Failure(f"the stream ended with {code.name}: {details}")
        return reply

    async def health(self, names: list[str]) -> None:
        """Raises Failure unless every name is SERVING."""
        stub = health_pb2_grpc.HealthStub(self._channel)
        for name in names:
            try:
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=self._timeout)
            except grpc.aio.AioRpcError as error:
                raise Failure(f"health of {name!r}: {error.code().name}") from None
            if answer.status != health_pb2.HealthCheckResponse.SERVING:
                raise Failure(f"health of {name!r} is {answer.status}")


def _request_headers(what: Mapping[str, Any]) -> Any:
    message = ext_proc.ProcessingRequest()
    method = what.get("method", "POST")
    values = {
        ":method": method,
        ":path": what.get("path", "/v1/chat/completions"),
        ":authority": "llm.example.com",
        ":scheme": "http",
        "x-request-id": "4b6c4f4e-7c0a-4c39-9f3c-2f6a3a7a0001",
    }
    if method == "POST":
        values["content-type"] = "application/json"
    values |= what.get("more", {})
    for name, value in values.items():
        message.request_headers.headers.headers.add(key=name, raw_value=value.encode())
    message.request_headers.end_of_stream = what.get("end", False)
    return message
