"""The chart's objects on a real API server: strictly valid, restricted, and the rights that suffice, no more."""

from __future__ import annotations

import asyncio
import json
import uuid
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rollouts.api.crds import all_crds
from rollouts.api.parsing import COMMAND_ANNOTATION
from rollouts.cli.controller import controller
from rollouts.controller.app import Controller
from rollouts.controller.reporting import read_report
from rollouts.controller.settings import Settings
from rollouts.kube.client import PatchKind, Resource
from rollouts.kube.errors import Forbidden, NotFound
from rollouts.lab.controlplane import create_ready_pod, install_crds, install_upstream_crds
from rollouts.lab.loopback import loopback
from rollouts.objects import kinds
from rollouts.runtime.clock import SystemClock
from rollouts.traffic.fields import covers
from tests.kit.argodiff import MANAGER, server_side_differences
from tests.kit.chart_values import MATRIX
from tests.kit.helm import render_chart
from tests.kit.polling import eventually
from tests.kit.stubgateway import stub_gateway

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

Object = dict[str, Any]
RBAC = "rbac.authorization.k8s.io"
REVIEW = Resource(
    "authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False
)
LEASE = Resource("coordination.k8s.io", "v1", "leases", "Lease")
NAMESPACE = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
SECRET = Resource("", "v1", "secrets", "Secret")
RESOURCES = {
    resource.kind: resource
    for resource in (
        Resource("", "v1", "serviceaccounts", "ServiceAccount"),
        Resource("", "v1", "configmaps", "ConfigMap"),
        kinds.SERVICE,
        kinds.POD,
        kinds.JOB,
        Resource("apps", "v1", "deployments", "Deployment"),
        Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget"),
        Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy"),
        Resource(RBAC, "v1", "roles", "Role"),
        Resource(RBAC, "v1", "rolebindings", "RoleBinding"),
        Resource(RBAC, "v1", "clusterroles", "ClusterRole", namespaced=False),
        Resource(RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False),
    )
}
EVERYTHING = {
    "replicas": 2,
    "clusterTemplates": True,
    "crds": {"upgradeJob": {"enabled": True}},
    "jobs": {"enabled": True},
    "networkPolicy": {"enabled": True, "metricsFrom": [{"podSelector": {}}]},
    "sources": {"default": {"url": "https://p:9090", "secret": {"name": "s", "caKey": "ca.crt"}}},
    "pickers": [{"pool": "v1", "service": "v1-picker"}],
}


async def install(kube, objects: list[Object]) -> None:
    for item in objects:
        resource = RESOURCES[item["kind"]]
        stored = await kube.create(
            resource, item["metadata"]["namespace"] if resource.namespaced else None, item
        )
        # What the server does not know it drops.
        assert covers(stored, item)


