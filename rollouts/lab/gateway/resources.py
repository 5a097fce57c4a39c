"""A plan rendered as Envoy resources (xDS v3): listeners, route tables, clusters and endpoints.

Three decisions carry the semantics of the Inference Extension:

- Every rule is a weighted-cluster route, one entry per backendRef. Envoy draws the entry from the
  stream's id, so a share moves with the route table alone: no listener drains, no request is dropped.
- The ext_proc filter is in every chain but disabled, and switched on by the weighted entry of a pool
  that has a picker. Two pools in one rule so have one picker each, and only their own.
- FailClose pools are ORIGINAL_DST clusters: only the picker's header says where to go, and without it
  the answer is 503. FailOpen pools balance over their Ready pods and let the header override that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2
from envoy.config.core.v3 import address_pb2, config_source_pb2, extension_pb2, health_check_pb2, protocol_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2
from envoy.extensions.load_balancing_policies.override_host.v3 import override_host_pb2
from envoy.extensions.load_balancing_policies.round_robin.v3 import round_robin_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message

from rollouts.lab.gateway.extproc import DESTINATION_HEADER, EXT_PROC_FILTER, base_filter
from rollouts.lab.gateway.model import Cluster, GatewayConfig, Listener, PickerBackend
from rollouts.lab.gateway.routes import virtual_host

__all__ = ["CLUSTER", "ENDPOINTS", "LISTENER", "ROUTES", "XdsSnapshot", "render"]

_PREFIX = "type.googleapis.com/"
CLUSTER = _PREFIX + "envoy.config.cluster.v3.Cluster"
ENDPOINTS = _PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = _PREFIX + "envoy.config.listener.v3.Listener"
ROUTES = _PREFIX + "envoy.config.route.v3.RouteConfiguration"

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_CONNECT_TIMEOUT = duration_pb2.Duration(seconds=1)
_MANY = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class XdsSnapshot:
    """Serialized resources by type URL and name. Equal bytes mean that Envoy need not be told."""

    resources: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def of(self, type_url: str) -> dict[str, bytes]:
        """Resources of one type, by name."""
        return self.resources.get(type_url, {})


def render(plan: GatewayConfig, *, address: str = "127.0.0.1") -> XdsSnapshot:
    """The Envoy configuration of a plan, with listeners on ``address``."""
    pickers = {c.picker.name: c.picker for c in plan.clusters if c.picker is not None}
    by_name = {cluster.name: cluster for cluster in plan.clusters}
    picker_of = {
        cluster.name: (cluster.picker.name, cluster.picker.fail_open)
        for cluster in plan.clusters
        if cluster.picker is not None
    }
    clusters: dict[str, Message] = {name: _backend_cluster(cluster) for name, cluster in by_name.items()}
    clusters |= {name: _picker_cluster(picker) for name, picker in pickers.items()}
    routes = {
        listener.name: route_pb2.RouteConfiguration(
            name=listener.name, virtual_hosts=[virtual_host(host, picker_of) for host in listener.hosts]
        )
        for listener in plan.listeners
    }
    assigned: list[Cluster | PickerBackend] = [cluster for cluster in plan.clusters if not _strict(cluster)]
    assigned += pickers.values()
    return XdsSnapshot(
        resources={
            CLUSTER: _serialize(clusters.items()),
            ENDPOINTS: _serialize((item.name, _assignment(item)) for item in assigned),
            LISTENER: _serialize((item.name, _listener(item, address)) for item in plan.listeners),
            ROUTES: _serialize(routes.items()),
        }
    )


def _serialize(resources: Iterable[tuple[str, Message]]) -> dict[str, bytes]:
    return {name: message.SerializeToString(deterministic=True) for name, message in resources}


def _any(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message, deterministic=True)
    return packed


def _ads() -> config_source_pb2.ConfigSource:
    return config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(), resource_api_version=config_source_pb2.ApiVersion.V3
    )


def _address(host: str, port: int) -> address_pb2.Address:
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=host, port_value=port))


def _backend_cluster(cluster: Cluster) -> cluster_pb2.Cluster:
    message = cluster_pb2.Cluster(
        name=cluster.name,
        connect_timeout=_CONNECT_TIMEOUT,
        circuit_breakers=circuit_breaker_pb2.CircuitBreakers(
            thresholds=[
                circuit_breaker_pb2.CircuitBreakers.Thresholds(
                    max_connections={"value": _MANY},
                    max_pending_requests={"value": _MANY},
                    max_requests={"value": _MANY},
                    max_retries={"value": _MANY},
                )
            ]
        ),
    )
    if _strict(cluster):
        message.type = cluster_pb2.Cluster.ORIGINAL_DST
        message.lb_policy = cluster_pb2.Cluster.CLUSTER_PROVIDED
        message.original_dst_lb_config.use_http_header = True
        message.original_dst_lb_config.http_header_name = DESTINATION_HEADER
        return message
    message.type = cluster_pb2.Cluster.EDS
    message.eds_cluster_config.eds_config.CopyFrom(_ads())
    if cluster.picker is not None:
        message.load_balancing_policy.CopyFrom(_header_first())
    return message


def _strict(cluster: Cluster) -> bool:
    """Whether only the picker may say where a request goes."""
    return cluster.picker is not None and not cluster.picker.fail_open and cluster.binding


def _header_first() -> cluster_pb2.LoadBalancingPolicy:
    """Balance round robin, unless the picker's header names one of the endpoints."""
    round_robin = cluster_pb2.LoadBalancingPolicy(
        policies=[_policy("envoy.load_balancing_policies.round_robin", round_robin_pb2.RoundRobin())]
    )
    override = override_host_pb2.OverrideHost(
        override_host_sources=[override_host_pb2.OverrideHost.OverrideHostSource(header=DESTINATION_HEADER)],
        fallback_policy=round_robin,
    )
    return cluster_pb2.LoadBalancingPolicy(
        policies=[_policy("envoy.load_balancing_policies.override_host", override)]
    )


