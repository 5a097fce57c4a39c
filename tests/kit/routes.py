"""HTTPRoutes for tests: builders, and what an API server makes of a write."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from rollouts.engine.actions import DesiredTraffic
from rollouts.engine.rollout_spec import HeaderRouteStep, HttpRouteTraffic, TrafficMode
from rollouts.engine.versions import Identity
from rollouts.traffic.httproute import RouteTarget
from rollouts.traffic.writes import APPLIED_BY, CONSENT_ANNOTATION, Apply, JsonPatch
from rollouts.units import FULL, Weight

__all__ = [
    "PatchFailed",
    "adopted",
    "after",
    "apply_patch",
    "desired",
    "managed",
    "pool",
    "ref",
    "route",
    "service_ref",
    "target",
    "template",
]

X_GROUP = "inference.networking.x-k8s.io"
Object = dict[str, Any]


class PatchFailed(Exception):
    """A JSON patch that does not apply: a test that does not hold, or a path that is not there."""


def pool(name: str, group: str = X_GROUP) -> Identity:
    """Identity of an InferencePool."""
    return Identity(kind="InferencePool", group=group, name=name)


def ref(name: str, weight: int | None, port: int | None = 8000, group: str = X_GROUP) -> Object:
    """A backendRef to an InferencePool; None leaves a field out."""
    fields = {"group": group, "kind": "InferencePool", "name": name, "port": port, "weight": weight}
    return {key: value for key, value in fields.items() if value is not None}


def service_ref(name: str, weight: int) -> Object:
    """A backendRef to a Service."""
    return {"group": "", "kind": "Service", "name": name, "port": 80, "weight": weight}


def route(*rules: Sequence[Object] | Object, **fields: Any) -> Object:
    """A live HTTPRoute whose rules have these backendRefs, or are these rules."""
    body = [dict(rule) if isinstance(rule, Mapping) else {"backendRefs": list(rule)} for rule in rules]
    for rule in body:
        rule.setdefault("matches", [{"path": {"type": "PathPrefix", "value": "/"}}])
    meta = {
        "name": "route",
        "namespace": "default",
        "uid": "u1",
        "resourceVersion": "7",
        "generation": 3,
        "annotations": {CONSENT_ANNOTATION: "demo"},
    }
    spec = {"parentRefs": [{"name": "gateway"}], "rules": body}
    return {
        "metadata": {**meta, **fields.pop("metadata", {})},
        "spec": {**spec, **fields.pop("spec", {})},
        **fields,
    }


def template(*rules: Object) -> Object:
    """A route template; without rules, one open rule for every path."""
    everything = {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}
    return {"parentRefs": [{"name": "gateway"}], "rules": [dict(rule) for rule in rules] or [everything]}


def adopted(*, rule_names: tuple[str, ...] = (), add_backend: bool = False) -> HttpRouteTraffic:
    """``traffic.httpRoutes[0]`` without a template."""
    return HttpRouteTraffic(
        name="route", mode=TrafficMode.ADOPTED, rule_names=rule_names, add_backend=add_backend
    )


def managed() -> HttpRouteTraffic:
    """``traffic.httpRoutes[0]`` with a template."""
    return HttpRouteTraffic(name="route", mode=TrafficMode.MANAGED)


def target(spec: HttpRouteTraffic, body: Object | None = None) -> RouteTarget:
    """Where the Rollout ``demo`` writes; ``body`` is the template."""
    return RouteTarget(rollout="demo", namespace="default", spec=spec, template=body)


def desired(
    percent: float,
    *,
    stable: str = "v1",
    canary: str | None = "v2",
    keep: Sequence[str] = (),
    drop: Sequence[str] = (),
    header_routes: tuple[HeaderRouteStep, ...] = (),
) -> DesiredTraffic:
    """Traffic with ``percent`` on the canary."""
    return DesiredTraffic(
        stable=pool(stable),
        canary=None if canary is None else pool(canary),
        weight=Weight(round(percent * FULL / 100)),
        keep=tuple(map(pool, keep)),
        drop=tuple(map(pool, drop)),
        header_routes=header_routes,
    )


# --- what the server does --------------------------------------------------------------------------


def after(live: Object | None, write: Apply | JsonPatch) -> Object:
    """The stored object after ``write``: with new resourceVersion and generation, and us as last writer."""
    if isinstance(write, JsonPatch):
        assert live is not None
        stored = apply_patch(live, write.operations)
        operation = "Update"
    else:
        meta = (live or {"metadata": {"resourceVersion": "0", "generation": 0}})["metadata"]
        given = write.body["metadata"]
        if "resourceVersion" in given and given["resourceVersion"] != meta["resourceVersion"]:
            raise PatchFailed("resourceVersion")
        labels = {**meta.get("labels", {}), **given["labels"]}
        stored = {**copy.deepcopy(write.body), "metadata": {**meta, **given, "labels": labels}}
        operation = "Apply"
    meta = stored["metadata"]
    meta["resourceVersion"] = str(int(meta["resourceVersion"]) + 1)
    meta["generation"] = meta["generation"] + 1
    others = [item for item in meta.get("managedFields", []) if "f:rules" not in item["fieldsV1"]["f:spec"]]
    ours = {"manager": APPLIED_BY, "operation": operation, "fieldsV1": {"f:spec": {"f:rules": {}}}}
    meta["managedFields"] = [*others, {**ours, "time": "2026-01-01T00:00:00Z"}]
    return stored


def apply_patch(document: Object, operations: Sequence[Mapping[str, Any]]) -> Object:
    """A JSON patch (RFC 6902) with the operations test, add and remove. Raises PatchFailed."""
    result = copy.deepcopy(document)
    for operation in operations:
        *path, last = (
            part.replace("~1", "/").replace("~0", "~")
            for part in operation["path"].removeprefix("/").split("/")
        )
        try:
            parent: Any = result
            for part in path:
                parent = parent[int(part)] if isinstance(parent, list) else parent[part]
            _operate(parent, last, operation)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise PatchFailed(f"{operation}: {error!r}") from None
    return result


def _operate(parent: Any, last: str, operation: Mapping[str, Any]) -> None:
    key: Any = last
    if isinstance(parent, list):
        key = len(parent) if last == "-" else int(last)
    match operation["op"]:
        case "test":
            if parent[key] != operation["value"]:
                raise ValueError(f"is {parent[key]!r}")
        case "add" if isinstance(parent, list):
            if key > len(parent):
                raise IndexError(key)
            parent.insert(key, copy.deepcopy(operation["value"]))
        case "add":
            parent[key] = copy.deepcopy(operation["value"])
        case "remove":
            del parent[key]
        case other:
            raise ValueError(f"{other} is not known here")
