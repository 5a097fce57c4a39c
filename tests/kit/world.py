"""A world of plain values for the engine: one Rollout, one traffic object, some pools and gates.

``World.step`` observes, plans and applies, the way the controller does, without any Kubernetes object. Tests
move the world between steps and look at ``weight`` and ``status``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from fractions import Fraction
from typing import Any

from rollouts.engine.actions import (
    Action,
    CreateJob,
    CreateRun,
    DesiredTraffic,
    DrainPods,
    EmitEvent,
    MarkRun,
    Plan,
    ReleaseTraffic,
    ReleaseTrafficMode,
    ReturnTraffic,
    ScaleWorkload,
    SetFinalizer,
    TerminateRun,
    UpdateRun,
    WarmPods,
    WriteTraffic,
)
from rollouts.engine.attempt import Attempt
from rollouts.engine.observation import (
    ApprovalView,
    Blocker,
    Claim,
    Companion,
    CrashView,
    DependencyView,
    FreezeView,
    GateOutcome,
    GateView,
    JobOutcome,
    Observation,
    ParentsView,
    PathView,
    PickersView,
    PoolView,
    ProbeView,
    Problem,
    Refused,
    RuleView,
    ShareView,
    StrategyView,
    TrafficView,
    TurnView,
    UnmatchedPods,
    WayView,
    WindowView,
)
from rollouts.engine.planning import plan
from rollouts.engine.rollout_spec import (
    AnalysisStep,
    BackgroundAnalysis,
    CanaryStrategy,
    HeaderRouteStep,
    HttpRouteTraffic,
    JobStep,
    OnDelete,
    PauseStep,
    RolloutSpec,
    Step,
    TrafficMode,
    WeightStep,
)
from rollouts.engine.rollout_status import EntryRef, RolloutStatus, WayBack
from rollouts.engine.versions import Identity, Target
from rollouts.units import FULL, ZERO, Weight
from tests.kit.fleet import Fleet

__all__ = [
    "GROUP",
    "START",
    "Honest",
    "World",
    "analysis",
    "background",
    "changed",
    "job",
    "pause",
    "pool",
    "spec",
    "weight",
]

GROUP = "inference.networking.x-k8s.io"
START = datetime(2026, 1, 1, tzinfo=UTC)
OURS = "inference-rollouts"


def pool(name: str) -> Identity:
    """Identity of an InferencePool."""
    return Identity(kind="InferencePool", group=GROUP, name=name)


def _entry(identity: Identity) -> EntryRef:
    return EntryRef(kind=identity.kind, group=identity.group, name=identity.name)


def changed(status: RolloutStatus, **changes: Any) -> RolloutStatus:
    """A status with other fields of its attempt."""
    assert status.current is not None
    return replace(status, current=replace(status.current, **changes))


def weight(percent: float) -> WeightStep:
    """A weight step."""
    return WeightStep(weight=Weight(round(percent * 100)))


def pause(seconds: float | None = None) -> PauseStep:
    """A pause step; without seconds until promoted."""
    return PauseStep(duration=None if seconds is None else timedelta(seconds=seconds))


def analysis(name: str = "gate") -> AnalysisStep:
    """An analysis step."""
    return AnalysisStep(fingerprint=name)


def job(name: str = "job") -> JobStep:
    """A job step."""
    return JobStep(fingerprint=name)


def background(starting_step: int = 0) -> BackgroundAnalysis:
    """Background analysis."""
    return BackgroundAnalysis(fingerprint="background", starting_step=starting_step)


def spec(
    *steps: Step, target: str = "v2", mode: TrafficMode = TrafficMode.ADOPTED, **fields: Any
) -> RolloutSpec:
    """A spec; keyword arguments of CanaryStrategy and RolloutSpec are sorted out by name."""
    canary_fields = {
        name: fields.pop(name)
        for name in (
            "analysis",
            "bake",
            "progress_deadline",
            "on_deadline",
            "endpoint_ratio",
            "target_deadline",
            "path_probe",
            "allow_no_traffic",
            "windows",
            "capacity",
            "stop",
        )
        if name in fields
    }
    revision = fields.pop("revision", "")
    return RolloutSpec(
        target=Target(kind="pool", name=target, revision=revision),
        traffic=HttpRouteTraffic(name="route", mode=mode, add_backend=fields.pop("add_backend", False)),
        canary=CanaryStrategy(steps=steps or (weight(10), weight(50)), **canary_fields),
        **fields,
    )


class Honest(Enum):
    """A share that is not scripted."""

    SPLIT = "as the weight says"


@dataclass
class World:
    """Everything around one Rollout. ``rules`` is None while the traffic object does not exist."""

    spec: RolloutSpec | None
    rules: list[dict[Identity, int]] | None = field(
        default_factory=lambda: [{pool("v1"): 100, pool("v2"): 0}]
    )
    pools: dict[Identity, int] = field(default_factory=lambda: {pool("v1"): 4, pool("v2"): 4})
    status: RolloutStatus = field(default_factory=RolloutStatus)
    now: datetime = START
    generation: int = 1
    command: str = ""
    claim: Claim = Claim.CONSENTED
    claimed_by: str = ""
    writer: str = "kubectl"
    gitops: bool = False
    uid: str = "uid-1"
    programmed: bool = True
    structure_current: bool = True
    pins: frozenset[Identity] = frozenset()
    header_routes: tuple[HeaderRouteStep, ...] = ()
    finalizer: bool = False
    deleting: bool = False
    in_haste: bool = False
    gates: dict[str, GateView] = field(default_factory=dict)
    jobs: dict[str, JobOutcome] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    blockers: tuple[Blocker, ...] = ()
    pool_blockers: tuple[Blocker, ...] = ()
    probe: ProbeView | None = None
    paths: dict[Identity, PathView] = field(default_factory=dict)
    troubles: dict[Identity, tuple[Blocker, ...]] = field(default_factory=dict)
    unwatched: str = ""
    crashes: dict[Identity, CrashView] = field(default_factory=dict)
    target_blocker: Blocker | None = None
    approval: ApprovalView | None = None
    strategy: StrategyView | None = None
    window: WindowView | None = None
    turn: TurnView | None = None
    freeze: FreezeView | None = None
    dependencies: tuple[DependencyView, ...] = ()
    pickers: PickersView = field(default_factory=PickersView)
    unmatched: UnmatchedPods = field(default_factory=UnmatchedPods)
    fleets: dict[Identity, Fleet] = field(default_factory=dict)
    """Workloads that make the pods of pools; a pool without one has as many Ready pods as ``pools`` says."""
    companions: dict[Identity, tuple[Companion, ...] | Blocker] = field(default_factory=dict)
    """By version; their pools are in ``pools`` and ``fleets`` as well."""
    share: ShareView | Honest | None = Honest.SPLIT
    """What was counted; ``Honest.SPLIT``: 1,000 requests, split as the weight says. None: nobody can count."""
    mirrored: frozenset[Identity] = frozenset()
    by_others: frozenset[Identity] = frozenset()
    sessions: bool = False
    compared: frozenset[int] = frozenset()
    only_compared: frozenset[int] = frozenset()
    background_compares: bool = False
    served: bool = True
    refuses: Refused | None = None
    """What the API server says to every write of the traffic object."""
    release_now: bool = False
    on_delete: OnDelete | None = None
    """What can be read of a spec that is None."""
    verdict: Callable[[str], GateOutcome] = field(default=lambda name: GateOutcome.RUNNING)
    """What a newly created run says."""
    writes: list[WriteTraffic | ReturnTraffic] = field(default_factory=list)
    weights: list[Weight] = field(default_factory=list)
    """The canary's weight after every traffic write."""
    events: list[EmitEvent] = field(default_factory=list)
    version: int = 1
    said: int = 0

    # --- what the controller would gather ---

    def _shared(self) -> StrategyView | None:
        current = self.status.current
        if self.strategy is None or current is None or current.strategy is None:
            return self.strategy
        return replace(self.strategy, used=current.strategy)

    @property
    def mode(self) -> TrafficMode:
        """Mode of the traffic object."""
        assert self.spec is None or isinstance(self.spec.traffic, HttpRouteTraffic)
        return self.spec.traffic.mode if self.spec is not None else TrafficMode.ADOPTED  # type: ignore[union-attr]

    def observe(self) -> Observation:
        """The observation of this moment."""
        self.pools |= {arm: fleet.ready for arm, fleet in self.fleets.items() if arm in self.pools}
        target = None
        if self.spec is not None:
            wanted = pool(self.spec.target.name)
            wanted = replace(wanted, group=self.spec.target.group or wanted.group)
            target = wanted if wanted in self.pools else None
        return Observation(
            namespace="default",
            name="demo",
            generation=self.generation,
            status=self.status,
            spec=self.spec,
            problems=self.problems,
            deleting=self.deleting,
            in_haste=self.in_haste,
            has_finalizer=self.finalizer,
            command=self.command,
            target=target,
            on_delete=self.spec.on_delete
            if self.spec is not None
            else self.on_delete or OnDelete.RESTORE_STABLE,
            release_now=self.release_now,
            listed=frozenset(arm for rule in self.rules or [] for arm in rule),
            companion_pools=frozenset(self.pools),
            ways={
                record: self._way(record) for record in (*self.status.way_back, *self._proposed().values())
            },
            proposed=self._proposed(),
            target_blocker=self.target_blocker,
            pickers=self.pickers,
            unmatched=self.unmatched,
            traffic=self._traffic() if self.served else None,
            unwatched=self.unwatched,
            pools=self._pools(),
            blockers=self.blockers,
            gates=dict(self.gates),
            jobs=dict(self.jobs),
            share=self._share(),
            probe=self.probe,
            approval=self.approval,
            strategy=self._shared(),
            window=self.window,
            turn=self.turn,
            freeze=self.freeze,
            dependencies=self.dependencies,
            workloads={
                arm: fleet.view(asked=any(one.identity == arm for one in self.status.drains))
                for arm, fleet in self.fleets.items()
            },
            companions=dict(self.companions),
            compared=self.compared,
            only_compared=self.only_compared,
            compares=bool(self.compared) or self.background_compares,
            background_compares=self.background_compares,
        )

    def _proposed(self) -> dict[tuple[Identity, Identity], WayBack]:
        """The way back that the route needs between any two versions."""
        if not self.served or self.spec is None:
            return {}
        arms = {pool(self.spec.target.name), *(arm for rule in self.rules or [] for arm in rule)}
        arms |= {arm.identity for arm in self.status.arms}
        return {
            (stable, canary): WayBack(
                kind="HTTPRoute",
                group="gateway.networking.k8s.io",
                name="route",
                mode=self.mode,
                stable=_entry(stable),
                canary=_entry(canary),
            )
            for stable in arms
            for canary in arms - {stable}
        }

    def _way(self, record: WayBack) -> WayView:
        if self.rules is None:
            return WayView(exists=False)
        canary, stable = record.canary.arm, record.stable.arm
        shares = [
            Fraction(rule.get(canary, 0), (rule.get(canary, 0) + rule.get(stable, 0)) or 1)
            for rule in self.rules
        ]
        return WayView(
            exists=True,
            resource_version=str(self.version),
            share=Weight(max((round(share * FULL) for share in shares), default=0)),
            pinned=bool(self.header_routes),
            claim=self.claim,
            claimed_by=self.claimed_by,
        )

    def _share(self) -> ShareView | None:
        if not isinstance(self.share, Honest):
            return self.share
        canary = (self.status.weight.applied or ZERO) * 1000 // FULL
        return ShareView(canary=canary, stable=1000 - canary, seconds=60.0)

    def _traffic(self) -> TrafficView:
        if self.rules is None:
            return TrafficView(kind="HTTPRoute", name="route", mode=self.mode)
        return TrafficView(
            kind="HTTPRoute",
            name="route",
            mode=self.mode,
            exists=True,
            uid=self.uid,
            resource_version=str(self.version),
            claim=self.claim,
            claimed_by=self.claimed_by,
            rules=tuple(
                RuleView(name=str(index), entries=dict(entries)) for index, entries in enumerate(self.rules)
            ),
            header_routes=self.header_routes,
            structure_current=self.structure_current,
            pins=self.pins,
            parents=ParentsView(
                programmed=self.programmed, message="" if self.programmed else "not Accepted yet"
            ),
            last_writer=self.writer,
            written_by_us=self.writer == OURS,
            written_by_gitops=self.gitops and self.writer != OURS,
            mirrored=self.mirrored,
            by_others=self.by_others,
            sessions=self.sessions,
        )

    def _pools(self) -> dict[Identity, PoolView]:
        names = set(self.pools)
        names.update(arm.identity for arm in self.status.arms)
        names.update(entry.revision.identity for entry in self.status.history)
        return {
            identity: PoolView(
                troubles=self.troubles.get(identity, ()),
                identity=identity,
                exists=identity in self.pools,
                twin=self._twin(identity),
                ready_endpoints=self.pools.get(identity, 0),
                blockers=self.pool_blockers if identity == pool("v2") else (),
                path=self.paths.get(identity, PathView()),
                crashes=self.crashes.get(identity, CrashView()),
            )
            for identity in names
        }

    def _twin(self, identity: Identity) -> str:
        """Another group with a pool of the name, of pools that do not exist."""
        groups = (other.group for other in self.pools if other.name == identity.name)
        return "" if identity in self.pools else next(groups, "")

    @property
    def current(self) -> Attempt:
        """The attempt in the status; only where there is one."""
        assert self.status.current is not None
        return self.status.current

    def change(self, **changes: Any) -> None:
        """Change fields of the attempt, as somebody who edits the status would."""
        self.status = changed(self.status, **changes)

    # --- what the controller would do ---

    def decide(self) -> Plan:
        """Observe and plan; a refused write is planned again with the refusal, as the controller does."""
        decided = plan(self.observe(), self.now)
        if self.refuses is not None and self._writes(decided):
            decided = plan(replace(self.observe(), refused=self.refuses), self.now)
            assert not self._writes(decided), "a refused write is not planned again at once"
        return decided

    def step(self) -> Plan:
        """Decide, and apply."""
        decided = self.decide()
        assert len(self._writes(decided)) <= 1, "at most one traffic write per plan"
        for action in decided.actions:
            self.perform(action)
        self.status = decided.status
        return decided

    @staticmethod
    def _writes(decided: Plan) -> list[WriteTraffic | ReturnTraffic]:
        return [action for action in decided.actions if isinstance(action, WriteTraffic | ReturnTraffic)]

    def perform(self, action: Action) -> None:
        """Carry one action out."""
        match action:
            case WriteTraffic():
                self._write(action)
            case ReturnTraffic():
                self._return(action)
            case CreateRun(name=name):
                made = GateView(
                    name=name,
                    outcome=self.verdict(name),
                    steps_hash=self.current.steps_hash if self.compared or self.background_compares else "",
                    marked=frozenset({self.current.current_step}),
                )
                self.gates.setdefault(name, made)
            case MarkRun(name=name, step=step):
                self.gates[name] = replace(self.gates[name], marked=self.gates[name].marked | {step})
            case UpdateRun(name=name):
                self.gates[name] = replace(self.gates[name], steps_hash=self.current.steps_hash, steps={})
            case CreateJob(name=name):
                self.jobs.setdefault(name, JobOutcome.RUNNING)
            case TerminateRun(name=name):
                self.gates[name] = replace(self.gates[name], outcome=GateOutcome.PASSED)
            case SetFinalizer(present=present):
                self.finalizer = present
            case ReleaseTraffic(mode=ReleaseTrafficMode.DELETE):
                self.rules = None
            case ReleaseTraffic():
                self.claim = Claim.CONSENTED
            case ScaleWorkload():
                self._scale(action)
            case EmitEvent():
                self.events.append(action)
            case _:
                pass

    def _write(self, action: WriteTraffic) -> None:
        desired = action.desired
        if self.rules is None:
            self.rules = [{}]
            self.uid = f"uid-{self.version + 1}"
        if self.mode is TrafficMode.MANAGED:
            self.rules = self.rules or [{}]  # the template brings at least one
        self.rules = [self._render(entries, desired) for entries in self.rules]
        self.header_routes = desired.header_routes
        self.structure_current = True
        if self.mode is TrafficMode.MANAGED:
            self.claim = Claim.OURS
        self.writer = OURS
        self.version += 1
        self.writes.append(action)
        self.weights.append(desired.weight)

    def _return(self, action: ReturnTraffic) -> None:
        """What the patch of the record does: weights of the two arms, nothing else."""
        assert self.rules is not None
        canary, stable = action.record.canary.arm, action.record.stable.arm
        for rule in self.rules:
            joint = rule.get(canary, 0) + rule.get(stable, 0)
            if rule.get(canary, 0) * FULL > action.limit * joint:
                left = joint * action.limit // FULL
                rule.update({canary: left, stable: joint - left})
        self.header_routes = () if action.limit == ZERO else self.header_routes
        self.writer = OURS
        self.version += 1
        self.writes.append(action)
        self.weights.append(action.limit)

    def _scale(self, action: ScaleWorkload) -> None:
        """What the API server and the last look at the pods allow."""
        fleet = self.fleets[action.identity]
        others = sum(self.fleets[arm].taken for arm in action.beside if arm in self.fleets)
        assert action.resource_version == str(fleet.version), "planned on what is there"
        assert action.at_most is None or others + action.replicas + fleet.ending <= action.at_most
        fleet.scale(action.replicas)

    @property
    def _drops(self) -> bool:
        """Whether entries that are no longer wanted leave the list: Managed, or added by us."""
        added = self.spec is not None and getattr(self.spec.traffic, "add_backend", False)
        return added or self.mode is TrafficMode.MANAGED

    def _render(self, entries: dict[Identity, int], desired: DesiredTraffic) -> dict[Identity, int]:
        ours = [desired.stable, *desired.keep, *desired.drop]
        if desired.canary is not None:
            ours.append(desired.canary)
        joint = sum(entries.get(arm, 0) for arm in ours) or 100
        share = Fraction(desired.weight, FULL) * joint
        scale = share.denominator
        result = {arm: value * scale for arm, value in entries.items() if arm not in ours}
        result[desired.stable] = int((joint - share) * scale)
        if desired.canary is not None and (desired.weight > ZERO or desired.canary in entries):
            result[desired.canary] = int(share * scale)
        for arm in (*desired.keep, *desired.drop):
            if arm in entries and (not self._drops or arm in desired.keep):
                result[arm] = 0
        return result

    # --- moving the world ---

    def settle(self, limit: int = 80) -> int:
        """Step at a fixed time until a plan changes nothing; the number of rounds."""
        for rounds in range(limit):
            before = self.status
            decided = self.step()
            acts = [action for action in decided.actions if not isinstance(action, DrainPods | WarmPods)]
            if not acts and self.status == before:
                return rounds
        raise AssertionError(f"no rest after {limit} rounds: {self.status.phase} {self.status.message}")

    def advance(self, seconds: float) -> None:
        """Let time pass, then settle."""
        self.now += timedelta(seconds=seconds)
        self.settle()

    def say(
        self, action: str, *, revision: str | None = None, step: int | None = None, tag: str = ""
    ) -> None:
        """Write a command annotation and settle."""
        self.tell(action, revision=revision, step=step)
        self.settle()

    def tell(self, action: str, *, revision: str | None = None, step: int | None = None) -> None:
        """Write a command annotation, bound to the attempt as our clients do."""
        current = self.status.canary or self.status.stable
        bound = revision if revision is not None else (current.hash if current else "")
        self.said += 1
        at = f',"step":{step}' if step is not None else ""
        self.command = (
            f'{{"action":"{action}","revision":"{bound}","attempt":{self.status.attempt}{at},'
            f'"at":"{self.now.isoformat()}#{self.said}"}}'
        )

    def judge(self, outcome: GateOutcome, *, containing: str = "", message: str = "p95 4.1 s > 2 s") -> None:
        """Give every running gate whose name contains the text a verdict, and settle."""
        for name, gate in self.gates.items():
            if gate.outcome is GateOutcome.RUNNING and containing in name:
                self.gates[name] = replace(gate, outcome=outcome, message=message)
        self.settle()

    def edit(self, new: RolloutSpec) -> None:
        """Change the spec (one generation) and settle."""
        self.spec = new
        self.generation += 1
        self.settle()

    def overwrite(
        self, *rules: dict[Identity, int], manager: str = "kubectl-edit", gitops: bool = False
    ) -> None:
        """A foreign write of the weights."""
        self.rules = [dict(entries) for entries in rules]
        self.writer = manager
        self.gitops = gitops
        self.version += 1

    def share_of(self, identity: Identity) -> Fraction:
        """Live share of an arm in the first rule."""
        assert self.rules is not None
        total = sum(self.rules[0].values())
        return Fraction(self.rules[0].get(identity, 0), total or 1)
