"""Gathering: one Observation of one Rollout from the caches. Reads only, judges nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from rollouts.api.parsing import ParsedRollout
from rollouts.api.run_status import gate_summaries, gate_view
from rollouts.carriers import identity_of, kind_of, said_split
from rollouts.controller.adapter_views import AdapterViews, ModelTraffic
from rollouts.controller.approvals import Approver
from rollouts.controller.caches import Caches
from rollouts.controller.companions import companion_pools
from rollouts.controller.dependencies import dependency_views
from rollouts.controller.freezes import Freezes
from rollouts.controller.gates import Gates, compared_of, problems_of
from rollouts.controller.gathered import ComparedGates, Gathered, ShareSource, WayObject
from rollouts.controller.loaded_weights import LoadedWeights, TrustedWeights, stored_loads
from rollouts.controller.path_views import PathViews
from rollouts.controller.pool_views import PoolViews
from rollouts.controller.split_readers import SplitReaders
from rollouts.controller.strategies import SharedStrategies, held_back, unfit
from rollouts.controller.traffic_views import Carried, TrafficViews
from rollouts.controller.turns import Turns
from rollouts.controller.variant_views import VariantViews
from rollouts.controller.windows import WindowCalendar
from rollouts.controller.workloads import WorkloadViews, companion_identities
from rollouts.engine.attempt import GateSummary
from rollouts.engine.moving import moved
from rollouts.engine.naming import Owner, is_of_attempt
from rollouts.engine.observation import (
    Blocker,
    Companion,
    JobOutcome,
    Observation,
    PickersView,
    PoolView,
    Problem,
    StrategyView,
    TrafficView,
    UnmatchedPods,
    WorkloadView,
)
from rollouts.engine.reasons import Reason
from rollouts.engine.revision import target_identity
from rollouts.engine.rollout_spec import PickerTraffic, RolloutSpec, VariantTraffic
from rollouts.engine.rollout_status import RolloutStatus, WayBack
from rollouts.engine.variants import hinted_variant
from rollouts.engine.versions import VARIANT_KIND, Identity
from rollouts.objects.gitops import GITOPS_MANAGERS
from rollouts.runtime.objects import Object, ObjectKey, version_of

__all__ = ["Gatherer"]


def _recorded_model(status: RolloutStatus) -> PickerTraffic | None:
    """What a picker splits by, by its way back."""
    for record in status.way_back:
        kind = kind_of(record.kind)
        found = kind.recorded(record) if kind is not None else None
        if isinstance(found, PickerTraffic):
            return found
    return None


def _lost(parsed: ParsedRollout, stored: ModelTraffic | None) -> ModelTraffic | None:
    """A PoolSplit that is gone while no spec says who is to serve, and the status does: stable alone."""
    if stored is None or stored.raw is not None or not isinstance(stored.spec, VariantTraffic):
        return None
    stable, canary = parsed.status.stable, parsed.status.canary
    alone = canary is None and stable is not None and stable.identity.kind == VARIANT_KIND
    return stored if alone else None


_Companions = dict[Identity, tuple[Companion, ...] | Blocker]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What the spec asks for. ``problems`` grow while what it names is looked at."""

    parsed: ParsedRollout
    problems: list[Problem]
    target: Identity | None
    blocker: Blocker | None
    gates: ComparedGates
    strategy: StrategyView | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _TrafficSide:
    """What carries the weights. ``present``: the Rollout with its versions where the traffic object lists them."""

    present: ParsedRollout
    models: ModelTraffic | None
    stored: ModelTraffic | None
    found: Carried
    traffic: TrafficView | None
    listed: frozenset[Identity]
    beside: frozenset[Identity]
    proposed: dict[tuple[Identity, Identity], WayBack]
    ways: dict[WayBack, WayObject]

    @property
    def split(self) -> ModelTraffic | None:
        """What the pool's picker splits by: the spec's, else the recorded one."""
        return self.models or self.stored

    @property
    def by_picker(self) -> PickerTraffic | None:
        """The spec's alone, for whoever counts requests."""
        return self.models.spec if self.models is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arms:
    """The versions' pods, and what makes them."""

    pools: dict[Identity, PoolView]
    workloads: dict[Identity, WorkloadView]
    companions: _Companions


