"""Raw counters to increments: every row of the rules, one sentence each."""

import math

import pytest

from rollouts.analysis.evidence.collect import FOLDED, Collector
from rollouts.analysis.evidence.model import (
    Arm,
    CompareMetric,
    CountSeries,
    EvidenceSpec,
    GaugeSeries,
    HistogramSample,
    HistogramSeries,
    PodSample,
    Scrape,
)

ERRORS = CountSeries(errors="errors", of="requests")
TTFT = HistogramSeries(name="ttft")
KV = GaugeSeries(name="kv_cache")
SPEC = EvidenceSpec(metrics=(CompareMetric(name="errors", series=ERRORS, margin=0.1, tolerance=2.0),))


def collector(*series, warm_up=0.0, pod_limit=32):
    return Collector(SPEC, [(one, warm_up) for one in series or (ERRORS,)], pod_limit)


def counts(pod, requests, errors=0, arm=Arm.STABLE, started=None):
    return PodSample(arm=arm, pod=pod, counters={"requests": requests, "errors": errors}, started=started)


def buckets(pod, cumulative, bounds=(0.5, 1.0, math.inf), total=None):
    histogram = HistogramSample(bounds=bounds, cumulative=cumulative, sum=total)
    return PodSample(arm=Arm.STABLE, pod=pod, histograms={"ttft": histogram})


def run(target, *scrapes):
    """Feed lists of samples 30 s apart; the increments of the first series per interval."""
    found = []
    for number, samples in enumerate(scrapes):
        interval = target.observe(Scrape(at=30.0 * number, pods=tuple(samples)))
        if interval is not None:
            rows = interval.series[0].stable + interval.series[0].canary
            found.append({row.pod: row.values for row in rows})
    return found


def test_the_first_sample_is_the_baseline():
    assert run(collector(), [counts("a", 100, 3)], [counts("a", 130, 4)]) == [{"a": [1, 30]}]


def test_a_fall_is_a_reset_and_the_new_value_is_the_increment():
    target = collector()
    found = run(target, [counts("a", 100, 3)], [counts("a", 12, 1)], [counts("a", 20, 1)])
    assert found == [{"a": [1, 12]}, {"a": [0, 8]}]
    assert target.restarts[Arm.STABLE] == 1


def test_errors_never_exceed_requests():
    assert run(collector(), [counts("a", 100, 0)], [counts("a", 101, 5)]) == [{"a": [1, 1]}]


def test_a_pod_younger_than_the_interval_counts_from_zero():
    old = [counts("a", 10)], [counts("a", 20), counts("b", 7, started=15.0)]
    assert run(collector(), *old) == [{"a": [0, 10], "b": [0, 7]}]


def test_an_older_newcomer_only_sets_its_baseline():
    old = [counts("a", 10)], [counts("a", 20), counts("b", 700, started=-500.0)]
    assert run(collector(), *old) == [{"a": [0, 10]}]


def test_a_newcomer_is_ignored_until_it_is_warm():
    rows = [[counts("a", 10 * i)] + ([counts("b", 10 * i)] if i >= 2 else []) for i in range(9)]
    found = run(collector(warm_up=120.0), *rows)
    assert [("b" in interval) for interval in found] == [False] * 6 + [True, True]


def test_the_first_pods_of_an_arm_are_not_newcomers():
    rows = [[counts("a", 10 * i), counts("c", 5 * i, arm=Arm.CANARY)] for i in range(3)]
    assert run(collector(warm_up=120.0), *rows)[0] == {"a": [0, 10], "c": [0, 5]}


def test_a_missed_scrape_leaves_the_pod_out_on_both_sides_of_the_gap():
    rows = [[counts(name, 10 * i) for name in "abc"] for i in range(5)]
    rows[2] = rows[2][1:]
    assert [("a" in interval) for interval in run(collector(), *rows)] == [True, False, False, True]


def test_when_half_or_more_is_missing_the_next_interval_is_a_long_one():
    rows = [[counts(name, 10 * i) for name in "abcd"] for i in range(4)]
    rows[2] = rows[2][:2]
    found = run(collector(), *rows)
    assert found == [{name: [0, 10] for name in "abcd"}, {name: [0, 20] for name in "abcd"}]


def test_a_silent_source_is_one_long_interval():
    target = collector()
    target.observe(Scrape(at=0.0, pods=(counts("a", 0),)))
    interval = target.observe(Scrape(at=600.0, pods=(counts("a", 77),)))
    assert (interval.start, interval.end) == (0.0, 600.0)
    assert interval.series[0].stable[0].values == [0, 77]


