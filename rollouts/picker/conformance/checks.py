"""Judges the replies of one case."""

from __future__ import annotations

import gzip
import ipaddress
import json
from collections.abc import Mapping
from typing import Any

from rollouts.picker.conformance.cases import Case
from rollouts.picker.conformance.driver import ExtProcStream, Failure

__all__ = ["judge"]

_DESTINATION = "x-gateway-destination-endpoint"
_MAX_PIECE = 65_536


async def judge(case: Case, session: ExtProcStream) -> None:
    """Run a case to its end. Raises Failure at the first thing that is wrong."""
    try:
        for kind, argument in case.steps:
            if kind == "send":
                await session.send(argument)
            elif kind == "silent":
                await session.silent()
            elif kind == "reset":
                await session.close()
            elif kind == "health":
                await session.health(argument)
            elif not await _want(argument, session):
                return  # the picker left: it needs no more of this exchange
    finally:
        await session.close()


async def _want(want: Mapping[str, Any], session: ExtProcStream) -> bool:
    """Whether the exchange goes on."""
    ((kind, argument),) = want.items()
    if kind == "nothing":
        await session.silent()
        return True
    if kind == "request":
        await _request(session, **argument)
        return True
    reply = await session.reply()
    if kind == "either":
        return await _either(reply, session, **argument)
    if kind == "refusal":
        _expect(reply, "immediate_response")
        if reply.immediate_response.status.code != argument:
            raise Failure(f"refused with {reply.immediate_response.status.code}, not {argument}")
        return False
    if reply is None:
        return False
    if kind == "response_body":
        await _response_body(reply, argument.encode(), session)
    elif kind == "response_trailers":
        await _response_trailers(reply, argument.encode(), session)
    else:
        _expect(reply, kind)
    return True


async def _either(
    reply: Any, session: ExtProcStream, *, refusal: list[int], request: Mapping[str, Any]
) -> bool:
    """A refusal with one of the codes, or a request: both make sense, nothing else does."""
    if reply is not None and reply.HasField("immediate_response"):
        code = reply.immediate_response.status.code
        if code not in refusal:
            raise Failure(
                f"refused with {code}, not one of {refusal}: {reply.immediate_response.body!r:.120}"
            )
        return False
    session.give_back(reply)
    await _request(session, **request)
    return True


def _expect(reply: Any, kind: str) -> None:
    got = "the end of the stream" if reply is None else reply.WhichOneof("response")
    if got == "immediate_response" != kind:
        got = f"a refusal with {reply.immediate_response.status.code}: {reply.immediate_response.body!r:.120}"
    if got != kind:
        raise Failure(f"got {got}, not {kind}")


async def _request(
    session: ExtProcStream, *, body: bool = True, trailers: bool = False, like: str = "json"
) -> None:
    head = await session.reply()
    _expect(head, "request_headers")
    headers = _headers_of(head.request_headers.response.header_mutation)
    _check_destination(headers.get(_DESTINATION, ""), head)
    if not body:
        return
    got = await _collect(session, trailers=trailers)
    _CHECKS[like](got, session)
    length = headers.get("content-length")
    if length is not None and int(length) != len(got):
        raise Failure(f"content-length {length} for a body of {len(got)} bytes")


def _headers_of(mutation: Any) -> dict[str, str]:
    return {
        option.header.key.lower(): option.header.value or option.header.raw_value.decode("latin-1")
        for option in mutation.set_headers
    }


def _check_destination(value: str, reply: Any) -> None:
    if not value:
        raise Failure(f"no header {_DESTINATION}")
    for address in value.split(","):
        host, _, port = address.strip().rpartition(":")
        try:
            ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
            int(port)
        except ValueError:
            raise Failure(f"{address!r} is not IP:port") from None
        if ":" in host and not host.startswith("["):
            raise Failure(f"the IPv6 address {address!r} has no brackets")
    fields = reply.dynamic_metadata.fields
    inner = fields["envoy.lb"].struct_value.fields if "envoy.lb" in fields else {}
    metadata = inner[_DESTINATION].string_value if _DESTINATION in inner else None
    if metadata != value:
        raise Failure(f"the header says {value!r} and the dynamic metadata {metadata!r}")


