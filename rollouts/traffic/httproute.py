"""HTTPRoute: how weights between InferencePools are read and written (gateway.networking.k8s.io/v1).

``spec.rules`` and ``backendRefs`` are atomic lists (Gateway API CRD, ``x-kubernetes-list-type: atomic``): field
ownership cannot say "the weights are ours". So a Managed route is applied whole, and an Adopted one is changed
by a JSON patch that tests the resourceVersion and the name of each entry it touches.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rollouts.engine.actions import DesiredTraffic
from rollouts.engine.observation import Claim, ParentsView, Problem, RuleView, TrafficView
from rollouts.engine.types import (
    ZERO,
    HeaderMatch,
    HeaderMatchType,
    HeaderRouteStep,
    HttpRouteTraffic,
    Identity,
    TrafficMode,
)
from rollouts.traffic.weights import WeightTooLarge, split
from rollouts.traffic.writes import (
    APPLIED_BY,
    CONSENT_ANNOTATION,
    ROLLOUT_LABEL,
    Apply,
    JsonPatch,
    Refusal,
    Write,
)

__all__ = ["POOL_GROUPS", "release", "render", "template_problems", "view"]

Object = Mapping[str, Any]

KIND = "HTTPRoute"
API_VERSION = "gateway.networking.k8s.io/v1"
POOL_KIND = "InferencePool"
POOL_GROUPS = ("inference.networking.k8s.io", "inference.networking.x-k8s.io")
_DEFAULT_PORT = 8000
_HEADER_RULE = "rollout-header-"
"""Prefix of the names of rules that a setHeaderRoute step adds."""


# --- reading ---------------------------------------------------------------------------------------


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _identity(ref: Any) -> Identity | None:
    """The InferencePool that a backendRef names; None for every other backend."""
    ref = _dict(ref)
    group, name = ref.get("group"), ref.get("name")
    if ref.get("kind") != POOL_KIND or group not in POOL_GROUPS or not isinstance(name, str):
        return None
    return Identity(kind=POOL_KIND, group=str(group), name=name)


def _weight(ref: Any) -> int:
    """Weight of a backendRef; 1 when omitted (Gateway API default)."""
    value = _dict(ref).get("weight", 1)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 1


def _pools(rule: Any) -> dict[Identity, int]:
    found: dict[Identity, int] = {}
    for ref in _list(_dict(rule).get("backendRefs")):
        identity = _identity(ref)
        if identity is not None:
            found[identity] = found.get(identity, 0) + _weight(ref)
    return found


def _rule_name(rule: Any, index: int) -> str:
    name = _dict(rule).get("name")
    return name if isinstance(name, str) and name else str(index)


def _chosen(rules: Sequence[Any], spec: HttpRouteTraffic, arms: Collection[Identity]) -> list[int]:
    """Indices of the rules that are ours to weigh."""
    plain = [i for i, rule in enumerate(rules) if not _rule_name(rule, i).startswith(_HEADER_RULE)]
    if spec.rule_names:
        return [i for i in plain if _dict(rules[i]).get("name") in spec.rule_names]
    pools = {i: _pools(rules[i]) for i in plain}
    ours = [i for i in plain if any(arm in pools[i] for arm in arms)]
    return ours or [i for i in plain if pools[i]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Who looks: our Rollout's name, the arms it knows, and which field managers belong to GitOps tools."""

    rollout: str
    arms: tuple[Identity, ...]
    gitops_managers: tuple[str, ...] = ()
    field_manager: str = APPLIED_BY


def view(
    route: Object | None, spec: HttpRouteTraffic, template: Object | None, reader: Reader
) -> TrafficView:
    """The engine's view of the live route; ``route`` None means that it does not exist."""
    if route is None:
        return TrafficView(kind=KIND, name=spec.name, mode=spec.mode)
    meta = _dict(route.get("metadata"))
    rules = _list(_dict(route.get("spec")).get("rules"))
    chosen = _chosen(rules, spec, reader.arms)
    claim, claimed_by = _claim(meta, spec.mode, reader.rollout)
    writer, written_at = _last_writer(meta)
    return TrafficView(
        kind=KIND,
        name=spec.name,
        mode=spec.mode,
        exists=True,
        uid=str(meta.get("uid", "")),
        resource_version=str(meta.get("resourceVersion", "")),
        claim=claim,
        claimed_by=claimed_by,
        rules=tuple(RuleView(name=_rule_name(rules[i], i), entries=_pools(rules[i])) for i in chosen),
        header_routes=_header_routes(rules),
        structure_current=_structure_current(route, spec, template, reader.rollout),
        parents=_parents(route),
        last_writer=writer,
        last_written_at=written_at,
        written_by_us=writer == reader.field_manager,
        written_by_gitops=writer in reader.gitops_managers,
        deleting=bool(meta.get("deletionTimestamp")),
    )


