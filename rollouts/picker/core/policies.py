"""What the Rollout objects ask of the picker: a sticky key, a pin header, and how much to measure.

Measured are all requests for a model while a Rollout of it has a canary and a gate that needs the picker's
figures, one in twenty while such a Rollout exists at all, else none.

A shared strategy counts as its attempt has pinned it, under the Rollout's own fields, also while the Rollout names
another one already: sessions stay where they are. Between attempts none is pinned, and one version has all requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from rollouts.objects.claims import label_value
from rollouts.objects.fields import dict_at, items_at, text_at
from rollouts.objects.pool_splits import PoolSplit, PoolVariant, read_variant
from rollouts.objects.shared_strategies import canary_fields
from rollouts.objects.stickiness import read_kept_sticky
from rollouts.picker.core.rules import Rule, RuleBook

__all__ = [
    "ALL_MODELS",
    "PIN_HEADER",
    "KeySource",
    "ModelPolicy",
    "StickyKey",
    "policies_of",
    "split_policies",
]

PIN_HEADER = b"x-rollout-pin"
ALL_MODELS = ""
"""Policy of every model that has none of its own: set by Rollouts of whole pools."""

_WATCHED = 0.05
_LIVE_PHASES = frozenset({"Progressing", "Paused", "WaitingForTarget"})


class KeySource(Enum):
    """Where the sticky key comes from."""

    HEADER = "header"
    COOKIE = "cookie"
    BODY_FIELD = "bodyField"


@dataclass(frozen=True, slots=True)
class StickyKey:
    """A place in the request; ``name`` of a header is lower case."""

    source: KeySource
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPolicy:
    """What holds for the requests of one model name. ``measured`` is a fraction of requests.

    ``target``: the variant that a Rollout asks for, for pins before its first weight.
    """

    sticky: StickyKey | None = None
    pinned_by_header: bool = False
    pinnable: frozenset[str] = frozenset()
    measured: float = 0.0
    target: PoolVariant | None = None


def policies_of(
    rollouts: Iterable[Mapping[str, Any]], pools: set[tuple[str, str]], rules: RuleBook | None = None
) -> dict[str, ModelPolicy]:
    """Policy per requested model name, of the Rollout that the object names by whose rule the model is split.

    Where it names nobody, the first Rollout by name counts. Rollouts of whole pools ask for nothing but to be measured:
    the largest part counts.
    """
    found: dict[str, ModelPolicy] = {}
    for rollout in _sorted(rollouts):
        for model, policy in _policy(rollout, pools):
            if model == ALL_MODELS:
                found[model] = max(policy, found.get(model, policy), key=lambda one: one.measured)
            elif _may_say(rollout, rules.find(model) if rules is not None else None):
                found.setdefault(model, policy)
    return found


def _may_say(rollout: Mapping[str, Any], rule: Rule | None) -> bool:
    """Whether a Rollout has a say in a rule: naming a model is in everybody's power."""
    if rule is None or not rule.owner:
        return True
    named = rule.owner in (_name(rollout), label_value(_name(rollout)))
    return named and _namespace(rollout) == rule.precedence.namespace


def split_policies(
    rollouts: Iterable[Mapping[str, Any]], splits: Iterable[PoolSplit]
) -> dict[tuple[str, str], ModelPolicy]:
    """Policy of each split among variants that a Rollout has a say in, by the PoolSplit's namespace and name.

    That is the Rollout which the object names: naming its pool is in everybody's power. One that names nobody goes by
    the Rollout that asks for its requests to be split, where there is just one. One whose Rollout is gone keeps the
    sticky key that this left on it.
    """
    by_name: dict[tuple[str, str], Mapping[str, Any]] = {}
    by_place: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for rollout in _sorted(rollouts):
        namespace, name = _namespace(rollout), _name(rollout)
        for named in (name, label_value(name)):
            by_name.setdefault((namespace, named), rollout)
        if dict_at(rollout, "spec", "target", "variant"):
            by_place.setdefault(_place(rollout), []).append(rollout)
    found = {}
    for split in splits:
        asking = by_place.get((split.namespace, split.pool, split.model_name), [])
        unnamed = asking[0] if not split.owner and len(asking) == 1 else None
        owner = by_name.get((split.namespace, split.owner)) if split.owner else unnamed
        key = split.namespace, split.name
        if owner is not None:
            found[key] = _variant_policy(owner, asks=owner in asking)
        elif split.owner and split.sticky:
            found[key] = _sticky_policy(read_kept_sticky(split.sticky))
    return found


