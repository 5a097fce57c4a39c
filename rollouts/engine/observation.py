"""What ``plan`` may know: one immutable picture of the world, gathered by the shell.

Nothing in here is a raw Kubernetes object: gatherers turn objects into these views, so that ``plan`` can
be driven from any state by a test without a single dict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum

from rollouts.engine.attempt import ApprovalDecision, GateSummary, PinnedStrategy, ProbeVerdict
from rollouts.engine.naming import Owner
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import HeaderRouteStep, OnDelete, RolloutSpec, TrafficMode
from rollouts.engine.rollout_status import RolloutStatus, WayBack
from rollouts.engine.versions import Identity
from rollouts.units import ZERO, Weight

__all__ = [
    "ApprovalView",
    "Blocker",
    "Claim",
    "Companion",
    "CrashView",
    "DrainView",
    "Drained",
    "Draining",
    "GateOutcome",
    "GateView",
    "JobOutcome",
    "NotControllable",
    "Observation",
    "ParentsView",
    "PathView",
    "PickersView",
    "PoolView",
    "ProbeView",
    "Problem",
    "Refused",
    "RiseView",
    "RuleView",
    "ShareCount",
    "ShareView",
    "StepVerdict",
    "StrategyView",
    "TrafficView",
    "UnmatchedPods",
    "WayView",
    "WindowView",
    "WorkloadView",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something in the spec that a person has to change. ``message`` says what, why and what to do."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocker:
    """Something outside the spec that a new attempt waits for (missing pool, picker, adapter, ...)."""

    reason: Reason
    message: str


class Claim(Enum):
    """Whose the traffic object is."""

    OURS = "ours"
    CONSENTED = "consented"
    """Adopted: the consent annotation names us. Managed: taken over with consent, label not yet ours."""
    UNCLAIMED = "unclaimed"
    """Exists, and neither label nor annotation names anybody."""
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleView:
    """Weights of one rule (or of one model object): our possible arms, by identity.

    ``entries`` holds every entry of the kind we roll (InferencePools of the rule, targets of the model),
    in the order written. Weights are as written in the object.
    """

    name: str
    entries: Mapping[Identity, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentsView:
    """Whether the gateway took the object over. Model objects have no parents: always programmed."""

    programmed: bool
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficView:
    """The live traffic object. ``exists`` False leaves all else at its default."""

    kind: str
    name: str
    mode: TrafficMode
    exists: bool = False
    uid: str = ""
    resource_version: str = ""
    claim: Claim = Claim.UNCLAIMED
    claimed_by: str = ""
    unclaimed: str = ""
    """Kind and name of the part that does not consent, where the object is several; empty: the object."""
    rules: tuple[RuleView, ...] = ()
    header_routes: tuple[HeaderRouteStep, ...] = ()
    structure_current: bool = True
    """Managed: everything but weights equals what the template renders to. Adopted: always True."""
    pins: frozenset[Identity] = frozenset()
    """Managed: arms that rules of the template itself send requests to."""
    parents: ParentsView = field(default_factory=lambda: ParentsView(programmed=True))
    last_writer: str = ""
    """Field manager that last changed the weights; empty when unknown."""
    last_written_at: datetime | None = None
    """When ``last_writer`` wrote, from managedFields; None when unknown."""
    written_by_us: bool = False
    written_by_gitops: bool = False
    deleting: bool = False
    mirrored: frozenset[Identity] = frozenset()
    """Arms that a RequestMirror filter of the object copies requests to."""
    by_others: frozenset[Identity] = frozenset()
    """Arms that rules which are not weighed, or other objects, send requests to: those come on top of the split."""
    sessions: bool = False
    """Whether one of the rules keeps sessions where they are (``sessionPersistence``)."""

    @property
    def carrying(self) -> frozenset[Identity]:
        """Arms that a rule of the object sends requests to."""
        return frozenset(arm for rule in self.rules for arm, weight in rule.entries.items() if weight > 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class WayView:
    """A live object with a recorded way back. ``share`` is the highest that the canary has in any of its rules."""

    exists: bool
    resource_version: str = ""
    share: Weight = ZERO
    pinned: bool = False
    """A rule of a setHeaderRoute step still sends requests to the canary."""
    claim: Claim = Claim.UNCLAIMED
    claimed_by: str = ""
    """OTHER: an existing Rollout. An object that names one that does not exist counts as unclaimed."""
    unsplit: bool = False
    """A PoolSplit that is gone: the picker gives requests to all Ready pods of the pool, the canary's among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The API server has just refused a write; ``message`` has its words."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PathView:
    """What lies between the gateway and an arm's pods: its endpoint picker, and what gateways say of its pool."""

    problems: tuple[Blocker, ...] = ()
    """PickerMissing, PickerNotReady, PoolRefused: no request arrives, whatever the weight."""
    picker_down: bool = False
    """A candidate's picker, that no other arm of the Rollout uses, has no Ready pod; or stable's has none."""
    note: str = ""
    """What is taken on trust."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PickersView:
    """What the Ready replicas of a pool's endpoint picker say of the stored weights, by name of the pod."""

    replicas: tuple[str, ...] = ()
    """All that can be asked; empty where nobody asks."""
    behind: tuple[tuple[str, str], ...] = ()
    """Those that go by other weights, each with what it does, in words: ``goes by v1 90%, v2 10%``."""
    asked: tuple[str, ...] = ()
    """Those that have not said since the weights changed, and are being asked."""
    silent: tuple[str, ...] = ()
    """Those that do not answer."""
    stored: str = ""
    """What the traffic object says, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashView:
    """How the processes of an arm's pods live. Two adapters on the same pods have nothing to tell apart: defaults."""

    pods: int = 0
    restarts: int = 0
    """Restarts of the present pods' containers and processes, ever."""
    refusing: bool = False
    """Every pod refuses connections and answered before, while a pod of the other arm answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolView:
    """One arm's endpoints. For an adapter: the Ready pods of the pool that serve it."""

    identity: Identity
    exists: bool
    twin: str = ""
    """Pools that do not exist: another API group that has a pool of the name."""
    ready_endpoints: int = 0
    blockers: tuple[Blocker, ...] = ()
    """What keeps it from being a target: PickerMissing, NotServed, ..."""
    troubles: tuple[Blocker, ...] = ()
    """Why requests may not reach it, whatever its weight and its pods, in the words of who routes them."""
    lacking: tuple[str, ...] = ()
    """Adapters: Ready pods of the pool that say that they do not have it."""
    loaded: bool = False
    """Adapters: whether a pod has it that nobody else needs there."""
    mismatched: tuple[str, ...] = ()
    """Adapters: Ready pods that have something else under its name, in words."""
    confirmed: bool | None = None
    """Adapters with a source: whether a Ready pod's list says that it has it; None while no pod has said."""
    without_effect: tuple[str, ...] = ()
    """Adapters: Ready pods on which it answers as its base does."""
    uncompared: tuple[str, ...] = ()
    """Adapters: Ready pods on which it has not been compared with its base."""
    path: PathView = field(default_factory=PathView)
    crashes: CrashView = field(default_factory=CrashView)


