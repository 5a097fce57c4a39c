"""Fuzzes the body scanner and the splice against a slow reference: ``python -m tests.kit.picker_fuzz``.

The reference decodes the whole body as ``json.loads`` of bytes does, walks the top-level object member by member
and replaces the last ``model`` value. Every input is fed in random chunks, with strings of any length or none
taken for long, and in any encoding of JSON; the two must agree on whether
the body is acceptable, on the model, and on every byte of the result.
"""

from __future__ import annotations

import codecs
import json
import random
import time
from collections import deque
from pathlib import Path
from typing import Any, NoReturn

import click

from rollouts.picker.core.body import LONG, MAX_DEPTH, MAX_TOKEN, BodyScanner
from rollouts.picker.core.charset import NEEDED, transcoder_of
from rollouts.picker.core.members import BodyError, JsonType
from rollouts.picker.core.splicing import splice

__all__ = ["Mismatch", "check", "fuzz", "generate", "main", "reference"]

NEW = b'"travel-helper-v2"'
_DECODER = json.JSONDecoder()


class Mismatch(AssertionError):
    """The scanner and the reference disagree. ``body`` is the input that shows it."""

    def __init__(self, body: bytes, ours: object, theirs: object) -> None:
        super().__init__(f"on {body!r}: scanner {ours!r}, reference {theirs!r}")
        self.body = body


def _refuse(text: str) -> NoReturn:
    raise ValueError(text)


def _number(text: str) -> int:
    return 0 if len(text) <= MAX_TOKEN else _refuse("too long")


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level := [inner for inner in level if isinstance(inner, dict | list)]:
        depth += 1
        level = [part for inner in level for part in (inner.values() if isinstance(inner, dict) else inner)]
    return depth


def reference(body: bytes, new: bytes) -> tuple[str | None, bytes] | None:
    """(the model or None when there is none, the body with its model replaced); None: not acceptable."""
    try:
        charset = json.detect_encoding(body)
        text = body.decode(charset, "surrogatepass")
        whole = json.loads(text, parse_int=_number, parse_float=_number)
    except (ValueError, RecursionError):
        return None
    if not isinstance(whole, dict) or _depth(whole) > MAX_DEPTH:
        return None
    model = whole.get("model")
    if not isinstance(model, str):
        return None, body
    span = (0, 0)
    pos = _skip(text, text.index("{") + 1)
    while text[pos] != "}":
        key, pos = _DECODER.raw_decode(text, pos)
        pos = _skip(text, _skip(text, pos) + 1)  # the colon
        _, end = _DECODER.raw_decode(text, pos)
        if key == "model":
            span = (pos, end)
        pos = _skip(text, end)
        if text[pos] == ",":
            pos = _skip(text, pos + 1)
    text = text[: span[0]] + new.decode() + text[span[1] :]
    result = _like(body, charset, text)
    return model.encode("utf-16", "surrogatepass").decode("utf-16", "replace"), result


def _like(body: bytes, charset: str, text: str) -> bytes:
    """The text in the encoding of the body, with its byte order mark if it has one."""
    for mark, name in _MARKED.get(charset, ()):
        if body.startswith(mark):
            return mark + text.encode(name, "surrogatepass")
    return text.encode(charset, "surrogatepass")


