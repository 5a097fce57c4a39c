"""One ext_proc stream as a state machine: a message comes in, messages go out. No I/O, no clock.

The rules, from Envoy's ``external_processor.proto`` and proposal 004 of the Gateway API Inference Extension
(the endpoint-picker protocol):

- In full-duplex mode nothing is answered until the request body has ended; then the headers, then the body.
- The end of a body comes with a chunk, or with the trailers. Envoy may repeat the last chunk
  (envoyproxy/envoy#46237): whatever comes after the end is not answered.
- A request without a body is answered at its headers.
- A stream may begin with, or jump to, the response: some other filter answered in the pod's place.
- Ending the stream cleanly means "go on without me". This is how a response that nobody measures is left,
  for full-duplex mode cannot be switched off half-way.
"""

from __future__ import annotations

import functools
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import Any, NamedTuple

from rollouts.picker.core.body import BodyScanner
from rollouts.picker.core.endpoints import SUBSET_KEY, SUBSET_NAMESPACE, parse_subset
from rollouts.picker.core.held import HeldBody
from rollouts.picker.core.measure import Ending, ResponseMeter
from rollouts.picker.core.members import BodyError, Field, Kind
from rollouts.picker.core.messages import (
    BodyMode,
    BodyReply,
    BufferedReply,
    Headers,
    HeadersReply,
    Incoming,
    Outgoing,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
    Side,
    TrailersReply,
)
from rollouts.picker.core.messages import Protocol as Modes
from rollouts.picker.core.ports import BufferBudget, Observer, Routing
from rollouts.picker.core.prefix import MAX_PREFIX
from rollouts.picker.core.refusals import bad_request, immediate, too_large, too_slow
from rollouts.picker.core.restore import NameRestorer
from rollouts.picker.core.routing import PROMPTS, Decision, Refusal, Request
from rollouts.picker.core.splicing import splice
from rollouts.picker.core.wire import metadata_value

__all__ = [
    "DESTINATION",
    "TRANSITIONS",
    "Exchange",
    "ProtocolError",
    "State",
]

DESTINATION = b"x-gateway-destination-endpoint"

# What only the picker may say, and what was meant for the picker alone.
_STRIPPED = frozenset((
    b"x-gateway-destination-endpoint-served",
    b"x-gateway-destination-endpoint-subset",
    b"x-gateway-inference-objective",
    b"x-gateway-inference-fairness-id",
    b"x-gateway-model-name-rewrite",
))  # fmt: skip


_MAX_LAST, _TAIL = 16_384, 512
"""The end of a request that is left goes out with the end of the stream. Envoy reads both at once when they
are short: beyond one HTTP/2 frame a short tail is cut off for that."""


class ProtocolError(Exception):
    """Envoy sent a message that has no place in this state: the stream is ended with an error."""


class State(Enum):
    """Where the exchange is."""

    __hash__ = object.__hash__  # in C; the one of Enum costs a Python call per message

    START = "nothing received"
    REQUEST_BODY = "collecting the request body"
    UNBUFFERED = "request answered at its headers, its body passes by"
    ANSWERED = "request answered, waiting for the response"
    RESPONDING = "response passes by"
    DONE = "nothing left to say"


_INCOMPLETE = (State.START, State.REQUEST_BODY)


class _Answer(NamedTuple):
    """A decision with what it does to the request."""

    decision: Decision
    field: Field | None  # the model value to replace


class _Routed(NamedTuple):
    """The part of a reply that routes the request, in the order of ``HeadersReply`` and ``BufferedReply``."""

    set_headers: tuple[tuple[bytes, bytes], ...]
    remove_headers: tuple[bytes, ...]
    clear_route_cache: bool
    endpoint: bytes


@functools.lru_cache(maxsize=1024)
def _json(name: str) -> bytes:
    """A name as it stands in the body. Cached: a split has a handful of targets."""
    return json.dumps(name, ensure_ascii=False).encode("utf-8", "replace")


