"""Adapters as weighted targets: the lists of InferenceModel and InferenceModelRewrite.

Both refuse weight 0 (schema minimum 1), so an adapter without traffic leaves the list. An object without a list
serves the name that clients ask for: that name is its one target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollouts.engine.actions import DesiredTraffic
from rollouts.engine.observation import RuleView, TrafficView
from rollouts.engine.rollout_spec import AdapterTraffic, PickerTraffic, TrafficMode, VariantTraffic
from rollouts.engine.versions import Identity
from rollouts.objects.fields import map_of, metadata_of, text_of
from rollouts.objects.models import Split
from rollouts.traffic.fields import claim_of, last_writer
from rollouts.traffic.reading import Reader
from rollouts.traffic.weights import split
from rollouts.traffic.writes import ROLLOUT_LABEL, JsonPatch, label_value

__all__ = [
    "ADAPTER_KIND",
    "DEFAULT_POOL_GROUP",
    "ModelTarget",
    "VariantTarget",
    "adapter",
    "guarded",
    "managed_metadata",
    "mode_of",
    "pool_ref",
    "retarget",
    "view_targets",
    "weights_of",
]

ADAPTER_KIND = "Adapter"
DEFAULT_POOL_GROUP = "inference.networking.x-k8s.io"

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTarget:
    """Where a write goes: our Rollout, its namespace, and the model object that it names."""

    rollout: str
    namespace: str
    spec: AdapterTraffic


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantTarget:
    """Where a write goes: our Rollout, its namespace, and the PoolSplit that it has."""

    rollout: str
    namespace: str
    spec: VariantTraffic


def adapter(name: str) -> Identity:
    """Identity of an adapter as an arm."""
    return Identity(kind=ADAPTER_KIND, group="", name=name)


def mode_of(obj: Object | None, rollout: str) -> TrafficMode:
    """Managed when it does not exist or carries our label, else Adopted."""
    if obj is None:
        return TrafficMode.MANAGED
    ours = map_of(metadata_of(obj).get("labels")).get(ROLLOUT_LABEL) == label_value(rollout)
    return TrafficMode.MANAGED if ours else TrafficMode.ADOPTED


def weights_of(entries: Sequence[Any], key: str, model: str) -> dict[Identity, int]:
    """Weight of each target in the order written; ``key`` is the field with its name."""
    found: dict[Identity, int] = {}
    for name, weight in Split(entries, key).weights():
        if name:
            found[adapter(name)] = found.get(adapter(name), 0) + weight
    return found or {adapter(model): 1}


def retarget(entries: Sequence[Any], key: str, model: str, desired: DesiredTraffic) -> list[dict[str, Any]]:
    """The list that says ``desired``: arms without weight left out, targets of others as they are.

    Other targets keep their share of the whole, their place and their fields. Raises WeightTooLarge.
    """
    ours = {desired.stable, *desired.keep, *desired.drop}
    ours |= {desired.canary} if desired.canary is not None else set()
    present = weights_of(entries, key, model)
    mine = frozenset(arm for arm in present if arm in ours)
    weights = split(present, mine, desired.stable, desired.canary, desired.weight)
    result, seen = list[dict[str, Any]](), set[Identity]()
    for entry in map(map_of, entries):
        arm = adapter(text_of(entry.get(key)))
        if arm.name and arm not in seen and weights[arm] > 0:
            result.append({**entry, "weight": weights[arm]})
        seen.add(arm)
    arms = [desired.stable] if desired.canary is None else [desired.stable, desired.canary]
    missing = [arm for arm in arms if arm not in seen and weights[arm] > 0]
    return result + [{key: arm.name, "weight": weights[arm]} for arm in missing]


def view_targets(
    obj: Object,
    spec: PickerTraffic,
    entries: Sequence[Mapping[Identity, int]],
    field: str,
    reader: Reader,
    *,
    mode: TrafficMode | None = None,
) -> TrafficView:
    """The engine's view of a live object that a picker splits by, which has no parents.

    ``mode`` None: as its label says.
    """
    meta, mode = metadata_of(obj), mode or mode_of(obj, reader.rollout)
    claim, claimed_by = claim_of(obj, mode, reader.rollout)
    writer, written_at = last_writer(obj, field, reader.field_manager)
    return TrafficView(
        kind=spec.kind,
        name=spec.name,
        mode=mode,
        exists=True,
        uid=text_of(meta.get("uid")),
        resource_version=text_of(meta.get("resourceVersion")),
        claim=claim,
        claimed_by=claimed_by,
        rules=tuple(RuleView(name=str(index), entries=item) for index, item in enumerate(entries)),
        last_writer=writer,
        last_written_at=written_at,
        written_by_us=writer == reader.field_manager,
        written_by_gitops=writer in reader.gitops_managers,
        deleting=bool(meta.get("deletionTimestamp")),
    )


def managed_metadata(obj: Object | None, target: ModelTarget | VariantTarget) -> dict[str, Any]:
    """Metadata of an apply: our label, never an owner, and the version that it was planned against."""
    meta: dict[str, Any] = {
        "name": target.spec.name,
        "namespace": target.namespace,
        "labels": {ROLLOUT_LABEL: label_value(target.rollout)},
    }
    if obj is not None:
        meta["resourceVersion"] = text_of(metadata_of(obj).get("resourceVersion"))
    return meta


def pool_ref(spec: AdapterTraffic) -> dict[str, Any]:
    """``spec.poolRef`` with its defaults written out."""
    group = spec.pool_group or DEFAULT_POOL_GROUP
    return {"group": group, "kind": "InferencePool", "name": spec.pool_name}


def guarded(obj: Object, *operations: dict[str, Any]) -> JsonPatch:
    """A JSON patch that applies to this version of the object only."""
    version = text_of(metadata_of(obj).get("resourceVersion"))
    guard = {"op": "test", "path": "/metadata/resourceVersion", "value": version}
    return JsonPatch(operations=[guard, *operations])
