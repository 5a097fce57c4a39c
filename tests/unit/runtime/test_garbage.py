"""Rare collections: set once, and cycles still go."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from rollouts.runtime.garbage import THRESHOLDS, relax_collection


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


class Node:
    """One end of a cycle."""

    other: Node


def test_the_thresholds_are_set_and_what_was_there_is_set_aside() -> None:
    relax_collection()

    assert gc.get_threshold() == THRESHOLDS
    assert gc.get_freeze_count() > 0


def test_cycles_are_still_collected() -> None:
    relax_collection()
    left, right = Node(), Node()
    left.other, right.other = right, left
    gone = weakref.ref(left)
    del left, right

    kept = [[] for _ in range(THRESHOLDS[0] + 1)]

    assert gone() is None, f"{len(kept)} containers later the cycle is still there"
