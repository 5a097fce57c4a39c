"""`rollouts plan` as a person reads it: every gate a row, and the time of it all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from rollouts.cli.main import main
from rollouts.objects.accelerators import accelerators, of_replica

LIMIT = {"name": "p95", "measure": {"preset": "ttft", "window": "5m"}, "successCondition": "result < 2.0"}
STEPS: list[dict[str, Any]] = [
    {"setWeight": 10},
    {
        "analysis": {
            "metrics": [
                {**LIMIT, "count": 4, "interval": "1m"},
                {**LIMIT, "name": "slow", "initialDelay": "12m"},
            ]
        }
    },
    {"pause": {"duration": "30m"}},
    {"setWeight": 50},
    {"pause": {}},
]
COMPARED = [{"setWeight": 10}, {"analysis": {"metrics": [{"name": "ttft", "compare": {"preset": "ttft"}}]}}]

ROOT = Path(__file__).resolve().parents[3]


def plan(folder: Path, steps: list[dict[str, Any]], *words: str, **canary: Any) -> Result:
    obj = {
        "apiVersion": "inferencerollouts.dev/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": "demo"},
        "spec": {
            "target": {"pool": {"name": "v2"}},
            "traffic": {"httpRoutes": [{"name": "route"}]},
            "strategy": {"canary": {"steps": steps, **canary}},
        },
    }
    file = folder / "rollout.yaml"
    file.write_text(yaml.safe_dump(obj), encoding="utf-8")
    return CliRunner().invoke(main, ["plan", str(file), *words])


def test_a_plan_can_be_piped_in_with_what_stands_beside_it():
    """`kustomize build . | rollouts plan -`."""
    text = (ROOT / "examples" / "base-model" / "rollout.yaml").read_text(encoding="utf-8")
    named = CliRunner().invoke(main, ["plan", str(ROOT / "examples" / "base-model" / "rollout.yaml")])
    piped = CliRunner().invoke(main, ["plan", "-"], input=f"kind: Other\n---\n{text}")
    nothing = CliRunner().invoke(main, ["plan", "-"], input="")

    assert (piped.exit_code, piped.output) == (0, named.output)
    assert nothing.exit_code == 2


def rows(result: Result) -> list[list[str]]:
    """The table's cells, by at least two spaces."""
    lines = [line for line in result.output.splitlines() if "  " in line]
    return [[cell for cell in line.split("  ") if cell] for line in lines]


def test_limits_of_ones_own_need_no_rate_and_no_pods(tmp_path):
    result = plan(tmp_path, STEPS, bake="10m")

    assert result.exit_code == 0
    table = [[cell.strip() for cell in row] for row in rows(result)]
    assert table[0] == ["STEP", "METRIC", "NEEDS", "PASSES-AFTER", "FINDS-+20%", "FINDS-+50%", "FLOOR"]
    assert table[1][:4] == ["2", "p95", "4 x result < 2.0", "8 min"]  # a full window, then three more minutes
    assert table[2][:4] == ["2", "slow", "result < 2.0", "12 min"]
    assert "Total: about 52 min, and what pods and gateway take, step 5 waits for `promote`." in result.output


def test_a_comparison_says_what_it_finds_and_from_where_on(tmp_path):
    result = plan(tmp_path, COMPARED, "--rate", "20", "--stable-pods", "18", "--canary-pods", "2")

    (row,) = [[cell.strip() for cell in one] for one in rows(result) if one[0].strip() == "2"]
    assert row[1:3] == ["ttft", "within +15 % of stable"]
    assert row[4].endswith(" min")
    assert row[6].startswith("+")
    assert "Pods: 18 stable; canary 2 at 10%." in result.output


def test_a_gate_that_never_passes_has_no_end_and_says_why(tmp_path):
    result = plan(tmp_path, COMPARED, "--rate", "20", "--stable-pods", "1", "--canary-pods", "1")

    assert "Total: without end, as a gate never passes." in result.output
    assert "with a single stable pod" in result.output


def test_scripts_get_both_kinds_and_the_total(tmp_path):
    found = json.loads(plan(tmp_path, STEPS, "-o", "json").output)

    assert [(one["name"], one["minutesToPass"]) for one in found["thresholds"]] == [
        ("p95", 8.0),
        ("slow", 12.0),
    ]
    assert (found["gates"], found["minutes"]) == ([], 42.0)


