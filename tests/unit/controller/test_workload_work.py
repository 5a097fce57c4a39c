"""What one look at workloads costs, in a namespace that its owner has filled: calls are counted, not seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rollouts.api.parsing import ParsedRollout, parse_rollout
from rollouts.controller.other_rules import reached_by_others
from rollouts.engine.revision import revision_of
from rollouts.engine.rollout_status import RolloutStatus, ScaleDown
from rollouts.engine.versions import Identity
from rollouts.objects import kinds
from tests.kit.work import calls
from tests.unit.controller.test_workloads import GROUP, V1, V2, Cluster

Object = dict[str, Any]


def _ref(name: str, weight: int = 1) -> Object:
    return {"group": GROUP, "kind": "InferencePool", "name": name, "weight": weight}


def pools_and_workloads(cluster: Cluster, count: int) -> None:
    """Each pool has its own workload; one label is all of theirs."""
    for number in range(count):
        cluster.pool(f"p{number}", all="vllm", one=str(number))
        cluster.workload(f"w{number}", labels={"all": "vllm", "one": str(number)})


def pools_of_one_workload(cluster: Cluster, count: int) -> None:
    """As many names for what lost; routes give each of them nothing, and Rollouts know them from before."""
    for number in range(count):
        cluster.pool(f"p{number}", app="v1")
        cluster.put(
            kinds.HTTP_ROUTE,
            f"r{number}",
            spec={"rules": [{"backendRefs": [_ref(f"p{number}", 0), _ref("other")]}]},
        )
        history = [{"kind": "InferencePool", "group": GROUP, "name": f"p{number}"}]
        cluster.put(kinds.ROLLOUT, f"o{number}", spec={}, status={"history": history})


def routes_to_all(cluster: Cluster, count: int) -> None:
    """Routes of the Rollout's own namespace to pools that are nobody's concern."""
    for number in range(count):
        cluster.pool(f"p{number}", app=f"p{number}")
    for number in range(count):
        refs = [_ref(f"p{(number + more) % count}") for more in range(16)]
        cluster.put(kinds.HTTP_ROUTE, f"r{number}", spec={"rules": [{"backendRefs": refs}]})


def mirrors_to_services(cluster: Cluster, count: int) -> None:
    """Each copies to a Service that selects no pod, although each label of its selector is of half of them."""
    for number in range(count):
        cluster.pool(f"p{number}", app="v1")
        cluster.pod(f"pod{number}", labels={"app": "v1", "half": str(number % 2), "one": str(number)})
        selector = {"half": str(number % 2), "one": str(count + number)}
        cluster.put(kinds.SERVICE, f"s{number}", spec={"selector": selector})
        mirror = {
            "type": "RequestMirror",
            "requestMirror": {"backendRef": {"name": f"s{number}", "port": 80}},
        }
        rules = [{"filters": [mirror], "backendRefs": [_ref("other")]}]
        cluster.put(kinds.HTTP_ROUTE, f"m{number}", spec={"rules": rules})


def groups_of_one_set(cluster: Cluster, count: int) -> None:
    """Pods that say that they are of groups."""
    prefix = "leaderworkerset.sigs.k8s.io"
    for number in range(count):
        labels = {"app": "v1", f"{prefix}/name": f"set{number}", f"{prefix}/group-index": "0"}
        cluster.pod(f"pod{number}", labels=labels)


def _lost() -> ParsedRollout:
    """A Rollout with capacity whose v1 lost, so that what uses it is looked for."""
    spec = {
        "target": {"pool": {"name": "v2"}},
        "traffic": {"httpRoutes": [{"name": "r"}]},
        "strategy": {"canary": {"steps": [{"setWeight": 10}], "capacity": {"maxSurge": 1, "minStable": 1}}},
    }
    rollout = {"metadata": {"name": "demo", "namespace": "default", "uid": "u"}, "spec": spec}
    status = RolloutStatus(stable=revision_of(V2, ""), scale_downs=(ScaleDown(identity=V1),))
    return replace(parse_rollout(rollout), status=status)


@pytest.mark.parametrize(
    "fill",
    [pools_and_workloads, pools_of_one_workload, routes_to_all, mirrors_to_services, groups_of_one_set],
)
def test_a_look_costs_no_more_than_a_namespace_is_large(fill: Callable[[Cluster, int], None]) -> None:
    """Twice the objects are at most twice the work; pairs of them would be four times as much."""

    def work(count: int) -> int:
        cluster = Cluster("Deployment", "StatefulSet", "LeaderWorkerSet")
        for name in ("v1", "v2"):
            cluster.pool(name, app=name)
            cluster.workload(name, labels={"app": name}, replicas=4)
        fill(cluster, count)
        parsed, found = _lost(), list[str]()

        def look() -> None:
            found.append(cluster.views(parsed)[V1].used_by)

        look()  # pools are read once
        spent = calls(look)
        assert found == ["", ""]
        return spent

    small, large = work(40), work(80)
    assert large < 2.2 * small


@pytest.mark.parametrize("pool", ["v1", "v2"])
def test_whom_others_reach_costs_the_same_however_many_routes_share_the_pool(pool: str) -> None:
    """A thousand Rollouts over two pools, each looked at for each write of another's route, is a million reads."""

    def work(count: int) -> int:
        cluster = Cluster("Deployment")
        for name in ("v1", "v2"):
            cluster.pool(name, app=name)
        for number in range(count):
            rules = [{"backendRefs": [_ref(pool), _ref("v1", 0), _ref("v2", 0)]}]
            cluster.put(kinds.HTTP_ROUTE, f"r{number}", spec={"rules": rules})
        parsed, found = _lost(), list[frozenset[Identity]]()

        def look() -> None:
            found.append(reached_by_others(cluster.caches, parsed, (V1, V2)))

        look()
        spent = calls(look)
        assert found == [{V1 if pool == "v1" else V2}] * 2
        return spent

    assert work(80) == work(40)
