"""``status``: what outlives an attempt, and the attempt, if there is one.

Times are timezone-aware ``datetime`` in UTC. Weights are integers in hundredths of a percent, so that ``"0.5%"`` is
exact and equality means equality.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum

from rollouts.engine.attempt import AbortRecord, Attempt, DecidedApproval
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import TrafficMode
from rollouts.engine.versions import Identity, Revision
from rollouts.units import FULL, Weight

__all__ = [
    "FOR_OTHERS",
    "AcceleratorUse",
    "CommandRecord",
    "CommandResult",
    "CompanionScale",
    "Condition",
    "Drain",
    "EntryRef",
    "HistoryEntry",
    "HoldReason",
    "KeptCompanion",
    "Notice",
    "Outcome",
    "Phase",
    "ReturnProgress",
    "RolloutStatus",
    "ScaleDown",
    "SettledBy",
    "StableScale",
    "TargetWait",
    "WaitingFor",
    "WayBack",
    "WeightStatus",
]


class Phase(Enum):
    """``status.phase``. The empty phase is a Rollout nobody has looked at yet."""

    NEW = ""
    HEALTHY = "Healthy"
    PROGRESSING = "Progressing"
    PAUSED = "Paused"
    WAITING = "WaitingForTarget"
    ABORTED = "Aborted"
    INVALID = "Invalid"


class HoldReason(Enum):
    """Why a Rollout does not move although it could. Kept in status until something lifts it."""

    COMMAND = Reason.PAUSED_BY_COMMAND
    MANUAL_OVERRIDE = Reason.MANUAL_OVERRIDE
    CONTENDED = Reason.TRAFFIC_CONTENDED
    SPLIT_AT_START = Reason.SPLIT_AT_START
    AMBIGUOUS_START = Reason.AMBIGUOUS_START
    UNMATCHED_PODS = Reason.UNMATCHED_PODS
    GATE_FAILED = Reason.GATE_FAILED
    GATE_INCONCLUSIVE = Reason.GATE_INCONCLUSIVE
    DEADLINE = Reason.PROGRESS_DEADLINE_EXCEEDED


class WaitingFor(Enum):
    """What an attempt waits for that decides something later: which clocks stand, and which begin anew."""

    REQUESTS = "Requests"
    """One request at the canary."""
    COUNTS = "Counts"
    """Somebody who can count requests."""
    ANALYSIS = "Analysis"
    """A background analysis that has not passed, or not measured, yet."""
    SPEC = "Spec"
    """``spec.paused`` to be lifted."""
    WINDOW = "Window"
    """A window in which weight may rise."""
    FREEZE = "Freeze"
    """The end of a freeze."""
    DEPENDENCY = "Dependency"
    """Rollouts that go first."""
    TURN = "Turn"
    """A place among the Rollouts in progress: who waits for that, and lacks nothing but pods to come, is in line."""
    DRAIN = "Drain"
    """Pods of stable that are to make room, and still answer requests: ``drainTimeout`` bounds that."""


FOR_OTHERS = frozenset({WaitingFor.FREEZE, WaitingFor.DEPENDENCY, WaitingFor.TURN, WaitingFor.WINDOW})
"""What an attempt that has not begun waits for, its target lacking pods to come at most: ``promoteFull`` begins it."""


class SettledBy(Enum):
    """How a Healthy Rollout came to its stable version, where that is still said of it."""

    INITIALIZED = Reason.INITIALIZED
    PROMOTED = Reason.PROMOTED


class Outcome(Enum):
    """How a candidate's time ended, for the history."""

    PROMOTED = "Promoted"
    ABORTED = "Aborted"
    SUPERSEDED = "Superseded"
    WITHDRAWN = "Withdrawn"


