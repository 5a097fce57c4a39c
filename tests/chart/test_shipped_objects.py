"""The objects that users copy: examples/ and the pieces for Argo CD and Flux."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rollouts.api.crds import all_crds
from rollouts.api.parsing import parse_rollout
from rollouts.traffic.writes import CONSENT_ANNOTATION

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    [
        *ROOT.glob("examples/**/*.yaml"),
        *ROOT.glob("charts/*/argocd/*example.yaml"),
        *ROOT.glob("charts/*/flux/*.yaml"),
    ]
)


def objects(*files: Path) -> list[dict[str, Any]]:
    found = []
    for file in files:
        found += [item for item in yaml.safe_load_all(file.read_text(encoding="utf-8")) if item]
    return found


def of_kind(kind: str, *files: Path) -> list[dict[str, Any]]:
    return [item for item in objects(*files) if item["kind"] == kind]


def test_there_are_objects_to_look_at() -> None:
    assert len(FILES) >= 8
    assert len(of_kind("Rollout", *FILES)) >= 4


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_rollout_is_valid(file: Path) -> None:
    for rollout in of_kind("Rollout", file):
        rollout["metadata"].setdefault("namespace", "default")
        assert parse_rollout(rollout).problems == ()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_defaults_that_gitops_tools_see_as_drift_are_written_out(file: Path) -> None:
    for route in of_kind("HTTPRoute", file):
        for rule in route["spec"]["rules"]:
            assert all(
                "path" in match and set(match["path"]) == {"type", "value"} for match in rule["matches"]
            )
            for ref in rule["backendRefs"]:
                assert set(ref) == {"group", "kind", "name", "port", "weight"}


def test_a_status_is_promised_of_those_kinds_alone_whose_status_the_controller_may_write() -> None:
    promised = {
        crd["spec"]["names"]["plural"]
        for crd in all_crds()
        if any("subresources" in version for version in crd["spec"]["versions"])
    }
    rights = (ROOT / "charts/inference-rollouts/templates/_helpers.tpl").read_text(encoding="utf-8")

    assert promised == set(re.findall(r"(\w+)/status\b", rights))


def test_the_base_model_scenario_is_the_one_of_the_guides() -> None:
    folder = ROOT / "examples" / "base-model"
    files = sorted(folder.glob("*.yaml"))
    pools = {item["metadata"]["name"]: item for item in of_kind("InferencePool", *files)}
    assert {
        name: (item["spec"]["selector"]["release"], item["spec"]["extensionRef"]["name"])
        for name, item in pools.items()
    } == {
        "mymodel-pool-v1": ("qwen", "mymodel-v1-ext-proc"),
        "mymodel-pool-v2": ("deepseek-r1", "mymodel-v2-ext-proc"),
    }
    models = of_kind("InferenceModel", *files)
    assert {(m["spec"]["modelName"], m["spec"]["poolRef"]["name"]) for m in models} == {
        ("mymodel", "mymodel-pool-v1"),
        ("mymodel", "mymodel-pool-v2"),
    }
    (gateway,), (route,) = of_kind("Gateway", *files), of_kind("HTTPRoute", *files)
    (listener,) = gateway["spec"]["listeners"]
    assert (gateway["metadata"]["name"], listener["name"], listener["port"]) == (
        "inference-gateway",
        "llm-gw",
        8080,
    )
    refs = route["spec"]["rules"][0]["backendRefs"]
    assert [(ref["name"], ref["port"], ref["weight"]) for ref in refs] == [
        ("mymodel-pool-v1", 8000, 100),
        ("mymodel-pool-v2", 8000, 0),
    ]
    for rollout in of_kind("Rollout", *files):
        assert route["metadata"]["name"] == rollout["spec"]["traffic"]["httpRoutes"][0]["name"]
        assert route["metadata"]["annotations"] == {CONSENT_ANNOTATION: rollout["metadata"]["name"]}
        assert rollout["spec"]["allowMissingModels"] is True


def test_the_lora_scenario_is_the_one_of_the_guides() -> None:
    files = sorted((ROOT / "examples" / "lora").glob("*.yaml"))
    (model,), rollouts = of_kind("InferenceModel", *files), of_kind("Rollout", *files)
    assert model["metadata"]["name"] == "loramodel"
    assert len(rollouts) == 2
    assert model["spec"]["modelName"] == "travelhelper"
    assert model["spec"]["poolRef"]["name"] == "mymodel-pool-v1"
    assert {item["name"]: item["weight"] for item in model["spec"]["targetModels"]} == {
        "travel-helper-v1": 90,
        "travel-helper-v2": 10,
    }
    for rollout in rollouts:
        assert model["metadata"]["annotations"] == {CONSENT_ANNOTATION: rollout["metadata"]["name"]}
        assert rollout["spec"]["strategy"]["canary"]["sticky"] == {"header": "x-session-id"}
        assert rollout["spec"]["traffic"]["inferenceModel"] == {
            "name": "loramodel",
            "modelName": "travelhelper",
            "poolRef": {"name": "mymodel-pool-v1"},
        }
