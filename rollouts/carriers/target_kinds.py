"""What is particular to one kind of version: what ``spec.target`` says of it, and who it is.

Each kind of traffic object names the kind that it splits (``TrafficKind.target``), and so brings it along.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic.alias_generators import to_snake

from rollouts.engine.observation import Blocker
from rollouts.engine.versions import Identity, Target
from rollouts.objects.pools import Pool
from rollouts.objects.resource import Resource
from rollouts.traffic.writes import JsonPatch

__all__ = ["ObjectTargetKind", "Stoppable", "StoppedTargetKind", "TargetKind"]

Object = Mapping[str, Any]


class TargetKind(ABC):
    """One kind of version. ``model`` is the pydantic type of ``spec.target.<field>``, ``help`` its description."""

    field: ClassVar[str]
    help: ClassVar[str]
    model: ClassVar[Any]
    called: ClassVar[str]
    """In messages, with its article."""
    why: ClassVar[str] = ""
    """What is added to the message that it needs traffic of a kind that splits it."""
    by_picker: ClassVar[bool] = False
    """Whether an endpoint picker splits the requests, so that a key may be sticky; else a gateway does."""
    unscaled: ClassVar[str] = ""
    """Why ``strategy.canary.capacity`` cannot scale its pods; empty: it can."""

    @property
    def attribute(self) -> str:
        """The field's name in the model of ``spec.target``."""
        return to_snake(self.field)

    def read(self, model: Any, revision: str) -> Target:
        """The engine's view of the field."""
        return Target(kind=self.field, name=model.name, revision=revision)

    def findings(self, model: Any) -> Iterator[tuple[str, str]]:
        """Rules that the model breaks: the path below ``spec.target``, and what to do."""
        yield from ()

    def identity(self, target: Target) -> Identity | None:
        """``spec.target`` as an arm; None where only the cluster tells, as the API group of a pool."""
        return None


class ObjectTargetKind(TargetKind):
    """A kind of version that is an object, which says what its pods are. ``kind`` is that of the arm's identity."""

    kind: ClassVar[str]
    resources: ClassVar[tuple[Resource, ...]]
    """The API groups that may serve it, the one that counts first."""

    @abstractmethod
    def pods(self, obj: Object) -> Pool:
        """The pods of the version that an object is. Never raises."""

    def lacks(self, obj: Object, beside: Object | None, spec: Any, rollout: str) -> Iterator[Blocker]:
        """What keeps the version that an object is from being a target; ``beside``: the stable one's object."""
        yield from ()

    def serves(self, obj: Object, name: str) -> bool:
        """Whether requests reach the version that an object is, once its pods are Ready; ``name``: of the traffic."""
        return True

    def troubles(self, obj: Object, beside: Object | None, spec: Any, rollout: str) -> Iterator[Blocker]:
        """Why requests may not reach a version that had lacked nothing."""
        yield from ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stoppable:
    """A version that is stopped and started as a whole. ``problem``: why that is not ours to do."""

    stopped: bool = False
    by_us: bool = False
    """It is stopped, by this Rollout alone."""
    problem: Blocker | None = None
    used_by: str = ""
    """What still sends requests to it."""


class StoppedTargetKind(ObjectTargetKind):
    """A kind whose versions somebody else scales, and which are stopped and started as a whole.

    Of ``capacity`` the fields ``scaleDown`` and ``drainTimeout`` alone are for them.
    """

    scaled_by: ClassVar[str]
    """Who scales them."""

    @abstractmethod
    def stoppable(self, obj: Object, group: Object | None, spec: Any, rollout: str) -> Stoppable:
        """Whether a version may be stopped when it has lost; ``group``: the traffic object."""

    @abstractmethod
    def is_stopped(self, obj: Object) -> bool:
        """Whether the version that an object is has been stopped, by whomever."""

    @abstractmethod
    def switched(self, obj: Object, rollout: str, *, stop: bool) -> JsonPatch:
        """The write that stops the version that an object is, or starts it where it was stopped by us."""
