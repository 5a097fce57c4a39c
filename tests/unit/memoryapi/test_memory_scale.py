"""The scale subresource of the in-memory API server."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.kube.client import PatchKind
from rollouts.kube.errors import Conflict, Invalid, NotFound
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.objects import kinds
from rollouts.objects.workloads import WORKLOADS

DEPLOYMENT = WORKLOADS["Deployment"]


def deployment(**spec: Any) -> dict[str, Any]:
    meta = {"name": "d", "namespace": "default"}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}


def scale(api: MemoryApi, body: dict[str, Any], name: str = "d") -> dict[str, Any]:
    kind = PatchKind.MERGE.value
    return api.patch(DEPLOYMENT, "default", name, body, content_type=kind, subresource="scale", manager="me")


def test_replicas_are_written_and_nothing_else() -> None:
    api = MemoryApi()
    made = api.create(DEPLOYMENT, "default", deployment(replicas=1, paused=True))
    answer = scale(api, {"spec": {"replicas": 4}, "metadata": {"labels": {"a": "b"}}})
    stored = api.get(DEPLOYMENT, "default", "d")

    assert (answer["kind"], answer["spec"]) == ("Scale", {"replicas": 4})
    assert answer["metadata"]["resourceVersion"] == stored["metadata"]["resourceVersion"]
    assert stored["spec"] == {"replicas": 4, "paused": True}
    assert "labels" not in stored["metadata"]
    assert stored["metadata"]["generation"] == made["metadata"]["generation"] + 1


def test_the_resource_version_is_a_precondition() -> None:
    api = MemoryApi()
    made = api.create(DEPLOYMENT, "default", deployment(replicas=1))
    version = made["metadata"]["resourceVersion"]
    scale(api, {"spec": {"replicas": 2}, "metadata": {"resourceVersion": version}})

    with pytest.raises(Conflict):
        scale(api, {"spec": {"replicas": 3}, "metadata": {"resourceVersion": version}})
    assert api.get(DEPLOYMENT, "default", "d")["spec"]["replicas"] == 2


def test_replicas_that_are_left_out_are_one() -> None:
    api = MemoryApi()
    api.create(DEPLOYMENT, "default", deployment())

    assert scale(api, {})["spec"] == {"replicas": 1}


@pytest.mark.parametrize("replicas", [-1, "2", 1.5, True])
def test_what_is_no_number_of_replicas_is_refused(replicas: Any) -> None:
    api = MemoryApi()
    api.create(DEPLOYMENT, "default", deployment(replicas=1))

    with pytest.raises(Invalid):
        scale(api, {"spec": {"replicas": replicas}})


def test_only_workloads_have_a_scale() -> None:
    api = MemoryApi()
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {}}
    api.create(kinds.SERVICE, "default", service)

    with pytest.raises(NotFound):
        api.patch(kinds.SERVICE, "default", "s", {}, content_type=PatchKind.MERGE.value, subresource="scale")
    with pytest.raises(NotFound):
        scale(api, {"spec": {"replicas": 1}}, name="gone")
