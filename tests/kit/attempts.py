"""Attempts that compare, run whole in virtual time over counters that grow: a good one, a bad one, one that goes on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from rollouts.analysis.timeline import read_timeline
from rollouts.controller.assembly import Parts, assemble
from rollouts.controller.caches import Caches
from rollouts.controller.metrics import ControllerMetrics
from rollouts.objects import kinds
from rollouts.runtime.clock import Clock
from rollouts.runtime.objects import ObjectKey
from rollouts.sources.base import MetricSource
from tests.kit.clock import virtual_time
from tests.kit.counters import GrowingCounters
from tests.kit.faults.clients import CountedShares
from tests.kit.faults.cluster import NAMESPACE
from tests.kit.faults.moves import at_step, phase
from tests.kit.faults.objects import CANARY, STABLE, base_objects, rollout_object
from tests.kit.faults.process import Assembler
from tests.kit.faults.simulation import CLEAN, Condition, FaultPlan, Move, Scenario, Simulation
from tests.kit.faults.transport import FaultyClient

__all__ = [
    "STEPS",
    "WithCounters",
    "bad_attempt",
    "compare",
    "evidence_run",
    "gate",
    "good_attempt",
    "harm",
    "healthy",
    "objects_of",
    "run",
    "running_attempt",
]

Object = dict[str, Any]


def compare(preset: str, name: str = "", **form: Any) -> Object:
    """A compare metric."""
    return {"name": name or preset, "compare": {"preset": preset, **form}}


def gate(*metrics: Object) -> Object:
    """An analysis step."""
    return {"analysis": {"metrics": list(metrics)}}


class WithCounters(Assembler):
    """The controller over growing counters, which outlive its processes as pods do."""

    def __init__(self, **shape: Any) -> None:
        super().__init__()
        self.shape = shape
        self.counters: GrowingCounters | None = None

    def share(self) -> float:
        """The canary's share by the route, which the gateway obeys."""
        route = self.caches.routes.get(ObjectKey(NAMESPACE, "inference-route"))
        assert route is not None
        weights = {ref["name"]: ref["weight"] for ref in route["spec"]["rules"][0]["backendRefs"]}
        return float(weights[CANARY] / sum(weights.values()))

    def __call__(self, client: FaultyClient, clock: Clock, caches: Caches, source: MetricSource) -> Parts:
        """A new process over the same counters."""
        self.caches = caches
        if self.counters is None:
            self.counters = GrowingCounters(
                clock, stable=STABLE, canary=CANARY, share=self.share, **self.shape
            )
        return assemble(
            client,
            clock,
            caches=caches,
            sources={"default": self.counters},
            shares=CountedShares(clock, self.clients),
            adapters=self.adapters,
            metrics=ControllerMetrics(),
        )


def run(
    rollout: Object,
    goal: Condition,
    *moves: Move,
    plan: FaultPlan = CLEAN,
    assembler: WithCounters | None = None,
) -> Simulation:
    """Run until the goal is reached and all is at rest; nothing may have gone wrong on the way."""
    scenario = Scenario(
        name="compare",
        setup=lambda cluster: base_objects(cluster, rollout),
        moves=moves,
        goal=goal,
        measured=True,
    )
    made: list[Simulation] = []

    async def whole() -> bool:
        made.append(Simulation(scenario, plan, assembler or WithCounters()))
        return (await made[0].run()).converged

    with virtual_time() as loop:
        assert loop.run_until_complete(whole()), (made[0].status, made[0].history.problems)
    assert made[0].history.problems == []
    return made[0]


def harm(assembler: WithCounters, **change: float) -> Callable[[Simulation], None]:
    """What makes the canary worse from then on."""

    def act(_: Simulation) -> None:
        assert assembler.counters is not None
        for name, value in change.items():
            setattr(assembler.counters, name, value)

    return act


def evidence_run(simulation: Simulation) -> Object:
    """The run that compares."""
    runs = [item for item in simulation.cluster.all(kinds.ANALYSIS_RUN) if "comparisons" in item["spec"]]
    assert len(runs) == 1
    return runs[0]


def healthy(simulation: Simulation) -> bool:
    """Whether the canary was promoted."""
    status = simulation.status
    return status.get("phase") == "Healthy" and (status.get("stable") or {}).get("name") == CANARY


STEPS = [
    {"setWeight": 10},
    gate(compare("error-rate"), compare("ttft")),
    {"setWeight": 50},
    gate(compare("error-rate"), compare("ttft", tolerance="50%")),
]


# --- the three that are drawn ----------------------------------------------------------------------


@functools.cache
def good_attempt() -> Simulation:
    """A healthy canary that was promoted."""
    return run(rollout_object(STEPS), healthy)


@functools.cache
def bad_attempt() -> Simulation:
    """A canary that becomes slower in its first gate, and is aborted."""
    assembler = WithCounters()
    move = Move(when=at_step(1), act=harm(assembler, slower=0.3), after=240)
    return run(rollout_object(STEPS), phase("Aborted"), move, assembler=assembler)


@functools.cache
def running_attempt() -> Simulation:
    """A healthy canary in a pause that waits for a person."""

    def measured(simulation: Simulation) -> bool:
        runs = simulation.cluster.all(kinds.ANALYSIS_RUN)
        text = (runs[0].get("status") or {}).get("timeline", "") if runs else ""
        return len(read_timeline(text)) >= 14

    steps: list[Object] = [
        {"setWeight": 10},
        {"pause": {"duration": "2m"}},
        {"setWeight": 25},
        {"pause": {}},
        STEPS[1],
    ]
    return run(rollout_object(steps), measured)


def objects_of(simulation: Simulation) -> tuple[Object, list[Object], list[Object]]:
    """The Rollout, its runs and its Events at the end."""
    (rollout,) = simulation.cluster.all(kinds.ROLLOUT)
    return rollout, simulation.cluster.all(kinds.ANALYSIS_RUN), simulation.cluster.all(kinds.EVENT)
