"""Gateway API semantics, pure: objects in, the plan of the data plane and the status of each object out.

Rules of the Gateway API v1 (HTTPRoute, "HTTPRouteMatch" precedence; Gateway, "Listener" attachment):
a route attaches to the listeners that its parentRefs name, that allow its namespace and share a
hostname with it. Of all rules that match a request the best is: exact path, then longest path, then a
method match, then most headers, then most query parameters, then the oldest route, then the name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rollouts.lab.gateway.backends import Backends, PoolKey, UnresolvedRef
from rollouts.lab.gateway.httproute import HttpRoute, ParentRef, RouteRule, parse_route
from rollouts.lab.gateway.listeners import Attachment, GatewayListener, attach, parse_listeners
from rollouts.lab.gateway.model import (
    GatewayConfig,
    Listener,
    Match,
    PathKind,
    Route,
    VirtualHost,
    WeightedBackend,
)
from rollouts.lab.gateway.read import Malformed, mapping, text

__all__ = [
    "GatewayStatus",
    "ListenerStatus",
    "ParentStatus",
    "PoolStatus",
    "RouteCondition",
    "RouteStatus",
    "Translation",
    "World",
    "translate",
]

Object = Mapping[str, Any]
_PATH_RANK = {PathKind.EXACT: 0, PathKind.REGEX: 1, PathKind.PREFIX: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """All that the gateway looks at.

    ``pools`` has the InferencePools by API group, for the two shapes go by it; ``ports`` maps
    (namespace, gateway, requested port) to the real port.
    """

    gateways: Sequence[Object] = ()
    routes: Sequence[Object] = ()
    pools: Mapping[str, Sequence[Object]] = field(default_factory=dict)
    services: Sequence[Object] = ()
    pods: Sequence[Object] = ()
    ports: Mapping[tuple[str, str, int], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteCondition:
    """One condition without its times and generation, which the writer adds."""

    type: str
    status: bool
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentStatus:
    """What one parent says about a route."""

    parent: Mapping[str, Any]
    conditions: tuple[RouteCondition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteStatus:
    """Status of one HTTPRoute: an entry per parentRef that is a gateway of ours.

    ``gateways`` and ``pools`` are what it connects.
    """

    route: Object
    parents: tuple[ParentStatus, ...]
    gateways: frozenset[tuple[str, str]] = frozenset()
    pools: frozenset[PoolKey] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerStatus:
    """Status of one listener of a gateway."""

    name: str
    attached: int
    conditions: tuple[RouteCondition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayStatus:
    """Status of one Gateway."""

    gateway: Object
    conditions: tuple[RouteCondition, ...]
    listeners: tuple[ListenerStatus, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatus:
    """Status of one InferencePool: the gateways (namespace, name) whose routes use it."""

    pool: Object
    group: str
    gateways: tuple[tuple[str, str], ...]
    conditions: tuple[RouteCondition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """The answer of ``translate``."""

    plan: GatewayConfig
    routes: tuple[RouteStatus, ...]
    gateways: tuple[GatewayStatus, ...]
    pools: tuple[PoolStatus, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A route in one virtual host, with its place in the order of precedence."""

    order: tuple[Any, ...]
    route: Route


def translate(world: World) -> Translation:
    """Turn the objects into what Envoy must do and what the objects' status must say."""
    backends = Backends(world.pools, world.services, world.pods)
    listeners: dict[tuple[str, str], tuple[GatewayListener, ...]] = {}
    broken: dict[tuple[str, str], str] = {}
    for gateway in world.gateways:
        key = _key(gateway)
        try:
            listeners[key] = parse_listeners(gateway)
        except Malformed as error:
            listeners[key], broken[key] = (), str(error)
    hosts: dict[tuple[str, str, int], dict[str, list[_Entry]]] = {}
    for (namespace, name), found in listeners.items():
        for listener in found:
            if listener.served:
                hosts.setdefault((namespace, name, listener.port), {})
    counts: dict[tuple[str, str, str], int] = {}
    statuses = [_route(obj, listeners, backends, hosts, counts) for obj in world.routes]
    return Translation(
        plan=GatewayConfig(
            listeners=tuple(_listener(key, hosts[key], world.ports) for key in sorted(hosts)),
            clusters=tuple(backends.clusters[name] for name in sorted(backends.clusters)),
        ),
        routes=tuple(statuses),
        gateways=tuple(
            _gateway_status(gateway, listeners[_key(gateway)], broken.get(_key(gateway), ""), counts)
            for gateway in world.gateways
        ),
        pools=tuple(
            _pool_status(group, pool, statuses, backends)
            for group, pools in world.pools.items()
            for pool in pools
        ),
    )


