"""The bytes side of the picker twice, in Python and in Rust: what the two make of the same random, hostile input.

Each kind of case makes its input from a random generator and has two answers to it, as plain values, that must be
equal: bytes, decisions, and the words of errors. Python's modules are the specification.
"""

from __future__ import annotations

import gzip
import importlib
import itertools
import random
import zlib
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import brotli
from backports.zstd import compress as zstd

from rollouts.picker.core import content, encoding, messages, refusals, restore, splicing, wire
from rollouts.picker.core.body import BodyScanner
from rollouts.picker.core.charset import NEEDED, transcoder_of
from rollouts.picker.core.coding import CodingError, Decoding, ExpandedTooFar, codings_of
from rollouts.picker.core.form import FormScanner
from rollouts.picker.core.measure import MAX_LINE, TAIL, Ending, ResponseMeter
from rollouts.picker.core.members import BodyError
from rollouts.picker.core.ports import BufferBudget
from rollouts.picker.core.reader import RequestReader
from rollouts.picker.core.routing import Refusal
from tests.kit import picker_fuzz

__all__ = ["KINDS", "Difference", "Kind", "check"]

Random = random.Random
WANTED = ["model", "prompt", "messages", "user", "a"]


class Difference(AssertionError):
    """The two do not agree. Its text has the input that shows it."""


class Kind(NamedTuple):
    """How to make a case, and the two answers to it. The native one gets the door first."""

    make: Callable[[Random], tuple[Any, ...]]
    python: Callable[..., Any]
    native: Callable[..., Any]


def door() -> Any:
    """The native functions. Raises ImportError where they are not built."""
    return importlib.import_module("inference_rollouts_native").bytes_door


def check(kind: str, rng: Random, native: Any) -> Any:
    """Make one case and compare. Returns the answer; raises Difference."""
    chosen = KINDS[kind]
    case = chosen.make(rng)
    ours, theirs = chosen.python(*case), chosen.native(native, *case)
    if ours != theirs:
        raise Difference(f"{kind} on {case!r}: Python {ours!r}, native {theirs!r}")
    return ours


# --- parts of cases -----------------------------------------------------------------------------------

_NOISE = tuple(b'"\\{}[]:,;=x0-.eE+u \n\r\t\x00\x1f\xff\xc3\x80\xed\xa0')


_SIZES = ((1, 2, 3), (0, 1, 2, 3, 5, 8, 13), (7, 100, 1000), (4096, 20_000))
_PIECES = 48
"""About as many chunks as a body is cut into, nearly always: time goes by their number."""


def chunks_of(rng: Random, body: bytes) -> list[bytes]:
    """The body in chunks of any sizes, some of them empty; of a long one, small chunks are but a part, anywhere."""
    if rng.random() < 0.3 or not body:
        return [body]
    sizes = rng.choices(rng.choice(_SIZES), k=_PIECES)
    begin, end = 0, len(body)
    if end > 2 * sum(sizes) and rng.random() < 0.995:
        begin = rng.randrange(end - sum(sizes))
        end = begin + sum(sizes)
    found = [body[:begin]] if begin else []
    for size in itertools.cycle(sizes):
        found.append(body[begin : min(begin + size, end)])
        begin += size
        if begin >= end:
            break
    if end < len(body):
        found.append(body[end:])
    return found


def spoiled(rng: Random, data: bytes, share: float = 0.4) -> bytes:
    """The data, or, in that share of cases, with something wrong in them."""
    if rng.random() > share:
        return data
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(changed) + 1)
        how = rng.randrange(5)
        if how == 0:
            changed[at:at] = bytes((rng.choice(_NOISE),))
        elif how == 1:
            del changed[at : at + rng.choice((1, 1, 2, 7))]
        elif how == 2 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif how == 3:
            del changed[at:]
        else:
            changed[at:at] = changed[at : at + rng.choice((1, 3, 20))]
    return bytes(changed)


def _error(error: Exception) -> str:
    return str(error)


# --- messages -----------------------------------------------------------------------------------------


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def _field(number: int, payload: bytes | int) -> bytes:
    if isinstance(payload, int):
        return _varint(number << 3) + _varint(payload)
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _odd_field(rng: Random) -> bytes:
    """A field that nobody asks for, of any wire type."""
    number, kind = rng.choice((1, 2, 3, 9, 12, 200)), rng.randrange(6)
    payload = {0: _varint(rng.choice((0, 1, 300))), 1: bytes(8), 2: _varint(2) + b"ab", 5: bytes(4)}.get(
        kind, b""
    )
    return _varint(number << 3 | kind) + payload


