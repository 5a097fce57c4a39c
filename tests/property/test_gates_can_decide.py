"""Every accepted threshold metric can pass and can be stopped: none is a gate by name only."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from rollouts.analysis.comparisons import can_stop
from rollouts.analysis.run_plan import plan_run
from rollouts.analysis.types import MetricSpec, RunPhase, RunSpec, RunStatus
from rollouts.analysis.verdicts import judge_value
from rollouts.api.analysis_models import MetricModel
from rollouts.api.runs import metric_of
from rollouts.api.spec_rules import check_metric

START = datetime(2026, 1, 1, tzinfo=UTC)
VALUES = (1.0, 3.0)
FIELDS: dict[str, tuple[Any, ...]] = {
    "successCondition": (None, "result < 2.0", "1 < 2"),
    "failureCondition": (None, "result > 2.0", "result < 2.0", "false"),
    "interval": (None, "10s"),
    "count": (None, 1, 3),
    "failureLimit": (-1, 0, 2, 3, 5),
    "inconclusiveLimit": (-1, 0, 5),
    "consecutiveSuccessLimit": (0, 1, 2, 5),
}


def ends(metric: MetricSpec, value: float) -> RunPhase:
    """How a step's gate ends that always measures this value."""
    run = RunSpec(rollout="demo", attempt=1, step=1, canary=None, stable=None, metrics=(metric,))
    status, now = RunStatus(), START
    for _ in range(12):
        planned = plan_run(run, status, now)
        taken = {due.name: judge_value(due, value, now) for due in planned.due}
        status = plan_run(run, planned.status, now, taken).status
        if status.phase.terminal:
            break
        now += timedelta(seconds=10)
    return status.phase


def test_every_accepted_metric_can_pass_and_can_be_stopped():
    accepted = refused = 0
    for choice in itertools.product(*FIELDS.values()):
        given = {k: v for k, v in zip(FIELDS, choice, strict=True) if v is not None}
        try:
            model = MetricModel.model_validate({"name": "m", "query": "up", **given})
        except ValidationError:
            refused += 1
            continue
        if any(check_metric(model, "m")):
            refused += 1
            continue
        accepted += 1
        metric = metric_of(model)
        found = {ends(metric, value) for value in VALUES}
        assert RunPhase.SUCCESSFUL in found, f"never passes: {given}"
        assert found != {RunPhase.SUCCESSFUL}, f"passes whatever is measured: {given}"
        if RunPhase.FAILED not in found:
            # Only by a tolerance as wide as the count, or by inconclusive values, which pause.
            assert not can_stop(metric) or RunPhase.INCONCLUSIVE in found, f"never fails: {given}"
    assert accepted > 100
    assert refused > 100
