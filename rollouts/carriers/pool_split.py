"""PoolSplit: weights between variants, pods of one InferencePool that their labels tell apart."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from rollouts.api.target_models import LABEL_KEY, LABEL_VALUE, NO_LABEL, VariantTargetModel
from rollouts.api.traffic_models import VariantTrafficModel
from rollouts.carriers.adapters import SHARED_PODS
from rollouts.carriers.base import Carrier, Object, TrafficKind, TrafficPlace
from rollouts.carriers.target_kinds import TargetKind
from rollouts.engine.actions import DesiredTraffic
from rollouts.engine.observation import TrafficView
from rollouts.engine.rollout_spec import TrafficMode, VariantTraffic
from rollouts.engine.rollout_status import WayBack
from rollouts.engine.variants import variant_source
from rollouts.engine.versions import VARIANT_KIND, Identity, Target
from rollouts.objects import kinds
from rollouts.objects.fields import map_of, text_of
from rollouts.objects.pool_splits import read_pool_split, split_name
from rollouts.objects.pools import Pool
from rollouts.objects.resource import Resource
from rollouts.objects.shared_strategies import canary_fields
from rollouts.objects.stickiness import STICKY_ANNOTATION, kept_sticky
from rollouts.traffic import pool_split
from rollouts.traffic.reading import Reader
from rollouts.traffic.targets import VariantTarget
from rollouts.traffic.wayback import EntryList
from rollouts.traffic.writes import Apply, RenderRefusal, Write
from rollouts.units import Weight

__all__ = ["POOL_SPLIT", "REQUESTS", "VARIANT_TARGET", "recorded_split", "said_split"]


def recorded_split(record: WayBack) -> VariantTraffic:
    """The PoolSplit of a recorded way back, without its Rollout's spec."""
    return VariantTraffic(kind=record.kind, name=record.name, model_name=record.model, pool_name=record.pool)


def said_split(rollout: Object) -> VariantTraffic | None:
    """The PoolSplit that a Rollout asks for, whatever else of its spec cannot be read; None where that cannot."""
    entry = map_of(map_of(map_of(rollout.get("spec")).get("traffic")).get(POOL_SPLIT.field))
    pool, model = text_of(entry.get("name")), text_of(entry.get("modelName"))
    if not pool:
        return None
    return VariantTraffic(
        kind=POOL_SPLIT.kind, name=split_name(pool, model), model_name=model, pool_name=pool
    )


REQUESTS = "requests"
"""Index of the PoolSplits that share the same requests, by namespace, pool and model name."""


def _by_requests(obj: dict[str, Any]) -> Iterable[Hashable]:
    split = read_pool_split(obj)
    return [(split.namespace, split.pool, split.model_name)]


class _Variants(TargetKind):
    field = "variant"
    help = "Serve from these pods of the pool in `traffic.inferencePool`."
    model = VariantTargetModel
    called = "a variant"
    by_picker = True
    unscaled = SHARED_PODS

    def read(self, model: VariantTargetModel, revision: str) -> Target:
        source = variant_source(model.labels, model.model)
        return Target(kind=self.field, name=model.name, source=source, revision=revision)

    def findings(self, model: VariantTargetModel) -> Iterator[tuple[str, str]]:
        for key, value in model.labels.items():
            if not re.fullmatch(LABEL_KEY, key) or not re.fullmatch(LABEL_VALUE, value):
                yield "variant.labels", f"{key}={value} {NO_LABEL}"

    def identity(self, target: Target) -> Identity:
        return Identity(kind=VARIANT_KIND, group="", name=target.name, source=target.source)


VARIANT_TARGET = _Variants()


class _PoolSplits(TrafficKind):
    kind = kinds.POOL_SPLIT.kind
    field = "inferencePool"
    help = "An InferencePool whose pods are told apart by labels: the controller makes a PoolSplit for it."
    model = VariantTrafficModel
    target = VARIANT_TARGET
    resources = (kinds.POOL_SPLIT,)
    in_git = False
    indexes: ClassVar = {REQUESTS: _by_requests}

    def said(self, traffic: Object) -> list[Object]:
        entry = map_of(traffic.get(self.field))
        pool = text_of(entry.get("name"))
        return [{"name": split_name(pool, text_of(entry.get("modelName")))}] if pool else []

    def pools(self, traffic: Object) -> Iterator[str]:
        pool = text_of(map_of(traffic.get(self.field)).get("name"))
        if pool:
            yield pool

    def kept(self, rollout: Object) -> Mapping[str, str]:
        return {STICKY_ANNOTATION: kept_sticky(map_of(canary_fields(rollout).get("sticky")))}

    def read(self, model: VariantTrafficModel, fingerprint: Callable[[Any], str]) -> VariantTraffic:
        return VariantTraffic(
            kind=self.kind,
            name=split_name(model.name, model.model_name),
            model_name=model.model_name,
            pool_name=model.name,
        )

    def recorded(self, record: WayBack) -> VariantTraffic:
        return recorded_split(record)

    def lists(self, obj: Object) -> list[EntryList]:
        return pool_split.lists(obj)

    def made_anew(self, place: TrafficPlace, record: WayBack, limit: Weight) -> Apply | None:
        spec = recorded_split(record)
        target = VariantTarget(rollout=place.rollout, namespace=place.namespace, spec=spec)
        desired = DesiredTraffic(stable=record.stable.arm, canary=record.canary.arm, weight=limit)
        return pool_split.render(None, target, place.resource, desired)

    def carrier(self, place: TrafficPlace, spec: VariantTraffic, template: Object | None) -> Carrier:
        target = VariantTarget(rollout=place.rollout, namespace=place.namespace, spec=spec)
        return _SplitCarrier(target=target, resource=place.resource)


POOL_SPLIT = _PoolSplits()


@dataclass(frozen=True, kw_only=True)
class _SplitCarrier(Carrier):
    target: VariantTarget
    resource: Resource
    kind: TrafficKind = POOL_SPLIT

    def mode(self, raw: Object | None) -> TrafficMode:
        return TrafficMode.MANAGED

    def way_back(self, raw: Object | None, stable: Identity, canary: Identity) -> WayBack:
        spec = self.target.spec
        return replace(super().way_back(raw, stable, canary), pool=spec.pool_name, model=spec.model_name)

    def view(self, raw: Object | None, reader: Reader) -> TrafficView:
        return pool_split.view(raw, self.target.spec, reader)

    def render(self, raw: Object | None, desired: DesiredTraffic) -> Write | RenderRefusal | None:
        return pool_split.render(raw, self.target, self.resource, desired)

    def not_honoured(self, pool: Pool, preferred: Resource) -> str:
        return "no picker but ours reads PoolSplit"