class Gatherer:
    """Builds Observations. ``gitops_managers`` are field managers whose writes are never obeyed."""

    def __init__(
        self,
        caches: Caches,
        shares: ShareSource,
        gates: Gates,
        adapters: AdapterViews,
        *,
        gitops_managers: tuple[str, ...] = GITOPS_MANAGERS,
        windows: WindowCalendar,
        turns: Turns,
        freezes: Freezes,
        paths: PathViews | None = None,
        approver: Approver | None = None,
        workloads: WorkloadViews | None = None,
        readers: SplitReaders | None = None,
        loaded: LoadedWeights | None = None,
    ) -> None:
        self._approver = approver
        self._windows = windows
        self._turns = turns
        self._freezes = freezes
        self._paths = paths or PathViews(caches)
        self._workloads = workloads
        self._caches = caches
        self._shares = shares
        self._gates = gates
        self._adapters = adapters
        self._variants = VariantViews(caches, adapters.watch, readers)
        self._loaded = loaded or TrustedWeights()
        self._pool_views = PoolViews(caches)
        self._traffic = TrafficViews(caches, gitops_managers)
        self._strategies = SharedStrategies(caches)

    def gather(self, key: ObjectKey) -> Gathered | None:
        """The observation of a Rollout; None when it does not exist."""
        rollout = self._caches.rollouts.get(key)
        if rollout is None:
            for kept in (self._adapters, self._paths, self._loaded, self._strategies):
                kept.forget(key)
            return None
        asked = self._asked(rollout)
        carried = self._traffic_side(rollout, asked)
        arms = self._arms(asked, carried)
        observation = self._observation(key, rollout, asked, carried, arms)
        return Gathered(
            observation=self._ordered(observation, carried.present, rollout),
            parsed=asked.parsed,
            by_picker=carried.by_picker,
            rollout=rollout,
            planned_version=version_of(rollout),
            traffic_object=carried.found.raw,
            carrier=carried.found.carrier,
            ways=carried.ways,
        )

    def _asked(self, rollout: Object) -> _Asked:
        parsed, strategy = self._strategies.parse(rollout)
        if parsed.uid in self._caches.doomed:
            parsed = replace(parsed, deleting=True)
        problems = list(parsed.problems)
        target, blocker = self._target(parsed, problems)
        gates = self._gates.resolved(parsed)
        if parsed.model is not None and not problems:
            strategy, wrong = held_back(parsed, strategy, problems_of(gates))
            problems += wrong
        return _Asked(
            parsed=parsed,
            problems=problems,
            target=target,
            blocker=blocker,
            gates=compared_of(gates),
            strategy=self._checked(rollout, strategy),
        )

    def _traffic_side(self, rollout: Object, asked: _Asked) -> _TrafficSide:
        parsed, target, views = asked.parsed, asked.target, self._traffic
        status, spec = parsed.status, parsed.spec
        models, stored = self._models(rollout, parsed, target, asked.problems)
        found = views.carrier(parsed, models or _lost(parsed, stored), asked.problems)
        traffic = views.traffic(parsed, target, found)
        # The plan follows pools to another API group; what it then looks for has to be there.
        listed = views.listed(parsed, traffic)
        beside = companion_pools(self._caches, parsed)
        followed = moved(status, listed, spec.target if spec is not None else None, beside)
        present = replace(parsed, status=followed)
        proposed = views.proposed(present, target, traffic, found)
        records = (*status.way_back, *followed.way_back, *proposed.values())
        return _TrafficSide(
            present=present,
            models=models,
            stored=stored,
            found=found,
            traffic=traffic,
            listed=listed,
            beside=beside,
            proposed=proposed,
            ways={record: views.way(parsed, record) for record in records},
        )

    def _arms(self, asked: _Asked, carried: _TrafficSide) -> _Arms:
        present, target, traffic = carried.present, asked.target, carried.traffic
        carrying = traffic.carrying if traffic is not None else frozenset()
        workloads, companions = dict[Identity, WorkloadView](), _Companions()
        if self._workloads is not None:
            workloads = self._workloads.views(present, target, carrying)
            companions = self._workloads.companions(present, target)
        pools = self._pools(present, target, carried.split, traffic, carried.found)
        beside = companion_identities(present, companions) - pools.keys()
        pools |= {arm: self._pool_views.view(present, arm) for arm in beside}
        warm = {arm: _warm_only(view, workloads.get(arm)) for arm, view in pools.items()}
        return _Arms(pools=warm, workloads=workloads, companions=companions)

    def _observation(
        self, key: ObjectKey, rollout: Object, asked: _Asked, carried: _TrafficSide, arms: _Arms
    ) -> Observation:
        parsed, target, present = asked.parsed, asked.target, carried.present
        traffic, models = carried.traffic, carried.models
        runs = self._caches.owned_runs(key, parsed.uid)
        ways = {one: self._traffic.way_view(parsed, one, way.raw) for one, way in carried.ways.items()}
        return replace(
            self._said(parsed, asked.gates),
            problems=tuple(asked.problems),
            listed=carried.listed,
            companion_pools=carried.beside,
            ways=ways,
            proposed=carried.proposed,
            target=target,
            target_blocker=asked.blocker,
            traffic=traffic,
            unwatched=self._traffic.unwatched(parsed) if traffic is None else "",
            pools=arms.pools,
            pickers=self._pickers(key, carried.split, traffic),
            unmatched=self._unmatched(present, target, models),
            blockers=(*self._unknown_receivers(parsed), *self._blockers(present, target, models)),
            gates={gate.name: gate for gate in map(gate_view, runs)},
            summaries=tuple(_summaries(parsed, runs)),
            share=self._shares.view(key, parsed, carried.by_picker),
            probe=self._paths.probe(parsed, carried.found.carrier, traffic),
            approval=None if self._approver is None else self._approver.view(key, parsed.status),
            strategy=asked.strategy,
            workloads=arms.workloads,
            companions=arms.companions,
            window=None if parsed.spec is None else self._windows.view(parsed.spec.canary.windows),
            freeze=self._freezes.view(rollout),
        )

    def _ordered(self, observation: Observation, present: ParsedRollout, rollout: Object) -> Observation:
        """With what keeps an attempt that has not begun behind others."""
        if present.spec is None:
            return observation
        # What the engine takes for the target, which may be one that discovery has lost by now.
        target = target_identity(replace(observation, status=present.status), present.spec)
        if target is None or not _asks(present, present.spec, target):
            return observation
        return replace(
            observation,
            dependencies=dependency_views(self._caches, present),
            turn=self._turns.view(present, rollout, target),
        )

    def _said(self, parsed: ParsedRollout, gates: ComparedGates) -> Observation:
        """What the Rollout, its gates and its Jobs say, whatever carries its weights."""
        key = ObjectKey(parsed.namespace, parsed.name)
        return Observation(
            namespace=key.namespace,
            name=key.name,
            uid=parsed.uid,
            generation=parsed.generation,
            status=parsed.status,
            spec=parsed.spec,
            deleting=parsed.deleting,
            in_haste=self._caches.leaving or parsed.uid in self._caches.doomed,
            has_finalizer=parsed.has_finalizer,
            command=parsed.command,
            on_delete=parsed.on_delete,
            release_now=parsed.release_now,
            jobs=self._jobs(key, parsed.uid),
            taken_names=self._caches.taken_names(key, parsed.uid),
            compared=gates.steps,
            only_compared=gates.only,
            compares=bool(gates.steps) or gates.background,
            background_compares=gates.background,
        )

    # --- target and arms ---

    def _target(
        self, parsed: ParsedRollout, problems: list[Problem]
    ) -> tuple[Identity | None, Blocker | None]:
        spec = parsed.spec
        if spec is None:
            return None, None
        known = identity_of(spec)
        return (known, None) if known is not None else self._pool_views.resolve(parsed, spec, problems)

    def _models(
        self, rollout: Object, parsed: ParsedRollout, target: Identity | None, problems: list[Problem]
    ) -> tuple[ModelTraffic | None, ModelTraffic | None]:
        """What the pool's picker splits by: the spec's, or else the recorded one, or what can be read of the spec."""
        spec = parsed.spec
        if spec is None and (recorded := _recorded_model(parsed.status) or said_split(rollout)) is not None:
            # What cannot be read names no pool: the recorded object does, and its pods are to be counted.
            return None, self._carrying(parsed, recorded, [])
        if spec is None or not isinstance(spec.traffic, PickerTraffic):
            return None, None
        models = self._carrying(parsed, spec.traffic, problems)
        if target is not None:
            problems += self._sharing(models).problems(parsed, target)
        return models, None

    def _carrying(self, parsed: ParsedRollout, spec: PickerTraffic, problems: list[Problem]) -> ModelTraffic:
        if isinstance(spec, VariantTraffic):
            return self._variants.traffic(parsed, spec)
        return self._adapters.traffic(parsed, spec, problems)

    def _sharing(self, models: ModelTraffic) -> AdapterViews | VariantViews:
        """Who knows the versions that share the pool."""
        return self._variants if isinstance(models.spec, VariantTraffic) else self._adapters

    def _blockers(
        self, parsed: ParsedRollout, target: Identity | None, models: ModelTraffic | None
    ) -> tuple[Blocker, ...]:
        if parsed.spec is None:
            return ()
        if models is not None:
            return self._sharing(models).blockers(parsed, parsed.spec, models)
        return self._pool_views.blockers(parsed, parsed.spec, target)

    def _unmatched(
        self, parsed: ParsedRollout, target: Identity | None, models: ModelTraffic | None
    ) -> UnmatchedPods:
        if target is None or models is None or not isinstance(models.spec, VariantTraffic):
            return UnmatchedPods()
        return self._variants.unmatched(parsed, models, target)

    def _pickers(
        self, key: ObjectKey, models: ModelTraffic | None, traffic: TrafficView | None
    ) -> PickersView:
        if models is None or models.pool is None or traffic is None or not traffic.exists:
            return PickersView()
        stored = stored_loads(traffic.rules)
        if stored is None:
            return PickersView()
        return self._loaded.view(key, models.spec, self._caches.picker_pods(models.pool), stored)

    def _checked(self, rollout: Object, strategy: StrategyView | None) -> StrategyView | None:
        """What keeps a strategy that was edited in mid-attempt from being the next attempt's."""
        following = self._strategies.following(rollout, strategy)
        if strategy is None or following is None:
            return strategy
        gates = problems_of(self._gates.resolved(following))
        wrong = (
            *(Blocker(reason=one.reason, message=one.message) for one in gates),
            *self._unknown_receivers(following),
        )
        return unfit(following, strategy, wrong[0]) if wrong else strategy

    def _unknown_receivers(self, parsed: ParsedRollout) -> Iterator[Blocker]:
        """Receivers that approvals need and nobody has."""
        if self._approver is not None and parsed.spec is not None:
            for text in self._approver.unknown(parsed.namespace, parsed.spec.canary.steps):
                yield Blocker(reason=Reason.RECEIVER_UNKNOWN, message=text)

    def _pools(
        self,
        parsed: ParsedRollout,
        target: Identity | None,
        models: ModelTraffic | None,
        traffic: TrafficView | None,
        found: Carried,
    ) -> dict[Identity, PoolView]:
        status = parsed.status
        arms = {arm.identity for arm in status.arms}
        arms |= {entry.revision.identity for entry in status.history}
        if target is not None:
            arms.add(target)
        if status.stable is None and traffic is not None:
            # One of these is about to be called stable, and counted.
            arms |= {arm for rule in traffic.rules for arm in rule.entries}
        if parsed.spec is not None and parsed.spec.stable_hint and target is not None:
            hint = parsed.spec.stable_hint
            named = replace(target, name=hint, source="")
            arms.add(hinted_variant(hint) or named if target.kind == VARIANT_KIND else named)
        running = status.canary or status.stable
        wanted = target or (running.identity if running is not None else None)
        if models is not None and wanted is not None:
            found_arms = self._sharing(models).arms(parsed, models, wanted, arms)
            variants = isinstance(models.spec, VariantTraffic)
            path = self._paths.variants if variants else self._paths.adapters
            return path(parsed, found_arms, wanted, models.pool)
        views = {identity: self._pool_views.view(parsed, identity) for identity in arms}
        return self._paths.pools(parsed, views, target, *found)

    # --- jobs ---

    def _jobs(self, key: ObjectKey, uid: str) -> dict[str, JobOutcome]:
        found = {}
        for job in self._caches.owned_jobs(key, uid):
            conditions = (job.get("status") or {}).get("conditions") or []
            true = {item.get("type") for item in conditions if item.get("status") == "True"}
            outcome = JobOutcome.RUNNING
            if "Failed" in true:
                outcome = JobOutcome.FAILED
            elif "Complete" in true:
                outcome = JobOutcome.SUCCEEDED
            found[job["metadata"]["name"]] = outcome
        return found


def _warm_only(view: PoolView, workload: WorkloadView | None) -> PoolView:
    """Without Ready pods that are still to be warmed up: requests are kept from those."""
    if workload is None or not workload.warming:
        return view
    return replace(view, ready_endpoints=max(0, view.ready_endpoints - workload.warming))


def _summaries(parsed: ParsedRollout, runs: list[dict[str, Any]]) -> Iterator[GateSummary]:
    """Verdicts of the current attempt's runs, in words."""
    if parsed.status.canary is None:
        return
    owner = Owner(name=parsed.name, uid=parsed.uid)
    for run in runs:
        if is_of_attempt(run["metadata"]["name"], owner, parsed.status):
            yield from gate_summaries(run)


def _asks(parsed: ParsedRollout, spec: RolloutSpec, target: Identity) -> bool:
    """Whether there may be an attempt at the target that has not begun: also beside one at another target."""
    stable, running = parsed.status.stable, parsed.status.running
    if stable is not None and stable.identity == target:
        return False
    return running is None or not running.is_at(target, spec.target.revision)
