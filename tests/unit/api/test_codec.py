"""The codec: every value there and back, only what the models have, and what is scribbled costs only itself."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from rollouts.analysis.types import GateState, Measurement, MetricResult, RunPhase, RunStatus
from rollouts.api.base import ApiModel
from rollouts.api.codec import Record
from rollouts.api.former import understood
from rollouts.api.run_results import read_run_status, write_run_status
from rollouts.api.run_status_models import AnalysisRunStatusModel
from rollouts.api.status import read_status, write_status
from rollouts.api.status_models import RolloutStatusModel
from rollouts.engine.attempt import Attempt
from rollouts.engine.rollout_status import Phase, RolloutStatus
from rollouts.engine.versions import RevisionHash
from rollouts.units import Weight

MOMENT = "2026-01-01T00:00:00Z"
FILLED = (
    *("kind", "name", "raw", "verdict", "id", "trigger", "receiver", "phase"),
    *("webhook", "hash", "content"),
)
"""Texts that are never empty."""


def values(hint: Any, name: str = "") -> st.SearchStrategy[Any]:
    """Whatever a dataclass's annotations admit."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*(st.none() if part is type(None) else values(part, name) for part in parts))
    if origin is tuple:
        return st.lists(values(parts[0], name), max_size=2).map(tuple)
    if origin is not None and issubclass(origin, Mapping):
        return st.dictionaries(st.sampled_from(["effect", "harm"]), st.floats(0, 10))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(list(hint))
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return st.builds(
            hint, **{item.name: values(hints[item.name], item.name) for item in dataclasses.fields(hint)}
        )
    return {
        Weight: st.integers(0, 10_000),
        RevisionHash: st.text("0123456789abcdef", min_size=64, max_size=64),
        datetime: st.integers(0, 2 * 10**9).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
        str: st.text(min_size=1 if name in FILLED else 0, max_size=20),
        bool: st.booleans(),
        int: st.integers(1, 99),
        float: st.floats(-1e6, 1e6, allow_nan=False),
    }[hint]


QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@QUICK
@given(values(RolloutStatus))
def test_what_was_read_is_written_again(status):
    assume(status.phase is not Phase.NEW)  # never stored beside anything else
    data = json.loads(json.dumps(write_status(understood(status))))
    read, unreadable = read_status(data)

    assert (write_status(read), unreadable) == (data, ())


@QUICK
@given(values(RunStatus))
def test_what_was_read_of_a_run_is_written_again(status):
    data = json.loads(json.dumps(write_run_status(status)))

    assert write_run_status(read_run_status(data)) == data


@QUICK
@given(values(RolloutStatus), values(RunStatus))
def test_only_fields_of_the_models_are_written(status, run):
    for model, data in (
        (RolloutStatusModel, write_status(status)),
        (AnalysisRunStatusModel, write_run_status(run)),
    ):
        assert unknown(model, data) == []


def unknown(model: type[ApiModel], data: Mapping[str, Any]) -> list[str]:
    """Names, at any depth, that a model does not have."""
    known = {str(info.alias): info.annotation for info in model.model_fields.values()}
    found = [name for name in data if name not in known]
    for name, value in data.items():
        inner = next((part for part in parts_of(known.get(name)) if issubclass(part, ApiModel)), None)
        if inner is not None:
            for item in value if isinstance(value, list) else [value]:
                found += unknown(inner, item)
    return found


def parts_of(annotation: Any) -> list[type]:
    if isinstance(annotation, type):
        return [annotation]
    return [part for inner in typing.get_args(annotation) for part in parts_of(inner)]


def test_every_field_of_the_models_is_written_by_somebody():
    fields = {field.name for kind in (RolloutStatus, Attempt) for field in dataclasses.fields(kind)}
    assert fields - set(RolloutStatusModel.model_fields) == {
        "current",
        "hold_message",
        "canary_crashes",
        "stable_crashes",
    }
    assert set(RolloutStatusModel.model_fields) - fields == {"crashes", "message_line", "step", "weight_text"}


ARM = {"kind": "InferencePool", "name": "v2", "hash": "0" * 64}
ENTRY = {"kind": "InferencePool", "name": "v2"}
WAY = {"kind": "HTTPRoute", "name": "r", "mode": "Adopted", "stable": ENTRY, "canary": ENTRY}
ABORT = {"hash": "0" * 64, "step": 2, "at": MOMENT, "reason": "GateFailed", "message": "m"}


