"""Files as people write them, with a mistake each: every one is named, at its place."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from rollouts.cli.main import main

ROOT = Path(__file__).parents[3]

SOUND = """\
apiVersion: inferencerollouts.dev/v1alpha1
kind: Rollout
metadata:
  name: demo
spec:
  target:
    pool: {name: v2}
  traffic:
    httpRoutes:
    - name: route
  strategy:
    canary:
      steps:
      - setWeight: 10
      - pause: {duration: 10m}
      - analysis:
          metrics:
          - name: ttft
            measure: {preset: ttft, window: 5m}
            successCondition: result < 2.0
            interval: 1m
            count: 5
"""
QUERY = "query: vector(1)"
MEASURE = "measure: {preset: ttft, window: 5m}"

MISTAKES = {
    # fields
    "a field of the spec": ("spec:\n", "spec:\n  allowMissingModel: true\n", "6:3", "allowMissingModels"),
    "a field of metadata": ("  name: demo", "  name: demo\n  lables: {a: b}", "5:3", "did you mean labels"),
    "a field at the top": ("spec:\n  target", "sepc: {}\nspec:\n  target", "5:1", "did you mean spec"),
    "a field deep down": ("window: 5m", "windoww: 5m", "19:37", "did you mean window"),
    "a field with another case": ("setWeight", "set_weight", "14:9", "did you mean setWeight"),
    "a field in a wrong place": ("      steps:", "      pause: {}\n      steps:", "13:7", "canary.steps[]; see"),
    "too little indentation": ("  strategy:\n    canary:", "  canary:", "11:3", "it belongs to spec.strategy"),
    "two steps in one": ("      - pause: {", "        pause: {", "14:9", "each of them with its own -"),
    "a missing field": ("- name: ttft\n            measure", "- measure", "18:13", "name is missing"),
    "a field twice": ("count: 5", "count: 5\n            count: 6", "23:13", "stands twice, first in line 22"),
    "a name where a field of its own is asked for": (
        "      - pause: {duration: 10m}",
        "      - approve: {name: board}",
        "15:19",
        "did you mean webhook",
    ),
    "an address for a receiver": (
        "      - pause: {duration: 10m}",
        "      - approve: {webhook: 'https://a.example/b'}",
        "15:28",
        "name a receiver of the controller",
    ),
    "a schedule by cron's short name": (
        "      steps:",
        "      windows: [{schedule: '@daily', duration: 8h}]\n      steps:",
        "13:28",
        "write '0 0 * * *'",
    ),
    "a namespace": ("- name: route", "- {name: route, namespace: other}", "10:21", "the Rollout's own namespace"),
    "the pool's name alone": ("target:\n    pool: {name: v2}", "target: v2", "6:11", "{pool: {name: v2}}"),
    "one = in a condition": ("result < 2.0", "result = 2.0", "18:13", "write 'result == 2.0'"),
    "itself": (
        "spec:\n",
        "spec:\n  dependsOn: [{name: demo}]\n",
        "6:22",
        "depends on itself",
    ),
    # other tools
    "Argo's scale": ("- setWeight: 10", "- setCanaryScale: {replicas: 1}", "14:9", "endpointRatio"),
    "Argo's services": ("      steps:", "      canaryService: a\n      steps:", "13:7", "spec.traffic.httpRoutes"),
    "Argo's strategy": ("    canary:", "    blueGreen: {}\n    canary:", "12:5", "of Argo Rollouts"),
    "Argo's provider": (MEASURE, "provider: {prometheus: {query: up}}", "19:13", "write query and source"),
    "Argo's pause": ("pause: {duration: 10m}", "pause:", "15:9", "pause: {}"),
    "Argo's deadline": ("      steps:", "      progressDeadlineSeconds: 6\n      steps:", "13:7", "Deadline: 10m"),
    "Flagger's step": ("      steps:", "      stepWeight: 5\n      steps:", "13:7", "write each weight as a step"),
    "Flagger's range": ("successCondition: result < 2.0", "thresholdRange: {max: 2}", "20:13", "successCondition"),
    # types and values
    "a weight in quotes": ("setWeight: 10", 'setWeight: "10"', "14:20", "write 10, without quotes"),
    "a weight as a fraction": ("setWeight: 10", "setWeight: 0.1", "14:20", "write 10"),
    "a small weight": ("setWeight: 10", "setWeight: 0.005", "14:20", 'write "0.5%"'),
    "a weight over 100": ("setWeight: 10", "setWeight: 150", "14:20", "between 0 and 100"),
    "a spoken duration": ("duration: 10m", "duration: 10 minutes", "15:27", "write 10m"),
    "a duration without a unit": ("window: 5m", "window: 300", "19:45", "write 300s"),
    "an ISO duration": ("interval: 1m", "interval: PT1M", "21:23", "write 1m"),
    "a clock for a duration": ("duration: 10m", "duration: 1:30", "15:27", "'1:30' is not a duration"),
    "a count in quotes": ("count: 5", 'count: "5"', "22:20", "take the quotes away"),
    "a count in words": ("count: 5", "count: five", "22:20", "must be a whole number"),
    "a truth in quotes": ("spec:\n", 'spec:\n  paused: "true"\n', "6:11", "take the quotes away"),
    "a list that is none": ("    - name: route", "      name: route", "10:7", "must be a list"),
    "a word of a list in another case": (MEASURE, f"{MEASURE}\n            noData: wait", "20:21", "did you mean Wait"),
    "a word that is none": ("spec:\n", "spec:\n  onDelete: Nothing\n", "6:13", "RestoreStable, KeepTraffic"),
    "a share in percent": ("      steps:", "      endpointRatio: 50\n      steps:", "13:22", "too high"),
    "a name that is none": ("  name: demo", "  name: Demo_1", "4:9", "is no name of an object"),
    "an annotation's number": (
        "  name: demo",
        "  name: demo\n  annotations: {argocd.argoproj.io/sync-wave: 1}",
        "5:47",
        "put it in quotes",
    ),
    "decimal digits of another script": ("setWeight: 10", "setWeight: \u0661\u0660%", "14:20", "is not a weight"),
    "a duration too long to be read": ("duration: 10m", "duration: 999999999999h", "15:27", "is not a duration such"),
    "a time that is no interval of a metric": (
        "      steps:",
        "      capacity: {scaleDown: {delay: 10}}\n      steps:",
        "13:37",
        "write 10s",
    ),
    "a soak without its unit": ("spec:\n", "spec:\n  dependsOn: [{name: a, soak: 5}]\n", "6:31", "write 5s"),
    "an argument twice": (
        "      - analysis:\n",
        "      - analysis:\n          args: [{name: a, value: x}, {name: a, value: y}]\n",
        "17:17",
        "two arguments are called a",
    ),
    "a statistic that a histogram does not have": ("window: 5m}", "stat: ratio}", "18:13", "take p50"),
    "a quantile of a gauge": ("{preset: ttft, window: 5m}", "{gauge: x, stat: p95}", "18:13", "take last or mean"),
    "a quantile of a counter": ("{preset: ttft, window: 5m}", "{counter: x, stat: p95}", "18:13", "take rate"),
    "a share of one counter": ("{preset: ttft, window: 5m}", "{counter: x, stat: ratio}", "18:13", "take rate"),
    "a name that no route can have": ("- name: route", "- name: Route_A", "10:13", "is no name of an object"),
    "a name that no pool can have": ("{name: v2}", "{name: $(POOL)}", "7:18", "is no name of an object"),
    "what Helm leaves of nothing": ("name: v2", "name: <no value>", "7:18", "is no name of an object"),
    "a namespace that there cannot be": (
        "  name: demo",
        "  name: demo\n  namespace: My_NS",
        "5:14",
        "is no name of a namespace",
    ),
    "a label's value": ("  name: demo", "  name: demo\n  labels: {a: 'b c'}", "5:15", "is no value of a label"),
    # YAML
    "on for a name": ("name: route", "name: on", "10:13", "truth values"),
    "a commit that looks like a number": ("pool: {name: v2}", "pool: {name: 1e3}", "7:18", "put it in quotes"),
    "a tab": ("      - pause", "\t- pause", "15:1", "a tab"),
    "a merge conflict": ("      steps:\n", "<<<<<<< HEAD\n      steps:\n", "", "merge conflict"),
    "a merge key behind others": (
        "      steps:",
        "      bake: 5m\n      <<: {a: b}\n      steps:",
        "14:7",
        "goes first",
    ),
    "a merge key of a text": ("      steps:", "      <<: a\n      steps:", "13:11", "takes a mapping"),
    "a field that was merged in": ("      steps:", "      <<: {bakee: 5m}\n      steps:", "12:5", "did you mean bake"),
    "Helm's braces": ("name: v2", "name: {{ .Values.pool }}", "7:19", "helm template"),
    "Helm's braces in quotes": ("name: v2", 'name: "{{ .Values.pool }}"', "7:18", "helm template"),
    "Helm's lines": ("      steps:", "      {{- if .Values.x }}\n      steps:", "", "helm template"),
    "a variable": ("name: route", "name: ${route}", "10:13", "not substituted"),
    # whose it is
    "a kind": ("kind: Rollout", "kind: Rollot", "2:7", "did you mean Rollout"),
    "a kind in small letters": ("kind: Rollout", "kind: rollout", "2:7", "did you mean Rollout"),
    "Argo's group": ("inferencerollouts.dev/v1", "argoproj.io/v1", "1:13", "its fields are ours"),
    "a group": ("inferencerollouts.dev/", "inference-rollouts.dev/", "1:13", "write inferencerollouts.dev/v1alpha1"),
    "a version": ("/v1alpha1", "/v1", "1:13", "write inferencerollouts.dev/v1alpha1"),
    "no apiVersion": ("apiVersion: inferencerollouts.dev/v1alpha1\n", "", "1:1", "apiVersion is missing"),
    "no kind": ("kind: Rollout\n", "", "1:1", "kind is missing"),
    "apiversion": ("apiVersion: ", "apiversion: ", "1:1", "apiversion is no field"),
    "another group of ours": ("inferencerollouts.dev/v1", "rollouts.dev/v1", "1:13", "write inferencerollouts.dev"),
    # short forms
    "a pause by its time": ("pause: {duration: 10m}", "pause: 10m", "15:16", "write {duration: 10m}"),
    "a window by its time": ("spec:\n", "spec:\n  rollbackWindow: 24h\n", "6:19", "write {duration: 24h}"),
    "a pool by its name": ("pool: {name: v2}", "pool: v2", "7:11", "write {name: v2}"),
    # queries
    "a bracket that is not closed": (MEASURE, "query: sum(rate(x[5m])", "18:13", "a ( is not closed"),
    "a bracket that closes nothing": (MEASURE, "query: sum(x))", "18:13", "a ) closes nothing"),
}  # fmt: skip


def run(text: str | bytes, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["lint", "-", *arguments], input=text, catch_exceptions=False)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_at_its_place(name: str) -> None:
    old, new, place, part = MISTAKES[name]
    assert SOUND.count(old) >= 1

    result = run(SOUND.replace(old, new, 1))

    assert result.exit_code == 2
    lines = [
        line for line in result.output.splitlines() if f"<stdin>:{place}" in line and ": problem:" in line
    ]
    assert any(part in line for line in lines), result.output


def test_a_sound_file_has_nothing_to_say() -> None:
    result = run(SOUND)

    assert (result.exit_code, result.output) == (0, "1 objects, 0 problems, 0 hints\n")


HINTS = {
    "nothing behind a field that has a default": (
        "      steps:",
        "      progressDeadline:\n      steps:",
        "progressDeadline: nothing stands after the colon",
    ),
    "a source nobody knows": (MEASURE, f"source: promtheus\n            {QUERY}", "--source promtheus"),
    "a query that is no PromQL": (MEASURE, "query: x unles y", "may be no PromQL"),
    "more than a few times": (
        f"{MEASURE}\n            successCondition: result < 2.0",
        "compare: {preset: ttft, tolerance: 10}",
        '10 is 1000 %: write "10%" if that is meant',
    ),
    "all traffic": ("      - pause: {", "      - setWeight: 100\n      - pause: {", "step 2 gives the canary all"),
}  # fmt: skip


@pytest.mark.parametrize("name", HINTS)
def test_what_may_not_be_meant_is_a_hint_at_its_place(name: str) -> None:
    old, new, part = HINTS[name]

    result = run(SOUND.replace(old, new, 1))

    assert result.exit_code == 0
    assert any(": hint:" in line and part in line for line in result.output.splitlines()), result.output


def test_lists_of_any_kind_are_taken_apart() -> None:
    item = yaml.safe_load(SOUND.replace("setWeight: 10", "setWeight: 200"))
    plain = {"apiVersion": "v1", "kind": "List", "items": [{"kind": "Pod"}, item]}
    inside = {field: item[field] for field in ("metadata", "spec")}
    typed = {"apiVersion": item["apiVersion"], "kind": "RolloutList", "items": [inside]}

    for document in (plain, typed):
        result = run(yaml.safe_dump(document))
        assert result.exit_code == 2
        assert "weight 200 is not between 0 and 100" in result.output
        assert "1 objects, 1 problems" in result.output


def test_the_status_of_a_live_object_is_not_judged() -> None:
    live = f"{SOUND}status: {{phase: Healthy, laterField: 1}}\n"

    assert run(live).exit_code == 0


def test_a_bare_list_is_told() -> None:
    result = run(yaml.safe_dump([yaml.safe_load(SOUND)]))

    assert result.exit_code == 2
    assert "<stdin>:1:1: problem: a list of objects" in result.output


def test_json_may_be_indented_by_tabs_and_lines_may_end_as_on_windows() -> None:
    as_json = json.dumps(yaml.safe_load(SOUND.replace("count", "cuont")), indent="\t")

    assert "did you mean count" in run(as_json).output
    assert "<stdin>:22:13: problem" in run(SOUND.replace("count", "cuont").replace("\n", "\r\n")).output


@pytest.mark.parametrize("indent", [None, 2, "\t"])
def test_a_stream_of_json_objects_is_read_as_kubectl_reads_it(indent: Any) -> None:
    """As ``jq '.items[]'`` writes it, one behind the other."""
    broken = [yaml.safe_load(SOUND.replace("count", word)) for word in ("cuont", "count", "conut")]
    text = "\n".join(json.dumps(one, indent=indent) for one in broken)
    lines = [n for n, line in enumerate(text.splitlines(), 1) if "cuont" in line or "conut" in line]

    result = run(f"{text}\n")

    assert "3 objects, 2 problems" in result.output
    assert [f"<stdin>:{n}:" in result.output for n in lines] == [True, True]


@pytest.mark.parametrize("text", ['{"a":1}\n{"a":\n', "{" * 5_000, '{"a":1}' * 5_000, '{"a":1}\n' * 20_000])
def test_what_begins_like_a_stream_of_json_is_bounded(text: str) -> None:
    assert 1 < len(run(text).output.splitlines()) < 200


@pytest.mark.parametrize("charset", ["utf-16", "utf-32", "utf-8-sig"])
def test_text_with_a_byte_order_mark_is_read(charset: str) -> None:
    """What ``kubectl get rollouts -o yaml > file`` is in Windows PowerShell."""
    text = SOUND.replace("count", "cuont").replace("\n", "\r\n").encode(charset)

    assert "<stdin>:22:13: problem" in run(text).output


def test_after_a_broken_document_the_next_ones_are_read() -> None:
    result = run(f"a: [\n---\n{SOUND.replace('setWeight', 'setWieght')}---\nb: }}\n---\n{SOUND}")

    assert "<stdin>:16:9: problem: Rollout/demo" in result.output
    assert "did you mean setWeight" in result.output
    assert "2 objects" in result.output


PEERS = {
    "Argo Rollouts": (
        "argoproj.io/v1alpha1",
        "Rollout",
        {"replicas": 2, "strategy": {"canary": {"maxSurge": 1}}},
        "maxSurge is of",
    ),
    "Flagger": (
        "flagger.app/v1beta1",
        "Canary",
        {"analysis": {"stepWeight": 5}},
        "write each weight as a step",
    ),
}


@pytest.mark.parametrize("name", PEERS)
def test_other_tools_objects_are_translated(name: str) -> None:
    version, kind, spec, part = PEERS[name]
    other = yaml.safe_dump({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}, "spec": spec})

    alone, beside = run(other), run(f"{SOUND}---\n{other}")

    assert (alone.exit_code, beside.exit_code) == (2, 0)
    for result in (alone, beside):
        assert f"an object of {name}" in result.output
        assert part in result.output


def test_a_rollout_of_openkruise_is_left_alone() -> None:
    spec = {"workloadRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, "strategy": {}}
    other = {
        "apiVersion": "rollouts.kruise.io/v1beta1",
        "kind": "Rollout",
        "metadata": {"name": "x"},
        "spec": spec,
    }
    result = run(f"{SOUND}---\n{yaml.safe_dump(other)}")

    assert (result.exit_code, result.output) == (0, run(SOUND).output)


ROUTE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: route, annotations: {inferencerollouts.dev/managed-by: demo}}
"""


