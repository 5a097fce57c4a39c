"""KServe's LLMInferenceServices as values: what objects and statuses say, and how little a broken one may say."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.objects.llm_services import pods_of_service, read_llm_service

RECORDED: dict[str, Any] = {
    "apiVersion": "serving.kserve.io/v1alpha2",
    "kind": "LLMInferenceService",
    "metadata": {
        "name": "my-model-v1",
        "namespace": "my-namespace",
        "generation": 4,
        "labels": {"serving.kserve.io/routing-group": "my-model"},
    },
    "spec": {
        "model": {"name": "my-model", "uri": "hf://meta-llama/Llama-3-70B"},
        "router": {"route": {"group": "my-model", "weight": 9}, "scheduler": {}},
    },
    "status": {
        "observedGeneration": 4,
        "addresses": [
            {"url": "http://10.0.0.1/my-namespace/my-model-v1", "models": [{"name": "my-model"}]},
            {"url": "http://10.0.0.1/v1", "models": [{"name": "my-model"}, {"name": "sql-lora"}]},
        ],
        "conditions": [
            {"type": "GroupReady", "status": "True"},
            {"type": "Ready", "status": "True"},
            {"type": "RouterReady", "status": "True"},
        ],
        "router": {
            "scheduler": {
                "inferencePool": {
                    "group": "inference.networking.k8s.io",
                    "kind": "InferencePool",
                    "name": "my-model-v1-inference-pool",
                },
                "service": {"group": "", "kind": "Service", "name": "my-model-v1-epp-service"},
            },
            "group": {
                "name": "my-model",
                "members": [
                    {"name": "my-model-v1", "weight": 9},
                    {"name": "my-model-v2", "weight": 1, "stopped": True},
                ],
            },
        },
    },
}
"""As KServe's documentation of canary rollouts and its types have it (0.20)."""


@pytest.mark.parametrize("version", ["v1alpha1", "v1alpha2"])
def test_a_member_and_what_kserve_says_of_it(version: str) -> None:
    one = read_llm_service({**RECORDED, "apiVersion": f"serving.kserve.io/{version}"})

    assert (one.group, one.weight, one.stopped, one.current, one.ready) == (
        "my-model",
        9,
        False,
        True,
        "True",
    )
    assert one.models == ("my-model", "sql-lora")
    assert one.effective == {"my-model-v1": 9, "my-model-v2": 0}
    assert one.failing == {}


def test_its_pods_are_those_with_kserves_labels() -> None:
    pool = pods_of_service(RECORDED)

    assert dict(pool.selector) == {
        "app.kubernetes.io/name": "my-model-v1",
        "app.kubernetes.io/part-of": "llminferenceservice",
        "kserve.io/component": "workload",
    }
    assert (pool.port, pool.picker.name if pool.picker else "") == (8000, "my-model-v1-epp-service")
    assert pods_of_service({"metadata": {"name": "x"}}).picker is None


def test_models_are_the_specs_until_there_are_addresses() -> None:
    adapters = {"lora": {"adapters": [{"name": "sql"}, {}]}}
    assert read_llm_service({"metadata": {"name": "x"}, "spec": {"model": adapters}}).models == ("sql", "x")


def test_conditions_that_are_bad_are_kept_in_kserves_words() -> None:
    conditions = [
        {"type": "Ready", "status": "False", "reason": "Stopped", "message": "Service is stopped"},
        {"type": "GroupDegraded", "status": "True", "reason": "MemberDivergence"},
        {"type": "RouterReady", "status": "Unknown"},
    ]
    one = read_llm_service({**RECORDED, "status": {"conditions": conditions}})

    assert {kind: said.words for kind, said in one.failing.items()} == {
        "Ready": "Stopped: Service is stopped",
        "GroupDegraded": "MemberDivergence",
    }
    assert one.effective is None


@pytest.mark.parametrize("junk", [None, 7, "x", [], {"router": 3}, {"router": {"route": []}}])
def test_nothing_that_an_object_says_raises(junk: Any) -> None:
    obj = {"metadata": {"name": "x", "annotations": junk}, "spec": junk, "status": junk}
    one = read_llm_service(obj)

    assert (one.group, one.weight, one.effective, one.models) == ("", 0, None, ("x",))


@pytest.mark.parametrize("weight", [-1, True, "9", 2**31, None, 1.5])
def test_a_weight_that_cannot_be_read_is_none(weight: Any) -> None:
    obj = {"spec": {"router": {"route": {"group": "g", "weight": weight}}}}
    assert read_llm_service(obj).weight == 0
