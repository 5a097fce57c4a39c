"""A gateway that puts weights in force long after it says so: steps wait for it, and for nothing else."""

from __future__ import annotations

import pytest

from tests.kit.faults.moves import begun, clients, healthy_on
from tests.kit.faults.objects import CANARY, base_objects, rollout_object
from tests.kit.faults.simulation import Move, Scenario, simulate

STEPS = [{"setWeight": 10}, {"setWeight": 50}]
SOON = 30.0
"""Seconds after a weight is in force within which a step is over."""


@pytest.mark.parametrize("late", [20.0, 60.0, 110.0])
def test_every_step_ends_soon_after_its_weight_is_in_force(late: float) -> None:
    scenario = Scenario(
        name="late",
        setup=lambda cluster: base_objects(cluster, rollout_object(STEPS)),
        moves=(Move(when=begun, act=clients(lag=late)),),
        goal=healthy_on(CANARY),
    )
    run = simulate(scenario)
    statuses = [
        (record.seconds, record.after["status"])
        for record in run.history.records
        if record.change.plural == "rollouts" and "status" in record.after
    ]
    risen = {}
    for seconds, status in statuses:
        risen.setdefault((status.get("weight") or {}).get("applied"), seconds)
    ends = [*(risen[weight] for weight in (50, 100)), statuses[-1][0]]

    assert run.converged
    assert statuses[-1][1]["phase"] == "Healthy"
    for weight, end in zip((10, 50, 100), ends, strict=True):
        assert end - risen[weight] <= late + SOON, (weight, risen, ends)
