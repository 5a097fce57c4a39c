"""The whole engine: what it must never do, what it remembers, what it says."""

import base64
import hashlib
import json
import math
import zlib
from dataclasses import replace

import pytest

from rollouts.analysis.evidence import checkpoint
from rollouts.analysis.evidence.gates import GateReason, GateVerdict, Verdict, harm, judge, report
from rollouts.analysis.evidence.metric_tests import metric_weights
from rollouts.analysis.evidence.model import (
    Arm,
    CompareMetric,
    CountSeries,
    EvidenceSpec,
    Exclusion,
    GaugeSeries,
    HistogramSample,
    HistogramSeries,
    Mark,
    OnUndecided,
    PodSample,
    Require,
    Scrape,
)
from rollouts.analysis.evidence.process import EvidenceProcess
from rollouts.analysis.evidence.words import describe
from rollouts.engine.stamps import stamp

TTFT = CompareMetric(name="ttft", series=HistogramSeries(name="ttft"), margin=0.02, tolerance=0.3)
ERRORS = CompareMetric(
    name="errors", series=CountSeries(errors="errors", of="requests"), margin=0.1, tolerance=2.0
)
KV = CompareMetric(name="kv", series=GaugeSeries(name="kv_cache"), margin=0.1, tolerance=0.25)
SPEC = EvidenceSpec(metrics=(TTFT, ERRORS))


def play(process, fleet, steps, **traffic):
    for _ in range(steps):
        process.observe(fleet.step(**traffic))
    return process


def started(fleet_of, spec=SPEC, **shape):
    process, fleet = EvidenceProcess(spec), fleet_of(**shape)
    process.observe(fleet.scrape())
    return process, fleet


def test_a_slow_canary_is_found_and_blamed(fleet):
    process, pods = started(fleet)
    play(process, pods, 10, slower=0.6)
    found = harm(process)
    assert found is not None
    assert found.blame == (0,)
    assert found.held is None


def test_a_failing_canary_is_found_and_blamed(fleet):
    process, pods = started(fleet)
    play(process, pods, 10, canary_errors=0.1)
    found = harm(process)
    assert found is not None
    assert found.blame == (1,)


@pytest.mark.parametrize(
    "better", [{"slower": -0.4}, {"stable_errors": 0.2, "canary_errors": 0.0}, {"slower": -0.9}]
)
def test_an_improvement_never_looks_like_harm(fleet, better):
    process, pods = started(fleet)
    for _ in range(20):
        process.observe(pods.step(**better))
        assert process.evidence < 5.0


def test_an_interval_is_judged_one_interval_late(fleet):
    process, pods = started(fleet)
    assert process.observe(pods.step()) is False
    assert process.observe(pods.step()) is True
    assert (process.judged_until, pods.at) == (30.0, 60.0)
    assert process.finish() is True
    assert process.judged_until == 60.0
    assert process.finish() is False


def test_an_excluded_interval_teaches_nothing(fleet):
    process, pods = started(fleet)
    process.schedule((), (Exclusion(start=0.0, end=300.0),))
    play(process, pods, 10, slower=1.0)
    assert process.evidence == 1.0
    assert process.began is None


def test_no_traffic_changes_nothing(fleet):
    process, pods = started(fleet)
    play(process, pods, 8)
    process.finish()
    before = (process.evidence, [test.proof() for test in process.tests], [t.requests for t in process.tests])
    play(process, pods, 6, per_pod=0)
    process.finish()
    after = (process.evidence, [test.proof() for test in process.tests], [t.requests for t in process.tests])
    assert after == before


def test_a_canary_without_requests_neither_passes_nor_fails(fleet):
    process, pods = started(fleet, canary=0)
    pods.add(Arm.CANARY, "c0")
    for _ in range(30):
        for name in ("s0", "s1", "s2", "s3"):
            pods.serve(Arm.STABLE, name, 40, median=0.5, errors=0.005)
        pods.at += 30.0
        process.observe(pods.scrape())
    assert harm(process) is None
    verdict = judge(process, 0, 0.0, 900.0)
    assert (verdict.verdict, verdict.reason) == (Verdict.UNDECIDED, GateReason.NO_DATA)


