"""Sync waves that can never end, found in files: a Rollout before what it needs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from rollouts.cli.main import main
from rollouts.cli.waves import WaveFinding, wave_findings, wave_of

ROOT = Path(__file__).parents[3]
WAVE = "argocd.argoproj.io/sync-wave"
HOOK = "argocd.argoproj.io/hook"
Object = dict[str, Any]


def obj(kind: str, name: str, wave: int | None = None, api: str = "v1", **parts: Any) -> Object:
    annotations = {} if wave is None else {WAVE: str(wave)}
    return {
        "apiVersion": api,
        "kind": kind,
        "metadata": {"name": name, "annotations": annotations},
        **parts,
    }


def rollout(wave: int | None, **traffic: Any) -> Object:
    gate = {"analysis": {"templates": [{"templateName": "latency"}]}}
    spec = {
        "target": {"pool": {"name": "v2"}},
        "traffic": traffic or {"httpRoutes": [{"name": "route"}]},
        "strategy": {"canary": {"steps": [{"setWeight": 10}, gate]}},
    }
    return obj("Rollout", "demo", wave, "inferencerollouts.dev/v1alpha1", spec=spec)


def pool(wave: int | None, **labels: str) -> Object:
    spec = {"selector": {"matchLabels": {"app": "x", **labels}}, "endpointPickerRef": {"name": "picker"}}
    return obj("InferencePool", "v2", wave, spec=spec)


PODS = {"template": {"metadata": {"labels": {"app": "x", "more": "y"}}}}
ADAPTER = {"inferenceModel": {"name": "model", "modelName": "m", "poolRef": {"name": "v2"}}}
NEEDED: dict[str, tuple[list[Object], Object]] = {
    "its pool": ([], pool(1)),
    "its route": ([], obj("HTTPRoute", "route", 1)),
    "its pods": ([pool(0)], obj("Deployment", "x", 1, spec=PODS)),
    "its groups of pods": (
        [pool(0)],
        obj("LeaderWorkerSet", "x", 1, spec={"leaderWorkerTemplate": {"workerTemplate": PODS["template"]}}),
    ),
    "its leaders by labels of their own": (
        [pool(0)],
        obj(
            "LeaderWorkerSet",
            "x",
            1,
            spec={"leaderWorkerTemplate": {"leaderTemplate": PODS["template"], "workerTemplate": {}}},
        ),
    ),
    "its leaders by a label that only pods have": (
        [pool(0, **{"leaderworkerset.sigs.k8s.io/worker-index": "0"})],
        obj("LeaderWorkerSet", "x", 1, spec={"leaderWorkerTemplate": {"workerTemplate": PODS["template"]}}),
    ),
    "its picker": ([pool(0)], obj("Service", "picker", 1)),
    "its picker's pods": (
        [pool(0), obj("Service", "picker", 0, spec={"selector": {"app": "epp"}})],
        obj("Deployment", "epp", 1, spec={"template": {"metadata": {"labels": {"app": "epp", "more": "y"}}}}),
    ),
    "its template": ([], obj("AnalysisTemplate", "latency", 1)),
}


@pytest.mark.parametrize("name", NEEDED)
def test_what_a_rollout_needs_in_a_later_wave_is_a_deadlock(name: str) -> None:
    others, late = NEEDED[name]
    (found,) = wave_findings([rollout(None), *others, late])

    assert found.deadlock
    assert f"{late['kind']}/{late['metadata']['name']}" in found.text
    assert f'{WAVE}: "2"' in found.text

    last = rollout(1)
    assert list(wave_findings([last, *others, late])) == []


def test_an_adapters_pool_and_model_object_are_needed_too() -> None:
    model = obj("InferenceModel", "model", 1)
    found = [item.text for item in wave_findings([rollout(0, **ADAPTER), pool(1), model])]

    assert len(found) == 2
    assert "InferencePool/v2" in found[0]
    assert "InferenceModel/model" in found[1]


def test_the_pool_of_variants_is_needed_and_their_split_is_the_controllers() -> None:
    variants = rollout(0, inferencePool={"name": "v2"})
    variants["spec"]["target"] = {"variant": {"name": "blue", "labels": {"release": "blue"}}}
    (found,) = wave_findings([variants, pool(1)])

    assert found.deadlock
    assert "InferencePool/v2" in found.text


def test_a_managed_route_is_the_rollouts_own() -> None:
    made = {"httpRoutes": [{"name": "route", "template": {"rules": [{}]}}]}
    (found,) = wave_findings([rollout(0, **made), obj("HTTPRoute", "route", 1)])

    assert not found.deadlock


@pytest.mark.parametrize(
    ("other", "part"),
    [
        (obj("ConfigMap", "c", 5), "ConfigMap/c in a later sync wave than the Rollout (0)"),
        (
            obj("Job", "j", None)
            | {"metadata": {"name": "j", "annotations": {"argocd.argoproj.io/hook": "PostSync"}}},
            "PostSync hook Job/j",
        ),
    ],
    ids=["a later wave", "a hook"],
)
def test_what_keeps_a_sync_open_is_a_hint(other: Object, part: str) -> None:
    (found,) = wave_findings([rollout(0), other])

    assert (found.deadlock, found.rollout) == (False, "demo")
    assert part in found.text


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3", 3),
        ("-2", -2),
        ("+4", 4),
        (" 4 ", 0),
        ("", 0),
        ("x", 0),
        ("--1", 0),
        ("4\n", 0),
        ("9" * 40, 0),
        ("²", 0),
    ],
)
def test_a_wave_that_is_no_number_is_zero(text: str, number: int) -> None:
    assert wave_of({"metadata": {"annotations": {WAVE: text}}}) == number


@pytest.mark.parametrize(
    ("annotations", "wave"),
    [
        ({"helm.sh/hook-weight": "7"}, 7),
        ({"helm.sh/hook-weight": "7", WAVE: "2"}, 2),
        ({"helm.sh/hook-weight": "7", WAVE: "x"}, 7),
        ({"helm.sh/hook-weight": "7", HOOK: "Sync"}, 0),
    ],
)
def test_the_weight_of_a_helm_hook_is_a_wave(annotations: dict[str, str], wave: int) -> None:
    assert wave_of({"metadata": {"annotations": annotations}}) == wave


def test_phases_come_before_waves() -> None:
    """A pool made before the sync is there in whatever wave; one made after it never comes."""
    early, late = pool(9), pool(None)
    early["metadata"]["annotations"][HOOK] = "PreSync"
    late["metadata"]["annotations"][HOOK] = "PostSync"

    assert list(wave_findings([rollout(0), early])) == []
    (found,) = wave_findings([rollout(5), late])
    assert found.deadlock
    assert "InferencePool/v2, which it needs, is a PostSync hook" in found.text


def test_a_namesake_in_another_namespace_is_not_what_a_rollout_needs() -> None:
    ours, theirs = rollout(1), pool(2)
    ours["metadata"]["namespace"], theirs["metadata"]["namespace"] = "a", "b"
    (found,) = wave_findings([ours, theirs])

    assert not found.deadlock
    theirs["metadata"]["namespace"] = "a"
    assert [one.deadlock for one in wave_findings([ours, theirs])] == [True]


@pytest.mark.parametrize(
    "broken", [{}, {"spec": 1}, {"spec": {"target": [], "traffic": 7}}, {"metadata": 3}], ids=str
)
def test_broken_objects_are_no_error(broken: Object) -> None:
    head = {"apiVersion": "inferencerollouts.dev/v1alpha1", "kind": "Rollout"}

    assert list(wave_findings([{**head, **broken}, {}, {"kind": "InferencePool", "metadata": None}])) == []


def lint(*paths: Path) -> Any:
    return CliRunner().invoke(main, ["lint", *map(str, paths)])


def test_lint_refuses_a_folder_whose_sync_never_ends(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.yaml").write_text("{broken")
    files = {"rollout.yaml": rollout(0), "below/pool.yml": pool(2), "notes.txt": "x"}
    for name, content in files.items():
        (tmp_path / name).write_text(yaml.safe_dump(copy.deepcopy(content)))

    result = lint(tmp_path)

    assert result.exit_code == 2
    assert "problem: Rollout/demo: it is in sync wave 0, and InferencePool/v2" in result.output


@pytest.mark.parametrize("folder", ["base-model", "lora"])
def test_the_examples_waves_end(folder: str) -> None:
    path = ROOT / "examples" / folder
    documents = [item for file in path.glob("*.yaml") for item in yaml.safe_load_all(file.read_text("utf-8"))]
    found: list[WaveFinding] = list(wave_findings(documents))

    assert {wave_of(item) for item in documents if item["kind"] == "Rollout"} == {3}
    assert found == []
    assert lint(path).exit_code == 0
