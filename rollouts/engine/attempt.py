"""What belongs to a running attempt, in one value: it begins, and is over, by one assignment.

Times are timezone-aware ``datetime`` in UTC. In the JSON of a status its fields stand among the Rollout's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from rollouts.engine.reasons import Reason
from rollouts.engine.versions import Identity, Revision, RevisionHash
from rollouts.units import Weight

__all__ = [
    "AbortRecord",
    "ApprovalDecision",
    "ApprovalRecord",
    "ArmCrashes",
    "Attempt",
    "AttemptCapacity",
    "CompanionCapacity",
    "DecidedApproval",
    "GateSummary",
    "PathAlarm",
    "PathStatus",
    "PinnedStrategy",
    "ProbeRecord",
    "ProbeVerdict",
]


class PathAlarm(Enum):
    """What the watch over the path has found out, and the attempt is about to be aborted for."""

    NOT_PROGRAMMED = Reason.SHARE_NOT_PROGRAMMED
    BROKEN = Reason.PATH_BROKEN


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


class ProbeVerdict(Enum):
    """How a probe of the path ended."""

    PASSED = "Passed"
    FAILED = "Failed"
    NOT_JUDGED = "NotJudged"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRecord:
    """The probe of the path in this attempt; open while there is no verdict."""

    since: datetime
    token: str = ""
    """The header value of the rule in the route; empty before and after."""
    verdict: ProbeVerdict | None = None
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmCrashes:
    """Crashes of one arm's pods in the attempt."""

    count: int = 0
    restarts: int = 0
    """The pods' restarts at the last look, from which the next crash is told."""
    at: datetime | None = None
    """The last one that counted."""


