"""Status of HTTPRoutes, Gateways and InferencePools as merge patches, written only where something changed.

Kubernetes conventions: ``observedGeneration`` is the generation that was looked at, and
``lastTransitionTime`` moves only when a condition's status does. ``parents`` of a route is shared with
other gateways: entries of another ``controllerName`` stay as they are (Gateway API, RouteParentStatus).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from rollouts.lab.gateway.backends import POOL_GROUPS
from rollouts.lab.gateway.httproute import GATEWAY_GROUP
from rollouts.lab.gateway.translate import GatewayStatus, PoolStatus, RouteCondition, RouteStatus
from rollouts.objects.fields import list_of, map_of

__all__ = ["CONTROLLER_NAME", "gateway_patch", "pool_patch", "route_patch"]

CONTROLLER_NAME = "lab.inferencerollouts.dev/gateway"

Object = Mapping[str, Any]


def route_patch(status: RouteStatus, now: datetime) -> dict[str, Any] | None:
    """Merge patch for the status subresource, None when the route already says so."""
    route = status.route
    old = _list(map_of(route.get("status")), "parents")
    ours = [entry for entry in old if entry.get("controllerName") == CONTROLLER_NAME]
    parents: list[Any] = [entry for entry in old if entry.get("controllerName") != CONTROLLER_NAME]
    for parent in status.parents:
        previous = next((entry for entry in ours if entry.get("parentRef") == parent.parent), {})
        parents.append(
            {
                "parentRef": dict(parent.parent),
                "controllerName": CONTROLLER_NAME,
                "conditions": _conditions(parent.conditions, previous, route, now),
            }
        )
    if parents == old:
        return None
    return _patch(route, {"parents": parents})


def gateway_patch(
    status: GatewayStatus, now: datetime, *, address: str, rejected: str = ""
) -> dict[str, Any] | None:
    """Merge patch for the status subresource, None when the Gateway already says so.

    ``rejected`` is what Envoy refused; it makes Programmed false.
    """
    gateway = status.gateway
    old = map_of(gateway.get("status"))
    conditions = status.conditions
    if rejected:
        conditions = tuple(
            condition
            if condition.type != "Programmed"
            else RouteCondition(type="Programmed", status=False, reason="Invalid", message=rejected[:1024])
            for condition in conditions
        )
    old_listeners = {entry.get("name"): entry for entry in _list(old, "listeners")}
    wanted = {
        "addresses": [{"type": "IPAddress", "value": address}],
        "conditions": _conditions(conditions, old, gateway, now),
        "listeners": [
            {
                "name": listener.name,
                "attachedRoutes": listener.attached,
                "supportedKinds": [{"group": GATEWAY_GROUP, "kind": "HTTPRoute"}],
                "conditions": _conditions(
                    listener.conditions, old_listeners.get(listener.name, {}), gateway, now
                ),
            }
            for listener in status.listeners
        ],
    }
    if all(old.get(key) == value for key, value in wanted.items()):
        return None
    return _patch(gateway, wanted)


def pool_patch(status: PoolStatus, now: datetime) -> dict[str, Any] | None:
    """Merge patch for the status subresource of an InferencePool, None when it already says so.

    v1 has ``parents`` with a controllerName, v1alpha2 ``parent`` without one, where every Gateway is
    ours in the lab, and which starts with a placeholder that is no Gateway.
    """
    pool, v1 = status.pool, status.group == POOL_GROUPS[0]
    field = "parents" if v1 else "parent"
    old = _list(map_of(pool.get("status")), field)
    foreign: list[Any] = [
        entry for entry in old if v1 and entry.get("controllerName") not in (None, "", CONTROLLER_NAME)
    ]
    wanted = list(foreign)
    for namespace, name in status.gateways:
        ref = {"group": GATEWAY_GROUP, "kind": "Gateway", "name": name, "namespace": namespace}
        previous = next((entry for entry in old if entry.get("parentRef") == ref), {})
        entry = {"parentRef": ref, "conditions": _conditions(status.conditions, previous, pool, now)}
        wanted.append({**entry, "controllerName": CONTROLLER_NAME} if v1 else entry)
    ours_before = any(map_of(entry.get("parentRef")).get("kind") == "Gateway" for entry in old)
    if wanted == old or (not status.gateways and not ours_before):
        return None
    return _patch(pool, {field: wanted})


def _patch(obj: Object, status: dict[str, Any]) -> dict[str, Any]:
    version = map_of(obj.get("metadata")).get("resourceVersion")
    # The precondition keeps another gateway's entries from being overwritten by our older copy of them.
    return {"metadata": {"resourceVersion": version}, "status": status}


def _conditions(
    conditions: Iterable[RouteCondition], previous: Object, obj: Object, now: datetime
) -> list[dict[str, Any]]:
    old = {entry.get("type"): entry for entry in _list(previous, "conditions")}
    generation = map_of(obj.get("metadata")).get("generation", 0)
    written = []
    stamp = f"{now:%Y-%m-%dT%H:%M:%SZ}"
    for condition in conditions:
        status = "True" if condition.status else "False"
        before = old.get(condition.type, {})
        changed = before.get("status") != status or "lastTransitionTime" not in before
        written.append(
            {
                "type": condition.type,
                "status": status,
                "reason": condition.reason,
                "message": condition.message,
                "observedGeneration": generation,
                "lastTransitionTime": stamp if changed else before["lastTransitionTime"],
            }
        )
    return written


def _list(parent: Object, key: str) -> list[Object]:
    return [entry for entry in list_of(parent.get(key)) if isinstance(entry, Mapping)]
