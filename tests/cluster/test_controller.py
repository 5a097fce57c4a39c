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
from rollouts.controller.app import Controller
from rollouts.controller.settings import Settings
from rollouts.kube.client import PatchKind
from rollouts.kube.connection import ApiRequest
from rollouts.kube.errors import KubeError
from rollouts.kube.http import HttpKubeClient
from rollouts.lab.controlplane import create_ready_pod, install_crds, install_upstream_crds
from rollouts.lab.controlplane.upstream import POLICIES, POLICY_BINDINGS
from rollouts.lab.loopback import loopback
from rollouts.objects import kinds
from rollouts.runtime.clock import SystemClock
from tests.kit.argodiff import MANAGER, merged_differences, server_side_differences
from tests.kit.polling import eventually
from tests.kit.stubgateway import stub_gateway

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
    await world_objects(kube, namespace)
    await kube.create(kinds.HTTP_ROUTE, namespace, route())
    async with stub_gateway(kube.with_field_manager("gateway"), namespace):
        yield namespace


async def world_objects(kube: HttpKubeClient, namespace: str) -> None:
    """The pools, their pickers' Services and their pods."""
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
        status = await self.status()
        revision, attempt = status["canary"]["hash"], status["attempt"]
        raw = json.dumps({"action": action, "revision": revision, "attempt": attempt, "at": uuid.uuid4().hex})
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


async def test_in_every_phase_git_and_the_cluster_are_the_same_to_argocd(kube, world):
    look, argo = Look(kube, world), kube.with_field_manager(MANAGER)
    template = {
        "parentRefs": [{"name": "gateway"}],
        "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/made"}}]}],
    }

    async def commit(target: str, phase: str) -> Object:
        """What is in Git from now on, synced; then the phase that comes of it."""
        git = rollout(template=template)
        git["spec"]["target"]["pool"]["name"] = target
        if phase == "Invalid":
            git["spec"]["strategy"]["canary"]["steps"] = [{"setWeight": 20}, {"setWeight": 10}]
        await argo.patch(kinds.ROLLOUT, world, "demo", git, kind=PatchKind.APPLY, force=True)
        await eventually(lambda: look.phase(phase), timeout=40)
        return git

    async def differences(git: Object) -> list[str]:
        live = await kube.get(kinds.ROLLOUT, world, "demo")
        merged = list(merged_differences(git["spec"], live["spec"], "spec"))
        return merged + await server_side_differences(kube, kinds.ROLLOUT, world, git)

    found: dict[str, list[str]] = {}
    async with controller(kube, world):
        for target, phase in (
            ("v1", "Healthy"),
            ("none", "WaitingForTarget"),
            ("v2", "Paused"),
            ("v2", "Invalid"),
        ):
            found[phase] = await differences(await commit(target, phase))
        await commit("v2", "Paused")
        await look.command("abort")
        found["Aborted"] = await differences(await commit("v2", "Aborted"))

    assert set(found) == {"Healthy", "WaitingForTarget", "Paused", "Invalid", "Aborted"}
    assert {phase: paths for phase, paths in found.items() if paths} == {}


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
    assert found["metadata"]["annotations"] == {"inferencerollouts.dev/managed-by": "demo"}

    made["spec"]["target"]["pool"]["name"] = "v2"
    await kube.create(kinds.ROLLOUT, world, made)  # as `git revert` of the deletion, or a new installation
    async with controller(kube, world):
        await eventually(lambda: look.phase("Paused"), timeout=40)
        status = await look.status()
        found = await kube.get(kinds.HTTP_ROUTE, world, "made")

    assert (status["stable"]["name"], status["canary"]["name"]) == ("v1", "v2")
    assert found["metadata"]["labels"]["inferencerollouts.dev/rollout"] == "demo"
    assert await look.weights("made") == [90, 10]


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


