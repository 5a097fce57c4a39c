"""What makes a pool's pods, as the controller finds it, and what it knows of those pods."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import pytest

from rollouts.api.parsing import ParsedRollout, parse_rollout
from rollouts.controller.caches import Caches
from rollouts.controller.draining import PodDrains
from rollouts.controller.pool_views import PoolViews
from rollouts.controller.wakes import on_rollout_change
from rollouts.controller.workloads import ScaleFailure, ScaleRefusals, WorkloadViews
from rollouts.engine.attempt import Attempt, AttemptCapacity
from rollouts.engine.observation import Blocker, WorkloadView
from rollouts.engine.reasons import Reason
from rollouts.engine.revision import revision_of
from rollouts.engine.rollout_spec import TrafficMode
from rollouts.engine.rollout_status import EntryRef, RolloutStatus, ScaleDown, StableScale, WayBack
from rollouts.engine.versions import Identity
from rollouts.kube.client import Resource
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.objects import kinds
from rollouts.objects.pools import Pool
from rollouts.objects.workloads import (
    AUTOSCALERS,
    WORKLOAD_ANNOTATION,
    WORKLOADS,
    pod_labels,
    read_workload,
)
from rollouts.runtime.clock import SystemClock
from rollouts.runtime.objects import ObjectKey
from rollouts.traffic.wayback import propose
from tests.kit.faults.deployments import autoscaler_object
from tests.kit.groups import group
from tests.kit.memory_client import MemoryKubeClient

GROUP = kinds.POOL_V1.group
V1, V2 = (Identity(kind="InferencePool", group=GROUP, name=name) for name in ("v1", "v2"))
WORDS = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
Object = dict[str, Any]


class Busy:
    """Pods that answer ``count`` requests."""

    count: int | None = 5

    def requests(self, pool: Pool) -> int | None:
        return 0 if pool.name == "quiet" else self.count

    def loads(self, pool: Pool) -> Mapping[str, int]:
        return {}

    def uncontrollable(self, pool: Pool) -> str:
        return ""

    def unlisted(self, pool: Pool) -> str:
        return ""

    def leaving(self, pool: Pool, names: Collection[str], *, hidden: float = 0.0) -> Mapping[str, int | None]:
        return dict.fromkeys(names, self.count)


class Cluster:
    """Caches that are filled by hand."""

    def __init__(self, *kinds_that_may: str) -> None:
        self.clock = SystemClock()
        self.client = MemoryKubeClient(MemoryApi(clock=self.clock))
        may = kinds_that_may or ("Deployment", "StatefulSet")
        self.caches = Caches(self.client, self.clock, capacity_kinds=may)
        self.version = 0

    def put(self, resource: Resource, name: str, *, namespace: str = "default", **fields: Any) -> None:
        self.version += 1
        meta = fields.pop("metadata", {})
        meta = {
            "name": name,
            "namespace": namespace,
            "uid": name,
            "resourceVersion": str(self.version),
            **meta,
        }
        obj = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": meta, **fields}
        self.caches.by_resource()[resource].apply(obj)

    def pool(self, name: str, annotation: str = "", **labels: str) -> None:
        meta = {"annotations": {WORKLOAD_ANNOTATION: annotation}} if annotation else {}
        spec = {"selector": {"matchLabels": labels or {"app": name}}, "targetPorts": [{"number": 8000}]}
        self.put(kinds.POOL_V1, name, metadata=meta, spec=spec)

    def workload(self, name: str, *, kind: str = "Deployment", replicas: int | None = 0, **more: Any) -> None:
        labels = more.pop("labels", {"app": "v2", "more": "yes"})
        spec = {"template": {"metadata": {"labels": labels}}}
        self.put(
            WORKLOADS[kind], name, spec=spec | ({} if replicas is None else {"replicas": replicas}), **more
        )

    def pod(
        self, name: str, *, app: str = "v2", conditions: Any = (), phase: str = "Running", **meta: Any
    ) -> None:
        status = {"phase": phase, "podIP": "10.0.0.1", "conditions": list(conditions)}
        self.put(kinds.POD, name, metadata={"labels": {"app": app}, **meta}, status=status)

    def view(self, arm: Identity = V2, *, loses: bool = False) -> WorkloadView | None:
        spec = {
            "target": {"pool": {"name": "v2"}},
            "traffic": {"httpRoutes": [{"name": "r"}]},
            "strategy": {"canary": {"steps": [{"setWeight": 10}], "capacity": {}}},
        }
        rollout = {"metadata": {"name": "demo", "namespace": "default", "uid": "u"}, "spec": spec}
        downs = (ScaleDown(identity=arm),) if loses else ()
        status = RolloutStatus(stable=revision_of(V1, ""), scale_downs=downs)
        parsed = replace(parse_rollout(rollout), status=status)
        said = {
            ("default", V1, True): ScaleFailure("forbidden"),
            ("default", V1, False): ScaleFailure("over quota"),
        }
        return self.views(parsed, said).get(arm)

    def views(
        self, parsed: ParsedRollout, said: ScaleRefusals | None = None
    ) -> Mapping[Identity, WorkloadView]:
        drains = PodDrains(self.client, self.caches, self.clock, Busy())
        return WorkloadViews(self.caches, Busy(), said or {}, drains).views(parsed, V2)

    def problem(self) -> str:
        found = self.view()
        assert found is not None
        assert found.problem is not None
        assert found.problem.reason is Reason.CAPACITY_UNKNOWN
        return found.problem.message


@pytest.mark.parametrize(("kind", "replicas"), [("Deployment", 0), ("StatefulSet", 3)])
def test_the_one_workload_that_matches_is_found_also_at_nothing(kind: str, replicas: int) -> None:
    cluster = Cluster()
    cluster.pool("v2")
    cluster.workload("vllm", kind=kind, replicas=replicas)
    cluster.workload("other", labels={"app": "other"})
    found = cluster.view()

    assert found is not None
    assert (found.problem, found.what, found.replicas) == (None, f"{kind} vllm", replicas)


def test_replicas_that_are_left_out_are_one() -> None:
    cluster = Cluster()
    cluster.pool("v2")
    cluster.workload("vllm", replicas=None)
    found = cluster.view()

    assert found is not None
    assert found.replicas == 1


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "LeaderWorkerSet"])
def test_what_is_kept_of_a_workload_reads_as_all_of_it_would(kind: str) -> None:
    cluster, resource = Cluster("Deployment", "StatefulSet", "LeaderWorkerSet"), WORKLOADS[kind]
    template = {"metadata": {"labels": {"app": "v2"}}, "spec": {"containers": [{"name": "vllm"}]}}
    owners = [{"kind": "LLMInferenceService", "name": "llm", "controller": True}]
    meta = {
        "name": "w",
        "namespace": "default",
        "uid": "w",
        "resourceVersion": "7",
        "ownerReferences": owners,
    }
    spec: Object = {"replicas": 3, "template": template, "ordinals": {"start": 2}, "serviceName": "w"}
    if kind == "LeaderWorkerSet":
        spec = {"replicas": 3, "leaderWorkerTemplate": {"size": 2, "workerTemplate": template}}
    raw = {"apiVersion": resource.api_version, "kind": kind, "metadata": meta, "spec": spec, "status": {}}
    cluster.caches.workloads[resource].apply(raw)
    kept = cluster.caches.workloads[resource].get(ObjectKey("default", "w"))

    assert kept is not None
    assert read_workload(resource, kept) == read_workload(resource, raw)
    assert pod_labels(kept) == pod_labels(raw)
    assert "status" not in kept


def test_labels_that_only_pods_have_are_not_asked_of_a_template() -> None:
    cluster = Cluster()
    cluster.pool("v2", app="v2", **{"pod-template-hash": "abc"})
    cluster.workload("vllm")
    found = cluster.view()

    assert found is not None
    assert found.problem is None


def test_none_and_several_are_told_with_their_names() -> None:
    cluster = Cluster()
    cluster.pool("v2")
    assert (
        "no Deployment or StatefulSet has a Pod template that matches the selector of v2" in cluster.problem()
    )

    cluster.workload("a")
    cluster.workload("b", kind="StatefulSet")
    assert "apps/v1/Deployment/a, apps/v1/StatefulSet/b" in cluster.problem()


def test_the_annotation_chooses_and_the_template_must_match_all_the_same() -> None:
    cluster = Cluster()
    cluster.pool("v2", "apps/v1/Deployment/b")
    cluster.workload("a", replicas=0)
    cluster.workload("b", replicas=2)
    found = cluster.view()
    assert found is not None
    assert found.what == "Deployment b"

    cluster.workload("a", replicas=1)
    assert "apps/v1/Deployment/a makes pods of v2 as well as apps/v1/Deployment/b" in cluster.problem()

    cluster.pool("v2", "apps/v1/Deployment/c")
    cluster.workload("c", labels={"app": "c"})


def test_a_kind_that_may_not_be_scaled_is_not_seen() -> None:
    cluster = Cluster("StatefulSet")
    cluster.pool("v2")

    assert WORKLOADS["Deployment"] not in cluster.caches.by_resource()
    assert "no StatefulSet has" in cluster.problem()


def test_without_the_right_the_setting_is_named() -> None:
    cluster = Cluster("none")
    cluster.pool("v2")

    assert not cluster.caches.by_resource().keys() & set(AUTOSCALERS)
    assert "capacity.enabled" in cluster.problem()


def test_pods_are_counted_until_they_have_ended() -> None:
    cluster = Cluster()
    cluster.pool("v2")
    cluster.workload("vllm", replicas=2)
    no_node = {"type": "PodScheduled", "status": "False", "message": f"{WORDS} preemption: no victims found"}
    cluster.pod("ready", conditions=[{"type": "Ready", "status": "True"}])
    cluster.pod("ending", deletionTimestamp="2026-01-01T00:00:00Z")
    cluster.pod("waiting", conditions=[no_node], phase="Pending")
    cluster.pod("over", phase="Failed")
    cluster.pod("other", app="other")
    found = cluster.view()

    assert found is not None
    assert (found.live, found.pods, found.pending, found.words) == (3, 3, 1, WORDS)


@pytest.mark.parametrize("autoscaler", AUTOSCALERS, ids=lambda one: one.kind)
@pytest.mark.parametrize("name", ["vllm", "other"])
def test_an_autoscaler_of_it_is_named(autoscaler: Resource, name: str) -> None:
    cluster = Cluster()
    cluster.pool("v2")
    cluster.workload("vllm")
    cluster.put(autoscaler, name, spec=autoscaler_object(name)["spec"])
    found = cluster.view()

    assert found is not None
    assert found.managed_by == (f"{autoscaler.kind} vllm" if name == "vllm" else "")


def test_two_autoscalers_of_one_name_are_two() -> None:
    """What AIBrix makes of its own has another name; that of one which somebody forgot may be the same."""
    cluster = Cluster()
    cluster.pool("v2")
    cluster.workload("vllm")
    for autoscaler, target in zip(AUTOSCALERS, ("vllm", "other"), strict=True):
        cluster.put(autoscaler, "auto", spec=autoscaler_object(target)["spec"])
    found = cluster.view()

    assert found is not None
    assert found.managed_by == "HorizontalPodAutoscaler auto"


def test_the_controller_that_owns_it_is_named() -> None:
    cluster = Cluster()
    cluster.pool("v2")
    owners = [
        {"kind": "Whatever", "name": "w"},
        {"kind": "LLMInferenceService", "name": "llm", "controller": True},
    ]
    cluster.workload("vllm", metadata={"ownerReferences": owners})
    found = cluster.view()

    assert found is not None
    assert found.managed_by == "LLMInferenceService llm"


def _route(name: str, weight: int | None, *, namespace: str = "default") -> Object:
    ref: Object = {"group": GROUP, "kind": "InferencePool", "name": "v1"}
    if weight is not None:
        ref["weight"] = weight
    if namespace != "default":
        ref["namespace"] = "default"
    return {"name": name, "namespace": namespace, "spec": {"rules": [{"backendRefs": [ref]}]}}


@pytest.mark.parametrize(
    ("route", "used_by"),
    [
        (_route("other", 1), "HTTPRoute other"),
        (_route("other", None), "HTTPRoute other"),
        (_route("other", 0), ""),
        (_route("far", 1, namespace="elsewhere"), "HTTPRoute far"),
        (_route("far", 0, namespace="elsewhere"), ""),
    ],
    ids=repr,
)
def test_routes_that_send_requests_to_what_lost_are_named(route: Object, used_by: str) -> None:
    cluster = Cluster()
    cluster.pool("v1")
    cluster.workload("old", labels={"app": "v1"}, replicas=4)
    cluster.put(kinds.HTTP_ROUTE, **route)
    lost, stays = cluster.view(V1, loses=True), cluster.view(V1)

    assert lost is not None
    assert stays is not None
    assert (lost.used_by, lost.in_flight, lost.refused) == (used_by, 5, "forbidden")
    assert (stays.used_by, stays.in_flight, stays.refused) == ("", None, "over quota")


def test_stable_on_its_way_back_is_looked_at_whatever_has_become_of_the_spec() -> None:
    cluster = Cluster()
    cluster.pool("v1")
    cluster.workload("v1", labels={"app": "v1"}, replicas=4)
    scale = StableScale(identity=V1, full=4, wanted=1, most=5)
    status = RolloutStatus(stable=revision_of(V1, ""), stable_scale=scale)
    parsed = replace(parse_rollout({"metadata": {"name": "demo", "namespace": "default"}}), status=status)

    assert parsed.spec is None
    assert cluster.views(parsed)[V1].replicas == 4


@pytest.mark.parametrize(
    ("named", "rule", "used_by"),
    [
        ([], "chat", ""),
        (["chat"], "chat", ""),
        (["chat"], "batch", "HTTPRoute r"),
        (["chat"], "edited", ""),
        (None, "chat", ""),
    ],
)
@pytest.mark.parametrize("elsewhere", [False, True])
def test_weights_of_the_rollouts_own_route_are_no_use_by_others(
    named: list[str] | None, rule: str, used_by: str, elsewhere: bool
) -> None:
    """On the way back a version that lost has some, and stable that gives pods always has; without a spec, too.

    What a record gives back is the Rollout's own whatever the spec says by now; what it spares never was.
    """
    cluster = Cluster()
    for name in ("v1", "v2"):
        cluster.pool(name)
        cluster.workload(name, labels={"app": name}, replicas=4)
    refs = [{"group": GROUP, "kind": "InferencePool", "name": name, "weight": 50} for name in ("v1", "v2")]
    cluster.put(kinds.HTTP_ROUTE, "r", spec={"rules": [{"name": rule, "backendRefs": refs}]})
    route = {"name": "r", "ruleNames": named} if named else {"name": "r"}
    route = {"name": "edited"} if elsewhere else route
    spec = {
        "target": {"pool": {"name": "v2"}},
        "traffic": {"httpRoutes": [route]},
        "strategy": {"canary": {"steps": [{"setWeight": 10}], "capacity": {"maxSurge": 1, "minStable": 1}}},
    }
    rollout = {"metadata": {"name": "demo", "namespace": "default", "uid": "u"}}
    parsed = parse_rollout({**rollout, "spec": spec} if named is not None else rollout)
    way = WayBack(
        kind="HTTPRoute",
        group="gateway.networking.k8s.io",
        name="r",
        mode=TrafficMode.ADOPTED,
        stable=EntryRef(kind="InferencePool", group=GROUP, name="v1"),
        canary=EntryRef(kind="InferencePool", group=GROUP, name="v2"),
    )
    if rule == "batch":
        obj = cluster.caches.routes.get(ObjectKey("default", "r"))
        way = propose(obj, way, chosen=())
    lent = StableScale(identity=V1, full=4, wanted=4, most=5, returning=True)
    status = RolloutStatus(
        stable=revision_of(V1, ""),
        scale_downs=(ScaleDown(identity=V2),),
        stable_scale=lent,
        way_back=(way,),
    )
    views = cluster.views(replace(parsed, status=status))

    assert views[V2].used_by == used_by
    assert elsewhere or named is None or views[V1].used_by == used_by


@pytest.mark.parametrize("mirrored", ["v1", "v2"])
def test_a_mirror_to_what_lost_is_named(mirrored: str) -> None:
    cluster = Cluster()
    cluster.pool("v1")
    cluster.workload("old", labels={"app": "v1"}, replicas=4)
    ref = {"group": GROUP, "kind": "InferencePool", "name": mirrored}
    copies = [{"type": "RequestMirror", "requestMirror": {"backendRef": ref}}]
    cluster.put(kinds.HTTP_ROUTE, "mymodel", spec={"rules": [{"filters": copies}]})
    lost = cluster.view(V1, loses=True)

    assert lost is not None
    assert lost.used_by == ("a mirror of HTTPRoute mymodel" if mirrored == "v1" else "")


@pytest.mark.parametrize(
    ("selector", "used_by"),
    [
        ({"app": "v1"}, "a mirror of HTTPRoute copies"),
        ({"app": "v1", "pod-template-hash": "abc"}, "a mirror of HTTPRoute copies"),
        ({"pod-template-hash": "new"}, "a mirror of HTTPRoute copies"),
        ({"app": "v1", "pod-template-hash": "other"}, ""),
        ({"app": "v2"}, ""),
        ({}, ""),
    ],
    ids=repr,
)
def test_a_mirror_through_a_service_in_front_of_the_pods_is_named(
    selector: dict[str, str], used_by: str
) -> None:
    """Also where it selects pods of the workload that the pool itself does not."""
    cluster = Cluster()
    cluster.pool("v1", app="v1", **{"pod-template-hash": "abc"})
    cluster.workload("old", labels={"app": "v1"}, replicas=2)
    for name, template in (("a", "abc"), ("b", "new")):
        cluster.pod(name, labels={"app": "v1", "pod-template-hash": template})
    cluster.put(kinds.SERVICE, "behind", spec={"selector": selector})
    mirror = {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "behind", "port": 80}}}
    cluster.put(kinds.HTTP_ROUTE, "copies", spec={"rules": [{"filters": [mirror], "backendRefs": []}]})
    lost = cluster.view(V1, loses=True)

    assert lost is not None
    assert lost.used_by == used_by


def test_another_pool_over_the_same_pods_is_used_as_well() -> None:
    cluster = Cluster()
    cluster.pool("v1")
    cluster.pool("twin", app="v1")
    cluster.workload("old", labels={"app": "v1"}, replicas=4)
    ref = {"group": GROUP, "kind": "InferencePool", "name": "twin"}
    cluster.put(kinds.HTTP_ROUTE, "other", spec={"rules": [{"backendRefs": [ref]}]})
    lost = cluster.view(V1, loses=True)

    assert lost is not None
    assert lost.used_by == "HTTPRoute other"


@pytest.mark.parametrize(
    ("fields", "used_by"),
    [
        ({"spec": {"target": {"pool": {"name": "v1"}}}}, "Rollout other"),
        ({"spec": {}, "status": {"stable": {"kind": "InferencePool", "name": "v1"}}}, "Rollout other"),
        ({"spec": {}, "status": {"history": [{"kind": "InferencePool", "name": "v1"}]}}, ""),
    ],
    ids=repr,
)
def test_another_rollout_that_needs_the_pool_is_named(fields: Object, used_by: str) -> None:
    cluster = Cluster()
    cluster.pool("v1")
    cluster.workload("old", labels={"app": "v1"}, replicas=4)
    cluster.put(kinds.ROLLOUT, "other", **fields)
    lost = cluster.view(V1, loses=True)

    assert lost is not None
    assert lost.used_by == used_by


def _without_pool(status: RolloutStatus) -> ParsedRollout:
    spec = {
        "target": {"pool": {"name": "v3"}},
        "traffic": {"httpRoutes": [{"name": "r"}]},
        "strategy": {"canary": {"steps": [{"setWeight": 10}], "capacity": {"maxSurge": 1}}},
    }
    rollout = {"metadata": {"name": "demo", "namespace": "default", "uid": "u"}, "spec": spec}
    return replace(parse_rollout(rollout), status=status)


@pytest.mark.parametrize("where", ["lost", "canary"])
def test_pods_of_a_pool_that_is_gone_count_by_the_labels_that_were_kept(where: str) -> None:
    """Not those that another version's pool selects by now: the same pods under another name."""
    cluster = Cluster()
    cluster.pool("v2")
    cluster.workload("vllm", replicas=2)
    for name, labels in (
        ("ends", {"app": "v1", "more": "yes"}),
        ("renamed", {"app": "v2", "more": "yes"}),
        ("other", {"app": "v1"}),
    ):
        cluster.pod(name, labels=labels)
    cluster.pod("gone-soon", labels={"more": "yes"}, deletionTimestamp="2026-01-01T00:00:00Z")
    stable = revision_of(V2, "")
    canary = Attempt(canary=revision_of(V1, ""), capacity=AttemptCapacity(wanted=2, selector="more=yes"))
    status = (
        RolloutStatus(stable=stable, scale_downs=(ScaleDown(identity=V1, selector="more=yes"),))
        if where == "lost"
        else RolloutStatus(stable=stable, current=canary)
    )
    found = cluster.views(_without_pool(status))[V1]
    for name in ("ends", "gone-soon"):
        cluster.caches.pods.remove(cluster.caches.pods.get(ObjectKey("default", name)) or {})
    later = cluster.views(_without_pool(status))

    assert (found.live, found.replicas, found.ending, found.what) == (2, 1, 1, "")
    assert found.selector == "more=yes"
    assert found.problem == Blocker(reason=Reason.CAPACITY_UNKNOWN, message="InferencePool v1 is gone")
    assert V1 not in later


