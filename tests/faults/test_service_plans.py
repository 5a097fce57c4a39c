"""Rollouts between members of a KServe group, under every enumerated fault, judged by the invariants.

`make test` judges the clean runs and a small sample of plans, `make test-full` all of them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest

from rollouts.carriers import TRAFFIC_KINDS
from rollouts.engine import scaling_down
from rollouts.objects import kinds
from rollouts.objects.llm_services import STOP_ANNOTATION, read_llm_service
from rollouts.traffic import llm_service_stop, service_group, service_group_shares
from rollouts.units import FULL
from tests.kit.faults.endstate import is_carrier, weights_of
from tests.kit.faults.invariants import Invariant, check
from tests.kit.faults.moves import healthy_on, retarget
from tests.kit.faults.objects import CANARY, STABLE
from tests.kit.faults.plans import enumerate_plans
from tests.kit.faults.service_plans import (
    COMMON,
    annotate,
    edited_plans,
    every_plan,
    frozen_plans,
    late_plans,
    outside_plans,
)
from tests.kit.faults.service_scenarios import SERVICE_SCENARIOS
from tests.kit.faults.simulation import FaultPlan, Move, Run, simulate

pytestmark = pytest.mark.timeout(280)
"""Seconds: some of these are a dozen runs of a whole rollout, on a machine that does other things as well."""

PROMOTED = "service: promoted"
ABORTED = "service: gate failure aborts"
AT_ONCE = "service: all at once, aborted there"
BESIDE = "service: beside others, aborted"
DROPPED = "service: beside others, third target in the middle"
STOPPED = "service: promoted, the old one stopped, then rolled back"

SAMPLE = 53
"""Every so many plans of a scenario are judged each time: of all kinds."""


def shifted(run: Run) -> Iterator[str]:
    """Shares of members of others that are not what they were, at rest: whenever the next status is stored."""
    before = None
    for record in run.history.records:
        if is_carrier(record):
            before = record
        elif before is not None and record.ours and before.ours:
            (rule,) = weights_of(before.after)
            total, others = sum(weight for _, weight in rule), [one for one in rule if "/" in one[0]]
            for name, weight in others:
                if total and weight * 4 != total:
                    yield f"{name} has {weight} of {total} at {before.seconds:g} s, not a quarter"
            before = None


@functools.cache
def clean_run(name: str) -> Run:
    return simulate(SERVICE_SCENARIOS[name])


def judge(name: str, plan: FaultPlan) -> list[str]:
    found = check(simulate(SERVICE_SCENARIOS[name], plan), clean_run(name))
    return [f"{plan.name}: {violation}" for violation in found]


@pytest.mark.parametrize("name", SERVICE_SCENARIOS)
def test_the_clean_run_keeps_every_invariant(name: str) -> None:
    assert [str(violation) for violation in check(clean_run(name))] == []
    assert list(shifted(clean_run(name))) == []


@pytest.mark.parametrize("name", [PROMOTED, AT_ONCE, BESIDE, STOPPED])
def test_a_sample_of_plans_breaks_nothing(name: str) -> None:
    plans = list(every_plan(clean_run(name)))

    assert [text for plan in plans[::SAMPLE] for text in judge(name, plan)] == []


def _parts(clean: Run) -> dict[str, Iterator[FaultPlan]]:
    common = {fault.name: enumerate_plans(fault, clean) for fault in COMMON}
    return {
        **common,
        "LATE": late_plans(clean),
        "OUTSIDE": outside_plans(clean),
        "EDITED": edited_plans(clean),
        "FROZEN": frozen_plans(clean),
    }


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", [*(fault.name for fault in COMMON), "LATE", "OUTSIDE", "EDITED", "FROZEN"])
@pytest.mark.parametrize("name", SERVICE_SCENARIOS)
def test_no_plan_breaks_an_invariant(name: str, part: str, record_property: Any) -> None:
    plans = list(_parts(clean_run(name))[part])
    broken = [text for plan in plans for text in judge(name, plan)]
    record_property("fault_plans", len(plans))

    assert broken == []


def test_an_abort_takes_the_canarys_weight_where_stable_cannot_be_written() -> None:
    clean = clean_run(BESIDE)
    (plan,) = (one for one in frozen_plans(clean) if one.name.startswith(STABLE) and one.name.endswith(" 4"))
    run = simulate(SERVICE_SCENARIOS[BESIDE], plan)

    assert check(run, clean) == []
    assert run.end[f"member {CANARY}"]["weight"] == 0


def test_a_dropped_canary_that_no_longer_consents_gives_its_weight_back_all_the_same() -> None:
    """Rule 6: nothing that a person edits holds the way back up; it is the others' share that has to stay."""
    clean = clean_run(DROPPED)
    (plan,) = (one for one in edited_plans(clean) if one.name == "consent withdrawn 20 s, from write 5")
    run = simulate(SERVICE_SCENARIOS[DROPPED], plan)

    assert check(run, clean) == []
    assert list(shifted(run)) == []
    assert run.end[f"member {CANARY}"]["weight"] == 0


