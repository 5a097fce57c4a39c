"""HTTPRoute: weights between InferencePools."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from rollouts.api.traffic_models import HttpRouteModel, PoolRefModel
from rollouts.carriers.base import Carrier, Object, TrafficKind, TrafficPlace
from rollouts.carriers.target_kinds import ObjectTargetKind
from rollouts.engine.actions import DesiredTraffic
from rollouts.engine.observation import Problem, TrafficView
from rollouts.engine.rollout_spec import HttpRouteTraffic, TrafficMode
from rollouts.engine.versions import Identity, Target
from rollouts.objects import kinds
from rollouts.objects.fields import list_of, map_of, metadata_of
from rollouts.objects.pools import POOL_KIND, Pool, read_pool
from rollouts.objects.resource import Resource
from rollouts.traffic import httproute
from rollouts.traffic.backends import chosen_rules, weighted_pools
from rollouts.traffic.mirrors import mirrors_of
from rollouts.traffic.reading import Reader
from rollouts.traffic.writes import RenderRefusal, Write

__all__ = ["HTTP_ROUTE", "MIRROR", "POOL_TARGET", "WEIGHTED"]

MIRROR = "mirror"
"""Index of the routes that send copies of requests somewhere, by namespace."""
WEIGHTED = "weighted"
"""Index of the routes by each pool that they give weight: its namespace, group and name."""


def _by_mirror(obj: dict[str, Any]) -> Iterable[Hashable]:
    return [str(metadata_of(obj).get("namespace", ""))] if mirrors_of(obj.get("spec")) else []


def _by_weighted(obj: dict[str, Any]) -> Iterable[Hashable]:
    return weighted_pools(obj.get("spec"), str(metadata_of(obj).get("namespace", "")))


class _Pools(ObjectTargetKind):
    field = "pool"
    help = "Serve from this InferencePool."
    model = PoolRefModel
    called = "a pool"
    why = ": pools are split by the gateway"
    kind = POOL_KIND
    resources = kinds.POOLS

    def read(self, model: PoolRefModel, revision: str) -> Target:
        return Target(kind=self.field, name=model.name, group=model.group, revision=revision)

    def pods(self, obj: Object) -> Pool:
        return read_pool(obj)


POOL_TARGET = _Pools()


class _HttpRoutes(TrafficKind):
    kind = kinds.HTTP_ROUTE.kind
    field = "httpRoutes"
    help = "The HTTPRoute (one for now)."
    model = Annotated[list[HttpRouteModel], Field(min_length=1, max_length=1)]
    target = POOL_TARGET
    resources = (kinds.HTTP_ROUTE,)
    asked_for = ("patch",)
    unserved = (
        "the cluster serves no HTTPRoute: pools cannot be split",
        "install the Gateway API and a gateway",
    )
    absent = "create it, or give the Rollout a template for it"
    weights = (".spec.rules[]?.backendRefs[]?.weight",)
    indexes: ClassVar = {MIRROR: _by_mirror, WEIGHTED: _by_weighted}

    @property
    def named(self) -> str:
        return f"{self.field}[0].name"

    def said(self, traffic: Object) -> list[Object]:
        return [map_of(route) for route in list_of(traffic.get(self.field))]

    def pools(self, traffic: Object) -> Iterator[str]:
        yield from ()  # the target is the pool

    def managed(self, model: list[HttpRouteModel]) -> bool:
        return any(route.template is not None for route in model)

    def findings(self, model: list[HttpRouteModel]) -> Iterator[tuple[str, str]]:
        for route in model:
            if route.template is not None and route.add_backend:
                yield "httpRoutes[0].addBackend", "is for Adopted routes: leave it out with a template"

    def template(self, model: list[HttpRouteModel]) -> dict[str, Any] | None:
        return model[0].template

    def template_problems(self, template: Object) -> Sequence[Problem]:
        return httproute.template_problems(template)

    def read(self, model: list[HttpRouteModel], fingerprint: Callable[[Any], str]) -> HttpRouteTraffic:
        route = model[0]
        managed = route.template is not None
        return HttpRouteTraffic(
            name=route.name,
            mode=TrafficMode.MANAGED if managed else TrafficMode.ADOPTED,
            rule_names=tuple(route.rule_names),
            add_backend=route.add_backend,
            fingerprint=fingerprint(route.template) if managed else "",
        )

    def carrier(
        self, place: TrafficPlace, spec: HttpRouteTraffic, template: Mapping[str, Any] | None
    ) -> Carrier:
        return _RouteCarrier(
            target=httproute.RouteTarget(
                rollout=place.rollout,
                namespace=place.namespace,
                spec=spec,
                template=dict(template) if template is not None else None,
            ),
            resource=place.resource,
        )


HTTP_ROUTE = _HttpRoutes()


@dataclass(frozen=True, kw_only=True)
class _RouteCarrier(Carrier):
    target: httproute.RouteTarget
    resource: Resource
    kind: TrafficKind = HTTP_ROUTE

    @property
    def rendered_from(self) -> str:
        managed = self.target.template is not None
        return "traffic.httpRoutes[0].template" if managed else super().rendered_from

    @property
    def route(self) -> Object | None:
        return self.target.template

    def mode(self, raw: Object | None) -> TrafficMode:
        return self.target.spec.mode

    def chosen(self, raw: Object | None, arms: tuple[Identity, ...]) -> list[int] | None:
        spec = map_of((raw or {}).get("spec"))
        return chosen_rules(spec, self.target.spec, self.target.template, arms, self.namespace)

    def view(self, raw: Object | None, reader: Reader) -> TrafficView:
        return httproute.view(raw, self.target.spec, self.target.template, reader)

    def render(self, raw: Object | None, desired: DesiredTraffic) -> Write | RenderRefusal | None:
        return httproute.render(raw, self.target, desired)
