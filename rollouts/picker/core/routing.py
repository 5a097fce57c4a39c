"""From a request to a decision: target by split, pod by schedule, or a refusal with its status.

The order is that of the endpoint-picker protocol: the pin beats the weights, the subset hint narrows the
pods first, 503 means that nothing is ready, 429 that the request was dropped on purpose. Where a pool's pods are split
among versions, too, the target comes first, then the variant, then a pod of that variant which serves the target.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from rollouts.objects.pool_splits import PoolVariant
from rollouts.picker.core.endpoints import Endpoint, Subset
from rollouts.picker.core.messages import Headers
from rollouts.picker.core.objects import Snapshot
from rollouts.picker.core.policies import ALL_MODELS, PIN_HEADER, KeySource, ModelPolicy, StickyKey
from rollouts.picker.core.prefix import block_hashes
from rollouts.picker.core.rules import Criticality, Rule
from rollouts.picker.core.schedule import ScheduledPod, Scheduler
from rollouts.picker.core.split import Diffusion, sticky
from rollouts.picker.core.variants import VariantSplit, VariantTable

__all__ = ["PROMPTS", "Decision", "Refusal", "Request", "Router", "Unread", "Unready"]

_NO_POLICY = ModelPolicy()
PROMPTS = ("messages", "prompt", "input")
"""Members that hold the prompt, in the APIs of chat, completions and responses."""
_READ = frozenset({"model", *PROMPTS})


class Unready(Enum):
    """What happens to a target's share while no pod can serve it. The other shares never notice."""

    SPILL = "spill"
    SHED = "shed"


class Refusal(NamedTuple):
    """An answer in place of the pod's: status, reason for logs, message for the client."""

    status: int
    reason: str
    message: str
    model: str = ""
    target: str = ""
    variant: str = ""
    pool_split: str = ""


class Unread(NamedTuple):
    """Why a body cannot be read, or not be changed: the refusal for the case that a rule needs its model.

    ``hidden``: it may hold a model all the same, so that any rule does; else it has none, and only a rule for all
    models does.
    """

    refusal: Refusal
    hidden: bool


class Request(NamedTuple):
    """A request, as far as it decides. ``model`` is empty for one that names none.

    ``has_body``: only then there is a place for a model, and rules for all models apply to one without.
    """

    headers: Headers
    model: str = ""
    fields: Mapping[str, str] = {}
    prompt: bytes = b""
    subset: Subset | None = None
    has_body: bool = False
    unread: Unread | None = None


class Decision(NamedTuple):
    """Where a request goes. ``target`` is the model name to send; it may equal ``model``.

    ``restored``: the response is to carry ``model`` again. ``split``: a rule, or a variant, may choose the target.
    ``variant``: the version of the pool's pods, empty where none is split; ``pool_split``: whose variant, by name.
    """

    model: str
    target: str
    endpoint: Endpoint
    measured: bool
    restored: bool = False
    split: bool = False
    variant: str = ""
    pool_split: str = ""


