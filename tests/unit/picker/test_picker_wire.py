"""The hand-written wire format agrees with the generated Envoy messages."""

from collections.abc import Callable
from typing import Any

import pytest
from envoy.config.core.v3 import base_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.picker.core import encoding, wire
from rollouts.picker.core.encoding import _size
from rollouts.picker.core.messages import (
    MAX_HEADER_LIST,
    PER_KEPT_LINE,
    PER_LINE,
    BodyMode,
    BodyReply,
    BufferedReply,
    HeadersReply,
    ImmediateReply,
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

pytestmark = pytest.mark.usefixtures("data_path")
BOTH = ("encoding", "wire")

NAMES = st.text("abcdefghijklmnopqrstuvwxyz-:", min_size=1, max_size=150).map(str.encode)
HEADERS = st.dictionaries(NAMES, st.binary(max_size=300), max_size=8)
BODIES = st.one_of(st.binary(max_size=300), st.integers(0, 40_000).map(lambda n: b"x" * n))
LEAF = st.one_of(st.text(max_size=10), st.booleans(), st.none())
TREE = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner)
)
MODES = st.sampled_from(list(BodyMode))


def request_headers(
    headers: dict[bytes, bytes], eos: bool, *, raw: bool = True, response: bool = False
) -> Any:
    message = ext_proc.ProcessingRequest()
    part = message.response_headers if response else message.request_headers
    part.SetInParent()
    part.end_of_stream = eos
    for name, value in headers.items():
        entry = part.headers.headers.add(key=name.decode())
        if raw:
            entry.raw_value = value
        else:
            entry.value = value.hex()
    return message


@given(headers=HEADERS, eos=st.booleans(), modes=st.tuples(MODES, MODES), response=st.booleans())
@settings(max_examples=80, deadline=None)
def test_headers_are_read(
    headers: dict[bytes, bytes], eos: bool, modes: tuple[BodyMode, BodyMode], response: bool
) -> None:
    message = request_headers(headers, eos, response=response)
    message.protocol_config.request_body_mode, message.protocol_config.response_body_mode = modes
    message.attributes["x"].fields["number"].number_value = 1.5

    size = sum(map(len, (*headers, *headers.values()))) + PER_KEPT_LINE * len(headers)
    parts = headers, eos, b"", Protocol(*modes)
    wanted = ResponseHeaders(*parts) if response else RequestHeaders(*parts, kept=size)
    assert wire.decode(message.SerializeToString()) == wanted


def test_names_are_read_in_any_case_and_lists_in_several_lines() -> None:
    """As NGINX Gateway Fabric writes them: Go's spelling, and no pseudo headers."""
    message = request_headers({b"Content-Type": b"a/b"}, False, raw=True)
    for name, value in [("Content-Encoding", b"gzip"), ("Content-Encoding", b"br"), ("X-Id", b"AbC")]:
        message.request_headers.headers.headers.add(key=name, raw_value=value)

    got = wire.decode(message.SerializeToString())

    assert isinstance(got, RequestHeaders)
    assert got.headers[b"content-type"] == b"a/b"
    assert got.headers[b"x-id"] == b"AbC"
    assert got.headers[b"content-encoding"] == b"gzip, br"


def test_plain_values_are_read_and_cookies_joined_and_the_first_of_others_wins() -> None:
    message = request_headers({b"a": b"1"}, False, raw=False)
    for name, value in [("cookie", b"x=1"), ("cookie", b"y=2"), ("b", b"first"), ("b", b"second")]:
        message.request_headers.headers.headers.add(key=name, raw_value=value)

    got = wire.decode(message.SerializeToString())

    assert isinstance(got, RequestHeaders)
    assert got.headers == {b"a": b"1".hex().encode(), b"cookie": b"x=1; y=2", b"b": b"first"}


