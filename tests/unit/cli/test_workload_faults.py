"""Workloads of a Rollout that scales: what ``lint`` says of files, and ``doctor`` of a cluster."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rollouts.api.status import write_status
from rollouts.cli.doctor import diagnose
from rollouts.cli.findings import Level
from rollouts.cli.lint import lint_documents
from rollouts.cli.lint_findings import Severity
from rollouts.objects import kinds
from rollouts.objects.workloads import AUTOSCALER, WORKLOAD_ANNOTATION, WORKLOADS
from tests.unit.cli.test_doctor import Cluster, sound
from tests.unit.engine.test_making_room import at_half

API = "inferencerollouts.dev/v1alpha1"
POOL = {
    "apiVersion": "inference.networking.k8s.io/v1",
    "kind": "InferencePool",
    "metadata": {"name": "v2"},
    "spec": {"selector": {"matchLabels": {"release": "v2"}}, "endpointPickerRef": {"name": "p"}},
}
SCALER = {
    "kind": "HorizontalPodAutoscaler",
    "metadata": {"name": "auto"},
    "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "vllm"}},
}
REFERENCE = "apps/v1/Deployment/vllm"


def rollout(**canary: Any) -> dict[str, Any]:
    return {
        "apiVersion": API,
        "kind": "Rollout",
        "metadata": {"name": "demo"},
        "spec": {
            "target": {"pool": {"name": "v2"}},
            "traffic": {"httpRoutes": [{"name": "route"}]},
            "strategy": {"canary": {"steps": [{"setWeight": 10}], "capacity": {}, **canary}},
        },
    }


def deployment(name: str = "vllm", release: str = "v2", **spec: Any) -> dict[str, Any]:
    template = {"metadata": {"labels": {"release": release, "app": "vllm"}}}
    return {"kind": "Deployment", "metadata": {"name": name}, "spec": {"template": template, **spec}}


def named(reference: str) -> dict[str, Any]:
    return {**POOL, "metadata": {"name": "v2", "annotations": {WORKLOAD_ANNOTATION: reference}}}


def pool_of(release: str) -> dict[str, Any]:
    spec = {**POOL["spec"], "selector": {"matchLabels": {"release": release}}}
    return {**POOL, "metadata": {"name": release}, "spec": spec}


PICKER = deployment("picker", release="picker")
CASES: dict[str, tuple[list[dict[str, Any]], bool | None, str]] = {
    "as it is to be": ([POOL, deployment()], None, ""),
    "nothing of the workloads in these files": ([POOL], None, ""),
    "no workload, and another pool's": (
        [POOL, pool_of("v3"), deployment(release="v3")],
        True,
        "no workload has a Pod template",
    ),
    "two": ([POOL, deployment(), deployment("other")], True, "Deployment vllm and Deployment other"),
    "two, and one is chosen": ([named(REFERENCE), deployment(), deployment("other")], None, ""),
    "a name that is none": ([named("apps/v1/Deployment/x"), deployment()], True, f"write {REFERENCE}"),
    "an autoscaler": (
        [POOL, deployment(), SCALER],
        False,
        "HorizontalPodAutoscaler auto scales Deployment vllm",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_files_are_told_at_the_object_that_is_wrong(name):
    objects, bad, words = CASES[name]
    found = [one for one in lint_documents([rollout(), *objects]) if one.rule == "capacity"]

    assert [one.severity is Severity.PROBLEM for one in found] == ([] if bad is None else [bad])
    assert all(words in one.text for one in found)
    assert [one for one in lint_documents([rollout(capacity=None), *objects]) if one.rule == "capacity"] == []


def test_files_with_a_pool_and_its_picker_alone_may_have_the_pods_elsewhere():
    (finding,) = [one for one in lint_documents([rollout(), POOL, PICKER]) if one.rule == "capacity"]

    assert finding.severity is Severity.HINT
    assert "no workload of these files" in finding.text
    assert "in the cluster" in finding.text


async def test_a_cluster_with_a_pool_and_its_picker_alone_has_no_pods():
    ((level, text),) = await told(stored(sound(), [POOL, PICKER]))

    assert level is Level.BAD
    assert "v2: no workload has a Pod template" in text


def test_replicas_in_the_files_are_somebody_elses_to_set():
    found = [
        one for one in lint_documents([rollout(), POOL, deployment(replicas=0)]) if one.rule == "capacity"
    ]

    ((finding),) = found
    assert (finding.document, finding.path, finding.severity) == (2, ("spec", "replicas"), Severity.HINT)
    assert "RespectIgnoreDifferences=true in an Application without adopted routes" in finding.text
    assert "taken out of one that runs, it falls to one pod" in finding.text


def listing(*pools: str) -> dict[str, Any]:
    refs = [{"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": name} for name in pools]
    consent = {"inferencerollouts.dev/managed-by": "demo"}
    return {
        "kind": "HTTPRoute",
        "metadata": {"name": "route", "annotations": consent},
        "spec": {"rules": [{"backendRefs": refs}]},
    }


@pytest.mark.parametrize(
    ("objects", "whose"),
    [
        ([listing("v1", "v2")], ["vllm", "vllm-v1", "vllm-p1"]),
        ([listing("v2")], ["vllm"]),
        ([], ["vllm", "vllm-v1", "vllm-p1", "vllm-v9"]),
        ([listing("v2"), SCALER], []),
    ],
)
def test_replicas_are_told_of_the_pools_that_the_rollout_may_scale(objects, whose):
    others = [
        POOL,
        deployment(replicas=2),
        pool_of("v1"),
        deployment("vllm-v1", release="v1", replicas=2),
        *companion("p1", "v1", replicas=2),
        pool_of("v9"),
        deployment("vllm-v9", release="v9", replicas=2),
    ]
    found = [
        one.text for one in lint_documents([rollout(), *others, *objects]) if "says replicas" in one.text
    ]

    assert [text.split()[0] for text in found] == [f"Deployment/{name}" for name in whose]


# --- a cluster -------------------------------------------------------------------------------------


def stored(cluster: Cluster, objects: list[dict[str, Any]], **capacity: Any) -> Cluster:
    by_kind = {
        **WORKLOADS,
        AUTOSCALER.kind: AUTOSCALER,
        "InferencePool": kinds.POOL_V1,
        "ConfigMap": kinds.CONFIG_MAP,
    }
    cluster.objects[kinds.ROLLOUT]["demo"]["spec"]["strategy"]["canary"]["capacity"] = capacity
    cluster.objects[kinds.POOL_X].clear()
    cluster.objects.setdefault(kinds.CONFIG_MAP, {})
    for obj in copy.deepcopy(objects):
        cluster.objects.setdefault(by_kind[obj.pop("kind")], {})[obj["metadata"]["name"]] = obj
    return cluster


async def told(cluster: Cluster) -> list[tuple[Level, str]]:
    checks = await diagnose(cluster, "default", None, None, "argocd")  # type: ignore[arg-type]
    words = ("workload", "Deployment", "autoscaler", WORKLOAD_ANNOTATION)
    return [
        (one.level, f"{one.text}: {one.fix}") for one in checks if any(word in one.text for word in words)
    ]


@pytest.mark.parametrize("name", CASES)
async def test_doctor_says_the_same_of_a_cluster(name):
    objects, bad, words = CASES[name]
    found = await told(stored(sound(), objects))

    assert [level for level, _ in found] == ([] if bad is None else [Level.BAD if bad else Level.WARN])
    assert all(words in text for _, text in found)


APPLIED = {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": '{"spec":{"replicas":2}}'}}
OWNED = {"manager": "argocd-controller", "fieldsV1": {"f:spec": {"f:replicas": {}}}}


@pytest.mark.parametrize(
    ("meta", "who"),
    [
        (APPLIED, "kubectl or Argo CD"),
        ({"managedFields": [OWNED]}, "argocd-controller"),
        ({"managedFields": [{**OWNED, "manager": "inference-rollouts", "subresource": "scale"}]}, ""),
        ({"managedFields": [{**OWNED, "fieldsV1": {"f:spec": {}}}]}, ""),
    ],
)
async def test_who_resets_replicas_is_named(meta, who):
    obj = deployment(replicas=2)
    obj["metadata"] |= meta
    found = await told(stored(sound(), [POOL, obj]))

    assert [level for level, _ in found] == ([Level.WARN] if who else [])
    assert all(f"{who} writes replicas of Deployment vllm" in text for _, text in found)


def prompts(text: str, **annotations: str) -> dict[str, Any]:
    meta = {"name": "prompts", "annotations": annotations}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"lines": text}}


CONSENT = {"inferencerollouts.dev/prompts": "true"}
WARMS = {"capacity": {"warmUp": {"prompts": {"configMap": "prompts", "key": "lines"}}}}
PROMPTS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "prompts": ([prompts("a", **CONSENT)], ""),
    "prompts without consent": ([prompts("a")], "lacks the annotation inferencerollouts.dev/prompts"),
    "no prompts": ([prompts("", **CONSENT)], "no line under the key lines"),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_that_cannot_be_used_are_told_of_files(name):
    objects, words = PROMPTS[name]
    found = [
        one
        for one in lint_documents([rollout(**WARMS), POOL, deployment(), *objects])
        if one.rule == "capacity"
    ]

    assert [one.severity for one in found] == ([Severity.PROBLEM] if words else [])
    assert all(words in one.text for one in found)


@pytest.mark.parametrize("name", [*PROMPTS, "no ConfigMap"])
async def test_prompts_that_cannot_be_used_are_told_of_a_cluster(name):
    objects, words = PROMPTS.get(name, ([], "ConfigMap prompts of warmUp does not exist"))
    cluster = stored(sound(), [POOL, deployment(), *objects], **WARMS["capacity"])
    checks = await diagnose(cluster, "default", None, None, "argocd")  # type: ignore[arg-type]
    found = [one for one in checks if "ConfigMap prompts" in one.text]

    assert [one.level for one in found] == ([Level.BAD] if words else [])
    assert all(words in one.text for one in found)


# --- prefill beside decode -------------------------------------------------------------------------


def companion(name: str, of: str, role: str = "", **workload: Any) -> list[dict[str, Any]]:
    labels = {"inferencerollouts.dev/with": of} | ({"inferencerollouts.dev/role": role} if role else {})
    pool = {**POOL, "metadata": {"name": name, "labels": labels}}
    return [
        {**pool, "spec": {**POOL["spec"], "selector": {"matchLabels": {"release": name}}}},
        deployment(f"vllm-{name}", release=name, **workload),
    ]


BESIDE: dict[str, tuple[list[dict[str, Any]], str]] = {
    "one": (companion("p2", "v2"), ""),
    "one without a workload": (companion("p2", "v2")[:1], "InferencePool p2: no workload has a Pod template"),
    "two of one role": (
        [*companion("p2", "v2"), *companion("p3", "v2")],
        "v2 has two companions: p2 and p3: give each a role",
    ),
    "two of two roles": ([*companion("p2", "v2", "prefill"), *companion("p3", "v2", "encode")], ""),
    "of somebody else": (companion("p2", "v9")[:1], ""),
}


@pytest.mark.parametrize("name", BESIDE)
def test_companions_in_files_are_looked_at_as_their_versions_are(name):
    objects, words = BESIDE[name]
    found = [
        one for one in lint_documents([rollout(), POOL, deployment(), *objects]) if one.rule == "capacity"
    ]

    assert [one.severity for one in found] == ([Severity.PROBLEM] if words else [])
    assert all(words in one.text for one in found)


def test_a_listed_pool_that_the_files_lack_is_told_where_it_is_listed():
    listing = rollout(capacity={"with": [{"pool": "p9"}]})
    found = [one for one in lint_documents([listing, POOL, deployment()]) if "p9" in one.text]

    assert [one.path for one in found] == [
        ("spec", "strategy", "canary", "capacity", "with", 0, "pool"),
    ]


async def test_doctor_names_the_version_that_has_no_companion():
    cluster = stored(sound(), [POOL, deployment(), *companion("p2", "v2")])
    status = {"phase": "Healthy", "stable": {"kind": "InferencePool", "name": "v1", "hash": "a" * 64}}
    cluster.objects[kinds.ROLLOUT]["demo"]["status"] = status
    checks = await diagnose(cluster, "default", None, None, "argocd")  # type: ignore[arg-type]
    found = [one for one in checks if "p2" in one.text]

    assert [(one.level, one.text) for one in found] == [
        (Level.BAD, "Rollout demo: InferencePool p2 belongs to v2, and v1 has no such companion")
    ]
    assert found[0].fix.startswith("label its pool inferencerollouts.dev/with: v1, or name it")


def shared(*listed: dict[str, Any]) -> list[dict[str, Any]]:
    """A Rollout whose strategy, and what works for its versions, is somewhere else."""
    canary = {"steps": [{"setWeight": 10}], "capacity": {"with": list(listed)}}
    strategy = {
        "apiVersion": API,
        "kind": "RolloutStrategy",
        "metadata": {"name": "careful"},
        "spec": {"canary": canary},
    }
    using = rollout()
    using["spec"]["strategy"] = {"canaryFrom": {"name": "careful"}}
    return [using, strategy]


@pytest.mark.parametrize(
    ("listed", "there", "words"),
    [
        ([{"pool": "p2"}], 2, ""),
        ([{"pool": "p2"}], 1, "InferencePool p2: no workload has a Pod template"),
        ([{"pool": "p2"}, {"pool": "p3"}], 2, "v2 has two companions: p2 and p3"),
        (
            [{"pool": "p9"}],
            0,
            "InferencePool p9, which belongs to v2 by the shared capacity.with",
        ),
    ],
)
def test_companions_of_a_shared_strategy_are_looked_at(listed, there, words):
    objects = [POOL, deployment(), *companion("p2", "")[:there]]
    for one in objects[2:]:
        one["metadata"].pop("labels", None)
    found = [one for one in lint_documents([*shared(*listed), *objects]) if one.rule == "capacity"]

    texts = [one.text for one in found]
    assert any(words in text for text in texts) if words else texts == []


def with_roles(said: str = "role=decode,prefill") -> dict[str, Any]:
    return {**POOL, "metadata": {"name": "v2", "annotations": {"inferencerollouts.dev/roles": said}}}


def of_role(role: str) -> dict[str, Any]:
    made = deployment(f"vllm-{role}")
    made["spec"]["template"]["metadata"]["labels"]["role"] = role
    return made


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        ([with_roles(), of_role("decode"), of_role("prefill")], ""),
        ([with_roles(), of_role("decode")], "InferencePool v2/prefill: no workload has a Pod template"),
        (
            [with_roles(f"role=decode,{'p' * 64}"), of_role("decode")],
            "inferencerollouts.dev/roles has a role of more than 63 characters",
        ),
        (
            [with_roles("role=decode"), of_role("decode")],
            "inferencerollouts.dev/roles: role=decode names no roles",
        ),
        ([POOL, of_role("decode"), of_role("prefill")], "inferencerollouts.dev/roles: role=decode,prefill"),
    ],
)
def test_roles_of_one_pool_are_looked_at_one_by_one(objects, words):
    found = [one for one in lint_documents([rollout(), *objects]) if one.rule == "capacity"]

    texts = [one.text for one in found]
    assert any(words in text for text in texts) if words else texts == []


# --- an autoscaler of one kind of pods -------------------------------------------------------------

GIVES = {"maxSurge": 1, "minStable": 1}


def scaler(name: str, kind: str = "HorizontalPodAutoscaler") -> dict[str, Any]:
    target = {"name": name} if kind == "ScaledObject" else {"kind": "Deployment", "name": name}
    return {"kind": kind, "metadata": {"name": "auto"}, "spec": {"scaleTargetRef": target}}


@pytest.mark.parametrize("kind", ["HorizontalPodAutoscaler", "ScaledObject", "PodAutoscaler"])
@pytest.mark.parametrize(
    ("capacity", "scaled", "told"),
    [
        (GIVES, ["vllm-p2"], True),
        (GIVES, ["vllm"], True),
        (GIVES, ["vllm", "vllm-p2"], False),
        (GIVES, [], False),
        ({"maxSurge": 1}, ["vllm-p2"], False),
        ({"minStable": 1}, ["vllm-p2"], False),
    ],
)
def test_files_tell_that_stable_gives_no_pods_while_one_kind_is_scaled_by_others(
    kind, capacity, scaled, told
):
    scalers = [scaler(name, kind) for name in scaled]
    objects = [POOL, deployment(), *companion("p2", "v2"), *scalers]
    found = [
        one for one in lint_documents([rollout(capacity=capacity), *objects]) if "gives none" in one.text
    ]

    assert [one.severity for one in found] == ([Severity.HINT] if told else [])
    assert all(
        f"while {kind} auto scales Deployment {scaled[0]}: take that away" in one.text for one in found
    )


def companions_of_both(decode: int, prefill: int) -> list[dict[str, Any]]:
    pools = [
        POOL,
        {**POOL, "metadata": {"name": "v1"}, "spec": {"selector": {"matchLabels": {"release": "v1"}}}},
    ]
    beside = [*companion("p1", "v1"), *companion("p2", "v2")]
    beside[1]["spec"]["replicas"] = prefill
    return [*pools, deployment(), deployment("vllm-v1", release="v1", replicas=decode), *beside]


@pytest.mark.parametrize(
    ("surge", "scaled", "words"),
    [
        (1, "vllm-p1", "set maxSurge to 8, so that stable keeps all of its pods"),
        (1, "vllm-p2", "set maxSurge to 8"),
        (4, "vllm-p1", "set maxSurge to 8"),
        (4, "vllm-v1", ""),
        (8, "vllm-p1", ""),
    ],
)
async def test_doctor_knows_by_the_replicas_whether_stable_has_to_give_some(surge, scaled, words):
    objects = [*companions_of_both(8, 4), scaler(scaled)]
    cluster = stored(sound(), objects, maxSurge=surge, minStable=1)
    status = {"phase": "Healthy", "stable": {"kind": "InferencePool", "name": "v1", "hash": "a" * 64}}
    cluster.objects[kinds.ROLLOUT]["demo"]["status"] = status
    checks = await diagnose(cluster, "default", None, None, "argocd")  # type: ignore[arg-type]
    found = [one for one in checks if "gives none" in one.text]

    assert [one.level for one in found] == ([Level.BAD] if words else [])
    assert all(f"HorizontalPodAutoscaler auto scales Deployment {scaled}" in one.text for one in found)
    assert all(words in one.fix and "waits as CapacityInfeasible until then" in one.fix for one in found)


async def test_doctor_names_an_autoscaler_in_the_middle_of_a_rollout_as_the_status_does():
    pools = [
        POOL,
        {**POOL, "metadata": {"name": "v1"}, "spec": {"selector": {"matchLabels": {"release": "v1"}}}},
    ]
    objects = [
        *pools,
        deployment(replicas=4),
        deployment("vllm-v1", release="v1", replicas=5),
        scaler("vllm"),
    ]
    cluster = stored(sound(), objects, maxSurge=1, minStable=1)
    cluster.objects[kinds.ROLLOUT]["demo"]["status"] = write_status(at_half().status)
    checks = await diagnose(cluster, "default", None, None, "argocd")  # type: ignore[arg-type]
    (found,) = (one for one in checks if "gives none" in one.text)

    assert "waits as CapacityManagedElsewhere until then" in found.fix


TIMEOUTS = [
    ({**GIVES, "drainTimeout": "65s"}, True, "count, 1m5s after requests are kept from it"),
    ({**GIVES, "drainTimeout": "66s"}, True, ""),
    ({**GIVES, "drainTimeout": "65s"}, False, ""),
    ({**GIVES, "drainTimeout": "5s"}, False, "figures of a pod count, 5s after"),
    ({"drainTimeout": "5s"}, True, ""),
]


def drained(beside: bool) -> list[dict[str, Any]]:
    return [POOL, deployment(), *(companion("p2", "v2") if beside else [])]


@pytest.mark.parametrize(("capacity", "beside", "told"), TIMEOUTS)
def test_a_timeout_that_is_over_before_figures_count_is_told_of_files(capacity, beside, told):
    found = lint_documents([rollout(capacity=capacity), *drained(beside)])
    texts = [one.text for one in found if "drainTimeout" in one.text]

    assert len(texts) == bool(told)
    assert all(told in text for text in texts)


@pytest.mark.parametrize(("capacity", "beside", "told"), TIMEOUTS)
async def test_a_timeout_that_is_over_before_figures_count_is_told_of_a_cluster(capacity, beside, told):
    cluster = stored(sound(), drained(beside), **capacity)
    checks = await diagnose(cluster, "default", None, None, "argocd")  # type: ignore[arg-type]

    assert [one.level for one in checks if "drainTimeout" in one.text] == [Level.WARN] * bool(told)
