"""What the gateway writes into status, and when it writes nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from rollouts.lab.gateway.status import CONTROLLER_NAME, gateway_patch, pool_patch, route_patch
from rollouts.lab.gateway.translate import (
    GatewayStatus,
    ParentStatus,
    PoolStatus,
    RouteCondition,
    RouteStatus,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC)
FOREIGN = {"parentRef": {"name": "gw"}, "controllerName": "example.com/other", "conditions": []}
Object = dict[str, Any]


def a_route(generation: int = 2, parents: list[Object] | None = None) -> Object:
    status = {} if parents is None else {"status": {"parents": parents}}
    return {"metadata": {"name": "r", "resourceVersion": "7", "generation": generation}, **status}


def status_of(route: Object, *, accepted: bool = True, message: str = "fine") -> RouteStatus:
    condition = RouteCondition(type="Accepted", status=accepted, reason="Because", message=message)
    parent = ParentStatus(parent={"name": "gw"}, conditions=(condition,))
    return RouteStatus(route=route, parents=(parent,))


def written(route: Object, now: datetime = NOW, **fields: Any) -> list[Object]:
    patch = route_patch(status_of(route, **fields), now)
    assert patch is not None
    parents: list[Object] = patch["status"]["parents"]
    return parents


def test_the_observed_generation_is_the_one_that_was_looked_at() -> None:
    (parent,) = written(a_route(generation=5))

    assert parent["controllerName"] == CONTROLLER_NAME
    assert parent["conditions"][0]["observedGeneration"] == 5


def test_nothing_is_written_when_the_route_already_says_so() -> None:
    route = a_route(parents=written(a_route()))
    assert route_patch(status_of(route), LATER) is None


def test_the_transition_time_moves_only_with_the_status() -> None:
    before = written(a_route())
    (same,) = written(a_route(parents=before), LATER, message="still fine")
    (changed,) = written(a_route(parents=before), LATER, accepted=False)

    assert same["conditions"][0]["lastTransitionTime"] == "2026-01-02T03:04:05Z"
    assert changed["conditions"][0]["lastTransitionTime"] == "2026-01-02T03:04:06Z"


def test_the_entries_of_another_controller_stay() -> None:
    parents = written(a_route(parents=[FOREIGN]))
    assert [parent["controllerName"] for parent in parents] == ["example.com/other", CONTROLLER_NAME]


def test_our_entry_goes_when_the_route_leaves_the_gateway() -> None:
    route = a_route(parents=[FOREIGN, *written(a_route())])
    patch = route_patch(RouteStatus(route=route, parents=()), NOW)

    assert patch is not None
    assert patch["status"]["parents"] == [FOREIGN]


def test_the_patch_holds_only_for_the_version_that_was_read() -> None:
    patch = route_patch(status_of(a_route()), NOW)
    assert patch is not None
    assert patch["metadata"] == {"resourceVersion": "7"}


def test_scribbled_status_is_replaced() -> None:
    route = {**a_route(), "status": {"parents": "nonsense"}}
    assert written(route)[0]["controllerName"] == CONTROLLER_NAME


def test_what_envoy_refused_is_in_the_gateways_status() -> None:
    gateway = {"metadata": {"name": "gw", "generation": 1}}
    conditions = tuple(
        RouteCondition(type=kind, status=True, reason=kind, message="") for kind in ("Accepted", "Programmed")
    )
    status = GatewayStatus(gateway=gateway, conditions=conditions, listeners=())
    patch = gateway_patch(status, NOW, address="127.0.0.1", rejected="bad listener")

    assert patch is not None
    assert [(c["type"], c["status"], c["message"]) for c in patch["status"]["conditions"]] == [
        ("Accepted", "True", ""),
        ("Programmed", "False", "bad listener"),
    ]


V1, ALPHA = "inference.networking.k8s.io", "inference.networking.x-k8s.io"
PLACEHOLDER = {"parentRef": {"kind": "Status", "name": "default"}, "conditions": []}


def a_pool_patch(pool: Object, group: str, *gateways: tuple[str, str]) -> Object | None:
    condition = RouteCondition(type="Accepted", status=True, reason="Accepted", message="fine")
    status = PoolStatus(pool=pool, group=group, gateways=gateways, conditions=(condition,))
    return pool_patch(status, NOW)


@pytest.mark.parametrize(("group", "field"), [(V1, "parents"), (ALPHA, "parent")])
def test_a_pool_names_its_gateways_once_and_forgets_them_when_no_route_is_left(
    group: str, field: str
) -> None:
    pool: Object = {"metadata": {"name": "p", "generation": 1}}
    patch = a_pool_patch(pool, group, ("default", "gw"))
    assert patch is not None
    named = {**pool, "status": patch["status"]}
    gone = a_pool_patch(named, group)

    assert [entry["parentRef"]["name"] for entry in patch["status"][field]] == ["gw"]
    assert a_pool_patch(named, group, ("default", "gw")) is None
    assert gone is not None
    assert gone["status"] == {field: []}


def test_the_placeholder_of_v1alpha2_is_replaced_but_not_for_nothing() -> None:
    pool: Object = {"metadata": {"name": "p"}, "status": {"parent": [PLACEHOLDER]}}
    patch = a_pool_patch(pool, ALPHA, ("default", "gw"))

    assert a_pool_patch(pool, ALPHA) is None
    assert patch is not None
    assert [entry["parentRef"]["name"] for entry in patch["status"]["parent"]] == ["gw"]


def test_another_gateways_entry_on_a_v1_pool_stays() -> None:
    pool: Object = {"metadata": {"name": "p"}, "status": {"parents": [FOREIGN]}}
    patch = a_pool_patch(pool, V1, ("default", "gw"))

    assert patch is not None
    assert patch["status"]["parents"][0] == FOREIGN
