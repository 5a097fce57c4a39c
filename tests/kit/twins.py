"""The native data path under the names of Python's, so that the tests of one run on both (PEP 399).

A module of tests names in ``BOTH`` what it is to get from here on the native path, and uses the fixture ``data_path``
of tests/unit/picker.
"""

from __future__ import annotations

from typing import Any

import inference_rollouts_native
from envoy.config.core.v3 import base_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from rollouts.picker.core.endpoints import Endpoint, Subset
from rollouts.picker.core.measure import Ending, ObservedResponse
from rollouts.picker.core.messages import (
    BodyReply,
    BufferedReply,
    HeadersReply,
    ImmediateReply,
    Incoming,
    Outgoing,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    Side,
    TrailersReply,
)
from rollouts.picker.core.ports import BufferBudget, Observer
from rollouts.picker.core.ports import Routing as RoutingPort
from rollouts.picker.core.protocol import ProtocolError, State
from rollouts.picker.core.routing import Decision, Refusal, Request, Unread, Unready
from rollouts.picker.core.schedule import Scheduler
from rollouts.picker.native import MirrorRouter, native_picker
from tests.kit.byte_twins import BodyScanner, NameRestorer, ResponseMeter, encoding, splice, wire

__all__ = [
    "BodyScanner",
    "Exchange",
    "NameRestorer",
    "ResponseMeter",
    "Router",
    "encoded",
    "encoding",
    "splice",
    "wire",
]


class Router(MirrorRouter):
    """Made as Python's is; it routes, too."""

    def __init__(
        self, _: Scheduler, *, unready: Unready = Unready.SPILL, restore_model: bool = False
    ) -> None:
        self.native = native_picker(
            unready=unready,
            restore_model=restore_model,
            budget=BufferBudget(),
            keep_streams=False,
            variant_header="",
        )
        super().__init__(self.native)

    def route(self, request: Request, now: float) -> Decision | Refusal:
        """See ``Router``."""
        fields = self.native.route(request, now)
        if isinstance(fields[0], int):
            return Refusal(*fields)
        model, target, address, *rest = fields
        endpoint = next(found for found in self.scheduler.endpoints() if found.address == address)
        return Decision(model, target, endpoint, *rest)


_BUDGETS: list[tuple[BufferBudget, Any]] = []
"""The budgets of Python that exchanges of one test share, with the native ones that stand for them."""


def _budget(budget: BufferBudget) -> Any:
    for known, native in _BUDGETS:
        if known is budget:
            return native
    native = inference_rollouts_native.Budget(body_limit=budget.body_limit, total_limit=budget.total_limit)
    _BUDGETS[:] = [*_BUDGETS[-9:], (budget, native)]
    return native


class Exchange:
    """See ``rollouts.picker.core.protocol.Exchange``; messages go through their bytes."""

    def __init__(
        self,
        routing: RoutingPort,
        observer: Observer,
        budget: BufferBudget,
        *,
        keep: bool = False,
        variant_header: bytes = b"",
    ) -> None:
        self._routing, self._observer, self._budget = routing, observer, budget
        self._held = _budget(budget)
        self._endpoints: dict[str, Endpoint] = {}
        self._exchange = inference_rollouts_native.Exchange(
            routing.native if isinstance(routing, Router) else self._route,
            self._held,
            body_fields=sorted(routing.body_fields),
            keep=keep,
            variant_header=variant_header,
        )

    def _route(
        self,
        headers: dict[bytes, bytes],
        model: str,
        fields: list[tuple[str, str]],
        prompt: bytes,
        subset: tuple[list[tuple[str, int]], list[str]] | None,
        has_body: bool,
        unread: tuple[tuple[Any, ...], bool] | None,
        now: float,
    ) -> Decision | Refusal:
        allowed = None if subset is None else Subset(frozenset(subset[0]), frozenset(subset[1]))
        why = None if unread is None else Unread(Refusal(*unread[0]), unread[1])
        outcome = self._routing.route(
            Request(headers, model, dict(fields), prompt, allowed, has_body, why), now
        )
        if isinstance(outcome, Decision):
            self._endpoints[outcome.endpoint.address] = outcome.endpoint
        return outcome

    def receive(self, message: Incoming, now: float) -> list[Outgoing]:
        """See ``Exchange``."""
        try:
            replies = self._exchange.receive(encoded(message), now)
        except ValueError as error:
            raise ProtocolError(str(error)) from None
        return self._tell(replies)

    def half_closed(self, now: float) -> list[Outgoing]:
        """See ``Exchange``."""
        return self._tell(self._exchange.half_closed(now))

    def expire(self, seconds: float) -> list[Outgoing]:
        """See ``Exchange``."""
        return self._tell(self._exchange.expire(seconds))

    def disconnect(self, now: float) -> None:
        """See ``Exchange``."""
        self._exchange.disconnect(now)
        self._tell([])

    @property
    def closing(self) -> bool:
        """See ``Exchange``."""
        return bool(self._exchange.closing)

    @property
    def waiting(self) -> bool:
        """See ``Exchange``."""
        return bool(self._exchange.waiting)

    @property
    def expects_response(self) -> bool:
        """See ``Exchange``."""
        return bool(self._exchange.expects_response)

    @property
    def state(self) -> State:
        """See ``Exchange``."""
        return State[self._exchange.state]

    def _tell(self, replies: list[bytes]) -> list[Outgoing]:
        self._budget.used = self._held.used
        for word, *fields in self._exchange.told():
            if word == "refused":
                self._observer.refused(Refusal(*fields[0]))
            elif word == "dispatched":
                self._observer.dispatched(self._decision(fields[0]))
            else:
                ending, *figures = fields[1]
                response = dict(zip(_FIGURES, figures, strict=True))
                measured = ObservedResponse(ending=Ending[ending], **response)
                self._observer.measured(self._decision(fields[0]), measured)
        return [_decoded(reply) for reply in replies]

    def _decision(self, fields: tuple[Any, ...]) -> Decision:
        model, target, address, *rest = fields
        if isinstance(self._routing, Router):
            self._endpoints = {found.address: found for found in self._routing.scheduler.endpoints()}
        return Decision(model, target, self._endpoints[address], *rest)


