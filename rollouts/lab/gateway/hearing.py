"""How gateways report on HTTPRoutes otherwise than they should, as they were seen in November 2026.

The data plane does what the route says; only what ``status.parents`` says of it is played.

- late: conditions come seconds after the weights are in force;
- silent: no entry is ever written;
- without generations: conditions have no ``observedGeneration`` (apisix-ingress-controller#2767);
- leftover: a controller that is gone left its entry, with Accepted=False (kgateway#11747, gateway#9023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rollouts.lab.gateway.likeness import GatewayLike

__all__ = ["LATE_SECONDS", "heard"]

LATE_SECONDS = 3.0
"""Longer than any gateway was seen to take (Istio: 180 ms), shorter than a test's patience."""

_GONE = "gone.example.com/gateway"

Object = Mapping[str, Any]


def heard(like: GatewayLike, route: Object, patch: dict[str, Any] | None) -> dict[str, Any] | None:
    """What becomes of the patch of a route's status; None: nothing is written."""
    if patch is None or like is GatewayLike.SILENT:
        return None
    parents = patch["status"]["parents"]
    if like is GatewayLike.WITHOUT_GENERATION:
        parents = [_without_generation(entry) for entry in parents]
    written_before = route["metadata"].get("generation", 1) > 1
    gone = any(entry["controllerName"] == _GONE for entry in parents)
    if like is GatewayLike.LEFTOVER and written_before and not gone:
        parents = [*map(_left_behind, parents), *parents]
    known = (route.get("status") or {}).get("parents")
    return None if parents == known else {**patch, "status": {"parents": parents}}


def _without_generation(entry: Object) -> dict[str, Any]:
    conditions: Sequence[Object] = entry["conditions"]
    bare = [{key: value for key, value in one.items() if key != "observedGeneration"} for one in conditions]
    return {**entry, "conditions": bare}


def _left_behind(entry: Object) -> dict[str, Any]:
    """The entry of a controller that took care of the same parent, for the first generation."""
    refused = {"status": "False", "reason": "Pending", "message": "gone", "observedGeneration": 1}
    conditions = [{**one, **refused} for one in entry["conditions"]]
    return {**entry, "controllerName": _GONE, "conditions": conditions}
