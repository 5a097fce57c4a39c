"""The adapter half of gathering: which model object carries the weights, and which pods serve which adapter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from rollouts.api.parsing import ParsedRollout
from rollouts.carriers import Carrier, TrafficKind, TrafficPlace, kind_of
from rollouts.controller.adapter_blockers import missing, some_names
from rollouts.controller.adapter_content import AdapterOnPod, Held, Serving
from rollouts.controller.adapters import AdapterSettings
from rollouts.controller.caches import Caches
from rollouts.controller.contested_names import renamed_by_split
from rollouts.controller.dialects import Dialects
from rollouts.controller.picked_pools import foreign_picker, missing_picker, pool_in_rollout, pool_named
from rollouts.engine.observation import Blocker, PoolView, Problem
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import AdapterTraffic, PickerTraffic, RolloutSpec
from rollouts.engine.rollout_status import RolloutStatus
from rollouts.engine.versions import Identity
from rollouts.objects.fields import map_of
from rollouts.objects.pods import Pod
from rollouts.objects.pools import Pool
from rollouts.runtime.objects import ObjectKey
from rollouts.traffic.reading import Reader

__all__ = ["AdapterPods", "AdapterViews", "ModelTraffic"]

Object = Mapping[str, Any]


class AdapterPods(Protocol):
    """Who asks pods for their adapters: ``adapters.AdapterWatch``."""

    settings: AdapterSettings

    def follow(
        self,
        follower: ObjectKey,
        endpoints: Iterable[Pod],
        port: int,
        prove: Iterable[str],
        drain: Iterable[str] = (),
    ) -> None:
        """Keep asking these Ready pods, prove some adapters, and watch others' last requests end."""
        ...

    def drop(self, follower: ObjectKey) -> None:
        """The follower needs nothing any more."""
        ...

    def serving(self, follower: ObjectKey, adapter: str) -> Serving:
        """What is known of an adapter on the followed pods."""
        ...

    def load(self, follower: ObjectKey, adapter: str, path: str) -> None:
        """Load on the pods that lack it, in the background."""
        ...

    def unload(self, follower: ObjectKey, adapter: str, pods: Iterable[str] | None = None) -> None:
        """Take off the pods that list it, or those of ``pods`` that do, in the background."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTraffic:
    """What the picker splits by, as it is, and the spec's traffic completed. ``carrier`` None: kind not served."""

    spec: PickerTraffic
    raw: dict[str, Any] | None
    carrier: Carrier | None
    pool: Pool | None


