"""The model of a Rollout's status: its schema documents what people and tools read, and ``codec.py`` goes by it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rollouts.api.base import ApiModel
from rollouts.api.capacity_status_models import (
    AcceleratorUseModel,
    AttemptCapacityModel,
    DrainModel,
    KeptCompanionModel,
    ScaleDownModel,
    StableScaleModel,
)
from rollouts.api.codec import Stored
from rollouts.api.scalars import IntOrPercent
from rollouts.api.stored_scalars import (
    KEPT,
    Filled,
    Kept,
    KeptNumber,
    KeptShort,
    Long,
    Noticed,
    Number,
    Said,
    Short,
    Source,
    Time,
)
from rollouts.objects.pool_splits import MAX_MODEL

__all__ = ["MOST_STRATEGY", "ConditionModel", "RolloutStatusModel"]

MOST_STRATEGY = 32 * 1024
"""Characters of a shared strategy's fields as JSON: an attempt stores them, and a status is read and written often."""


class ConditionModel(ApiModel):
    """A condition."""

    type: Short
    """Ready, Reconciling, Stalled, TargetReady, TrafficApplied, TrafficContended or SpecValid."""
    status: Short
    """True, False or Unknown."""
    reason: KeptShort = ""
    """Constant reason."""
    message: Kept = ""
    """What it means."""
    observed_generation: KeptNumber = 0
    """Generation that it was made for."""
    last_transition_time: Time
    """When the status last changed."""


class ArmModel(ApiModel):
    """A version: the full target and its hash."""

    kind: Short
    """InferencePool, Adapter or Variant."""
    group: Short = ""
    """API group of the pool."""
    name: Filled
    """Name."""
    source: Source = ""
    """Path that the adapter is loaded from; the labels of a variant's pods, and the model that is sent to them."""
    revision: Short = ""
    """The free revision string."""
    hash: Annotated[Short, Stored(least=64)]
    """SHA-256 of the revision."""
    text: Short = ""
    """Name and short hash, for people."""


class WeightModel(ApiModel):
    """Share of the target in percent."""

    desired: IntOrPercent | None = None
    """What the current step asks for."""
    applied: IntOrPercent | None = None
    """What the traffic object says."""
    observed: IntOrPercent | None = None
    """What the pods' request counters show."""
    since: Time | None = None
    """When `applied` was last changed by the controller: gates measure nothing from before."""
    written: IntOrPercent | None = None
    """What the controller wrote last, where the traffic object says something else."""


class ProbeModel(ApiModel):
    """A few requests through the gateway to the canary, before it has weight."""

    since: Time
    """When it began."""
    token: Short = ""
    """Header value of the rule that is in the route while the probe is open."""
    verdict: Short = ""
    """Passed, Failed or NotJudged; absent while it is open."""
    message: Said = ""
    """What was found, and the likely cause."""


class ArmCrashesModel(ApiModel):
    """Crashes of one version's pods."""

    count: Number = 0
    """Crashes in this attempt; pods that crash within 10 s of each other count once."""
    restarts: Number = 0
    """Restarts of the present pods at the last look."""
    at: Time | None = None
    """The last crash that counted."""


class CrashesModel(ApiModel):
    """Crashes of both versions' pods: a canary that crashes more than stable can explain is aborted."""

    canary: ArmCrashesModel | None = None
    """The canary's."""
    stable: ArmCrashesModel | None = None
    """Stable's."""


class PathModel(ApiModel):
    """What the watch over the path to the canary must not forget."""

    ceiling: IntOrPercent | None = None
    """No higher weight than this, until a canary request was counted under it."""
    undone_at: Time | None = None
    """When a rise was undone because requests of both versions stopped."""
    requests_before: Number = 0
    """Requests in ten minutes before that rise."""
    undone: bool = False
    """A rise of this attempt was undone; it happens once."""
    alarm: Said = ""
    """Why the attempt is about to be aborted by what was counted."""
    alarm_kind: Short = ""
    """ShareNotProgrammed or PathBroken, while there is an alarm."""
    refuted: bool = False
    """The last look said that the share refutes the weight."""


class HoldModel(ApiModel):
    """Why the rollout does not go on by itself."""

    reason: Short
    """Constant reason."""
    message: Kept = ""
    """What lifts it."""


class SummaryModel(ApiModel):
    """One metric's verdict."""

    run: Short = ""
    """AnalysisRun."""
    metric: Short = ""
    """Metric."""
    verdict: Short = ""
    """Phase or verdict."""
    effect: Long = ""
    """Effect with its interval."""
    evidence: Long = ""
    """Figures."""


class AbortModel(ApiModel):
    """Terminal for this hash until the spec leaves it, or `retry`."""

    hash: Short
    """Revision hash."""
    step: KeptNumber = 0
    """0-based step."""
    at: Time
    """When."""
    reason: KeptShort = ""
    """Constant reason."""
    message: Kept = ""
    """What happened, why, and what now."""


