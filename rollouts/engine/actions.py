"""What a plan asks the shell to do, in order. At most one action of a plan writes traffic."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from rollouts.engine.reasons import Printed, Reason
from rollouts.engine.rollout_spec import HeaderRouteStep, WarmUp
from rollouts.engine.rollout_status import RolloutStatus, WayBack
from rollouts.engine.versions import Identity, Revision
from rollouts.units import Weight

__all__ = [
    "Action",
    "CreateJob",
    "CreateRun",
    "DesiredTraffic",
    "DrainPods",
    "EmitEvent",
    "EventType",
    "ExcludeInterval",
    "LoadAdapter",
    "MarkRun",
    "Plan",
    "ReleaseTraffic",
    "ReleaseTrafficMode",
    "ReturnTraffic",
    "ScaleWorkload",
    "SetFinalizer",
    "TerminateRun",
    "UnloadAdapter",
    "UpdateRun",
    "WarmPods",
    "WriteReason",
    "WriteTraffic",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredTraffic:
    """What the traffic object should say about our two arms.

    ``weight`` is the canary's share of the joint weight, which is the sum over stable, canary, ``keep`` and
    ``drop``. ``canary`` None: all of it is stable's. ``keep`` are retired arms at weight 0 that stay listed
    (the rollback window); ``drop`` are retired arms that leave the list: Managed objects and entries that we
    added lose the entry, an entry of an Adopted HTTPRoute that Git declares stays at weight 0.
    Every entry that is in none of the four is foreign and keeps its share of the rule.
    """

    stable: Identity
    canary: Identity | None
    weight: Weight
    keep: tuple[Identity, ...] = ()
    drop: tuple[Identity, ...] = ()
    header_routes: tuple[HeaderRouteStep, ...] = ()


class WriteReason(Enum):
    """Why traffic is written: the reason of the Event and the label of the metric."""

    STEP = Reason.WEIGHT_SET
    ABORT = Reason.ROLLED_BACK
    PULL = Reason.CANARY_NOT_READY
    PROBE = Reason.PATH_PROBED
    RESTORE = Reason.WEIGHT_RESTORED
    SETTLE = Reason.TRAFFIC_SETTLED


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteTraffic:
    """Bring the traffic object to ``desired``, guarded by ``resource_version`` ('' creates it)."""

    desired: DesiredTraffic
    resource_version: str
    reason: WriteReason


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnTraffic:
    """Lower the canary to ``limit`` in every rule where it has more: weights only, by the stored record.

    Needs neither the spec nor a template. Guarded by ``resource_version``; counts as the plan's traffic write. Without
    one the object is gone, and is made anew.
    """

    record: WayBack
    limit: Weight
    resource_version: str
    reason: WriteReason


class ReleaseTrafficMode(Enum):
    """What happens to the traffic object when the Rollout goes."""

    DROP_LABEL = "DropLabel"
    DELETE = "Delete"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseTraffic:
    """Give a Managed traffic object up: drop our label, or delete it. ``record`` names it where no spec does."""

    mode: ReleaseTrafficMode
    resource_version: str
    record: WayBack | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRun:
    """Create the AnalysisRun ``name`` unless it exists. ``step`` None: the background run."""

    name: str
    step: int | None
    revision: Revision
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRun:
    """Tell the attempt's AnalysisRun the gates of an edited list of steps."""

    name: str
    revision: Revision
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminateRun:
    """Set ``spec.terminate`` on the AnalysisRun."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkRun:
    """Append ``{at, step, weight}`` to the run's marks."""

    name: str
    at: datetime
    step: int
    weight: Weight


@dataclass(frozen=True, slots=True, kw_only=True)
class ExcludeInterval:
    """Append ``{from, to}`` to the run's excluded intervals."""

    name: str
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateJob:
    """Create the Job ``name`` of job step ``step`` unless it exists."""

    name: str
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadAdapter:
    """Load an adapter from its source on every Ready pod that lacks it."""

    identity: Identity


@dataclass(frozen=True, slots=True, kw_only=True)
class UnloadAdapter:
    """Take an adapter off the pods: it lost, and its rollback window is over."""

    identity: Identity


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleWorkload:
    """Give the workload of an arm so many replicas, guarded by its ``resource_version``.

    What is stopped and started as a whole (``WorkloadView.stops``) is stopped by 0, and started by any other number.
    ``at_most``: pods that the arms in ``beside`` and this one may have together, as counted at the API server right
    before; None where there is no limit, as where the number falls.
    """

    identity: Identity
    replicas: int
    resource_version: str
    beside: tuple[Identity, ...] = ()
    at_most: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainPods:
    """Keep new requests from the pods that would go if the arm's workload had so many replicas, and no other.

    In every plan while the drain is stored in status; without it in a plan, the arm's pods get requests again.
    """

    identity: Identity
    to: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmPods:
    """Keep requests from the arm's pods that are not warm, and send them some of our own until they are.

    In every plan while there are any; without it in a plan, all of the Rollout's pods get requests.
    """

    identity: Identity
    warm_up: WarmUp


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFinalizer:
    """Add or remove our finalizer on the Rollout."""

    present: bool


class EventType(Enum):
    """Types of Kubernetes Events."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmitEvent:
    """A Kubernetes Event on the Rollout. ``reason`` is a constant in UpperCamelCase."""

    type: EventType
    reason: Reason | Printed
    message: str


Action = (
    WriteTraffic
    | ReturnTraffic
    | ReleaseTraffic
    | CreateRun
    | TerminateRun
    | UpdateRun
    | MarkRun
    | ExcludeInterval
    | CreateJob
    | LoadAdapter
    | UnloadAdapter
    | ScaleWorkload
    | DrainPods
    | WarmPods
    | SetFinalizer
    | EmitEvent
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Actions in order, then the status to store, then when to look again without being asked."""

    actions: tuple[Action, ...]
    status: RolloutStatus
    requeue_after: timedelta | None = None
    count_after: timedelta | None = None
    """When the arms' requests are to be counted again: a look is due only if they say something new
    (``watching.says_new``)."""
