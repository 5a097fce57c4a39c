"""backendRefs of an HTTPRoute rule that name InferencePools, and which rules are ours to weigh."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rollouts.engine.rollout_spec import HttpRouteTraffic, TrafficMode
from rollouts.engine.versions import Identity
from rollouts.objects.fields import list_of, map_of, text_of
from rollouts.objects.pools import POOL_GROUPS, POOL_KIND
from rollouts.traffic.fields import covers, weight_of
from rollouts.traffic.headers import is_header_rule

__all__ = [
    "DEFAULT_PORT",
    "backend_ref",
    "backend_refs",
    "chosen_rules",
    "plain_rules",
    "pool_of",
    "pools_of",
    "rule_name",
    "rules_of",
    "same_structure",
    "weighted_pools",
]

DEFAULT_PORT = 8000
"""Gateways take the port from the pool; it is written out because GitOps tools show defaults as drift."""


def pool_of(ref: Any, namespace: str) -> Identity | None:
    """The InferencePool of ``namespace``, the route's own, that a backendRef names; None for every other backend.

    A pool of the same name in another namespace is another pool (Gateway API, BackendObjectReference: without
    ``namespace`` the route's own is meant): its entry is foreign, whatever a ReferenceGrant allows.
    """
    ref = map_of(ref)
    group, name = ref.get("group"), ref.get("name")
    if ref.get("kind") != POOL_KIND or group not in POOL_GROUPS or not isinstance(name, str):
        return None
    if ref.get("namespace") not in (None, "", namespace):
        return None
    return Identity(kind=POOL_KIND, group=str(group), name=name)


def backend_ref(identity: Identity, weight: int, port: int | None) -> dict[str, Any]:
    """A backendRef with every default written out. ``port`` None leaves it out."""
    ref: dict[str, Any] = {"group": identity.group, "kind": POOL_KIND, "name": identity.name}
    return {**ref, **({} if port is None else {"port": port}), "weight": weight}


def backend_refs(rule: Any) -> Sequence[Any]:
    """The rule's backendRefs."""
    return list_of(map_of(rule).get("backendRefs"))


def rules_of(spec: Any) -> Sequence[Any]:
    """The rules of an HTTPRoute's spec or template."""
    return list_of(map_of(spec).get("rules"))


def pools_of(rule: Any, namespace: str) -> dict[Identity, int]:
    """Weight of each pool of ``namespace`` in the rule, in the order written; entries of one pool are added up."""
    found: dict[Identity, int] = {}
    for ref in backend_refs(rule):
        identity = pool_of(ref, namespace)
        if identity is not None:
            found[identity] = found.get(identity, 0) + weight_of(ref)
    return found


def weighted_pools(spec: Any, namespace: str) -> set[tuple[str, str, str]]:
    """Namespace, group and name of each pool that rules of a route in ``namespace`` give weight; mirrors aside."""
    found = set()
    for ref in (ref for rule in rules_of(spec) for ref in backend_refs(rule)):
        place = text_of(map_of(ref).get("namespace")) or namespace
        identity = pool_of(ref, place)
        if identity is not None and weight_of(ref) > 0:
            found.add((place, identity.group, identity.name))
    return found


def rule_name(rule: Any, index: int) -> str:
    """The rule's name, or its index."""
    return text_of(map_of(rule).get("name")) or str(index)


def plain_rules(rules: Sequence[Any]) -> list[int]:
    """Indices of the rules that no setHeaderRoute step added."""
    return [index for index, rule in enumerate(rules) if not is_header_rule(rule)]


def same_structure(spec: Mapping[str, Any], template: Mapping[str, Any]) -> bool:
    """Whether everything but pool weights and header rules is as the template says."""
    fixed = {key: value for key, value in template.items() if key != "rules"}
    rules = rules_of(spec)
    live = [rules[index] for index in plain_rules(rules)]
    return covers(spec, fixed) and covers(live, list(rules_of(template)))


def chosen_rules(
    live: Mapping[str, Any],
    spec: HttpRouteTraffic,
    template: Mapping[str, Any] | None,
    arms: Collection[Identity],
    namespace: str,
) -> list[int]:
    """Indices of the rules that are ours to weigh in ``live``, the spec of the route in ``namespace``.

    Managed: the rules that the template leaves open. Adopted, and Managed while the live object is not yet
    what the template says: ``ruleNames``, else the rules that reference an arm, else all with pools.
    """
    rules = rules_of(live)
    plain = plain_rules(rules)
    if spec.mode is TrafficMode.MANAGED and template is not None and same_structure(live, template):
        pairs = zip(plain, rules_of(template), strict=True)
        return [index for index, rule in pairs if not map_of(rule).get("backendRefs")]
    if spec.rule_names:
        return [index for index in plain if map_of(rules[index]).get("name") in spec.rule_names]
    pools = {index: pools_of(rules[index], namespace) for index in plain}
    # By name: a rule that was left behind when the others moved to another API group is ours all the same.
    names = {arm.name for arm in arms}
    ours = [index for index in plain if any(pool.name in names for pool in pools[index])]
    return ours or [index for index in plain if pools[index]]