def _route(
    obj: Object,
    gateways: Mapping[tuple[str, str], tuple[GatewayListener, ...]],
    backends: Backends,
    hosts: dict[tuple[str, str, int], dict[str, list[_Entry]]],
    counts: dict[tuple[str, str, str], int],
) -> RouteStatus:
    try:
        route = parse_route(obj)
    except Malformed as error:
        return RouteStatus(route=obj, parents=_refused(obj, gateways, str(error)))
    entries: tuple[_Entry, ...] | None = None
    problems: list[UnresolvedRef] = []
    parents: list[ParentStatus] = []
    attached: set[tuple[str, str]] = set()
    for ref in route.parents:
        key = (ref.namespace, ref.name)
        if not ref.is_gateway or key not in gateways:
            continue
        if entries is None:
            entries = tuple(_entries(route, backends, problems))
        attachments, refusal = attach(route, ref, gateways[key])
        for attachment in attachments:
            _place(attachment, key, entries, hosts, counts)
            attached.add(key)
        status = _parent_status(ref, refusal, problems)
        if status not in parents:
            parents.append(status)
    pools = {
        (ref.group, ref.namespace, ref.name)
        for rule in route.rules
        for ref in (*rule.backends, *rule.mirrors)
        if ref.kind == "InferencePool" and ref.namespace == route.namespace
    }
    return RouteStatus(
        route=obj, parents=tuple(parents), gateways=frozenset(attached), pools=frozenset(pools)
    )


def _place(
    attachment: Attachment,
    key: tuple[str, str],
    entries: Iterable[_Entry],
    hosts: dict[tuple[str, str, int], dict[str, list[_Entry]]],
    counts: dict[tuple[str, str, str], int],
) -> None:
    listener = attachment.listener
    counts[(*key, listener.name)] = counts.get((*key, listener.name), 0) + 1
    table = hosts[(*key, listener.port)]
    for hostname in attachment.hostnames:
        present = table.setdefault(hostname, [])
        # A second parentRef to the same listener adds nothing.
        present.extend(entry for entry in entries if entry not in present)


def _entries(route: HttpRoute, backends: Backends, problems: list[UnresolvedRef]) -> Iterable[_Entry]:
    for position, rule in enumerate(route.rules):
        weighted, mirrors = _resolve(route, rule, backends, problems)
        for index, match in enumerate(rule.matches):
            yield _Entry(
                order=(*_specificity(match), route.created, route.namespace, route.name, position, index),
                route=Route(
                    name=f"{route.namespace}/{route.name}/{position}/{index}",
                    match=match,
                    backends=weighted,
                    request=rule.request,
                    response=rule.response,
                    rewrite=rule.rewrite,
                    mirrors=mirrors,
                    timeout=rule.timeout,
                ),
            )


def _resolve(
    route: HttpRoute, rule: RouteRule, backends: Backends, problems: list[UnresolvedRef]
) -> tuple[tuple[WeightedBackend, ...], tuple[str, ...]]:
    weighted = []
    for ref in rule.backends:
        cluster, problem = backends.resolve(ref, route.namespace)
        if problem is not None:
            problems.append(problem)
        weighted.append(
            WeightedBackend(cluster=cluster, weight=ref.weight, request=ref.request, response=ref.response)
        )
    mirrors = []
    for ref in rule.mirrors:
        cluster, problem = backends.resolve(ref, route.namespace)
        if problem is not None:
            problems.append(problem)
        else:
            mirrors.append(cluster)
    return tuple(weighted), tuple(mirrors)


def _specificity(match: Match) -> tuple[int, int, int, int, int]:
    return (
        _PATH_RANK[match.path.kind],
        -len(match.path.value),
        0 if match.method else 1,
        -len(match.headers),
        -len(match.queries),
    )


