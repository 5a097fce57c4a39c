"""How far back measurements look, and when that is another weight's traffic."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from rollouts.analysis.types import (
    MeasureKind,
    MeasureSpec,
    MetricSpec,
    QuerySpec,
    RunPhase,
    RunSpec,
    Stat,
)
from rollouts.analysis.verdicts import judge_value
from rollouts.analysis.windows import reach, too_early, why_silent, window_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


@pytest.mark.parametrize(
    ("promql", "expected"),
    [
        ("up", 0),
        ("rate(x[5m])", 300),
        ("sum(rate(x[1m])) / sum(rate(y[ 90s ]))", 90),
        ("rate(x[5m] offset 10m)", 900),
        ("max_over_time(rate(x[5m])[30m:1m])", 2100),
        ("max_over_time(x[1h30m:])", 5400),
        ("x{a=\"[5m]\"} + y{b='[1h]'} # [9d]", 0),
        ('x{a=~"\\"[5m]"}', 0),
        ("rate(x[1d])", 86_400),
        ("rate(x[500ms])", 0.5),
        ("rate(x[99999999999y])", 86_400 * 3650),
    ],
)
def test_a_query_looks_back_as_far_as_its_ranges_say(promql, expected):
    assert reach(promql) == seconds(expected)


def test_hostile_queries_are_read_in_linear_time():
    for text in ("[" * 4096, "'" * 4095, "rate(x[" + "5m" * 2000 + "])", "offset " * 500, '"\\' * 1300):
        assert reach(text) >= timedelta(0)


def measure(
    kind: MeasureKind = MeasureKind.PRESET, name: str = "ttft", stat: Stat | None = None
) -> MetricSpec:
    return MetricSpec(
        name="m",
        what=MeasureSpec(kind=kind, name=name, stat=stat, window=seconds(60)),
        success_condition="result < 2.0",
    )


@pytest.mark.parametrize(
    ("metric", "window"),
    [
        (measure(), 60),
        (measure(name="kv-cache"), 0),
        (measure(name="kv-cache", stat=Stat.MEAN), 60),
        (measure(name="aborted"), 60),
        (MetricSpec(name="m", what=QuerySpec(promql="rate(x[2m])")), 120),
    ],
)
def test_the_window_of_a_metric(metric, window):
    assert window_of(metric) == seconds(window)


def run(since: datetime | None, step: int | None = 3) -> RunSpec:
    return RunSpec(
        rollout="r", attempt=1, step=step, canary=None, stable=None, metrics=(measure(),), since=since
    )


@pytest.mark.parametrize(("known", "early"), [(0, True), (59, True), (60, False), (600, False)])
@pytest.mark.parametrize("step", [3, None])
def test_a_window_behind_its_weight_is_no_data(known, early, step):
    why = too_early(run(NOW - seconds(known), step), measure(), NOW)

    assert bool(why) is early
    if early:
        taken = judge_value(measure(), None, NOW, why=why)
        assert (taken.phase, taken.no_data) == (RunPhase.PENDING, True)
        assert f"window 1m, {known}s of it collected since" in taken.message


def test_runs_from_before_know_no_beginning_and_go_on():
    assert too_early(run(None), measure(), NOW) == ""


@pytest.mark.parametrize(
    ("early", "requests", "told"),
    [
        ("window 5m, 1m40s of it collected since this weight began", 12.2, ", 12 canary requests"),
        ("window 5m, 1m40s of it collected since this weight began", 1.0, ", 1 canary request"),
        ("window 5m, 1m40s of it collected since this weight began", None, ""),
        ("", 0.0, "window 1m, 0 canary requests"),
        ("", None, ""),
        ("", float("nan"), ""),
        ("", float("inf"), ""),
    ],
)
def test_silence_says_how_much_there_is_and_of_what(early, requests, told):
    assert why_silent(measure(), early, requests) == f"{early}{told}"


def test_of_a_query_nobody_knows_how_many_requests_it_is_of():
    assert why_silent(MetricSpec(name="m", what=QuerySpec(promql="up")), "", 12.0) == ""
