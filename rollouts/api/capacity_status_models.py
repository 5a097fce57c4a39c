"""What a Rollout's status stores of pods that it scales: companions, scale-downs, drains, stable's way back, use."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rollouts.api.base import ApiModel
from rollouts.api.scalars import IntOrPercent
from rollouts.api.stored_scalars import (
    Called,
    Filled,
    KeptNumber,
    Number,
    Said,
    Selector,
    Short,
    Source,
    Time,
)

__all__ = [
    "AcceleratorUseModel",
    "AttemptCapacityModel",
    "CompanionCapacityModel",
    "CompanionRefModel",
    "CompanionScaleModel",
    "DrainModel",
    "KeptCompanionModel",
    "ScaleDownModel",
    "StableScaleModel",
]


class PoolModel(ApiModel):
    """The pool of what is stored about a workload."""

    kind: Short
    """InferencePool."""
    group: Short = ""
    """API group of the pool."""
    name: Called
    """Name of the pool."""
    source: Source = ""
    """Empty: only pools have workloads of their own."""


class CompanionRefModel(ApiModel):
    """A pool that a version has its pods in, or whose pods work for those of a version."""

    kind: Short
    """InferencePool."""
    group: Short = ""
    """Its API group."""
    name: Called
    """Its name."""
    source: Source = ""
    """Empty: only pools have workloads of their own."""


class CompanionCapacityModel(ApiModel):
    """Pods of one companion of the versions of an attempt: of stable's pool and of the canary's."""

    stable: CompanionRefModel
    """Stable's."""
    canary: CompanionRefModel
    """The canary's."""
    role: Short = ""
    """What tells several companions of a version apart."""
    stable_at_start: Number = 0
    """Replicas of stable's at the start, or its Ready pods where those are more."""
    wanted: Number = 0
    """Replicas that the canary's is given: stored before it is scaled."""
    selector: Selector = ""
    """Labels of the canary's: its pods count by them when the pool is gone."""
    reached: Number = 0
    """The most of them that it was seen with; fewer later are restored."""
    restores: Annotated[list[Time], Field(max_length=64)] = Field(default=[])
    """When replicas that somebody else lowered were restored."""
    ready: Number = 0
    """Ready pods of the canary's."""
    pending: Number = 0
    """Its pods that no node has room for yet."""
    stable_ready: Number = 0
    """Ready pods of stable's at the start."""


class AttemptCapacityModel(ApiModel):
    """Pods of an attempt, where `strategy.canary.capacity` is set."""

    stable_at_start: Number = 0
    """N: stable's replicas at the start, or its Ready pods where those are more."""
    wanted: Number = 0
    """Replicas that the canary's workload is given: stored before it is scaled."""
    selector: Selector = ""
    """Labels of the canary's pool: its pods count by them when the pool is gone."""
    reached: Number = 0
    """The most of them that it was seen with; fewer later are restored."""
    restores: Annotated[list[Time], Field(max_length=64)] = Field(default=[])
    """When replicas that somebody else lowered were restored."""
    ceiling: IntOrPercent | None = None
    """No higher weight than this, which the canary's Ready pods carry: the step's weight needs pods that fit only when
    stable has given some."""
    ready: Number = 0
    """The canary's Ready pods."""
    pending: Number = 0
    """Its pods that no node has room for yet."""
    warming: Number = 0
    """Its pods that are Ready and not warm yet, which are not among those."""
    stable_ready: Number = 0
    """Stable's Ready pods at the start."""
    companions: Annotated[list[CompanionCapacityModel], Field(max_length=8)] = Field(default=[])
    """Pools whose pods work for those of the versions (`capacity.with`, or the label `inferencerollouts.dev/with`)."""


class ScaleDownModel(PoolModel):
    """The workload of a version that lost, until it has been scaled down."""

    since: Time | None = None
    """Since when it has no weight."""
    decided: bool = False
    """It is to be scaled down now: stored before the workload is."""
    reached: bool = False
    """Its workload was seen scaled down: more replicas later are somebody else's doing."""
    restores: Annotated[list[Time], Field(max_length=64)] = Field(default=[])
    """When what somebody scaled up again was scaled down again, in the last 10 minutes."""
    selector: Selector = ""
    """Labels of its pool: its pods count by them when the pool is gone."""
    of: CompanionRefModel | None = None
    """Of a companion: the version that its pods work for, which goes first."""
    role: Short = ""
    """Of a companion: its role."""
    pods: Number = 0
    """Of a companion: its pods at the start, for `ofPods` of the version."""
    of_pods: Number = 0
    """Of a companion: the version's pods at the start."""
    message: Said = ""
    """What it waits for."""


