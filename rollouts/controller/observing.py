"""Gathering: one Observation of one Rollout from the caches. Reads only, judges nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from rollouts.api.parsing import ParsedRollout, SpecCache, parse_rollout
from rollouts.api.run_status import gate_summaries, gate_view
from rollouts.carriers import TRAFFIC_KINDS, Carrier, TrafficPlace, given, kind_of
from rollouts.controller.adapter_views import AdapterViews, ModelTraffic, adapter_identity
from rollouts.controller.caches import Caches
from rollouts.controller.mirroring import mirrored_arms
from rollouts.controller.path_views import PathViews
from rollouts.controller.windows import WindowCalendar
from rollouts.engine.attempt import GateSummary
from rollouts.engine.moving import moved
from rollouts.engine.naming import Owner, is_of_attempt
from rollouts.engine.observation import (
    Blocker,
    Claim,
    JobOutcome,
    Observation,
    PoolView,
    Problem,
    ShareView,
    TrafficView,
    WayView,
)
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import AdapterTraffic, HttpRouteTraffic, RolloutSpec, TrafficMode
from rollouts.engine.rollout_status import RolloutStatus, WayBack
from rollouts.engine.versions import Identity, TargetKind
from rollouts.kube.client import Resource
from rollouts.objects import kinds
from rollouts.objects.models import model_names
from rollouts.objects.pools import POOL_KIND
from rollouts.runtime.objects import ObjectKey, version_of
from rollouts.traffic import wayback
from rollouts.traffic.backends import pools_of, rules_of
from rollouts.traffic.mirrors import keeps_sessions
from rollouts.traffic.reading import Reader
from rollouts.traffic.writes import label_value

__all__ = [
    "DEFAULT_GITOPS_MANAGERS",
    "ComparedGates",
    "GateProblems",
    "Gathered",
    "Gatherer",
    "ShareSource",
    "WayObject",
]

DEFAULT_GITOPS_MANAGERS = ("argocd-controller", "kustomize-controller", "helm-controller")


class ShareSource(Protocol):
    """Who counts requests per arm."""

    def view(
        self, key: ObjectKey, parsed: ParsedRollout, spec: AdapterTraffic | None = None
    ) -> ShareView | None:
        """Requests of both arms since the current weight was applied; None when nothing can be counted.

        ``spec`` is the completed traffic of an adapter rollout.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedGates:
    """Which gates read the attempt's evidence: steps, those that measure nothing else, and the background's."""

    steps: frozenset[int]
    only: frozenset[int]
    background: bool


class GateProblems(Protocol):
    """Who knows whether the gates of a Rollout could be started."""

    def problems(self, parsed: ParsedRollout) -> tuple[Problem, ...]:
        """What keeps a gate from being started: missing templates, arguments, malformed conditions."""
        ...

    def compared(self, parsed: ParsedRollout) -> ComparedGates:
        """Which gates read the attempt's evidence."""
        ...


class Carried(NamedTuple):
    """The spec's traffic object, and who reads and writes it."""

    raw: dict[str, Any] | None
    carrier: Carrier | None


