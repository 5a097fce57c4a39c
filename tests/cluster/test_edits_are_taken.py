"""The edits of the fault plans are edits that a real API server takes, upstream's CRDs and our CEL rules included."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rollouts.api.crds import all_crds
from rollouts.kube.client import PatchKind, Resource
from rollouts.kube.errors import KubeError
from rollouts.kube.http import HttpKubeClient
from rollouts.lab.controlplane import install_crds, install_upstream_crds
from rollouts.objects import kinds
from tests.kit.clock import VirtualClock
from tests.kit.faults.cluster import NAMESPACE, Cluster
from tests.kit.faults.edited import EDITED
from tests.kit.faults.edits import EDITS, Edit, Kind
from tests.kit.faults.objects import CANARY, SHARED, STABLE, split_entries

Object = dict[str, Any]

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

_KINDS = (
    kinds.ROLLOUT,
    kinds.ROLLOUT_FREEZE,
    kinds.HTTP_ROUTE,
    kinds.INFERENCE_MODEL,
    kinds.REWRITE_X,
    kinds.POOL_SPLIT,
)
_SERVERS = (
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "generation",
    "managedFields",
    "selfLink",
    "namespace",
)


class Stage:
    """What an edit acts on: the objects of a workload, in memory."""

    def __init__(self, kind: Kind) -> None:
        self.cluster = Cluster(VirtualClock())
        next(item for item in EDITED if item.name == f"edited: {kind.value}").setup(self.cluster)
        if kind is Kind.MANAGED:
            self.cluster.create(kinds.HTTP_ROUTE, _managed(self.cluster))
            target = {"pool": {"name": CANARY}}
            self.cluster.merge(kinds.ROLLOUT, "mymodel", {"spec": {"target": target}})

        if kind is Kind.SPLIT:  # as the controller has it in the middle
            taken = {"labels": {"inferencerollouts.dev/rollout": "mymodel"}}
            both = {"variants": split_entries({STABLE: 90, CANARY: 10})}
            self.cluster.merge(kinds.POOL_SPLIT, SHARED, {"metadata": taken, "spec": both})

    def stored(self) -> dict[tuple[Resource, str], Object]:
        """By kind and name, what is not the server's own."""
        return {
            (resource, obj["metadata"]["name"]): _bare(obj)
            for resource in _KINDS
            for obj in self.cluster.all(resource)
        }


def _managed(cluster: Cluster) -> Object:
    """The route that the controller makes of the template."""
    (rollout,) = cluster.all(kinds.ROLLOUT)
    (route,) = rollout["spec"]["traffic"]["httpRoutes"]
    spec = copy.deepcopy(route["template"])
    for rule in spec["rules"]:
        names = ("mymodel-pool-v1", "mymodel-pool-v2")
        rule["backendRefs"] = [
            {"group": kinds.POOL_X.group, "kind": "InferencePool", "name": name, "weight": 50}
            for name in names
        ]
    labels = {"inferencerollouts.dev/rollout": rollout["metadata"]["name"]}
    head = {"apiVersion": kinds.HTTP_ROUTE.api_version, "kind": "HTTPRoute"}
    return {
        **head,
        "metadata": {"name": route["name"], "namespace": NAMESPACE, "labels": labels},
        "spec": spec,
    }


def _bare(obj: Object) -> Object:
    metadata = {key: value for key, value in obj["metadata"].items() if key not in _SERVERS}
    return {**{key: value for key, value in obj.items() if key != "status"}, "metadata": metadata}


async def _refusal(kube: HttpKubeClient, namespace: str, edit: Edit, kind: Kind) -> str:
    """What the server has against the edit; empty when it takes it."""
    stage = Stage(kind)
    before = stage.stored()
    edit.act(stage)  # type: ignore[arg-type]  # an edit looks at the cluster alone
    changed = {place: obj for place, obj in stage.stored().items() if before.get(place) != obj}
    assert changed, f"{edit.name} changes nothing of {kind.value}"
    for (resource, name), obj in changed.items():
        try:
            await _write(kube, namespace, resource, name, before.get((resource, name)), obj)
        except KubeError as error:
            return f"{kind.value}, {edit.name}: {str(error)[:300]}"
    return ""


async def _write(
    kube: HttpKubeClient, namespace: str, resource: Resource, name: str, old: Object | None, new: Object
) -> None:
    if old is None:
        await kube.create(resource, namespace if resource.namespaced else None, new, dry_run=True)
        return
    metadata = new["metadata"]
    operations: list[Object] = [{"op": "replace", "path": "/spec", "value": new["spec"]}]
    for field in ("labels", "annotations"):
        operations.append({"op": "add", "path": f"/metadata/{field}", "value": metadata.get(field, {})})
    await kube.patch(resource, namespace, name, operations, kind=PatchKind.JSON, dry_run=True)


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name)
async def test_a_real_api_server_takes_every_edit(kube: HttpKubeClient, namespace: str, kind: Kind) -> None:
    await install_upstream_crds(kube)
    await install_crds(kube, all_crds())
    for (resource, _), obj in Stage(kind).stored().items():
        await kube.create(resource, namespace, obj)

    edits = [edit for edit in EDITS if kind in edit.kinds and not edit.older]
    refused = [await _refusal(kube, namespace, edit, kind) for edit in edits]

    assert [text for text in refused if text] == []