async def test_every_object_of_the_chart_is_accepted_and_its_pods_are_restricted(kube, namespace, helm):
    label = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    await kube.patch(NAMESPACE, None, namespace, label, kind=PatchKind.MERGE)
    objects = render_chart(helm, EVERYTHING, namespace=namespace)
    await install(kube, objects)

    made = [item for item in objects if item["kind"] in ("Deployment", "Job")]
    assert len(made) == 3
    for item in made:
        pod = {**item["spec"]["template"], "apiVersion": "v1", "kind": "Pod"}
        pod["metadata"] = {"name": item["metadata"]["name"]}
        await kube.create(kinds.POD, namespace, pod)
    loose = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "loose"}}
    with pytest.raises(Forbidden, match="violates PodSecurity"):
        await kube.create(
            kinds.POD, namespace, {**loose, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        )


async def test_the_chart_s_objects_are_unchanged_by_another_tool_and_no_difference_to_argo_cd(
    kube, namespace, helm
):
    """Made by one tool and applied by another, not forced: what a schema adds inside a list conflicts for ever."""
    policy = {
        **EVERYTHING["networkPolicy"],
        "pickers": {"enabled": True, "gatewaysFrom": [{"podSelector": {}}]},
    }
    objects = render_chart(helm, {**EVERYTHING, "networkPolicy": policy}, namespace=namespace)
    await install(kube, objects)
    argo = kube.with_field_manager(MANAGER)
    found = []
    for item in objects:
        resource, name = RESOURCES[item["kind"]], item["metadata"]["name"]
        where = namespace if resource.namespaced else None
        first = await argo.patch(resource, where, name, item, kind=PatchKind.APPLY)
        again = await argo.patch(resource, where, name, item, kind=PatchKind.APPLY)
        assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"], name
        found += await server_side_differences(kube, resource, namespace, item)

    assert len(objects) > 15
    assert found == []


OPERATORS = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
"""Kinds of an operator whose API server this is not."""


@pytest.mark.parametrize("what", MATRIX)
async def test_every_combination_of_values_is_accepted(kube, namespace, helm, what):
    objects = render_chart(helm, MATRIX[what], namespace=namespace)
    for item in [item for item in objects if item["kind"] not in OPERATORS]:
        resource = RESOURCES[item["kind"]]
        place = item["metadata"]["namespace"] if resource.namespaced else None
        stored = await kube.create(resource, place, item, dry_run=True)
        if item["kind"] == "Pod":  # admission adds some to those of a Pod
            own = item["spec"].pop("tolerations", [])
            assert all(one in stored["spec"]["tolerations"] for one in own)
        # What the server does not know it drops.
        assert covers(stored, item), item["kind"]


async def test_kubernetes_adds_rollouts_to_its_own_roles(whole, living, helm):
    """By its own controller: what somebody with view, edit or admin in one namespace may do there, and nowhere else."""
    for item in render_chart(helm, {"rbac": {"aggregateClusterRoles": True}}, namespace=living):
        if item["kind"] == "ClusterRole":
            await whole.create(RESOURCES["ClusterRole"], None, item)
    for role in ("view", "edit", "admin"):
        binding = {
            "metadata": {"name": role},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": RBAC, "kind": "User", "name": role}],
        }
        await whole.create(RESOURCES["RoleBinding"], living, binding)

    async def may(user: str, verb: str, resource: str, namespace: str = living) -> bool:
        plural, _, subresource = resource.partition("/")
        asked = {
            "group": kinds.GROUP,
            "resource": plural,
            "subresource": subresource,
            "verb": verb,
            "namespace": namespace,
        }
        review = await whole.create(REVIEW, None, {"spec": {"user": user, "resourceAttributes": asked}})
        return bool(review["status"]["allowed"])

    await eventually(lambda: may("view", "list", "rollouts"), timeout=20)
    await eventually(lambda: may("admin", "patch", "rollouts"), timeout=20)
    for user, writes in (("view", False), ("edit", True), ("admin", True)):
        for resource in ("rollouts", "analysisruns", "analysistemplates"):
            assert await may(user, "watch", resource), (user, resource)
        for resource in ("rollouts", "analysistemplates"):
            assert await may(user, "patch", resource) is writes, (user, resource)
        assert await may(user, "delete", "analysisruns") is writes
        assert not await may(user, "patch", "rollouts/status")
        assert not await may(user, "patch", "analysisruns")
        assert not await may(user, "list", "rollouts", namespace="default")


# --- the controller with the chart's rights ---


def backend(name: str, weight: int) -> Object:
    return {
        "group": kinds.POOL_X.group,
        "kind": "InferencePool",
        "name": name,
        "port": 8000,
        "weight": weight,
    }


GATE = {
    "metrics": [
        {
            "name": "errors",
            "measure": {"preset": "error-rate", "window": "10s"},
            "successCondition": "result < 1.0",
            "interval": "1s",
            "count": 100,
        }
    ]
}
JOB = {
    "spec": {
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "busybox"}]}}
    }
}


def rollout(target: str) -> Object:
    template = {
        "parentRefs": [{"name": "gateway"}],
        "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}],
    }
    steps = [{"setWeight": 10}, {"analysis": GATE}, {"job": JOB}, {"pause": {}}]
    return {
        "apiVersion": "inferencerollouts.dev/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": "demo"},
        "spec": {
            "target": {"pool": {"name": target}},
            "traffic": {"httpRoutes": [{"name": "made", "template": template}]},
            "strategy": {"canary": {"steps": steps}},
            "onDelete": "DeleteTraffic",
        },
    }


