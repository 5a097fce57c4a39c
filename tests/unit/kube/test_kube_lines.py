"""Lines of a watch: however the bytes arrive, the same lines come out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollouts.kube.errors import Invalid
from rollouts.kube.lines import LineSplitter


@given(
    st.lists(st.binary(min_size=1, max_size=20).filter(lambda b: b"\n" not in b and b.strip() == b)),
    st.lists(st.integers(1, 7), min_size=1),
)
def test_chunks_make_no_difference(lines: list[bytes], sizes: list[int]) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    splitter, got, position, turn = LineSplitter(), [], 0, 0
    while position < len(stream):
        size = sizes[turn % len(sizes)]
        got += splitter.feed(stream[position : position + size])
        position, turn = position + size, turn + 1

    assert got == lines
    assert not splitter.incomplete


def test_empty_lines_and_line_ends_are_dropped() -> None:
    assert LineSplitter().feed(b"\n\r\na\r\n\nb\n") == [b"a", b"b"]


def test_a_stream_that_ends_within_a_line_is_noticed() -> None:
    splitter = LineSplitter()

    assert splitter.feed(b'{"a":') == []
    assert splitter.incomplete


@pytest.mark.parametrize(
    ("before", "last"),
    [(b"", b"x" * 11), (b"x" * 6, b"x" * 5), (b"ok\n", b"x" * 11), (b"", b"x" * 11 + b"\n")],
)
def test_a_line_over_the_limit_is_refused(before: bytes, last: bytes) -> None:
    splitter = LineSplitter(max_line=10)
    splitter.feed(before)

    with pytest.raises(Invalid, match="10 bytes"):
        splitter.feed(last)


def test_a_line_at_the_limit_passes_and_one_of_megabytes_by_default() -> None:
    assert LineSplitter(max_line=10).feed(b"x" * 10 + b"\n") == [b"x" * 10]
    assert len(LineSplitter().feed(b"x" * 5_000_000 + b"\n")[0]) == 5_000_000