_MARKED = {
    "utf-16": ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")),
    "utf-32": ((codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be")),
    "utf-8-sig": ((codecs.BOM_UTF8, "utf-8"),),
}


def _skip(text: str, pos: int) -> int:
    while text[pos] in " \t\n\r":
        pos += 1
    return pos


def scan(chunks: list[bytes], new: bytes, *, long: int = LONG) -> tuple[str | None, bytes] | None:
    """The same answer as ``reference``, by way of the product's code."""
    scanner = BodyScanner(frozenset({"model"}), long=long)
    transcoder = transcoder_of(b"".join(chunks)[:NEEDED])
    try:
        for chunk in chunks:
            scanner.feed(chunk if transcoder is None else transcoder.feed(chunk))
        scanner.finish()
        if transcoder is not None:
            transcoder.finish()
    except BodyError:
        return None
    field = scanner.fields.get("model")
    if field is None or field.kind is not JsonType.STRING:
        return None, b"".join(chunks)
    start, end = field.start, field.end
    if transcoder is not None:
        (start, end), new = transcoder.places(chunks, (start, end)), transcoder.encode(new)
    return field.text(), b"".join(splice(deque(chunks), start, end, new, limit=7))


def check(body: bytes, rng: random.Random) -> bool:
    """Compare once, in random chunks. Returns whether the body was acceptable; raises Mismatch."""
    chunks = []
    pos = 0
    while pos < len(body):
        size = rng.choice((1, 2, 3, 5, 8, 13, 100, 1000))
        chunks.append(body[pos : pos + size])
        pos += size
    theirs = reference(body, NEW)
    ours = scan(chunks, NEW, long=rng.choice((0, 2, 4, LONG)))
    if ours != theirs:
        raise Mismatch(body, ours, theirs)
    return theirs is not None


_STRINGS = (
    '"model"', '"mod\\u0065l"', '"a"', '""', '"\\""', '"\\\\"', '"\\\\\\""', '"é€😀"',
    '"\\ud83d\\ude00"', '"\\ud800"',
    '"x\\n\\t\\/y"', '"travel-helper"', '"model\\\\"', '"{\\"model\\":1}"', '"\x7f"', '"Model"', '"user"',
)  # fmt: skip
_SCALARS = (
    "NaN",
    "-Infinity",
    "Infinity",
    "0",
    "-0",
    "1",
    "12",
    "-1.5e+10",
    "1E3",
    "0.0",
    "true",
    "false",
    "null",
    "123456789012345678901",
)
_CHARSETS = ("utf-8",) * 6 + (
    "utf-8-sig",
    "utf-16",
    "utf-16-le",
    "utf-16-be",
    "utf-32",
    "utf-32-le",
    "utf-32-be",
)
_SPACE = ("", "", "", "", " ", "\n", "\t ", "\r\n")
_NOISE = tuple(b'"\\{}[]:,x0-.eE+u \n\x00\x1f\xff\xc3\x80 ') + tuple(b'model"')
_WRONG = (
    "01",
    "1.",
    ".5",
    "-",
    "+1",
    "nan",
    "+Infinity",
    "tru",
    "nul",
    "'a'",
    "\\u12",
    '"\\x"',
    "\ufeff",
    '"\t"',
)


def _value(rng: random.Random, depth: int) -> str:
    kind = rng.random()
    if kind < 0.45 or depth > 4:
        return rng.choice(_STRINGS)
    if kind < 0.7:
        return rng.choice(_SCALARS)
    if kind < 0.71:
        return rng.choice(_WRONG)
    space = rng.choice(_SPACE)
    count = rng.randrange(4)
    if kind < 0.85:
        return "[" + f"{space},".join(space + _value(rng, depth + 1) for _ in range(count)) + space + "]"
    return _object(rng, depth + 1, count)


def _object(rng: random.Random, depth: int, count: int) -> str:
    space = rng.choice(_SPACE)
    members = (
        f"{space}{rng.choice(_STRINGS)}{space}:{space}{_value(rng, depth)}{space}" for _ in range(count)
    )
    return "{" + ",".join(members) + space + "}"


def generate(rng: random.Random) -> bytes:
    """One input: an object with many ``model`` keys; a third of them damaged by a few byte edits."""
    text = rng.choice(_SPACE) + _object(rng, 0, rng.randrange(1, 5)) + rng.choice(_SPACE)
    body = text.encode(rng.choice(_CHARSETS), "surrogatepass")
    if rng.random() < 0.33:
        damaged = bytearray(body)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(damaged) + 1)
            damaged[at : at + rng.randrange(3)] = bytes(rng.choice(_NOISE) for _ in range(rng.randrange(3)))
        body = bytes(damaged)
    return body


def fuzz(count: int, seed: int) -> tuple[int, int]:
    """Run ``count`` inputs; (accepted, refused). Raises Mismatch at the first disagreement."""
    rng = random.Random(seed)
    accepted = sum(check(generate(rng), rng) for _ in range(count))
    return accepted, count - accepted


@click.command()
@click.option("--count", default=100_000, show_default=True, help="Number of inputs.")
@click.option("--seed", default=1, show_default=True, help="Seed of the generator: the run is repeatable.")
@click.option(
    "--corpus",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder of inputs to try first.",
)
def main(count: int, seed: int, corpus: Path | None) -> None:
    """Compare the body scanner with the reference on COUNT random inputs."""
    started = time.monotonic()
    rng = random.Random(seed)
    for path in sorted(corpus.glob("*.json")) if corpus else ():
        check(path.read_bytes(), rng)
    accepted, refused = fuzz(count, seed)
    seconds = time.monotonic() - started
    click.echo(
        f"inputs {count} seed {seed}: accepted {accepted}, refused {refused}, mismatches 0, {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
