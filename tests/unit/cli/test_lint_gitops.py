"""Metadata of Rollouts in Git: what a sync would make of it."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from rollouts.cli.lint import lint_documents
from rollouts.cli.lint_findings import Severity
from rollouts.cli.main import main

SOUND = """\
apiVersion: inferencerollouts.dev/v1alpha1
kind: Rollout
metadata: {name: mymodel}
spec:
  target: {pool: {name: v2}}
  traffic: {httpRoutes: [{name: route}]}
  strategy: {canary: {steps: [{setWeight: 10}, {pause: {duration: 10m}}], analysis: {preset: default}}}
"""


def rollout(**metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "inferencerollouts.dev/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": "mymodel", **metadata},
        "spec": {
            "target": {"pool": {"name": "v2"}},
            "traffic": {"httpRoutes": [{"name": "route"}]},
            "strategy": {
                "canary": {
                    "steps": [{"setWeight": 10}, {"pause": {"duration": "10m"}}],
                    "analysis": {"preset": "default"},
                }
            },
        },
    }


def told(obj: dict[str, Any]) -> set[tuple[Severity, str]]:
    """What is said of its metadata: how bad it is, and the words."""
    found = lint_documents([obj])
    return {(one.severity, one.text) for one in found if one.rule in ("gitops", "no-name")}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("helm.sh/hook", "post-install,post-upgrade", "deleted and made anew"),
        ("argocd.argoproj.io/hook", "Sync", "deleted and made anew"),
        ("argocd.argoproj.io/sync-options", "Replace=true, Force=true", "begins at its first step"),
        ("kustomize.toolkit.fluxcd.io/ssa", "IfNotPresent", "never lands"),
        ("kustomize.toolkit.fluxcd.io/ssa", "Ignore", "never lands"),
    ],
)
def test_a_sync_that_would_end_or_freeze_the_rollout_is_a_problem(name: str, value: str, words: str) -> None:
    [(severity, text)] = told(rollout(annotations={name: value}))

    assert severity is Severity.PROBLEM
    assert (name.rpartition("/")[0] or "=") in text or "Force=true" in text
    assert words in text


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"annotations": {"inferencerollouts.dev/command": "{}"}}, "over a newer one"),
        ({"annotations": {"inferencerollouts.dev/release": "now"}}, "leave the canary the share"),
        ({"annotations": {"kustomize.toolkit.fluxcd.io/reconcile": "disabled"}}, "applies no commit"),
        ({"finalizers": ["inferencerollouts.dev/restore-traffic"]}, "no deletion ends"),
        ({"resourceVersion": "12"}, "refused after the next write"),
    ],
)
def test_what_belongs_to_one_moment_is_a_hint(metadata: dict[str, Any], words: str) -> None:
    """An export of a cluster has all of it, and may be checked."""
    [(severity, text)] = told(rollout(**metadata))

    assert (severity, words in text) == (Severity.HINT, True)


@pytest.mark.parametrize(
    "annotations",
    [
        {"argocd.argoproj.io/sync-options": "Replace=true"},
        {"argocd.argoproj.io/sync-options": "ServerSideApply=true,Prune=false"},
        {"argocd.argoproj.io/hook": "Skip"},
        {"kustomize.toolkit.fluxcd.io/ssa": "Merge"},
    ],
)
def test_settings_that_do_no_harm_are_left_alone(annotations: dict[str, str]) -> None:
    assert told(rollout(annotations=annotations)) == set()


def test_a_rollout_needs_a_name_in_git() -> None:
    made = rollout(generateName="mymodel-")
    del made["metadata"]["name"]

    [(severity, text)] = told(made)
    assert (severity, "metadata.name is missing" in text) == (Severity.PROBLEM, True)


# --- the command ---------------------------------------------------------------------------------------


def test_files_may_be_named_as_kubectl_has_it(tmp_path: Any) -> None:
    file = tmp_path / "rollout.yaml"
    file.write_text(SOUND)
    both = CliRunner().invoke(main, ["lint", str(file), "-f", "-"], input=SOUND)
    one = CliRunner().invoke(main, ["lint", "-f", str(file)])
    none = CliRunner().invoke(main, ["lint"])

    assert ("2 objects, 0 problems" in both.output, "1 objects, 0 problems" in one.output) == (True, True)
    assert (none.exit_code, "name files" in none.output) == (2, True)


@pytest.mark.parametrize("value", ["${POOL}", "${POOL:=v2}"])
def test_a_variable_that_breaks_the_yaml_is_named(value: str) -> None:
    result = CliRunner().invoke(main, ["lint", "-"], input=SOUND.replace("name: v2", f"name: {value}"))

    assert (result.exit_code, "was not substituted" in result.output) == (2, True)
