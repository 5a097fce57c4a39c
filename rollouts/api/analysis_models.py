"""Models of what is measured: metrics, templates and runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rollouts.analysis.catalogue import COMPARED, MEASURED
from rollouts.analysis.comparisons import FALSE_ABORT_RATE
from rollouts.analysis.forms import COMPARE_DEFAULTS
from rollouts.api.base import ApiModel
from rollouts.api.scalars import Duration, IntOrPercent, Moment, Name, Text, bounds
from rollouts.units import FRACTION_PATTERN

__all__ = [
    "RUN_LIST_LIMITS",
    "AnalysisArg",
    "AnalysisRunSpec",
    "AnalysisTemplateSpec",
    "CompareModel",
    "CounterRatio",
    "GateModel",
    "MeasureModel",
    "MetricModel",
    "RunComparison",
    "TemplateRef",
]

Query = Annotated[str, Field(min_length=1, max_length=4096)]
Expression = Annotated[str, Field(min_length=1, max_length=1024)]
Ratio = Annotated[
    float | int | str,
    Field(
        json_schema_extra={
            "x-number-or-string": True,
            "pattern": f"^({FRACTION_PATTERN}|.*[{{][{{] *args[.].+)$",
            "maxLength": 128,
            "minimum": 0,
            "maximum": 1_000_000,
        }
    ),
]
"""A fraction (0.15) or a percentage ("15%"), in a template also an argument."""
RUN_LIST_LIMITS = {"marks": 64, "exclude": 256}
"""Lengths of what a Rollout appends to a run: twice the steps that there can be, and an overwritten weight every
twelve seconds for an hour."""
Count = Annotated[int, Field(ge=0, le=100_000)]
Limit = Annotated[int, Field(ge=-1, le=100_000)]


class AnalysisArg(ApiModel):
    """One argument of a template."""

    name: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    """Name, used as `{{args.name}}`."""
    value: Annotated[str, Field(max_length=253)] | None = None
    """Value; in a template the default. An argument without any value keeps the run from starting."""


class CounterRatio(ApiModel):
    """Two counters: errors of a total."""

    errors: Name
    """Counter of errors."""
    of: Name
    """Counter of all requests."""


class MeasureModel(ApiModel):
    """A number from any source, without PromQL."""

    preset: Annotated[Text, Field(description=f"Ready-made metric: {', '.join(MEASURED)}.")] = ""
    histogram: Text = ""
    """Name of a histogram; `stat` is p50, p90, p95, p99 or mean."""
    counter: CounterRatio | Text | None = None
    """A counter's name (`stat: rate`), or `{errors, of}` (`stat: ratio`)."""
    gauge: Text = ""
    """Name of a gauge; `stat` is last or mean, over the pods of the arm."""
    arm: Literal["canary", "stable"] = "canary"
    """Whose pods are measured."""
    stat: Literal["p50", "p90", "p95", "p99", "mean", "rate", "ratio", "last", ""] = ""
    """Which statistic; empty is the natural one: p95 of a histogram, ratio, rate or last."""
    window: Duration = "2m"
    """Time that the statistic covers, up to the moment of measuring."""


