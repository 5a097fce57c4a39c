"""HTTPRoute objects read into plain values (Gateway API v1, ``HTTPRouteSpec``)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rollouts.lab.gateway.model import (
    NO_EDITS,
    NO_REWRITE,
    HeaderEdits,
    Match,
    PathKind,
    PathMatch,
    Rewrite,
    ValueMatch,
)
from rollouts.lab.gateway.read import Malformed, items, mapping, number, text

__all__ = ["GATEWAY_GROUP", "BackendRef", "HttpRoute", "ParentRef", "RouteRule", "parse_route"]

GATEWAY_GROUP = "gateway.networking.k8s.io"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
_DURATION = re.compile(r"(\d+)(h|ms|m|s)")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}")
_HOSTNAME = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentRef:
    """One entry of ``spec.parentRefs``; ``raw`` is what goes back into the status unchanged."""

    namespace: str
    name: str
    section: str
    port: int
    is_gateway: bool
    raw: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendRef:
    """One entry of ``backendRefs``, or the target of a mirror filter."""

    group: str
    kind: str
    namespace: str
    name: str
    port: int
    weight: int = 1
    request: HeaderEdits = NO_EDITS
    response: HeaderEdits = NO_EDITS


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRule:
    """One entry of ``spec.rules``. No matches in the object means one match on everything."""

    matches: tuple[Match, ...]
    backends: tuple[BackendRef, ...]
    mirrors: tuple[BackendRef, ...]
    request: HeaderEdits
    response: HeaderEdits
    rewrite: Rewrite
    timeout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRoute:
    """A whole route. ``created`` is the creationTimestamp as the API server wrote it (it sorts as text)."""

    namespace: str
    name: str
    created: str
    parents: tuple[ParentRef, ...]
    hostnames: tuple[str, ...]
    rules: tuple[RouteRule, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Filters:
    request: HeaderEdits = NO_EDITS
    response: HeaderEdits = NO_EDITS
    rewrite: Rewrite = NO_REWRITE
    mirrors: tuple[BackendRef, ...] = ()


def parse_route(obj: Mapping[str, Any]) -> HttpRoute:
    """Read one HTTPRoute. Raises Malformed where a field has the wrong type or cannot be served."""
    metadata, spec = mapping(obj, "metadata"), mapping(obj, "spec")
    namespace = text(metadata, "namespace", "default")
    hostnames = spec.get("hostnames") or []
    if not isinstance(hostnames, list) or not all(isinstance(h, str) for h in hostnames):
        raise Malformed("hostnames: a list of strings is needed")
    hostnames = [hostname.lower() for hostname in hostnames]
    if not all(_HOSTNAME.fullmatch(hostname) for hostname in hostnames):
        raise Malformed("hostnames: DNS names are needed, at most with one leading *. label")
    return HttpRoute(
        namespace=namespace,
        name=text(metadata, "name"),
        created=text(metadata, "creationTimestamp"),
        parents=tuple(_parent(ref, namespace) for ref in items(spec, "parentRefs")),
        hostnames=tuple(hostnames),
        rules=tuple(_rule(rule, namespace) for rule in items(spec, "rules")),
    )


def _parent(ref: Mapping[str, Any], namespace: str) -> ParentRef:
    group, kind = text(ref, "group", GATEWAY_GROUP), text(ref, "kind", "Gateway")
    return ParentRef(
        namespace=text(ref, "namespace", namespace),
        name=text(ref, "name"),
        section=text(ref, "sectionName"),
        port=number(ref, "port", 0, high=65535),
        is_gateway=(group, kind) == (GATEWAY_GROUP, "Gateway"),
        raw=ref,
    )


def _rule(rule: Mapping[str, Any], namespace: str) -> RouteRule:
    filters = _filters(rule, namespace)
    return RouteRule(
        matches=tuple(_match(m) for m in items(rule, "matches")) or (Match(),),
        backends=tuple(_backend(ref, namespace) for ref in items(rule, "backendRefs")),
        mirrors=filters.mirrors,
        request=filters.request,
        response=filters.response,
        rewrite=filters.rewrite,
        timeout=_duration(text(mapping(rule, "timeouts"), "request")),
    )


def _backend(ref: Mapping[str, Any], namespace: str) -> BackendRef:
    filters = _filters(ref, namespace)
    if filters.rewrite != NO_REWRITE or filters.mirrors:
        raise Malformed("backendRefs.filters: only header modifiers are served on a backendRef")
    return BackendRef(
        group=text(ref, "group"),
        kind=text(ref, "kind", "Service"),
        namespace=text(ref, "namespace", namespace),
        name=text(ref, "name"),
        port=number(ref, "port", 0, high=65535),
        weight=number(ref, "weight", 1, high=1_000_000),
        request=filters.request,
        response=filters.response,
    )


def _match(match: Mapping[str, Any]) -> Match:
    path = mapping(match, "path")
    kind = text(path, "type", PathKind.PREFIX.value)
    if kind not in {k.value for k in PathKind}:
        raise Malformed(f"matches.path.type: {kind} is not one of Exact, PathPrefix, RegularExpression")
    value = text(path, "value", "/")
    if kind == PathKind.REGEX.value:
        _check_regex(value)
    elif not value.startswith("/") or "?" in value or "#" in value:
        raise Malformed(f"matches.path.value: {value} does not start with / or has a query")
    method = text(match, "method")
    if method and method not in _METHODS:
        raise Malformed(f"matches.method: {method} is not an HTTP method")
    return Match(
        path=PathMatch(kind=PathKind(kind), value=value),
        method=method,
        headers=tuple(_value_match(h) for h in items(match, "headers")),
        queries=tuple(_value_match(q) for q in items(match, "queryParams")),
    )


def _value_match(match: Mapping[str, Any]) -> ValueMatch:
    kind = text(match, "type", "Exact")
    if kind not in {"Exact", "RegularExpression"}:
        raise Malformed(f"matches type: {kind} is not one of Exact, RegularExpression")
    value = text(match, "value")
    if kind != "Exact":
        _check_regex(value)
    return ValueMatch(name=_token(text(match, "name")), value=value, regex=kind != "Exact")


def _token(name: str) -> str:
    if not _TOKEN.fullmatch(name):
        raise Malformed(f"name: {name!r} is not a header or parameter name")
    return name


def _check_regex(pattern: str) -> None:
    """Envoy refuses a whole route table for one bad RE2 expression, so it must not get that far."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise Malformed(f"value: {pattern} is not a regular expression: {error}") from None
    if re.search(r"\(\?(?:[=!<(>]|P[=>])|\\[1-9]", pattern):
        raise Malformed(f"value: {pattern} uses look-around or back references, which RE2 does not have")


