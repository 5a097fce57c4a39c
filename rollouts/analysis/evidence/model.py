"""Values that enter and leave the evidence engine: scrapes, marks, metric specifications.

Everything here is immutable. Times are seconds (float) on any one clock, shares and margins are fractions
(0.05 is five percent), relative changes are ratios minus one (1.0 is "doubled").
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = [
    "Arm",
    "CompareMetric",
    "CountSeries",
    "Direction",
    "EvidenceSpec",
    "Exclusion",
    "GaugeSeries",
    "HistogramSample",
    "HistogramSeries",
    "LostSeries",
    "Mark",
    "OnUndecided",
    "PodSample",
    "Require",
    "Scrape",
    "Series",
    "comparable",
    "judged_with_one_pod",
]


class Arm(enum.StrEnum):
    """One side of the comparison."""

    STABLE = "stable"
    CANARY = "canary"


class Direction(enum.StrEnum):
    """Which way is good."""

    LOWER = "lower"
    HIGHER = "higher"


class Require(enum.StrEnum):
    """What a gate needs in order to pass."""

    NO_HARM = "NoHarm"
    WITHIN_TOLERANCE = "WithinTolerance"


class OnUndecided(enum.StrEnum):
    """What a gate does when it can say neither yes nor no."""

    HOLD = "Hold"
    PROMOTE_IF_NO_HARM = "PromoteIfNoHarm"
    FAIL = "Fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class HistogramSample:
    """Cumulative Prometheus buckets; `bounds` ascend and end with infinity, one count per bound."""

    bounds: tuple[float, ...]
    cumulative: tuple[float, ...]
    sum: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSample:
    """The raw cumulative counters of one pod in one arm. (arm, pod) is the key: a pod may serve both arms."""

    arm: Arm
    pod: str
    counters: Mapping[str, float] = field(default_factory=dict)
    gauges: Mapping[str, float] = field(default_factory=dict)
    histograms: Mapping[str, HistogramSample] = field(default_factory=dict)
    started: float | None = None
    """When the process began to count, in seconds; marks a new pod."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrape:
    """Every pod that answered at one evaluation time."""

    at: float
    pods: tuple[PodSample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """From `at` on the canary's weight is `weight` (a fraction)."""

    at: float
    step: int
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion:
    """Intervals that overlap [start, end] say nothing about the two versions."""

    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CountSeries:
    """Bad events out of all events, two counters."""

    errors: str
    of: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LostSeries(CountSeries):
    """What was asked for and not finished: `of` less `finished`, and what has been `in_flight` for longer than the
    `longest` answer of stable. `errors` names what comes out. `progress` grows while an engine works."""

    finished: str
    in_flight: str
    longest: str
    progress: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HistogramSeries:
    """A histogram of per-request values. `coarse`: the buckets are known to be too wide, so use sum/count."""

    name: str
    coarse: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GaugeSeries:
    """An instantaneous value per pod; reflects load as well as version."""

    name: str


Series = CountSeries | HistogramSeries | GaugeSeries

LEAST_STABLE_PODS = 2
"""With one pod a slow version cannot be told from a slow pod, however long one waits."""
MIN_DWELL = 300.0
"""Seconds before the earliest pass: ten intervals, in which a version that is much worse has shown it."""
MIN_REQUESTS = 200
"""Canary requests before a pass: ten of them are a tail of 5 %."""
WARM_UP = 120.0
"""Seconds of a new pod that are not looked at: caches fill and kernels are compiled."""


def comparable(series: Series, stable_pods: int, *, coupled: bool) -> bool:
    """Whether so many stable pods can be compared with: process, gates and plan all ask here.

    A slow version looks like a slow pod where there is one stable pod; events are counted all the same, and two
    adapters on the same pods are held against each other inside each pod.
    """
    return coupled or isinstance(series, CountSeries) or stable_pods >= LEAST_STABLE_PODS


def judged_with_one_pod(metrics: "tuple[CompareMetric, ...]") -> tuple[int, ...]:
    """Metrics (indices) that decide for the others where there is a single stable pod: gates and plan both ask here."""
    return tuple(
        index
        for index, metric in enumerate(metrics)
        if isinstance(metric.series, CountSeries) and not metric.advisory and metric.weight != 0.0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareMetric:
    """One compare gate: what is compared, and what counts as harm and as good enough.

    `margin` is growth that is not yet harm, `tolerance` the growth that a pass must rule out. A weight of
    None takes the default share (half for event rates together, half for everything else together);
    an advisory metric is reported and never decides.
    """

    name: str
    series: Series
    margin: float
    tolerance: float
    direction: Direction = Direction.LOWER
    require: Require = Require.WITHIN_TOLERANCE
    min_dwell: float = MIN_DWELL
    min_requests: int = MIN_REQUESTS
    warm_up: float = WARM_UP
    max_duration: float | None = None
    on_undecided: OnUndecided = OnUndecided.HOLD
    weight: float | None = None
    advisory: bool = False
    floor: float = 0.001
    """Event rates below this share are never harm (absolute floor)."""

    def __post_init__(self) -> None:
        if not (0.0 <= self.margin < self.tolerance <= 1000.0):
            raise ValueError(
                f"metric {self.name!r}: margin {self.margin} must be at least 0 and below tolerance "
                f"{self.tolerance}: a pass must rule out more than what counts as harm; raise the tolerance"
            )
        if not 0.0 < self.floor < 0.5:
            raise ValueError(f"metric {self.name!r}: floor {self.floor} must lie between 0 and 0.5")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceSpec:
    """One evidence process: the metrics of an attempt and its error budgets.

    `false_abort_rate` bounds the probability that a healthy canary is ever aborted, over all metrics,
    steps and looks; `wrong_pass_rate` that of a pass for a canary outside tolerance, per metric.
    """

    metrics: tuple[CompareMetric, ...]
    false_abort_rate: float = 0.05
    wrong_pass_rate: float = 0.05
    interval: float = 30.0
    load_counter: str = "requests"
    mix_histogram: str = "prompt_tokens"
    certify_from_weight: float = 0.05

    def __post_init__(self) -> None:
        names = [metric.name for metric in self.metrics]
        if not names or len(names) > 16 or len(set(names)) != len(names):
            raise ValueError(f"between 1 and 16 metrics with distinct names are needed, got {names}")
        for rate in (self.false_abort_rate, self.wrong_pass_rate):
            if not 0.0 < rate < 1.0:
                raise ValueError(f"an error rate must lie between 0 and 1, got {rate}")
        if self.interval <= 0:
            raise ValueError(f"the interval must be positive, got {self.interval}")

    @property
    def abort_at(self) -> float:
        """Evidence at which a rollout is aborted (Ville's inequality)."""
        return 1.0 / self.false_abort_rate

    @property
    def pass_at(self) -> float:
        """Evidence at which a metric is shown to be within tolerance."""
        return 1.0 / self.wrong_pass_rate
