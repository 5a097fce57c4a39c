"""What a Rollout appends to its attempt's run: nothing that is there is ever taken away."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.api.analysis_models import RUN_LIST_LIMITS
from rollouts.api.runs import parse_run
from rollouts.objects import kinds
from tests.kit.clock import virtual_time
from tests.kit.faults.moves import at_step, command, healthy_on, overwrite_route
from tests.kit.faults.objects import CANARY, STABLE, base_objects, rollout_object
from tests.kit.faults.process import Assembler
from tests.kit.faults.simulation import CLEAN, Move, Scenario, Simulation

COMPARE = {"metrics": [{"name": "ttft", "compare": {"preset": "ttft"}}]}


def fill(present: int) -> Any:
    """Give the attempt's run this many exclusions."""

    def act(sim: Simulation) -> None:
        (run,) = sim.cluster.all(kinds.ANALYSIS_RUN)
        times = [f"2029-01-01T{n // 60:02d}:{n % 60:02d}:00Z" for n in range(present)]
        body = {"spec": {"exclude": [{"from": time, "to": time} for time in times]}}
        sim.cluster.merge(kinds.ANALYSIS_RUN, run["metadata"]["name"], body)

    return act


def exclusions_after_a_foreign_write(present: int) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """What was excluded before and after."""
    rollout = rollout_object([{"setWeight": 10}, {"pause": {}}, {"analysis": COMPARE}, {"setWeight": 50}])
    scenario = Scenario(
        name="overwritten",
        setup=lambda cluster: base_objects(cluster, rollout),
        moves=(
            Move(when=at_step(1), act=fill(present), after=20),
            Move(when=at_step(1), act=overwrite_route({STABLE: 100}, "argocd-controller"), after=5),
            Move(when=at_step(1), act=command("promoteFull"), after=20),
        ),
        goal=healthy_on(CANARY),
    )

    async def whole() -> Simulation:
        simulation = Simulation(scenario, CLEAN, Assembler())
        assert (await simulation.run()).converged
        return simulation

    with virtual_time() as loop:
        simulation = loop.run_until_complete(whole())
    lists = [
        record.change.obj["spec"]["exclude"]
        for record in simulation.history.records
        if record.of(kinds.ANALYSIS_RUN) and (record.change.obj.get("spec") or {}).get("exclude")
    ]
    return lists[0], lists[-1]


@pytest.mark.parametrize("present", [1, 64, 254])
def test_an_exclusion_is_appended(present: int) -> None:
    before, after = exclusions_after_a_foreign_write(present)

    assert after[:-1] == before
    assert after[-1]["to"] < "2031"


def test_the_exclusion_that_fills_the_list_has_no_end() -> None:
    limit = RUN_LIST_LIMITS["exclude"]
    before, after = exclusions_after_a_foreign_write(limit - 1)

    assert after[:-1] == before
    assert after[-1]["to"] == "9999-12-31T23:59:59Z"
    run = {"metadata": {"name": "r"}, "spec": {"exclude": after}}
    assert parse_run(run).spec is not None


def test_a_list_that_is_full_stays_as_it_is() -> None:
    before, after = exclusions_after_a_foreign_write(RUN_LIST_LIMITS["exclude"])

    assert after == before
