"""Arrivals from counters that count at the end: long answers, restarts, pods that come and go, missing samples."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from rollouts.analysis.exposition import parse_exposition
from rollouts.controller.arrivals import ARRIVAL_NAMES, CANARY, STABLE, Arrivals, Reading, pod_counts
from rollouts.engine.observation import ShareCount, ShareView
from rollouts.engine.share import fell, refutes
from rollouts.runtime.clock import Monotonic
from rollouts.units import Weight

ONE, TEN, HALF = Weight(100), Weight(1000), Weight(5000)


@dataclass
class Pod:
    """A vLLM pod: counts a request when it ends, and shows what runs."""

    arm: str
    name: str
    ended: int = 0
    ends: list[float] = field(default_factory=list)
    started: float = 0.0

    def serve(self, until: float) -> None:
        heapq.heappush(self.ends, until)

    def restart(self, now: float) -> None:
        self.ended, self.ends, self.started = 0, [], now

    def reading(self, now: float) -> Reading:
        while self.ends and self.ends[0] <= now:
            heapq.heappop(self.ends)
            self.ended += 1
        at = Monotonic(now)
        return Reading(at, self.arm, self.name, float(self.ended), float(len(self.ends)), self.started)


def lengths(rng: random.Random, kind: str) -> Iterator[float]:
    """Seconds that answers take: ten minutes each, or lognormal with a heavy tail."""
    while True:
        yield 600.0 if kind == "ten minutes" else rng.lognormvariate(2.0, 1.5)


def raised(
    rng: random.Random, kind: str, *, rate: float, honest: bool = True
) -> Iterator[tuple[Weight, ShareView]]:
    """Views each second of a rollout 1 -> 10 -> 50 %, four minutes each, after twenty minutes of stable traffic."""
    pods = [Pod(STABLE, "s0"), Pod(STABLE, "s1"), Pod(CANARY, "c0")]
    arrivals, answer = Arrivals(Monotonic(0.0)), lengths(rng, kind)
    now, share, weight = -1200.0, 0.0, Weight(0)
    upcoming = now + rng.expovariate(rate)
    for second in range(-1200, 720):
        for at, new in ((0, ONE), (240, TEN), (480, HALF)):
            if second == at:
                weight = new
                share = new / 10_000 if honest else share
        while upcoming <= second:
            arm = pods[2] if rng.random() < share else pods[rng.randrange(2)]
            arm.serve(upcoming + next(answer))
            upcoming += rng.expovariate(rate)
        readings = [pod.reading(float(second)) for pod in pods]
        if second < 0:
            continue
        arrivals.take(readings, Monotonic(float(second)))
        arrivals.enter(weight)
        present = arrivals.present()
        yield (
            weight,
            ShareView(
                canary=present.canary,
                stable=present.stable,
                seconds=arrivals.seconds,
                earlier=arrivals.earlier(),
            ),
        )


@pytest.mark.parametrize("kind", ["ten minutes", "lognormal"])
def test_long_answers_of_before_a_raise_refute_nothing(kind: str) -> None:
    """40 rollouts of 720 looks: no false alarm, where counting at the end refutes nearly each of them."""
    alarms = 0
    for seed in range(40):
        rng = random.Random(seed)
        alarms += any(refutes(view, weight) for weight, view in raised(rng, kind, rate=4.0))

    assert alarms == 0


def test_a_split_that_is_not_programmed_is_seen_within_the_propagation() -> None:
    """At 4 requests a second, 10 % and none at the canary, it is refuted within two minutes of the raise."""
    slowest = 0
    for seed in range(10):
        views = list(raised(random.Random(seed), "ten minutes", rate=4.0, honest=False))
        slowest = max(
            slowest, next(second for second, (weight, view) in enumerate(views) if refutes(view, weight))
        )

    assert slowest <= 240 + 120


def test_ended_and_in_flight_are_read_from_a_page_of_vllm() -> None:
    page = (
        'http_requests_total{handler="/v1/completions",method="POST",status="2xx"} 7\n'
        'http_requests_total{handler="/v1/models",method="GET",status="2xx"} 90\n'
        'vllm:num_requests_running{engine="0",model_name="m"} 3.0\n'
        'vllm:num_requests_running{engine="1",model_name="m"} 1.0\n'
        'vllm:num_requests_waiting{engine="0",model_name="m"} 2.0\n'
        'vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 2.0\n'
        "process_start_time_seconds 1.5e9\n"
    )

    assert pod_counts(parse_exposition(page.encode(), ARRIVAL_NAMES)) == (7.0, 6.0, 1.5e9)
    assert pod_counts(parse_exposition(b"vllm:num_requests_running 3.0\n", ARRIVAL_NAMES)) is None


def test_priorities_of_sglang_are_counted_once() -> None:
    page = (
        'sglang:num_requests_total{model_name="m"} 7\n'
        'sglang:num_running_reqs{priority=""} 3\nsglang:num_running_reqs{priority="5"} 3\n'
        'sglang:num_queue_reqs{priority=""} 1\nsglang:num_queue_reqs{priority="0"} 1\n'
    )

    assert pod_counts(parse_exposition(page.encode(), ARRIVAL_NAMES)) == (7.0, 4.0, None)


def test_ranks_of_sglang_that_share_their_requests_are_counted_once() -> None:
    page = 'sglang:num_requests_total{model_name="m"} 7\n' + "".join(
        f'sglang:num_running_reqs{{dp_rank="{rank // 2}",pp_rank="0",tp_rank="{rank}"}} {3 + rank // 2}\n'
        for rank in range(4)
    )

    assert pod_counts(parse_exposition(page.encode(), ARRIVAL_NAMES)) == (7.0, 7.0, None)


class Counter:
    """Readings of one pod of each arm."""

    def __init__(self) -> None:
        self.arrivals = Arrivals(Monotonic(0.0), weight=TEN)
        self.now = 0.0

    def look(self, *readings: Reading, until: float | None = None) -> ShareCount:
        self.arrivals.take(readings, Monotonic(self.now if until is None else until))
        self.arrivals.enter(self.arrivals.weight)  # each look says which weight is in force
        return self.arrivals.present()

    def read(
        self, stable: tuple[float, float], canary: tuple[float, float], started: float = 0.0
    ) -> ShareCount:
        self.now += 1.0
        at = Monotonic(self.now)
        return self.look(Reading(at, STABLE, "s", *stable, 0.0), Reading(at, CANARY, "c", *canary, started))


def test_a_request_counts_when_it_comes_and_not_again_when_it_ends() -> None:
    counter = Counter()
    counter.read((100, 0), (0, 0))
    assert counter.read((100, 9), (0, 1)) == ShareCount(weight=TEN, canary=1, stable=9)
    assert counter.read((109, 0), (1, 0)) == ShareCount(weight=TEN, canary=1, stable=9)


def test_between_the_two_counters_a_request_is_missing_for_a_moment_only() -> None:
    counter = Counter()
    counter.read((100, 5), (0, 1))
    assert counter.read((100, 4), (0, 0)) == ShareCount(weight=TEN, canary=0, stable=0)
    assert counter.read((101, 4), (1, 0)) == ShareCount(weight=TEN, canary=0, stable=0)


def test_a_restarted_pod_begins_at_nothing_even_when_its_counter_does_not_fall() -> None:
    counter = Counter()
    counter.read((100, 0), (2, 1))
    assert counter.read((110, 0), (1, 2)).canary == 3
    assert counter.read((120, 0), (5, 0), started=1.0).canary == 3 + 5


def test_newer_samples_of_one_arm_wait_for_the_other() -> None:
    counter = Counter()
    counter.read((100, 0), (0, 0))
    late = Reading(Monotonic(9.0), STABLE, "s", 190.0)
    assert counter.look(late, until=1.0) == ShareCount(weight=TEN, canary=0, stable=0)

    counter.look(late, Reading(Monotonic(9.0), CANARY, "c", 10.0), until=9.0)
    assert counter.arrivals.present() == ShareCount(weight=TEN, canary=10, stable=90)
    assert counter.look(late, until=9.0).stable == 90


def test_weights_that_come_again_are_counted_together() -> None:
    counter = Counter()
    counter.read((0, 0), (0, 0))
    counter.read((9, 0), (1, 0))
    for weight in (HALF, TEN):
        counter.arrivals.enter(weight)
        counter.read((18, 0), (2, 0))
    counter.arrivals.enter(HALF)

    assert counter.arrivals.earlier() == (
        ShareCount(weight=TEN, canary=1, stable=9),
        ShareCount(weight=HALF, canary=1, stable=9),
    )


def test_what_came_before_a_new_weight_was_heard_of_counts_under_neither() -> None:
    """The write was stored, its answer and the status were lost: the old weight's share is not that of the new one."""
    counter = Counter()
    counter.read((0, 0), (0, 0))
    counter.read((9, 0), (1, 0))
    counter.now += 1
    at = Monotonic(counter.now)
    counter.arrivals.take([Reading(at, STABLE, "s", 9, 0), Reading(at, CANARY, "c", 201, 0)], at)
    counter.arrivals.enter(HALF)
    counter.read((19, 0), (211, 0))

    assert counter.arrivals.earlier() == (ShareCount(weight=TEN, canary=1, stable=9),)
    assert counter.arrivals.present() == ShareCount(weight=HALF, canary=10, stable=10)


def test_the_path_compares_ten_minutes_before_a_rise_with_the_newest_requests() -> None:
    counter = Counter()
    counter.read((0, 0), (0, 0))
    for second in range(1, 901):
        counter.read((10 * second, 0), (second, 0))
    assert counter.arrivals.path() is None

    counter.arrivals.enter(HALF)
    for second in range(30):
        counter.read((9000, 0), (900 + second // 20, 0))
    path = counter.arrivals.path()
    assert path is not None
    assert (path.weight_before, path.before, path.canary_before, path.before_seconds) == (
        TEN,
        6600,
        600,
        600.0,
    )
    assert path.recent_seconds < 15
    assert fell(path)


def test_a_rise_right_after_the_first_sample_has_nothing_to_be_compared_with() -> None:
    counter = Counter()
    counter.read((0, 0), (0, 0))
    counter.arrivals.enter(HALF)
    counter.read((9, 0), (1, 0))

    assert counter.arrivals.path() is None
