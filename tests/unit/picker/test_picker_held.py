"""A request body that is held back: its limits, and what can be read of it."""

from __future__ import annotations

import pytest

from rollouts.picker.core.held import BLOCK, HeldBody
from rollouts.picker.core.ports import SMALL, BufferBudget

READS = {
    "from one chunk": (1, 2, b"bc"),
    "over a border": (2, 4, b"cdef"),
    "from a later chunk": (5, 2, b"fg"),
    "up to the end": (7, 100, b"hi"),
    "beyond the end": (9, 5, b""),
}


@pytest.mark.parametrize("sentence", READS)
def test_bytes_are_read(sentence: str) -> None:
    start, size, want = READS[sentence]
    held = HeldBody(BufferBudget())
    for chunk in (b"abc", b"", b"def", b"ghi"):
        assert held.add(chunk) is None

    assert held.read(start, size) == want


def test_one_body_and_all_of_them_are_limited_and_release_gives_back_once() -> None:
    budget = BufferBudget(body_limit=4, total_limit=6)
    first, second = HeldBody(budget), HeldBody(budget)

    assert first.add(b"1234") is None
    refusals = [first.add(b"5"), second.add(b"123")]
    assert [refusal.status for refusal in refusals if refusal] == [413, 503]
    assert (budget.used, second.size) == (4, 0)

    first.release()
    first.release()
    assert budget.used == 0
    assert second.add(b"123") is None


@pytest.mark.parametrize(("size", "most"), [(SMALL, 160 << 10), (SMALL + 1, 150 << 10)])
def test_the_last_sixteenth_is_for_bodies_that_are_small_so_far(size: int, most: int) -> None:
    budget = BufferBudget(total_limit=160 << 10)
    for rest in (0, 1):
        other, held = HeldBody(budget), HeldBody(budget)
        budget.used = most - size + rest

        refusals = [held.add(bytes(SMALL)), held.add(bytes(size - SMALL))]

        assert [refusal is None for refusal in refusals] == [
            rest == 0 or size > SMALL,
            rest == 0 or size == SMALL,
        ]
        assert other.add(b"") is None


def test_small_chunks_are_put_together_and_large_ones_are_not_copied() -> None:
    held = HeldBody(BufferBudget())
    large = bytes(BLOCK)
    for number in range(10_000):
        assert held.add(b"%d" % (number % 10)) is None
    assert held.add(large) is None

    assert [len(chunk) for chunk in held.chunks] == [BLOCK, BLOCK, 10_000 - 2 * BLOCK, BLOCK]
    assert held.chunks[-1] is large
    assert held.size == 10_000 + BLOCK
    assert held.read(4090, 20) == b"0123456789" * 2
