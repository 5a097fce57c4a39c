"""What ``doctor`` finds in clusters that lack one thing each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from rollouts.cli.doctor import diagnose
from rollouts.cli.findings import Level
from rollouts.kube.client import ListPage, Resource
from rollouts.kube.errors import Forbidden, KindNotServed, NotFound
from rollouts.objects import kinds

ARGO_ROLLOUTS = Resource("argoproj.io", "v1alpha1", "rollouts", "Rollout")
APPLICATION = Resource("argoproj.io", "v1alpha1", "applications", "Application")
CONFIG_MAP = Resource("", "v1", "configmaps", "ConfigMap")
WEIGHTS = "resource.customizations.ignoreDifferences.gateway.networking.k8s.io_HTTPRoute"
TRACKED = {"argocd.argoproj.io/tracking-id": "app:x"}
FLUX = {"kustomize.toolkit.fluxcd.io/name": "apps"}


class Cluster:
    """Objects by kind; a kind that is not a key is not served. Answers reviews by ``denied``."""

    def __init__(self) -> None:
        ours = (
            kinds.ROLLOUT,
            kinds.ANALYSIS_RUN,
            kinds.ANALYSIS_TEMPLATE,
            kinds.CLUSTER_ANALYSIS_TEMPLATE,
            kinds.HTTP_ROUTE,
            kinds.POOL_X,
            kinds.SERVICE,
        )
        self.objects: dict[Resource, dict[str, dict[str, Any]]] = {kind: {} for kind in ours}
        self.denied: set[str] = set()
        self.hidden: set[Resource] = set()
        self.reviews: list[Mapping[str, Any]] = []

    def add(self, resource: Resource, name: str, **parts: Any) -> dict[str, Any]:
        obj = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {}, **parts}
        obj["metadata"] = {"name": name, "namespace": "default", "annotations": {}, "labels": {}}
        self.objects.setdefault(resource, {})[name] = obj
        return obj

    def _of(self, resource: Resource) -> dict[str, dict[str, Any]]:
        if resource in self.hidden:
            raise Forbidden("no", status=403)
        if resource not in self.objects:
            raise KindNotServed("no", status=404)
        return self.objects[resource]

    async def get(self, resource: Resource, namespace: str | None, name: str) -> dict[str, Any]:
        found = self._of(resource).get(name)
        if found is None:
            raise NotFound("no", status=404)
        return copy.deepcopy(found)

    async def list_page(self, resource: Resource, namespace: str | None, **_: Any) -> ListPage:
        return ListPage(copy.deepcopy(list(self._of(resource).values())), "1")

    async def create(self, resource: Resource, namespace: str | None, obj: Any, **_: Any) -> dict[str, Any]:
        assert resource.kind == "SubjectAccessReview", "doctor only reads"
        self.reviews.append(obj["spec"])
        wanted = obj["spec"]["resourceAttributes"]
        return {**obj, "status": {"allowed": wanted["resource"] not in self.denied}}


def sound() -> Cluster:
    """An adopted route, its pool and picker."""
    cluster = Cluster()
    spec = {
        "target": {"pool": {"name": "v2"}},
        "traffic": {"httpRoutes": [{"name": "route"}]},
        "strategy": {"canary": {"steps": [{"setWeight": 10}]}},
    }
    cluster.add(kinds.ROLLOUT, "demo", spec=spec)
    route = cluster.add(kinds.HTTP_ROUTE, "route", spec={})
    route["metadata"]["annotations"]["inferencerollouts.dev/managed-by"] = "demo"
    cluster.add(kinds.POOL_X, "v2", spec={"extensionRef": {"name": "picker"}, "selector": {"app": "x"}})
    cluster.add(kinds.SERVICE, "picker")
    return cluster


def route_of(cluster: Cluster) -> dict[str, Any]:
    return cluster.objects[kinds.HTTP_ROUTE]["route"]["metadata"]


def managed(cluster: Cluster) -> None:
    spec = cluster.objects[kinds.ROLLOUT]["demo"]["spec"]
    spec["traffic"]["httpRoutes"][0]["template"] = {"rules": [{"name": "r"}]}
    route_of(cluster)["labels"]["inferencerollouts.dev/rollout"] = "demo"


def application(cluster: Cluster, *options: str, **spec: Any) -> None:
    cluster.add(
        APPLICATION,
        "app",
        spec={"syncPolicy": {"syncOptions": list(options)}, **spec},
        status={"resources": [{"kind": "HTTPRoute", "namespace": "default", "name": "route"}]},
    )


def argocd_cm(cluster: Cluster, **data: str) -> None:
    application(cluster, "ApplyOutOfSyncOnly=true")
    cluster.add(CONFIG_MAP, "argocd-cm", data=data)


def managed_and_tracked(cluster: Cluster) -> None:
    managed(cluster)
    route_of(cluster)["annotations"].update(TRACKED)


def picker_pod(cluster: Cluster, *, ready: bool, **ref: Any) -> None:
    cluster.objects[kinds.SERVICE]["picker"]["spec"] = {"selector": {"app": "picker"}}
    cluster.objects[kinds.POOL_X]["v2"]["spec"]["extensionRef"].update(ref)
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    pod = cluster.add(kinds.POD, "picker-0", status={"podIP": "127.0.0.9", "conditions": [condition]})
    pod["metadata"]["labels"] = {"app": "picker"}


def refused(cluster: Cluster) -> None:
    cluster.objects[kinds.HTTP_ROUTE]["route"]["spec"] = {"parentRefs": [{"name": "gw"}]}
    condition = {
        "type": "Accepted",
        "status": "False",
        "reason": "NotSupportedByGateway",
        "message": "weights",
    }
    parent = {"parentRef": {"name": "gw"}, "conditions": [condition]}
    cluster.objects[kinds.POOL_X]["v2"]["status"] = {"parent": [parent]}


MANAGERS = [{"kind": "HTTPRoute", "managedFieldsManagers": ["x"]}]
CASES: dict[str, tuple[Callable[[Cluster], Any], Level, str]] = {
    "a CRD is missing": (
        lambda c: c.objects.pop(kinds.ANALYSIS_RUN),
        Level.BAD,
        "CRDs are missing: AnalysisRun",
    ),
    "no HTTPRoute": (lambda c: c.objects.pop(kinds.HTTP_ROUTE), Level.WARN, "no HTTPRoute"),
    "no InferencePool": (lambda c: c.objects.pop(kinds.POOL_X), Level.BAD, "serves no InferencePool"),
    "Argo Rollouts beside": (lambda c: c.objects.update({ARGO_ROLLOUTS: {}}), Level.WARN, "Argo Rollouts"),
    "no consent": (lambda c: route_of(c)["annotations"].clear(), Level.BAD, "does not consent"),
    "consent to another": (
        lambda c: route_of(c)["annotations"].update({"inferencerollouts.dev/managed-by": "other"}),
        Level.BAD,
        "it names other",
    ),
    "no route": (lambda c: c.objects[kinds.HTTP_ROUTE].clear(), Level.BAD, "HTTPRoute route does not exist"),
    "no pool": (lambda c: c.objects[kinds.POOL_X].clear(), Level.BAD, "InferencePool v2 does not exist"),
    "no picker Service": (lambda c: c.objects[kinds.SERVICE].clear(), Level.BAD, "picker Service picker"),
    "no Ready pod behind the picker Service": (
        lambda c: picker_pod(c, ready=False),
        Level.BAD,
        "no pod behind its picker Service picker is Ready (1 pods)",
    ),
    "the same, and the gateway fails open": (
        lambda c: picker_pod(c, ready=False, failureMode="FailOpen"),
        Level.WARN,
        "FailOpen serves without it",
    ),
    "a gateway that refuses the pool": (
        lambda c: refused(c),
        Level.BAD,
        "Gateway gw says Accepted=False (NotSupportedByGateway: weights)",
    ),
    "a managed route in Git": (managed_and_tracked, Level.BAD, "Argo CD applies it too"),
    "an adopted route under Flux": (
        lambda c: route_of(c)["labels"].update(FLUX),
        Level.BAD,
        "Flux undoes the weights",
    ),
    "a pool that Argo CD may prune": (
        lambda c: c.objects[kinds.POOL_X]["v2"]["metadata"]["annotations"].update(TRACKED),
        Level.WARN,
        "Argo CD delete it while it serves",
    ),
    "a pool that Flux may prune": (
        lambda c: c.objects[kinds.POOL_X]["v2"]["metadata"]["labels"].update(FLUX),
        Level.WARN,
        "Flux delete it while it serves",
    ),
    "an Application that resets weights": (application, Level.BAD, "any sync resets the weights"),
    "an Application that freezes": (
        lambda c: application(c, "ApplyOutOfSyncOnly=true", "RespectIgnoreDifferences=true"),
        Level.BAD,
        "RespectIgnoreDifferences freezes",
    ),
    "an Application that freezes silently": (
        lambda c: application(c, "ApplyOutOfSyncOnly=true", ignoreDifferences=MANAGERS),
        Level.BAD,
        "managedFieldsManagers silently freezes",
    ),
    "argocd-cm without health": (argocd_cm, Level.WARN, "does not know the health"),
    "argocd-cm that compares weights": (argocd_cm, Level.WARN, "compares the weights"),
    "argocd-cm that freezes silently": (
        lambda c: argocd_cm(c, **{WEIGHTS: "managedFieldsManagers: [x]"}),
        Level.BAD,
        "argocd-cm: managedFieldsManagers",
    ),
    "a spec with a problem": (
        lambda c: c.objects[kinds.ROLLOUT]["demo"]["spec"].pop("target"),
        Level.BAD,
        "spec.target",
    ),
}


@pytest.mark.parametrize("name", CASES)
async def test_what_is_missing_is_found(name):
    change, level, part = CASES[name]
    cluster = sound()
    change(cluster)

    found = await diagnose(cluster, "default", None, None, "argocd")

    assert any(part in check.text and check.level is level and check.fix for check in found), found


@pytest.mark.parametrize("change", [lambda _: None, managed], ids=["adopted", "managed"])
async def test_a_sound_cluster_has_nothing_to_repair(change):
    cluster = sound()
    change(cluster)

    found = await diagnose(cluster, "default", "demo", "system/controller", "argocd")

    assert {check.level for check in found} == {Level.FINE}
    assert {review["user"] for review in cluster.reviews} == {"system:serviceaccount:system:controller"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: picker_pod(c, ready=True), "1 of 1 pods behind it are Ready"),
        (lambda c: picker_pod(c, ready=True, kind="WasmPlugin"), "is a WasmPlugin, not a Service"),
        (lambda c: None, "selects no pods: that one serves is taken on trust"),
    ],
    ids=["a Ready pod", "another kind", "no selector"],
)
async def test_what_is_taken_on_trust_is_said(change, said):
    cluster = sound()
    change(cluster)

    found = await diagnose(cluster, "default", "demo", None, "argocd")

    assert {check.level for check in found} == {Level.FINE}
    assert any(said in check.text for check in found), found


async def test_rights_that_the_controller_lacks_are_named():
    cluster = sound()
    cluster.denied = {"httproutes"}

    found = await diagnose(cluster, "default", "demo", "system/controller", "argocd")

    assert [check.text for check in found if check.level is Level.BAD] == [
        "system/controller may not patch httproutes in default"
    ]


async def test_an_application_that_holds_other_routes_is_left_alone():
    cluster = sound()
    application(cluster)
    cluster.objects[APPLICATION]["app"]["status"]["resources"][0]["name"] = "other"

    found = await diagnose(cluster, "default", None, None, "argocd")

    assert {check.level for check in found} == {Level.FINE}


async def test_kinds_that_may_not_be_read_do_not_end_the_examination():
    cluster = sound()
    cluster.hidden = {APPLICATION, CONFIG_MAP, kinds.ANALYSIS_TEMPLATE}

    found = await diagnose(cluster, "default", None, None, "argocd")

    assert {check.level for check in found} == {Level.FINE}
