"""Properties of the evidence that must hold for any traffic."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.statistics.generate import Noise, Scenario
from benchmarks.statistics.study import exact_bounds, run_one
from rollouts.analysis.evidence import checkpoint
from rollouts.analysis.evidence.collect import PodIncrement, SeriesInterval
from rollouts.analysis.evidence.counts import CountTest
from rollouts.analysis.evidence.histogram import HistogramTest
from rollouts.analysis.evidence.model import (
    Arm,
    CompareMetric,
    CountSeries,
    EvidenceSpec,
    HistogramSample,
    HistogramSeries,
    PodSample,
    Scrape,
)
from rollouts.analysis.evidence.noise import Context
from rollouts.analysis.evidence.process import EvidenceProcess
from rollouts.analysis.evidence.scores import body_growth, count_growth, ridits

COUNTS = st.integers(min_value=0, max_value=60)
ROWS = st.lists(st.lists(COUNTS, min_size=5, max_size=5), min_size=3, max_size=6)
BOUNDS = (0.1, 0.5, 1.0, 5.0, math.inf)
TTFT = CompareMetric(name="ttft", series=HistogramSeries(name="ttft"), margin=0.0, tolerance=0.2)
ERRORS = CompareMetric(
    name="errors", series=CountSeries(errors="errors", of="requests"), margin=0.0, tolerance=2.0
)


def rows(table, prefix):
    return [
        PodIncrement(f"{prefix}{i}", 1, [*map(float, counts), math.nan]) for i, counts in enumerate(table)
    ]


def judged(intervals, bounds=BOUNDS, widen=lambda counts: counts):
    test = HistogramTest(TTFT)
    for canary, stable in intervals:
        data = SeriesInterval(rows(map(widen, stable), "s"), rows(map(widen, canary), "c"))
        test.absorb(data, bounds, Context(seconds=30.0))
    return test


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(ROWS, ROWS), min_size=1, max_size=6))
def test_empty_buckets_and_the_unit_of_latency_change_nothing(intervals):
    plain = judged(intervals)
    split = judged(
        intervals,
        (0.1, 0.5, 1.0, 5.0, 50.0, math.inf),
        lambda counts: [*counts[:4], counts[4], 0],
    )
    in_milliseconds = judged(intervals, tuple(bound * 1000 for bound in BOUNDS))
    for other in (split, in_milliseconds):
        assert other.requests == plain.requests
    assert in_milliseconds.evidence(-1) == pytest.approx(plain.evidence(-1), rel=1e-6)
    assert in_milliseconds.proof() == pytest.approx(plain.proof(), rel=1e-6)


@settings(max_examples=100, deadline=None)
@given(ROWS, st.integers(0, 4), st.floats(0.01, 0.3))
def test_splitting_a_bucket_where_nothing_lies_changes_no_growth(table, place, slope):
    pooled = [float(sum(column)) for column in zip(*table, strict=True)]
    canary = [float(value) for value in table[0]]
    if sum(canary) == 0 or not ridits(pooled).usable:
        return
    wider = [*pooled[:place], 0.0, *pooled[place:]]
    canary_wider = [*canary[:place], 0.0, *canary[place:]]
    growths = []
    for all_counts, own in ((pooled, canary), (wider, canary_wider)):
        scores = ridits(all_counts)
        observed = math.fsum(c * a for c, a in zip(own, scores.scores, strict=True))
        growths.append(body_growth([slope], observed, sum(own), all_counts, scores)[0])
    assert growths[0] == pytest.approx(growths[1])


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 20), st.integers(0, 20), st.integers(21, 500), st.integers(21, 500), st.floats(0.1, 3.0)
)
def test_swapping_the_arms_mirrors_the_count_evidence(e_c, e_s, n_c, n_s, log_ratio):
    """Evidence for rho in one labelling is evidence for 1/rho in the other."""
    one = count_growth(e_c, e_s, n_c, n_s, [log_ratio], 0.0)[0]
    other = count_growth(e_s, e_c, n_s, n_c, [-log_ratio], 0.0)[0]
    assert one == pytest.approx(other, abs=1e-8)


@settings(max_examples=100, deadline=None)
@given(ROWS)
def test_swapping_the_arms_mirrors_the_scores(table):
    pooled = [float(sum(column)) for column in zip(*table, strict=True)]
    scores = ridits(pooled).scores
    canary = table[0]
    rest = [p - c for p, c in zip(pooled, canary, strict=True)]
    one = math.fsum(c * a for c, a in zip(canary, scores, strict=True))
    other = math.fsum(c * a for c, a in zip(rest, scores, strict=True))
    assert one == pytest.approx(-other, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 30), st.integers(0, 300), st.integers(30, 500), st.integers(300, 5000))
def test_more_canary_errors_never_mean_less_evidence(e_c, e_s, n_c, n_s):
    def evidence(errors):
        test = CountTest(ERRORS)
        data = SeriesInterval(
            [PodIncrement("s", 1, [float(e_s), float(n_s)])],
            [PodIncrement("c", 1, [float(errors), float(n_c)])],
        )
        test.absorb(data, (), Context(seconds=30.0))
        return test.evidence(-1)

    assert evidence(min(e_c + 1, n_c)) >= evidence(e_c) - 1e-12


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(0, 3))
def test_a_slower_canary_request_never_means_less_evidence(table, place):
    """Move one canary request one bucket up."""
    stable = [[20, 60, 60, 20, 3]] * 4
    canary = [counts[:] for counts in table]
    if canary[0][place] == 0:
        return
    slower = [counts[:] for counts in canary]
    slower[0][place] -= 1
    slower[0][place + 1] += 1
    before = judged([(canary, stable)])
    after = judged([(slower, stable)])
    assert after._body.x >= before._body.x - 1e-9


def test_a_pass_needs_the_slowest_tenth_too():
    """The body is within 20 %, the share of slow requests grows from 10 to 16 %."""
    stable = [[100, 200, 150, 40, 10]] * 6
    for canary, passes in (([100, 200, 150, 40, 10], True), ([105, 205, 110, 70, 10], False)):
        test = judged([([canary] * 3, stable)] * 80)
        body = test._body.proof_evidence(*test._noise[0])
        assert body >= 20.0
        assert (test.proof() >= 20.0) is passes


STEP = st.tuples(
    st.sampled_from(["serve", "serve", "serve", "reset", "skip", "vanish"]),
    st.integers(0, 4),
    st.lists(st.integers(0, 30), min_size=5, max_size=5),
    st.integers(0, 3),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(STEP, min_size=6, max_size=30), st.integers(1, 25))
def test_any_history_stays_finite_and_survives_a_restart_bit_for_bit(steps, cut):
    spec = EvidenceSpec(metrics=(TTFT, ERRORS))
    whole = EvidenceProcess(spec)
    part = EvidenceProcess(spec)
    state = {f"p{i}": [0] * 7 for i in range(5)}
    for number, (what, which, counts, errors) in enumerate(steps):
        name = f"p{which}"
        if what == "reset":
            state[name] = [0] * 7
        for pod, values in state.items():
            grown = counts if pod == name else [3, 5, 4, 1, 1]
            state[pod] = [
                v + g for v, g in zip(values, [*grown, sum(grown), min(errors, sum(grown))], strict=True)
            ]
        scrape = Scrape(
            at=30.0 * number,
            pods=tuple(
                PodSample(
                    arm=Arm.CANARY if pod == "p0" else Arm.STABLE,
                    pod=pod,
                    counters={"requests": float(v[5]), "errors": float(v[6])},
                    histograms={
                        "ttft": HistogramSample(
                            bounds=BOUNDS, cumulative=tuple(float(sum(v[: k + 1])) for k in range(5)), sum=1.0
                        )
                    },
                )
                for pod, v in state.items()
                if not (what == "skip" and pod == name)
            ),
        )
        if number == cut:
            part = checkpoint.restore(spec, checkpoint.save(part))
        whole.observe(scrape)
        part.observe(scrape)
        assert 0.0 <= whole.evidence < math.inf
        assert part.evidence == whole.evidence
    assert json.dumps(part.dump()) == json.dumps(whole.dump())


@pytest.mark.slow
def test_healthy_rollouts_are_not_aborted_in_a_small_study():
    """The tiny part of benchmarks/statistics that runs in every test: 24 healthy rollouts with pod effects."""
    noise = Noise(pod=0.05, shock=0.10, burst=2.0, pod_errors=0.2)
    scenario = Scenario(name="tiny", noise=noise, canary=2, stable=8, minutes=20, history_minutes=15)
    aborted = sum(run_one(scenario, seed, 0.0, False).aborted is not None for seed in range(24))
    assert exact_bounds(aborted, 24)[0] <= 0.05


def test_slow_canaries_are_found_in_a_small_study():
    from benchmarks.statistics.generate import Harm

    noise = Noise(pod=0.04, shock=0.08, burst=2.0, pod_errors=0.2)
    scenario = Scenario(name="tiny", noise=noise, harm=Harm(slower=0.5), minutes=10, history_minutes=15)
    times = [run_one(scenario, seed, 0.0, False).aborted for seed in range(12)]
    assert sum(time is not None and time <= 5.0 for time in times) >= 11
