"""HTTPRoute: how weights between InferencePools are written (gateway.networking.k8s.io/v1).

``spec.rules`` and ``backendRefs`` are atomic lists (Gateway API CRD, ``x-kubernetes-list-type: atomic``): field
ownership cannot say "the weights are ours". So a Managed route is applied whole, and an Adopted one is changed
by a JSON patch that tests the resourceVersion and the name of each entry it touches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rollouts.engine.actions import DesiredTraffic
from rollouts.engine.moving import twin
from rollouts.engine.observation import Problem
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import HttpRouteTraffic, TrafficMode
from rollouts.engine.versions import Identity
from rollouts.objects.fields import map_of, metadata_of, nested_deeper, text_of
from rollouts.objects.pools import POOL_KIND
from rollouts.traffic.backends import (
    DEFAULT_PORT,
    backend_ref,
    backend_refs,
    chosen_rules,
    pool_of,
    pools_of,
    rule_name,
    rules_of,
)
from rollouts.traffic.fields import covers, weight_of
from rollouts.traffic.headers import header_rules
from rollouts.traffic.reading import KIND, Reader, view
from rollouts.traffic.weights import WeightTooLarge, split
from rollouts.traffic.writes import ROLLOUT_LABEL, Apply, JsonPatch, RenderRefusal, Write, label_value
from rollouts.units import ZERO

__all__ = ["KIND", "Reader", "RouteTarget", "render", "template_problems", "view"]

Object = Mapping[str, Any]

API_VERSION = "gateway.networking.k8s.io/v1"

_DEEPEST = 32
"""Three times the depth of the deepest field of an HTTPRoute's spec."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteTarget:
    """Where a write goes: names, and the template of a Managed route."""

    rollout: str
    namespace: str
    spec: HttpRouteTraffic
    template: Object | None = None


def render(
    route: Object | None, target: RouteTarget, desired: DesiredTraffic
) -> Write | RenderRefusal | None:
    """The write that brings the route to ``desired``; None when it says so already."""
    try:
        if target.spec.mode is TrafficMode.MANAGED:
            return _render_managed(route, target, desired)
        return _render_adopted(route, target, desired)
    except WeightTooLarge as error:
        return RenderRefusal(
            reason=Reason.WEIGHT_TOO_LARGE,
            message=f"HTTPRoute {target.spec.name}: {error}; use smaller weights in its rules",
        )


def _ours(desired: DesiredTraffic) -> frozenset[Identity]:
    arms = {desired.stable, *desired.keep, *desired.drop}
    return frozenset(arms | ({desired.canary} if desired.canary is not None else set()))


def _guard(route: Object) -> dict[str, Any]:
    version = text_of(metadata_of(route).get("resourceVersion"))
    return {"op": "test", "path": "/metadata/resourceVersion", "value": version}


# --- Managed ---------------------------------------------------------------------------------------


def _render_managed(route: Object | None, target: RouteTarget, desired: DesiredTraffic) -> Write | None:
    template = target.template or {}
    open_rules = rules_of(template)
    live = map_of((route or {}).get("spec"))
    ours = chosen_rules(live, target.spec, template, _ours(desired), target.namespace)
    refs = _managed_refs([rules_of(live)[index] for index in ours], target, desired)
    rules: list[dict[str, Any]] = []
    if desired.canary is not None:
        port = refs[0]["port"]
        rules += header_rules(open_rules, desired.header_routes, backend_ref(desired.canary, 1, port))
    for rule in map(map_of, open_rules):
        rules.append({**rule, "backendRefs": rule.get("backendRefs") or [dict(ref) for ref in refs]})
    spec = {**template, "rules": rules}
    meta: dict[str, Any] = {
        "name": target.spec.name,
        "namespace": target.namespace,
        "labels": {ROLLOUT_LABEL: label_value(target.rollout)},
    }
    if route is not None:
        label = map_of(metadata_of(route).get("labels")).get(ROLLOUT_LABEL)
        if label == label_value(target.rollout) and covers(live, spec):
            return None
        meta["resourceVersion"] = text_of(metadata_of(route).get("resourceVersion"))
    return Apply(body={"apiVersion": API_VERSION, "kind": KIND, "metadata": meta, "spec": spec})


