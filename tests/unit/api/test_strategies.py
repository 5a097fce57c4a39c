"""Shared strategies: the merge by whole fields, what is pinned, and what cannot be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rollouts.api.parsing import parse_rollout
from rollouts.api.references import template_names
from rollouts.api.status import write_status
from rollouts.api.status_models import MOST_STRATEGY
from rollouts.api.strategies import StrategyFault, canary_of, effective_spec, pin_strategy, strategy_ref
from rollouts.engine.attempt import Attempt, PinnedStrategy
from rollouts.engine.revision import revision_of
from rollouts.engine.rollout_spec import PauseStep, WeightStep
from rollouts.engine.rollout_status import RolloutStatus
from rollouts.engine.versions import Identity
from rollouts.units import ZERO

Object = dict[str, Any]
STEPS = [{"setWeight": 10}, {"setWeight": 50}]


def shared(canary: Any, kind: str = "RolloutStrategy") -> Object:
    return {"kind": kind, "metadata": {"name": "careful"}, "spec": {"canary": canary}}


def rollout(strategy: Any, status: Object | None = None) -> Object:
    return {
        "metadata": {"name": "demo", "namespace": "default", "uid": "u", "generation": 1},
        "spec": {
            "target": {"pool": {"name": "v2"}},
            "traffic": {"httpRoutes": [{"name": "route"}]},
            "strategy": strategy,
        },
        "status": status or {},
    }


def pin(canary: Any) -> PinnedStrategy:
    found = pin_strategy(shared(canary))
    assert isinstance(found, PinnedStrategy), found
    return found


BY_NAME = {"canaryFrom": {"name": "careful"}}


@pytest.mark.parametrize(
    ("own", "effective"),
    [
        (None, {"steps": STEPS, "bake": "10m", "targetDeadline": "1h"}),
        ({"bake": "0s"}, {"steps": STEPS, "bake": "0s", "targetDeadline": "1h"}),
        ({"targetDeadline": None}, {"steps": STEPS, "bake": "10m", "targetDeadline": None}),
        # Lists are not merged, nor are objects.
        (
            {"steps": [{"setWeight": 5}]},
            {"steps": [{"setWeight": 5}], "bake": "10m", "targetDeadline": "1h"},
        ),
    ],
)
def test_whole_fields_of_the_rollout_win(own: Object | None, effective: Object):
    strategy = BY_NAME if own is None else {**BY_NAME, "canary": own}
    given = pin({"steps": STEPS, "bake": "10m", "targetDeadline": "1h"})
    spec = effective_spec(rollout(strategy)["spec"], given)
    assert spec["strategy"]["canary"] == effective
    parsed = parse_rollout(rollout(strategy), strategy=given)
    assert parsed.problems == ()
    assert parsed.strategy == given


def test_what_is_not_known_moves_no_weight():
    parsed = parse_rollout(
        rollout({**BY_NAME, "canary": {"analysis": {"preset": "default", "startingStep": 31}}})
    )
    assert parsed.problems == ()
    assert parsed.spec is not None
    assert set(parsed.spec.canary.steps) == {PauseStep(duration=None)}
    assert parsed.strategy is None


def test_what_the_attempt_has_pinned_is_read_from_its_status():
    given = pin({"steps": [{"setWeight": 0}]})
    canary = revision_of(Identity(kind="InferencePool", group="g", name="v2"), "")
    status = RolloutStatus(stable=canary, attempt=1, current=Attempt(canary=canary, strategy=given))
    stored = write_status(status)
    parsed = parse_rollout(rollout(BY_NAME, stored))
    assert parsed.strategy == given
    assert parsed.spec is not None
    assert parsed.spec.canary.steps == (WeightStep(weight=ZERO),)
    other = parse_rollout(rollout({"canaryFrom": {"name": "another"}}, stored))
    assert other.strategy is None


def test_one_content_has_one_hash_whatever_the_order_of_its_fields():
    one, two = pin({"steps": STEPS, "bake": "1m"}), pin({"bake": "1m", "steps": STEPS})
    assert one == two
    assert canary_of(one) == {"steps": STEPS, "bake": "1m"}
    assert pin({"steps": STEPS, "bake": "2m"}).hash != one.hash


@pytest.mark.parametrize(
    ("obj", "says"),
    [
        ({"kind": "RolloutStrategy", "metadata": {"name": "x"}}, "spec is missing"),
        (shared(None), "spec.canary"),
        (shared("x"), "spec.canary"),
        (shared({"steps": "all"}), "spec.canary.steps"),
        (shared({"steps": [7]}), "spec.canary.steps[0]"),
        ({"metadata": 3, "spec": {"canary": {"steps": []}}}, "spec.canary.steps"),
        (shared({}), "spec.canary.steps"),
        (shared({"steps": [{"setWeight": 10, "pause": {}}]}), "spec.canary.steps[0] exactly one of"),
        (shared({"steps": [{"setWeight": 50}, {"setWeight": 10}]}), "spec.canary.steps[1].setWeight"),
        (shared({"steps": STEPS, "bake": "soon"}), "spec.canary.bake"),
        (shared({"steps": STEPS, "sticky": {}}), "spec.canary.sticky"),
        (shared({"steps": [{"job": {"spec": {"x": "y" * MOST_STRATEGY}}}]}), "longer than 32768 characters"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_path(obj: Object, says: str):
    found = pin_strategy(obj)
    assert isinstance(found, StrategyFault)
    assert says in found.text


def test_jobs_that_are_nested_too_deeply_are_refused():
    deep: Object = {}
    for _ in range(200):
        deep = {"x": deep}
    found = pin_strategy(shared({"steps": [{"job": {"spec": deep}}]}))
    assert isinstance(found, StrategyFault)
    assert "nested deeper" in found.text


@pytest.mark.parametrize("content", ["", "[]", "nonsense", "[" * 5000, json.dumps({"a": 1})[:-1]])
def test_a_status_that_somebody_scribbled_on_moves_no_weight(content: str):
    broken = PinnedStrategy(kind="RolloutStrategy", name="careful", hash="h", content=content)
    parsed = parse_rollout(rollout(BY_NAME), strategy=broken)
    assert parsed.spec is not None
    assert set(parsed.spec.canary.steps) == {PauseStep(duration=None)}


@pytest.mark.parametrize(
    "strategy",
    [
        None,
        [],
        "x",
        {"canaryFrom": []},
        {"canaryFrom": {"name": 3}},
        {"canaryFrom": {"name": "x", "kind": "Pod"}},
    ],
)
def test_hostile_references_are_none(strategy: Any):
    assert strategy_ref({"strategy": strategy}) is None
    assert parse_rollout(rollout(strategy)).problems != ()


def test_a_canary_of_another_type_is_a_problem_with_its_path():
    (problem,) = parse_rollout(rollout({**BY_NAME, "canary": [1]})).problems
    assert problem.message.startswith("spec.strategy.canary:")


def test_templates_of_what_an_attempt_has_pinned_are_referred_to_as_well():
    """Their coming and going has to wake the Rollout, whatever the strategy says by now."""
    gate = {"templates": [{"templateName": "lat"}, {"templateName": "err", "clusterScope": True}]}
    content = json.dumps({"steps": [{"setWeight": 10}, {"analysis": gate}]})
    obj = {
        "metadata": {"name": "m", "namespace": "default"},
        "spec": {"strategy": {"canaryFrom": {"name": "careful"}}},
        "status": {"strategy": {"content": content}},
    }

    assert set(template_names(obj)) == {(False, "lat"), (True, "err")}
    obj["status"] = {"strategy": {"content": "[" * 100_000}}
    assert list(template_names(obj)) == []
