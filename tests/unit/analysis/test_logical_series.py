"""Logical series: the names of vLLM 0.6 to 0.33, SGLang and our picker, and what is not exposed."""

from __future__ import annotations

import math

import pytest

from rollouts.analysis.evidence.model import (
    Arm,
    CompareMetric,
    CountSeries,
    EvidenceSpec,
    GaugeSeries,
    HistogramSeries,
    Series,
)
from rollouts.analysis.exposition import parse_exposition
from rollouts.analysis.logical import wanted_of
from rollouts.analysis.offers import PICKER_OFFER, POD_OFFER, Offer


def read(page: str, series: Series, offer: Offer = POD_OFFER) -> object:
    """One page through the logical series."""
    spec = EvidenceSpec(metrics=(CompareMetric(name="m", series=series, margin=0.0, tolerance=1.0),))
    wanted = wanted_of(spec)
    raw = parse_exposition(page.encode(), wanted.raw_names(offer))
    return wanted.sample(raw, offer, Arm.CANARY, "p", None)


def histogram(name: str) -> str:
    return (
        f'# TYPE {name} histogram\n{name}_bucket{{le="0.1"}} 3\n{name}_bucket{{le="1.0"}} 8\n'
        f'{name}_bucket{{le="+Inf"}} 9\n{name}_sum 4.5\n{name}_count 9\n'
    )


HISTOGRAMS = {
    "TTFT of every vLLM": ("vllm:time_to_first_token_seconds", "ttft"),
    "TTFT of SGLang": ("sglang:time_to_first_token_seconds", "ttft"),
    "time per output token since vLLM 0.9": (
        "vllm:request_time_per_output_token_seconds",
        "time_per_output_token",
    ),
    "time per output token of older ones": ("vllm:time_per_output_token_seconds", "time_per_output_token"),
    "inter-token latency since vLLM 0.11": ("vllm:inter_token_latency_seconds", "inter_token_latency"),
    "inter-token latency before": ("vllm:time_per_output_token_seconds", "inter_token_latency"),
    "TTFT of TensorRT-LLM": ("trtllm_time_to_first_token_seconds", "ttft"),
    "queue time": ("vllm:request_queue_time_seconds", "queue_time"),
    "end to end": ("vllm:e2e_request_latency_seconds", "e2e"),
    "prompt length": ("vllm:request_prompt_tokens", "prompt_tokens"),
    "answer length": ("vllm:request_generation_tokens", "output_tokens"),
    "a histogram by its own name": ("my_histogram", "my_histogram"),
}


@pytest.mark.parametrize("case", HISTOGRAMS)
def test_histograms_by_whichever_name_the_pod_exposes(case):
    exposed, logical = HISTOGRAMS[case]
    sample = read(histogram(exposed), HistogramSeries(name=logical))
    found = sample.histograms[logical]  # type: ignore[attr-defined]
    assert (found.bounds, found.cumulative, found.sum) == ((0.1, 1.0, math.inf), (3.0, 8.0, 9.0), 4.5)


GAUGES = {
    "KV cache since vLLM 0.10": "vllm:kv_cache_usage_perc",
    "KV cache before": "vllm:gpu_cache_usage_perc",
    "SGLang": "sglang:token_usage",
    "TensorRT-LLM": "trtllm_kv_cache_utilization",
}


@pytest.mark.parametrize("case", GAUGES)
def test_gauges_by_whichever_name_the_pod_exposes(case):
    sample = read(f"# TYPE g gauge\n{GAUGES[case]} 0.61\n", GaugeSeries(name="kv_cache"))
    assert sample.gauges == {"kv_cache": 0.61}  # type: ignore[attr-defined]


OK = 'http_requests_total{handler="/v1/completions",status="2xx"} 90\n'
BAD = 'http_requests_total{handler="/v1/completions",status="5xx"} 7\n'
OTHER = 'http_requests_total{handler="/metrics",status="5xx"} 500\n'
POLLS = """http_requests_total{handler="/v1/models",method="GET",status="2xx"} 4000
http_requests_total{handler="/v1/models",method="GET",status="5xx"} 3
http_requests_total{handler="/v1/unload_lora_adapter",method="POST",status="2xx"} 2
"""
FINISHED = 'vllm:request_success_total{finished_reason="%s"} %d\n'
COUNTS = {
    "errors of the HTTP layer": (OK + BAD + OTHER, "errors", {"errors": 7, "requests": 97}),
    "who lists the models is no client": (OK + BAD + POLLS, "errors", {"errors": 7, "requests": 97}),
    "a pod that only was asked for its models": (
        "# HELP x y\n" + POLLS,
        "errors",
        {"errors": 0, "requests": 0},
    ),
    "no error so far is 0 errors": (OK, "errors", {"errors": 0, "requests": 90}),
    "aborted by the engine": (OK + FINISHED % ("abort", 4), "aborted", {"aborted": 4, "requests": 90}),
    "cut off by length": (OK + FINISHED % ("length", 11), "length", {"length": 11, "requests": 90}),
    "preemptions": (OK + "vllm:num_preemptions_total 5\n", "preemptions", {"preemptions": 5, "requests": 90}),
    "nothing exposed is nothing known": ("up 1\n", "errors", {}),
    "a figure that is no number is absent": (
        OK + "vllm:num_preemptions_total NaN\n",
        "aborted",
        {"aborted": 0, "requests": 90},
    ),
}


@pytest.mark.parametrize("case", COUNTS)
def test_counters_of_a_model_server(case):
    page, events, expected = COUNTS[case]
    sample = read("# HELP x y\n" + page, CountSeries(errors=events, of="requests"))
    assert sample.counters == expected  # type: ignore[attr-defined]


def test_a_picker_counts_measured_answers_only():
    page = (
        '# HELP x y\ninference_picker_requests_total{code="200"} 40\ninference_picker_requests_total{code=""} 900\n'
        "inference_picker_request_errors_total 3\n"
    )
    sample = read(page, CountSeries(errors="errors", of="requests"), PICKER_OFFER)
    assert sample.counters == {"errors": 3, "requests": 40}  # type: ignore[attr-defined]


def test_prompts_of_two_adapters_are_compared_by_what_the_picker_saw():
    """vLLM's own histogram of prompts never carries the adapter."""
    page = (
        "# HELP x y\n# TYPE inference_picker_prompt_tokens histogram\n"
        'inference_picker_prompt_tokens_bucket{le="100.0"} 3\ninference_picker_prompt_tokens_bucket{le="+Inf"} 4\n'
        "inference_picker_prompt_tokens_count 4\ninference_picker_prompt_tokens_sum 700\n"
    )
    sample = read(page, CountSeries(errors="errors", of="requests"), PICKER_OFFER)
    assert sample.histograms["prompt_tokens"].cumulative == (3.0, 4.0)  # type: ignore[attr-defined]