@pytest.mark.parametrize(
    ("old", "new", "code", "part"),
    [
        ("demo}", "demo}", 0, "0 problems, 0 hints"),
        ("name: route", "name: routes", 0, "HTTPRoute route is not in these files, and must exist in the cluster: did"),
        (": demo}", ": other}", 2, "is annotated for 'other'"),
        (", annotations: {inferencerollouts.dev/managed-by: demo}", "", 2, "does not consent"),
    ],
)  # fmt: skip
def test_names_are_looked_up_in_the_files(old: str, new: str, code: int, part: str) -> None:
    result = run(f"{SOUND}---\n{ROUTE.replace(old, new)}")

    assert result.exit_code == code
    assert part in result.output


def listed(*pools: str, namespace: str = "") -> str:
    """A rule of a route with backends, pools of Inference Extension."""
    where = f", namespace: {namespace}" if namespace else ""
    refs = [
        f"{{group: inference.networking.k8s.io, kind: InferencePool, name: {pool}{where}}}" for pool in pools
    ]
    return f"  - name: {'-'.join(pools)}\n    backendRefs: [{', '.join(refs)}]\n"


def of(**fields: Any) -> tuple[str, str]:
    """The change that gives the Rollout's route more fields."""
    return "{name: route}", json.dumps({"name": "route", **fields})


