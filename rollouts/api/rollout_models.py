"""Models of the Rollout's spec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import ConfigDict, Field, create_model

from rollouts.analysis.comparisons import FALSE_ABORT_RATE
from rollouts.api.analysis_models import GateModel
from rollouts.api.base import ApiModel
from rollouts.api.scalars import Duration, IntOrPercent, Name, Text, bounds
from rollouts.api.target_models import LABEL_VALUE
from rollouts.api.traffic_models import Preserved
from rollouts.carriers import TRAFFIC_KINDS, listed, target_kinds

__all__ = [
    "ApproveModel",
    "BackgroundModel",
    "CanaryModel",
    "HeaderMatchModel",
    "HeaderRouteModel",
    "JobModel",
    "PauseModel",
    "RolloutSpecModel",
    "SharedStrategySpec",
    "StepModel",
    "StickyModel",
    "StrategyModel",
    "StrategyRefModel",
    "TargetModel",
    "TrafficModel",
]


if TYPE_CHECKING:

    class TargetModel(ApiModel):
        """What should serve; its other fields are those of ``target_kinds``, for ``carriers.asked`` to tell."""

        revision: str = ""

    class TrafficModel(ApiModel):
        """Where the weights live; its fields are those of ``TRAFFIC_KINDS``, for ``carriers.given`` to tell."""

else:
    TargetModel = create_model(
        "TargetModel",
        __base__=ApiModel,
        __doc__="What should serve: the line that changes in Git. Exactly one of "
        f"{listed(f'`{kind.field}`' for kind in target_kinds())}.",
        __module__=__name__,
        **{
            kind.attribute: (kind.model | None, Field(default=None, description=kind.help))
            for kind in target_kinds()
        },
        revision=(
            Text,
            Field(
                default="",
                description="Free text that changes the revision hash and nothing else: the way to retry through Git.",
            ),
        ),
    )
    TrafficModel = create_model(
        "TrafficModel",
        __base__=ApiModel,
        __doc__="Where the weights live. Exactly one of them; kind and names cannot be changed.",
        __module__=__name__,
        **{
            kind.attribute: (kind.model | None, Field(default=None, description=kind.help))
            for kind in TRAFFIC_KINDS
        },
    )


class ApproveModel(ApiModel):
    """Somebody outside answers whether to go on: approve, deny or wait."""

    webhook: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,28}[a-z0-9])?$", max_length=30)]
    """Name of a receiver of the controller's configuration: `notifications.receivers`, of type webhook."""


class PauseModel(ApiModel):
    """A pause."""

    duration: Annotated[int | str, Field(json_schema_extra={"x-kubernetes-int-or-string": True})] | None = (
        None
    )
    """How long; a plain number is seconds. Without it until `promote`."""
    approve: ApproveModel | None = None
    """Whose approval ends the pause before; a denial aborts."""


class JobModel(ApiModel):
    """A Kubernetes Job whose end is the verdict."""

    spec: Preserved
    """Spec of the Job (batch/v1)."""


class HeaderValueModel(ApiModel):
    """How a header's value is compared: exactly one."""

    exact: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """The whole value."""
    prefix: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """The beginning of the value."""
    regex: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """A regular expression, in the gateway's dialect."""


class HeaderMatchModel(ApiModel):
    """One header condition."""

    header_name: Annotated[
        str, Field(min_length=1, max_length=256, pattern=r"^[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+$")
    ]
    """Name of the header."""
    header_value: HeaderValueModel
    """Its value."""


class HeaderRouteModel(ApiModel):
    """Requests with these headers reach the canary. Managed routes only."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """Name of the header route."""
    match: Annotated[list[HeaderMatchModel], Field(max_length=16)] = []
    """Conditions, all of which must hold; without any the header route of that name is removed."""


class StepModel(ApiModel):
    """Exactly one of the fields."""

    set_weight: IntOrPercent | None = None
    """Share of the canary: 0 to 100, or a percentage as "0.5%"."""
    pause: PauseModel | None = None
    """Wait for a time, or for `promote`."""
    approve: ApproveModel | None = None
    """Wait until a receiver approves, or `promote`; a denial aborts."""
    analysis: GateModel | None = None
    """Measure; pass, abort or pause by the result."""
    job: JobModel | None = None
    """Run a Job; its end is the verdict."""
    set_header_route: HeaderRouteModel | None = None
    """Let testers reach the canary by headers."""


class BackgroundModel(GateModel):
    """Analysis that accompanies all steps."""

    starting_step: Annotated[int, Field(ge=0, le=32)] = 0
    """0-based step from which it measures."""
    false_abort_rate: Annotated[float | int, bounds(0, 0.5, above=True)] = FALSE_ABORT_RATE
    """Bound on aborting a healthy canary, over the whole attempt."""


class StickyModel(ApiModel):
    """Key of an adapter split: the same key keeps its version while the share grows."""

    header: Text = ""
    """Request header."""
    cookie: Text = ""
    """Cookie."""
    body_field: Text = ""
    """Top-level field of the JSON body, such as `user`."""
    pin_header: bool = False
    """Honour `x-rollout-pin: <target>` from testers."""


class WindowModel(ApiModel):
    """A time in which weight may rise."""

    schedule: Annotated[str, Field(min_length=9, max_length=128)]
    """When it opens: minute, hour, day of the month, month and day of the week as in cron, such as `0 9 * * mon-fri`.
    Only one of the two day fields may be set."""
    duration: Duration
    """How long it is open, from 1m to 7d."""
    time_zone: Annotated[str, Field(min_length=1, max_length=64)] = "UTC"
    """Time zone of the schedule, such as Europe/Berlin."""


class ScaleDownPolicyModel(ApiModel):
    """What becomes of the workload of a version that lost: it is scaled down. One that somebody else
    scales is stopped as a whole instead, and started again before it is rolled out anew."""

    delay: Duration = "10m"
    """How long it keeps its pods after it has no weight any more: time to go back without starting them again. Shorter
    where the next attempt needs the room, and where the Rollout is deleted; 30 s at least."""
    to: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Replicas that it is then given."""


