"""Knobs as a person writes them."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.lab.vllm.knobs import ErrorKind, KnobError, Knobs, apply_knobs, knobs_to_json


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ttft": "+50%"}, Knobs(ttft=1.5)),
        ({"ttft": "-20%"}, Knobs(ttft=0.8)),
        ({"ttft": 2}, Knobs(ttft=2.0)),
        ({"errors": "5%"}, Knobs(errors=0.05)),
        ({"errors": 0.05, "errorKind": "SSE"}, Knobs(errors=0.05, error_kind=ErrorKind.SSE)),
        ({"queue": "20ms"}, Knobs(queue_seconds=0.02)),
        ({"queue": "2s", "waiting": 7}, Knobs(queue_seconds=2.0, waiting=7)),
        ({"ready": "false"}, Knobs(ready=False)),
    ],
)
def test_values_are_read_as_people_write_them(changes: dict[str, Any], expected: Knobs) -> None:
    assert apply_knobs(Knobs(), changes) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speed": 1}, "no knob 'speed'"),
        ({"errors": "150%"}, "errors: 1.5 is outside 0..1"),
        ({"errors": "NaN"}, "errors: nan is outside"),
        ({"ttft": "-150%"}, "ttft: -0.5 is outside"),
        ({"ttft": "fast"}, "ttft: 'fast' is not a number"),
        ({"ready": 1}, "ready: 1 is not true or false"),
        ({"errorKind": "418"}, "errorKind: '418' is not one of 500, sse"),
        ({"loraLoad": None}, "loraLoad: None is not one of"),
    ],
)
def test_a_bad_value_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(KnobError, match=message.replace("+", r"\+")):
        apply_knobs(Knobs(), changes)


def test_what_is_shown_can_be_set_again() -> None:
    knobs = Knobs(ttft=1.5, errors=0.1, error_kind=ErrorKind.SSE, ready=False, waiting=3)
    assert apply_knobs(Knobs(), knobs_to_json(knobs)) == knobs
