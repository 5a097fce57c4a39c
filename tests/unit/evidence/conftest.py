"""Builders of scrapes for the evidence tests."""

import math
import random
from collections.abc import Callable

import pytest

from rollouts.analysis.evidence.model import Arm, HistogramSample, PodSample, Scrape

BOUNDS = (0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, math.inf)


class Fleet:
    """Pods with cumulative counters; `step` adds an interval of traffic and scrapes."""

    def __init__(self, seed: int = 1, stable: int = 4, canary: int = 2, interval: float = 30.0) -> None:
        self.rng = random.Random(seed)
        self.at = 0.0
        self.interval = interval
        self.state: dict[tuple[Arm, str], dict[str, object]] = {}
        for arm, count in ((Arm.STABLE, stable), (Arm.CANARY, canary)):
            for number in range(count):
                self.add(arm, f"{arm.value[0]}{number}")

    def add(self, arm: Arm, pod: str, started: float | None = None) -> None:
        self.state[arm, pod] = {
            "requests": 0.0,
            "errors": 0.0,
            "gauge": 0.5,
            "sum": 0.0,
            "buckets": [0.0] * len(BOUNDS),
            "started": started,
        }

    def reset(self, arm: Arm, pod: str) -> None:
        started = self.state[arm, pod]["started"]
        self.add(arm, pod, started)

    def serve(self, arm: Arm, pod: str, requests: int, *, median: float, errors: float) -> None:
        entry = self.state[arm, pod]
        for _ in range(requests):
            value = self.rng.lognormvariate(math.log(median), 0.7)
            entry["sum"] += value
            for index, bound in enumerate(BOUNDS):
                if value <= bound:
                    entry["buckets"][index] += 1
            entry["requests"] += 1
            entry["errors"] += self.rng.random() < errors

    def scrape(self, skip: tuple[str, ...] = ()) -> Scrape:
        pods = tuple(
            PodSample(
                arm=arm,
                pod=pod,
                counters={"requests": entry["requests"], "errors": entry["errors"]},
                gauges={"kv_cache": entry["gauge"]},
                histograms={
                    "ttft": HistogramSample(
                        bounds=BOUNDS, cumulative=tuple(entry["buckets"]), sum=entry["sum"]
                    )
                },
                started=entry["started"],
            )
            for (arm, pod), entry in self.state.items()
            if pod not in skip
        )
        return Scrape(at=self.at, pods=pods)

    def step(
        self,
        *,
        per_pod: int = 40,
        slower: float = 0.0,
        stable_errors: float = 0.005,
        canary_errors: float = 0.005,
        skip: tuple[str, ...] = (),
    ) -> Scrape:
        self.at += self.interval
        for arm, pod in list(self.state):
            canary = arm is Arm.CANARY
            self.serve(
                arm,
                pod,
                per_pod,
                median=0.5 * (1.0 + slower if canary else 1.0),
                errors=canary_errors if canary else stable_errors,
            )
        return self.scrape(skip)


@pytest.fixture
def fleet() -> Callable[..., Fleet]:
    return Fleet
