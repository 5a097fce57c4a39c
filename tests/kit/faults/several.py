"""Several Rollouts beside each other: each on a route of its own, between the pools of the example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rollouts.controller.assembly import Parts, assemble
from rollouts.controller.caches import Caches
from rollouts.engine.turns import LimitScope
from rollouts.objects import kinds
from rollouts.runtime.clock import Clock
from rollouts.sources.base import MetricSource
from tests.kit.faults.cluster import Cluster
from tests.kit.faults.objects import CANARY, ROUTE, base_objects, rollout_object
from tests.kit.faults.process import Assembler
from tests.kit.faults.simulation import Run, Simulation

__all__ = [
    "SEVERAL_STEPS",
    "Limited",
    "begun_at",
    "canary_weight",
    "early_rises",
    "in_progress",
    "place",
    "status_of",
]

Object = dict[str, Any]

SEVERAL_STEPS: list[Object] = [{"setWeight": 10}, {"pause": {"duration": "20s"}}, {"setWeight": 50}]


class Uncounted:
    """Nobody counts requests: the simulated clients are those of one route."""

    def view(self, *_: Any) -> None:
        """See ``ShareSource``."""


class Limited(Assembler):
    """As the controller is put together with ``parallelism``."""

    def __init__(self, limits: Mapping[LimitScope, int] | None = None) -> None:
        super().__init__()
        self._limits = limits or {}

    def __call__(self, client: Any, clock: Clock, caches: Caches, source: MetricSource) -> Parts:
        """The parts of a process."""
        return assemble(
            client,
            clock,
            caches=caches,
            sources={"default": source, "picker": source},
            shares=Uncounted(),
            adapters=self.adapters,
            probes=self.probes,
            parallelism=self._limits,
        )


def place(cluster: Cluster, specs: Mapping[str, Mapping[str, Any]]) -> None:
    """Rollouts by name, ``mymodel`` first, with fields of their specs."""
    first, *others = specs
    assert first == "mymodel"
    base_objects(cluster, _rollout(first, ROUTE, specs[first]))
    for name in others:
        route = cluster.get(kinds.HTTP_ROUTE, ROUTE)
        assert route is not None
        consent = {"inferencerollouts.dev/managed-by": name}
        route["metadata"] = {"name": f"{name}-route", "annotations": consent}
        cluster.create(kinds.HTTP_ROUTE, route)
        cluster.create(kinds.ROLLOUT, _rollout(name, f"{name}-route", specs[name]))


def _rollout(name: str, route: str, fields: Mapping[str, Any]) -> Object:
    canary = {"allowNoTraffic": True, **fields.get("canary", {})}
    rest = {key: value for key, value in fields.items() if key not in ("canary", "steps")}
    steps = fields.get("steps", SEVERAL_STEPS)
    return rollout_object(steps, name=name, route={"name": route}, canary=canary, **rest)


def status_of(sim: Simulation, name: str) -> Object:
    """The stored status of a Rollout; empty when there is none."""
    found: Object = (sim.cluster.get(kinds.ROLLOUT, name) or {}).get("status") or {}
    return found


# --- what was stored --------------------------------------------------------------------------------


def in_progress(rollout: Object | None) -> bool:
    """Whether an attempt of the stored Rollout has begun and not ended."""
    status = (rollout or {}).get("status") or {}
    return bool(status.get("startedAt") and status.get("canary") and not status.get("aborted"))


def canary_weight(route: Object | None) -> int:
    """Sum over the rules of a stored route."""
    rules = ((route or {}).get("spec") or {}).get("rules") or []
    refs = [ref for rule in rules for ref in rule["backendRefs"]]
    return sum(int(ref["weight"]) for ref in refs if ref["name"] == CANARY)


def early_rises(run: Run) -> list[str]:
    """Routes whose canary was given weight by the controller while its Rollout was not in progress."""
    began: dict[str, bool] = {}
    wrong = []
    for record in run.history.records:
        if record.of(kinds.ROLLOUT):
            began[record.change.name] = in_progress(record.after)
        elif record.of(kinds.HTTP_ROUTE) and record.ours:
            name = record.change.name.removesuffix("-route").replace("inference", "mymodel")
            if canary_weight(record.after) > canary_weight(record.before) and not began.get(name):
                wrong.append(f"{name} at {record.seconds:g} s")
    return wrong


def begun_at(run: Run) -> dict[str, float]:
    """Seconds at which the first attempt of each Rollout began, in that order."""
    found: dict[str, float] = {}
    for record in run.history.records:
        if record.of(kinds.ROLLOUT) and in_progress(record.after):
            found.setdefault(record.change.name, record.seconds)
    return found
