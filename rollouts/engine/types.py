"""The values the engine thinks in: targets, steps, the spec and the status of one Rollout.

Everything here is immutable and free of JSON: ``rollouts.api`` is the only place that knows field names.
Times are timezone-aware ``datetime`` in UTC. Weights are integers in hundredths of a percent, so that
``"0.5%"`` is exact and equality means equality.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import NewType

from rollouts.engine.reasons import Reason
from rollouts.units import FULL, ZERO, Weight

__all__ = [
    "FULL",
    "ZERO",
    "AbortRecord",
    "AdapterTraffic",
    "AnalysisStep",
    "ArmCrashes",
    "BackgroundAnalysis",
    "CanaryStrategy",
    "CommandRecord",
    "CommandResult",
    "Condition",
    "EntryRef",
    "GateSummary",
    "HeaderMatch",
    "HeaderMatchType",
    "HeaderRouteStep",
    "HistoryEntry",
    "HoldReason",
    "HttpRouteTraffic",
    "Identity",
    "JobStep",
    "Notice",
    "OnDeadline",
    "OnDelete",
    "Outcome",
    "PathAlarm",
    "PathProbe",
    "PathStatus",
    "PauseStep",
    "Phase",
    "ProbeRecord",
    "ProbeVerdict",
    "Revision",
    "RevisionHash",
    "RolloutSpec",
    "RolloutStatus",
    "SettledBy",
    "Step",
    "Sticky",
    "Target",
    "TargetKind",
    "TargetWait",
    "TrafficMode",
    "WaitingFor",
    "WayBack",
    "Weight",
    "WeightStatus",
    "WeightStep",
    "Window",
    "format_weight",
]

RevisionHash = NewType("RevisionHash", str)


def format_weight(weight: Weight | None) -> str:
    """What people read: ``10%``, ``0.5%``, ``-`` for none."""
    if weight is None:
        return "-"
    whole, rest = divmod(weight, 100)
    return f"{whole}%" if not rest else f"{weight / 100:g}%"


# --- what should serve -----------------------------------------------------------------------------


class TargetKind(Enum):
    """What a Rollout rolls out. The two never turn into each other."""

    POOL = "pool"
    ADAPTER = "adapter"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Identity:
    """What a version *is*: two targets of one identity serve the same thing.

    ``group`` is the API group of the InferencePool, empty for adapters; ``source`` the path that a LoRA
    adapter is loaded from, empty for pools.
    """

    kind: str
    group: str
    name: str
    source: str = ""

    @property
    def arm(self) -> Identity:
        """The identity as a traffic object can tell it: without the source."""
        return self if not self.source else Identity(kind=self.kind, group=self.group, name=self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """``spec.target`` as written. ``group`` may still be empty: resolution by discovery fills it."""

    kind: TargetKind
    name: str
    group: str = ""
    source: str = ""
    revision: str = ""
    must_differ: bool = False
    """Adapters: one that answers the probe as its base does is refused, not only warned of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """A target as first seen: identity, the free ``revision`` string and the hash stored with them."""

    identity: Identity
    revision: str
    hash: RevisionHash

    @property
    def short(self) -> str:
        """The first eight digits, as shown to people and used in object names."""
        return self.hash[:8]

    @property
    def label(self) -> str:
        """``name (hash8)`` for messages."""
        return f"{self.identity.name} ({self.short})"


# --- steps -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightStep:
    """``setWeight``."""

    weight: Weight


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseStep:
    """``pause``; ``duration`` None waits for ``promote``."""

    duration: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisStep:
    """``analysis``: a gate. What it measures is opaque to the engine: ``fingerprint`` tells edits apart."""

    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStep:
    """``job``: a Kubernetes Job whose end is the verdict."""

    fingerprint: str


class HeaderMatchType(Enum):
    """How a header value is compared."""

    EXACT = "exact"
    PREFIX = "prefix"
    REGEX = "regex"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderMatch:
    """One header condition of a header route; several are joined by AND."""

    name: str
    value: str
    type: HeaderMatchType = HeaderMatchType.EXACT


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderRouteStep:
    """``setHeaderRoute``: requests that match reach the canary. No match removes the route of that name."""

    name: str
    match: tuple[HeaderMatch, ...]


Step = WeightStep | PauseStep | AnalysisStep | JobStep | HeaderRouteStep


# --- spec ------------------------------------------------------------------------------------------


