"""LLMInferenceService: weights of KServe's routing groups, each in the object of the version that has it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Annotated, Any, ClassVar

from pydantic import Field

from rollouts.api.base import ApiModel
from rollouts.api.scalars import Name
from rollouts.carriers.base import Carrier, Object, Option, TrafficKind, TrafficPlace
from rollouts.carriers.target_kinds import Stoppable, StoppedTargetKind
from rollouts.engine.actions import DesiredTraffic
from rollouts.engine.observation import Blocker, Claim, TrafficView
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import GroupTraffic, TrafficMode
from rollouts.engine.rollout_status import WayBack
from rollouts.engine.versions import Identity, Target
from rollouts.objects import kinds
from rollouts.objects.claims import CONSENT_ANNOTATION
from rollouts.objects.fields import map_of, metadata_of, text_of
from rollouts.objects.llm_services import LlmService, pods_of_service, read_llm_service
from rollouts.objects.pools import Pool
from rollouts.objects.resource import Resource
from rollouts.traffic import llm_service_stop, service_group
from rollouts.traffic.fields import claim_of
from rollouts.traffic.reading import Reader
from rollouts.traffic.service_group_shares import after_reset, fine_weight
from rollouts.traffic.wayback import EntryList
from rollouts.traffic.writes import JsonPatch, RenderRefusal, Write
from rollouts.units import FULL, ZERO, Weight, format_weight

__all__ = ["LLM_INFERENCE_SERVICE"]

_GROUP = "routingGroup"
"""Index of the members by their group, by (namespace, name)."""


def _by_group(obj: dict[str, Any]) -> Iterable[Hashable]:
    group = read_llm_service(obj).group
    return [(text_of(metadata_of(obj).get("namespace")), group)] if group else []


class LlmServiceTargetModel(ApiModel):
    """An LLMInferenceService of KServe."""

    name: Name
    """Its name, in the Rollout's namespace."""


class GroupTrafficModel(ApiModel):
    """The routing group of KServe whose members' weights move; its routes are KServe's."""

    group: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=63)]
    """What `spec.router.route.group` of both LLMInferenceServices says."""


