"""InferenceModelRewrite: how weights between adapters are read and written.

Groups ``inference.networking.x-k8s.io`` and ``llm-d.ai``, both v1alpha2. The list of a rule is called ``split`` in
Inference Extension v1.2 and ``targets`` since v1.3; its items are ``{modelRewrite, weight}``, weight 1 to 1,000,000.
Only rules that match our model's name, and nothing but it, are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from rollouts.engine.actions import DesiredTraffic
from rollouts.engine.observation import TrafficView
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import AdapterTraffic, TrafficMode
from rollouts.objects.fields import list_of, map_of
from rollouts.objects.models import REWRITE_KIND as KIND
from rollouts.objects.models import rewrite_rules
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

__all__ = ["KIND", "ModelTarget", "RewriteDialect", "TargetField", "chosen_models", "render", "view"]

Object = Mapping[str, Any]

_KEY = "modelRewrite"


class TargetField(Enum):
    """The JSON name of a rule's list."""

    SPLIT = "split"
    TARGETS = "targets"


@dataclass(frozen=True, slots=True, kw_only=True)
class RewriteDialect:
    """What discovery found: the API version that is served, and the list's name in its schema."""

    api_version: str
    field: TargetField


def _rules(obj: Object) -> Sequence[Any]:
    return list_of(map_of(obj.get("spec")).get("rules"))


def chosen_models(obj: Object, model: str) -> list[int]:
    """Indices of the rules that match the model's name and nothing else."""
    return [index for index, rule in enumerate(rewrite_rules(obj)) if set(rule.models) == {model}]


def view(obj: Object | None, spec: AdapterTraffic, dialect: RewriteDialect, reader: Reader) -> TrafficView:
    """The engine's view of the live object; None means that it does not exist. Never raises."""
    if obj is None:
        return TrafficView(kind=KIND, name=spec.name, mode=TrafficMode.MANAGED)
    rules = [map_of(_rules(obj)[index]) for index in chosen_models(obj, spec.model_name)]
    entries = [weights_of(list_of(rule.get(dialect.field.value)), _KEY, spec.model_name) for rule in rules]
    return view_targets(obj, spec, entries, "rules", reader)


def render(
    obj: Object | None, target: ModelTarget, dialect: RewriteDialect, desired: DesiredTraffic
) -> Write | RenderRefusal | None:
    """The write that brings the object to ``desired``; None when it says so already."""
    spec = target.spec
    try:
        if obj is not None and mode_of(obj, target.rollout) is TrafficMode.ADOPTED:
            return _adopted(obj, spec, dialect, desired)
        return _managed(obj, target, dialect, desired)
    except WeightTooLarge as error:
        return RenderRefusal(
            reason=Reason.WEIGHT_TOO_LARGE, message=f"{KIND} {spec.name}: {error}; use smaller weights"
        )


def _adopted(
    obj: Object, spec: AdapterTraffic, dialect: RewriteDialect, desired: DesiredTraffic
) -> Write | RenderRefusal | None:
    chosen, field = chosen_models(obj, spec.model_name), dialect.field.value
    if not chosen:
        return RenderRefusal(
            reason=Reason.RULE_MISSING,
            message=f"{KIND} {spec.name} has no rule for {spec.model_name!r} alone: add one with "
            f"matches: [{{model: {{type: Exact, value: {spec.model_name}}}}}] in Git",
        )
    operations: list[dict[str, Any]] = []
    for index in chosen:
        rule = map_of(_rules(obj)[index])
        entries = list_of(rule.get(field))
        wanted = retarget(entries, _KEY, spec.model_name, desired)
        if list(entries) != wanted:
            path = f"/spec/rules/{index}"
            operations.append({"op": "test", "path": f"{path}/matches", "value": rule.get("matches")})
            operations.append({"op": "add", "path": f"{path}/{field}", "value": wanted})
    return guarded(obj, *operations) if operations else None


def _managed(
    obj: Object | None, target: ModelTarget, dialect: RewriteDialect, desired: DesiredTraffic
) -> Write | None:
    spec, field = target.spec, dialect.field.value
    live = _rules(obj) if obj is not None else ()
    entries = next(
        (list_of(map_of(live[index]).get(field)) for index in chosen_models(obj or {}, spec.model_name)), ()
    )
    wanted = retarget(entries, _KEY, spec.model_name, desired)
    matches = [{"model": {"type": "Exact", "value": spec.model_name}}]
    rules = [{"matches": matches, field: wanted}]
    if obj is not None and list(live) == rules:
        return None
    body = {"poolRef": pool_ref(spec), "rules": rules}
    meta = managed_metadata(obj, target)
    return Apply(body={"apiVersion": dialect.api_version, "kind": KIND, "metadata": meta, "spec": body})
