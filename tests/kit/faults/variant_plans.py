"""Fault plans of rollouts between variants: what befalls pods, the pool and the PoolSplit, right after writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from rollouts.objects import kinds
from tests.kit.faults.moves import (
    crash_pods,
    delete,
    edit_spec,
    merge_split,
    overwrite_route,
    picker,
    retarget,
    scale,
)
from tests.kit.faults.objects import (
    CANARY,
    RELEASES,
    SHARED,
    STABLE,
    THIRD,
    shared_pool,
    split_entries,
    variant_of,
)
from tests.kit.faults.plans import FaultClass, disturbed, enumerate_plans, heard_of_late
from tests.kit.faults.simulation import Act, FaultPlan, Run, Simulation

__all__ = ["COMMON", "edited_plans", "every_plan", "late_plans", "outside_plans"]

Object = dict[str, Any]

COMMON = (
    FaultClass.CRASH,
    FaultClass.STALE,
    FaultClass.EVENTS,
    FaultClass.ERRORS,
    FaultClass.REFUSED,
    FaultClass.STORM,
)
"""Classes of faults that every rollout meets."""


def _pool_again(sim: Simulation) -> None:
    if sim.cluster.get(kinds.POOL_X, SHARED) is None:
        sim.cluster.create(kinds.POOL_X, shared_pool())


def _entry(**fields: Any) -> list[Object]:
    """Half and half, with the canary's entry changed."""
    stable, canary = split_entries({STABLE: 50, CANARY: 50})
    return [stable, canary | fields]


def _unreadable(spec: Object) -> None:
    spec["strategy"]["canary"]["steps"].append({"setWeight": "101%"})


def _readable(spec: Object) -> None:
    canary = spec["strategy"]["canary"]
    canary["steps"] = [step for step in canary["steps"] if step != {"setWeight": "101%"}]


def _gone_while(change: Callable[[Object], None]) -> Act:
    """The split is deleted while the spec is wrong: nothing but the status says who is to serve."""

    def act(sim: Simulation) -> None:
        edit_spec(change)(sim)
        delete(kinds.POOL_SPLIT, SHARED)(sim)

    return act


_CANARY, _STABLE = RELEASES[CANARY], RELEASES[STABLE]
_OUTSIDE: dict[str, tuple[Act, Act | None, float]] = {
    "canary unready 30 s": (scale(_CANARY, 0, 2), scale(_CANARY, 2), 30.0),
    "stable unready 30 s": (scale(_STABLE, 0, 4), scale(_STABLE, 4), 30.0),
    "canary crashes once": (crash_pods(_CANARY), None, 0.0),
    "picker unready 30 s": (picker(SHARED, ready=False), picker(SHARED, ready=True), 30.0),
    "pool gone 15 s": (delete(kinds.POOL_X, SHARED), _pool_again, 15.0),
    "split gone": (delete(kinds.POOL_SPLIT, SHARED), None, 0.0),
    "argocd resets": (overwrite_route({STABLE: 100}, "argocd-controller"), None, 0.0),
    "a person lowers": (overwrite_route({STABLE: 98, CANARY: 2}, "kubectl-edit"), None, 0.0),
    "a person raises": (overwrite_route({STABLE: 1, CANARY: 99}, "kubectl-edit"), None, 0.0),
}
_EDITED: dict[str, tuple[Act, Act | None, float]] = {
    "third target": (retarget(THIRD), None, 0.0),
    "back to stable": (retarget(STABLE), None, 0.0),
    "other labels under the canary's name": (
        edit_spec(lambda spec: spec["target"]["variant"].update(labels={"release": RELEASES[THIRD]})),
        None,
        0.0,
    ),
    "stable's labels for the canary, 20 s": (
        edit_spec(lambda spec: spec["target"]["variant"].update(labels={"release": _STABLE})),
        edit_spec(lambda spec: spec["target"]["variant"].update(labels={"release": _CANARY})),
        20.0,
    ),
    "the canary's entry renamed": (merge_split(_entry(name="renamed"), "kubectl-edit"), None, 0.0),
    "the canary's entry for other pods": (
        merge_split(_entry(labels={"release": RELEASES[THIRD]}), "kubectl-edit"),
        None,
        0.0,
    ),
    "names swapped": (
        merge_split([_entry()[1] | {"name": STABLE}, _entry()[0] | {"name": CANARY}], "kubectl-edit"),
        None,
        0.0,
    ),
    "stable's entry renamed": (
        merge_split([variant_of(STABLE, weight=50) | {"name": "renamed"}, _entry()[1]], "kubectl-edit"),
        None,
        0.0,
    ),
    "a third variant": (merge_split([*_entry(), variant_of(THIRD, weight=100)], "kubectl-edit"), None, 0.0),
    "the spec unreadable and the split gone, 20 s": (_gone_while(_unreadable), edit_spec(_readable), 20.0),
    "stable's name for the canary and the split gone, 20 s": (
        _gone_while(lambda spec: spec["target"]["variant"].update(name=STABLE)),
        retarget(CANARY),
        20.0,
    ),
    "the rollout is deleted": (delete(kinds.ROLLOUT, "mymodel"), None, 0.0),
}


_OVER = ("deleted", "lowers")
"""Scenarios in which a person gives the canary weight, or may, when nobody is there any more to take it back."""

_MOVED_ON = ("third", "window", "other labels")
"""Scenarios that ask for another target, which a spec that cannot be read does not do."""


def _disturbed(clean: Run, acts: dict[str, tuple[Act, Act | None, float]]) -> Iterator[FaultPlan]:
    if any(word in clean.scenario.name for word in _OVER):
        return
    moved_on = any(word in clean.scenario.name for word in _MOVED_ON)
    fitting = {name: act for name, act in acts.items() if not (moved_on and "unreadable" in name)}
    yield from disturbed(clean, fitting)


def outside_plans(clean: Run) -> Iterator[FaultPlan]:
    """Pods, pool and weights change, right after each second write of the clean run."""
    return _disturbed(clean, _OUTSIDE)


def edited_plans(clean: Run) -> Iterator[FaultPlan]:
    """The spec, and what the split's entries say beside weights, change right after each second write."""
    return _disturbed(clean, _EDITED)


def late_plans(clean: Run) -> Iterator[FaultPlan]:
    """Pods, the split, or both are heard of late."""
    return heard_of_late(kinds.POD, kinds.POOL_SPLIT)


def every_plan(clean: Run) -> Iterator[FaultPlan]:
    """All of them, of every class."""
    for fault in COMMON:
        yield from enumerate_plans(fault, clean)
    yield from late_plans(clean)
    yield from outside_plans(clean)
    yield from edited_plans(clean)
