"""The history of one run: every stored write with its writer, epoch and times, and every request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from typing import Any

from rollouts.kube.client import Resource, WatchType
from rollouts.lab.memoryapi.history import Change
from rollouts.objects import kinds
from tests.kit.faults.cluster import CONTROLLER
from tests.kit.faults.source import Answer

__all__ = ["AdapterCall", "History", "Record", "Request"]

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """One stored write. ``epoch`` counts the controller's processes; ``seconds`` are monotonic."""

    change: Change
    epoch: int
    seconds: float
    now: datetime
    contents: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Of a model object or a Rollout: by adapter that it names, the pods that answered for it, and its path there."""
    served: Mapping[str, float] = field(default_factory=dict)
    """Requests that reached each backend until then."""

    def serving(self, adapter: str, source: str) -> frozenset[str] | None:
        """Pods that really served the adapter from ``source`` at that moment; None where nobody was asked."""
        if adapter not in self.contents:
            return None
        roots = self.contents[adapter].items()
        return frozenset(pod for pod, root in roots if source in ("", root))

    @property
    def ours(self) -> bool:
        """Whether the controller wrote it."""
        return self.change.manager == CONTROLLER

    @property
    def before(self) -> Object:
        """The object before the write; empty for a new one."""
        return self.change.previous or {}

    @property
    def after(self) -> Object:
        """The object after the write; empty when it was deleted."""
        return {} if self.change.type is WatchType.DELETED else self.change.obj

    def of(self, resource: Resource) -> bool:
        """Whether the record is about this kind."""
        return (self.change.group, self.change.plural) == (resource.group, resource.plural)


@dataclass(slots=True)
class Request:
    """One request of the controller; ``failed`` when a fault was the answer."""

    seconds: float
    verb: str
    plural: str
    name: str
    subresource: str = ""
    failed: bool = False
    refused: bool = False
    """Failed, and the same request will be refused again for as long as nothing changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterCall:
    """A load or an unload that reached a pod, after so many records."""

    what: str
    pod: str
    adapter: str
    root: str
    """Of an unload: the path that was behind the name."""
    in_flight: bool
    """Whether requests for it were running there."""
    records: int
    seconds: float
    now: datetime


@dataclass(slots=True)
class History:
    """Everything that happened, in order. ``problems`` are what the driver itself found wrong."""

    records: list[Record] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    answers: list[tuple[int, Answer, int]] = field(default_factory=list)
    """What the metric source began to say before which record; healthy before the first."""
    calls: list[AdapterCall] = field(default_factory=list)
    """What pods were asked to load and unload."""
    busy: list[tuple[int, str, int | None]] = field(default_factory=list)
    """Requests that a pool's pods began to say that they answer before which record; none before the first."""
    astray: list[tuple[int, float, Mapping[str, Mapping[str, Fraction]]]] = field(default_factory=list)
    """Before which record and when replicas of the picker began to go by other weights than the stored ones."""
    staleness: float = 0.0
    """Seconds by which the plan lets the controller's picture of other objects lag."""
    quiet_from: float | None = None
    """From when on nothing may be written any more."""

    def of(self, resource: Resource) -> Iterator[Record]:
        """Records of one kind."""
        return (record for record in self.records if record.of(resource))

    def ours(self, *resources: Resource) -> list[Record]:
        """The controller's own records of some kinds (of all but Events, when none is named)."""
        return [
            record
            for record in self.records
            if record.ours
            and not record.of(kinds.EVENT)
            and (not resources or any(record.of(resource) for resource in resources))
        ]
