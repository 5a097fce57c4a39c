"""The scanner accepts what a full parser accepts, and the splice changes the model's bytes alone."""

import json
import random
from collections import deque
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.picker.core import body as body_module
from rollouts.picker.core.body import LONG, MAX_CAPTURE, MAX_DEPTH, BodyScanner
from rollouts.picker.core.members import BodyError, JsonType
from rollouts.picker.core.splicing import MAX_CHUNK, splice
from tests.kit import picker_fuzz

WANTED = frozenset({"model", "user", "messages"})
pytestmark = pytest.mark.usefixtures("data_path")
BOTH = ("BodyScanner", "splice")

CORPUS = Path(__file__).parent / "corpus"


def scan(body: bytes, size: int = 1 << 30) -> BodyScanner:
    scanner = BodyScanner(WANTED)
    for at in range(0, len(body), size):
        scanner.feed(body[at : at + size])
    scanner.finish()
    return scanner


def rewrite(body: bytes, new: str, size: int) -> bytes:
    field = scan(body, size).fields["model"]
    chunks = deque(body[at : at + size] for at in range(0, len(body), size))
    return b"".join(splice(chunks, field.start, field.end, json.dumps(new).encode()))


REWRITES = {
    "the value alone changes": ('{"model":"a","n":1}', '{"model":"b","n":1}'),
    "spacing and key order stay": (
        '{ "z" : 1 ,\n\t"model"\r\n: "a" }\n',
        '{ "z" : 1 ,\n\t"model"\r\n: "b" }\n',
    ),
    "64-bit integers and odd floats stay": (
        '{"seed":18446744073709551615,"t":1E+2,"model":"a"}',
        '{"seed":18446744073709551615,"t":1E+2,"model":"b"}',
    ),
    "unicode stays as it is written": (
        '{"x":"é\\u00e9😀<&>","model":"a"}',
        '{"x":"é\\u00e9😀<&>","model":"b"}',
    ),
    "nested model keys are not the model": (
        '{"tools":[{"model":"x"}],"m":{"model":"y"},"model":"a"}',
        '{"tools":[{"model":"x"}],"m":{"model":"y"},"model":"b"}',
    ),
    "text that looks like a model is not the model": (
        '{"p":"\\"model\\":\\"x\\"","model":"a"}',
        '{"p":"\\"model\\":\\"x\\"","model":"b"}',
    ),
    "of duplicates the last counts": ('{"model":"x","model":"a"}', '{"model":"x","model":"b"}'),
    "an escaped key is the same key": ('{"mod\\u0065l":"a"}', '{"mod\\u0065l":"b"}'),
    "a value of escapes goes whole": ('{"model":"a\\"\\\\\\u00e9"}', '{"model":"b"}'),
    "numbers that are none stay": (
        '{"t":NaN,"model":"a","u":[-Infinity,Infinity]}',
        '{"t":NaN,"model":"b","u":[-Infinity,Infinity]}',
    ),
    "a last duplicate far away": ('{"model":"x","p":[[],[{}],"s"],"model":"a","q":0}', None),
}


@pytest.mark.parametrize("sentence", REWRITES)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_rewrite(sentence: str, size: int) -> None:
    before, want = REWRITES[sentence]
    if want is None:
        want = before.replace('"a"', '"b"')

    assert rewrite(before.encode(), "b", size).decode() == want


REFUSED = {
    "nothing": b"",
    "only space": b"  \n",
    "text": b"hello",
    "an array": b'[{"model":"a"}]',
    "a string": b'"model"',
    "cut off": b'{"model":"a"',
    "cut off in a string": b'{"model":"a',
    "cut off in an escape": b'{"model":"a\\u00',
    "a trailing comma": b'{"model":"a",}',
    "a trailing comma in an array": b'{"model":[1,]}',
    "a missing colon": b'{"model" "a"}',
    "a missing comma": b'{"a":1 "model":"a"}',
    "something after the end": b'{"model":"a"} x',
    "a second object": b'{"model":"a"}{}',
    "the wrong bracket": b'{"model":["a"}]',
    "single quotes": b"{'model':'a'}",
    "a bare key": b'{model:"a"}',
    "nan": b'{"model":"a","t":nan}',
    "a positive Infinity": b'{"model":"a","t":+Infinity}',
    "half of a word": b'{"model":"a","t":Na}',
    "a leading zero": b'{"model":"a","t":01}',
    "a leading zero in a run of integers": b'{"model":"a","t":[1,02,3]}',
    "a bare point": b'{"model":"a","t":1.}',
    "a control character": b'{"model":"a\n"}',
    "a bad escape": b'{"model":"a\\x"}',
    "a bad unicode escape": b'{"model":"a\\u00zz"}',
    "bytes that are not UTF-8": b'{"model":"a","p":"\xff"}',
    "a cut UTF-8 character": b'{"model":"a","p":"\xc3"}',
    "too deep": b'{"model":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}",
    "an endless number": b'{"n":' + b"1" * 70_000,
}


@pytest.mark.parametrize("sentence", REFUSED)
@pytest.mark.parametrize("size", [1, 5, 100_000])
def test_refused(sentence: str, size: int) -> None:
    with pytest.raises(BodyError):
        scan(REFUSED[sentence], size)


