"""The stand-in for KServe's controller: what it makes of members, as KServe's documentation has it."""

from __future__ import annotations

from typing import Any

from rollouts.lab.kserve import answer
from tests.unit.traffic.test_service_group import member

Object = dict[str, Any]


def refs(routes: Any, name: str) -> list[tuple[str, int]]:
    (route,) = (one for one in routes if one["metadata"]["name"] == f"{name}-kserve-route")
    shared = route["spec"]["rules"][1]
    return [(one["name"], one["weight"]) for one in shared["backendRefs"]]


def condition(found: Any, name: str, kind: str) -> Object:
    return next((one for one in found.statuses[name]["conditions"] if one["type"] == kind), {})


def test_every_route_lists_every_member_that_can_be_reached() -> None:
    found = answer([member("v1", 9), member("v2", 1), member("v3", 5)], {"v1": 1, "v2": 1})

    shared = [("v1-inference-pool", 9), ("v2-inference-pool", 1)]
    assert refs(found.routes, "v1") == refs(found.routes, "v2") == shared
    said = found.statuses["v1"]["router"]["group"]
    assert [(one["name"], one["weight"]) for one in said["members"]] == [("v1", 9), ("v2", 1)]
    assert condition(found, "v3", "Ready")["reason"] == "MinimumReplicasUnavailable"


def test_a_stopped_member_keeps_its_weight_and_loses_its_route() -> None:
    stopped = member("v1", 9, **{"serving.kserve.io/stop": "true"})
    found = answer([stopped, member("v2", 9)], {"v2": 1})

    assert refs(found.routes, "v2") == [("v2-inference-pool", 9)]
    assert len(found.routes) == len(found.pools) == 1
    (first, _) = found.statuses["v2"]["router"]["group"]["members"]
    assert (first["name"], first["weight"], first["stopped"]) == ("v1", 9, True)
    assert condition(found, "v1", "Ready")["reason"] == "Stopped"


def test_members_of_other_names_are_groups_of_their_own() -> None:
    other = member("v2", 1)
    other["spec"]["model"]["name"] = "sql"
    found = answer([member("v1", 9), other], {"v1": 1, "v2": 1})

    assert refs(found.routes, "v1") == [("v1-inference-pool", 9)]
    degraded = condition(found, "v1", "GroupDegraded")
    assert degraded["message"] == "group has members with different model sets: sql"


def test_a_service_of_no_group_has_all_of_its_own_requests() -> None:
    alone = member("v1", 9)
    del alone["spec"]["router"]["route"]
    found = answer([alone], {"v1": 1})

    assert refs(found.routes, "v1") == [("v1-inference-pool", 1)]
    assert found.statuses["v1"]["router"]["group"] is None
