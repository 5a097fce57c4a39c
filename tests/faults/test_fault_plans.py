"""Every enumerated fault plan of every workload, judged by the invariants over its whole history."""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest

from tests.kit.faults.invariants import check
from tests.kit.faults.plans import FaultClass, applies, enumerate_plans
from tests.kit.faults.scenarios import SCENARIOS
from tests.kit.faults.simulation import FaultPlan, Run, simulate

PAIRS = [
    (fault, name) for name, scenario in SCENARIOS.items() for fault in FaultClass if applies(fault, scenario)
]

WHOLE = (FaultClass.CRASH, FaultClass.ERRORS)
"""Classes of which `make test` judges every plan: a crash or an error at each single write. The others are products of
moments and kinds, in which neighbours differ little: it judges one in ``_EVERY`` of each kind, `make test-full` the
others."""
_EVERY = 7


@functools.cache
def clean_run(name: str) -> Run:
    return simulate(SCENARIOS[name])


def judge(name: str, plan: FaultPlan) -> list[str]:
    clean = clean_run(name)
    return [f"{plan.name}: {violation}" for violation in check(simulate(SCENARIOS[name], plan), clean)]


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_clean_run_keeps_every_invariant(name: str) -> None:
    assert [str(violation) for violation in check(clean_run(name))] == []


def test_more_than_a_thousand_plans_are_enumerated() -> None:
    plans = [plan for fault, name in PAIRS for plan in enumerate_plans(fault, clean_run(name))]

    assert len(plans) >= 1500
    assert len({plan.name for plan in plans}) >= 300


@pytest.mark.parametrize("fault", FaultClass, ids=lambda fault: fault.name)
def test_a_few_plans_of_each_class_break_nothing(fault: FaultClass) -> None:
    usual = "gate failure aborts"
    name = usual if applies(fault, SCENARIOS[usual]) else "edited: Adopted route"
    plans = list(enumerate_plans(fault, clean_run(name)))

    assert [text for plan in plans[:: max(1, len(plans) // 4)] for text in judge(name, plan)] == []


def kind_of(plan: FaultPlan) -> str:
    """What befalls the run, without the moment at which it does."""
    return re.sub(r"\b(write|event) \d+|, in step \d+, then .*", "", plan.name)


@functools.cache
def taken(fault: FaultClass) -> frozenset[tuple[str, int]]:
    """Scenario and number of the plans that `make test` judges: of each kind at least one, spread over all scenarios.

    Counted by kind, for whatever counts through the list of a scenario meets the same kinds at each moment.
    """
    places: dict[str, list[tuple[str, int]]] = {}
    for name in (name for one, name in PAIRS if one is fault):
        for number, plan in enumerate(enumerate_plans(fault, clean_run(name))):
            places.setdefault(kind_of(plan), []).append((name, number))
    return frozenset(
        place
        for kind, found in enumerate(places.values())
        for place in found[kind % min(_EVERY, len(found)) :: _EVERY]
    )


def chosen(fault: FaultClass, name: str, *, left_out: bool) -> list[FaultPlan]:
    """The plans that `make test` judges, or those that it leaves out."""
    plans = list(enumerate_plans(fault, clean_run(name)))
    if fault in WHOLE:
        return [] if left_out else plans
    return [plan for number, plan in enumerate(plans) if ((name, number) not in taken(fault)) is left_out]


@pytest.mark.parametrize("fault", FaultClass, ids=lambda fault: fault.name)
def test_every_kind_of_fault_is_among_the_chosen(fault: FaultClass) -> None:
    names = [name for one, name in PAIRS if one is fault]
    every = {kind_of(plan) for name in names for plan in enumerate_plans(fault, clean_run(name))}

    assert {kind_of(plan) for name in names for plan in chosen(fault, name, left_out=False)} == every


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize(("fault", "name"), PAIRS, ids=lambda item: getattr(item, "name", item))
def test_no_plan_breaks_an_invariant(fault: FaultClass, name: str, record_property: Any) -> None:
    plans = chosen(fault, name, left_out=False)
    if not plans:
        pytest.skip("its kinds of fault are judged in other scenarios")
    broken = [text for plan in plans for text in judge(name, plan)]
    record_property("fault_plans", len(plans))

    assert broken == []


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.timeout(280)
@pytest.mark.parametrize(
    ("fault", "name"),
    [(fault, name) for fault, name in PAIRS if fault not in WHOLE],
    ids=lambda item: getattr(item, "name", item),
)
def test_no_plan_that_is_left_out_breaks_an_invariant(
    fault: FaultClass, name: str, record_property: Any
) -> None:
    plans = chosen(fault, name, left_out=True)
    broken = [text for plan in plans for text in judge(name, plan)]
    record_property("fault_plans", len(plans))

    assert broken == []