JOB = {"job": {"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": []}}}}}


def test_what_is_missing_is_said_in_both_forms(tmp_path):
    text, script = plan(tmp_path, COMPARED), plan(tmp_path, COMPARED, "-o", "json")
    missing = "give --rate and --stable-pods, or --history"

    assert (text.exit_code, text.output) == (2, f"Error: {missing}\n")
    assert (script.exit_code, json.loads(script.output)) == (2, {"error": missing})


@pytest.mark.parametrize(
    ("steps", "end"),
    [
        ([{"setWeight": 10}, {"pause": {"duration": "30m"}}], "2026-12-18T15:30:00Z"),
        ([{"setWeight": 10}, {"pause": {"duration": "30m"}}, {"pause": {}}], None),
        ([{"setWeight": 10}, {"pause": {"duration": "30m"}}, {"approve": {"webhook": "qa"}}], None),
        ([{"pause": {"duration": "30m"}}, JOB], None),
    ],
)
def test_a_rollout_that_waits_for_somebody_has_no_end_that_is_known(tmp_path, steps, end):
    found = json.loads(plan(tmp_path, steps, "--start=2026-12-18T15:00:00Z", "-o", "json").output)

    assert (found["minutes"], found["end"]) == (30.0, end)


def test_a_file_of_the_name_of_standard_input_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-").write_text(yaml.safe_dump(named("chat", STEPS)), encoding="utf-8")
    elsewhere = yaml.safe_dump(named("code", COMPARED))

    assert "p95" in CliRunner().invoke(main, ["plan", "./-"], input=elsewhere).output
    assert "give --rate" in CliRunner().invoke(main, ["plan", "-"], input=elsewhere).output
    history = ["plan", "-", "--history", "./-"]
    assert "/-: " in CliRunner().invoke(main, history, input=elsewhere).output


@pytest.mark.parametrize(
    ("capacity", "line"),
    [
        ({}, "Capacity: canary pods 1 at 10%, 4 at 50%, 8 at 100%; with stable's 16 at most."),
        (
            {"maxSurge": 12, "headroom": 1.2},
            "Capacity: canary pods 1 at 10%, 5 at 50%, 10 at 100%; with stable's 18 at most.",
        ),
        (
            {"maxSurge": 1},
            "Capacity: it would wait as CapacityInfeasible: the canary's 8 pods at 100% and 8 of stable's 8 are 16",
        ),
        (
            {"maxSurge": 1, "minStable": 1},
            "Capacity: canary pods 1 at 10%, 4 at 50%, 8 at 100%; with stable's 9 at most: stable gives it pods as its "
            "share falls, and keeps 1 of 8.",
        ),
    ],
)
def test_what_a_rollout_scales_is_told_with_the_pods(tmp_path, capacity, line):
    output = plan(tmp_path, STEPS, "--stable-pods=8", capacity=capacity).output

    assert line in " ".join(output.split())


def test_nothing_is_said_of_pods_that_nobody_scales(tmp_path):
    assert "Capacity" not in plan(tmp_path, STEPS, "--stable-pods=8").output


FLEET = [
    {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": "v2"},
        "spec": {"selector": {"matchLabels": {"release": "v2"}}},
    },
    {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "vllm-v2"},
        "spec": {
            "template": {
                "metadata": {"labels": {"release": "v2", "app": "vllm"}},
                "spec": {
                    "containers": [{"resources": {"limits": {"nvidia.com/gpu": 4, "memory": "1Ti"}}}, {}]
                },
            }
        },
    },
]


def with_fleet(folder: Path, *words: str, **canary: Any) -> str:
    plan(folder, PLAIN, **canary)
    file = folder / "rollout.yaml"
    file.write_text(yaml.safe_dump_all([yaml.safe_load(file.read_text()), *FLEET]), encoding="utf-8")
    result = CliRunner().invoke(main, ["plan", str(file), "--stable-pods=8", *words])
    assert result.exit_code == 0, result.output
    return result.output


PLAIN = [{"setWeight": 25}, {"pause": {"duration": "1h"}}, {"setWeight": 50}, {"pause": {"duration": "2h"}}]