class WarmUpPromptsModel(ApiModel):
    """Prompts of a ConfigMap in the Rollout's namespace, which has the annotation `inferencerollouts.dev/prompts:
    "true"`."""

    config_map: Name
    """Its name."""
    key: Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]{1,253}$")]
    """The key of it that has them, one a line: 200 at most, of 32,768 characters each, 256 KiB together."""


class WarmUpModel(ApiModel):
    """A fresh pod of the canary answers requests of the controller before it counts as Ready and gets any of users, so
    that these do not pay for graph capture, kernels and caches. Needs the endpoint picker of this project."""

    requests: Annotated[int, Field(ge=1, le=1000)] = 20
    """How many each of its processes has to answer with 200."""
    prompts: WarmUpPromptsModel | None = None
    """What they ask. Without it prompts are made up, of the lengths that stable's pods show in their histogram of
    prompt tokens, up to 8192."""
    concurrency: Annotated[int, Field(ge=1, le=16)] = 2
    """How many at a time."""


class CompanionPoolModel(ApiModel):
    """An InferencePool whose pods work for those of a version: prefill beside decode."""

    pool: Name
    """Its name."""
    of: Annotated[str, Field(max_length=253)] = ""
    """The pool of the version that it belongs to. Without it: `target.pool`."""
    role: Annotated[str, Field(max_length=63, pattern=f"^{LABEL_VALUE}$")] = ""
    """Tells several companions of a version apart: those of both versions that have one role go together."""


class CapacityModel(ApiModel):
    """The controller scales the canary's workload with its weight, and the loser's down after the end; stable gives
    pods to the canary as far as `minStable` lets it. Needs the chart value `capacity.enabled`. N are stable's replicas
    at the start, or its Ready pods where those are more."""

    max_surge: Annotated[int | str, Field(json_schema_extra={"x-kubernetes-int-or-string": True})] | None = (
        None
    )
    """Pods of both versions together over N: a number, or a percentage of N such as "50%", rounded up. Without it there
    is no limit: the steps get what they need. Where ceil(N x headroom) + minStable need more, nothing is scaled and no
    weight is written."""
    min_stable: Annotated[int | str, Field(json_schema_extra={"x-kubernetes-int-or-string": True})] = "100%"
    """Pods that stable keeps until the promotion: a number, or a percentage of N, rounded up. Below 100% it gives the
    others to the canary where `maxSurge` leaves no room, as its share falls and when they have drained; the weight
    then rises by what the canary's Ready pods carry."""
    abort: Literal["AsCapacityAllows", "Immediate"] = "AsCapacityAllows"
    """How traffic returns to a stable that gave pods: by as much as its Ready pods are of N, or all of it at once. It
    is at once for errors, lost requests, crashes, a refuted share, a broken path, and by command."""
    headroom: Annotated[float | int, bounds(0, 10, above=True)] = 1.0
    """Weight w needs max(minReplicas, ceil(w x N x this)) Ready pods of the canary before it is written: below 1 where
    the canary's GPUs do more each."""
    min_replicas: Annotated[int, Field(ge=1, le=100_000)] = 1
    """The fewest pods of a canary that has weight."""
    drain_timeout: Duration = "30m"
    """A version that lost and still answers requests is scaled down this long after `scaleDown.delay` all the same, and
    pods of a version that serves are taken away this long after they were to drain."""
    scale_down: ScaleDownPolicyModel | None = None
    """What becomes of the workload of a version that lost: the old one after a promotion, else the canary's."""
    warm_up: WarmUpModel | None = None
    """What a fresh pod of the canary answers before it counts. Without it a pod counts when it is Ready."""
    with_: Annotated[list[CompanionPoolModel], Field(alias="with", max_length=16)] = []
    """Pools that are scaled in step with the versions that they belong to, in the proportion that stable's have. A pool
    may say so itself instead, by the label `inferencerollouts.dev/with: POOL` (and `inferencerollouts.dev/role`), which
    leaves the target the only line that changes. `maxSurge` counts each pool by its own N; where versions have such
    pools stable gives none of its pods."""