async def test_a_controller_that_is_asked_to_stop_first_lets_go_what_is_being_deleted(kube, world):
    """As in a namespace that is deleted with both: nobody else would take the finalizer off."""
    look = Look(kube, world)
    await kube.create(kinds.ROLLOUT, world, rollout())
    async with controller(kube, world) as running:
        await eventually(lambda: look.phase("Paused"), timeout=40)
        held = (await kube.get(kinds.ROLLOUT, world, "demo"))["metadata"]["finalizers"]
        leaving = asyncio.create_task(running.leave())
        await kube.delete(kinds.ROLLOUT, world, "demo")
        await leaving

    assert held == ["inferencerollouts.dev/restore-traffic"]
    assert (await kube.list_page(kinds.ROLLOUT, world)).items == []
    assert await look.weights() == [100, 0]


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
class Verbatim(ApiRequest):
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


# --- the way back ----------------------------------------------------------------------------------

OPEN_RULE: Object = {"matches": [{"path": {"type": "PathPrefix", "value": "/made"}}]}


async def half_way(kube: HttpKubeClient, namespace: str, look: Look) -> None:
    """A Managed route at 50 %, in a pause."""
    made = rollout(
        {"setWeight": 50}, {"pause": {}}, template={"parentRefs": [{"name": "gateway"}], "rules": [OPEN_RULE]}
    )
    made["spec"]["target"]["pool"]["name"] = "v1"
    await kube.create(kinds.ROLLOUT, namespace, made)
    await eventually(lambda: look.phase("Healthy"), timeout=20)
    target = {"spec": {"target": {"pool": {"name": "v2"}}}}
    await kube.patch(kinds.ROLLOUT, namespace, "demo", target, kind=PatchKind.MERGE)
    await eventually(lambda: look.phase("Paused"), timeout=40)
    assert await look.weights("made") == [50, 50]


async def edit(kube: HttpKubeClient, namespace: str, *path: str, value: Any) -> None:
    operation = {"op": "add", "path": "/spec/" + "/".join(path), "value": value}
    await kube.patch(kinds.ROLLOUT, namespace, "demo", [operation], kind=PatchKind.JSON)


async def said(look: Look, *words: str) -> bool:
    status = await look.status()
    return all(word in status.get("message", "") for word in words)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        pytest.param(
            ("traffic", "httpRoutes", "0", "template", "rules", "0", "retry"),
            {"attempts": 2},
            ("retry",),
            id="a field that the CRD lacks",
        ),
        pytest.param(
            ("traffic", "httpRoutes", "0", "template", "rules", "0", "matches"),
            [{"path": {"type": "Nonsense", "value": "/"}}],
            ("Nonsense",),
            id="a template that breaks its schema",
        ),
        pytest.param(
            ("strategy", "canary", "steps", "-"),
            {"setWeight": 10},
            ("must not fall",),
            id="steps that fall",
        ),
    ],
)
async def test_no_edit_that_the_server_takes_holds_up_an_abort(kube, world, path, value, words):
    look = Look(kube, world)
    async with controller(kube, world):
        await half_way(kube, world, look)
        await edit(kube, world, *path, value=value)
        await eventually(lambda: said(look, *words), timeout=20)

        assert await look.weights("made") == [50, 50]

        await look.command("abort")
        await eventually(lambda: look.phase("Aborted"), timeout=20)
        status = await look.status()

        assert await look.weights("made") == [100, 0]
        assert (status["weight"]["applied"], status["lastCommand"]["result"]) == (0, "Done")


async def freeze(kube: HttpKubeClient, namespace: str) -> None:
    """A policy under which no HTTPRoute of the namespace may be changed; returns once it is in force."""
    name = f"frozen-{namespace}"
    rule = {
        "apiGroups": [kinds.HTTP_ROUTE.group],
        "apiVersions": ["v1"],
        "operations": ["UPDATE"],
        "resources": ["httproutes"],
    }
    policy = {
        "apiVersion": POLICIES.api_version,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": "false", "message": "routes are frozen until Monday"}],
        },
    }
    here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    binding = {
        "apiVersion": POLICIES.api_version,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"], "matchResources": here},
    }
    await kube.create(POLICIES, None, policy)
    await kube.create(POLICY_BINDINGS, None, binding)

    async def refuses() -> bool:
        touch = {"metadata": {"annotations": {"touched": "yes"}}}
        try:
            await kube.patch(kinds.HTTP_ROUTE, namespace, "made", touch, kind=PatchKind.MERGE, dry_run=True)
        except KubeError:
            return True
        return False

    await eventually(refuses, timeout=30)