def _managed_refs(live: Sequence[Any], target: RouteTarget, desired: DesiredTraffic) -> list[dict[str, Any]]:
    """backendRefs of an open rule: stable, the canary from its first weight on, kept arms at 0."""
    listed = {identity for rule in live for identity in pools_of(rule, target.namespace)}
    weights = split({}, frozenset(), desired.stable, desired.canary, desired.weight)
    ports = [_port(refs, target, desired) for refs in map(backend_refs, live)]
    port = next((port for port in ports if port is not None), DEFAULT_PORT)
    refs = [backend_ref(desired.stable, weights[desired.stable], port)]
    if desired.canary is not None and (desired.weight > ZERO or desired.canary in listed):
        refs.append(backend_ref(desired.canary, weights[desired.canary], port))
    return refs + [backend_ref(arm, 0, port) for arm in desired.keep if arm in listed]


def _port(refs: Sequence[Any], target: RouteTarget, desired: DesiredTraffic) -> int | None:
    """The port of an entry of ours, the stable one's first; None where none is written."""
    pools = [(pool_of(ref, target.namespace), ref) for ref in refs]
    ours = [
        ref
        for pool, ref in sorted(pools, key=lambda item: item[0] != desired.stable)
        if pool in _ours(desired)
    ]
    ports = [map_of(ref).get("port") for ref in ours]
    return next((port for port in ports if isinstance(port, int) and not isinstance(port, bool)), None)


# --- Adopted ---------------------------------------------------------------------------------------


def _render_adopted(
    route: Object | None, target: RouteTarget, desired: DesiredTraffic
) -> Write | RenderRefusal | None:
    spec = target.spec
    if route is None:
        return RenderRefusal(
            reason=Reason.ROUTE_MISSING, message=f"HTTPRoute {spec.name} does not exist: add it to Git"
        )
    if desired.header_routes:
        return RenderRefusal(
            reason=Reason.NOT_MANAGED,
            message="header routes need a Managed route: an Adopted one gets no rules of ours",
        )
    live = map_of(route.get("spec"))
    arms = [desired.stable] if desired.canary is None else [desired.stable, desired.canary]
    changes: list[dict[str, Any]] = []
    for index in chosen_rules(live, spec, None, arms, target.namespace):
        patch = _rule_patch(index, rules_of(live)[index], target, desired)
        if isinstance(patch, RenderRefusal):
            return replace(patch, message=patch.message + _rules_to_choose(rules_of(live), target, desired))
        changes += patch
    return JsonPatch(operations=[_guard(route), *changes]) if changes else None


def _rule_patch(
    index: int, rule: Any, target: RouteTarget, desired: DesiredTraffic
) -> list[dict[str, Any]] | RenderRefusal:
    refs, ours, spec = backend_refs(rule), _ours(desired), target.spec
    entries = {place: weight_of(ref) for place, ref in enumerate(refs)}
    pools = [pool_of(ref, target.namespace) for ref in refs]
    mine = {place: identity for place, identity in enumerate(pools) if identity in ours}
    # Of several entries for one pool the first carries its weight, the others go to 0.
    places = {identity: place for place, identity in reversed(mine.items())}
    missing = [arm for arm in _needed(desired) if arm not in places]
    if missing and not spec.add_backend:
        return _backend_missing(rule, index, target, missing[0], _port(refs, target, desired))
    added = {len(refs) + offset: arm for offset, arm in enumerate(missing)}
    places |= {arm: place for place, arm in added.items()}
    canary = places.get(desired.canary) if desired.canary is not None else None
    weights = split(entries, frozenset(mine), places[desired.stable], canary, desired.weight)
    port = _port(refs, target, desired)
    base, operations = f"/spec/rules/{index}/backendRefs", list[dict[str, Any]]()
    for place, ref in enumerate(refs):
        if weights[place] != entries[place] or (place in mine and "weight" not in map_of(ref)):
            operations += [_same_name(base, place, ref), _set_weight(base, place, weights[place])]
    operations += _additions(base, refs, {arm: weights[place] for place, arm in added.items()}, port)
    if spec.add_backend:
        for place in sorted((at for at, arm in mine.items() if arm in desired.drop), reverse=True):
            operations += [_same_name(base, place, refs[place]), {"op": "remove", "path": f"{base}/{place}"}]
    return operations