def within(namespace: str) -> tuple[str, str]:
    """The change that puts the Rollout into a namespace."""
    return "  name: demo", f"  name: demo\n  namespace: {namespace}"


AWAY = listed("v1", "v2", namespace="team-b")
BOTH = listed("v1") + listed("v1", "v2")


@pytest.mark.parametrize(
    ("rules", "change", "part"),
    [
        (listed("v1", "v2"), ("", ""), ""),
        (listed("v1"), ("", ""), "no rule of HTTPRoute/route lists InferencePool v2"),
        (AWAY, within("default"), "lists InferencePool v2 of namespace default"),
        (AWAY, within("team-b"), ""),
        (listed("v1"), of(addBackend=True), ""),
        (BOTH, ("", ""), ""),
        (BOTH, of(ruleNames=["v1"]), "lists InferencePool v2"),
        (BOTH, of(ruleNames=["other"]), "no rule of HTTPRoute/route is named as ruleNames say"),
    ],
)
def test_an_adopted_route_has_to_list_the_new_pool(rules: str, change: tuple[str, str], part: str) -> None:
    sound = SOUND.replace("    - name: route", "    - {name: route}")
    assert sound != SOUND
    result = run(f"{sound.replace(*change, 1)}---\n{ROUTE}spec:\n  rules:\n{rules}")

    assert ": problem:" in result.output if part else ": problem:" not in result.output, result.output
    assert part in result.output


