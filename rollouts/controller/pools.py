"""InferencePools and their pods, read from raw objects of either API group.

Field names: InferencePool v1 (``selector.matchLabels``, ``targetPorts``, ``endpointPickerRef``) and v1alpha2
(``selector`` as a plain map, ``targetPortNumber``, ``extensionRef``) of the Gateway API Inference Extension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "HEALTH_PORTS",
    "METRICS_PORT_ANNOTATION",
    "Endpoint",
    "ParentRefusal",
    "PickerPod",
    "PickerRef",
    "Pool",
    "health_port",
    "metrics_port",
    "pod_endpoint",
    "read_picker_pod",
    "read_pool",
]

METRICS_PORT_ANNOTATION = "inferencerollouts.dev/metrics-port"
"""On the Service or on the pods of our endpoint pickers: where their metrics are."""

HEALTH_PORTS = ("health", "grpc")
"""Names of container ports of our pickers that serve gRPC health, the one without TLS first."""

Object = Mapping[str, Any]

_DEFAULT_PICKER_PORT = 9002
_MAX_PORTS = 8
"""As many as InferencePool v1 allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PickerRef:
    """The Service of the endpoint picker that a pool names."""

    name: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentRefusal:
    """A parent (a Gateway, mostly) that says Accepted=False or ResolvedRefs=False of a pool."""

    kind: str
    namespace: str
    name: str
    condition: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """What the controller needs of an InferencePool. ``selector`` is empty when it cannot be read.

    ``picker`` is None where the pool names none, or one that is no Service: ``picker_kind`` then says what it is.
    """

    group: str
    namespace: str
    name: str
    selector: tuple[tuple[str, str], ...]
    port: int
    picker: PickerRef | None
    ports: tuple[int, ...] = ()
    """Every target port, ``port`` first; each is a process of the pod, with a metrics page of its own."""
    picker_kind: str = ""
    fail_open: bool = False
    """``failureMode: FailOpen``: the gateway serves without the picker when that does not answer."""
    refusals: tuple[ParentRefusal, ...] = ()

    @property
    def processes(self) -> tuple[int, ...]:
        """The ports of a pod's processes, at least one."""
        return self.ports or (self.port,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One pod of a pool. ``started`` is the pod's start time as written by the API server, or empty.

    ``restarts`` are those of its containers, by the kubelet's count.
    """

    pod: str
    ip: str
    ready: bool
    started: str = ""
    restarts: int = 0
    pool: str = ""
    """The pool through which it was found: it decides what the pod is sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PickerPod:
    """A Ready pod behind a picker's Service. ``metrics_port`` None: not an endpoint picker of ours.

    ``health_port`` serves gRPC health: the container port of that name, else the one named ``grpc``.
    """

    pod: str
    ip: str
    metrics_port: int | None
    health_port: int | None = None


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _port(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536 else default


def read_pool(obj: Object) -> Pool:
    """Read an InferencePool; wrong types read as absent, never raise."""
    meta, spec = _dict(obj.get("metadata")), _dict(obj.get("spec"))
    api_version = obj.get("apiVersion")
    group = api_version.split("/")[0] if isinstance(api_version, str) and "/" in api_version else ""
    selector = _dict(spec.get("selector"))
    if "matchLabels" in selector:
        selector = _dict(selector["matchLabels"])
    labels = tuple(sorted((k, v) for k, v in selector.items() if isinstance(k, str) and isinstance(v, str)))
    listed = spec.get("targetPorts")
    numbers = (
        [_dict(item).get("number") for item in listed[:_MAX_PORTS]]
        if isinstance(listed, list) and listed
        else [spec.get("targetPortNumber")]
    )
    first = _port(numbers[0], 8000)
    more = (_port(number, first) for number in numbers[1:])
    return Pool(
        group=group,
        namespace=str(meta.get("namespace", "")),
        name=str(meta.get("name", "")),
        selector=labels,
        port=first,
        picker=_picker(spec),
        picker_kind=_picker_kind(spec),
        fail_open=_picker_ref(spec).get("failureMode") == "FailOpen",
        refusals=_refusals(obj),
        ports=tuple(dict.fromkeys((first, *more))),
    )


def _picker_ref(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    return _dict(spec.get("endpointPickerRef") or spec.get("extensionRef"))


def _picker_kind(spec: Mapping[str, Any]) -> str:
    ref = _picker_ref(spec)
    return str(ref.get("kind", "Service")) if ref.get("name") else ""


def _refusals(obj: Object) -> tuple[ParentRefusal, ...]:
    """What parents refuse: ``status.parents`` of v1, ``status.parent`` of v1alpha2.

    Unknown is no refusal, nor is the placeholder that CRDs put there by default (kind Status, reason Pending).
    """
    status, meta = _dict(obj.get("status")), _dict(obj.get("metadata"))
    parents = status.get("parents") or status.get("parent")
    found = []
    for parent in map(_dict, parents if isinstance(parents, list) else ()):
        ref, conditions = _dict(parent.get("parentRef")), parent.get("conditions")
        for item in map(_dict, conditions if isinstance(conditions, list) else ()):
            named = item.get("type") in ("Accepted", "ResolvedRefs") and isinstance(ref.get("name"), str)
            if not named or item.get("status") != "False" or item.get("reason") == "Pending":
                continue
            found.append(
                ParentRefusal(
                    kind=str(ref.get("kind") or "Gateway"),
                    namespace=str(ref.get("namespace") or meta.get("namespace", "")),
                    name=ref["name"],
                    condition=str(item.get("type")),
                    reason=str(item.get("reason") or ""),
                    message=str(item.get("message") or ""),
                )
            )
    return tuple(found)


def _picker(spec: Mapping[str, Any]) -> PickerRef | None:
    ref = _picker_ref(spec)
    name = ref.get("name")
    if not isinstance(name, str) or not name or ref.get("kind", "Service") != "Service":
        return None
    number = _dict(ref.get("port")).get("number", ref.get("portNumber"))
    return PickerRef(name=name, port=_port(number, _DEFAULT_PICKER_PORT))


def pod_endpoint(pod: Object) -> Endpoint | None:
    """A pod as an endpoint: Ready means condition Ready, an IP and no deletion under way. None without IP."""
    meta, status = _dict(pod.get("metadata")), _dict(pod.get("status"))
    ip, name = status.get("podIP"), meta.get("name")
    if not isinstance(ip, str) or not ip or not isinstance(name, str):
        return None
    conditions = status.get("conditions")
    ready = isinstance(conditions, list) and any(
        _dict(item).get("type") == "Ready" and _dict(item).get("status") == "True" for item in conditions
    )
    started = status.get("startTime")
    return Endpoint(
        pod=name,
        ip=ip,
        ready=ready and not meta.get("deletionTimestamp"),
        started=started if isinstance(started, str) else "",
        restarts=_restarts(status),
    )


def _restarts(status: Mapping[str, Any]) -> int:
    """Restarts of all containers of a pod, as the kubelet counts them."""
    statuses = status.get("containerStatuses")
    counts = [_dict(item).get("restartCount") for item in (statuses if isinstance(statuses, list) else ())]
    return sum(
        count for count in counts if isinstance(count, int) and not isinstance(count, bool) and count > 0
    )


def health_port(pod: Object) -> int | None:
    """The container port named ``health``, else the one named ``grpc``; None where neither is declared."""
    found: dict[str, int] = {}
    containers = _dict(pod.get("spec")).get("containers")
    for container in map(_dict, containers if isinstance(containers, list) else ()):
        ports = container.get("ports")
        for port in map(_dict, ports if isinstance(ports, list) else ()):
            number = _port(port.get("containerPort"), 0)
            if number and port.get("name") in HEALTH_PORTS:
                found[port["name"]] = number
    return next((found[name] for name in HEALTH_PORTS if name in found), None)


def metrics_port(obj: Object) -> int | None:
    """The annotation of a picker's Service or pod; None without it, or where it is no port."""
    text = _dict(_dict(obj.get("metadata")).get("annotations")).get(METRICS_PORT_ANNOTATION)
    port = int(text) if isinstance(text, str) and text.isdecimal() and len(text) <= 5 else 0
    return port if 0 < port < 65536 else None


def read_picker_pod(pod: Object, default_port: int | None) -> PickerPod | None:
    """A pod behind a picker's Service, whose annotation gives ``default_port``; None while it is not Ready."""
    endpoint = pod_endpoint(pod)
    if endpoint is None or not endpoint.ready:
        return None
    port = metrics_port(pod)
    return PickerPod(
        pod=endpoint.pod,
        ip=endpoint.ip,
        metrics_port=port if port is not None else default_port,
        health_port=health_port(pod),
    )