def _claim(meta: Mapping[str, Any], mode: TrafficMode, rollout: str) -> tuple[Claim, str]:
    label = _dict(meta.get("labels")).get(ROLLOUT_LABEL)
    consent = _dict(meta.get("annotations")).get(CONSENT_ANNOTATION)
    named = label if mode is TrafficMode.MANAGED and label else consent or label
    if not isinstance(named, str) or not named:
        return Claim.UNCLAIMED, ""
    if named != rollout:
        return Claim.OTHER, named
    return (Claim.OURS if mode is TrafficMode.MANAGED and label == rollout else Claim.CONSENTED), named


def _last_writer(meta: Mapping[str, Any]) -> tuple[str, datetime | None]:
    """The field manager that owns ``spec.rules``: the list is atomic, so it is the one that changed it last.

    Several may own the same value; then ours counts, since the value is what we wrote.
    """
    found: list[tuple[str, datetime | None]] = []
    for entry in _list(meta.get("managedFields")):
        entry = _dict(entry)
        if "f:rules" in _dict(_dict(entry.get("fieldsV1")).get("f:spec")) and not entry.get("subresource"):
            found.append((str(entry.get("manager", "")), _time(entry.get("time"))))
    for manager, moment in found:
        if manager == APPLIED_BY:
            return manager, moment
    return max(found, key=lambda item: str(item[1]), default=("", None))


def _time(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) and len(value) <= 40 else None
    except ValueError:
        return None
    return moment if moment is not None and moment.tzinfo is not None else None


def _parents(route: Object) -> ParentsView:
    """Accepted and ResolvedRefs at the current generation on every parent that the route names."""
    generation = _dict(route.get("metadata")).get("generation")
    wanted = _list(_dict(route.get("spec")).get("parentRefs"))
    reported = [_dict(parent) for parent in _list(_dict(route.get("status")).get("parents"))]
    if not wanted:
        return ParentsView(
            programmed=False, message="the HTTPRoute names no parentRefs: no gateway serves it"
        )
    for ref in wanted:
        name = _dict(ref).get("name")
        statuses = [item for item in reported if _same_parent(_dict(item.get("parentRef")), _dict(ref))]
        if not statuses:
            return ParentsView(
                programmed=False, message=f"Gateway {name} has not reported on the HTTPRoute yet"
            )
        for status in statuses:
            problem = _parent_problem(status, generation)
            if problem:
                return ParentsView(programmed=False, message=f"Gateway {name}: {problem}")
    return ParentsView(programmed=True)


