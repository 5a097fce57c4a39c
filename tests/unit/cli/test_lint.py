"""Files checked without a cluster, as a person types it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from rollouts.analysis.forecasting import Forecast
from rollouts.cli.lint import Severity, lint_documents
from rollouts.cli.main import main

ROOT = Path(__file__).parents[3]
API = "inferencerollouts.dev/v1alpha1"
FEW = Forecast(rate=20.0, stable_pods=4, canary_pods=1)


def rollout(*steps: dict[str, Any], **canary: Any) -> dict[str, Any]:
    return {
        "apiVersion": API,
        "kind": "Rollout",
        "metadata": {"name": "demo"},
        "spec": {
            "target": {"pool": {"name": "v2"}},
            "traffic": {"httpRoutes": [{"name": "route"}]},
            "strategy": {"canary": {"steps": list(steps), **canary}},
        },
    }


def gate(**compare: Any) -> dict[str, Any]:
    return {"analysis": {"metrics": [{"name": "m", "compare": {"preset": "ttft", **compare}}]}}


def adapted(*steps: dict[str, Any]) -> dict[str, Any]:
    obj = rollout(*steps)
    model = {"name": "m", "modelName": "travelhelper", "poolRef": {"name": "p"}}
    obj["spec"] |= {"target": {"adapter": {"name": "a2"}}, "traffic": {"inferenceModel": model}}
    return obj


def threshold(**more: Any) -> dict[str, Any]:
    return {"name": "m", "measure": {"preset": "ttft"}, "successCondition": "result < 2.0", **more}


def inline(**metric: Any) -> dict[str, Any]:
    return {"analysis": {"metrics": [{"name": "m", **metric}]}}


def template(metric: dict[str, Any], name: str = "t", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": API,
        "kind": "AnalysisTemplate",
        "metadata": {"name": name},
        "spec": {"metrics": [metric], **spec},
    }


def uses(name: str) -> dict[str, Any]:
    return {"analysis": {"templates": [{"templateName": name}]}}


TEN = {"setWeight": 10}
MANY = [{"name": f"m{n}", "compare": {"preset": "ttft", "minRequests": n}} for n in range(12)]
OLD = {**rollout(TEN, gate()), "apiVersion": "inferencerollouts.dev/v1"}
NAMELESS = {**rollout(TEN, gate()), "metadata": {}}
PROBLEMS = {
    "a weight over 100": ([rollout({"setWeight": 150}, gate())], "150"),
    "a falling weight": ([rollout(TEN, {"setWeight": 5}, gate())], "must not fall"),
    "an unknown preset": ([rollout(TEN, gate(preset="tftt"))], "tftt"),
    "an old version": ([OLD], "write inferencerollouts.dev/v1alpha1"),
    "no name": ([NAMELESS], "metadata.name is missing"),
    "no spec": ([{"apiVersion": API, "kind": "Rollout", "metadata": {"name": "x"}}], "spec is missing"),
    "a condition that cannot be read": (
        [template(threshold(successCondition="result <"))],
        "successCondition",
    ),
    "a gate without a condition": (
        [rollout(TEN, inline(measure={"preset": "error-rate"}))],
        "needs successCondition or failureCondition",
    ),
    "a template without a condition": (
        [template({"name": "m", "query": "vector(1)"})],
        "needs successCondition or failureCondition",
    ),
    "a condition that looks at nothing": (
        [rollout(TEN, inline(query="vector(1)", successCondition="1 < 2"))],
        "must look at result",
    ),
    "more failures tolerated than measured": (
        [template(threshold(interval="10s", count=3, failureLimit=4))],
        "must not be above count 3",
    ),
    "more successes wanted than measured": (
        [template(threshold(interval="10s", count=3, consecutiveSuccessLimit=4))],
        "could never pass",
    ),
    "both conditions the same": (
        [template(threshold(failureCondition="result < 2.0"))],
        "no value could pass",
    ),
    "an adapter's queue time, which pickers do not see": (
        [adapted(TEN, inline(**{**threshold(measure={"preset": "queue-time"}), "name": "m"}))],
        "there is no preset queue-time to measure",
    ),
    "what only compares, measured": (
        [rollout(TEN, inline(**{**threshold(measure={"preset": "lost-rate"}), "name": "m"}))],
        "compare: {preset: lost-rate}",
    ),
    "a query to pickers, which know no PromQL": (
        [rollout(TEN, inline(query="vector(1)", successCondition="result < 2", source="picker"))],
        "the source picker knows no PromQL",
    ),
    "a preset that only pickers have, of the pods": (
        [
            rollout(
                TEN, inline(**{**threshold(measure={"preset": "lost-rate"}, source="picker"), "name": "m"})
            )
        ],
        "there is no preset lost-rate to measure",
    ),
    "a template's preset that its source has not": (
        [template(threshold(measure={"preset": "kv-cache"}, source="picker"))],
        "there is no preset kv-cache to measure",
    ),
    "a name that the preset has, too": (
        [rollout(TEN, {"analysis": {"preset": "default", "metrics": [threshold(name="ttft")]}})],
        "two metrics of one gate are called ttft",
    ),
    "more comparisons than a run holds": (
        [rollout(TEN, *({"analysis": {"preset": "default"}}, {"analysis": {"metrics": MANY}}))],
        "the gates compare 17 different things, at most 16 are possible",
    ),
    "an argument of an inline metric without a value": (
        [rollout(TEN, gate(tolerance="{{args.tol}}"))],
        "{{args.tol}} has no value",
    ),
    "a window that no traffic fills": (
        [rollout(TEN, inline(**{**threshold(measure={"preset": "ttft", "window": "1h"}), "name": "m"}))],
        "looks back 3600 s, but there are only 600 s",
    ),
    "a query that looks back too far": (
        [rollout(TEN, inline(query="rate(x[5m] offset 20m)", successCondition="result < 1"))],
        "looks back 1500 s",
    ),
    "a window that is judged too early": (
        [rollout(TEN, {"pause": {"duration": "1m"}}, inline(**{**threshold(noData="Fail"), "name": "m"}))],
        "looks back 120 s, but there are only 60 s",
    ),
    "a background window longer than the attempt": (
        [
            rollout(
                TEN,
                {"pause": {"duration": "10m"}},
                analysis={"metrics": [threshold(interval="1m", measure={"preset": "ttft", "window": "1h"})]},
            )
        ],
        "background analysis: metric m looks back 3600 s",
    ),
    "a template that needs an argument": (
        [template(threshold(), args=[{"name": "limit"}]), rollout(TEN, uses("t"))],
        "needs the argument limit",
    ),
}
HINTS = {
    "an adapter's comparison, which pickers cannot tell": (
        [adapted(TEN, gate(preset="queue-time"))],
        "the source picker never tells: it has no queue_time",
    ),
    "adapters compared by their pods": (
        [adapted(TEN, inline(compare={"preset": "ttft"}, source="pods"))],
        "adapters share their pods",
    ),
    "a gate that only informs": ([rollout(TEN, gate(preset="e2e"))], "nothing in it can stop the rollout"),
    "a gate that tolerates every failure": (
        [template(threshold(interval="10s", count=3, failureLimit=3)), rollout(TEN, uses("t"))],
        "nothing in it can stop the rollout",
    ),
    "nothing judges": ([rollout(TEN)], "nothing judges the canary"),
    "a pause without end": ([rollout(TEN, gate(), {"pause": {}})], "step 3 never ends by itself"),
    "a canary without traffic": ([rollout(gate(), TEN, gate())], "step 1 analyses a canary without traffic"),
    "a surge that the canary does not fit into": (
        [rollout(TEN, gate(), capacity={"maxSurge": "25%", "headroom": 1.1})],
        "maxSurge 25% leaves too little room: the canary at 100 % needs 110%",
    ),
    "a surge that is too small beside what stable keeps": (
        [rollout(TEN, gate(), capacity={"maxSurge": "25%", "minStable": "50%"})],
        "beside the 50% that minStable keeps, and the rollout will wait as CapacityInfeasible: set maxSurge to 50%, "
        "minStable to 25%, or a lower headroom",
    ),
    "a last gate at 1 %": ([rollout({"setWeight": 1}, gate())], "below weight 5 %"),
    "a template elsewhere": ([rollout(TEN, uses("far"))], "far is not in these files"),
    "a tolerance that few pods cannot prove": (
        [rollout(TEN, gate(tolerance="5%"))],
        "can never prove",
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_would_be_refused_is_a_problem(name):
    documents, part = PROBLEMS[name]

    found = [one.text for one in lint_documents(documents) if one.severity is Severity.PROBLEM]

    assert any(part in text for text in found), found


@pytest.mark.parametrize("name", HINTS)
def test_what_may_not_be_meant_is_a_hint(name):
    documents, part = HINTS[name]

    found = lint_documents(documents, FEW)

    assert [one for one in found if one.severity is Severity.PROBLEM] == []
    assert any(part in one.text for one in found), found


def test_a_sound_rollout_with_its_template_has_nothing_to_say():
    documents = [template(threshold()), rollout(TEN, uses("t"), gate(tolerance="40%"))]

    assert lint_documents(documents, Forecast(rate=20.0, stable_pods=18, canary_pods=2)) == []


def test_a_background_alone_that_one_canary_pod_cannot_pass_is_named_without_any_pods():
    background = {"metrics": [{"name": "ttft", "compare": {"preset": "ttft", "tolerance": 0.05}}]}
    documents = [rollout(TEN, {"pause": {"duration": "10m"}}, analysis=background)]

    (hint,) = lint_documents(documents)

    assert hint.severity is Severity.HINT
    assert "with one canary pod" in hint.text
    assert "ttft (WithinTolerance): can never prove +5.0 %" in hint.text


@pytest.mark.parametrize("preset", ["aborted", "queue-time"])
def test_a_template_may_be_for_adapters_or_for_pools(preset):
    assert lint_documents([template(threshold(measure={"preset": preset}))]) == []


def test_what_pickers_measure_of_an_adapter_is_no_problem():
    measured = inline(**{**threshold(measure={"preset": "aborted"}), "name": "m"})

    assert [one for one in lint_documents([adapted(TEN, measured)]) if one.severity is Severity.PROBLEM] == []


def test_other_kinds_and_odd_documents_are_left_alone():
    assert lint_documents([{"kind": "Deployment", "apiVersion": "apps/v1"}, "text", 3, {}]) == []


def test_the_order_of_documents_does_not_matter():
    documents = [template(threshold(), args=[{"name": "limit"}]), rollout(TEN, uses("t"))]

    assert set(lint_documents(documents)) == set(lint_documents(copy.deepcopy(documents[::-1])))


def run(tmp_path: Path, text: str) -> Result:
    (tmp_path / "file.yaml").write_text(text)
    return CliRunner().invoke(main, ["lint", str(tmp_path / "file.yaml")])


@pytest.mark.parametrize(
    ("document", "code"),
    [(rollout(TEN, gate()), 0), (rollout(TEN), 0), (rollout({"setWeight": 150}), 2), ({"kind": "Pod"}, 2)],
    ids=["fine", "hints only", "a problem", "nothing of ours"],
)
def test_the_exit_status_is_2_on_problems_alone(tmp_path, document, code):
    assert run(tmp_path, yaml.safe_dump(document)).exit_code == code


BOMB = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (BOMB, "more than 100000 values"),
        ("a: &a [*a]\n", "contains itself"),
        ("a: &a\n  <<: *a\n", "contains itself"),
        ("a: [", "file.yaml"),
    ],
    ids=["aliases that double", "a cycle", "a merge key", "no YAML"],
)
def test_files_that_blow_up_are_refused(tmp_path, text, part):
    result = run(tmp_path, text)

    assert result.exit_code == 2
    assert part in result.output


SHIPPED = sorted([*ROOT.glob("examples/*/rollout*.yaml"), *ROOT.glob("analysis/*.yaml")])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_we_ship_has_no_problems(path):
    assert CliRunner().invoke(main, ["lint", str(path)]).exit_code == 0


@pytest.mark.parametrize(
    ("preset", "words"),
    [
        ("errorrate", "did you mean error-rate?"),
        ("TTFT", "did you mean ttft?"),
        ("lost-rate", "it only compares"),
    ],
)
def test_a_preset_that_is_nearly_one_is_named(preset, words):
    found = [one.text for one in lint_documents([template(threshold(measure={"preset": preset}))])]

    assert [text for text in found if words in text] != []
