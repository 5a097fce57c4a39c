"""Indexes of the controller's stores: their names, and what each object is found by."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping

from rollouts.api.references import dependencies, pool_names, template_names, traffic_names
from rollouts.api.strategies import strategy_ref
from rollouts.engine.naming import UID_DIGITS
from rollouts.engine.rollout_status import WaitingFor
from rollouts.objects.companions import belongs
from rollouts.objects.fields import map_of
from rollouts.objects.leaving import marked_by
from rollouts.objects.owners import owner_of
from rollouts.objects.pods import warmed_for
from rollouts.objects.pools import Pool
from rollouts.objects.workloads import pod_labels, scaled_by, template_selector
from rollouts.runtime.objects import Object

__all__ = [
    "BEGUN",
    "BEHIND",
    "CANARY",
    "COMPANION",
    "IN_LINE",
    "LABEL",
    "MARKED",
    "NAME_END",
    "OF_OWNED",
    "OF_ROLLOUTS",
    "OF_STRATEGIES",
    "OWNER",
    "PICKER",
    "POOL",
    "POOL_SELECTOR",
    "ROUTE",
    "SERVICE_SELECTOR",
    "STRATEGY",
    "TARGET",
    "TEMPLATE",
    "TEMPLATE_SELECTOR",
    "TURN",
    "autoscaler_by_target",
    "by_label",
    "by_mark",
    "by_name_end",
    "by_owner",
    "namespace_of",
    "pool_by_companion",
    "pool_by_picker",
    "pool_by_selector",
    "pool_by_template",
    "rollout_by_canary",
    "rollout_by_pool",
    "rollout_by_route",
    "rollout_by_strategy",
    "rollout_by_template",
    "rollout_by_turn",
    "service_by_selector",
    "workload_by_label",
]

OWNER = "owner"
NAME_END = "nameEnd"
LABEL = "label"
ROUTE = "route"
POOL_SELECTOR = "selector"
TEMPLATE_SELECTOR = "templateSelector"
PICKER = "picker"
POOL = "pool"
TEMPLATE = "template"
STRATEGY = "strategy"
SERVICE_SELECTOR = "serviceSelector"
BEHIND = "dependsOn"
CANARY = "canary"
TURN = "turn"
BEGUN, IN_LINE = "begun", "in line"
"""Values of the index ``TURN``: whose attempt is in progress, and who waits for nothing but a place."""
TARGET = "scaleTarget"
COMPANION = "companion"
MARKED = "marked"


def namespace_of(obj: Object) -> str:
    """Empty for what is the cluster's."""
    return str(obj["metadata"].get("namespace", ""))


def by_owner(obj: Object) -> Iterable[Hashable]:
    """Runs and Jobs by namespace, name and UID of the Rollout that owns them."""
    owner = owner_of(obj, "Rollout")
    return [(namespace_of(obj), *owner)] if owner else []


def by_name_end(obj: Object) -> Iterable[Hashable]:
    """By namespace and the end of the name, which has the digits of a Rollout's UID."""
    return [(namespace_of(obj), obj["metadata"]["name"][-UID_DIGITS:])]


def by_label(obj: Object) -> Iterable[Hashable]:
    """By namespace and each label."""
    labels = obj["metadata"].get("labels") or {}
    return [(namespace_of(obj), key, value) for key, value in labels.items()]


def by_mark(obj: Object) -> Iterable[Hashable]:
    """Pods by namespace and the Rollout that keeps requests from them: they are to go, or to be warmed up first."""
    rollout = marked_by(obj) or warmed_for(obj)
    return [(namespace_of(obj), rollout)] if rollout else []


PoolReader = Callable[[Object], Pool]
PoolIndex = Callable[[Object], Iterable[Hashable]]


def pool_by_selector(read: PoolReader) -> PoolIndex:
    """By namespace and the first pair of its selector: a pod that it selects has it, of whichever role."""

    def pairs(obj: Object) -> Iterable[Hashable]:
        pool = read(obj)
        return [(pool.namespace, *pair) for pair in _of_roles(pool, pool.selector[:1])]

    return pairs