def test_gpu_hours_are_counted_with_the_gpus_of_the_targets_workload(tmp_path):
    said = with_fleet(tmp_path, capacity={"scaleDown": {"delay": "1h"}})

    # An hour of 2 + 8 pods, two of 4 + 8, and the delay of 8 + 8: 50 pod-hours, 18 of them beyond stable's 32.
    assert "GPU-hours: 200 from the first weight" in said
    assert "72 of them beyond what stable has anyway (two whole fleets: 256)" in said
    assert "Spare" not in said


def test_without_gpus_pods_are_counted_and_a_flag_says_otherwise(tmp_path):
    assert (
        "Pod-hours: 50"
        in plan(tmp_path, PLAIN, "--stable-pods=8", capacity={"scaleDown": {"delay": "1h"}}).output
    )
    assert "GPU-hours: 50 " in with_fleet(
        tmp_path, "--gpus-per-pod=1", capacity={"scaleDown": {"delay": "1h"}}
    )


def test_a_fleet_that_lends_pods_says_what_stable_keeps_and_how_long_nothing_is_spare(tmp_path):
    said = with_fleet(tmp_path, capacity={"maxSurge": 1, "minStable": 1, "scaleDown": {"delay": "1h"}})

    assert "canary pods 2 at 25%, 4 at 50%, 8 at 100%; with stable's 9 at most: stable gives it pods" in said
    assert "Stable: pods 7 at 25%, 5 at 50%, 1 at 100%." in said
    assert "Spare: no pod more would fit within maxSurge for 4 h 00 min at the longest." in said


@pytest.mark.parametrize(
    ("limits", "count"),
    [
        ({"nvidia.com/gpu": "8"}, 8),
        ({"nvidia.com/mig-1g.10gb": 2}, 2),
        ({"amd.com/gpu": 4}, 4),
        ({"nvidia.com/gpu.shared": 2}, 2),
        ({"aws.amazon.com/neuron": "16", "aws.amazon.com/neuroncore": "32"}, 16),
        ({"huawei.com/Ascend910": 8}, 8),
        ({"nvidia.com/gpu.memory": 80}, 0),
        ({"nvidia.com/gpu": True}, 0),
        ({"nvidia.com/gpu": "1e9"}, 0),
        ({"cpu": 8}, 0),
        (None, 0),
    ],
)
def test_devices_of_a_pod(limits, count):
    one = {"resources": {"limits": limits}}

    assert accelerators({"spec": {"containers": [one]}}) == count
    assert accelerators({"spec": {"containers": [one], "initContainers": [one, one]}}) == count


def test_devices_of_a_sidecar_count_beside_those_of_the_server():
    one, side = (
        {"resources": {"limits": {"nvidia.com/gpu": count}}, "restartPolicy": policy}
        for count, policy in ((4, "Never"), (1, "Always"))
    )

    assert accelerators({"spec": {"containers": [one], "initContainers": [side]}}) == 5
    assert accelerators({"spec": {"containers": [], "initContainers": [side, one]}}) == 5
    assert accelerators({"spec": {"containers": [], "initContainers": [one, side]}}) == 4


def devices(count: int) -> dict[str, Any]:
    return {"spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": count}}}]}}


@pytest.mark.parametrize(
    ("groups", "count"),
    [
        ({"workerTemplate": devices(8), "size": 4}, 32),
        ({"workerTemplate": devices(8), "leaderTemplate": devices(2), "size": 4}, 26),
        ({"workerTemplate": devices(8), "leaderTemplate": devices(2)}, 2),
        ({"workerTemplate": devices(8), "size": "x"}, 8),
        ({"workerTemplate": 3, "size": 2}, 0),
    ],
)
def test_devices_of_a_group_of_leader_and_workers(groups, count):
    assert of_replica({"spec": {"leaderWorkerTemplate": groups}}) == count


def test_gpu_hours_count_the_workers_of_a_leader(tmp_path):
    template = FLEET[1]["spec"]["template"]
    groups = {"workerTemplate": template, "size": 2}
    made = {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": "vllm-v2"},
    }
    plan(tmp_path, PLAIN, capacity={"scaleDown": {"delay": "1h"}})
    file = tmp_path / "rollout.yaml"
    parts = [yaml.safe_load(file.read_text()), FLEET[0], {**made, "spec": {"leaderWorkerTemplate": groups}}]
    file.write_text(yaml.safe_dump_all(parts), encoding="utf-8")

    said = CliRunner().invoke(main, ["plan", str(file), "--stable-pods=8"]).output

    assert "GPU-hours: 400 from the first weight" in said