class _LlmInferenceServiceTargets(StoppedTargetKind):
    field = "llmInferenceService"
    help = (
        "Serve from this member of the group in `traffic.llmInferenceServiceGroup`. KServe scales it; with "
        "`capacity.scaleDown` one that lost is stopped by KServe's annotation."
    )
    model = LlmServiceTargetModel
    called = "an llmInferenceService"
    scaled_by = "KServe"
    kind = kinds.LLM_SERVICE.kind
    resources = (kinds.LLM_SERVICE,)

    def identity(self, target: Target) -> Identity:
        return service_group.service_identity(target.name)

    def pods(self, obj: Object) -> Pool:
        return pods_of_service(obj)

    def lacks(
        self, obj: Object, beside: Object | None, spec: GroupTraffic, rollout: str
    ) -> Iterator[Blocker]:
        one = read_llm_service(obj)
        what = f"LLMInferenceService {one.name}"
        if one.group != spec.name:
            where = f"is in group {one.group}" if one.group else "is in no group"
            message = f"{what} {where}: set spec.router.route.group to {spec.name}, and weight to 0"
            yield Blocker(reason=Reason.SERVICE_NOT_IN_GROUP, message=message)
        if claim_of(obj, TrafficMode.ADOPTED, rollout)[0] is not Claim.CONSENTED:
            message = f"{what} does not consent: annotate it in Git with {CONSENT_ANNOTATION}: {rollout}"
            yield Blocker(reason=Reason.ROUTE_NOT_CONSENTED, message=message)
        if llm_service_stop.stopped_by_us(obj, rollout):
            message = f"{what} was stopped when it had lost, and is started again"
            yield Blocker(reason=Reason.SERVICE_STARTING, message=message)
        elif one.stopped:
            message = f"{what} is stopped (annotation serving.kserve.io/stop): take that away to start it"
            yield Blocker(reason=Reason.SERVICE_STOPPED, message=message)
        yield from _not_ready(one)
        other = read_llm_service(beside) if beside is not None else one
        if one.models != other.models and not other.stopped:
            said = one.failing.get("GroupDegraded") or other.failing.get("GroupDegraded")
            words = f" (KServe: {said.words})" if said is not None else ""
            message = (
                f"{what} serves {', '.join(one.models)} and {other.name} {', '.join(other.models)}: KServe shares "
                f"requests between members of the same names alone{words}; give both the same spec.model.name "
                "and adapters"
            )
            yield Blocker(reason=Reason.GROUP_DIVERGES, message=message)

    def stoppable(self, obj: Object, group: Object | None, spec: GroupTraffic, rollout: str) -> Stoppable:
        """KServe may be late: as long as a route of its has weight for the version, requests come."""
        one, problem = read_llm_service(obj), None
        what = f"LLMInferenceService {one.name}"
        if claim_of(obj, TrafficMode.ADOPTED, rollout)[0] is not Claim.CONSENTED:
            message = f"{what} does not consent (annotation {CONSENT_ANNOTATION}: {rollout})"
            problem = Blocker(reason=Reason.ROUTE_NOT_CONSENTED, message=message)
        elif one.group != spec.name:
            message = f"{what} is not in group {spec.name}: what sends requests to it is not known"
            problem = Blocker(reason=Reason.SERVICE_NOT_IN_GROUP, message=message)
        elif one.deleting:
            problem = Blocker(reason=Reason.SERVICE_NOT_READY, message=f"{what} is being deleted")
        return Stoppable(
            stopped=one.stopped,
            by_us=llm_service_stop.stopped_by_us(obj, rollout),
            problem=problem,
            used_by=llm_service_stop.sent_by(obj, service_group.members_of(group)),
        )

    def is_stopped(self, obj: Object) -> bool:
        return read_llm_service(obj).stopped

    def switched(self, obj: Object, rollout: str, *, stop: bool) -> JsonPatch:
        return llm_service_stop.switched(obj, rollout, stop=stop)

    def serves(self, obj: Object, name: str) -> bool:
        one = read_llm_service(obj)
        return one.group == name and not one.stopped and not one.deleting

    def troubles(
        self, obj: Object, beside: Object | None, spec: GroupTraffic, rollout: str
    ) -> Iterator[Blocker]:
        """Without consent, which holds all writes by itself; each of our writes is a new spec for KServe to look at."""
        one = read_llm_service(obj)
        if one.deleting:
            message = f"LLMInferenceService {one.name} is being deleted"
            yield Blocker(reason=Reason.SERVICE_NOT_READY, message=message)
        behind = not one.failing and not one.current
        for said in self.lacks(obj, beside, spec, rollout):
            late = behind and said.reason is Reason.SERVICE_NOT_READY
            if said.reason is not Reason.ROUTE_NOT_CONSENTED and not late:
                yield said


LLM_INFERENCE_SERVICE_TARGET = _LlmInferenceServiceTargets()


def _not_ready(one: LlmService) -> Iterator[Blocker]:
    """What KServe says of a member that it does not call Ready, or not yet of its present spec."""
    ready = one.ready == "True" and one.current
    failed = one.failing.get("GroupReady")
    if ready and failed is None:
        return
    what = f"LLMInferenceService {one.name}"
    if failed is None and not one.current:
        message = f"KServe has not looked at the newest spec of {what} yet"
    elif failed is None and one.ready != "False":
        message = f"KServe has not said that {what} is Ready yet"
    else:
        said = failed or one.failing["Ready"]
        message = f"KServe says {said.type}=False of {what} ({said.words})"
    yield Blocker(reason=Reason.SERVICE_NOT_READY, message=message)


