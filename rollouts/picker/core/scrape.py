"""What is read from a pod, and how often. Pure: text and figures in, figures out.

Metric names: vLLM (``vllm:kv_cache_usage_perc``, before 0.10 ``vllm:gpu_cache_usage_perc``) and SGLang. Of
``vllm:lora_requests_info`` the series with the largest value, a time, is the current one. Pods are scraped
fast only while they have work in flight: an idle pod's figures do not change, and scraping costs the model
server time.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import NamedTuple

from rollouts.exposition_lines import read_line
from rollouts.objects.served import listed_models
from rollouts.picker.core.schedule import Load

__all__ = ["UNKNOWN", "ModelList", "ScrapeConfig", "parse_metrics", "parse_models", "wait_for"]

_LINE = re.compile(
    r"^(?:vllm:num_requests_running|vllm:num_requests_waiting|vllm:kv_cache_usage_perc"
    r"|vllm:gpu_cache_usage_perc|vllm:lora_requests_info|sglang:num_running_reqs|sglang:num_queue_reqs"
    r"|sglang:token_usage)[ {][^\n]*+",
    re.MULTILINE,
)
_RUNNING = ("vllm:num_requests_running", "sglang:num_running_reqs")
_WAITING = ("vllm:num_requests_waiting", "sglang:num_queue_reqs")
_OF_SCHEDULERS = ("sglang:num_running_reqs", "sglang:num_queue_reqs")
_COPIES = ("tp_rank", "pp_rank", "moe_ep_rank")
"""Ranks of SGLang that work on the same requests."""
_KV = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "sglang:token_usage")

MAX_SAMPLES = 10_000
_MAX_NUMBER = 64
"""Digits are read in quadratic time; no double needs more than 25."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrapeConfig:
    """Seconds. ``busy`` and ``idle``: between two scrapes of a pod; ``models``: of its model list.

    ``retry`` is the wait after a failure, doubled each time up to ``idle``.
    """

    busy: float = 0.1
    idle: float = 5.0
    models: float = 5.0
    timeout: float = 2.0
    retry: float = 0.5
    max_bytes: int = 4 << 20


def wait_for(config: ScrapeConfig, *, busy: bool, failures: int) -> float:
    """Seconds until the next scrape of a pod."""
    if failures:
        return min(config.idle, config.retry * 2.0 ** min(failures - 1, 10))
    return config.busy if busy else config.idle


class ModelList(NamedTuple):
    """The names in an answer of ``/v1/models``, and those of them that are adapters; None: not known."""

    names: frozenset[str] | None = None
    adapters: frozenset[str] = frozenset()


UNKNOWN = ModelList()


def parse_metrics(text: str, models: ModelList) -> Load:
    """The load in a Prometheus exposition. What is not there, or is no finite number, counts as 0.

    Several engines behind one pod are added up, the fullest cache counts. With priority scheduling SGLang shows each
    priority beside their sum, whose label is empty: the sum counts; of its ranks that share their requests the busiest.
    """
    running = waiting = kv = 0.0
    newest, adapters, slots = -1.0, "", 0
    counted = dict[tuple[str, frozenset[tuple[str, str]]], float]()
    for found in itertools.islice(_LINE.finditer(text), MAX_SAMPLES):
        sample = read_line(found.group())
        if sample is None or (sample.name in _OF_SCHEDULERS and sample.labels.get("priority")):
            continue
        name, value = sample.name, _number(sample.value)
        if name in _OF_SCHEDULERS:
            key = name, frozenset(pair for pair in sample.labels.items() if pair[0] not in _COPIES)
            before = counted.get(key, 0.0)
            counted[key] = max(before, value)
            value = counted[key] - before
        if name in _RUNNING:
            running += value
        elif name in _WAITING:
            waiting += value
        elif name in _KV:
            kv = max(kv, value)
        elif value > newest:
            newest, adapters = value, sample.labels.get("running_lora_adapters", "")
            slots = int(_number(sample.labels.get("max_lora", "0")))
    return Load(
        running=int(running),
        waiting=int(waiting),
        kv_usage=min(kv, 1.0),
        active_adapters=frozenset(filter(None, (name.strip() for name in adapters.split(",")))),
        max_adapters=slots,
        models=models.names,
        adapters=models.adapters,
    )


def _number(text: str) -> float:
    try:
        value = float(text) if len(text) <= _MAX_NUMBER else 0.0
    except ValueError:
        return 0.0
    return value if 0.0 <= value < 1e15 else 0.0  # also false for NaN


def parse_models(body: bytes) -> ModelList:
    """The names in an answer of ``/v1/models``; nothing known when it is not one.

    vLLM and SGLang give an adapter its base model as ``parent``, and a base model none.
    """
    cards = listed_models(body)
    if cards is None:
        return UNKNOWN
    return ModelList(
        names=frozenset(card["id"] for card in cards),
        adapters=frozenset(card["id"] for card in cards if card.get("parent")),
    )