@pytest.mark.parametrize("kept", ["", "=", "a", "a=b,", ",".join(f"l{n}=v" for n in range(3)) + ",x"])
def test_labels_that_say_nothing_count_no_pods(kept: str) -> None:
    cluster = Cluster()
    cluster.pod("any", labels={"a": "b", "l0": "v"})
    status = RolloutStatus(stable=revision_of(V2, ""), scale_downs=(ScaleDown(identity=V1, selector=kept),))

    assert V1 not in cluster.views(_without_pool(status))


def test_the_labels_of_a_pool_are_said_unless_they_are_too_many() -> None:
    cluster = Cluster()
    cluster.pool("v2", app="v2", more="yes")
    cluster.workload("vllm")
    found = cluster.view()
    cluster.pool("v2", **{f"label-{number}": "x" * 60 for number in range(100)})
    many = cluster.view()

    assert found is not None
    assert many is not None
    assert (found.selector, many.selector) == ("app=v2,more=yes", "")


def test_nothing_is_looked_at_where_nobody_asks() -> None:
    cluster = Cluster()
    cluster.pool("v1")
    spec = {
        "target": {"pool": {"name": "v2"}},
        "traffic": {"httpRoutes": [{"name": "r"}]},
        "strategy": {"canary": {"steps": [{"setWeight": 10}]}},
    }
    parsed = parse_rollout({"metadata": {"name": "demo", "namespace": "default"}, "spec": spec})

    assert cluster.views(parsed) == {}


