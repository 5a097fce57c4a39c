"""The model of an AnalysisRun's status: its schema documents what people and tools read."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rollouts.api.base import ApiModel
from rollouts.api.codec import Stored
from rollouts.api.status_models import ConditionModel
from rollouts.api.stored_scalars import KEPT, Kept, KeptNumber, Long, Number, Said, Short, Time

__all__ = ["AnalysisRunStatusModel"]

Brief = Annotated[Long, Stored(cut=512)]


class MeasurementModel(ApiModel):
    """One measurement."""

    phase: Short
    """Successful, Failed, Inconclusive, Error or Pending."""
    at: Time
    """When."""
    value: Long = ""
    """The value."""
    message: Brief = ""
    """Why."""
    no_data: bool = False
    """Whether there was nothing to measure."""


class MetricResultModel(ApiModel):
    """A metric so far."""

    name: Short
    """Metric."""
    phase: Short
    """Phase of the metric."""
    message: Annotated[Brief, Stored(kept=True, cut=512)] = ""
    """What it means, with figures."""
    successful: KeptNumber = 0
    """Successful measurements."""
    failed: KeptNumber = 0
    """Failed measurements."""
    inconclusive: KeptNumber = 0
    """Inconclusive measurements."""
    error: KeptNumber = 0
    """Measurements that could not be taken."""
    consecutive_error: KeptNumber = 0
    """Errors in a row."""
    consecutive_success: KeptNumber = 0
    """Successes in a row."""
    no_data_since: Time | None = None
    """Since when there has been no data."""
    error_since: Time | None = None
    """Since when every measurement has been an error."""
    measurements: Annotated[list[MeasurementModel], Field(max_length=10), KEPT] = Field(default=[])
    """The newest measurements."""


class ComparisonFiguresModel(ApiModel):
    """Figures of a comparison; what is infinite or unknown is absent. Effects are relative: 1 is doubled."""

    effect: float | None = None
    """Change of the canary against stable."""
    effect_low: float | None = None
    """Lower end of its anytime-valid 95 % interval."""
    effect_high: float | None = None
    """Upper end."""
    harm: float | None = None
    """This metric's part of the evidence of harm."""
    harm_total: float | None = None
    """Evidence of harm of all metrics."""
    abort_at: float | None = None
    """Evidence at which the canary is shown to be harmed."""
    proof: float | None = None
    """Evidence of being within tolerance."""
    pass_at: float | None = None
    """Evidence at which that is shown."""
    canary_requests: float | None = None
    """Requests of the canary seen."""
    stable_requests: float | None = None
    """Requests of stable seen."""
    minutes_to_abort: float | None = None
    """Forecast at the present pace."""
    minutes_to_pass: float | None = None
    """Forecast at the present pace."""
    smallest_provable: float | None = None
    """Smallest regression that these pods can ever prove."""
    smallest_in_an_hour: float | None = None
    """Smallest regression that an hour of this traffic proves."""
    smallest_with_twice_the_pods: float | None = None
    """The same with twice the canary pods."""


class ComparisonResultModel(ApiModel):
    """A comparison so far."""

    name: Short
    """Comparison."""
    verdict: Short
    """Pass, Fail, Inconclusive or Undecided."""
    reason: Short = ""
    """Why, in one word."""
    message: Said = ""
    """In sentences: words first, figures after."""
    effect: Short = ""
    """Change with its interval."""
    evidence: Short = ""
    """Evidence of harm, and of being within tolerance."""
    figures: ComparisonFiguresModel | None = None
    """The figures for scripts."""


class GateStateModel(ApiModel):
    """What the evidence says to one gate."""

    step: Annotated[Number | None, KEPT] = None
    """0-based step; absent for the background analysis."""
    verdict: Short
    """Pass, Fail, Inconclusive or Undecided. A Pass is for good."""
    message: Annotated[Long, Stored(kept=True, cut=512)] = ""
    """Why."""
    since: Time | None = None
    """When it came to this verdict."""


class AnalysisRunStatusModel(ApiModel):
    """Written by the controller only."""

    phase: Short = ""
    """Pending, Running, Successful, Failed, Error or Inconclusive."""
    message: Kept = ""
    """What it means."""
    started_at: Time | None = None
    """When measuring began."""
    completed_at: Time | None = None
    """When the run ended."""
    decision: Short = ""
    """What a Failed run asks the rollout to do: Abort or Pause."""
    conditions: Annotated[list[ConditionModel], Field(max_length=16)] = []
    """For tools that wait: Ready when it passed, Reconciling while it runs, Stalled when it ended otherwise."""
    earned: Annotated[bool, KEPT] = False
    """Every metric that counts has a good measurement."""
    metric_results: Annotated[list[MetricResultModel], Field(max_length=16), KEPT] = Field(default=[])
    """Results by metric."""
    checkpoint: Annotated[str, Field(max_length=65536), KEPT] = ""
    """State of the evidence process, compressed and versioned."""
    comparisons: Annotated[list[ComparisonResultModel], Field(max_length=16), KEPT] = Field(default=[])
    """Comparisons with stable."""
    gates: Annotated[list[GateStateModel], Field(max_length=33), KEPT] = Field(default=[])
    """Verdicts of the gates that have opened."""
    judged_at: Time | None = None
    """When the comparisons and the checkpoint were written."""
    timeline: Annotated[str, Field(max_length=32768)] = ""
    """Weights, effects and evidence over time, thinned, as JSON: what `rollouts report` draws."""
