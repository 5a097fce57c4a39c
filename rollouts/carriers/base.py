"""What is particular to one kind of object that carries weights: what a Rollout says of it, how it is read and written.

A new kind is a file with a ``TrafficKind`` and a ``Carrier``, and its line in ``TRAFFIC_KINDS``. Whatever asks per kind
iterates over that list: the schema of ``spec.traffic`` and its rules, caches and their indexes, the gatherer, the way
back, ``lint``, ``doctor``, the controller's options, the chart's roles. The same holds of the kind of version that it
splits (``TrafficKind.target``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from pydantic.alias_generators import to_snake

from rollouts.carriers.target_kinds import ObjectTargetKind, TargetKind
from rollouts.engine.actions import DesiredTraffic
from rollouts.engine.observation import Claim, Problem, TrafficView
from rollouts.engine.rollout_spec import Traffic, TrafficMode
from rollouts.engine.rollout_status import WayBack
from rollouts.engine.versions import Identity
from rollouts.objects.fields import map_of, metadata_of, text_of
from rollouts.objects.models import PoolOfModel, model_names, pool_of_model
from rollouts.objects.pools import Pool
from rollouts.objects.resource import Resource
from rollouts.traffic import wayback
from rollouts.traffic.fields import claim_of
from rollouts.traffic.inference_model_rewrite import RewriteDialect
from rollouts.traffic.reading import Reader
from rollouts.traffic.releasing import release
from rollouts.traffic.wayback import EntryList
from rollouts.traffic.writes import Apply, JsonPatch, RenderRefusal, Write
from rollouts.units import Weight

__all__ = ["POOL_REF", "Carrier", "Option", "TrafficKind", "TrafficPlace"]

Object = Mapping[str, Any]
Index = Callable[[dict[str, Any]], Iterable[Hashable]]

POOL_REF = "poolRef"
"""Index of the objects that name a pool, by (namespace, name)."""

_snake = cache(to_snake)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficPlace:
    """Where one traffic object of one Rollout is: the resource that is served, and what it calls its lists."""

    rollout: str
    namespace: str
    resource: Resource
    dialect: RewriteDialect | None = None
    records: tuple[WayBack, ...] = ()
    """What the status holds of ways back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """What has a kind watched: ``--<name>`` of the controller, and a value of the chart. ``help`` is for the former."""

    name: str
    help: str