def _filters(parent: Mapping[str, Any], namespace: str) -> _Filters:
    request = response = NO_EDITS
    rewrite = NO_REWRITE
    mirrors: list[BackendRef] = []
    for entry in items(parent, "filters"):
        kind = text(entry, "type")
        if kind == "RequestHeaderModifier":
            request += _edits(mapping(entry, "requestHeaderModifier"))
        elif kind == "ResponseHeaderModifier":
            response += _edits(mapping(entry, "responseHeaderModifier"))
        elif kind == "URLRewrite":
            rewrite = _rewrite(mapping(entry, "urlRewrite"))
        elif kind == "RequestMirror":
            mirrors.append(_backend(mapping(mapping(entry, "requestMirror"), "backendRef"), namespace))
        else:
            # The Gateway API forbids to skip a filter that is not understood.
            raise Malformed(f"filters: {kind or 'a filter without type'} is not served by this gateway")
    return _Filters(request=request, response=response, rewrite=rewrite, mirrors=tuple(mirrors))


def _edits(modifier: Mapping[str, Any]) -> HeaderEdits:
    remove = modifier.get("remove") or []
    if not isinstance(remove, list) or not all(isinstance(name, str) for name in remove):
        raise Malformed("filters.remove: a list of header names is needed")
    if any(name.lower() == "host" for name in remove):
        raise Malformed("filters.remove: the Host header cannot be removed")
    return HeaderEdits(
        set=tuple((_token(text(h, "name")), text(h, "value")) for h in items(modifier, "set")),
        add=tuple((_token(text(h, "name")), text(h, "value")) for h in items(modifier, "add")),
        remove=tuple(_token(name) for name in remove),
    )


def _rewrite(rewrite: Mapping[str, Any]) -> Rewrite:
    path = mapping(rewrite, "path")
    kind = text(path, "type")
    if kind not in {"", "ReplaceFullPath", "ReplacePrefixMatch"}:
        raise Malformed(f"filters.urlRewrite.path.type: {kind} is not known")
    return Rewrite(
        hostname=text(rewrite, "hostname"),
        full_path=text(path, "replaceFullPath") if kind == "ReplaceFullPath" else "",
        prefix=text(path, "replacePrefixMatch") if kind == "ReplacePrefixMatch" else None,
    )


def _duration(value: str) -> float:
    """Gateway API duration (GEP-2257, for example ``1h30m``) in seconds; 0 is no limit."""
    parts = _DURATION.findall(value)
    if "".join(amount + unit for amount, unit in parts) != value:
        raise Malformed(f"timeouts.request: {value} is not a duration such as 10s or 1m30s")
    return sum(int(amount) * _SECONDS[unit] for amount, unit in parts)
