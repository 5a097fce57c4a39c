"""What the kinds have in common that split the requests for a model among adapters."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, ClassVar

from rollouts.api.traffic_models import AdapterTrafficModel
from rollouts.carriers.base import POOL_REF, Carrier, Object, TrafficKind
from rollouts.engine.rollout_spec import AdapterTraffic, TrafficMode
from rollouts.engine.versions import TargetKind
from rollouts.objects.fields import metadata_of
from rollouts.objects.models import pool_of_model
from rollouts.traffic.targets import ModelTarget, mode_of

__all__ = ["AdapterCarrier", "AdapterKind"]


def _by_pool(obj: dict[str, Any]) -> Iterable[Hashable]:
    name = pool_of_model(obj).name
    return [(str(metadata_of(obj).get("namespace", "")), name)] if name else []


class AdapterKind(TrafficKind):
    """A kind of model object."""

    model = AdapterTrafficModel
    target = TargetKind.ADAPTER
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


class AdapterCarrier(Carrier):
    """One model object."""

    target: ModelTarget

    def mode(self, raw: Object | None) -> TrafficMode:
        """See ``Carrier``."""
        return mode_of(raw, self.target.rollout)