class TrafficMode(Enum):
    """Who makes the traffic object."""

    MANAGED = "Managed"
    ADOPTED = "Adopted"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRouteTraffic:
    """``traffic.httpRoutes[0]``. Managed when a template is given. ``fingerprint`` covers the template."""

    kind: str = "HTTPRoute"
    name: str
    mode: TrafficMode
    rule_names: tuple[str, ...] = ()
    add_backend: bool = False
    fingerprint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterTraffic:
    """The model object that ``traffic`` names. ``kind`` is its kind in the API: any that splits adapters."""

    kind: str
    name: str
    model_name: str
    pool_name: str = ""
    pool_group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sticky:
    """Key of an adapter split: one of header, cookie, body field; ``pin_header`` lets testers choose."""

    header: str = ""
    cookie: str = ""
    body_field: str = ""
    pin_header: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BackgroundAnalysis:
    """``strategy.canary.analysis``: judged from ``starting_step`` (0-based) to the end."""

    fingerprint: str
    starting_step: int = 0


class OnDeadline(Enum):
    """What a missed ``progressDeadline`` does."""

    ABORT = "Abort"
    PAUSE = "Pause"


class OnDelete(Enum):
    """What deleting the Rollout does to traffic."""

    RESTORE_STABLE = "RestoreStable"
    KEEP_TRAFFIC = "KeepTraffic"
    DELETE_TRAFFIC = "DeleteTraffic"


class PathProbe(Enum):
    """``strategy.canary.pathProbe``: what a few requests of ours before the first weight may do."""

    OFF = "Off"
    REPORT = "Report"
    REQUIRE = "Require"


class ProbeVerdict(Enum):
    """How a probe of the path ended."""

    PASSED = "Passed"
    FAILED = "Failed"
    NOT_JUDGED = "NotJudged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """``strategy.canary.windows[]``: from each moment of a cron schedule on for ``duration``, in ``time_zone``."""

    schedule: str
    duration: timedelta
    time_zone: str = "UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryStrategy:
    """``strategy.canary``."""

    steps: tuple[Step, ...]
    analysis: BackgroundAnalysis | None = None
    sticky: Sticky | None = None
    endpoint_ratio: float = 0.5
    bake: timedelta = timedelta(0)
    progress_deadline: timedelta = timedelta(minutes=30)
    on_deadline: OnDeadline = OnDeadline.ABORT
    target_deadline: timedelta | None = timedelta(hours=2)
    """Time that a new target may take to become Ready; None for any."""
    path_probe: PathProbe = PathProbe.REPORT
    allow_no_traffic: bool = False
    """Weight may rise although no request was counted at the canary."""
    windows: tuple[Window, ...] = ()
    """When weight may rise; without any, always."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSpec:
    """``spec``, defaults filled in."""

    target: Target
    traffic: HttpRouteTraffic | AdapterTraffic
    canary: CanaryStrategy
    rollback_window: timedelta = timedelta(0)
    stable_hint: str = ""
    allow_missing_models: bool = False
    paused: bool = False
    on_delete: OnDelete = OnDelete.RESTORE_STABLE


# --- status ----------------------------------------------------------------------------------------


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


class SettledBy(Enum):
    """How a Healthy Rollout came to its stable version, where that is still said of it."""

    INITIALIZED = Reason.INITIALIZED
    PROMOTED = Reason.PROMOTED


