"""Alert rules, dashboards and notifications as the chart makes objects of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from rollouts.controller.settings import Settings, read_config
from tests.chart.conftest import Render

FILES = Path(__file__).resolve().parents[2] / "charts" / "inference-rollouts" / "monitoring"


def test_nothing_of_it_is_made_by_default(render: Render) -> None:
    kinds = [(item["kind"], item["metadata"]["name"]) for item in render({})]
    operators = {"PrometheusRule", "ServiceMonitor", "PodMonitor"}
    assert [name for kind, name in kinds if kind in operators or "dashboard" in name] == []


def test_monitors_find_the_controllers_service_and_the_pickers_pods(render: Render) -> None:
    objects = render(
        {
            "pickers": [
                {"pool": "p", "service": "epp"},
                {"pool": "q", "service": "other", "metricsPort": 9100},
            ],
            "serviceMonitor": {"enabled": True, "interval": "15s"},
            "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        }
    )
    made = {item["kind"]: item for item in objects if item["kind"] in ("ServiceMonitor", "PodMonitor")}
    services, pods = made["ServiceMonitor"]["spec"], made["PodMonitor"]["spec"]

    def selected(selector: dict[str, Any], labels: dict[str, str]) -> bool:
        return bool(selector["matchLabels"].items() <= labels.items())

    (service,) = [
        item
        for item in objects
        if item["kind"] == "Service" and selected(services["selector"], item["metadata"]["labels"])
    ]
    assert {port["name"] for port in service["spec"]["ports"]} >= {
        endpoint["port"] for endpoint in services["endpoints"]
    }
    found = [
        item["spec"]["template"]
        for item in objects
        if item["kind"] == "Deployment"
        and selected(pods["selector"], item["spec"]["template"]["metadata"]["labels"])
    ]
    assert len(found) == 2
    for template in found:
        ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
        assert {endpoint["port"] for endpoint in pods["podMetricsEndpoints"]} <= ports
    endpoints = [*services["endpoints"], *pods["podMetricsEndpoints"]]
    # Else Prometheus renames the labels that alerts and dashboards ask for (docs/monitoring.md).
    assert all(endpoint["honorLabels"] is True for endpoint in endpoints)
    assert [endpoint.get("interval") for endpoint in endpoints] == ["15s", None]
    assert made["PodMonitor"]["metadata"]["labels"]["release"] == "prometheus"


def test_the_rules_are_those_of_the_file_with_their_placeholders(render: Render) -> None:
    values = {"prometheusRule": {"enabled": True, "labels": {"release": "kube-prometheus-stack"}}}
    (made,) = [item for item in render(values) if item["kind"] == "PrometheusRule"]
    assert made["spec"] == yaml.safe_load((FILES / "alerts.yaml").read_text())
    assert made["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    assert "{{ $labels.rollout }}" in made["spec"]["groups"][0]["rules"][0]["annotations"]["summary"]


def test_each_dashboard_is_a_config_map_that_grafana_finds(render: Render) -> None:
    made = {}
    for item in render({"dashboards": {"enabled": True, "annotations": {"grafana_folder": "LLMs"}}}):
        if item["kind"] == "ConfigMap" and item["metadata"]["labels"].get("grafana_dashboard") == "1":
            assert item["metadata"]["annotations"] == {"grafana_folder": "LLMs"}
            made |= item["data"]
    found = {path.name: path.read_text() for path in (FILES / "dashboards").glob("*.json")}
    assert len(found) == 3
    assert {name: json.loads(text) for name, text in made.items()} == {
        name: json.loads(text) for name, text in found.items()
    }


def test_notifications_are_configured_and_their_secret_is_mounted(render: Render, tmp_path: Path) -> None:
    folder = "/etc/inference-rollouts/notifications"
    config = {
        "receivers": {"channel": {"type": "slack", "urlFile": f"{folder}/slack-url"}},
        "subscriptions": [{"receivers": ["channel"], "triggers": ["on-aborted"]}],
    }
    objects = render({"notifications": {"config": config, "secret": "rollout-receivers"}})
    (written,) = [item["data"]["config.yaml"] for item in objects if item["kind"] == "ConfigMap"]
    file = tmp_path / "config.yaml"
    file.write_text(written)
    assert (
        read_config(str(file), Settings()).notifications.receivers["channel"].url_file
        == f"{folder}/slack-url"
    )
    (pod,) = [item["spec"]["template"]["spec"] for item in objects if item["kind"] == "Deployment"]
    secrets = {
        volume["name"]: volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume
    }
    mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert secrets[mounts[folder]] == "rollout-receivers"
