"""Kubernetes' own controllers and scheduler beside the lab's kubelet: what capacity and deletion are built on."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from rollouts.kube.client import PatchKind, Propagation, Resource
from rollouts.kube.errors import NotFound
from rollouts.lab.controlplane.pods import PODS
from rollouts.lab.nodes.node import NODES
from tests.cluster.conftest import NAMESPACES
from tests.kit.polling import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(180)]

Object = dict[str, Any]
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
REPLICA_SETS = Resource("apps", "v1", "replicasets", "ReplicaSet")
SERVICES = Resource("", "v1", "services", "Service")
SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
JOBS = Resource("batch", "v1", "jobs", "Job")
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"


def deployment(name: str, *arguments: str, replicas: int = 2, gpus: int = 1) -> Object:
    container = {"name": "c", "image": "i", "args": list(arguments)}
    container["resources"] = {"limits": {"nvidia.com/gpu": str(gpus)}} if gpus else {}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 2},
            },
        },
    }


async def pods(whole, namespace: str) -> list[Object]:
    return list((await whole.list_page(PODS, namespace)).items)


def is_ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


async def ready_pods(whole, namespace: str, count: int) -> list[Object]:
    async def there() -> list[Object]:
        found = [pod for pod in await pods(whole, namespace) if is_ready(pod)]
        return found if len(found) == count else []

    return await eventually(there, timeout=30, every=0.05)


async def is_gone(whole, resource: Resource, namespace: str | None, name: str) -> bool:
    try:
        await whole.get(resource, namespace, name)
    except NotFound:
        return True
    return False


async def test_a_deployment_of_servers_is_scheduled_onto_gpus_and_serves(whole, living):
    await whole.create(DEPLOYMENTS, living, deployment("llm", "--model=m", "--served-model-name=mymodel"))
    found = await ready_pods(whole, living, 2)

    assert {pod["spec"]["nodeName"] for pod in found} <= {"node-1", "node-2"}
    assert {pod["metadata"]["ownerReferences"][0]["kind"] for pod in found} == {"ReplicaSet"}
    async with aiohttp.ClientSession() as session:
        for pod in found:
            async with session.get(f"http://{pod['status']['podIP']}:8000/v1/models") as answer:
                assert [one["id"] for one in (await answer.json())["data"]] == ["mymodel"]


async def test_what_fits_no_node_is_pending_in_the_scheduler_s_words(whole, living):
    await whole.create(DEPLOYMENTS, living, deployment("big", replicas=1, gpus=9))

    async def refused() -> str:
        for pod in await pods(whole, living):
            for one in pod["status"].get("conditions") or ():
                if one["type"] == "PodScheduled" and one["reason"] == "Unschedulable":
                    return str(one["message"])
        return ""

    message = await eventually(refused, timeout=20, every=0.05)
    assert "2 Insufficient nvidia.com/gpu" in message
    assert [pod["status"]["phase"] for pod in await pods(whole, living)] == ["Pending"]


async def test_scaling_down_takes_the_pod_of_the_least_deletion_cost(whole, living):
    await whole.create(DEPLOYMENTS, living, deployment("web", replicas=3, gpus=0))
    found = await ready_pods(whole, living, 3)
    cheap = found[1]["metadata"]["name"]
    for pod in found:
        cost = {
            "metadata": {"annotations": {DELETION_COST: "-5" if pod["metadata"]["name"] == cheap else "5"}}
        }
        await whole.patch(PODS, living, pod["metadata"]["name"], cost, kind=PatchKind.MERGE)
    await whole.patch(DEPLOYMENTS, living, "web", {"spec": {"replicas": 2}}, kind=PatchKind.MERGE)

    await eventually(lambda: is_gone(whole, PODS, living, cheap), timeout=20, every=0.05)
    assert len(await ready_pods(whole, living, 2)) == 2


async def test_endpoint_slices_follow_pods_except_those_on_loopback(whole, living):
    """Why nothing in the lab reads EndpointSlices: the API server refuses loopback addresses in them."""
    for name, arguments in (("web", ()), ("llm", ("--model=m",))):
        await whole.create(DEPLOYMENTS, living, deployment(name, *arguments, replicas=1, gpus=0))
        spec = {"selector": {"app": name}, "ports": [{"port": 80}]}
        body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}
        await whole.create(SERVICES, living, body)
    found = {
        pod["metadata"]["labels"]["app"]: pod["status"]["podIP"] for pod in await ready_pods(whole, living, 2)
    }

    async def addresses() -> dict[str, list[str]]:
        slices = (await whole.list_page(SLICES, living)).items
        seen = {
            one["metadata"]["labels"]["kubernetes.io/service-name"]: [
                address for endpoint in one.get("endpoints") or () for address in endpoint["addresses"]
            ]
            for one in slices
        }
        return seen if seen.get("web") else {}

    assert found["llm"].startswith("127.")
    assert await eventually(addresses, timeout=20, every=0.05) == {"web": [found["web"]], "llm": []}


async def test_jobs_end_as_their_pods_do(whole, living):
    for name, word in (("good", "true"), ("bad", "false")):
        pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i", "args": [word]}]}
        spec = {"backoffLimit": 0, "template": {"spec": pod}}
        body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}
        await whole.create(JOBS, living, body)

    async def ends() -> dict[str, str]:
        jobs = (await whole.list_page(JOBS, living)).items
        found = {
            job["metadata"]["name"]: one["type"]
            for job in jobs
            for one in job["status"].get("conditions") or ()
            if one["status"] == "True" and one["type"] in ("Complete", "Failed")
        }
        return found if len(found) == 2 else {}

    assert await eventually(ends, timeout=30, every=0.05) == {"good": "Complete", "bad": "Failed"}


@pytest.mark.parametrize("propagation", list(Propagation))
async def test_a_deployment_is_deleted_as_the_propagation_says(whole, living, propagation):
    await whole.create(DEPLOYMENTS, living, deployment("web", replicas=1, gpus=0))
    await ready_pods(whole, living, 1)
    await whole.delete(DEPLOYMENTS, living, "web", propagation=propagation)
    await eventually(lambda: is_gone(whole, DEPLOYMENTS, living, "web"), timeout=20, every=0.05)
    sets = (await whole.list_page(REPLICA_SETS, living)).items

    if propagation is Propagation.ORPHAN:
        assert [one["metadata"].get("ownerReferences") for one in sets] == [None]
        assert len(await ready_pods(whole, living, 1)) == 1
        return
    if propagation is Propagation.FOREGROUND:
        assert sets == []

    async def nothing() -> bool:
        return not await pods(whole, living)

    await eventually(nothing, timeout=20, every=0.05)


async def test_a_namespace_ends_with_what_is_in_it(whole, living):
    await whole.create(DEPLOYMENTS, living, deployment("llm", "--model=m"))
    await ready_pods(whole, living, 2)
    await whole.delete(NAMESPACES, None, living)

    await eventually(lambda: is_gone(whole, NAMESPACES, None, living), timeout=40, every=0.05)


async def test_nodes_stay_ready_by_their_leases(whole):
    async def untainted() -> list[Object]:
        nodes = (await whole.list_page(NODES, None)).items
        return [] if any(node["spec"].get("taints") for node in nodes) else list(nodes)

    nodes = await eventually(untainted, timeout=10, every=0.05)
    assert {node["status"]["allocatable"]["nvidia.com/gpu"] for node in nodes} == {"8"}