class AdapterViews:
    """Turns caches and what the pods say into the engine's views."""

    def __init__(self, caches: Caches, watch: AdapterPods, dialects: Dialects) -> None:
        self._caches = caches
        self.watch = watch
        """Who asks the pods; variants are asked about by it as well."""
        self._dialects = dialects

    # --- the model object ---

    def traffic(self, parsed: ParsedRollout, spec: AdapterTraffic, problems: list[Problem]) -> ModelTraffic:
        """The model object; what keeps it from being used is appended to ``problems``."""
        kind = kind_of(spec.kind)
        assert kind is not None
        resource, raw = self._dialects.find(kind, ObjectKey(parsed.namespace, spec.name))
        found = self._complete(kind, spec, raw, parsed.namespace, problems)
        if resource is None:
            return found
        place = TrafficPlace(rollout=parsed.name, namespace=parsed.namespace, resource=resource)
        if kind.has_dialects:
            place = replace(place, dialect=self._dialects.dialect(resource))
            if place.dialect is None:
                why = self._dialects.problem(resource) or "the API server has not been asked yet"
                message = (
                    f"{kind.kind} of {resource.group}: cannot tell what its rules call their targets: {why}"
                )
                problems.append(Problem(reason=Reason.DIALECT_UNKNOWN, message=message))
                return found
        return replace(found, carrier=kind.carrier(place, found.spec, None))

    def _complete(
        self,
        kind: TrafficKind,
        spec: AdapterTraffic,
        raw: dict[str, Any] | None,
        namespace: str,
        problems: list[Problem],
    ) -> ModelTraffic:
        """Model name and pool: as the spec says, else as the object says."""
        ref = kind.pool_of(map_of(raw))
        named = kind.model_names(map_of(raw))
        model = spec.model_name or (named.pop() if len(named) == 1 else "")
        pool_name = spec.pool_name or ref.name
        group = spec.pool_group or (ref.group if pool_name == ref.name else "")
        for field, value in (("modelName", model), ("poolRef", pool_name)):
            if not value:
                message = f"traffic: {spec.kind} {spec.name} does not say its {field}: set it in the Rollout"
                problems.append(Problem(reason=Reason.SPEC_INVALID, message=message))
        pool = pool_named(self._caches, namespace, pool_name, group)
        full = replace(
            spec,
            model_name=model,
            pool_name=pool_name,
            pool_group=pool.group if pool is not None else group,
        )
        return ModelTraffic(spec=full, raw=raw, carrier=None, pool=pool)

    # --- the spec ---

    def problems(self, parsed: ParsedRollout, target: Identity) -> list[Problem]:
        """What a person has to change about the target."""
        found = []
        if target.source and not self.watch.settings.allows(target.source):
            allowed = some_names(self.watch.settings.prefixes) or "none is configured"
            message = (
                f"target.adapter.source.path {target.source!r} is not under a prefix that the administrator "
                f"allows ({allowed}): choose another path, or add its prefix to the controller's adapters.prefixes"
            )
            found.append(Problem(reason=Reason.SOURCE_NOT_ALLOWED, message=message))
        stable = parsed.status.stable
        if stable is not None and stable.identity != target and stable.identity.arm == target.arm:
            message = (
                f"target.adapter: {target.name} is stable already, from "
                f"{stable.identity.source or 'no source'}: pods and weights tell adapters apart by name only, "
                "so give the new one a name of its own"
            )
            found.append(Problem(reason=Reason.ADAPTER_NAME_TAKEN, message=message))
        return found

    # --- arms ---

    def arms(
        self, parsed: ParsedRollout, traffic: ModelTraffic, target: Identity, arms: Iterable[Identity]
    ) -> dict[Identity, PoolView]:
        """Every arm on the pods of the pool; the pods are asked only while there is something to learn."""
        key, pool = ObjectKey(parsed.namespace, parsed.name), traffic.pool
        if pool is None:
            self.watch.drop(key)
            missing_pool = {arm: self._without_pool(parsed.namespace, arm, traffic) for arm in arms}
            return _by_arm(missing_pool, parsed.status, target)
        ready = [endpoint for endpoint in self._caches.endpoints(pool) if endpoint.ready]
        candidates, stable = _candidates(parsed.status, target), parsed.status.stable
        ended = [entry.revision.identity for entry in parsed.status.history]
        asked = (target, *ended) if stable is None else (target, stable.identity, *ended)
        if candidates or any(identity.source for identity in asked):
            drain = {identity.name for identity in ended if identity.source} - _carrying(parsed, traffic)
            prove = {identity.name for identity in candidates}
            self.watch.follow(key, ready, pool.port, prove, drain)
        else:
            self.watch.drop(key)
        views = {}
        for arm in arms:
            serving = self._serving(parsed, arm, ended)
            if arm in candidates:
                views[arm] = self._candidate(parsed, traffic, pool, arm, serving)
                continue
            # Only a pod that says so lacks what is stable: an abort must not wait for an answer.
            views[arm] = replace(
                self._held(parsed, arm, serving),
                ready_endpoints=serving.possible if serving.states else len(ready),
            )
        return _by_arm(views, parsed.status, target)

    def _serving(self, parsed: ParsedRollout, arm: Identity, ended: Iterable[Identity]) -> Serving:
        """The pods of the pool, judged by this arm's content: its source, or nothing that was loaded for another."""
        known = [revision.identity for revision in parsed.status.arms]
        others = [item.source for item in (*known, *ended) if item.name == arm.name and item != arm]
        serving = self.watch.serving(ObjectKey(parsed.namespace, parsed.name), arm.name)
        return serving.of(arm.source, filter(None, others))

    def _held(self, parsed: ParsedRollout, arm: Identity, serving: Serving) -> PoolView:
        """What the pods say of an adapter's content, whoever asks."""
        said = [state for state in serving.states if state.listed is not None]
        unsure = not arm.source or not said or any(state.held is Held.UNSAID for state in said)
        return PoolView(
            identity=arm,
            exists=True,
            lacking=serving.lacking,
            loaded=serving.loaded and not self._needed_elsewhere(parsed, arm),
            mismatched=tuple(f"{state.pod} has {state.root}" for state in serving.mismatched),
            confirmed=True if arm.source and serving.holding else None if unsure else False,
            without_effect=tuple(state.pod for state in serving.holding if state.differs is False),
            uncompared=tuple(state.pod for state in serving.holding if state.differs is None),
        )

    def _without_pool(self, namespace: str, arm: Identity, traffic: ModelTraffic) -> PoolView:
        name, group = traffic.spec.pool_name, traffic.spec.pool_group
        other = pool_named(self._caches, namespace, name, "") if group else None
        message = f"InferencePool {name} does not exist: create it, the rollout then starts by itself"
        if other is not None:
            message = (
                f"InferencePool {name} does not exist in {group}, which the poolRef of {traffic.spec.kind} "
                f"{traffic.spec.name} means; it does in {other.group}: set poolRef.group there, and in the Rollout"
            )
        return PoolView(
            identity=arm, exists=False, blockers=(Blocker(reason=Reason.POOL_MISSING, message=message),)
        )

    def _candidate(
        self, parsed: ParsedRollout, traffic: ModelTraffic, pool: Pool, arm: Identity, serving: Serving
    ) -> PoolView:
        blockers = [*self._picker(parsed, traffic, pool), *missing(arm, serving)]
        # Traffic knows names only: while one pod has other content under it, no request is sure of the right one.
        return replace(
            self._held(parsed, arm, serving),
            ready_endpoints=0 if serving.mismatched else serving.proven,
            blockers=tuple(blockers),
        )

    def _picker(self, parsed: ParsedRollout, traffic: ModelTraffic, pool: Pool) -> list[Blocker]:
        """Whether the pool's picker is there, and can honour the object that the cluster serves."""
        missing_one = missing_picker(self._caches, pool, "adapter")
        if missing_one is not None:
            return [missing_one]
        foreign = [pod.name for pod in self._caches.picker_pods(pool) if pod.metrics_port is None]
        why = self._not_honoured(traffic, pool) if foreign else ""
        return [foreign_picker(pool, foreign, why)] if why else []

    def _not_honoured(self, traffic: ModelTraffic, pool: Pool) -> str:
        """Why no released picker of the Inference Extension would move traffic; empty when one would."""
        carrier = traffic.carrier
        return (
            carrier.not_honoured(pool, self._dialects.groups(carrier.kind)[0]) if carrier is not None else ""
        )

    def _needed_elsewhere(self, parsed: ParsedRollout, arm: Identity) -> bool:
        """Whether another Rollout of the namespace names an adapter of this name."""
        for key in self._caches.rollouts:
            if key.namespace != parsed.namespace or key.name == parsed.name:
                continue
            obj = map_of(self._caches.rollouts.get(key))
            target = map_of(map_of(map_of(obj.get("spec")).get("target")).get("adapter"))
            status = map_of(obj.get("status"))
            arms = (target, map_of(status.get("stable")), map_of(status.get("canary")))
            if any(item.get("name") == arm.name for item in arms):
                return True
        return False

    # --- what a new attempt waits for ---

    def blockers(
        self, parsed: ParsedRollout, spec: RolloutSpec, traffic: ModelTraffic
    ) -> tuple[Blocker, ...]:
        """What the start of an attempt waits for: a pool Rollout in progress, or a PoolSplit that sends other names."""
        assert isinstance(traffic.spec, AdapterTraffic)
        return (
            *pool_in_rollout(self._caches, parsed, traffic.spec.pool_name),
            *renamed_by_split(self._caches, parsed.namespace, traffic.spec),
        )

    def load(self, parsed: ParsedRollout, identity: Identity) -> None:
        """Load an adapter on the pods that lack it."""
        if self.watch.settings.allows(identity.source):
            self.watch.load(ObjectKey(parsed.namespace, parsed.name), identity.name, identity.source)

    def unload(self, parsed: ParsedRollout, identity: Identity) -> None:
        """Take an adapter off the pods that hold this content of it, where no request for it runs any more."""
        key = ObjectKey(parsed.namespace, parsed.name)
        holding = self.watch.serving(key, identity.name).of(identity.source).holding
        self.watch.unload(key, identity.name, [state.pod for state in holding if _is_idle(state)])

    def forget(self, key: ObjectKey) -> None:
        """The Rollout is gone."""
        self.watch.drop(key)


