"""The metrics of a vLLM server (0.32, and 0.33 whose logger is the same): names, types, labels, buckets.

No series carries the adapter's name: adapter requests move the ``model_name`` of the first served name.
``vllm:lora_requests_info`` is a gauge per combination and order of adapters with requests, whose value is
the time it last held; old combinations stay for ever.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial

from rollouts.lab.vllm.exposition import Counter, Gauge, Histogram, MetricRegistry, Summary

__all__ = ["FINISH_REASONS", "HttpMetrics", "VllmMetrics"]

FINISH_REASONS = ("stop", "length", "abort", "error", "repetition")
_TTFT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
         40.0, 80.0, 160.0, 640.0, 2560.0)  # fmt: skip
_PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
              40.0, 80.0)  # fmt: skip
_REQUEST = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
            480.0, 960.0, 1920.0, 7680.0)  # fmt: skip
_ITERATION = tuple(float(2**n) for n in (0, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14))
_PARAM_N = (1.0, 2.0, 5.0, 10.0, 20.0)
_PREEMPTIONS = (1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0)
_HIGHR = (0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 7.5,
          10.0, 30.0, 60.0)  # fmt: skip
_SOURCES = ("local_compute", "local_cache_hit", "external_kv_transfer")
_TIERS = ("device", "host", "p2p", "disk", "external_unspecified")


def _length_bounds(max_model_len: int) -> tuple[float, ...]:
    """1, 2, 5, 10, 20, 50 ... up to the longest context, as vLLM builds them."""
    bounds: list[float] = []
    exponent = 0
    while True:
        for mantissa in (1, 2, 5):
            value = mantissa * 10**exponent
            if value > max_model_len:
                return tuple(bounds)
            bounds.append(float(value))
        exponent += 1


class _Declare:
    """Declares families and hands out their samples with the given labels."""

    def __init__(self, registry: MetricRegistry, labels: Mapping[str, str]) -> None:
        self._registry, self._labels = registry, dict(labels)

    def counter(self, name: str, text: str) -> Counter:
        return self._registry.add(name, "counter", text, Counter).sample(self._labels)

    def counters(self, name: str, text: str, label: str, values: Sequence[str]) -> dict[str, Counter]:
        family = self._registry.add(name, "counter", text, Counter)
        return {value: family.sample({**self._labels, label: value}) for value in values}

    def gauge(self, name: str, text: str) -> Gauge:
        return self._registry.add(name, "gauge", text, Gauge).sample(self._labels)

    def gauges(self, name: str, text: str, label: str, values: Sequence[str]) -> dict[str, Gauge]:
        family = self._registry.add(name, "gauge", text, Gauge)
        return {value: family.sample({**self._labels, label: value}) for value in values}

    def histogram(self, name: str, text: str, bounds: Sequence[float]) -> Histogram:
        build = partial(Histogram, bounds=bounds)
        return self._registry.add(name, "histogram", text, build).sample(self._labels)


class VllmMetrics:
    """The engine's series of one server. Histograms of times are in seconds."""

    def __init__(
        self,
        registry: MetricRegistry,
        *,
        model_name: str,
        max_model_len: int,
        max_loras: int,
        num_gpu_blocks: int,
    ) -> None:
        labels = {"engine": "0", "model_name": model_name}
        declare = _Declare(registry, labels)
        lengths = _length_bounds(max_model_len)
        for what in ("flops", "read_bytes", "write_bytes"):
            declare.counter(f"vllm:estimated_{what}_per_gpu", f"Estimated {what} of each GPU.")
        self.running = declare.gauge("vllm:num_requests_running", "Requests in the running batch.")
        self.waiting = declare.gauge("vllm:num_requests_waiting", "Requests in the queue.")
        self.waiting_by_reason = declare.gauges(
            "vllm:num_requests_waiting_by_reason",
            "Queued requests by reason.",
            "reason",
            ("capacity", "deferred"),
        )
        sleep = declare.gauges(
            "vllm:engine_sleep_state",
            "Sleep state.",
            "sleep_state",
            ("awake", "weights_offloaded", "discard_all"),
        )
        sleep["awake"].set(1)
        self.kv_cache = declare.gauge("vllm:kv_cache_usage_perc", "Used part of the KV cache, 0 to 1.")
        self._declare_caches(declare)
        self.preemptions = declare.counter("vllm:num_preemptions", "Preempted requests.")
        self._declare_tokens(declare, lengths)
        self.success = declare.counters(
            "vllm:request_success", "Finished requests by reason.", "finished_reason", FINISH_REASONS
        )
        without_engine = _Declare(registry, {"model_name": model_name})
        self.rejections = without_engine.counters(
            "vllm:admission_rejections",
            "Requests refused at a queue limit.",
            "reason",
            ("max_num_queued_reqs", "max_num_queued_tokens"),
        )
        self._declare_lengths(declare, lengths)
        self._declare_times(declare)
        self.request_preemptions = declare.histogram(
            "vllm:request_num_preemptions", "Preemptions of each request.", _PREEMPTIONS
        )
        self.kv_computed = declare.histogram(
            "vllm:request_prefill_kv_computed_tokens", "Prefill tokens that were not cached.", lengths
        )
        self._lora_info = registry.add(
            "vllm:lora_requests_info", "gauge", "Adapters with requests; the value is a time.", Gauge
        )
        self._max_loras = str(max_loras)
        self._declare_cache_config(registry, num_gpu_blocks)

    def _declare_caches(self, declare: _Declare) -> None:
        self.prefix_queries = declare.counter(
            "vllm:prefix_cache_queries", "Tokens asked of the prefix cache."
        )
        self.prefix_hits = declare.counter("vllm:prefix_cache_hits", "Tokens found in the prefix cache.")
        for cache in ("external_prefix_cache", "mm_cache"):
            declare.counter(f"vllm:{cache}_queries", f"Queries of the {cache}.")
            declare.counter(f"vllm:{cache}_hits", f"Hits of the {cache}.")

    def _declare_tokens(self, declare: _Declare, lengths: Sequence[float]) -> None:
        self.prompt_tokens = declare.counter("vllm:prompt_tokens", "Prefill tokens.")
        self.prompt_by_source = declare.counters(
            "vllm:prompt_tokens_by_source", "Prefill tokens by source.", "source", _SOURCES
        )
        self.prompt_cached = declare.counter("vllm:prompt_tokens_cached", "Prefill tokens from a cache.")
        declare.counters(
            "vllm:prompt_tokens_cached_by_source", "Cached prefill tokens by tier.", "source", _TIERS
        )
        self.generation_tokens = declare.counter("vllm:generation_tokens", "Generated tokens.")

    def _declare_lengths(self, declare: _Declare, lengths: Sequence[float]) -> None:
        self.request_prompt = declare.histogram(
            "vllm:request_prompt_tokens", "Prefill tokens of each request.", lengths
        )
        self.request_generation = declare.histogram(
            "vllm:request_generation_tokens", "Generated tokens of each request.", lengths
        )
        self.iteration_tokens = declare.histogram(
            "vllm:iteration_tokens_total", "Tokens of each engine step.", _ITERATION
        )
        self.max_generation = declare.histogram(
            "vllm:request_max_num_generation_tokens", "Most tokens that each request generated.", lengths
        )
        self.params_n = declare.histogram("vllm:request_params_n", "Parameter n.", _PARAM_N)
        self.params_max_tokens = declare.histogram(
            "vllm:request_params_max_tokens", "Parameter max_tokens.", lengths
        )

    def _declare_times(self, declare: _Declare) -> None:
        self.ttft = declare.histogram("vllm:time_to_first_token_seconds", "Time to first token.", _TTFT)
        self.itl = declare.histogram("vllm:inter_token_latency_seconds", "Time between tokens.", _PER_TOKEN)
        self.tpot = declare.histogram(
            "vllm:request_time_per_output_token_seconds", "Mean time per output token.", _PER_TOKEN
        )
        self.e2e = declare.histogram("vllm:e2e_request_latency_seconds", "Arrival to end.", _REQUEST)
        self.queue = declare.histogram("vllm:request_queue_time_seconds", "Time in the queue.", _REQUEST)
        self.inference = declare.histogram("vllm:request_inference_time_seconds", "Time running.", _REQUEST)
        self.prefill = declare.histogram("vllm:request_prefill_time_seconds", "Time in prefill.", _REQUEST)
        self.decode = declare.histogram("vllm:request_decode_time_seconds", "Time in decode.", _REQUEST)

    def _declare_cache_config(self, registry: MetricRegistry, num_gpu_blocks: int) -> None:
        labels = {**_CACHE_CONFIG, "num_gpu_blocks": str(num_gpu_blocks)}
        family = registry.add("vllm:cache_config_info", "gauge", "Configuration of the KV cache.", Gauge)
        family.sample(labels).set(1)

    def note_adapters(self, adapters: Sequence[str]) -> None:
        """Record which adapters have requests now; waiting and running are alike, as in vLLM."""
        joined = ",".join(adapters)
        labels = {
            "max_lora": self._max_loras,
            "running_lora_adapters": joined,
            "waiting_lora_adapters": joined,
        }
        self._lora_info.sample(labels).set(time.time())


