"""The variant half of gathering: the PoolSplit that carries the weights, and which pods are which variant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from rollouts.api.parsing import ParsedRollout
from rollouts.carriers import TrafficPlace, kind_of
from rollouts.carriers.pool_split import REQUESTS, VARIANT_TARGET
from rollouts.controller.adapter_blockers import some_names
from rollouts.controller.adapter_content import AdapterOnPod
from rollouts.controller.adapter_views import AdapterPods, ModelTraffic
from rollouts.controller.caches import Caches
from rollouts.controller.contested_names import renamed_by_rule
from rollouts.controller.picked_pools import foreign_picker, missing_picker, pool_in_rollout, pool_named
from rollouts.controller.split_readers import SplitReaders, TrustedSplitReaders
from rollouts.engine.observation import Blocker, PathView, PoolView, Problem, UnmatchedPods
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import RolloutSpec, VariantTraffic
from rollouts.engine.rollout_status import RolloutStatus
from rollouts.engine.variants import hinted_variant, labels_of, model_of, selector_of
from rollouts.engine.versions import VARIANT_KIND, Identity
from rollouts.objects import kinds
from rollouts.objects.fields import map_of
from rollouts.objects.pods import Pod
from rollouts.objects.pool_splits import labels_overlap, read_pool_split
from rollouts.objects.pools import Pool
from rollouts.runtime.objects import ObjectKey

__all__ = ["VariantViews"]


class VariantViews:
    """Turns caches, and what pods say that they serve, into the engine's views."""

    def __init__(self, caches: Caches, watch: AdapterPods, readers: SplitReaders | None = None) -> None:
        self._caches = caches
        self._watch = watch
        self._readers = readers or TrustedSplitReaders()

    def traffic(self, parsed: ParsedRollout, spec: VariantTraffic) -> ModelTraffic:
        """The PoolSplit, and the pool that it shares."""
        kind = kind_of(spec.kind)
        assert kind is not None
        (resource,) = kind.resources
        raw = self._caches.traffic[resource].get(ObjectKey(parsed.namespace, spec.name))
        # A spec that cannot be read names no pool: the recorded object does.
        name = spec.pool_name or kind.pool_of(map_of(raw)).name
        pool = pool_named(self._caches, parsed.namespace, name, spec.pool_group)
        group = pool.group if pool is not None else spec.pool_group
        full = replace(spec, pool_name=name, pool_group=group)
        if raw is None and not self._caches.served(resource):
            return ModelTraffic(spec=full, raw=raw, carrier=None, pool=pool)
        place = TrafficPlace(rollout=parsed.name, namespace=parsed.namespace, resource=resource)
        return ModelTraffic(spec=full, raw=raw, carrier=kind.carrier(place, full, None), pool=pool)

    def problems(self, parsed: ParsedRollout, target: Identity) -> Iterator[Problem]:
        """What a person has to change about the target."""
        hint = hinted_variant(parsed.spec.stable_hint) if parsed.spec is not None else None
        stored = parsed.status.stable
        stable = stored.identity if stored is not None else hint
        if stable is None or stable == target or stable.kind != VARIANT_KIND:
            return
        if stable.name == target.name:
            yield Problem(
                reason=Reason.VARIANT_NAME_TAKEN,
                message=f"target.variant: {target.name} is stable already, as {stable.source}: metrics and weights "
                "tell variants apart by name, so give the new one a name of its own",
            )
        if labels_overlap(sorted(labels_of(stable).items()), sorted(labels_of(target).items())):
            yield Problem(
                reason=Reason.VARIANTS_OVERLAP,
                message=f"target.variant.labels: a pod could be both {target.name} ({selector_of(target)}) and stable "
                f"{stable.name} ({selector_of(stable)}): give one label that both have another value",
            )

    def arms(
        self, parsed: ParsedRollout, traffic: ModelTraffic, target: Identity, arms: Iterable[Identity]
    ) -> dict[Identity, PoolView]:
        """Every arm on its pods; pods are asked for their models only where a name is expected of them."""
        key, pool = ObjectKey(parsed.namespace, parsed.name), traffic.pool
        if pool is None:
            self._watch.drop(key)
            message = (
                f"InferencePool {traffic.spec.pool_name} does not exist: create it, the rollout then starts"
            )
            missing = Blocker(reason=Reason.POOL_MISSING, message=message)
            return {arm: PoolView(identity=arm, exists=False, blockers=(missing,)) for arm in arms}
        candidates = _candidates(parsed.status, target)
        asked = [arm for arm in candidates if self._expected(traffic, arm)]
        if asked:
            pods = {pod.name: pod for arm in asked for pod in self._ready(pool, arm)}
            self._watch.follow(key, [pods[name] for name in sorted(pods)], pool.port, ())
        else:
            self._watch.drop(key)
        problems = (self._picker(traffic, pool), self._overruled(parsed.namespace, traffic))
        path = PathView(problems=tuple(one for one in problems if one is not None), note=_unsplit(pool))
        views = {
            arm: self._candidate(parsed, traffic, pool, arm) if arm in candidates else self._plain(pool, arm)
            for arm in arms
        }
        stable = parsed.status.stable.identity if parsed.status.stable is not None else None
        # One picker gives all of them their requests: whether it obeys matters for as long as there is a split.
        return {
            arm: replace(view, path=path) if arm in candidates or arm == stable else view
            for arm, view in views.items()
        }

    def _ready(self, pool: Pool, arm: Identity) -> list[Pod]:
        return [pod for pod in self._caches.endpoints(pool.narrowed(labels_of(arm))) if pod.ready]

    def _plain(self, pool: Pool, arm: Identity) -> PoolView:
        return PoolView(identity=arm, exists=True, ready_endpoints=len(self._ready(pool, arm)))

    def _candidate(self, parsed: ParsedRollout, traffic: ModelTraffic, pool: Pool, arm: Identity) -> PoolView:
        """A variant that is to show that it can serve: what it lacks, and how many pods lack nothing.

        One that carries has shown it: only a pod that says so lacks the model then, for an answer may be late.
        """
        ready, expected = self._ready(pool, arm), self._expected(traffic, arm)
        if not expected:
            return PoolView(identity=arm, exists=True, ready_endpoints=len(ready))
        key, current = ObjectKey(parsed.namespace, parsed.name), parsed.status.running
        states = {one.pod: one for one in self._watch.serving(key, expected).states}
        said = {pod.name: states[pod.name] if pod.name in states else _unasked(pod.name) for pod in ready}
        carries = current is not None and current.canary.identity == arm and current.may_carry
        serving = [one for one in said.values() if one.listed or (carries and one.listed is None)]
        blockers = (_model_missing(arm, expected, said.values()),) if said and not serving else ()
        return PoolView(identity=arm, exists=True, ready_endpoints=len(serving), blockers=blockers)

    @staticmethod
    def _expected(traffic: ModelTraffic, arm: Identity) -> str:
        """The model name that the arm's pods are sent; empty where that may be any."""
        return model_of(arm) or traffic.spec.model_name

    def _picker(self, traffic: ModelTraffic, pool: Pool) -> Blocker | None:
        """Whether the pool's picker is there, and obeys PoolSplits."""
        missing = missing_picker(self._caches, pool, "variant")
        if missing is not None:
            return missing
        pods = self._caches.picker_pods(pool)
        said = self._readers.answers(pool.namespace, pods)
        foreign = [pod.name for pod in pods if pod.metrics_port is None]
        if foreign and traffic.carrier is not None:
            return foreign_picker(pool, foreign, traffic.carrier.not_honoured(pool, kinds.POOL_SPLIT))
        deaf = [name for name, obeys in said.items() if obeys is False]
        if deaf:
            message = (
                f"{some_names(deaf)}, the endpoint picker of InferencePool {pool.name}, obeys no PoolSplits: it is of "
                "an older version, the CRD is not installed, or its role may not read them; renew its manifest "
                f"(`rollouts picker-manifest {pool.name}`)"
            )
            return Blocker(reason=Reason.PICKER_DIALECT, message=message)
        silent = [name for name, obeys in said.items() if obeys is None]
        if not silent:
            return None
        message = (
            f"{some_names(silent)}, the endpoint picker of InferencePool {pool.name}, has not said on its metrics page "
            "whether it obeys PoolSplits: it is asked again, see that the controller reaches its metrics port"
        )
        return Blocker(reason=Reason.PICKER_NOT_READY, message=message)

    def _overruled(self, namespace: str, traffic: ModelTraffic) -> Blocker | None:
        """The PoolSplit that pickers go by in place of ours: of several for the same requests the oldest."""
        spec = traffic.spec
        store = self._caches.traffic[kinds.POOL_SPLIT]
        same = map(read_pool_split, store.by_index(REQUESTS, (namespace, spec.pool_name, spec.model_name)))
        first = min(same, key=lambda split: (split.created, split.name), default=None)
        if first is None or first.name == spec.name:
            return None
        message = (
            f"PoolSplit {first.name} is for the same requests and older: the picker goes by it, whatever PoolSplit "
            f"{spec.name} says; delete it (`kubectl delete ips {first.name}`)"
        )
        return Blocker(reason=Reason.SPLIT_OVERRULED, message=message)

    def unmatched(self, parsed: ParsedRollout, traffic: ModelTraffic, target: Identity) -> UnmatchedPods:
        """Ready pods of the pool that are no variant's which is known."""
        pool, status = traffic.pool, parsed.status
        if pool is None:
            return UnmatchedPods()
        hint = hinted_variant(parsed.spec.stable_hint) if parsed.spec is not None else None
        known = [target, *([hint] if hint is not None else []), *(arm.identity for arm in status.arms)]
        known += [entry.revision.identity for entry in status.history]
        pods = {pod.name for pod in self._caches.endpoints(pool) if pod.ready}
        for arm in known:
            pods -= {pod.name for pod in self._ready(pool, arm)}
        if not pods:
            return UnmatchedPods()
        named = sorted(pods)
        return UnmatchedPods(pods=tuple(named), pool=pool.name, hint=self._hint(parsed, target, named))

    def _hint(self, parsed: ParsedRollout, target: Identity, pods: list[str]) -> str:
        """The stableHint that names all these pods, by the labels that tell the target; empty where none does."""
        found = set()
        for name in pods:
            labels = self._caches.labels_of_pod(ObjectKey(parsed.namespace, name))
            found.add(",".join(f"{key}={labels.get(key, '')}" for key in labels_of(target)))
        hint = found.pop()
        return hint if not found and hinted_variant(hint) is not None else ""

    def blockers(
        self, parsed: ParsedRollout, spec: RolloutSpec, traffic: ModelTraffic
    ) -> tuple[Blocker, ...]:
        """What the start of an attempt waits for: a pool Rollout in progress, or a rule that sends other names."""
        known = [VARIANT_TARGET.identity(spec.target), *(arm.identity for arm in parsed.status.arms)]
        assert isinstance(traffic.spec, VariantTraffic)
        return (
            *pool_in_rollout(self._caches, parsed, traffic.spec.pool_name),
            *renamed_by_rule(self._caches, parsed.namespace, traffic.spec, known),
        )


