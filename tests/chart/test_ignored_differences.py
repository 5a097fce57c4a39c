"""The shipped ignore rules over what our renderers write; Argo CD does ``del(EXPRESSION)`` on both sides."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jq
import pytest
import yaml

from rollouts.cli.gitops_ignored import IGNORED, ignore_key
from rollouts.engine.actions import DesiredTraffic
from rollouts.engine.rollout_spec import AdapterTraffic
from rollouts.engine.versions import Identity
from rollouts.kube.client import Resource
from rollouts.objects import kinds
from rollouts.objects.models import MODEL_KIND, REWRITE_KIND
from rollouts.traffic import httproute, inference_model, inference_model_rewrite
from rollouts.traffic.inference_model_rewrite import RewriteDialect, TargetField
from rollouts.traffic.targets import ModelTarget, adapter
from rollouts.traffic.writes import CONSENT_ANNOTATION, JsonPatch
from rollouts.units import FULL, Weight
from tests.kit.routes import adopted, apply_patch, pool, ref, route
from tests.kit.routes import target as route_target

ARGOCD = Path(__file__).resolve().parents[2] / "charts/inference-rollouts/argocd"
Object = dict[str, Any]
META = {
    "name": "m",
    "namespace": "default",
    "resourceVersion": "7",
    "annotations": {CONSENT_ANNOTATION: "demo"},
}


def desired(stable: Identity, canary: Identity) -> DesiredTraffic:
    return DesiredTraffic(stable=stable, canary=canary, weight=Weight(FULL // 4))


def models(kind: str) -> ModelTarget:
    spec = AdapterTraffic(kind=kind, name="m", model_name="travelhelper", pool_name="pool")
    return ModelTarget(rollout="demo", namespace="default", spec=spec)


def moved_route() -> tuple[Object, Any]:
    git = route([ref("v1", 100), ref("v2", 0)])
    git["metadata"] = {**git["metadata"], "annotations": {CONSENT_ANNOTATION: "demo"}}
    return git, httproute.render(git, route_target(adopted()), desired(pool("v1"), pool("v2")))


def moved_model() -> tuple[Object, Any]:
    entries = [{"name": "a1", "weight": 100}]
    git = {"metadata": META, "spec": {"modelName": "travelhelper", "targetModels": entries}}
    kind = models(MODEL_KIND)
    return git, inference_model.render(git, kind, desired(adapter("a1"), adapter("a2")))


def moved_rewrite(version: str, field: TargetField, key: str) -> tuple[Object, Any]:
    rule = {
        "matches": [{"model": {"type": "Exact", "value": "travelhelper"}}],
        field.value: [{key: "a1", "weight": 100}],
    }
    git = {"metadata": META, "spec": {"poolRef": {"name": "pool"}, "rules": [rule]}}
    kind = models(REWRITE_KIND)
    dialect = RewriteDialect(api_version=version, field=field)
    return git, inference_model_rewrite.render(git, kind, dialect, desired(adapter("a1"), adapter("a2")))


X, LLM_D = kinds.REWRITE_X, kinds.REWRITE_LLMD
CASES: dict[str, tuple[Resource, Callable[[], tuple[Object, Any]]]] = {
    "route": (kinds.HTTP_ROUTE, moved_route),
    "model": (kinds.INFERENCE_MODEL, moved_model),
    "rewrite": (X, lambda: moved_rewrite(X.api_version, TargetField.TARGETS, "modelRewrite")),
    "rewrite, split": (X, lambda: moved_rewrite(X.api_version, TargetField.SPLIT, "modelRewrite")),
    "rewrite of llm-d": (
        LLM_D,
        lambda: moved_rewrite(LLM_D.api_version, TargetField.TARGETS, "modelRewrite"),
    ),
}


def compared(resource: Resource, obj: Object) -> Object:
    """What Argo CD compares of an object with the shipped settings."""
    data = yaml.safe_load((ARGOCD / "argocd-cm-snippet.yaml").read_text(encoding="utf-8"))["data"]
    for expression in yaml.safe_load(data[ignore_key(resource)])["jqPathExpressions"]:
        obj = jq.compile(f"del({expression})").input_value(obj).first()
    return obj


def moved(case: str) -> tuple[Resource, Object, Object]:
    resource, make = CASES[case]
    git, write = make()
    assert isinstance(write, JsonPatch)
    live = apply_patch(copy.deepcopy(git), write.operations)
    assert live["spec"] != git["spec"]
    return resource, git, live


@pytest.mark.parametrize("case", CASES)
def test_what_we_write_into_an_adopted_object_is_no_difference(case: str) -> None:
    resource, git, live = moved(case)

    assert compared(resource, live)["spec"] == compared(resource, git)["spec"]


@pytest.mark.parametrize("case", CASES)
def test_every_other_difference_is_still_seen(case: str) -> None:
    resource, git, live = moved(case)
    git["spec"]["somethingElse"] = "edited in Git"

    assert compared(resource, live)["spec"] != compared(resource, git)["spec"]


@pytest.mark.parametrize("case", CASES)
def test_an_object_that_names_no_rollout_is_compared_whole(case: str) -> None:
    resource, _, live = moved(case)
    live["metadata"] = {key: value for key, value in live["metadata"].items() if key != "annotations"}

    assert compared(resource, live) == live


@pytest.mark.parametrize("spec", [{}, {"rules": []}, {"rules": [{}]}], ids=str)
@pytest.mark.parametrize("ignored", IGNORED, ids=lambda ignored: ignore_key(ignored.resource))
def test_an_object_without_lists_is_no_error(ignored: Any, spec: Object) -> None:
    obj = {"metadata": META, "spec": spec}

    assert compared(ignored.resource, obj) == obj


def test_the_operator_gets_the_same_rules() -> None:
    text = (ARGOCD / "argocd-operator-snippet.yaml").read_text(encoding="utf-8")
    listed = yaml.safe_load(text)["spec"]["resourceIgnoreDifferences"]["resourceIdentifiers"]

    assert {(item["group"], item["kind"]): item["customization"]["jqPathExpressions"] for item in listed} == {
        (one.resource.group, one.resource.kind): list(one.expressions) for one in IGNORED
    }
