"""InferenceModel and InferenceModelRewrite: which model names they match, and the list that splits each.

Read are InferenceModel v1alpha2 (Inference Extension v0.2 to v0.5: ``targetModels``, items ``{name, weight}``) and
InferenceModelRewrite v1alpha2 (groups ``inference.networking.x-k8s.io`` and ``llm-d.ai``; the list of a rule is called
``split`` in v1.2 and ``targets`` since v1.3, its items are ``{modelRewrite, weight}``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rollouts.objects.fields import list_of, map_of, text_at, text_of
from rollouts.units import entry_weight

__all__ = [
    "MODEL_GROUP",
    "MODEL_KIND",
    "REWRITE_GROUPS",
    "REWRITE_KIND",
    "ModelRule",
    "PoolOfModel",
    "Split",
    "model_names",
    "model_rule",
    "pool_of_model",
    "rewrite_rules",
]

MODEL_KIND, REWRITE_KIND = "InferenceModel", "InferenceModelRewrite"
MODEL_GROUP = "inference.networking.x-k8s.io"
REWRITE_GROUPS = ("llm-d.ai", MODEL_GROUP)
"""The groups of InferenceModelRewrite, the one that pickers prefer first."""

Object = Mapping[str, Any]

_LISTS = ("targets", "split")


class Split(NamedTuple):
    """A list of weighted targets: its entries as they are, and the field of an entry that names its target."""

    entries: Sequence[Any]
    key: str

    def weights(self) -> Iterable[tuple[str, int]]:
        """Name and weight of each entry; the name is empty where the entry has none."""
        for entry in map(map_of, self.entries):
            yield text_of(entry.get(self.key)), entry_weight(entry.get("weight"))


class ModelRule(NamedTuple):
    """Requests for ``models`` go to the targets of ``split``; without ``models`` requests for anything.

    A model that is matched in another way than by its exact name is the empty one.
    """

    models: tuple[str, ...]
    split: Split


class PoolOfModel(NamedTuple):
    """``spec.poolRef``; each is empty where it is not given."""

    name: str
    group: str


def pool_of_model(obj: Object) -> PoolOfModel:
    """The pool that serves the object's targets."""
    return PoolOfModel(text_at(obj, "spec", "poolRef", "name"), text_at(obj, "spec", "poolRef", "group"))


def model_rule(obj: Object) -> ModelRule:
    """The one rule of an InferenceModel."""
    entries = list_of(map_of(obj.get("spec")).get("targetModels"))
    return ModelRule((text_at(obj, "spec", "modelName"),), Split(entries, "name"))


def rewrite_rules(obj: Object) -> list[ModelRule]:
    """The rules of an InferenceModelRewrite, in its order."""
    return [_rule(map_of(rule)) for rule in list_of(map_of(obj.get("spec")).get("rules"))]


def _rule(rule: Object) -> ModelRule:
    models = [map_of(map_of(match).get("model")) for match in list_of(rule.get("matches"))]
    exact = (text_of(model.get("value")) if _is_exact(model) else "" for model in models)
    entries = next((rule[name] for name in _LISTS if list_of(rule.get(name))), ())
    return ModelRule(tuple(exact), Split(entries, "modelRewrite"))


def _is_exact(model: Object) -> bool:
    return (model.get("type") or "Exact") == "Exact"


def model_names(obj: Object) -> set[str]:
    """Model names that clients may ask for by an object of either kind."""
    return {name for rule in (model_rule(obj), *rewrite_rules(obj)) for name in rule.models if name}