_NAMES = (
    b":method", b":path", b":status", b"content-type", b"Content-Type", b"cookie", b"content-encoding", b"connection",
    b"upgrade", b"x-a", b"X-A", b"", b"x-request-id", b"x" * 130,
)  # fmt: skip
_VALUES = (
    b"",
    b"POST",
    b"a/b",
    b"application/json",
    b"v" * 127,
    b"v" * 128,
    b"v" * 300,
    b"gzip",
    b"\xff\x00",
)


def _header_map(rng: Random) -> bytes:
    out = b""
    for _ in range(rng.randrange(8)):
        parts = [_field(1, rng.choice(_NAMES)), _field(rng.choice((2, 3, 3, 3)), rng.choice(_VALUES))]
        if rng.random() < 0.1:
            parts.append(rng.choice((_odd_field(rng), parts[0])))
        if rng.random() < 0.1:
            rng.shuffle(parts)
        out += _field(1, b"".join(parts))
        if rng.random() < 0.05:
            out += _odd_field(rng)
    return out


def _large_map(rng: Random) -> bytes:
    """Headers about as large as may be."""
    first = rng.choice(((b":method", b"POST"), (b":status", b"200"), (b"x", b":status")))
    lines = [first, *[(rng.choice((b"x-a", b"x-b")), b"v")] * rng.randrange(50)]
    size = sum(len(name) + len(value) + messages.PER_LINE for name, value in lines)
    rest = messages.MAX_HEADER_LIST - size - messages.PER_LINE + rng.randrange(-2, 3)
    lines.append((b"", b"v" * rest))
    if rng.random() < 0.2:
        lines.reverse()
    return b"".join(_field(1, _field(1, name) + _field(3, value)) for name, value in lines)


def _value(rng: Random, depth: int) -> bytes:
    kind = rng.randrange(7 if depth < 12 else 5)
    if kind == 5:
        return _field(5, _struct(rng, depth + 1))
    if kind == 6:
        return _field(6, b"".join(_field(1, _value(rng, depth + 1)) for _ in range(rng.randrange(3))))
    texts = (b"10.0.0.1:80", "é".encode(), b"\xff")
    return (_field(1, 0), b"\x11" + bytes(8), _field(3, rng.choice(texts)), _field(4, rng.randrange(2)), b"")[
        kind
    ]


def _struct(rng: Random, depth: int = 0) -> bytes:
    out = b""
    for _ in range(rng.choice((1, 1, 2, 3))):
        entry = _field(1, rng.choice((b"key", b"other", b"\xc3")) if rng.random() < 0.2 else b"key")
        if rng.random() < 0.9:
            entry += _field(2, _value(rng, depth))
        out += _field(1, entry)
    return out


def _metadata(rng: Random) -> bytes:
    entries = (
        _field(1, _field(1, rng.choice((b"ns", b"ns", b"else"))) + _field(2, _deepened(rng, _struct(rng))))
        for _ in range(2)
    )
    whole = b"".join(entries)
    if rng.random() < 0.05:  # about as long as may be
        size = wire.MAX_METADATA + rng.randrange(-2, 3)
        rest = _field(2, bytes(size - len(whole)))
        whole += _field(2, bytes(2 * (size - len(whole)) - len(rest)))
    return whole


def _deepened(rng: Random, struct: bytes) -> bytes:
    """The struct, or, in some cases, within others about as deep as is read."""
    for _ in range(rng.randrange(4, 12) if rng.random() < 0.2 else 0):
        struct = _field(1, _field(1, b"key") + _field(2, _field(5, struct)))
    return struct


def make_message(rng: Random) -> tuple[bytes]:
    """Any message, most of them as Envoy writes it."""
    which = rng.choice((2, 2, 3, 4, 4, 5, 6, 7, 9))
    if which in (2, 3):
        headers = _header_map(rng) if rng.random() > 0.01 else _large_map(rng)
        part = _field(1, headers) + (_field(3, rng.randrange(2)) if rng.random() < 0.5 else b"")
    else:
        part = _field(1, bytes(rng.choice((0, 1, 100, 127, 128, 20_000)))) if rng.random() < 0.9 else b""
        part += _field(rng.choice((2, 3)), rng.choice((0, 1, 1, 2))) if rng.random() < 0.5 else b""
    out = _field(which, part)
    if rng.random() < 0.2:
        out += _field(8, _metadata(rng))
    if rng.random() < 0.3:
        out += _field(11, b"".join(_field(number, rng.randrange(8)) for number in (1, 2)))
    if rng.random() < 0.1:
        out = rng.choice((out + _odd_field(rng), _odd_field(rng) + out, out + out))
    return (spoiled(rng, out),)