class _LlmInferenceServices(TrafficKind):
    kind = kinds.LLM_SERVICE.kind
    field = "llmInferenceServiceGroup"
    help = (
        "A routing group of KServe's LLMInferenceServices; each version is a member with a weight of its own."
    )
    model = GroupTrafficModel
    target = LLM_INFERENCE_SERVICE_TARGET
    resources = LLM_INFERENCE_SERVICE_TARGET.resources
    verbs = ("get", "list", "watch", "patch")
    weights = (".spec.router.route.weight",)
    indexes: ClassVar = {_GROUP: _by_group}
    made_of = _GROUP
    membership = "spec.router.route.group"
    option = Option(name="kserve", help="Watch KServe's LLMInferenceServices, where they are served.")

    @property
    def named(self) -> str:
        return f"{self.field}.group"

    def said(self, traffic: Object) -> list[Object]:
        group = text_of(map_of(traffic.get(self.field)).get("group"))
        return [{"name": group}] if group else []

    def pools(self, traffic: Object) -> Iterator[str]:
        yield from ()  # each version brings its own

    def read(self, model: GroupTrafficModel, fingerprint: Callable[[Any], str]) -> GroupTraffic:
        return GroupTraffic(kind=self.kind, name=model.group)

    def recorded(self, record: WayBack) -> GroupTraffic:
        return GroupTraffic(kind=self.kind, name=record.name)

    # --- the group ---

    def joined(self, namespace: str, name: str, objects: Iterable[Object]) -> dict[str, Any] | None:
        return service_group.joined(namespace, name, objects)

    def is_part(self, obj: Object, name: str) -> bool:
        return read_llm_service(obj).group == name

    def with_part(self, obj: Object, part: Object) -> dict[str, Any] | None:
        return service_group.with_member(obj, part)

    def part(self, obj: Object, name: str) -> Object | None:
        return service_group.member(obj, name)

    def reset_risk(self, obj: Object, weights: Iterable[Weight]) -> str:
        grain, asked = service_group.declared(obj), [one for one in weights if ZERO < one < FULL]
        worst = max(asked, key=lambda one: after_reset(one, grain) - Fraction(one, FULL), default=ZERO)
        became = round(after_reset(worst, grain) * FULL)
        if not grain or became <= worst + 1:
            return ""
        return (
            f"LLMInferenceService {read_llm_service(obj).name} has weight {grain} in Git, too coarse for "
            f"{format_weight(worst)}: a sync that resets it makes that {format_weight(Weight(became))} until it is "
            f"restored; write weight: {fine_weight(asked, grain)}"
        )

    # --- the way back ---

    def lists(self, obj: Object) -> list[EntryList]:
        return service_group.lists(obj)

    def claimed(self, obj: Object, record: WayBack, rollout: str) -> tuple[Claim, str]:
        return service_group.claim_of_members(obj, rollout, (record.stable.name, record.canary.name))

    def lowered(self, obj: Object, record: WayBack, limit: Weight) -> JsonPatch | None:
        return service_group.lowered(obj, record, limit)

    def lowered_alone(self, obj: Object, record: WayBack, limit: Weight) -> JsonPatch | None:
        return service_group.lowered_alone(obj, record, limit)

    def carrier(self, place: TrafficPlace, spec: GroupTraffic, template: Object | None) -> Carrier:
        return _GroupCarrier(target=_GroupTarget(place=place, spec=spec), resource=place.resource)


LLM_INFERENCE_SERVICE = _LlmInferenceServices()


@dataclass(frozen=True, slots=True, kw_only=True)
class _GroupTarget:
    """The group that a Rollout names."""

    place: TrafficPlace
    spec: GroupTraffic

    @property
    def rollout(self) -> str:
        return self.place.rollout

    @property
    def namespace(self) -> str:
        return self.place.namespace


@dataclass(frozen=True, kw_only=True)
class _GroupCarrier(Carrier):
    target: _GroupTarget
    resource: Resource
    kind: TrafficKind = LLM_INFERENCE_SERVICE

    @property
    def rendered_from(self) -> str:
        return f"a member of LLMInferenceService group {self.name}"

    def mode(self, raw: Object | None) -> TrafficMode:
        return TrafficMode.ADOPTED

    def parts(self, raw: Object) -> Sequence[Object]:
        return service_group.members_of(raw)

    def way_back(self, raw: Object | None, stable: Identity, canary: Identity) -> WayBack:
        place, name = self.target.place, self.target.spec.name
        records = [one for one in place.records if one.name == name]
        ours = service_group.ours_of(raw, place.rollout, (stable.name, canary.name), records)
        joint = service_group.joint_of(raw, ours, stable.name, records)
        return replace(super().way_back(raw, stable, canary), joint=joint)

    def view(self, raw: Object | None, reader: Reader) -> TrafficView:
        return service_group.view(raw, self.target.spec, reader)

    def render(self, raw: Object | None, desired: DesiredTraffic) -> Write | RenderRefusal | None:
        place = self.target.place
        return service_group.render(raw, self.target.spec, place.rollout, place.records, desired)