@pytest.mark.parametrize(
    ("data", "path", "lost"),
    [
        ({"aborted": ABORT | {"step": "two"}}, "status.aborted.step", False),
        ({"aborted": ABORT | {"at": "never"}}, "status.aborted", True),
        (
            {"lastCommand": {"raw": "{}", "result": "Done", "at": MOMENT, "by": 7}},
            "status.lastCommand.by",
            False,
        ),
        ({"lastCommand": {"raw": "{}", "result": "Perhaps", "at": MOMENT}}, "status.lastCommand", True),
        ({"crashes": {"canary": {"count": -1, "restarts": 3}}}, "status.crashes.canary.count", False),
        ({"canary": ARM | {"source": ["x"]}}, "status.canary", True),
        ({"canary": ARM | {"hash": "short"}}, "status.canary", True),
        ({"wayBack": [WAY | {"share": "much"}]}, "status.wayBack[0]", True),
        ({"wayBack": [WAY | {"stable": ENTRY | {"port": 0.5}}]}, "status.wayBack[0]", True),
        ({"hold": ["x"]}, "status.hold", True),
        ({"hold": {"reason": "Whim", "message": "m"}}, "status.hold.reason", False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_field_is_named_and_a_thing_that_would_be_another_is_lost_whole(data, path, lost):
    """An abort whose message is lost is still an abort; an entry of another namespace would be another entry."""
    read, unreadable = read_status({"phase": "Aborted", "stable": ARM, "canary": ARM} | data)
    (name,) = data
    kept = write_status(read).get(name)

    assert unreadable == (path,)
    assert (kept is None) is lost or name == "hold"


OF_AN_ATTEMPT = {
    "currentStep": 1,
    "stepCount": 4,
    "startedAt": MOMENT,
    "pulled": True,
    "aborted": ABORT,
    "path": {"undone": True},
}


@pytest.mark.parametrize(
    "moment", ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59-05:00", "0001-01-01T00:00:00Z"]
)
def test_a_time_to_which_no_duration_can_be_added_is_as_if_it_had_never_been_written(moment):
    wait = {"target": "1:0011223344556677", "since": moment}
    status, bad = read_status({"standingSince": moment, "targetWait": wait})
    assert (status.standing_since, status.target_wait) == (None, None)
    assert sorted(bad) == ["status.standingSince", "status.targetWait"]


def test_what_belongs_to_an_attempt_is_nobodys_without_a_canary():
    """An older version, or a person, may leave it: no step, clock or abort is taken from it."""
    read, unreadable = read_status({"phase": "Healthy", "stable": ARM} | OF_AN_ATTEMPT)

    assert (read.current, read.current_step, unreadable) == (None, 4, ())
    assert write_status(read).keys() & OF_AN_ATTEMPT.keys() == {"currentStep", "stepCount"}


def test_what_is_wrong_of_an_attempt_is_named_although_its_canary_is_lost():
    lost = {"canary": ARM | {"hash": "short"}, "startedAt": "soon"}
    read, unreadable = read_status({"phase": "Progressing", "stable": ARM} | OF_AN_ATTEMPT | lost)

    assert (read.current, unreadable) == (None, ("status.canary", "status.startedAt"))


def test_a_run_whose_words_were_scribbled_on_is_kept_and_one_whose_verdicts_were_starts_over():
    result = MetricResult(name="m", phase=RunPhase.FAILED, failed=3)
    taken = Measurement(phase=RunPhase.FAILED, at=datetime(2026, 1, 1, tzinfo=UTC), value=0.5)
    status = RunStatus(
        phase=RunPhase.RUNNING,
        metrics=(dataclasses.replace(result, measurements=(taken,)),),
        gates=(GateState(step=None, verdict="Fail"),),
        judged_at=datetime(2026, 1, 1, tzinfo=UTC),
        earned=True,
    )
    data = write_run_status(status)

    assert read_run_status(data) == status
    assert read_run_status(data | {"message": ["x"]}) == status
    assert read_run_status(data | {"earned": "yes"}) == dataclasses.replace(status, earned=False)
    for wrong in ({"phase": "Fine"}, {"metricResults": [{"name": "m"}]}, {"gates": "none"}, {"decision": 1}):
        assert read_run_status(data | wrong) == RunStatus()
    assert read_run_status("scribble") == RunStatus()


def test_a_field_that_the_model_lacks_is_refused_when_the_program_starts():
    class Model(ApiModel):
        known: int = 0

    @dataclass(frozen=True, kw_only=True)
    class Value:
        known: int = 0
        unknown: int = 0

    @dataclass(frozen=True, kw_only=True)
    class Odd:
        known: complex = 0j

    with pytest.raises(KeyError, match="unknown"):
        Record(Value, Model)
    with pytest.raises(TypeError, match="complex"):
        Record(Odd, Model)