async def test_an_abort_that_a_policy_refuses_is_said_to_be_refused_and_done_when_it_is(kube, world):
    look = Look(kube, world)
    async with controller(kube, world):
        await half_way(kube, world, look)
        await freeze(kube, world)
        await look.command("abort")
        await eventually(lambda: said(look, "routes are frozen until Monday"), timeout=20)
        status = await look.status()

        assert await look.weights("made") == [50, 50]
        assert (status["phase"], status["reason"], status["weight"]["applied"]) == (
            "Aborted",
            "TrafficRefused",
            50,
        )
        assert status["lastCommand"]["result"] == "InProgress"
        conditions = {item["type"]: item["status"] for item in status["conditions"]}
        assert (conditions["TrafficApplied"], conditions["Ready"]) == ("False", "False")
        assert await look.events("TrafficRefused")

        await kube.delete(POLICY_BINDINGS, None, f"frozen-{world}")

        async def done() -> bool:
            return (await look.status())["lastCommand"]["result"] == "Done"

        await eventually(done, timeout=30)
        assert await look.weights("made") == [100, 0]


async def test_a_refused_restore_keeps_the_deleted_rollout_until_a_person_lets_it_go(kube, world):
    look = Look(kube, world)
    async with controller(kube, world):
        await half_way(kube, world, look)
        await freeze(kube, world)
        await kube.delete(kinds.ROLLOUT, world, "demo")
        await eventually(
            lambda: said(look, "frozen until Monday", "inferencerollouts.dev/release: now"), timeout=20
        )

        release = {"metadata": {"annotations": {"inferencerollouts.dev/release": "now"}}}
        await kube.patch(kinds.ROLLOUT, world, "demo", release, kind=PatchKind.MERGE)

        async def gone() -> bool:
            return not (await kube.list_page(kinds.ROLLOUT, world)).items

        await eventually(gone, timeout=20)
        assert await look.weights("made") == [50, 50]
        await kube.delete(POLICY_BINDINGS, None, f"frozen-{world}")


async def test_what_somebody_did_to_a_run_holds_a_gate_up_and_never_an_abort(kube, world):
    """A mark of the far future keeps ours from being appended."""
    gate = {"metrics": [{"name": "ttft", "compare": {"preset": "ttft"}}]}
    made = rollout({"setWeight": 10}, {"pause": {}}, {"setWeight": 20}, {"analysis": gate}, {"setWeight": 50})
    await kube.create(kinds.ROLLOUT, world, made)
    look = Look(kube, world)
    async with controller(kube, world):

        async def marked() -> Object | None:
            runs = (await kube.list_page(kinds.ANALYSIS_RUN, world)).items
            whole = [run for run in runs if run["spec"].get("marks")]
            return whole[0] if whole and await look.phase("Paused") else None

        run = await eventually(marked, timeout=40)
        marks = [*run["spec"]["marks"], {"at": "9999-01-01T00:00:00Z", "step": 64, "weight": 1}]
        body = {"spec": {"marks": marks}}
        await kube.patch(kinds.ANALYSIS_RUN, world, run["metadata"]["name"], body, kind=PatchKind.MERGE)
        await look.command("promote")
        await eventually(lambda: look.events("RunRefused"), timeout=20)
        await look.command("abort")
        await eventually(lambda: look.phase("Aborted"), timeout=20)
        await eventually(lambda: look.has_weights(100, 0), timeout=20)