class CommandModel(ApiModel):
    """The last command that was looked at."""

    raw: Long
    """The annotation's text."""
    action: Short = ""
    """What was asked."""
    result: Short
    """Done, Rejected or, for an abort whose traffic is not back yet, InProgress."""
    message: Said = ""
    """What was done, or why not."""
    at: Time
    """When."""
    by: Short = ""
    """Who claims to have asked."""


class DecidedApprovalModel(ApiModel):
    """An answer to an approval's question that decided."""

    step: KeptNumber = 0
    """0-based step."""
    webhook: Filled
    """Name of the receiver."""
    decision: Short
    """approve or deny."""
    at: Time
    """When."""
    by: Short = ""
    """Whom the receiver named."""
    message: Noticed = ""
    """What it said."""


class HistoryModel(ArmModel):
    """A candidate that ended."""

    attempt: Number = 0
    """Attempt."""
    outcome: Short
    """Promoted, Aborted, Superseded or Withdrawn."""
    at: Time
    """When it ended."""
    message: Said = ""
    """Why."""
    stable_until: Time | None = None
    """When it stopped being stable."""
    approvals: Annotated[list[DecidedApprovalModel], Field(max_length=8)] = Field(default=[])
    """What was approved or denied in that attempt."""
    pods: Number = 0
    """Pods that carried all traffic, where workloads were scaled: a way back in the rollback window goes by them."""
    companions: Annotated[list[KeptCompanionModel], Field(max_length=8)] = Field(default=[])
    """Companions that it had then: a way back goes by them, whatever labels and lists say by now."""


class EntryModel(ApiModel):
    """One entry of a traffic object."""

    kind: Filled
    """InferencePool, Adapter or Variant."""
    name: Filled
    """Name."""
    source: Source = ""
    """The labels of a variant's pods, and the model that is sent to them."""
    group: Short = ""
    """API group of the pool."""
    namespace: Short = ""
    """Namespace, where it is not the traffic object's."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Port, where one is written."""


class WayBackModel(ApiModel):
    """What giving a canary's weight back to stable needs, without the spec."""

    kind: Filled
    """Kind of the traffic object."""
    group: Short = ""
    """Its API group."""
    name: Filled
    """Its name."""
    mode: Short
    """Managed or Adopted."""
    stable: EntryModel
    """Entry that gets the traffic."""
    canary: EntryModel
    """Entry that loses it."""
    share: IntOrPercent = 100
    """Part of a rule that both had together, beside entries of others."""
    spared: Annotated[list[Annotated[str, Field(max_length=16)]], Field(max_length=16)] = Field(default=[])
    """Fingerprints of rules that sent requests to the canary before: not ours."""
    pool: Short = ""
    """Pool whose requests a PoolSplit shares."""
    model: Annotated[str, Field(max_length=MAX_MODEL)] = ""
    """Model whose requests it shares; empty: all."""
    joint: Annotated[int, Field(ge=0, le=2_000_000)] = 0
    """Weight of both members of a group together, where others have some."""


class ApprovalModel(ApiModel):
    """What the present step asks a receiver."""

    id: Filled
    """The same in every try: of this step of this attempt."""
    webhook: Filled
    """Name of the receiver."""
    since: Time
    """Since when."""
    answer: Noticed = ""
    """The last answer."""
    granted: bool = False
    """Approved: the step waits for something else."""


class PinnedStrategyModel(ApiModel):
    """The shared strategy that an attempt goes by."""

    kind: Filled
    """RolloutStrategy or ClusterRolloutStrategy."""
    name: Filled
    """Its name."""
    hash: Filled
    """Hash of its fields: another one is another content."""
    content: Annotated[str, Field(max_length=MOST_STRATEGY), Stored(least=1)]
    """Its fields as they were when the attempt began, as JSON."""


class TargetWaitModel(ApiModel):
    """The clock of `targetDeadline`."""

    target: Short
    """Fingerprint of what the spec asks for."""
    since: Time
    """When it was first seen, later by the time that the clock stood."""


class NoticeModel(ApiModel):
    """A notification that is owed."""

    id: Filled
    """The same in every try of its delivery."""
    trigger: Filled
    """What fired."""
    receiver: Filled
    """Who is to be told."""
    phase: Filled
    """Phase that the Rollout came into."""
    at: Time
    """When."""
    reason: Short = ""
    """Constant reason."""
    message: Noticed = ""
    """What the status said."""
    attempt: Number = 0
    """Attempt."""
    stable: Noticed = ""
    """Stable version."""
    canary: Noticed = ""
    """Version that was being rolled out."""