class CompareModel(ApiModel):
    """Canary against stable, in the same interval, with bounded error over all looks."""

    preset: Annotated[Text, Field(description=f"Ready-made metric: {', '.join(COMPARED)}.")] = ""
    histogram: Text = ""
    """Name of a histogram."""
    counter: CounterRatio | None = None
    """Two counters: errors of a total."""
    gauge: Text = ""
    """Name of a gauge."""
    direction: Literal["LowerIsBetter", "HigherIsBetter"] = "LowerIsBetter"
    """Which way is harm."""
    margin: Ratio | None = None
    """Growth that is not yet harm: a fraction (0.02) or a percentage ("2%")."""
    tolerance: Ratio | None = None
    """Growth that promotion must rule out. 2.0 on errors means three times."""
    require: Literal["NoHarm", "WithinTolerance", ""] = ""
    """What the gate needs; empty: WithinTolerance for the last gate, NoHarm before."""
    min_dwell: Duration = COMPARE_DEFAULTS.min_dwell
    """Earliest pass after the step began."""
    min_requests: Annotated[int, Field(ge=0, le=10_000_000)] = COMPARE_DEFAULTS.min_requests
    """Canary requests that a pass needs."""
    warm_up: Duration = COMPARE_DEFAULTS.warm_up
    """Time of a new pod that is not looked at."""
    max_duration: Duration = COMPARE_DEFAULTS.max_duration
    """When an undecided gate applies `onUndecided`."""
    on_undecided: Literal["Hold", "PromoteIfNoHarm", "Fail"] = "Hold"
    """What an undecided gate does at its `maxDuration`."""
    weight: Annotated[float | int, bounds(0, 1000)] | None = None
    """Weight of this metric's evidence among all; without it half goes to error rates and half to the rest."""


class MetricModel(ApiModel):
    """One metric: exactly one of `query`, `measure` and `compare`, and how its values are judged."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """Name, unique within the run."""
    query: Query | None = None
    """PromQL, for Prometheus sources only. `{{args.x}}` is replaced by the argument, escaped."""
    measure: MeasureModel | None = None
    """A number from any source."""
    compare: CompareModel | None = None
    """Canary against stable."""
    source: Text = "default"
    """Name of a source that the administrator configured; `pods` scrapes the pool's pods directly."""
    success_condition: Expression | None = None
    """CEL over `result` that makes a measurement successful, such as `result < 2.0` or `result[0] < 2.0`."""
    failure_condition: Expression | None = None
    """CEL over `result` that makes a measurement failed."""
    interval: Duration | None = None
    """Time between measurements, counted from the start of the run."""
    initial_delay: Duration | None = None
    """Wait before the first measurement."""
    count: Count | None = None
    """Measurements to take; without it one, or with an `interval` in background analysis without end."""
    failure_limit: Limit = 0
    """Failed measurements that are tolerated."""
    inconclusive_limit: Limit = 0
    """Inconclusive measurements that are tolerated."""
    consecutive_error_limit: Count | None = None
    """Errors in a row that are tolerated; without it as many as come within `errorTimeout`."""
    error_timeout: Duration = "1h"
    """Time of nothing but errors after which the metric is inconclusive; before that they hold the gate and pass by."""
    consecutive_success_limit: Count = 0
    """Successes in a row that end the metric early; 0 is off."""
    dry_run: bool = False
    """Measure and show, but never decide."""
    no_data: Literal["Wait", "Inconclusive", "Fail", "Pass"] = "Wait"
    """What an empty or NaN result is. Wait becomes Inconclusive when it lasts."""
    on_fail: Literal["Abort", "Pause", "Alert"] = "Abort"
    """What a failure does to the rollout."""


class TemplateRef(ApiModel):
    """A template by name."""

    template_name: Name
    """Name of an AnalysisTemplate in the Rollout's namespace, or of a ClusterAnalysisTemplate."""
    cluster_scope: bool = False
    """Whether a ClusterAnalysisTemplate is meant."""


class GateModel(ApiModel):
    """What a gate measures: templates, metrics written in place, or a preset."""

    templates: Annotated[list[TemplateRef], Field(max_length=16)] = []
    """Templates whose metrics are taken."""
    metrics: Annotated[list[MetricModel], Field(max_length=16)] = []
    """Metrics written in place."""
    preset: Literal["default", ""] = ""
    """The sensible set for the kind of target."""
    args: Annotated[list[AnalysisArg], Field(max_length=16)] = []
    """Arguments of the templates."""