class DrainModel(PoolModel):
    """A version that may have requests and is to lose pods: those are drained, then its workload is scaled."""

    source: Annotated[str, Field(max_length=1024)] = ""
    """Empty: only pools have workloads of their own."""
    replicas: KeptNumber
    """What its workload had when that was decided."""
    to: KeptNumber
    """What it is given."""
    since: Time
    """Since when pods drain."""
    message: Said = ""
    """What it waits for."""


class ReturnProgressModel(ApiModel):
    """The best that a return of traffic with pods has come to."""

    began: Time
    """Since when it waits for pods."""
    at: Time
    """When it last came further."""
    ready: KeptNumber
    """Stable's Ready pods, the most of them so far."""
    replicas: KeptNumber
    """Its replicas, likewise."""
    beside: KeptNumber
    """Replicas and pods of what makes room, the fewest so far."""
    undrained_since: Time | None = None
    """Since when requests cannot be kept from single pods that are to make room."""
    unwritten: bool = False
    """The weight that is to fall could not be written when that was tried last: the clock stands."""


class CompanionScaleModel(PoolModel):
    """The workload of one of stable's companions while stable gives pods: as `stableScale` has stable's own."""

    role: Short = ""
    """What tells several companions of a version apart."""
    full: KeptNumber
    """Its replicas at the start, which it gets back unless it is replaced."""
    wanted: KeptNumber
    """Replicas that its workload is given: stored before it is scaled."""
    most: KeptNumber
    """Pods of the companions of this role of all versions together."""
    reached: bool = False
    """Its workload was seen with them: another number later is somebody else's doing."""
    restores: Annotated[list[Time], Field(max_length=64)] = Field(default=[])
    """When what somebody else wrote was restored."""
    ready: Number = 0
    """Its Ready pods."""
    pending: Number = 0
    """Its pods that no node has room for yet."""
    ready_at_start: Number = 0
    """Its Ready pods before it gave any; 0: all of `full`."""
    gone_since: Time | None = None
    """On the way back: since when its pool, or what makes its pods, has not been there."""


class StableScaleModel(PoolModel):
    """Stable's workload, from when it is to have fewer replicas than at the start until it has them again."""

    name: Filled
    """Name of the pool."""
    source: Annotated[str, Field(max_length=1024)] = ""
    """Empty: only pools have workloads of their own."""
    full: KeptNumber
    """N: its replicas at the start, which it gets back unless it is replaced."""
    wanted: KeptNumber
    """Replicas that its workload is given: stored before it is scaled."""
    most: KeptNumber
    """Pods of all versions together."""
    reached: bool = False
    """Its workload was seen with them: another number later is somebody else's doing."""
    returning: bool = False
    """It is on the way back to its replicas at the start."""
    immediate: bool = False
    """All traffic goes back at once; otherwise as its pods become Ready."""
    restores: Annotated[list[Time], Field(max_length=64)] = Field(default=[])
    """When what somebody else wrote was restored."""
    ready: Number = 0
    """Its Ready pods."""
    pending: Number = 0
    """Its pods that no node has room for yet."""
    ready_at_start: Number = 0
    """Its Ready pods before it gave any; 0: all of `full`."""
    drain_seconds: KeptNumber = 1800
    """`drainTimeout` as it was when pods were taken from it."""
    progress: ReturnProgressModel | None = None
    """While the canary keeps traffic that stable has no pods for."""
    blocked: Said = ""
    """Why all traffic goes back at once although the policy says otherwise."""
    companions: Annotated[list[CompanionScaleModel], Field(max_length=8)] = Field(default=[])
    """Its companions, which give pods with it, by role."""


class AcceleratorUseModel(ApiModel):
    """Accelerators that pods of all versions hold, added up: `seconds` + `held` times the time since `since`."""

    attempt: KeptNumber
    """The attempt that they are counted for."""
    seconds: Number = 0
    """Accelerators times seconds until `since`, those of stable included."""
    extra_seconds: Number = 0
    """Those of them beyond `own`."""
    held: Number = 0
    """What pods that have a node hold since then."""
    own: Number = 0
    """What stable's pods held when counting began."""
    since: Time | None = None
    """Absent when it is over."""


class KeptCompanionModel(CompanionRefModel):
    """A companion of a version that carried all traffic."""

    role: Short = ""
    """What tells several companions of a version apart."""
    pods: Number = 0
    """Its pods then."""
    selector: Selector = ""
    """Labels of its pool, by which its pods are counted when the pool is gone."""