def test_a_change_of_a_workload_or_its_autoscaler_is_news_to_the_rollout() -> None:
    cluster = Cluster()
    heard: list[str] = []
    on_rollout_change(cluster.caches, lambda key: heard.append(key.name))
    cluster.put(kinds.ROLLOUT, "demo", spec={"target": {"pool": {"name": "v2"}}})
    cluster.pool("v2")
    heard.clear()
    cluster.workload("vllm")
    assert set(heard) == {"demo"}
    for autoscaler in AUTOSCALERS:
        heard.clear()
        cluster.put(autoscaler, "vllm", spec=autoscaler_object("vllm")["spec"])
        assert set(heard) == {"demo"}


# --- groups ---

LWS = WORKLOADS["LeaderWorkerSet"]
PREFIX = "leaderworkerset.sigs.k8s.io"
LEADERS = {f"{PREFIX}/name": "vllm", f"{PREFIX}/worker-index": "0"}


def groups(
    *kinds_that_may: str, sizes: tuple[int, ...] = (2, 2), selector: dict[str, str] | None = None
) -> Cluster:
    """A LeaderWorkerSet with what its controller makes; pools of it select its leaders."""
    cluster = Cluster(*(kinds_that_may or ("Deployment", "StatefulSet", "LeaderWorkerSet")))
    cluster.pool("v2", **(selector or LEADERS))
    if LWS in cluster.caches.workloads:
        templates = {"size": 2, "workerTemplate": {"metadata": {"labels": {"app": "v2"}}}}
        cluster.put(LWS, "vllm", spec={"replicas": len(sizes), "leaderWorkerTemplate": templates})
    owner = {"kind": LWS.kind, "name": "vllm", "controller": True}
    cluster.workload(
        "vllm", kind="StatefulSet", labels=LEADERS | {"app": "v2"}, metadata={"ownerReferences": [owner]}
    )
    for index, size in enumerate(sizes):
        leader = {"kind": "Pod", "name": f"vllm-{index}", "controller": True}
        labels = {"app": "v2", f"{PREFIX}/name": "vllm", f"{PREFIX}/group-index": str(index)}
        cluster.workload(
            f"vllm-{index}", kind="StatefulSet", labels=labels, metadata={"ownerReferences": [leader]}
        )
        for pod in group("vllm", index, size, app="v2", workers_app="v2"):
            cluster.put(kinds.POD, pod["metadata"]["name"], metadata=pod["metadata"], status=up())
    return cluster


