"""HTTPRoute to TrafficView: weights, whose the object is, who wrote last, what the gateways say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rollouts.engine.observation import RuleView, TrafficView
from rollouts.engine.rollout_spec import HttpRouteTraffic, TrafficMode
from rollouts.engine.versions import Identity
from rollouts.objects.fields import map_of, metadata_of, text_of
from rollouts.traffic.backends import chosen_rules, pools_of, rule_name, rules_of, same_structure
from rollouts.traffic.fields import claim_of, last_writer
from rollouts.traffic.headers import read_header_routes
from rollouts.traffic.parents import parents_view
from rollouts.traffic.writes import APPLIED_BY, ROLLOUT_LABEL, label_value

__all__ = ["KIND", "Reader", "view"]

KIND = "HTTPRoute"

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Who looks: our Rollout's name, the arms it knows, and which field managers belong to GitOps tools.

    ``stored`` are those of the arms that its status has.
    """

    rollout: str
    arms: tuple[Identity, ...]
    stored: tuple[Identity, ...] = ()
    gitops_managers: tuple[str, ...] = ()
    field_manager: str = APPLIED_BY


def view(
    route: Object | None, spec: HttpRouteTraffic, template: Object | None, reader: Reader
) -> TrafficView:
    """The engine's view of the live route; ``route`` None means that it does not exist. Never raises."""
    if route is None:
        return TrafficView(kind=KIND, name=spec.name, mode=spec.mode)
    meta, live = metadata_of(route), map_of(route.get("spec"))
    rules, namespace = rules_of(live), text_of(meta.get("namespace"))
    claim, claimed_by = claim_of(route, spec.mode, reader.rollout)
    writer, written_at = last_writer(route, "rules", reader.field_manager)
    return TrafficView(
        kind=KIND,
        name=spec.name,
        mode=spec.mode,
        exists=True,
        uid=text_of(meta.get("uid")),
        resource_version=text_of(meta.get("resourceVersion")),
        claim=claim,
        claimed_by=claimed_by,
        rules=tuple(
            RuleView(name=rule_name(rules[index], index), entries=pools_of(rules[index], namespace))
            for index in chosen_rules(live, spec, template, reader.arms, namespace)
        ),
        header_routes=read_header_routes(rules, rules_of(template)),
        structure_current=_structure_current(route, spec, template, reader.rollout),
        pins=_pins(template, namespace),
        parents=parents_view(route),
        last_writer=writer,
        last_written_at=written_at,
        written_by_us=writer == reader.field_manager,
        written_by_gitops=writer in reader.gitops_managers,
        deleting=bool(meta.get("deletionTimestamp")),
    )


def _pins(template: Object | None, namespace: str) -> frozenset[Identity]:
    found = (pools_of(rule, namespace) for rule in rules_of(template))
    return frozenset(arm for pools in found for arm, weight in pools.items() if weight > 0)


def _structure_current(route: Object, spec: HttpRouteTraffic, template: Object | None, rollout: str) -> bool:
    if spec.mode is TrafficMode.ADOPTED:
        return True
    label = map_of(metadata_of(route).get("labels")).get(ROLLOUT_LABEL)
    return label == label_value(rollout) and same_structure(map_of(route.get("spec")), template or {})