def python_message(data: bytes) -> Any:
    try:
        message = wire.decode(data)
    except wire.WireError as error:
        return _error(error)
    if message is None:
        return None
    name = type(message).__name__
    if isinstance(message, messages.RequestHeaders | messages.ResponseHeaders):
        _, eos, metadata, protocol, *size = message
        return name, list(message.headers.items()), eos, metadata, tuple(map(int, protocol)), *size
    return (name, *message)


def native_message(native: Any, data: bytes) -> Any:
    try:
        message = native.decode(data)
    except ValueError as error:
        return _error(error)
    if message is not None and message[0].endswith("Headers"):
        return message[0], list(message[1].items()), *message[2:]
    return message


def python_metadata(data: bytes) -> Any:
    try:
        return wire.metadata_value(data, b"ns", b"key")
    except wire.WireError as error:
        return _error(error)


def native_metadata(native: Any, data: bytes) -> Any:
    try:
        return native.metadata_value(data, b"ns", "key")
    except ValueError as error:
        return _error(error)


# --- replies ------------------------------------------------------------------------------------------


def _pairs(rng: Random) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((rng.choice(_NAMES), rng.choice(_VALUES)) for _ in range(rng.randrange(4)))


def make_reply(rng: Random) -> tuple[Any, ...]:
    side = messages.Side(rng.randrange(2))
    names = tuple(rng.choice(_NAMES) for _ in range(rng.randrange(3)))
    changes = (_pairs(rng), names, rng.random() < 0.5, rng.choice((b"", b"10.0.0.1:8000", b"x" * 200)))
    size = rng.choice((0, 1, 100, 127, 128, 16_383, 16_384, 62_000, 70_000))
    kind = rng.randrange(4)
    if kind == 0:
        return (messages.HeadersReply(side, *changes),)
    if kind == 1:
        return (messages.BodyReply(side, rng.randbytes(size), rng.random() < 0.5),)
    if kind == 2:
        return (messages.BufferedReply(side, rng.choice((None, bytes(size))), *changes),)
    return (
        messages.ImmediateReply(rng.choice((400, 503, 100)), bytes(size), rng.choice(_VALUES), _pairs(rng)),
    )


def native_reply(native: Any, reply: Any) -> Any:
    if isinstance(reply, messages.ImmediateReply):
        return native.encode_immediate(reply.status, reply.body, reply.details, list(reply.headers))
    response = bool(reply.side)
    if isinstance(reply, messages.BodyReply):
        half = len(reply.body) // 2
        return native.encode_body(response, [reply.body[:half], reply.body[half:]], reply.end_of_stream)
    set_headers, remove, clear, endpoint = reply[-4:]
    changes = (list(set_headers), list(remove), clear, endpoint)
    if isinstance(reply, messages.HeadersReply):
        return native.encode_headers(response, changes)
    return native.encode_buffered(response, None if reply.body is None else [reply.body], changes)


# --- JSON ---------------------------------------------------------------------------------------------

_LONG = (
    lambda rng: b'{"model":%s}' % (b"1" * rng.choice((1000, 1024, 1025, 1030))),
    lambda rng: b'{"model":%s' % (b"1x" * rng.choice((500, 511, 513))),
    lambda rng: b'{"model":"%s","a":1}' % (b"m" * rng.choice((4094, 4095, 4096, 4097, 9000))),
    lambda rng: b'{"%s":1,"model":"x"}' % (b"\\u0061" * rng.choice((1, 682, 683, 700))),
    lambda rng: b'{"a":%s}' % (b"[" * (depth := rng.choice((510, 511, 512))) + b"]" * depth),
    lambda rng: b'{"prompt":[%s0],"model":"x"}' % (b"12345, 0," * rng.choice((1, 100, 2000))),
    lambda rng: b'{"prompt":[%s"x"],"model":"x"}' % (b"%d," % 10 ** rng.choice((3, 1023, 1024, 3000))),
    lambda rng: (
        b'{"prompt":"%s"}'
        % (rng.choice((b"text ", b"\\n", "é😀".encode(), b"\xed\xa0\xbd\xed\xb8\x80")) * 3000)
    ),
    lambda rng: b'{"model":"\xed\xa0\xbd\\ude00\\ud83d\xed\xb8\x80\\ud83d","a":"\\ud83d\\ude00\xed\xa0\xbd"}',
    lambda rng: (
        b" " * rng.choice((0, 5000)) + b"{" + b" " * rng.choice((0, 4095, 4097)) + b"}" + b" \n" * 4000
    ),
)


