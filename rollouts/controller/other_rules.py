"""Rules that send requests to a Rollout's pools and are not its own to weigh: they come on top of its split."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from rollouts.api.parsing import ParsedRollout
from rollouts.controller.caches import Caches
from rollouts.engine.rollout_spec import HttpRouteTraffic
from rollouts.engine.versions import Identity
from rollouts.objects.fields import map_of, metadata_of
from rollouts.runtime.objects import ObjectKey
from rollouts.traffic import wayback
from rollouts.traffic.backends import rules_of, weighted_pools

__all__ = ["reached_by_others", "routes_of_others"]

PoolPlace = tuple[str, str, str]
"""Namespace, group and name of an InferencePool."""


def reached_by_others(caches: Caches, parsed: ParsedRollout, arms: Iterable[Identity]) -> frozenset[Identity]:
    """Arms that other rules of the Rollout's route, or other routes, send requests to."""
    namespace = parsed.namespace
    return frozenset(
        arm
        for arm in arms
        if caches.pool(arm.group, namespace, arm.name) is not None
        and routes_of_others(caches, parsed, [(namespace, arm.group, arm.name)])
    )


def routes_of_others(
    caches: Caches, parsed: ParsedRollout, pools: Collection[PoolPlace]
) -> frozenset[ObjectKey]:
    """HTTPRoutes, of any namespace, that give one of the pools weight by rules that the Rollout does not weigh.

    Thousands of routes may share a pool: none is read here but the Rollout's own.
    """
    reaching = caches.routes_to(pools)
    own = reaching & {ObjectKey(parsed.namespace, name) for name in _own_names(parsed)}
    spared = set()
    for key in own:
        others = _rules_of_others(parsed, caches.routes.get(key) or {})
        if not weighted_pools(others, key.namespace).isdisjoint(pools):
            spared.add(key)
    return (reaching - own) | spared


def _own_names(parsed: ParsedRollout) -> set[str]:
    """Names of the routes of which the Rollout weighs rules, or has."""
    traffic = parsed.spec.traffic if parsed.spec is not None else None
    named = {traffic.name} if isinstance(traffic, HttpRouteTraffic) else set()
    return named | {record.name for record in parsed.status.way_back}


def _rules_of_others(parsed: ParsedRollout, route: dict[str, Any]) -> dict[str, Any]:
    """The spec of one of the Rollout's routes without the rules that it weighs: those that its spec chooses, and those
    that a record of the way back gives to stable, whatever was edited. Where no spec names any, what a record spared
    is left.
    """
    traffic, name = parsed.spec.traffic if parsed.spec is not None else None, metadata_of(route).get("name")
    records = [record for record in parsed.status.way_back if record.name == name]
    others: list[Any] = [rule for record in records for rule in wayback.spared(route, record)]
    if isinstance(traffic, HttpRouteTraffic) and traffic.name == name and traffic.rule_names:
        weighed = [rule for record in records for rule in wayback.weighed(route, record)]
        others = [
            rule
            for rule in rules_of(route.get("spec"))
            if map_of(rule).get("name") not in traffic.rule_names and rule not in weighed
        ]
    return {"rules": others}
