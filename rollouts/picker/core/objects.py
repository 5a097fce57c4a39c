"""Raw Kubernetes objects to one immutable ``Snapshot`` that the routing works from.

Read are InferencePool (``inference.networking.k8s.io`` and ``inference.networking.x-k8s.io``), Pod,
InferenceModel v1alpha2, InferenceModelRewrite (JSON field ``targets``, or ``split`` as in v1.2; groups
``inference.networking.x-k8s.io`` and ``llm-d.ai``), PoolSplit, and Rollout, the last only for the sticky key and the
measurement need. A hostile or broken object is left out and named in ``problems``; it never stops the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rollouts.objects.claims import named_owner
from rollouts.objects.fields import seconds_at, text_at
from rollouts.objects.models import (
    MODEL_GROUP,
    MODEL_KIND,
    REWRITE_GROUPS,
    REWRITE_KIND,
    Split,
    model_rule,
    pool_of_model,
    rewrite_rules,
)
from rollouts.objects.pool_splits import POOL_SPLIT_KIND, read_pool_split
from rollouts.objects.pools import POOL_GROUPS, POOL_KIND, Pool, read_pool
from rollouts.picker.core.endpoints import Endpoint, endpoints_of
from rollouts.picker.core.policies import ModelPolicy, policies_of, split_policies
from rollouts.picker.core.rules import Criticality, Precedence, Rule, RuleBook
from rollouts.picker.core.split import SplitTarget
from rollouts.picker.core.variants import VariantRule, variant_rules

__all__ = ["ROLLOUT_GROUP", "PoolName", "Snapshot", "pool_names", "read_snapshot"]

ROLLOUT_GROUP = "inferencerollouts.dev"

MAX_TARGETS = 100  # the schema of InferenceModel has 10, the one of rewrites no maximum
MAX_NAME = 256  # of modelName


@dataclass(frozen=True, slots=True, order=True)
class PoolName:
    """NAMESPACE/NAME of a pool to serve."""

    namespace: str
    name: str

    @classmethod
    def parse(cls, text: str) -> PoolName:
        """From ``NS/NAME``, or ``NAME`` in namespace ``default``. Raises ValueError."""
        namespace, slash, name = text.rpartition("/")
        if not name or "/" in namespace or (slash and not namespace):
            raise ValueError(f"{text!r} is not NAMESPACE/NAME of an InferencePool")
        return cls(namespace or "default", name)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything the routing knows about the cluster at one moment."""

    pools: tuple[Pool, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    rules: RuleBook = field(default_factory=RuleBook)
    policies: Mapping[str, ModelPolicy] = field(default_factory=dict)
    variants: tuple[VariantRule, ...] = ()
    problems: tuple[str, ...] = ()


def read_snapshot(names: Iterable[PoolName], objects: Iterable[object]) -> Snapshot:
    """Build the snapshot for the pools of these names. Never raises, whatever the objects are."""
    wanted = set(names)
    maps = [obj for obj in objects if isinstance(obj, Mapping)]
    problems: list[str] = []
    pools = _pools(wanted, maps, problems)
    pods = [obj for obj in maps if _is(obj, "Pod", ("",))]
    rules = RuleBook(rule for obj in maps for rule in _rules(obj, wanted, problems))
    rollouts = [obj for obj in maps if _is(obj, "Rollout", (ROLLOUT_GROUP,))]
    served = [(pool, endpoints_of(pool, pods)) for pool in pools]
    endpoints = {endpoint.address: endpoint for _, found in served for endpoint in found}
    splits = [
        replace(read_pool_split(obj), namespace=_namespace(obj))
        for obj in maps
        if _is(obj, POOL_SPLIT_KIND, (ROLLOUT_GROUP,))
    ]
    return Snapshot(
        pools=tuple(pools),
        endpoints=tuple(endpoints[address] for address in sorted(endpoints)),
        rules=rules,
        policies=policies_of(rollouts, {(name.namespace, name.name) for name in wanted}, rules),
        variants=variant_rules(splits, served, pods, split_policies(rollouts, splits), rules)
        if splits
        else (),
        problems=tuple(problems),
    )


def pool_names(objects: Iterable[object]) -> tuple[PoolName, ...]:
    """The names of all pools among the objects."""
    maps = (obj for obj in objects if isinstance(obj, Mapping) and _is(obj, "InferencePool", POOL_GROUPS))
    found = {PoolName(_namespace(obj), text_at(obj, "metadata", "name")) for obj in maps}
    return tuple(sorted(name for name in found if name.name))


def _is(obj: Mapping[str, Any], kind: str, groups: tuple[str, ...]) -> bool:
    group, slash, _ = text_at(obj, "apiVersion").partition("/")
    return obj.get("kind") == kind and (group if slash else "") in groups


def _label(obj: Mapping[str, Any]) -> str:
    return f"{obj.get('kind')} {_namespace(obj)}/{text_at(obj, 'metadata', 'name')}"[:300]


def _namespace(obj: Mapping[str, Any]) -> str:
    return text_at(obj, "metadata", "namespace") or "default"


def _pools(wanted: set[PoolName], maps: list[Mapping[str, Any]], problems: list[str]) -> list[Pool]:
    """The wanted pools. Where both groups have one of a name, the v1 group wins."""
    found: dict[PoolName, Pool] = {}
    for group in POOL_GROUPS:
        for obj in maps:
            name = PoolName(_namespace(obj), text_at(obj, "metadata", "name"))
            if not _is(obj, POOL_KIND, (group,)) or name not in wanted or name in found:
                continue
            pool = replace(read_pool(obj), namespace=name.namespace)
            if not pool.selector or not pool.ports:
                problems.append(f"{_label(obj)}: needs a selector and a target port; fix its spec")
            else:
                found[name] = pool
    problems.extend(f"InferencePool {name}: not found; create it" for name in sorted(wanted - set(found)))
    return [found[name] for name in sorted(found)]


def _rules(obj: Mapping[str, Any], wanted: set[PoolName], problems: list[str]) -> Iterator[Rule]:
    is_model = _is(obj, MODEL_KIND, (MODEL_GROUP,))
    if not is_model and not _is(obj, REWRITE_KIND, REWRITE_GROUPS):
        return
    if PoolName(_namespace(obj), pool_of_model(obj).name) not in wanted:
        return
    try:
        yield from _model_rules(obj) if is_model else _rewrite_rules(obj)
    except ValueError as error:
        problems.append(f"{_label(obj)}: {error}; the object is ignored until it is fixed")


def _precedence(obj: Mapping[str, Any], *, generic: bool, index: int) -> Precedence:
    return Precedence(
        generic=generic,
        created=seconds_at(obj, "metadata", "creationTimestamp"),
        namespace=_namespace(obj),
        name=text_at(obj, "metadata", "name"),
        kind=str(obj.get("kind")),
        index=index,
    )


def _model_rules(obj: Mapping[str, Any]) -> list[Rule]:
    rule = model_rule(obj)
    model = rule.models[0]
    if not model or len(model) > MAX_NAME:
        raise ValueError(f"spec.modelName must be a string of 1 to {MAX_NAME} characters")
    stated = text_at(obj, "spec", "criticality")
    known = {level.value: level for level in Criticality}
    return [
        Rule(
            model=model,
            targets=_targets(rule.split),
            precedence=_precedence(obj, generic=False, index=0),
            criticality=known.get(stated, Criticality.STANDARD),
            owner=named_owner(obj),
        )
    ]


def _rewrite_rules(obj: Mapping[str, Any]) -> list[Rule]:
    found = []
    for index, rule in enumerate(rewrite_rules(obj)):
        targets = _targets(rule.split)
        order = _precedence(obj, generic=not rule.models, index=index)
        for model in rule.models or ("",):
            if rule.models and not model:
                raise ValueError(f"rule {index}: a match needs model.value, of type Exact")
            found.append(Rule(model=model, targets=targets, precedence=order, owner=named_owner(obj)))
    return found


def _targets(split: Split) -> tuple[SplitTarget, ...]:
    """Names with weights, as the controller reads them; entries of the same name are added up."""
    if len(split.entries) > MAX_TARGETS:
        raise ValueError(f"more than {MAX_TARGETS} targets")
    found: dict[str, int] = {}
    for name, weight in split.weights():
        if not name or len(name) > MAX_NAME:
            raise ValueError(f"a target needs a {split.key} of 1 to {MAX_NAME} characters")
        found[name] = found.get(name, 0) + weight
    if split.entries and not any(found.values()):
        raise ValueError("all weights are 0")
    return tuple(SplitTarget(name, weight) for name, weight in found.items())
