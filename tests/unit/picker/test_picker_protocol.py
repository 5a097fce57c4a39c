"""What comes out of the state machine for every order of messages that Envoy produces."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from envoy.config.core.v3 import base_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.picker.core.endpoints import Endpoint
from rollouts.picker.core.measure import Ending
from rollouts.picker.core.messages import (
    MAX_HEADER_LIST,
    PER_KEPT_LINE,
    BodyMode,
    BodyReply,
    BufferedReply,
    HeadersReply,
    ImmediateReply,
    Incoming,
    Outgoing,
    Protocol,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
    Side,
    TrailersReply,
)
from rollouts.picker.core.ports import SMALL, BufferBudget
from rollouts.picker.core.protocol import TRANSITIONS, Exchange, ProtocolError, State
from rollouts.picker.core.routing import Decision, Refusal, Request
from rollouts.picker.core.splicing import MAX_CHUNK
from rollouts.picker.core.wire import decode
from tests.kit.told import Told

pytestmark = pytest.mark.usefixtures("data_path")
BOTH = ("Exchange",)

POD = Endpoint("10.0.0.1:8000", "10.0.0.1", 8000, "pod-0", "pool")
BODY = b'{"model":"travelhelper","messages":[]}'
SENT = b'{"model":"travel-helper-v2","messages":[]}'


class FakeRouting:
    """Sends everything to one pod as travel-helper-v2; a model called ``busy`` is refused."""

    body_fields = frozenset({"model", "user", "prompt"})

    def __init__(self, *, measured: bool = False, restored: bool = False) -> None:
        self.measured, self.restored = measured, restored
        self.requests: list[Request] = []

    def route(self, request: Request, now: float) -> Decision | Refusal:
        self.requests.append(request)
        if request.model == "busy" or (request.subset and not request.subset.allows(POD)):
            return Refusal(503, "rejected-no-endpoints", "no pod", request.model)
        target = "travel-helper-v2" if request.model == "travelhelper" else request.model
        return Decision(request.model, target, POD, self.measured, self.restored and target != request.model)


class Stream:
    """An exchange with its surroundings, driven with a clock that ticks one second per message."""

    def __init__(
        self,
        *,
        measured: bool = False,
        restored: bool = False,
        keep: bool = False,
        budget: BufferBudget | None = None,
    ) -> None:
        self.routing, self.told = FakeRouting(measured=measured, restored=restored), Told()
        self.budget = budget or BufferBudget()
        self.exchange = Exchange(self.routing, self.told, self.budget, keep=keep)
        self.now = 0.0

    def send(self, *messages: Incoming) -> list[Outgoing]:
        replies: list[Outgoing] = []
        for message in messages:
            self.now += 1.0
            replies += self.exchange.receive(message, self.now)
        return replies


def headers(more: bytes = b"", *, eos: bool = False, **extra: Any) -> RequestHeaders:
    """``more``: the value of another header."""
    fields = {b":method": b"POST", b":path": b"/v1/chat/completions"} | ({b"x": more} if more else {})
    size = sum(map(len, (*fields, *fields.values())))
    return RequestHeaders(fields, eos, kept=size + PER_KEPT_LINE * len(fields), **extra)


KEPT = headers().kept
"""What the least headers take while a body is waited for."""


def hint(*addresses: str) -> bytes:
    metadata = base_pb2.Metadata()
    key = "x-gateway-destination-endpoint-subset"
    metadata.filter_metadata["envoy.lb.subset_hint"].update({key: list(addresses)})
    data: bytes = metadata.SerializeToString()
    return data


def chunks(body: bytes, size: int, *, eos: bool = True) -> list[RequestBody]:
    parts = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
    return [RequestBody(part, eos and index == len(parts) - 1) for index, part in enumerate(parts)]


def reply_head(length: int | None = len(SENT)) -> HeadersReply:
    content = () if length is None else ((b"content-length", b"%d" % length),)
    destination = (b"x-gateway-destination-endpoint", b"10.0.0.1:8000")
    return HeadersReply(Side.REQUEST, (destination, *content), (), True, b"10.0.0.1:8000")


OK = ResponseHeaders({b":status": b"200", b"content-type": b"text/event-stream"})
EVENT = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'

# sentence: (measured, messages, wanted replies, wanted state, whether the stream is to be ended)
SEQUENCES: dict[str, tuple[bool, Sequence[Incoming], Sequence[Outgoing], State, bool]] = {
    "nothing is answered before the body has ended": (
        False, [headers(), *chunks(BODY, 10, eos=False)], [], State.REQUEST_BODY, False,
    ),
    "at its end come the headers and then the body, and an unmeasured stream is left": (
        False,
        [headers(), *chunks(BODY, 10)],
        [reply_head(), BodyReply(Side.REQUEST, SENT, True)],
        State.ANSWERED,
        True,
    ),
    "an empty chunk may carry the end": (
        False,
        [headers(), RequestBody(BODY), RequestBody(b"", True)],
        [reply_head(), BodyReply(Side.REQUEST, SENT, True)],
        State.ANSWERED,
        True,
    ),
    "trailers are the end of a body, which then has none of its own": (
        False,
        [headers(), RequestBody(BODY), RequestTrailers()],
        [reply_head(None), BodyReply(Side.REQUEST, SENT, False), TrailersReply(Side.REQUEST)],
        State.ANSWERED,
        True,
    ),
    "a repeated end and late chunks are ignored": (
        True,
        [headers(), *chunks(BODY, 99), *chunks(BODY, 99), RequestBody(b"x")],
        [reply_head(), BodyReply(Side.REQUEST, SENT, True)],
        State.ANSWERED,
        False,
    ),
    "trailers after the end are passed on": (
        True,
        [headers(), *chunks(BODY, 99), RequestTrailers()],
        [reply_head(), BodyReply(Side.REQUEST, SENT, True), TrailersReply(Side.REQUEST)],
        State.ANSWERED,
        False,
    ),
    "a request without a body is answered at its headers": (
        False, [headers(eos=True)], [reply_head(None)], State.ANSWERED, True,
    ),
    "a stream that begins with a response is not ours to change": (
        False, [OK], [HeadersReply(Side.RESPONSE)], State.RESPONDING, True,
    ),
    "a local reply before the body has ended": (
        False, [headers(), RequestBody(b"{"), OK], [HeadersReply(Side.RESPONSE)], State.RESPONDING, True,
    ),
    "a local reply without any body": (
        False, [headers(), OK], [HeadersReply(Side.RESPONSE)], State.RESPONDING, True,
    ),
    "a measured response is echoed chunk by chunk until its end": (
        True,
        [headers(), *chunks(BODY, 99), OK, ResponseBody(EVENT), ResponseBody(b"", True)],
        [
            reply_head(),
            BodyReply(Side.REQUEST, SENT, True),
            HeadersReply(Side.RESPONSE),
            BodyReply(Side.RESPONSE, EVENT, False),
            BodyReply(Side.RESPONSE, b"", True),
        ],
        State.DONE,
        True,
    ),
    "response trailers end a response": (
        True,
        [headers(), *chunks(BODY, 99), OK, ResponseBody(b"x"), ResponseTrailers()],
        [
            reply_head(),
            BodyReply(Side.REQUEST, SENT, True),
            HeadersReply(Side.RESPONSE),
            BodyReply(Side.RESPONSE, b"x", False),
            TrailersReply(Side.RESPONSE),
        ],
        State.DONE,
        True,
    ),
    "a response without a body": (
        True,
        [headers(eos=True), ResponseHeaders({b":status": b"204"}, True)],
        [reply_head(None), HeadersReply(Side.RESPONSE)],
        State.DONE,
        True,
    ),
    "a response may overtake the rest of the request": (
        True,
        [headers(eos=True), OK, RequestBody(b"late"), RequestTrailers(), ResponseBody(b"x", True)],
        [reply_head(None), HeadersReply(Side.RESPONSE), BodyReply(Side.RESPONSE, b"x", True)],
        State.DONE,
        True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("sentence", SEQUENCES)
def test_sequence(sentence: str) -> None:
    measured, messages, want, want_state, want_closing = SEQUENCES[sentence]
    stream = Stream(measured=measured)

    assert stream.send(*messages) == list(want)
    assert (stream.exchange.state, stream.exchange.closing) == (want_state, want_closing)
    stream.exchange.disconnect(99.0)
    assert stream.budget.used == 0


@pytest.mark.parametrize(
    ("sentence", "body", "status"),
    [
        ("not JSON", b"hello", 400),
        ("JSON that is cut off", BODY[:-1], 400),
        ("a model that is a number", b'{"model":5}', 400),
        ("a model that is an object", b'{"model":{}}', 400),
        ("a model of 5,000 characters", b'{"model":"' + b"x" * 5000 + b'"}', 400),
        ("no pod", b'{"model":"busy"}', 503),
    ],
)
@pytest.mark.parametrize("trailers", [False, True])
def test_refusal(sentence: str, body: bytes, status: int, trailers: bool) -> None:
    stream = Stream(measured=True)
    end = [RequestBody(body), RequestTrailers()] if trailers else chunks(body, 7)

    replies = stream.send(headers(), *end, RequestBody(b"late", True))

    assert len(replies) == 1
    reply = replies[0]
    assert isinstance(reply, ImmediateReply)
    assert (reply.status, json.loads(reply.body)["error"]["code"]) == (status, status)
    assert stream.exchange.closing
    assert [refusal.status for refusal in stream.told.refusals] == [status]
    assert (stream.budget.used, stream.told.measurements) == (0, [])


def subset(*values: str) -> bytes:
    metadata = base_pb2.Metadata()
    key = "x-gateway-destination-endpoint-subset"
    metadata.filter_metadata["envoy.lb.subset_hint"].update({key: list(values)})
    return metadata.SerializeToString()


@pytest.mark.parametrize(
    ("hint", "refused"),
    [(["10.0.0.1:8000"], False), (["10.0.0.1:8001"], True), ([], True), (["10.0.0.1"], False)],
)
@pytest.mark.parametrize("where", ["headers of a GET", "headers", "last chunk"])
def test_a_subset_hint_counts_wherever_it_comes(where: str, hint: list[str], refused: bool) -> None:
    stream = Stream()
    data = subset(*hint)
    if where == "headers of a GET":
        replies = stream.send(headers(eos=True, metadata=data))
    elif where == "headers":
        replies = stream.send(headers(metadata=data), RequestBody(BODY, True))
    else:
        replies = stream.send(headers(), RequestBody(BODY, True, data))

    assert isinstance(replies[0], ImmediateReply) is refused


@pytest.mark.parametrize(("body", "sent"), [(BODY, SENT), (BODY.replace(b"travelhelper", b"other"), None)])
def test_a_buffered_body_is_changed_in_one_reply(body: bytes, sent: bytes | None) -> None:
    stream = Stream(measured=True)
    mode = Protocol(BodyMode.BUFFERED, BodyMode.BUFFERED)

    first = stream.send(headers(protocol=mode))
    second = stream.send(RequestBody(body, True))
    rest = stream.send(OK, ResponseBody(b"x", True))

    assert first == [HeadersReply(Side.REQUEST)]
    assert isinstance(second[0], BufferedReply)
    assert (second[0].body, second[0].endpoint, second[0].clear_route_cache) == (sent, b"10.0.0.1:8000", True)
    assert rest == [HeadersReply(Side.RESPONSE), BufferedReply(Side.RESPONSE)]
    assert [m.ending for m in stream.told.measurements] == [Ending.COMPLETE]


def test_a_partial_buffer_that_overflows_is_refused() -> None:
    stream = Stream()

    replies = stream.send(headers(protocol=Protocol(BodyMode.BUFFERED_PARTIAL)), RequestBody(b'{"a":', False))

    assert isinstance(replies[-1], ImmediateReply)
    assert replies[-1].status == 413


@pytest.mark.parametrize("mode", [BodyMode.NONE, BodyMode.STREAMED])
def test_a_body_that_cannot_be_held_back_passes_by(mode: BodyMode) -> None:
    stream = Stream(measured=True)

    replies = stream.send(headers(protocol=Protocol(mode, BodyMode.NONE)))
    passing = stream.send(RequestBody(b"x"), RequestBody(b"y", True))
    rest = stream.send(OK)

    assert replies == [reply_head(None)]
    assert passing == [BufferedReply(Side.REQUEST)] * 2
    assert rest == [HeadersReply(Side.RESPONSE)]
    assert [m.ending for m in stream.told.measurements] == [Ending.HEADERS_ONLY]


def test_what_only_the_picker_may_say_is_taken_off_the_request() -> None:
    stream = Stream()
    message = RequestHeaders({b":method": b"POST", b"x-gateway-destination-endpoint-served": b"evil"})

    reply = stream.send(message, *chunks(BODY, 99))[0]

    assert isinstance(reply, HeadersReply)
    assert reply.remove_headers == (b"x-gateway-destination-endpoint-served",)


def test_a_large_body_leaves_in_small_pieces_that_are_let_go() -> None:
    body = b'{"model":"travelhelper","prompt":"' + b"x" * 1_000_000 + b'"}'
    stream = Stream()
    stream.send(headers(), *chunks(body, 65_536, eos=False))
    assert stream.budget.used == KEPT + len(body)

    replies = stream.send(RequestBody(b"", True))

    pieces = [reply for reply in replies if isinstance(reply, BodyReply)]
    assert b"".join(piece.body for piece in pieces) == body.replace(b"travelhelper", b"travel-helper-v2")
    assert max(len(piece.body) for piece in pieces) <= MAX_CHUNK
    assert [piece.end_of_stream for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert stream.budget.used == 0


def test_bodies_beyond_the_limits_are_refused_and_give_their_memory_back() -> None:
    budget = BufferBudget(body_limit=100, total_limit=150 + 2 * KEPT)
    first, second, third = (Stream(budget=budget) for _ in range(3))
    first.send(headers(), RequestBody(b'{"a":"' + b"x" * 80))

    crowded = second.send(headers(), RequestBody(b'{"a":"' + b"x" * 80))
    large = third.send(headers(), RequestBody(b'{"a":"' + b"x" * 95))
    first.exchange.disconnect(5.0)

    assert [getattr(reply, "status", 0) for reply in (*crowded, *large)] == [503, 413]
    assert budget.used == 0


def _fed(stream: Stream, size: int, chunk: int = 16 << 10) -> tuple[bytes, int]:
    """A body of that size without an end: why it was refused, if it was, and how much of it came."""
    stream.send(headers())
    for came in range(0, size, chunk):
        begin = b'{"model":"travelhelper","prompt":"' if not came else b""
        for reply in stream.send(RequestBody(begin.ljust(min(chunk, size - came), b"x"))):
            if isinstance(reply, ImmediateReply):
                return reply.details, came
    return b"", size


SIZES = (*[1 << 20] * 7, 500 << 10)
"""Bodies that do not end, which fill 8 MiB but for what is set aside."""


def test_small_bodies_find_room_though_endless_ones_hold_all_that_they_may() -> None:
    budget = BufferBudget(body_limit=4 << 20, total_limit=8 << 20)
    held = [Stream(budget=budget) for _ in range(8)]
    assert [_fed(stream, size) for stream, size in zip(held, SIZES, strict=True)] == [
        (b"", size) for size in SIZES
    ]
    again = [_fed(Stream(budget=budget), 4 << 20) for _ in range(40)]  # as fast as they are refused

    assert budget.large_limit - SMALL < budget.used <= budget.large_limit
    assert {why for why, _ in again} == {b"buffers-full"}
    for size in (1000, SMALL) * 5:
        stream = Stream(budget=budget)
        assert _fed(stream, size) == (b"", size)
        stream.exchange.disconnect(9.0)


def test_small_bodies_alone_do_not_go_beyond_the_total_and_large_ones_end_beside_them() -> None:
    budget = BufferBudget(body_limit=4 << 20, total_limit=4 << 20)
    large = Stream(budget=budget)
    assert _fed(large, 1 << 20) == (b"", 1 << 20)

    small = [Stream(budget=budget) for _ in range(100)]
    found = [_fed(stream, SMALL) for stream in small]

    assert 40 < [why for why, _ in found].count(b"") < 49  # 3 MiB, with headers
    assert budget.large_limit < budget.used <= budget.total_limit
    (head, *_) = large.send(RequestBody(b"", True))  # an end takes nothing
    assert isinstance(head, ImmediateReply)  # it is no JSON
    assert head.status == 400
    for stream in small:
        stream.exchange.disconnect(9.0)
    assert budget.used == 0


def test_a_client_that_leaves_is_an_abort() -> None:
    stream = Stream(measured=True)
    stream.send(headers(), *chunks(BODY, 99), OK, ResponseBody(EVENT))

    stream.exchange.disconnect(9.0)
    stream.exchange.disconnect(10.0)

    assert [m.ending for m in stream.told.measurements] == [Ending.ABORTED]


def test_the_routing_gets_the_sticky_field_and_the_prompt() -> None:
    stream = Stream()
    body = b'{"user":"anna","model":"travelhelper","prompt":"hello"}'

    stream.send(headers(), *chunks(body, 5))

    request = stream.routing.requests[0]
    assert (request.model, request.fields["user"], request.prompt) == ("travelhelper", "anna", b'"hello"}')


@pytest.mark.parametrize("trailers", [False, True])
def test_the_name_is_restored_where_it_was_asked_for(trailers: bool) -> None:
    stream = Stream(restored=True)
    plain = ResponseHeaders({b":status": b"200", b"content-type": b"application/json"})
    stream.send(headers(), *chunks(BODY, 99))
    end = [ResponseBody(b'-v2"}'), ResponseTrailers()] if trailers else [ResponseBody(b'-v2"}', True)]

    replies = stream.send(plain, ResponseBody(b'{"model":"travel-helper'), *end)

    body = b'{"model": "travelhelper"}'.replace(b" ", b"")
    want = [
        HeadersReply(Side.RESPONSE, remove_headers=(b"content-length",)),
        BodyReply(Side.RESPONSE, body, not trailers),
    ]
    assert replies == want + [TrailersReply(Side.RESPONSE)] * trailers
    assert stream.exchange.closing


def typed(**values: bytes) -> RequestHeaders:
    names = {name.replace("_", "-").encode(): value for name, value in values.items()}
    return RequestHeaders({b":method": b"POST", **names})


ALL = [
    headers(), headers(eos=True), typed(content_type=b"audio/wav"), typed(content_type=b"application/grpc"),
    typed(connection=b"upgrade", upgrade=b"websocket"), typed(content_encoding=b"gzip"),
    *chunks(BODY, 20), RequestBody(b"{}", True), RequestTrailers(), OK,
    ResponseHeaders({}, True), ResponseBody(b"x"), ResponseBody(b"y", True), ResponseTrailers(),
]  # fmt: skip


@given(
    parts=st.lists(st.binary(max_size=9), max_size=6),
    early=st.integers(0, 6),
    keep=st.booleans(),
    content_type=st.sampled_from([b"audio/wav", b"application/grpc"]),
)
@settings(max_examples=200, deadline=None)
def test_a_body_that_passes_by_is_whole_whenever_the_response_comes(
    parts: list[bytes], early: int, keep: bool, content_type: bytes
) -> None:
    """Envoy has given away what it sent: bytes that do not come back, or a stream that ends too soon, lose them."""
    stream = Stream(keep=keep)
    messages: list[Incoming] = [RequestBody(part) for part in parts]
    messages.insert(min(early, len(parts)), OK)
    replies = stream.send(
        typed(content_type=content_type), RequestBody(b"RIFF")
    )  # no response before it is routed
    for message in messages:
        assert not stream.exchange.closing
        replies += stream.send(message)
    replies += stream.send(RequestBody(b"", True))

    sent = [reply for reply in replies if isinstance(reply, BodyReply)]
    assert b"".join(reply.body for reply in sent) == b"RIFF" + b"".join(parts)
    assert [reply.end_of_stream for reply in sent].count(True) == 1
    assert stream.exchange.closing is not keep
    stream.exchange.disconnect(99.0)
    assert stream.budget.used == 0


def is_in_order(replies: Iterable[Outgoing]) -> bool:
    """Envoy's rule: per side headers, then body, then trailers; nothing after an immediate reply."""
    position = {Side.REQUEST: 0, Side.RESPONSE: 0}
    over = False
    for reply in replies:
        if over:
            return False
        if isinstance(reply, ImmediateReply):
            over = True
            continue
        rank = 1 if isinstance(reply, HeadersReply) else 3 if isinstance(reply, TrailersReply) else 2
        if rank < position[reply.side] or rank == position[reply.side] == 1:
            return False
        position[reply.side] = rank
    return True


