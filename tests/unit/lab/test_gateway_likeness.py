"""What the lab's gateway makes of weighted pools when it plays another one: plans, without Envoy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rollouts.lab.gateway.likeness import GatewayLike, played
from rollouts.lab.gateway.model import (
    Cluster,
    GatewayConfig,
    LbEndpoint,
    Listener,
    Match,
    PickerBackend,
    Route,
    VirtualHost,
    WeightedBackend,
)

V1, V2 = "pool/g/default/v1", "pool/g/default/v2"


def cluster(name: str, address: str) -> Cluster:
    picker = PickerBackend(
        name=f"picker/{name}", endpoints=(LbEndpoint(address=address, port=9002),), fail_open=False
    )
    return Cluster(name=name, endpoints=(LbEndpoint(address=address, port=8000),), picker=picker)


def plan(v1: int, v2: int, *, services: int = 0) -> GatewayConfig:
    backends = [WeightedBackend(cluster=V1, weight=v1), WeightedBackend(cluster=V2, weight=v2)]
    backends += [WeightedBackend(cluster="service/default/s/80", weight=services)] if services else []
    route = Route(name="r", match=Match(), backends=tuple(backends))
    listener = Listener(name="default/gw/80", port=80, hosts=(VirtualHost(hostname="*", routes=(route,)),))
    return GatewayConfig(listeners=(listener,), clusters=(cluster(V1, "127.0.1.1"), cluster(V2, "127.0.2.1")))


def backends(made: GatewayConfig) -> list[tuple[str, int]]:
    """(cluster, weight) of the one route."""
    route = made.listeners[0].hosts[0].routes[0]
    return [(backend.cluster, backend.weight) for backend in route.backends]


@pytest.mark.parametrize("like", GatewayLike)
@pytest.mark.parametrize("weights", [(100, 0), (0, 100)])
def test_without_a_split_everybody_does_what_the_weights_say(
    like: GatewayLike, weights: tuple[int, int]
) -> None:
    made = played(like, plan(*weights), plan(100, 0))

    assert backends(made) == [(V1, weights[0]), (V2, weights[1])]


def test_like_istio_the_last_pools_picker_serves_the_whole_rule() -> None:
    made = played(GatewayLike.ISTIO, plan(90, 10), GatewayConfig())

    by_name = {cluster.name: cluster for cluster in made.clusters}
    served = [(by_name[name], weight) for name, weight in backends(made)]
    assert [weight for _, weight in served] == [90, 10]
    assert [item.endpoints[0].address for item, _ in served] == ["127.0.1.1", "127.0.2.1"]
    assert {item.picker.name for item, _ in served if item.picker} == {f"picker/{V2}"}
    assert not any(item.binding for item, _ in served)


def test_like_istio_the_order_decides_not_the_weight() -> None:
    swapped = plan(90, 10)
    route = swapped.listeners[0].hosts[0].routes[0]
    turned = replace(route, backends=tuple(reversed(route.backends)))
    host = replace(swapped.listeners[0].hosts[0], routes=(turned,))
    made = played(
        GatewayLike.ISTIO,
        replace(swapped, listeners=(replace(swapped.listeners[0], hosts=(host,)),)),
        GatewayConfig(),
    )

    by_name = {cluster.name: cluster for cluster in made.clusters}
    pickers = {by_name[name].picker for name, _ in backends(made)}
    assert {picker.name for picker in pickers if picker} == {f"picker/{V1}"}


def test_like_ai_gateway_a_split_leaves_what_was_served_before() -> None:
    before = plan(100, 0)

    assert backends(played(GatewayLike.AI_GATEWAY, plan(90, 10), before)) == [(V1, 100), (V2, 0)]
    assert played(GatewayLike.AI_GATEWAY, plan(90, 10), GatewayConfig()).listeners[0].hosts == ()


def test_like_kgateway_a_split_is_refused() -> None:
    made = played(GatewayLike.KGATEWAY, plan(90, 10), GatewayConfig())

    (name, weight) = backends(made)[0]
    refusing = next(cluster for cluster in made.clusters if cluster.name == name)
    assert weight == 1
    assert refusing.endpoints == ()
    assert refusing.picker is None


def test_a_pool_beside_a_service_is_no_split_of_pools() -> None:
    made = played(GatewayLike.KGATEWAY, plan(50, 0, services=50), GatewayConfig())

    assert backends(made) == [(V1, 50), (V2, 0), ("service/default/s/80", 50)]


@pytest.mark.parametrize(
    ("like", "options"), [(GatewayLike.AGENTGATEWAY, ("--keep-streams",)), (GatewayLike.ISTIO, ())]
)
def test_pickers_get_the_options_that_the_gateway_needs(like: GatewayLike, options: tuple[str, ...]) -> None:
    assert like.picker_options == options