_FIGURES = ("status", "e2e", "ttft", "time_per_output_token", "prompt_tokens", "completion_tokens")


def encoded(message: Incoming) -> bytes:
    """The ``ProcessingRequest`` of a message, as Envoy writes it."""
    found = ext_proc.ProcessingRequest()
    metadata = getattr(message, "metadata", b"")
    if metadata:
        found.metadata_context.CopyFrom(base_pb2.Metadata.FromString(metadata))
    if isinstance(message, RequestHeaders | ResponseHeaders):
        part = found.request_headers if isinstance(message, RequestHeaders) else found.response_headers
        part.SetInParent()
        part.end_of_stream = message.end_of_stream
        for name, value in message.headers.items():
            part.headers.headers.add(key=name.decode(), raw_value=value)
        modes = message.protocol
        found.protocol_config.request_body_mode = int(modes.request_body)
        found.protocol_config.response_body_mode = int(modes.response_body)
    elif isinstance(message, RequestBody | ResponseBody):
        body = found.request_body if isinstance(message, RequestBody) else found.response_body
        body.SetInParent()
        body.body, body.end_of_stream = message.body, message.end_of_stream
    else:
        trailers = isinstance(message, RequestTrailers)
        (found.request_trailers if trailers else found.response_trailers).SetInParent()
    whole: bytes = found.SerializeToString()
    return whole


def _decoded(reply: bytes) -> Outgoing:
    message = ext_proc.ProcessingResponse.FromString(reply)
    kind = message.WhichOneof("response")
    part = getattr(message, kind)
    if kind == "immediate_response":
        return ImmediateReply(part.status.code, _bytes(part.body), _bytes(part.details), _set(part.headers))
    side = Side.REQUEST if kind.startswith("request") else Side.RESPONSE
    if kind.endswith("trailers"):
        return TrailersReply(side)
    common = part.response
    fields = message.dynamic_metadata.fields
    endpoint = b""
    if "envoy.lb" in fields:
        inner = fields["envoy.lb"].struct_value.fields["x-gateway-destination-endpoint"]
        endpoint = inner.string_value.encode()
    removed = tuple(name.encode() for name in common.header_mutation.remove_headers)
    routed = (_set(common.header_mutation), removed, common.clear_route_cache, endpoint)
    if kind.endswith("headers"):
        return HeadersReply(side, *routed)
    mutation = common.body_mutation.WhichOneof("mutation")
    if mutation == "streamed_response":
        streamed = common.body_mutation.streamed_response
        return BodyReply(side, streamed.body, streamed.end_of_stream)
    return BufferedReply(side, common.body_mutation.body if mutation == "body" else None, *routed)


def _bytes(value: bytes | str) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _set(mutation: Any) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((option.header.key.encode(), option.header.raw_value) for option in mutation.set_headers)