def _is_idle(state: AdapterOnPod) -> bool:
    return not state.in_flight


def _by_arm(
    views: Mapping[Identity, PoolView], status: RolloutStatus, target: Identity
) -> dict[Identity, PoolView]:
    """The views under their arms as well: traffic objects do not know sources.

    Of several sources of one name, traffic means the one that is stable, else the canary, else the target.
    """
    known = [revision.identity for revision in reversed(status.arms)]
    by_arm = {identity.arm: view for identity, view in views.items()}
    by_arm |= {identity.arm: views[identity] for identity in (target, *known) if identity in views}
    return {**views, **by_arm}


def _candidates(status: RolloutStatus, target: Identity) -> tuple[Identity, ...]:
    """The adapters that have to show that they are served: a canary, and a target that is not stable."""
    stable = status.stable.identity.arm if status.stable is not None else None
    canary = (status.canary.identity,) if status.canary is not None else ()
    return tuple(dict.fromkeys(identity for identity in (*canary, target) if identity.arm != stable))


def _carrying(parsed: ParsedRollout, traffic: ModelTraffic) -> set[str]:
    """Names that the live object sends requests to."""
    if traffic.carrier is None:
        return set()
    rules = traffic.carrier.view(traffic.raw, Reader(rollout=parsed.name, arms=())).rules
    return {arm.name for rule in rules for arm, weight in rule.entries.items() if weight > 0}