class Exchange:
    """The life of one HTTP request. ``receive`` gives the replies; ``closing``: end the stream after them."""

    __slots__ = (
        "_answer",
        "_headers",
        "_held",
        "_meter",
        "_modes",
        "_observer",
        "_restorer",
        "_routing",
        "_scanner",
        "_subset",
        "closing",
        "state",
    )

    def __init__(self, routing: Routing, observer: Observer, budget: BufferBudget) -> None:
        self._routing = routing
        self._observer = observer
        self._headers: Headers = {}
        self._modes = Modes()
        self._held = HeldBody(budget)
        self._scanner: BodyScanner | None = None
        self._subset: object = None
        self._answer: _Answer | None = None
        self._meter: ResponseMeter | None = None
        self._restorer: NameRestorer | None = None
        self.state = State.START
        self.closing = False

    def receive(self, message: Incoming, now: float) -> Iterable[Outgoing]:
        """The replies to one message, in order; large bodies are produced as they are consumed.

        Raises ProtocolError for a message that has no place here.
        """
        handler = TRANSITIONS.get((self.state, type(message)))
        if handler is None:
            raise ProtocolError(f"{type(message).__name__} while {self.state.value}")
        return handler(self, message, now)

    @property
    def waiting(self) -> bool:
        """Whether the request is not yet complete, and may be holding memory."""
        return self.state in _INCOMPLETE

    def expire(self, seconds: float) -> Iterable[Outgoing]:
        """The request's time is over: the refusal, and the end of the stream. Nothing before a request began."""
        if self.state is not State.REQUEST_BODY:
            self.closing = True
            return ()
        return self._refuse(too_slow(seconds))

    def disconnect(self, now: float) -> None:
        """The stream is over, whoever ended it. Safe to call more than once."""
        self._held.release()
        if self._meter is not None:
            self._report(Ending.ABORTED, now)
        self.state = State.DONE

    # --- the request ------------------------------------------------------------------------------

    def _on_headers(self, message: RequestHeaders, now: float) -> Iterable[Outgoing]:
        self._headers, self._modes = message.headers, message.protocol
        self._hint(message.metadata)
        mode = self._modes.request_body
        if message.end_of_stream or mode in (BodyMode.NONE, BodyMode.STREAMED, BodyMode.GRPC):
            # No body, or none that may be held back: a pod is all there is to choose.
            self.state = State.ANSWERED if message.end_of_stream else State.UNBUFFERED
            request = Request(self._headers, subset=parse_subset(self._subset))
            refused = self._decide(request, None, now)
            return refused or (HeadersReply(Side.REQUEST, *self._routed(None)),)
        self._scanner = BodyScanner(self._routing.body_fields)
        self.state = State.REQUEST_BODY
        return (HeadersReply(Side.REQUEST),) if mode is not BodyMode.FULL_DUPLEX_STREAMED else ()

    def _hint(self, metadata: bytes) -> None:
        hint = metadata_value(metadata, SUBSET_NAMESPACE, SUBSET_KEY) if metadata else None
        if hint is not None:
            self._subset = hint

    def _on_body(self, message: RequestBody, now: float) -> Iterable[Outgoing]:
        assert self._scanner is not None  # set on entering this state
        if message.metadata:
            self._hint(message.metadata)
        if (refusal := self._held.add(message.body)) is not None:
            return self._refuse(refusal)
        try:
            self._scanner.feed(message.body)
        except BodyError as error:
            return self._refuse(bad_request(str(error)))
        if message.end_of_stream:
            return self._body_complete(now, trailers=False)
        if self._modes.request_body is BodyMode.FULL_DUPLEX_STREAMED:
            return ()
        return self._refuse(too_large(self._held.size))  # BUFFERED_PARTIAL: Envoy's buffer was too small

    def _on_trailers(self, message: RequestTrailers, now: float) -> Iterable[Outgoing]:
        return self._body_complete(now, trailers=True)

    def _body_complete(self, now: float, *, trailers: bool) -> Iterable[Outgoing]:
        assert self._scanner is not None  # set on entering this state
        try:
            self._scanner.finish()
            request, field = self._read(self._scanner)
        except BodyError as error:
            return self._refuse(bad_request(str(error)))
        self._scanner = None
        self.state = State.ANSWERED
        if refused := self._decide(request, field, now):
            return refused
        if self._modes.request_body is BodyMode.FULL_DUPLEX_STREAMED:
            return self._stream(trailers=trailers)
        return self._buffered()

    def _read(self, scanner: BodyScanner) -> tuple[Request, Field]:
        fields = scanner.fields
        model = fields.get("model")
        if model is None or model.kind is not Kind.STRING or model.clipped:
            raise BodyError('the request needs a "model" that is a string')
        prompt = next((fields[name].start for name in PROMPTS if name in fields), None)
        wanted = {name: field.text() for name, field in fields.items() if name != "model" and field.raw}
        begin = b"" if prompt is None else self._held.read(prompt, MAX_PREFIX)
        return Request(self._headers, model.text(), wanted, begin, parse_subset(self._subset)), model

    def _decide(self, request: Request, field: Field | None, now: float) -> tuple[Outgoing, ...]:
        """The refusal, or nothing when there is a decision, which is kept."""
        outcome = self._routing.route(request, now)
        if isinstance(outcome, Refusal):
            return self._refuse(outcome)
        self._observer.dispatched(outcome)
        self._answer = _Answer(outcome, field if outcome.target != outcome.model else None)
        if outcome.measured:
            self._meter = ResponseMeter(now)
        if outcome.restored:
            self._restorer = NameRestorer(outcome.model, outcome.target)
        self.closing = not (outcome.measured or outcome.restored)
        return ()

    def _routed(self, length: int | None) -> _Routed:
        """What the decision does to the headers; ``length`` of a body that has a known one."""
        assert self._answer is not None  # the callers checked
        address = self._answer.decision.endpoint.address.encode()
        headers: tuple[tuple[bytes, bytes], ...] = ((DESTINATION, address),)
        if length is not None:
            headers = (*headers, (b"content-length", b"%d" % length))
        stripped = (
            () if _STRIPPED.isdisjoint(self._headers) else tuple(sorted(_STRIPPED & self._headers.keys()))
        )
        return _Routed(headers, stripped, True, address)

    def _stream(self, *, trailers: bool) -> Iterator[Outgoing]:
        """Headers, body, trailers of a full-duplex request. Bytes are let go of as they are sent."""
        start, end, new = self._change()
        length = self._held.size - (end - start) + len(new)
        # HTTP/1.1 has trailers only where there is no content-length.
        yield HeadersReply(Side.REQUEST, *self._routed(None if trailers or not length else length))
        pieces = splice(self._held.chunks, start, end, new)
        previous = next(pieces)
        for piece in pieces:
            yield BodyReply(Side.REQUEST, previous, False)
            previous = piece
        self._held.release()
        if self.closing and len(previous) > _MAX_LAST:
            yield BodyReply(Side.REQUEST, previous[:-_TAIL], False)
            previous = previous[-_TAIL:]
        yield BodyReply(Side.REQUEST, previous, not trailers)
        if trailers:
            yield TrailersReply(Side.REQUEST)

    def _buffered(self) -> Iterable[Outgoing]:
        """The reply to a buffered body: in this mode it may still change the headers."""
        start, end, new = self._change()
        body = b"".join(splice(self._held.chunks, start, end, new)) if new else None
        self._held.release()
        return (BufferedReply(Side.REQUEST, body, *self._routed(None if body is None else len(body))),)

    def _change(self) -> tuple[int, int, bytes]:
        """(start, end, what to put there) of the change to the body; nothing in place of nothing for none."""
        assert self._answer is not None  # the callers checked
        field = self._answer.field
        return (0, 0, b"") if field is None else (field.start, field.end, _json(self._answer.decision.target))

    def _refuse(self, refusal: Refusal) -> tuple[Outgoing, ...]:
        self._observer.refused(refusal)
        self._held.release()
        self.state = State.DONE
        self.closing = True
        return (immediate(refusal),)

    # --- the response -----------------------------------------------------------------------------

    def _on_response_headers(self, message: ResponseHeaders, now: float) -> Iterable[Outgoing]:
        self._held.release()  # a local reply may come before the request body has ended
        self._scanner = None
        if self.state is State.START:
            self._modes = message.protocol
        if self._meter is not None:
            headers = message.headers
            self._meter.headers(headers.get(b":status", b""), headers.get(b"content-type", b""))
        self.state = State.RESPONDING
        if message.end_of_stream:
            self._complete(now)
        elif self._modes.response_body is BodyMode.NONE:
            self._complete(now, Ending.HEADERS_ONLY)
        self.closing = self.closing or (self._meter is None and self._restorer is None)
        if self._restorer is None or self._modes.response_body is not BodyMode.FULL_DUPLEX_STREAMED:
            return (HeadersReply(Side.RESPONSE),)
        self._restorer.headers(message.headers.get(b"content-type", b""))
        return (HeadersReply(Side.RESPONSE, remove_headers=(b"content-length",)),)

    def _on_response_body(self, message: ResponseBody, now: float) -> Iterable[Outgoing]:
        if self._meter is not None:
            self._meter.body(message.body, now)
        if message.end_of_stream:
            self._complete(now)
        if self._modes.response_body is not BodyMode.FULL_DUPLEX_STREAMED:
            return (BufferedReply(Side.RESPONSE),)
        if self._restorer is None:
            return (BodyReply(Side.RESPONSE, message.body, message.end_of_stream),)
        body = self._restorer.feed(message.body, end=message.end_of_stream)
        return self._restored(body, end=message.end_of_stream)

    def _restored(self, body: bytes, *, end: bool) -> Iterator[Outgoing]:
        """A chunk that may have grown, in pieces; nothing while all of it is held back."""
        if body or end:
            pieces = list(splice(deque([body]), 0, 0, b""))
            for index, piece in enumerate(pieces):
                yield BodyReply(Side.RESPONSE, piece, end and index == len(pieces) - 1)

    def _on_response_trailers(self, message: ResponseTrailers, now: float) -> Iterable[Outgoing]:
        self._complete(now)
        if self._restorer is not None and (left := self._restorer.feed(b"", end=True)):
            yield from self._restored(left, end=False)
        yield TrailersReply(Side.RESPONSE)

    def _complete(self, now: float, ending: Ending = Ending.COMPLETE) -> None:
        if self._meter is not None:
            self._report(ending, now)
        self.state = State.DONE
        self.closing = True

    def _report(self, ending: Ending, now: float) -> None:
        assert self._meter is not None  # the callers checked
        assert self._answer is not None  # a meter comes with a decision
        measurement = self._meter.finish(ending, now)
        self._meter = None
        self._observer.measured(self._answer.decision, measurement)

    # --- what passes by ---------------------------------------------------------------------------

    def _ignore(self, message: Incoming, now: float) -> Iterable[Outgoing]:
        return ()

    def _pass_body(self, message: RequestBody, now: float) -> Iterable[Outgoing]:
        if message.end_of_stream:
            self.state = State.ANSWERED
        return (BufferedReply(Side.REQUEST),)

    def _pass_trailers(self, message: RequestTrailers, now: float) -> Iterable[Outgoing]:
        self.state = State.ANSWERED
        return (TrailersReply(Side.REQUEST),)


