"""The dashboard of the chart: off unless asked for, read-only, with rights to read and no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rollouts.cli.dashboard import dashboard
from rollouts.runtime.health import parse_address

Object = dict[str, Any]
Render = Callable[[Object], list[Object]]
ON = {"dashboard": {"enabled": True, "hosts": ["rollouts.example"]}}


def of_dashboard(objects: list[Object]) -> dict[str, Object]:
    return {item["kind"]: item for item in objects if item["metadata"]["name"].endswith("-dashboard")}


def test_there_is_none_unless_asked_for(render: Render) -> None:
    assert of_dashboard(render({})) == {}


@pytest.mark.parametrize("everywhere", [True, False])
def test_its_rights_are_to_read(render: Render, everywhere: bool) -> None:
    found = of_dashboard(render({**ON, "watch": {"allNamespaces": everywhere}}))
    scope = "Cluster" if everywhere else ""
    assert set(found) == {"Deployment", "Service", "ServiceAccount", f"{scope}Role", f"{scope}RoleBinding"}
    rules = found[f"{scope}Role"]["rules"]
    assert {verb for rule in rules for verb in rule["verbs"]} == {"get", "list", "watch"}
    assert "secrets" not in {name for rule in rules for name in rule["resources"]}
    assert found[f"{scope}RoleBinding"]["subjects"][0]["name"] == found["ServiceAccount"]["metadata"]["name"]


@pytest.mark.parametrize("everywhere", [True, False])
def test_its_command_is_one_that_we_have(render: Render, everywhere: bool) -> None:
    pod = of_dashboard(render({**ON, "watch": {"allNamespaces": everywhere}}))["Deployment"]["spec"][
        "template"
    ]["spec"]
    (container,) = pod["containers"]
    name, *arguments = container["args"]
    assert name == "dashboard"
    given = dashboard.make_context(name, arguments).params
    assert given["read_only"] is True
    assert given["hosts"] == ("rollouts.example",)
    assert given["all_namespaces"] is everywhere
    assert parse_address(given["address"]).port == container["ports"][0]["containerPort"]


def test_its_service_leads_to_its_pods_alone(render: Render) -> None:
    objects = render(ON)
    found = of_dashboard(objects)
    selector = found["Service"]["spec"]["selector"].items()
    labelled = [
        item["metadata"]["name"]
        for item in objects
        if item["kind"] == "Deployment" and selector <= item["spec"]["template"]["metadata"]["labels"].items()
    ]
    assert labelled == [found["Deployment"]["metadata"]["name"]]
    assert found["Service"]["spec"].get("type", "ClusterIP") == "ClusterIP"