class AnalysisTemplateSpec(ApiModel):
    """Metrics with arguments, to be used by many Rollouts."""

    args: Annotated[list[AnalysisArg], Field(max_length=16)] = []
    """Arguments, with defaults where a value is given."""
    metrics: Annotated[list[MetricModel], Field(min_length=1, max_length=16)]
    """What is measured."""


class RunArm(ApiModel):
    """One arm as the run needs it."""

    kind: Text = "InferencePool"
    """InferencePool, Adapter or Variant."""
    group: Text = ""
    """API group of the pool."""
    name: Name
    """Name of the pool, adapter or variant."""
    pool: Text = ""
    """The pool that serves the adapter or variant."""
    model: Text = ""
    """The model name that clients ask for to get the adapter or variant."""
    labels: Annotated[str, Field(max_length=4096)] = ""
    """The labels of a variant's pods, as a selector."""


class RunMarkModel(ApiModel):
    """A step of the rollout, for the record and for late regressions."""

    at: Moment
    """When."""
    step: Annotated[int, Field(ge=0, le=64)]
    """0-based step."""
    weight: IntOrPercent
    """Canary weight in percent from then on."""


class RunComparison(ApiModel):
    """One comparison of an attempt, and the gates that read it."""

    name: Annotated[str, Field(min_length=1, max_length=80)]
    """Name, unique within the run."""
    compare: CompareModel
    """Canary against stable."""
    source: Text = "default"
    """Where the raw counters come from."""
    steps: Annotated[list[Annotated[int, Field(ge=0, le=64)]], Field(max_length=32)] = []
    """0-based steps whose gates read it; without any it belongs to the background analysis."""
    interval: Duration | None = None
    """Time between two scrapes; the smallest counts for the whole attempt. Without any 30 seconds."""
    on_fail: Literal["Abort", "Pause", "Alert"] = "Abort"
    """What shown harm does to the rollout."""
    dry_run: bool = False
    """Compare and show, but never decide."""
    optional: bool = False
    """Left out of gates as long as neither arm exposes it; `preset: default` is made of such."""


class RunExclude(ApiModel):
    """An interval that is not judged, because somebody else moved the weights in it."""

    from_: Annotated[Moment, Field(alias="from")]
    """Beginning."""
    to: Moment
    """End."""


class AnalysisRunSpec(ApiModel):
    """A running or finished analysis. Made by the controller; metrics are copied, so it stands by itself."""

    rollout: Text = ""
    """Name of the Rollout."""
    attempt: Annotated[int, Field(ge=0)] = 0
    """Attempt of the Rollout."""
    step: Annotated[int, Field(ge=0, le=64)] | None = None
    """0-based step that this run gates; without it the run accompanies the whole attempt."""
    canary: RunArm | None = None
    """The canary arm."""
    stable: RunArm | None = None
    """The stable arm."""
    metrics: Annotated[list[MetricModel], Field(max_length=16)] = []
    """What is measured, arguments filled in."""
    metrics_from: Annotated[int, Field(ge=0, le=64)] = 0
    """0-based step from which `metrics` are measured."""
    comparisons: Annotated[list[RunComparison], Field(max_length=16)] = []
    """What is compared from the first weight on, by one evidence process for all gates."""
    steps_hash: Text = ""
    """The list of steps that the gates belong to."""
    terminate: bool = False
    """End the run as it stands. What has not passed does not pass by this."""
    false_abort_rate: Annotated[float, Field(gt=0, le=0.5)] = FALSE_ABORT_RATE
    """Bound on aborting a healthy canary, over all gates, steps and looks."""
    marks: Annotated[list[RunMarkModel], Field(max_length=RUN_LIST_LIMITS["marks"])] = []
    """Steps, appended by the rollout."""
    since: Moment | None = None
    """When the weight that is judged came into force; windows that reach back behind it are no data."""
    exclude: Annotated[list[RunExclude], Field(max_length=RUN_LIST_LIMITS["exclude"])] = []
    """Intervals that do not count, appended by the rollout."""
