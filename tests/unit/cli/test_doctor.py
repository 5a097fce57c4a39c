"""What ``doctor`` finds in clusters that lack one thing each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from rollouts.cli.doctor import diagnose
from rollouts.cli.findings import Level
from rollouts.cli.gitops_ignored import ignore_key
from rollouts.kube.client import ListPage, Resource
from rollouts.kube.errors import Forbidden, KindNotServed, NotFound
from rollouts.objects import kinds
from rollouts.traffic.writes import label_value

ARGO_ROLLOUTS = Resource("argoproj.io", "v1alpha1", "rollouts", "Rollout")
APPLICATION = Resource("argoproj.io", "v1alpha1", "applications", "Application")
GATEWAY_CLASS = Resource(
    "gateway.networking.k8s.io", "v1", "gatewayclasses", "GatewayClass", namespaced=False
)
DEPLOYMENT = Resource("apps", "v1", "deployments", "Deployment")
CONFIG_MAP = Resource("", "v1", "configmaps", "ConfigMap")
WEIGHTS = "resource.customizations.ignoreDifferences.gateway.networking.k8s.io_HTTPRoute"
TRACKED = {"argocd.argoproj.io/tracking-id": "app:x"}
CHART = Path(__file__).parents[3] / "charts" / "inference-rollouts"
CONSENT = {"inferencerollouts.dev/managed-by": "demo"}
FLUX = {"kustomize.toolkit.fluxcd.io/name": "apps"}
FLUX_HELM = {"helm.toolkit.fluxcd.io/name": "models"}
HELM = {"meta.helm.sh/release-name": "models"}
KEPT = {
    "Argo CD, asking first": ({}, TRACKED | {"argocd.argoproj.io/sync-options": "Prune=confirm"}),
    "Argo CD with Helm's word": ({}, TRACKED | {"helm.sh/resource-policy": "keep"}),
    "Flux": (FLUX, {"kustomize.toolkit.fluxcd.io/prune": "disabled"}),
    "Helm": ({}, HELM | {"helm.sh/resource-policy": "keep"}),
}
LEFT_ALONE = {
    "Flux, written otherwise": (FLUX, {"kustomize.toolkit.fluxcd.io/ssa": "ifNotPresent"}),
    "Flux, not reconciled": (FLUX, {"kustomize.toolkit.fluxcd.io/reconcile": "disabled"}),
    "a HelmRelease without drift detection": (
        FLUX_HELM,
        {"helm.toolkit.fluxcd.io/driftDetection": "disabled"},
    ),
    "Helm, which compares with its last release": ({}, HELM),
}


class Cluster:
    """Objects by kind; a kind that is not a key is not served. Answers reviews by ``denied``."""

    def __init__(self) -> None:
        ours = (
            kinds.ROLLOUT,
            kinds.ANALYSIS_RUN,
            kinds.ANALYSIS_TEMPLATE,
            kinds.CLUSTER_ANALYSIS_TEMPLATE,
            kinds.ROLLOUT_STRATEGY,
            kinds.CLUSTER_ROLLOUT_STRATEGY,
            kinds.ROLLOUT_FREEZE,
            kinds.POOL_SPLIT,
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


def in_git(cluster: Cluster, resource: Resource, traffic: str, spec: dict[str, Any]) -> None:
    """An adapter Rollout whose model object is in Git, applied by Argo CD with all that routes need."""
    cluster.add(resource, "model", spec=spec)["metadata"]["annotations"] |= {
        "inferencerollouts.dev/managed-by": "demo",
        **TRACKED,
    }
    cluster.objects[kinds.ROLLOUT]["demo"]["spec"] |= {
        "target": {"adapter": {"name": "a2"}},
        "traffic": {traffic: {"name": "model", "modelName": "m", "poolRef": {"name": "v2"}}},
    }
    cluster.objects[kinds.POOL_X]["v2"]["metadata"]["annotations"]["argocd.argoproj.io/sync-options"] = (
        "Prune=false"
    )
    application(cluster, "ApplyOutOfSyncOnly=true")
    held = {"group": resource.group, "kind": resource.kind, "namespace": "default", "name": "model"}
    cluster.objects[APPLICATION]["app"]["status"]["resources"] = [held]


def shipped_cm() -> dict[str, str]:
    """argocd-cm with the chart's snippet merged."""
    text = (CHART / "argocd" / "argocd-cm-snippet.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text)["data"])


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


def shared_by_variants(cluster: Cluster, mode: str) -> None:
    """The pool's pods are split by their labels."""
    spec = cluster.objects[kinds.ROLLOUT]["demo"]["spec"]
    spec["target"] = {"variant": {"name": "v2", "labels": {"release": "v2"}}}
    spec["traffic"] = {"inferencePool": {"name": "v2"}}
    cluster.objects[kinds.POOL_X]["v2"]["spec"]["extensionRef"]["failureMode"] = mode


def refused(cluster: Cluster, *, kind: str = "Accepted", reason: str = "NotSupportedByGateway") -> None:
    cluster.objects[kinds.HTTP_ROUTE]["route"]["spec"] = {"parentRefs": [{"name": "gw"}]}
    condition = {
        "type": kind,
        "status": "False",
        "reason": reason,
        "message": "weights",
    }
    parent = {"parentRef": {"name": "gw"}, "conditions": [condition]}
    cluster.objects[kinds.POOL_X]["v2"]["status"] = {"parent": [parent]}


def behind(cluster: Cluster, controller: str, *images: str) -> None:
    """The route's Gateway and its class, and Deployments of these images."""
    cluster.objects[kinds.HTTP_ROUTE]["route"]["spec"] = {"parentRefs": [{"name": "gw"}]}
    cluster.add(kinds.GATEWAY, "gw", spec={"gatewayClassName": "gc"})
    cluster.add(GATEWAY_CLASS, "gc", spec={"controllerName": controller})
    for number, image in enumerate(images):
        containers = [{"name": "main", "image": image}]
        cluster.add(DEPLOYMENT, f"d{number}", spec={"template": {"spec": {"containers": containers}}})


def reporting(cluster: Cluster, controller: str) -> None:
    """A route whose Gateway may not be read: who reports on it is known."""
    route = cluster.objects[kinds.HTTP_ROUTE]["route"]
    route["status"] = {"parents": [{"parentRef": {"name": "gw"}, "controllerName": controller}]}


def moving(cluster: Cluster, *listed: Resource, there: tuple[Resource, ...] = kinds.POOLS) -> None:
    """The pool exists in these groups, and the route lists it in those."""
    cluster.objects[kinds.POOL_X].clear()
    for kind in there:
        cluster.add(kind, "v2", spec={"endpointPickerRef": {"name": "picker"}, "selector": {"app": "x"}})
    refs = [{"group": kind.group, "kind": "InferencePool", "name": "v2"} for kind in listed]
    cluster.objects[kinds.HTTP_ROUTE]["route"]["spec"] = {"rules": [{"backendRefs": refs}]}


def asking(cluster: Cluster, group: str) -> None:
    """The Rollout names the group of its pool."""
    cluster.objects[kinds.ROLLOUT]["demo"]["spec"]["target"]["pool"]["group"] = group


def foreign(cluster: Cluster, *, from_namespace: str = "default", hidden: bool = False) -> None:
    """The route lists a pool of another namespace, and a grant there is for routes of this one."""
    ref = {"group": kinds.POOL_V1.group, "kind": "InferencePool", "name": "v2", "namespace": "team-b"}
    cluster.objects[kinds.HTTP_ROUTE]["route"]["spec"] = {"rules": [{"name": "live", "backendRefs": [ref]}]}
    source = {"group": kinds.HTTP_ROUTE.group, "kind": "HTTPRoute", "namespace": from_namespace}
    target = {"group": kinds.POOL_V1.group, "kind": "InferencePool"}
    grant = cluster.add(kinds.REFERENCE_GRANT, "grant", spec={"from": [source], "to": [target]})
    grant["metadata"]["namespace"] = "team-b"
    cluster.hidden |= {kinds.REFERENCE_GRANT} if hidden else set()


def reported(cluster: Cluster, *conditions: tuple[str, str]) -> None:
    """What a gateway says of the route."""
    route = cluster.objects[kinds.HTTP_ROUTE]["route"]
    route["spec"] = {"parentRefs": [{"name": "gw"}]}
    said = [{"type": name, "status": status, "message": "why"} for name, status in conditions]
    entry = {"parentRef": {"name": "gw"}, "controllerName": "example.com/gateway", "conditions": said}
    route["status"] = {"parents": [entry] if said else []}


def released(cluster: Cluster, weights: dict[str, int]) -> None:
    """A route that a Rollout left behind, with these weights."""
    refs = [
        {"group": kinds.POOL_X.group, "kind": "InferencePool", "name": name, "weight": weight}
        for name, weight in weights.items()
    ]
    left = cluster.add(kinds.HTTP_ROUTE, "left", spec={"rules": [{"backendRefs": refs}]})
    left["metadata"]["annotations"]["inferencerollouts.dev/managed-by"] = "away"


def wave(number: int) -> dict[str, str]:
    return {"argocd.argoproj.io/sync-wave": str(number)}


def syncing(cluster: Cluster, message: str, phase: str = "Running") -> None:
    """An Application in the middle of a sync, which holds the Rollout and no route."""
    application(cluster)
    held = {"group": kinds.GROUP, "kind": "Rollout", "namespace": "default", "name": "demo"}
    cluster.objects[APPLICATION]["app"]["status"] = {
        "resources": [held],
        "operationState": {"phase": phase, "startedAt": "2026-01-01T00:00:00Z", "message": message},
    }


MANAGERS = [{"group": kinds.HTTP_ROUTE.group, "kind": "HTTPRoute", "managedFieldsManagers": ["x"]}]
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
        "its picker Service picker has 0 Ready endpoints (1 pods behind it)",
    ),
    "the same, and the gateway fails open": (
        lambda c: picker_pod(c, ready=False, failureMode="FailOpen"),
        Level.WARN,
        "FailOpen serves without it",
    ),
    "a pool of variants whose gateway fails open": (
        lambda c: shared_by_variants(c, "FailOpen"),
        Level.WARN,
        "gateway takes any Ready pod, whatever its variant",
    ),
    "a gateway that refuses the pool": (
        lambda c: refused(c),
        Level.BAD,
        "InferencePool v2 is not Accepted by Gateway gw (Accepted=False, NotSupportedByGateway: weights)",
    ),
    "a gateway that refuses splits": (
        lambda c: behind(
            c,
            "gateway.envoyproxy.io/gatewayclass-controller",
            "envoyproxy/gateway:v1",
            "x/ai-gateway-controller:v0",
        ),
        Level.BAD,
        "behind it is Envoy Gateway, version v1; with Envoy AI Gateway",
    ),
    "a gateway that is known by its reports": (
        lambda c: reporting(c, "networking.gke.io/gateway"),
        Level.WARN,
        "behind it is GKE Gateway, of unknown version",
    ),
    "an alpha pool behind a gateway that reads v1": (
        lambda c: behind(c, "istio.io/gateway-controller"),
        Level.BAD,
        "InferencePool v2 is of inference.networking.x-k8s.io, and Istio reads only v1",
    ),
    "a gateway that looked before the picker's Service was there": (
        lambda c: refused(c, kind="ResolvedRefs", reason="InvalidExtensionRef"),
        Level.WARN,
        "Gateway gw still says that its picker Service was not found, and it is there",
    ),
    "a backend of another namespace without a grant": (
        lambda c: foreign(c, from_namespace="elsewhere"),
        Level.BAD,
        "HTTPRoute route: rule live lists InferencePool team-b/v2, and no ReferenceGrant there allows it",
    ),
    "a backend of another namespace, and grants that may not be read": (
        lambda c: foreign(c, hidden=True),
        Level.WARN,
        "whether a ReferenceGrant there allows it may not be read",
    ),
    "a route that a gateway refuses": (
        lambda c: reported(c, ("Accepted", "True"), ("ResolvedRefs", "False")),
        Level.BAD,
        "HTTPRoute route is not programmed: Gateway gw (example.com/gateway): ResolvedRefs is False: why",
    ),
    "a route of which its gateway says nothing": (
        lambda c: reported(c),
        Level.BAD,
        "HTTPRoute route is not programmed: Gateway gw has not reported on the HTTPRoute yet",
    ),
    "pools that begin to move": (
        lambda c: moving(c, kinds.POOL_X),
        Level.WARN,
        "exists in both groups, and the route lists the alpha one",
    ),
    "pools that have moved": (
        lambda c: moving(c, kinds.POOL_V1),
        Level.WARN,
        "the route lists the one of v1",
    ),
    "a pool listed in two groups": (
        lambda c: moving(c, *kinds.POOLS),
        Level.WARN,
        "and inference.networking.x-k8s.io: two",
    ),
    "an old pool deleted before the route was switched": (
        lambda c: moving(c, kinds.POOL_X, there=(kinds.POOL_V1,)),
        Level.BAD,
        "where it does not exist; it does in inference.networking.k8s.io",
    ),
    "a group that the Rollout names before its pool is made": (
        lambda c: asking(c, kinds.POOL_V1.group),
        Level.BAD,
        "does not exist in inference.networking.k8s.io, which target.pool.group names; "
        "it does in inference.networking.x-k8s.io",
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
    "a pool that Helm may delete": (
        lambda c: c.objects[kinds.POOL_X]["v2"]["metadata"]["annotations"].update(HELM),
        Level.WARN,
        "Helm delete it while it serves",
    ),
    "a managed route that stands in a chart, too": (
        lambda c: (managed(c), route_of(c)["annotations"].update(HELM)),
        Level.BAD,
        "yet Helm applies it too",
    ),
    "a route of a HelmRelease": (
        lambda c: route_of(c)["labels"].update(FLUX_HELM),
        Level.WARN,
        "driftDetection.mode: enabled undoes the weights",
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
    "argocd-cm that compares weights": (argocd_cm, Level.BAD, "compares the weights"),
    "an Application alone that compares weights": (
        lambda c: application(c, "ApplyOutOfSyncOnly=true"),
        Level.BAD,
        "compares the weights of HTTPRoute route",
    ),
    "an InferenceModel in Git under Flux": (
        lambda c: (
            in_git(c, kinds.INFERENCE_MODEL, "inferenceModel", {}),
            c.objects[kinds.INFERENCE_MODEL]["model"]["metadata"].update(annotations=CONSENT, labels=FLUX),
        ),
        Level.BAD,
        "InferenceModel model: Flux undoes the weights",
    ),
    "argocd-cm that freezes silently": (
        lambda c: argocd_cm(c, **{WEIGHTS: "managedFieldsManagers: [x]"}),
        Level.BAD,
        "argocd-cm: managedFieldsManagers",
    ),
    "a route whose Rollout and pool are gone": (
        lambda c: released(c, {"gone": 90, "v2": 10}),
        Level.BAD,
        "HTTPRoute left: its Rollout away does not exist, and it sends requests to gone, which does not exist",
    ),
    "a route whose Rollout is gone": (
        lambda c: released(c, {"gone": 0, "v2": 100}),
        Level.WARN,
        "HTTPRoute left: its Rollout away does not exist; it stays with the weights that it has",
    ),
    "a model object whose Rollout and pool are gone": (
        lambda c: c.add(kinds.INFERENCE_MODEL, "left", spec={"poolRef": {"name": "gone"}})["metadata"].update(
            annotations={"inferencerollouts.dev/managed-by": "away"}
        ),
        Level.BAD,
        "InferenceModel left: its Rollout away does not exist, and it sends requests to gone",
    ),
    "a sync that waits for a Rollout": (
        lambda c: syncing(c, "waiting for healthy state of inferencerollouts.dev/Rollout/demo"),
        Level.BAD,
        "its sync has been open since 2026-01-01T00:00:00Z: waiting for healthy state",
    ),
    "a sync that waits for a Rollout among others": (
        lambda c: syncing(c, "waiting for healthy state of apps/Deployment/x and 2 more resources"),
        Level.BAD,
        "newer commits wait behind it",
    ),
    "a pool in a later wave": (
        lambda c: c.objects[kinds.POOL_X]["v2"]["metadata"]["annotations"].update(wave(1)),
        Level.BAD,
        "InferencePool v2 is in sync wave 1, after its Rollout demo in 0",
    ),
    "a route in a later wave": (
        lambda c: route_of(c)["annotations"].update(wave(1)),
        Level.BAD,
        "HTTPRoute route is in sync wave 1",
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


@pytest.mark.parametrize(
    "change",
    [lambda _: None, managed, lambda c: shared_by_variants(c, "FailClose")],
    ids=["adopted", "managed", "variants"],
)
async def test_a_sound_cluster_has_nothing_to_repair(change):
    cluster = sound()
    change(cluster)

    found = await diagnose(cluster, "default", "demo", "system/controller", "argocd")

    assert {check.level for check in found} == {Level.FINE}
    assert {review["user"] for review in cluster.reviews} == {"system:serviceaccount:system:controller"}


@pytest.mark.parametrize("how", KEPT)
async def test_a_pool_that_no_commit_deletes_has_nothing_to_repair(how):
    cluster = sound()
    labels, annotations = KEPT[how]
    meta = cluster.objects[kinds.POOL_X]["v2"]["metadata"]
    meta["labels"].update(labels)
    meta["annotations"].update(annotations)

    found = await diagnose(cluster, "default", "demo", "system/controller", "argocd")
    assert {check.level for check in found} == {Level.FINE}


@pytest.mark.parametrize("how", LEFT_ALONE)
async def test_a_route_whose_weights_nobody_undoes_has_nothing_to_repair(how):
    cluster = sound()
    labels, annotations = LEFT_ALONE[how]
    route_of(cluster)["labels"].update(labels)
    route_of(cluster)["annotations"].update(annotations)

    found = await diagnose(cluster, "default", "demo", "system/controller", "argocd")
    assert {check.level for check in found} == {Level.FINE}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: picker_pod(c, ready=True), "1 of 1 pods behind it are Ready"),
        (lambda c: picker_pod(c, ready=True, kind="WasmPlugin"), "is a WasmPlugin, not a Service"),
        (lambda c: None, "selects no pods: that one serves is taken on trust"),
        (foreign, "team-b/v2, which ReferenceGrant team-b/grant allows; no Rollout here moves its weight"),
    ],
    ids=["a Ready pod", "another kind", "no selector", "a granted backend of another namespace"],
)
async def test_what_is_taken_on_trust_is_said(change, said):
    cluster = sound()
    change(cluster)

    found = await diagnose(cluster, "default", "demo", None, "argocd")

    assert {check.level for check in found} == {Level.FINE}
    assert any(said in check.text for check in found), found