class Router:
    """Routes by a snapshot, which may be replaced at any time. One event loop owns it."""

    def __init__(
        self, scheduler: Scheduler, *, unready: Unready = Unready.SPILL, restore_model: bool = False
    ) -> None:
        self.scheduler = scheduler
        self._restore_model = restore_model
        self._unready = unready
        self._snapshot = Snapshot()
        self._splits: dict[tuple[str, str, str, str], Diffusion] = {}
        self._counts: dict[str, Counter[str]] = {}
        self.variants = VariantTable()
        self._has_variants = False
        self._body_fields = _READ
        self._nameless = 0  # requests without an id so far

    @property
    def snapshot(self) -> Snapshot:
        """What is routed by at the moment."""
        return self._snapshot

    @property
    def body_fields(self) -> frozenset[str]:
        """Top-level members of the body that decide: the model, the prompt, the fields of sticky keys."""
        return self._body_fields

    def update(self, snapshot: Snapshot, now: float, wall: float) -> None:
        """Take over a new state of the cluster. Splits whose weights did not change go on."""
        self._snapshot = snapshot
        self.scheduler.sync(snapshot.endpoints, now, wall)
        pods = (
            {pod.endpoint.address: pod for pod in self.scheduler.candidates(None)}
            if snapshot.variants
            else {}
        )
        self.variants.update(snapshot.variants, pods)
        self._has_variants = bool(self.variants)
        policies = [*snapshot.policies.values(), *(rule.policy for rule in snapshot.variants)]
        stickies = [policy.sticky for policy in policies if policy.sticky]
        self._body_fields = _READ | {key.name for key in stickies if key.source is KeySource.BODY_FIELD}
        current = {}
        for rule in snapshot.rules.winners():
            if rule.targets:
                split = self._splits.get(rule.key)
                if split is None:
                    split = Diffusion(rule.targets)
                elif split.update(rule.targets):
                    self._counts.pop(rule.model, None)
                current[rule.key] = split
        self._splits = current
        kept = {rule.model for rule in snapshot.rules.winners()}
        self._counts = {model: counts for model, counts in self._counts.items() if model in kept}

    def shares(self) -> Mapping[str, Mapping[str, int]]:
        """Requests per rule's model and target since the weights last changed."""
        return self._counts

    def counted(self) -> VariantTable:
        """The splits into variants, with their requests since the weights last changed."""
        return self.variants

    def route(self, request: Request, now: float) -> Decision | Refusal:
        """Decide. The only effects are on the splits, the schedule and the counts."""
        rule = self._snapshot.rules.find(request.model) if request.model or request.has_body else None
        ruled = rule is not None and bool(rule.targets)
        if (unread := request.unread) is not None:
            if ruled or (unread.hidden and (self._splits or self.variants.needs_model)):
                return unread.refusal
            rule, ruled = None, False
        policies = self._snapshot.policies
        policy = policies.get(request.model) or policies.get(ALL_MODELS, _NO_POLICY)
        candidates = self.scheduler.candidates(request.subset)
        if not candidates:
            return _unavailable(request, "")
        target, variant, found, source = request.model, "", None, ""
        if self._has_variants:
            found = self.variants.find(request.model, request.subset, candidates)
        if found is not None:
            target, variant, candidates = self._among(
                found, rule if ruled else None, policy, request, candidates
            )
            source = found.rule.split.name if variant else ""
        elif rule is not None and ruled:
            target, candidates = self._targeted(rule, policy, request, candidates)
        if not candidates:
            return _unavailable(request, target, variant, source)
        candidates = self.scheduler.staying(candidates, target)
        sheddable = rule is not None and rule.criticality is Criticality.SHEDDABLE
        if sheddable and self.scheduler.saturated(candidates, now):
            text = "all pods are saturated and this model is sheddable: try again later"
            return Refusal(429, "rejected-saturated", text, request.model, target, variant, source)
        hashes = block_hashes(target, request.prompt) if len(candidates) > 1 else ()
        endpoint = self.scheduler.choose(candidates, target, hashes, now)
        part = policy.measured
        if found is not None:
            target, variant = self._served(found, target, variant, request, endpoint, ruled=ruled)
            source = found.rule.split.name if variant else ""
            part = max(part, found.rule.policy.measured)
        if rule is not None and ruled:
            self._counts.setdefault(rule.model, Counter())[target] += 1
        measured = self._measured(request.headers, part)
        restored = self._restore_model and bool(request.model) and target != request.model
        split = ruled or (found is not None and found.renames)
        return Decision(request.model, target, endpoint, measured, restored, split, variant, source)

    def _among(
        self,
        found: VariantSplit,
        rule: Rule | None,
        policy: ModelPolicy,
        request: Request,
        candidates: list[ScheduledPod],
    ) -> tuple[str, str, list[ScheduledPod]]:
        """Target, variant and pods where the pool's pods are split; no pods where nobody may serve.

        ``rule``: the one that gives the target; it goes first, and the variant only says which of its pods.
        """
        target = request.model
        pinned = found.pinned(request.headers.get(PIN_HEADER, b""))
        own = found.pods_of(pinned, request.subset) if pinned is not None else []
        everybody = found.without_pods and not own
        if not everybody:
            candidates = own or found.allowed(request.subset)
        if candidates and rule is not None:
            target, candidates = self._targeted(rule, policy, request, candidates)
        if everybody or not candidates:
            return target, "", candidates
        key = _key_of(found.rule.policy.sticky, request)
        chosen = pinned or found.take(key, "" if rule is None else target)

        def name_of(variant: PoolVariant) -> str:
            return target if rule is not None else self._name_for(found, variant, request)

        def serving(variant: PoolVariant, pods: list[ScheduledPod]) -> list[ScheduledPod]:
            name = name_of(variant)
            return self.scheduler.serving(pods, name) if name else pods

        shed = self._unready is Unready.SHED
        placed = found.place(chosen, request.subset, serving, shed=shed)
        if placed is None:
            return target, chosen.name, []
        return name_of(placed[0]), placed[0].name, placed[1]

    def _served(
        self,
        found: VariantSplit,
        target: str,
        variant: str,
        request: Request,
        endpoint: Endpoint,
        *,
        ruled: bool,
    ) -> tuple[str, str]:
        """Target and variant as they turned out; where all pods serve, it is the pod that says which variant it is."""
        if not variant and (of_pod := found.of(endpoint.address)) is not None:
            variant = of_pod.name
            target = target if ruled else self._name_for(found, of_pod, request)
        if variant:
            found.counts[variant] += 1
        return target, variant

    def _name_for(self, found: VariantSplit, variant: PoolVariant, request: Request) -> str:
        """The model name to send to a variant's pods where no rule says which.

        Adapters stay what they are where all requests of a pool are split: they are served under their own names. What
        no pod lists is replaced once pods of the variant have listed what they serve; until then it may be an adapter,
        which the base model must not answer for.
        """
        asked = request.model
        if not variant.model or not asked or request.unread is not None:
            return asked
        if found.model_name:
            return variant.model
        if self.scheduler.is_adapter(asked):
            return asked
        return variant.model if self.scheduler.is_model(asked) or found.is_told(variant) else asked

    def _targeted(
        self, rule: Rule, policy: ModelPolicy, request: Request, candidates: list[ScheduledPod]
    ) -> tuple[str, list[ScheduledPod]]:
        """The target that a rule gives, and the candidates that serve it; none where its share is shed."""
        target = self._target(rule, policy, request)
        able = self.scheduler.serving(candidates, target)
        return (target, able) if able else self._without_pods(rule, target, candidates)

    def _target(self, rule: Rule, policy: ModelPolicy, request: Request) -> str:
        if policy.pinned_by_header:
            pin = request.headers.get(PIN_HEADER, b"").decode("utf-8", "replace")
            if pin and (pin in policy.pinnable or any(target.name == pin for target in rule.targets)):
                return pin
        key = _key_of(policy.sticky, request) if policy.sticky is not None else b""
        return sticky(rule.targets, key) if key else self._splits[rule.key].take()

    def _measured(self, headers: Headers, fraction: float) -> bool:
        """Whether the request is in the sample, by its id alone, so that every target has the same odds."""
        if fraction <= 0.0 or fraction >= 1.0:
            return fraction >= 1.0
        name = headers.get(b"x-request-id", b"")
        if not name:
            self._nameless += 1
            name = b"%d" % self._nameless
        # CRC-32 of a random id is uniform enough; a stronger hash would buy nothing.
        return zlib.crc32(name) < fraction * 2**32

    def _without_pods(
        self, rule: Rule, target: str, candidates: list[ScheduledPod]
    ) -> tuple[str, list[ScheduledPod]]:
        """No pod lists ``target``: the heaviest other target that has pods, if the policy is to spill.

        With nowhere to spill to, the pods get the request all the same: their 404 says more than a 503.
        """
        others = sorted((t for t in rule.targets if t.name != target and t.weight), key=lambda t: -t.weight)
        if others and self._unready is Unready.SHED:
            return target, []
        for other in others:
            able = self.scheduler.serving(candidates, other.name)
            if able:
                return other.name, able
        return target, candidates


def _unavailable(request: Request, target: str, variant: str = "", source: str = "") -> Refusal:
    if request.subset is not None:
        text = "none of the endpoints that the gateway allows is ready in this pool"
    elif variant:
        text = f"no pod of variant {variant} is ready to serve this"
    else:
        text = f"no pod is ready to serve {target!a}" if target else "no pod of this pool is ready"
    return Refusal(503, "rejected-no-endpoints", text, request.model, target, variant, source)


def _key_of(source: StickyKey | None, request: Request) -> bytes:
    """The sticky key, empty when the request has none: it then counts as one without a session."""
    if source is None:
        return b""
    if source.source is KeySource.HEADER:
        return request.headers.get(source.name.encode(), b"")
    if source.source is KeySource.BODY_FIELD:
        return request.fields.get(source.name, "").encode("utf-8", "replace")
    for part in request.headers.get(b"cookie", b"").split(b";"):
        name, _, value = part.strip().partition(b"=")
        if name == source.name.encode():
            return value
    return b""
