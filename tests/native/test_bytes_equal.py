"""The bytes side in Rust says what Python's says: the same bytes, decisions and words on the same input."""

import logging
import random
from typing import Any

import pytest

from benchmarks.native.fuzz import CASES, block
from rollouts.picker.core import body, charset, coding, form, measure, ports, reader, restore, wire
from tests.kit import native_bytes
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


def compare(count: int) -> None:
    for number in range(count // CASES):
        block(number, seed=2026)


class LastEventLost(measure.ResponseMeter):
    """Reads no event without an end of its line."""

    def finish(self, ending: measure.Ending, now: float) -> measure.ObservedResponse:
        self._carry = b""
        return super().finish(ending, now)


@pytest.mark.full
@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        (body, "MAX_DEPTH", 511),
        (body, "MAX_TOKEN", 1025),
        (body, "MAX_CAPTURE", 4095),
        (charset, "_MARKS", charset._MARKS[1:]),
        (coding, "PIECE", 65_535),
        (coding, "MAX_RATIO", 199),
        (form, "MAX_VALUE", 4097),
        (form, "MAX_PARTS", 2001),
        (measure, "TAIL", 16_383),
        (measure, "MAX_LINE", 65_537),
        (measure, "_ROLE", measure._TEXT),
        (native_bytes, "ResponseMeter", LastEventLost),
        (ports, "SMALL", (64 << 10) - 1),
        (ports, "SMALL", (64 << 10) + 1),
        (ports, "_SET_ASIDE", 17),
        (reader, "_LOOK", 4095),
        (wire, "MAX_HEADER_LIST", (256 << 10) - 1),
        (wire, "MAX_METADATA", (64 << 10) - 1),
        (wire, "MAX_METADATA", (64 << 10) + 1),
        (wire, "MAX_STRUCT_DEPTH", 15),
        (wire, "PER_KEPT_LINE", 159),
        (wire, "_JOINED", {**wire._JOINED, b"cookie": b";"}),
        (restore, "_MODEL", frozenset({"id"})),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_planted_bug_is_seen_in_the_first_hundredth_of_a_long_run(
    monkeypatch: pytest.MonkeyPatch, where: Any, name: str, value: Any
) -> None:
    monkeypatch.setattr(where, name, value)

    with pytest.raises(Difference):
        compare(100_000)
