"""InferenceModel: weights between adapters."""

from __future__ import annotations

from dataclasses import dataclass

from rollouts.carriers.adapters import AdapterCarrier, AdapterKind
from rollouts.carriers.base import Carrier, Object, TrafficKind, TrafficPlace
from rollouts.engine.actions import DesiredTraffic
from rollouts.engine.observation import TrafficView
from rollouts.engine.rollout_spec import AdapterTraffic
from rollouts.objects import kinds
from rollouts.objects.pools import Pool
from rollouts.objects.resource import Resource
from rollouts.traffic import inference_model
from rollouts.traffic.reading import Reader
from rollouts.traffic.targets import ModelTarget
from rollouts.traffic.writes import RenderRefusal, Write

__all__ = ["INFERENCE_MODEL"]


class _InferenceModels(AdapterKind):
    kind = kinds.INFERENCE_MODEL.kind
    field = "inferenceModel"
    help = "An InferenceModel (inference.networking.x-k8s.io/v1alpha2)."
    resources = (kinds.INFERENCE_MODEL,)
    # Weight 0 is illegal: an arm without weight leaves the list, so that the list is ignored and not a weight.
    weights = (".spec.targetModels",)

    def carrier(self, place: TrafficPlace, spec: AdapterTraffic, template: Object | None) -> Carrier:
        target = ModelTarget(rollout=place.rollout, namespace=place.namespace, spec=spec)
        return _ModelCarrier(target=target, resource=place.resource)


INFERENCE_MODEL = _InferenceModels()


@dataclass(frozen=True, kw_only=True)
class _ModelCarrier(AdapterCarrier):
    target: ModelTarget
    resource: Resource
    kind: TrafficKind = INFERENCE_MODEL

    def view(self, raw: Object | None, reader: Reader) -> TrafficView:
        return inference_model.view(raw, self.target.spec, reader)

    def render(self, raw: Object | None, desired: DesiredTraffic) -> Write | RenderRefusal | None:
        return inference_model.render(raw, self.target, desired)

    def not_honoured(self, pool: Pool, preferred: Resource) -> str:
        of_v1 = pool.group == kinds.POOL_V1.group
        return "pickers for InferencePool v1 do not read InferenceModel" if of_v1 else ""
