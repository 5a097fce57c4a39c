"""Pods that say anything at all: the evidence stays finite, the words come out, the state survives."""

import math
import random

import pytest

from rollouts.analysis.evidence.checkpoint import restore, save
from rollouts.analysis.evidence.gates import harm, judge, report
from rollouts.analysis.evidence.model import (
    Arm,
    CompareMetric,
    CountSeries,
    Direction,
    EvidenceSpec,
    GaugeSeries,
    HistogramSample,
    HistogramSeries,
    Mark,
    PodSample,
    Scrape,
)
from rollouts.analysis.evidence.process import EvidenceProcess
from rollouts.analysis.evidence.words import describe

WILD = [0, 1, 50, 1e9, 9e15, 1e300, math.inf, math.nan, -1, 0.5]
BOUNDS = [
    (0.1, 1.0, math.inf),
    (0.1, 0.5, 1.0, math.inf),
    (math.inf,),
    (-1.0, 0.0, math.inf),
    (5.0, math.inf),
    (1e-300, 1e300, math.inf),
]


def specification(rng):
    ttft = CompareMetric(
        name="a",
        series=HistogramSeries(name="h", coarse=rng.random() < 0.3),
        margin=0.0,
        tolerance=rng.choice([0.1, 2.0, 900.0]),
        direction=rng.choice(list(Direction)),
    )
    errors = CompareMetric(
        name="b",
        series=CountSeries(errors="e", of="r"),
        margin=0.0,
        tolerance=2.0,
        direction=rng.choice(list(Direction)),
    )
    gauge = CompareMetric(name="c", series=GaugeSeries(name="g"), margin=0.1, tolerance=0.5)
    return EvidenceSpec(metrics=(ttft, errors, gauge), interval=rng.choice([1.0, 30.0, 600.0]))


def sample(rng, arm, number, at, counts):
    wild = rng.random() < 0.15
    bounds = rng.choice(BOUNDS) if wild else BOUNDS[0]
    for place in range(5):
        counts[place] += rng.choice([0, 1, 5, 30, 1e9])
    cumulative = tuple(rng.choice(WILD) if wild else sum(counts[: k + 1]) for k in range(len(bounds)))
    histogram = HistogramSample(bounds=bounds, cumulative=cumulative, sum=rng.choice([None, *WILD]))
    return PodSample(
        arm=arm,
        pod=f"p{number}" if rng.random() < 0.9 else f"{arm}{number}",
        counters={
            "e": rng.choice(WILD) if wild else counts[3],
            "r": rng.choice(WILD) if wild else counts[3] + counts[4],
            "requests": counts[4],
        },
        gauges={"g": rng.choice(WILD)},
        histograms={"h": histogram, "prompt_tokens": histogram},
        started=rng.choice([None, None, at - 5, at + 5]),
    )


@pytest.mark.parametrize("seed", range(12))
def test_hostile_pods_break_nothing(seed):
    rng = random.Random(seed)
    spec = specification(rng)
    process = EvidenceProcess(spec)
    counters = {(arm, number): [0.0] * 5 for arm in Arm for number in range(3)}
    at = 0.0
    for _ in range(25):
        at += rng.choice([30, 30, 30, 1, 5000])
        marks = [Mark(at=at * i / 5, step=i, weight=rng.choice([0, 0.01, 0.5, 1])) for i in range(5)]
        process.schedule(marks if rng.random() < 0.3 else (), ())
        pods = [sample(rng, *key, at, counts) for key, counts in counters.items() if rng.random() < 0.9]
        process.observe(Scrape(at=at, pods=tuple(pods)))
        assert 0.0 <= process.evidence < math.inf
        harm(process)
        for index, metric in enumerate(spec.metrics):
            words = describe(metric, report(process, index), judge(process, index, 0.0, at))
            assert words.startswith(f"{metric.name}: ")
            assert "nan" not in words
        text = save(process)
        process = restore(spec, text)
        assert save(process) == text