# --- planted bugs ----------------------------------------------------------------------------------


def test_a_share_that_is_said_after_the_first_of_two_writes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    (kind,) = (one for one in TRAFFIC_KINDS if one.made_of)
    monkeypatch.setattr(type(kind), "with_part", lambda *_: None)
    found = {one.invariant for one in check(simulate(SERVICE_SCENARIOS[AT_ONCE]))}

    assert Invariant.TRUTH in found


def test_stable_that_falls_before_the_canary_has_weight_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = service_group.next_write

    def hasty(weights: Any, stable: str, canary: Any, weight: Any, *more: Any) -> Any:
        if weight >= FULL and weights.get(stable):
            return stable, 0
        return real(weights, stable, canary, weight, *more)

    monkeypatch.setattr(service_group, "next_write", hasty)

    assert Invariant.WEIGHTS in {one.invariant for one in check(simulate(SERVICE_SCENARIOS[AT_ONCE]))}


def test_a_canary_that_gets_more_than_is_asked_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        service_group_shares, "pair", lambda weight, grain: (grain, max(1, grain * weight // FULL))
    )
    found = {one.invariant for one in check(simulate(SERVICE_SCENARIOS[PROMOTED]))}

    assert found & {Invariant.WEIGHTS, Invariant.TRUTH, Invariant.CONVERGED}


def test_a_way_back_that_never_brings_stable_back_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_write(group: Any, record: Any, limit: Any) -> Any:
        return service_group._write(group, record.name, (record.canary.name, 0))

    (kind,) = (one for one in TRAFFIC_KINDS if one.made_of)
    monkeypatch.setattr(type(kind), "lowered", lambda _, *args: one_write(*args))
    monkeypatch.setattr(type(kind), "with_part", lambda *_: None)
    found = {one.invariant for one in check(simulate(SERVICE_SCENARIOS[AT_ONCE]))}

    assert Invariant.WEIGHTS in found


def test_a_loser_that_is_stopped_at_once_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling_down, "_waits", lambda *_: "")

    assert Invariant.STOPPED in {one.invariant for one in check(simulate(SERVICE_SCENARIOS[STOPPED]))}


def test_a_start_of_what_a_person_stopped_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    start, stop = (annotate(STABLE, STOP_ANNOTATION, value) for value in (None, "true"))
    moves = tuple(
        Move(when=healthy_on(CANARY), act=act, after=after)
        for act, after in ((start, 100), (stop, 20), (retarget(STABLE), 20))
    )
    plan = FaultPlan(name="a person starts what lost, and stops it again", moves=moves, exact=False)
    found = {one.invariant for one in check(simulate(SERVICE_SCENARIOS[STOPPED], plan))}
    assert Invariant.STOPPED not in found
    monkeypatch.setattr(llm_service_stop, "stopped_by_us", lambda obj, _: read_llm_service(obj).stopped)

    assert Invariant.STOPPED in {one.invariant for one in check(simulate(SERVICE_SCENARIOS[STOPPED], plan))}


def most_after_resets(name: str) -> Fraction:
    """The canary's largest share, of 1, while its step asks for 1 %, whenever a tool sets stable to Git's 9 again."""
    clean, most = clean_run(name), Fraction(0)
    for plan in (one for one in outside_plans(clean) if one.name.startswith("argocd resets stable")):
        desired = ""
        for record in simulate(SERVICE_SCENARIOS[name], plan).history.records:
            if record.of(kinds.ROLLOUT) and record.after:
                desired = str(((record.after.get("status") or {}).get("weight") or {}).get("desired", ""))
            elif is_carrier(record) and desired in ("1%", "1"):
                (rule,) = weights_of(record.after)
                most = max(most, Fraction(dict(rule)[CANARY], sum(weight for _, weight in rule)))
    return most


def test_a_sync_that_resets_stable_makes_no_more_of_the_canary_than_is_documented() -> None:
    assert most_after_resets(PROMOTED) == Fraction(1, 10)


def test_a_scale_that_makes_a_reset_dangerous_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        service_group_shares, "pair", lambda weight, _: (10_000, round(10_000 * weight / (FULL - weight)))
    )

    assert most_after_resets(PROMOTED) > Fraction(9, 10)


def test_a_joint_weight_that_is_forgotten_shifts_the_shares_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service_group, "joint_of", lambda *_: 0)

    assert list(shifted(simulate(SERVICE_SCENARIOS[BESIDE])))