class HttpMetrics:
    """The series of the HTTP layer: handler, method and status class, never a model."""

    def __init__(self, registry: MetricRegistry) -> None:
        self._requests = registry.add("http_requests", "counter", "Requests by handler and status.", Counter)
        self._request_size = registry.add("http_request_size_bytes", "summary", "Request sizes.", Summary)
        self._response_size = registry.add("http_response_size_bytes", "summary", "Response sizes.", Summary)
        self._highr = _Declare(registry, {}).histogram(
            "http_request_duration_highr_seconds", "Durations, fine buckets.", _HIGHR
        )
        self._duration = registry.add(
            "http_request_duration_seconds",
            "histogram",
            "Durations by handler.",
            partial(Histogram, bounds=(0.1, 0.5, 1.0)),
        )

    def record(
        self,
        handler: str,
        method: str,
        status: int,
        *,
        seconds: float,
        request_bytes: int,
        response_bytes: int,
    ) -> None:
        """Count one finished request. Sizes are those of the Content-Length headers, 0 for a stream."""
        labels = {"handler": handler, "method": method}
        self._requests.sample({**labels, "status": f"{status // 100}xx"}).inc()
        self._duration.sample(labels).observe(seconds)
        self._highr.observe(seconds)
        self._request_size.sample({"handler": handler}).observe(request_bytes)
        self._response_size.sample({"handler": handler}).observe(response_bytes)