@dataclass(frozen=True, slots=True)
class Drained:
    """No pod that is to go answers or holds a request, and nobody sends it new ones."""


@dataclass(frozen=True, slots=True)
class Draining:
    """Some of the pods that are to go still answer."""

    pods: int
    """Those that do, or do not say."""
    requests: int | None
    """What they answer and hold together; None while one of them does not say."""
    free: int = 0
    """Pods that may go before the others: a scale to ``Drain.replicas - free`` takes these and no other."""


@dataclass(frozen=True, slots=True)
class NotControllable:
    """Requests cannot be kept from some of the pods: also said of an arm of which nothing is to go yet."""

    why: str


DrainView = Drained | Draining | NotControllable
"""How far the drain of an arm is, as its controller measured after ``Drain.since``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmatchedPods:
    """Ready pods of the pool that no variant which is known matches. ``hint``: the stableHint that would name them."""

    pods: tuple[str, ...] = ()
    pool: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadView:
    """What an arm's pods come from, and those pods. ``problem``: why it is not known which workload that is."""

    what: str = ""
    """``Deployment vllm-v2``, for people."""
    problem: Blocker | None = None
    gone: bool = False
    """Its pool is, and these are the pods that are left of it: that is the ``problem``."""
    resource_version: str = ""
    replicas: int = 0
    """``spec.replicas``; where there is a ``problem``, the pods that are not being deleted."""
    live: int = 0
    """Pods of the pool that hold what they were given, those that are being deleted included."""
    pending: int = 0
    """Those of them that no node has room for."""
    words: str = ""
    """Why, in the scheduler's words."""
    managed_by: str = ""
    """Who else scales it: ``HorizontalPodAutoscaler vllm-v2``."""
    in_flight: int | None = None
    """Requests that its pods answer or hold; None while one of them does not say."""
    used_by: str = ""
    """What else sends requests to the pool: ``HTTPRoute other``."""
    refused: str = ""
    """What the API server said to the last try to scale it."""
    unanswered: str = ""
    """The same where it was to fall and the API server was only slow, or busy: no reason to leave it."""
    drain: DrainView | None = None
    """Of ``RolloutStatus.drains``; None where nothing is to go, and pods could be drained."""
    selector: str = ""
    """The pool's labels, ``app=vllm,version=v2``: what its pods are counted by when it is gone."""
    cold: int = 0
    """Pods that have not been warmed up, Ready or not, where ``capacity.warmUp`` asks for that."""
    warming: int = 0
    """Those of them that are Ready: for the order rule they are not."""
    warm_waiting: int = 0
    """Of those that are Ready: the ones that wait for their turn to be asked."""
    warm_problem: str = ""
    """What keeps one of them from getting warm, in the words of its server."""
    accelerators: int = 0
    """What those of its pods hold that have a node, workers of groups among them."""
    stops: bool = False
    """It is stopped and started as a whole, and somebody else scales it: it has 0 ``replicas`` when it is stopped."""
    stopped_by_us: bool = False
    """It is, and this Rollout did it."""

    @property
    def pods(self) -> int:
        """What it takes of the cluster, or is about to."""
        return max(self.replicas, self.live)

    @property
    def ending(self) -> int:
        """Pods beyond its replicas: a rise makes new ones beside them, however many are wanted."""
        return max(self.live - self.replicas, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Companion:
    """A pool whose pods work for those of a version."""

    identity: Identity
    role: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareCount:
    """Requests that arrived at each arm under one weight of the canary."""

    weight: Weight
    canary: int
    stable: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RiseView:
    """Requests of both arms before the last rise of weight and at the end of the time since, for ``PathBroken``."""

    weight_before: Weight
    before: int
    """Requests of both arms in the ``before_seconds`` (at most ten minutes) before the rise."""
    canary_before: int
    before_seconds: float
    recent: int
    """Requests of both arms in the last ``recent_seconds``, all of them after the rise."""
    canary_recent: int
    recent_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareView:
    """Requests that arrived at each arm since the weight was applied, over ``seconds``.

    A request counts when it arrives, not when it has been answered.
    """

    canary: int
    stable: int
    seconds: float
    complete: bool = True
    """False: a pod of the arms cannot be read now, so that the counts are lower bounds."""
    earlier: tuple[ShareCount, ...] = ()
    """Counts under the earlier weights of the attempt."""
    later: tuple[ShareCount, ...] = ()
    """Of the counts under the present weight those since moments after it was applied, the earliest first, for as long
    as the gateway may take."""
    propagation: float = 120.0
    """Seconds that the gateway may take to put a weight in force."""
    loaded: Weight | None = None
    """Adapters: the canary's weight that the endpoint pickers say they have loaded."""
    path: RiseView | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeView:
    """What the shell knows of the probe of the path."""

    offered: str = ""
    """A secret for the rule of a probe that may begin; empty while it is not known whom to ask."""
    impossible: str = ""
    """Why nobody can be asked, when that is known."""
    token: str = ""
    """The secret that the verdict belongs to."""
    verdict: ProbeVerdict | None = None
    message: str = ""


class GateOutcome(Enum):
    """What an AnalysisRun says so far, its ``onFail`` already applied."""

    RUNNING = "Running"
    PASSED = "Passed"
    ABORT = "Abort"
    PAUSE = "Pause"
    INCONCLUSIVE = "Inconclusive"
    """Inconclusive or Error: never a pass, never by itself an abort."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepVerdict:
    """What the attempt's evidence says to the gate of one step."""

    outcome: GateOutcome
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateView:
    """An AnalysisRun (or Job) of this attempt."""

    name: str
    outcome: GateOutcome
    message: str = ""
    may_pass: bool = True
    """Background runs end with the rollout: False while a metric has no good measurement yet."""
    steps: Mapping[int, StepVerdict] = field(default_factory=dict)
    """Runs with comparisons: verdicts for the gates of steps that have opened."""
    steps_hash: str = ""
    """Runs with comparisons: the list of steps that its gates belong to."""
    background: StepVerdict | None = None
    """Runs with comparisons: the verdict for the background's gate, once it has opened."""
    loses_requests: bool = False
    """What failed counts errors or lost requests."""
    marked: frozenset[int] = frozenset()
    """Steps whose beginning the run was told of."""


class JobOutcome(Enum):
    """State of the Job of a job step."""

    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowView:
    """The window that is open, or the next one. ``local``: when it opens in the time that it was written in."""

    opens_at: datetime
    closes_at: datetime
    local: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalView:
    """The last answer to an approval's question, or why there was none (``decision`` None)."""

    id: str
    decision: ApprovalDecision | None
    message: str = ""
    by: str = ""

    @property
    def words(self) -> str:
        """For people."""
        said = self.decision.value if self.decision is not None else "none"
        who = f" by {self.by}" if self.by else ""
        return f"{said}{who}{f' ({self.message})' if self.message else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyView:
    """The shared strategy that a spec names: what the attempt goes by, and what the next one will."""

    used: PinnedStrategy | None
    """What ``Observation.spec`` is made of; None: of nothing that may move a weight."""
    next: PinnedStrategy | None = None
    """The object as it is now, for an attempt that begins; None while ``problem`` says why it cannot be used."""
    spec: RolloutSpec | None = None
    """The spec made of ``next``."""
    problem: Blocker | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeView:
    """A freeze that holds now. ``until`` None: until somebody ends it. ``name`` empty: freezes are not known."""

    name: str
    reason: str
    until: datetime | None = None
    since: datetime | None = None
    """When it begins, of one that does not hold yet."""


class DependencyState(Enum):
    """How a Rollout that has to go first is."""

    HEALTHY = "Healthy"
    UNHEALTHY = "Unhealthy"
    ABORTED = "Aborted"
    MISSING = "Missing"
    """It does not exist, or nothing may be known of it."""
    CYCLE = "Cycle"
    """It waits for the Rollout itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DependencyView:
    """A Rollout of ``dependsOn``. ``since``: of one that is Healthy; ``detail``: what is said of another."""

    name: str
    state: DependencyState
    soak: timedelta
    since: datetime | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnView:
    """Why an attempt may not begin yet (``turns``): where it is full, who is in progress there, who is in front."""

    where: str
    limit: int
    holders: tuple[str, ...] = ()
    ahead: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Everything ``plan`` may know about one Rollout at one moment.

    ``status`` is as read from the API server, never from memory.
    """

    namespace: str
    name: str
    generation: int
    status: RolloutStatus
    spec: RolloutSpec | None
    """None when it cannot be read at all; ``problems`` then says why."""
    uid: str = ""
    """UID of the Rollout: a namesake made later is another one."""
    problems: tuple[Problem, ...] = ()
    deleting: bool = False
    in_haste: bool = False
    """Nobody may be here soon who could let the Rollout go: its namespace ends, or this controller is leaving."""
    has_finalizer: bool = False
    on_delete: OnDelete = OnDelete.RESTORE_STABLE
    """As far as it can be read: ``spec`` may be None."""
    release_now: bool = False
    """A person wants the finalizer gone, whatever the traffic object says."""
    command: str = ""
    """The raw command annotation, empty when there is none."""
    target: Identity | None = None
    """``spec.target`` resolved by discovery; None while it cannot be resolved (see ``target_blocker``)."""
    target_blocker: Blocker | None = None
    traffic: TrafficView | None = None
    """None when the kind of traffic object is not served, or not watched."""
    unwatched: str = ""
    """The option of the controller without which it does not watch the kind; empty: it does, or would."""
    listed: frozenset[Identity] = frozenset()
    """Versions with an entry in our rules of the traffic object; where no spec names that, in the recorded ones."""
    companion_pools: frozenset[Identity] = frozenset()
    """The pools that there are, in whichever API group, of the names of companions that the status has."""
    ways: Mapping[WayBack, WayView] = field(default_factory=dict)
    """The live object of every recorded way back, and of the proposed ones."""
    proposed: Mapping[tuple[Identity, Identity], WayBack] = field(default_factory=dict)
    """By (stable, canary), as they are or may become: the way back that the spec's traffic object needs now."""
    refused: Refused | None = None
    """The plan that was just made could not be carried out: the same write would be refused again."""
    gate_refused: Refused | None = None
    """The same of a run or Job that the plan was to make."""
    pools: Mapping[Identity, PoolView] = field(default_factory=dict)
    """At least the target, stable and canary arms that status and spec name."""
    pickers: PickersView = PickersView()
    """Adapters and variants."""
    unmatched: UnmatchedPods = UnmatchedPods()
    """Variants: what a split leaves without requests."""
    blockers: tuple[Blocker, ...] = ()
    """Keep a *new* attempt from starting: missing adapters, a pool rollout in progress, ..."""
    gates: Mapping[str, GateView] = field(default_factory=dict)
    """AnalysisRuns that the Rollout's UID owns, by name."""
    jobs: Mapping[str, JobOutcome] = field(default_factory=dict)
    """Jobs that it owns, by name."""
    taken_names: frozenset[str] = frozenset()
    """Names like those of our runs and Jobs that objects of others have."""
    compared: frozenset[int] = frozenset()
    """Steps whose gate reads the attempt's evidence."""
    only_compared: frozenset[int] = frozenset()
    """Those of them that measure nothing else, so that they need no run of their own."""
    compares: bool = False
    """Whether any gate, the background's included, reads the attempt's evidence."""
    background_compares: bool = False
    """Whether the background's gate does."""
    summaries: tuple[GateSummary, ...] = ()
    """Verdicts of this attempt's runs in words, for ``status.analysis``."""
    share: ShareView | None = None
    """None when nothing can be counted: then no weight rises, unless ``allowNoTraffic`` waives that."""
    probe: ProbeView | None = None
    """None where nobody probes paths."""
    approval: ApprovalView | None = None
    """The last answer to what the status says is asked; None where there is none."""
    strategy: StrategyView | None = None
    """None where the spec names no shared strategy."""
    workloads: Mapping[Identity, WorkloadView] = field(default_factory=dict)
    """Where the spec sets ``capacity``: of stable, the target, the canary, their companions, and what is to be scaled
    down."""
    companions: Mapping[Identity, tuple[Companion, ...] | Blocker] = field(default_factory=dict)
    """Likewise: of stable, the target and the canary, by role, or why it is not known which they are."""
    window: WindowView | None = None
    """Of ``spec.canary.windows``, at the moment of the observation; None where none is known."""
    freeze: FreezeView | None = None
    """What keeps every weight from rising at the moment."""
    dependencies: tuple[DependencyView, ...] = ()
    """Of ``spec.depends_on``, one for each, in its order; none once the attempt has begun."""
    turn: TurnView | None = None
    """What keeps an attempt at the target from beginning now; None where there is a place for it."""

    @property
    def owner(self) -> Owner:
        """For the names of runs and Jobs."""
        present = frozenset(self.gates) | frozenset(self.jobs)
        return Owner(name=self.name, uid=self.uid, present=present, taken=self.taken_names)

    def ready(self, identity: Identity) -> int:
        """Ready endpoints of an arm, 0 when it does not exist."""
        pool = self.pools.get(identity)
        return pool.ready_endpoints if pool is not None and pool.exists else 0

    def exists(self, identity: Identity) -> bool:
        """Whether the arm's object exists."""
        pool = self.pools.get(identity)
        return pool is not None and pool.exists