class CommandResult(Enum):
    """How a command ended. Commands are never queued."""

    DONE = "Done"
    REJECTED = "Rejected"
    IN_PROGRESS = "InProgress"
    """An abort that is decided, while the traffic object still sends requests to the canary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightStatus:
    """Share of ``spec.target``: ``desired`` by the step, ``applied`` in the traffic object, ``observed`` as measured.

    It is the canary's share while there is one, and 100 % once the target is stable.
    """

    desired: Weight | None = None
    applied: Weight | None = None
    """What the stored object says, whoever wrote it."""
    observed: Weight | None = None
    written: Weight | None = None
    """What we wrote last, where the object says something else by now."""
    since: datetime | None = None
    """When the weight that we ask for came into force: what was measured before was another weight's traffic."""

    @property
    def ours(self) -> Weight | None:
        """What we wrote last: what differs from it in the object was written by somebody else."""
        return self.applied if self.written is None else self.written

    def put(self, weight: Weight, now: datetime) -> WeightStatus:
        """This weight is asked for and in force."""
        since = self.since if weight == self.applied else now
        return replace(self, desired=weight, applied=weight, written=None, since=since)


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryRef:
    """One entry of a traffic object in full: a backendRef, an adapter of a model object (``name`` alone), or a variant.

    ``source`` is a variant's (see ``Identity``). ``namespace`` empty is that of the traffic object; ``port`` None where
    none is written.
    """

    kind: str
    name: str
    group: str = ""
    namespace: str = ""
    port: int | None = None
    source: str = ""

    @property
    def arm(self) -> Identity:
        """The version that the entry names."""
        return Identity(kind=self.kind, group=self.group, name=self.name, source=self.source)