def test_a_warm_up_is_told(tmp_path):
    said = plan(tmp_path, STEPS, "--stable-pods=8", capacity={"warmUp": {"requests": 5}}).output

    assert "Warm-up: each pod answers 5 requests before it counts, 2 at a time." in " ".join(said.split())


PREFILL = [
    {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": "prefill-v2", "labels": {"inferencerollouts.dev/with": "v2"}},
        "spec": {"selector": {"matchLabels": {"release": "prefill-v2"}}},
    },
    {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "prefill-v2"},
        "spec": {
            "template": {
                "metadata": {"labels": {"release": "prefill-v2"}},
                "spec": {"containers": [{"name": "vllm", "resources": {"limits": {"nvidia.com/gpu": 1}}}]},
            }
        },
    },
]


def with_prefill(folder, monkeypatch, *words, **capacity):
    monkeypatch.setattr("tests.unit.cli.test_plan.FLEET", [*FLEET, *PREFILL])
    return " ".join(with_fleet(folder, *words, capacity={"scaleDown": {"delay": "1h"}, **capacity}).split())


def test_companions_are_planned_with_their_own_gpus(tmp_path, monkeypatch):
    said = with_prefill(tmp_path, monkeypatch, "--companion-pods=4")

    assert "With it: prefill-v2 1 at 25%, 2 at 50%, 4 at 100%, beside 4 of stable's." in said
    # As without them, and 1 + 4 pods for an hour, 2 + 4 for two, 4 + 4 for one, of a GPU each.
    assert "GPU-hours: 225 from the first weight" in said


def test_companions_of_which_nobody_says_how_many_there_are_are_named(tmp_path, monkeypatch):
    said = with_prefill(tmp_path, monkeypatch)

    assert "With it: prefill-v2, as many per pod as stable's companion has: `--companion-pods` says" in said
    assert "GPU-hours: 200 " in said


@pytest.mark.parametrize(
    ("capacity", "line"),
    [
        (
            {"maxSurge": 8},
            "CapacityInfeasible: prefill-v2: the canary's 12 pods at 100% and 12 of stable's 12 are 24",
        ),
        (
            {"maxSurge": 5, "minStable": "50%"},
            "set it to 6, or to a percentage that is as much, or minStable to 5",
        ),
    ],
)
def test_a_plan_that_companions_do_not_fit_into(tmp_path, monkeypatch, capacity, line):
    assert line in with_prefill(tmp_path, monkeypatch, "--companion-pods=12", **capacity)


def test_companions_of_a_stable_that_gives_pods_give_theirs(tmp_path, monkeypatch):
    capacity = {"maxSurge": 1, "minStable": 1}
    said = with_prefill(tmp_path, monkeypatch, "--companion-pods=4", **capacity)

    assert (
        "With it: prefill-v2 1 at 25%, 2 at 50%, 4 at 100%, beside 4 of stable's, which keeps 1 of them."
        in said
    )


@pytest.mark.parametrize(
    ("capacity", "line"),
    [
        (
            {"maxSurge": 1, "minStable": 1},
            "scales Deployment prefill-v2: take that away, or set maxSurge to 8",
        ),
        ({"maxSurge": 8, "minStable": 1}, ""),
        ({"maxSurge": 8}, ""),
    ],
)
def test_a_plan_that_an_autoscaler_of_a_companion_stops(tmp_path, monkeypatch, capacity, line):
    target = {"kind": "Deployment", "name": "prefill-v2"}
    auto = {"kind": "HorizontalPodAutoscaler", "metadata": {"name": "x"}, "spec": {"scaleTargetRef": target}}
    monkeypatch.setattr("tests.unit.cli.test_plan.PREFILL", [*PREFILL, auto])
    said = with_prefill(tmp_path, monkeypatch, "--companion-pods=4", **capacity)

    assert ("Capacity: it would wait as CapacityInfeasible: stable is to give pods" in said) is bool(line)
    assert line in said
    assert ("GPU-hours" in said) is not bool(line)