@pytest.mark.parametrize("cut", [1, 2, 7, 24, 39])
def test_a_restored_checkpoint_goes_on_bit_for_bit(fleet, cut):
    spec = EvidenceSpec(metrics=(TTFT, ERRORS, KV))
    pods = fleet()
    rows = [pods.scrape(), *(pods.step(per_pod=15, slower=0.1) for _ in range(40))]
    marks = (Mark(at=0.0, step=0, weight=0.3), Mark(at=300.0, step=1, weight=0.5))
    whole, part = EvidenceProcess(spec), EvidenceProcess(spec)
    for number, row in enumerate(rows):
        if number == cut:
            part = checkpoint.restore(spec, checkpoint.save(part))
        for process in (whole, part):
            process.schedule(marks, ())
            process.observe(row)
        assert part.evidence == whole.evidence
    assert checkpoint.save(part) == checkpoint.save(whole)
    assert [report(part, i) for i in range(3)] == [report(whole, i) for i in range(3)]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[:-8], "damaged"),
        (lambda text: "%" + text[1:], "damaged"),
        (lambda text: "A" * 70_000, "damaged"),
        (lambda text: "", "damaged"),
    ],
)
def test_a_damaged_checkpoint_is_refused(fleet, damage, words):
    process, pods = started(fleet)
    text = checkpoint.save(play(process, pods, 3))
    with pytest.raises(checkpoint.CheckpointError, match=words):
        checkpoint.restore(SPEC, damage(text))


def told_by(text, digest):
    """The same state, told by another digest of its specification."""
    plain = json.loads(zlib.decompress(base64.b64decode(text)))
    return base64.b64encode(zlib.compress(json.dumps(plain | {"spec": digest}).encode())).decode()


def test_a_checkpoint_of_before_stamps_goes_on_and_one_of_another_version_does_not(fleet):
    process, pods = started(fleet)
    play(process, pods, 5)
    text = checkpoint.save(process)
    former = hashlib.sha256(repr(SPEC).encode()).hexdigest()[:16]

    for told in (former, stamp(SPEC).replace("2:", "1:")):  # before stamps, and in their version 1
        assert checkpoint.restore(SPEC, told_by(text, told)).dump() == process.dump()
    for foreign in ("0123456789abcdef", "2:0123456789abcdef"):  # whose evidence it is, cannot be told
        with pytest.raises(checkpoint.CheckpointError, match="specification"):
            checkpoint.restore(SPEC, told_by(text, foreign))


def test_a_specification_is_told_by_what_is_not_at_its_default():
    """A field that a later version adds throws no evidence away."""
    assert stamp(SPEC) == "2:973fb678bc79b095"
    assert stamp(replace(SPEC, interval=30.0)) == stamp(SPEC) != stamp(replace(SPEC, interval=20.0))
    assert stamp(SPEC) != stamp(replace(SPEC, metrics=(TTFT,)))


def test_a_checkpoint_of_another_specification_is_refused(fleet):
    process, pods = started(fleet)
    text = checkpoint.save(play(process, pods, 3))
    other = replace(SPEC, false_abort_rate=0.01)
    with pytest.raises(checkpoint.CheckpointError, match="specification"):
        checkpoint.restore(other, text)


def huge(at, scale, slow):
    """Counters of a billion requests per interval."""
    pods = []
    for arm, count in ((Arm.STABLE, 3), (Arm.CANARY, 2)):
        for number in range(count):
            first = scale * at * (0.2 if arm is Arm.CANARY and slow else 0.5)
            total = scale * at
            histogram = HistogramSample(
                bounds=(0.5, 1.0, math.inf), cumulative=(first, 0.9 * total, total), sum=total
            )
            pods.append(
                PodSample(
                    arm=arm,
                    pod=f"{arm.value}{number}",
                    counters={"requests": total, "errors": 0.01 * total},
                    histograms={"ttft": histogram},
                )
            )
    return Scrape(at=at, pods=tuple(pods))


