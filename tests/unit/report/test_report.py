"""A report tells what was stored: who asked, what was measured, every decision, for each attempt that is kept."""

from __future__ import annotations

import copy
import json
import re
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.analysis.timeline import MetricPoint, TimePoint
from rollouts.api.strategies import pin_strategy
from rollouts.engine.attempt import PinnedStrategy
from rollouts.report.charts import HEIGHT, WIDTH, Bound, Series, effect_chart, evidence_chart, weight_chart
from rollouts.report.markup import render
from rollouts.report.page import report_page
from rollouts.report.reading import NoAttemptError, read_attempt
from rollouts.report.scales import linear, logarithmic, ratios, spread
from rollouts.report.words import report_json, report_markdown
from tests.kit.attempts import bad_attempt, good_attempt, objects_of, running_attempt

NOW = datetime(2030, 1, 1, 1, tzinfo=UTC)
Object = dict[str, Any]


def text_of(page: str) -> str:
    return re.sub(r"<[^>]*>", " ", page)


def test_a_promotion() -> None:
    found = read_attempt(*objects_of(good_attempt()))
    assert (found.outcome, found.number, found.newest, found.running) == ("Promoted", 1, 1, False)
    assert [step.state for step in found.steps] == ["done"] * 4
    assert [step.verdict for step in found.steps] == ["", "Pass", "", "Pass"]
    what = [one.what for one in found.decisions]
    assert what.index("Weight 10 %") < what.index("Pass: gate of step 2") < what.index("Weight 50 %")
    assert what.index("Pass: gate of step 4") < what.index("Promoted")
    assert found.ended is not None
    assert found.began is not None
    assert found.began < found.ended


def test_an_abort_names_the_metric_with_its_figures() -> None:
    found = read_attempt(*objects_of(bad_attempt()))
    assert found.outcome == "Aborted"
    assert found.stable.startswith("mymodel-pool-v1 (")
    assert found.steps[3].state == "failed"
    assert [one.result.name for one in found.compared if one.result.verdict == "Fail"] == ["ttft"]
    last = next(one for one in reversed(found.decisions) if one.what == "Aborted")
    assert "ttft: the canary is shown to be worse than stable" in last.why
    assert "abort at 20" in last.why


def test_one_that_goes_on() -> None:
    found = read_attempt(*objects_of(running_attempt()))
    assert (found.outcome, found.running, found.ended) == ("Paused", True, None)
    assert [step.state for step in found.steps] == ["done", "done", "done", "current", "ahead"]
    assert "goes on" in text_of(report_page(found, NOW))


def test_who_asked_is_told_as_far_as_it_is_known() -> None:
    rollout, runs, events = copy.deepcopy(objects_of(good_attempt()))
    rollout["metadata"]["annotations"] = {"inferencerollouts.dev/commit": "0123abcd"}
    rollout["metadata"]["managedFields"] = [
        {
            "manager": "argocd-controller",
            "operation": "Apply",
            "time": "2030-01-01T00:00:00Z",
            "fieldsV1": {"f:spec": {}},
        },
        {
            "manager": "rollouts",
            "operation": "Update",
            "time": "2030-01-01T00:00:09Z",
            "fieldsV1": {"f:status": {}},
        },
    ]
    at = "2030-01-01T00:01:00Z"
    rollout["status"]["lastCommand"] = {
        "raw": "x",
        "action": "promote",
        "result": "Done",
        "at": at,
        "by": "mia",
    }
    told = {one.what: one.answer for one in read_attempt(rollout, runs, events).asked}
    assert told["Commit"] == "0123abcd"
    assert told["Spec written by"] == "argocd-controller (Apply) at 2030-01-01T00:00:00Z"
    assert told["Last command"] == "promote by mia at 2030-01-01 00:01:00 UTC: Done"


def test_an_earlier_attempt_is_told_from_its_run_and_the_history() -> None:
    rollout, runs, events = copy.deepcopy(objects_of(bad_attempt()))
    rollout["status"]["attempt"] = 2
    rollout["status"]["aborted"] = None
    found = read_attempt(rollout, runs, events, 1)
    assert (found.outcome, found.number, found.newest) == ("Aborted", 1, 2)
    assert found.points
    assert not found.steps
    assert any("earlier attempt" in text for text in found.missing)