def _candidates(status: RolloutStatus, target: Identity) -> tuple[Identity, ...]:
    """The variants that have to show that they serve: a canary, and a target that is not stable."""
    stable = status.stable.identity if status.stable is not None else None
    canary = (status.canary.identity,) if status.canary is not None else ()
    return tuple(dict.fromkeys(one for one in (*canary, target) if one != stable))


def _unsplit(pool: Pool) -> str:
    said = pool.unsplit_when_down
    return f"{said}; FailClose refuses requests instead" if said else ""


def _unasked(pod: str) -> AdapterOnPod:
    return AdapterOnPod(pod=pod, listed=None, proven=False)


def _model_missing(arm: Identity, expected: str, said: Iterable[AdapterOnPod]) -> Blocker:
    """What none of the pods lists; ``said`` is what they say of it."""
    told = list(said)
    lacking = [one.pod for one in told if one.listed is False]
    message = (
        f"{some_names(lacking)} of variant {arm.name} do not list model {expected} under /v1/models, which is the name "
        "that they are sent: correct target.variant.model, or see what they serve"
    )
    if not lacking:
        why = next((one.problem for one in told if one.problem), "it is being asked")
        message = (
            f"{some_names(one.pod for one in told)} of variant {arm.name} have not said under /v1/models whether they "
            f"list model {expected}, which is the name that they are sent: {why}"
        )
    return Blocker(reason=Reason.VARIANT_MODEL_MISSING, message=message)
