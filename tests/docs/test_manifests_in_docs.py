"""Every manifest and fragment of YAML that the documentation shows is right: linted, read by who reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from rollouts.cli.main import main
from rollouts.controller.settings import Settings, read_config
from tests.docs.pages import ROOT, Block, blocks, pages

CHART = ROOT / "charts" / "inference-rollouts"
OURS = "inferencerollouts.dev/"
RIVALS = ("argoproj.io/v1alpha1", "flagger.app/v1beta1")
CONFIG = {"sources", "gitopsManagers", "adapters", "pathProbe", "notifications", "parallelism"}
SKELETON: dict[str, Any] = {
    "apiVersion": "inferencerollouts.dev/v1alpha1",
    "kind": "Rollout",
    "metadata": {"name": "mymodel"},
    "spec": {
        "target": {"pool": {"name": "mymodel-pool-v2"}},
        "traffic": {"httpRoutes": [{"name": "inference-route"}]},
        "strategy": {"canary": {"steps": [{"setWeight": 10}]}},
    },
}


def shown() -> list[Block]:
    return [block for page in pages() for block in blocks(page) if block.language == "yaml"]


def lint(tmp_path: Path, text: str) -> tuple[int, str]:
    file = tmp_path / "shown.yaml"
    file.write_text(text)
    result = CliRunner().invoke(main, ["lint", str(file)])
    return result.exit_code, result.output


def whole(fragment: Mapping[str, Any]) -> dict[str, Any] | None:
    """A Rollout with this part of it: of its spec, or of `strategy.canary`. None for parts of something else."""
    canary = {**SKELETON["spec"]["strategy"]["canary"], **fragment}
    if set(fragment) <= {"steps", "analysis", "sticky", "windows", "bake", "pathProbe"}:
        return {**SKELETON, "spec": {**SKELETON["spec"], "strategy": {"canary": canary}}}
    if set(fragment) <= {
        "target",
        "traffic",
        "strategy",
        "rollbackWindow",
        "onDelete",
        "paused",
        "dependsOn",
    }:
        return {**SKELETON, "spec": {**SKELETON["spec"], **fragment}}
    return None


def check_values(text: str) -> None:
    """Raises AssertionError where the chart has no such values."""

    def known(values: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
        assert set(values) <= set(ours)
        for name, value in values.items():
            if isinstance(value, dict) and ours[name]:
                known(value, ours[name])

    known(yaml.safe_load(text), yaml.safe_load((CHART / "values.yaml").read_text()))


def check(tmp_path: Path, text: str) -> None:
    """Raises AssertionError where the YAML is not what it is shown as."""
    for shown_object in yaml.safe_load_all(text):
        kind = shown_object.get("apiVersion", "") if isinstance(shown_object, dict) else ""
        if kind.startswith(OURS):
            code, output = lint(tmp_path, yaml.safe_dump(shown_object))
            assert code == 0, output
        elif kind in RIVALS:
            code, output = lint(tmp_path, yaml.safe_dump(shown_object))
            assert code == 2, output
            assert " of Argo Rollouts" in output or " of Flagger" in output, output
        elif kind:
            assert shown_object["kind"]
            assert shown_object["metadata"]["name"]
        elif isinstance(shown_object, list):
            assert all("run" in step or "uses" in step for step in shown_object), "steps of a workflow"
        elif set(shown_object) & CONFIG:
            (tmp_path / "config.yaml").write_text(yaml.safe_dump(shown_object))
            assert read_config(str(tmp_path / "config.yaml"), Settings())
        elif set(shown_object) == {"metadata"}:
            assert set(shown_object["metadata"]) <= {"name", "namespace", "annotations", "labels"}
        else:
            made = whole(shown_object)
            assert made is not None, f"nobody looks at {sorted(shown_object)}: add a check here"
            code, output = lint(tmp_path, yaml.safe_dump(made))
            assert code == 0, output


def test_manifests_are_shown_at_all():
    assert len(shown()) >= 10


@pytest.mark.parametrize("block", shown(), ids=lambda block: block.place)
def test_a_manifest_in_the_docs_is_right(block: Block, tmp_path: Path):
    if block.title == "values.yaml":
        check_values(block.text)
    else:
        check(tmp_path, block.text)


def test_values_that_the_chart_does_not_have_would_be_found():
    with pytest.raises(AssertionError):
        check_values("networkPolicy: {egres: {}}")


@pytest.mark.parametrize(
    "text",
    [
        yaml.safe_dump({**SKELETON, "spec": {**SKELETON["spec"], "targett": {}}}),
        "steps: [{setWieght: 10}]",
        "sources: {default: {ulr: 'http://x:9090'}}",
        "somebody: else's",
        "metadata: {nmae: x}",
        "- rnu: kustomize build",
    ],
)
def test_a_wrong_manifest_would_be_found(text: str, tmp_path: Path):
    with pytest.raises((AssertionError, Exception), match=r".+"):
        check(tmp_path, text)


@pytest.mark.parametrize("example", ["base-model", "base-model-capacity", "lora"])
def test_lint_finds_nothing_in_the_examples(example: str):
    result = CliRunner().invoke(main, ["lint", str(ROOT / "examples" / example)])

    assert result.exit_code == 0, result.output
    assert " 0 problems" in result.output
