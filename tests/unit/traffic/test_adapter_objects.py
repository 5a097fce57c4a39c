"""InferenceModel and InferenceModelRewrite: weights between adapters, where weight 0 does not exist."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rollouts.engine.actions import DesiredTraffic
from rollouts.engine.observation import Claim, TrafficView
from rollouts.engine.rollout_spec import AdapterTraffic, TrafficMode
from rollouts.objects.models import MODEL_KIND, REWRITE_KIND
from rollouts.traffic import inference_model, inference_model_rewrite
from rollouts.traffic.inference_model_rewrite import RewriteDialect, TargetField
from rollouts.traffic.reading import Reader
from rollouts.traffic.targets import ModelTarget, adapter
from rollouts.traffic.writes import CONSENT_ANNOTATION, ROLLOUT_LABEL, Apply, JsonPatch, RenderRefusal
from rollouts.units import FULL, Weight
from tests.kit.routes import PatchFailed, apply_patch

Object = dict[str, Any]
READER = Reader(rollout="demo", arms=(), gitops_managers=("argocd-controller",))
TARGETS = RewriteDialect(api_version="inference.networking.x-k8s.io/v1alpha2", field=TargetField.TARGETS)
SPLIT = RewriteDialect(api_version="inference.networking.x-k8s.io/v1alpha2", field=TargetField.SPLIT)
LLM_D = RewriteDialect(api_version="llm-d.ai/v1alpha2", field=TargetField.TARGETS)


def traffic(kind: str = MODEL_KIND) -> AdapterTraffic:
    return AdapterTraffic(kind=kind, name="loramodel", model_name="travelhelper", pool_name="pool")


def target(kind: str = MODEL_KIND) -> ModelTarget:
    return ModelTarget(rollout="demo", namespace="default", spec=traffic(kind))


def desired(
    percent: float, *, stable: str = "a1", canary: str | None = "a2", keep: str = ""
) -> DesiredTraffic:
    return DesiredTraffic(
        stable=adapter(stable),
        canary=None if canary is None else adapter(canary),
        weight=Weight(round(percent * FULL / 100)),
        keep=(adapter(keep),) if keep else (),
    )


def metadata(*, managed: bool) -> Object:
    meta: Object = {"name": "loramodel", "namespace": "default", "uid": "u", "resourceVersion": "7"}
    if managed:
        return {**meta, "labels": {ROLLOUT_LABEL: "demo"}}
    return {**meta, "annotations": {CONSENT_ANNOTATION: "demo"}}


def model(*targets: tuple[str, int | None], managed: bool = False) -> Object:
    entries = [
        {"name": name} if weight is None else {"name": name, "weight": weight} for name, weight in targets
    ]
    spec: Object = {"modelName": "travelhelper", "criticality": "Critical", "poolRef": {"name": "pool"}}
    if entries:
        spec["targetModels"] = entries
    return {"metadata": metadata(managed=managed), "spec": spec}


def rule(
    *targets: tuple[str, int], field: str = "targets", models: tuple[str, ...] = ("travelhelper",)
) -> Object:
    return {
        "matches": [{"model": {"type": "Exact", "value": value}} for value in models],
        field: [{"modelRewrite": name, "weight": weight} for name, weight in targets],
    }


def rewrite(*rules: Object, managed: bool = False) -> Object:
    return {
        "metadata": metadata(managed=managed),
        "spec": {"poolRef": {"name": "pool"}, "rules": list(rules)},
    }


def names(seen: TrafficView) -> list[dict[str, int]]:
    return [{arm.name: weight for arm, weight in item.entries.items()} for item in seen.rules]


# --- InferenceModel ---

LISTS: dict[str, tuple[Object, DesiredTraffic, list[tuple[str, int]]]] = {
    "a step on": (model(("a1", 90), ("a2", 10)), desired(50), [("a1", 50), ("a2", 50)]),
    "the canary joins with its first weight": (model(("a1", 100)), desired(1), [("a1", 99), ("a2", 1)]),
    "the canary leaves the list at 0": (model(("a1", 90), ("a2", 10)), desired(0), [("a1", 100)]),
    "stable leaves the list at 100 %": (model(("a1", 90), ("a2", 10)), desired(100), [("a2", 100)]),
    "stable comes back": (model(("a2", 100)), desired(25), [("a2", 25), ("a1", 75)]),
    "another target keeps its share": (
        model(("a1", 90), ("x", 50), ("a2", 10)),
        desired(0.5),
        [("a1", 199), ("x", 100), ("a2", 1)],
    ),
    "a retired adapter leaves": (
        model(("a0", 20), ("a1", 80)),
        desired(10, keep="a0"),
        [("a1", 90), ("a2", 10)],
    ),
    "weights that were left out count 1 each": (
        model(("a1", None), ("x", None)),
        desired(50),
        [("a1", 1), ("x", 2), ("a2", 1)],
    ),
    "a target listed twice has one weight": (
        model(("a1", 45), ("a2", 10), ("a1", 45)),
        desired(20),
        [("a1", 80), ("a2", 20)],
    ),
    "the name itself is the target where there is no list": (
        model(),
        desired(50, stable="travelhelper"),
        [("travelhelper", 1), ("a2", 1)],
    ),
}


@pytest.mark.parametrize("managed", [False, True])
@pytest.mark.parametrize("what", LISTS)
def test_the_targets_of_a_model(what: str, managed: bool) -> None:
    live, wanted, entries = LISTS[what]
    live = {**copy.deepcopy(live), "metadata": metadata(managed=managed)}
    before = copy.deepcopy(live)
    write = inference_model.render(live, target(), wanted)
    assert live == before
    if managed:
        assert isinstance(write, Apply)
        stored = {"metadata": live["metadata"], "spec": {**live["spec"], **write.body["spec"]}}
    else:
        assert isinstance(write, JsonPatch)
        stored = apply_patch(live, write.operations)
    assert [(item["name"], item["weight"]) for item in stored["spec"]["targetModels"]] == entries
    assert stored["spec"]["criticality"] == "Critical"
    assert inference_model.render(stored, target(), wanted) is None


def test_an_adopted_model_is_patched_under_guard() -> None:
    write = inference_model.render(model(("a1", 90), ("a2", 10)), target(), desired(50))
    assert isinstance(write, JsonPatch)
    assert [(item["op"], item["path"]) for item in write.operations] == [
        ("test", "/metadata/resourceVersion"),
        ("test", "/spec/modelName"),
        ("add", "/spec/targetModels"),
    ]
    newer = model(("a1", 90), ("a2", 10))
    newer["metadata"]["resourceVersion"] = "8"
    with pytest.raises(PatchFailed):
        apply_patch(newer, write.operations)


def test_a_managed_model_is_made_without_owner_and_without_criticality() -> None:
    write = inference_model.render(None, target(), desired(0, canary=None))
    assert isinstance(write, Apply)
    assert write.body == {
        "apiVersion": "inference.networking.x-k8s.io/v1alpha2",
        "kind": "InferenceModel",
        "metadata": {"name": "loramodel", "namespace": "default", "labels": {ROLLOUT_LABEL: "demo"}},
        "spec": {
            "modelName": "travelhelper",
            "poolRef": {
                "group": "inference.networking.x-k8s.io",
                "kind": "InferencePool",
                "name": "pool",
            },
            "targetModels": [{"name": "a1", "weight": 100}],
        },
    }


def test_a_managed_model_is_applied_to_the_version_that_was_read() -> None:
    write = inference_model.render(model(("a1", 1), managed=True), target(), desired(10))
    assert isinstance(write, Apply)
    assert write.body["metadata"]["resourceVersion"] == "7"


@pytest.mark.parametrize(
    ("live", "wanted", "reason"),
    [
        (model(("a1", 100_003)), desired(0.01), "WeightTooLarge"),
        (
            {"metadata": metadata(managed=False), "spec": {"modelName": "other"}},
            desired(1),
            "ModelNameDiffers",
        ),
        ({"metadata": metadata(managed=False), "spec": []}, desired(1), "ModelNameDiffers"),
    ],
)
def test_a_model_refuses(live: Object, wanted: DesiredTraffic, reason: str) -> None:
    answer = inference_model.render(live, target(), wanted)
    assert isinstance(answer, RenderRefusal)
    assert answer.reason == reason
    assert "loramodel" in answer.message


def test_what_the_engine_sees_of_a_model() -> None:
    live = model(("a1", 90), ("a2", 10))
    fields = {"f:spec": {"f:targetModels": {}}}
    live["metadata"]["managedFields"] = [{"manager": "argocd-controller", "fieldsV1": fields}]
    seen = inference_model.view(live, traffic(), READER)
    assert names(seen) == [{"a1": 90, "a2": 10}]
    assert (seen.kind, seen.mode, seen.claim) == ("InferenceModel", TrafficMode.ADOPTED, Claim.CONSENTED)
    assert (seen.last_writer, seen.written_by_us, seen.written_by_gitops) == (
        "argocd-controller",
        False,
        True,
    )
    assert seen.parents.programmed
    assert inference_model.view(model(("a1", 1), managed=True), traffic(), READER).claim is Claim.OURS
    assert names(inference_model.view(model(), traffic(), READER)) == [{"travelhelper": 1}]


@pytest.mark.parametrize("kind", ["InferenceModel", "InferenceModelRewrite"])
def test_an_object_that_does_not_exist_will_be_managed(kind: str) -> None:
    if kind == "InferenceModel":
        seen = inference_model.view(None, traffic(), READER)
    else:
        seen = inference_model_rewrite.view(None, traffic(REWRITE_KIND), TARGETS, READER)
    assert (seen.kind, seen.exists, seen.mode) == (kind, False, TrafficMode.MANAGED)


# --- InferenceModelRewrite ---

REWRITE = target(REWRITE_KIND)


@pytest.mark.parametrize("dialect", [TARGETS, SPLIT, LLM_D])
def test_the_rules_of_our_model_are_patched_and_no_other(dialect: RewriteDialect) -> None:
    field = dialect.field.value
    live = rewrite(
        rule(("z", 1), field=field, models=("other",)),
        rule(("a1", 90), ("a2", 10), field=field),
        rule(("a1", 90), ("a2", 10), field=field, models=("travelhelper", "other")),
        {field: [{"modelRewrite": "a1", "weight": 1}]},
    )
    write = inference_model_rewrite.render(live, REWRITE, dialect, desired(50))
    assert isinstance(write, JsonPatch)
    stored = apply_patch(live, write.operations)
    assert stored["spec"]["rules"][1] == rule(("a1", 50), ("a2", 50), field=field)
    for index in (0, 2, 3):
        assert stored["spec"]["rules"][index] == live["spec"]["rules"][index]
    assert inference_model_rewrite.render(stored, REWRITE, dialect, desired(50)) is None
    seen = inference_model_rewrite.view(stored, REWRITE.spec, dialect, READER)
    assert names(seen) == [{"a1": 50, "a2": 50}]


def test_the_patch_tests_what_each_rule_matches() -> None:
    live = rewrite(rule(("z", 1), models=("other",)), rule(("a1", 1)))
    write = inference_model_rewrite.render(live, REWRITE, TARGETS, desired(10))
    assert isinstance(write, JsonPatch)
    live["spec"]["rules"].reverse()
    with pytest.raises(PatchFailed):
        apply_patch(live, write.operations)


def test_without_a_rule_of_its_own_the_model_is_refused_with_the_yaml_to_add() -> None:
    live = rewrite(rule(("a1", 1), models=("travelhelper", "other")))
    answer = inference_model_rewrite.render(live, REWRITE, TARGETS, desired(10))
    assert isinstance(answer, RenderRefusal)
    assert answer.reason == "RuleMissing"
    assert "value: travelhelper" in answer.message


def test_a_rewrite_refuses_weights_beyond_the_maximum() -> None:
    answer = inference_model_rewrite.render(rewrite(rule(("a1", 100_003))), REWRITE, TARGETS, desired(0.01))
    assert isinstance(answer, RenderRefusal)
    assert answer.reason == "WeightTooLarge"


@pytest.mark.parametrize("dialect", [TARGETS, SPLIT, LLM_D])
def test_a_managed_rewrite_is_made_in_the_dialect_that_is_served(dialect: RewriteDialect) -> None:
    write = inference_model_rewrite.render(None, REWRITE, dialect, desired(10))
    assert isinstance(write, Apply)
    assert write.body["apiVersion"] == dialect.api_version
    assert write.body["spec"]["rules"] == [rule(("a1", 90), ("a2", 10), field=dialect.field.value)]
    assert write.body["metadata"] == {
        "name": "loramodel",
        "namespace": "default",
        "labels": {ROLLOUT_LABEL: "demo"},
    }
    live = {"metadata": metadata(managed=True), "spec": write.body["spec"]}
    assert inference_model_rewrite.render(live, REWRITE, dialect, desired(10)) is None
    again = inference_model_rewrite.render(live, REWRITE, dialect, desired(0))
    assert isinstance(again, Apply)
    assert again.body["spec"]["rules"] == [rule(("a1", 100), field=dialect.field.value)]


# --- both ---


HOSTILE: list[Any] = [
    {},
    {"metadata": 1, "spec": "x"},
    {"metadata": {"labels": []}, "spec": {"targetModels": {"a": 1}, "rules": 7}},
    {
        "spec": {
            "modelName": "travelhelper",
            "targetModels": [None, {"name": 3, "weight": "x"}, {"name": "a1"}],
        }
    },
    {"spec": {"rules": [None, {"matches": [None, {"model": 3}]}, rule(("a1", 1))]}},
    {
        "spec": {
            "rules": [{"matches": [{"model": {"value": "travelhelper"}}], "targets": [5, {"weight": -1}]}]
        }
    },
]


@pytest.mark.parametrize("obj", HOSTILE)
def test_no_object_makes_it_raise(obj: Any) -> None:
    assert inference_model.view(obj, traffic(), READER).exists
    assert isinstance(inference_model.render(obj, target(), desired(10)), JsonPatch | RenderRefusal)
    assert inference_model_rewrite.view(obj, REWRITE.spec, TARGETS, READER).exists
    assert isinstance(
        inference_model_rewrite.render(obj, REWRITE, TARGETS, desired(10)), JsonPatch | RenderRefusal
    )
