"""Which version of a pool's pods gets a request: the split of one PoolSplit, as ``routing`` uses it.

The same split as of model names: exact without a key, sticky with one, pinned by the header. A pod belongs to the one
variant whose labels it has; a pod of none, or of several, serves nothing while the split is there. A variant without
pods that can serve is spilled to the heaviest that has some, or shed, as targets of rules are. Where no weighted
variant has a Ready pod at all, labels or weights are wrong, and refusing everything would make it worse: then all
Ready pods serve, and that is said (``without_pods``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rollouts.objects.fields import dict_at, text_at
from rollouts.objects.pool_splits import PoolSplit, PoolVariant
from rollouts.objects.pools import Pool
from rollouts.picker.core.endpoints import Endpoint, Subset
from rollouts.picker.core.policies import ModelPolicy
from rollouts.picker.core.rules import Precedence, RuleBook
from rollouts.picker.core.schedule import ScheduledPod
from rollouts.picker.core.split import Diffusion, SplitTarget, sticky

__all__ = ["VariantRule", "VariantSplit", "VariantTable", "variant_rules"]

_KIND = "PoolSplit"
_SALT = "variant/"
"""Before the names in hashes of sticky keys: an adapter and a variant of one name must not get the same sessions.
Changing it moves every session."""
_MOST_TARGETS = 200
"""Twice as many as one rule may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantRule:
    """A PoolSplit that counts, and the Ready pods of its pool. ``unmatched``: names of those that serve nothing of it.

    ``members`` gives each address its variant's name, empty for those of none. ``problems`` is what is wrong with it.
    """

    split: PoolSplit
    policy: ModelPolicy = field(default_factory=ModelPolicy)
    members: Mapping[str, str] = field(default_factory=dict)
    unmatched: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def variants(self) -> tuple[PoolVariant, ...]:
        """Those of the PoolSplit, and the Rollout's target where it is not listed yet: pins may name it."""
        listed, target = self.split.variants, self.policy.target
        if target is None or any(variant.name == target.name for variant in listed):
            return listed
        return (*listed, target)

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name: its split state goes on under it."""
        return self.split.namespace, self.split.name


def variant_rules(
    splits: Iterable[PoolSplit],
    pools: Iterable[tuple[Pool, tuple[Endpoint, ...]]],
    pods: Iterable[Mapping[str, Any]],
    policies: Mapping[tuple[str, str], ModelPolicy],
    rules: RuleBook,
) -> tuple[VariantRule, ...]:
    """One per pool and model name. Of several the older PoolSplit counts, then the first by name; the others are said.

    ``policies`` are by the PoolSplits' namespaces and names.
    """
    labels = {_pod_key(pod): dict_at(pod, "metadata", "labels") for pod in pods}
    served = {(pool.namespace, pool.name): endpoints for pool, endpoints in pools}
    found: dict[tuple[str, str, str], VariantRule] = {}
    for split in sorted(splits, key=_precedence):
        key = (split.namespace, split.pool, split.model_name)
        if key[:2] not in served:
            continue
        if (first := found.get(key)) is not None:
            what = f"requests for {split.model_name!r}" if split.model_name else "all requests"
            text = f"PoolSplit {split.name} is ignored: {what} of {split.pool} are split here; delete one"
            found[key] = replace(first, problems=(*first.problems, text))
            continue
        policy = policies.get((split.namespace, split.name), ModelPolicy())
        members = _members(split, policy.target, served[key[:2]], labels)
        found[key] = VariantRule(
            split=split,
            policy=policy,
            members=members,
            unmatched=tuple(sorted({end.pod for end in served[key[:2]] if not members[end.address]})),
            problems=(*split.problems, *_contested(split, rules)),
        )
    return tuple(found[key] for key in sorted(found))


def _pod_key(pod: Mapping[str, Any]) -> tuple[str, str]:
    return text_at(pod, "metadata", "namespace") or "default", text_at(pod, "metadata", "name")


def _members(
    split: PoolSplit,
    target: PoolVariant | None,
    endpoints: Iterable[Endpoint],
    labels: Mapping[tuple[str, str], Mapping[str, Any]],
) -> dict[str, str]:
    """Address to variant. Pods of none that is listed may be those of the Rollout's target."""
    members = {}
    for endpoint in endpoints:
        own = labels.get((split.namespace, endpoint.pod), {})
        variant = split.variant_of(own)
        if variant is None and target is not None and target.matches(own):
            listed = any(one.name == target.name or one.matches(own) for one in split.variants)
            variant = None if listed else target
        members[endpoint.address] = variant.name if variant else ""
    return members


