"""Rules that send requests to a Rollout's pools and are not its own to weigh: they come on top of its split."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rollouts.api.parsing import ParsedRollout
from rollouts.controller.caches import Caches
from rollouts.engine.rollout_spec import HttpRouteTraffic
from rollouts.engine.versions import Identity
from rollouts.objects.fields import map_of, metadata_of
from rollouts.traffic import wayback
from rollouts.traffic.backends import rules_of, weighted_pools

__all__ = ["reached_by_others", "rules_of_others"]


def reached_by_others(caches: Caches, parsed: ParsedRollout, arms: Iterable[Identity]) -> frozenset[Identity]:
    """Arms that other rules of the Rollout's route, or other routes, send requests to."""
    found = set()
    for arm in arms:
        pool = caches.pool(arm.group, parsed.namespace, arm.name)
        place = (parsed.namespace, arm.group, arm.name)
        for route in caches.routes_to([] if pool is None else [pool]):
            others = rules_of_others(parsed, route).get("spec")
            if place in weighted_pools(others, str(route["metadata"]["namespace"])):
                found.add(arm)
    return frozenset(found)


def rules_of_others(parsed: ParsedRollout, route: dict[str, Any]) -> dict[str, Any]:
    """A route without the rules that the Rollout weighs: those that the spec chooses, and those that a record of the
    way back gives to stable, whatever was edited. Where no spec names any, what a record spared is left.
    """
    traffic, meta = parsed.spec.traffic if parsed.spec is not None else None, metadata_of(route)
    name = meta.get("name") if meta.get("namespace") == parsed.namespace else None
    records = [record for record in parsed.status.way_back if record.name == name]
    named = isinstance(traffic, HttpRouteTraffic) and traffic.name == name
    if not named and not records:
        return route
    others: list[Any] = [rule for record in records for rule in wayback.spared(route, record)]
    if isinstance(traffic, HttpRouteTraffic) and named and traffic.rule_names:
        weighed = [rule for record in records for rule in wayback.weighed(route, record)]
        others = [
            rule
            for rule in rules_of(route.get("spec"))
            if map_of(rule).get("name") not in traffic.rule_names and rule not in weighed
        ]
    return {**route, "spec": {"rules": others}}
