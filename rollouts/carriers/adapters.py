"""What the kinds have in common that split the requests for a model among adapters."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, ClassVar

from rollouts.api.target_models import AdapterTargetModel
from rollouts.api.traffic_models import AdapterTrafficModel
from rollouts.carriers.base import POOL_REF, Carrier, Object, TrafficKind
from rollouts.carriers.target_kinds import TargetKind
from rollouts.engine.rollout_spec import AdapterTraffic, TrafficMode
from rollouts.engine.rollout_status import WayBack
from rollouts.engine.versions import Identity, Target
from rollouts.objects.fields import metadata_of
from rollouts.objects.models import pool_of_model
from rollouts.traffic.targets import ADAPTER_KIND, ModelTarget, mode_of

__all__ = ["ADAPTER_TARGET", "SHARED_PODS", "AdapterCarrier", "AdapterKind"]

SHARED_PODS = "adapters and variants share one pool's pods"
"""Why neither is scaled."""


def _by_pool(obj: dict[str, Any]) -> Iterable[Hashable]:
    name = pool_of_model(obj).name
    return [(str(metadata_of(obj).get("namespace", "")), name)] if name else []


class _Adapters(TargetKind):
    field = "adapter"
    help = "Serve this LoRA adapter."
    model = AdapterTargetModel
    called = "an adapter"
    by_picker = True
    unscaled = SHARED_PODS

    def read(self, model: AdapterTargetModel, revision: str) -> Target:
        return Target(
            kind=self.field,
            name=model.name,
            source=model.source.path if model.source else "",
            revision=revision,
            must_differ=model.probe is not None and model.probe.must_differ,
        )

    def identity(self, target: Target) -> Identity:
        return Identity(kind=ADAPTER_KIND, group="", name=target.name, source=target.source)


ADAPTER_TARGET = _Adapters()


class AdapterKind(TrafficKind):
    """A kind of model object."""

    model = AdapterTrafficModel
    target = ADAPTER_TARGET
    indexes: ClassVar = {POOL_REF: _by_pool}

    def read(self, model: AdapterTrafficModel, fingerprint: Callable[[Any], str]) -> AdapterTraffic:
        """See ``TrafficKind``."""
        pool = model.pool_ref
        return AdapterTraffic(
            kind=self.kind,
            name=model.name,
            model_name=model.model_name,
            pool_name=pool.name if pool else "",
            pool_group=pool.group if pool else "",
        )

    def recorded(self, record: WayBack) -> AdapterTraffic:
        """See ``TrafficKind``. A model object says its model and its pool itself."""
        return AdapterTraffic(kind=self.kind, name=record.name, model_name="")


class AdapterCarrier(Carrier):
    """One model object."""

    target: ModelTarget

    def mode(self, raw: Object | None) -> TrafficMode:
        """See ``Carrier``."""
        return mode_of(raw, self.target.rollout)