def _policy(name: str, config: Message) -> cluster_pb2.LoadBalancingPolicy.Policy:
    return cluster_pb2.LoadBalancingPolicy.Policy(
        typed_extension_config=extension_pb2.TypedExtensionConfig(name=name, typed_config=_any(config))
    )


def _picker_cluster(picker: PickerBackend) -> cluster_pb2.Cluster:
    options = http_protocol_options_pb2.HttpProtocolOptions(
        explicit_http_config=http_protocol_options_pb2.HttpProtocolOptions.ExplicitHttpConfig(
            http2_protocol_options=protocol_pb2.Http2ProtocolOptions()
        )
    )
    message = cluster_pb2.Cluster(
        name=picker.name,
        # By EDS: a change of the cluster itself would reset the streams that are open on it.
        type=cluster_pb2.Cluster.EDS,
        connect_timeout=_CONNECT_TIMEOUT,
        ignore_health_on_host_removal=True,
        # In full-duplex mode Envoy can fail open only before it has sent a piece of the body, and a refused
        # connection is noticed later than that. A picker known to be down fails at once, in time.
        health_checks=[_tcp_check()],
        common_lb_config=cluster_pb2.Cluster.CommonLbConfig(healthy_panic_threshold={"value": 0}),
    )
    message.eds_cluster_config.eds_config.CopyFrom(_ads())
    message.typed_extension_protocol_options[_HTTP_OPTIONS].CopyFrom(_any(options))
    return message


def _tcp_check() -> health_check_pb2.HealthCheck:
    often = duration_pb2.Duration(nanos=500_000_000)
    return health_check_pb2.HealthCheck(
        timeout=often,
        interval=often,
        no_traffic_interval=often,
        unhealthy_threshold={"value": 1},
        healthy_threshold={"value": 1},
        tcp_health_check=health_check_pb2.HealthCheck.TcpHealthCheck(),
    )


def _assignment(cluster: Cluster | PickerBackend) -> endpoint_pb2.ClusterLoadAssignment:
    endpoints = [_lb_endpoint(endpoint.address, endpoint.port) for endpoint in cluster.endpoints]
    return endpoint_pb2.ClusterLoadAssignment(
        cluster_name=cluster.name, endpoints=[_locality(endpoints)] if endpoints else []
    )


def _locality(
    endpoints: list[endpoint_components_pb2.LbEndpoint],
) -> endpoint_components_pb2.LocalityLbEndpoints:
    return endpoint_components_pb2.LocalityLbEndpoints(lb_endpoints=endpoints)


def _lb_endpoint(host: str, port: int) -> endpoint_components_pb2.LbEndpoint:
    return endpoint_components_pb2.LbEndpoint(
        endpoint=endpoint_components_pb2.Endpoint(address=_address(host, port))
    )


def _listener(listener: Listener, address: str) -> listener_pb2.Listener:
    manager = hcm_pb2.HttpConnectionManager(
        stat_prefix=listener.name.replace("/", "_"),
        rds=hcm_pb2.Rds(config_source=_ads(), route_config_name=listener.name),
        http_filters=[
            hcm_pb2.HttpFilter(name=EXT_PROC_FILTER, disabled=True, typed_config=_any(base_filter())),
            hcm_pb2.HttpFilter(name="envoy.filters.http.router", typed_config=_any(router_pb2.Router())),
        ],
        strip_any_host_port=True,
        # vLLM's /v1/realtime speaks WebSocket. Gateways of the Gateway API let it through without being asked.
        upgrade_configs=[hcm_pb2.HttpConnectionManager.UpgradeConfig(upgrade_type="websocket")],
        early_header_mutation_extensions=[_no_client_destination()],
    )
    return listener_pb2.Listener(
        name=listener.name,
        address=_address(address, listener.port),
        # With SO_REUSEPORT a second gateway on the port would silently take half of the connections.
        enable_reuse_port={"value": False},
        filter_chains=[
            listener_components_pb2.FilterChain(
                filters=[
                    listener_components_pb2.Filter(
                        name="envoy.filters.network.http_connection_manager", typed_config=_any(manager)
                    )
                ]
            )
        ],
    )


def _no_client_destination() -> extension_pb2.TypedExtensionConfig:
    """Clients must not choose the destination: their header goes before any filter sees it."""
    mutation = header_mutation_pb2.HeaderMutation()
    mutation.mutations.add().remove = DESTINATION_HEADER
    return extension_pb2.TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation", typed_config=_any(mutation)
    )
