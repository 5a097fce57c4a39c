"""``spec`` with its defaults filled in: steps, traffic and strategy.

Everything here is immutable and free of JSON: ``rollouts.api`` is the only place that knows field names.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

from rollouts.engine.versions import Target
from rollouts.units import Weight

__all__ = [
    "AbortSpeed",
    "AdapterTraffic",
    "AnalysisStep",
    "ApproveStep",
    "BackgroundAnalysis",
    "CanaryStrategy",
    "Capacity",
    "CompanionPool",
    "Dependency",
    "GroupTraffic",
    "HeaderMatch",
    "HeaderMatchType",
    "HeaderRouteStep",
    "HttpRouteTraffic",
    "JobStep",
    "OnDeadline",
    "OnDelete",
    "PathProbe",
    "PauseStep",
    "PickerTraffic",
    "PodCount",
    "RolloutSpec",
    "Step",
    "Sticky",
    "Traffic",
    "TrafficMode",
    "VariantTraffic",
    "WarmUp",
    "WeightStep",
    "Window",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightStep:
    """``setWeight``."""

    weight: Weight


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseStep:
    """``pause``; ``duration`` None waits for ``promote``. ``approve``: a receiver that may end it before."""

    duration: timedelta | None
    approve: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApproveStep:
    """``approve``: nothing goes on until the receiver of this name approves, or a person promotes."""

    webhook: str


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


Step = WeightStep | PauseStep | ApproveStep | AnalysisStep | JobStep | HeaderRouteStep


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
class VariantTraffic:
    """The PoolSplit that shares a pool's requests for ``model_name`` (empty: all of them) among variants."""

    kind: str
    name: str
    model_name: str
    pool_name: str
    pool_group: str = ""


PickerTraffic = AdapterTraffic | VariantTraffic
"""What the endpoint picker of one pool splits by; no gateway weighs it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTraffic:
    """A group of objects, each a version with a weight of its own; somebody else makes the gateway's routes of it."""

    kind: str
    name: str


Traffic = HttpRouteTraffic | PickerTraffic | GroupTraffic
"""What carries the weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sticky:
    """Key of a split that a picker makes: one of header, cookie, body field; ``pin_header`` lets testers choose."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """``strategy.canary.windows[]``: from each moment of a cron schedule on for ``duration``, in ``time_zone``."""

    schedule: str
    duration: timedelta
    time_zone: str = "UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodCount:
    """A number of pods; ``percent``: of stable's, rounded up, as Deployments round their maxSurge."""

    number: int
    percent: bool = False

    def of(self, pods: int) -> int:
        """The number where stable has ``pods``."""
        return -(-pods * self.number // 100) if self.percent else self.number


class AbortSpeed(Enum):
    """``capacity.abort``: how traffic returns to a stable that gave pods to the canary."""

    AS_CAPACITY_ALLOWS = "AsCapacityAllows"
    """By as much as its Ready pods are of N."""
    IMMEDIATE = "Immediate"
    """All of it at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUp:
    """``capacity.warmUp``: what a fresh pod of the canary answers before it counts as Ready.

    ``config_map`` and ``key``: where prompts are, one a line; empty: they are made up.
    """

    requests: int = 20
    concurrency: int = 2
    config_map: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompanionPool:
    """``capacity.with[]``: a pool whose pods work for those of another: prefill beside decode.

    ``of``: the pool of the version that it belongs to; empty: the target. ``role`` tells several of one version apart.
    """

    pool: str
    of: str = ""
    role: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoserPolicy:
    """``strategy.canary.capacity.scaleDown``: what becomes of a version that lost."""

    delay: timedelta = timedelta(minutes=10)
    """From when it has no weight: time to go back without starting pods."""
    to: int = 0
    drain_timeout: timedelta = timedelta(minutes=30)
    """It loses its pods this long after ``delay`` although it still answers requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """``strategy.canary.capacity``: the canary's workload is scaled with its weight, the loser's after the end.

    N are stable's replicas at the start, or its Ready pods where those are more. Stable gives pods to the canary as far
    as ``min_stable`` lets it, where ``max_surge`` leaves no other room.
    """

    max_surge: PodCount | None = None
    """Pods of both versions together over N; None: no limit, the steps get what they need."""
    min_stable: PodCount = PodCount(number=100, percent=True)
    """What stable keeps until the promotion; 100 %: it is never scaled before it has lost."""
    abort: AbortSpeed = AbortSpeed.AS_CAPACITY_ALLOWS
    """Of a stable that has fewer pods than N by our doing; any other gets its traffic back at once."""
    headroom: float = 1.0
    """The canary has max(``min_replicas``, ceil(w x N x this)) pods before it gets weight w."""
    min_replicas: int = 1
    drain_timeout: timedelta = timedelta(minutes=30)
    """A loser that still answers requests is scaled down this long after ``scale_down_delay`` all the same."""
    scale_down_delay: timedelta = timedelta(minutes=10)
    """From when the loser has no weight: time to go back without starting pods."""
    scale_down_to: int = 0
    warm_up: WarmUp | None = None
    """None: a pod counts when it is Ready."""
    companions: tuple[CompanionPool, ...] = ()
    """Beside those that name their version by a label."""

    @property
    def gives(self) -> bool:
        """Whether stable may have to give pods: not all of them are to stay, and there is a limit."""
        whole = self.min_stable.percent and self.min_stable.number >= 100
        return self.max_surge is not None and not whole

    @property
    def loser(self) -> LoserPolicy:
        """What becomes of a version that lost."""
        return LoserPolicy(
            delay=self.scale_down_delay, to=self.scale_down_to, drain_timeout=self.drain_timeout
        )


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
    capacity: Capacity | None = None
    """None: nobody is scaled by us."""
    stop: LoserPolicy | None = None
    """Of versions whose pods somebody else scales, and which can be stopped as a whole; None: nobody is stopped."""

    @property
    def loser(self) -> LoserPolicy | None:
        """What becomes of a version that lost; None: it keeps its pods."""
        return self.capacity.loser if self.capacity is not None else self.stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    """``dependsOn[]``: a Rollout that has to be Healthy, for ``soak``. ``namespace`` empty: the Rollout's own."""

    name: str
    namespace: str = ""
    soak: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSpec:
    """``spec``, defaults filled in."""

    target: Target
    traffic: Traffic
    canary: CanaryStrategy
    rollback_window: timedelta = timedelta(0)
    stable_hint: str = ""
    allow_missing_models: bool = False
    depends_on: tuple[Dependency, ...] = ()
    paused: bool = False
    on_delete: OnDelete = OnDelete.RESTORE_STABLE
