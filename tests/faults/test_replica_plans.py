"""A replica of the picker that stops obeying in mid-rollout, between adapters and between variants.

`make test` judges every such fault once, in an attempt that a gate aborts, `make test-full` at all moments of many.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from rollouts.controller import gathering
from rollouts.controller.loaded_weights import TrustedWeights
from rollouts.engine import commanding, conditions, ending, watching
from tests.kit.faults.clients import Clients
from tests.kit.faults.invariants import OF_REPLICAS, Invariant, check
from tests.kit.faults.replica_plans import replica_plans
from tests.kit.faults.scenarios import SCENARIOS
from tests.kit.faults.simulation import FaultPlan, Run, simulate
from tests.kit.faults.variant_scenarios import VARIANT_SCENARIOS

pytestmark = pytest.mark.timeout(280)
"""Seconds: some of these are a dozen runs of a whole rollout, on a machine that does other things as well."""

PICKED = VARIANT_SCENARIOS | {
    name: one for name, one in SCENARIOS.items() if one.adapters and one.core | one.measured
}
ABORTED = {"variants": "variant: gate failure aborts", "adapters": "adapter: gate failure aborts"}
MIDDLE = 9
"""The write after which CI's sample goes wrong: the canary has its first weight, and the gate measures."""


@functools.cache
def clean_run(name: str) -> Run:
    return simulate(PICKED[name])


def plans_of(name: str, after_write: int | None = None) -> list[FaultPlan]:
    found = replica_plans(clean_run(name))
    return [plan for plan in found if after_write in (None, plan.disturbances[0].after_write)]


def judge(name: str, plan: FaultPlan) -> list[str]:
    return [f"{plan.name}: {one}" for one in check(simulate(PICKED[name], plan), clean_run(name))]


@pytest.mark.parametrize(("kind", "start"), [("variants", 0), ("adapters", 1)])
def test_no_fault_of_a_replica_breaks_an_invariant_in_the_middle(kind: str, start: int) -> None:
    """Each of the faults meets one of the kinds."""
    plans = plans_of(ABORTED[kind], MIDDLE)[start::2]

    assert len(plans) == len({plan.name for plan in plans}) > 4
    assert [text for plan in plans for text in judge(ABORTED[kind], plan)] == []


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", PICKED)
def test_no_fault_of_a_replica_breaks_an_invariant(name: str, record_property: Any) -> None:
    plans = plans_of(name)
    record_property("fault_plans", len(plans))

    assert [text for plan in plans for text in judge(name, plan)] == []


# --- planted bugs ----------------------------------------------------------------------------------


def _nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights rise as if every replica obeyed."""
    trusted = TrustedWeights()
    monkeypatch.setattr(gathering.Gatherer, "_pickers", lambda *_: trusted.view(None, None, (), {}))  # type: ignore[arg-type]
    monkeypatch.setattr(watching, "share_problem", lambda _: None)
    monkeypatch.setattr(Clients, "share", lambda *_: None)


def _conditions_keep_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "goes_by_other", lambda _: None)
    monkeypatch.setattr(watching, "goes_by_other", lambda _: None)
    monkeypatch.setattr(ending, "serving", lambda _, who: f"{who} is to serve")


def _stable_is_said_to_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "serving", lambda _, who: f"{who} serves")


def _an_abort_is_done_when_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commanding, "has_told", lambda _: True)


PLANTED: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str, Invariant]] = {
    "nobody asks": (
        _nobody_asks,
        "a replica's watch breaks as a person aborts, who then retries",
        Invariant.OBEYED,
    ),
    "conditions keep silent": (_conditions_keep_silent, "one of two watches breaks", Invariant.HEARD),
    "stable is said to serve": (_stable_is_said_to_serve, "a replica's watch breaks", Invariant.HEARD),
    "an abort is done when it is written": (
        _an_abort_is_done_when_it_is_written,
        "a replica's watch breaks as a person aborts",
        Invariant.HEARD,
    ),
}


@pytest.mark.parametrize(
    ("bug", "kind"),
    [
        ("nobody asks", "variants"),
        ("nobody asks", "adapters"),
        ("conditions keep silent", "adapters"),
        ("stable is said to serve", "variants"),
        ("an abort is done when it is written", "adapters"),
    ],
)
def test_a_planted_bug_is_named(bug: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, fault, invariant = PLANTED[bug]
    name = ABORTED[kind]
    plan = next(plan for plan in plans_of(name, MIDDLE) if plan.name.startswith(f"{fault}, from"))
    plant(monkeypatch)

    assert invariant in {one.invariant for one in check(simulate(PICKED[name], plan))}


def test_every_invariant_of_replicas_has_a_planted_bug() -> None:
    assert {invariant for _, _, invariant in PLANTED.values()} == OF_REPLICAS