def _listener(
    key: tuple[str, str, int], hosts: Mapping[str, list[_Entry]], ports: Mapping[tuple[str, str, int], int]
) -> Listener:
    namespace, name, port = key
    return Listener(
        name=f"{namespace}/{name}/{port}",
        port=ports.get(key, port),
        hosts=tuple(
            VirtualHost(
                hostname=hostname,
                routes=tuple(entry.route for entry in sorted(hosts[hostname], key=lambda entry: entry.order)),
            )
            for hostname in sorted(hosts)
        ),
    )


def _parent_status(
    ref: ParentRef, refusal: UnresolvedRef | None, problems: Sequence[UnresolvedRef]
) -> ParentStatus:
    accepted = RouteCondition(
        type="Accepted", status=True, reason="Accepted", message="the route is attached"
    )
    if refusal is not None:
        accepted = RouteCondition(
            type="Accepted", status=False, reason=refusal.reason, message=refusal.message
        )
    resolved = RouteCondition(
        type="ResolvedRefs", status=True, reason="ResolvedRefs", message="all references resolve"
    )
    if problems:
        resolved = RouteCondition(
            type="ResolvedRefs",
            status=False,
            reason=problems[0].reason,
            message="; ".join(dict.fromkeys(problem.message for problem in problems))[:1024],
        )
    return ParentStatus(parent=ref.raw, conditions=(accepted, resolved))


def _refused(
    obj: Object, gateways: Mapping[tuple[str, str], tuple[GatewayListener, ...]], message: str
) -> tuple[ParentStatus, ...]:
    """Status of a route that cannot be read: to each parent that can be read, Accepted=False."""
    namespace = _key(obj)[0]
    spec = obj.get("spec")
    refs = spec.get("parentRefs") if isinstance(spec, Mapping) else None
    condition = RouteCondition(
        type="Accepted",
        status=False,
        reason="UnsupportedValue",
        message=f"the route is not served: {message}",
    )
    return tuple(
        ParentStatus(parent=ref, conditions=(condition,))
        for ref in (refs if isinstance(refs, list) else ())
        if isinstance(ref, Mapping) and (ref.get("namespace", namespace), ref.get("name")) in gateways
    )


def _gateway_status(
    gateway: Object,
    listeners: Sequence[GatewayListener],
    broken: str,
    counts: Mapping[tuple[str, str, str], int],
) -> GatewayStatus:
    served = any(listener.served for listener in listeners)
    message = broken or ("" if served else "no listener with protocol HTTP")
    conditions = tuple(
        RouteCondition(
            type=kind,
            status=not message,
            reason=kind if not message else "Invalid",
            message=message or "listening",
        )
        for kind in ("Accepted", "Programmed")
    )
    return GatewayStatus(
        gateway=gateway,
        conditions=conditions,
        listeners=tuple(
            ListenerStatus(
                name=listener.name,
                attached=counts.get((*_key(gateway), listener.name), 0),
                conditions=_listener_conditions(listener),
            )
            for listener in listeners
        ),
    )


def _listener_conditions(listener: GatewayListener) -> tuple[RouteCondition, ...]:
    if not listener.served:
        message = f"protocol {listener.protocol} is not served by this gateway, only HTTP"
        return (
            RouteCondition(type="Accepted", status=False, reason="UnsupportedProtocol", message=message),
            RouteCondition(type="Programmed", status=False, reason="Invalid", message=message),
        )
    return tuple(
        RouteCondition(type=kind, status=True, reason=kind, message="listening")
        for kind in ("Accepted", "Programmed", "ResolvedRefs")
    )


def _pool_status(group: str, pool: Object, routes: Sequence[RouteStatus], backends: Backends) -> PoolStatus:
    key = (group, *_key(pool))
    gateways = {gateway for route in routes if key in route.pools for gateway in route.gateways}
    problem = backends.picker_problem(group, pool)
    resolved = RouteCondition(
        type="ResolvedRefs", status=True, reason="ResolvedRefs", message="the picker is there"
    )
    if problem is not None:
        resolved = RouteCondition(
            type="ResolvedRefs", status=False, reason=problem.reason, message=problem.message
        )
    accepted = RouteCondition(
        type="Accepted", status=True, reason="Accepted", message="a route uses the pool"
    )
    return PoolStatus(
        pool=pool, group=group, gateways=tuple(sorted(gateways)), conditions=(accepted, resolved)
    )


def _key(obj: Object) -> tuple[str, str]:
    try:
        metadata = mapping(obj, "metadata")
        return text(metadata, "namespace", "default"), text(metadata, "name")
    except Malformed:
        return "", ""
