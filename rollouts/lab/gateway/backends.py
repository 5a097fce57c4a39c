"""From backendRefs to clusters: InferencePools of both API groups and Services, over the Ready pods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from rollouts.lab.gateway.httproute import BackendRef
from rollouts.lab.gateway.model import Cluster, LbEndpoint, PickerBackend
from rollouts.lab.gateway.read import Malformed, items, mapping, number, text, text_map

__all__ = ["PICKER_ANNOTATION", "POOL_GROUPS", "Backends", "PoolKey", "UnresolvedRef"]

POOL_GROUPS = ("inference.networking.k8s.io", "inference.networking.x-k8s.io")
"""InferencePool v1 and v1alpha2; the same kind under two groups, with differently shaped specs."""

PICKER_ANNOTATION = "lab.inferencerollouts.dev/picker-address"
"""On an InferencePool: ``IP:port`` of a picker that runs outside the cluster, in place of its Service."""

_PICKER_PORT = 9002
"""Of ``extensionRef`` without ``portNumber``, by convention of the Inference Extension."""

PoolKey = tuple[str, str, str]
"""API group, namespace and name of an InferencePool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnresolvedRef:
    """Why a backendRef does not resolve: reason and message of the ResolvedRefs condition."""

    reason: str
    message: str


@dataclass(slots=True)
class Backends:
    """Resolves references against one snapshot of the objects and collects the clusters they need."""

    pools: Mapping[str, Sequence[Mapping[str, Any]]]
    services: Iterable[Mapping[str, Any]]
    pods: Iterable[Mapping[str, Any]]
    clusters: dict[str, Cluster] = field(default_factory=dict)
    _by_key: dict[tuple[str, str, str], Mapping[str, Any]] = field(default_factory=dict)
    _ready: dict[str, list[_ReadyPod]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for group, pools in self.pools.items():
            for pool in pools:
                self._by_key[(group, *_identity(pool))] = pool
        for service in self.services:
            self._by_key[("", *_identity(service))] = service
        for pod in self.pods:
            ready = _ready_pod(pod)
            if ready is not None:
                self._ready.setdefault(_identity(pod)[0], []).append(ready)

    def resolve(self, ref: BackendRef, route_namespace: str) -> tuple[str, UnresolvedRef | None]:
        """Name of the cluster for ``ref``, and why it has no cluster (its share is then answered 500)."""
        name = _cluster_name(ref)
        problem = self._problem(ref, route_namespace)
        if problem is None and name not in self.clusters:
            target = self._by_key[(ref.group, ref.namespace, ref.name)]
            try:
                self.clusters[name] = (
                    self._service(name, target, ref)
                    if ref.kind == "Service"
                    else self._pool(name, target, ref)
                )
            except Malformed as error:
                problem = UnresolvedRef(
                    reason="UnsupportedValue", message=f"{ref.kind} {ref.namespace}/{ref.name}: {error}"
                )
        return name, problem

    def picker_problem(self, group: str, pool: Mapping[str, Any]) -> UnresolvedRef | None:
        """Why the pool's endpoint picker cannot be found, None when it is there or none is named."""
        namespace, name = _identity(pool)
        try:
            spec, annotations = mapping(pool, "spec"), text_map(mapping(pool, "metadata"), "annotations")
            ref = mapping(spec, "endpointPickerRef" if group == POOL_GROUPS[0] else "extensionRef")
            service = text(ref, "name")
        except Malformed as error:
            return UnresolvedRef(reason="InvalidExtensionRef", message=f"the pool cannot be read: {error}")
        if not service or PICKER_ANNOTATION in annotations or ("", namespace, service) in self._by_key:
            return None
        return UnresolvedRef(
            reason="InvalidExtensionRef",
            message=f"Service {namespace}/{service}, the endpoint picker of {name}, does not exist; "
            "this gateway balances over the Ready pods",
        )

    def _problem(self, ref: BackendRef, route_namespace: str) -> UnresolvedRef | None:
        where = f"{ref.kind} {ref.namespace}/{ref.name}"
        known = ref.group in POOL_GROUPS if ref.kind == "InferencePool" else ref.group == ""
        if ref.kind not in {"InferencePool", "Service"} or not known:
            return UnresolvedRef(
                reason="InvalidKind",
                message=f"{ref.group or 'core'}/{ref.kind} is no backend: use an InferencePool or a Service",
            )
        if ref.namespace != route_namespace:
            return UnresolvedRef(
                reason="RefNotPermitted",
                message=f"{where} is in another namespace; this gateway honours no ReferenceGrant",
            )
        if (ref.group, ref.namespace, ref.name) not in self._by_key:
            return UnresolvedRef(
                reason="BackendNotFound",
                message=f"{where} ({ref.group or 'core'}) does not exist; create it or drop the reference",
            )
        return None

    def _pool(self, name: str, pool: Mapping[str, Any], ref: BackendRef) -> Cluster:
        spec = mapping(pool, "spec")
        if ref.group == POOL_GROUPS[0]:
            selector = text_map(mapping(spec, "selector"), "matchLabels")
            ports = [number(port, "number", 0, low=1, high=65535) for port in items(spec, "targetPorts")]
            picker = mapping(spec, "endpointPickerRef")
        else:
            selector = text_map(spec, "selector")
            ports = [number(spec, "targetPortNumber", 0, high=65535)]
            picker = mapping(spec, "extensionRef")
        if not selector or not all(ports):
            raise Malformed("spec needs a selector and a target port")
        return Cluster(
            name=name,
            endpoints=tuple(
                LbEndpoint(address=pod.address, port=port)
                for pod in self._select(ref.namespace, selector)
                for port in ports
            ),
            picker=self._picker(ref.namespace, picker, text_map(mapping(pool, "metadata"), "annotations")),
        )

    def _picker(
        self, namespace: str, ref: Mapping[str, Any], annotations: Mapping[str, str]
    ) -> PickerBackend | None:
        """The picker at the annotated address, else the Ready pods that its Service selects.

        None where the Service is missing or selects nothing at all: this gateway then balances by itself.
        """
        fail_open = text(ref, "failureMode", "FailClose") == "FailOpen"
        address = annotations.get(PICKER_ANNOTATION, "")
        if address:
            return PickerBackend(
                name=f"picker/{address}", endpoints=(_dialled(address),), fail_open=fail_open
            )
        service = self._by_key.get(("", namespace, text(ref, "name")))
        if service is None or not mapping(mapping(service, "spec"), "selector"):
            return None
        port = number(mapping(ref, "port"), "number", 0, high=65535)
        port = port or number(ref, "portNumber", _PICKER_PORT, low=1, high=65535)
        return PickerBackend(
            name=f"picker/{namespace}/{text(ref, 'name')}/{port}",
            endpoints=self._behind(namespace, service, port),
            fail_open=fail_open,
        )

    def _service(self, name: str, service: Mapping[str, Any], ref: BackendRef) -> Cluster:
        return Cluster(name=name, endpoints=self._behind(ref.namespace, service, ref.port))

    def _behind(self, namespace: str, service: Mapping[str, Any], port: int) -> tuple[LbEndpoint, ...]:
        """The Ready pods behind a port of a Service. Raises Malformed when it has no such port."""
        spec = mapping(service, "spec")
        selector = text_map(spec, "selector")
        target: Any = None
        for entry in items(spec, "ports"):
            if number(entry, "port", 0, high=65535) == port:
                target = entry.get("targetPort", port)
        if target is None:
            raise Malformed(f"no port {port} in spec.ports of Service {_identity(service)[1]}")
        pods = self._select(namespace, selector) if selector else []
        ports = [target if isinstance(target, int) else pod.ports.get(str(target), 0) for pod in pods]
        return tuple(
            LbEndpoint(address=pod.address, port=found)
            for pod, found in zip(pods, ports, strict=True)
            if found
        )

    def _select(self, namespace: str, selector: Mapping[str, str]) -> list[_ReadyPod]:
        return [pod for pod in self._ready.get(namespace, ()) if selector.items() <= pod.labels.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class _ReadyPod:
    address: str
    labels: Mapping[str, str]
    ports: Mapping[str, int]


def _ready_pod(pod: Mapping[str, Any]) -> _ReadyPod | None:
    """The pod when it may get traffic: Ready, not terminating, with an address. A malformed one may not."""
    try:
        metadata, status = mapping(pod, "metadata"), mapping(pod, "status")
        address = text(status, "podIP")
        ready = any(
            condition.get("type") == "Ready" and condition.get("status") == "True"
            for condition in items(status, "conditions")
        )
        if not ready or not address or metadata.get("deletionTimestamp"):
            return None
        ip_address(address)
        ports = {
            text(port, "name"): number(port, "containerPort", 0, high=65535)
            for container in items(mapping(pod, "spec"), "containers")
            for port in items(container, "ports")
        }
        return _ReadyPod(address=address, labels=text_map(metadata, "labels"), ports=ports)
    except ValueError:
        return None


def _identity(obj: Mapping[str, Any]) -> tuple[str, str]:
    metadata = obj.get("metadata")
    if not isinstance(metadata, Mapping):
        return "", ""
    return str(metadata.get("namespace", "default")), str(metadata.get("name", ""))


def _cluster_name(ref: BackendRef) -> str:
    if ref.kind == "InferencePool":
        return f"pool/{ref.group}/{ref.namespace}/{ref.name}"
    return f"{ref.kind.lower()}/{ref.namespace}/{ref.name}/{ref.port}"


def _dialled(address: str) -> LbEndpoint:
    """An annotated ``IP:port``. Only loopback: whoever may edit a pool must not choose where requests go."""
    host, _, port = address.rpartition(":")
    try:
        loopback = ip_address(host.strip("[]")).is_loopback
        number_of = int(port)
    except ValueError:
        raise Malformed(f"annotation {PICKER_ANNOTATION}: {address} is not IP:port") from None
    if not loopback or not 0 < number_of < 65536:
        raise Malformed(f"annotation {PICKER_ANNOTATION}: {address} is not a loopback IP:port")
    return LbEndpoint(address=host.strip("[]"), port=number_of)