class ApprovalDecision(Enum):
    """What a receiver answers to the question of an approval."""

    APPROVE = "approve"
    DENY = "deny"
    WAIT = "wait"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRecord:
    """What the present step asks: stored before anybody is asked."""

    id: str
    """Of this step of this attempt: an answer to another id is nobody's."""
    webhook: str
    since: datetime
    answer: str = ""
    """The last answer in words."""
    granted: bool = False
    """Approved: what the step still waits for is something else, and nobody is asked again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecidedApproval:
    """An answer that decided: ``step`` from 0, ``by`` empty where the receiver named nobody."""

    step: int
    webhook: str
    decision: ApprovalDecision
    at: datetime
    by: str = ""
    message: str = ""

    @property
    def words(self) -> str:
        """``step 2 by ann: ticket 4711``."""
        return (
            f"step {self.step + 1} by {self.by or self.webhook}{f': {self.message}' if self.message else ''}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompanionCapacity:
    """Pods of one companion of the versions of an attempt, as ``AttemptCapacity`` has those of the versions.

    Which pools these are is settled when the first step begins: labels and ``with`` count from the next attempt on.
    """

    stable: Identity
    """Stable's pool of that role."""
    canary: Identity
    """The canary's."""
    role: str = ""
    stable_at_start: int = 0
    """P: replicas of stable's, or its Ready pods where those are more, as they were when the first step began."""
    wanted: int = 0
    selector: str = ""
    reached: int = 0
    restores: tuple[datetime, ...] = ()
    ready: int = 0
    pending: int = 0
    stable_ready: int = 0
    """Ready pods of stable's at the start, as P."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptCapacity:
    """Pods of an attempt: how many are wanted is stored before a workload is scaled, so that a late cache never is."""

    stable_at_start: int = 0
    """N: stable's replicas, or its Ready pods where those are more, as they were when the first step began."""
    wanted: int = 0
    """The canary's replicas that the weights asked for so far; never falls within an attempt."""
    selector: str = ""
    """Labels of the canary's pool, by which its pods are counted when the pool is gone."""
    reached: int = 0
    """The most of them that its workload was seen with: fewer later are somebody else's doing."""
    restores: tuple[datetime, ...] = ()
    """When replicas that somebody else lowered were restored; only the last 10 minutes count."""
    ceiling: Weight | None = None
    """No higher weight than this, which the canary's Ready pods carry, where what a step's weight needs fits only when
    stable has given pods; it never falls below what is in force."""
    ready: int = 0
    """The canary's Ready pods."""
    pending: int = 0
    """Its pods that no node has room for yet."""
    warming: int = 0
    """Its pods that are Ready and not warm yet: they are not among ``ready``."""
    stable_ready: int = 0
    """Stable's Ready pods at the start, as N."""
    companions: tuple[CompanionCapacity, ...] = ()
    """Pools whose pods work for those of the versions, by role."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortRecord:
    """Terminal for ``hash`` until the spec leaves that hash or ``retry``."""

    hash: RevisionHash
    step: int
    at: datetime
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSummary:
    """One line of ``status.analysis``."""

    run: str
    metric: str
    verdict: str
    effect: str = ""
    evidence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedStrategy:
    """The shared strategy that an attempt goes by, whatever becomes of the object.

    Its fields are opaque to the engine: ``content`` is the JSON text of them, ``hash`` tells edits apart.
    """

    kind: str
    name: str
    hash: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What belongs to one canary's time, from its start until it is promoted or dropped, and to nothing else.

    An aborted one stays: it is what the spec still asks for. Names of objects count ``RolloutStatus.attempt``.
    """

    canary: Revision
    strategy: PinnedStrategy | None = None
    """The shared strategy that it goes by; None where ``strategy.canary`` says all."""
    steps_hash: str = ""
    current_step: int = 0
    """0-based; equals the number of steps when all are done (bake, promotion)."""
    step_started_at: datetime | None = None
    seen_at: datetime | None = None
    """When its target was ready and those that it depends on were first looked at."""
    queued_at: datetime | None = None
    """When it asked for its turn, which is its place in the line; None while it never had to wait for one."""
    started_at: datetime | None = None
    """When it left WaitingForTarget; None before. Stored, it is the claim of a place (``turns``)."""
    bake_started_at: datetime | None = None
    """When all steps were done and 100 % was in force."""
    weight_cap: Weight | None = None
    """Set when steps were edited: an edit never raises weight, so its landing step is capped at this."""
    path: PathStatus = field(default_factory=PathStatus)
    stable_endpoints_at_start: int = 0
    unready_since: datetime | None = None
    """Since when the canary cannot serve; of one that was pulled, until it gets its weight back."""
    pulled: bool = False
    """The carrying canary could not serve for too long and was set to 0; the step is kept."""
    pulls: int = 0
    """How often that happened: each return needs longer."""
    ready_since: datetime | None = None
    """Since when it can serve again, while that is too new for weight (``carrying``)."""
    probe: ProbeRecord | None = None
    capacity: AttemptCapacity | None = None
    """Where ``strategy.canary.capacity`` is set."""
    canary_crashes: ArmCrashes = field(default_factory=ArmCrashes)
    stable_crashes: ArmCrashes = field(default_factory=ArmCrashes)
    overrides: tuple[str, ...] = ()
    """Names of AnalysisRuns whose verdict a person overrode by ``promote``."""
    approval: ApprovalRecord | None = None
    """What the present step asks; gone when the step is left."""
    approvals: tuple[DecidedApproval, ...] = ()
    """What was approved or denied, and by whom."""
    skip_gates: bool = False
    """``promoteFull`` or the rollback window: steps and bake are skipped, readiness never."""
    adopted_split: bool = False
    """First seen with live traffic on both arms: the first write is the first step's weight."""
    restores: tuple[datetime, ...] = ()
    """When foreign writes were restored away from stable, newest last; only the last 10 minutes count."""
    analysis: tuple[GateSummary, ...] = ()
    aborted: AbortRecord | None = None

    def is_at(self, target: Identity | None, revision: str) -> bool:
        """Whether this is the attempt at a target, and not one that the spec has left since."""
        return (self.canary.identity, self.canary.revision) == (target, revision)

    @property
    def may_carry(self) -> bool:
        """Whether the canary may have requests: it has started, or had some when it was first seen."""
        return self.started_at is not None or self.adopted_split
