"""Fault plans of rollouts between members of a group of KServe: the two writes of one share, KServe, other people."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from rollouts.objects import kinds
from rollouts.objects.llm_services import STOP_ANNOTATION
from tests.kit.faults.moves import (
    crash_pods,
    delete,
    edit_spec,
    kserve,
    overwrite_route,
    retarget,
    scale,
    set_weight,
)
from tests.kit.faults.objects import CANARY, RELEASES, STABLE, THIRD, service_object
from tests.kit.faults.plans import FaultClass, disturbed, enumerate_plans, heard_of_late
from tests.kit.faults.simulation import Act, FaultPlan, Refusal, Run, Simulation
from tests.kit.faults.transport import WriteFault

__all__ = ["COMMON", "annotate", "edited_plans", "every_plan", "frozen_plans", "late_plans", "outside_plans"]

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

_CANARY, _STABLE = RELEASES[CANARY], RELEASES[STABLE]


def annotate(member: str, name: str, value: str | None) -> Act:
    """A person writes an annotation of a member, or takes it away."""
    patch = {"metadata": {"annotations": {name: value}}}
    return lambda sim: sim.cluster.merge(kinds.LLM_SERVICE, member, patch, manager="kubectl-annotate")


def _again(sim: Simulation) -> None:
    if sim.cluster.get(kinds.LLM_SERVICE, CANARY) is None:
        sim.cluster.create(kinds.LLM_SERVICE, service_object(CANARY, 0))


_OUTSIDE: dict[str, tuple[Act, Act | None, float]] = {
    "canary unready 30 s": (scale(_CANARY, 0, 2), scale(_CANARY, 2), 30.0),
    "stable unready 30 s": (scale(_STABLE, 0, 4), scale(_STABLE, 4), 30.0),
    "canary crashes once": (crash_pods(_CANARY), None, 0.0),
    "KServe silent 30 s": (kserve(works=False), kserve(works=True), 30.0),
    "canary stopped 30 s": (
        annotate(CANARY, STOP_ANNOTATION, "true"),
        annotate(CANARY, STOP_ANNOTATION, None),
        30.0,
    ),
    "canary's member gone 15 s": (delete(kinds.LLM_SERVICE, CANARY), _again, 15.0),
    "argocd resets both": (overwrite_route({STABLE: 9}, "argocd-controller"), None, 0.0),
    "argocd resets stable": (set_weight(STABLE, 9, "argocd-controller"), None, 0.0),
    "a person lowers": (overwrite_route({STABLE: 98, CANARY: 2}, "kubectl-edit"), None, 0.0),
    "a person raises": (overwrite_route({STABLE: 1, CANARY: 99}, "kubectl-edit"), None, 0.0),
}


_LET_GO = "the rollout is deleted"
"""Not where the first weight is 100 %: of any kind, no finalizer keeps a Rollout whose canary has all traffic."""


def _consents(value: str | None) -> Act:
    return annotate(CANARY, "inferencerollouts.dev/managed-by", value)


def _unreadable(spec: Object) -> None:
    spec["strategy"]["canary"]["steps"].append({"setWeight": "101%"})


def _readable(spec: Object) -> None:
    canary = spec["strategy"]["canary"]
    canary["steps"] = [step for step in canary["steps"] if step != {"setWeight": "101%"}]


def _unstopped(spec: Object) -> None:
    spec["strategy"]["canary"]["capacity"] = None


_EDITED: dict[str, tuple[Act, Act | None, float]] = {
    "third target": (retarget(THIRD), None, 0.0),
    "back to stable": (retarget(STABLE), None, 0.0),
    "consent withdrawn 20 s": (_consents(None), _consents("mymodel"), 20.0),
    "spec unreadable 20 s": (edit_spec(_unreadable), edit_spec(_readable), 20.0),
    "scaleDown taken out": (edit_spec(_unstopped), None, 0.0),
    _LET_GO: (delete(kinds.ROLLOUT, "mymodel"), None, 0.0),
}

_OVER = ("deleted", "lowers")
"""Scenarios in which a person gives the canary weight, or may, when nobody is there any more to take it back."""


def _disturbed(clean: Run, acts: dict[str, tuple[Act, Act | None, float]]) -> Iterator[FaultPlan]:
    if any(word in clean.scenario.name for word in _OVER):
        return
    full = "all at once" in clean.scenario.name
    fitting = {name: act for name, act in acts.items() if not (full and name == _LET_GO)}
    yield from disturbed(clean, fitting)


def outside_plans(clean: Run) -> Iterator[FaultPlan]:
    """Pods, members and weights change, right after each second write of the clean run."""
    return _disturbed(clean, _OUTSIDE)


def edited_plans(clean: Run) -> Iterator[FaultPlan]:
    """The spec, and who may write the members, change right after each second write."""
    return _disturbed(clean, _EDITED)


def late_plans(clean: Run) -> Iterator[FaultPlan]:
    """Pods, the members, or both are heard of late."""
    return heard_of_late(kinds.POD, kinds.LLM_SERVICE)


def frozen_plans(clean: Run) -> Iterator[FaultPlan]:
    """A webhook refuses all writes of one member for ever, from each second traffic write on."""
    for member in (STABLE, CANARY):
        for number in range(0, len(clean.weights) + 1, 2):
            refusal = Refusal(fault=WriteFault.REFUSED_WEBHOOK, start=number, seconds=math.inf, only=member)
            name = f"{member} cannot be written, from traffic write {number}"
            yield FaultPlan(name=name, refusal=refusal, exact=False)


def every_plan(clean: Run) -> Iterator[FaultPlan]:
    """All of them, of every class."""
    for fault in COMMON:
        yield from enumerate_plans(fault, clean)
    yield from late_plans(clean)
    yield from outside_plans(clean)
    yield from edited_plans(clean)
    yield from frozen_plans(clean)