@pytest.mark.parametrize("slow", [False, True])
def test_a_billion_requests_per_interval_stay_finite(slow):
    process = EvidenceProcess(SPEC)
    for number in range(40):
        process.observe(huge(30.0 * number, 1e9, slow))
    figures = [
        process.evidence,
        *(test.proof() for test in process.tests),
        process.tests[0].effect(-1, 0.05).high,
    ]
    assert all(math.isfinite(figure) for figure in figures)
    assert (harm(process) is not None) is slow
    json.dumps(process.dump(), allow_nan=False)


def test_all_mass_in_one_bucket_is_no_evidence_and_says_so():
    process = EvidenceProcess(SPEC)
    for number in range(20):
        n = 100.0 * number
        pods = tuple(
            PodSample(
                arm=arm,
                pod=pod,
                counters={"requests": n, "errors": 0.0},
                histograms={"ttft": HistogramSample(bounds=(0.5, 1.0, math.inf), cumulative=(0.0, n, n))},
            )
            for arm, pod in ((Arm.STABLE, "a"), (Arm.STABLE, "b"), (Arm.CANARY, "c"))
        )
        process.observe(Scrape(at=30.0 * number, pods=pods))
    assert process.evidence == pytest.approx(0.5 + 0.5 * process.tests[1].evidence(-1), abs=0.5)
    assert judge(process, 0, 0.0, 600.0).reason is GateReason.UNUSABLE
    assert "bucket too coarse" in report(process, 0).cautions


def test_one_request_is_almost_no_evidence(fleet):
    process, pods = started(fleet)
    play(process, pods, 3)
    pods.at += 30.0
    pods.serve(Arm.CANARY, "c0", 1, median=4000.0, errors=1.0)
    process.observe(pods.scrape())
    process.finish()
    assert process.evidence < 3.0


def test_a_reset_neither_loses_nor_invents_requests(fleet):
    process, pods = started(fleet)
    play(process, pods, 4)
    pods.reset(Arm.CANARY, "c0")
    play(process, pods, 4)
    process.finish()
    assert process.tests[1].requests == (8 * 2 * 40, 8 * 4 * 40)
    assert process.guards.restarts == 1


def test_traffic_far_from_its_weight_is_left_out(fleet):
    process, pods = started(fleet)
    process.schedule((Mark(at=0.0, step=0, weight=0.05),), ())
    play(process, pods, 6, slower=2.0)
    assert process.guards.misrouted == 5
    assert process.evidence == 1.0


def test_a_late_regression_is_found_within_minutes(fleet):
    process, pods = started(fleet)
    play(process, pods, 60)
    assert harm(process) is None
    play(process, pods, 10, slower=0.6)
    assert harm(process) is not None
    assert report(process, 0).effect_since >= 1200.0


def test_lasting_differences_between_pods_are_not_harm(fleet):
    """A canary as slow as the slower half of the stable pods, with plenty of traffic."""
    process, pods = started(fleet, stable=8)
    for _ in range(30):
        for number, (arm, pod) in enumerate(list(pods.state)):
            median = 0.6 if arm is Arm.CANARY else 0.4 + 0.035 * number
            pods.serve(arm, pod, 80, median=median, errors=0.005)
        pods.at += 30.0
        process.observe(pods.scrape())
        assert harm(process) is None


def test_restarts_create_no_evidence_by_themselves(fleet):
    """Gauges are worth 1 before six blocks, so every start is, and so must be their mixture."""
    process, pods = started(fleet, spec=EvidenceSpec(metrics=(KV,)))
    process.schedule([Mark(at=60.0 * i, step=i, weight=0.3) for i in range(5)], ())
    play(process, pods, 10)
    assert process.restarts == 4
    assert process.evidence == pytest.approx(1.0)