def pool_by_template(read: PoolReader) -> PoolIndex:
    """The same, of what the template of its workload has."""

    def pairs(obj: Object) -> Iterable[Hashable]:
        pool = read(obj)
        return [(pool.namespace, *pair) for pair in _of_roles(pool, template_selector(pool)[:1])]

    return pairs


def _of_roles(pool: Pool, pairs: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    """The pairs, and those that pods of the pool's other roles have in their place."""
    for label, value in pairs:
        yield label, value
        if pool.roles is not None and label == pool.roles.label:
            yield from ((label, other) for other in pool.roles.others)


def pool_by_picker(read: PoolReader) -> PoolIndex:
    """By namespace and the Service of its picker."""

    def services(obj: Object) -> Iterable[Hashable]:
        pool = read(obj)
        return [(pool.namespace, pool.picker.name)] if pool.picker is not None else []

    return services


def pool_by_companion(obj: Object) -> Iterable[Hashable]:
    """By namespace and the pool of the version that it belongs to, by its label."""
    said = belongs(obj)
    return [(namespace_of(obj), said.of)] if said is not None else []


def service_by_selector(obj: Object) -> Iterable[Hashable]:
    """By namespace and the first pair of its selector."""
    pairs = sorted(obj["spec"]["selector"].items())
    return [(namespace_of(obj), *pairs[0])] if pairs else []


def rollout_by_route(obj: Object) -> Iterable[Hashable]:
    """By namespace, kind and name of its traffic object."""
    return [(namespace_of(obj), kind, name) for kind, name in traffic_names(obj)]


def rollout_by_pool(obj: Object) -> Iterable[Hashable]:
    """By namespace and each pool that it names."""
    return [(namespace_of(obj), name) for name in pool_names(obj)]


def rollout_by_template(obj: Object) -> Iterable[Hashable]:
    """By the template that it names; the namespace of those of the cluster is empty."""
    return [("" if cluster else namespace_of(obj), name) for cluster, name in template_names(obj)]


def rollout_by_strategy(obj: Object) -> Iterable[Hashable]:
    """By the shared strategy that it names; the namespace of those of the cluster is empty."""
    named = strategy_ref(obj.get("spec"))
    return [] if named is None else [("" if named.cluster else namespace_of(obj), named.name)]


def rollout_by_turn(obj: Object) -> Iterable[Hashable]:
    """By the stored status alone: where it stands. A Rollout that is being deleted goes back, and stands nowhere."""
    status = map_of(obj.get("status"))
    if obj["metadata"].get("deletionTimestamp") or not status.get("canary") or status.get("aborted"):
        return []
    if status.get("startedAt"):
        return [BEGUN]
    return [IN_LINE] if status.get("waitingFor") == WaitingFor.TURN.value else []


def rollout_by_canary(obj: Object) -> Iterable[Hashable]:
    """Those that have a canary: all of them, and by namespace."""
    return ["", namespace_of(obj)] if map_of(obj.get("status")).get("canary") else []


def workload_by_label(obj: Object) -> Iterable[Hashable]:
    """By namespace and each label of its Pod template."""
    return [
        (namespace_of(obj), key, value) for key, value in pod_labels(obj).items() if isinstance(value, str)
    ]


def autoscaler_by_target(obj: Object) -> Iterable[Hashable]:
    """By namespace, kind and name of what it scales."""
    return [(namespace_of(obj), *scaled_by(obj))]


Indexes = Mapping[str, Callable[[Object], Iterable[Hashable]]]

OF_ROLLOUTS: Indexes = {
    ROUTE: rollout_by_route,
    POOL: rollout_by_pool,
    TEMPLATE: rollout_by_template,
    STRATEGY: rollout_by_strategy,
    BEHIND: dependencies,
    TURN: rollout_by_turn,
    CANARY: rollout_by_canary,
}
OF_STRATEGIES: Indexes = {TEMPLATE: rollout_by_template}
OF_OWNED: Indexes = {OWNER: by_owner, NAME_END: by_name_end}
"""Of runs and Jobs."""
