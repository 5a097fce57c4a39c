"""A whole data plane for tests: API server in memory, simulated pods, Envoy as the gateway.

Objects are made with short calls and default names; waiting is for conditions, never for time.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rollouts.kube.client import PatchKind, Resource
from rollouts.kube.errors import NotFound
from rollouts.lab.controlplane import create_ready_pod, install_crds, minimal, set_pod_ready
from rollouts.lab.gateway.backends import PICKER_ANNOTATION
from rollouts.lab.gateway.likeness import GatewayLike
from rollouts.lab.gateway.service import GATEWAYS, HTTP_ROUTES, POOLS_V1, POOLS_V1ALPHA2, LabGateway
from rollouts.lab.gateway.status import CONTROLLER_NAME
from rollouts.lab.loopback import loopback
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.lab.vllm.pod import Fleet, SimulatedPod
from rollouts.lab.vllm.spec import PodSpec
from tests.kit.memory_client import MemoryKubeClient
from tests.kit.polling import eventually

__all__ = ["MODELS", "NAMESPACE", "DataPlane", "adapter_rollout", "backend"]

NAMESPACE = "default"
MODELS = Resource("inference.networking.x-k8s.io", "v1alpha2", "inferencemodels", "InferenceModel")
# Own addresses for each pod of a test run, so that a port in TIME_WAIT is never met again.
_ADDRESSES = itertools.count(1)

Object = dict[str, Any]


def backend(pool: str, weight: int, group: str = POOLS_V1ALPHA2.group) -> Object:
    """One backendRef to an InferencePool."""
    return {"group": group, "kind": "InferencePool", "name": pool, "port": 8000, "weight": weight}


def adapter_rollout(**canary: Any) -> Object:
    """A Rollout in progress, for which a picker measures answers; ``canary``: more fields of its strategy."""
    return {
        "apiVersion": "inferencerollouts.dev/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": "travelhelper", "namespace": NAMESPACE},
        "spec": {
            "target": {"adapter": {"name": "v2"}},
            "traffic": {"inferenceModel": {"name": "loramodel", "modelName": "travelhelper"}},
            "strategy": {"canary": {**canary, "analysis": {"preset": "default"}}},
        },
        "status": {"phase": "Progressing", "canary": {"adapter": {"name": "v2"}}},
    }


class DataPlane:
    """Use as an async context manager; ``url`` is where requests go."""

    def __init__(
        self, directory: Path, *, port: int = 8080, like: GatewayLike = GatewayLike.STANDARD
    ) -> None:
        self._port = port
        self.client = MemoryKubeClient(MemoryApi())
        self.fleet = Fleet(())
        self.gateway = LabGateway(self.client, directory=directory, like=like)
        self.url = ""

    async def __aenter__(self) -> DataPlane:
        crds = (*minimal.GATEWAY, *minimal.INFERENCE_ALPHA, *minimal.INFERENCE_V1)
        await install_crds(self.client, crds)
        listener = {"name": "llm-gw", "port": self._port, "protocol": "HTTP"}
        spec = {"gatewayClassName": "lab", "listeners": [listener]}
        await self.create(GATEWAYS, "gw", {"spec": spec})
        await self.gateway.start()
        try:
            self.url = await self.gateway.wait_for_gateway()
        except BaseException:
            await self.gateway.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.gateway.stop()
        await self.fleet.stop()

    async def add_pool(
        self,
        name: str,
        *,
        pods: int = 1,
        resource: Resource = POOLS_V1ALPHA2,
        picker: str = "",
        failure_mode: str = "FailClose",
        **pod_fields: Any,
    ) -> list[SimulatedPod]:
        """An InferencePool with Ready simulated pods, named ``<pool>-<n>`` and labelled ``pool: <name>``."""
        labels, reference = {"pool": name}, {"name": f"{name}-picker", "failureMode": failure_mode}
        if resource == POOLS_V1:
            port = {"port": {"number": 9002}}
            spec: Object = {
                "selector": {"matchLabels": labels},
                "targetPorts": [{"number": 8000}],
                "endpointPickerRef": reference | port,
            }
        else:
            spec = {"selector": labels, "targetPortNumber": 8000, "extensionRef": reference}
        annotations = {PICKER_ANNOTATION: picker} if picker else {}
        await self.create(resource, name, {"metadata": {"annotations": annotations}, "spec": spec})
        return [await self.add_pod(f"{name}-{n}", labels, **pod_fields) for n in range(pods)]

    async def add_pod(self, name: str, labels: Mapping[str, str], **fields: Any) -> SimulatedPod:
        """A simulated pod and its object, Ready."""
        number = next(_ADDRESSES)
        address = loopback(100 + number // 250, number % 250 + 1)
        spec = PodSpec(**{"name": name, "address": address, "labels": labels, "speed": 20.0, **fields})
        pod = await self.fleet.add(spec)
        await create_ready_pod(self.client, NAMESPACE, name, labels=labels, ip=address)
        return pod

    async def set_ready(self, name: str, ready: bool) -> None:
        """Write the Ready condition of a pod."""
        address = self.fleet.pods[name].spec.address
        await set_pod_ready(self.client, NAMESPACE, name, ready=ready, ip=address)

    async def route(self, *backends: Object, name: str = "route") -> Object:
        """Make or change a route with one rule for everything; answers its entry in status.parents."""
        return await self.route_rules([{"backendRefs": list(backends)}], name=name)

    async def route_rules(self, rules: Sequence[Object], *, name: str = "route") -> Object:
        """Make or change a route; answers our entry in status.parents, at the new generation."""
        spec = {"parentRefs": [{"name": "gw"}], "rules": list(rules)}
        try:
            stored = await self.client.patch(
                HTTP_ROUTES, NAMESPACE, name, {"spec": spec}, kind=PatchKind.MERGE
            )
        except NotFound:
            stored = await self.create(HTTP_ROUTES, name, {"spec": spec})
        return await eventually(lambda: self._status_at(name, stored["metadata"]["generation"]))

    async def parent_status(self, name: str = "route") -> Object:
        """Our entry in the route's status.parents, empty when there is none."""
        route = await self.client.get(HTTP_ROUTES, NAMESPACE, name)
        parents = route.get("status", {}).get("parents", [])
        return next((dict(p) for p in parents if p["controllerName"] == CONTROLLER_NAME), {})

    async def gateway_status(self) -> Object:
        """The Gateway's status."""
        return dict((await self.client.get(GATEWAYS, NAMESPACE, "gw"))["status"])

    async def annotate_picker(self, pool: str, address: str) -> None:
        """Announce the picker of a v1alpha2 pool, or take it away with an empty address."""
        patch = {"metadata": {"annotations": {PICKER_ANNOTATION: address or None}}}
        await self.client.patch(POOLS_V1ALPHA2, NAMESPACE, pool, patch, kind=PatchKind.MERGE)

    async def _status_at(self, name: str, generation: int) -> Object:
        parent = await self.parent_status(name)
        observed = {condition["observedGeneration"] for condition in parent.get("conditions", ())}
        return parent if observed == {generation} else {}

    async def pool_status(self, resource: Resource, name: str) -> Object:
        """Status of an InferencePool."""
        return dict((await self.client.get(resource, NAMESPACE, name)).get("status", {}))

    async def create(self, resource: Resource, name: str, fields: Object) -> Object:
        """Create an object; ``fields`` is all but its identity."""
        metadata = {"name": name, "namespace": NAMESPACE, **fields.pop("metadata", {})}
        body = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": metadata,
            **fields,
        }
        return await self.client.create(resource, NAMESPACE, body)