def test_a_patch_of_a_route_lists_nothing_and_is_left_alone() -> None:
    assert "0 problems, 0 hints" in run(f"{SOUND}---\n{ROUTE}spec: {{hostnames: [a.example]}}\n").output


FOREIGN = """\
spec:
  rules:
  - name: live
    backendRefs:
    - {group: inference.networking.k8s.io, kind: InferencePool, name: v2, namespace: team-b}
"""
GRANT = """\
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: grant, namespace: team-b}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}]
  to: [{group: inference.networking.k8s.io, kind: InferencePool}]
"""


@pytest.mark.parametrize(("grant", "hints"), [("", 1), (GRANT, 0), (GRANT.replace("team-b", "team-c"), 1)])
def test_a_backend_of_another_namespace_needs_a_grant_there(grant: str, hints: int) -> None:
    result = run(f"{SOUND}---\n{ROUTE}{FOREIGN}{grant}")

    assert f"0 problems, {hints} hints" in result.output
    assert (
        "in namespace team-b with spec: {from: [{group: gateway.networking.k8s.io" in result.output
    ) is bool(hints)


@pytest.mark.parametrize(
    ("group", "kind", "needed"),
    [
        ("gateway.networking.k8s.io", "HTTPRoute", False),
        ("delegation.kgateway.dev", "label", False),
        ("example.com", "HTTPRoute", True),
        ("gateway.networking.k8s.io", "Service", True),
    ],
)
def test_a_route_that_kgateway_delegates_to_needs_no_grant(group: str, kind: str, *, needed: bool) -> None:
    spec = FOREIGN.replace("inference.networking.k8s.io", group).replace("InferencePool", kind)

    assert ("no ReferenceGrant in these files" in run(f"{SOUND}---\n{ROUTE}{spec}").output) is needed


