"""kustomize renames what names other objects, with the shipped configuration."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

KUBECTL = shutil.which("kubectl")
pytestmark = pytest.mark.skipif(not KUBECTL, reason="kubectl is not on the PATH: its kustomize is not tried")

ROOT = Path(__file__).resolve().parents[2]
REFERENCES = ROOT / "charts/inference-rollouts/kustomize/name-references.yaml"
EXAMPLES = ROOT / "examples"
API = "inferencerollouts.dev/v1alpha1"
Object = dict[str, Any]


def built(folder: Path, *resources: Path | list[Object], configured: bool = True) -> dict[str, Object]:
    """The objects that kustomize makes of the resources under another name, by kind and old name."""
    files = []
    for number, resource in enumerate(resources):
        text = resource.read_text("utf-8") if isinstance(resource, Path) else yaml.safe_dump_all(resource)
        (folder / f"{number}.yaml").write_text(text)
        files.append(f"{number}.yaml")
    shutil.copy(REFERENCES, folder)
    made = {"namePrefix": "prod-", "nameSuffix": "-eu", "resources": files}
    made |= {"configurations": [REFERENCES.name]} if configured else {}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(made))
    assert KUBECTL
    done = subprocess.run(
        [KUBECTL, "kustomize", str(folder)], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stderr
    objects = [item for item in yaml.safe_load_all(done.stdout) if item]
    names = [item["metadata"]["name"].removeprefix("prod-").removesuffix("-eu") for item in objects]
    return {f"{item['kind']}/{name}": item for item, name in zip(objects, names, strict=True)}


def base_model(folder: Path, *, configured: bool = True) -> dict[str, Object]:
    files = [EXAMPLES / "base-model" / f"{name}.yaml" for name in ("gateway", "pools", "route", "rollout")]
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "mymodel-v1-ext-proc"}}
    return built(folder, *files, [service], configured=configured)


def test_a_base_model_rollout_is_renamed_with_all_that_it_names(tmp_path: Path) -> None:
    found = base_model(tmp_path)
    spec, route = found["Rollout/mymodel"]["spec"], found["HTTPRoute/inference-route"]

    assert spec["target"]["pool"]["name"] == "prod-mymodel-pool-v2-eu"
    assert spec["traffic"]["httpRoutes"][0]["name"] == "prod-inference-route-eu"
    assert route["metadata"]["annotations"]["inferencerollouts.dev/managed-by"] == "prod-mymodel-eu"
    assert [ref["name"] for ref in route["spec"]["rules"][0]["backendRefs"]] == [
        "prod-mymodel-pool-v1-eu",
        "prod-mymodel-pool-v2-eu",
    ]
    assert route["spec"]["parentRefs"][0]["name"] == "prod-inference-gateway-eu"
    assert found["InferenceModel/mymodel-v1"]["spec"]["poolRef"]["name"] == "prod-mymodel-pool-v1-eu"
    assert (
        found["InferencePool/mymodel-pool-v1"]["spec"]["extensionRef"]["name"]
        == "prod-mymodel-v1-ext-proc-eu"
    )
    assert found["InferencePool/mymodel-pool-v2"]["spec"]["extensionRef"]["name"] == "mymodel-v2-ext-proc"


def test_without_the_configuration_the_names_fall_apart(tmp_path: Path) -> None:
    """What the configuration is for; where kustomize learns it by itself it is no longer needed."""
    found = base_model(tmp_path, configured=False)

    assert found["Rollout/mymodel"]["spec"]["target"]["pool"]["name"] == "mymodel-pool-v2"


def test_an_adapter_rollout_is_renamed_and_its_adapters_are_not(tmp_path: Path) -> None:
    lora, base = EXAMPLES / "lora", EXAMPLES / "base-model"
    found = built(tmp_path, base / "pools.yaml", lora / "model.yaml", lora / "rollout.yaml")
    spec, model = found["Rollout/travelhelper"]["spec"], found["InferenceModel/loramodel"]

    assert spec["target"]["adapter"]["name"] == "travel-helper-v2"
    assert spec["traffic"]["inferenceModel"]["name"] == "prod-loramodel-eu"
    assert spec["traffic"]["inferenceModel"]["modelName"] == "travelhelper"
    assert spec["traffic"]["inferenceModel"]["poolRef"]["name"] == "prod-mymodel-pool-v1-eu"
    assert model["metadata"]["annotations"]["inferencerollouts.dev/managed-by"] == "prod-travelhelper-eu"
    assert model["spec"]["poolRef"]["name"] == "prod-mymodel-pool-v1-eu"


def test_templates_hints_rewrites_and_managed_routes(tmp_path: Path) -> None:
    gate = {"analysis": {"templates": [{"templateName": "latency"}]}}
    canary = {"steps": [{"setWeight": 1}, gate], "analysis": {"templates": [{"templateName": "errors"}]}}
    made = {"name": "made", "template": {"parentRefs": [{"name": "gateway"}], "rules": [{}]}}
    pools: Object = {
        "target": {"pool": {"name": "v2"}},
        "stableHint": "v1",
        "traffic": {"httpRoutes": [made]},
        "strategy": {"canary": canary},
    }
    rewrite = {"name": "rewrite", "modelName": "m", "poolRef": {"name": "v1"}}
    adapters: Object = {
        "target": {"adapter": {"name": "v1"}},
        "traffic": {"inferenceModelRewrite": rewrite},
        "strategy": {"canaryFrom": {"name": "careful"}},
    }
    x = "inference.networking.x-k8s.io/v1alpha2"
    objects = [
        {"apiVersion": API, "kind": "Rollout", "metadata": {"name": "pools"}, "spec": pools},
        {"apiVersion": API, "kind": "Rollout", "metadata": {"name": "adapters"}, "spec": adapters},
        {
            "apiVersion": API,
            "kind": "RolloutStrategy",
            "metadata": {"name": "careful"},
            "spec": {"canary": {"steps": [{"setWeight": 1}, gate]}},
        },
        {"apiVersion": API, "kind": "AnalysisTemplate", "metadata": {"name": "latency"}, "spec": {}},
        {"apiVersion": API, "kind": "ClusterAnalysisTemplate", "metadata": {"name": "errors"}, "spec": {}},
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": {"name": "gateway"},
            "spec": {},
        },
        *(
            {
                "apiVersion": "inference.networking.k8s.io/v1",
                "kind": "InferencePool",
                "metadata": {"name": name},
                "spec": {},
            }
            for name in ("v1", "v2")
        ),
        {
            "apiVersion": x,
            "kind": "InferenceModelRewrite",
            "metadata": {"name": "rewrite", "annotations": {"inferencerollouts.dev/managed-by": "adapters"}},
            "spec": {"poolRef": {"name": "v1"}, "rules": []},
        },
    ]
    found = built(tmp_path, objects)
    spec = found["Rollout/pools"]["spec"]
    steps, background = spec["strategy"]["canary"]["steps"], spec["strategy"]["canary"]["analysis"]

    assert (spec["target"]["pool"]["name"], spec["stableHint"]) == ("prod-v2-eu", "prod-v1-eu")
    assert steps[1]["analysis"]["templates"] == [{"templateName": "prod-latency-eu"}]
    assert background["templates"] == [{"templateName": "prod-errors-eu"}]
    assert found["Rollout/adapters"]["spec"]["strategy"]["canaryFrom"]["name"] == "prod-careful-eu"
    shared = found["RolloutStrategy/careful"]["spec"]["canary"]["steps"][1]["analysis"]
    assert shared["templates"] == [{"templateName": "prod-latency-eu"}]
    (route,) = spec["traffic"]["httpRoutes"]
    assert route["name"] == "made"
    assert route["template"]["parentRefs"] == [{"name": "prod-gateway-eu"}]
    traffic = found["Rollout/adapters"]["spec"]["traffic"]["inferenceModelRewrite"]
    assert (traffic["name"], traffic["poolRef"]["name"]) == ("prod-rewrite-eu", "prod-v1-eu")
    assert found["Rollout/adapters"]["spec"]["target"]["adapter"]["name"] == "v1"
    assert found["InferenceModelRewrite/rewrite"]["metadata"]["annotations"] == {
        "inferencerollouts.dev/managed-by": "prod-adapters-eu"
    }


def test_what_a_job_step_reads_is_renamed_with_it(tmp_path: Path) -> None:
    """As kustomize does for Jobs: ConfigMaps and Secrets by their content, accounts and claims by the prefix."""
    container = {
        "name": "c",
        "image": "i",
        "env": [
            {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "a"}}},
            {"name": "B", "valueFrom": {"secretKeyRef": {"name": "token", "key": "b"}}},
        ],
        "envFrom": [{"configMapRef": {"name": "settings"}}, {"secretRef": {"name": "token"}}],
    }
    pod = {
        "serviceAccountName": "tester",
        "imagePullSecrets": [{"name": "token"}],
        "containers": [container],
        "initContainers": [container],
        "volumes": [
            {"name": "a", "configMap": {"name": "settings"}},
            {"name": "b", "secret": {"secretName": "token"}},
            {"name": "c", "persistentVolumeClaim": {"claimName": "disk"}},
            {"name": "d", "projected": {"sources": [{"configMap": {"name": "settings"}}]}},
            {"name": "e", "configMap": {"name": "not-among-the-resources"}},
        ],
    }
    steps = [{"setWeight": 1}, {"job": {"spec": {"template": {"spec": pod}}}}]
    spec = {"target": {"pool": {"name": "v2"}}, "strategy": {"canary": {"steps": steps}}}
    objects = [
        {"apiVersion": API, "kind": "Rollout", "metadata": {"name": "demo"}, "spec": spec},
        *(
            {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}
            for kind, name in (
                ("ConfigMap", "settings"),
                ("Secret", "token"),
                ("ServiceAccount", "tester"),
                ("PersistentVolumeClaim", "disk"),
            )
        ),
    ]
    found = built(tmp_path, objects)["Rollout/demo"]
    text = yaml.safe_dump(found["spec"]["strategy"]["canary"]["steps"][1])

    for name, times in (("settings", 6), ("token", 6), ("tester", 1), ("disk", 1)):
        assert text.count(f"prod-{name}-eu") == text.count(name) == times, name
    assert "prod-not-among" not in text
