"""Closed forms against exact enumeration and published values."""

import math
from itertools import product

import pytest

from rollouts.analysis.evidence.scores import (
    BODY_SHIFTS,
    COUNT_RATIOS,
    body_growth,
    body_slope,
    burst_divisors,
    choose_tail,
    count_growth,
    floor_growth,
    floor_proof,
    floor_rates,
    ridits,
    shifted_survival,
)

LOG_RATIOS = [math.log(ratio) for ratio in COUNT_RATIOS]


def draws(pooled, n_c):
    """Every way to draw n_c of the pooled requests without replacement, with its probability."""
    total = math.comb(sum(pooled), n_c)
    for counts in product(*(range(min(m, n_c) + 1) for m in pooled)):
        if sum(counts) == n_c:
            ways = math.prod(math.comb(m, c) for m, c in zip(pooled, counts, strict=True))
            yield counts, ways / total


@pytest.mark.parametrize(
    ("pooled", "n_c"),
    [((4, 3, 3), 1), ((4, 3, 3), 2), ((9, 1, 1), 2), ((1, 1, 18), 4), ((2, 8, 8, 2), 3), ((19, 1), 1)],
)
def test_body_evidence_of_exchangeable_requests_has_mean_at_most_one(pooled, n_c):
    scores = ridits(pooled)
    slopes = [0.4 * math.log1p(shift) for shift in BODY_SHIFTS]
    means = [0.0] * len(slopes)
    for counts, probability in draws(pooled, n_c):
        observed = sum(c * a for c, a in zip(counts, scores.scores, strict=True))
        growth = body_growth(slopes, observed, n_c, pooled, scores)
        means = [m + probability * math.exp(g) for m, g in zip(means, growth, strict=True)]
    assert max(means) <= 1.0 + 1e-12
    assert min(means) > 0.2, "an e-value that is almost never above 0 would be useless"


@pytest.mark.parametrize(("errors", "n_c", "n_s"), [(1, 3, 9), (4, 5, 45), (6, 10, 10), (3, 90, 10)])
@pytest.mark.parametrize("null", [1.0, 1.1, 3.0])
def test_count_evidence_has_mean_one_at_the_null_and_at_most_one_below(errors, n_c, n_s, null):
    for truth in (null, 0.8 * null):
        share = n_c * truth / (n_c * truth + n_s)
        means = [0.0] * len(LOG_RATIOS)
        for e_c in range(errors + 1):
            probability = math.comb(errors, e_c) * share**e_c * (1 - share) ** (errors - e_c)
            bets = [math.log(null) + ratio for ratio in LOG_RATIOS]
            growth = count_growth(e_c, errors - e_c, n_c, n_s, bets, math.log(null))
            means = [m + probability * math.exp(g) for m, g in zip(means, growth, strict=True)]
        if truth == null:
            assert means == pytest.approx([1.0] * len(means))
        else:
            assert max(means) < 1.0


def test_count_evidence_is_conservative_for_a_fixed_split():
    """Hypergeometric instead of binomial draws: what a fixed split of finite traffic gives."""
    n_c, n_s, errors = 5, 15, 6
    means = [0.0] * len(LOG_RATIOS)
    for (e_c, _), probability in draws((errors, n_c + n_s - errors), n_c):
        growth = count_growth(e_c, errors - e_c, n_c, n_s, LOG_RATIOS, 0.0)
        means = [m + probability * math.exp(g) for m, g in zip(means, growth, strict=True)]
    assert max(means) <= 1.0


def test_floor_evidence_has_mean_one_at_the_floor_in_both_directions():
    floor, n_c = 0.01, 12
    for factors in (floor_rates(floor), floor_proof(floor)):
        means = [0.0] * len(factors)
        for e_c in range(n_c + 1):
            probability = math.comb(n_c, e_c) * floor**e_c * (1 - floor) ** (n_c - e_c)
            growth = floor_growth(e_c, n_c, factors)
            means = [m + probability * math.exp(g) for m, g in zip(means, growth, strict=True)]
        assert means == pytest.approx([1.0] * len(means))