@pytest.mark.parametrize(
    ("source", "want"),
    [('"a"', "a"), ('"\\ud83d\\ude00é"', "😀é"), ('"\\ud800"', "\ufffd"), ('""', "")],
)
def test_the_model_is_decoded(source: str, want: str) -> None:
    assert scan(b'{"model":' + source.encode() + b"}", 3).fields["model"].text() == want


def test_other_kinds_of_values_are_told_apart() -> None:
    body = b'{"model":{"a":1},"user":12.5,"messages":[]}'
    fields = scan(body, 4).fields

    assert fields["model"].kind is JsonType.CONTAINER
    assert (fields["user"].kind, fields["user"].text()) == (JsonType.SCALAR, "12.5")
    assert fields["messages"].start == body.index(b"[")


def test_a_later_duplicate_of_another_kind_counts() -> None:
    assert scan(b'{"model":"a","model":7}').fields["model"].kind is JsonType.SCALAR


@pytest.mark.parametrize("size", [100, 5000, 100_000])
def test_a_name_that_is_too_long_is_clipped(size: int) -> None:
    field = scan(b'{"model":"' + b"x" * (MAX_CAPTURE + 1) + b'"}', size).fields["model"]

    assert (field.clipped, field.raw) == (True, "")


@given(
    pieces=st.lists(st.binary(max_size=40), max_size=12),
    cut=st.tuples(st.integers(0, 200), st.integers(0, 200)),
    new=st.binary(max_size=20),
    limit=st.integers(1, 30),
)
@settings(max_examples=200, deadline=None)
def test_splice_replaces_a_span_and_bounds_the_pieces(
    pieces: list[bytes], cut: tuple[int, int], new: bytes, limit: int
) -> None:
    body = b"".join(pieces)
    start, end = sorted(min(at, len(body)) for at in cut)

    got = list(splice(deque(pieces), start, end, new, limit=limit))

    assert b"".join(got) == body[:start] + new + body[end:]
    assert max(map(len, got)) <= limit
    assert b"" not in got or got == [b""]


def test_a_large_body_is_linear_in_one_byte_chunks_and_leaves_in_small_pieces() -> None:
    body = b'{"model":"a","prompt":"' + b"\\u00e9\\\\" * 20_000 + b'"}'
    assert rewrite(body, "bb", 1) == body.replace(b'"a"', b'"bb"')
    assert max(map(len, splice(deque([body]), 0, 0, b""))) == MAX_CHUNK


TEXT = "A line of text.\\n" * 400
LONG_STRINGS = {
    "it ends close to the end": (TEXT, "}", True),
    "much follows it": (TEXT, ', "tools": "' + "x" * 9000 + '"}', True),
    "quotes in it, one at its end": (TEXT + 'a \\"word\\"', "}", True),
    "what looks like its end is escaped": (TEXT + '\\"}', "}", True),
    "a backslash before its end": (TEXT + "\\\\", "}", True),
    "letters beyond ASCII": (TEXT + "é€😀" * 500, "}", True),
    "half a surrogate pair": (TEXT + "\\ud800", "}", True),
    "a control character": (TEXT + "\t", "}", False),
    "an escape that does not exist": (TEXT + "\\x", "}", False),
    "an escape that is too short": (TEXT + "\\u12", "}", False),
    "it does not end": (TEXT, None, False),
    "an escape cut off at the end": (TEXT + "\\", None, False),
}


@pytest.mark.parametrize("size", [1 << 20, 7000, 4096, 4095])
@pytest.mark.parametrize("sentence", LONG_STRINGS)
def test_a_long_string_is_judged_like_a_short_one(sentence: str, size: int) -> None:
    text, after, good = LONG_STRINGS[sentence]
    body = f'{{"model":"a","prompt":"{text}' + ("" if after is None else f'"{after}')
    chunks = [body.encode()[at : at + size] for at in range(0, len(body.encode()), size)]

    assert len(text) > LONG
    assert (picker_fuzz.scan(chunks, b'"b"') is not None) is good
    assert picker_fuzz.scan(chunks, b'"b"') == picker_fuzz.reference(body.encode(), b'"b"')


def test_guesses_are_bounded_per_chunk(monkeypatch: pytest.MonkeyPatch, data_path: str) -> None:
    if data_path == "native":
        pytest.skip("it reads every string itself, and guesses nothing")
    guesses = []

    def count(text: str) -> object:
        guesses.append(text)
        return json.loads(text)

    monkeypatch.setattr(body_module, "from_json", count)
    strings = ",".join(f'"{"x" * LONG}"' for _ in range(200))
    scan(b'{"model":"a","messages":[' + strings.encode() + b"]}")

    assert len(guesses) == 3


def test_short_fuzz_run_with_its_corpus() -> None:
    rng = random.Random(7)
    cases = sorted(CORPUS.glob("*.json"))

    accepted, refused = picker_fuzz.fuzz(6_000, seed=7)

    assert len(cases) >= 10
    assert any(picker_fuzz.check(path.read_bytes(), rng) for path in cases)
    assert min(accepted, refused) > 1_000


def test_the_fuzzer_reports_a_mismatch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picker_fuzz, "reference", lambda body, new: None)

    with pytest.raises(picker_fuzz.Mismatch, match="scanner"):
        picker_fuzz.check(b'{"model":"a"}', random.Random(1))
