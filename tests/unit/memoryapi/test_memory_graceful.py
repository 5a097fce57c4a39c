"""Deletion of Pods where a kubelet confirms their end."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.kube.client import PatchKind
from rollouts.kube.errors import NotFound
from rollouts.lab.controlplane.pods import PODS
from rollouts.lab.memoryapi.store import MemoryApi

Object = dict[str, Any]


@pytest.fixture
def api() -> MemoryApi:
    made = MemoryApi()
    made.has_kubelet = True
    return made


def create(api: MemoryApi, **spec: Any) -> None:
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}
    api.create(PODS, "default", {**body, "spec": {"nodeName": "n", "containers": [], **spec}})


def meta(api: MemoryApi) -> Object:
    return dict(api.get(PODS, "default", "p")["metadata"])


def is_gone(api: MemoryApi) -> bool:
    try:
        api.get(PODS, "default", "p")
    except NotFound:
        return True
    return False


def set_phase(api: MemoryApi, phase: str) -> None:
    merge = PatchKind.MERGE.value
    api.patch(PODS, "default", "p", {"status": {"phase": phase}}, content_type=merge, subresource="status")


@pytest.mark.parametrize(("spec", "grace"), [({}, 30), ({"terminationGracePeriodSeconds": 600}, 600)])
def test_a_pod_stays_until_its_end_is_confirmed(api: MemoryApi, spec: Object, grace: int) -> None:
    create(api, **spec)
    api.delete(PODS, "default", "p")
    set_phase(api, "Running")

    assert meta(api)["deletionGracePeriodSeconds"] == grace
    assert "deletionTimestamp" in meta(api)
    api.delete(PODS, "default", "p", grace_period_seconds=0)
    assert is_gone(api)


def test_a_grace_can_be_shortened_and_never_grows(api: MemoryApi) -> None:
    create(api)
    api.delete(PODS, "default", "p", grace_period_seconds=20)
    api.delete(PODS, "default", "p", grace_period_seconds=60)
    assert meta(api)["deletionGracePeriodSeconds"] == 20

    api.delete(PODS, "default", "p", grace_period_seconds=5)
    assert meta(api)["deletionGracePeriodSeconds"] == 5


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_ended_goes_at_once(api: MemoryApi, phase: str) -> None:
    create(api)
    set_phase(api, phase)
    api.delete(PODS, "default", "p")

    assert is_gone(api)


def test_a_pod_without_a_node_goes_at_once(api: MemoryApi) -> None:
    create(api, nodeName="")
    api.delete(PODS, "default", "p")

    assert is_gone(api)


def test_without_a_kubelet_a_pod_goes_at_once() -> None:
    api = MemoryApi()
    create(api)
    api.delete(PODS, "default", "p")

    assert is_gone(api)