def test_a_template_with_nearly_the_name_is_proposed() -> None:
    template = {
        "apiVersion": "inferencerollouts.dev/v1alpha1",
        "kind": "AnalysisTemplate",
        "metadata": {"name": "success-rate"},
        "spec": yaml.safe_load(SOUND)["spec"]["strategy"]["canary"]["steps"][2]["analysis"],
    }
    text = SOUND.partition("          metrics:")[0] + "          templates: [{templateName: sucess-rate}]\n"

    assert "did you mean success-rate?" in run(f"{text}---\n{yaml.safe_dump(template)}").output


# --- formats ---


BROKEN = SOUND.replace("setWeight", "setWieght").replace("name: demo", "name: demo%0A,x")


def test_json_has_place_and_path() -> None:
    found: dict[str, Any] = json.loads(run(BROKEN, "-o", "json").output)

    assert (found["objects"], found["problems"], found["hints"]) == (1, 2, 0)
    field = found["findings"][1]
    assert (field["severity"], field["rule"], field["file"]) == ("problem", "unknown-field", "<stdin>")
    assert (field["line"], field["column"]) == (14, 9)
    assert field["path"] == "spec.strategy.canary.steps[0].setWieght"


def test_sarif_has_what_code_scanning_wants() -> None:
    (only,) = json.loads(run(BROKEN, "-o", "sarif").output)["runs"]

    assert {rule["id"] for rule in only["tool"]["driver"]["rules"]} == {
        one["ruleId"] for one in only["results"]
    }
    region = only["results"][1]["locations"][0]["physicalLocation"]["region"]
    assert region == {"startLine": 14, "startColumn": 9}
    assert {one["level"] for one in only["results"]} == {"error"}


