"""What other gateways make of a rule with two weighted InferencePools, as they were seen in November 2026.

Each turns the plan of a gateway that does it right into what clients got there; statuses stay as they are, which is
the point: none of these said so.

- Istio (istio#61594): the picker of the last pool with a weight above 0 serves the whole rule. Requests drawn for
  another pool go to its pods round robin; with that picker dead every request of the rule fails.
- Envoy AI Gateway (ai-gateway#2657): a rule with two weighted pools keeps everything of its Gateway from being
  published; what was served before is served on.
- kgateway on Envoy (kgateway#11667): 503 for the whole rule.

Others give clients what weights say, but speak to pickers in a way of their own (``shims``) or report late, wrongly or
not at all (``hearing``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from rollouts.lab.gateway import shims
from rollouts.lab.gateway.model import Cluster, GatewayConfig, Listener, Route, WeightedBackend
from rollouts.peers import gateway_peers

__all__ = ["GatewayLike", "played"]

_SHIMMED = 20.0
"""Requests a second through a shim: each costs some 15 ms of the lab's one process, which sends and answers them, too.
At 100 the requests of the larger arm stood in line until their clients left."""
_REFUSING = Cluster(name="refused/weighted-pools")


class GatewayLike(Enum):
    """Whose behaviour the lab's gateway plays."""

    STANDARD = "standard"
    ISTIO = "istio"
    AI_GATEWAY = "ai-gateway"
    KGATEWAY = "kgateway"
    NGINX = "nginx-gateway-fabric"
    AGENTGATEWAY = "agentgateway"
    LATE = "late-status"
    SILENT = "no-status"
    WITHOUT_GENERATION = "no-generation"
    LEFTOVER = "leftover-status"

    @property
    def speaks(self) -> shims.SpeakAs | None:
        """How it speaks to pickers, where that is not as Envoy does."""
        return _SPEAKING.get(self)

    def pace(self, rate: float) -> float:
        """Requests a second that a story may send through it, of the ``rate`` that it would like to."""
        return rate if self.speaks is None else min(rate, _SHIMMED)

    @property
    def picker_options(self) -> tuple[str, ...]:
        """Options of our pickers that it needs, from what is known of it."""
        peer = next((one for one in gateway_peers() if one.key == self.value), None)
        return ("--keep-streams",) if peer is not None and peer.needs.keep_streams else ()


def played(like: GatewayLike, plan: GatewayConfig, before: GatewayConfig) -> GatewayConfig:
    """What is published for ``plan`` where ``before`` is what was published last."""
    return _PLAYED.get(like, _standard)(plan, before)


def _standard(plan: GatewayConfig, before: GatewayConfig) -> GatewayConfig:
    return plan


def _pools(route: Route) -> list[WeightedBackend]:
    """Pools with a weight above 0, in the order of the rule."""
    return [backend for backend in route.backends if backend.cluster.startswith("pool/") and backend.weight]


def _split(route: Route) -> bool:
    return len({backend.cluster for backend in _pools(route)}) > 1


def _changed(plan: GatewayConfig, change: Callable[[Route], Route]) -> GatewayConfig:
    listeners = [
        replace(
            listener,
            hosts=tuple(replace(host, routes=tuple(map(change, host.routes))) for host in listener.hosts),
        )
        for listener in plan.listeners
    ]
    return replace(plan, listeners=tuple(listeners))


# --- Istio -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _OnePickerPerRule:
    clusters: dict[str, Cluster]

    def serve(self, route: Route) -> Route:
        """The route with the last pool's picker before each of its backends."""
        pools = [self.clusters[item.cluster] for item in _pools(route) if item.cluster in self.clusters]
        if not _split(route) or not pools or pools[-1].picker is None:
            return route
        return replace(route, backends=tuple(self._lent(item, pools[-1]) for item in route.backends))

    def _lent(self, backend: WeightedBackend, last: Cluster) -> WeightedBackend:
        cluster = self.clusters.get(backend.cluster)
        if cluster is None or not backend.cluster.startswith("pool/"):
            return backend
        assert last.picker is not None
        name = f"{cluster.name}/by/{last.picker.name}"
        self.clusters[name] = replace(cluster, name=name, picker=last.picker, binding=False)
        return replace(backend, cluster=name)


def _istio(plan: GatewayConfig, before: GatewayConfig) -> GatewayConfig:
    rules = _OnePickerPerRule({cluster.name: cluster for cluster in plan.clusters})
    served = _changed(plan, rules.serve)
    return replace(served, clusters=tuple(rules.clusters[name] for name in sorted(rules.clusters)))


# --- Envoy AI Gateway ------------------------------------------------------------------------------


def _ai_gateway(plan: GatewayConfig, before: GatewayConfig) -> GatewayConfig:
    frozen = {listener.name: listener for listener in before.listeners}
    listeners = tuple(_as_it_was(listener, frozen) for listener in plan.listeners)
    # What was published goes on following the pods of its pools.
    clusters = {cluster.name: cluster for cluster in (*before.clusters, *plan.clusters)}
    return GatewayConfig(listeners=listeners, clusters=tuple(clusters[name] for name in sorted(clusters)))


def _as_it_was(listener: Listener, frozen: dict[str, Listener]) -> Listener:
    if not any(_split(route) for host in listener.hosts for route in host.routes):
        return listener
    return frozen.get(listener.name, replace(listener, hosts=()))


# --- kgateway --------------------------------------------------------------------------------------


def _refused(route: Route) -> Route:
    if not _split(route):
        return route
    return replace(route, backends=(WeightedBackend(cluster=_REFUSING.name, weight=1),))


def _kgateway(plan: GatewayConfig, before: GatewayConfig) -> GatewayConfig:
    return replace(_changed(plan, _refused), clusters=(*plan.clusters, _REFUSING))


_PLAYED: dict[GatewayLike, Callable[[GatewayConfig, GatewayConfig], GatewayConfig]] = {
    GatewayLike.ISTIO: _istio,
    GatewayLike.AI_GATEWAY: _ai_gateway,
    GatewayLike.KGATEWAY: _kgateway,
}
_SPEAKING: dict[GatewayLike, shims.SpeakAs] = {
    GatewayLike.NGINX: shims.nginx,
    GatewayLike.AGENTGATEWAY: shims.agentgateway,
}
