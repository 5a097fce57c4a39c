"""PoolSplit: how weights between variants are read and written (inferencerollouts.dev).

The object is ours whole: nobody has it in Git, and whatever else its list names than our two arms goes with the next
write. An arm without weight is not listed, as in model objects, so that labels of the past never overlap with others'.
An entry with an arm's name and other labels sends requests elsewhere, so it is another version, to be put right; giving
weight back goes by names as well as by labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rollouts.engine.actions import DesiredTraffic
from rollouts.engine.observation import TrafficView
from rollouts.engine.rollout_spec import TrafficMode, VariantTraffic
from rollouts.engine.rollout_status import EntryRef
from rollouts.engine.variants import labels_of, model_of, variant_identity
from rollouts.engine.versions import Identity
from rollouts.objects.fields import list_of, map_of
from rollouts.objects.pool_splits import POOL_SPLIT_KIND as KIND
from rollouts.objects.pool_splits import read_pool_split
from rollouts.objects.resource import Resource
from rollouts.traffic.reading import Reader
from rollouts.traffic.targets import VariantTarget, managed_metadata, view_targets
from rollouts.traffic.wayback import EntryList
from rollouts.traffic.weights import split
from rollouts.traffic.writes import Apply

__all__ = ["KIND", "lists", "render", "view"]

Object = Mapping[str, Any]

_LIST = "variants"


def view(obj: Object | None, spec: VariantTraffic, reader: Reader) -> TrafficView:
    """The engine's view of the live object; None means that it does not exist. Never raises."""
    if obj is None:
        return TrafficView(kind=KIND, name=spec.name, mode=TrafficMode.MANAGED)
    found = {variant.name: variant for variant in read_pool_split(obj).variants}
    live = {name: variant_identity(name, dict(one.labels), one.model) for name, one in found.items()}
    entries = {live[name]: one.weight for name, one in found.items()}
    current = len(found) == len(_variants(obj)) and all(one in reader.stored for one in live.values())
    seen = view_targets(obj, spec, [entries], _LIST, reader, mode=TrafficMode.MANAGED)
    return replace(seen, structure_current=current and _requests(obj) == _requests({"spec": _head(spec)}))


def render(
    obj: Object | None, target: VariantTarget, resource: Resource, desired: DesiredTraffic
) -> Apply | None:
    """The write that brings the object to ``desired``; None when it says so already."""
    weights = split({}, frozenset(), desired.stable, desired.canary, desired.weight)
    variants = [_entry(arm, weight) for arm, weight in weights.items() if weight]
    meta = managed_metadata(obj, target)
    body = {**_head(target.spec), _LIST: variants}
    said = (
        obj is not None and list(_variants(obj)) == variants and _requests(obj) == _requests({"spec": body})
    )
    if said and _is_ours(obj or {}, meta):
        return None
    return Apply(body={"apiVersion": resource.api_version, "kind": KIND, "metadata": meta, "spec": body})


def lists(obj: Object) -> list[EntryList]:
    """Its list, for the way back. Never raises."""
    return [EntryList(f"/spec/{_LIST}", _variants(obj), {}, "name", written=_recorded)]


def _variants(obj: Object) -> Sequence[Any]:
    return list_of(map_of(obj.get("spec")).get(_LIST))


def _head(spec: VariantTraffic) -> dict[str, Any]:
    """What the object says beside its variants. An empty name is written out: it may be somebody else's by now."""
    return {"poolRef": {"name": spec.pool_name}, "modelName": spec.model_name}


def _requests(obj: Object) -> tuple[str, str]:
    """Whose requests an object shares: those of a pool, for a model."""
    found = read_pool_split(obj)
    return found.pool, found.model_name


def _is_ours(obj: Object, meta: Object) -> bool:
    labels = map_of(map_of(obj.get("metadata")).get("labels"))
    return all(labels.get(key) == value for key, value in map_of(meta.get("labels")).items())


def _entry(arm: Identity, weight: int) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": arm.name, "labels": labels_of(arm)}
    if model_of(arm):
        entry["model"] = model_of(arm)
    return {**entry, "weight": weight}


def _recorded(ref: EntryRef, weight: int) -> dict[str, Any]:
    """The entry of a recorded arm."""
    return _entry(ref.arm, weight)
