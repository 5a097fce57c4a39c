"""Route tables: one Envoy route per match of a rule, best match first."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2 as route_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2
from google.protobuf import any_pb2, duration_pb2

from rollouts.lab.gateway.extproc import EXT_PROC_FILTER, picker_override
from rollouts.lab.gateway.model import (
    HeaderEdits,
    Match,
    PathKind,
    PathMatch,
    Rewrite,
    Route,
    ValueMatch,
    VirtualHost,
    WeightedBackend,
)

__all__ = ["virtual_host"]

_APPEND = base_pb2.HeaderValueOption.APPEND_IF_EXISTS_OR_ADD
_OVERWRITE = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_RE2_SPECIAL = re.compile(r"([.+*?()|\[\]{}^$\\])")

# All three happen before a pod has seen anything of the request, so a retry cannot run it twice.
_RETRY_ON = "connect-failure,refused-stream,reset-before-request"

PickerOf = Mapping[str, tuple[str, bool]]


def virtual_host(host: VirtualHost, picker_of: PickerOf) -> route_pb2.VirtualHost:
    """One hostname. ``picker_of`` maps a pool's cluster to its picker's cluster and to fail-open."""
    return route_pb2.VirtualHost(
        name=host.hostname,
        domains=[host.hostname],
        routes=[_route(route, picker_of) for route in host.routes],
    )


def _route(route: Route, picker_of: PickerOf) -> route_pb2.Route:
    message = route_pb2.Route(
        name=route.name,
        match=_match(route.match),
        request_headers_to_add=_added(route.request),
        request_headers_to_remove=route.request.remove,
        response_headers_to_add=_added(route.response),
        response_headers_to_remove=route.response.remove,
    )
    backends = [backend for backend in route.backends if backend.weight > 0]
    if not backends:
        # Gateway API, HTTPRouteRule.backendRefs: no valid backend with a weight answers 500.
        message.direct_response.status = 500
        message.direct_response.body.inline_string = "no backend of this rule has a weight\n"
        return message
    message.route.CopyFrom(_action(route, backends, picker_of))
    return message


def _action(route: Route, backends: list[WeightedBackend], picker_of: PickerOf) -> route_pb2.RouteAction:
    action = route_pb2.RouteAction(
        weighted_clusters=route_pb2.WeightedCluster(
            clusters=[_entry(backend, picker_of) for backend in backends]
        ),
        cluster_not_found_response_code=route_pb2.RouteAction.INTERNAL_SERVER_ERROR,
        timeout=duration_pb2.Duration(nanos=round(route.timeout * 1e9) % 10**9, seconds=int(route.timeout)),
        retry_policy=_retry_policy(),
        request_mirror_policies=[
            route_pb2.RouteAction.RequestMirrorPolicy(cluster=cluster) for cluster in route.mirrors
        ],
    )
    _apply_rewrite(action, route.rewrite, route.match.path)
    return action


def _retry_policy() -> route_pb2.RetryPolicy:
    predicate = previous_hosts_pb2.PreviousHostsPredicate()
    packed = any_pb2.Any()
    packed.Pack(predicate)
    return route_pb2.RetryPolicy(
        retry_on=_RETRY_ON,
        num_retries={"value": 1},
        host_selection_retry_max_attempts=5,
        retry_host_predicate=[
            route_pb2.RetryPolicy.RetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts", typed_config=packed
            )
        ],
    )


def _entry(backend: WeightedBackend, picker_of: PickerOf) -> route_pb2.WeightedCluster.ClusterWeight:
    entry = route_pb2.WeightedCluster.ClusterWeight(
        name=backend.cluster,
        weight={"value": backend.weight},
        request_headers_to_add=_added(backend.request),
        request_headers_to_remove=backend.request.remove,
        response_headers_to_add=_added(backend.response),
        response_headers_to_remove=backend.response.remove,
    )
    if backend.cluster in picker_of:
        cluster, fail_open = picker_of[backend.cluster]
        packed = any_pb2.Any()
        packed.Pack(picker_override(cluster, fail_open=fail_open), deterministic=True)
        entry.typed_per_filter_config[EXT_PROC_FILTER].CopyFrom(packed)
    return entry


def _added(edits: HeaderEdits) -> list[base_pb2.HeaderValueOption]:
    return [
        base_pb2.HeaderValueOption(
            header=base_pb2.HeaderValue(key=name, value=value.replace("%", "%%")), append_action=action
        )
        for pairs, action in ((edits.set, _OVERWRITE), (edits.add, _APPEND))
        for name, value in pairs
    ]


def _match(match: Match) -> route_pb2.RouteMatch:
    headers = [
        route_pb2.HeaderMatcher(name=header.name.lower(), string_match=_string(header))
        for header in match.headers
    ]
    if match.method:
        method = ValueMatch(name=":method", value=match.method)
        headers.append(route_pb2.HeaderMatcher(name=method.name, string_match=_string(method)))
    return route_pb2.RouteMatch(
        headers=headers,
        query_parameters=[
            route_pb2.QueryParameterMatcher(name=query.name, string_match=_string(query))
            for query in match.queries
        ],
        **_path(match.path),
    )


def _path(path: PathMatch) -> dict[str, Any]:
    if path.kind is PathKind.EXACT:
        return {"path": path.value}
    if path.kind is PathKind.REGEX:
        return {"safe_regex": regex_pb2.RegexMatcher(regex=path.value)}
    prefix = path.value.rstrip("/")
    # A prefix ends at a slash: /v1 matches /v1 and /v1/chat, not /v11.
    return {"path_separated_prefix": prefix} if prefix else {"prefix": "/"}


def _string(match: ValueMatch) -> string_pb2.StringMatcher:
    if match.regex:
        return string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=match.value))
    return string_pb2.StringMatcher(exact=match.value)


def _apply_rewrite(action: route_pb2.RouteAction, rewrite: Rewrite, path: PathMatch) -> None:
    if rewrite.hostname:
        action.host_rewrite_literal = rewrite.hostname
    if rewrite.full_path:
        _substitute(action, "^/.*$", rewrite.full_path)
    elif rewrite.prefix is not None:
        matched = _RE2_SPECIAL.sub(r"\\\1", path.value.rstrip("/"))
        replacement = rewrite.prefix.rstrip("/")
        # Gateway API, HTTPPathModifier: /foo/bar with /foo -> /xyz is /xyz/bar, and with /foo -> / is /bar.
        if replacement:
            _substitute(action, f"^{matched}(/|$)", replacement, tail=r"\1")
        else:
            _substitute(action, f"^{matched}(/+|$)", "/")


def _substitute(action: route_pb2.RouteAction, pattern: str, replacement: str, tail: str = "") -> None:
    action.regex_rewrite.pattern.regex = pattern
    action.regex_rewrite.substitution = replacement.replace("\\", "\\\\") + tail
