"""Which addresses a request may go to: the Ready pods of a pool, narrowed by the gateway's subset hint.

Sources: InferencePool v1alpha2 and v1 (one endpoint per pod and target port), the pod annotation
``inference.networking.k8s.io/active-ports``, and proposal 004 of the Gateway API Inference Extension for
the subset: present means "choose only from these", so an empty list leaves nothing.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Mapping
from typing import Any, NamedTuple

from rollouts.objects.fields import dict_at, text_at
from rollouts.objects.pods import is_draining, ready_since
from rollouts.objects.pools import Pool

__all__ = [
    "SUBSET_KEY",
    "SUBSET_NAMESPACE",
    "Endpoint",
    "Subset",
    "endpoints_of",
    "join_host_port",
    "parse_subset",
]

SUBSET_NAMESPACE = b"envoy.lb.subset_hint"
SUBSET_KEY = b"x-gateway-destination-endpoint-subset"

MAX_SUBSET = 10_000
"""Entries of a subset hint that are looked at: more than any pool has pods."""

_ACTIVE_PORTS = ("llm-d.ai/active-ports", "inference.networking.k8s.io/active-ports")


class Endpoint(NamedTuple):
    """One address of one pod. ``ready_since`` is Unix time, 0 when not known. ``draining``: about to go."""

    address: str
    host: str
    port: int
    pod: str
    pool: str
    ready_since: float = 0.0
    draining: bool = False


class Subset(NamedTuple):
    """Addresses that a gateway allows: (host, port) pairs, and hosts with every port."""

    pairs: frozenset[tuple[str, int]]
    hosts: frozenset[str]

    def allows(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint is one of them."""
        return (endpoint.host, endpoint.port) in self.pairs or endpoint.host in self.hosts


@functools.lru_cache(maxsize=4096)
def _canonical(host: str) -> str:
    """The one spelling of an IP address; empty when it is none. IPv6 may come in brackets."""
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).compressed
    except ValueError:
        return ""


def join_host_port(host: str, port: int) -> str:
    """``10.0.0.1:8000`` or ``[fd00::1]:8000``."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_subset(value: object) -> Subset | None:
    """The hint as a list, one string or a comma-separated string; None when there is no hint.

    Entries that are no address match nothing: a hint is a restriction, and a typo must not lift it.
    """
    if value is None:
        return None
    entries = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else []
    pairs, hosts = set(), set()
    for entry in entries[:MAX_SUBSET]:
        if not isinstance(entry, str):
            continue
        for part in entry.split(","):
            host, port = _split_host_port(part.strip())
            if host and port is None:
                hosts.add(host)
            elif host and port:
                pairs.add((host, port))
    return Subset(frozenset(pairs), frozenset(hosts))


def _split_host_port(text: str) -> tuple[str, int | None]:
    """(canonical host, port); port None when the text is a bare address, host empty when it is nonsense."""
    bare = _canonical(text)
    if bare:
        return bare, None
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or len(port) > 5:
        return "", 0
    return _canonical(host), int(port)


def endpoints_of(pool: Pool, pods: list[Mapping[str, Any]]) -> tuple[Endpoint, ...]:
    """The endpoints of all Ready pods that the pool selects, by address."""
    found = {}
    for pod in pods:
        namespace = text_at(pod, "metadata", "namespace") or "default"
        if namespace != pool.namespace or not pool.selects(dict_at(pod, "metadata", "labels")):
            continue
        since = ready_since(pod)
        host = _canonical(text_at(pod, "status", "podIP"))
        if since is None or not host:
            continue
        name, draining = text_at(pod, "metadata", "name"), is_draining(pod)
        for port in _active_ports(pod, pool.ports):
            address = join_host_port(host, port)
            found[address] = Endpoint(address, host, port, name, pool.name, since, draining)
    return tuple(found[address] for address in sorted(found))


def _active_ports(pod: Mapping[str, Any], ports: tuple[int, ...]) -> tuple[int, ...]:
    annotations = dict_at(pod, "metadata", "annotations")
    for name in _ACTIVE_PORTS:
        listed = annotations.get(name)
        if isinstance(listed, str):
            active = {part.strip() for part in listed.split(",")}
            return tuple(port for port in ports if str(port) in active)
    return ports