def test_time_that_does_not_advance_is_ignored():
    target = collector()
    target.observe(Scrape(at=30.0, pods=(counts("a", 5),)))
    assert target.observe(Scrape(at=30.0, pods=(counts("a", 9),))) is None
    assert target.observe(Scrape(at=60.0, pods=(counts("a", 9),))).series[0].stable[0].values == [0, 4]


def test_a_pod_silent_for_five_minutes_is_forgotten():
    target = collector()
    both = [counts("a", 0), counts("b", 0)]
    target.observe(Scrape(at=0.0, pods=tuple(both)))
    gone = []
    for number in range(1, 14):
        interval = target.observe(Scrape(at=30.0 * number, pods=(counts("a", number),)))
        gone += interval.gone if interval else []
    assert gone == [("stable", "b")]


@pytest.mark.parametrize("bad", [math.nan, -1.0, math.inf])
def test_a_value_that_is_no_count_is_missing_not_zero(bad):
    rows = [[counts("a", value)] for value in (1, bad, 5, 9)]
    assert run(collector(), *rows) == [{}, {}, {"a": [0, 4]}]


def test_a_missing_counter_is_missing_not_zero():
    silent = PodSample(arm=Arm.STABLE, pod="a", counters={"requests": 5})
    assert run(collector(), [counts("a", 1)], [silent]) == [{}]


def test_cumulative_buckets_become_counts_and_keep_the_sum():
    found = run(collector(TTFT), [buckets("a", (1, 2, 3), total=2.0)], [buckets("a", (2, 5, 7), total=5.5)])
    assert found == [{"a": [1, 2, 1, 3.5]}]


def test_a_scrape_between_two_bucket_updates_gives_no_negative_count():
    found = run(collector(TTFT), [buckets("a", (5, 5, 5), total=1.0)], [buckets("a", (9, 8, 8), total=1.0)])
    assert all(value >= 0 for value in found[0]["a"])


def test_different_bounds_are_compared_at_the_common_ones():
    target = collector(TTFT)
    rows = [
        [buckets("a", (1, 2, 3)), buckets("b", (1, 1, 2, 3), (0.5, 0.7, 1.0, math.inf))],
        [buckets("a", (2, 4, 6)), buckets("b", (1, 4, 5, 7), (0.5, 0.7, 1.0, math.inf))],
    ]
    found = run(target, *rows)
    assert found[0]["a"][:3] == [1, 1, 1]
    assert found[0]["b"][:3] == [0, 3, 1]


def test_bounds_that_shrink_in_flight_keep_the_earlier_samples_usable():
    target = collector(TTFT)
    wide = (0.5, 0.7, 1.0, math.inf)
    rows = [
        [buckets("a", (1, 1, 2, 3), wide)],
        [buckets("a", (2, 3, 5, 7), wide), buckets("b", (0, 0, 0))],
    ]
    assert run(target, *rows)[0]["a"][:3] == [1, 2, 1]


def test_gauges_are_read_as_they_are():
    rows = [
        [PodSample(arm=Arm.STABLE, pod="a", gauges={"kv_cache": value})] for value in (0.1, 0.4, math.nan)
    ]
    assert run(collector(KV), *rows) == [{"a": [0.4]}, {}]


def test_pods_beyond_the_limit_are_added_up():
    rows = [[counts(f"p{i}", 10 * n) for i in range(5)] for n in range(3)]
    target = collector(pod_limit=3)
    interval = None
    for number, samples in enumerate(rows):
        interval = target.observe(Scrape(at=30.0 * number, pods=tuple(samples)))
    rows = {row.pod: row for row in interval.series[0].stable}
    assert set(rows) == {"p0", "p1", "p2", FOLDED}
    assert (rows[FOLDED].members, rows[FOLDED].values) == (2, [0, 20])


def test_a_fold_whose_members_change_starts_a_new_baseline():
    names = (["a", "b", "c"], ["a", "b", "c"], ["a", "b", "d"], ["a", "b", "d"])
    rows = [[counts(name, 100 * (n + 1)) for name in row] for n, row in enumerate(names)]
    found = run(collector(pod_limit=1), *rows)
    assert [FOLDED in interval for interval in found] == [True, False, True]


def test_the_missing_share_rises_and_falls():
    target = collector()
    rows = [[counts(name, n) for name in "abcd"] for n in range(30)]
    for number, samples in enumerate(rows):
        target.observe(Scrape(at=30.0 * number, pods=tuple(samples[:2] if 1 <= number < 9 else samples)))
        if number == 8:
            high = target.missing[Arm.STABLE]
    assert high == pytest.approx(0.5 * (1 - math.exp(-1.6)))
    assert target.missing[Arm.STABLE] < 0.3 * high