def test_a_plan_may_be_stopped_where_nobody_says_how_many_pods_the_companion_has(tmp_path, monkeypatch):
    auto = {
        "kind": "ScaledObject",
        "metadata": {"name": "x"},
        "spec": {"scaleTargetRef": {"name": "prefill-v2"}},
    }
    monkeypatch.setattr("tests.unit.cli.test_plan.PREFILL", [*PREFILL, auto])
    said = with_prefill(tmp_path, monkeypatch, maxSurge=1, minStable=1)

    assert "Capacity: it may wait as CapacityInfeasible: stable is to give pods" in said
    assert "GPU-hours" in said


def test_a_plan_says_that_its_drain_timeout_is_over_before_figures_count(tmp_path, monkeypatch):
    capacity = {"maxSurge": 1, "minStable": 1, "drainTimeout": "30s"}
    said = with_prefill(tmp_path, monkeypatch, "--companion-pods=4", **capacity)

    assert (
        "Drain: drainTimeout 30s is over before the figures of a pod of a version with companions count"
        in said
    )
    assert "Drain:" not in with_prefill(tmp_path, monkeypatch, "--companion-pods=4", maxSurge=1, minStable=1)


TEXT = """\
apiVersion: inferencerollouts.dev/v1alpha1
kind: Rollout
metadata: {name: demo}
spec:
  target: {pool: {name: v2}}
  traffic: {httpRoutes: [{name: route}]}
  strategy:
    canary:
      steps:
      - setWeight: WEIGHT
      - analysis: {metrics: [{name: ttft, compare: {preset: ttft}}]}
      - setWeight: 100
"""
SPELLED = {
    "10": "10%", "010": "8%", "0o20": "16%", "0x20": "32%", "1e1": "10%", "10.0": "10%", "1_0": "10%", "10%": "10%",
    '"0.5%"': "0.5%", '"10"': "", "yes": "", "1:30": "", "2026-01-01": "", ".inf": "",
}  # fmt: skip
"""Weights as they stand in YAML, and what go-yaml and so kubectl makes of them; empty: no weight."""


@pytest.mark.parametrize("weight", SPELLED)
def test_it_reads_a_weight_as_lint_and_the_cluster_do(tmp_path, weight):
    file = tmp_path / "rollout.yaml"
    file.write_text(TEXT.replace("WEIGHT", weight), encoding="utf-8")
    planned, linted = (
        CliRunner().invoke(main, [*words, str(file)])
        for words in (("plan", "--rate", "20", "--stable-pods", "4"), ("lint",))
    )

    wanted = SPELLED[weight]
    assert (planned.exit_code == 0, linted.exit_code == 0) == (bool(wanted), bool(wanted)), planned.output
    assert f" at {wanted}" in planned.output or not wanted


def many_ways() -> dict[str, bytes]:
    text = TEXT.replace("WEIGHT", "10")
    obj = yaml.safe_load(text)
    listed = {"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Pod"}, obj]}
    argo = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "metadata": {"name": "web"}, "spec": {}}
    pod = json.dumps({"apiVersion": "v1", "kind": "Pod"})
    return {
        "a list": yaml.safe_dump(listed).encode(),
        "UTF-16": text.encode("utf-16"),
        "JSON": json.dumps(obj).encode(),
        "JSON by tabs": json.dumps(obj, indent="\t").encode(),
        "a stream of JSON": f"{pod}\n{json.dumps(obj)}\n".encode(),
        "behind one of Argo": f"{yaml.safe_dump(argo)}---\n{text}".encode(),
        "lines as on Windows": text.replace("\n", "\r\n").encode(),
    }


@pytest.mark.parametrize("way", many_ways())
def test_it_reads_every_file_that_lint_reads(tmp_path, way):
    file = tmp_path / "rollout.yaml"
    file.write_bytes(many_ways()[way])

    assert CliRunner().invoke(main, ["lint", str(file)]).exit_code == 0
    assert CliRunner().invoke(main, ["plan", str(file), "--rate", "20", "--stable-pods", "4"]).exit_code == 0


def test_a_place_is_named_where_a_file_cannot_be_read(tmp_path):
    file = tmp_path / "rollout.yaml"
    file.write_text(f"{TEXT}kind: Rollout\n", encoding="utf-8")
    result = CliRunner().invoke(main, ["plan", str(file)])

    assert result.exit_code == 2
    assert f"{file}:13:1: the field kind stands twice" in result.output


