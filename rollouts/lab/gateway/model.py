"""What the gateway has to do, as plain values: the product of Gateway API semantics, the input of Envoy.

Kept apart from Envoy's messages so that precedence, attachment and status can be tested as tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = [
    "NO_EDITS",
    "NO_REWRITE",
    "Cluster",
    "GatewayConfig",
    "HeaderEdits",
    "LbEndpoint",
    "Listener",
    "Match",
    "PathKind",
    "PathMatch",
    "PickerBackend",
    "Rewrite",
    "Route",
    "ValueMatch",
    "VirtualHost",
    "WeightedBackend",
]


class PathKind(Enum):
    """Gateway API ``HTTPPathMatch.type``, in falling precedence."""

    EXACT = "Exact"
    REGEX = "RegularExpression"
    PREFIX = "PathPrefix"


@dataclass(frozen=True, slots=True, kw_only=True)
class PathMatch:
    """One path match. The default of the Gateway API is the prefix ``/``."""

    kind: PathKind = PathKind.PREFIX
    value: str = "/"


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueMatch:
    """A match on a header or a query parameter: the exact value, or a full-match RE2 expression."""

    name: str
    value: str
    regex: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """One entry of ``rules[].matches``; all its parts must hold."""

    path: PathMatch = PathMatch()
    method: str = ""
    headers: tuple[ValueMatch, ...] = ()
    queries: tuple[ValueMatch, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderEdits:
    """A Request- or ResponseHeaderModifier."""

    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()

    def __add__(self, other: HeaderEdits) -> HeaderEdits:
        return HeaderEdits(
            set=self.set + other.set, add=self.add + other.add, remove=self.remove + other.remove
        )


NO_EDITS = HeaderEdits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """A URLRewrite filter. Empty strings leave the part alone."""

    hostname: str = ""
    full_path: str = ""
    prefix: str | None = None


NO_REWRITE = Rewrite()


@dataclass(frozen=True, slots=True, kw_only=True)
class LbEndpoint:
    """Address of one Ready pod."""

    address: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PickerBackend:
    """The endpoint picker of a pool: the addresses that the gateway can dial, all alike."""

    name: str
    endpoints: tuple[LbEndpoint, ...]
    fail_open: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A backend that requests can be sent to."""

    name: str
    endpoints: tuple[LbEndpoint, ...] = ()
    picker: PickerBackend | None = None
    binding: bool = True
    """Whether only the picker may say where a request goes, unless it fails open; else pods are a fallback."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedBackend:
    """One backendRef of a rule. A cluster name without a cluster answers 500 for its share."""

    cluster: str
    weight: int
    request: HeaderEdits = NO_EDITS
    response: HeaderEdits = NO_EDITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One match of one rule, with everything needed to serve it."""

    name: str
    match: Match
    backends: tuple[WeightedBackend, ...]
    request: HeaderEdits = NO_EDITS
    response: HeaderEdits = NO_EDITS
    rewrite: Rewrite = NO_REWRITE
    mirrors: tuple[str, ...] = ()
    timeout: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualHost:
    """Routes of one hostname (``*`` for all), best match first."""

    hostname: str
    routes: tuple[Route, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One address the gateway listens on; ``name`` is ``namespace/gateway/requested port``."""

    name: str
    port: int
    hosts: tuple[VirtualHost, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """All of the data plane."""

    listeners: tuple[Listener, ...] = ()
    clusters: tuple[Cluster, ...] = ()
