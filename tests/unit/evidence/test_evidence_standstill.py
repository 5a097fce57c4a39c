"""An engine that stands still behind a page that goes on answering: found, or at least never passed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.statistics.losses import GATES, SCENARIOS, Losses, recording_of
from rollouts.analysis.backtest import backtest
from rollouts.analysis.comparing import judge_all
from rollouts.analysis.comparisons import evidence_spec
from rollouts.analysis.evidence.checkpoint import restore, save
from rollouts.analysis.evidence.gates import GateReason, Verdict, judge
from rollouts.analysis.evidence.model import Arm
from rollouts.analysis.evidence.process import EvidenceProcess
from rollouts.analysis.evidence.standstill import PATIENCE, Standstill
from rollouts.analysis.evidence.words import SILENT_CANARY
from rollouts.analysis.forms import CompareForm
from rollouts.analysis.recording import Recording
from rollouts.analysis.types import Comparison
from rollouts.api.gates_file import parse_gates

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
FROZEN = BY_NAME["hang with frozen gauges, from minute 10"]
NO_HARM = parse_gates([{"name": "lost-rate", "compare": {"preset": "lost-rate", "require": "NoHarm"}}]).spec


def verdicts(recording: Recording) -> dict[str, tuple[str, float | None]]:
    result = backtest(recording, parse_gates([*GATES]))
    return {gate.report.name: (gate.gate.verdict.value, gate.decided_at) for gate in result.gates}


@pytest.mark.parametrize("seed", [2, 5])
@pytest.mark.parametrize(
    "name", ["hang with frozen gauges, from minute 10", "one of two pods hangs with frozen gauges"]
)
def test_a_page_that_stands_still_with_requests_in_flight_aborts(name, seed):
    said, at = verdicts(recording_of(replace(BY_NAME[name], minutes=16), seed))["lost-rate"]

    assert said == "Fail"
    assert at is not None
    assert 0.0 < at - 600.0 <= 300.0


@pytest.mark.parametrize(
    "name", ["hang with frozen gauges, before the first request", "the gateway sends nothing from minute 10"]
)
def test_what_cannot_be_told_from_a_gateway_that_sends_nothing_neither_aborts_nor_passes(name):
    found = recording_of(BY_NAME[name], 3)
    assert not any(said == "Fail" for said, _ in verdicts(found).values())
    process = EvidenceProcess(NO_HARM)
    process.schedule(found.marks, ())
    for scrape in found.scrapes:
        process.observe(scrape)
        if scrape.at >= 600.0 + 120.0:  # twenty expected after 20 s, one interval late
            verdict = judge(process, 0, 0.0, scrape.at)
            assert (verdict.verdict, verdict.reason) == (Verdict.UNDECIDED, GateReason.SILENT)


def test_a_gate_of_the_preset_says_that_requests_were_due_where_none_was_ever_counted():
    """What `preset: default` brings counts once it is exposed: it is exposed, and every interval was left out."""
    found = recording_of(
        replace(BY_NAME["hang with frozen gauges, before the first request"], minutes=5, rate=20.0), 3
    )
    item = Comparison(name="lost-rate", form=CompareForm(preset="lost-rate"), steps=(0,), optional=True)
    spec = evidence_spec((item,), 0.05)
    process = EvidenceProcess(spec)
    process.schedule(found.marks, ())
    for scrape in found.scrapes:
        process.observe(scrape)
    compared = judge_all(process, (item,), found.marks, (), found.scrapes[-1].at)

    assert process.guards.misrouted > 0
    assert [(gate.verdict, gate.message) for gate in compared.gates] == [("Undecided", SILENT_CANARY)]


def test_no_gate_passes_while_the_canary_stands_still():
    found = recording_of(FROZEN, 5)
    process, seen = EvidenceProcess(NO_HARM), []
    process.schedule(found.marks, ())
    for scrape in found.scrapes:
        process.observe(scrape)
        seen.append((scrape.at, judge(process, 0, 0.0, scrape.at)))

    assert any(verdict.verdict is Verdict.PASS for at, verdict in seen if at <= 600.0)
    # A page is known to stand after two of them, and stands from the first on.
    after = [verdict for at, verdict in seen if at >= 660.0]
    assert after
    assert not any(verdict.verdict is Verdict.PASS for verdict in after)
    assert after[0].reason is GateReason.STANDS_STILL


def test_a_restored_process_goes_on_bit_by_bit_while_pods_stand_still():
    found = recording_of(replace(FROZEN, minutes=14), 5)
    whole, parts = EvidenceProcess(NO_HARM), EvidenceProcess(NO_HARM)
    for process in (whole, parts):
        process.schedule(found.marks, ())
    for scrape in found.scrapes:
        whole.observe(scrape)
        parts = restore(NO_HARM, save(parts))
        parts.schedule(found.marks, ())
        parts.observe(scrape)
    assert whole.guards.canary_stands
    assert whole.tests[0].requests[0] > 400
    assert save(parts) == save(whole)


def page(answered: float, in_flight: float, tokens: float) -> list[float]:
    return [answered, answered, in_flight, tokens]


def reckoned(canary: list[list[list[float]]], *, odds: float = 0.1, stable: float = 300.0) -> list[float]:
    """What is reckoned for the first canary pod, scrape by scrape; stable answers ``stable`` between two of them."""
    standstill, found = Standstill(), []
    for number, pages in enumerate(canary):
        held = standstill.reckon(
            {
                Arm.STABLE: {"s": page(stable * number, 4.0, stable * number)},
                Arm.CANARY: {f"c{index}": one for index, one in enumerate(pages)},
            },
            odds,
        )
        found.append(held.get((Arm.CANARY, "c0"), 0.0))
    return found


def test_what_came_since_is_what_the_weight_lets_expect_less_three_standard_errors():
    still = [[page(50, 2, 900)] for _ in range(4)]
    expected = [0.0, *(e - 3 * math.sqrt(e) for e in (30.0, 60.0, 90.0))]
    assert reckoned(still) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("moving", "why"),
    [
        ([page(50, 2, 900), page(50, 2, 901), page(50, 2, 902)], "a long answer generates"),
        ([page(50, 0, 900)] * 3, "nothing is in flight"),
        ([page(50, 2, 900), page(51, 2, 900), page(52, 2, 900)], "answers end"),
        ([page(50, 2, math.nan)] * 3, "nobody says whether it generates"),
        ([page(50, math.nan, 900)] * 3, "nobody says what is in flight"),
    ],
)
def test_an_engine_that_may_work_is_not_reckoned(moving, why):
    assert reckoned([[one] for one in moving]) == [0.0] * 3, why


def test_what_other_pods_had_is_not_missing():
    beside = [[page(50, 2, 900), page(30.0 * number, 2, 30.0 * number)] for number in range(5)]
    assert reckoned(beside) == [0.0] * 5
    half = [[page(50, 2, 900), page(15.0 * number, 2, 15.0 * number)] for number in range(5)]
    assert reckoned(half)[-1] == pytest.approx(120 - 60 - 3 * math.sqrt(120))


def test_a_pod_that_moves_again_is_read_by_its_gauge_again():
    pages = [*([[page(50, 2, 900)]] * 4), [page(50, 90, 950)], [page(140, 0, 1900)]]
    assert reckoned(pages)[-3:] == pytest.approx([90 - 3 * math.sqrt(90), 0.0, 0.0])


def test_patience_with_an_engine_that_stands_still_is_bounded():
    standstill = Standstill()
    for _ in range(2):
        standstill.reckon({Arm.STABLE: {}, Arm.CANARY: {"c": page(1, 2, 3)}}, 0.1)
    assert standstill.canary_stands
    assert standstill.patience(Arm.CANARY, "c", 480.0) == PATIENCE
    assert standstill.patience(Arm.CANARY, "c", 30.0) == 30.0
    assert standstill.patience(Arm.CANARY, "c", math.nan) == PATIENCE
    assert standstill.patience(Arm.CANARY, "other", 480.0) == 480.0


@settings(deadline=None, max_examples=25)  # six simulated minutes, beside whatever else the machine does
@given(st.integers(0, 10_000), st.floats(0.1, 5.0), st.sampled_from([0.0, 0.3]))
def test_nothing_is_reckoned_of_a_healthy_canary(seed, rate, cancel):
    scenario = Losses(name="healthy", rate=rate, minutes=6, cancel=cancel, canary=1, stable=2)
    found = recording_of(scenario, seed)
    process = EvidenceProcess(NO_HARM)
    process.schedule(found.marks, ())
    for scrape in found.scrapes:
        process.observe(scrape)
        assert not process.guards.canary_stands
