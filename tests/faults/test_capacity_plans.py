"""Rollouts that scale, under every enumerated fault, judged by the invariants; and a planted bug for each of those.

`make test` judges the clean runs and a sample of plans that meets each kind of fault, `make test-full` all of them.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from rollouts.controller import gathering, warming, workloads
from rollouts.controller.caches import Caches
from rollouts.controller.performing import Performer
from rollouts.controller.scaling import WorkloadScaler
from rollouts.engine import (
    converging,
    drains,
    lending,
    losers,
    parts,
    planning,
    scaling,
    scaling_at_deletion,
    scaling_down,
    scaling_up,
    shortage,
    taking_back,
    wayback,
)
from rollouts.engine.rollout_status import ScaleDown
from rollouts.units import FULL, ZERO
from tests.kit.faults.capacity_plans import COMMON, capacity_plans, every_plan, late_plans
from tests.kit.faults.capacity_scenarios import CAPACITY_SCENARIOS
from tests.kit.faults.invariants import OF_CAPACITY, Invariant, check
from tests.kit.faults.plans import enumerate_plans
from tests.kit.faults.simulation import CLEAN, FaultPlan, Run, simulate

pytestmark = pytest.mark.timeout(280)
"""Seconds: some of these are a dozen runs of a whole rollout, on a machine that does other things as well."""

PROMOTED = "capacity: promoted, and the old pods drained"
ABORTED = "capacity: aborted, then retried"
THIRD = "capacity: third target waits for room"
AUTOSCALED = "capacity: an autoscaler appears in the middle"
DELETED = "capacity: rollout deleted in the middle"
WARMED = "capacity: warmed up: promoted"
COLD = "capacity: warmed up: promoted in full while pods are not warm"
SPARE = "capacity: one spare pod: promoted"
REVERTED = "capacity: one spare pod: reverted at half"
COMMANDED = "capacity: one spare pod: aborted by command at half"
PREFILL = "capacity: prefill: promoted, and what prefill works on for the old pods is over"
PREFILL_RETRIED = "capacity: prefill: aborted, then retried"
PREFILL_THIRD = "capacity: prefill: another target at half"
PREFILL_SPARE = "capacity: prefill: one spare pod of each kind: promoted"
PREFILL_REVERTED = "capacity: prefill: one spare pod of each kind: reverted at half"
PREFILL_SPARE_DELETED = "capacity: prefill: one spare pod of each kind: deleted at half"
PREFILL_SCALED = "capacity: prefill: one spare pod of each kind: an autoscaler of stable's is there, and goes"
PREFILL_DELETED = "capacity: prefill: deleted in the middle"

SAMPLE = 41
"""Every so many plans of a scenario are judged each time: about a dozen, of all kinds."""


@functools.cache
def clean_run(name: str) -> Run:
    return simulate(CAPACITY_SCENARIOS[name])


def judge(name: str, plan: FaultPlan) -> list[str]:
    clean = clean_run(name)
    return [
        f"{plan.name}: {violation}" for violation in check(simulate(CAPACITY_SCENARIOS[name], plan), clean)
    ]


@pytest.mark.parametrize("name", CAPACITY_SCENARIOS)
def test_the_clean_run_keeps_every_invariant(name: str) -> None:
    assert [str(violation) for violation in check(clean_run(name))] == []


@pytest.mark.parametrize(
    ("name", "every"),
    [
        (PROMOTED, SAMPLE),
        (ABORTED, SAMPLE),
        (THIRD, SAMPLE),
        (DELETED, SAMPLE),
        (WARMED, 97),
        (SPARE, 149),
        (REVERTED, 149),
        (PREFILL, 97),
        (PREFILL_RETRIED, 149),
        (PREFILL_THIRD, 97),
        (PREFILL_DELETED, SAMPLE),
        (PREFILL_SPARE, 149),
        (PREFILL_REVERTED, 149),
        (PREFILL_SPARE_DELETED, 149),
    ],
)
def test_a_sample_of_plans_breaks_nothing(name: str, every: int) -> None:
    plans = list(every_plan(clean_run(name)))

    assert [text for plan in plans[::every] for text in judge(name, plan)] == []


def test_more_than_fifteen_hundred_plans_are_enumerated() -> None:
    assert sum(len(list(every_plan(clean_run(name)))) for name in CAPACITY_SCENARIOS) >= 1500


def _parts(clean: Run) -> dict[str, Iterator[FaultPlan]]:
    common = {fault.name: enumerate_plans(fault, clean) for fault in COMMON}
    return {**common, "LATE": late_plans(clean), "CAPACITY": capacity_plans(clean)}


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.timeout(2400)  # the longest are 11 minutes of one quiet core
@pytest.mark.parametrize("part", [*(fault.name for fault in COMMON), "LATE", "CAPACITY"])
@pytest.mark.parametrize("name", CAPACITY_SCENARIOS)
def test_no_plan_breaks_an_invariant(name: str, part: str, record_property: Any) -> None:
    plans = list(_parts(clean_run(name))[part])
    broken = [text for plan in plans for text in judge(name, plan)]
    record_property("fault_plans", len(plans))

    assert plans
    assert broken == []


# --- planted bugs ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planted:
    """A planted bug, where it shows, and the invariant that must name it."""

    bug: str
    plant: Callable[[pytest.MonkeyPatch], None]
    caught_by: Invariant
    scenario: str = PROMOTED
    plans: Callable[[Run], Iterator[FaultPlan]] = lambda _: iter([CLEAN])
    containing: str = ""


async def _no_count(self: WorkloadScaler, namespace: str, action: Any, at_most: int) -> None:
    del self, namespace, action, at_most


def _budget_unseen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(scaling_up, "room", lambda *_: 100)
    patch.setattr(WorkloadScaler, "_count", _no_count)


def _ending_pods_unseen(patch: pytest.MonkeyPatch) -> None:
    real = Caches.holding_pods

    def alive(self: Caches, pool: Any) -> list[Any]:
        return [pod for pod in real(self, pool) if "deletionTimestamp" not in pod["metadata"]]

    patch.setattr(Caches, "holding_pods", alive)
    patch.setattr(WorkloadScaler, "_count", _no_count)


def _pods_unseen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(converging, "shortage", lambda *_: None)


def _autoscaler_unseen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Caches, "autoscaler_of", lambda *_: "")


def _stable_scaled(patch: pytest.MonkeyPatch) -> None:
    def all_lose(draft: Any) -> None:
        stable = draft.status.stable
        if stable is not None and draft.status.current is not None:
            draft.set(scale_downs=(ScaleDown(identity=stable.identity, decided=True),))

    patch.setattr(scaling, "note_losers", all_lose)
    patch.setattr(scaling_down, "has_weight", lambda *_: False)
    patch.setattr(scaling_down, "_waits", lambda *_: "")


def _scaled_first(patch: pytest.MonkeyPatch) -> None:
    """Else a number is stored in time, whatever the engine forgets."""
    perform, scale = Performer.perform, Performer.scale

    async def at_once(self: Performer, gathered: Any, plan: Any, *, tell: bool = True) -> None:
        await scale(self, gathered, plan, tell=tell)
        await perform(self, gathered, plan, tell=tell)

    async def no_more(self: Performer, *_: Any, **__: Any) -> None:
        del self

    patch.setattr(Performer, "perform", at_once)
    patch.setattr(Performer, "scale", no_more)


def _unstored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(scaling_up, "_stored", lambda draft: scaling_up._numbers(draft.current.capacity))
    _scaled_first(patch)


def _undecided(patch: pytest.MonkeyPatch) -> None:
    real = scaling_down._write_down

    def at_once(draft: Any, one: Any, view: Any, to: int) -> Any:
        told = replace(one, decided=True)
        draft.obs = replace(draft.obs, status=replace(draft.obs.status, scale_downs=(told,)))
        return real(draft, told, view, to)

    patch.setattr(scaling_down, "_write_down", at_once)
    _scaled_first(patch)


def _work_unseen(patch: pytest.MonkeyPatch) -> None:
    real = workloads.WorkloadViews.views

    def idle(self: Any, *asked: Any) -> Any:
        return {arm: replace(view, in_flight=0) for arm, view in real(self, *asked).items()}

    patch.setattr(workloads.WorkloadViews, "views", idle)


def _weight_unseen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(scaling_down, "has_weight", lambda *_: False)
    patch.setattr(scaling_down, "SETTLE", scaling_down._SOON)


def _losers_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(scaling, "note_losers", lambda draft: None)


def _gone_without_its_pods(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(planning, "keep_capacity", lambda draft: None)


def _share_unseen(patch: pytest.MonkeyPatch) -> None:
    """Stable gives all that minStable lets it, whatever it serves."""
    patch.setattr(lending, "stable_pods_for", lambda _, n, policy: policy.min_stable.of(n))


def _minimum_unseen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        lending, "stable_pods_for", lambda weight, n, _: max(0, n - n * weight // FULL - 1) if weight else n
    )


def _drain_unseen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(drains, "_may_have", lambda view, to, over: to)


def _undrained(patch: pytest.MonkeyPatch) -> None:
    """A drain takes effect before it is stored."""
    real = drains.drained_to

    def at_once(draft: Any, identity: Any, view: Any, to: int) -> int:
        real(draft, identity, view, to)
        return to

    patch.setattr(lending, "drained_to", at_once)
    _scaled_first(patch)


def _never_taken_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lending, "take_back", lambda draft: None)


def _lent_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lending, "take_back", lambda draft: draft.set(stable_scale=None))


def _all_at_once_and_some(patch: pytest.MonkeyPatch) -> None:
    """An aborted canary keeps what it has until stable is whole."""

    def all_of_it(draft: Any, _: Any) -> Any:
        lent = draft.status.stable_scale
        return FULL if lent is not None and lent.returning else ZERO

    patch.setattr(wayback, "way_limit", all_of_it)


def _cold_pods_count(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gathering, "_warm_only", lambda view, _: view)


def _marks_stay(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(warming, "stops", dict)


def _prefill_unseen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(parts, "known_pairs", lambda *_: ())


def _prefill_first(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(scaling_down, "_waits_for_others", lambda *_: "")


def _prefill_stays(patch: pytest.MonkeyPatch) -> None:
    real = losers.owe

    def alone(draft: Any, identity: Any, attempt: Any) -> None:
        capacity = replace(attempt.capacity, companions=())
        real(draft, identity, replace(attempt, capacity=capacity))

    patch.setattr(losers, "owe", alone)
    patch.setattr(scaling_at_deletion, "owe", alone)


def _prefill_of_stable_taken(patch: pytest.MonkeyPatch) -> None:
    """With the first canary that loses stable's prefill goes, too."""
    real = losers.companion_owed

    def wrong(*args: Any, is_canary: bool) -> ScaleDown:
        del is_canary
        return replace(real(*args, is_canary=False), of=None)

    patch.setattr(losers, "companion_owed", wrong)
    for module in (losers, scaling_down):
        patch.setattr(module, "companions_in_use", lambda _: {})