def _json(rng: Random) -> bytes:
    if rng.random() < 0.1:
        return spoiled(rng, rng.choice(_LONG)(rng))
    body = picker_fuzz.generate(rng)
    return spoiled(rng, body, 0.2)


def make_scan(rng: Random) -> tuple[list[bytes]]:
    return (chunks_of(rng, _json(rng)),)


def python_scan(chunks: list[bytes]) -> Any:
    scanner = BodyScanner(frozenset(WANTED))
    error = None
    try:
        for chunk in chunks:
            scanner.feed(chunk)
        scanner.finish()
    except BodyError as flaw:
        error = _error(flaw)
    fields = {
        name: (f.kind.name, f.start, f.end, f.raw.encode("latin-1"), f.clipped, f.text() if f.raw else None)
        for name, f in scanner.fields.items()
    }
    return {} if error else fields, scanner.opened, error


def native_scan(native: Any, chunks: list[bytes]) -> Any:
    fields, opened, error = native.scan(chunks, WANTED)
    return {} if error else {name: tuple(rest) for name, *rest in fields}, opened, error


_CHARSETS = ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")
_TEXTS = (
    '{"model":"é😀"}',
    '{"a":"\ud83d"}',
    '{"a":"\ud83d',
    "{}",
    "{",
    "[",
    "\ud83d\ude00",
    '{"p":"' + "ü€😀" * 300 + '"}',
)


def make_transcode(rng: Random) -> tuple[list[bytes], list[int]]:
    text = rng.choice(_TEXTS)
    body = spoiled(rng, text.encode(rng.choice(_CHARSETS), "surrogatepass"))
    ends = [
        len(text[:at].encode("utf-8", "surrogatepass")) for at in sorted(rng.sample(range(len(text) + 1), 2))
    ]
    return chunks_of(rng, body), ends


def python_transcode(chunks: list[bytes], places: list[int]) -> Any:
    first = b""
    for chunk in chunks:
        first += chunk if len(first) < NEEDED else b""
    transcoder = transcoder_of(first)
    if transcoder is None:
        return None, [], [], None
    name, pieces = transcoder.name.upper(), []
    try:
        for chunk in chunks:
            pieces.append(transcoder.feed(chunk))
    except BodyError as error:
        return name, pieces, [], _error(error)
    try:
        found = list(transcoder.places(chunks, tuple(places)))
    except UnicodeDecodeError:  # not at the end of a character: of that nobody asks
        found = []
    try:
        transcoder.finish()
    except BodyError as error:
        return name, pieces, found, _error(error)
    return name, pieces, found, None


def native_transcode(native: Any, chunks: list[bytes], places: list[int]) -> Any:
    name, pieces, found, error = native.transcode(chunks, places)
    return name, pieces, found if python_transcode(chunks, places)[2] else [], error


# --- codings ------------------------------------------------------------------------------------------


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


_PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1, mtime=0),
    "x-gzip": lambda data: gzip.compress(data[:5], mtime=0) + gzip.compress(data[5:], 1, mtime=0),
    "deflate": lambda data: zlib.compress(data, 1),
    "Deflate": _deflated,
    "zstd": zstd,
    " ZSTD ": lambda data: zstd(data[:7]) + zstd(data[7:]),
    "br": lambda data: brotli.compress(data, quality=3),
}


