"""Table output: what ``kubectl get`` prints (Kubernetes API concepts, "Receiving resources as Tables")."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from rollouts.lab.memoryapi.jsonpath import find_all
from rollouts.lab.memoryapi.kinds import Column, ServedKind

__all__ = ["human_duration", "table"]

Object = dict[str, Any]
Cell = Callable[[Object], Any]
_NAME = Column(name="Name", type="string", path=".metadata.name")
_AGE = Column(name="Age", type="date", path=".metadata.creationTimestamp")


def _column(name: str, path: str, *, type_: str = "string", priority: int = 0) -> Column:
    return Column(name=name, type=type_, path=path, priority=priority)


def _ready_containers(pod: Object) -> str:
    containers = (pod.get("spec") or {}).get("containers") or ()
    status = pod.get("status") or {}
    states = status.get("containerStatuses") or ()
    if not states:
        ready = any(
            item.get("type") == "Ready" and item.get("status") == "True"
            for item in status.get("conditions") or ()
        )
        return f"{len(containers) if ready else 0}/{len(containers)}"
    return f"{sum(bool(item.get('ready')) for item in states)}/{len(containers)}"


def _pod_status(pod: Object) -> str:
    if "deletionTimestamp" in pod["metadata"]:
        return "Terminating"
    status = pod.get("status") or {}
    return str(status.get("reason") or status.get("phase") or "Unknown")


def _ports(service: Object) -> str:
    ports = (service.get("spec") or {}).get("ports") or ()
    return ",".join(f"{port.get('port')}/{port.get('protocol', 'TCP')}" for port in ports) or "<none>"


def _replicas(workload: Object) -> str:
    ready = (workload.get("status") or {}).get("readyReplicas", 0)
    return f"{ready}/{(workload.get('spec') or {}).get('replicas', 1)}"


def _event_object(event: Object) -> str:
    about = event.get("involvedObject") or event.get("regarding") or {}
    return f"{str(about.get('kind', '')).lower()}/{about.get('name', '')}"


def _job_status(job: Object) -> str:
    for condition in (job.get("status") or {}).get("conditions") or ():
        if condition.get("status") == "True":
            return str(condition.get("type"))
    return "Running"


# Columns that no JSONPath can say, by kind and column name.
_COMPUTED: dict[tuple[str, str], Cell] = {
    ("pods", "Ready"): _ready_containers,
    ("pods", "Status"): _pod_status,
    ("pods", "Restarts"): lambda pod: sum(find_all(pod, ".status.containerStatuses[*].restartCount") or [0]),
    ("services", "Port(s)"): _ports,
    ("deployments", "Ready"): _replicas,
    ("events", "Object"): _event_object,
    ("jobs", "Status"): _job_status,
    ("configmaps", "Data"): lambda obj: len(obj.get("data") or ()) + len(obj.get("binaryData") or ()),
}
_BUILTIN: dict[str, tuple[Column, ...]] = {
    "pods": (
        _column("Ready", ""),
        _column("Status", ""),
        _column("Restarts", "", type_="integer"),
        _AGE,
        _column("IP", ".status.podIP", priority=1),
        _column("Node", ".spec.nodeName", priority=1),
    ),
    "services": (
        _column("Type", ".spec.type"),
        _column("Cluster-IP", ".spec.clusterIP"),
        _column("Port(s)", ""),
        _AGE,
    ),
    "deployments": (_column("Ready", ""), _AGE),
    "events": (
        _column("Last Seen", ".lastTimestamp", type_="date"),
        _column("Type", ".type"),
        _column("Reason", ".reason"),
        _column("Object", ""),
        _column("Message", ".message"),
    ),
    "jobs": (_column("Status", ""), _AGE),
    "namespaces": (_column("Status", ".status.phase"), _AGE),
    "configmaps": (_column("Data", "", type_="integer"), _AGE),
    "leases": (_column("Holder", ".spec.holderIdentity"), _AGE),
    "customresourcedefinitions": (_column("Created At", ".metadata.creationTimestamp"),),
}


def human_duration(seconds: float) -> str:
    """Two figures at most, as kubectl writes ages: 45s, 5m3s, 90m, 5h10m, 30h, 3d2h, 40d."""
    if seconds < 0:
        return "0s"
    total = int(seconds)
    minutes, hours, days = total // 60, total // 3600, total // 86400
    steps = (
        (total < 120, f"{total}s", 0, ""),
        (minutes < 10, f"{minutes}m", total % 60, "s"),
        (minutes < 180, f"{minutes}m", 0, ""),
        (hours < 8, f"{hours}h", minutes % 60, "m"),
        (hours < 48, f"{hours}h", 0, ""),
        (days < 8, f"{days}d", hours % 24, "h"),
        (days < 730, f"{days}d", 0, ""),
    )
    for applies, text, rest, unit in steps:
        if applies:
            return f"{text}{rest}{unit}" if rest else text
    return f"{days // 365}y"


def _cell(kind: ServedKind, column: Column, obj: Object, now: datetime) -> Any:
    computed = _COMPUTED.get((kind.plural, column.name)) if not kind.custom else None
    if computed:
        return computed(obj)
    found = find_all(obj, column.path)
    if not found or found[0] is None:
        return "<unknown>" if column.type == "date" else None
    if column.type == "date" and column.name != "Created At":
        try:
            then = datetime.fromisoformat(str(found[0]))
            return human_duration((now - then).total_seconds())
        except (ValueError, TypeError):
            return "<invalid>"
    if column.type in ("integer", "number", "boolean"):
        return found[0]
    return " ".join("" if item is None else str(item) for item in found)


def _columns(kind: ServedKind, version: str) -> tuple[Column, ...]:
    own = kind.columns.get(version, ()) if kind.custom else _BUILTIN.get(kind.plural, ())
    return (*(() if kind.plural == "events" else (_NAME,)), *(own or (_AGE,)))


def table(
    kind: ServedKind,
    version: str,
    items: Iterable[Object],
    *,
    now: datetime,
    include: str = "Metadata",
    metadata: Object | None = None,
) -> Object:
    """A ``meta.k8s.io/v1`` Table. ``include`` is what each row carries: None, Metadata or Object."""
    columns = _columns(kind, version)
    rows: list[Object] = []
    for obj in items:
        row: Object = {"cells": [_cell(kind, column, obj, now) for column in columns]}
        if include == "Object":
            row["object"] = obj
        elif include != "None":
            row["object"] = {
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": obj["metadata"],
            }
        rows.append(row)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata or {},
        "columnDefinitions": [
            {
                "name": column.name,
                "type": "string" if column.type == "date" else column.type,
                "format": "name" if column.name == "Name" else "",
                "description": column.name,
                "priority": column.priority,
            }
            for column in columns
        ],
        "rows": rows,
    }