_CACHE_CONFIG = {
    "_block_size_resolved": "True",
    "block_size": "128",
    "cache_dtype": "auto",
    "cache_hit_alignment_tokens": "None",
    "effective_attention_block_size": "128",
    "enable_mamba_shared_prefix_checkpoint": "False",
    "enable_prefix_caching": "True",
    "engine": "0",
    "gpu_memory_utilization": "0.92",
    "hash_block_size": "None",
    "is_attention_free": "False",
    "kv_cache_dtype_skip_layers": "[]",
    "kv_cache_layout": "None",
    "kv_cache_max_concurrency": "128.0",
    "kv_cache_memory_bytes": "67108864",
    "kv_cache_size_tokens": "65536",
    "kv_offloading_backend": "native",
    "kv_offloading_size": "None",
    "kv_sharing_fast_prefill": "False",
    "mamba_block_size": "None",
    "mamba_cache_dtype": "auto",
    "mamba_cache_mode": "none",
    "mamba_page_size_padded": "None",
    "mamba_ssm_cache_dtype": "auto",
    "num_cpu_blocks": "None",
    "num_gpu_blocks": "512",
    "num_gpu_blocks_override": "None",
    "prefix_cache_retention_interval": "0",
    "prefix_caching_hash_algo": "sha256",
    "prefix_match_unit": "None",
    "replayssm_buffer_len": "16",
    "skip_page_size_padded": "None",
    "sliding_window": "None",
    "swa_bounded_replay": "True",
    "use_kda_recoverssm": "False",
    "use_replayssm": "False",
    "user_specified_block_size": "False",
}