def _floor_of_prefill_unseen(patch: pytest.MonkeyPatch) -> None:
    """Of prefill stable gives all that minStable lets it."""
    real = lending._settle

    def settle(draft: Any, policy: Any, part: Any) -> Any:
        if part.role is None:
            return real(draft, policy, part)
        with pytest.MonkeyPatch.context() as within:
            within.setattr(lending, "stable_pods_for", lambda _, n, policy: 0)
            return real(draft, policy, replace(part, record=replace(part.record, wanted=9)))

    patch.setattr(lending, "_settle", settle)


def _autoscaler_of_prefill_unseen(patch: pytest.MonkeyPatch) -> None:
    """A rollout begins although nobody gives pods, and stalls."""
    patch.setattr(shortage, "_kept_whole", lambda *_: "")


def _prefill_never_taken_back(patch: pytest.MonkeyPatch) -> None:
    real = taking_back._take_back_part

    def back(draft: Any, part: Any, *, free: bool) -> Any:
        mine = part is draft.status.stable_scale
        return real(draft, part, free=free) if mine else (part, True)

    patch.setattr(taking_back, "_take_back_part", back)


PLANTED = [
    Planted(
        "prefill of stable goes before its share", _floor_of_prefill_unseen, Invariant.FLOOR, PREFILL_SPARE
    ),
    Planted("prefill goes with its requests", _drain_unseen, Invariant.DRAINED, PREFILL_SPARE),
    Planted(
        "stable gets its prefill not back", _prefill_never_taken_back, Invariant.CONVERGED, PREFILL_REVERTED
    ),
    Planted(
        "an autoscaler of prefill is not looked at",
        _autoscaler_of_prefill_unseen,
        Invariant.CONVERGED,
        PREFILL_SCALED,
    ),
    Planted("weight does not wait for prefill", _prefill_unseen, Invariant.PODS_FIRST, PREFILL),
    Planted("prefill goes before its decode", _prefill_first, Invariant.DRAINED, PREFILL),
    Planted("what prefill works on is not looked at", _work_unseen, Invariant.DRAINED, PREFILL),
    Planted("the budget of prefill is not looked at", _budget_unseen, Invariant.GPUS, PREFILL_THIRD),
    Planted("prefill of what lost is forgotten", _prefill_stays, Invariant.CONVERGED, PREFILL_DELETED),
    Planted("an abort takes stable's prefill", _prefill_of_stable_taken, Invariant.OURS, PREFILL_RETRIED),
    Planted("pods that are not warm count as Ready", _cold_pods_count, Invariant.PODS_FIRST, WARMED),
    Planted("pods stay marked when nobody warms them up any more", _marks_stay, Invariant.ENDED, COLD),
    Planted("what stable's share needs is not looked at", _share_unseen, Invariant.FLOOR, SPARE),
    Planted("minStable is not kept", _minimum_unseen, Invariant.FLOOR, SPARE),
    Planted("pods of stable go with their requests", _drain_unseen, Invariant.DRAINED, SPARE),
    Planted("pods of stable go before that is stored", _undrained, Invariant.STORED, SPARE),
    Planted("stable does not get back what it gave", _never_taken_back, Invariant.CONVERGED, REVERTED),
    Planted("what stable gave is forgotten", _lent_forgotten, Invariant.CONVERGED, COMMANDED),
    Planted("an aborted canary keeps its weight", _all_at_once_and_some, Invariant.RESTORED, COMMANDED),
    Planted("the budget is not looked at", _budget_unseen, Invariant.GPUS, THIRD),
    Planted("pods that are ending are not counted", _ending_pods_unseen, Invariant.GPUS, THIRD),
    Planted("weight does not wait for pods", _pods_unseen, Invariant.PODS_FIRST),
    Planted("an autoscaler is not seen", _autoscaler_unseen, Invariant.OURS, AUTOSCALED),
    Planted("stable is scaled down under an attempt", _stable_scaled, Invariant.OURS),
    Planted("a workload is scaled up before that is stored", _unstored, Invariant.STORED),
    Planted("a workload is scaled down before that is stored", _undecided, Invariant.STORED, ABORTED),
    Planted("requests in flight are not looked at", _work_unseen, Invariant.DRAINED),
    Planted("what lost is forgotten", _losers_forgotten, Invariant.CONVERGED),
    Planted("nobody is scaled", _gone_without_its_pods, Invariant.CONVERGED),
]


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.bug)
def test_a_planted_bug_is_named(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = clean_run(planted.scenario)
    plans = [plan for plan in planted.plans(clean) if planted.containing in plan.name]
    planted.plant(monkeypatch)
    runs = (simulate(CAPACITY_SCENARIOS[planted.scenario], plan) for plan in itertools.islice(plans, 8))

    assert plans
    assert any(planted.caught_by in {one.invariant for one in check(run)} for run in runs)


def test_every_invariant_of_capacity_has_a_planted_bug() -> None:
    caught = {planted.caught_by for planted in PLANTED}

    assert caught - {Invariant.CONVERGED, Invariant.RESTORED} == OF_CAPACITY
