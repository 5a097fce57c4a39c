"""One ext_proc stream as a state machine: a message comes in, messages go out. No I/O, no clock.

The rules, from Envoy's ``external_processor.proto`` and proposal 004 of the Gateway API Inference Extension
(the endpoint-picker protocol):

- In full-duplex mode nothing is answered until the request body has ended; then the headers, then the body.
- The end of a body comes with a chunk, or with the trailers. Envoy may repeat the last chunk
  (envoyproxy/envoy#46237): whatever comes after the end is not answered.
- A request without a body is answered at its headers, and so is one that may wait for the response: an upgrade, gRPC.
  What follows an upgrade is not the picker's; other bodies that it does not read pass by, chunk for chunk.
- A stream may begin with, or jump to, the response: some other filter answered in the pod's place.
- Ending the stream cleanly means "go on without me". This is how a response that nobody measures is left,
  for full-duplex mode cannot be switched off half-way. Some gateways take it for a failure (agentgateway#3436):
  ``keep`` shows them the whole exchange.
- A peer that half-closes after the request wanted to know the destination and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

from rollouts.picker.core.answering import DESTINATION, NO_CHANGE, Answer, in_pieces
from rollouts.picker.core.content import is_dialogue, is_upgrade
from rollouts.picker.core.endpoints import SUBSET_KEY, SUBSET_NAMESPACE, Subset, parse_subset
from rollouts.picker.core.measure import Ending, ResponseMeter
from rollouts.picker.core.messages import (
    MAX_HEADER_LIST,
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
from rollouts.picker.core.ports import BufferBudget, Charge, Observer, Routing
from rollouts.picker.core.reader import RequestReader
from rollouts.picker.core.refusals import OVERLOADED, headers_too_large, immediate, too_large, too_slow
from rollouts.picker.core.restore import NameRestorer
from rollouts.picker.core.routing import Refusal, Request
from rollouts.picker.core.wire import metadata_value

__all__ = [
    "DESTINATION",
    "TRANSITIONS",
    "Exchange",
    "ProtocolError",
    "State",
]


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


class Exchange:
    """The life of one HTTP request. ``receive`` gives the replies; ``closing``: end the stream after them.

    ``keep``: see the response whether it is needed or not. ``variant_header``: of the response, to carry the variant.
    """

    __slots__ = (
        "_answer",
        "_budget",
        "_charge",
        "_headers",
        "_hint",
        "_keep",
        "_meter",
        "_modes",
        "_named",
        "_observer",
        "_passing",
        "_reader",
        "_restorer",
        "_routing",
        "_variant_header",
        "closing",
        "state",
    )

    def __init__(
        self,
        routing: Routing,
        observer: Observer,
        budget: BufferBudget,
        *,
        keep: bool = False,
        variant_header: bytes = b"",
    ) -> None:
        self._routing = routing
        self._observer = observer
        self._budget = budget
        self._keep = keep
        self._variant_header = variant_header
        self._named: tuple[tuple[bytes, bytes], ...] = ()  # what the response's headers are to say
        self._headers: Headers = {}
        self._hint = b""  # metadata as it came, which takes the least
        self._charge = Charge(budget)  # of both, while a body is waited for
        self._modes = Modes()
        self._reader: RequestReader | None = None
        self._answer: Answer | None = None
        self._meter: ResponseMeter | None = None
        self._restorer: NameRestorer | None = None
        self._passing = False  # a full-duplex request body passes by: each chunk has to be given back
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

    @property
    def expects_response(self) -> bool:
        """Whether a request is answered whose response is to be measured, and has not begun."""
        return self.state is State.ANSWERED and self._meter is not None

    def half_closed(self, now: float) -> Iterable[Outgoing]:
        """The peer says that nothing more comes from it: it wanted the destination, and has no response to show."""
        if self.state is State.REQUEST_BODY and self._reader is not None and not self._reader.held.size:
            self._reader = None
            return self._without_body(now)
        if self.expects_response:
            self._meter = None
            self._observer.dispatched(self._decided.decision._replace(measured=False))
        return ()

    def disconnect(self, now: float) -> None:
        """The stream is over, whoever ended it. Safe to call more than once."""
        self._release()
        if self._restorer is not None:
            self._restorer.release()
        if self._meter is not None:
            self._report(Ending.ABORTED, now)
        self.state = State.DONE

    def _release(self) -> None:
        if self._reader is not None:
            self._reader.release()
            self._reader = None
        self._forget()

    def _forget(self) -> None:
        """Let go of what was kept for the decision: a response may last for hours."""
        self._headers, self._hint = {}, b""
        self._charge.count(0)

    # --- the request ------------------------------------------------------------------------------

    def _on_headers(self, message: RequestHeaders, now: float) -> Iterable[Outgoing]:
        self._take_hint(message.metadata)
        if message.too_large:
            return self._refuse(headers_too_large(MAX_HEADER_LIST))
        self._headers, self._modes = message.headers, message.protocol
        mode = self._modes.request_body
        if message.end_of_stream:
            return self._without_body(now)
        if mode in (BodyMode.NONE, BodyMode.STREAMED, BodyMode.GRPC):
            return self._without_body(now, State.UNBUFFERED)
        if is_upgrade(self._headers) or is_dialogue(self._headers):
            return self._open_ended(now)
        if not self._charge.count(message.kept + len(self._hint)):
            return self._refuse(OVERLOADED)
        self._reader = RequestReader(self._headers, self._routing.body_fields, self._budget)
        self.state = State.REQUEST_BODY
        return (HeadersReply(Side.REQUEST),) if mode is not BodyMode.FULL_DUPLEX_STREAMED else ()

    def _without_body(self, now: float, state: State = State.ANSWERED, **how: bool) -> tuple[Outgoing, ...]:
        """No body, or none that may be held back: a pod is all there is to choose."""
        self.state = state
        refused = self._decide(Request(self._headers, subset=self._subset()), now, **how)
        return refused or (self._decided.head(),)

    def _open_ended(self, now: float) -> tuple[Outgoing, ...]:
        upgrade = is_upgrade(self._headers)
        replies = self._without_body(now, State.UNBUFFERED, measurable=False)
        # What follows an upgrade comes after the response, when the picker is gone; a message may come at once.
        stays = self._keep or not upgrade
        if (
            self.state is State.UNBUFFERED
            and self._modes.request_body is BodyMode.FULL_DUPLEX_STREAMED
            and stays
        ):
            self._passing = True
            self.closing = False
        return replies

    def _leaves(self) -> bool:
        """Whether the rest of the exchange can do without the picker."""
        return not (self._keep or self._passing or self._meter is not None or self._restorer is not None)

    def _take_hint(self, metadata: bytes) -> int:
        """Keep a subset hint in place of the last one, if there is one; by how many bytes it is longer."""
        if not metadata or metadata_value(metadata, SUBSET_NAMESPACE, SUBSET_KEY) is None:
            return 0
        before, self._hint = len(self._hint), metadata
        return len(metadata) - before

    def _subset(self) -> Subset | None:
        return parse_subset(metadata_value(self._hint, SUBSET_NAMESPACE, SUBSET_KEY)) if self._hint else None

    def _on_body(self, message: RequestBody, now: float) -> Iterable[Outgoing]:
        assert self._reader is not None  # set on entering this state
        if message.metadata:
            longer = self._take_hint(message.metadata)
            if not self._charge.count(self._charge.size + longer):
                return self._refuse(OVERLOADED)
        if (refusal := self._reader.feed(message.body)) is not None:
            return self._refuse(refusal)
        if message.end_of_stream:
            return self._body_complete(now, trailers=False)
        if self._modes.request_body is not BodyMode.FULL_DUPLEX_STREAMED:
            return self._refuse(
                too_large(self._reader.held.size)
            )  # BUFFERED_PARTIAL: Envoy's buffer was too small
        return self._pass_by(self._reader, now) if self._reader.unread is not None else ()

    def _on_trailers(self, message: RequestTrailers, now: float) -> Iterable[Outgoing]:
        return self._body_complete(now, trailers=True)

    def _body_complete(self, now: float, *, trailers: bool) -> Iterable[Outgoing]:
        assert self._reader is not None  # set on entering this state
        request = self._reader.finish(self._subset())
        if isinstance(request, Refusal):
            return self._refuse(request)
        self.state = State.ANSWERED
        if refused := self._decide(request, now):
            return refused
        if self._modes.request_body is BodyMode.FULL_DUPLEX_STREAMED:
            return self._decided.streamed(self._reader, trailers=trailers, leaving=self.closing)
        return (self._decided.buffered(self._reader),)

    def _pass_by(self, reader: RequestReader, now: float) -> Iterable[Outgoing]:
        """There is nothing to find in this body: no reason to hold the rest of it."""
        request = reader.finish(self._subset())
        assert isinstance(request, Request)  # why it is not read is known
        if refused := self._decide(request, now):
            return refused
        self.state = State.UNBUFFERED
        self._passing = True
        self.closing = False
        return self._decided.passing(reader)

    def _decide(self, request: Request, now: float, *, measurable: bool = True) -> tuple[Outgoing, ...]:
        """The refusal, or nothing when there is a decision, which is kept."""
        outcome = self._routing.route(request, now)
        if isinstance(outcome, Refusal):
            return self._refuse(outcome)
        if not measurable or b":method" not in self._headers:
            # No proxy asks but something that wants a destination, and will show no response.
            outcome = outcome._replace(measured=False, restored=False)
        elif outcome.variant and self._variant_header:
            self._named = ((self._variant_header, outcome.variant.encode()),)
            self._keep = True  # whoever leaves in the midst of a response takes what Envoy had sent with him
        self._observer.dispatched(outcome)
        change, plain = NO_CHANGE, False
        if self._reader is not None and request.unread is None:
            if changed := outcome.target != outcome.model:
                change = self._reader.change(outcome.target)
            # In one split all targets get the body in one form, or they could not be compared.
            plain = self._reader.decoded and (changed or outcome.split)
        self._answer = Answer.to(outcome, self._headers, change, plain=plain)
        self._forget()
        if outcome.measured:
            self._meter = ResponseMeter(now)
        if outcome.restored:
            self._restorer = NameRestorer(outcome.model, outcome.target, self._budget)
        self.closing = self._leaves()
        return ()

    @property
    def _decided(self) -> Answer:
        assert self._answer is not None  # the callers have decided
        return self._answer

    def _refuse(self, refusal: Refusal) -> tuple[Outgoing, ...]:
        self._observer.refused(refusal)
        self._release()
        self.state = State.DONE
        self.closing = True
        return (immediate(refusal),)

    # --- the response -----------------------------------------------------------------------------

    def _on_response_headers(self, message: ResponseHeaders, now: float) -> Iterable[Outgoing]:
        self._release()  # a local reply may come before the request body has ended
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
        self.closing = self.closing or self._leaves()
        if self._restorer is None or self._modes.response_body is not BodyMode.FULL_DUPLEX_STREAMED:
            return (HeadersReply(Side.RESPONSE, self._named),)
        self._restorer.headers(message.headers.get(b"content-type", b""))
        return (HeadersReply(Side.RESPONSE, self._named, remove_headers=(b"content-length",)),)

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
        return in_pieces(Side.RESPONSE, body, end=message.end_of_stream)

    def _on_response_trailers(self, message: ResponseTrailers, now: float) -> Iterable[Outgoing]:
        self._complete(now)
        if self._restorer is not None and (left := self._restorer.feed(b"", end=True)):
            yield from in_pieces(Side.RESPONSE, left, end=False)
        yield TrailersReply(Side.RESPONSE)

    def _complete(self, now: float, ending: Ending = Ending.COMPLETE) -> None:
        if self._meter is not None:
            self._report(ending, now)
        self.state = State.DONE
        self.closing = True

    def _report(self, ending: Ending, now: float) -> None:
        assert self._meter is not None  # the callers checked
        measurement = self._meter.finish(ending, now)
        self._meter = None
        self._observer.measured(self._decided.decision, measurement)

    # --- what passes by ---------------------------------------------------------------------------

    def _ignore(self, message: Incoming, now: float) -> Iterable[Outgoing]:
        return ()

    def _pass_body(self, message: RequestBody, now: float) -> Iterable[Outgoing]:
        if message.end_of_stream and self.state is State.UNBUFFERED:
            self.state = State.ANSWERED
        if self._modes.request_body is not BodyMode.FULL_DUPLEX_STREAMED:
            return (BufferedReply(Side.REQUEST),)
        if not self._passing:
            return ()
        if message.end_of_stream:
            self._passed()
        return in_pieces(Side.REQUEST, message.body, end=message.end_of_stream)

    def _pass_trailers(self, message: RequestTrailers, now: float) -> Iterable[Outgoing]:
        self.state = State.ANSWERED
        self._passed()
        return (TrailersReply(Side.REQUEST),)

    def _late_body(self, message: RequestBody, now: float) -> Iterable[Outgoing]:
        return self._pass_body(message, now) if self._passing else ()

    def _late_trailers(self, message: RequestTrailers, now: float) -> Iterable[Outgoing]:
        if not self._passing:
            return ()
        self._passed()
        return (TrailersReply(Side.REQUEST),)

    def _passed(self) -> None:
        """The request has ended."""
        self._passing = False
        self.closing = self._leaves()


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
    (State.RESPONDING, RequestBody): Exchange._late_body,
    (State.RESPONDING, RequestTrailers): Exchange._late_trailers,
    (State.RESPONDING, ResponseBody): Exchange._on_response_body,
    (State.RESPONDING, ResponseTrailers): Exchange._on_response_trailers,
    **{
        (State.DONE, kind): Exchange._ignore
        for kind in (RequestBody, RequestTrailers, ResponseHeaders, ResponseBody, ResponseTrailers)
    },
}
"""Every message that has a place. A pair that is missing ends the stream with a ProtocolError."""
