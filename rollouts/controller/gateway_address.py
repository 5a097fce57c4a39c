"""Where a probe may connect: the address and port that the route's Gateway publishes, within what is allowed.

The author of a Rollout chooses the Gateway, and may own one. So the controller connects only to an address in the
*status* of a Gateway that says Programmed, at the port of one of its HTTP listeners, else of one that ends TLS; never
to loopback, link-local (cloud metadata), multicast, unspecified or reserved addresses, whatever a name resolves to. An
administrator may name the networks that are allowed instead, or switch probes off.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rollouts.kube.client import KubeClient
from rollouts.kube.errors import KubeError
from rollouts.objects import kinds
from rollouts.objects.fields import list_of, map_of, text_of

__all__ = ["GatewayAddress", "ProbeSettings", "Unreachable", "find_address"]

Object = Mapping[str, Any]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Ip = ipaddress.IPv4Address | ipaddress.IPv6Address

_RESOLVE_TIMEOUT = 2.0
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""IPv4 addresses written as IPv6 (RFC 6052): whatever is denied could hide in there."""


class Unreachable(Exception):
    """Nobody can be asked; the text says why. Never an answer of a server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSettings:
    """What the administrator allows. ``allow`` empty: every address that is not special."""

    enabled: bool = True
    allow: tuple[Network, ...] = ()

    def allows(self, ip: Ip) -> bool:
        """Whether the controller may connect to this address for a probe."""
        mapped = getattr(ip, "ipv4_mapped", None)
        ip = mapped if mapped is not None else ip
        if self.allow:
            return any(ip.version == network.version and ip in network for network in self.allow)
        special = ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip.is_reserved
        return not special and not (ip.version == 6 and ip in _NAT64)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayAddress:
    """Where to connect, which Gateway published it, and the host name of its listener."""

    ip: str
    port: int
    gateway: str
    host: str = ""
    tls: bool = False


async def find_address(
    client: KubeClient, parents: list[Any], namespace: str, settings: ProbeSettings
) -> GatewayAddress:
    """The address of the first Gateway that the route names. Raises Unreachable."""
    ref = next((map_of(item) for item in parents if map_of(item).get("kind") in (None, "Gateway")), None)
    if ref is None:
        raise Unreachable("the route names no Gateway as its parent")
    name, place = text_of(ref.get("name")), text_of(ref.get("namespace")) or namespace
    try:
        gateway = await client.get(kinds.GATEWAY, place, name)
    except KubeError as error:
        raise Unreachable(f"Gateway {name} cannot be read ({type(error).__name__})") from None
    port, host, tls = _listener(gateway, ref, name)
    ip = await _address(gateway, name, settings)
    return GatewayAddress(ip=str(ip), port=port, gateway=name, host=host, tls=tls)


def _listener(gateway: Object, ref: Object, name: str) -> tuple[int, str, bool]:
    """Port, host name and whether TLS is spoken: of a plain listener, where the route may use one."""
    found = list(map(map_of, list_of(map_of(gateway.get("spec")).get("listeners"))))
    for protocol in ("HTTP", "HTTPS"):
        for listener in found:
            port = listener.get("port")
            named = ref.get("sectionName") in (None, listener.get("name")) and ref.get("port") in (None, port)
            if named and _spoken(listener) == protocol and isinstance(port, int) and 0 < port < 65536:
                host = text_of(listener.get("hostname"))
                return port, "" if "*" in host else host, protocol == "HTTPS"
    raise Unreachable(
        f"Gateway {name} has no HTTP listener for the route, and none that ends TLS and asks for no certificate"
    )


def _spoken(listener: Object) -> str:
    """HTTP, HTTPS, or nothing that can be asked: TLS that is passed through, or wants a client's certificate."""
    tls = map_of(listener.get("tls"))
    if listener.get("protocol") == "HTTPS" and (
        tls.get("mode") not in (None, "Terminate") or tls.get("frontendValidation")
    ):
        return ""
    return text_of(listener.get("protocol"))


async def _address(gateway: Object, name: str, settings: ProbeSettings) -> Ip:
    status = map_of(gateway.get("status"))
    conditions = map(map_of, list_of(status.get("conditions")))
    if not any(item.get("type") == "Programmed" and item.get("status") == "True" for item in conditions):
        raise Unreachable(f"Gateway {name} does not say Programmed")
    for entry in map(map_of, list_of(status.get("addresses"))):
        value = text_of(entry.get("value"))
        found = await _resolve(value) if entry.get("type") == "Hostname" else _ip(value)
        if found and not all(settings.allows(ip) for ip in found):
            raise Unreachable(f"the address of Gateway {name} is none that probes may connect to")
        if found:
            return found[0]
    raise Unreachable(f"Gateway {name} publishes no address")


def _ip(value: str) -> list[Ip]:
    try:
        return [ipaddress.ip_address(value)]
    except ValueError:
        return []


async def _resolve(name: str) -> list[Ip]:
    """Every address of a name; the probe connects to one of these, so that no second answer can differ."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_RESOLVE_TIMEOUT):
            found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError):
        return []
    return [ip for _, _, _, _, place in found for ip in _ip(str(place[0]))]
