"""The lab's gateway on a real API server: real definitions, defaults and pruning of status."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rollouts.kube.client import PatchKind
from rollouts.kube.http import HttpKubeClient
from rollouts.lab.controlplane import create_ready_pod, install_upstream_crds
from rollouts.lab.gateway.service import GATEWAYS, HTTP_ROUTES, POOLS_V1, POOLS_V1ALPHA2, LabGateway
from rollouts.lab.loopback import loopback
from rollouts.lab.vllm.pod import Fleet
from rollouts.lab.vllm.spec import PodSpec
from tests.kit.polling import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.gateway, pytest.mark.slow]
Object = dict[str, Any]


def rules(group: str, *weights: int) -> list[Object]:
    return [
        {
            "backendRefs": [
                {"group": group, "kind": "InferencePool", "name": f"v{n}", "port": 8000, "weight": weight}
                for n, weight in enumerate(weights, start=1)
            ]
        }
    ]


async def add_version(kube: HttpKubeClient, namespace: str, spec: PodSpec, group: str) -> None:
    labels, reference = {"version": spec.name}, {"name": f"{spec.name}-picker"}
    await create_ready_pod(kube, namespace, spec.name, labels=labels, ip=spec.address)
    if group == POOLS_V1.group:
        resource = POOLS_V1
        picker = {**reference, "port": {"number": 9002}}
        body: Object = {
            "selector": {"matchLabels": labels},
            "targetPorts": [{"number": 8000}],
            "endpointPickerRef": picker,
        }
    else:
        resource = POOLS_V1ALPHA2
        body = {"selector": labels, "targetPortNumber": 8000, "extensionRef": reference}
    document = {"apiVersion": resource.api_version, "kind": "InferencePool", "metadata": {"name": spec.name}}
    await kube.create(resource, namespace, {**document, "spec": body})


@pytest.mark.parametrize("group", [POOLS_V1.group, POOLS_V1ALPHA2.group])
async def test_weights_and_status_then_silence(
    kube: HttpKubeClient, namespace: str, tmp_path: Path, group: str
) -> None:
    await install_upstream_crds(kube)
    last = 1 if group == POOLS_V1.group else 3
    specs = [PodSpec(name=f"v{n}", address=loopback(30 + last, n), speed=20.0) for n in (1, 2)]
    for spec in specs:
        await add_version(kube, namespace, spec, group)
    listener = {"name": "llm-gw", "port": 8080, "protocol": "HTTP"}
    gateway = {"spec": {"gatewayClassName": "lab", "listeners": [listener]}, "metadata": {"name": "gw"}}
    route = {"spec": {"parentRefs": [{"name": "gw"}], "rules": rules(group, 1, 0)}, "metadata": {"name": "r"}}
    for resource, body in ((GATEWAYS, gateway), (HTTP_ROUTES, route)):
        named = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        await kube.create(resource, namespace, named)
    lab = LabGateway(kube, directory=tmp_path, namespace=namespace)
    async with Fleet(specs), aiohttp.ClientSession() as http:
        await lab.start()
        try:
            url = await lab.wait_for_gateway()
            change = {"spec": {"rules": rules(group, 0, 1)}}
            await kube.patch(HTTP_ROUTES, namespace, "r", change, kind=PatchKind.MERGE)
            await eventually(lambda: accepted(kube, namespace))
            async with http.get(f"{url}/v1/models") as answer:
                assert answer.headers["x-inference-pod"] == "v2"
            await eventually(lambda: pool_named(kube, namespace, group))
            before, writes = await versions(kube, namespace, group), lab.status_writes
            # Something to look at again, that changes nothing: the gateway has to find nothing to write.
            reconciled = lab.reconciled
            await create_ready_pod(kube, namespace, "bystander", labels={}, ip=loopback(39, 9))
            await eventually(lambda: lab.reconciled > reconciled)

            assert await versions(kube, namespace, group) == before
            assert lab.status_writes == writes
        finally:
            await lab.stop()


async def accepted(kube: HttpKubeClient, namespace: str) -> bool:
    route = await kube.get(HTTP_ROUTES, namespace, "r")
    conditions = [c for p in route.get("status", {}).get("parents", []) for c in p["conditions"]]
    generation = route["metadata"]["generation"]
    return bool(conditions) and all(
        (c["status"], c["observedGeneration"]) == ("True", generation) for c in conditions
    )


async def pool_named(kube: HttpKubeClient, namespace: str, group: str) -> bool:
    resource, field = (POOLS_V1, "parents") if group == POOLS_V1.group else (POOLS_V1ALPHA2, "parent")
    status = (await kube.get(resource, namespace, "v2")).get("status", {})
    return any(entry["parentRef"]["name"] == "gw" for entry in status.get(field, []))


async def versions(kube: HttpKubeClient, namespace: str, group: str) -> list[str]:
    pools = POOLS_V1 if group == POOLS_V1.group else POOLS_V1ALPHA2
    found = ((HTTP_ROUTES, "r"), (GATEWAYS, "gw"), (pools, "v1"), (pools, "v2"))
    objects = [await kube.get(resource, namespace, name) for resource, name in found]
    return [obj["metadata"]["resourceVersion"] for obj in objects]
