"""A namespace that serves: Deployments of simulated servers, pools, a Gateway on real Envoy, a Managed Rollout."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rollouts.kube.client import PatchKind, Propagation, Resource
from rollouts.kube.errors import NotFound
from rollouts.kube.http import HttpKubeClient
from rollouts.lab.gateway.service import LabGateway
from rollouts.lab.traffic import Traffic, TrafficSpec, TrafficWindow
from rollouts.objects import kinds
from tests.kit.polling import eventually

__all__ = ["DEPLOYMENT", "NAME", "ROUTE", "Stage", "staged"]

Object = dict[str, Any]
DEPLOYMENT = Resource("apps", "v1", "deployments", "Deployment")
NAME, ROUTE = "demo", "made"
_EVERY = 0.05
_RATE = 40.0
# Bounds the load of a test; a scenario takes ten seconds of it, on a busy machine four times as many.
_LONGEST = 150.0
_GATE = {
    "metrics": [
        {
            "name": "errors",
            "measure": {"preset": "error-rate", "window": "10s"},
            "successCondition": "result < 1.0",
            "interval": "1s",
            "count": 600,
        }
    ]
}
_JOB = {
    "spec": {
        "template": {
            "spec": {
                "restartPolicy": "Never",
                "containers": [{"name": "c", "image": "i", "args": ["sleep", "600"]}],
            }
        }
    }
}
IN_A_GATE: tuple[Object, ...] = ({"setWeight": 20}, {"analysis": _GATE}, {"pause": {}})
IN_A_JOB: tuple[Object, ...] = ({"setWeight": 20}, {"job": _JOB}, {"pause": {}})


class Stage:
    """Objects of one namespace by short calls, and what clients saw."""

    def __init__(self, kube: HttpKubeClient, namespace: str, url: str) -> None:
        self.kube = kube
        self.namespace = namespace
        self.url = url

    async def create(self, resource: Resource, name: str, spec: Object, **more: Any) -> None:
        """Create an object of this namespace."""
        head = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}}
        await self.kube.create(resource, self.namespace, {**head, "spec": spec, **more})

    async def add_version(self, name: str, *, pods: int = 2, trusted: bool = True) -> None:
        """A Deployment of simulated servers, Ready, its InferencePool, and a picker's Service taken on ``trusted``."""
        labels = {"release": name}
        container = {"name": "server", "image": "vllm", "args": ["--model=m", "--served-model-name=mymodel"]}
        # A server goes on answering while gateways learn that it leaves.
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": 2}}}  # type: ignore[assignment]
        # Half of the grace is what the namespace controller waits before it looks again for Pods that end.
        pod = {"containers": [container], "terminationGracePeriodSeconds": 4}
        template = {"metadata": {"labels": labels}, "spec": pod}
        spec = {"replicas": pods, "selector": {"matchLabels": labels}, "template": template}
        await self.create(DEPLOYMENT, name, spec)
        if trusted:
            await self.create(kinds.SERVICE, f"{name}-picker", {"ports": [{"port": 9002}]})
        pool = {
            "selector": {"matchLabels": labels},
            "targetPorts": [{"number": 8000}],
            "endpointPickerRef": {"name": f"{name}-picker", "port": {"number": 9002}},
        }
        await self.create(kinds.POOL_V1, name, pool)

        async def available() -> bool:
            found = await self.kube.get(DEPLOYMENT, self.namespace, name)
            return bool((found.get("status") or {}).get("availableReplicas", 0) == pods)

        await _until(available, timeout=40)

    def rollout(self, target: str, steps: tuple[Object, ...] = IN_A_GATE, **fields: Any) -> Object:
        """The Rollout; its HTTPRoute is Managed."""
        template = {
            "parentRefs": [{"name": "gw"}],
            "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}],
        }
        return {
            "apiVersion": kinds.ROLLOUT.api_version,
            "kind": "Rollout",
            "metadata": {"name": NAME},
            "spec": {
                "target": {"pool": {"name": target, "group": kinds.POOL_V1.group}},
                "traffic": {"httpRoutes": [{"name": ROUTE, "template": template}]},
                "strategy": {"canary": {"pathProbe": "Off", "steps": list(steps)}},
                **fields,
            },
        }

    async def install(self, target: str, **fields: Any) -> None:
        """Create the Rollout and wait until it is Healthy."""
        await self.kube.create(kinds.ROLLOUT, self.namespace, self.rollout(target, **fields))
        await self.phase("Healthy")

    async def retarget(self, target: str) -> None:
        """The one line of a commit."""
        body = {"spec": {"target": {"pool": {"name": target}}}}
        await self.kube.patch(kinds.ROLLOUT, self.namespace, NAME, body, kind=PatchKind.MERGE)

    async def status(self) -> Object:
        """The Rollout's."""
        return (await self.kube.get(kinds.ROLLOUT, self.namespace, NAME)).get("status") or {}

    async def phase(self, wanted: str, *, timeout: float = 30.0) -> None:
        """Wait for a phase."""

        async def there() -> bool:
            return (await self.status()).get("phase") == wanted

        await _until(there, timeout=timeout)

    async def step(self, wanted: int) -> None:
        """Wait until a canary stands at this step."""

        async def there() -> bool:
            found = await self.status()
            return found.get("currentStep") == wanted and "canary" in found

        await _until(there, timeout=40)

    async def weights(self) -> dict[str, int]:
        """What the stored route says."""
        route = await self.kube.get(kinds.HTTP_ROUTE, self.namespace, ROUTE)
        backends = route["spec"]["rules"][0]["backendRefs"]
        return {one["name"]: one["weight"] for one in backends}

    async def names(self, resource: Resource) -> set[str]:
        """Of the objects of a kind."""
        return {
            one["metadata"]["name"] for one in (await self.kube.list_page(resource, self.namespace)).items
        }

    async def delete(
        self, resource: Resource, name: str, propagation: Propagation | None = None, *, wait: bool = True
    ) -> None:
        """Delete, and wait until it is gone."""
        await self.kube.delete(resource, self.namespace, name, propagation=propagation)
        if wait:
            await gone(self.kube, resource, self.namespace, name)

    async def until(self, look: Callable[[], Awaitable[bool]], *, timeout: float = 30.0) -> None:
        """Wait for a condition."""
        await _until(look, timeout=timeout)

    @asynccontextmanager
    async def traffic(self) -> AsyncIterator[Callable[[], Awaitable[TrafficWindow]]]:
        """Send requests; the answer, called inside, waits for thirty more answers and tells of all so far."""
        async with Traffic(TrafficSpec(url=self.url, rate=_RATE, seconds=_LONGEST, max_tokens=4)) as sent:

            async def so_far() -> TrafficWindow:
                begun = time.monotonic()
                await eventually(lambda: len(sent.window(begun)) >= 30, timeout=20, every=_EVERY)
                return sent.window(0)

            await so_far()
            yield so_far


