"""Values of an analysis: what is measured, what came out, and what it means. No JSON, no I/O.

Phases and limits carry the meaning they have in Argo Rollouts' AnalysisRun, less what fails open there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum

from rollouts.analysis.evidence.model import Arm
from rollouts.analysis.forms import CompareForm

__all__ = [
    "Arm",
    "ArmRef",
    "CompareSpec",
    "Comparison",
    "ComparisonResult",
    "GateState",
    "Labelled",
    "MeasureKind",
    "MeasureSpec",
    "Measurement",
    "MetricResult",
    "MetricSpec",
    "NoData",
    "OnFail",
    "QuerySpec",
    "RunMark",
    "RunPhase",
    "RunSpec",
    "RunStatus",
    "Stat",
    "Value",
]


class RunPhase(Enum):
    """Of a measurement, a metric or a run. The last four are terminal for metrics and runs."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCESSFUL = "Successful"
    INCONCLUSIVE = "Inconclusive"
    ERROR = "Error"
    FAILED = "Failed"

    @property
    def terminal(self) -> bool:
        """Whether nothing follows."""
        return self not in (RunPhase.PENDING, RunPhase.RUNNING)


class NoData(Enum):
    """What an empty or NaN result is. WAIT becomes inconclusive when it lasts."""

    WAIT = "Wait"
    INCONCLUSIVE = "Inconclusive"
    FAIL = "Fail"
    PASS = "Pass"


class OnFail(Enum):
    """What a failed metric does to the rollout."""

    ABORT = "Abort"
    PAUSE = "Pause"
    ALERT = "Alert"


class Stat(Enum):
    """Which number of a metric."""

    P50 = "p50"
    P90 = "p90"
    P95 = "p95"
    P99 = "p99"
    MEAN = "mean"
    RATE = "rate"
    RATIO = "ratio"
    LAST = "last"


class MeasureKind(Enum):
    """How the names of a measure are to be read."""

    PRESET = "preset"
    HISTOGRAM = "histogram"
    COUNTER = "counter"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuerySpec:
    """PromQL for a Prometheus source."""

    promql: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureSpec:
    """A statistic of one arm over a window. ``of`` is the total of a counter ratio."""

    kind: MeasureKind
    name: str
    of: str = ""
    arm: Arm = Arm.CANARY
    stat: Stat | None = None
    window: timedelta = timedelta(minutes=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareSpec:
    """Canary against stable; judged by the evidence process, not by measurements.

    ``optional``: left out of gates as long as neither arm exposes it.
    """

    form: CompareForm
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """One metric. ``count`` 0 means: one without an interval, without end with one."""

    name: str
    what: QuerySpec | MeasureSpec | CompareSpec
    source: str = "default"
    success_condition: str = ""
    failure_condition: str = ""
    interval: timedelta | None = None
    initial_delay: timedelta = timedelta(0)
    count: int = 0
    failure_limit: int = 0
    inconclusive_limit: int = 0
    consecutive_error_limit: int | None = None
    error_timeout: timedelta = timedelta(hours=1)
    consecutive_success_limit: int = 0
    dry_run: bool = False
    no_data: NoData = NoData.WAIT
    on_fail: OnFail = OnFail.ABORT


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """One series of a query's result."""

    value: float
    labels: tuple[tuple[str, str], ...] = ()


Value = float | tuple[Labelled, ...]
"""A number, or the series of a vector. An empty tuple and NaN are both "no data"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One finished measurement. ``value`` is None after an error and without data."""

    phase: RunPhase
    at: datetime
    value: Value | None = None
    message: str = ""
    no_data: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricResult:
    """A metric so far. ``measurements`` holds the newest ones only; the counts are of all."""

    name: str
    phase: RunPhase = RunPhase.PENDING
    message: str = ""
    successful: int = 0
    failed: int = 0
    inconclusive: int = 0
    error: int = 0
    consecutive_error: int = 0
    consecutive_success: int = 0
    no_data_since: datetime | None = None
    error_since: datetime | None = None
    """Since when every measurement has been an error."""
    measurements: tuple[Measurement, ...] = ()

    @property
    def count(self) -> int:
        """Measurements that count against ``MetricSpec.count``: errors do not."""
        return self.successful + self.failed + self.inconclusive


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmRef:
    """An arm by name: the pool (kind InferencePool), adapter or variant behind it.

    ``group`` is the pool's; an adapter or variant is served by ``pool``, to clients that ask for ``model`` (empty: to
    all), a variant by those of its pods that the selector ``labels`` selects.
    """

    kind: str
    group: str
    name: str
    pool: str = ""
    model: str = ""
    labels: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One compare metric of an attempt; no ``steps``: the background's.

    ``interval`` None is thirty seconds; the smallest counts for the whole attempt.
    """

    name: str
    form: CompareForm
    source: str = "default"
    steps: tuple[int, ...] = ()
    interval: timedelta | None = None
    on_fail: OnFail = OnFail.ABORT
    dry_run: bool = False
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMark:
    """From ``at`` on the canary's weight is ``weight`` (a fraction), in step ``step`` (from 0)."""

    at: datetime
    step: int
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonResult:
    """One comparison so far: verdict and reason in words of the engine, sentences (``brief``: two), all figures."""

    name: str
    verdict: str
    reason: str
    words: str = ""
    brief: str = ""
    effect: str = ""
    evidence: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateState:
    """What the evidence says to one gate; ``step`` None is the background. A verdict Pass is for good."""

    step: int | None
    verdict: str
    message: str = ""
    since: datetime | None = None
    """When it came to this verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """What a run measures. ``step`` None: it accompanies the whole attempt.

    ``metrics`` are measured from step ``metrics_from`` on; ``comparisons`` from the first weight. ``steps_hash`` tells
    which list of steps the gates belong to.
    """

    rollout: str
    attempt: int
    step: int | None
    canary: ArmRef | None
    stable: ArmRef | None
    metrics: tuple[MetricSpec, ...]
    terminate: bool = False
    comparisons: tuple[Comparison, ...] = ()
    metrics_from: int = 0
    false_abort_rate: float = 0.05
    marks: tuple[RunMark, ...] = ()
    exclude: tuple[tuple[datetime, datetime], ...] = ()
    steps_hash: str = ""
    since: datetime | None = None
    """When the traffic that is judged began: the step's weight, or the first one of the attempt."""

    @property
    def measuring(self) -> bool:
        """Whether the step from which threshold metrics count has been reached."""
        return self.step is not None or self.metrics_from == 0 or self._reached(self.metrics_from)

    def _reached(self, step: int) -> bool:
        return any(mark.step >= step for mark in self.marks)

    @property
    def endless(self) -> bool:
        """Whether metrics with an interval and no count go on until the run is terminated."""
        return self.step is None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """A run so far.

    ``decision`` is what a Failed run asks the rollout to do. ``earned``: every metric that counts has at least
    one good measurement, so that ending now would not be a pass by silence.
    """

    phase: RunPhase = RunPhase.PENDING
    message: str = ""
    started_at: datetime | None = None
    completed_at: datetime | None = None
    metrics: tuple[MetricResult, ...] = ()
    decision: OnFail | None = None
    earned: bool = False
    comparisons: tuple[ComparisonResult, ...] = ()
    gates: tuple[GateState, ...] = ()
    checkpoint: str = ""
    """State of the evidence process, for the next controller process."""
    judged_at: datetime | None = None
    """When the comparisons and the checkpoint were written."""
    timeline: str = ""
    """Weights, effects and evidence so far (``timeline.py``), for reports; nothing is decided by it."""