def test_suspected_harm_holds_a_pass(fleet):
    spec = EvidenceSpec(metrics=(replace(TTFT, require=Require.NO_HARM, min_dwell=0.0, min_requests=0),))
    reasons = set()
    for seed in range(20):
        process, pods = started(fleet, spec=spec, seed=seed)
        for _ in range(12):
            process.observe(pods.step(slower=0.3))
            if 5.0 <= process.evidence < 20.0:
                reasons.add(judge(process, 0, 0.0, pods.at).reason)
    assert reasons == {GateReason.HARM_SUSPECTED}


def test_restarts_never_exceed_their_slots(fleet):
    process, pods = started(fleet)
    for step in range(30):
        process.schedule([Mark(at=60.0 * i, step=i, weight=0.3) for i in range(step + 1)], ())
        play(process, pods, 2, per_pod=5)
    assert process.restarts == 16
    assert process.evidence < 5.0
    assert len(checkpoint.save(process)) < checkpoint.MAX_CHECKPOINT


def test_a_single_stable_pod_holds_latency_but_still_judges_errors(fleet):
    process, pods = started(fleet, stable=1)
    play(process, pods, 12, slower=1.0)
    assert harm(process) is None
    assert judge(process, 0, 0.0, 360.0).reason is GateReason.FEW_STABLE_PODS
    play(process, pods, 10, canary_errors=0.2)
    assert harm(process).blame == (1,)


@pytest.mark.parametrize(
    ("undecided", "errors", "verdict"),
    [
        (OnUndecided.HOLD, 0.0, Verdict.INCONCLUSIVE),
        (OnUndecided.FAIL, 0.0, Verdict.FAIL),
        (OnUndecided.PROMOTE_IF_NO_HARM, 0.0, Verdict.PASS),
        (OnUndecided.PROMOTE_IF_NO_HARM, 0.02, Verdict.UNDECIDED),
    ],
)
def test_a_gate_beside_a_single_stable_pod_ends_after_its_dwell_as_it_asks(fleet, undecided, errors, verdict):
    spec = EvidenceSpec(metrics=(replace(TTFT, on_undecided=undecided), ERRORS))
    process, pods = started(fleet, spec, stable=1)
    play(process, pods, 12, canary_errors=errors)
    assert judge(process, 0, 300.0, 599.0).verdict is Verdict.UNDECIDED  # its dwell is not over
    assert judge(process, 0, 0.0, 360.0) == GateVerdict(verdict=verdict, reason=GateReason.FEW_STABLE_PODS)


def test_a_weaker_answer_needs_something_that_can_be_judged(fleet):
    spec = EvidenceSpec(metrics=(replace(TTFT, on_undecided=OnUndecided.PROMOTE_IF_NO_HARM),))
    process, pods = started(fleet, spec, stable=1)
    play(process, pods, 12)
    assert judge(process, 0, 0.0, 360.0).verdict is Verdict.UNDECIDED


def test_a_second_stable_pod_that_is_away_ends_no_gate(fleet):
    process, pods = started(fleet, stable=2)
    play(process, pods, 6)
    del pods.state[next(key for key in pods.state if key[0] is Arm.STABLE)]
    play(process, pods, 20)
    verdict = judge(process, 0, 0.0, 780.0)
    assert verdict == GateVerdict(verdict=Verdict.UNDECIDED, reason=GateReason.FEW_STABLE_PODS)