def _same_parent(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    return all(left.get(key) == right.get(key) for key in ("name", "sectionName", "port")) and (
        left.get("namespace") in (None, right.get("namespace")) or right.get("namespace") is None
    )


def _parent_problem(status: Mapping[str, Any], generation: Any) -> str:
    conditions = {_dict(item).get("type"): _dict(item) for item in _list(status.get("conditions"))}
    for name in ("Accepted", "ResolvedRefs"):
        condition = conditions.get(name)
        if condition is None:
            return f"{name} is not reported yet"
        if condition.get("status") != "True":
            return f"{name} is {condition.get('status')}: {str(condition.get('message', ''))[:200]}"
        if condition.get("observedGeneration") != generation:
            return f"{name} is not yet reported for the current generation"
    return ""


# --- header routes ---------------------------------------------------------------------------------


def _header_routes(rules: Sequence[Any]) -> tuple[HeaderRouteStep, ...]:
    """The header routes in force, read back from the rules that we added (named in ``rule.name``)."""
    found: dict[str, HeaderRouteStep] = {}
    for rule in rules:
        name = _dict(rule).get("name")
        if not isinstance(name, str) or not name.startswith(_HEADER_RULE):
            continue
        route = name.removeprefix(_HEADER_RULE).rsplit("-", 1)[0]
        matches = _list(_dict(rule).get("matches"))
        headers = _list(_dict(matches[0]).get("headers")) if matches else ()
        ours = [item for item in map(_read_header, headers) if item is not None]
        found.setdefault(route, HeaderRouteStep(name=route, match=tuple(ours)))
    return tuple(found.values())


def _read_header(header: Any) -> HeaderMatch | None:
    header = _dict(header)
    name, value = header.get("name"), header.get("value")
    if not isinstance(name, str) or not isinstance(value, str):
        return None
    if header.get("type") != "RegularExpression":
        return HeaderMatch(name=name, value=value)
    if value.startswith("^") and value.endswith(".*"):
        return HeaderMatch(name=name, value=_unquote(value[1:-2]), type=HeaderMatchType.PREFIX)
    return HeaderMatch(name=name, value=value, type=HeaderMatchType.REGEX)


def _write_header(match: HeaderMatch) -> dict[str, str]:
    """A header condition; a prefix becomes a regular expression, the only form that Gateway API has for it."""
    if match.type is HeaderMatchType.EXACT:
        return {"name": match.name, "type": "Exact", "value": match.value}
    value = match.value if match.type is HeaderMatchType.REGEX else f"^{_quote(match.value)}.*"
    return {"name": match.name, "type": "RegularExpression", "value": value}


_SPECIAL = frozenset("\\.+*?()|[]{}^$")


def _quote(text: str) -> str:
    return "".join(f"\\{c}" if c in _SPECIAL else c for c in text)


def _unquote(text: str) -> str:
    out, escaped = [], False
    for char in text:
        if char == "\\" and not escaped:
            escaped = True
            continue
        out.append(char)
        escaped = False
    return "".join(out)


def _header_rules(
    template: Object, desired: DesiredTraffic, refs: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    if desired.canary is None:
        return
    port = next((ref["port"] for ref in refs if "port" in ref), _DEFAULT_PORT)
    for route in desired.header_routes:
        for index, rule in enumerate(_list(template.get("rules"))):
            if _dict(rule).get("backendRefs"):
                continue
            copy = {key: value for key, value in _dict(rule).items() if key != "name"}
            headers = [_write_header(match) for match in route.match]
            copy["matches"] = [
                {**_dict(match), "headers": [*headers, *_list(_dict(match).get("headers"))]}
                for match in _list(copy.get("matches")) or [{"path": {"type": "PathPrefix", "value": "/"}}]
            ]
            copy["name"] = f"{_HEADER_RULE}{route.name}-{index}"
            copy["backendRefs"] = [_ref(desired.canary, 1, port)]
            yield copy


# --- writing ---------------------------------------------------------------------------------------


def _ref(identity: Identity, weight: int, port: int) -> dict[str, Any]:
    return {
        "group": identity.group,
        "kind": POOL_KIND,
        "name": identity.name,
        "port": port,
        "weight": weight,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a write goes: names, and the template of a Managed route."""

    rollout: str
    namespace: str
    spec: HttpRouteTraffic
    template: Object | None = None


def render(route: Object | None, target: Target, desired: DesiredTraffic) -> Write | Refusal | None:
    """The write that brings the route to ``desired``; None when it says so already."""
    try:
        if target.spec.mode is TrafficMode.MANAGED:
            return _render_managed(route, target, desired)
        return _render_adopted(route, target, desired)
    except WeightTooLarge as error:
        return Refusal(
            reason="WeightTooLarge",
            message=f"HTTPRoute {target.spec.name}: {error}; use smaller weights in its rules",
        )


def _ours(desired: DesiredTraffic) -> frozenset[Identity]:
    arms = {desired.stable, *desired.keep, *desired.drop}
    return frozenset(arms | ({desired.canary} if desired.canary is not None else set()))


def _render_managed(route: Object | None, target: Target, desired: DesiredTraffic) -> Write | None:
    template = target.template or {}
    rules = _list(template.get("rules"))
    live = _list(_dict(_dict(route or {}).get("spec")).get("rules"))
    refs = _managed_refs(live, target, desired)
    body_rules: list[dict[str, Any]] = list(_header_rules(template, desired, refs))
    for rule in rules:
        copy = dict(_dict(rule))
        if not copy.get("backendRefs"):
            copy["backendRefs"] = refs
        body_rules.append(copy)
    meta: dict[str, Any] = {
        "name": target.spec.name,
        "namespace": target.namespace,
        "labels": {ROLLOUT_LABEL: target.rollout},
    }
    if route is not None:
        meta["resourceVersion"] = str(_dict(route.get("metadata")).get("resourceVersion", ""))
        if _same_managed(route, template, body_rules, target.rollout):
            return None
    spec = {**{key: value for key, value in template.items() if key != "rules"}, "rules": body_rules}
    return Apply(body={"apiVersion": API_VERSION, "kind": KIND, "metadata": meta, "spec": spec})


def _managed_refs(live: Sequence[Any], target: Target, desired: DesiredTraffic) -> list[dict[str, Any]]:
    """backendRefs of a pool rule: stable, the canary from its first weight on, kept arms at 0."""
    listed = {identity for rule in live for identity in _pools(rule)}
    weights = split({}, frozenset(), desired.stable, desired.canary, desired.weight)
    port = _port(target.template, live, desired)
    refs = [_ref(desired.stable, weights[desired.stable], port)]
    if desired.canary is not None and (desired.weight > ZERO or desired.canary in listed):
        refs.append(_ref(desired.canary, weights[desired.canary], port))
    refs += [_ref(arm, 0, port) for arm in desired.keep if arm in listed]
    return refs


def _port(template: Object | None, live: Sequence[Any], desired: DesiredTraffic) -> int:
    """The port of a live entry, else 8000. InferencePool backends take their port from the pool."""
    for rule in live:
        for ref in _list(_dict(rule).get("backendRefs")):
            port = _dict(ref).get("port")
            if _identity(ref) in _ours(desired) and isinstance(port, int):
                return port
    return _DEFAULT_PORT


def _same_managed(route: Object, template: Object, rules: list[dict[str, Any]], rollout: str) -> bool:
    spec = _dict(route.get("spec"))
    label = _dict(_dict(route.get("metadata")).get("labels")).get(ROLLOUT_LABEL)
    fixed = {key: value for key, value in template.items() if key != "rules"}
    return (
        label == rollout
        and all(covers(spec.get(key), value) for key, value in fixed.items())
        and covers(_list(spec.get("rules")), rules)
    )


def covers(live: Any, wanted: Any) -> bool:
    """Whether ``live`` says everything that ``wanted`` says; what the server defaulted is ignored."""
    if isinstance(wanted, Mapping):
        return isinstance(live, Mapping) and all(
            key in live and covers(live[key], value) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(live, list)
            and len(live) == len(wanted)
            and all(covers(a, b) for a, b in zip(live, wanted, strict=True))
        )
    return bool(live == wanted)


def _structure_current(route: Object, spec: HttpRouteTraffic, template: Object | None, rollout: str) -> bool:
    """Managed: whether everything but pool weights and header rules is as the template says."""
    if spec.mode is TrafficMode.ADOPTED:
        return True
    live = _dict(route.get("spec"))
    wanted = template or {}
    fixed = {key: value for key, value in wanted.items() if key != "rules"}
    rules = [
        rule
        for index, rule in enumerate(_list(live.get("rules")))
        if not _rule_name(rule, index).startswith(_HEADER_RULE)
    ]
    label = _dict(_dict(route.get("metadata")).get("labels")).get(ROLLOUT_LABEL)
    return (
        label == rollout
        and all(covers(live.get(key), value) for key, value in fixed.items())
        and covers(rules, list(_list(wanted.get("rules"))))
    )


def _render_adopted(route: Object | None, target: Target, desired: DesiredTraffic) -> Write | Refusal | None:
    spec = target.spec
    if route is None:
        return Refusal(reason="RouteMissing", message=f"HTTPRoute {spec.name} does not exist: add it to Git")
    if desired.header_routes:
        return Refusal(
            reason="NotManaged",
            message="header routes need a Managed route: an Adopted one gets no rules of ours",
        )
    rules = _list(_dict(route.get("spec")).get("rules"))
    changes: list[dict[str, Any]] = []
    for index in _chosen(rules, spec, tuple(_ours(desired))):
        patch = _rule_patch(index, _list(_dict(rules[index]).get("backendRefs")), spec, desired)
        if isinstance(patch, Refusal):
            return patch
        changes += patch
    if not changes:
        return None
    version = str(_dict(route.get("metadata")).get("resourceVersion", ""))
    guard = {"op": "test", "path": "/metadata/resourceVersion", "value": version}
    return JsonPatch(operations=[guard, *changes])


def _rule_patch(
    index: int, refs: Sequence[Any], spec: HttpRouteTraffic, desired: DesiredTraffic
) -> list[dict[str, Any]] | Refusal:
    base = f"/spec/rules/{index}/backendRefs"
    ours, entries = _ours(desired), {i: _weight(ref) for i, ref in enumerate(refs)}
    places = {_identity(ref): i for i, ref in enumerate(refs) if _identity(ref) in ours}
    missing = [arm for arm in _needed(desired) if arm not in places]
    if missing and not spec.add_backend:
        return Refusal(
            reason="BackendMissing",
            message=f"rule {index} of HTTPRoute {spec.name} lists no {missing[0].name}: add to its backendRefs in "
            f"Git {{group: {missing[0].group}, kind: {POOL_KIND}, name: {missing[0].name}, weight: 0}}",
        )
    stable = places.get(desired.stable, -1)
    canary = None if desired.canary is None else places.get(desired.canary, -2 if missing else None)
    weights = split(entries, frozenset(places.values()), stable, canary, desired.weight)
    operations = []
    for place, value in sorted(weights.items()):
        if place >= 0 and (value != entries[place] or "weight" not in _dict(refs[place])):
            operations += _set_weight(f"{base}/{place}", refs[place], value)
    port = next((r["port"] for r in map(_dict, refs) if _identity(r) in ours and "port" in r), _DEFAULT_PORT)
    for place, arm in ((-1, desired.stable), (-2, desired.canary)):
        if place in weights and arm is not None:
            operations.append({"op": "add", "path": f"{base}/-", "value": _ref(arm, weights[place], port)})
    if spec.add_backend:
        dropped = sorted((places[arm] for arm in desired.drop if arm in places), reverse=True)
        operations += [{"op": "remove", "path": f"{base}/{place}"} for place in dropped]
    return operations


def _needed(desired: DesiredTraffic) -> list[Identity]:
    needed = [desired.stable]
    if desired.canary is not None and desired.weight > ZERO:
        needed.append(desired.canary)
    return needed


def _set_weight(path: str, ref: Any, value: int) -> list[dict[str, Any]]:
    return [
        {"op": "test", "path": f"{path}/name", "value": _dict(ref).get("name")},
        {"op": "add", "path": f"{path}/weight", "value": value},
    ]


def release(route: Object, *, delete: bool) -> JsonPatch | None:
    """Give a Managed route up: a patch that drops our label; None when the route is to be deleted."""
    if delete:
        return None
    version = str(_dict(route.get("metadata")).get("resourceVersion", ""))
    label = ROLLOUT_LABEL.replace("~", "~0").replace("/", "~1")
    return JsonPatch(
        operations=[
            {"op": "test", "path": "/metadata/resourceVersion", "value": version},
            {"op": "remove", "path": f"/metadata/labels/{label}"},
        ]
    )


def template_problems(template: Object) -> tuple[Problem, ...]:
    """What is wrong with a Managed route's template beyond what a server-side dry run finds."""
    rules = _list(template.get("rules"))
    if not any(not _dict(rule).get("backendRefs") for rule in rules):
        return (
            Problem(
                reason="TemplateInvalid",
                message="traffic.httpRoutes[0].template has no rule without backendRefs: "
                "leave them out where the two pools are to be weighed",
            ),
        )
    if not _list(template.get("parentRefs")):
        return (
            Problem(
                reason="TemplateInvalid",
                message="traffic.httpRoutes[0].template names no parentRefs: no gateway would serve it",
            ),
        )
    return ()
