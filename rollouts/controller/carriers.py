"""Carriers: the objects that carry the weights, one class per kind, behind one face.

A carrier knows where its object is kept and which renderer reads and writes it; the gatherer and the performer
know carriers only. ``raw`` is the object as the API server gave it; None means that it does not exist.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rollouts.controller import kinds
from rollouts.engine.actions import DesiredTraffic
from rollouts.engine.observation import TrafficView
from rollouts.engine.types import Identity, TrafficMode, WayBack
from rollouts.kube.client import Resource
from rollouts.objects.fields import map_of
from rollouts.traffic import httproute, inference_model, inference_model_rewrite, wayback
from rollouts.traffic.backends import chosen_rules
from rollouts.traffic.inference_model_rewrite import Dialect, chosen_models
from rollouts.traffic.reading import Reader
from rollouts.traffic.targets import ModelTarget, mode_of
from rollouts.traffic.writes import JsonPatch, Refusal, Write

__all__ = ["Carrier", "ModelCarrier", "RewriteCarrier", "RouteCarrier"]

Object = Mapping[str, Any]


class Carrier(ABC):
    """One traffic object of one Rollout."""

    target: httproute.Target | ModelTarget
    resource: Resource

    @property
    def namespace(self) -> str:
        """The object's namespace."""
        return self.target.namespace

    @property
    def name(self) -> str:
        """The object's name."""
        return self.target.spec.name

    @property
    def rendered_from(self) -> str:
        """What a person corrects when the API server refuses the object."""
        return f"{self.resource.kind} {self.name}"

    @abstractmethod
    def view(self, raw: Object | None, reader: Reader) -> TrafficView:
        """The engine's view. Never raises."""

    @abstractmethod
    def render(self, raw: Object | None, desired: DesiredTraffic) -> Write | Refusal | None:
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
        return wayback.propose(raw, record, self.chosen(raw, (stable, canary)))

    @abstractmethod
    def mode(self, raw: Object | None) -> TrafficMode:
        """Who makes the object."""

    def chosen(self, raw: Object | None, arms: tuple[Identity, ...]) -> list[int] | None:
        """Indices of the rules that are ours to weigh; None: every rule there is."""
        return None

    @abstractmethod
    def release(self, raw: Object, *, delete: bool) -> JsonPatch | None:
        """Give a Managed object up; None: delete it."""


@dataclass(frozen=True, kw_only=True)
class RouteCarrier(Carrier):
    """An HTTPRoute: weights between InferencePools."""

    target: httproute.Target
    resource: Resource = kinds.HTTP_ROUTE

    @property
    def rendered_from(self) -> str:
        """See ``Carrier``."""
        managed = self.target.template is not None
        return "traffic.httpRoutes[0].template" if managed else super().rendered_from

    def mode(self, raw: Object | None) -> TrafficMode:
        """See ``Carrier``."""
        return self.target.spec.mode

    def chosen(self, raw: Object | None, arms: tuple[Identity, ...]) -> list[int] | None:
        """See ``Carrier``."""
        spec = map_of((raw or {}).get("spec"))
        return chosen_rules(spec, self.target.spec, self.target.template, arms, self.namespace)

    def view(self, raw: Object | None, reader: Reader) -> TrafficView:
        """See ``Carrier``."""
        return httproute.view(raw, self.target.spec, self.target.template, reader)

    def render(self, raw: Object | None, desired: DesiredTraffic) -> Write | Refusal | None:
        """See ``Carrier``."""
        return httproute.render(raw, self.target, desired)

    def release(self, raw: Object, *, delete: bool) -> JsonPatch | None:
        """See ``Carrier``."""
        return httproute.release(raw, delete=delete)


@dataclass(frozen=True, kw_only=True)
class ModelCarrier(Carrier):
    """An InferenceModel: weights between adapters."""

    target: ModelTarget
    resource: Resource = kinds.INFERENCE_MODEL

    def mode(self, raw: Object | None) -> TrafficMode:
        """See ``Carrier``."""
        return mode_of(raw, self.target.rollout)

    def view(self, raw: Object | None, reader: Reader) -> TrafficView:
        """See ``Carrier``."""
        return inference_model.view(raw, self.target.spec, reader)

    def render(self, raw: Object | None, desired: DesiredTraffic) -> Write | Refusal | None:
        """See ``Carrier``."""
        return inference_model.render(raw, self.target, desired)

    def release(self, raw: Object, *, delete: bool) -> JsonPatch | None:
        """See ``Carrier``."""
        return inference_model.release(raw, delete=delete)


@dataclass(frozen=True, kw_only=True)
class RewriteCarrier(Carrier):
    """An InferenceModelRewrite in the dialect that the cluster serves."""

    target: ModelTarget
    resource: Resource
    dialect: Dialect

    def mode(self, raw: Object | None) -> TrafficMode:
        """See ``Carrier``."""
        return mode_of(raw, self.target.rollout)

    def chosen(self, raw: Object | None, arms: tuple[Identity, ...]) -> list[int] | None:
        """See ``Carrier``."""
        return chosen_models(raw or {}, self.target.spec.model_name)

    def view(self, raw: Object | None, reader: Reader) -> TrafficView:
        """See ``Carrier``."""
        return inference_model_rewrite.view(raw, self.target.spec, self.dialect, reader)

    def render(self, raw: Object | None, desired: DesiredTraffic) -> Write | Refusal | None:
        """See ``Carrier``."""
        return inference_model_rewrite.render(raw, self.target, self.dialect, desired)

    def release(self, raw: Object, *, delete: bool) -> JsonPatch | None:
        """See ``Carrier``."""
        return inference_model_rewrite.release(raw, delete=delete)
