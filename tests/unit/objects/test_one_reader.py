"""Controller and picker see the same in the same object: pools, pods and what a model object splits."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.objects.pods import read_pod
from rollouts.objects.pools import read_pool
from rollouts.picker.core.objects import PoolName, read_snapshot

V1, ALPHA = "inference.networking.k8s.io/v1", "inference.networking.x-k8s.io/v1alpha2"
NAME = PoolName("ns", "p")


def pool(api_version: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": api_version,
        "kind": "InferencePool",
        "metadata": {"name": NAME.name, "namespace": NAME.namespace},
        "spec": spec,
    }


def pod(**changed: Any) -> dict[str, Any]:
    metadata = {"name": "a", "namespace": "ns", "labels": {"app": "x", "tier": "1"}}
    conditions = [{"type": "Ready", "status": "True"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**metadata, **changed.get("metadata", {})},
        "status": {"podIP": "10.0.0.1", "conditions": conditions, **changed.get("status", {})},
    }


@pytest.mark.parametrize(
    ("obj", "selects"),
    [
        (pool(V1, selector={"matchLabels": {"app": "x"}}, targetPorts=[{"number": 8000}]), True),
        (pool(ALPHA, selector={"app": "x"}, targetPortNumber=8000), True),
        (pool(ALPHA, selector={"app": "x", "tier": "2"}, targetPortNumber=8000), False),
        # Half of a selector would be a wider one.
        (pool(ALPHA, selector={"app": "x", "tier": 1}, targetPortNumber=8000), False),
        (pool(V1, selector={"matchLabels": "x"}, targetPorts=[{"number": 8000}]), False),
        (pool(V1, selector={}, targetPorts=[{"number": 8000}]), False),
    ],
)
def test_a_pool_has_the_same_pods_for_both(obj: dict[str, Any], selects: bool) -> None:
    routed = read_snapshot([NAME], [obj, pod()]).endpoints

    assert read_pool(obj).selects(pod()["metadata"]["labels"]) is selects
    assert [endpoint.pod for endpoint in routed] == (["a"] if selects else [])


@pytest.mark.parametrize(
    ("changed", "ready"),
    [
        ({}, True),
        ({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}, False),
        ({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}, False),
        ({"status": {"conditions": [{"type": "Ready", "status": True}]}}, False),
        ({"status": {"conditions": ["Ready", {"type": "Initialized", "status": "True"}]}}, False),
        ({"status": {"conditions": None}}, False),
    ],
)
def test_a_pod_is_ready_for_both_or_for_none(changed: dict[str, Any], ready: bool) -> None:
    served = read_snapshot(
        [NAME], [pool(ALPHA, selector={"app": "x"}, targetPortNumber=8000), pod(**changed)]
    )
    found = read_pod(pod(**changed))

    assert found is not None
    assert found.ready is ready
    assert bool(served.endpoints) is ready


@pytest.mark.parametrize(
    ("ports", "processes"),
    [((8000, 8001), (8000, 8001)), (("x", 8001), (8001,)), ((0, 70_000, 8001, 8001), (8001,))],
)
def test_a_pod_has_the_same_processes_for_both(ports: tuple[Any, ...], processes: tuple[int, ...]) -> None:
    obj = pool(
        V1, selector={"matchLabels": {"app": "x"}}, targetPorts=[{"number": number} for number in ports]
    )

    assert read_pool(obj).processes == processes
    assert tuple(endpoint.port for endpoint in read_snapshot([NAME], [obj, pod()]).endpoints) == processes