def several(folder: Path, *documents: dict[str, Any] | str) -> Path:
    """A file of these documents; a text is one as it stands."""
    file = folder / "rollouts.yaml"
    parts = [one if isinstance(one, str) else yaml.safe_dump(one) for one in documents]
    file.write_text("---\n".join(parts), encoding="utf-8")
    return file


def named(name: str, steps: list[dict[str, Any]], namespace: str = "") -> dict[str, Any]:
    obj = yaml.safe_load(TEXT.replace("WEIGHT", "10"))
    obj["metadata"] = {"name": name, **({"namespace": namespace} if namespace else {})}
    obj["spec"]["strategy"]["canary"]["steps"] = steps
    return obj


def invoke(file: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["plan", str(file), *words])


def test_every_rollout_of_a_file_is_planned_under_its_name(tmp_path):
    file = several(tmp_path, named("chat", STEPS, "prod"), named("code", PLAIN), named("small", STEPS[1:3]))
    result = invoke(file)
    parts = result.output.split("\n\n")

    assert result.exit_code == 0
    assert [part.splitlines()[0] for part in parts] == [
        "Rollout prod/chat:",
        "Rollout code:",
        "Rollout small:",
    ]
    assert "Total: about 42 min" in parts[0]
    assert "No gates: nothing judges the canary." in parts[1]
    assert "Total: about 3 h 00 min" in parts[1]
    assert "step 5" not in parts[2]


def test_one_that_nothing_judges_is_no_error_alone_chosen_or_beside_others(tmp_path):
    ungated = named("code", [{"setWeight": 10}])
    alone = invoke(several(tmp_path, ungated))
    file = several(tmp_path, named("chat", STEPS), ungated)
    for result in (alone, invoke(file), invoke(file, "--name=code")):
        assert (result.exit_code, "No gates: nothing judges the canary." in result.output) == (0, True)

    script = invoke(file, "--name=code", "-o", "json")
    assert (script.exit_code, json.loads(script.output)["gates"]) == (0, [])


@pytest.mark.parametrize("name", ["chat", "prod/chat"])
def test_a_rollout_of_a_file_is_chosen_by_name_and_told_as_if_it_were_alone(tmp_path, name):
    both = [named("code", PLAIN), named("chat", STEPS, "prod")]
    chosen = invoke(several(tmp_path, *both), "--name", name)
    alone = invoke(several(tmp_path, both[1]))

    assert chosen.exit_code == 0
    assert chosen.output == alone.output
    assert "p95" in alone.output


def test_a_name_that_no_rollout_of_the_file_has_is_told_with_those_that_there_are(tmp_path):
    result = invoke(several(tmp_path, named("chat", STEPS, "prod"), named("code", PLAIN)), "--name=chta")

    assert result.exit_code == 2
    assert "no Rollout chta; there are prod/chat, code" in result.output


def test_one_that_cannot_be_planned_hides_no_other_and_fails_the_command(tmp_path):
    file = several(tmp_path, named("bad", COMPARED), named("good", STEPS))
    result = invoke(file)

    assert result.exit_code == 2
    assert "Rollout bad:\nNot planned: give --rate and --stable-pods" in result.output
    assert "Rollout good:\n" in result.output
    assert "Total: about 42 min" in result.output


def test_scripts_get_several_as_a_list_with_names(tmp_path):
    file = several(tmp_path, named("bad", COMPARED), named("chat", STEPS, "prod"))
    result = invoke(file, "-o", "json")
    bad, chat = json.loads(result.output)["rollouts"]

    assert result.exit_code == 2
    assert (bad["name"], bad["namespace"]) == ("bad", "")
    assert "give --rate" in bad["error"]
    assert (chat["name"], chat["namespace"], chat["minutes"]) == ("chat", "prod", 42.0)


def test_rollouts_of_other_tools_are_planned_by_nobody_beside_ours(tmp_path):
    argo = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "metadata": {"name": "web"}, "spec": {}}
    result = invoke(several(tmp_path, argo, named("chat", STEPS)))

    assert result.exit_code == 0
    assert "Rollout" not in result.output