def _precedence(split: PoolSplit) -> Precedence:
    return Precedence(
        generic=not split.model_name,
        created=split.created,
        namespace=split.namespace,
        name=split.name,
        kind=_KIND,
        index=0,
    )


def _contested(split: PoolSplit, rules: RuleBook) -> Iterator[str]:
    """A rule that names a target decides the name that is sent: two cannot."""
    rule = rules.find(split.model_name)
    if rule is None or not rule.targets or not any(variant.model for variant in split.variants):
        return
    what = f"requests for {split.model_name!r}" if split.model_name else "all requests"
    order = rule.precedence
    yield (
        f"spec.variants[].model is ignored: {order.kind} {order.namespace}/{order.name} says under which name {what} "
        "are sent; leave out one of the two"
    )


class VariantSplit:
    """The state of one split. One event loop owns it."""

    __slots__ = (
        "_order",
        "_sequences",
        "_targets",
        "_told",
        "counts",
        "pods",
        "renames",
        "rule",
        "variants",
        "weighted",
        "without_pods",
    )

    def __init__(self, rule: VariantRule) -> None:
        self.rule = rule
        self.variants: tuple[PoolVariant, ...] = ()
        self.counts: Counter[str] = Counter()
        """Requests per variant since the weights last changed."""
        self.pods: dict[str, list[ScheduledPod]] = {}
        """The Ready pods of each variant, weighted or not."""
        self.weighted: list[ScheduledPod] = []
        self.without_pods = False
        """No variant with a weight has a Ready pod: all Ready pods serve, if there are any."""
        self.renames = False
        self._sequences: dict[str, Diffusion] = {}  # by the target that a rule gave, empty for none
        self._targets: tuple[SplitTarget, ...] = ()
        self._order: list[PoolVariant] = []
        self._told: set[str] = set()

    @property
    def model_name(self) -> str:
        """Only requests for this model; empty: all."""
        return self.rule.split.model_name

    @property
    def strays(self) -> bool:
        """Whether Ready pods serve although no variant with a weight has one."""
        return self.without_pods and bool(self.rule.members)

    def update(self, rule: VariantRule, pods: Mapping[str, ScheduledPod]) -> None:
        """Take over a new state of object and pods; ``pods`` are by address. An unchanged split goes on."""
        for variant in self.variants:
            self.is_told(variant)  # by pods that may go now
        self.rule = rule
        self.variants = variants = rule.variants
        self._told.intersection_update(variant.name for variant in variants)
        self.renames = any(variant.model for variant in variants)
        self.pods = {variant.name: [] for variant in variants}
        for address, name in rule.members.items():
            if name and address in pods:
                self.pods[name].append(pods[address])
        self._order = sorted((variant for variant in variants if variant.weight), key=lambda one: -one.weight)
        self.weighted = [pod for variant in self._order for pod in self.pods[variant.name]]
        self.without_pods = not self.weighted
        self._targets = tuple(SplitTarget(f"{_SALT}{variant.name}", variant.weight) for variant in variants)
        if not self._order:
            self._sequences = {}
            return
        self._sequences.setdefault("", Diffusion(self._targets))
        began = [sequence.update(self._targets) for sequence in self._sequences.values()]
        if any(began):
            self.counts.clear()

    def is_told(self, variant: PoolVariant) -> bool:
        """Whether a pod of the variant has listed its models since there is the variant: later ones serve the same."""
        name = variant.name
        if name not in self._told and any(pod.listed for pod in self.pods[name]):
            self._told.add(name)
        return name in self._told

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with the object, and with what its pods say of themselves."""
        return (*self.rule.problems, *self._untold())

    def _untold(self) -> Iterator[str]:
        for variant in self.variants if not self.model_name else ():
            if variant.model and self.pods[variant.name] and not self.is_told(variant):
                yield (
                    f"no Ready pod of variant {variant.name} has said which models it serves: names that no pod lists "
                    f"as a model are not replaced by {variant.model}, since they may be adapters; let the picker read "
                    "/v1/models, or set spec.modelName"
                )

    def pinned(self, pin: bytes) -> PoolVariant | None:
        """The variant that a pin header names, where the Rollout allows pins."""
        if not pin or not self.rule.policy.pinned_by_header:
            return None
        return self._named(pin.decode("utf-8", "replace"))

    def _named(self, name: str) -> PoolVariant | None:
        return next((variant for variant in self.variants if variant.name == name), None)

    def pods_of(self, variant: PoolVariant, subset: Subset | None) -> list[ScheduledPod]:
        """A variant's Ready pods that a subset hint allows. Do not change the list."""
        return _within(self.pods[variant.name], subset)

    def allowed(self, subset: Subset | None) -> list[ScheduledPod]:
        """The pods that a request without a pin may go to. Do not change the list."""
        return _within(self.weighted, subset)

    def take(self, key: bytes, target: str = "") -> PoolVariant:
        """The variant of the next request with this key, of the next without one where it is empty.

        Each target of a rule has a sequence of its own: in one, two splits of the same shares would keep step, and all
        requests of one target would go to one variant.
        """
        if key:
            name = sticky(self._targets, key)
        else:
            if len(self._sequences) > _MOST_TARGETS:  # names come from objects, which come and go
                self._sequences.clear()
            sequence = self._sequences.get(target)
            if sequence is None:
                sequence = self._sequences[target] = Diffusion(self._targets)
            name = sequence.take()
        return next(variant for variant in self._order if _SALT + variant.name == name)

    def place(
        self,
        chosen: PoolVariant,
        subset: Subset | None,
        serving: Callable[[PoolVariant, list[ScheduledPod]], list[ScheduledPod]],
        *,
        shed: bool,
    ) -> tuple[PoolVariant, list[ScheduledPod]] | None:
        """The variant and the pods that can serve; None where nobody may.

        ``serving`` gives the pods that list the name that is sent to a variant. A chosen variant none of whose pods
        does, while another's do, is spilled to that, or shed. A name that nobody lists is the pods' to answer.
        """
        for lists in (serving, _any):
            for variant in (chosen, *self._order):
                pods = self.pods_of(variant, subset)
                if pods and (able := lists(variant, pods)):
                    return None if shed and variant is not chosen else (variant, able)
        return None

    def of(self, address: str) -> PoolVariant | None:
        """The variant of a pod, by its address."""
        name = self.rule.members.get(address)
        return self._named(name) if name else None


