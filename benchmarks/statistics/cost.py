"""`python -m benchmarks.statistics.cost`: CPU per metric and interval, and the size of a checkpoint."""

import time
from dataclasses import replace

from benchmarks.statistics.generate import Scenario, scrapes
from rollouts.analysis.evidence import checkpoint
from rollouts.analysis.evidence.model import (
    CompareMetric,
    CountSeries,
    EvidenceSpec,
    GaugeSeries,
    HistogramSeries,
    Scrape,
)
from rollouts.analysis.evidence.process import EvidenceProcess

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


def _widened(scrape: Scrape) -> Scrape:
    """The same histogram under every latency name and as prompt lengths, and a gauge."""
    pods = tuple(
        replace(
            pod,
            histograms=dict.fromkeys((*_LATENCIES, "prompt_tokens"), pod.histograms["ttft"]),
            gauges={"kv_cache": 0.5},
        )
        for pod in scrape.pods
    )
    return replace(scrape, pods=pods)


def main() -> None:
    """Measure one rollout of 2 + 18 pods and six metrics, and the largest state of 32 + 32 pods."""
    rows = [_widened(scrape) for scrape in scrapes(Scenario(name="cost"), 1)]
    process = EvidenceProcess(_spec())
    live = [row for row in rows if row.at >= 0]
    for row in rows:
        if row.at < 0:
            process.observe(row)
    began = time.process_time()
    for row in live:
        process.observe(row)
        assert process.evidence >= 0.0
    seconds = time.process_time() - began
    each = seconds / len(live) / len(process.tests)
    core = each * 6 * 1000 / 30
    print(
        f"2 + 18 pods, 6 metrics: {each * 1e3:.2f} ms per metric and interval; 1,000 rollouts {core:.0%} of a core"
    )
    began = time.process_time()
    text = checkpoint.save(process)
    saved = time.process_time() - began
    print(f"checkpoint {len(text) / 1024:.1f} KiB, {saved * 1e3:.0f} ms")
    wide = Scenario(name="wide", canary=40, stable=40, rate=400.0, minutes=90, history_minutes=10)
    process = EvidenceProcess(_spec())
    largest = 0
    for number, row in enumerate(scrapes(wide, 1)):
        process.observe(_widened(row))
        if number % 20 == 19:
            largest = max(largest, len(checkpoint.save(process)))
    print(f"largest checkpoint of 40 + 40 pods {largest / 1024:.1f} KiB of 64")


if __name__ == "__main__":
    main()
