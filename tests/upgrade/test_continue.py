"""Every later version goes on where an earlier one was: at the same step, to the same end, and never back."""

from __future__ import annotations

import functools
import re
from itertools import groupby
from typing import Any

import pytest
import structlog

from rollouts.objects import kinds
from tests.kit.faults.endstate import differences, is_carrier, weights_of
from tests.kit.faults.simulation import Run, simulate
from tests.upgrade.corpus import WORKLOADS, Moment, continued, moments

MOMENTS = tuple(moments())
_OF_STEPS = re.compile(r"(-\d+-\d+)-[0-9a-f]{6}(?=-|$)")


@pytest.fixture(autouse=True)
def _quiet_logs():
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.configure(**before)


@functools.cache
def clean(scenario: str) -> Run:
    return simulate(WORKLOADS[scenario])


def written(run: Run) -> list[tuple[Any, ...]]:
    """Attempts, steps and weights that the statuses say, and weights of the traffic object, in the order stored."""
    found = list[tuple[Any, ...]]()
    for record in run.history.records:
        status = record.after.get("status") or {}
        if not record.epoch or not record.ours:
            continue
        if record.of(kinds.ROLLOUT) and status:
            found.append((status.get("attempt"), status.get("currentStep"), status.get("weightText")))
        elif is_carrier(record):
            found.append(weights_of(record.after))
    return [key for key, _ in groupby(found)]


def masked(value: Any) -> Any:
    """Runs and Jobs are named by digits of the stored hash; a generation counts edits, of the restoring, too."""
    if isinstance(value, dict):
        left_out = ("stepsHash", "observedGeneration")
        return {masked(key): masked(item) for key, item in value.items() if key not in left_out}
    if isinstance(value, list):
        return [masked(item) for item in value]
    return _OF_STEPS.sub(r"\1-digits", value) if isinstance(value, str) else value


@pytest.mark.parametrize(
    ("version", "moment"), MOMENTS, ids=[f"{version}: {moment}" for version, moment in MOMENTS]
)
def test_a_rollout_goes_on_where_another_version_left_it(version: str, moment: Moment):
    undisturbed, run = clean(moment.scenario), continued(moment)
    done = written(run)

    assert (run.converged, run.history.problems) == (True, [])
    assert done == written(undisturbed)[-len(done) :]
    assert differences(masked(undisturbed.end), masked(run.end)) == []
