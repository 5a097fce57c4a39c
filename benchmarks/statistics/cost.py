"""`python -m benchmarks.statistics.cost`: CPU per metric and interval, size of a checkpoint, cost of collection."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

import aiohttp

from benchmarks.statistics.generate import Scenario, scrapes
from rollouts.analysis.evidence import checkpoint
from rollouts.analysis.evidence.model import (
    Arm,
    CompareMetric,
    CountSeries,
    EvidenceSpec,
    GaugeSeries,
    HistogramSample,
    HistogramSeries,
    Scrape,
)
from rollouts.analysis.evidence.process import EvidenceProcess
from rollouts.analysis.exposition import parse_exposition
from rollouts.analysis.logical import wanted_of
from rollouts.analysis.offers import POD_OFFER
from rollouts.lab.loopback import loopback
from rollouts.lab.vllm.pod import Fleet
from rollouts.lab.vllm.spec import PodSpec

_LATENCIES = ("ttft", "time_per_output_token", "queue_time", "inter_token_latency")


def _spec() -> EvidenceSpec:
    latencies = tuple(
        CompareMetric(name=name, series=HistogramSeries(name=name), margin=0.02, tolerance=0.15)
        for name in _LATENCIES
    )
    errors = CompareMetric(
        name="errors", series=CountSeries(errors="errors", of="requests"), margin=0.1, tolerance=2.0
    )
    cache = CompareMetric(name="kv", series=GaugeSeries(name="kv_cache"), margin=0.1, tolerance=0.25)
    return EvidenceSpec(metrics=(*latencies, errors, cache))


def _widened(scrape: Scrape, names: Sequence[str]) -> Scrape:
    """A histogram under every name, each with other counts (else compression would flatter), and a gauge."""
    pods = tuple(
        replace(
            pod,
            histograms={name: _scaled(pod.histograms["ttft"], k) for k, name in enumerate(names, 1)},
            gauges={"kv_cache": 0.5},
        )
        for pod in scrape.pods
    )
    return replace(scrape, pods=pods)


def _scaled(histogram: HistogramSample, factor: int) -> HistogramSample:
    """The counts times a factor, thinned so that neighbours differ."""
    cumulative = tuple([float(int(value * (0.7 + 0.13 * factor))) for value in histogram.cumulative])
    total = histogram.sum if histogram.sum is not None else 0.0
    return HistogramSample(bounds=histogram.bounds, cumulative=cumulative, sum=total * factor)


def main() -> None:
    """Measure one rollout of 2 + 18 pods and six metrics, and the largest states."""
    names = (*_LATENCIES, "prompt_tokens")
    rows = [_widened(scrape, names) for scrape in scrapes(Scenario(name="cost"), 1)]
    process = EvidenceProcess(_spec())
    live = [row for row in rows if row.at >= 0]
    for row in rows:
        if row.at < 0:
            process.observe(row)
    began = time.process_time()
    judged = 0.0
    for row in live:
        process.observe(row)
        judged += process.evidence
    seconds = time.process_time() - began
    each = seconds / len(live) / len(process.tests)
    share = each * 6 * 1000 / 30
    print(f"2 + 18 pods, 6 metrics: {each * 1e3:.2f} ms per metric and interval")
    print(
        f"1,000 rollouts of 6 metrics every 30 s: {share:.0%} of a core (mean evidence {judged / len(live):.2f})"
    )
    began = time.process_time()
    text = checkpoint.save(process)
    saved = time.process_time() - began
    print(f"checkpoint {len(text) / 1024:.1f} KiB, {saved * 1e3:.0f} ms")
    _collection()
    _largest("6 metrics", _spec(), names)
    sixteen = tuple(f"latency{number}" for number in range(16))
    many = EvidenceSpec(
        metrics=tuple(
            CompareMetric(name=name, series=HistogramSeries(name=name), margin=0.02, tolerance=0.15)
            for name in sixteen
        )
    )
    _largest("16 histograms", many, sixteen)


async def _page() -> bytes:
    pod = PodSpec(name="p", address=loopback(12, 1))
    async with Fleet([pod]) as fleet, aiohttp.ClientSession() as session:
        url = fleet.pods["p"].url
        async with session.get(f"{url}/metrics") as answer:
            return await answer.read()


def _collection() -> None:
    """Reading one vLLM page into logical series, apart from the network, and what a run's status costs to write."""
    page = asyncio.run(_page())
    wanted = wanted_of(_spec())
    names, rounds = wanted.raw_names(POD_OFFER), 50
    began = time.process_time()
    for _ in range(rounds):
        wanted.sample(parse_exposition(page, names), POD_OFFER, Arm.STABLE, "p", None)
    each = (time.process_time() - began) / rounds
    share = each * 20 * 1000 / 30
    print(f"collection: {each * 1e3:.2f} ms per pod page of {len(page) / 1024:.0f} KiB")
    print(f"1,000 rollouts of 2 + 18 pods every 30 s, each pod read for one rollout: {share:.1f} cores")
    print(
        "API writes: one status patch per run every 2 minutes, and one per changed verdict: 8.3 a second for 1,000"
    )


def _largest(title: str, spec: EvidenceSpec, names: Sequence[str]) -> None:
    """The largest checkpoint of three hours with 40 + 40 pods (the engine keeps fewer apart)."""
    wide = Scenario(name="wide", canary=40, stable=40, rate=400.0, minutes=200, history_minutes=10)
    process = EvidenceProcess(spec)
    largest = 0
    for number, row in enumerate(scrapes(wide, 1)):
        process.observe(_widened(row, names))
        if number % 60 == 59:
            largest = max(largest, checkpoint.size(process))
    limit = checkpoint.MAX_CHECKPOINT / 1024
    print(f"{title}, 40 + 40 pods: largest checkpoint {largest / 1024:.1f} KiB of {limit:.0f}")


if __name__ == "__main__":
    main()