@dataclass(frozen=True, slots=True, kw_only=True)
class WayBack:
    """What giving a traffic object's canary weight back to stable needs, without the spec (design rule 6).

    Stored before the canary gets its first weight. Rules are told by their entries, never by index, name or UID,
    since all of these can be edited. ``share`` is the part of its rule that both arms had together, beside
    entries of others. ``spared`` are fingerprints of rules that sent requests to the canary before us: not ours.
    ``pool`` and ``model`` are whose requests a PoolSplit shares: with them it can be made anew. ``joint`` is the weight
    that both arms had together where each of a group's members has its own, beside some of others; 0: there were none.
    """

    kind: str
    group: str
    name: str
    mode: TrafficMode
    stable: EntryRef
    canary: EntryRef
    share: Weight = FULL
    spared: tuple[str, ...] = ()
    pool: str = ""
    model: str = ""
    joint: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRecord:
    """The last command that was looked at. ``raw`` is what newness is judged by."""

    raw: str
    action: str
    result: CommandResult
    message: str
    at: datetime
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptCompanion:
    """A companion that a version had when it carried all traffic, with its pods then."""

    identity: Identity
    role: str = ""
    pods: int = 0
    selector: str = ""
    """Labels of its pool, by which its pods are counted when the pool is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """One candidate that ended, newest last, bounded."""

    revision: Revision
    attempt: int
    outcome: Outcome
    at: datetime
    message: str = ""
    stable_until: datetime | None = None
    """For promoted revisions: when they stopped being stable. None while they still are."""
    approvals: tuple[DecidedApproval, ...] = ()
    """What was approved or denied in the attempt."""
    pods: int = 0
    """Of promoted revisions: the pods that carried all traffic, where workloads were scaled; 0: not known."""
    companions: tuple[KeptCompanion, ...] = ()
    """Likewise, of the companions that it had then: a way back needs no label and no list for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleDown:
    """The workload of a version that lost, until it has been scaled down."""

    identity: Identity
    since: datetime | None = None
    """Since when it has no weight; None while it has some."""
    decided: bool = False
    """It is to be scaled down now: stored before the workload is written."""
    reached: bool = False
    """Its workload was seen scaled down: more replicas later are somebody else's doing."""
    restores: tuple[datetime, ...] = ()
    """When what somebody scaled up again was scaled down again; only the last 10 minutes count."""
    selector: str = ""
    """Labels of its pool, by which its pods are counted when the pool is gone."""
    of: Identity | None = None
    """Of a companion: the version that its pods work for, which goes first; itself where it works for none any more."""
    role: str = ""
    pods: int = 0
    """Of a companion: its pods for ``of_pods`` of that version, as they were when the attempt began."""
    of_pods: int = 0
    message: str = ""
    """What it waits for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """An arm that may have requests is to lose pods: those that go are drained first, then its workload is scaled.

    Stored before a pod is touched; what is gone from here is not to go any more. One per arm.
    """

    identity: Identity
    replicas: int
    """What its workload had when that was decided."""
    to: int
    """What it is given: ``replicas - to`` pods go."""
    since: datetime
    """``drainTimeout`` counts from here."""
    message: str = ""
    """What it waits for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnProgress:
    """The best that a return of traffic with pods has come to; ``at`` is when it last came further."""

    began: datetime
    at: datetime
    ready: int
    """Stable's Ready pods, the most of them so far."""
    replicas: int
    """Its replicas, likewise."""
    beside: int
    """Replicas and pods of what makes room, the fewest so far."""
    undrained_since: datetime | None = None
    """Since when requests cannot be kept from single pods that are to make room."""
    unwritten: bool = False
    """Whether the weight that is to fall could not be written when that was tried last: the clock stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompanionScale:
    """The workload of one of stable's companions while stable gives pods, as ``StableScale`` has stable's own."""

    identity: Identity
    role: str = ""
    full: int
    """P: what it had at the start."""
    wanted: int
    most: int
    """Pods of the companions of this role of all versions together."""
    reached: bool = False
    restores: tuple[datetime, ...] = ()
    ready: int = 0
    pending: int = 0
    ready_at_start: int = 0
    gone_since: datetime | None = None
    """On the way back: since when its pool, or what makes its pods, has not been there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StableScale:
    """Stable's workload, from when it is to have fewer replicas than at the start until it has them again.

    All that the way back needs is in here, whatever becomes of the spec.
    """

    identity: Identity
    full: int
    """N: what it had at the start, and gets back unless it is replaced."""
    wanted: int
    """Its replicas by our doing: stored before its workload is written."""
    most: int
    """Pods of all versions together: N + maxSurge."""
    reached: bool = False
    """Its workload was seen with that: another number later is somebody else's doing."""
    returning: bool = False
    """It is on the way back to N: no attempt needs its room any more."""
    immediate: bool = False
    """All traffic goes back at once; otherwise as its pods become Ready."""
    restores: tuple[datetime, ...] = ()
    """When what somebody else wrote was restored; only the last 10 minutes count."""
    ready: int = 0
    """Its Ready pods."""
    pending: int = 0
    """Its pods that no node has room for yet."""
    ready_at_start: int = 0
    """Its Ready pods before it gave any: more of them are no business of the way back. 0: all of N."""
    drain_seconds: int = 1800
    """``drainTimeout`` as it was when pods were taken from it."""
    progress: ReturnProgress | None = None
    """While a canary keeps traffic that it has no pods for."""
    blocked: str = ""
    """Why all traffic goes back at once although the policy says otherwise."""
    companions: tuple[CompanionScale, ...] = ()
    """Its companions, which give pods with it, by role."""

    @property
    def parts(self) -> tuple[StableScale | CompanionScale, ...]:
        """Its own workload, then those of its companions."""
        return (self, *self.companions)


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceleratorUse:
    """Accelerators (``nvidia.com/gpu`` and its like) that pods of all versions held in an attempt, times seconds."""

    attempt: int
    seconds: int = 0
    """What was added up until ``since``."""
    extra_seconds: int = 0
    """Those of them beyond ``own``."""
    held: int = 0
    """What pods that have a node hold since ``since``."""
    own: int = 0
    """What stable's held when counting began."""
    since: datetime | None = None
    """None when it is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetWait:
    """The clock of ``targetDeadline``. ``target`` is a stamp (``stamps.py``) of what the spec asks for.

    ``since`` is when it was first seen, later by the time that the clock stood.
    """

    target: str
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A Kubernetes condition."""

    type: str
    status: str
    reason: str
    message: str
    observed_generation: int
    last_transition: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What a receiver is to be told, and has not been yet. ``id`` is the same in every try of a delivery."""

    id: str
    trigger: str
    receiver: str
    phase: str
    at: datetime
    reason: str = ""
    message: str = ""
    attempt: int = 0
    stable: str = ""
    canary: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutStatus:
    """``status``: everything that must survive a restart, and what people read."""

    phase: Phase = Phase.NEW
    reason: str = ""
    """For people, as ``message``: nothing is decided by it."""
    message: str = ""
    waiting_for: WaitingFor | None = None
    """Of the last plan, as ``settled_by``: each move of a phase says both anew."""
    settled_by: SettledBy | None = None
    observed_generation: int = 0
    stable: Revision | None = None
    current: Attempt | None = None
    """None while the target is stable, or nobody knows yet which version is."""
    attempt: int = 0
    """Number of the last attempt: it outlives each, so that no name of a run or Job comes twice."""
    step_count: int = 0
    """Steps of the attempt, or of the one that was promoted: people read 6/6 of a finished rollout."""
    weight: WeightStatus = field(default_factory=WeightStatus)
    """Of ``spec.target``, which is stable where there is no attempt."""
    target_wait: TargetWait | None = None
    """While a new target is waited for, which may be before it is found and an attempt begins."""
    standing_since: datetime | None = None
    """Since when no deadline runs (``deadlines.standing``), that of a target without an attempt included."""
    hold: HoldReason | None = None
    """Some of a Rollout without an attempt: nobody has said which version is stable."""
    hold_message: str = ""
    way_back: tuple[WayBack, ...] = ()
    """One per traffic object and canary that has weight, or may have; the newest last. One outlives its attempt
    until the canary's weight is given back."""
    scale_downs: tuple[ScaleDown, ...] = ()
    """Where ``strategy.canary.capacity`` is set: one per version that lost and still has pods, the newest last."""
    drains: tuple[Drain, ...] = ()
    """Which arms are to lose pods that may have requests."""
    stable_scale: StableScale | None = None
    """While stable has fewer replicas than at the start by our doing."""
    owed: StableScale | None = None
    """Stable with those of its companions that nobody waits for any more, since nothing makes their pods: they get
    theirs when something does again. Its own numbers say nothing."""
    accelerators: AcceleratorUse | None = None
    """Of the last attempt that wanted pods, until what it owed has been scaled."""
    traffic_uid: str = ""
    traffic_adopted: bool = False
    """The traffic object is somebody else's: when it is gone it is waited for, not made again."""
    last_command: CommandRecord | None = None
    history: tuple[HistoryEntry, ...] = ()
    conditions: tuple[Condition, ...] = ()
    notices: tuple[Notice, ...] = ()
    """Notifications that are owed (``notices``)."""

    @property
    def canary(self) -> Revision | None:
        """The version that is being rolled out."""
        return None if self.current is None else self.current.canary

    @property
    def running(self) -> Attempt | None:
        """The attempt whose steps are being executed: it has started, and was not aborted."""
        return self.current if self.started_at is not None and self.aborted is None else None

    @property
    def started_at(self) -> datetime | None:
        """When the attempt left WaitingForTarget; None before, and without one."""
        return None if self.current is None else self.current.started_at

    @property
    def aborted(self) -> AbortRecord | None:
        """How the attempt was aborted."""
        return None if self.current is None else self.current.aborted

    @property
    def current_step(self) -> int:
        """What people read, and commands are bound to: without an attempt all steps are done."""
        return self.step_count if self.current is None else self.current.current_step

    @property
    def step_text(self) -> str:
        """The step as people count, ``2/6``; empty where there is none."""
        return f"{min(self.current_step + 1, self.step_count)}/{self.step_count}" if self.step_count else ""

    def was_stable(self, identity: Identity, window: timedelta, now: datetime) -> bool:
        """Whether this version was stable within the rollback window: a way back to it skips steps and gates."""
        ends = (one.stable_until for one in self.history if one.revision.identity == identity)
        return any(until is not None and now < until + window for until in ends)

    def promoted(self, identity: Identity) -> HistoryEntry | None:
        """The last time that this version became stable, as far as the history goes back."""
        found = (
            one
            for one in reversed(self.history)
            if one.outcome is Outcome.PROMOTED and one.revision.identity == identity
        )
        return next(found, None)

    @property
    def arms(self) -> tuple[Revision, ...]:
        """The versions that may serve: stable and the canary, as far as there are any."""
        return tuple(arm for arm in (self.stable, self.canary) if arm is not None)