@given(
    body=BODIES, eos=st.booleans(), response=st.booleans(), grpc_end=st.booleans(), compressed=st.booleans()
)
@settings(max_examples=80, deadline=None)
def test_bodies_are_read(body: bytes, eos: bool, response: bool, grpc_end: bool, compressed: bool) -> None:
    message = ext_proc.ProcessingRequest()
    part = message.response_body if response else message.request_body
    part.SetInParent()
    part.body, part.end_of_stream, part.end_of_stream_without_message = body, eos, grpc_end
    part.grpc_message_compressed = compressed

    want = ResponseBody(body, eos or grpc_end) if response else RequestBody(body, eos or grpc_end)
    assert wire.decode(message.SerializeToString()) == want


def test_trailers_and_an_empty_message_are_read() -> None:
    trailers = ext_proc.ProcessingRequest()
    trailers.request_trailers.trailers.headers.add(key="x", raw_value=b"1")
    late = ext_proc.ProcessingRequest()
    late.response_trailers.SetInParent()

    assert wire.decode(trailers.SerializeToString()) == RequestTrailers()
    assert wire.decode(late.SerializeToString()) == ResponseTrailers()
    assert wire.decode(b"") is None


@given(tree=TREE, key=st.sampled_from(["x-gateway-destination-endpoint-subset", "k"]))
@settings(max_examples=60, deadline=None)
def test_metadata_is_read(tree: Any, key: str) -> None:
    metadata = base_pb2.Metadata()
    metadata.filter_metadata["other"].update({"a": 1})
    metadata.filter_metadata["envoy.lb.subset_hint"].update({key: tree, "n": 3.0})
    message = request_headers({}, False)
    message.metadata_context.CopyFrom(metadata)
    got = wire.decode(message.SerializeToString())
    assert isinstance(got, RequestHeaders)

    assert wire.metadata_value(got.metadata, b"envoy.lb.subset_hint", key.encode()) == tree
    assert wire.metadata_value(got.metadata, b"envoy.lb.subset_hint", b"missing") is None
    assert wire.metadata_value(got.metadata, b"nowhere", b"k") is None


@pytest.mark.parametrize("name", [1, 2, 60, 127, 128])
@pytest.mark.parametrize("value", [0, 1, 61, 62, 63, 64, 122, 123, 124, 127, 128, 200])
def test_headers_of_every_length_are_read(name: int, value: int) -> None:
    headers = {b"n" * name: b"v" * value, b"last": b"x"}

    got = wire.decode(request_headers(headers, True).SerializeToString())

    assert isinstance(got, RequestHeaders)
    assert got.headers == headers


@pytest.mark.parametrize("behind", [b"", b"\x18\x01"])
def test_a_header_of_nothing_is_read_wherever_it_stands(behind: bytes) -> None:
    headers = b"\x0a\x0c\x0a\x07:method\x1a\x01G\x0a\x00"
    part = b"\x0a" + bytes((len(headers),)) + headers + behind

    got = wire.decode(b"\x12" + bytes((len(part),)) + part)

    assert got == RequestHeaders({b":method": b"G", b"": b""}, bool(behind), kept=8 + 2 * PER_KEPT_LINE)


@pytest.mark.parametrize("response", [False, True])
@pytest.mark.parametrize("more", [0, 1])
def test_headers_beyond_a_limit_are_left_out_but_for_a_status(response: bool, more: int) -> None:
    first = b":status" if response else b":method"
    size = MAX_HEADER_LIST - 2 * PER_LINE - len(first) - len(b"200x") + more
    headers = {first: b"200", b"x": b"v" * size}

    got = wire.decode(request_headers(headers, False, response=response, raw=True).SerializeToString())

    assert isinstance(got, RequestHeaders | ResponseHeaders)
    left = {b":status": b"200"} if response else {}
    assert got.headers == (left if more else headers)


