"""Rollouts in and out of JSON: no object makes reading raise, and every status survives the round trip."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from rollouts.api import analysis_models, rollout_models, run_status_models, status_models
from rollouts.api.parsing import ParsedRollout, SpecCache, parse_rollout
from rollouts.api.scalars import parse_time
from rollouts.api.status import read_status, write_status
from rollouts.engine.attempt import AbortRecord, ArmCrashes, Attempt
from rollouts.engine.rollout_spec import OnDelete, WeightStep
from rollouts.engine.rollout_status import (
    CommandRecord,
    CommandResult,
    HistoryEntry,
    Outcome,
    Phase,
    RolloutStatus,
    WeightStatus,
)
from rollouts.engine.versions import Identity, Revision
from rollouts.units import Weight, format_duration, parse_duration, parse_fraction, parse_weight, weight_json

GOOD: dict[str, Any] = {
    "apiVersion": "inferencerollouts.dev/v1alpha1",
    "kind": "Rollout",
    "metadata": {"name": "demo", "namespace": "default", "uid": "u", "generation": 3, "resourceVersion": "7"},
    "spec": {
        "target": {"pool": {"name": "v2"}, "revision": "1"},
        "traffic": {"httpRoutes": [{"name": "route", "ruleNames": ["a"]}]},
        "strategy": {
            "canary": {
                "steps": [
                    {"setWeight": 1},
                    {"pause": {"duration": "10m"}},
                    {
                        "analysis": {
                            "metrics": [
                                {
                                    "name": "ttft",
                                    "measure": {"preset": "ttft", "window": "1m"},
                                    "successCondition": "result < 2.0",
                                    "interval": "10s",
                                    "count": 3,
                                }
                            ]
                        }
                    },
                    {"job": {"spec": {"template": {}}}},
                ],
                "analysis": {"startingStep": 1, "templates": [{"templateName": "t"}]},
                "bake": "5m",
            }
        },
        "rollbackWindow": {"duration": "24h"},
        "onDelete": "KeepTraffic",
    },
}

HOSTILE = [None, True, 0, -1, 1.5, float("nan"), "", "x" * 5000, [], [[]], {}, {"a": {"b": []}}, ["x"] * 50]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [here] if here else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += paths(item, (*here, key))
    if isinstance(value, list):
        for index, item in enumerate(value):
            found += paths(item, (*here, index))
    return found


def put(obj: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(obj)
    where = changed
    for part in path[:-1]:
        where = where[part]
    where[path[-1]] = value
    return changed


def test_a_good_object_has_no_problems():
    parsed = parse_rollout(GOOD)

    assert parsed.problems == ()
    assert parsed.spec is not None
    assert [type(step).__name__ for step in parsed.spec.canary.steps] == [
        "WeightStep",
        "PauseStep",
        "AnalysisStep",
        "JobStep",
    ]
    assert parsed.spec.rollback_window == timedelta(hours=24)
    assert parsed.spec.on_delete is OnDelete.KEEP_TRAFFIC


@pytest.mark.parametrize("path", paths(GOOD), ids=lambda path: ".".join(map(str, path)))
def test_no_wrong_type_anywhere_makes_reading_raise(path):
    for value in HOSTILE:
        parsed = parse_rollout(put(GOOD, path, value))

        assert parsed.spec is not None or parsed.problems
        assert [problem for problem in parsed.problems if not problem.message] == []


def test_a_spec_nested_without_end_is_a_problem():
    deep: Any = {}
    for _ in range(100_000):
        deep = {"a": deep}
    parsed = parse_rollout({**GOOD, "spec": {**GOOD["spec"], "extra": deep}})

    assert parsed.problems[0].reason == "SpecInvalid"


def test_a_huge_spec_is_a_problem():
    parsed = parse_rollout({**GOOD, "spec": {**GOOD["spec"], "extra": "x" * 3_200_000}})

    assert "larger than" in parsed.problems[0].message


def test_a_spec_as_large_as_an_api_server_takes_is_read():
    metric = {"name": "m", "query": "x" * 4096, "successCondition": "result < 1"}
    step = {"analysis": {"metrics": [{**metric, "name": f"m{number}"} for number in range(16)]}}
    parsed = parse_rollout(
        put(GOOD, ("spec", "strategy", "canary", "steps"), [{"setWeight": 1}, *[step] * 31])
    )

    assert (parsed.problems, parsed.spec is not None) == ((), True)


@pytest.mark.parametrize("depth", [100, 5000])
def test_what_is_nested_too_deeply_is_named_and_the_rest_is_read(depth):
    deep: Any = {}
    for _ in range(depth):
        deep = {"a": deep}
    route = [{"name": "route", "template": {"parentRefs": [], "rules": [], "deep": deep}}]
    steps = [{"setWeight": 10}, {"job": {"spec": deep}}]
    spec = {**GOOD["spec"], "traffic": {"httpRoutes": route}, "strategy": {"canary": {"steps": steps}}}
    parsed = parse_rollout({**GOOD, "spec": spec})

    assert ["nested deeper than" in problem.message for problem in parsed.problems] == [True]
    assert parsed.spec is not None
    assert parsed.spec.canary.steps[0] == WeightStep(weight=Weight(1000))


def test_unknown_fields_are_tolerated():
    assert parse_rollout(put(GOOD, ("spec", "futureField"), {"a": 1})).problems == ()


def test_a_cached_spec_is_parsed_again_when_its_generation_changes():
    cache = SpecCache()
    first = parse_rollout(GOOD, cache)
    same = parse_rollout(put(GOOD, ("metadata", "labels"), {}), cache)
    changed = put(put(GOOD, ("spec", "target", "pool", "name"), "v3"), ("metadata", "generation"), 4)

    assert same.spec is first.spec
    assert parse_rollout(changed, cache).spec.target.name == "v3"


@settings(max_examples=150, deadline=None)
@given(json_values)
def test_no_object_at_all_makes_reading_raise(value):
    obj = {"metadata": {"name": "x"}, "spec": value, "status": value}
    parsed = parse_rollout(obj)

    assert parsed.spec is not None or parsed.problems


# --- status ----------------------------------------------------------------------------------------

moments = st.integers(0, 10**9).map(lambda s: datetime.fromtimestamp(s, UTC))
texts = st.text(min_size=1, max_size=30)
weights = st.integers(0, 10_000).map(Weight)
hashes = st.text("0123456789abcdef", min_size=64, max_size=64)
identities = st.builds(
    Identity, kind=texts, group=st.text(max_size=9), name=texts, source=st.text(max_size=9)
)
revisions = st.builds(Revision, identity=identities, revision=st.text(max_size=9), hash=hashes)
arm_crashes = st.builds(
    ArmCrashes, count=st.integers(0, 99), restarts=st.integers(0, 99), at=st.none() | moments
)
attempts = st.builds(
    Attempt,
    canary=revisions,
    steps_hash=st.text("0123456789abcdef", max_size=16),
    current_step=st.integers(1, 32),
    step_started_at=st.none() | moments,
    started_at=st.none() | moments,
    bake_started_at=st.none() | moments,
    weight_cap=st.none() | weights,
    stable_endpoints_at_start=st.integers(0, 100),
    unready_since=st.none() | moments,
    pulled=st.booleans(),
    pulls=st.integers(0, 9),
    ready_since=st.none() | moments,
    canary_crashes=arm_crashes,
    stable_crashes=arm_crashes,
    overrides=st.lists(texts, max_size=3).map(tuple),
    skip_gates=st.booleans(),
    adopted_split=st.booleans(),
    restores=st.lists(moments, max_size=5).map(tuple),
    aborted=st.none()
    | st.builds(AbortRecord, hash=hashes, step=st.integers(0, 32), at=moments, reason=texts, message=texts),
)
statuses = st.builds(
    RolloutStatus,
    phase=st.sampled_from([phase for phase in Phase if phase is not Phase.NEW]),
    reason=st.text(max_size=20),
    message=st.text(max_size=200),
    observed_generation=st.integers(0, 10**6),
    stable=st.none() | revisions,
    current=st.none() | attempts,
    attempt=st.integers(0, 99),
    step_count=st.integers(1, 32),
    weight=st.builds(
        WeightStatus,
        desired=st.none() | weights,
        applied=st.none() | weights,
        observed=st.none() | weights,
    ),
    traffic_uid=st.text(max_size=9),
    last_command=st.none()
    | st.builds(
        CommandRecord,
        raw=texts,
        action=st.text(max_size=9),
        result=st.sampled_from(CommandResult),
        message=texts,
        at=moments,
        by=st.text(max_size=9),
    ),
    history=st.lists(
        st.builds(
            HistoryEntry,
            revision=revisions,
            attempt=st.integers(0, 9),
            outcome=st.sampled_from(Outcome),
            at=moments,
            message=st.text(max_size=20),
            stable_until=st.none() | moments,
        ),
        max_size=3,
    ).map(tuple),
)


@settings(max_examples=120, deadline=None)
@given(statuses)
def test_every_status_survives_the_round_trip(status):
    text = json.dumps(write_status(status))
    read, unreadable = read_status(json.loads(text))

    assert (read, unreadable) == (status, ())


@pytest.mark.parametrize("field", write_status(RolloutStatus(phase=Phase.HEALTHY, attempt=1, message="m")))
def test_a_scribbled_field_is_reported_and_costs_only_itself(field):
    data = write_status(RolloutStatus(phase=Phase.HEALTHY, attempt=1, message="m"))
    data[field] = ["scribble"]
    read, unreadable = read_status(data)

    assert unreadable in ((f"status.{field}",), ())
    assert (read.attempt == 1) is (field != "attempt")


# --- scalars ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1h30m", 5400),
        ("500ms", 0.5),
        ("1.5h", 5400),
        ("2d", 172_800),
        (30, 30),
        ("45", 45),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text) == timedelta(seconds=seconds)
    assert parse_duration(format_duration(parse_duration(text))) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "soon", "-5s", "10 m", "1y", "5m5", True, None, 1.5, "٣s", "1e3s"])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["99999h", "9999999d" * 4, 2**63, "9" * 32])
def test_a_duration_beyond_ten_years_is_ten_years(text):
    assert parse_duration(text) == timedelta(days=3660)


@pytest.mark.parametrize("value", [-1, "1" * 65, "1s" * 40])
def test_durations_that_no_crd_admits(value):
    with pytest.raises(ValueError, match=r"duration|negative"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("value", "hundredths"),
    [(0, 0), (10, 1000), (100, 10_000), ("0.5%", 50), ("10%", 1000), ("99.95%", 9995)],
)
def test_weights(value, hundredths):
    assert parse_weight(value) == hundredths
    assert parse_weight(weight_json(Weight(hundredths))) == hundredths


@pytest.mark.parametrize("value", [-1, 101, "100.5%", "5%\n", "0.005%", "half", True, None, 5.0, "5"])
def test_what_is_no_weight(value):
    with pytest.raises(ValueError, match="weight"):
        parse_weight(value)


@pytest.mark.parametrize(("value", "fraction"), [(0.05, 0.05), (2, 2.0), ("5%", 0.05), ("0.1", 0.1)])
def test_fractions(value, fraction):
    assert parse_fraction(value) == pytest.approx(fraction)


@pytest.mark.parametrize("value", ["x", float("nan"), float("inf"), -0.1, None, True, "5 %", "1e-3", "5%\n"])
def test_what_is_no_fraction(value):
    with pytest.raises(ValueError, match="fraction"):
        parse_fraction(value)


@pytest.mark.parametrize("value", ["2026-01-01", "2026-01-01T00:00:00", 5, None, "x" * 50])
def test_what_is_no_time(value):
    with pytest.raises(ValueError):  # noqa: PT011  # datetime's own words differ by Python version
        parse_time(value)


# --- models ----------------------------------------------------------------------------------------


def models() -> list[type[BaseModel]]:
    found = []
    for module in (analysis_models, rollout_models, run_status_models, status_models):
        for item in vars(module).values():
            if isinstance(item, type) and issubclass(item, BaseModel) and item.__module__ == module.__name__:
                found.append(item)
    return found


@pytest.mark.parametrize("model", models(), ids=lambda model: model.__name__)
def test_every_field_says_what_it_means(model):
    silent = [name for name, field in model.model_fields.items() if not field.description]

    assert silent == []
    assert model.__doc__


@pytest.mark.parametrize(
    ("given", "limit"),
    [
        ({}, timedelta(hours=2)),
        ({"targetDeadline": "30m"}, timedelta(minutes=30)),
        ({"targetDeadline": None}, None),
        ({"targetDeadline": "0s"}, None),
    ],
    ids=["left out", "a time", "null", "zero"],
)
def test_a_target_deadline_of_null_is_not_one_that_was_left_out(given, limit):
    obj = copy.deepcopy(GOOD)
    obj["spec"]["strategy"]["canary"] |= given
    parsed = parse_rollout(obj)
    assert parsed.spec is not None
    assert (parsed.spec.canary.target_deadline, parsed.problems) == (limit, ())


def test_a_target_deadline_that_is_no_time_is_named():
    obj = copy.deepcopy(GOOD)
    obj["spec"]["strategy"]["canary"]["targetDeadline"] = "soon"
    (problem,) = parse_rollout(obj).problems
    assert problem.message.startswith("spec.strategy.canary.targetDeadline")


@pytest.mark.parametrize(("probe", "asked"), [({}, False), ({"mustDiffer": True}, True), (None, False)])
def test_what_the_probe_has_to_show(probe, asked):
    obj = copy.deepcopy(GOOD)
    obj["spec"]["target"] = {"adapter": {"name": "v2", **({} if probe is None else {"probe": probe})}}
    obj["spec"]["traffic"] = {"inferenceModel": {"name": "m"}}
    spec = parse_rollout(obj).spec
    assert spec is not None
    assert spec.target.must_differ is asked


NULLED = {
    "of the spec": {"paused": None, "onDelete": None, "stableHint": None, "dependsOn": None},
    "of the strategy": {"progressDeadline": None, "endpointRatio": None, "bake": None, "windows": None},
    "of a metric": {"noData": None, "failureLimit": None, "errorTimeout": None, "source": None},
}


@pytest.mark.parametrize("where", NULLED)
def test_null_is_left_out_as_the_api_server_leaves_it_out(where):
    """PruneNonNullableNullsWithoutDefaults and Default of k8s.io/apiextensions-apiserver."""

    def parsed(nulls: dict[str, None]) -> ParsedRollout:
        metric = {"name": "m", "measure": {"preset": "ttft"}, "successCondition": "result < 1"}
        metric |= nulls if where == "of a metric" else {}
        canary = {"steps": [{"setWeight": 10}, {"analysis": {"metrics": [metric]}}]}
        canary |= nulls if where == "of the strategy" else {}
        rest = {name: value for name, value in GOOD["spec"].items() if name not in NULLED["of the spec"]}
        spec = rest | {"strategy": {"canary": canary}} | (nulls if where == "of the spec" else {})
        return parse_rollout(GOOD | {"spec": spec})

    assert parsed(NULLED[where]).problems == ()
    assert parsed(NULLED[where]).spec == parsed({}).spec


def test_null_is_no_value_of_a_field_that_is_required():
    spec = GOOD["spec"] | {"strategy": {"canary": {"steps": None}}}

    assert parse_rollout(GOOD | {"spec": spec}).problems
