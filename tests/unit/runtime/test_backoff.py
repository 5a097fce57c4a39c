from __future__ import annotations

import random

import pytest

from rollouts.runtime.backoff import Backoff, BackoffPolicy, bounded_wait
from rollouts.runtime.clock import Monotonic

EXACT = BackoffPolicy(initial=1, maximum=10, factor=2, jitter=0)


def test_delays_double_up_to_the_maximum(rng: random.Random) -> None:
    delays = [EXACT.delay(failures, rng) for failures in (1, 2, 3, 4, 5, 6, 10_000)]

    assert delays == [1, 2, 4, 8, 10, 10, 10]


def test_jitter_stays_within_its_bounds_and_spreads(rng: random.Random) -> None:
    policy = BackoffPolicy(initial=1, maximum=10, jitter=0.2)

    delays = [policy.delay(3, rng) for _ in range(2000)]

    assert 3.2 <= min(delays) < 3.3
    assert 4.7 < max(delays) <= 4.8


def test_the_same_seed_gives_the_same_delays() -> None:
    policy = BackoffPolicy()
    one, two = (Backoff(policy, random.Random(3)) for _ in range(2))

    assert [one.failed(Monotonic(t)) for t in range(20)] == [two.failed(Monotonic(t)) for t in range(20)]


@pytest.mark.parametrize(
    ("sentence", "healthy_seconds", "want_failures"),
    [
        ("a success that does not last keeps the delay", 59.9, 4),
        ("a healthy minute resets it", 60.0, 1),
    ],
)
def test_reset(rng: random.Random, sentence: str, healthy_seconds: float, want_failures: int) -> None:
    backoff = Backoff(EXACT, rng)
    for second in range(3):
        backoff.failed(Monotonic(second))

    backoff.healthy(Monotonic(100))
    backoff.healthy(Monotonic(100 + healthy_seconds / 2))  # a later sign of life does not restart the spell
    backoff.failed(Monotonic(100 + healthy_seconds))

    assert backoff.failures == want_failures, sentence


@pytest.mark.parametrize("wrong", [{"initial": 0}, {"maximum": 0.1}, {"factor": 0.5}, {"jitter": 1.0}])
def test_nonsense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="is not a back-off"):
        BackoffPolicy(**wrong)


@pytest.mark.parametrize(
    ("given", "want"), [(3.0, 3.0), (-1.0, 0.0), (1e9, 60.0), (float("nan"), 0.0), (float("inf"), 0.0)]
)
def test_a_servers_retry_after_is_bounded(given: float, want: float) -> None:
    assert bounded_wait(given, 60.0) == want
