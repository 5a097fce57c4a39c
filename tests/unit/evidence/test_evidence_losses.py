"""What users lost: refused, given up, never answered; and clients that cancel by design, which is no harm."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.statistics.losses import GATES, SCENARIOS, Losses, recording_of
from rollouts.analysis.backtest import backtest
from rollouts.analysis.evidence import ledger
from rollouts.analysis.evidence.checkpoint import restore, save
from rollouts.analysis.evidence.model import Arm, EvidenceSpec, HistogramSample, PodSample, Scrape
from rollouts.analysis.evidence.process import EvidenceProcess
from rollouts.analysis.recording import Recording, read_recording
from rollouts.api.gates_file import parse_gates

RECORDINGS = Path(__file__).resolve().parents[2] / "recordings"
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
SPEC = parse_gates({"preset": "default"}).spec


def verdicts(recording: Recording, gates: object = None) -> dict[str, str]:
    result = backtest(recording, parse_gates(gates or [*GATES]))
    return {gate.report.name: gate.gate.verdict.value for gate in result.gates}


def recorded(name: str) -> Recording:
    return read_recording((RECORDINGS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize(
    ("name", "minutes"), [("hang-given-up", 2), ("hang-patient", 10), ("refused-streams", 3)]
)
def test_a_canary_that_loses_requests_fails_by_what_it_lost(name, minutes):
    result = backtest(recorded(name), parse_gates({"preset": "default"}))

    failed = {g.report.name: g.decided_at for g in result.gates if g.gate.verdict.value == "Fail"}

    assert list(failed) == ["lost-rate"]
    assert failed["lost-rate"] is not None
    assert failed["lost-rate"] <= minutes * 60


def test_clients_that_cancel_three_in_ten_by_design_abort_nobody():
    result = backtest(recorded("cancelled-by-design"), parse_gates([*GATES]))
    lost = next(gate for gate in result.gates if gate.report.name == "lost-rate")

    assert lost.gate.verdict.value == "Pass"
    assert lost.report.effect is not None
    assert lost.report.effect.low < 0 < lost.report.effect.high


def test_where_nothing_was_lost_the_figures_are_those_without_what_was_lost():
    scenario = Losses(name="slower", minutes=20, errors=0.01)
    found = recording_of(scenario, 5)
    # Whatever was given up is out: both counters grow alike.
    scrapes = tuple(
        Scrape(
            at=scrape.at,
            pods=tuple(
                PodSample(
                    arm=pod.arm,
                    pod=pod.pod,
                    counters={**pod.counters, "finished": pod.counters["answered"]},
                    gauges=pod.gauges,
                    histograms=pod.histograms,
                )
                for pod in scrape.pods
            ),
        )
        for scrape in found.scrapes
    )
    found = Recording(interval=30.0, scrapes=scrapes, marks=found.marks)
    without = [gate for gate in GATES if gate["name"] != "lost-rate"]

    def figures(gates: list) -> list:
        shown = backtest(found, parse_gates(gates)).to_json()["gates"]
        assert isinstance(shown, list)
        return [gate for gate in shown if gate["name"] != "lost-rate"]

    assert json.dumps(figures([*GATES])) == json.dumps(figures(without))


@pytest.mark.parametrize("arm", [Arm.STABLE, Arm.CANARY])
def test_an_arm_that_finishes_more_than_it_answers_is_not_judged_and_says_so(arm):
    found = recording_of(BY_NAME["20% of streams refused under 200"], 3)
    lists = tuple(
        Scrape(
            at=scrape.at,
            pods=tuple(
                PodSample(
                    arm=pod.arm,
                    pod=pod.pod,
                    counters={
                        **pod.counters,
                        "finished": pod.counters["finished"] * (4 if pod.arm is arm else 1),
                    },
                    gauges=pod.gauges,
                    histograms=pod.histograms,
                )
                for pod in scrape.pods
            ),
        )
        for scrape in found.scrapes
    )
    result = backtest(Recording(interval=30.0, scrapes=lists, marks=found.marks), parse_gates([*GATES]))
    lost = next(gate for gate in result.gates if gate.report.name == "lost-rate")

    assert lost.gate.verdict.value != "Fail"
    assert any(f"{arm.value} finished" in caution for caution in lost.report.cautions)
    assert "cannot be told there" in lost.words


def test_a_restored_process_goes_on_bit_by_bit():
    found = recording_of(BY_NAME["30% cancelled by design, both arms"], 2)
    whole, parts = EvidenceProcess(SPEC), EvidenceProcess(SPEC)
    for process in (whole, parts):
        process.schedule(found.marks, ())
    for scrape in found.scrapes:
        whole.observe(scrape)
        parts = restore(SPEC, save(parts))
        parts.schedule(found.marks, ())
        parts.observe(scrape)
    assert save(parts) == save(whole)


def test_what_was_lost_has_no_share_before_something_was():
    found = recording_of(
        BY_NAME["refused"] if "refused" in BY_NAME else BY_NAME["20% of streams refused under 200"], 1
    )
    process = EvidenceProcess(SPEC)
    process.schedule(found.marks, ())
    index = [metric.name for metric in SPEC.metrics].index("lost-rate")
    seen = []
    for scrape in found.scrapes:
        process.observe(scrape)
        seen.append((process.contribution(index), sum(process.tests[index].requests) > 0))
    assert seen[0] == (0.0, False)
    assert any(share == 0.0 and judged for share, judged in seen) or process.evidence > 20
    assert process.contribution(index) > 10


def test_the_stakes_of_a_woken_process_add_up_to_one():
    """At no data every test's evidence is 1: then the whole is 1, whatever woke."""
    process = EvidenceProcess(SPEC)
    for awake in (False, True):
        process._awake = awake
        process._cache = None
        assert process.evidence == pytest.approx(1.0)