@given(
    messages=st.lists(st.sampled_from(ALL), max_size=8),
    measured=st.booleans(),
    restored=st.booleans(),
    keep=st.booleans(),
)
@settings(max_examples=400, deadline=None)
def test_any_order_of_messages_is_answered_in_order_or_refused(
    messages: list[Incoming], measured: bool, restored: bool, keep: bool
) -> None:
    stream = Stream(measured=measured, restored=restored, keep=keep)
    replies: list[Outgoing] = []
    for message in messages:
        if stream.exchange.closing:
            break
        if (stream.exchange.state, type(message)) not in TRANSITIONS:
            with pytest.raises(ProtocolError):
                stream.send(message)
            break
        replies += stream.send(message)
    stream.exchange.disconnect(99.0)

    assert is_in_order(replies)
    assert stream.budget.used == 0
    assert len(stream.told.measurements) == sum(decision.measured for decision in stream.told.decisions)


@pytest.mark.parametrize("digits", [19, 20, 5000])
def test_a_content_length_that_is_no_number_of_bytes_is_left_alone(digits: int) -> None:
    """A body that nothing is to be found in passes by, with the length that it came with."""
    length = b"9" * digits
    sent = {b":method": b"POST", b"content-type": b"text/plain", b"content-length": length}

    replies = Stream().send(RequestHeaders(sent), RequestBody(b"no JSON", False))

    (said,) = [reply for reply in replies if isinstance(reply, HeadersReply)]
    assert dict(said.set_headers).get(b"content-length") == (length if digits == 19 else None)