def test_github_commands_hold_data_only() -> None:
    output = run(BROKEN, "-o", "github").output

    assert output.splitlines()[1].startswith(
        "::error file=<stdin>,line=14,col=9,title=unknown-field::Rollout/demo%250A"
    )
    assert all(line.startswith("::error ") for line in output.splitlines())


def test_a_file_with_an_evil_name_is_no_command_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "a,line=1::b\n::warning::.yaml"
    file.write_text(BROKEN)

    output = CliRunner().invoke(main, ["lint", str(file), "-o", "github"]).output

    assert len(output.splitlines()) == 2
    assert "a%2Cline=1%3A%3Ab\\n%3A%3Awarning" in output


@pytest.mark.parametrize("form", ["text", "json", "sarif", "github"])
def test_nothing_of_ours_is_a_problem_in_every_format(form: str) -> None:
    result = run("kind: Pod\napiVersion: v1\n", "-o", form)

    assert result.exit_code == 2
    assert "no object of inferencerollouts.dev/v1alpha1" in result.output


# --- text that is not trusted ---


HOSTILE = {
    "many unknown fields": SOUND + "".join(f"  f{n}: x\n" for n in range(20_000)),
    "a long field": SOUND + f"  {'a' * 900}: x\n",
    "deep nesting": SOUND + "  deep: " + "[" * 20_000 + "]" * 20_000,
    "many documents that cannot be read": "}\n---\n" * 5_000,
    "many brackets": SOUND + "  x: [" + ("[" * 60 + "]" * 60 + ",") * 500 + "]\n",
    "many braces": SOUND + "  x: '" + "{{" * 100_000 + "'\n",
    "no UTF-8": b"\xff\xfe\x00a",
    "a control character": SOUND + "  x: \x07\n",
    "too large": b"#" * (4 * 1024 * 1024 + 1),
    "a tag of Python": SOUND + "  x: !!python/object/apply:os.system [id]\n",
    "a tag of another tool": SOUND + "  x: !Ref id\n",
    "a number with many digits": SOUND + f"  x: {'9' * 10_000}\n",
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_ends_in_a_bounded_report(name: str) -> None:
    result = run(HOSTILE[name])

    assert result.exit_code == 2
    assert 1 < len(result.output.splitlines()) < 200
    assert result.output.isascii()


def test_a_pipe_is_read_and_an_absent_file_is_told() -> None:
    absent = CliRunner().invoke(main, ["lint", os.path.join("no", "such.yaml")])

    assert absent.exit_code == 2
    assert "does not exist" in absent.output


@pytest.mark.parametrize("folder", ["examples", "analysis"])
def test_what_we_ship_has_nothing_wrong(folder: str) -> None:
    result = CliRunner().invoke(main, ["lint", str(ROOT / folder)])

    assert result.exit_code == 0
    assert "0 problems, 0 hints" in result.output


def test_an_argument_that_a_template_uses_and_does_not_declare_is_named() -> None:
    metric = {"name": "m", "query": "x{a='{{args.team}}'}", "successCondition": "result < {{args.most}}"}
    template = {
        "apiVersion": "inferencerollouts.dev/v1alpha1",
        "kind": "AnalysisTemplate",
        "metadata": {"name": "t"},
        "spec": {"args": [{"name": "most"}], "metrics": [metric]},
    }

    result = run(yaml.safe_dump(template))

    assert result.exit_code == 2
    assert "{{args.team}} is no argument of this template: declare it in args" in result.output
    assert "args.most" not in result.output


INNER = {
    "a route's rules": ("{parentRefs: [{name: g}], rules: [{matchs: []}]}", "rules[0].matchs", "matches"),
    "a route's head": ("{parentRef: [{name: g}], rules: [{name: a}]}", "template.parentRef", "parentRefs"),
    "a filter": (
        "{parentRefs: [{name: g}], rules: [{filters: [{type: URLRewrite, urlRewrit: {hostname: a}}]}]}",
        "filters[0].urlRewrit",
        "urlRewrite",
    ),
    "a header": (
        "{parentRefs: [{name: g}], rules: [{matches: [{headers: [{nam: a, value: b}]}]}]}",
        "headers[0].nam",
        "name",
    ),
}


@pytest.mark.parametrize("name", INNER)
def test_a_misspelt_field_of_a_routes_template_is_named(name: str) -> None:
    template, place, near = INNER[name]

    result = run(SOUND.replace("- name: route", f"- name: route\n      template: {template}"))

    assert result.exit_code == 2
    assert f"{place}: unknown field: did you mean {near}?" in result.output


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("command", "commnd"),
        ("command", "comand"),
        ("restartPolicy", "restartPolice"),
        ("containers", "container"),
        ("backoffLimit", "backofLimit"),
        ("valueFrom", "valueFrm"),
        ("nodeSelector", "nodeSelecter"),
    ],
)
def test_a_misspelt_field_of_a_job_is_named(old: str, new: str) -> None:
    env = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}
    pod = {
        "restartPolicy": "Never",
        "nodeSelector": {"comand": "is a label"},
        "containers": [{"name": "c", "image": "i", "command": ["x"], "env": [env]}],
    }
    job = {"backoffLimit": 0, "template": {"spec": pod}, "ttlSecondsAfterFinished": 5, "fieldOfTomorrow": 1}
    text = SOUND.replace("pause: {duration: 10m}", f"job: {json.dumps({'spec': job})}")

    assert run(text).exit_code == 0
    result = run(text.replace(f'"{old}"', f'"{new}"'))
    assert result.exit_code == 2
    assert f"{new}: unknown field: did you mean {old}?" in result.output


