"""How often the controller writes for one canary that is measured every two seconds, by kind."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rollouts.runtime.lease import LeaseConfig
from tests.kit.faults.cluster import Cluster
from tests.kit.faults.moves import healthy_on
from tests.kit.faults.objects import CANARY, base_objects, rollout_object
from tests.kit.faults.simulation import Scenario, simulate

MEASURED: dict[str, Any] = {
    "name": "errors",
    "measure": {"preset": "error-rate", "window": "8s"},
    "interval": "2s",
}
BEFORE = 129
"""Leases and Events included, when each measurement was a write of its run and of the Rollout, and renewals came
every two seconds."""
GATE = {"metrics": [{**MEASURED, "successCondition": "result < 0.05", "count": 20}]}
GUARD = {"startingStep": 0, "metrics": [{**MEASURED, "failureCondition": "result > 0.5"}]}
STEPS = [{"setWeight": 10}, {"analysis": GATE}, {"setWeight": 50}]


def test_a_canary_measured_every_two_seconds_is_not_stored_every_two_seconds() -> None:
    def setup(cluster: Cluster) -> None:
        base_objects(cluster, rollout_object(STEPS, canary={"analysis": GUARD}), route=True)

    run = simulate(Scenario(name="measured often", setup=setup, moves=(), goal=healthy_on(CANARY)))
    wrote = [record.change for record in run.history.records if record.change.manager == "inference-rollouts"]
    count = Counter(change.plural for change in wrote)
    took = run.history.records[-1].seconds

    assert 40 < took < 120
    assert count["httproutes"] == 3
    # Two runs: made, begun, marked as earned, ended, and their successes every ten seconds in between.
    assert count["analysisruns"] <= 8 + 2 * took / 10, count
    assert count["rollouts"] <= 14 + took / 10, count
    renewals = took / LeaseConfig(namespace="ns", name="controller").renew_period
    assert count.total() + renewals <= BEFORE / 2, (count, renewals)
