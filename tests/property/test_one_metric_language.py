"""Controller and ``lint`` refuse the same gates, and what neither refuses every source can answer."""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.analysis.catalogue import CATALOGUE, COMPARED, MEASURED, PICKER, SERVERS
from rollouts.analysis.conditions import condition_problem
from rollouts.analysis.offers import PICKER_OFFER, POD_OFFER, PROMETHEUS_OFFER
from rollouts.analysis.types import MeasureKind, MeasureSpec
from rollouts.api.parsing import parse_rollout
from rollouts.cli.lint import Severity, lint_documents
from rollouts.controller.caches import Caches
from rollouts.controller.gates import Gates, problems_of
from rollouts.sources.base import QueryRefused, statistic_of
from tests.kit.clock import Timeline, VirtualClock

API = "inferencerollouts.dev/v1alpha1"
# The CEL parser raises the recursion limit when it is first used, which hypothesis must not see happen.
assert condition_problem("result < 1") is None
OFFERS = {"default": PROMETHEUS_OFFER, "prom": PROMETHEUS_OFFER, "pods": POD_OFFER, "picker": PICKER_OFFER}
Object = dict[str, Any]

PRESETS = st.sampled_from(sorted({*MEASURED, *COMPARED, "nope"}))
RATIOS = st.sampled_from([0.05, "20%", "{{args.tol}}", "{{ args.tol }}%", 3])
FORMS = st.builds(
    lambda what, more: {**what, **more},
    PRESETS.map(lambda preset: {"preset": preset})
    | st.just({"counter": {"errors": "e", "of": "{{args.of}}"}}),
    st.fixed_dictionaries(
        {},
        optional={
            "margin": RATIOS,
            "tolerance": RATIOS,
            "minDwell": st.sampled_from(["500ms", "1d", "300s"]),
            "require": st.sampled_from(["NoHarm", "WithinTolerance"]),
        },
    ),
)
WHATS = st.one_of(
    FORMS.map(lambda form: {"compare": form}),
    PRESETS.map(lambda preset: {"measure": {"preset": preset}, "successCondition": "result < 1"}),
    st.just({"query": "vector({{args.tol}})", "successCondition": "result < 1"}),
)
METRICS = st.builds(
    lambda name, what, source: {"name": name, **what, **source},
    st.sampled_from(["a", "b", "ttft"]),
    WHATS,
    st.sampled_from([{}, *({"source": name} for name in OFFERS)]),
)
ARGS = st.sampled_from([[], [{"name": "tol", "value": "0.2"}], [{"name": "of", "value": "requests"}]])
GATES = st.one_of(
    st.builds(lambda m, a: {"metrics": m, "args": a}, st.lists(METRICS, min_size=1, max_size=3), ARGS),
    st.builds(lambda m: {"metrics": m, "preset": "default"}, st.lists(METRICS, max_size=2)),
    ARGS.map(lambda args: {"templates": [{"templateName": "t"}], "args": args}),
)


def rollout(gates: list[Object], background: Object | None, *, adapter: bool) -> Object:
    steps = [step for gate in gates for step in ({"setWeight": 10}, {"analysis": gate})]
    canary = {"steps": steps} | ({} if background is None else {"analysis": background})
    model = {"name": "m", "modelName": "x", "poolRef": {"name": "p"}}
    what = (
        {"target": {"adapter": {"name": "v2"}}, "traffic": {"inferenceModel": model}}
        if adapter
        else {"target": {"pool": {"name": "v2"}}, "traffic": {"httpRoutes": [{"name": "r"}]}}
    )
    meta = {"name": "demo", "namespace": "default"}
    return {
        "apiVersion": API,
        "kind": "Rollout",
        "metadata": meta,
        "spec": {**what, "strategy": {"canary": canary}},
    }


@settings(deadline=None, max_examples=40)
@given(
    gates=st.lists(GATES, min_size=1, max_size=4),
    background=st.none() | GATES,
    adapter=st.booleans(),
    metrics=st.lists(METRICS, min_size=1, max_size=2),
    args=st.sampled_from([[], [{"name": "tol"}], [{"name": "tol", "value": "0.4"}]]),
)
def test_lint_names_whatever_the_controller_refuses(gates, background, adapter, metrics, args):
    obj = rollout(gates, background, adapter=adapter)
    meta = {"name": "t", "namespace": "default"}
    template = {
        "apiVersion": API,
        "kind": "AnalysisTemplate",
        "metadata": meta,
        "spec": {"metrics": metrics, "args": args},
    }
    caches = Caches(cast("Any", None), VirtualClock(Timeline()), namespaces=("default",))
    caches.templates.apply(copy.deepcopy({**template, "metadata": {**meta, "resourceVersion": "1"}}))
    parsed = parse_rollout(obj)

    found = lint_documents([obj, template], check=condition_problem)
    gates = Gates(caches, OFFERS).resolved(parsed)
    refused = [problem.message for problem in (*parsed.problems, *problems_of(gates))]

    told = [one.text for one in found if one.severity is Severity.PROBLEM]
    if not parsed.problems:  # lint looks no further than those
        assert [text for text in refused if not any(text in one for one in told)] == []
    ours = [one.text for one in found if one.severity is Severity.PROBLEM and one.where == "Rollout/demo"]
    assert bool(ours) <= bool(refused)


@pytest.mark.parametrize("preset", sorted({*MEASURED, *COMPARED, "nope"}))
@pytest.mark.parametrize("name", OFFERS)
def test_a_source_answers_what_it_offers_and_refuses_the_rest(name, preset):
    measure = MeasureSpec(kind=MeasureKind.PRESET, name=preset)
    if preset in OFFERS[name].presets:
        assert statistic_of(OFFERS[name], measure).names
    else:
        with pytest.raises(QueryRefused, match=f"no preset {preset}"):
            statistic_of(OFFERS[name], measure)


@pytest.mark.parametrize("producer", [*SERVERS, "picker"])
def test_a_column_names_rows_of_the_catalogue_with_what_their_shares_are_taken_of(producer):
    column = {**SERVERS, "picker": PICKER}[producer]

    assert set(column) <= set(CATALOGUE)
    assert [name for name in column if CATALOGUE[name].of and CATALOGUE[name].of not in column] == []