@pytest.mark.parametrize(
    ("sentence", "lines", "size", "refused"),
    [
        ("many short lines", 8000, 2, True),
        ("one long line", 1, MAX_HEADER_LIST, True),
        ("what fits", 3000, 40, False),
        ("what gateways take at most", 100, 600, False),
    ],
)
def test_headers_beyond_a_limit_are_refused(
    data_path: str, sentence: str, lines: int, size: int, refused: bool
) -> None:
    many = {b"h%05d" % number: b"v" * size for number in range(lines)}
    message = RequestHeaders({b":method": b"POST", **many})
    if data_path == "python":
        bytes_of = ext_proc.ProcessingRequest()
        for name, value in message.headers.items():
            bytes_of.request_headers.headers.headers.add(key=name.decode(), raw_value=value)
        read = decode(bytes_of.SerializeToString())
        assert isinstance(read, RequestHeaders)
        message = read
    stream = Stream()

    replies = stream.send(message)

    assert [reply.status for reply in replies if isinstance(reply, ImmediateReply)] == [431] * refused
    assert stream.exchange.closing is refused


def test_what_waits_for_its_name_to_be_restored_is_counted_with_the_bodies() -> None:
    room = KEPT + len(BODY)
    stream = Stream(restored=True, budget=BufferBudget(body_limit=100, total_limit=room))
    plain = ResponseHeaders({b":status": b"200", b"content-type": b"application/json"})
    stream.send(headers(), *chunks(BODY, 99))

    assert len(stream.send(plain, ResponseBody(b" " * room))) == 1
    assert stream.budget.used == room
    replies = stream.send(ResponseBody(b" " * 50))
    assert replies == [BodyReply(Side.RESPONSE, b" " * (room + 50), False)]
    assert stream.budget.used == 0
    assert stream.send(ResponseBody(b'{"model":"travel-helper-v2"}', True)) == [
        BodyReply(Side.RESPONSE, b'{"model":"travel-helper-v2"}', True)
    ]