BROKEN_HEADERS = {
    "a header that is longer than its map": b"\x0a\x09\x0a\x01a\x1a\x09v",
    "a header with a value that is longer than the map": b"\x0a\x0e\x0a\x01a\x1a\x09v",
    "a value that is longer than its header": b"\x0a\x06\x0a\x01a\x1a\x09v" + b"\x0a\x06\x0a\x01b\x1a\x01v",
    "a name that is longer than its header": b"\x0a\x06\x0a\x7fa\x1a\x01v",
    "a field that a header does not have": b"\x0a\x06\x0a\x01a\x22\x01v",
    "a header that is cut off": b"\x0a\x06\x0a",
}


@pytest.mark.parametrize("sentence", BROKEN_HEADERS)
def test_a_broken_header_is_refused(sentence: str) -> None:
    headers = BROKEN_HEADERS[sentence]
    part = b"\x0a" + bytes((len(headers),)) + headers

    with pytest.raises(wire.WireError):
        wire.decode(b"\x12" + bytes((len(part),)) + part)


@pytest.mark.parametrize("size", [0, 1, 100, 127, 128, 16_350, 16_384, 62_000])
@pytest.mark.parametrize("end", [False, True])
def test_streamed_bodies_of_every_length_are_written(size: int, end: bool) -> None:
    for side in Side:
        message = ext_proc.ProcessingResponse.FromString(encoding.encode(BodyReply(side, b"x" * size, end)))
        body = message.request_body if side is Side.REQUEST else message.response_body
        streamed = body.response.body_mutation.streamed_response
        assert (len(streamed.body), streamed.end_of_stream) == (size, end)


def test_metadata_that_is_nested_without_end_is_refused() -> None:
    data = b"\x1a\x00"
    for _ in range(200):
        data = b"\x32" + _size(len(data) + 1 + len(_size(len(data)))) + b"\x0a" + _size(len(data)) + data
    entry = b"\x0a\x01k\x12" + _size(len(data)) + data
    struct = b"\x0a" + _size(len(entry)) + entry
    outer = b"\x0a\x01s\x12" + _size(len(struct)) + struct
    metadata = b"\x0a" + _size(len(outer)) + outer

    with pytest.raises(wire.WireError, match="deep"):
        wire.metadata_value(metadata, b"s", b"k")


@pytest.mark.parametrize(("size", "refused"), [(wire.MAX_METADATA, False), (wire.MAX_METADATA + 1, True)])
def test_metadata_beyond_a_limit_is_refused_before_it_is_read(size: int, refused: bool) -> None:
    metadata = base_pb2.Metadata()
    hint = metadata.filter_metadata["envoy.lb.subset_hint"]
    hint["k"] = "10.0.0.1"
    rest = size - metadata.ByteSize()
    metadata.filter_metadata["other"]["pad"] = "x" * (rest - 32)
    metadata.filter_metadata["other"]["pad"] += "x" * (size - metadata.ByteSize())
    data = metadata.SerializeToString()
    assert len(data) == size

    if refused:
        with pytest.raises(wire.WireError, match=f"metadata of {size} bytes; at most 65536 are read"):
            wire.metadata_value(data, b"envoy.lb.subset_hint", b"k")
    else:
        assert wire.metadata_value(data, b"envoy.lb.subset_hint", b"k") == "10.0.0.1"


def outcome(read: Callable[[], object]) -> str:
    """Any exception but WireError goes through and fails the test."""
    try:
        read()
    except wire.WireError:
        return "refused"
    return "read"


