"""InferenceModel: how weights between adapters are read and written (inference.networking.x-k8s.io/v1alpha2).

``spec.targetModels`` is an atomic list of ``{name, weight}``, weight 1 to 1,000,000, set on all entries or on none
(Inference Extension v0.2 to v0.5). We write the list whole and nothing else of the object: criticality is not ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rollouts.engine.actions import DesiredTraffic
from rollouts.engine.observation import TrafficView
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import AdapterTraffic, TrafficMode
from rollouts.objects.fields import list_of, map_of
from rollouts.objects.models import MODEL_GROUP
from rollouts.objects.models import MODEL_KIND as KIND
from rollouts.traffic.reading import Reader
from rollouts.traffic.targets import (
    ModelTarget,
    guarded,
    managed_metadata,
    mode_of,
    pool_ref,
    retarget,
    view_targets,
    weights_of,
)
from rollouts.traffic.weights import WeightTooLarge
from rollouts.traffic.writes import Apply, RenderRefusal, Write

__all__ = ["API_VERSION", "KIND", "ModelTarget", "render", "view"]

Object = Mapping[str, Any]

API_VERSION = f"{MODEL_GROUP}/v1alpha2"
_LIST = "targetModels"
_KEY = "name"


def view(obj: Object | None, spec: AdapterTraffic, reader: Reader) -> TrafficView:
    """The engine's view of the live object; None means that it does not exist. Never raises."""
    if obj is None:
        return TrafficView(kind=KIND, name=spec.name, mode=TrafficMode.MANAGED)
    entries = list_of(map_of(obj.get("spec")).get(_LIST))
    return view_targets(obj, spec, [weights_of(entries, _KEY, spec.model_name)], _LIST, reader)


def render(obj: Object | None, target: ModelTarget, desired: DesiredTraffic) -> Write | RenderRefusal | None:
    """The write that brings the object to ``desired``; None when it says so already."""
    spec, live = target.spec, map_of(map_of(obj).get("spec"))
    if obj is not None and live.get("modelName") != spec.model_name:
        return RenderRefusal(
            reason=Reason.MODEL_NAME_DIFFERS,
            message=f"{KIND} {spec.name} serves {str(live.get('modelName'))[:256]!r}, traffic names "
            f"{spec.model_name!r}: modelName is immutable, so correct traffic, or make another {KIND}",
        )
    entries = list_of(live.get(_LIST))
    try:
        wanted = retarget(entries, _KEY, spec.model_name, desired)
    except WeightTooLarge as error:
        return RenderRefusal(
            reason=Reason.WEIGHT_TOO_LARGE, message=f"{KIND} {spec.name}: {error}; use smaller weights"
        )
    if obj is not None and list(entries) == wanted:
        return None
    if obj is not None and mode_of(obj, target.rollout) is TrafficMode.ADOPTED:
        return guarded(
            obj,
            {"op": "test", "path": "/spec/modelName", "value": spec.model_name},
            {"op": "add", "path": f"/spec/{_LIST}", "value": wanted},
        )
    body = {"modelName": spec.model_name, "poolRef": pool_ref(spec), _LIST: wanted}
    meta = managed_metadata(obj, target)
    return Apply(body={"apiVersion": API_VERSION, "kind": KIND, "metadata": meta, "spec": body})
