"""Every kind of request body finds its pod: by its model where it has one, and changed in nothing but its model."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import brotli
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st
from python_multipart import MultipartParser
from python_multipart.multipart import parse_options_header

from rollouts.picker.core import coding as coding_module
from rollouts.picker.core.coding import FREE, MAX_RATIO, Decoding
from rollouts.picker.core.form import MAX_PARTS
from rollouts.picker.core.messages import (
    BodyMode,
    BodyReply,
    BufferedReply,
    Headers,
    HeadersReply,
    ImmediateReply,
    Outgoing,
    Protocol,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
    Side,
)
from rollouts.picker.core.objects import PoolName, read_snapshot
from rollouts.picker.core.ports import BufferBudget
from rollouts.picker.core.protocol import Exchange
from rollouts.picker.core.routing import Router
from rollouts.picker.core.schedule import Scheduler
from tests.kit.told import Told

pytestmark = pytest.mark.usefixtures("data_path")
BOTH = ("Exchange", "Router")

JSON = b"application/json"
BODY = b'{"model":"travelhelper","messages":[]}'
SENT = b'{"model":"v2","messages":[]}'


class Outcome(NamedTuple):
    """``status`` 0: it went to a pod, with ``body``."""

    status: int
    message: str
    body: bytes
    length: bytes | None
    removed: tuple[bytes, ...]
    model: str


class Door:
    """A router with one pool, and exchanges on it. ``rules``: raw objects beside pool and pod."""

    def __init__(self, objects: Any, *rules: Any, budget: BufferBudget | None = None) -> None:
        self.router = Router(Scheduler())
        raw = [objects.pool(), objects.pod("10.0.0.1"), *rules]
        self.router.update(read_snapshot([PoolName("default", "pool")], raw), 0.0, 0.0)
        self.budget = budget or BufferBudget()
        self.told = Told()

    def exchange(self, **how: Any) -> Exchange:
        return Exchange(self.router, self.told, self.budget, **how)

    def post(
        self, body: bytes, headers: Headers, *, size: int = 1 << 20, mode: BodyMode | None = None
    ) -> Outcome:
        """One request, its body in chunks of ``size`` bytes."""
        exchange = self.exchange()
        modes = Protocol(mode or BodyMode.FULL_DUPLEX_STREAMED)
        head = RequestHeaders({b":method": b"POST", **headers}, False, b"", modes)
        parts = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
        replies = list(exchange.receive(head, 0.0))
        for index, part in enumerate(parts):
            replies += exchange.receive(RequestBody(part, index == len(parts) - 1), 0.0)
        exchange.disconnect(1.0)
        assert self.budget.used == 0
        return outcome(replies, self.told)


def outcome(replies: list[Outgoing], told: Told) -> Outcome:
    if isinstance(replies[-1], ImmediateReply):
        error = json.loads(replies[-1].body)["error"]
        return Outcome(replies[-1].status, error["message"], b"", None, (), "")
    head = next(r for r in replies if isinstance(r, HeadersReply | BufferedReply) and r.endpoint)
    length = dict(head.set_headers).get(b"content-length")
    pieces = [reply for reply in replies if isinstance(reply, BodyReply)]
    assert [piece.end_of_stream for piece in pieces] == [False] * (len(pieces) - 1) + [True] * bool(pieces)
    body = b"".join(piece.body for piece in pieces)
    if isinstance(head, BufferedReply):
        body = head.body or b""
    if length is not None:
        assert int(length) == len(body)
    return Outcome(0, "", body, length, head.remove_headers, told.decisions[-1].model)


@pytest.fixture
def ruled(objects: Any) -> Door:
    """All of travelhelper goes to v2."""
    return Door(objects, objects.model({"v2": 1}))


@pytest.fixture
def free(objects: Any) -> Door:
    """No rules."""
    return Door(objects)


@pytest.fixture
def generic(objects: Any) -> Door:
    """All models become v2."""
    return Door(objects, objects.rewrite({"v2": 1}, model=None))


def typed(value: bytes, **more: bytes) -> Headers:
    return {
        b"content-type": value,
        **{name.replace("_", "-").encode(): value for name, value in more.items()},
    }


# --- JSON as json.loads of bytes reads it --------------------------------------------------------------------

CHARSETS = (
    "utf-8",
    "utf-8-sig",
    "utf-16",
    "utf-16-le",
    "utf-16-be",
    "utf-32",
    "utf-32-le",
    "utf-32-be",
)


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("charset", CHARSETS)
def test_json_in_any_encoding_is_routed_and_changed_in_its_model_alone(
    ruled: Door, charset: str, size: int
) -> None:
    text = ' {"a":"é😀\\u00e9 \\" ","model" : "travelhelper", "n":[1,NaN,-Infinity],"z":"日本"} '
    body = text.encode(charset)

    got = ruled.post(body, typed(JSON), size=size)

    assert (got.status, got.model) == (0, "travelhelper")
    assert got.body == body.replace(*(enc(word, charset) for word in ("travelhelper", "v2")))
    assert json.loads(got.body)["model"] == "v2"


def enc(word: str, charset: str) -> bytes:
    """Without a byte order mark."""
    endless = {"utf-16": "utf-16-le", "utf-32": "utf-32-le", "utf-8-sig": "utf-8"}
    return word.encode(endless.get(charset, charset))


@pytest.mark.parametrize(
    "body", [b'{"messages":[]}', b'{"model":null}', b'{"model":""}', b"{}", b""], ids=repr
)
def test_without_a_model_the_base_model_answers_as_it_does_in_vllm(ruled: Door, body: bytes) -> None:
    got = ruled.post(body, typed(JSON))

    assert (got.status, got.body, got.model) == (0, body, "")


@pytest.mark.parametrize("charset", CHARSETS)
@pytest.mark.parametrize(
    ("body", "want"),
    [
        ('{"messages":[]}', '{"model":"v2","messages":[]}'),
        (' { "a":1}', ' {"model":"v2", "a":1}'),
        ("{ }", '{"model":"v2" }'),
        ('{"model":null}', '{"model":"v2"}'),
        ('{"model":""}', '{"model":"v2"}'),
        ('{"model":"x"}', '{"model":"v2"}'),
    ],
)
def test_a_rule_for_all_models_is_for_requests_without_one_too(
    generic: Door, charset: str, body: str, want: str
) -> None:
    got = generic.post(body.encode(charset), typed(JSON), size=3)

    assert (got.status, got.body.decode(charset)) == (0, want)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\x00\x00\x00{\x00\x11\x00\x00", "UTF-32-BE"),
        (b"[1]", "not a JSON object"),
        (b"\xef\xbb\xbf\xef\xbb\xbf{}", "not a JSON object"),
        (b'{"model":"\xff"}', "not UTF-8"),
        (b'{"model":[]}', "an object or array"),
        (b'{"model":1}', "has to be a string"),
        (b'{"model":"' + b"x" * 5000 + b'"}', "too long for a name"),
        ('{"model":"a"}'.encode("utf-16-le")[:-1], "UTF-16-LE"),
        (gzip.compress(BODY, mtime=0), "begins like gzip"),
        (zstd.compress(BODY), "begins like zstd"),
    ],
    ids=lambda value: repr(value)[:40],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_what_is_called_json_and_is_none_is_refused_with_the_reason(
    free: Door, body: bytes, words: str, size: int
) -> None:
    got = free.post(body, typed(JSON), size=size)

    assert (got.status, words in got.message) == (400, True), got.message


@pytest.mark.parametrize(
    "content_type",
    [
        JSON,
        b"application/json; charset=utf-8",
        b"application/json;charset=latin-1",
        b"Application/JSON",
        b"application/vnd.api+json",
        b"application/x-www-form-urlencoded",
        b"text/plain;charset=UTF-8",
        b"text/json",
        b"",
        b"nonsense",
    ],
)
def test_a_json_body_is_found_whatever_it_is_called(ruled: Door, content_type: bytes) -> None:
    assert ruled.post(BODY, typed(content_type), size=5).body == SENT


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (b"text/plain", b"hello"),
        (b"application/octet-stream", bytes(range(256)) * 3),
        (b"application/x-www-form-urlencoded", b"model=travelhelper&x=1"),
        (b"audio/wav", b"RIFF\x00\x00"),
        (b"application/x-ndjson", b'{"a":1}\n{"b":2}\n'),
        (b"application/x-protobuf", b"\x0a\x03abc"),
        (b"text/plain", b"{cut off"),
        (b"multipart/mixed; boundary=x", b"--x\r\n\r\nhello\r\n--x--"),
        (b"multipart/form-data", b"no boundary"),
        (b"multipart/form-data; boundary=x", b"no form"),
    ],
)
def test_other_bodies_pass_unless_a_rule_is_for_all_models(
    ruled: Door, generic: Door, content_type: bytes, body: bytes, size: int
) -> None:
    got = ruled.post(body, typed(content_type, content_length=b"%d" % len(body)), size=size)
    refused = generic.post(body, typed(content_type), size=size)

    assert (got.status, got.body, got.model) == (0, body, "")
    assert got.length in (None, b"%d" % len(body))
    assert refused.status in (400, 415)
    assert ("form" in content_type.decode()) or content_type.decode() in refused.message


def test_a_body_that_is_not_read_is_not_held(free: Door) -> None:
    exchange = free.exchange()
    list(exchange.receive(RequestHeaders({b":method": b"POST", **typed(b"audio/wav")}), 0.0))

    first = list(exchange.receive(RequestBody(b"RIFF"), 0.0))
    second = list(exchange.receive(RequestBody(b"x" * 200_000), 0.0))
    response = list(exchange.receive(ResponseHeaders({b":status": b"200"}), 0.0))
    third = list(exchange.receive(RequestBody(b"end", True), 0.0))

    assert isinstance(first[0], HeadersReply)
    assert free.budget.used == 0
    sent = [reply for reply in (*first[1:], *second, *third) if isinstance(reply, BodyReply)]
    assert b"".join(reply.body for reply in sent) == b"RIFF" + b"x" * 200_000 + b"end"
    assert [reply.end_of_stream for reply in sent].count(True) == 1
    assert response == [HeadersReply(Side.RESPONSE)]
    assert exchange.closing


# --- content codings -----------------------------------------------------------------------------------------

CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "X-GZIP": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstd.compress,
    "br": brotli.compress,
    "identity": bytes,
    "gzip, br": lambda data: brotli.compress(gzip.compress(data, mtime=0)),
    "deflate,zstd , gzip": lambda data: gzip.compress(zstd.compress(zlib.compress(data))),
}


def raw_deflate(data: bytes) -> bytes:
    made = zlib.compressobj(wbits=-15)
    return made.compress(data) + made.flush()


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("coding", CODINGS)
def test_a_coded_body_is_read_through_and_sent_without_its_coding_where_its_model_changes(
    ruled: Door, free: Door, coding: str, size: int
) -> None:
    body = BODY.replace(b"[]", json.dumps([f"text {n}" for n in range(400)]).encode())
    coded, headers = CODINGS[coding](body), typed(JSON, content_encoding=coding.encode())

    got, passed = ruled.post(coded, headers, size=size), free.post(coded, headers, size=size)

    assert (got.status, got.body) == (0, body.replace(b"travelhelper", b"v2"))
    assert got.removed == (() if coding == "identity" else (b"content-encoding",))
    assert (passed.body, passed.removed, passed.model) == (coded, (), "travelhelper")


def test_raw_deflate_and_several_members_are_read_as_well(ruled: Door) -> None:
    half = len(BODY) // 2
    members = gzip.compress(BODY[:half], mtime=0) + gzip.compress(BODY[half:])
    frames = zstd.compress(BODY[:half]) + zstd.compress(BODY[half:])

    assert ruled.post(raw_deflate(BODY), typed(JSON, content_encoding=b"deflate"), size=1).body == SENT
    assert ruled.post(members, typed(JSON, content_encoding=b"gzip"), size=9).body == SENT
    assert ruled.post(frames, typed(JSON, content_encoding=b"zstd"), size=9).body == SENT


def test_in_a_split_all_targets_get_the_body_in_one_form(objects: Any) -> None:
    door = Door(objects, objects.model({"travelhelper": 1, "v2": 1}))
    coded, headers = gzip.compress(BODY, mtime=0), typed(JSON, content_encoding=b"gzip")

    got = [door.post(coded, headers) for _ in range(4)]

    assert {each.body for each in got} == {BODY, SENT}
    assert {each.removed for each in got} == {(b"content-encoding",)}


def test_a_coded_form_and_coded_utf_16_are_read_too(ruled: Door) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\ntravelhelper\r\n--x--\r\n'
    headers = typed(b"multipart/form-data; boundary=x", content_encoding=b"br")
    assert ruled.post(brotli.compress(form), headers).body == form.replace(b"travelhelper", b"v2")

    wide = BODY.decode().encode("utf-16")
    got = ruled.post(gzip.compress(wide, mtime=0), typed(JSON, content_encoding=b"gzip"), size=3)
    assert json.loads(got.body) == {"model": "v2", "messages": []}


@pytest.mark.parametrize("mode", [BodyMode.FULL_DUPLEX_STREAMED, BodyMode.BUFFERED])
@pytest.mark.parametrize(
    "coding", ["compress", "snappy", "gzip, aws-chunked", "gzip,gzip,gzip,gzip", "x" * 300]
)
def test_an_unknown_coding_passes_where_nothing_is_split_and_is_415_else(
    free: Door, ruled: Door, coding: str, mode: BodyMode
) -> None:
    headers = typed(JSON, content_encoding=coding.encode(), content_length=b"5")

    passed = free.post(b"12345", headers, mode=mode)
    refused = ruled.post(b"12345", headers, mode=mode)

    assert (passed.status, passed.body) == (0, b"12345" if mode is BodyMode.FULL_DUPLEX_STREAMED else b"")
    assert refused.status == 415
    assert coding[:100] in refused.message


@pytest.mark.parametrize("size", [5, 1 << 20])
@pytest.mark.parametrize(
    ("coding", "damage"),
    [
        (coding, damage)
        for coding in ("gzip", "deflate", "zstd", "br")
        for damage in ("cut", "text", "more")
        if (coding, damage) != ("deflate", "text")
    ],
)
def test_a_damaged_body_is_refused_by_the_name_of_its_coding(
    ruled: Door, free: Door, coding: str, damage: str, size: int
) -> None:
    whole = CODINGS[coding](BODY)
    body = {"cut": whole[:-3], "text": BODY, "more": whole + b"more"}[damage]
    headers = typed(JSON, content_encoding=coding.encode())

    refused, passed = ruled.post(body, headers, size=size), free.post(body, headers, size=size)

    assert (refused.status, coding in refused.message) == (400, True), refused.message
    assert (passed.status, passed.body) == (0, body)


BOMBS = {
    **CODINGS,
    "br": lambda data: brotli.compress(data, quality=5),
    "gzip, zstd": lambda data: zstd.compress(gzip.compress(data, mtime=0)),
}


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd", "br", "gzip, zstd"])
@pytest.mark.parametrize("size", [1000, 1 << 20])
def test_a_body_that_unfolds_without_end_is_refused_early(objects: Any, coding: str, size: int) -> None:
    budget = BufferBudget(body_limit=8 << 20, total_limit=16 << 20)
    door, free = Door(objects, objects.model({"v2": 1}), budget=budget), Door(objects, budget=budget)
    bomb = BOMBS[coding](b'{"model":"travelhelper","a":"' + b"x" * (12 << 20) + b'"}')
    headers = typed(JSON, content_encoding=coding.encode())

    assert len(bomb) * MAX_RATIO < 12 << 20
    refused, passed = door.post(bomb, headers, size=size), free.post(bomb, headers, size=size)

    assert refused.status == 413
    assert "unfolds" in refused.message or "without its coding" in refused.message
    assert passed.body == bomb


@pytest.mark.parametrize("coding", ["gzip", "zstd", "br"])
def test_a_body_below_the_limit_may_not_unfold_too_far_either(ruled: Door, coding: str) -> None:
    bomb = BOMBS[coding](b'{"model":"travelhelper","a":"' + b"x" * (12 << 20) + b'"}')

    got = ruled.post(bomb, typed(JSON, content_encoding=coding.encode()))

    assert (got.status, "200 times" in got.message) == (413, True)


def test_what_unfolds_on_the_way_counts_though_nothing_comes_of_it(objects: Any) -> None:
    budget = BufferBudget(body_limit=8 << 20, total_limit=16 << 20)
    door = Door(objects, objects.model({"v2": 1}), budget=budget)
    size = 12 << 20
    skipped = (
        b"\x50\x2a\x4d\x18" + size.to_bytes(4, "little") + bytes(size)
    )  # a frame without content (RFC 8878)

    got = door.post(gzip.compress(skipped + zstd.compress(BODY)), typed(JSON, content_encoding=b"zstd, gzip"))

    assert got.status == 413


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd", "br"])
def test_a_body_of_any_length_comes_out_whole(monkeypatch: pytest.MonkeyPatch, coding: str) -> None:
    """zlib may hold output back, or the end, when all of its input is gone."""
    monkeypatch.setattr(coding_module, "PIECE", 64)
    rng = random.Random(1)
    for _ in range(300):
        text = rng.choice((b"a", b"ab", rng.randbytes(40))) * rng.randrange(1, 600)
        body = text[: rng.randrange(1, len(text) + 1)]
        coded = raw_deflate(body) if coding == "deflate" else BOMBS[coding](body)
        decoding = Decoding((coding,), 1 << 20)

        assert b"".join(decoding.feed(coded)) == body
        decoding.finish()


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd", "br"])
def test_a_long_body_whose_coded_form_comes_at_once_comes_out_whole(ruled: Door, coding: str) -> None:
    """Brotli holds output back when all of its input is gone, and then says that it can accept more."""
    body = BODY.replace(b"[]", b'"' + b"The same sentence once more. " * 10_000 + b'"')
    coded = BOMBS[coding](body)

    got = ruled.post(coded, typed(JSON, content_encoding=coding.encode()))

    assert (got.status, got.body) == (0, body.replace(b"travelhelper", b"v2"))


def test_text_that_compresses_well_is_no_bomb(ruled: Door) -> None:
    body = BODY.replace(b"[]", b'"' + b"The same sentence once more. " * (FREE // 40) + b'"')

    got = ruled.post(gzip.compress(body, 9, mtime=0), typed(JSON, content_encoding=b"gzip"))

    assert got.body == body.replace(b"travelhelper", b"v2")


def test_many_empty_members_are_no_way_to_keep_the_picker_busy(ruled: Door) -> None:
    body = gzip.compress(b"", mtime=0) * 5000

    got = ruled.post(body, typed(JSON, content_encoding=b"gzip"))

    assert got.status == 400


# --- forms ---------------------------------------------------------------------------------------------------

AUDIO = (
    random.Random(1).randbytes(3000) + b"\r\n--\r\n--x\r\n--bound\r\nContent-Disposition: form-data\r\n\r\n"
)


def part(value: bytes, disposition: str, *more: str) -> bytes:
    lines = [f"Content-Disposition: form-data; {disposition}", *more]
    return b"--boundary\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n" + value + b"\r\n"


FILE = part(AUDIO, 'name="file"; filename="a.wav"', "Content-Type: audio/wav")
MODEL = part(b"travelhelper", 'name="model"')
END = b"--boundary--\r\n"
FORM = b'multipart/form-data; boundary="boundary"'

FORMS: dict[str, tuple[bytes, bytes]] = {
    "the model first": (FORM, MODEL + FILE + END),
    "the model last": (FORM, FILE + MODEL + END),
    "the last of several counts": (FORM, part(b"x", 'name="model"') + FILE + MODEL + END),
    "an unquoted name": (FORM, part(b"travelhelper", "name=model") + FILE + END),
    "header names in any case": (FORM, MODEL.replace(b"Content-Disposition", b"CONTENT-disposition") + FILE + END),
    "further headers and parameters": (
        FORM,
        part(b"travelhelper", 'x=1; name="model"; y="a;b"', "Content-Type: text/plain", "X: name=file") + END,
    ),
    "a file whose name says model": (FORM, MODEL + part(b"other", 'name="model"; filename="a"') + END),
    "a file name with name=model inside": (
        FORM, part(b"data", 'name="file"; filename="; name=\\"model\\""') + MODEL + END,
    ),
    "a field called model[]": (FORM, MODEL + part(b"other", 'name="model[]"') + END),
    "a value that looks like a part": (
        FORM, part(b'Content-Disposition: form-data; name="model"\r\n\r\nother', 'name="prompt"') + MODEL + END,
    ),
    "a boundary without quotes": (b"multipart/form-data; boundary=boundary", MODEL + FILE + END),
    "a type in capitals and a charset": (
        b"Multipart/Form-Data; charset=utf-8; boundary=boundary", MODEL + FILE + END,
    ),
    "an epilogue": (FORM, MODEL + END + b"anything"),
    "empty lines before the first boundary": (FORM, b"\r\n\r\n" + MODEL + END),
    "an empty field": (FORM, part(b"", 'name="language"') + MODEL + END),
}  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 11, 1 << 20])
@pytest.mark.parametrize("sentence", FORMS)
def test_a_form_is_routed_by_its_field_and_changed_there_alone(ruled: Door, sentence: str, size: int) -> None:
    content_type, body = FORMS[sentence]
    assert body.count(b"travelhelper") == 1

    got = ruled.post(body, typed(content_type, content_length=b"%d" % len(body)), size=size)

    assert (got.status, got.model) == (0, "travelhelper")
    assert got.body == body.replace(b"travelhelper", b"v2")


def test_a_name_beyond_ascii_is_written_in_the_charset_of_the_form(objects: Any) -> None:
    door = Door(objects, objects.rewrite({"modèle-2": 1}, model="modèle"))
    body = part("modèle".encode("latin-1"), 'name="model"') + END
    latin, utf8 = FORM + b"; charset=iso-8859-1", FORM

    got = door.post(body, typed(latin))
    assert got.body == body.replace("modèle".encode("latin-1"), "modèle-2".encode("latin-1"))
    again = door.post(part("modèle".encode(), 'name="model"') + END, typed(utf8))
    assert "modèle-2".encode() in again.body


@pytest.mark.parametrize("charset", ["utf-16", "punycode", "rot13", "nothing", "a\0b", "utf-\x008", ""])
def test_a_form_in_another_charset_is_read_as_latin_1(objects: Any, charset: str) -> None:
    door = Door(objects, objects.rewrite({"v2": 1}, model="modèle"))
    body = part("modèle".encode("latin-1"), 'name="model"') + END
    utf8 = Door(objects, objects.rewrite({"v2": 1}, model="modèle".encode().decode("latin-1")))

    got = door.post(body, typed(FORM + b"; charset=" + charset.encode()))
    also = utf8.post(
        part("modèle".encode(), 'name="model"') + END, typed(FORM + b"; charset=" + charset.encode())
    )

    assert got.body == body.replace("modèle".encode("latin-1"), b"v2")
    assert b"v2" in also.body


@pytest.mark.parametrize("size", [1, 4, 1 << 20])
def test_a_value_that_begins_like_a_boundary_is_replaced_whole(objects: Any, size: int) -> None:
    door = Door(objects, objects.rewrite({"v2": 1}, model="\r\n--bxx"))
    body = part(b"\r\n--bxx", 'name="model"') + FILE + END

    assert door.post(body, typed(FORM), size=size).body == part(b"v2", 'name="model"') + FILE + END


@pytest.mark.parametrize(
    ("sentence", "body"),
    [
        ("no model", FILE + END),
        ("only a file of that name", part(b"travelhelper", 'name="model"; filename="m"') + END),
        ("an empty model", part(b"", 'name="model"') + END),
        ("a model part that does not end", FILE + MODEL[:-2]),
        ("a part without a name", part(b"x", "a=1") + MODEL + END),
        ("too many parts", part(b"1", 'name="a"') * (MAX_PARTS + 1) + MODEL + END),
    ],
)
@pytest.mark.parametrize("size", [50, 1 << 20])
def test_a_form_without_a_model_passes_unless_a_rule_is_for_all(
    ruled: Door, generic: Door, sentence: str, body: bytes, size: int
) -> None:
    got, refused = ruled.post(body, typed(FORM), size=size), generic.post(body, typed(FORM), size=size)

    assert (got.status, got.body) == (0, body)
    assert refused.status == 400


def test_a_model_of_a_form_that_is_too_long_is_refused(free: Door) -> None:
    got = free.post(part(b"x" * 100_000, 'name="model"') + END, typed(FORM), size=1000)

    assert (got.status, "too long" in got.message) == (400, True)


def library(body: bytes, boundary: bytes) -> bytes | None:
    """The last field called model, as Starlette finds it with the library; None when it refuses the form."""
    found: list[bytes] = []
    parts: list[dict[str, Any]] = []
    header = [b"", b""]

    def ended() -> None:
        if header[0].lower() == b"content-disposition":
            parts[-1]["options"] = parse_options_header(header[1])[1]
        header[:] = [b"", b""]

    def named() -> None:
        if b"name" not in parts[-1]["options"]:
            raise ValueError("no name")

    def closed() -> None:
        options = parts[-1]["options"]
        if options[b"name"] == b"model" and b"filename" not in options:
            found.append(parts[-1]["data"])

    def data(chunk: bytes, start: int, end: int) -> None:
        parts[-1]["data"] += chunk[start:end]

    def field(chunk: bytes, start: int, end: int) -> None:
        header[0] += chunk[start:end]

    def value(chunk: bytes, start: int, end: int) -> None:
        header[1] += chunk[start:end]

    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": lambda: parts.append({"options": {}, "data": b""}),
            "on_header_field": field,
            "on_header_value": value,
            "on_header_end": ended,
            "on_headers_finished": named,
            "on_part_data": data,
            "on_part_end": closed,
        },
    )
    try:
        parser.write(body)
    except ValueError:
        return None
    return found[-1] if found else b""


PIECES = [
    b"--b", b"--b--", b"\r\n", b"\r", b"\n", b"-", b"--", b": ", b"model", b'name="model"', b"travelhelper",
    b"\r\n--b\r\nContent-Disposition: form-data; name=model\r\n\r\n", b'; filename="x"', b"\r\n\r\n", b"b",
    b'Content-Disposition: form-data; name="model"', b"\r\n--b",
]  # fmt: skip


@given(pieces=st.lists(st.sampled_from(PIECES), max_size=12), size=st.integers(1, 9))
@settings(max_examples=150, deadline=None)
def test_any_form_is_read_as_the_library_reads_it_and_the_change_hits_its_model(
    objects: Any, pieces: list[bytes], size: int
) -> None:
    """However chunks cut it: the position of the value is what the library does not tell."""
    door = Door(objects, objects.rewrite({"v2": 1}, model="travelhelper"))
    body = b"--b\r\nContent-Disposition: form-data; name=model\r\n\r\n" + b"".join(pieces)

    got = door.post(body, typed(b"multipart/form-data; boundary=b"), size=size)

    if library(body, b"b") == b"travelhelper":
        assert library(got.body, b"b") == b"v2"
        assert len(got.body) == len(body) - len(b"travelhelper") + 2
    else:
        assert got.body == body


# --- what cannot wait for its end ----------------------------------------------------------------------------

UPGRADES: dict[str, Headers] = {
    "WebSocket": {b":method": b"GET", b"connection": b"Upgrade", b"upgrade": b"websocket"},
    "any case, among others": {b":method": b"GET", b"connection": b"close, UPGRADE", b"upgrade": b"WebSocket, h2c"},
    "another protocol, by POST": {
        b":method": b"POST", b"connection": b"upgrade", b"upgrade": b"SPDY/3.1", b"content-length": b"0",
    },
    "extended CONNECT": {b":method": b"CONNECT", b":protocol": b"websocket"},
}  # fmt: skip


@pytest.mark.parametrize("mode", [BodyMode.FULL_DUPLEX_STREAMED, BodyMode.BUFFERED, BodyMode.STREAMED])
@pytest.mark.parametrize("sentence", UPGRADES)
def test_an_upgrade_is_routed_at_its_headers_and_left(ruled: Door, sentence: str, mode: BodyMode) -> None:
    exchange = ruled.exchange()
    head = RequestHeaders({b":path": b"/v1/realtime", **UPGRADES[sentence]}, False, b"", Protocol(mode))

    (reply,) = exchange.receive(head, 0.0)

    assert isinstance(reply, HeadersReply)
    assert reply.endpoint == b"10.0.0.1:8000"
    assert exchange.closing


@pytest.mark.parametrize(
    "more",
    [
        {b"connection": b"Upgrade, HTTP2-Settings", b"upgrade": b"h2c"},
        {b"upgrade": b"websocket"},
        {b"connection": b"Upgrade", b"upgrade": b"websocket", b"content-length": b"38"},
    ],
    ids=["HTTP/2 is offered", "no connection option", "there is a body"],
)
def test_a_body_is_read_whatever_upgrade_is_offered_with_it(ruled: Door, more: Headers) -> None:
    assert ruled.post(BODY, typed(JSON) | more, size=9).body == SENT


def test_a_grpc_request_passes_by_message_for_message(ruled: Door) -> None:
    exchange = ruled.exchange()
    head = RequestHeaders({b":method": b"POST", **typed(b"application/grpc+proto")})

    replies = list(exchange.receive(head, 0.0))
    for message in (
        RequestBody(b"one"),
        ResponseHeaders({b":status": b"200", b"content-type": b"application/grpc"}),
        ResponseBody(b"answer"),
        RequestBody(b"two"),
        RequestTrailers(),
    ):
        assert not exchange.closing
        replies += exchange.receive(message, 0.0)

    sides = [(reply.side, reply.body) for reply in replies if isinstance(reply, BodyReply)]
    assert sides == [(Side.REQUEST, b"one"), (Side.RESPONSE, b"answer"), (Side.REQUEST, b"two")]
    assert exchange.closing


# --- gateways that leave early, or do not let go -------------------------------------------------------------


def test_a_kept_stream_shows_the_whole_exchange_and_ends_with_it(ruled: Door) -> None:
    exchange = ruled.exchange(keep=True)
    replies: list[Outgoing] = []
    for message in (
        RequestHeaders({b":method": b"POST", **typed(JSON)}),
        RequestBody(BODY, True),
        ResponseHeaders({b":status": b"200"}),
        ResponseBody(b"a"),
        ResponseTrailers(),
    ):
        assert not exchange.closing
        replies += exchange.receive(message, 0.0)

    assert exchange.closing
    assert [r.body for r in replies if isinstance(r, BodyReply)] == [SENT, b"a"]
    assert ruled.told.measurements == []


@pytest.mark.parametrize("sentence", UPGRADES)
def test_a_kept_stream_passes_what_follows_an_upgrade(ruled: Door, sentence: str) -> None:
    exchange = ruled.exchange(keep=True)
    replies = list(exchange.receive(RequestHeaders(UPGRADES[sentence]), 0.0))
    for message in (ResponseHeaders({b":status": b"101"}), RequestBody(b"frame"), ResponseBody(b"echo")):
        replies += exchange.receive(message, 0.0)

    assert not exchange.closing
    assert [r.body for r in replies if isinstance(r, BodyReply)] == [b"frame", b"echo"]


class TestHalfClose:
    """NGINX Gateway Fabric's shim asks for a destination, half-closes, and shows no response."""

    def test_a_measured_request_counts_as_one_that_nobody_looked_at(self, objects: Any) -> None:
        door = Door(objects, objects.model({"v2": 1}), objects.rollout(analysis={"preset": "default"}))
        exchange = door.exchange()
        list(exchange.receive(RequestHeaders({b":method": b"POST", **typed(JSON)}), 0.0))
        list(exchange.receive(RequestBody(BODY, True), 0.0))
        assert [decision.measured for decision in door.told.decisions] == [True]

        assert list(exchange.half_closed(1.0)) == []
        exchange.disconnect(1.0)

        assert door.told.measurements == []
        assert [decision.measured for decision in door.told.decisions] == [True, False]

    def test_what_asks_without_being_a_proxy_is_not_measured_at_all(self, objects: Any) -> None:
        door = Door(objects, objects.model({"v2": 1}), objects.rollout(analysis={"preset": "default"}))
        exchange = door.exchange()
        list(exchange.receive(RequestHeaders(typed(JSON)), 0.0))

        replies = list(exchange.receive(RequestBody(BODY, True), 0.0))

        assert isinstance(replies[0], HeadersReply)
        assert exchange.closing
        assert [decision.measured for decision in door.told.decisions] == [False]

    def test_headers_alone_are_enough(self, ruled: Door) -> None:
        exchange = ruled.exchange()
        list(exchange.receive(RequestHeaders(typed(JSON)), 0.0))

        (reply,) = exchange.half_closed(1.0)

        assert isinstance(reply, HeadersReply)
        assert reply.endpoint == b"10.0.0.1:8000"

    def test_a_body_that_is_cut_off_is_not_answered(self, ruled: Door) -> None:
        exchange = ruled.exchange()
        list(exchange.receive(RequestHeaders(typed(JSON)), 0.0))
        list(exchange.receive(RequestBody(b"{"), 0.0))

        assert list(exchange.half_closed(1.0)) == []
        exchange.disconnect(1.0)
        assert (ruled.told.decisions, ruled.budget.used) == ([], 0)