class RolloutStatusModel(ApiModel):
    """Written by the controller only."""

    phase: Short = ""
    """Healthy, Progressing, Paused, WaitingForTarget, Aborted or Invalid."""
    reason: Short = ""
    """Constant reason of the phase, for people: nothing is decided by it."""
    message: Said = ""
    """What, why, and what now."""
    waiting_for: Short = ""
    """Requests, Counts, Analysis, Spec, Window, Freeze, Dependency or Turn: what is waited for, where that matters."""
    settled_by: Short = ""
    """Initialized or Promoted: how a Healthy Rollout came to its stable version."""
    observed_generation: Number = 0
    """Generation of the spec that this status is about."""
    stable: ArmModel | None = None
    """The version that serves, or served last."""
    canary: ArmModel | None = None
    """The version that is being rolled out."""
    attempt: KeptNumber = 0
    """Attempts so far; every start of a canary is one."""
    current_step: KeptNumber = 0
    """0-based step; equals stepCount when all are done."""
    step_count: Number = 0
    """Number of steps."""
    step: Short = ""
    """Step for people, counted from 1."""
    strategy: PinnedStrategyModel | None = None
    """The shared strategy of the attempt, as it was when that began."""
    steps_hash: Short = ""
    """Hash of the steps that are being executed, after the version of its algorithm."""
    step_started_at: Time | None = None
    """When the current step began."""
    seen_at: Time | None = None
    """When the target was ready and the Rollouts of `dependsOn` were first looked at."""
    queued_at: Time | None = None
    """When the attempt asked for its turn, where it had to wait for one: its place in the line."""
    started_at: Time | None = None
    """When the attempt left WaitingForTarget."""
    bake_started_at: Time | None = None
    """When 100 % came into force."""
    weight: Annotated[WeightModel | None, KEPT] = None
    """Share of the target."""
    message_line: Short = ""
    """The message in one line of at most 160 characters, for lists."""
    weight_text: Short = ""
    """Applied weight for people."""
    weight_cap: IntOrPercent | None = None
    """Upper bound after the steps were edited: an edit never raises the weight."""
    path: PathModel | None = None
    """What the watch over the path to the canary must not forget."""
    stable_endpoints_at_start: Number = 0
    """Ready endpoints of stable when the attempt began."""
    unready_since: Time | None = None
    """Since when the canary cannot serve; of one that was set to 0, until it gets its weight back."""
    target_wait: TargetWaitModel | None = None
    """While a new target is waited for."""
    standing_since: Time | None = None
    """Since when no deadline runs, in a pause for example."""
    pulled: bool = False
    """The canary could not serve and was set to 0; its step is kept."""
    pulls: Number = 0
    """How often that happened in this attempt; from the second time on its weight comes back later each time."""
    ready_since: Time | None = None
    """Since when it can serve again while that is too new for weight."""
    probe: ProbeModel | None = None
    """The probe of the path before the first weight."""
    crashes: CrashesModel | None = None
    """Crashes of both versions' pods in this attempt."""
    capacity: AttemptCapacityModel | None = None
    """Pods of this attempt, where `strategy.canary.capacity` is set."""
    hold: HoldModel | None = None
    """Why the rollout does not go on by itself."""
    overrides: Annotated[list[Short], Field(max_length=64)] = Field(default=[])
    """Runs whose verdict a person overrode."""
    approval: ApprovalModel | None = None
    """What the present step asks a receiver."""
    approvals: Annotated[list[DecidedApprovalModel], Field(max_length=8)] = Field(default=[])
    """What was approved or denied in this attempt, and by whom."""
    skip_gates: bool = False
    """Steps are skipped: `promote --full`, or the rollback window."""
    adopted_split: bool = False
    """Taken over with traffic on both arms."""
    way_back: Annotated[list[WayBackModel], Field(max_length=16)] = Field(default=[])
    """Where the canary has weight, or may have, and who gets it back: the record that every abort goes by."""
    scale_downs: Annotated[list[ScaleDownModel], Field(max_length=72)] = Field(default=[])
    """Versions that lost and still have pods, where `strategy.canary.capacity` is set."""
    drains: Annotated[list[DrainModel], Field(max_length=81)] = Field(default=[])
    """Versions that may have requests and are to lose pods."""
    stable_scale: StableScaleModel | None = None
    """While stable has fewer replicas than at the start, by `strategy.canary.capacity`."""
    owed: StableScaleModel | None = None
    """Stable's companions that lacked pods, and what makes them, for ten minutes: they get theirs when it is back."""
    accelerators: AcceleratorUseModel | None = None
    """Accelerators times seconds of the last attempt, where `strategy.canary.capacity` is set."""
    traffic_uid: Annotated[Short, Field(alias="trafficUID")] = ""
    """UID of the traffic object that was last seen."""
    traffic_adopted: bool = False
    """The model object is somebody else's: when it is gone it is waited for, not made again."""
    restores: Annotated[list[Time], Field(max_length=64)] = Field(default=[])
    """When foreign writes were restored away from stable."""
    analysis: Annotated[list[SummaryModel], Field(max_length=64)] = Field(default=[])
    """Verdicts of the current attempt."""
    aborted: AbortModel | None = None
    """The abort of the current target."""
    last_command: CommandModel | None = None
    """The last command that was looked at."""
    history: Annotated[list[HistoryModel], Field(max_length=64)] = Field(default=[])
    """Candidates that ended, newest last."""
    conditions: Annotated[list[ConditionModel], Field(max_length=16)] = Field(default=[])
    """Conditions."""
    notices: Annotated[list[NoticeModel], Field(max_length=16)] = Field(default=[])
    """Notifications that are owed: stored with the change that they tell of, gone when they are delivered."""
