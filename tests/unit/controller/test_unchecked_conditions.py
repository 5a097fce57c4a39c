"""While conditions are being looked at nothing is shown of it, no weight rises, and an abort waits for nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rollouts.analysis.conditions import condition_problem
from rollouts.controller.assembly import assemble
from rollouts.controller.conditions import UNCHECKED, InlineConditions
from rollouts.runtime.clock import Clock
from rollouts.runtime.objects import ObjectKey
from tests.kit.clock import virtual_time
from tests.kit.faults.clients import CountedShares
from tests.kit.faults.cluster import Cluster
from tests.kit.faults.process import Assembler
from tests.kit.faults.scenarios import base_objects, rollout_object
from tests.kit.faults.simulation import CLEAN, Scenario, Simulation
from tests.kit.faults.source import Answer


class Late(InlineConditions):
    """Knows each condition some seconds after it was first asked about, and names the key then."""

    def __init__(self, clock: Clock, assembler: Assembler, seconds: float) -> None:
        self._clock = clock
        self._assembler = assembler
        self._seconds = seconds
        self._known: dict[str, float] = {}

    def problem(self, key: ObjectKey, text: str) -> str | None:
        now = self._clock.monotonic()
        if text not in self._known:
            self._known[text] = now + self._seconds
            loop = asyncio.get_running_loop()
            loop.call_later(self._seconds + 0.01, lambda: self._assembler.adapters.on_change(key))
        return UNCHECKED if now < self._known[text] else condition_problem(text)


class LateAssembler(Assembler):
    """A controller whose conditions are late."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def __call__(self, client: Any, clock: Any, caches: Any, source: Any) -> Any:
        return assemble(
            client,
            clock,
            caches=caches,
            sources={"default": source, "picker": source},
            shares=CountedShares(clock, self.clients),
            adapters=self.adapters,
            probes=self.probes,
            conditions=Late(clock, self, self._seconds),
        )


def run(scenario: Scenario, seconds: float) -> tuple[bool, Simulation]:
    made: list[Simulation] = []

    async def whole() -> bool:
        made.append(Simulation(scenario, CLEAN, LateAssembler(seconds)))
        return (await made[0].run()).converged

    with virtual_time() as loop:
        return loop.run_until_complete(whole()), made[0]


@pytest.mark.parametrize("seconds", [0.0, 2.0, 40.0])
def test_a_rollout_goes_on_when_its_conditions_are_known_and_never_shows_that_they_were_not(seconds):
    shown: set[str] = set()

    def goal(simulation: Simulation) -> bool:
        shown.add(str(simulation.status.get("message")))
        return simulation.status.get("phase") == "Healthy" and not simulation.status.get("canary")

    scenario = Scenario(
        name="late conditions",
        setup=lambda cluster: base_objects(cluster, rollout_object()),
        moves=(),
        goal=goal,
    )

    converged, simulation = run(scenario, seconds)

    assert converged, simulation.status
    assert simulation.history.problems == []
    assert not [message for message in shown if UNCHECKED in message]


def test_an_abort_waits_for_no_condition():
    def setup(cluster: Cluster) -> None:
        base_objects(cluster, rollout_object())

    def goal(simulation: Simulation) -> bool:
        if simulation.status.get("weight", {}).get("applied") == 10:
            simulation.source.answer = Answer.BAD
        return simulation.status.get("phase") == "Aborted"

    scenario = Scenario(name="late abort", setup=setup, moves=(), goal=goal)

    converged, simulation = run(scenario, 1.0)

    assert converged, simulation.status
    assert simulation.status["weight"]["applied"] == 0
