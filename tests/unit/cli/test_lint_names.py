"""Names that files give and nothing answers to: Services of endpoint pickers, triggers of notifications."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.cli.lint import Finding, lint_documents
from rollouts.cli.lint_live import Live
from tests.kit.served import ROLLOUT

V1 = "inference.networking.k8s.io/v1"
ALPHA = "inference.networking.x-k8s.io/v1alpha2"


def pool(picker: str, version: str = V1, **ref: Any) -> dict[str, Any]:
    field = "endpointPickerRef" if version == V1 else "extensionRef"
    return {
        "apiVersion": version,
        "kind": "InferencePool",
        "metadata": {"name": "v2", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "v2"}}, field: {"name": picker, **ref}},
    }


def service(name: str, namespace: str = "default") -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}}


def of_rule(rule: str, *documents: dict[str, Any], live: Live | None = None) -> list[Finding]:
    return [
        one for one in lint_documents(list(documents), check=lambda _: None, live=live) if one.rule == rule
    ]


@pytest.mark.parametrize("version", [V1, ALPHA])
def test_a_picker_that_is_nearly_a_service_of_the_files_is_named_where_the_pool_names_it(version):
    (found,) = of_rule("reference", ROLLOUT, pool("v2-eppp", version), service("v2-epp"))

    assert found.where == "InferencePool/v2"
    assert "Service v2-eppp of its endpoint picker is not in these files" in found.text
    assert found.text.endswith("did you mean v2-epp?")
    field = "endpointPickerRef" if version == V1 else "extensionRef"
    assert (found.document, found.path) == (1, ("spec", field, "name"))


@pytest.mark.parametrize(
    "documents",
    [
        (ROLLOUT, pool("v2-epp"), service("v2-epp")),
        (ROLLOUT, pool("v2-epp")),  # Services are elsewhere
        (ROLLOUT, pool("v2-epp"), service("other", namespace="elsewhere")),
        (ROLLOUT, pool("v2-epp", kind="Picker"), service("other")),
        (pool("v2-epp"), service("other")),  # none of these is ours to look at
    ],
)
def test_nothing_is_said_of_a_picker_that_may_be_there(documents):
    assert of_rule("reference", *documents) == []


def test_with_a_cluster_that_was_asked_the_files_say_nothing():
    assert of_rule(
        "reference", pool("v2-epp"), service("other"), ROLLOUT, live=Live(objects=[pool("x")])
    ) == [*of_rule("reference", ROLLOUT, pool("v2-epp"), live=Live())]


def subscribed(name: str) -> dict[str, Any]:
    return {**ROLLOUT, "metadata": {**ROLLOUT["metadata"], "annotations": {name: ""}}}


OURS = "notifications.inferencerollouts.dev/"


@pytest.mark.parametrize(
    ("annotation", "severity", "words"),
    [
        ("subscribe.on-abort.team", "hint", "did you mean on-aborted?"),
        ("subscribe.team.on-aborted", "hint", f"write {OURS}subscribe.on-aborted.team"),
        (
            "subscribe.on-gate-held.team",
            "hint",
            "must be one that the administrator configured; built in are",
        ),
        ("subscribe.on-aborted", "problem", "subscribes to nothing: write"),
        ("subscribe.on-aborted.", "problem", "subscribes to nothing: write"),
        ("subscribe.on-aborted.Team_A", "problem", "subscribes to nothing: write"),
        ("subscrib.on-aborted.team", "problem", "subscribes to nothing: write"),
        ("subscribe.on-aborted.team.more", "problem", "subscribes to nothing: write"),
    ],
)
def test_a_subscription_that_tells_nobody_is_named(annotation, severity, words):
    name = f"{OURS}{annotation}"
    (found,) = of_rule("notification", subscribed(name))

    assert (found.severity.value, found.path) == (severity, ("metadata", "annotations", name))
    assert words in found.text


def test_argo_cds_annotation_is_translated():
    (found,) = of_rule("notification", subscribed("notifications.argoproj.io/subscribe.on-aborted.slack"))

    assert f"write {OURS}subscribe.on-aborted.slack" in found.text


@pytest.mark.parametrize("name", [f"{OURS}subscribe.on-aborted.team", "example.com/subscribe.x"])
def test_a_sound_subscription_and_others_annotations_are_left_alone(name):
    assert of_rule("notification", subscribed(name)) == []
