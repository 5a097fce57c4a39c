"""Adapters and variants of one pool: the adapter is chosen first, then the variant (design section 15).

Both may say under which name the same requests are sent: an object of rules by its targets, a PoolSplit by a variant's
``model``. That is not well defined. Pickers send the adapter's name then; no attempt starts that would make it so.
"""

from __future__ import annotations

from collections.abc import Iterable

from rollouts.carriers.pool_split import REQUESTS
from rollouts.controller.caches import Caches
from rollouts.engine.observation import Blocker
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import AdapterTraffic, VariantTraffic
from rollouts.engine.variants import model_of
from rollouts.engine.versions import Identity
from rollouts.objects import kinds
from rollouts.objects.fields import metadata_of
from rollouts.objects.models import MODEL_KIND, REWRITE_KIND, ModelRule, model_rule, rewrite_rules
from rollouts.objects.pool_splits import read_pool_split
from rollouts.runtime.objects import Object

__all__ = ["renamed_by_rule", "renamed_by_split"]


def renamed_by_rule(
    caches: Caches, namespace: str, spec: VariantTraffic, variants: Iterable[Identity]
) -> tuple[Blocker, ...]:
    """A rule with targets for the requests of a split one of whose variants replaces their name."""
    renaming = next((arm for arm in variants if model_of(arm)), None)
    if renaming is None:
        return ()
    for obj in caches.model_objects(namespace, spec.pool_name):
        kind, rules = _rules(obj)
        if any(rule.split.entries and _covers(rule, spec.model_name) for rule in rules):
            message = (
                f"{kind} {metadata_of(obj).get('name')} says under which name {_requests(spec.model_name)} of "
                f"InferencePool {spec.pool_name} are sent, and so does variant {renaming.name} (model "
                f"{model_of(renaming)}): leave target.variant.model out, or the targets there"
            )
            return (Blocker(reason=Reason.NAME_CONTESTED, message=message),)
    return ()


def renamed_by_split(caches: Caches, namespace: str, spec: AdapterTraffic) -> tuple[Blocker, ...]:
    """A PoolSplit for the requests of the adapters, one of whose variants replaces their name."""
    key = (namespace, spec.pool_name, spec.model_name)
    for obj in caches.traffic[kinds.POOL_SPLIT].by_index(REQUESTS, key):
        split = read_pool_split(obj)
        renaming = next((one for one in split.variants if one.model), None)
        if renaming is not None:
            message = (
                f"PoolSplit {split.name} says under which name {_requests(spec.model_name)} of InferencePool "
                f"{spec.pool_name} are sent (variant {renaming.name}: model {renaming.model}), and so would "
                f"{spec.kind} {spec.name}: leave target.variant.model out in the Rollout of the variants"
            )
            return (Blocker(reason=Reason.NAME_CONTESTED, message=message),)
    return ()


def _rules(obj: Object) -> tuple[str, list[ModelRule]]:
    """Kind and rules of a model object; a list does not say its kind."""
    rules = rewrite_rules(obj)
    return (REWRITE_KIND, rules) if rules else (MODEL_KIND, [model_rule(obj)])


def _covers(rule: ModelRule, model: str) -> bool:
    """Whether the rule is the one for the model, or for all where there is none for it."""
    generic = not rule.models or "" in rule.models
    return generic or (bool(model) and model in rule.models)


def _requests(model: str) -> str:
    return f"requests for {model!r}" if model else "all requests"