async def _collect(session: ExtProcStream, *, trailers: bool) -> bytes:
    """The body in pieces, up to the one that ends it or to the reply to its trailers."""
    whole = b""
    while True:
        reply = await session.reply()
        if trailers and reply is not None and reply.WhichOneof("response") == "request_trailers":
            return whole
        _expect(reply, "request_body")
        mutation = reply.request_body.response.body_mutation
        if not mutation.HasField("streamed_response"):
            raise Failure("a reply to a body chunk that streams nothing, which Envoy takes for spurious")
        piece = mutation.streamed_response
        if len(piece.body) > _MAX_PIECE:
            raise Failure(f"a piece of {len(piece.body)} bytes")
        whole += bytes(piece.body)
        if piece.end_of_stream:
            if trailers:
                raise Failure("the body ends before its trailers")
            return whole


def _check_json(got: bytes, session: ExtProcStream) -> None:
    """The body says what was sent, but for the model."""
    try:
        value, sent = json.loads(got), json.loads(session.sent)
    except ValueError:
        raise Failure(f"the body is not the JSON that was sent: {got[:100]!r}") from None
    if not isinstance(value, dict) or not isinstance(value.get("model"), str):
        raise Failure(f"the body has no model: {got[:100]!r}")
    if {**value, "model": ""} != {**sent, "model": ""}:
        raise Failure(f"more than the model changed: {got[:100]!r}")


def _check_same(got: bytes, session: ExtProcStream) -> None:
    """Nothing changed, or nothing but that a coding was undone."""
    sent = session.sent
    if got != sent and not (
        sent.startswith(b"\x1f\x8b") and _without_model(got) == _without_model(gzip.decompress(sent))
    ):
        raise Failure(f"the body changed: {got[:100]!r}")


def _without_model(body: bytes) -> Any:
    try:
        return {**json.loads(body), "model": ""}
    except ValueError:
        raise Failure(f"the body is not the JSON that was sent: {body[:100]!r}") from None


def _check_form(got: bytes, session: ExtProcStream) -> None:
    """All bytes but those of the field are as they were sent."""
    _between(got, session)


def _check_bytes(got: bytes, session: ExtProcStream) -> None:
    """All bytes but the model value are as they were sent, and the value is a JSON string."""
    value = _between(got, session)
    try:
        model = json.loads(value)
    except ValueError:
        model = None
    if not isinstance(model, str):
        raise Failure(f"the model became {value[:100]!r}")


def _between(got: bytes, session: ExtProcStream) -> bytes:
    """What stands in place of the model. Raises Failure when anything else changed."""
    ((start, end),) = session.spans
    before, after = session.sent[:start], session.sent[end:]
    if not got.startswith(before) or not got.endswith(after) or len(got) < len(before) + len(after):
        raise Failure(f"more than the model changed: {got[:100]!r}")
    return got[len(before) : len(got) - len(after)]


_CHECKS = {"json": _check_json, "bytes": _check_bytes, "form": _check_form, "same": _check_same}


async def _response_body(reply: Any, want: bytes, session: ExtProcStream) -> None:
    _expect(reply, "response_body")
    whole = b""
    while True:
        piece = reply.response_body.response.body_mutation.streamed_response
        whole += piece.body
        if piece.end_of_stream:
            break
        reply = await session.reply()
        _expect(reply, "response_body")
    if whole != want:
        raise Failure(f"the response changed: {whole[:100]!r}")


async def _response_trailers(reply: Any, want: bytes, session: ExtProcStream) -> None:
    """The rest of the body, which may have been held back until now, then the trailers."""
    whole = b""
    while reply is not None and reply.WhichOneof("response") == "response_body":
        piece = reply.response_body.response.body_mutation.streamed_response
        if piece.end_of_stream:
            raise Failure("the response body ends before its trailers")
        whole += piece.body
        reply = await session.reply()
    _expect(reply, "response_trailers")
    if whole != want:
        raise Failure(f"the response changed: {whole[:100]!r}")