@pytest.mark.parametrize(
    ("resource", "traffic"),
    [
        (kinds.INFERENCE_MODEL, "inferenceModel"),
        (kinds.REWRITE_X, "inferenceModelRewrite"),
        (kinds.REWRITE_LLMD, "inferenceModelRewrite"),
    ],
    ids=["InferenceModel", "rewrite", "rewrite of llm-d"],
)
async def test_a_model_object_in_git_needs_its_ignore_rule_and_is_sound_with_it(resource, traffic):
    cluster = sound()
    in_git(cluster, resource, traffic, {})
    cluster.add(CONFIG_MAP, "argocd-cm", data=shipped_cm())
    good = await diagnose(cluster, "default", "demo", None, "argocd")
    del cluster.objects[CONFIG_MAP]["argocd-cm"]["data"][ignore_key(resource)]
    bad = await diagnose(cluster, "default", "demo", None, "argocd")

    assert {check.level for check in good} == {Level.FINE}, good
    assert [check.text for check in bad if check.level is not Level.FINE] == [
        f"Application app compares the weights of {resource.kind} model: it shows OutOfSync, and self-heal "
        "resets them"
    ]


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ("Succeeded", "waiting for healthy state of inferencerollouts.dev/Rollout/demo"),
        ("Running", "waiting for healthy state of apps/Deployment/x"),
    ],
)
async def test_a_sync_that_goes_on_is_left_alone(phase, message):
    cluster = sound()
    syncing(cluster, message, phase)
    cluster.objects[kinds.ROLLOUT]["demo"]["metadata"]["annotations"] = wave(2)
    route_of(cluster)["annotations"].update(wave(2))

    found = await diagnose(cluster, "default", None, None, "argocd")

    assert {check.level for check in found} == {Level.FINE}, found


