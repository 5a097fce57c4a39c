"""Rollouts between variants, under every enumerated fault, judged by the invariants.

`make test` judges the clean runs and a sample of plans that meets each kind of fault, `make test-full` all of them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from rollouts.controller.variant_views import VariantViews
from rollouts.engine import converging, starting
from rollouts.objects import kinds
from rollouts.objects.pools import Pool
from rollouts.traffic import pool_split, wayback
from tests.kit.faults.invariants import Invariant, check
from tests.kit.faults.plans import enumerate_plans
from tests.kit.faults.simulation import FaultPlan, Run, simulate
from tests.kit.faults.variant_plans import COMMON, edited_plans, every_plan, late_plans, outside_plans
from tests.kit.faults.variant_scenarios import VARIANT_SCENARIOS

pytestmark = pytest.mark.timeout(280)
"""Seconds: some of these are a dozen runs of a whole rollout, on a machine that does other things as well."""

PROMOTED = "variant: taken over, promoted"
ABORTED = "variant: gate failure aborts"
FIRST = "variant: first install, then a second target"
HINTED = "variant: unmatched pods, named by stableHint"
WAITING = "variant: unmatched pods, until they are gone"
ADDED = "variant: a person adds a variant"

SAMPLE = 31
"""Every so many plans of a scenario are judged each time: of all kinds."""


def cut_off(run: Run) -> Iterator[str]:
    """Ready pods of no variant that the first split leaves without requests, with nobody having said so."""
    ready: dict[str, str] = {}
    rollout: dict[str, Any] = {}
    for record in run.history.records:
        if record.of(kinds.POD):
            conditions = (record.after.get("status") or {}).get("conditions") or []
            up = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
            labels = (record.after.get("metadata") or {}).get("labels") or {}
            ready.pop(record.change.name, None)
            if up and labels.get("app") == "custom-serving":
                ready[record.change.name] = labels["release"]
        elif record.of(kinds.ROLLOUT):
            rollout = record.after
        elif record.of(kinds.POOL_SPLIT):
            if not record.ours:
                return
            promoted = ((rollout.get("status") or {}).get("lastCommand") or {}).get("action") == "promote"
            known = [one["labels"]["release"] for one in record.after["spec"]["variants"]]
            known.append(rollout["spec"]["target"]["variant"]["labels"]["release"])
            left = {pod for pod, release in ready.items() if release not in known}
            if left and not promoted:
                yield f"the first split leaves {', '.join(sorted(left))} without requests"
            return


NOTICED = 15.0
"""Seconds in which a PoolSplit that is gone is back: the next plan makes it, a plan that failed is tried again."""


def left_open(run: Run) -> Iterator[str]:
    """Times in which a canary that had weight once, or was to have none, got what the picker gives to any pod.

    Without a split every Ready pod serves. Whatever is wrong with the spec, the status says who is to.
    """
    gone_at, known, recorded = None, False, False
    for record in run.history.records:
        if gone_at is not None and known and recorded and record.seconds - gone_at > NOTICED:
            yield f"no PoolSplit since {gone_at:g} s, and the status knows who is stable"
            return
        if record.of(kinds.ROLLOUT):
            status = record.after.get("status") or {}
            known, recorded = bool(status.get("stable")), bool(status.get("wayBack"))
        elif record.of(kinds.POOL_SPLIT):
            gone_at = None if record.after else record.seconds


@functools.cache
def clean_run(name: str) -> Run:
    return simulate(VARIANT_SCENARIOS[name])


def judge(name: str, plan: FaultPlan) -> list[str]:
    clean = clean_run(name)
    run = simulate(VARIANT_SCENARIOS[name], plan)
    opened = left_open(run) if "split gone" in plan.name else ()
    return [f"{plan.name}: {violation}" for violation in (*check(run, clean), *cut_off(run), *opened)]


@pytest.mark.parametrize("name", VARIANT_SCENARIOS)
def test_the_clean_run_keeps_every_invariant(name: str) -> None:
    assert [str(violation) for violation in check(clean_run(name))] == []
    assert list(cut_off(clean_run(name))) == []


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

    assert broken == []


# --- planted bugs ----------------------------------------------------------------------------------


def test_a_split_that_asks_nobody_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "waits_for_unmatched", lambda *_: False)

    assert list(cut_off(simulate(VARIANT_SCENARIOS[WAITING])))


def test_pods_of_other_variants_that_count_as_the_canarys_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def whole(self: VariantViews, pool: Pool, arm: Any) -> list[Any]:
        return [pod for pod in self._caches.endpoints(pool) if pod.ready]

    plans = [plan for plan in outside_plans(clean_run(PROMOTED)) if "canary unready 30 s" in plan.name]
    monkeypatch.setattr(VariantViews, "_ready", whole)
    found = (one.invariant for plan in plans for one in check(simulate(VARIANT_SCENARIOS[PROMOTED], plan)))

    assert Invariant.ENDPOINTS in found


def test_a_split_that_stays_gone_while_the_spec_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = next(one for one in edited_plans(clean_run(PROMOTED)) if "unreadable and the split" in one.name)
    real = wayback.view
    monkeypatch.setattr(wayback, "view", lambda *args: replace(real(*args), unsplit=False))

    assert list(left_open(simulate(VARIANT_SCENARIOS[PROMOTED], plan)))


@pytest.mark.slow
@pytest.mark.full
def test_a_way_back_that_forgets_stables_labels_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def bare(entry: Any, weight: int) -> dict[str, Any]:
        return {"name": entry.name, "weight": weight}

    monkeypatch.setattr(pool_split, "_recorded", bare)
    found = {one.invariant for one in check(simulate(VARIANT_SCENARIOS[ABORTED]))}

    assert Invariant.RESTORED in found


def test_another_variant_that_stays_listed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def any_list(obj: Any, spec: Any, reader: Any) -> Any:
        return replace(real(obj, spec, reader), structure_current=True)

    real = pool_split.view
    monkeypatch.setattr(pool_split, "view", any_list)
    monkeypatch.setattr(converging, "_intruders", lambda *_: [])
    found = {one.invariant for one in check(simulate(VARIANT_SCENARIOS[ADDED]))}

    assert found & {Invariant.WEIGHTS, Invariant.TRUTH}