def pod_day(seed: int, *, cancels: float, slow: float) -> list[tuple[float, list[float], int, float]]:
    """(time, reading, truly lost so far, longest wait so far) of one pod with perfect bookkeeping beside it."""
    rng = random.Random(seed)
    ends: list[tuple[float, str]] = []
    for _ in range(400):
        came = rng.random() * 3600
        if rng.random() < cancels:
            ends.append((came, came + rng.random() * 5, "left"))  # type: ignore[arg-type]
        else:
            ends.append((came, came + rng.expovariate(1 / 4) * (slow if rng.random() < 0.1 else 1), "done"))  # type: ignore[arg-type]
    rows = []
    for number in range(1, 130):
        at = number * 30.0
        done = sum(1 for _, end, what in ends if what == "done" and end <= at)
        counted = sum(1 for _, end, what in ends if what == "done" and end + 0.02 <= at)
        left = sum(1 for _, end, what in ends if what == "left" and end <= at)
        flying = sum(1 for came, end, _ in ends if came <= at < end)
        rows.append((at, [float(counted + left), float(done), float(flying)], left, 0.0))
    return rows


@settings(deadline=None)  # a simulated hour, beside whatever else the machine does
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3]), st.sampled_from([1.0, 30.0]))
def test_the_ledger_never_says_more_than_was_lost_or_late(seed, cancels, slow):
    patience = 600.0  # nothing takes longer here
    state: list[float] | None = None
    told = 0.0
    for at, reading, left, _ in pod_day(seed, cancels=cancels, slow=slow):
        if state is None:
            state, first = ledger.begin(reading, at), left
            between = reading[1] + left - reading[0]
            continue
        state, rise, fell = ledger.advance(state, reading, at, patience)
        told += rise[0]
        assert not fell
        assert 0.0 <= rise[0] <= rise[1]
        assert told <= left - first + between


def test_what_is_in_flight_for_longer_than_the_longest_answer_is_lost_once():
    state = ledger.begin([100.0, 100.0, 0.0], 0.0)
    told = []
    for number in range(1, 12):  # two requests come in each half minute, and nothing ends
        state, rise, _ = ledger.advance(state, [100.0, 100.0, 2.0 * number], 30.0 * number, 60.0)
        told.append(rise[0])
    assert sum(told) >= 2 * 8
    lost = sum(told)
    state, rise, _ = ledger.advance(
        state, [122.0, 100.0, 0.0], 360.0, 60.0
    )  # all clients leave: no second time
    assert lost + rise[0] == 22


def test_without_a_longest_answer_nobody_waits_too_long():
    def stable(counts: tuple[float, ...]) -> Scrape:
        e2e = HistogramSample(bounds=(1.0, 5.0, math.inf), cumulative=counts, sum=1.0)
        return Scrape(at=0.0, pods=(PodSample(arm=Arm.STABLE, pod="s", histograms={"e2e": e2e}),))

    assert math.isnan(ledger.longest_answer(Scrape(at=0.0, pods=()), "e2e"))
    assert math.isnan(ledger.longest_answer(stable((10.0, 20.0, 20.0)), "e2e"))
    assert ledger.longest_answer(stable((900.0, 1000.0, 1000.0)), "e2e") == 5.0
    assert ledger.longest_answer(stable((900.0, 999.0, 1000.0)), "e2e") == math.inf


def test_a_spec_without_what_was_lost_reads_as_before():
    assert "LostSeries" not in repr(EvidenceSpec(metrics=SPEC.metrics[:1]))
