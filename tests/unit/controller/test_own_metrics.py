"""What the controller publishes about a Rollout."""

from __future__ import annotations

from dataclasses import replace

from rollouts.controller.metrics import ControllerMetrics
from rollouts.engine.attempt import Attempt
from rollouts.engine.revision import revision_of
from rollouts.engine.rollout_status import Phase, RolloutStatus, WeightStatus
from rollouts.units import Weight
from tests.kit.world import pool

FIRST = Attempt(canary=revision_of(pool("v2"), ""), current_step=1)
PAUSED = RolloutStatus(phase=Phase.PAUSED, current=FIRST, weight=WeightStatus(desired=Weight(1000)))


def read(metrics: ControllerMetrics, series: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(series, {"namespace": "ns", "rollout": "demo", **labels})


def test_every_change_of_phase_weight_and_step_is_shown():
    metrics = ControllerMetrics()
    metrics.show("ns", "demo", PAUSED)
    healthy = replace(
        PAUSED, phase=Phase.HEALTHY, current=None, step_count=2, weight=WeightStatus(desired=Weight(10_000))
    )
    metrics.show("ns", "demo", healthy)

    assert read(metrics, "rollouts_rollout_phase", phase="Paused") == 0
    assert read(metrics, "rollouts_rollout_phase", phase="Healthy") == 1
    assert read(metrics, "rollouts_rollout_weight_ratio", kind="desired") == 1.0
    assert read(metrics, "rollouts_rollout_step") == 2


def test_a_rollout_that_is_made_again_is_shown_again():
    metrics = ControllerMetrics()
    metrics.show("ns", "demo", PAUSED)
    metrics.forget("ns", "demo")

    assert read(metrics, "rollouts_rollout_step") is None

    metrics.show("ns", "demo", PAUSED)

    assert read(metrics, "rollouts_rollout_step") == 1
