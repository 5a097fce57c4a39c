"""Fault plans of rollouts that scale: what befalls pods, replicas and the policy, right after each write."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rollouts.objects import kinds
from rollouts.objects.workloads import AUTOSCALER
from tests.kit.faults.capacity_scenarios import autoscaler, busy, gpus, kill_pod, replicas
from tests.kit.faults.deployments import DEPLOYMENT
from tests.kit.faults.moves import delete, edit_spec, overwrite_route
from tests.kit.faults.objects import CANARY, RELEASES, STABLE
from tests.kit.faults.plans import FaultClass, disturbed, enumerate_plans, heard_of_late
from tests.kit.faults.simulation import Act, FaultPlan, Run

__all__ = ["COMMON", "capacity_plans", "every_plan", "late_plans"]

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


def _capacity(**changes: Any) -> Act:
    def change(spec: Object) -> None:
        canary = spec["strategy"]["canary"]
        if canary.get("capacity") is not None:
            canary["capacity"] = {**canary["capacity"], **changes}

    return edit_spec(change)


def _without_capacity(spec: Object) -> None:
    spec["strategy"]["canary"]["capacity"] = None


def _paused(*, paused: bool) -> Act:
    return edit_spec(lambda spec: spec.update(paused=paused))


_ACTS: dict[str, tuple[Act, Act | None, float]] = {
    "a canary pod dies": (kill_pod(CANARY), None, 0.0),
    "a stable pod dies": (kill_pod(STABLE), None, 0.0),
    "no GPU is free for 90 s": (gpus(4), gpus(16), 90.0),
    "argocd takes the canary's pods": (replicas(CANARY, 0), None, 0.0),
    "a person scales the canary up": (replicas(CANARY, 6, "kubectl"), None, 0.0),
    "a person scales stable up for 60 s": (
        replicas(STABLE, 7, "kubectl"),
        replicas(STABLE, 4, "kubectl"),
        60.0,
    ),
    "an autoscaler of the canary appears": (autoscaler(CANARY), None, 0.0),
    "an autoscaler of stable for 60 s": (autoscaler(STABLE), delete(AUTOSCALER, RELEASES[STABLE]), 60.0),
    "stable answers for ever": (busy(STABLE, None), None, 0.0),
    "the canary answers for 100 s": (busy(CANARY, 2), busy(CANARY, 0), 100.0),
    "maxSurge 25% for 60 s": (_capacity(maxSurge="25%"), _capacity(maxSurge=None), 60.0),
    "minStable 100% for 60 s": (_capacity(minStable="100%"), _capacity(minStable=1), 60.0),
    "abort Immediate": (_capacity(abort="Immediate"), None, 0.0),
    "headroom 1.5": (_capacity(headroom=1.5), None, 0.0),
    "capacity taken out": (edit_spec(_without_capacity), None, 0.0),
    "paused for 40 s": (_paused(paused=True), _paused(paused=False), 40.0),
    "a person gives the old version weight": (
        overwrite_route({STABLE: 50, CANARY: 50}, "kubectl-edit"),
        overwrite_route({STABLE: 0, CANARY: 100}, "kubectl-edit"),
        60.0,
    ),
    "the rollout is deleted": (delete(kinds.ROLLOUT, "mymodel"), None, 0.0),
}


def capacity_plans(clean: Run) -> Iterator[FaultPlan]:
    """Each of what may happen, right after each second write of the clean run."""
    return disturbed(clean, _ACTS)


def late_plans(clean: Run) -> Iterator[FaultPlan]:
    """Pods, Deployments, or both are heard of late."""
    return heard_of_late(kinds.POD, DEPLOYMENT)


def every_plan(clean: Run) -> Iterator[FaultPlan]:
    """All of them, of every class."""
    for fault in COMMON:
        yield from enumerate_plans(fault, clean)
    yield from late_plans(clean)
    yield from capacity_plans(clean)