def test_merge_keys_are_read_as_kubectl_reads_them() -> None:
    """The fields beside it win, and of several mappings the first."""
    step = """\
      - analysis:
          metrics:
          - &ttft
            name: ttft
            measure: {preset: ttft}
            successCondition: result < 2.0
          - <<: [*ttft, {name: never, failureLimit: 1.5}]
            name: tail
            failureLimit: 0
          - {<<: *ttft, nme: x}
"""
    result = run(SOUND.partition("      - analysis:")[0] + step)

    assert "metrics[2].nme: unknown field" in result.output
    assert "1 problems" in result.output


BASE = "base: &a {" + ", ".join(f"f{n}: 1" for n in range(5_000)) + "}\n"


@pytest.mark.timeout(20)
def test_merge_keys_copy_within_bounds() -> None:
    text = BASE + "items:\n" + "- {<<: *a, x: 1}\n" * 5_000

    assert "merge keys (<<) make more than" in run(text).output


@pytest.mark.parametrize("step", ["{setWeight: }", "{pause: }", "{setWeight: 10}\n      sticky: {header: }"])
def test_a_hint_hides_no_problem_of_a_shared_strategy(step: str) -> None:
    text = f"""\
apiVersion: inferencerollouts.dev/v1alpha1
kind: RolloutStrategy
metadata: {{name: careful}}
spec:
    canary:
      steps:
      - {step}
"""
    result = run(text)

    assert result.exit_code == 2
    assert "exactly one of" in result.output
