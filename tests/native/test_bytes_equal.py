"""The bytes side in Rust says what Python's says: the same bytes, decisions and words on the same input."""

import logging
import random
from typing import Any

import pytest

from tests.kit.native_bytes import KINDS, Difference, Kind, check

native = pytest.importorskip("inference_rollouts_native", reason="the native data path is not built")

COUNT = {"coding": 30, "read": 400, "scan": 1000}
"""Cases of a kind: a run of the whole suite must stay within seconds; the long one is benchmarks.native.fuzz."""


@pytest.fixture(autouse=True)
def quiet_forms() -> None:
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_both_sides_say_the_same(kind: str) -> None:
    answers = [
        repr(check(kind, random.Random(f"1 {kind} {index}"), native.bytes_door))
        for index in range(COUNT.get(kind, 300))
    ]

    assert len(set(answers)) > 4  # the cases are not all refused for one reason


def test_a_difference_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*case: Any) -> Any:
        return "something else"

    monkeypatch.setitem(KINDS, "scan", KINDS["scan"]._replace(native=wrong))
    assert isinstance(KINDS["scan"], Kind)

    with pytest.raises(Difference, match="scan on"):
        check("scan", random.Random(1), native.bytes_door)
