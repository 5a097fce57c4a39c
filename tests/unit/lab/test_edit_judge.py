"""The judge of the kill-and-edit run names what was planted into a history, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.controller.judging import COMMAND, CONTROLLER, Event, History, judge, ways_back

Object = dict[str, Any]


def route(version: int, seconds: float, stable: int, canary: int, **more: Any) -> Event:
    refs = [{"name": "v1", "weight": stable}, {"name": "v2", "weight": canary}]
    fields = [{"manager": CONTROLLER, "operation": "Update", "time": "2026-01-01T00:00:00Z"}]
    metadata = {"name": "r", "namespace": "default", "managedFields": fields}
    obj = {"metadata": metadata, "spec": {"rules": [{"backendRefs": refs}]}}
    return Event(version=version, seconds=seconds, kind="HTTPRoute", name="r", obj=obj, **more)


def rollout(version: int, seconds: float, applied: int, *, gone: bool = False, **status: Any) -> Event:
    annotations = {COMMAND: status.pop("command", "")}
    obj: Object = {
        "metadata": {"name": "r", "annotations": annotations},
        "status": {
            "phase": "Paused",
            "stable": {"name": "v1", "hash": "a"},
            "canary": {"name": "v2", "hash": "b"},
            "attempt": 1,
            "startedAt": "now",
            "weight": {"applied": applied},
            **status,
        },
    }
    return Event(version=version, seconds=seconds, kind="Rollout", name="r", obj=obj, gone=gone)


def failed_run(version: int, seconds: float) -> Event:
    obj = {"metadata": {"name": "r-b-1"}, "spec": {"attempt": 1}, "status": {"phase": "Failed"}}
    return Event(version=version, seconds=seconds, kind="AnalysisRun", name="r-b-1", obj=obj)


def running(*events: Event, end: float = 500.0, **more: Any) -> History:
    begun = [route(1, 0, 100, 0), route(2, 1, 90, 10), rollout(3, 1, 10)]
    return History(events=[*begun, *events], end=end, **more)


ABORT = '{"action": "abort", "revision": "b"}'


@pytest.mark.parametrize(
    ("why", "asks"),
    [
        ("an AnalysisRun failed", lambda: failed_run(4, 100)),
        ("abort was asked for", lambda: rollout(4, 100, 10, command=ABORT)),
        ("status.aborted", lambda: rollout(4, 100, 10, aborted={"hash": "b"})),
        ("the Rollout was deleted", lambda: rollout(4, 100, 10, gone=True)),
    ],
)
def test_a_way_back_is_timed_and_missed(why: str, asks: Callable[[], Event]) -> None:
    gone, never = running(asks(), route(5, 103, 100, 0)), running(asks())

    assert [(way.why, way.after) for way in ways_back(gone)] == [(why, 3.0)]
    assert judge(gone) == []
    assert judge(never) == [f"r: {why} at 100.0 s, and v2 carries to the end"]


def test_an_outage_gives_more_time_and_not_for_ever() -> None:
    late, later = route(5, 190, 100, 0), route(5, 290, 100, 0)
    outage = [(110.0, 140.0)]

    assert judge(running(failed_run(4, 100), late, outages=outage)) == []
    assert judge(running(failed_run(4, 100), later, outages=outage)) == [
        "r: an AnalysisRun failed at 100.0 s, 190.0 s to 0 %"
    ]


def test_what_another_rollout_owns_is_not_waited_for() -> None:
    assert judge(running(failed_run(4, 100), blocked={"r"})) == []


def test_a_status_that_is_not_so_is_named() -> None:
    told = rollout(4, 100, 0, aborted={"hash": "b"})

    found = judge(running(told, route(5, 101, 100, 0)))

    assert found == ["r: status at 100.0 s says 0 % of v2, stored: 10%"]


def test_a_status_may_follow_its_object_by_seconds() -> None:
    assert judge(running(route(4, 100, 50, 50), rollout(5, 104, 10), rollout(6, 105, 50))) == []
    assert judge(running(route(4, 100, 50, 50), rollout(5, 140, 10, message="news"))) == [
        "r: status at 140.0 s says 10 % of v2, stored: 50%"
    ]


def test_a_raise_after_the_abort_and_a_rule_that_nobody_serves_are_named() -> None:
    aborted = rollout(5, 101, 0, aborted={"hash": "b"})
    raised = running(route(4, 100, 100, 0), aborted, route(6, 200, 90, 10), route(7, 201, 100, 0))
    empty = running(route(4, 100, 0, 0), rollout(5, 101, 0))

    assert judge(raised) == ["r: raised after the abort at 200.0 s: [{'v1': 90, 'v2': 10}]"]
    assert judge(empty) == ["r: nobody serves a rule of HTTPRoute at 100.0 s"]


def test_a_rollout_without_a_traffic_object_is_judged_too() -> None:
    assert judge(History(events=[rollout(1, 0, 10), rollout(2, 1, 10, gone=True)], end=500.0)) == []