class CanaryModel(ApiModel):
    """Step by step."""

    # A field that the API server filled in would win over the shared strategy's.
    model_config = ConfigDict(json_schema_extra={"x-unfilled": True})

    steps: Annotated[list[StepModel], Field(min_length=1, max_length=32)]
    """What happens, in order; after the last step the canary goes to 100 % and becomes stable."""
    analysis: BackgroundModel | None = None
    """Analysis that accompanies all steps."""
    sticky: StickyModel | None = None
    """Key of a split by the endpoint picker. Not with `target.pool`: two pools are split by the gateway."""
    endpoint_ratio: Annotated[float | int, bounds(0, 10)] = 0.5
    """Weight w needs max(1, ceil(w x stable's Ready endpoints x this)) Ready canary endpoints."""
    bake: Duration = "0s"
    """Time at 100 % before the canary becomes stable."""
    progress_deadline: Duration = "30m"
    """Time that one step may take to come into force, not counting pauses and analysis."""
    on_deadline: Literal["Abort", "Pause"] = "Abort"
    """What a missed deadline does."""
    target_deadline: Annotated[Duration | None, Field(json_schema_extra={"nullable": True})] = "2h"
    """Time that a new target may take to become Ready, from when it was first seen and not counting pauses; then it is
    aborted. `null`, or `0s` where a tool drops nulls: never."""
    path_probe: Literal["Off", "Report", "Require"] = "Report"
    """Managed routes: before the first weight a few requests through the gateway reach the canary by a rule of
    their own, which is then removed. Report warns once of 5xx and goes on; Require holds until they succeed."""
    allow_no_traffic: bool = False
    """Let weight rise although no request was counted at the canary since the last rise."""
    windows: Annotated[list[WindowModel], Field(max_length=8)] = []
    """When weight may rise; without any, always. Outside of them it stays, deadlines stand still, and analysis,
    aborts, the way back and commands go on."""
    capacity: CapacityModel | None = None
    """Scale the canary's workload with its weight, and what lost down after the end. With `target.pool`; of targets
    that somebody else scales, `scaleDown` and `drainTimeout` alone: what lost is stopped. Without it nobody is scaled
    or stopped."""


class OwnCanaryModel(CanaryModel):
    """Step by step; beside `canaryFrom` the fields that win over those of the shared strategy, each of them whole."""

    model_config = ConfigDict(json_schema_extra={"x-unfilled": True, "x-optional": ["steps"]})


class StrategyRefModel(ApiModel):
    """A strategy that several Rollouts share."""

    name: Name
    """Its name."""
    kind: Literal["RolloutStrategy", "ClusterRolloutStrategy"] = "RolloutStrategy"
    """RolloutStrategy of the Rollout's namespace, or ClusterRolloutStrategy."""


class StrategyModel(ApiModel):
    """How the rollout proceeds: `canary`, `canaryFrom`, or both. The model is of the effective one."""

    model_config = ConfigDict(json_schema_extra={"x-optional": ["canary"]})

    canary: OwnCanaryModel
    """Step by step; beside `canaryFrom` only what differs from it."""
    canary_from: StrategyRefModel | None = None
    """A shared strategy. An attempt keeps the one that it began with; fields of `canary` win, each of them whole."""


class SharedStrategySpec(ApiModel):
    """Spec of a RolloutStrategy and a ClusterRolloutStrategy."""

    canary: CanaryModel
    """Step by step, as in a Rollout."""


class RollbackWindowModel(ApiModel):
    """Going back is quick for a while."""

    duration: Duration
    """How long after it stopped being stable a version is gone back to without steps."""


class DependencyModel(ApiModel):
    """A Rollout that goes first."""

    name: Name
    """Its name."""
    namespace: Text = ""
    """Its namespace, where that is another one: it then has to consent by the annotation
    `inferencerollouts.dev/dependents`."""
    soak: Duration = "0s"
    """How long it has to have been Healthy."""


class RolloutSpecModel(ApiModel):
    """What should serve, where the weights live, and how to get there."""

    target: TargetModel
    """What should serve: the line that changes in Git."""
    traffic: TrafficModel
    """Where the weights live."""
    strategy: StrategyModel
    """How the rollout proceeds."""
    rollback_window: RollbackWindowModel | None = None
    """Going back to what was stable within it skips steps, never readiness."""
    stable_hint: Text = ""
    """Name of the stable version where live traffic does not tell: no traffic yet, or a tie. Of variants that no split
    lists yet: labels of the stable pods, as in `release=qwen`."""
    allow_missing_models: bool = False
    """Start although the new pool does not serve every adapter that this route's requests ask for."""
    depends_on: Annotated[list[DependencyModel], Field(max_length=16)] = []
    """Rollouts that go first: an attempt begins when each is Healthy at its current revision, and was for its `soak`.
    One that aborts stops it. Once begun it goes on; the way back and commands never wait."""
    paused: bool = False
    """Hold everything but aborts."""
    on_delete: Literal["RestoreStable", "KeepTraffic", "DeleteTraffic"] = "RestoreStable"
    """What deleting the Rollout does to traffic."""
