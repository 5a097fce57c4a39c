"""Names that a raw Rollout refers to, for indexes: cheap, and tolerant of any object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["pool_names", "template_names", "traffic_names"]


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _name(value: Any) -> Iterator[str]:
    name = _dict(value).get("name")
    if isinstance(name, str) and name:
        yield name


def traffic_names(obj: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(kind, name) of the traffic objects of a Rollout: those that it names, and those that it has to give back."""
    for record in _list(_dict(obj.get("status")).get("wayBack")):
        kind = _dict(record).get("kind")
        for name in _name(record):
            if isinstance(kind, str):
                yield kind, name
    traffic = _dict(_dict(obj.get("spec")).get("traffic"))
    for route in _list(traffic.get("httpRoutes")):
        for name in _name(route):
            yield "HTTPRoute", name
    for field, kind in (
        ("inferenceModel", "InferenceModel"),
        ("inferenceModelRewrite", "InferenceModelRewrite"),
    ):
        for name in _name(traffic.get(field)):
            yield kind, name


def pool_names(obj: Mapping[str, Any]) -> Iterator[str]:
    """Names of the pools that a Rollout looks at: its target, its arms, its history."""
    spec, status = _dict(obj.get("spec")), _dict(obj.get("status"))
    yield from _name(_dict(spec.get("target")).get("pool"))
    traffic = _dict(spec.get("traffic"))
    for field in ("inferenceModel", "inferenceModelRewrite"):
        yield from _name(_dict(traffic.get(field)).get("poolRef"))
    if isinstance(spec.get("stableHint"), str) and spec["stableHint"]:
        yield spec["stableHint"]
    for arm in (status.get("stable"), status.get("canary"), *_list(status.get("history"))):
        if _dict(arm).get("kind") == "InferencePool":
            yield from _name(arm)


def template_names(obj: Mapping[str, Any]) -> Iterator[tuple[bool, str]]:
    """(cluster scope, name) of the analysis templates that a Rollout uses."""
    canary = _dict(_dict(_dict(obj.get("spec")).get("strategy")).get("canary"))
    gates = [canary.get("analysis"), *(_dict(step).get("analysis") for step in _list(canary.get("steps")))]
    for gate in gates:
        for reference in _list(_dict(gate).get("templates")):
            name = _dict(reference).get("templateName")
            if isinstance(name, str):
                yield _dict(reference).get("clusterScope") is True, name