async def pools(kube, namespace: str) -> None:
    for number, name in enumerate(("v1", "v2")):
        pool = {
            "apiVersion": kinds.POOL_X.api_version,
            "kind": "InferencePool",
            "metadata": {"name": name},
            "spec": {
                "targetPortNumber": 8000,
                "selector": {"release": name},
                "extensionRef": {"name": f"{name}-picker"},
            },
        }
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"{name}-picker"}}
        await kube.create(kinds.POOL_X, namespace, pool)
        await kube.create(kinds.SERVICE, namespace, {**service, "spec": {"ports": [{"port": 9002}]}})
        address = loopback(19, number + 1)
        await create_ready_pod(kube, namespace, f"{name}-0", labels={"release": name}, ip=address)


async def command(kube, namespace: str, action: str) -> None:
    found = await kube.get(kinds.ROLLOUT, namespace, "demo")
    raw = json.dumps(
        {
            "action": action,
            "revision": found["status"]["canary"]["hash"],
            "attempt": found["status"]["attempt"],
            "at": uuid.uuid4().hex,
        }
    )
    body = {"metadata": {"annotations": {COMMAND_ANNOTATION: raw}}}
    await kube.patch(kinds.ROLLOUT, namespace, "demo", body, kind=PatchKind.MERGE)


@asynccontextmanager
async def controlling(client, **settings: Any):
    """A controller with this client, until the end; it was refused nothing."""
    running = Controller(
        client.with_field_manager("inference-rollouts"),
        Settings(
            health_address="127.0.0.1:0",
            metrics_address="127.0.0.1:0",
            cluster_templates=False,
            unwatched=frozenset({"kserve"}),
            **settings,
        ),
        SystemClock(),
    )
    task = asyncio.create_task(running.run())
    try:
        yield running
    finally:
        running.stop()
        await task
    answers = {
        code
        for metric in running.metrics.api_requests.collect()
        for sample in metric.samples
        for code in sample.labels.values()
    }
    assert {"rollouts", "httproutes", "events"} <= answers
    assert "403" not in answers


async def test_several_namespaces_are_watched_with_a_role_in_each_and_no_other(
    kube, namespace, helm, as_service_account
):
    """A canary in each of two namespaces, one deleted beside the other; a third is not looked at."""
    await install_upstream_crds(kube)
    await install_crds(kube, all_crds())
    places = [f"{namespace}-{letter}" for letter in "ab"]
    for place in places:
        await kube.create(NAMESPACE, None, {"metadata": {"name": place}})
    objects = render_chart(helm, {"watch": {"namespaces": places}}, namespace=namespace)
    await install(kube, [item for item in objects if item["kind"] in ("Role", "RoleBinding")])
    client = as_service_account(namespace, "r-inference-rollouts")
    for place in (namespace, None):
        with pytest.raises(Forbidden):
            await client.list_page(kinds.ROLLOUT, place)
    for place in (*places, namespace):
        await pools(kube, place)
        await kube.create(kinds.ROLLOUT, place, rollout("v1"))
    (container,) = next(item for item in objects if item["kind"] == "Deployment")["spec"]["template"]["spec"][
        "containers"
    ]
    given = controller.make_context("controller", container["args"][1:]).params
    settings = {name: given[name] for name in ("namespaces", "lease_namespace", "lease_name")}

    # As a controller that was stopped leaves it: the next one need not wait.
    left = {
        "metadata": {"name": settings["lease_name"]},
        "spec": {"holderIdentity": "", "leaseDurationSeconds": 1, "leaseTransitions": 0},
    }
    await kube.create(LEASE, namespace, left)

    async def status(place: str) -> Object:
        found = await kube.get(kinds.ROLLOUT, place, "demo")
        return found.get("status") or {}

    async def at(place: str, **wanted: Any) -> bool:
        found = await status(place)
        return all(found.get(name) == value for name, value in wanted.items())

    async def gone() -> bool:
        return not (await kube.list_page(kinds.HTTP_ROUTE, places[0])).items

    gateway = kube.with_field_manager("gateway")
    async with (
        stub_gateway(gateway, places[0]),
        stub_gateway(gateway, places[1]),
        controlling(client, **settings),
    ):
        for place in places:
            await eventually(lambda place=place: at(place, phase="Healthy"), timeout=30)
            target = {"spec": {"target": {"pool": {"name": "v2"}}}}
            await kube.patch(kinds.ROLLOUT, place, "demo", target, kind=PatchKind.MERGE)
        for place in places:
            await eventually(lambda place=place: at(place, currentStep=1), timeout=30)
        report = read_report(await kube.get(LEASE, namespace, settings["lease_name"]))
        assert report is not None
        assert report.namespaces == settings["namespaces"]
        await kube.delete(kinds.ROLLOUT, places[0], "demo")
        await eventually(gone, timeout=20)
        assert await at(places[1], currentStep=1)
        await command(kube, places[1], "abort")
        await eventually(lambda: at(places[1], phase="Aborted"), timeout=10)
    assert await status(namespace) == {"observedGeneration": 0}, "what the CRD gives what nobody looked at"
    lease = await kube.get(LEASE, namespace, settings["lease_name"])
    assert lease["spec"]["leaseTransitions"] == 1


