"""Names that a raw Rollout refers to, for indexes: cheap, and tolerant of any object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rollouts.carriers import TRAFFIC_KINDS, object_targets
from rollouts.objects.companions import Belongs
from rollouts.objects.fields import list_of, map_of, metadata_of, text_of
from rollouts.objects.pools import POOL_KIND
from rollouts.objects.shared_strategies import pinned_canary

__all__ = [
    "DEPENDENTS_ANNOTATION",
    "companion_pools",
    "dependencies",
    "listed_companions",
    "permits",
    "pool_names",
    "serving_pools",
    "template_names",
    "traffic_names",
    "version_names",
]

DEPENDENTS_ANNOTATION = "inferencerollouts.dev/dependents"
"""On a Rollout: namespaces, parted by commas, whose Rollouts may depend on it and so learn its phase; `*` is all."""

_WITH_PODS = {kind.field: kind.kind for kind in object_targets()}
"""Fields of ``spec.target`` that name what has pods of its own, and its kind."""


def _name(value: Any) -> Iterator[str]:
    name = map_of(value).get("name")
    if isinstance(name, str) and name:
        yield name


def traffic_names(obj: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(kind, name) of the traffic objects of a Rollout: those that it names, and those that it has to give back."""
    for record in list_of(map_of(obj.get("status")).get("wayBack")):
        recorded = map_of(record).get("kind")
        for name in _name(record):
            if isinstance(recorded, str):
                yield recorded, name
    traffic = map_of(map_of(obj.get("spec")).get("traffic"))
    for kind in TRAFFIC_KINDS:
        for entry in kind.said(traffic):
            for name in _name(entry):
                yield kind.kind, name


def version_names(obj: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(kind, name) of what has pods that a Rollout looks at: target, hint, arms, history, and pools that it splits."""
    spec, status = map_of(obj.get("spec")), map_of(obj.get("status"))
    target, hint = map_of(spec.get("target")), text_of(spec.get("stableHint"))
    for field, kind in _WITH_PODS.items():
        for name in _name(target.get(field)):
            yield kind, name
            if hint:
                yield kind, hint
    yield from _split_pools(spec)
    yield from _arms(status.get("stable"), status.get("canary"), *list_of(status.get("history")))
    yield from _companions(spec, status)


def pool_names(obj: Mapping[str, Any]) -> Iterator[str]:
    """The names of ``version_names``."""
    return (name for _, name in version_names(obj))


def listed_companions(spec: Mapping[str, Any]) -> Iterator[Belongs]:
    """Pools whose pods work for those of a version: those that the Rollout lists itself."""
    canary = map_of(map_of(spec.get("strategy")).get("canary"))
    target = text_of(map_of(map_of(spec.get("target")).get("pool")).get("name"))
    for one in map(map_of, list_of(map_of(canary.get("capacity")).get("with"))):
        pool, of = text_of(one.get("pool")), text_of(one.get("of")) or target
        if pool and of:
            yield Belongs(pool=pool, of=of, role=text_of(one.get("role")))


def _companions(spec: Mapping[str, Any], status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    pairs = map(map_of, list_of(map_of(status.get("capacity")).get("companions")))
    paired = (one.get(arm) for one in pairs for arm in ("stable", "canary"))
    kept = (one for past in list_of(status.get("history")) for one in list_of(map_of(past).get("companions")))
    gave = list_of(map_of(status.get("stableScale")).get("companions"))
    for one in (*paired, *kept, *gave, *list_of(status.get("scaleDowns"))):
        for name in _name(one):
            yield POOL_KIND, name
    for listed in listed_companions(spec):
        yield POOL_KIND, listed.pool


def companion_pools(obj: Mapping[str, Any]) -> set[str]:
    """Names of the pools that work for what serves now, by the status: those of the attempt, and stable's of the past.

    ``capacity.with`` may be in a shared strategy, or have changed since.
    """
    status = map_of(obj.get("status"))
    arms = ("stable",) if status.get("aborted") else ("stable", "canary")
    paired = map(map_of, list_of(map_of(status.get("capacity")).get("companions")))
    found = {name for one in paired for arm in arms for name in _name(one.get(arm))}
    stable = map_of(status.get("stable")).get("name")
    past = (one for one in map(map_of, list_of(status.get("history"))) if one.get("name") == stable)
    return found | {name for one in past for kept in list_of(one.get("companions")) for name in _name(kept)}


def serving_pools(obj: Mapping[str, Any]) -> set[str]:
    """Names of the pools that a Rollout needs now: its target, and the versions that may have requests."""
    spec, status = map_of(obj.get("spec")), map_of(obj.get("status"))
    found = {name for field in _WITH_PODS for name in _name(map_of(spec.get("target")).get(field))}
    found |= {name for _, name in _split_pools(spec)} | {one.pool for one in listed_companions(spec)}
    return found | {name for _, name in _arms(status.get("stable"), status.get("canary"))}


def _split_pools(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for kind in TRAFFIC_KINDS:
        for name in kind.pools(map_of(spec.get("traffic"))):
            yield POOL_KIND, name


def _arms(*arms: Any) -> Iterator[tuple[str, str]]:
    for arm in map(map_of, arms):
        if arm.get("kind") in _WITH_PODS.values():
            for name in _name(arm):
                yield str(arm["kind"]), name


def template_names(obj: Mapping[str, Any]) -> Iterator[tuple[bool, str]]:
    """(cluster scope, name) of the analysis templates that a Rollout, or a shared strategy, uses.

    Of a Rollout also those of the strategy that its attempt has pinned, which may be another one by now.
    """
    spec = map_of(obj.get("spec"))
    pinned = text_of(map_of(map_of(obj.get("status")).get("strategy")).get("content"))
    canaries = [map_of(spec.get("strategy", spec)).get("canary"), pinned_canary(pinned) if pinned else None]
    for canary in map(map_of, canaries):
        gates = [
            canary.get("analysis"),
            *(map_of(step).get("analysis") for step in list_of(canary.get("steps"))),
        ]
        for gate in gates:
            for reference in list_of(map_of(gate).get("templates")):
                name = map_of(reference).get("templateName")
                if isinstance(name, str):
                    yield map_of(reference).get("clusterScope") is True, name


def dependencies(obj: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(namespace, name) of the Rollouts that have to go first."""
    own = text_of(metadata_of(obj).get("namespace"))
    for entry in map(map_of, list_of(map_of(obj.get("spec")).get("dependsOn"))):
        for name in _name(entry):
            yield text_of(entry.get("namespace")) or own, name


def permits(obj: Mapping[str, Any], namespace: str) -> bool:
    """Whether Rollouts of the namespace may depend on this one: its own always may."""
    if text_of(metadata_of(obj).get("namespace")) == namespace:
        return True
    said = text_of(map_of(metadata_of(obj).get("annotations")).get(DEPENDENTS_ANNOTATION))
    return any(one.strip() in (namespace, "*") for one in said.split(","))