def up(ready: bool = True) -> Object:
    condition = {"type": "Ready", "status": str(ready)}
    return {"phase": "Running", "podIP": "10.0.0.1", "conditions": [condition]}


def ready_pods(cluster: Cluster) -> int:
    parsed = parse_rollout({"metadata": {"name": "demo", "namespace": "default"}})
    return PoolViews(cluster.caches).view(parsed, V2).ready_endpoints


@pytest.mark.parametrize("selector", [LEADERS, {"app": "v2"}, {"app": "v2", **LEADERS}])
def test_a_set_of_groups_is_the_workload_and_not_what_it_makes(selector: dict[str, str]) -> None:
    cluster = groups(selector=selector)
    found = cluster.view()

    assert found is not None
    assert (found.problem, found.what, found.replicas, found.live) == (None, "LeaderWorkerSet vllm", 2, 2)
    assert found.managed_by == ""
    assert ready_pods(cluster) == 2


def test_a_set_that_may_not_be_scaled_manages_what_it_makes() -> None:
    found = groups("Deployment", "StatefulSet").view()

    assert found is not None
    assert (found.what, found.managed_by) == ("StatefulSet vllm", "LeaderWorkerSet vllm")


def test_a_group_whose_worker_is_not_ready_does_not_serve() -> None:
    cluster = groups()
    worker = group("vllm", 1, 2)[1]["metadata"]
    before = ready_pods(cluster)
    cluster.put(kinds.POD, worker["name"], metadata=worker, status=up(ready=False))

    assert (before, ready_pods(cluster)) == (2, 1)


