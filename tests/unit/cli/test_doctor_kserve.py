"""What ``doctor`` says of the members of a KServe group."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rollouts.cli.doctor import diagnose
from rollouts.objects import kinds
from tests.unit.cli.test_doctor import APPLICATION, Cluster, sound
from tests.unit.traffic.test_service_group import member


def grouped(**members: dict[str, Any]) -> Cluster:
    """The Rollout asks for v2 of the group; ``members`` by name."""
    cluster = sound()
    cluster.objects[kinds.ROLLOUT]["demo"]["spec"] |= {
        "target": {"llmInferenceService": {"name": "v2"}},
        "traffic": {"llmInferenceServiceGroup": {"group": "mymodel"}},
    }
    cluster.objects[kinds.LLM_SERVICE] = copy.deepcopy(members)
    return cluster


def ready(name: str, owner: str = "demo") -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "True"}]
    return member(name, 0, owner=owner) | {"status": {"observedGeneration": 3, "conditions": conditions}}


async def told(cluster: Cluster) -> str:
    found = await diagnose(cluster, "default", "demo", None, "argocd")  # type: ignore[arg-type]
    return "\n".join(f"{check.level.name} {check.text} {check.fix}" for check in found)


async def test_a_sound_member_and_those_of_others_are_named() -> None:
    said = await told(grouped(v2=ready("v2"), other=ready("other", owner="")))

    assert "LLMInferenceService v2 is in group mymodel, and consents to Rollout demo" in said
    assert "other members of group mymodel, whose weights stay: other" in said


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({}, "LLMInferenceService v2 does not exist"),
        ({"v2": ready("v2", owner="")}, "annotate it in Git with inferencerollouts.dev/managed-by: demo"),
        (
            {"v2": member("v2", 0, owner="demo")},
            "KServe has not said that LLMInferenceService v2 is Ready yet",
        ),
    ],
)
async def test_what_keeps_the_target_back_is_said(members: dict[str, Any], words: str) -> None:
    assert words in await told(grouped(**members))


async def test_argo_cd_compares_the_weights_of_its_members_and_not_those_of_others() -> None:
    cluster = grouped(v2=ready("v2"), other=ready("other", owner=""))
    for name in ("v2", "other"):
        resource = {"kind": kinds.LLM_SERVICE.kind, "namespace": "default", "name": name}
        cluster.add(APPLICATION, name, spec={}, status={"resources": [resource]})

    said = await told(cluster)

    assert "Application v2: any sync resets the weights of a canary in flight" in said
    assert "Application other" not in said


async def test_a_weight_that_is_too_coarse_for_a_step_is_warned_of() -> None:
    cluster = grouped(v2=ready("v2") | {"spec": member("v2", 9)["spec"]})
    steps = cluster.objects[kinds.ROLLOUT]["demo"]["spec"]["strategy"]["canary"]
    steps["steps"] = [{"setWeight": 1}]
    said = await told(cluster)

    assert "WARN LLMInferenceService v2 has weight 9 in Git, too coarse for 1%" in said
    assert "write weight: 99 in Git, or have the sync ignore weights" in said
