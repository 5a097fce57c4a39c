"""The shipped catalogues of notifications hang together, and cover every state that waits for a person."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rollouts.objects.kinds import GROUP, ROLLOUT

CHART = Path(__file__).resolve().parents[2] / "charts" / "inference-rollouts"
DATA: dict[str, str] = yaml.safe_load((CHART / "argocd/notifications-cm-snippet.yaml").read_text("utf-8"))[
    "data"
]
TRIGGERS = {name: yaml.safe_load(text) for name, text in DATA.items() if name.startswith("trigger.")}
TEMPLATES = {name: yaml.safe_load(text) for name, text in DATA.items() if name.startswith("template.")}


def test_every_entry_is_a_trigger_or_a_template() -> None:
    assert len(TRIGGERS) == len(TEMPLATES) == 4
    assert len(DATA) == 8


def test_what_a_trigger_sends_is_there_and_every_template_is_sent() -> None:
    sent = [f"template.{name}" for (rule,) in TRIGGERS.values() for name in rule["send"]]

    assert sorted(sent) == sorted(TEMPLATES)


@pytest.mark.parametrize("name", TRIGGERS)
def test_a_trigger_fires_once_and_only_for_applications_with_rollouts(name: str) -> None:
    (rule,) = TRIGGERS[name]

    assert set(rule) == {"when", "oncePer", "send"}
    assert f".group == '{GROUP}'" in rule["when"] or f"{GROUP}/{ROLLOUT.kind}/" in rule["when"]


def test_every_health_that_a_rollout_ends_or_waits_in_has_a_trigger() -> None:
    health = (CHART / "argocd/resource_customizations" / GROUP / "Rollout/health.lua").read_text("utf-8")
    states = set(re.findall(r'= "(\w+)"', health)) - {"Progressing", "Unknown", "True", "Stalled"}
    told = {state for (rule,) in TRIGGERS.values() for state in states if f"'{state}'" in rule["when"]}

    assert states == told == {"Healthy", "Suspended", "Degraded"}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_closes_what_it_opens(name: str) -> None:
    text = TEMPLATES[name]["message"]
    opened = len(re.findall(r"{{(?:range|if|with) ", text))

    assert text.count("{{") == text.count("}}")
    assert opened == len(re.findall(r"{{end}}", text))
    assert "{{.app.metadata.name}}" in text


def test_the_flux_alert_hears_of_the_rollout_and_holds_up_no_commit() -> None:
    files = ("kustomization-example.yaml", "alerts-example.yaml")
    objects: list[dict[str, Any]] = [
        item for name in files for item in yaml.safe_load_all((CHART / "flux" / name).read_text("utf-8"))
    ]
    named = {(item["kind"], item["metadata"]["name"]): item["spec"] for item in objects}
    alert, watcher = named["Alert", "mymodel-rollout"], named["Kustomization", "mymodel-health"]
    model = named["Kustomization", "mymodel"]

    assert alert["eventSources"] == [{"kind": "Kustomization", "name": "mymodel-health"}]
    assert ("Provider", alert["providerRef"]["name"]) in named
    assert [(item["apiVersion"], item["kind"]) for item in watcher["healthChecks"]] == [
        (ROLLOUT.api_version, ROLLOUT.kind)
    ]
    assert model["path"] != watcher["path"]
    assert (model["wait"], model.get("healthChecks")) == (False, None)
