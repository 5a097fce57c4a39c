"""The traffic half of gathering: the object that carries the weights, what it says, and the way back from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from rollouts.api.parsing import ParsedRollout
from rollouts.carriers import Carrier, TrafficPlace, given, kind_of
from rollouts.controller.adapter_views import ModelTraffic
from rollouts.controller.caches import Caches
from rollouts.controller.gathered import WayObject
from rollouts.controller.mirroring import mirrored_arms
from rollouts.controller.other_rules import reached_by_others
from rollouts.engine.observation import (
    Claim,
    Problem,
    TrafficView,
    WayView,
)
from rollouts.engine.rollout_spec import PickerTraffic, TrafficMode
from rollouts.engine.rollout_status import WayBack
from rollouts.engine.versions import Identity
from rollouts.objects import kinds
from rollouts.runtime.objects import ObjectKey
from rollouts.traffic import wayback
from rollouts.traffic.backends import pools_of, rules_of
from rollouts.traffic.mirrors import keeps_sessions
from rollouts.traffic.reading import Reader
from rollouts.traffic.writes import label_value

__all__ = ["Carried", "TrafficViews"]


class Carried(NamedTuple):
    """The spec's traffic object, and who reads and writes it."""

    raw: dict[str, Any] | None
    carrier: Carrier | None


class TrafficViews:
    """Turns cached traffic objects into the engine's views. ``gitops_managers``: see ``Gatherer``."""

    def __init__(self, caches: Caches, gitops_managers: tuple[str, ...]) -> None:
        self._caches = caches
        self._gitops_managers = gitops_managers

    def carrier(self, parsed: ParsedRollout, models: ModelTraffic | None, problems: list[Problem]) -> Carried:
        """The live traffic object, and who reads and writes it; None where the kind is not served."""
        if models is not None:
            return Carried(models.raw, models.carrier)
        spec = parsed.spec
        if spec is None or isinstance(spec.traffic, PickerTraffic):
            return Carried(None, None)
        kind, template = kind_of(spec.traffic.kind), None
        assert kind is not None
        if parsed.model is not None:
            template = next((one.template(value) for one, value in given(parsed.model.traffic)), None)
        if template is not None:
            problems += kind.template_problems(template)
        key = ObjectKey(parsed.namespace, spec.traffic.name)
        for resource in kind.resources:
            raw = self._caches.traffic_object(kind, resource, key)
            if raw is not None or self._caches.served(resource):
                place = TrafficPlace(
                    rollout=parsed.name,
                    namespace=parsed.namespace,
                    resource=resource,
                    records=parsed.status.way_back,
                )
                return Carried(raw, kind.carrier(place, spec.traffic, template))
        return Carried(None, None)

    def unwatched(self, parsed: ParsedRollout) -> str:
        """The option of the controller without which it does not watch the spec's kind; empty: it does."""
        kind = kind_of(parsed.spec.traffic.kind) if parsed.spec is not None else None
        watched = kind is None or any(self._caches.watched(one) for one in kind.resources)
        return kind.option.name if kind is not None and kind.option is not None and not watched else ""

    def traffic(self, parsed: ParsedRollout, target: Identity | None, found: Carried) -> TrafficView | None:
        """What the object says, of these arms; None where the kind is not served."""
        raw, carrier = found
        if carrier is None:
            return None
        status = parsed.status
        arms = [arm.identity.arm for arm in status.arms]
        reader = Reader(
            rollout=parsed.name,
            arms=(*arms, *([target.arm] if target is not None else [])),
            stored=tuple(arms),
            gitops_managers=self._gitops_managers,
        )
        view = carrier.view(raw, reader)
        if raw is not None and carrier.resource == kinds.HTTP_ROUTE:
            view = replace(
                view,
                mirrored=mirrored_arms(self._caches, parsed.namespace, raw, reader.arms),
                sessions=keeps_sessions(raw.get("spec")),
                by_others=view.pins | reached_by_others(self._caches, parsed, reader.arms),
            )
        if raw is None and status.traffic_adopted:
            view = replace(view, mode=TrafficMode.ADOPTED)
        return self._settle_claim(parsed, view)

    def listed(self, parsed: ParsedRollout, traffic: TrafficView | None) -> frozenset[Identity]:
        """The arms that the object, or else that of the way back, sends requests to."""
        if traffic is not None:
            return frozenset(entry for rule in traffic.rules for entry in rule.entries)
        objects = (self.way(parsed, record) for record in parsed.status.way_back)
        specs = (
            found.raw.get("spec") for found in objects if found.raw and found.resource == kinds.HTTP_ROUTE
        )
        return frozenset(
            entry for spec in specs for rule in rules_of(spec) for entry in pools_of(rule, parsed.namespace)
        )

    def _settle_claim(self, parsed: ParsedRollout, view: TrafficView) -> TrafficView:
        """Age decides only where neither label nor annotation exists (design rule 10)."""
        unclaimed = not view.exists or (view.claim is Claim.UNCLAIMED and view.mode is TrafficMode.MANAGED)
        if not unclaimed:
            return view
        rivals = self._caches.rollouts_of_route(parsed.namespace, view.kind, view.name)
        oldest = rivals[0]["metadata"]["name"] if rivals else parsed.name
        return view if oldest == parsed.name else replace(view, claim=Claim.OTHER, claimed_by=oldest)

    @staticmethod
    def proposed(
        parsed: ParsedRollout, target: Identity | None, traffic: TrafficView | None, found: Carried
    ) -> dict[tuple[Identity, Identity], WayBack]:
        """The way back that the spec's traffic object needs for the canary, and for a target that is to become it.

        At first sight any arm with an entry may be found to be stable.
        """
        if found.carrier is None or traffic is None:
            return {}
        stable, canary = parsed.status.stable, parsed.status.canary
        stables = {entry for rule in traffic.rules for entry in rule.entries}
        if stable is not None:
            stables = {stable.identity.arm}
        canaries = {arm.arm for arm in (target, canary.identity if canary is not None else None) if arm}
        return {
            (one, other): found.carrier.way_back(found.raw, one, other)
            for one in stables
            for other in canaries
            if one != other
        }

    def way(self, parsed: ParsedRollout, record: WayBack) -> WayObject:
        """The object that a record is about, by kind and name."""
        key = ObjectKey(parsed.namespace, record.name)
        kind = kind_of(record.kind)
        for resource in kind.resources if kind is not None else ():
            if resource.group == record.group:
                assert kind is not None
                return WayObject(resource, self._caches.traffic_object(kind, resource, key))
        return WayObject(kinds.HTTP_ROUTE, None)

    def way_view(self, parsed: ParsedRollout, record: WayBack, raw: dict[str, Any] | None) -> WayView:
        """What the object says of the recorded way back, and who claims it."""

        def exists(named: str) -> bool:
            if self._caches.rollouts.get(ObjectKey(parsed.namespace, named)) is not None:
                return True
            names = (key.name for key in self._caches.rollouts if key.namespace == parsed.namespace)
            return any(label_value(name) == named for name in names)  # a label holds a long name shortened

        kind = kind_of(record.kind)
        if kind is None:
            view = wayback.view(raw, record, parsed.name, exists)
        else:
            claimed = kind.claimed(raw, record, parsed.name) if raw is not None else None
            view = wayback.view(raw, record, parsed.name, exists, kind.lists, claimed)
        # For a Rollout that goes nothing is made anew: its namespace may be going, too.
        return replace(view, unsplit=view.unsplit and not parsed.deleting)