def test_body_evidence_changes_form_without_a_jump():
    """Just below and above the share of 20 % the exact and the Gaussian form agree for a realistic interval."""
    pooled = [100, 300, 400, 150, 50]
    scores = ridits(pooled)
    below = body_growth([0.08], 12.0, 199.0, pooled, scores)[0]
    above = body_growth([0.08], 12.0, 201.0, pooled, scores)[0]
    assert above - below < 0.35 * 201 * 0.08**2 / (2 * scores.spread)
    assert above > below


@pytest.mark.parametrize("n_c", [1, 30, 10_000])
def test_without_a_difference_the_body_shrinks(n_c):
    pooled = [n_c * 4, n_c * 8, n_c * 8]
    growth = body_growth([0.04, 0.2], 0.0, float(n_c), pooled, ridits(pooled))
    assert all(value < 0 for value in growth)


def normal_cdf(value):
    return 0.5 * (1 + math.erf(value / math.sqrt(2)))


@pytest.mark.parametrize("median", [0.37, 0.5, 0.67])
def test_slope_of_a_lognormal_is_within_a_tenth_of_the_truth(median):
    bounds = (0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, math.inf)

    def survivals(mu):
        return [1.0 - normal_cdf((math.log(b) - mu) / 0.7) if b < math.inf else 0.0 for b in bounds]

    now, truth = survivals(math.log(median)), survivals(math.log(median * 1.1))
    counts = [1e6 * (a - b) for a, b in zip([1.0, *now], now, strict=False)]
    slope = body_slope(*shifted_survival(counts, bounds))
    assert slope == pytest.approx(body_slope(now, truth), rel=0.1)
    assert slope == pytest.approx(0.38, abs=0.03)


def test_tail_bound_is_the_one_nearest_to_its_share():
    bounds = (0.5, 1.0, 2.5, math.inf)
    tail = choose_tail(0.10, bounds, [0.5, 0.12, 0.01, 0.0], [0.6, 0.15, 0.015, 0.0])
    assert tail is not None
    assert (tail.first, tail.bound, tail.share) == (2, 1.0, 0.12)
    assert tail.hazard == pytest.approx(math.log(0.15 / 0.12) / math.log(1.1))


def test_no_tail_bound_within_a_factor_of_four_means_no_tail():
    assert choose_tail(0.02, (0.5, math.inf), [0.5, 0.0], [0.6, 0.0]) is None


def test_ridits_are_centred_and_tops_at_a_twelfth():
    scores = ridits([1] * 1000)
    assert math.fsum(scores.scores) == pytest.approx(0.0, abs=1e-9)
    assert scores.spread == pytest.approx(1 / 12, rel=1e-5)
    assert not ridits([0, 7, 0]).usable
    assert not ridits([]).usable


def test_extreme_bets_are_tempered_only_where_events_come_in_bursts():
    assert burst_divisors(1.0, LOG_RATIOS) == [0.0] * len(LOG_RATIOS)
    mild, heavy = burst_divisors(1.15, LOG_RATIOS), burst_divisors(2.6, LOG_RATIOS)
    assert mild[0] < 1.15
    assert heavy[-1] > 10
    for divisor, log_ratio in zip(heavy, LOG_RATIOS, strict=True):
        assert (2.6 - 1) * math.expm1(log_ratio / divisor) == pytest.approx(0.5)


@pytest.mark.parametrize(("mean", "phi"), [(0.75, 2.6), (0.3, 1.3), (2.0, 3.0)])
def test_tempered_bets_stay_fair_under_gamma_poisson_bursts(mean, phi):
    """E exp((e ln rho - m (rho-1))/D) with D = max(phi, least) for negative binomial counts e, nearly."""
    shape = mean / (phi - 1)
    for log_ratio, least in zip(LOG_RATIOS, burst_divisors(phi, LOG_RATIOS), strict=True):
        divisor = max(phi, least)
        weight = log_ratio / divisor
        log_moment = -shape * math.log(1 - (phi - 1) * math.expm1(weight))
        assert log_moment - mean * math.expm1(log_ratio) / divisor <= 0.2 * mean
