"""A rollout that scales, with Kubernetes' own controllers, scheduler and scale subresource, under the chart's role."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rollouts.api.parsing import COMMAND_ANNOTATION, parse_rollout
from rollouts.controller.caches import Caches
from rollouts.controller.draining import PodDrains
from rollouts.engine.actions import DrainPods, Plan
from rollouts.engine.revision import revision_of
from rollouts.engine.rollout_status import RolloutStatus
from rollouts.engine.versions import Identity
from rollouts.kube.client import PatchKind
from rollouts.objects import kinds
from rollouts.objects.companions import WITH_LABEL
from rollouts.objects.leaving import COST_ANNOTATION
from rollouts.runtime.clock import SystemClock
from tests.cluster.test_chart_on_server import controlling, install
from tests.kit.helm import render_chart
from tests.kit.httpclients import acting_as
from tests.kit.loads import KnownLoads
from tests.kit.stage import DEPLOYMENT, NAME, ROUTE, Stage
from tests.kit.stubgateway import stub_gateway

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(280)]

Object = dict[str, Any]
ROLES = ("ServiceAccount", "Role", "RoleBinding")
_PATIENCE = 60.0


def _route() -> Object:
    refs = [
        {"group": kinds.POOL_V1.group, "kind": "InferencePool", "name": name, "port": 8000, "weight": weight}
        for name, weight in (("v1", 100), ("v2", 0))
    ]
    return {"parentRefs": [{"name": "gateway"}], "rules": [{"backendRefs": refs}]}


def _rollout() -> Object:
    canary = {
        "steps": [{"setWeight": 50}, {"pause": {}}],
        "allowNoTraffic": True,
        "capacity": {"maxSurge": "100%", "scaleDown": {"delay": "0s"}},
    }
    return {
        "target": {"pool": {"name": "v1", "group": kinds.POOL_V1.group}},
        "traffic": {"httpRoutes": [{"name": ROUTE}]},
        "strategy": {"canary": canary},
    }


async def test_pods_come_before_weight_and_go_after_it(whole, living, helm):
    """Two pods to two: one for 50 %, both for 100 %, and the old ones are gone in the end; never more than four."""
    objects = render_chart(helm, {"capacity": {"enabled": True}}, namespace=living)
    await install(whole, [item for item in objects if item["kind"] in ROLES])
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{living}", "system:authenticated")
    client = acting_as(whole, f"system:serviceaccount:{living}:r-inference-rollouts", groups)
    stage, seen = Stage(whole, living, ""), list[tuple[int, int]]()
    await stage.add_version("v1")
    await stage.add_version("v2", pods=0)
    consent = {"metadata": {"name": ROUTE, "annotations": {"inferencerollouts.dev/managed-by": NAME}}}
    await stage.create(kinds.HTTP_ROUTE, ROUTE, _route(), **consent)
    await stage.create(kinds.ROLLOUT, NAME, _rollout())

    async def replicas(name: str) -> int:
        return int((await whole.get(DEPLOYMENT, living, name))["spec"]["replicas"])

    async def pods() -> int:
        return len((await whole.list_page(kinds.POD, living)).items)

    async def at(count: int, phase: str) -> bool:
        seen.append((await pods(), (await stage.weights()).get("v2", 0)))
        return await replicas("v2") == count and (await stage.status()).get("phase") == phase

    may = {"namespaces": (living,), "capacity_kinds": ("Deployment", "StatefulSet"), "leader_elect": False}
    async with stub_gateway(whole.with_field_manager("gateway"), living), controlling(client, **may):
        await stage.phase("Healthy", timeout=_PATIENCE)
        await stage.retarget("v2")
        await stage.until(lambda: at(1, "Paused"), timeout=_PATIENCE)
        assert await stage.weights() == {"v1": 50, "v2": 50}
        status = await stage.status()
        raw = f'{{"action":"promote","revision":"{status["canary"]["hash"]}","attempt":1,"at":"now"}}'
        body = {"metadata": {"annotations": {COMMAND_ANNOTATION: raw}}}
        await whole.patch(kinds.ROLLOUT, living, NAME, body, kind=PatchKind.MERGE)
        await stage.until(lambda: at(2, "Healthy"), timeout=_PATIENCE)

        async def settled() -> bool:
            seen.append((await pods(), 100))
            return await replicas("v1") == 0 and await pods() == 2

        await stage.until(settled, timeout=2 * _PATIENCE)
        await stage.until(lambda: _nothing_owed(stage), timeout=_PATIENCE)
    assert await replicas("v2") == 2
    assert max(count for count, _ in seen) <= 4


async def test_prefill_comes_and_goes_with_its_decode(whole, living, helm):
    """Two prefill pods to two of decode, by the label on their pools alone; the old ones go, decode first."""
    objects = render_chart(helm, {"capacity": {"enabled": True}}, namespace=living)
    await install(whole, [item for item in objects if item["kind"] in ROLES])
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{living}", "system:authenticated")
    client = acting_as(whole, f"system:serviceaccount:{living}:r-inference-rollouts", groups)
    stage, seen = Stage(whole, living, ""), list[tuple[int, int]]()
    for version, pods in (("v1", 2), ("v2", 0)):
        await stage.add_version(version, pods=pods)
        await stage.add_version(f"prefill-{version}", pods=pods)
        body = {"metadata": {"labels": {WITH_LABEL: version}}}
        await whole.patch(kinds.POOL_V1, living, f"prefill-{version}", body, kind=PatchKind.MERGE)
    consent = {"metadata": {"name": ROUTE, "annotations": {"inferencerollouts.dev/managed-by": NAME}}}
    await stage.create(kinds.HTTP_ROUTE, ROUTE, _route(), **consent)
    await stage.create(kinds.ROLLOUT, NAME, _rollout())

    async def replicas(name: str) -> int:
        return int((await whole.get(DEPLOYMENT, living, name))["spec"]["replicas"])

    async def at(count: int, phase: str) -> bool:
        there = await replicas("v2") == count and await replicas("prefill-v2") == count
        return there and (await stage.status()).get("phase") == phase

    async def gone() -> bool:
        seen.append((await replicas("v1"), await replicas("prefill-v1")))
        return seen[-1] == (0, 0) and await _nothing_owed(stage)

    may = {"namespaces": (living,), "capacity_kinds": ("Deployment", "StatefulSet"), "leader_elect": False}
    async with stub_gateway(whole.with_field_manager("gateway"), living), controlling(client, **may):
        await stage.phase("Healthy", timeout=_PATIENCE)
        await stage.retarget("v2")
        await stage.until(lambda: at(1, "Paused"), timeout=_PATIENCE)
        assert await stage.weights() == {"v1": 50, "v2": 50}
        (companion,) = (await stage.status())["capacity"]["companions"]
        assert (companion["stable"]["name"], companion["ready"]) == ("prefill-v1", 1)
        status = await stage.status()
        raw = f'{{"action":"promote","revision":"{status["canary"]["hash"]}","attempt":1,"at":"now"}}'
        body = {"metadata": {"annotations": {COMMAND_ANNOTATION: raw}}}
        await whole.patch(kinds.ROLLOUT, living, NAME, body, kind=PatchKind.MERGE)
        await stage.until(lambda: at(2, "Healthy"), timeout=_PATIENCE)
        await stage.until(gone, timeout=3 * _PATIENCE)
    assert (2, 0) not in seen, "decode goes first"
    assert (await replicas("v2"), await replicas("prefill-v2")) == (2, 2)


async def _nothing_owed(stage: Stage) -> bool:
    return not (await stage.status()).get("scaleDowns")


async def test_the_replicaset_controller_deletes_the_pods_that_were_marked(whole, living):
    """Somebody's lower cost on a busy pod notwithstanding. A fifth pod proves that the controller has seen the marks:
    it counts as available by a later event of the same watch."""
    stage = Stage(whole, living, "")
    await stage.add_version("v1", pods=4)
    names = sorted(pod["metadata"]["name"] for pod in (await whole.list_page(kinds.POD, living)).items)
    cheap = {"metadata": {"annotations": {COST_ANNOTATION: "-100"}}}
    await whole.patch(kinds.POD, living, names[2], cheap, kind=PatchKind.MERGE)
    caches = Caches(whole, SystemClock(), namespaces=(living,), capacity_kinds=("Deployment",))
    for resource in (kinds.POD, kinds.POOL_V1, DEPLOYMENT):
        for item in (await whole.list_page(resource, living)).items:
            caches.by_resource()[resource].apply({"apiVersion": resource.api_version, **item})
    loads = KnownLoads(
        {name: 9 * number for number, name in enumerate([names[1], names[3], names[0], names[2]])}
    )
    v1 = Identity(kind="InferencePool", group=kinds.POOL_V1.group, name="v1")
    status = RolloutStatus(stable=revision_of(v1, ""))
    parsed = replace(parse_rollout({"metadata": {"name": NAME, "namespace": living}}), status=status)
    plan = Plan(status=status, actions=(DrainPods(identity=v1, to=2),))
    drains = PodDrains(whole, caches, SystemClock(), loads)
    assert await drains.carry_out(parsed, plan)

    async def scaled(replicas: int) -> bool:
        found = (await whole.get(DEPLOYMENT, living, "v1"))["status"]
        return found.get("availableReplicas") == found.get("replicas") == replicas

    for replicas in (5, 3):
        body = {"spec": {"replicas": replicas}}
        await whole.patch(DEPLOYMENT, living, "v1", body, kind=PatchKind.MERGE, subresource="scale")
        await stage.until(lambda wanted=replicas: scaled(wanted), timeout=_PATIENCE)
    left = {
        pod["metadata"]["name"]
        for pod in (await whole.list_page(kinds.POD, living)).items
        if "deletionTimestamp" not in pod["metadata"]
    }

    assert left & set(names) == {names[0], names[2]}