def test_a_loaded_canary_is_judged_beyond_what_load_explains(fleet):
    """The same slower canary: with three times the requests per pod it is not held against it."""
    verdicts = []
    for factor in (1, 3):
        process, pods = started(fleet)
        for _ in range(12):
            for arm, pod in list(pods.state):
                canary = arm is Arm.CANARY
                pods.serve(
                    arm, pod, 40 * (factor if canary else 1), median=0.8 if canary else 0.5, errors=0.0
                )
            pods.at += 30.0
            process.observe(pods.scrape())
        verdicts.append(harm(process) is not None)
    assert verdicts == [True, False]
    assert any("3.0 times the requests" in caution for caution in report(process, 0).cautions)


def test_missing_scrapes_hold_a_pass(fleet):
    process, pods = started(fleet, stable=5)
    play(process, pods, 30)
    assert judge(process, 0, 0.0, pods.at).reason is not GateReason.SCRAPES_MISSING
    play(process, pods, 9, skip=("s0", "s1"))
    assert judge(process, 0, 0.0, pods.at).reason is GateReason.SCRAPES_MISSING


def test_a_silent_source_holds_a_pass(fleet):
    spec = EvidenceSpec(metrics=(replace(TTFT, require=Require.NO_HARM),))
    process, pods = started(fleet, spec=spec)
    play(process, pods, 20)
    assert judge(process, 0, 0.0, pods.at).verdict is Verdict.PASS
    assert judge(process, 0, 0.0, pods.at + 3600.0).reason is GateReason.NO_DATA


def mixed(fleet, at, canary_prompt):
    """Add prompt lengths to a scrape: the canary's prompts are longer."""
    bounds = (100.0, 200.0, 500.0, math.inf)
    pods = []
    for pod in fleet.scrape().pods:
        total = pod.counters["requests"]
        shares = canary_prompt if pod.arm is Arm.CANARY else (0.3, 0.6, 0.9, 1.0)
        histogram = HistogramSample(bounds=bounds, cumulative=tuple(round(total * s) for s in shares))
        pods.append(replace(pod, histograms={**pod.histograms, "prompt_tokens": histogram}))
    return Scrape(at=at, pods=tuple(pods))


def test_different_prompts_hold_latency_but_not_errors(fleet):
    process, pods = started(fleet)
    for _ in range(20):
        pods.step(slower=0.6)
        process.observe(mixed(pods, pods.at, (0.1, 0.3, 0.7, 1.0)))
    found = harm(process)
    assert found is not None
    assert found.held is GateReason.PROMPT_MIX_DIFFERS
    assert judge(process, 0, 0.0, pods.at).reason is GateReason.PROMPT_MIX_DIFFERS


def test_a_tolerance_that_pods_cannot_prove_is_said_at_once(fleet):
    narrow = replace(TTFT, tolerance=0.05)
    process, pods = started(fleet, spec=EvidenceSpec(metrics=(narrow,)))
    play(process, pods, 3)
    verdict = judge(process, 0, 0.0, pods.at)
    assert (verdict.verdict, verdict.reason) == (Verdict.INCONCLUSIVE, GateReason.CANNOT_PROVE)
    words = describe(narrow, report(process, 0), verdict)
    assert "can never be proven" in words
    assert "tolerance to at least" in words
    failing = replace(narrow, on_undecided=OnUndecided.FAIL)
    process, pods = started(fleet, spec=EvidenceSpec(metrics=(failing,)))
    play(process, pods, 3)
    assert judge(process, 0, 0.0, pods.at).verdict is Verdict.FAIL


def test_a_healthy_canary_is_proven_within_tolerance(fleet):
    process, pods = started(fleet)
    play(process, pods, 60)
    verdict = judge(process, 0, 0.0, pods.at)
    assert (verdict.verdict, verdict.reason) == (Verdict.PASS, GateReason.WITHIN_TOLERANCE)
    effect = report(process, 0).effect
    assert effect.low < 0.0 < effect.high < 0.3