class PathAlarm(Enum):
    """What the watch over the path has found out, and the attempt is about to be aborted for."""

    NOT_PROGRAMMED = Reason.SHARE_NOT_PROGRAMMED
    BROKEN = Reason.PATH_BROKEN


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
    """One entry of a traffic object in full: a backendRef, or an adapter of a model object (``name`` alone).

    ``namespace`` empty is the namespace of the traffic object; ``port`` None where none is written.
    """

    kind: str
    name: str
    group: str = ""
    namespace: str = ""
    port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WayBack:
    """What giving a traffic object's canary weight back to stable needs, without the spec (design rule 6).

    Stored before the canary gets its first weight. Rules are told by their entries, never by index, name or UID,
    since all of these can be edited. ``share`` is the part of its rule that both arms had together, beside
    entries of others. ``spared`` are fingerprints of rules that sent requests to the canary before us: not ours.
    """

    kind: str
    group: str
    name: str
    mode: TrafficMode
    stable: EntryRef
    canary: EntryRef
    share: Weight = FULL
    spared: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PathStatus:
    """What the watch over the path from clients to the canary must not forget (design rule 4)."""

    ceiling: Weight | None = None
    """No higher weight than this: no canary request was counted under it yet, the share refutes it, or a write
    above it was undone."""
    undone_at: datetime | None = None
    """When a rise was undone because requests stopped; None once it is known whose fault that was."""
    requests_before: int = 0
    """Requests of both arms in ten minutes, before the rise that was undone."""
    undone: bool = False
    """A rise of this attempt was undone: that happens once."""
    alarm: str = ""
    """``Reason: why`` of an abort that was decided by what was counted; stored before it is written, since a new
    process has counted nothing."""
    alarm_kind: PathAlarm | None = None
    refuted: bool = False
    """The last plan said that the share refutes the weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortRecord:
    """Terminal for ``hash`` until the spec leaves that hash or ``retry``."""

    hash: RevisionHash
    step: int
    at: datetime
    reason: str
    message: str


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
class HistoryEntry:
    """One candidate that ended, newest last, bounded."""

    revision: Revision
    attempt: int
    outcome: Outcome
    at: datetime
    message: str = ""
    stable_until: datetime | None = None
    """For promoted revisions: when they stopped being stable. None while they still are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetWait:
    """The clock of ``targetDeadline``. ``target`` is a stamp (``stamps.py``) of what the spec asks for.

    ``since`` is when it was first seen, later by the time that the clock stood.
    """

    target: str
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSummary:
    """One line of ``status.analysis``."""

    run: str
    metric: str
    verdict: str
    effect: str = ""
    evidence: str = ""


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
class ArmCrashes:
    """Crashes of one arm's pods in the attempt."""

    count: int = 0
    restarts: int = 0
    """The pods' restarts at the last look, from which the next crash is told."""
    at: datetime | None = None
    """The last one that counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRecord:
    """The probe of the path in this attempt; open while there is no verdict."""

    since: datetime
    token: str = ""
    """The header value of the rule in the route; empty before and after."""
    verdict: ProbeVerdict | None = None
    message: str = ""


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
    settled_by: SettledBy | None = None
    observed_generation: int = 0
    stable: Revision | None = None
    canary: Revision | None = None
    attempt: int = 0
    current_step: int = 0
    """0-based; equals ``step_count`` when all steps are done (bake, promotion)."""
    step_count: int = 0
    steps_hash: str = ""
    step_started_at: datetime | None = None
    started_at: datetime | None = None
    """When the attempt left WaitingForTarget; None before."""
    bake_started_at: datetime | None = None
    """When all steps were done and 100 % was in force."""
    weight: WeightStatus = field(default_factory=WeightStatus)
    weight_cap: Weight | None = None
    """Set when steps were edited: an edit never raises weight, so its landing step is capped at this."""
    path: PathStatus = field(default_factory=PathStatus)
    stable_endpoints_at_start: int = 0
    unready_since: datetime | None = None
    """Since when the canary cannot serve; of one that was pulled, until it gets its weight back."""
    target_wait: TargetWait | None = None
    """While a new target is waited for."""
    standing_since: datetime | None = None
    """Since when no deadline runs (``deadlines.standing``)."""
    pulled: bool = False
    """The carrying canary could not serve for too long and was set to 0; the step is kept."""
    pulls: int = 0
    """How often that happened in this attempt: each return needs longer."""
    ready_since: datetime | None = None
    """Since when it can serve again, while that is too new for weight (``carrying``)."""
    probe: ProbeRecord | None = None
    canary_crashes: ArmCrashes = field(default_factory=ArmCrashes)
    stable_crashes: ArmCrashes = field(default_factory=ArmCrashes)
    hold: HoldReason | None = None
    hold_message: str = ""
    overrides: tuple[str, ...] = ()
    """Names of AnalysisRuns whose verdict a person overrode by ``promote``."""
    skip_gates: bool = False
    """``promoteFull`` or the rollback window: steps and bake are skipped, readiness never."""
    adopted_split: bool = False
    """First seen with live traffic on both arms: the first write is the first step's weight."""
    way_back: tuple[WayBack, ...] = ()
    """One per traffic object and canary that has weight, or may have; the newest last."""
    traffic_uid: str = ""
    traffic_adopted: bool = False
    """The traffic object is somebody else's: when it is gone it is waited for, not made again."""
    restores: tuple[datetime, ...] = ()
    """When foreign writes were restored away from stable, newest last; only the last 10 minutes count."""
    analysis: tuple[GateSummary, ...] = ()
    aborted: AbortRecord | None = None
    last_command: CommandRecord | None = None
    history: tuple[HistoryEntry, ...] = ()
    conditions: tuple[Condition, ...] = ()
    notices: tuple[Notice, ...] = ()
    """Notifications that are owed (``notices``)."""
