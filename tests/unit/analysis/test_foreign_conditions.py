"""Conditions as people bring them from Argo Rollouts: they mean the same, or are refused with the line to write."""

from __future__ import annotations

import re
import time

import pytest

from rollouts.analysis.conditions import (
    MAX_LENGTH,
    ConditionError,
    condition_problem,
    evaluate,
    plain_comparison,
)
from rollouts.analysis.types import Labelled, Value


def series(*values: float) -> Value:
    return tuple(Labelled(value=value, labels=(("pod", f"p{n}"),)) for n, value in enumerate(values))


@pytest.mark.parametrize(
    ("text", "value", "want"),
    [
        ("result[0] >= 0.95", 0.97, True),
        ("result[0] >= 0.95", series(0.9), False),
        ("0.95 <= result[0]", series(0.97), True),
        ("result[0] == 1", series(1.0), True),
        ("result[0] >= 90 && result[0] <= 100", 95.0, True),
        ("result[0] > 95 && result[1] < 500", series(96.0, 499.0), True),
        ("result[0] / result[1] < 0.5", series(1.0, 4.0), True),
        ("-result[0] < 0", series(1.0), True),
        ("size(result) == 1 && result[0] < 1", 0.5, True),
        ("size(result) == 2", series(1.0, 2.0), True),
        ("result.all(r, r < 2)", series(1.0, 3.0), False),
        ("double(result[0]) < 2.0", series(1.0), True),
        ("result[0].labels.pod == 'p0'", series(1.0), True),
    ],
)
def test_a_series_is_read_as_its_number_as_there(text: str, value: Value, want: bool) -> None:
    assert condition_problem(text) is None
    assert evaluate(text, value) is want


def test_the_usual_condition_of_there_costs_no_process() -> None:
    compare = plain_comparison("result[0] >= 0.95")

    assert compare is not None
    assert (compare(0.97), compare(0.5)) == (True, False)


INSTEAD = [
    ("len(result) == 0 || result[0] >= 0.95", "result[0] >= 0.95"),
    ("len(result) == 0 || isNaN(result[0]) || result[0] < 0.02", "result[0] < 0.02"),
    ("len(result) > 0 && result[0] < 0.05", "result[0] < 0.05"),
    (
        "len(result) == 1 && !isNaN(result[0]) && !isInf(result[0]) && result[0] >= 20",
        "size(result) == 1 && result[0] >= 20",
    ),
    ("isNaN(result) || result >= 0.95", "result >= 0.95"),
    ("(isNaN(result)) || (result >= 0.95)", "(result >= 0.95)"),
    ("default(result, 0) < 0.05", "result < 0.05"),
    ("default(result[0], 0.0) < 0.05", "result[0] < 0.05"),
    ("result != nil && result[0] < 1", "result[0] < 1"),
    ("isNil(result) ? true : result < 1", "result < 1"),
    ("asFloat(result[0]) < 1.5", "double(result[0]) < 1.5"),
    ("len(result) == 3", "size(result) == 3"),
    ("result > 0 and not (result > 1)", "result > 0 && ! (result > 1)"),
    ("all(result, {# < 0.5})", "result.all(r, r < 0.5)"),
    ("none(result, # > 0.5)", "!result.exists(r, r > 0.5)"),
    ("not (result > 1)", "! (result > 1)"),
]


@pytest.mark.parametrize(("text", "line"), INSTEAD)
def test_what_cannot_mean_the_same_is_refused_with_the_line_to_write(text: str, line: str) -> None:
    problem = condition_problem(text)

    assert problem is not None
    assert f"write {line!r}" in problem
    assert condition_problem(line) is None


@pytest.mark.parametrize(
    "text", ["isNaN(result)", "len(result) > 0", "isInf(result) || isNil(result)", "result == nil"]
)
def test_what_only_asks_about_silence_is_sent_to_the_field_for_it(text: str) -> None:
    assert "noData: Fail" in str(condition_problem(text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("result < 1 || bar(result)", "there is no bar"),
        ("result.exists(r, foo(r))", "there is no foo"),
        ("result[0] < 1 ? true : latency < 1.0", "there is no latency"),
        ("result.value < 1", "have no fields"),
        ("'x' < result", "< does not take a text"),
        ("!result", "! does not take"),
    ],
)
def test_what_fits_no_result_is_said_before_it_runs(text: str, words: str) -> None:
    assert words in str(condition_problem(text))


INSIDES = re.compile(
    "[Aa]ctivation|Referent|NameContainer|Token|[A-Za-z]Type|_Number|_Series|CELEvalError|<class"
)
ODD = [text for text, _ in INSTEAD] + [
    *(
        "foo < 1",
        "result.foo < 1",
        "result[0][1] < 1",
        "result[7] < 1",
        "result in [1, 2]",
        "result < 5%",
        "a.b.c(1)",
    ),
    *("result.all(r, r.labels.zone == 'a' && r < 1)", "int(result) < 1", "result + 'a' < 1", "google.x < 1"),
    *(
        "result['a'] < 1",
        "{1: result}[2] < 1",
        "[result][0] < 1",
        "type(result) == list",
        "has(result.x)",
        "1/0 < 1",
    ),
    *(
        "result < duration('x')",
        "timestamp(result) < 1",
        "result.matches('[')",
        "'a'.matches('[')",
        ".result < 1",
    ),
]


@pytest.mark.parametrize("text", ODD)
def test_no_message_shows_the_insides_of_the_library(text: str) -> None:
    told = [condition_problem(text) or ""]
    for value in (0.5, series(0.5), series(0.5, 2.0)):
        try:
            evaluate(text, value)
        except ConditionError as error:
            told.append(str(error))

    assert [message for message in told if INSIDES.search(message.replace(text, ""))] == []


@pytest.mark.timed
@pytest.mark.parametrize(
    "text",
    [
        "default(" * 20 + "result" + ", 0)" * 20 + " < 1",
        "len(result) > 0 && " * 40 + "result < 1",
        "!" * 20 + "(isNaN(result))",
        "all(" * 250,
        "result < 1 and " * 60 + "result < 1",
    ],
)
def test_the_line_to_write_costs_no_more_than_the_condition(text: str) -> None:
    assert len(text) <= MAX_LENGTH
    begun = time.process_time()

    assert condition_problem(text)
    assert time.process_time() - begun < 2.0


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("result[0] =< 0.05", "result[0] <= 0.05"),
        ("result => 1.0 and result =< 3.0", "result >= 1.0 && result <= 3.0"),
        ("result < 2000ms", "result < 2"),
        ("result < 5%", "result < 0.05"),
        ("result > 1.5 s && result < 3m", "result > 1.5 && result < 180"),
        ("10 % 3 == 1 and result < 1h", "10 % 3 == 1 && result < 3600"),
    ],
)
def test_signs_that_are_turned_round_are_told_as_they_are_written(text, line):
    assert f"write {line!r}" in str(condition_problem(text))
    assert condition_problem(line) is None
