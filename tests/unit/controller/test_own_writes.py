"""What an attempt costs: each thing that is to be seen is written once, and our own writes are no news to us."""

from __future__ import annotations

from collections import Counter

import pytest

from rollouts.engine.rollout_status import Phase
from rollouts.objects import kinds
from tests.kit.clock import virtual_time
from tests.kit.faults.moves import phase
from tests.kit.faults.objects import base_objects, rollout_object
from tests.kit.faults.process import Assembler
from tests.kit.faults.simulation import CLEAN, FaultPlan, Scenario, Simulation
from tests.kit.faults.transport import Delivery


def to_the_first_pause(plan: FaultPlan) -> Simulation:
    scenario = Scenario(
        name="one weight",
        setup=lambda cluster: base_objects(cluster, rollout_object([{"setWeight": 10}, {"pause": {}}])),
        moves=(),
        goal=phase(Phase.PAUSED.value),
    )

    async def whole() -> Simulation:
        simulation = Simulation(scenario, plan, Assembler())
        assert (await simulation.run()).converged
        return simulation

    with virtual_time() as loop:
        return loop.run_until_complete(whole())


LATE = FaultPlan(
    name="the gateway's report is seen late", delivery=Delivery(delays=(("httproutes", 0.5),)), exact=False
)


@pytest.mark.parametrize("plan", [CLEAN, LATE], ids=lambda plan: plan.name)
def test_to_the_first_pause_a_rollout_takes_five_requests_and_its_events(plan: FaultPlan) -> None:
    """Start, weight, pause: three statuses, the finalizer, the weight; nothing is said of what comes by itself."""
    history = to_the_first_pause(plan).history

    assert history.problems == []
    cost = Counter((request.verb, request.plural) for request in history.requests)
    assert cost == {("patch", "rollouts"): 4, ("patch", "httproutes"): 1, ("create", "events"): 4}


def test_a_gateway_that_says_nothing_is_waited_for_in_words() -> None:
    silent = FaultPlan(name="silent", delivery=Delivery(delays=(("httproutes", 30.0),)), exact=False)
    history = to_the_first_pause(silent).history

    statuses = [(record.change.obj or {}).get("status") or {} for record in history.ours(kinds.ROLLOUT)]
    assert "WaitingForGateway" in [status.get("reason") for status in statuses]