def test_pass_needs_dwell_and_requests(fleet):
    spec = EvidenceSpec(metrics=(replace(TTFT, require=Require.NO_HARM),))
    process, pods = started(fleet, spec=spec)
    play(process, pods, 6)
    assert judge(process, 0, 0.0, pods.at).reason is GateReason.DWELLING
    play(process, pods, 6, per_pod=0)
    assert judge(process, 0, 0.0, pods.at).verdict is Verdict.PASS
    process, pods = started(fleet, spec=spec)
    play(process, pods, 14, per_pod=5)
    assert judge(process, 0, 0.0, pods.at).reason is GateReason.FEW_REQUESTS


def test_at_the_end_of_its_time_a_gate_does_what_it_was_told(fleet):
    outcomes = []
    for choice in OnUndecided:
        metric = replace(TTFT, max_duration=300.0, on_undecided=choice, tolerance=0.2)
        process, pods = started(fleet, spec=EvidenceSpec(metrics=(metric,)), canary=1)
        play(process, pods, 11, per_pod=22)
        outcomes.append(judge(process, 0, 0.0, pods.at).verdict)
    assert outcomes == [Verdict.INCONCLUSIVE, Verdict.PASS, Verdict.FAIL]


def test_both_adapters_on_the_same_pods_are_compared_inside_each_pod(fleet):
    """Pods differ twofold in speed and serve both arms: only the difference inside a pod counts."""
    for slower, expected in ((0.0, False), (0.6, True)):
        pods = fleet(canary=0)
        for number in range(4):
            pods.add(Arm.CANARY, f"s{number}")
        process = EvidenceProcess(SPEC)
        process.observe(pods.scrape())
        for _ in range(30):
            for arm, pod in list(pods.state):
                median = 0.3 * (1 + int(pod[1])) * (1 + (slower if arm is Arm.CANARY else 0.0))
                pods.serve(arm, pod, 10 if arm is Arm.CANARY else 30, median=median, errors=0.0)
            pods.at += 30.0
            process.observe(pods.scrape())
        assert (harm(process) is not None) is expected


def without_load(scrape):
    """Only the latency histogram, as from a source that has nothing else."""
    return Scrape(
        at=scrape.at, pods=tuple(replace(p, counters={"errors": 0.0}, gauges={}) for p in scrape.pods)
    )


def test_without_a_load_counter_the_histogram_tells_the_load(fleet):
    spec = EvidenceSpec(metrics=(TTFT,))
    process, pods = EvidenceProcess(spec), fleet()
    process.observe(without_load(pods.scrape()))
    for _ in range(10):
        process.observe(without_load(pods.step(slower=0.6)))
    assert harm(process) is not None
    assert process.guards.load_ratio == pytest.approx(1.0)


def test_bounds_that_shrink_in_flight_lose_only_their_resolution(fleet):
    """After ten minutes a pod of a newer engine joins with fewer buckets."""
    coarse = (0.25, 0.5, 1.0, 2.5, math.inf)

    def narrowed(scrape):
        pods = []
        for pod in scrape.pods:
            if pod.pod == "c0":
                place = dict(
                    zip(pod.histograms["ttft"].bounds, pod.histograms["ttft"].cumulative, strict=True)
                )
                fewer = HistogramSample(bounds=coarse, cumulative=tuple(place[b] for b in coarse))
                pod = replace(pod, histograms={"ttft": fewer})
            pods.append(pod)
        return replace(scrape, pods=tuple(pods))

    process, pods = started(fleet)
    play(process, pods, 20)
    seen = process.tests[0].requests[0]
    for _ in range(12):
        process.observe(narrowed(pods.step(slower=0.8)))
    assert process.tests[0].requests[0] == seen + 12 * 80
    assert harm(process).blame == (0,)