AT = "2030-01-01T00:01:00Z"


def test_who_approved_what_and_when_is_told_and_what_is_still_asked() -> None:
    rollout, runs, events = copy.deepcopy(objects_of(running_attempt()))
    approved = {
        "step": 1,
        "webhook": "board",
        "decision": "approve",
        "at": AT,
        "by": "ann",
        "message": "CHG-1",
    }
    asked = {"id": "x", "webhook": "qa", "since": AT, "answer": "wait (soon)"}
    rollout["status"] |= {"approvals": [approved], "approval": asked}
    found = read_attempt(rollout, runs, events)

    assert [(one.step, one.webhook, one.decision, one.by, one.message) for one in found.approvals] == [
        (2, "board", "approve", "ann", "CHG-1"),
        (4, "qa", "open", "", "wait (soon)"),
    ]
    for told in (text_of(report_page(found, NOW)), report_markdown(found, NOW), report_json(found)):
        for words in ("board", "approve", "ann", "qa", "open"):
            assert words in told
    rollout["status"]["approval"]["granted"] = True
    assert len(read_attempt(rollout, runs, events).approvals) == 1


def test_who_denied_is_told_of_an_earlier_attempt() -> None:
    rollout, runs, events = copy.deepcopy(objects_of(bad_attempt()))
    (entry,) = [one for one in rollout["status"]["history"] if one["outcome"] == "Aborted"]
    entry["approvals"] = [{"step": 3, "webhook": "board", "decision": "deny", "at": AT, "by": "ben"}]
    rollout["status"]["attempt"] = 2
    found = read_attempt(rollout, runs, events, 1)

    assert [(one.step, one.decision, one.by) for one in found.approvals] == [(4, "deny", "ben")]
    assert read_attempt(rollout, runs, events, 2).approvals == ()


def strategy(bake: str) -> PinnedStrategy:
    canary = {"steps": [{"setWeight": 10}, {"pause": {}}], "bake": bake}
    obj = {"kind": "RolloutStrategy", "metadata": {"name": "careful"}, "spec": {"canary": canary}}
    found = pin_strategy(obj)
    assert isinstance(found, PinnedStrategy)
    return found


def test_the_shared_strategy_is_told_with_what_wins_and_how_it_drifted() -> None:
    rollout, runs, events = copy.deepcopy(objects_of(running_attempt()))
    pinned = strategy("1h")
    rollout["spec"]["strategy"] = {"canaryFrom": {"name": "careful"}, "canary": {"progressDeadline": "5m"}}
    rollout["status"]["strategy"] = {
        "kind": pinned.kind,
        "name": pinned.name,
        "hash": pinned.hash,
        "content": pinned.content,
    }
    found = read_attempt(rollout, runs, events, live=strategy("2h"))

    assert [(one.name, one.origin) for one in found.strategy_fields] == [
        ("bake", "RolloutStrategy careful"),
        ("steps", "RolloutStrategy careful"),
        ("progressDeadline", "this Rollout"),
    ]
    assert "was changed since" in found.strategy[1]
    assert "bake" in found.strategy[1]
    for told in (text_of(report_page(found, NOW)), report_markdown(found, NOW), report_json(found)):
        for words in ("RolloutStrategy careful", "was changed since", "progressDeadline"):
            assert words in told


def test_at_rest_the_steps_are_those_of_the_strategy_as_it_is_now() -> None:
    rollout, runs, events = copy.deepcopy(objects_of(good_attempt()))
    rollout["spec"]["strategy"] = {"canaryFrom": {"name": "careful"}}
    found = read_attempt(rollout, runs, events, live=strategy("1h"))

    assert [step.text for step in found.steps] == ["set weight 10%", "pause until promoted"]
    assert any("as it is now" in text for text in found.missing)


def test_an_attempt_that_is_not_kept_is_named_with_those_that_are() -> None:
    with pytest.raises(NoAttemptError, match=r"there are 1$"):
        read_attempt(*objects_of(bad_attempt()), 7)


def test_a_rollout_without_an_attempt_says_so() -> None:
    rollout = {"metadata": {"namespace": "default", "name": "new"}, "spec": {}}
    with pytest.raises(NoAttemptError, match="no attempt yet"):
        read_attempt(rollout, [], [])


