"""From the series that a stack exposes to the logical series that comparisons are written in.

vLLM 0.6 to 0.33, SGLang and our endpoint picker name the same things differently; of each logical series a pod is read
by the first alternative that it exposes. What is no logical name is taken as the name of a series itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rollouts.analysis import exposition
from rollouts.analysis.evidence import (
    Arm,
    CountSeries,
    EvidenceSpec,
    GaugeSeries,
    HistogramSample,
    HistogramSeries,
    LostSeries,
    PodSample,
)
from rollouts.analysis.presets import ANSWERED, PRESETS, REQUESTS, Over, Selector
from rollouts.analysis.reading import Groups, read

__all__ = ["PICKER", "PODS", "Dialect", "Wanted", "wanted_of"]


def _names(*names: str) -> Groups:
    return tuple((Selector(name=name),) for name in names)


def _finished(reason: str) -> Groups:
    return ((Selector(name="vllm:request_success_total", any_of={"finished_reason": (reason,)}),),)


@dataclass(frozen=True, slots=True)
class Dialect:
    """Alternatives by logical name."""

    series: Mapping[str, Groups]

    def groups(self, name: str) -> Groups:
        """The alternatives of a logical name, or the series of that very name."""
        return self.series.get(name) or _names(name)

    def gauges(self, name: str) -> Groups:
        """As ``groups``, of a gauge: one of which nothing is known is averaged over the engines of a process."""
        return self.series.get(name) or ((Selector(name=name, over=Over.MEAN),),)


_BADLY = ("abort", "error")
_FINISHED = Selector(name="vllm:request_success_total", none_of={"finished_reason": _BADLY})
_FAILED = Selector(name="vllm:request_success_total", any_of={"finished_reason": _BADLY}, sign=-1)
_IN_FLIGHT = (
    (Selector(name="vllm:num_requests_running"), Selector(name="vllm:num_requests_waiting")),
    (Selector(name="sglang:num_running_reqs"), Selector(name="sglang:num_queue_reqs")),
)
_TOKENS = (
    (Selector(name="vllm:generation_tokens_total"), Selector(name="vllm:prompt_tokens_total")),
    (Selector(name="sglang:generation_tokens_total"), Selector(name="sglang:prompt_tokens_total")),
)

PODS = Dialect(
    {
        "requests": REQUESTS,
        "answered": (ANSWERED,),
        # Counted once per request, where request_success_total counts each of its `n` choices.
        "finished": ((Selector(name="vllm:request_params_n_count"), _FAILED), (_FINISHED,)),
        "in_flight": _IN_FLIGHT,
        "tokens": _TOKENS,
        "errors": PRESETS["error-rate"].alternatives,
        "preemptions": PRESETS["preemptions"].alternatives,
        "aborted": (*_finished("abort"), *_names("sglang:num_aborted_requests_total")),
        "length": _finished("length"),
        "ttft": PRESETS["ttft"].alternatives,
        "time_per_output_token": PRESETS["tpot"].alternatives,
        "inter_token_latency": (
            *PRESETS["itl"].alternatives,
            *_names("vllm:time_per_output_token_seconds"),  # the name before vLLM 0.11
        ),
        "queue_time": PRESETS["queue-time"].alternatives,
        "e2e": PRESETS["e2e"].alternatives,
        "prompt_tokens": _names("vllm:request_prompt_tokens", "sglang:prompt_tokens_histogram"),
        "output_tokens": _names("vllm:request_generation_tokens", "sglang:generation_tokens_histogram"),
        "kv_cache": PRESETS["kv-cache"].alternatives,
    }
)
"""What a model server's own page says."""

_MEASURED = ((Selector(name="inference_picker_requests_total", present="code"),),)

PICKER = Dialect(
    {
        "requests": _MEASURED,
        "answered": _MEASURED,
        "finished": (
            (
                *_MEASURED[0],
                Selector(name="inference_picker_request_errors_total", sign=-1),
                Selector(name="inference_picker_aborts_total", sign=-1),
            ),
        ),
        "errors": _names("inference_picker_request_errors_total"),
        "aborted": _names("inference_picker_aborts_total"),
        "ttft": _names("inference_picker_ttft_seconds"),
        "time_per_output_token": _names("inference_picker_time_per_output_token_seconds"),
        "e2e": _names("inference_picker_e2e_seconds"),
        "prompt_tokens": _names("inference_picker_prompt_tokens"),
    }
)
"""What our endpoint picker measured: answers with a code only, the others are load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Logical names by kind; ``of`` gives the total of a counter of events."""

    counters: frozenset[str]
    histograms: frozenset[str]
    gauges: frozenset[str]
    of: Mapping[str, str]

    def raw_names(self, dialect: Dialect) -> frozenset[str]:
        """Names of the series to read."""
        logical = (*self.counters, *self.histograms, *self.gauges)
        return frozenset(
            selector.name for name in logical for group in dialect.groups(name) for selector in group
        )

    def sample(
        self, raw: exposition.PodSample, dialect: Dialect, arm: Arm, pod: str, started: float | None
    ) -> PodSample:
        """One pod's page in logical names; what it does not expose is absent."""
        counters = _present((name, read(raw, dialect.groups(name))) for name in self.counters)
        for name, of in self.of.items():
            if name not in counters and of in counters:
                counters[name] = 0.0  # a labelled counter appears with its first event
        return PodSample(
            arm=arm,
            pod=pod,
            counters=counters,
            gauges=_present((name, read(raw, dialect.gauges(name))) for name in self.gauges),
            histograms={
                name: found
                for name in sorted(self.histograms)
                for found in (_histogram(raw, dialect.groups(name)),)
                if found is not None
            },
            started=started,
        )


def wanted_of(spec: EvidenceSpec) -> Wanted:
    """What an evidence process looks at: its metrics, the load and the mix of prompts."""
    counters, histograms = {spec.load_counter}, {spec.mix_histogram}
    gauges, of = set[str](), dict[str, str]()
    for metric in spec.metrics:
        match metric.series:
            case LostSeries(
                of=total, finished=finished, in_flight=flying, longest=longest, progress=progress
            ):
                counters |= {total, finished, progress}
                histograms.add(longest)
                gauges.add(flying)
                of[total] = finished  # the HTTP layer counts from the first answer on, the engine from 0
            case CountSeries(errors=errors, of=total):
                counters |= {errors, total}
                of[errors] = total
            case HistogramSeries(name=name):
                histograms.add(name)
            case GaugeSeries(name=name):
                gauges.add(name)
    return Wanted(
        counters=frozenset(counters), histograms=frozenset(histograms), gauges=frozenset(gauges), of=of
    )


def _present(pairs: Iterable[tuple[str, float | None]]) -> dict[str, float]:
    return {name: value for name, value in sorted(pairs) if value is not None and math.isfinite(value)}


def _histogram(raw: exposition.PodSample, groups: Groups) -> HistogramSample | None:
    for group in groups:
        found = raw.histograms.get(group[0].name)
        if found is not None and found.buckets:
            bounds = sorted({*found.buckets, math.inf})
            counts = [found.buckets.get(bound, found.count) for bound in bounds]
            return HistogramSample(bounds=tuple(bounds), cumulative=tuple(counts), sum=found.sum)
    return None