async def test_a_rule_of_the_application_itself_is_as_good():
    cluster = sound()
    rule = {"group": kinds.HTTP_ROUTE.group, "kind": "HTTPRoute"}
    expressions = [".spec.rules[]?.backendRefs[]?.weight"]
    application(
        cluster, "ApplyOutOfSyncOnly=true", ignoreDifferences=[{**rule, "jqPathExpressions": expressions}]
    )

    found = await diagnose(cluster, "default", "demo", None, "argocd")

    assert {check.level for check in found} == {Level.FINE}, found


@pytest.mark.parametrize(
    ("said", "covers"),
    [
        ({"group": "*", "kind": "*"}, True),
        ({"group": "*.networking.k8s.io", "kind": "HTTP*"}, True),
        (
            {"group": kinds.HTTP_ROUTE.group, "kind": "HTTPRoute", "name": "route", "namespace": "default"},
            True,
        ),
        ({"kind": "HTTPRoute"}, False),
        ({"group": "apps", "kind": "*"}, False),
        ({"group": kinds.HTTP_ROUTE.group, "kind": "HTTPRoute", "name": "other"}, False),
        ({"group": kinds.HTTP_ROUTE.group, "kind": "HTTPRoute", "namespace": "team-b"}, False),
    ],
)
async def test_a_rule_of_the_application_is_matched_as_argocd_does(said, covers):
    cluster = sound()
    rule = {**said, "jqPathExpressions": [".spec.rules[]?.backendRefs[]?.weight"]}
    application(cluster, "ApplyOutOfSyncOnly=true", ignoreDifferences=[rule])

    found = await diagnose(cluster, "default", "demo", None, "argocd")

    assert any("compares the weights of HTTPRoute route" in one.text for one in found) is not covers


async def test_rights_that_the_controller_lacks_are_named():
    cluster = sound()
    cluster.denied = {"httproutes"}

    found = await diagnose(cluster, "default", "demo", "system/controller", "argocd")

    assert [check.text for check in found if check.level is Level.BAD] == [
        "system/controller may not patch httproutes in default"
    ]


@pytest.mark.parametrize("name", ["demo", "d" * 100], ids=["short", "long"])
async def test_the_traffic_object_of_a_rollout_that_is_there_is_not_left_behind(name):
    cluster = sound()
    managed(cluster)
    cluster.add(kinds.ROLLOUT, name, spec=cluster.objects[kinds.ROLLOUT].pop("demo")["spec"])
    route_of(cluster)["labels"]["inferencerollouts.dev/rollout"] = label_value(name)
    route_of(cluster)["annotations"]["inferencerollouts.dev/managed-by"] = "the one before"

    found = await diagnose(cluster, "default", None, None, "argocd")

    assert {check.level for check in found} == {Level.FINE}, found


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
