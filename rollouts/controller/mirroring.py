"""Which arms get copies of requests: a RequestMirror filter names a pool, or a Service in front of its pods."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from rollouts.controller.caches import Caches
from rollouts.engine.versions import Identity
from rollouts.runtime.objects import ObjectKey
from rollouts.traffic.mirrors import Mirror, mirrors_of

__all__ = ["mirrored_arms", "mirroring_route"]


def mirrored_arms(
    caches: Caches, namespace: str, route: Mapping[str, Any], arms: Iterable[Identity]
) -> frozenset[Identity]:
    """Arms that this route, or another one of the namespace that mirrors to them, sends copies to."""
    specs = [route.get("spec"), *(other.get("spec") for other in caches.mirroring_routes(namespace))]
    mirrors = frozenset().union(*map(mirrors_of, specs))
    if not mirrors:
        return frozenset()
    return frozenset(arm for arm in arms if any(_reaches(caches, namespace, item, arm) for item in mirrors))


def mirroring_route(caches: Caches, namespace: str, arms: Collection[Identity]) -> str:
    """Name of a route of the namespace that sends one of the arms copies; empty where none does."""
    for route in caches.mirroring_routes(namespace):
        if any(
            _reaches(caches, namespace, item, arm) for item in mirrors_of(route.get("spec")) for arm in arms
        ):
            return str(route["metadata"]["name"])
    return ""


def _reaches(caches: Caches, namespace: str, mirror: Mirror, arm: Identity) -> bool:
    if mirror.namespace not in ("", namespace):
        return False
    if mirror.kind == "InferencePool":
        return (mirror.group, mirror.name) == (arm.group, arm.name)
    pool = caches.pool(arm.group, namespace, arm.name)
    service = caches.services.get(ObjectKey(namespace, mirror.name)) if not mirror.group else None
    if pool is None or service is None or mirror.kind != "Service":
        return False
    selector = service["spec"]["selector"]
    if not selector or not pool.selector:
        return False
    pods = (caches.pods.get(ObjectKey(namespace, endpoint.name)) for endpoint in caches.endpoints(pool))
    labels = [dict(pool.selector), *(pod["metadata"].get("labels") or {} for pod in pods if pod is not None)]
    return any(selector.items() <= found.items() for found in labels)
