"""Which arms get copies of requests: a RequestMirror filter names a pool, or a Service in front of its pods."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from rollouts.controller.caches import Caches
from rollouts.engine.versions import Identity
from rollouts.objects.fields import map_of, metadata_of
from rollouts.objects.pools import POOL_KIND, Pool
from rollouts.objects.workloads import Workload
from rollouts.runtime.objects import ObjectKey
from rollouts.traffic.mirrors import Mirror, mirrors_of

__all__ = ["mirrored_arms", "mirroring_route"]


class _LabelSets:
    """Labels of pods, filed by label: whether a selector matches one of them costs no look at each."""

    def __init__(self, sets: Iterable[Mapping[str, Any]]) -> None:
        self._having: defaultdict[tuple[str, Any], set[int]] = defaultdict(set)
        for number, labels in enumerate(sets):
            for pair in labels.items():
                self._having[pair].add(number)

    def match(self, selector: Mapping[str, Any]) -> bool:
        """Whether one of them has all labels of the selector; an empty one matches none."""
        having = [self._having.get(pair, set()) for pair in selector.items()]
        first, *others = sorted(having, key=len) or [set()]
        return bool(first.intersection(*others))


def mirrored_arms(
    caches: Caches, namespace: str, route: Mapping[str, Any], arms: Iterable[Identity]
) -> frozenset[Identity]:
    """Arms that this route, or another one of the namespace that mirrors to them, sends copies to."""
    specs = [route.get("spec"), *(other.get("spec") for other in caches.mirroring_routes(namespace))]
    mirrors = frozenset().union(*map(mirrors_of, specs))
    if not mirrors:
        return frozenset()
    return frozenset(arm for arm in arms if _is_reached(caches, namespace, mirrors, arm))


def _is_reached(caches: Caches, namespace: str, mirrors: Iterable[Mirror], arm: Identity) -> bool:
    pool = caches.pool(arm.group, namespace, arm.name)
    behind = _LabelSets([] if pool is None else [dict(pool.selector), *_labels(caches, pool)])
    return any(_reaches(caches, namespace, mirror, {(arm.group, arm.name)}, behind) for mirror in mirrors)


def mirroring_route(caches: Caches, pool: Pool, pools: Collection[Pool], workload: Workload) -> str:
    """Name of a route of the namespace that copies requests to the workload's pods; empty where none does.

    The pods are ``pool``'s, and those of all ``pools`` that select some of them.
    """
    routes = caches.mirroring_routes(pool.namespace)
    if not routes:
        return ""
    template = caches.template_labels(pool.namespace, workload)
    made = (metadata_of(pod) for pod in caches.pods_with(pool.namespace, template))
    selectors = (dict(one.selector) for one in pools)
    labels = [template, *_labels(caches, pool), *(map_of(one.get("labels")) for one in made), *selectors]
    behind, names = _LabelSets(labels), {(one.group, one.name) for one in pools}
    for route in routes:
        mirrors = mirrors_of(route.get("spec"))
        if any(_reaches(caches, pool.namespace, mirror, names, behind) for mirror in mirrors):
            return str(route["metadata"]["name"])
    return ""


def _labels(caches: Caches, pool: Pool) -> list[Mapping[str, Any]]:
    """The labels of each endpoint of a pool."""
    return [caches.labels_of_pod(ObjectKey(pool.namespace, one.name)) for one in caches.endpoints(pool)]


def _reaches(
    caches: Caches, namespace: str, mirror: Mirror, pools: Collection[tuple[str, str]], behind: _LabelSets
) -> bool:
    """Whether copies go to one of ``pools`` (group and name), or to a Service in front of pods with such labels."""
    if mirror.namespace not in ("", namespace):
        return False
    if mirror.kind == POOL_KIND:
        return (mirror.group, mirror.name) in pools
    if mirror.kind != "Service" or mirror.group:
        return False
    service = caches.services.get(ObjectKey(namespace, mirror.name))
    return service is not None and behind.match(service["spec"]["selector"])