def test_of_a_stream_only_the_line_that_waits_is_counted() -> None:
    stream = Stream(restored=True)
    stream.send(headers(), *chunks(BODY, 99), OK)

    used = []
    for part in (b"data: {", b"}\n\ndata: {", b'"a"', b":1}\n\n"):
        stream.send(ResponseBody(part))
        used.append(stream.budget.used)

    assert used == [7, 7, 10, 0]


def test_a_response_that_is_cut_short_gives_its_memory_back() -> None:
    stream = Stream(restored=True)
    plain = ResponseHeaders({b":status": b"200", b"content-type": b"application/json"})
    stream.send(headers(), *chunks(BODY, 99), plain, ResponseBody(b" " * 100))
    assert stream.budget.used == 100

    stream.exchange.disconnect(9.0)

    assert stream.budget.used == 0


def test_headers_and_the_hint_count_while_a_body_is_waited_for() -> None:
    stream = Stream(measured=True)
    large, first, longer = headers(b"x" * 10_000), hint(POD.address), hint(POD.address, POD.host, "10.0.0.9")

    stream.send(large._replace(metadata=first))
    assert stream.budget.used == large.kept + len(first)
    stream.send(RequestBody(BODY[:9], metadata=longer))
    assert stream.budget.used == large.kept + len(longer) + 9
    stream.send(RequestBody(BODY[9:20], metadata=first))
    assert stream.budget.used == large.kept + len(first) + 20
    stream.send(RequestBody(BODY[20:], True))

    assert stream.exchange.state is State.ANSWERED  # a response may last for hours
    assert stream.budget.used == 0
    assert stream.routing.requests[0].subset is not None