def _variant_policy(rollout: Mapping[str, Any], *, asks: bool) -> ModelPolicy:
    """``asks``: whether the Rollout asks for this split now; else its target is no version of the split's."""
    target = read_variant(dict_at(rollout, "spec", "target", "variant")) if asks else None
    return replace(_split_policy(rollout, "variant"), target=target)


def _place(rollout: Mapping[str, Any]) -> tuple[str, str, str]:
    """Namespace, pool and model name whose requests a Rollout asks to split among variants."""
    traffic = dict_at(rollout, "spec", "traffic", "inferencePool")
    return _namespace(rollout), text_at(traffic, "name"), text_at(traffic, "modelName")


def _sorted(rollouts: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(rollouts, key=lambda obj: (text_at(obj, "metadata", "namespace"), _name(obj)))


def _namespace(obj: Mapping[str, Any]) -> str:
    return text_at(obj, "metadata", "namespace") or "default"


def _name(obj: Mapping[str, Any]) -> str:
    return text_at(obj, "metadata", "name")


def _policy(rollout: Mapping[str, Any], pools: set[tuple[str, str]]) -> Iterator[tuple[str, ModelPolicy]]:
    namespace = _namespace(rollout)
    if text_at(rollout, "spec", "target", "pool", "name"):
        if any((namespace, arm) in pools for arm in _arms(rollout, "pool")):
            yield ALL_MODELS, ModelPolicy(measured=_need(rollout, canary_fields(rollout), by_default=False))
        return
    for kind in ("inferenceModel", "inferenceModelRewrite"):
        traffic = dict_at(rollout, "spec", "traffic", kind)
        model, pool = text_at(traffic, "modelName"), text_at(traffic, "poolRef", "name")
        if model and (not pool or (namespace, pool) in pools):
            yield model, _split_policy(rollout, "adapter")


def _split_policy(rollout: Mapping[str, Any], kind: str) -> ModelPolicy:
    """Of a Rollout whose requests the picker itself splits."""
    canary = canary_fields(rollout)
    return replace(
        _sticky_policy(dict_at(canary, "sticky")),
        pinnable=_arms(rollout, kind),
        measured=_need(rollout, canary, by_default=True),
    )


def _sticky_policy(sticky: Mapping[str, Any]) -> ModelPolicy:
    return ModelPolicy(sticky=_sticky_key(sticky), pinned_by_header=sticky.get("pinHeader") is True)


def _arms(rollout: Mapping[str, Any], kind: str) -> frozenset[str]:
    """Names of the target, which the spec nests under its kind, and of the versions in the status."""
    places = (("spec", "target"), ("status", "stable"), ("status", "canary"))
    names = (text_at(rollout, *place, kind, "name") or text_at(rollout, *place, "name") for place in places)
    return frozenset(filter(None, names))


def _sticky_key(sticky: Mapping[str, Any]) -> StickyKey | None:
    for source in KeySource:
        name = text_at(sticky, source.value)
        if name:
            return StickyKey(source, name.lower() if source is KeySource.HEADER else name)
    return None


def _need(rollout: Mapping[str, Any], canary: Mapping[str, Any], *, by_default: bool) -> float:
    """Fraction to measure. ``by_default``: whether a gate that names no source reads the picker."""
    if not dict_at(rollout, "status", "canary") or text_at(rollout, "status", "phase") not in _LIVE_PHASES:
        return _WATCHED
    gates = [dict_at(canary, "analysis")]
    gates += [dict_at(step, "analysis") for step in items_at(canary, "steps")]
    return 1.0 if any(_reads_picker(gate, by_default) for gate in gates if gate) else _WATCHED


def _reads_picker(gate: Mapping[str, Any], by_default: bool) -> bool:
    """Templates and presets may read anything, so for an adapter or a variant they count as a need."""
    sources = {text_at(metric, "source") for metric in items_at(gate, "metrics")}
    return by_default or "picker" in sources
