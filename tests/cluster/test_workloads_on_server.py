"""Scales and marks as the controller writes them, on a real API server under the chart's role."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.api.parsing import ParsedRollout, parse_rollout
from rollouts.controller.caches import Caches
from rollouts.controller.draining import PodDrains
from rollouts.controller.gathered import Gathered
from rollouts.controller.pool_views import PoolViews
from rollouts.controller.scaling import WorkloadScaler
from rollouts.controller.workloads import find_workload
from rollouts.engine.actions import DrainPods, Plan, ScaleWorkload
from rollouts.engine.observation import Observation
from rollouts.engine.reasons import Reason
from rollouts.engine.revision import revision_of
from rollouts.engine.rollout_status import RolloutStatus
from rollouts.engine.versions import Identity
from rollouts.kube.client import PatchKind
from rollouts.kube.errors import Conflict, Forbidden
from rollouts.lab.controlplane import Upstream, install_upstream_crds
from rollouts.objects import kinds
from rollouts.objects.leaving import COST_ANNOTATION, IDLE
from rollouts.objects.pods import DRAINING_ANNOTATION
from rollouts.objects.workloads import WORKLOADS, Workload
from rollouts.runtime.clock import SystemClock
from tests.cluster.test_chart_on_server import install
from tests.kit.groups import group
from tests.kit.helm import render_chart
from tests.kit.httpclients import acting_as
from tests.kit.loads import KnownLoads

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(280)]

Object = dict[str, Any]
KINDS = ("Deployment", "StatefulSet", "LeaderWorkerSet")
ROLES = ("ServiceAccount", "Role", "RoleBinding")
POD_SPEC: Object = {"containers": [{"name": "vllm", "image": "vllm"}]}
NAMED = {"app": "v1"}


def _spec(kind: str) -> Object:
    template = {"metadata": {"labels": NAMED}, "spec": POD_SPEC}
    if kind == "LeaderWorkerSet":
        return {"replicas": 3, "leaderWorkerTemplate": {"size": 2, "workerTemplate": template}}
    return {"replicas": 3, "selector": {"matchLabels": NAMED}, "serviceName": "v1", "template": template}


class Place:
    """A pool, its workload and the workload's pods in a namespace, and the controller's caches of them."""

    def __init__(self, owner: Any, client: Any, namespace: str, kind: str) -> None:
        self.owner, self.client, self.namespace = owner, client, namespace
        self.resource = WORKLOADS[kind]
        self.v1 = Identity(kind="InferencePool", group=kinds.POOL_V1.group, name="v1")
        clock = SystemClock()
        self.caches = Caches(client, clock, namespaces=(namespace,), capacity_kinds=KINDS)
        self.drains = PodDrains(client, self.caches, clock, KnownLoads({f"v1-{n}": n for n in range(3)}))
        self.scaler = WorkloadScaler(
            client, self.caches, {}, rollout=self._unchanged, traffic=self._unchanged
        )

    async def _unchanged(self, gathered: Gathered) -> None:
        """Nothing moved on since the plan."""

    async def fill(self) -> None:
        meta = {"name": "v1", "namespace": self.namespace, "labels": NAMED}
        picker = {"name": "picker", "port": {"number": 9002}}
        pool = {
            "selector": {"matchLabels": NAMED},
            "targetPorts": [{"number": 8000}],
            "endpointPickerRef": picker,
        }
        await self._create(
            kinds.POOL_V1, {"metadata": meta, "spec": pool}, self.caches.pools[kinds.POOL_V1.group]
        )
        spec = _spec(self.resource.kind)
        if self.resource.kind == "Deployment":
            del spec["serviceName"]
        store = self.caches.workloads[self.resource]
        await self._create(self.resource, {"metadata": meta, "spec": spec}, store)
        for pod in self._pods():
            body = {"metadata": pod["metadata"] | {"namespace": self.namespace}, "spec": POD_SPEC}
            await self._create(kinds.POD, body, self.caches.pods)

    def _pods(self) -> list[Object]:
        pods = [pod for index in range(3) for pod in group("v1", index, 2)]
        for pod in pods:
            del pod["metadata"]["uid"]
        if self.resource.kind == "LeaderWorkerSet":
            return pods
        leaders = pods[::2]
        for pod in leaders:
            pod["metadata"]["labels"] = NAMED | {"pod-template-hash": "abc"}
            owner = pod["metadata"]["ownerReferences"][0]
            if self.resource.kind == "Deployment":
                owner |= {"kind": "ReplicaSet", "name": "v1-abc"}
        return leaders

    async def _create(self, resource: Any, body: Object, store: Any) -> None:
        made = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        store.apply(await self.owner.create(resource, self.namespace, made))

    def gathered(self, *actions: Any) -> tuple[Gathered, Plan]:
        raw = {"metadata": {"name": "demo", "namespace": self.namespace, "uid": "u"}}
        parsed: ParsedRollout = parse_rollout(raw)
        status = RolloutStatus(stable=revision_of(self.v1, ""))
        observation = Observation(
            namespace=self.namespace, name="demo", uid="u", generation=1, status=status, spec=None
        )
        gathered = Gathered(
            observation=observation,
            parsed=parsed,
            by_picker=None,
            rollout=raw,
            planned_version="1",
            traffic_object=None,
            carrier=None,
            ways={},
        )
        return gathered, Plan(status=status, actions=actions)

    def workload(self) -> Workload:
        pool = self.caches.pool(self.v1.group, self.namespace, "v1")
        assert pool is not None
        found = find_workload(self.caches, pool)
        assert isinstance(found, Workload)
        return found

    async def scale(self, replicas: int) -> None:
        action = ScaleWorkload(
            identity=self.v1,
            replicas=replicas,
            resource_version=self.workload().resource_version,
            beside=(),
            at_most=4,
        )
        async for event in self.scaler.scale(self.gathered()[0], [action], tell=True):
            assert event.reason == Reason.SCALED

    async def marks(self) -> dict[str, Object]:
        pods = (await self.owner.list_page(kinds.POD, self.namespace)).items
        found = {pod["metadata"]["name"]: pod["metadata"].get("annotations") or {} for pod in pods}
        ours = (DRAINING_ANNOTATION, COST_ANNOTATION)
        return {
            name: kept for name, said in found.items() if (kept := {k: said[k] for k in ours if k in said})
        }


@pytest.fixture
async def place(request: pytest.FixtureRequest, kube: Any, namespace: str, helm: Any) -> Place:
    wanted = [Upstream.LEADER_WORKER_SET] if request.param == "LeaderWorkerSet" else []
    await install_upstream_crds(kube, [Upstream.INFERENCE_V1, *wanted])
    objects = render_chart(helm, {"capacity": {"enabled": True, "kinds": list(KINDS)}}, namespace=namespace)
    await install(kube, [item for item in objects if item["kind"] in ROLES])
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
    client = acting_as(kube, f"system:serviceaccount:{namespace}:r-inference-rollouts", groups)
    made = Place(kube, client, namespace, request.param)
    await made.fill()
    return made


@pytest.mark.parametrize("place", KINDS, indirect=True)
async def test_each_kind_is_scaled_and_its_pods_are_marked_under_the_chart_s_role(place: Place) -> None:
    costs = {} if place.resource.kind != "Deployment" else {COST_ANNOTATION: str(IDLE)}
    going = "v1-0" if place.resource.kind == "Deployment" else "v1-2"
    stale = place.workload().resource_version
    _, plan = place.gathered(DrainPods(identity=place.v1, to=2))
    await place.drains.carry_out(place.gathered()[0].parsed, plan)
    marked = await place.marks()
    await place.scale(4)
    await place.scale(2)
    live = await place.owner.get(place.resource, place.namespace, "v1")
    cached = place.workload()
    body = {"metadata": {"resourceVersion": stale}, "spec": {"replicas": 9}}
    with pytest.raises(Conflict):
        await place.client.patch(
            place.resource, place.namespace, "v1", body, kind=PatchKind.MERGE, subresource="scale"
        )
    await place.scale(3)
    await place.drains.carry_out(place.gathered()[0].parsed, place.gathered()[1])

    assert marked == {going: {DRAINING_ANNOTATION: "Rollout demo", **costs}}
    assert live["spec"]["replicas"] == cached.replicas == 2
    assert cached.resource_version == live["metadata"]["resourceVersion"]
    assert await place.marks() == {}
    assert PoolViews(place.caches).view(place.gathered()[0].parsed, place.v1).ready_endpoints == 0


@pytest.mark.parametrize("place", ["Deployment"], indirect=True)
async def test_more_than_that_is_not_allowed(place: Place) -> None:
    status = {"status": {"phase": "Failed"}}
    with pytest.raises(Forbidden):
        await place.client.patch(
            kinds.POD, place.namespace, "v1-0", status, kind=PatchKind.MERGE, subresource="status"
        )
    with pytest.raises(Forbidden):
        await place.client.delete(kinds.POD, place.namespace, "v1-0")
    body = {"spec": {"replicas": 0}}
    with pytest.raises(Forbidden):
        await place.client.patch(place.resource, place.namespace, "v1", body, kind=PatchKind.MERGE)
