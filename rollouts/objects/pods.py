"""Pods: what serves of a pool, and what is behind the Service of its endpoint picker."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rollouts.objects.fields import items_at, list_of, map_of, metadata_of, port_of, seconds_at, text_of

__all__ = [
    "DRAINING_ANNOTATION",
    "HEALTH_PORTS",
    "METRICS_PORT_ANNOTATION",
    "WARMED_ANNOTATION",
    "PickerPod",
    "Pod",
    "health_port",
    "holds_resources",
    "is_draining",
    "is_ready",
    "metrics_port",
    "pending_words",
    "read_picker_pod",
    "read_pod",
    "ready_since",
    "restarts_of",
    "warmed_for",
]

METRICS_PORT_ANNOTATION = "inferencerollouts.dev/metrics-port"
"""On the Service or on the pods of our endpoint pickers: where their metrics are."""

DRAINING_ANNOTATION = "inferencerollouts.dev/draining"
"""On a pod that is about to go: pickers send it no new request while another pod can serve."""

WARMED_ANNOTATION = "inferencerollouts.dev/warmed"
"""On a pod that answered what ``capacity.warmUp`` asks: when that was over, as the API server writes times.

Where its containers had started anew before, `` after N restarts`` follows: one more, and it is cold again.
"""

HEALTH_PORTS = ("health", "grpc")
"""Names of container ports of our pickers that serve gRPC health, the one without TLS first."""

_WARMING = re.compile(r"Rollout (?P<rollout>[a-z0-9.-]+) warms it up", re.ASCII)

_ENDED = ("Succeeded", "Failed")
"""Phases of a pod that has ended."""

_LONGEST_WORDS = 200
"""Of the scheduler: it names each reason once, and then how preemption would not help."""

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod that has an IP. Ready: its condition says so, and no deletion is under way.

    ``started`` is its start time as written by the API server, or empty. ``restarts`` are those of its containers,
    by the kubelet's count.
    """

    name: str
    ip: str
    ready: bool
    started: str = ""
    restarts: int = 0
    pool: str = ""
    """The pool through which it was found: it decides what the pod is sent."""
    warming: bool = False
    """It is being warmed up: what it answers is nobody's."""
    warmed: str = ""
    """When that was over: what its counters show is of users from then on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PickerPod:
    """A Ready pod behind a picker's Service. ``metrics_port`` None: not an endpoint picker of ours.

    ``health_port`` serves gRPC health: the container port of that name, else the one named ``grpc``.
    """

    name: str
    ip: str
    metrics_port: int | None
    health_port: int | None = None


def read_pod(obj: Object, pool: str = "") -> Pod | None:
    """Read a pod; None while it has no IP."""
    meta, status = metadata_of(obj), map_of(obj.get("status"))
    ip, name = text_of(status.get("podIP")), meta.get("name")
    if not ip or not isinstance(name, str):
        return None
    return Pod(
        name=name,
        ip=ip,
        ready=_ready(obj) is not None,
        started=text_of(status.get("startTime")),
        restarts=restarts_of(obj),
        pool=pool,
        warming=bool(warmed_for(obj)),
        warmed=text_of(map_of(meta.get("annotations")).get(WARMED_ANNOTATION)),
    )


def _ready(obj: Object) -> Object | None:
    """Its Ready condition; None while it takes no traffic."""
    if metadata_of(obj).get("deletionTimestamp"):
        return None
    for condition in items_at(obj, "status", "conditions"):
        if condition.get("type") == "Ready":
            return condition if condition.get("status") == "True" else None
    return None


def is_ready(obj: Object) -> bool:
    """Whether it takes traffic: its Ready condition says so, and no deletion is under way."""
    return _ready(obj) is not None


def ready_since(obj: Object) -> float | None:
    """Unix time of its Ready condition, 0 when that does not say; None while it takes no traffic."""
    condition = _ready(obj)
    return None if condition is None else seconds_at(condition, "lastTransitionTime")


def is_draining(pod: Object) -> bool:
    """Whether the annotation says that a pod is about to go: any value but an empty one and ``false`` does.

    Whoever writes it by hand and errs in the value wants the pod spared: no request is lost by that.
    """
    value = map_of(metadata_of(pod).get("annotations")).get(DRAINING_ANNOTATION)
    return value is not None and str(value).strip().lower() not in ("", "false")


def warmed_for(pod: Object) -> str:
    """The Rollout that warms a pod up and keeps requests from it meanwhile; empty where none does."""
    found = _WARMING.fullmatch(text_of(map_of(metadata_of(pod).get("annotations")).get(DRAINING_ANNOTATION)))
    return found["rollout"] if found else ""


def holds_resources(pod: Object) -> bool:
    """Whether a pod has, or waits for, what it asks a node for: one that has ended has given it back."""
    return map_of(pod.get("status")).get("phase") not in _ENDED


def pending_words(pod: Object) -> str | None:
    """Why no node takes a pod, in as many of the scheduler's words as fit a line; None where nobody says so.

    Its first sentence has the reasons (``FitError.Error``); in the others plugins say why to evict would not help.
    """
    for condition in items_at(pod, "status", "conditions"):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            reasons, stop, _ = " ".join(text_of(condition.get("message")).split()).partition(". ")
            return f"{reasons}{stop.strip()}"[:_LONGEST_WORDS]
    return None


def restarts_of(pod: Object) -> int:
    """Restarts of all containers of a pod, as the kubelet counts them."""
    status = map_of(pod.get("status"))
    counts = [map_of(item).get("restartCount") for item in list_of(status.get("containerStatuses"))]
    return sum(
        count for count in counts if isinstance(count, int) and not isinstance(count, bool) and count > 0
    )


def health_port(pod: Object) -> int | None:
    """The container port named ``health``, else the one named ``grpc``; None where neither is declared."""
    found: dict[str, int] = {}
    for container in items_at(pod, "spec", "containers"):
        for port in items_at(container, "ports"):
            number = port_of(port.get("containerPort"))
            if number is not None and port.get("name") in HEALTH_PORTS:
                found[port["name"]] = number
    return next((found[name] for name in HEALTH_PORTS if name in found), None)


def metrics_port(obj: Object) -> int | None:
    """The annotation of a picker's Service or pod; None without it, or where it is no port."""
    text = map_of(metadata_of(obj).get("annotations")).get(METRICS_PORT_ANNOTATION)
    return port_of(int(text)) if isinstance(text, str) and text.isdecimal() and len(text) <= 5 else None


def read_picker_pod(pod: Object, default_port: int | None) -> PickerPod | None:
    """A pod behind a picker's Service, whose annotation gives ``default_port``; None while it is not Ready."""
    found = read_pod(pod)
    if found is None or not found.ready:
        return None
    port = metrics_port(pod)
    return PickerPod(
        name=found.name,
        ip=found.ip,
        metrics_port=port if port is not None else default_port,
        health_port=health_port(pod),
    )
