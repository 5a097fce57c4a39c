"""A kind of which the API server serves one version or another, on an in-memory API server that is upgraded."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rollouts.kube.client import PatchKind
from rollouts.kube.errors import KindNotServed
from rollouts.kube.versions import AnyVersion
from rollouts.lab.controlplane.minimal import KSERVE
from rollouts.lab.controlplane.upstream import CRDS
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.objects import kinds
from tests.kit.memory_client import MemoryKubeClient

Object = dict[str, Any]
SERVICE: Object = {
    "apiVersion": kinds.LLM_SERVICE_V1ALPHA1.api_version,
    "kind": kinds.LLM_SERVICE_V1ALPHA1.kind,
    "metadata": {"name": "v1"},
    "spec": {"model": {"name": "llama"}, "router": {"route": {"group": "llama", "weight": 9}}},
}


def crd(*versions: str) -> Object:
    found = copy.deepcopy(dict(KSERVE[0]))
    found["spec"]["versions"] = [one for one in found["spec"]["versions"] if one["name"] in versions]
    found["spec"]["versions"][0]["storage"] = True
    return found


def served(api: MemoryApi, *versions: str) -> None:
    """The server is of a release that serves these versions and no other."""
    api.delete(CRDS, None, KSERVE[0]["metadata"]["name"])
    api.create(CRDS, None, crd(*versions), manager="kserve")


def started(*versions: str) -> tuple[MemoryApi, AnyVersion]:
    api = MemoryApi()
    api.create(CRDS, None, crd(*versions), manager="kserve")
    return api, AnyVersion(MemoryKubeClient(api), kinds.OTHER_VERSIONS)


async def test_the_old_version_alone_is_read_and_written_by_the_name_of_the_new_one() -> None:
    api, client = started("v1alpha1")
    api.create(kinds.LLM_SERVICE_V1ALPHA1, "serving", SERVICE, manager="git")

    (found,) = (await client.list_page(kinds.LLM_SERVICE, "serving")).items
    assert found["apiVersion"] == "serving.kserve.io/v1alpha1"
    weight = [{"op": "add", "path": "/spec/router/route/weight", "value": 1}]
    await client.patch(kinds.LLM_SERVICE, "serving", "v1", weight, kind=PatchKind.JSON)
    live = await client.get(kinds.LLM_SERVICE, "serving", "v1")
    assert live["spec"]["router"]["route"]["weight"] == 1
    await client.delete(kinds.LLM_SERVICE, "serving", "v1")
    assert (await client.list_page(kinds.LLM_SERVICE, "serving")).items == []


async def test_the_new_version_is_asked_for_first_where_both_are_served() -> None:
    api, client = started("v1alpha2", "v1alpha1")
    api.create(kinds.LLM_SERVICE_V1ALPHA1, "serving", SERVICE, manager="git")

    (found,) = (await client.list_page(kinds.LLM_SERVICE, "serving")).items
    assert found["apiVersion"] == "serving.kserve.io/v1alpha2"


async def test_an_upgrade_that_takes_a_version_away_is_followed_by_the_next_request() -> None:
    api, client = started("v1alpha1")
    await client.list_page(kinds.LLM_SERVICE, "serving")
    served(api, "v1alpha2")
    new = {**SERVICE, "apiVersion": kinds.LLM_SERVICE.api_version}
    api.create(kinds.LLM_SERVICE, "serving", new, manager="git")

    live = await client.get(kinds.LLM_SERVICE, "serving", "v1")
    assert live["apiVersion"] == "serving.kserve.io/v1alpha2"


async def test_a_kind_that_no_version_is_served_of_is_not_served() -> None:
    client = AnyVersion(MemoryKubeClient(MemoryApi()), kinds.OTHER_VERSIONS)

    with pytest.raises(KindNotServed):
        await client.list_page(kinds.LLM_SERVICE, "serving")
    watch = client.watch(kinds.LLM_SERVICE, "serving", resource_version="1", timeout_seconds=5)
    with pytest.raises(KindNotServed):
        await anext(aiter(watch))
