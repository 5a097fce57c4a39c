"""Listeners of a Gateway and which routes may attach to them (Gateway API v1, ``Listener``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollouts.lab.gateway.backends import UnresolvedRef
from rollouts.lab.gateway.httproute import GATEWAY_GROUP, HttpRoute, ParentRef
from rollouts.lab.gateway.read import Malformed, items, mapping, number, text, text_map

__all__ = [
    "Attachment",
    "GatewayListener",
    "attach",
    "common_hostname",
    "parse_listeners",
    "requested_ports",
]

_NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayListener:
    """One entry of ``spec.listeners``. ``namespaces`` None means all of them."""

    name: str
    port: int
    protocol: str
    hostname: str
    namespaces: tuple[str, ...] | None
    takes_http_routes: bool

    @property
    def served(self) -> bool:
        """Whether this gateway can serve the protocol at all."""
        return self.protocol == "HTTP"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A route on one listener, under the hostnames that both have."""

    listener: GatewayListener
    hostnames: tuple[str, ...]


def parse_listeners(gateway: Mapping[str, Any]) -> tuple[GatewayListener, ...]:
    """Read the listeners of a Gateway. Raises Malformed."""
    namespace = text(mapping(gateway, "metadata"), "namespace", "default")
    return tuple(_listener(entry, namespace) for entry in items(mapping(gateway, "spec"), "listeners"))


def requested_ports(gateway: Mapping[str, Any]) -> frozenset[tuple[str, str, int]]:
    """(namespace, gateway, port) of each served listener; empty for a Gateway that cannot be read."""
    try:
        metadata = mapping(gateway, "metadata")
        namespace, name = text(metadata, "namespace", "default"), text(metadata, "name")
        return frozenset((namespace, name, item.port) for item in parse_listeners(gateway) if item.served)
    except Malformed:
        return frozenset()


def _listener(entry: Mapping[str, Any], namespace: str) -> GatewayListener:
    allowed = mapping(entry, "allowedRoutes")
    kinds = items(allowed, "kinds")
    return GatewayListener(
        name=text(entry, "name"),
        port=number(entry, "port", 0, low=1, high=65535),
        protocol=text(entry, "protocol"),
        hostname=text(entry, "hostname").lower(),
        namespaces=_namespaces(mapping(allowed, "namespaces"), namespace),
        takes_http_routes=not kinds
        or any(
            (text(k, "group", GATEWAY_GROUP), text(k, "kind")) == (GATEWAY_GROUP, "HTTPRoute") for k in kinds
        ),
    )


def _namespaces(allowed: Mapping[str, Any], own: str) -> tuple[str, ...] | None:
    choice = text(allowed, "from", "Same")
    if choice == "All":
        return None
    if choice == "Selector":
        # Namespaces are not watched here: the one label that every namespace has is enough for a lab.
        labels = text_map(mapping(allowed, "selector"), "matchLabels")
        return (labels[_NAMESPACE_NAME_LABEL],) if set(labels) == {_NAMESPACE_NAME_LABEL} else ()
    return (own,)


def attach(
    route: HttpRoute, ref: ParentRef, listeners: Sequence[GatewayListener]
) -> tuple[tuple[Attachment, ...], UnresolvedRef | None]:
    """The listeners of one gateway that take the route, or why none does (reason of Accepted=False)."""
    where = f"Gateway {ref.namespace}/{ref.name}"
    named = [
        listener
        for listener in listeners
        if ref.section in ("", listener.name) and ref.port in (0, listener.port) and listener.served
    ]
    if not named:
        return (), UnresolvedRef(
            reason="NoMatchingParent", message=f"{where} has no HTTP listener that this parentRef names"
        )
    allowed = [
        listener
        for listener in named
        if listener.takes_http_routes
        and (listener.namespaces is None or route.namespace in listener.namespaces)
    ]
    if not allowed:
        return (), UnresolvedRef(
            reason="NotAllowedByListeners",
            message=f"no listener of {where} allows routes of namespace {route.namespace} (allowedRoutes)",
        )
    attachments = []
    for listener in allowed:
        hostnames = _hostnames(route.hostnames, listener.hostname)
        if hostnames:
            attachments.append(Attachment(listener=listener, hostnames=hostnames))
    if not attachments:
        return (), UnresolvedRef(
            reason="NoMatchingListenerHostname",
            message=f"no listener of {where} shares a hostname with the route",
        )
    return tuple(attachments), None


def _hostnames(route: Sequence[str], listener: str) -> tuple[str, ...]:
    if not route:
        return (listener or "*",)
    common = (common_hostname(hostname, listener) for hostname in route)
    return tuple(dict.fromkeys(hostname for hostname in common if hostname))


def common_hostname(route: str, listener: str) -> str:
    """The hostname that both allow, the more specific of the two; empty when they share none."""
    if not listener or route == listener:
        return route
    if listener.startswith("*.") and route.endswith(listener[1:]):
        return route
    if route.startswith("*.") and listener.endswith(route[1:]):
        return listener
    return ""