Handler = Callable[[Exchange, Any, float], Iterable[Outgoing]]  # each takes its own kind of message

TRANSITIONS: dict[tuple[State, type], Handler] = {
    (State.START, RequestHeaders): Exchange._on_headers,
    (State.START, ResponseHeaders): Exchange._on_response_headers,
    (State.REQUEST_BODY, RequestBody): Exchange._on_body,
    (State.REQUEST_BODY, RequestTrailers): Exchange._on_trailers,
    (State.REQUEST_BODY, ResponseHeaders): Exchange._on_response_headers,
    (State.UNBUFFERED, RequestBody): Exchange._pass_body,
    (State.UNBUFFERED, RequestTrailers): Exchange._pass_trailers,
    (State.UNBUFFERED, ResponseHeaders): Exchange._on_response_headers,
    (State.ANSWERED, RequestBody): Exchange._ignore,
    (State.ANSWERED, RequestTrailers): Exchange._pass_trailers,
    (State.ANSWERED, ResponseHeaders): Exchange._on_response_headers,
    (State.RESPONDING, RequestBody): Exchange._ignore,
    (State.RESPONDING, RequestTrailers): Exchange._ignore,
    (State.RESPONDING, ResponseBody): Exchange._on_response_body,
    (State.RESPONDING, ResponseTrailers): Exchange._on_response_trailers,
    **{
        (State.DONE, kind): Exchange._ignore
        for kind in (RequestBody, RequestTrailers, ResponseHeaders, ResponseBody, ResponseTrailers)
    },
}
"""Every message that has a place. A pair that is missing ends the stream with a ProtocolError."""
