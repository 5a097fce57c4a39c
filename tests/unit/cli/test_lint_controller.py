"""Freezes and approvals in files, against a controller in the same files or in the cluster."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.cli.controllers import file_reports
from rollouts.cli.lint import lint_documents
from rollouts.cli.lint_live import Live
from rollouts.controller.reporting import ControllerReport

API = "inferencerollouts.dev/v1alpha1"
CONFIG = (
    "notifications: {receivers: {board: {type: webhook, url: 'https://b.example', namespaces: [team-a]}}}\n"
)


def rollout(*steps: dict[str, Any], namespace: str = "team-a") -> dict[str, Any]:
    return {
        "apiVersion": API,
        "kind": "Rollout",
        "metadata": {"name": "demo", "namespace": namespace},
        "spec": {
            "target": {"pool": {"name": "v2"}},
            "traffic": {"httpRoutes": [{"name": "route"}]},
            "strategy": {"canary": {"steps": [{"setWeight": 10}, *steps]}},
        },
    }


FREEZE = {
    "apiVersion": API,
    "kind": "RolloutFreeze",
    "metadata": {"name": "weekend"},
    "spec": {"reason": "closed", "windows": [{"schedule": "0 12 * * fri", "duration": "3d"}]},
}


def release(*args: str, config: str = CONFIG) -> list[dict[str, Any]]:
    """A controller as the chart renders it."""
    container = {"name": "controller", "image": "x/inference-rollouts:1", "args": ["controller", *args]}
    volumes = [{"name": "tmp", "emptyDir": {}}, {"name": "config", "configMap": {"name": "c"}}]
    pod = {"containers": [container], "volumes": volumes}
    return [
        {"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"config.yaml": config}},
        {"kind": "Deployment", "metadata": {"name": "r"}, "spec": {"template": {"spec": pod}}},
    ]


def told(*documents: Any, live: Live | None = None) -> list[tuple[str, str]]:
    found = lint_documents(list(documents), live=live)
    return [(one.where, one.text) for one in found if one.rule == "controller"]


@pytest.mark.parametrize(("word", "heard"), [("--freezes", True), ("--no-freezes", False)])
def test_a_freeze_beside_a_controller_that_does_not_obey(word, heard):
    found = told(FREEZE, *release("--all-namespaces", word))

    assert [where for where, _ in found] == ([] if heard else ["RolloutFreeze/weekend"])
    assert all("Deployment r runs without --freezes" in text for _, text in found)


@pytest.mark.parametrize(
    ("name", "namespace", "found"),
    [("board", "team-a", 0), ("board", "team-b", 1), ("other", "team-a", 1), ("board", "elsewhere", 0)],
)
def test_an_approval_of_nobody(name, namespace, found):
    steps = {"approve": {"webhook": name}}
    args = ("--namespace=team-a", "--namespace=team-b")

    assert len(told(rollout(steps, namespace=namespace), *release(*args))) == found


def test_the_controllers_of_the_cluster_count_with_live():
    live = Live(reports=[ControllerReport(source="Lease ops/x", approvers={"board": ()})])
    asks = rollout({"pause": {"approve": {"webhook": "bord"}}})

    ((where, text),) = told(asks, live=live)
    assert where == "Rollout/demo"
    assert "step 2 asks bord, and the controller of Lease ops/x" in text
    assert text.endswith("there are board")


def test_without_a_controller_nothing_is_said():
    assert told(FREEZE, rollout({"approve": {"webhook": "nobody"}})) == []


def test_other_deployments_and_configurations_that_nobody_can_read_are_no_controllers():
    plain = {
        "kind": "Deployment",
        "metadata": {"name": "x"},
        "spec": {"template": {"spec": {"containers": [{}]}}},
    }
    broken = release("--freezes", config="notifications: [")

    assert list(file_reports([plain, {"kind": "Deployment"}])) == []
    ((report),) = file_reports(broken)
    assert (report.source, report.freezes, report.approvers) == ("Deployment r", True, {})