def _needed(desired: DesiredTraffic) -> list[Identity]:
    needed = [desired.stable]
    if desired.canary is not None and desired.weight > ZERO:
        needed.append(desired.canary)
    return needed


def _same_name(base: str, place: int, ref: Any) -> dict[str, Any]:
    return {"op": "test", "path": f"{base}/{place}/name", "value": map_of(ref).get("name")}


def _set_weight(base: str, place: int, value: int) -> dict[str, Any]:
    return {"op": "add", "path": f"{base}/{place}/weight", "value": value}


def _additions(
    base: str, refs: Sequence[Any], arms: Mapping[Identity, int], port: int | None
) -> list[dict[str, Any]]:
    new = [backend_ref(arm, weight, port) for arm, weight in arms.items()]
    if new and not refs:
        return [{"op": "add", "path": base, "value": new}]
    return [{"op": "add", "path": f"{base}/-", "value": ref} for ref in new]


def _rules_to_choose(rules: Sequence[Any], target: RouteTarget, desired: DesiredTraffic) -> str:
    """The other way out of a missing entry: a rule that is meant as it is (it pins testers, say) is not weighed."""
    if target.spec.rule_names:
        return ""
    needed = set(_needed(desired))
    whole = [rule for rule in rules if needed <= set(pools_of(rule, target.namespace))]
    names = [text_of(map_of(rule).get("name")) for rule in whole]
    if not whole:
        return ""
    if not all(names):
        return (
            "; or, where it is meant as it is, name the rules that list both pools and set ruleNames to them"
        )
    return f"; or, where it is meant as it is, leave it out: ruleNames: [{', '.join(names)}]"


def _backend_missing(
    rule: Any, index: int, target: RouteTarget, arm: Identity, port: int | None
) -> RenderRefusal:
    other = twin(arm, pools_of(rule, target.namespace))
    if other is not None:
        return RenderRefusal(
            reason=Reason.BACKEND_MISSING,
            message=f"rule {rule_name(rule, index)} of HTTPRoute {target.spec.name} lists {POOL_KIND} {arm.name} in "
            f"{other.group}, not in {arm.group}, as target.pool.group or other rules say: list it in the same group in "
            "every rule, in one commit, and leave target.pool.group out or set it to that",
        )
    ref = backend_ref(arm, 0, port)
    flow = ", ".join(f"{key}: {value}" for key, value in ref.items())
    return RenderRefusal(
        reason=Reason.BACKEND_MISSING,
        message=f"rule {rule_name(rule, index)} of HTTPRoute {target.spec.name} lists no {POOL_KIND} {arm.name} of "
        f"namespace {target.namespace}: add to its backendRefs in Git: - {{{flow}}}",
    )


# --- the end, and the template ---------------------------------------------------------------------


def template_problems(template: Object) -> tuple[Problem, ...]:
    """What is wrong with a Managed route's template beyond what a server-side dry run finds."""
    if nested_deeper(template, _DEEPEST):
        message = (
            f"traffic.httpRoutes[0].template is nested deeper than {_DEEPEST} levels: no field of HTTPRoute is, "
            "correct the indentation"
        )
        return (Problem(reason=Reason.TEMPLATE_INVALID, message=message),)
    rules = rules_of(template)
    if not any(not map_of(rule).get("backendRefs") for rule in rules):
        return (
            Problem(
                reason=Reason.TEMPLATE_INVALID,
                message="traffic.httpRoutes[0].template has no rule without backendRefs: "
                "leave them out where the two pools are to be weighed",
            ),
        )
    if not isinstance(template.get("parentRefs"), list) or not template["parentRefs"]:
        return (
            Problem(
                reason=Reason.TEMPLATE_INVALID,
                message="traffic.httpRoutes[0].template names no parentRefs: no gateway would serve it",
            ),
        )
    return ()