async def _until(look: Callable[[], Awaitable[bool]], *, timeout: float) -> bool:
    return await eventually(look, timeout=timeout, every=_EVERY)


async def gone(
    kube: HttpKubeClient, resource: Resource, namespace: str | None, name: str, *, timeout: float = 40.0
) -> None:
    """Wait until there is no such object."""

    async def is_gone() -> bool:
        try:
            await kube.get(resource, namespace, name)
        except NotFound:
            return True
        return False

    await _until(is_gone, timeout=timeout)


@asynccontextmanager
async def staged(kube: HttpKubeClient, namespace: str, directory: Path) -> AsyncIterator[Stage]:
    """Versions v1 and v2 and a Gateway in ``namespace``; Envoy ends with the block."""
    gateway = LabGateway(kube.with_field_manager("lab-gateway"), directory=directory, namespace=namespace)
    stage = Stage(kube, namespace, "")
    listener = {"name": "http", "port": 8080, "protocol": "HTTP"}
    await stage.create(kinds.GATEWAY, "gw", {"gatewayClassName": "lab", "listeners": [listener]})
    await gateway.start()
    try:
        stage.url = await gateway.wait_for_gateway()
        for name in ("v1", "v2"):
            await stage.add_version(name)
        yield stage
    finally:
        await gateway.stop()
