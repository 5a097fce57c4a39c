"""Verdict tables of threshold metrics: measurement, metric, run; and the ways in which nothing fails open."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rollouts.analysis.run_plan import plan_run
from rollouts.analysis.types import (
    Labelled,
    MeasureKind,
    Measurement,
    MeasureSpec,
    MetricSpec,
    NoData,
    OnFail,
    RunPhase,
    RunSpec,
    RunStatus,
)
from rollouts.analysis.verdicts import judge_value

START = datetime(2026, 1, 1, tzinfo=UTC)
NAN = math.nan
PASS, FAIL, ODD, ERROR = (
    RunPhase.SUCCESSFUL,
    RunPhase.FAILED,
    RunPhase.INCONCLUSIVE,
    RunPhase.ERROR,
)


def metric(name: str = "m", **fields: Any) -> MetricSpec:
    if not {"success_condition", "failure_condition"} & fields.keys():
        fields["success_condition"] = "result < 100.0"
    return MetricSpec(name=name, what=MeasureSpec(kind=MeasureKind.PRESET, name="ttft"), **fields)


def run_of(*metrics: MetricSpec, step: int | None = 1, terminate: bool = False) -> RunSpec:
    return RunSpec(
        rollout="demo", attempt=1, step=step, canary=None, stable=None, metrics=metrics, terminate=terminate
    )


def play(run: RunSpec, values: dict[str, list[Any]], *, every: float = 10.0, rounds: int = 60) -> RunStatus:
    """Measure with these values, in turn, until the run has ended or there are none left."""
    status, now = RunStatus(), START
    for _ in range(rounds):
        planned = plan_run(run, status, now)
        taken = {}
        for due in planned.due:
            left = values[due.name]
            if not left:
                return planned.status
            value = left.pop(0)
            error = Measurement(phase=RunPhase.ERROR, at=now, message="source is down")
            taken[due.name] = error if value == "error" else judge_value(due, value, now)
        status = plan_run(run, planned.status, now, taken).status
        if status.phase.terminal:
            return status
        now += timedelta(seconds=every)
    return status


@pytest.mark.parametrize(
    ("success", "failure", "value", "want"),
    [
        ("", "", 1.0, ERROR),
        ("result < 2.0", "", 1.0, PASS),
        ("result < 2.0", "", 3.0, FAIL),
        ("", "result > 2.0", 3.0, FAIL),
        ("", "result > 2.0", 1.0, PASS),
        ("result < 2.0", "result > 4.0", 5.0, FAIL),
        ("result < 2.0", "result > 4.0", 1.0, PASS),
        ("result < 2.0", "result > 4.0", 3.0, ODD),
        ("result < 9.0", "result > 4.0", 5.0, FAIL),
        ("result.all(r, r.value < 2.0)", "", 1.0, ERROR),
        ("result.size() > 0", "", (), RunPhase.PENDING),
    ],
)
def test_one_measurement(success, failure, value, want):
    judged = judge_value(metric(success_condition=success, failure_condition=failure), value, START)

    assert judged.phase is want


@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf, (), (Labelled(value=NAN),), None])
@pytest.mark.parametrize(
    ("policy", "want"),
    [
        (NoData.WAIT, RunPhase.PENDING),
        (NoData.INCONCLUSIVE, ODD),
        (NoData.FAIL, FAIL),
        (NoData.PASS, PASS),
    ],
)
def test_nan_infinite_and_empty_are_no_data_alike(value, policy, want):
    judged = judge_value(metric(failure_condition="result > 2.0", no_data=policy), value, START)

    assert (judged.phase, judged.no_data) == (want, True)


def test_one_unlabelled_series_is_its_number():
    judged = judge_value(metric(success_condition="result < 2.0"), (Labelled(value=1.0),), START)

    assert judged.phase is PASS


SECONDS = timedelta(seconds=10)
RUNS: dict[str, tuple[dict[str, Any], list[Any], RunPhase]] = {
    "one good measurement is enough without a count": ({}, [1.0], PASS),
    "one bad one too": ({}, [3.0], FAIL),
    "failures up to the limit are tolerated": (
        {"interval": SECONDS, "count": 3, "failure_limit": 1},
        [1.0, 3.0, 1.0],
        PASS,
    ),
    "failures beyond it are not": (
        {"interval": SECONDS, "count": 4, "failure_limit": 1},
        [3.0, 1.0, 3.0],
        FAIL,
    ),
    "errors do not count": ({"interval": SECONDS, "count": 2}, [1.0, "error", "error", 1.0], PASS),
    "five errors in a row pass by": (
        {"interval": SECONDS, "count": 9},
        [1.0, *["error"] * 5],
        RunPhase.RUNNING,
    ),
    "four are not": ({"interval": SECONDS, "count": 2}, [1.0, *["error"] * 4, 1.0], PASS),
    "enough successes in a row end it early": (
        {"interval": SECONDS, "count": 9, "consecutive_success_limit": 2, "failure_limit": 5},
        [3.0, 1.0, 1.0],
        PASS,
    ),
    "never enough in a row is inconclusive": (
        {"interval": SECONDS, "count": 4, "consecutive_success_limit": 3, "failure_limit": 5},
        [1.0, 3.0, 1.0, 3.0],
        ODD,
    ),
    "a failure limit of -1 never fails": (
        {"interval": SECONDS, "count": 3, "failure_limit": -1},
        [3.0, 3.0, 1.0],
        PASS,
    ),
    "but no success at all is no pass": (
        {"interval": SECONDS, "count": 2, "failure_limit": -1},
        [3.0, 3.0],
        ODD,
    ),
}


@pytest.mark.parametrize("sentence", RUNS)
def test_a_metric_comes_to_its_verdict(sentence):
    fields, values, want = RUNS[sentence]
    status = play(run_of(metric(success_condition="result < 2.0", **fields)), {"m": list(values)})

    assert status.phase is want
    assert status.message


def test_waiting_for_data_ends_as_inconclusive_and_never_as_a_pass():
    status = play(run_of(metric(success_condition="result < 2.0")), {"m": [NAN] * 200}, every=10, rounds=200)

    assert status.phase is ODD
    assert status.completed_at - status.started_at >= timedelta(minutes=10)


@pytest.mark.parametrize(("values", "want"), [([], ODD), ([NAN], ODD), ([1.0], PASS)])
def test_termination_is_a_pass_only_of_what_was_measured_well(values, want):
    spec = metric(success_condition="result < 2.0", interval=SECONDS)
    running = play(run_of(spec, step=None), {"m": values})
    ended = plan_run(run_of(spec, step=None, terminate=True), running, START + timedelta(hours=1)).status

    assert ended.phase is want


def test_background_metrics_with_an_interval_go_on_for_ever_and_earn_their_pass():
    spec = metric(success_condition="result < 2.0", interval=SECONDS)
    status = play(run_of(spec, step=None), {"m": [1.0] * 30})

    assert (status.phase, status.earned) == (RunPhase.RUNNING, True)
    assert play(run_of(spec, step=None), {"m": [NAN] * 3}).earned is False


@pytest.mark.parametrize(
    ("first", "second", "phase", "decision"),
    [
        ({"on_fail": OnFail.ABORT}, {}, FAIL, OnFail.ABORT),
        ({"on_fail": OnFail.PAUSE}, {}, FAIL, OnFail.PAUSE),
        ({"on_fail": OnFail.PAUSE}, {"on_fail": OnFail.ABORT, "failed": True}, FAIL, OnFail.ABORT),
        ({"on_fail": OnFail.ALERT}, {}, PASS, None),
        ({"dry_run": True}, {}, PASS, None),
    ],
)
def test_what_a_failed_metric_asks_for(first, second, phase, decision):
    values = {"a": [3.0], "b": [3.0 if second.pop("failed", False) else 1.0]}
    metrics = [
        metric(name, success_condition="result < 2.0", **fields)
        for name, fields in (("a", first), ("b", second))
    ]
    status = play(run_of(*metrics), values)

    assert (status.phase, status.decision) == (phase, decision)
    assert status.metrics[0].phase is FAIL


def test_measurements_are_anchored_to_the_start_and_missed_ones_are_not_caught_up():
    run = run_of(metric(interval=SECONDS, count=9, initial_delay=timedelta(seconds=3)))
    first = plan_run(run, RunStatus(), START)
    late = START + timedelta(seconds=27)
    taken = plan_run(run, first.status, late, {"m": judge_value(run.metrics[0], 1.0, late)})

    assert (first.due, first.requeue_after) == ((), timedelta(seconds=3))
    assert taken.requeue_after == timedelta(seconds=6)  # the grid is 3, 13, 23, 33


def test_a_terminal_run_is_never_changed():
    done = RunStatus(phase=PASS, message="m")

    assert plan_run(run_of(metric()), done, START).status == done


def test_the_message_names_metric_value_condition_and_count():
    spec = metric("ttft", success_condition="result < 2.0")
    status = play(run_of(spec), {"ttft": [4.1]})

    assert status.message == "ttft = 4.1 (not result < 2.0): 1 of 1 measurements failed"


def test_only_the_newest_measurements_are_kept_and_all_are_counted():
    run = run_of(metric(interval=SECONDS), step=None)
    status = play(run, {"m": [1.0] * 50})

    assert (len(status.metrics[0].measurements), status.metrics[0].successful) == (10, 50)
    assert replace(status.metrics[0], measurements=()).count == 50


BACK = {
    "a metric on an interval": {"interval": timedelta(seconds=30)},
    "a metric without an interval that has no verdict yet": {},
}


@pytest.mark.parametrize("last", [1.0, "error"], ids=["after a value", "after an error"])
@pytest.mark.parametrize("fields", BACK.values(), ids=BACK.keys())
def test_a_clock_set_back_makes_a_metric_due_at_once_instead_of_waiting_for_the_old_time(
    fields: dict[str, Any], last: Any
) -> None:
    run = run_of(metric(count=5, **fields))
    first = plan_run(run, RunStatus(), START)
    error = Measurement(phase=RunPhase.ERROR, at=START, message="source is down")
    taken = error if last == "error" else judge_value(run.metrics[0], last, START)
    before = plan_run(run, first.status, START, {"m": taken}).status
    back = START - timedelta(hours=1)

    planned = plan_run(run, before, back)
    after = plan_run(run, planned.status, back, {"m": judge_value(run.metrics[0], 1.0, back)})

    assert [item.name for item in planned.due] == ["m"]
    assert after.due == (), "measured at the new time, it waits its turn again"
    assert after.requeue_after is not None
    assert after.requeue_after <= timedelta(seconds=30)


def test_a_clock_set_back_before_the_first_measurement_keeps_the_initial_delay_and_no_more() -> None:
    run = run_of(metric(initial_delay=timedelta(seconds=60)))
    before = plan_run(run, RunStatus(), START).status
    back = START - timedelta(hours=1)

    planned = plan_run(run, before, back)
    later = plan_run(run, planned.status, back + timedelta(seconds=60))

    assert planned.requeue_after == timedelta(seconds=60)
    assert [item.name for item in later.due] == ["m"]


def test_an_outage_holds_and_the_gate_goes_on_by_itself():
    run = run_of(metric(interval=SECONDS, count=3))
    outage = ["error"] * 40

    during = play(run, {"m": [1.0, *outage]})
    after = play(run, {"m": [1.0, *outage, 1.0, 1.0]})

    assert during.phase is RunPhase.RUNNING
    assert "held by an error: source is down" in during.message
    assert after.phase is RunPhase.SUCCESSFUL


def test_nothing_but_errors_for_an_hour_is_inconclusive():
    ended = play(run_of(metric(interval=SECONDS, count=3)), {"m": ["error"] * 500}, rounds=500)

    assert ended.phase is RunPhase.INCONCLUSIVE
    assert ended.metrics[0].error == 361
    assert "source is down (for 3600 s, errorTimeout)" in ended.message


def test_a_limit_that_somebody_set_still_ends_in_error():
    ended = play(run_of(metric(interval=SECONDS, consecutive_error_limit=2)), {"m": ["error"] * 10})

    assert ended.phase is RunPhase.ERROR
    assert ended.metrics[0].error == 3
