"""The time line of an attempt: bounded whatever was measured, and what matters stays."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rollouts.analysis.timeline import (
    FINISHED_LIMIT,
    RUNNING_LIMIT,
    MetricPoint,
    TimePoint,
    extended,
    read_timeline,
    thinned,
    write_timeline,
)

figures = st.none() | st.floats()
metrics = st.builds(MetricPoint, effect=figures, low=figures, high=figures, harm=figures, proof=figures)
WIDEST = MetricPoint(effect=-1.23e-300, low=-1.23e-300, high=-1.23e-300, harm=-1.23e-300, proof=-1.23e-300)


def line(count: int, step: int = 30, *, metric: MetricPoint | None = None, each: int = 4) -> list[TimePoint]:
    shown = metric or MetricPoint(effect=0.0123, low=-0.12, high=0.234, harm=1.23, proof=4.56)
    return [
        TimePoint(at=1_764_000_000 + step * n, weight=0.1, canary_requests=n, metrics=(shown,) * each)
        for n in range(count)
    ]


@st.composite
def attempts(draw: st.DrawFn) -> list[TimePoint]:
    count, each = draw(st.integers(0, 40)), draw(st.integers(0, 16))
    at, points = draw(st.integers(0, 2**34)), list[TimePoint]()
    for _ in range(count):
        at += draw(st.integers(1, 10**6))
        row = tuple(draw(st.lists(st.none() | metrics, min_size=each, max_size=each)))
        points.append(
            TimePoint(
                at=at,
                weight=draw(st.floats(0, 1)),
                canary_requests=draw(st.integers(0, 2**70)),
                stable_requests=draw(st.integers(0, 2**70)),
                decision=draw(st.booleans()),
                harm=draw(figures),
                metrics=row,
            )
        )
    return points


@settings(max_examples=60, deadline=None)
@given(attempts(), st.sampled_from([FINISHED_LIMIT, RUNNING_LIMIT]))
@example(line(300, metric=WIDEST, each=16), FINISHED_LIMIT)
@example([replace(point, decision=True) for point in line(300, metric=WIDEST, each=16)], FINISHED_LIMIT)
def test_any_attempt_fits_and_keeps_its_ends_and_its_decisions(points: list[TimePoint], limit: int) -> None:
    kept = thinned(points, limit)
    text = write_timeline(kept)
    assert len(text) <= limit
    assert [point.at for point in read_timeline(text)] == [point.at for point in kept]
    assert thinned(kept, limit) == kept
    assert set(kept) <= set(points)
    assert kept[:1] + kept[-1:] == tuple(points[:1] + points[-1:])
    decisions = [point for point in points if point.decision or point in (points[0], points[-1])]
    if len(write_timeline(decisions)) <= limit:
        assert set(decisions) <= set(kept)
    else:
        assert all(point.decision for point in kept[1:-1])


def test_what_is_left_is_spread_evenly_however_often_it_was_thinned() -> None:
    text = ""
    points = line(2_000)
    for start in range(0, len(points), 4):
        text = extended(text, ["a"] * 4, ["a"] * 4, points[start : start + 4])
    found = [point.at for point in read_timeline(text)]
    gaps = [later - one for one, later in pairwise(found)]
    assert (found[0], found[-1]) == (points[0].at, points[-1].at)
    assert len(found) > 90
    assert max(gaps) <= 4 * 30 * len(points) / len(found)


def test_decisions_in_a_crowd_stay() -> None:
    points = [replace(point, decision=index in (500, 501)) for index, point in enumerate(line(1_000))]
    kept = read_timeline(write_timeline(thinned(points, FINISHED_LIMIT)))
    assert [point.at for point in kept if point.decision] == [points[500].at, points[501].at]


def test_metrics_keep_their_names_when_an_edit_of_the_steps_changes_the_list() -> None:
    one, other = MetricPoint(effect=1.0), MetricPoint(effect=2.0)
    before = [replace(line(1)[0], metrics=(one, other))]
    text = extended(write_timeline(before), ["ttft", "errors"], ["errors", "e2e", "ttft"], line(3)[1:])
    assert read_timeline(text)[0].metrics == (other, None, one)


def test_times_never_go_back() -> None:
    points = line(4)
    text = extended(write_timeline(points[:3]), [], [], [points[1], points[2], points[3]])
    assert [point.at for point in read_timeline(text)] == [point.at for point in points]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no",
        "[]",
        "[" * 20_000,
        '{"v":2,"from":1,"points":[]}',
        '{"v":1,"from":1e400,"points":[[0,0.1,1,1,0,null]]}',
        '{"v":1,"from":-5,"points":[[0,0.1,1,1,0,null]]}',
        '{"v":1,"from":1,"points":[[0,NaN,1,1,0,null]]}',
        '{"v":1,"from":1,"points":[[0,0.1,1,1,0,null],[0,0.1,1,1,0,null]]}',
        '{"v":1,"from":1,"points":[[0,0.1,1,1,0,null,[1,2]]]}',
        '{"v":1,"from":1,"points":7}',
        " " * (3 * RUNNING_LIMIT) + '{"v":1,"from":1,"points":[[0,0.1,1,1,0,null]]}',
    ],
)
def test_a_text_that_is_no_time_line_is_an_empty_one(text: str) -> None:
    assert read_timeline(text) == ()
    assert read_timeline(extended(text, [], [], line(2, each=0))) == tuple(line(2, each=0))