ENDS: dict[str, Callable[[Stream], object]] = {
    "the client leaves": lambda stream: stream.exchange.disconnect(9.0),
    "a local reply comes first": lambda stream: stream.send(OK),
    "it takes too long": lambda stream: stream.exchange.expire(1.0),
    "there is no body": lambda stream: list(stream.exchange.half_closed(9.0)),
    "it is no request": lambda stream: stream.send(RequestBody(b"]", True)),
    "the pool refuses": lambda stream: stream.send(RequestBody(b'{"model":"busy"}', True)),
}


@pytest.mark.parametrize("sentence", ENDS)
def test_headers_that_waited_are_given_back(sentence: str) -> None:
    stream = Stream(measured=True)
    stream.send(headers(b"x" * 1000, metadata=hint(POD.address)))
    assert stream.budget.used > 1000

    ENDS[sentence](stream)

    assert stream.budget.used == 0


def test_headers_that_would_wait_are_refused_where_there_is_no_room() -> None:
    budget = BufferBudget(body_limit=100, total_limit=5000)
    streams = [Stream(budget=budget) for _ in range(5)]

    replies = [stream.send(headers(b"x" * 1200)) for stream in streams]
    without_body = Stream(budget=budget).send(headers(b"x" * 5000, eos=True))

    refused = [getattr(reply, "details", b"") for (reply,) in replies[2:]]
    assert [len(reply) for reply in replies] == [0, 0, 1, 1, 1]
    assert refused == [b"buffers-full"] * 3
    assert [stream.exchange.closing for stream in streams] == [False, False, True, True, True]
    assert [refusal.status for refusal in streams[2].told.refusals] == [503]
    assert isinstance(without_body[0], HeadersReply)  # nothing has to wait
    assert budget.used == 2 * headers(b"x" * 1200).kept


def test_a_hint_that_grows_beyond_what_there_is_room_for_is_refused() -> None:
    stream = Stream(budget=BufferBudget(body_limit=100, total_limit=KEPT + 300))
    stream.send(headers(metadata=hint(POD.address)))

    (reply,) = stream.send(RequestBody(b"{", metadata=hint(*["10.0.0.1:8000"] * 20)))

    assert isinstance(reply, ImmediateReply)
    assert (reply.status, reply.details, stream.budget.used) == (503, b"buffers-full", 0)
