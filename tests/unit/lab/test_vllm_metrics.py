"""The simulated pods' metrics are those of vLLM 0.32, name by name."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from rollouts.lab.vllm.pod import SimulatedPod
from tests.kit.polling import eventually

StartPod = Callable[..., Awaitable[SimulatedPod]]

# One line per family of a real server that had base and adapter requests, refusals and an unload:
# name, type, label names, buckets.
SERIES = Path(__file__).with_name("vllm-0.32-series.txt")


def parse(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def shape(family: Metric) -> tuple[str, set[tuple[str, ...]], list[str]]:
    labels = {tuple(sorted(name for name in sample.labels if name != "le")) for sample in family.samples}
    bounds = [sample.labels["le"] for sample in family.samples if sample.name.endswith("_bucket")]
    return family.type, labels, list(dict.fromkeys(bounds))


async def scrape(client: aiohttp.ClientSession, pod: SimulatedPod) -> dict[str, Metric]:
    async with client.get(f"{pod.url}/metrics") as answer:
        assert answer.headers["content-type"] == "text/plain; version=1.0.0; charset=utf-8"
        return parse(await answer.text())


def value(families: Mapping[str, Metric], name: str, **labels: str) -> float:
    """Value of the sample ``name`` whose labels include ``labels``; 0 when there is none."""
    for family in families.values():
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return float(sample.value)
    return 0.0


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "where to?"}], "max_tokens": 4, **fields}


async def exercise(client: aiohttp.ClientSession, pod: SimulatedPod) -> None:
    requests = (
        ("/v1/chat/completions", chat(), 200),
        ("/v1/chat/completions", chat(model="travel-helper-v1", stream=True), 200),
        ("/v1/completions", {"prompt": "", "max_tokens": 1}, 400),
        ("/v1/unload_lora_adapter", {"lora_name": "travel-helper-v1"}, 200),
    )
    for path, body, status in requests:
        async with client.post(pod.url + path, json=body) as answer:
            assert answer.status == status
            await answer.read()


def expected_lines() -> list[str]:
    return SERIES.read_text().splitlines()


async def test_every_family_has_the_type_labels_and_buckets_of_the_real_server(
    client: aiohttp.ClientSession, start_pod: StartPod
) -> None:
    pod = await start_pod(
        served_model="mymodel", max_model_len=512, adapters={"travel-helper-v1": "/adapters/v1"}
    )
    await exercise(client, pod)
    families = await scrape(client, pod)
    expected = {}
    for line in expected_lines():
        name, kind, labels, bounds = line.split(" ")
        expected[name] = (
            kind,
            {tuple(labels.split(",")) if labels != "-" else ()},
            bounds.split(",") if bounds != "-" else [],
        )

    assert {name: shape(family) for name, family in families.items()} == expected


@pytest.mark.parametrize(
    ("family", "label", "values"),
    [
        ("vllm:request_success", "finished_reason", {"stop", "length", "abort", "error", "repetition"}),
        ("vllm:num_requests_waiting_by_reason", "reason", {"capacity", "deferred"}),
        ("vllm:admission_rejections", "reason", {"max_num_queued_reqs", "max_num_queued_tokens"}),
        ("vllm:engine_sleep_state", "sleep_state", {"awake", "weights_offloaded", "discard_all"}),
        (
            "vllm:prompt_tokens_by_source",
            "source",
            {"local_compute", "local_cache_hit", "external_kv_transfer"},
        ),
    ],
)
async def test_label_values_exist_before_the_first_request(
    client: aiohttp.ClientSession, start_pod: StartPod, family: str, label: str, values: set[str]
) -> None:
    families = await scrape(client, await start_pod())
    assert {sample.labels[label] for sample in families[family].samples} == values


async def test_a_finished_request_moves_what_vllm_moves(
    client: aiohttp.ClientSession, start_pod: StartPod
) -> None:
    pod = await start_pod()
    body = chat(max_tokens=5, ignore_eos=True)
    async with client.post(f"{pod.url}/v1/chat/completions", json=body) as answer:
        usage = (await answer.json())["usage"]
    families = await scrape(client, pod)

    assert value(families, "vllm:request_success_total", finished_reason="length") == 1
    assert value(families, "vllm:generation_tokens_total") == usage["completion_tokens"] == 5
    assert value(families, "vllm:prompt_tokens_total") == usage["prompt_tokens"]
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds"):
        assert value(families, f"vllm:{name}_count") == 1
    assert value(families, "vllm:inter_token_latency_seconds_count") == 4
    assert (
        value(families, "http_requests_total", handler="/v1/chat/completions", method="POST", status="2xx")
        == 1
    )


async def test_times_are_the_real_ones(client: aiohttp.ClientSession, start_pod: StartPod) -> None:
    pod = await start_pod(speed=1.0)
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with client.post(f"{pod.url}/v1/chat/completions", json=chat(max_tokens=8)) as answer:
        await answer.read()
    waited = loop.time() - began
    families = await scrape(client, pod)
    ttft = value(families, "vllm:time_to_first_token_seconds_sum")
    e2e = value(families, "vllm:e2e_request_latency_seconds_sum")

    assert 0.003 < ttft <= e2e <= waited


async def test_no_series_but_lora_requests_info_names_the_adapter(
    client: aiohttp.ClientSession, start_pod: StartPod
) -> None:
    pod = await start_pod(adapters={"travel-helper-v1": "/v1", "travel-helper-v2": "/v2"})
    for adapter in ("travel-helper-v1", "travel-helper-v2"):
        async with client.post(f"{pod.url}/v1/chat/completions", json=chat(model=adapter)) as answer:
            assert (await answer.json())["model"] == adapter
    families = await scrape(client, pod)
    naming = {
        family.name
        for family in families.values()
        for sample in family.samples
        if any("travel-helper" in text for text in sample.labels.values())
    }

    assert naming == {"vllm:lora_requests_info"}
    assert value(families, "vllm:request_success_total", model_name="mymodel", finished_reason="length") == 2


async def test_lora_requests_info_is_absent_first_and_keeps_old_combinations(
    client: aiohttp.ClientSession, start_pod: StartPod
) -> None:
    pod = await start_pod(adapters={"a": "/a", "b": "/b"})
    assert (await scrape(client, pod))["vllm:lora_requests_info"].samples == []
    for adapter in ("a", "b"):
        async with client.post(f"{pod.url}/v1/chat/completions", json=chat(model=adapter)) as answer:
            await answer.read()
    samples = (await scrape(client, pod))["vllm:lora_requests_info"].samples
    newest = max(samples, key=lambda sample: sample.value)

    assert {sample.labels["running_lora_adapters"] for sample in samples} == {"", "a", "b"}
    assert all(s.labels["waiting_lora_adapters"] == s.labels["running_lora_adapters"] for s in samples)
    assert newest.labels["running_lora_adapters"] == ""


async def test_a_client_that_leaves_counts_in_the_first_token_only(
    client: aiohttp.ClientSession, start_pod: StartPod
) -> None:
    pod = await start_pod(speed=0.05)
    answer = await client.post(
        f"{pod.url}/v1/chat/completions", json=chat(stream=True, max_tokens=500, ignore_eos=True)
    )
    await answer.content.readuntil(b"\n\n")
    answer.close()

    async def gone() -> dict[str, Metric]:
        seen = await scrape(client, pod)
        return seen if value(seen, "vllm:num_requests_running") == 0 else {}

    families = await eventually(gone)

    assert value(families, "vllm:time_to_first_token_seconds_count") == 1
    assert value(families, "vllm:generation_tokens_total") >= 1
    assert value(families, "vllm:e2e_request_latency_seconds_count") == 0
    assert sum(sample.value for sample in families["vllm:request_success"].samples) == 0
    assert value(families, "http_requests_total", handler="/v1/chat/completions", status="2xx") == 1


async def test_counters_start_again_after_a_crash_with_a_new_start_time(
    client: aiohttp.ClientSession, start_pod: StartPod
) -> None:
    pod = await start_pod()
    async with client.post(f"{pod.url}/v1/chat/completions", json=chat()) as answer:
        await answer.read()
    before = await scrape(client, pod)
    pod.crash(restart_after=0.0)
    await eventually(lambda: pod.running)
    after = await scrape(client, pod)

    assert value(before, "vllm:prompt_tokens_total") > 0 == value(after, "vllm:prompt_tokens_total")
    assert value(after, "process_start_time_seconds") > value(before, "process_start_time_seconds")
