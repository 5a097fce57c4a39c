"""The renderers' writes on a real API server with the upstream CRDs: accepted, exact, and seen as settled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rollouts.engine.actions import DesiredTraffic
from rollouts.engine.converging import rule_share
from rollouts.engine.rollout_spec import AdapterTraffic, HeaderMatch, HeaderMatchType, HeaderRouteStep
from rollouts.kube.client import PatchKind, Resource
from rollouts.kube.errors import Conflict
from rollouts.kube.http import HttpKubeClient
from rollouts.lab.controlplane import install_upstream_crds
from rollouts.objects import kinds
from rollouts.objects.models import MODEL_KIND
from rollouts.traffic import httproute, inference_model
from rollouts.traffic.httproute import Reader
from rollouts.traffic.targets import ModelTarget, adapter
from rollouts.traffic.writes import APPLIED_BY, Apply, JsonPatch, RenderRefusal
from rollouts.units import Weight
from tests.kit.routes import adopted, desired, managed, ref, service_ref, target, template

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

Object = dict[str, Any]
Answer = Apply | JsonPatch | RenderRefusal | None


@pytest.fixture
async def ours(kube: HttpKubeClient) -> HttpKubeClient:
    await install_upstream_crds(kube)
    return kube.with_field_manager(APPLIED_BY)


async def write(
    client: HttpKubeClient, resource: Resource, namespace: str, name: str, answer: Answer
) -> Object:
    assert isinstance(answer, Apply | JsonPatch)
    if isinstance(answer, Apply):
        return await client.patch(resource, namespace, name, answer.body, kind=PatchKind.APPLY, force=True)
    return await client.patch(resource, namespace, name, answer.operations, kind=PatchKind.JSON)


def settled(live: Object, where: httproute.RouteTarget, wanted: DesiredTraffic) -> bool:
    arms = tuple(arm for arm in (wanted.stable, wanted.canary) if arm is not None)
    seen = httproute.view(live, where.spec, where.template, Reader(rollout="demo", arms=arms))
    assert seen.structure_current
    assert seen.written_by_us
    assert sorted(map(repr, seen.header_routes)) == sorted(map(repr, wanted.header_routes))
    assert httproute.render(live, where, wanted) is None
    return bool(seen.rules) and all(rule_share(rule, wanted) == wanted.weight for rule in seen.rules)


TESTERS = HeaderRouteStep(
    name="testers",
    match=(
        HeaderMatch(name="x-tester", value="yes"),
        HeaderMatch(name="x-team", value="a.b", type=HeaderMatchType.PREFIX),
    ),
)


async def test_a_managed_route_step_after_step(ours, namespace):
    body = template({}, {"backendRefs": [service_ref("web", 1)], "timeouts": {"request": "10s"}})
    where, live = (
        httproute.RouteTarget(rollout="demo", namespace=namespace, spec=managed(), template=body),
        None,
    )
    for wanted in (
        desired(0, canary=None),
        desired(0.5, header_routes=(TESTERS,)),
        desired(50),
        desired(0, stable="v2", canary=None, keep=["v1"]),
    ):
        answer = httproute.render(live, where, wanted)
        live = await write(ours, kinds.HTTP_ROUTE, namespace, "route", answer)
        assert settled(live, where, wanted)
    refs = live["spec"]["rules"][0]["backendRefs"]
    assert [(item["name"], item["weight"]) for item in refs] == [("v2", 100), ("v1", 0)]


async def created(kube: HttpKubeClient, namespace: str, *refs: Object) -> Object:
    route = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "route"},
        "spec": {"parentRefs": [{"name": "gateway"}], "rules": [{"backendRefs": list(refs)}]},
    }
    return await kube.create(kinds.HTTP_ROUTE, namespace, route)


@pytest.mark.parametrize("add", [False, True])
async def test_an_adopted_route_step_after_step(kube, ours, namespace, add):
    entries = [ref("v1", 100), service_ref("web", 20)]
    live = await created(kube, namespace, *entries, *([] if add else [ref("v2", 0)]))
    where = target(adopted(add_backend=add))
    for wanted in (desired(0.5), desired(30), desired(100)):
        answer = httproute.render(live, where, wanted)
        live = await write(ours, kinds.HTTP_ROUTE, namespace, "route", answer)
        assert settled(live, where, wanted)
    found = {item["name"]: item["weight"] for item in live["spec"]["rules"][0]["backendRefs"]}
    assert found == {"v1": 0, "web": 40, "v2": 200}


SPOILERS: dict[str, Callable[[Object], None]] = {
    "any newer version": lambda live: live["metadata"].update(labels={"a": "b"}),
    "entries in another order": lambda live: live["spec"]["rules"][0]["backendRefs"].reverse(),
}


@pytest.mark.parametrize("mode", ["Managed", "Adopted"])
@pytest.mark.parametrize("what", SPOILERS)
async def test_a_write_planned_on_an_old_version_conflicts(kube, ours, namespace, mode, what):
    live = await created(kube, namespace, ref("v1", 100), ref("v2", 0))
    body = template()
    where = httproute.RouteTarget(
        rollout="demo",
        namespace=namespace,
        spec=managed() if mode == "Managed" else adopted(),
        template=body if mode == "Managed" else None,
    )
    answer = httproute.render(live, where, desired(10))
    SPOILERS[what](live)
    live = await kube.patch(
        kinds.HTTP_ROUTE,
        namespace,
        "route",
        {"metadata": {"labels": live["metadata"].get("labels")}, "spec": live["spec"]},
        kind=PatchKind.MERGE,
    )
    with pytest.raises(Conflict):
        await write(ours, kinds.HTTP_ROUTE, namespace, "route", answer)
    assert (await kube.get(kinds.HTTP_ROUTE, namespace, "route"))["spec"] == live["spec"]


async def test_an_inference_model_made_and_adopted(kube, ours, namespace):
    spec = AdapterTraffic(kind=MODEL_KIND, name="lora", model_name="travelhelper", pool_name="pool")
    where = ModelTarget(rollout="demo", namespace=namespace, spec=spec)
    live = None
    for percent, names in ((0, ["a1"]), (10, ["a1", "a2"]), (100, ["a2"])):
        wanted = DesiredTraffic(stable=adapter("a1"), canary=adapter("a2"), weight=Weight(percent * 100))
        answer = inference_model.render(live, where, wanted)
        live = await write(ours, kinds.INFERENCE_MODEL, namespace, "lora", answer)
        assert [item["name"] for item in live["spec"]["targetModels"]] == names
        assert inference_model.render(live, where, wanted) is None
    critical = {"spec": {"criticality": "Critical"}, "metadata": {"labels": None}}
    live = await kube.patch(kinds.INFERENCE_MODEL, namespace, "lora", critical, kind=PatchKind.MERGE)
    wanted = DesiredTraffic(stable=adapter("a1"), canary=adapter("a2"), weight=Weight(2500))
    answer = inference_model.render(live, where, wanted)
    assert isinstance(answer, JsonPatch)
    live = await write(ours, kinds.INFERENCE_MODEL, namespace, "lora", answer)
    assert {item["name"]: item["weight"] for item in live["spec"]["targetModels"]} == {"a1": 75, "a2": 25}
    assert live["spec"]["criticality"] == "Critical"
