"""The assembled controller on a real API server, with a gateway that only reports."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from rollouts.api.crds import all_crds
from rollouts.api.parsing import COMMAND_ANNOTATION
from rollouts.controller import kinds
from rollouts.controller.app import Controller
from rollouts.controller.settings import Settings
from rollouts.kube.client import PatchKind
from rollouts.kube.connection import Request
from rollouts.kube.http import HttpKubeClient
from rollouts.lab.controlplane import create_ready_pod, install_crds, install_upstream_crds
from rollouts.lab.loopback import loopback
from rollouts.lab.testing.polling import eventually
from rollouts.lab.testing.stubgateway import stub_gateway
from rollouts.runtime.clock import SystemClock

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

Object = dict[str, Any]
GROUP = kinds.POOL_X.group


@pytest.fixture(autouse=True)
async def crds(kube: HttpKubeClient) -> None:
    await install_upstream_crds(kube)
    await install_crds(kube, all_crds())


@pytest.fixture
async def world(kube: HttpKubeClient, namespace: str) -> AsyncIterator[str]:
    """Two pools with a Ready pod each, a route, and a gateway that reports."""
    for number, name in enumerate(("v1", "v2")):
        pool = {
            "apiVersion": f"{GROUP}/v1alpha2",
            "kind": "InferencePool",
            "metadata": {"name": name},
            "spec": {
                "targetPortNumber": 8000,
                "selector": {"release": name},
                "extensionRef": {"name": f"{name}-epp"},
            },
        }
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": f"{name}-epp"},
            "spec": {"ports": [{"port": 9002}]},
        }
        await kube.create(kinds.POOL_X, namespace, pool)
        await kube.create(kinds.SERVICE, namespace, service)
        address = loopback(18, number + 1)
        await create_ready_pod(kube, namespace, f"{name}-0", labels={"release": name}, ip=address)
    await kube.create(kinds.HTTP_ROUTE, namespace, route())
    async with stub_gateway(kube.with_field_manager("gateway"), namespace):
        yield namespace


def backend(name: str, weight: int) -> Object:
    return {"group": GROUP, "kind": "InferencePool", "name": name, "port": 8000, "weight": weight}


def route() -> Object:
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "route", "annotations": {"inferencerollouts.dev/managed-by": "demo"}},
        "spec": {
            "parentRefs": [{"name": "gateway"}],
            "rules": [{"backendRefs": [backend("v1", 100), backend("v2", 0)]}],
        },
    }


def rollout(*steps: Object, template: Object | None = None, **fields: Any) -> Object:
    traffic: Object = {"name": "route"} if template is None else {"name": "made", "template": template}
    return {
        "apiVersion": "inferencerollouts.dev/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": "demo"},
        "spec": {
            "target": {"pool": {"name": "v2"}},
            "traffic": {"httpRoutes": [traffic]},
            "strategy": {
                "canary": {
                    "allowNoTraffic": True,  # no model server answers here
                    "steps": list(steps) or [{"setWeight": 10}, {"pause": {}}],
                }
            },
            **fields,
        },
    }


@asynccontextmanager
async def controller(
    client: HttpKubeClient, namespace: str, *, lease: bool = False
) -> AsyncIterator[Controller]:
    """A controller in this process; what it raises fails the test."""
    settings = Settings(
        namespace=namespace,
        lease_namespace=namespace,
        health_address="127.0.0.1:0",
        metrics_address="127.0.0.1:0",
        leader_elect=lease,
    )
    running = Controller(client.with_field_manager("inference-rollouts"), settings, SystemClock())
    task = asyncio.create_task(running.run())
    try:
        yield running
    finally:
        running.stop()
        await task


class Look:
    """What a person sees of the Rollout and its route."""

    def __init__(self, kube: HttpKubeClient, namespace: str) -> None:
        self.kube = kube
        self.namespace = namespace

    async def status(self) -> Object:
        found = await self.kube.get(kinds.ROLLOUT, self.namespace, "demo")
        return found.get("status") or {}

    async def phase(self, *wanted: str) -> bool:
        return (await self.status()).get("phase") in wanted

    async def weights(self, name: str = "route") -> list[int]:
        found = await self.kube.get(kinds.HTTP_ROUTE, self.namespace, name)
        return [ref["weight"] for ref in found["spec"]["rules"][0]["backendRefs"]]

    async def has_weights(self, *wanted: int) -> bool:
        return await self.weights() == list(wanted)

    async def command(self, action: str) -> None:
        revision = (await self.status())["canary"]["hash"]
        raw = json.dumps({"action": action, "revision": revision, "at": uuid.uuid4().hex})
        body = {"metadata": {"annotations": {COMMAND_ANNOTATION: raw}}}
        await self.kube.patch(kinds.ROLLOUT, self.namespace, "demo", body, kind=PatchKind.MERGE)

    async def events(self, reason: str) -> list[str]:
        page = await self.kube.list_page(kinds.EVENT, self.namespace)
        return [event["message"] for event in page.items if event["reason"] == reason]


async def test_a_rollout_runs_to_its_end(kube, world):
    look = Look(kube, world)
    await kube.create(kinds.ROLLOUT, world, rollout({"setWeight": 10}, {"pause": {}}, {"setWeight": 50}))
    async with controller(kube, world):
        await eventually(lambda: look.phase("Paused"), timeout=40)

        assert await look.weights() == [90, 10]

        await look.command("promote")
        await eventually(lambda: look.phase("Healthy"), timeout=55)

    assert await look.weights() == [0, 100]
    status = await look.status()
    assert (status["stable"]["name"], status.get("canary")) == ("v2", None)
    assert {c["type"]: c["status"] for c in status["conditions"]}["Ready"] == "True"
    assert await look.events("Promoted")


async def test_a_sync_by_another_field_manager_in_mid_canary_is_restored(kube, world):
    look = Look(kube, world)
    argo = kube.with_field_manager("argocd-controller")
    await kube.create(kinds.ROLLOUT, world, rollout())
    async with controller(kube, world):
        await eventually(lambda: look.phase("Paused"), timeout=40)
        before = await look.status()
        await argo.patch(kinds.ROLLOUT, world, "demo", rollout(), kind=PatchKind.APPLY, force=True)
        await argo.patch(kinds.HTTP_ROUTE, world, "route", route(), kind=PatchKind.APPLY, force=True)
        await eventually(lambda: look.events("WeightRestored"), timeout=20)
        await eventually(lambda: look.has_weights(90, 10), timeout=20)
        after = await look.status()

    assert "argocd-controller" in (await look.events("WeightRestored"))[0]
    assert (after["attempt"], after["currentStep"], after["canary"]) == (
        before["attempt"],
        before["currentStep"],
        before["canary"],
    )


async def test_a_managed_route_has_a_label_and_no_owner_and_outlives_its_rollout(kube, world):
    look = Look(kube, world)
    template = {
        "parentRefs": [{"name": "gateway"}],
        "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/made"}}]}],
    }
    made = rollout(template=template)
    made["spec"]["target"]["pool"]["name"] = "v1"
    await kube.create(kinds.ROLLOUT, world, made)
    async with controller(kube, world):
        await eventually(lambda: look.phase("Healthy"), timeout=20)
        target = {"spec": {"target": {"pool": {"name": "v2"}}}}
        await kube.patch(kinds.ROLLOUT, world, "demo", target, kind=PatchKind.MERGE)
        await eventually(lambda: look.phase("Paused"), timeout=40)
        found = await kube.get(kinds.HTTP_ROUTE, world, "made")

        assert found["metadata"]["labels"]["inferencerollouts.dev/rollout"] == "demo"
        assert "ownerReferences" not in found["metadata"]
        assert await look.weights("made") == [90, 10]

        await kube.delete(kinds.ROLLOUT, world, "demo")

        async def gone() -> bool:
            return not (await kube.list_page(kinds.ROLLOUT, world)).items

        await eventually(gone, timeout=20)

    found = await kube.get(kinds.HTTP_ROUTE, world, "made")
    shares = {ref["name"]: ref["weight"] for ref in found["spec"]["rules"][0]["backendRefs"]}
    assert (shares["v1"], shares.get("v2", 0)) == (100, 0)
    assert "inferencerollouts.dev/rollout" not in (found["metadata"].get("labels") or {})


async def test_a_template_that_the_server_refuses_is_shown_and_nothing_is_made(kube, world):
    look = Look(kube, world)
    path = {"type": "Nonsense", "value": "/"}
    template = {"parentRefs": [{"name": "gateway"}], "rules": [{"matches": [{"path": path}]}]}
    await kube.create(kinds.ROLLOUT, world, rollout(template=template))
    async with controller(kube, world):
        await eventually(lambda: look.phase("Invalid"), timeout=20)
        status = await look.status()

    assert status["reason"] == "RouteInvalid"
    assert "Nonsense" in status["message"]
    assert {c["type"]: c["status"] for c in status["conditions"]}["SpecValid"] == "False"
    routes = await kube.list_page(kinds.HTTP_ROUTE, world)
    assert [item["metadata"]["name"] for item in routes.items] == ["route"]


async def test_the_lease_is_handed_over_and_the_next_controller_goes_on(kube, world):
    look = Look(kube, world)
    await kube.create(kinds.ROLLOUT, world, rollout())
    async with controller(kube, world, lease=True):
        await eventually(lambda: look.phase("Paused"), timeout=55)
    await look.command("promote")
    async with controller(kube, world, lease=True) as second:
        await eventually(lambda: second.leading, timeout=5)
        await eventually(lambda: look.phase("Healthy"), timeout=40)

    assert await look.weights() == [0, 100]


async def test_a_resync_at_rest_writes_nothing(kube, world):
    look = Look(kube, world)
    await kube.create(kinds.ROLLOUT, world, rollout())
    async with controller(kube, world) as running:
        await eventually(lambda: look.phase("Paused"), timeout=40)

        def written() -> float:
            total = 0.0
            for metric in running.metrics.api_requests.collect():
                for sample in metric.samples:
                    verb = sample.labels.get("verb")
                    if sample.name.endswith("_total") and verb in ("create", "patch", "delete"):
                        total += sample.value
            return total

        def reconciled() -> float:
            return sum(
                sample.value
                for metric in running.metrics.reconcile_seconds.collect()
                for sample in metric.samples
                if sample.name.endswith("_count")
            )

        async def look_again() -> bool:
            """One resync; whether it wrote nothing."""
            before, target = written(), reconciled() + 1
            running.resync()
            await eventually(lambda: reconciled() >= target, timeout=10)
            return written() == before

        await eventually(look_again, timeout=20)  # the last Events of the pause may still be under way
        quiet = [await look_again() for _ in range(5)]

        assert quiet == [True] * 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Verbatim(Request):
    """A request whose body no encoder of ours could write."""

    text: bytes

    @property
    def data(self) -> bytes:
        return self.text


async def create_nested(kube: HttpKubeClient, namespace: str, name: str, depth: int) -> None:
    """A Rollout whose route template nests ``depth`` levels, which an API server takes up to 10,000."""
    made = rollout(template={"parentRefs": [{"name": "gateway"}], "rules": [{"deep": "HERE"}]})
    made["metadata"]["name"] = name
    made["spec"]["traffic"]["httpRoutes"][0]["name"] = name
    deep = b'{"a":' * depth + b"1" + b"}" * depth
    text = json.dumps(made).encode().replace(b'"HERE"', deep)
    path = kinds.ROLLOUT.path(namespace)
    await kube._connection.answer(Verbatim(method="POST", path=path, body={}, text=text))


async def test_objects_nested_without_end_hold_up_no_other_and_are_told_so(kube, world):
    look = Look(kube, world)
    for depth in (40, 300, 900, 3_000):
        await create_nested(kube, world, f"deep-{depth}", depth)
    await kube.create(kinds.ROLLOUT, world, rollout())

    async def told(name: str) -> bool:
        found = await kube.get(kinds.ROLLOUT, world, name)
        status = found.get("status") or {}
        return status.get("phase") == "Invalid" and "nested deeper than 32 levels" in status["message"]

    async with controller(kube, world):
        await eventually(lambda: look.phase("Paused"), timeout=40)
        for depth in (40, 300, 900, 3_000):
            await eventually(lambda depth=depth: told(f"deep-{depth}"), timeout=20)
        await create_nested(kube, world, "late", 9_000)
        await eventually(lambda: told("late"), timeout=20)

        await look.command("abort")
        await eventually(lambda: look.phase("Aborted"), timeout=20)