def test_too_few_common_bounds_make_a_metric_unusable(fleet):
    process = EvidenceProcess(SPEC)
    for number in range(15):
        n = 50.0 * number
        pods = tuple(
            PodSample(
                arm=arm,
                pod=pod,
                counters={"requests": n, "errors": 0.0},
                histograms={"ttft": HistogramSample(bounds=(bound, math.inf), cumulative=(n / 2, n))},
            )
            for arm, pod, bound in ((Arm.STABLE, "a", 0.5), (Arm.STABLE, "b", 0.5), (Arm.CANARY, "c", 0.5))
        )
        process.observe(Scrape(at=30.0 * number, pods=pods))
    assert judge(process, 0, 0.0, 450.0).reason is GateReason.UNUSABLE
    assert "fewer than three bucket bounds in common" in report(process, 0).cautions


def test_a_state_too_large_to_store_is_refused(fleet, monkeypatch):
    process, pods = started(fleet)
    play(process, pods, 3)
    assert checkpoint.size(process) == len(checkpoint.save(process))
    monkeypatch.setattr(checkpoint, "MAX_CHECKPOINT", 100)
    with pytest.raises(checkpoint.CheckpointError, match="compare fewer metrics"):
        checkpoint.save(process)


def test_a_gauge_counts_only_at_equal_load(fleet):
    spec = EvidenceSpec(metrics=(KV,))
    results = []
    for canary_requests in (40, 80):
        process, pods = started(fleet, spec=spec)
        for step in range(60):
            for (arm, pod), entry in pods.state.items():
                canary = arm is Arm.CANARY
                pods.serve(arm, pod, canary_requests if canary else 40, median=0.5, errors=0.0)
                entry["gauge"] = (0.7 if canary else 0.4) + 0.02 * math.sin(step * 1.7 + hash(pod[1]) % 7)
            pods.at += 30.0
            process.observe(pods.scrape())
        results.append(harm(process) is not None)
    assert results == [True, False]


def test_where_more_is_better_a_fall_is_harm(fleet):
    from rollouts.analysis.evidence.model import Direction

    upward = replace(TTFT, direction=Direction.HIGHER)
    for slower, expected in ((-0.4, True), (0.6, False)):
        process, pods = started(fleet, spec=EvidenceSpec(metrics=(upward,)))
        play(process, pods, 16, slower=slower)
        assert (harm(process) is not None) is expected
        assert report(process, 0).effect.estimate == pytest.approx(slower, abs=0.25)


def test_coarse_buckets_fall_back_to_the_mean(fleet):
    coarse = replace(TTFT, series=HistogramSeries(name="ttft", coarse=True))
    process, pods = started(fleet, spec=EvidenceSpec(metrics=(coarse,)))
    play(process, pods, 40)
    assert harm(process) is None
    assert report(process, 0).effect.estimate == pytest.approx(0.0, abs=0.15)
    play(process, pods, 30, slower=1.0)
    assert harm(process) is not None
    assert report(process, 0).part in ("mean", "body", "slowest tenth", "slowest fiftieth")


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ((TTFT, ERRORS), (0.5, 0.5)),
        ((TTFT,), (1.0,)),
        ((TTFT, replace(TTFT, name="itl"), ERRORS), (0.25, 0.25, 0.5)),
        ((replace(TTFT, advisory=True), ERRORS), (0.0, 1.0)),
        ((replace(TTFT, weight=3.0), replace(ERRORS, weight=1.0)), (0.75, 0.25)),
        ((replace(TTFT, advisory=True),), (0.0,)),
    ],
)
def test_weights_add_up_to_one(metrics, expected):
    assert metric_weights(metrics) == pytest.approx(expected)


def test_words_come_first_and_figures_after(fleet):
    process, pods = started(fleet)
    play(process, pods, 10, slower=0.6)
    from rollouts.analysis.evidence.gates import GateVerdict

    verdict = GateVerdict(verdict=Verdict.FAIL, reason=GateReason.HARM_SHOWN)
    words = describe(TTFT, report(process, 0), verdict)
    assert words.startswith("ttft: the canary is shown to be worse than stable")
    assert words.index("worse") < words.index("%")
    for expected in ("between", "abort at 20", "canary and", "smallest regression", "twice the canary pods"):
        assert expected in words