class TrafficKind(ABC):
    """One kind. ``model`` is the pydantic type of ``spec.traffic.<field>``, ``help`` its description."""

    kind: ClassVar[str]
    field: ClassVar[str]
    help: ClassVar[str]
    model: ClassVar[Any]
    target: ClassVar[TargetKind]
    """The kind of version that it splits."""
    resources: ClassVar[tuple[Resource, ...]]
    """The API groups that may serve it, the one that counts first."""
    verbs: ClassVar[tuple[str, ...]] = ("get", "list", "watch", "create", "patch", "delete")
    """What the controller does with it: the chart's role."""
    asked_for: ClassVar[tuple[str, ...]] = ()
    """Those of them that ``doctor`` asks for, whichever Rollouts there are."""
    unserved: ClassVar[tuple[str, str]] = ("", "")
    """What ``doctor`` says where the cluster does not serve it, and what to do; empty: nothing."""
    absent: ClassVar[str] = ""
    """What to do, for ``doctor``, where the object does not exist and is not ours to make; empty: it may be missing."""
    weights: ClassVar[tuple[str, ...]] = ()
    """jq paths of what GitOps tools must not compare in an Adopted object; empty where it is never in Git."""
    in_git: ClassVar[bool] = True
    """Whether people may have it in Git; False: the controller alone makes it."""
    indexes: ClassVar[Mapping[str, Index]] = {}
    """Of its store."""
    made_of: ClassVar[str] = ""
    """Index by which the objects are found that are the traffic object together, by (namespace, name) of that. Empty:
    an object is one by itself."""
    membership: ClassVar[str] = ""
    """The field by which an object says that it is one of those, for people."""
    option: ClassVar[Option | None] = None
    """Without it the kind is not watched; None: it always is."""
    has_dialects: ClassVar[bool] = False
    """Whether the API server has to be asked what a version calls its lists (``controller.dialects``)."""

    @property
    def attribute(self) -> str:
        """The field's name in the model of ``spec.traffic``."""
        return _snake(self.field)

    @property
    def named(self) -> str:
        """Where below ``spec.traffic`` the object's name is."""
        return f"{self.field}.name"

    @property
    def called(self) -> str:
        """The traffic object, for people, before its name."""
        return f"{self.kind} group" if self.made_of else self.kind

    @property
    def versions(self) -> ObjectTargetKind | None:
        """The kind of version that its objects are as well; None where they are none."""
        target = self.target
        return target if isinstance(target, ObjectTargetKind) and target.kind == self.kind else None

    # --- what a raw Rollout says: cheap, and tolerant of any object ---

    def said(self, traffic: Object) -> list[Object]:
        """The entries for this kind in a raw ``spec.traffic``."""
        return [map_of(traffic.get(self.field))]

    def pools(self, traffic: Object) -> Iterator[str]:
        """Names of the pools that the entries name."""
        for entry in self.said(traffic):
            name = text_of(map_of(entry.get("poolRef")).get("name"))
            if name:
                yield name

    def kept(self, rollout: Object) -> Mapping[str, str]:
        """Annotations that an object which its Rollout gives up needs to go on as it is; empty: to be taken away."""
        return {}

    # --- what its model says ---

    def managed(self, model: Any) -> bool:
        """Whether the object is made by the controller from the spec, with rules of ours in it."""
        return False

    def findings(self, model: Any) -> Iterator[tuple[str, str]]:
        """Rules that the model breaks: the path below ``spec.traffic``, and what to do."""
        yield from ()

    def template(self, model: Any) -> dict[str, Any] | None:
        """The template that the object is rendered from."""
        return None

    def template_problems(self, template: Object) -> Sequence[Problem]:
        """What keeps a template from being rendered."""
        return ()

    @abstractmethod
    def read(self, model: Any, fingerprint: Callable[[Any], str]) -> Traffic:
        """The engine's view of the field."""

    def recorded(self, record: WayBack) -> Traffic | None:
        """The engine's view of the recorded object, while no spec says more; None: it is not read without its spec."""
        return None

    # --- the objects that are the traffic object together: one, unless ``made_of`` names more ---

    def joined(self, namespace: str, name: str, objects: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
        """The traffic object that these are together; None where it is not there."""
        return next(iter(objects), None)

    def is_part(self, obj: Object, name: str) -> bool:
        """Whether an object is a part of the traffic object of that name."""
        return text_of(metadata_of(obj).get("name")) == name

    def with_part(self, obj: Object, part: Object) -> dict[str, Any] | None:
        """The traffic object with one of its parts as it has just been stored, which may leave more to write.

        None: the one write was all.
        """
        return None

    def part(self, obj: Object, name: str) -> Object | None:
        """The part of that name; None where the traffic object has none."""
        return None

    def reset_risk(self, obj: Object, weights: Iterable[Weight]) -> str:
        """What a tool that resets the weight of a part to Git's would make of one of these shares; empty: no more."""
        return ""

    # --- what the object says ---

    def model_names(self, obj: Object) -> set[str]:
        """Model names that clients may ask for by it."""
        return model_names(obj)

    def pool_of(self, obj: Object) -> PoolOfModel:
        """The pool that serves what it splits."""
        return pool_of_model(obj)

    def lists(self, obj: Object) -> list[EntryList]:
        """Its lists of weighted entries, for the way back. Never raises."""
        return wayback.lists_of(obj)

    def claimed(self, obj: Object, record: WayBack, rollout: str) -> tuple[Claim, str]:
        """Whose the recorded object is."""
        return claim_of(obj, record.mode, rollout)

    def lowered(self, obj: Object, record: WayBack, limit: Weight) -> JsonPatch | None:
        """The write that lowers the recorded canary to ``limit``; None where it has no more."""
        return wayback.render(obj, record, limit, self.lists)

    def lowered_alone(self, obj: Object, record: WayBack, limit: Weight) -> JsonPatch | None:
        """A write that lowers the canary where the API server refuses that of ``lowered``; None where there is none."""
        return None

    def made_anew(self, place: TrafficPlace, record: WayBack, limit: Weight) -> Apply | None:
        """The object that is gone, with ``limit`` for the recorded canary; None where the record cannot make it."""
        return None

    @abstractmethod
    def carrier(self, place: TrafficPlace, spec: Any, template: Object | None) -> Carrier:
        """Who reads and writes the object; ``spec`` is what ``read`` answered, completed from the object."""


class Carrier(ABC):
    """One traffic object of one Rollout. ``raw`` is the object as the API server gave it; None: it does not exist."""

    resource: Resource
    kind: TrafficKind
    target: Any
    """Rollout, namespace and spec; of the type that the kind's renderer takes."""

    @property
    def namespace(self) -> str:
        """The object's namespace."""
        return str(self.target.namespace)

    @property
    def name(self) -> str:
        """The object's name."""
        return str(self.target.spec.name)

    @property
    def rendered_from(self) -> str:
        """What a person corrects when the API server refuses the object."""
        return f"{self.resource.kind} {self.name}"

    @property
    def route(self) -> Object | None:
        """The template of a Managed route, to which rules of ours may be added; None for everything else."""
        return None

    def parts(self, raw: Object) -> Sequence[Object]:
        """The stored objects that the traffic object is."""
        return (raw,)

    @abstractmethod
    def view(self, raw: Object | None, reader: Reader) -> TrafficView:
        """The engine's view. Never raises."""

    @abstractmethod
    def render(self, raw: Object | None, desired: DesiredTraffic) -> Write | RenderRefusal | None:
        """The write that brings the object to ``desired``; None when it says so already."""

    def way_back(self, raw: Object | None, stable: Identity, canary: Identity) -> WayBack:
        """The record that giving the canary's weight back needs, as the live object is now."""
        record = WayBack(
            kind=self.resource.kind,
            group=self.resource.group,
            name=self.name,
            mode=self.mode(raw),
            stable=wayback.entry_of(stable),
            canary=wayback.entry_of(canary),
        )
        return wayback.propose(raw, record, self.chosen(raw, (stable, canary)), self.kind.lists)

    @abstractmethod
    def mode(self, raw: Object | None) -> TrafficMode:
        """Who makes the object."""

    def chosen(self, raw: Object | None, arms: tuple[Identity, ...]) -> list[int] | None:
        """Indices of the rules that are ours to weigh; None: every rule there is."""
        return None

    def not_honoured(self, pool: Pool, preferred: Resource) -> str:
        """Why no released picker of others would move traffic of the pool by it; empty when one would.

        ``preferred`` is the served group of the kind that counts.
        """
        return ""

    def release(self, raw: Object, rollout: Object) -> JsonPatch:
        """Give a Managed object up; ``rollout`` is the raw Rollout that does."""
        return release(raw, self.target.rollout, self.kind.kept(rollout))
