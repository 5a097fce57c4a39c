"""Controllers and scheduler of the in-memory control plane, held against what Kubernetes' own did."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.lab.memorycontrollers import MemoryControllers
from rollouts.lab.memorycontrollers.deletion import DELETION_COST, first_to_go
from rollouts.lab.memorycontrollers.scheduling import place
from tests.kit.memory_client import MemoryKubeClient
from tests.kit.workloads import looks, played, started

Object = dict[str, Any]
NOW = datetime(2030, 1, 1, tzinfo=UTC)


async def test_what_the_real_control_plane_did_is_done_in_memory() -> None:
    api = MemoryApi()
    controllers = MemoryControllers(api)
    async with AsyncExitStack() as stack:
        await controllers.start()
        stack.push_async_callback(controllers.stop)
        stage = await started(MemoryKubeClient(api), stack)

        assert await played(stage) == looks()


def pod(name: str, **changes: Any) -> Object:
    """A Pod that has been Ready for an hour on a node; ``changes`` make it another one."""
    facts = {
        "node": "n1",
        "phase": "Running",
        "ready": 3600.0,
        "cost": "0",
        "restarts": 0,
        "age": 3600.0,
    } | changes
    conditions = []
    if facts["ready"] is not None:
        since = (NOW - timedelta(seconds=facts["ready"])).isoformat()
        conditions = [{"type": "Ready", "status": "True", "lastTransitionTime": since}]
    return {
        "metadata": {
            "name": name,
            "uid": name,
            "annotations": {DELETION_COST: facts["cost"]},
            "creationTimestamp": (NOW - timedelta(seconds=facts["age"])).isoformat(),
        },
        "spec": {"nodeName": facts["node"], "containers": []},
        "status": {
            "phase": facts["phase"],
            "conditions": conditions,
            "containerStatuses": [{"restartCount": facts["restarts"]}],
        },
    }


ORDER = {
    "one without a node": {"node": "", "cost": "100"},
    "one that is Pending": {"phase": "Pending", "cost": "100"},
    "one that is not Ready": {"ready": None, "cost": "100"},
    "one of less cost": {"cost": "-1", "ready": 90_000.0},
    "one that was Ready for less time": {"ready": 60.0},
    "one that was restarted": {"restarts": 1},
    "one that is younger": {"age": 60.0},
}
WORSE = {"b": {"cost": "no number"}, "c": {"cost": str(2**31)}}


@pytest.mark.parametrize("changes", ORDER.values(), ids=ORDER)
def test_what_goes_before_a_pod_that_has_nothing_to_it(changes: Object) -> None:
    pods = [pod("a"), pod("z", **changes)]

    assert [one["metadata"]["name"] for one in first_to_go(pods, pods, NOW)] == ["z", "a"]
    assert [one["metadata"]["name"] for one in first_to_go(pods[::-1], pods, NOW)] == ["z", "a"]


@pytest.mark.parametrize("changes", WORSE.values(), ids=WORSE)
def test_a_cost_that_is_no_int32_counts_as_none(changes: Object) -> None:
    pods = [pod("a", **changes), pod("m", cost="-1"), pod("z", cost="1")]

    assert [one["metadata"]["name"] for one in first_to_go(pods, pods, NOW)] == ["m", "a", "z"]


def test_of_pods_on_one_node_one_goes_before_a_pod_that_is_alone() -> None:
    pods = [pod("a"), pod("y", node="n2"), pod("z", node="n2")]

    assert [one["metadata"]["name"] for one in first_to_go(pods, pods, NOW)][-1] == "a"


def test_ages_of_one_magnitude_do_not_count() -> None:
    pods = [pod("b", ready=3600.0), pod("a", ready=4000.0)]

    assert [one["metadata"]["name"] for one in first_to_go(pods, pods, NOW)] == ["a", "b"]


def node(name: str, *, gpus: int = 1, pods: int = 10, **spec: Any) -> Object:
    offered = {"pods": str(pods), "nvidia.com/gpu": str(gpus)}
    return {"metadata": {"name": name}, "spec": spec, "status": {"allocatable": offered}}


def asking(name: str, *, on: str = "", gpus: int = 1, **meta: Any) -> Object:
    container = {"resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}
    spec: Object = {"containers": [container], **({"nodeName": on} if on else {})}
    return {"metadata": {"name": name, "uid": name, **meta}, "spec": spec, "status": {"phase": "Pending"}}


def test_a_pod_that_is_ending_keeps_its_gpu_until_it_is_gone() -> None:
    ending = asking("a", on="n", deletionTimestamp="2030-01-01T00:00:00Z")

    assert place([ending, asking("b")], [node("n")]).nodes == {}
    assert place([asking("b")], [node("n")]).nodes == {"b": "n"}


def test_a_pod_that_has_ended_holds_nothing() -> None:
    ended = asking("a", on="n") | {"status": {"phase": "Failed"}}

    assert place([ended, asking("b")], [node("n")]).nodes == {"b": "n"}


def test_pods_are_spread_and_the_last_one_is_refused_in_the_scheduler_s_words() -> None:
    placed = place([asking(name) for name in "abc"], [node("m"), node("n"), node("o", gpus=9, pods=0)])

    assert placed.nodes == {"a": "m", "b": "n"}
    assert placed.refusals["c"].startswith(
        "0/3 nodes are available: 1 Too many pods, 2 Insufficient nvidia.com/gpu. "
    )


def test_without_nodes_nothing_is_placed() -> None:
    assert place([asking("a")], []).refusals == {"a": "no nodes available to schedule pods"}
