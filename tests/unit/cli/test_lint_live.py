"""Files against a cluster: what is named, what the API server would refuse, CRDs of another version."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result

from rollouts.api.crds import all_crds
from rollouts.kube.client import Resource
from rollouts.lab.controlplane.upstream import CRDS
from rollouts.objects import kinds
from tests.kit.crds import crd
from tests.kit.served import ROLLOUT, Server

POOL = {
    "apiVersion": kinds.POOL_V1.api_version,
    "kind": "InferencePool",
    "metadata": {"name": "v2"},
    "spec": {"endpointPickerRef": {"name": "v2-epp"}, "selector": {"matchLabels": {"app": "v2"}}},
}
ROUTE = {
    "apiVersion": kinds.HTTP_ROUTE.api_version,
    "kind": "HTTPRoute",
    "metadata": {"name": "route"},
    "spec": {},
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path)
    for resource in (kinds.POOL_V1, kinds.HTTP_ROUTE):
        running.within(lambda api, one=resource: api.create(CRDS, None, crd(one), manager="test"))
    yield running
    running.stop()


def create(server: Server, resource: Resource, obj: dict[str, Any]) -> None:
    server.within(lambda api: api.create(resource, "default", obj, manager="test"))


def lint(server: Server, folder: Path, *objects: dict[str, Any]) -> tuple[int, list[tuple[str, int, str]]]:
    file = folder / "files.yaml"
    file.write_text(yaml.safe_dump_all(objects), encoding="utf-8")
    result: Result = server.call("lint", "--live", "-o", "json", str(file))
    found = [
        one
        for one in json.loads(result.stdout)["findings"]
        if one["rule"] in ("live", "reference", "consent", "template-missing")
    ]
    return result.exit_code, [(one["severity"], one["line"], one["message"]) for one in found]


def test_what_is_neither_in_the_files_nor_in_the_cluster_is_a_problem(server, tmp_path):
    code, found = lint(server, tmp_path, ROLLOUT)

    told = sorted((severity, message.partition(":")[0]) for severity, _, message in found)
    assert code == 2
    assert told == [
        ("problem", "HTTPRoute route is neither in these files nor in the cluster"),
        ("problem", "InferencePool v2 is neither in these files nor in the cluster"),
    ]


def test_what_is_there_is_looked_at_consent_and_picker_too(server, tmp_path):
    create(server, kinds.POOL_V1, POOL)
    create(server, kinds.HTTP_ROUTE, ROUTE)

    _, found = lint(server, tmp_path, ROLLOUT)

    told = " | ".join(message for _, _, message in found)
    assert "HTTPRoute/route does not consent: annotate it with inferencerollouts.dev/managed-by: demo" in told
    assert "names the endpoint picker v2-epp, and the cluster has no such Service" in told
    assert "neither" not in told


def test_templates_of_the_cluster_are_resolved_and_missing_ones_are_named(server, tmp_path):
    metric = {"name": "m", "query": "sum(x)", "successCondition": "result < {{args.limit}}"}
    template = {
        "apiVersion": "inferencerollouts.dev/v1alpha1",
        "kind": "AnalysisTemplate",
        "metadata": {"name": "there"},
        "spec": {"args": [{"name": "limit"}], "metrics": [metric]},
    }
    create(server, kinds.ANALYSIS_TEMPLATE, template)
    wanted = copy.deepcopy(ROLLOUT)
    gates = [{"templateName": "there"}, {"templateName": "ther"}]
    wanted["spec"]["strategy"]["canary"]["steps"][1] = {"analysis": {"templates": gates}}
    file = tmp_path / "files.yaml"
    file.write_text(yaml.safe_dump(wanted), encoding="utf-8")

    said = server.call("lint", "--live", str(file)).output

    assert "AnalysisTemplate there needs the argument limit" in said
    assert "AnalysisTemplate ther is neither in these files nor in the cluster; did you mean there?" in said


def test_the_server_says_what_it_would_refuse_and_stores_nothing(server, tmp_path):
    create(server, kinds.ROLLOUT, ROLLOUT)
    before = server.within(lambda api: api.get(kinds.ROLLOUT, "default", "demo"))
    changed = copy.deepcopy(ROLLOUT)
    changed["spec"]["traffic"]["httpRoutes"][0]["name"] = "another"

    code, found = lint(server, tmp_path, changed)

    assert code == 2
    assert [line for _, line, message in found if message.startswith("the API server would refuse it")] != []
    assert server.within(lambda api: api.get(kinds.ROLLOUT, "default", "demo")) == before


def test_older_crds_are_named_with_what_they_lack(server, tmp_path):
    older = next(copy.deepcopy(one) for one in all_crds() if one["spec"]["names"]["kind"] == "Rollout")
    schema = older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    del schema["properties"]["status"]["properties"]["messageLine"]
    server.within(lambda api: api.delete(CRDS, None, older["metadata"]["name"], manager="test"))
    server.within(lambda api: api.create(CRDS, None, older, manager="test"))

    _, found = lint(server, tmp_path, ROLLOUT)

    assert "is older than this command, it lacks status.messageLine" in found[0][2]


def test_a_server_that_is_away_is_said(server, tmp_path):
    server.go_away()
    file = tmp_path / "files.yaml"
    file.write_text(yaml.safe_dump(ROLLOUT), encoding="utf-8")

    assert server.call("lint", "--live", str(file)).exit_code == 3
    server.come_back()


def test_doctor_checks_the_gates_that_are_in_the_cluster(server):
    broken = copy.deepcopy(ROLLOUT)
    metric = {"name": "m", "query": "sum(rate(x[5m])", "successCondition": "result < 1.0"}
    gate = {"metrics": [metric], "templates": [{"templateName": "none"}]}
    broken["spec"]["strategy"]["canary"]["steps"][1] = {"analysis": gate}
    create(server, kinds.ROLLOUT, broken)

    said = server.call("doctor", "demo").output

    assert "problem:  Rollout demo: step 2: AnalysisTemplate none is not in the cluster" in said
    assert "problem:  Rollout demo: step 2: metric m: the query is no PromQL: a ( is not closed" in said