class WayObject(NamedTuple):
    """The object of a recorded way back; ``raw`` None: it does not exist."""

    resource: Resource
    raw: dict[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """An observation and the raw objects that its actions will need.

    ``rollout`` follows our own writes of it; ``planned_version`` is the resourceVersion that was planned on.
    """

    observation: Observation
    parsed: ParsedRollout
    rollout: dict[str, Any]
    planned_version: str
    traffic_object: dict[str, Any] | None
    carrier: Carrier | None
    ways: Mapping[WayBack, WayObject]
    """Where the object of each recorded way back lives, and what it says now."""


def _recorded_model(status: RolloutStatus) -> AdapterTraffic | None:
    """The model object of an adapter rollout by its way back; the object itself says its model and its pool."""
    split = {kind.kind for kind in TRAFFIC_KINDS if kind.target is TargetKind.ADAPTER}
    record = next((record for record in status.way_back if record.kind in split), None)
    if record is None:
        return None
    return AdapterTraffic(kind=record.kind, name=record.name, model_name="")


class Gatherer:
    """Builds Observations. ``gitops_managers`` are field managers whose writes are never obeyed."""

    def __init__(
        self,
        caches: Caches,
        shares: ShareSource,
        gates: GateProblems,
        adapters: AdapterViews,
        *,
        gitops_managers: tuple[str, ...] = DEFAULT_GITOPS_MANAGERS,
        windows: WindowCalendar,
        paths: PathViews | None = None,
    ) -> None:
        self._windows = windows
        self._paths = paths or PathViews(caches)
        self._caches = caches
        self._shares = shares
        self._gates = gates
        self._adapters = adapters
        self._gitops_managers = gitops_managers
        self._specs = SpecCache()

    def gather(self, key: ObjectKey) -> Gathered | None:
        """The observation of a Rollout; None when it does not exist."""
        rollout = self._caches.rollouts.get(key)
        if rollout is None:
            self._adapters.forget(key)
            self._paths.forget(key)
            return None
        parsed = parse_rollout(rollout, self._specs)
        if parsed.uid in self._caches.doomed:
            parsed = replace(parsed, deleting=True)
        spec, status = parsed.spec, parsed.status
        problems = list(parsed.problems)
        target, blocker = (None, None) if spec is None else self._resolve(parsed, spec, problems)
        if parsed.model is not None and not problems:
            problems += self._gates.problems(parsed)
        gates = self._gates.compared(parsed)
        models, stored = None, None
        if spec is None and (recorded := _recorded_model(status)) is not None:
            # What cannot be read names no pool: the recorded object does, and its pods are to be counted.
            stored = self._adapters.traffic(parsed, recorded, [])
        if spec is not None and isinstance(spec.traffic, AdapterTraffic):
            models = self._adapters.traffic(parsed, spec.traffic, problems)
            if target is not None:
                problems += self._adapters.problems(parsed, target)
        raw, carrier = self._carrier(parsed, models, problems)
        traffic = self._traffic(parsed, target, raw, carrier)
        # The plan follows pools to another API group; what it then looks for has to be there.
        listed = self._listed(parsed, traffic)
        followed = moved(status, listed, spec.target if spec is not None else None)
        present = replace(parsed, status=followed)
        proposed = self._proposed(present, target, traffic, Carried(raw, carrier))
        records = (*status.way_back, *followed.way_back, *proposed.values())
        ways = {record: self._way(parsed, record) for record in records}
        runs = self._caches.owned_runs(key, parsed.uid)
        observation = Observation(
            namespace=key.namespace,
            name=key.name,
            uid=parsed.uid,
            generation=parsed.generation,
            status=status,
            spec=spec,
            problems=tuple(problems),
            deleting=parsed.deleting,
            has_finalizer=parsed.has_finalizer,
            command=parsed.command,
            on_delete=parsed.on_delete,
            release_now=parsed.release_now,
            listed=listed,
            ways={record: self._way_view(parsed, record, found.raw) for record, found in ways.items()},
            proposed=proposed,
            target=target,
            target_blocker=blocker,
            traffic=traffic,
            pools=self._pools(present, target, models or stored, traffic, raw, carrier),
            blockers=() if spec is None else self._blockers(present, spec, target, models),
            gates={gate.name: gate for gate in map(gate_view, runs)},
            jobs=self._jobs(key, parsed.uid),
            taken_names=self._caches.taken_names(key, parsed.uid),
            summaries=tuple(_summaries(parsed, runs)),
            compared=gates.steps,
            only_compared=gates.only,
            compares=bool(gates.steps) or gates.background,
            background_compares=gates.background,
            share=self._shares.view(key, parsed, models.spec if models is not None else None),
            probe=self._paths.probe(parsed, carrier, traffic),
            window=self._windows.view(spec.canary.windows) if spec is not None else None,
        )
        return Gathered(
            observation=observation,
            parsed=parsed,
            rollout=rollout,
            planned_version=version_of(rollout),
            traffic_object=raw,
            carrier=carrier,
            ways=ways,
        )

    # --- target ---

    def _resolve(
        self, parsed: ParsedRollout, spec: RolloutSpec, problems: list[Problem]
    ) -> tuple[Identity | None, Blocker | None]:
        """``spec.target`` by discovery: the one API group that has a pool of the name."""
        target = spec.target
        if target.kind is TargetKind.ADAPTER:
            return adapter_identity(target), None
        groups = [target.group] if target.group else [resource.group for resource in kinds.POOLS]
        found = [group for group in groups if self._caches.pool(group, parsed.namespace, target.name)]
        if len(found) > 1:
            # Side by side while pools move to another group: what the route sends to is meant.
            route = self._caches.traffic[kinds.HTTP_ROUTE].get(ObjectKey(parsed.namespace, spec.traffic.name))
            rules = rules_of((route or {}).get("spec"))
            listed = {
                pool.group
                for rule in rules
                for pool in pools_of(rule, parsed.namespace)
                if pool.name == target.name
            }
            found = [group for group in found if group in listed] if len(listed) == 1 else found
        if len(found) == 1:
            return Identity(kind=POOL_KIND, group=found[0], name=target.name), None
        if found and not self._known(parsed.status, target.name):
            problems.append(
                Problem(
                    reason=Reason.AMBIGUOUS_TARGET,
                    message=f"InferencePool {target.name} exists in {' and '.join(found)}: set target.pool.group",
                )
            )
        return None, Blocker(
            reason=Reason.POOL_MISSING,
            message=f"InferencePool {target.name} does not exist in {' or '.join(groups)}: "
            "create it, the rollout then starts by itself",
        )

    @staticmethod
    def _known(status: RolloutStatus, name: str) -> bool:
        return any(arm.identity.name == name for arm in status.arms)

    # --- arms ---

    def _pools(
        self,
        parsed: ParsedRollout,
        target: Identity | None,
        models: ModelTraffic | None,
        traffic: TrafficView | None,
        raw: dict[str, Any] | None,
        carrier: Carrier | None,
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
            arms.add(replace(target, name=parsed.spec.stable_hint, source=""))
        running = status.canary or status.stable
        wanted = target or (running.identity if running is not None else None)
        if models is not None and wanted is not None:
            adapters = self._adapters.arms(parsed, models, wanted, arms)
            return self._paths.adapters(parsed, adapters, wanted, models.pool)
        views = {identity: self._pool(parsed.namespace, identity) for identity in arms}
        return self._paths.pools(parsed, views, target, raw, carrier)

    def _pool(self, namespace: str, identity: Identity) -> PoolView:
        pool = self._caches.pool(identity.group, namespace, identity.name)
        if pool is None:
            groups = (
                one.group for one in kinds.POOLS if self._caches.pool(one.group, namespace, identity.name)
            )
            return PoolView(identity=identity, exists=False, twin=next(groups, ""))
        ready = sum(endpoint.ready for endpoint in self._caches.endpoints(pool))
        return PoolView(identity=identity, exists=True, ready_endpoints=ready)

    def _blockers(
        self,
        parsed: ParsedRollout,
        spec: RolloutSpec,
        target: Identity | None,
        models: ModelTraffic | None,
    ) -> tuple[Blocker, ...]:
        """Models that the stable pool serves and the new pool does not (design rule 10)."""
        if models is not None:
            return self._adapters.blockers(parsed, spec, models)
        stable = parsed.status.stable
        if target is None or stable is None or spec.allow_missing_models or stable.identity == target:
            return ()
        missing = self._models(parsed.namespace, stable.identity.name) - self._models(
            parsed.namespace, target.name
        )
        if not missing:
            return ()
        message = (
            f"{target.name} has no InferenceModel for {', '.join(sorted(missing))}, which {stable.identity.name} "
            "serves: add them, or set allowMissingModels"
        )
        return (Blocker(reason=Reason.MISSING_MODELS, message=message),)

    def _models(self, namespace: str, pool: str) -> set[str]:
        """Names that clients may ask this pool for, by its model objects."""
        found: set[str] = set()
        for obj in self._caches.model_objects(namespace, pool):
            found |= model_names(obj)
        return found

    # --- traffic ---

    def _carrier(
        self, parsed: ParsedRollout, models: ModelTraffic | None, problems: list[Problem]
    ) -> tuple[dict[str, Any] | None, Carrier | None]:
        """The live traffic object, and who reads and writes it; None where the kind is not served."""
        if models is not None:
            return models.raw, models.carrier
        spec = parsed.spec
        if spec is None or not isinstance(spec.traffic, HttpRouteTraffic):
            return None, None
        kind, template = kind_of(spec.traffic.kind), None
        assert kind is not None
        if parsed.model is not None:
            template = next((one.template(value) for one, value in given(parsed.model.traffic)), None)
        if template is not None:
            problems += kind.template_problems(template)
        key = ObjectKey(parsed.namespace, spec.traffic.name)
        for resource in kind.resources:
            raw = self._caches.traffic[resource].get(key)
            if raw is not None or self._caches.served(resource):
                place = TrafficPlace(rollout=parsed.name, namespace=parsed.namespace, resource=resource)
                return raw, kind.carrier(place, spec.traffic, template)
        return None, None

    def _traffic(
        self,
        parsed: ParsedRollout,
        target: Identity | None,
        raw: dict[str, Any] | None,
        carrier: Carrier | None,
    ) -> TrafficView | None:
        if carrier is None:
            return None
        arms = [arm.identity.arm for arm in parsed.status.arms]
        reader = Reader(
            rollout=parsed.name,
            arms=(*arms, *([target.arm] if target is not None else [])),
            gitops_managers=self._gitops_managers,
        )
        view = carrier.view(raw, reader)
        if raw is not None and carrier.resource == kinds.HTTP_ROUTE:
            view = replace(
                view,
                mirrored=mirrored_arms(self._caches, parsed.namespace, raw, reader.arms),
                sessions=keeps_sessions(raw.get("spec")),
            )
        if raw is None and parsed.status.traffic_adopted:
            view = replace(view, mode=TrafficMode.ADOPTED)
        return self._settle_claim(parsed, view)

    def _listed(self, parsed: ParsedRollout, traffic: TrafficView | None) -> frozenset[Identity]:
        if traffic is not None:
            return frozenset(entry for rule in traffic.rules for entry in rule.entries)
        objects = (self._way(parsed, record) for record in parsed.status.way_back)
        specs = (
            found.raw.get("spec") for found in objects if found.raw and found.resource == kinds.HTTP_ROUTE
        )
        return frozenset(
            entry for spec in specs for rule in rules_of(spec) for entry in pools_of(rule, parsed.namespace)
        )

    def _settle_claim(self, parsed: ParsedRollout, view: TrafficView) -> TrafficView:
        """Age decides only where neither label nor annotation exists (design rule 10)."""
        unclaimed = not view.exists or (view.claim is Claim.UNCLAIMED and view.mode is TrafficMode.MANAGED)
        if not unclaimed:
            return view
        rivals = self._caches.rollouts_of_route(parsed.namespace, view.kind, view.name)
        oldest = rivals[0]["metadata"]["name"] if rivals else parsed.name
        return view if oldest == parsed.name else replace(view, claim=Claim.OTHER, claimed_by=oldest)

    # --- the way back ---

    @staticmethod
    def _proposed(
        parsed: ParsedRollout, target: Identity | None, traffic: TrafficView | None, found: Carried
    ) -> dict[tuple[Identity, Identity], WayBack]:
        """The way back that the spec's traffic object needs for the canary, and for a target that is to become it.

        At first sight any arm with an entry may be found to be stable.
        """
        if found.carrier is None or traffic is None:
            return {}
        stable, canary = parsed.status.stable, parsed.status.canary
        stables = {entry for rule in traffic.rules for entry in rule.entries}
        if stable is not None:
            stables = {stable.identity.arm}
        canaries = {arm.arm for arm in (target, canary.identity if canary is not None else None) if arm}
        return {
            (one, other): found.carrier.way_back(found.raw, one, other)
            for one in stables
            for other in canaries
            if one != other
        }

    def _way(self, parsed: ParsedRollout, record: WayBack) -> WayObject:
        """The object that a record is about, by kind and name."""
        key = ObjectKey(parsed.namespace, record.name)
        for resource, store in self._caches.traffic.items():
            if (resource.kind, resource.group) == (record.kind, record.group):
                return WayObject(resource, store.get(key))
        return WayObject(kinds.HTTP_ROUTE, None)

    def _way_view(self, parsed: ParsedRollout, record: WayBack, raw: dict[str, Any] | None) -> WayView:
        def exists(named: str) -> bool:
            if self._caches.rollouts.get(ObjectKey(parsed.namespace, named)) is not None:
                return True
            names = (key.name for key in self._caches.rollouts if key.namespace == parsed.namespace)
            return any(label_value(name) == named for name in names)  # a label holds a long name shortened

        kind = kind_of(record.kind)
        return wayback.view(raw, record, parsed.name, exists, kind.lists if kind is not None else None)

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


def _summaries(parsed: ParsedRollout, runs: list[dict[str, Any]]) -> Iterator[GateSummary]:
    """Verdicts of the current attempt's runs, in words."""
    if parsed.status.canary is None:
        return
    owner = Owner(name=parsed.name, uid=parsed.uid)
    for run in runs:
        if is_of_attempt(run["metadata"]["name"], owner, parsed.status):
            yield from gate_summaries(run)