async def test_the_rights_of_the_chart_suffice_for_a_whole_life(kube, namespace, helm, as_service_account):
    """Managed route made, canary, AnalysisRun, Job, abort, deletion of all: without one refusal."""
    await install_upstream_crds(kube)
    await install_crds(kube, all_crds())
    objects = render_chart(helm, {"jobs": {"enabled": True}}, namespace=namespace)
    await install(kube, [item for item in objects if item["kind"] in ("Role", "RoleBinding")])
    await pools(kube, namespace)
    client = as_service_account(namespace, "r-inference-rollouts")
    with pytest.raises(Forbidden):
        await client.list_page(SECRET, namespace)

    async def step(number: int) -> bool:
        found = await kube.get(kinds.ROLLOUT, namespace, "demo")
        return (found.get("status") or {}).get("currentStep") == number and "canary" in found["status"]

    async def phase(name: str) -> bool:
        found = await kube.get(kinds.ROLLOUT, namespace, "demo")
        return (found.get("status") or {}).get("phase") == name

    async def gone() -> bool:
        try:
            await kube.get(kinds.HTTP_ROUTE, namespace, "made")
        except NotFound:
            return not (await kube.list_page(kinds.ROLLOUT, namespace)).items
        return False

    async def listed(resource: Resource) -> bool:
        return bool((await kube.list_page(resource, namespace)).items)

    own = {"namespaces": (namespace,), "lease_namespace": namespace}
    async with (
        controlling(client, **own) as running,
        stub_gateway(kube.with_field_manager("gateway"), namespace),
    ):
        await kube.create(kinds.ROLLOUT, namespace, rollout("v1"))
        await eventually(lambda: phase("Healthy"), timeout=30)
        target = {"spec": {"target": {"pool": {"name": "v2"}}}}
        await kube.patch(kinds.ROLLOUT, namespace, "demo", target, kind=PatchKind.MERGE)
        await eventually(lambda: step(1), timeout=30)
        await eventually(lambda: listed(kinds.ANALYSIS_RUN), timeout=10)
        await command(kube, namespace, "promote")
        await eventually(lambda: listed(kinds.JOB), timeout=10)
        await command(kube, namespace, "abort")
        await eventually(lambda: phase("Aborted"), timeout=10)
        await kube.delete(kinds.ROLLOUT, namespace, "demo")
        await eventually(gone, timeout=20)
    answered = str(running.metrics.api_requests.collect())
    assert all(f"'{name}'" in answered for name in ("analysisruns", "jobs"))
    assert await listed(kinds.EVENT)