@given(data=st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    assert outcome(lambda: wire.decode(b"\x12" + bytes([len(data)]) + data)) in ("read", "refused")
    assert outcome(lambda: wire.metadata_value(data + b"s", b"s", b"k")) in ("read", "refused")


@given(headers=HEADERS, cut=st.integers(0, 400), flip=st.integers(0, 400), bit=st.integers(0, 255))
@settings(max_examples=150, deadline=None)
def test_damaged_messages_never_escape_as_another_error(
    headers: dict[bytes, bytes], cut: int, flip: int, bit: int
) -> None:
    data = bytearray(request_headers(headers, True).SerializeToString())
    data[flip % len(data)] ^= bit
    assert outcome(lambda: wire.decode(bytes(data[:cut]))) in ("read", "refused")


PAIRS = st.lists(st.tuples(NAMES, st.binary(max_size=200)), max_size=4).map(tuple)
ENDPOINT = st.sampled_from([b"", b"10.0.0.1:8000", b"[::1]:8000"])


def check_common(common: Any, pairs: Any, remove: Any, clear: bool) -> None:
    mutation = common.header_mutation
    assert tuple((h.header.key.encode(), h.header.raw_value) for h in mutation.set_headers) == pairs
    overwrite = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    assert all(h.append_action == overwrite and not h.header.value for h in mutation.set_headers)
    assert tuple(name.encode() for name in mutation.remove_headers) == remove
    assert common.clear_route_cache is clear


def check_endpoint(message: Any, endpoint: bytes) -> None:
    metadata = message.dynamic_metadata.fields
    got = (
        metadata["envoy.lb"].struct_value.fields["x-gateway-destination-endpoint"].string_value
        if metadata
        else ""
    )
    assert got.encode() == endpoint


@given(
    side=st.sampled_from(Side),
    pairs=PAIRS,
    remove=st.lists(NAMES, max_size=2).map(tuple),
    clear=st.booleans(),
    endpoint=ENDPOINT,
    body=st.none() | BODIES,
)
@settings(max_examples=100, deadline=None)
def test_header_and_buffered_replies_are_written(
    side: Side, pairs: Any, remove: Any, clear: bool, endpoint: bytes, body: bytes | None
) -> None:
    header = ext_proc.ProcessingResponse.FromString(
        encoding.encode(HeadersReply(side, pairs, remove, clear, endpoint))
    )
    buffered = ext_proc.ProcessingResponse.FromString(
        encoding.encode(BufferedReply(side, body, pairs, remove, clear, endpoint))
    )

    assert header.WhichOneof("response") == ["request_headers", "response_headers"][side]
    check_common((header.request_headers, header.response_headers)[side].response, pairs, remove, clear)
    check_endpoint(header, endpoint)
    assert buffered.WhichOneof("response") == ["request_body", "response_body"][side]
    common = (buffered.request_body, buffered.response_body)[side].response
    check_common(common, pairs, remove, clear)
    assert (common.body_mutation.body if common.HasField("body_mutation") else None) == body
    check_endpoint(buffered, endpoint)


@given(side=st.sampled_from(Side), body=BODIES, eos=st.booleans())
@settings(max_examples=60, deadline=None)
def test_streamed_bodies_are_written(side: Side, body: bytes, eos: bool) -> None:
    message = ext_proc.ProcessingResponse.FromString(encoding.encode(BodyReply(side, body, eos)))

    part = (message.request_body, message.response_body)[side]
    streamed = part.response.body_mutation.streamed_response
    assert message.WhichOneof("response") == ["request_body", "response_body"][side]
    assert part.response.body_mutation.WhichOneof("mutation") == "streamed_response"
    assert (streamed.body, streamed.end_of_stream) == (body, eos)


def test_trailers_and_immediate_replies_are_written() -> None:
    for side, field in ((Side.REQUEST, "request_trailers"), (Side.RESPONSE, "response_trailers")):
        message = ext_proc.ProcessingResponse.FromString(encoding.encode(TrailersReply(side)))
        assert message.WhichOneof("response") == field
    refusal = ext_proc.ProcessingResponse.FromString(
        encoding.encode(ImmediateReply(503, b"no endpoint", b"why", ((b"x", b"y"),)))
    ).immediate_response

    assert (refusal.status.code, refusal.body, refusal.details) == (503, b"no endpoint", "why")
    assert refusal.headers.set_headers[0].header.raw_value == b"y"
