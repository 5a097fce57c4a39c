"""InferenceModelRewrite: weights between adapters, in whichever dialect the cluster serves."""

from __future__ import annotations

from dataclasses import dataclass

from rollouts.carriers.adapters import AdapterCarrier, AdapterKind
from rollouts.carriers.base import Carrier, Object, TrafficKind, TrafficPlace
from rollouts.engine.actions import DesiredTraffic
from rollouts.engine.observation import TrafficView
from rollouts.engine.rollout_spec import AdapterTraffic
from rollouts.engine.versions import Identity
from rollouts.objects import kinds
from rollouts.objects.pools import Pool
from rollouts.objects.resource import Resource
from rollouts.traffic import inference_model_rewrite
from rollouts.traffic.inference_model_rewrite import RewriteDialect, TargetField, chosen_models
from rollouts.traffic.reading import Reader
from rollouts.traffic.targets import ModelTarget
from rollouts.traffic.writes import RenderRefusal, Write

__all__ = ["INFERENCE_MODEL_REWRITE"]


class _InferenceModelRewrites(AdapterKind):
    kind = kinds.REWRITE_X.kind
    field = "inferenceModelRewrite"
    help = "An InferenceModelRewrite, in whichever dialect the cluster serves."
    resources = kinds.REWRITES
    weights = (".spec.rules[]?.targets", ".spec.rules[]?.split")  # whole lists, as those of InferenceModels
    has_dialects = True

    def carrier(self, place: TrafficPlace, spec: AdapterTraffic, template: Object | None) -> Carrier:
        assert place.dialect is not None
        target = ModelTarget(rollout=place.rollout, namespace=place.namespace, spec=spec)
        return _RewriteCarrier(target=target, resource=place.resource, dialect=place.dialect)


INFERENCE_MODEL_REWRITE = _InferenceModelRewrites()


@dataclass(frozen=True, kw_only=True)
class _RewriteCarrier(AdapterCarrier):
    target: ModelTarget
    resource: Resource
    dialect: RewriteDialect
    kind: TrafficKind = INFERENCE_MODEL_REWRITE

    def chosen(self, raw: Object | None, arms: tuple[Identity, ...]) -> list[int] | None:
        return chosen_models(raw or {}, self.target.spec.model_name)

    def view(self, raw: Object | None, reader: Reader) -> TrafficView:
        return inference_model_rewrite.view(raw, self.target.spec, self.dialect, reader)

    def render(self, raw: Object | None, desired: DesiredTraffic) -> Write | RenderRefusal | None:
        return inference_model_rewrite.render(raw, self.target, self.dialect, desired)

    def not_honoured(self, pool: Pool, preferred: Resource) -> str:
        if self.dialect.field is TargetField.SPLIT:
            return "no released picker reads the `split` of InferenceModelRewrite v1.2"
        if self.resource != preferred:
            return (
                f"pickers read only {preferred.group} where both groups of InferenceModelRewrite are served"
            )
        return ""