def test_workers_that_end_after_their_leader_still_hold_their_gpus() -> None:
    cluster = groups()
    leader = cluster.caches.pods.get(ObjectKey("default", "vllm-1"))
    assert leader is not None
    cluster.caches.pods.remove(leader)
    found = cluster.view()

    assert found is not None
    assert found.live == 2
    assert ready_pods(cluster) == 1


def test_a_group_is_pending_once_however_many_of_its_pods_are() -> None:
    cluster = groups(sizes=(3, 3))
    for pod in group("vllm", 1, 3)[1:]:
        condition = {"type": "PodScheduled", "status": "False", "message": WORDS}
        cluster.put(
            kinds.POD, pod["metadata"]["name"], metadata=pod["metadata"], status={"conditions": [condition]}
        )
    found = cluster.view()

    assert found is not None
    assert (found.live, found.pending, found.words) == (2, 1, WORDS)


@pytest.mark.parametrize("may", [(), ("StatefulSet",)])
def test_a_worker_is_news_to_the_rollout_although_its_pool_selects_leaders(may: tuple[str, ...]) -> None:
    cluster = groups(*may, selector={"app": "v2", f"{PREFIX}/worker-index": "0"})
    spec = {"target": {"pool": {"name": "v2"}}, "traffic": {"httpRoutes": [{"name": "r"}]}}
    cluster.put(kinds.ROLLOUT, "demo", spec=spec)
    told: list[ObjectKey] = []
    on_rollout_change(cluster.caches, told.append)
    worker = group("vllm", 0, 2, workers_app="workers")[1]["metadata"]
    cluster.put(kinds.POD, worker["name"], metadata=worker, status=up(ready=False))

    assert set(told) == {ObjectKey("default", "demo")}


def test_accelerators_are_those_of_pods_that_have_a_node() -> None:
    cluster = Cluster()
    cluster.pool("v2")
    cluster.workload("vllm-v2", replicas=3)
    asks = {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "4"}}}, {"ports": [{"name": "grpc"}]}]}
    for name, more in (("a", {"nodeName": "n"}), ("b", {"nodeName": "n"}), ("c", {})):
        labels = {"labels": {"app": "v2"}}
        cluster.put(kinds.POD, name, metadata=labels, spec=asks | more, status={"phase": "Running"})

    found = cluster.view()

    assert found is not None
    assert (found.live, found.accelerators) == (3, 8)


def test_accelerators_of_a_pool_with_two_workloads_are_counted_as_well() -> None:
    cluster = Cluster()
    cluster.pool("v2")
    cluster.workload("one")
    cluster.workload("two")
    asks = {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "4"}}}], "nodeName": "n"}
    cluster.put(kinds.POD, "a", metadata={"labels": {"app": "v2"}}, spec=asks, status={"phase": "Running"})

    found = cluster.view()

    assert found is not None
    assert found.problem is not None
    assert found.accelerators == 4