def test_what_is_not_known_is_said() -> None:
    rollout, runs, _ = copy.deepcopy(objects_of(good_attempt()))
    del runs[0]["status"]["timeline"]
    told = " ".join(read_attempt(rollout, runs, None).missing)
    assert "no time line" in told
    assert "Events could not be read" in told


@pytest.mark.parametrize("attempt", [good_attempt, bad_attempt, running_attempt])
def test_all_formats_tell_the_same_decisions(attempt: Any) -> None:
    found = read_attempt(*objects_of(attempt()))
    data = json.loads(report_json(found))
    page, ticket = text_of(report_page(found, NOW)), report_markdown(found, NOW).replace("\\", "")
    assert len(data["decisions"]) == len(found.decisions) > 0
    for one in data["decisions"]:
        assert one["what"] in page
        assert one["what"] in ticket
    assert [point["weight"] for point in data["points"]] == [point.weight for point in found.points]


# --- drawings --------------------------------------------------------------------------------------

figures = st.none() | st.floats(allow_nan=False, allow_infinity=False)
metrics = st.builds(MetricPoint, effect=figures, low=figures, high=figures, harm=figures, proof=figures)


@st.composite
def lines(draw: st.DrawFn) -> list[TimePoint]:
    at, points = 1_700_000_000, list[TimePoint]()
    for _ in range(draw(st.integers(0, 12))):
        at += draw(st.integers(1, 10**5))
        points.append(
            TimePoint(
                at=at,
                weight=draw(st.floats(0, 1)),
                canary_requests=draw(st.integers(0, 10**6)),
                stable_requests=draw(st.integers(0, 10**6)),
                decision=draw(st.booleans()),
                metrics=(draw(st.none() | metrics),),
            )
        )
    return points


def coordinates(drawing: str) -> list[float]:
    paths = " ".join(re.findall(r' d="([^"]*)"', drawing))
    plain = re.findall(r' (?:x|y|x1|x2|y1|y2|cx|cy)="([^"]*)"', drawing)
    return [float(text) for text in (*re.findall(r"-?[0-9.]+", paths), *plain)]


@settings(max_examples=80, deadline=None)
@given(lines(), figures, figures)
def test_any_attempt_is_drawn_inside_its_frame(
    points: list[TimePoint], one: float | None, other: float | None
) -> None:
    start = points[0].at if points else 1_700_000_000
    end = float(points[-1].at if points else start)
    evidence = [(point.at - start, point.metrics[0].harm if point.metrics[0] else None) for point in points]
    bound = Bound(label="abort", style="abort", value=20.0)
    drawings = [
        weight_chart([(start, 0.1)] if points else [], points, start, end),
        effect_chart("ttft", points, 0, start, end, one, other)[0],
        evidence_chart("t", [Series(label="", style="harm", points=evidence)], [bound], start, end),
    ]
    for drawing in drawings:
        text = render(drawing)
        assert not re.search(r"\b(nan|inf)\b", text)
        assert all(0 <= value <= max(WIDTH, HEIGHT) for value in coordinates(text))


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_an_axis_holds_its_values_and_has_few_labels(low: float, size: float) -> None:
    axis = linear(low, low + size, 200, 10)
    assert axis.low <= low + 1e-6 * size
    assert axis.high >= low + size * (1 - 1e-6)
    assert 2 <= len(axis.ticks) <= 7


@given(st.floats(1e-3, 1e8), st.floats(1.5, 1e6))
def test_a_logarithmic_axis_does_too(low: float, times: float) -> None:
    axis = logarithmic(low, low * times, 200, 10)
    assert axis.holds(low * (1 + 1e-6))
    assert axis.holds(low * times * (1 - 1e-6))
    assert 1 <= len(axis.ticks) <= 5
    growth = ratios(low, low * times, 200, 10)
    assert growth.low >= -1.0
    assert all(10 - 1e-6 <= growth.at(tick) <= 200 + 1e-6 for tick in growth.ticks)


@given(st.lists(st.floats(0, 100), max_size=5))
def test_labels_keep_their_distance(wanted: list[float]) -> None:
    placed = sorted(spread(wanted, 12.0, 0.0, 100.0))
    assert all(after - before >= 12.0 - 1e-9 for before, after in pairwise(placed))
    assert all(-1e-9 <= place <= 100.0 + 1e-9 for place in placed)
