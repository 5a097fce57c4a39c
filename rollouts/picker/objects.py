"""Raw Kubernetes objects to one immutable ``Snapshot`` that the routing works from.

Read are InferencePool (``inference.networking.k8s.io`` and ``inference.networking.x-k8s.io``), Pod,
InferenceModel v1alpha2, InferenceModelRewrite (JSON field ``targets``, or ``split`` as in v1.2; groups
``inference.networking.x-k8s.io`` and ``llm-d.ai``) and Rollout, the last only for the sticky key and the
measurement need. A hostile or broken object is left out and named in ``problems``; it never stops the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rollouts.picker.endpoints import Endpoint, Pool, endpoints_of
from rollouts.picker.policies import ModelPolicy, policies_of
from rollouts.picker.reading import dict_at, int_at, items_at, seconds_at, text_at
from rollouts.picker.rules import Criticality, Precedence, Rule, RuleBook
from rollouts.picker.split import Target
from rollouts.units import entry_weight

__all__ = ["POOL_GROUPS", "REWRITE_GROUPS", "ROLLOUT_GROUP", "PoolName", "Snapshot", "read_snapshot"]

POOL_GROUPS = ("inference.networking.k8s.io", "inference.networking.x-k8s.io")
REWRITE_GROUPS = ("inference.networking.x-k8s.io", "llm-d.ai")
MODEL_GROUP = "inference.networking.x-k8s.io"
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
    problems: tuple[str, ...] = ()


def read_snapshot(names: Iterable[PoolName], objects: Iterable[object]) -> Snapshot:
    """Build the snapshot for the pools of these names. Never raises, whatever the objects are."""
    wanted = set(names)
    maps = [obj for obj in objects if isinstance(obj, Mapping)]
    problems: list[str] = []
    pools = _pools(wanted, maps, problems)
    pods = [obj for obj in maps if _is(obj, "Pod", ("",))]
    rules = [rule for obj in maps for rule in _rules(obj, wanted, problems)]
    rollouts = [obj for obj in maps if _is(obj, "Rollout", (ROLLOUT_GROUP,))]
    endpoints = {endpoint.address: endpoint for pool in pools for endpoint in endpoints_of(pool, pods)}
    return Snapshot(
        pools=tuple(pools),
        endpoints=tuple(endpoints[address] for address in sorted(endpoints)),
        rules=RuleBook(rules),
        policies=policies_of(rollouts, {(name.namespace, name.name) for name in wanted}),
        problems=tuple(problems),
    )


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
            if not _is(obj, "InferencePool", (group,)) or name not in wanted or name in found:
                continue
            pool = _pool(obj, name)
            if pool is None:
                problems.append(f"{_label(obj)}: needs a selector and a target port; fix its spec")
            else:
                found[name] = pool
    problems.extend(f"InferencePool {name}: not found; create it" for name in sorted(wanted - set(found)))
    return [found[name] for name in sorted(found)]


def _pool(obj: Mapping[str, Any], name: PoolName) -> Pool | None:
    selector = dict_at(obj, "spec", "selector")
    labels = selector.get("matchLabels", selector)
    single = int_at(obj, "spec", "targetPortNumber")
    listed = [int_at(port, "number") for port in items_at(obj, "spec", "targetPorts")]
    numbers = listed or [single]
    ports = tuple(dict.fromkeys(port for port in numbers if port is not None and 0 < port < 65536))
    if not isinstance(labels, Mapping) or not labels or not ports:
        return None
    if not all(isinstance(key, str) and isinstance(value, str) for key, value in labels.items()):
        return None
    return Pool(namespace=name.namespace, name=name.name, selector=dict(labels), ports=ports)


def _rules(obj: Mapping[str, Any], wanted: set[PoolName], problems: list[str]) -> Iterator[Rule]:
    is_model = _is(obj, "InferenceModel", (MODEL_GROUP,))
    if not is_model and not _is(obj, "InferenceModelRewrite", REWRITE_GROUPS):
        return
    if PoolName(_namespace(obj), text_at(obj, "spec", "poolRef", "name")) not in wanted:
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
    model = text_at(obj, "spec", "modelName")
    if not model or len(model) > MAX_NAME:
        raise ValueError(f"spec.modelName must be a string of 1 to {MAX_NAME} characters")
    stated = text_at(obj, "spec", "criticality")
    known = {level.value: level for level in Criticality}
    return [
        Rule(
            model=model,
            targets=_targets(items_at(obj, "spec", "targetModels"), "name"),
            precedence=_precedence(obj, generic=False, index=0),
            criticality=known.get(stated, Criticality.STANDARD),
        )
    ]


def _rewrite_rules(obj: Mapping[str, Any]) -> list[Rule]:
    found = []
    for index, entry in enumerate(items_at(obj, "spec", "rules")):
        targets = _targets(items_at(entry, "targets") or items_at(entry, "split"), "modelRewrite")
        matches = items_at(entry, "matches")
        for match in matches or [{}]:
            model = text_at(match, "model", "value")
            if matches and (not model or (text_at(match, "model", "type") or "Exact") != "Exact"):
                raise ValueError(f"rule {index}: a match needs model.value, of type Exact")
            order = _precedence(obj, generic=not matches, index=index)
            found.append(Rule(model=model, targets=targets, precedence=order))
    return found


def _targets(entries: list[Mapping[str, Any]], name_field: str) -> tuple[Target, ...]:
    """Names with weights, as the controller reads them; entries of the same name are added up."""
    if len(entries) > MAX_TARGETS:
        raise ValueError(f"more than {MAX_TARGETS} targets")
    found: dict[str, int] = {}
    for entry in entries:
        name = text_at(entry, name_field)
        if not name or len(name) > MAX_NAME:
            raise ValueError(f"a target needs a {name_field} of 1 to {MAX_NAME} characters")
        found[name] = found.get(name, 0) + entry_weight(entry.get("weight"))
    if entries and not any(found.values()):
        raise ValueError("all weights are 0")
    return tuple(Target(name, weight) for name, weight in found.items())
