"""Rollouts between variants, under every enumerated fault, judged by the invariants.

`make test` judges the clean runs and a sample of plans that meets each kind of fault, `make test-full` all of them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kit.faults.invariants import check
from tests.kit.faults.plans import enumerate_plans
from tests.kit.faults.simulation import FaultPlan, Run, simulate
from tests.kit.faults.variant_plans import COMMON, edited_plans, every_plan, late_plans, outside_plans
from tests.kit.faults.variant_scenarios import VARIANT_SCENARIOS

PROMOTED = "variant: taken over, promoted"
ABORTED = "variant: gate failure aborts"
FIRST = "variant: first install, then a second target"
HINTED = "variant: unmatched pods, named by stableHint"

SAMPLE = 31
"""Every so many plans of a scenario are judged each time: of all kinds."""


@functools.cache
def clean_run(name: str) -> Run:
    return simulate(VARIANT_SCENARIOS[name])


def judge(name: str, plan: FaultPlan) -> list[str]:
    clean = clean_run(name)
    return [
        f"{plan.name}: {violation}" for violation in check(simulate(VARIANT_SCENARIOS[name], plan), clean)
    ]


@pytest.mark.parametrize("name", VARIANT_SCENARIOS)
def test_the_clean_run_keeps_every_invariant(name: str) -> None:
    assert [str(violation) for violation in check(clean_run(name))] == []


@pytest.mark.parametrize("name", [PROMOTED, ABORTED, FIRST, HINTED])
def test_a_sample_of_plans_breaks_nothing(name: str) -> None:
    plans = list(every_plan(clean_run(name)))

    assert [text for plan in plans[::SAMPLE] for text in judge(name, plan)] == []


def _parts(clean: Run) -> dict[str, Iterator[FaultPlan]]:
    common = {fault.name: enumerate_plans(fault, clean) for fault in COMMON}
    late = {"LATE": late_plans(clean), "OUTSIDE": outside_plans(clean), "EDITED": edited_plans(clean)}
    return {**common, **late}


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", [*(fault.name for fault in COMMON), "LATE", "OUTSIDE", "EDITED"])
@pytest.mark.parametrize("name", VARIANT_SCENARIOS)
def test_no_plan_breaks_an_invariant(name: str, part: str, record_property: Any) -> None:
    plans = list(_parts(clean_run(name))[part])
    broken = [text for plan in plans for text in judge(name, plan)]
    record_property("fault_plans", len(plans))

    assert plans
    assert broken == []