def _within(pods: list[ScheduledPod], subset: Subset | None) -> list[ScheduledPod]:
    return pods if subset is None else [pod for pod in pods if subset.allows(pod.endpoint)]


def _any(_: PoolVariant, pods: list[ScheduledPod]) -> list[ScheduledPod]:
    return pods


class VariantTable:
    """All splits of the pools that a picker serves."""

    __slots__ = ("_exact", "_generic", "by_key", "names", "needs_model")

    def __init__(self) -> None:
        self.by_key: dict[tuple[str, str], VariantSplit] = {}
        self.needs_model = False
        """Whether a request's model must be known to place it, or may have to be replaced."""
        self.names: frozenset[str] = frozenset()
        """Model names that the splits match or send: bounded, unlike those that clients make up."""
        self._exact: dict[str, list[VariantSplit]] = {}
        self._generic: list[VariantSplit] = []

    def update(self, rules: Iterable[VariantRule], pods: Mapping[str, ScheduledPod]) -> None:
        """Take over a new state; ``pods`` are by address."""
        known, self.by_key, self._exact, self._generic = self.by_key, {}, {}, []
        for rule in rules:
            split = self.by_key[rule.key] = known.get(rule.key) or VariantSplit(rule)
            split.update(rule, pods)
            if split.model_name:
                self._exact.setdefault(split.model_name, []).append(split)
            else:
                self._generic.append(split)
        variants = [variant for split in self.by_key.values() for variant in split.variants]
        names = [*self._exact, *(variant.model for variant in variants)]
        self.names = frozenset(filter(None, names))
        self.needs_model = any(split.model_name or split.renames for split in self.by_key.values())

    def __bool__(self) -> bool:
        return bool(self.by_key)

    def find(self, model: str, subset: Subset | None, candidates: list[ScheduledPod]) -> VariantSplit | None:
        """The split of a request, one for its model before one for all.

        A subset hint tells pools apart where a picker serves several: a split is none of another pool's business.
        """
        exact = self._exact.get(model)
        for split in self._generic if exact is None else [*exact, *self._generic]:
            if subset is None or any(pod.endpoint.address in split.rule.members for pod in candidates):
                return split
        return None