def _packed(rng: Random, data: bytes) -> tuple[bytes, bytes]:
    """(content-encoding, data in it)"""
    names = [rng.choice(tuple(_PACK)) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    for name in names:
        data = spoiled(rng, _PACK[name](data), 0.15)
    return ",".join(names).encode(), data


_NUMBERS = [b"%d" % number for number in range(1000)]


def make_coding(rng: Random) -> tuple[bytes, list[bytes], int]:
    kind = rng.randrange(4)
    if kind == 0:
        data = _json(rng)
    elif kind == 1:
        data = rng.randbytes(rng.choice((10, 1000, 70_000)))
    elif kind == 2:
        data = b"the same text again " * rng.choice((10, 10, 100, 100, 5_000, 5_000, 70_000))
    else:
        data = b", ".join(rng.choices(_NUMBERS, k=rng.choice((10, 100, 100, 10_000))))
    coding, data = _packed(rng, data)
    if rng.random() < 0.03:
        coding = rng.choice((b"", b"identity", b"lz4", b"gzip,gzip,gzip,gzip"))
    return coding, chunks_of(rng, data), rng.choice((64 << 20, 65_536, 1000, 300_000))


def python_coding(coding: bytes, chunks: list[bytes], limit: int) -> Any:
    try:
        decoding = Decoding(codings_of(coding), limit)
    except LookupError:
        return None
    found: list[list[bytes]] = []
    try:
        for chunk in chunks:
            found.append([])
            found[-1].extend(decoding.feed(chunk))
        decoding.finish()
    except (CodingError, ExpandedTooFar) as error:
        return _undone(coding, found, (type(error).__name__, _error(error)))
    return found, None


def _undone(coding: bytes, found: list[list[bytes]], error: tuple[str, str] | None) -> Any:
    """How soon data are found to be no br is up to each library, by a few bytes: what came before does not count."""
    return "refused" if error and b"br" in coding else (found, error)


def native_coding(native: Any, coding: bytes, chunks: list[bytes], limit: int) -> Any:
    answer = native.undo(coding, chunks, limit)
    return None if answer is None else _undone(coding, *answer)


# --- forms --------------------------------------------------------------------------------------------

_BOUNDARIES = (b"b", b"boundary", b"--x", b"a" * 256, b"a" * 257, b"", b'"q;uoted"', b'"in \\"quotes"')
_TYPES = (
    b"multipart/form-data",
    b"multipart/form-data; charset=utf-8",
    b"Multipart/Form-Data;charset=latin-1",
)
_CHARSET = (
    b"",
    b"",
    b"",
    b"; charset=us-ascii",
    b";charset=UTF8",
    b"; charset=utf-16",
    b"; charset=\xe9",
    b"; charset",
)
_DISPOSITIONS = (
    b'form-data; name="model"', b"form-data; name=model", b'form-data; name="prompt"', b'form-data; NAME="user"',
    b'form-data; name="file"; filename="a.wav"', b'form-data; name="model"; filename*=utf-8\'\'x', b"form-data",
    b'form-data; name="model"; filename="C:\\x\\m"', b'form-data; name="a;b"; name="a"', b'x; name="mo\\"del"; name=a',
    b'form-data; name="model', b";;; name = model ; a=", b'form-data; name="\xc3\xa9"',
)  # fmt: skip


def _part(rng: Random, boundary: bytes) -> bytes:
    values = (
        b"travel", b"", b"\r\n", b"\r\n--" + boundary[:-1], b"\r\n--" + boundary + b"x", b"--" + boundary,
        b"\r\n--" + boundary + rng.choice((b"-", b"\r", b"\r\r", b"-x", b"\r\n", b" \t\r\n", b" x")) + b"go on",
        b"v" * rng.choice((100, 4095, 4096, 4097)), b"\xc3\xa9", b"\xe9", bytes(rng.choice(_NOISE) for _ in range(9)),
    )  # fmt: skip
    lines = [b"Content-Disposition: " + rng.choice(_DISPOSITIONS)]
    for _ in range(rng.choice((0, 0, 0, 1, 2, 8))):
        lines.append(
            rng.choice(
                (b"Content-Type: a/b", b"X:", b"x:  y", b"content-disposition:z; name=user", b"x" * 4300)
            )
        )
    rng.shuffle(lines)
    padding = rng.choice((b"", b"", b"", b"", b" ", b" \t", b"x"))
    return (
        b"--"
        + boundary
        + padding
        + b"\r\n"
        + b"\r\n".join(lines)
        + b"\r\n\r\n"
        + rng.choice(values)
        + b"\r\n"
    )


def _form(rng: Random) -> tuple[bytes, bytes]:
    """(content type, body)"""
    given = rng.choice(_BOUNDARIES)
    boundary = given.strip(b'"').replace(b'\\"', b'"')
    kind = rng.choice(_TYPES) + b"; boundary=" + given + rng.choice(_CHARSET)
    begin = rng.choice((b"", b"", b"\r\n", b"\r\n\n", b"preamble\r\n"))
    body = begin + b"".join(_part(rng, boundary) for _ in range(rng.choice((0, 1, 2, 3, 3))))
    body += b"--" + boundary + rng.choice((b"--\r\n", b"--", b"--epilogue", b"", b"-", b"\r\n"))
    if rng.random() < 0.002:
        body = (b"--" + boundary + b"\r\nContent-Disposition: x; name=x\r\n\r\n\r\n") * 2001
    return kind, spoiled(rng, body, 0.3)


def make_form(rng: Random) -> tuple[bytes, list[bytes]]:
    kind, body = _form(rng)
    return spoiled(rng, kind, 0.1), chunks_of(rng, body)


def python_form(content_type: bytes, chunks: list[bytes]) -> Any:
    try:
        scanner = FormScanner(content_type, frozenset(WANTED))
    except BodyError as error:
        return {}, _error(error)
    flaw = None
    try:
        for chunk in chunks:
            scanner.feed(chunk)
    except BodyError as error:
        flaw = _error(error)
    fields = {
        name: (f.text, None if f.start < 0 else (f.start, f.end), f.clipped)
        for name, f in scanner.fields.items()
    }
    return fields, flaw


def native_form(native: Any, content_type: bytes, chunks: list[bytes]) -> Any:
    fields, error = native.form(content_type, chunks, WANTED)
    return {name: tuple(rest) for name, *rest in fields}, error


# --- splicing, content types --------------------------------------------------------------------------


def make_splice(rng: Random) -> tuple[list[bytes], int, int, bytes, int]:
    body = rng.randbytes(rng.choice((0, 1, 10, 100)))
    start, end = sorted((rng.randint(0, len(body)), rng.randint(0, len(body))))
    return (
        chunks_of(rng, body),
        start,
        end,
        rng.randbytes(rng.choice((0, 0, 1, 7, 30))),
        rng.choice((1, 3, 7, 1000)),
    )


def python_splice(chunks: list[bytes], start: int, end: int, new: bytes, limit: int) -> Any:
    return list(splicing.splice(deque(chunks), start, end, new, limit=limit))


_MEDIA = (
    b"application/json", b" Application/JSON ; a", b"application/x+json", b"multipart/form-data", b"text/plain", b"",
    b"application/grpc", b"application/grpc+proto", b"\x1capplication/json", b"application/json;",
)  # fmt: skip


def make_content(rng: Random) -> tuple[list[tuple[bytes, bytes]]]:
    pairs = {
        b":method": rng.choice((b"POST", b"CONNECT")),
        b"content-type": rng.choice(_MEDIA),
        b"upgrade": rng.choice((b"websocket", b"h2c", b" H2C , ", b"h2c, x", b"")),
        b"connection": rng.choice((b"upgrade", b"keep-alive, Upgrade", b"close", b"")),
        b"content-length": rng.choice((b"0", b"", b" 00 ", b"1")),
    }
    return ([(name, value) for name, value in pairs.items() if rng.random() < 0.7],)


def python_content(pairs: list[tuple[bytes, bytes]]) -> Any:
    headers = dict(pairs)
    return content.content_of(headers).name, content.is_upgrade(headers), content.is_dialogue(headers)


# --- responses ----------------------------------------------------------------------------------------

_EVENTS = (
    b'{"id":"1","model":"v2","choices":[{"delta":{"content":"%s"}}]}', b'{"model": "v2","choices":[{"text":"%s"}]}',
    b'{"choices":[{"delta":{"role":"assistant","content":"%s"}}]}', b'{"type":"x","delta":"%s"}',
    b'{"choices":[{"delta":{"reasoning_content":"%s"}}],"usage":null}', b'{"model":"v2","usage":{"a":"%s"}}',
    b'{"error":{"message":"%s"}}', b'{"error":"%s"}', b'{"content" : \t"%s', b'{"content":"\\%s', b'[{"error":"%s"}]',
    b'{"model":"v2","usage":{"prompt_tokens":5,"completion_tokens":%d,"x":{"y":{}}}}',
    b'{"usage":{"prompt_tokens":%d,"output_tokens":7,"completion_tokens":1.5,"d":{"r":0}}}',
    b'{"usage" :\n{"input_tokens":-0,"completion_tokens":%d}} {"usage":{"input_tokens":true}}',
    b'{"usage":{"prompt_tokens":1e3,"prompt_tokens":%d,"input_tokens":1099511627776}}',
    b'{"err\\u006fr":%d,"x":"\\"error\\""}',
    b'{"error":%d.0}', b'{"error":0e%d,"error":"x","error":[ ]}', b'{"error":-Infinity,"n":NaN,"d":%d}',
    b'\xef\xbb\xbf{"error":%d}', b'{"error":1%d,"a":\xff}', b'{"error": {"a":[1,{"b":%d},]}}', b"[DONE]", b"", b"{",
)  # fmt: skip
_WORDS = (
    b"",
    b"a",
    b" the",
    b" it is",
    b"ing",
    b" ",
    b"  ",
    b"\\n",
    b"\\n and\\t",
    b"\\\\n x",
    b"\\u00e9",
    "é".encode(),
)


def _event(rng: Random) -> bytes:
    event = rng.choice(_EVENTS)
    event = event.replace(b"%s", b"".join(rng.choices(_WORDS, k=rng.randrange(4))))
    return event.replace(b"%d", b"%d" % rng.choice((0, 1, 17, 1 << 39, 1 << 41)))


def _events(rng: Random) -> bytes:
    out = b""
    for _ in range(rng.choice((0, 1, 3, 10))):
        begin = rng.choice((b"data: ",) * 6 + (b"data:", b"event: x", b": c", b"", b" data:"))
        out += begin + _event(rng) + rng.choice((b"\n\n",) * 5 + (b"\r\n\r\n", b"\n", b"\r", b"\x0b\n"))
    return spoiled(rng, out, 0.2)


def _long_line(rng: Random) -> list[bytes]:
    """A line whose text ends about where no more of it is kept, before the end of the line is there."""
    begin, end = b'data: {"a":"', b'","content":"of it"'
    line = begin + b"x" * (MAX_LINE + rng.randrange(-2, 3) - len(begin) - len(end)) + end
    cut = len(line) - rng.randrange(1, 30)
    return [line[:cut], line[cut:] + b"y" * rng.choice((0, 2, 5, 70_000)), b"}\n\n" + _events(rng)]


def _long_answer(rng: Random) -> bytes:
    """Its usage begins about where the end that is kept does."""
    usage = b'"usage":{"prompt_tokens":5,"completion_tokens":7}}'
    return b"{" + b"1" * rng.choice((0, 20_000)) + usage + b" " * (TAIL - len(usage) + rng.randrange(-2, 3))


def _times(rng: Random, chunks: list[bytes]) -> list[tuple[bytes, float]]:
    now = 1.0
    found = []
    for chunk in chunks:
        now += rng.choice((0.0, 0.01, 0.3))
        found.append((chunk, now))
    return found


_ENDINGS = (Ending.COMPLETE, Ending.COMPLETE, Ending.HEADERS_ONLY, Ending.ABORTED)


def make_measure(rng: Random) -> tuple[Any, ...]:
    sse = rng.random() < 0.8
    long = rng.random() < (0.03 if sse else 0.2)
    if long and sse:
        chunks = _long_line(rng)
    else:
        whole = _events(rng) if sse else _long_answer(rng) if long else spoiled(rng, _event(rng), 0.2)
        chunks = chunks_of(rng, whole)
    status = rng.choice((b"200", b"200", b"404", b"429", b"503", b"", b"20", b"2000", b"x00"))
    kind = b"text/event-stream; charset=utf-8" if sse else rng.choice((b"application/json", b""))
    return 1.0, status, kind, _times(rng, chunks), rng.choice(_ENDINGS).name, 9.5


def python_measure(
    start: float, status: bytes, kind: bytes, chunks: list[tuple[bytes, float]], ending: str, now: float
) -> Any:
    meter = ResponseMeter(start)
    meter.headers(status, kind)
    for chunk, at in chunks:
        meter.body(chunk, at)
    seen = meter.finish(Ending[ending], now)
    return (
        seen.ending.name, seen.status, seen.e2e, seen.ttft, seen.time_per_output_token, seen.prompt_tokens,
        seen.completion_tokens, seen.error,
    )  # fmt: skip


def make_restore(rng: Random) -> tuple[Any, ...]:
    kind = rng.choice((b"text/event-stream", b"text/event-stream", b"application/json", b"text/html", b""))
    body = _events(rng) if kind.startswith(b"text") else spoiled(rng, rng.choice((_json, _event))(rng))
    name = rng.choice(("base", 'é"\n\x01\x7f', "😀", ""))
    return name, rng.choice(("v2", "travel-helper", "é")), kind, chunks_of(rng, body), rng.random() < 0.9


def python_restore(name: str, target: str, kind: bytes, chunks: list[bytes], end: bool) -> Any:
    restorer = restore.NameRestorer(name, target, BufferBudget())
    restorer.headers(kind)
    last = len(chunks) - 1
    return [restorer.feed(chunk, end=end and index == last) for index, chunk in enumerate(chunks)]


# --- the whole reader ---------------------------------------------------------------------------------


def make_read(rng: Random) -> tuple[Any, ...]:
    kind, body = rng.choice(_MEDIA), _json(rng)
    if rng.random() < 0.3:
        kind, body = _form(rng)
    elif rng.random() < 0.3:
        kind, body = rng.choice(_MEDIA), rng.choice(_TEXTS).encode(rng.choice(_CHARSETS), "surrogatepass")
    headers = [(b":method", b"POST"), (b"content-type", kind)]
    if rng.random() < 0.3:
        coding, body = _packed(rng, body)
        if rng.random() < 0.1:
            coding = rng.choice((b"lz4", b"\x00'\xe9\t\xad", b"'\"", b"x" * 200))
        headers.append((b"content-encoding", coding))
    elif rng.random() < 0.05:
        body = rng.choice((gzip.compress(body, mtime=0), zstd(body)))
    limits = rng.choice(((64 << 20, 192 << 20),) * 4 + ((100, 1000), (1000, 120)))
    if rng.random() < 0.02:  # about as long as small ones, where there is room for these or for a large one
        body = body.ljust((64 << 10) + rng.randrange(-2, 6))
        limits = (64 << 20, rng.choice((68_000, 69_907 + rng.randrange(-4, 4))))
    return headers, chunks_of(rng, body), limits, rng.choice(("v2", 'é"\\\n', "😀", ""))


def python_read(
    headers: list[tuple[bytes, bytes]], chunks: list[bytes], limits: tuple[int, int], target: str
) -> Any:
    budget = BufferBudget(body_limit=limits[0], total_limit=limits[1])
    reader = RequestReader(dict(headers), frozenset(WANTED), budget)
    early = None
    for index, chunk in enumerate(chunks):
        refusal = reader.feed(chunk)
        if refusal is not None:
            return {"refused": _refused(refusal), "at": index}
        if early is None and reader.unread is not None:
            early = index
    found: dict[str, Any] = {"unread at": early, "used": budget.used}
    request = reader.finish(None)
    if isinstance(request, Refusal):
        return {**found, "refused": _refused(request)}
    unread = request.unread and (_refused(request.unread.refusal), request.unread.hidden)
    found |= {"model": request.model, "fields": dict(request.fields), "prompt": request.prompt}
    found |= {"has body": request.has_body, "unread": unread}
    if request.has_body and request.unread is None:
        found["edit"] = tuple(reader.change(target))
    return found


def _refused(refusal: Refusal) -> tuple[int, str, str, bytes]:
    reply = encoding.encode(refusals.immediate(refusal))
    return refusal.status, refusal.reason, refusal.message, reply


def make_slow(rng: Random) -> tuple[float]:
    return (
        rng.choice(
            (30.0, 0.5, 1e6, 999_999.5, 1e-5, 12.3456789, 0.0, rng.random() * 10 ** rng.randint(-6, 20))
        ),
    )


KINDS = {
    "message": Kind(make_message, python_message, native_message),
    "metadata": Kind(lambda rng: (spoiled(rng, _metadata(rng), 0.2),), python_metadata, native_metadata),
    "reply": Kind(make_reply, encoding.encode, native_reply),
    "scan": Kind(make_scan, python_scan, native_scan),
    "transcode": Kind(make_transcode, python_transcode, native_transcode),
    "coding": Kind(make_coding, python_coding, native_coding),
    "form": Kind(make_form, python_form, native_form),
    "splice": Kind(make_splice, python_splice, lambda native, *case: native.splice(*case)),
    "content": Kind(make_content, python_content, lambda native, *case: native.content(*case)),
    "measure": Kind(make_measure, python_measure, lambda native, *case: native.measure(*case)),
    "restore": Kind(make_restore, python_restore, lambda native, *case: native.restore(*case)),
    "read": Kind(
        make_read,
        python_read,
        lambda native, headers, chunks, limits, target: native.read(headers, chunks, WANTED, limits, target),
    ),
    "slow": Kind(make_slow, lambda s: _refused(refusals.too_slow(s)), lambda native, s: native.slow(s)),
}
