"""A real vLLM 0.32.0 answered these requests and wrote this page (``benchmarks.peers.vllm``): what we make of it.

The picker reads what vLLM reads, the simulated server answers as it does, and every series that we ask for is there.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.peers.vllm_cpu.exchanges import asks
from rollouts.analysis.catalogue import CATALOGUE, DEFAULT_PRESETS, SERVERS
from rollouts.analysis.exposition import parse_exposition
from rollouts.analysis.logical import read as logical_value
from rollouts.analysis.offers import POD_OFFER
from rollouts.controller.adapter_content import Model, answer_text, has_requests, read_models
from rollouts.controller.model_server_calls import own_words
from rollouts.lab.vllm.pod import Fleet
from rollouts.lab.vllm.spec import PodSpec
from rollouts.picker.core.ports import BufferBudget
from rollouts.picker.core.reader import RequestReader
from rollouts.picker.core.routing import Refusal, Request
from rollouts.picker.core.scrape import UNKNOWN, parse_metrics, parse_models

FOLDER = Path(__file__).parent / "servers" / "vllm-0.32.0"
EXCHANGES: list[dict[str, Any]] = json.loads((FOLDER / "exchanges.json").read_text("utf-8"))
PAGE = (FOLDER / "metrics.txt").read_text("utf-8")
POSTS = [one for one in EXCHANGES if one["method"] == "POST" and one["path"].startswith("/v1/")]
COMPLETIONS = [one for one in EXCHANGES if one["path"] == "/v1/completions" and one["method"] == "POST"]


def named(exchanges: list[dict[str, Any]]) -> Any:
    return pytest.mark.parametrize("one", exchanges, ids=lambda one: one["name"][:60])


def exchange(name: str) -> dict[str, Any]:
    (found,) = [one for one in EXCHANGES if one["name"] == name]
    return found


def test_the_recording_is_whole() -> None:
    """It is of the requests that ``make peers`` asks a real server."""
    known = [(one["name"], one["method"], one["path"], one["body"].encode("latin-1")) for one in EXCHANGES]

    assert known == [(ask.name, ask.method, ask.path, ask.body) for ask in asks()]
    assert {one["status"] for one in EXCHANGES} == {200, 307, 400, 404, 405, 500}


# --- the picker reads requests as vLLM does ------------------------------------------------------------------


def read(one: dict[str, Any], size: int) -> Request | Refusal:
    """What the picker makes of a request that comes in pieces of ``size`` bytes."""
    headers = {name.encode(): value.encode() for name, value in one["headers"].items()}
    reader = RequestReader(headers, frozenset({"model", "prompt"}), BufferBudget())
    body = one["body"].encode("latin-1")
    for begin in range(0, len(body), size):
        if (refusal := reader.feed(body[begin : begin + size])) is not None:
            return refusal
    return reader.finish(None)


@pytest.mark.parametrize("size", [7, 1 << 16])
@named(POSTS)
def test_the_picker_refuses_nothing_that_vllm_reads(one: dict[str, Any], size: int) -> None:
    found = read(one, size)

    if one["status"] in (200, 404, 500):
        assert isinstance(found, Request), found
        # vLLM does not look at a content coding; the picker does, and leaves what it cannot undo to the server.
        assert found.unread is None or "content-encoding" in one["headers"]


@pytest.mark.parametrize("size", [7, 1 << 16])
@named([one for one in COMPLETIONS if one["status"] in (200, 404)])
def test_the_picker_finds_the_model_that_vllm_finds(one: dict[str, Any], size: int) -> None:
    found = read(one, size)
    assert isinstance(found, Request)

    if one["status"] == 404:
        assert f"The model `{found.model}` does not exist." in one["answer"]
    elif one["media"] == "application/json":
        assert found.model in ("", json.loads(one["answer"])["model"])


# --- the simulated server answers as vLLM does ---------------------------------------------------------------

ADAPTERS = "${FOLDER}/adapters"
LARGE = f"{ADAPTERS}/large"
DIFFERENT = {
    "half a surrogate pair in the prompt": "no tokenizer reads the prompt",
    'max_tokens "2"': "fields are not bent into their type as pydantic does",
    'stream "yes"': "fields are not bent into their type as pydantic does",
    'prompt "aaaaaaaaaaa': "a token is four characters, of the real one's tiny tokenizer one",
}
"""What the simulated server is known not to play."""


@pytest.fixture(scope="module")
def answered() -> dict[int, tuple[int, str, str]]:
    """By the place of the request: status, media type and text of what the simulated server answers to all in turn."""
    return asyncio.run(ask_simulated())


async def ask_simulated() -> dict[int, tuple[int, str, str]]:
    found = {}
    spec = PodSpec(
        name="qwen-0",
        address="127.0.0.1",
        port=0,
        speed=1000.0,
        max_model_len=512,
        model="${FOLDER}/model",
        pooling=False,
        adapter_paths=(f"{ADAPTERS}/v1", f"{ADAPTERS}/v2", LARGE),
        large_adapters=(LARGE,),
    )
    fleet = Fleet([spec])
    async with fleet, aiohttp.ClientSession(skip_auto_headers=["content-type"]) as session:
        url = fleet.pods["qwen-0"].url
        for place, one in enumerate(EXCHANGES):
            async with session.request(
                one["method"], url + one["path"], data=one["body"].encode("latin-1"),
                headers=one["headers"], allow_redirects=False,
            ) as answer:  # fmt: skip
                found[place] = answer.status, answer.headers.get("content-type", ""), await answer.text()
    return found


@pytest.mark.parametrize("place", range(len(EXCHANGES)), ids=lambda place: EXCHANGES[place]["name"][:60])
def test_the_simulated_server_answers_as_vllm(answered: dict[int, tuple[int, str, str]], place: int) -> None:
    one, (status, media, text) = EXCHANGES[place], answered[place]
    # Of a good answer the text is its own.
    said, real = ("", "") if status < 400 and media else (text, one["answer"])
    same = (status, media, said) == (one["status"], one["media"], real)

    assert same is (one["name"] not in DIFFERENT), (one["status"], one["answer"], status, text)


@named([one for one in EXCHANGES if one["status"] == 200 and one["path"].startswith("/v1/")])
def test_a_good_answer_of_the_simulated_server_has_no_member_that_vllm_has_not(
    answered: dict[int, tuple[int, str, str]], one: dict[str, Any]
) -> None:
    if one["name"] in DIFFERENT or one["media"] != "application/json":
        return
    found = json.loads(answered[EXCHANGES.index(one)][2])

    assert strange(found, json.loads(one["answer"])) == []


def strange(found: Any, real: Any, where: str = "") -> list[str]:
    """Members of ``found`` that ``real`` lacks, or has with another type."""
    if isinstance(found, dict) and isinstance(real, dict):
        missing = [f"{where}.{key}" for key in found.keys() - real.keys()]
        return missing + [
            line
            for key in found.keys() & real.keys()
            for line in strange(found[key], real[key], f"{where}.{key}")
        ]
    if isinstance(found, list) and isinstance(real, list):
        return [line for pair in zip(found, real, strict=False) for line in strange(*pair, where + "[]")]
    return [] if isinstance(found, type(real)) else [f"{where}: {found!r}, not {real!r}"]


# --- its metrics page ----------------------------------------------------------------------------------------

NOT_EXPOSED = {"gpu_cache_usage_perc", "time_per_output_token_seconds"}
"""Names of versions before 0.32, which stand beside the new ones in the catalogue."""


@pytest.mark.parametrize("logical", sorted(SERVERS["vLLM"]))
def test_the_page_has_every_series_that_the_catalogue_reads(logical: str) -> None:
    names = {selector.name for group in SERVERS["vLLM"][logical] for selector in group}
    page = parse_exposition(PAGE.encode(), frozenset(names))
    first = SERVERS["vLLM"][logical][0]
    exposed = page.series.keys() | page.histograms.keys()

    assert {selector.name for selector in first} <= exposed
    assert {name.removeprefix("vllm:") for name in names - exposed} <= NOT_EXPOSED


def test_every_label_value_that_the_catalogue_picks_is_there() -> None:
    """Of the finish reasons, handlers and methods; statuses appear with the first answer that has them."""
    said: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(PAGE):
        for sample in family.samples:
            for label, value in sample.labels.items():
                said.setdefault(label, set()).add(value)
    picked = [
        (label, value)
        for groups in SERVERS["vLLM"].values()
        for group in groups
        for selector in group
        for chosen in (selector.any_of or {}, selector.none_of or {})
        for label, values in chosen.items()
        for value in values
    ]

    assert picked
    never_asked = {"HEAD", "OPTIONS", "5xx", "/v1/audio/transcriptions", "/v1/audio/translations"}
    uncounted = {"/v1/load_lora_adapter"}
    assert {value for label, value in picked if value not in said[label]} == never_asked | uncounted


def test_what_is_counted_is_what_was_asked() -> None:
    def count(logical: str) -> float:
        groups = POD_OFFER.groups(logical)
        names = frozenset(selector.name for group in groups for selector in group)
        value = logical_value(parse_exposition(PAGE.encode(), names), groups)
        assert value is not None
        return value

    paths = ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages")
    posted = [one for one in EXCHANGES if one["method"] == "POST" and one["path"].rstrip("/") in paths]
    generated = [one for one in posted if one["status"] == 200]

    assert count("succeeded") == count("finished") == count("answered") == len(generated)
    assert count("requests") == len(posted)
    assert count("errors") == count("aborted") == count("in_flight") == 0
    assert count("tokens") > len(generated)


def test_the_default_presets_can_all_be_compared() -> None:
    rows = [row for row in CATALOGUE.values() if set(row.presets) & set(DEFAULT_PRESETS)]

    assert len(rows) == len(DEFAULT_PRESETS)
    assert {row.name for row in rows if row.name != "lost"} <= SERVERS["vLLM"].keys()


def test_the_simulated_servers_metrics_are_those_of_the_page() -> None:
    """``vllm-0.32-series.txt``, against which the simulated server is tested: types, labels and buckets of the page."""
    listed = Path(__file__).parents[1] / "unit" / "lab" / "vllm-0.32-series.txt"
    found = []
    for family in text_string_to_metric_families(PAGE):
        labels = {
            ",".join(sorted(name for name in sample.labels if name != "le")) for sample in family.samples
        }
        bounds = dict.fromkeys(one.labels["le"] for one in family.samples if one.name.endswith("_bucket"))
        assert len(labels) == 1
        found.append(f"{family.name} {family.type} {labels.pop() or '-'} {','.join(bounds) or '-'}")

    assert sorted(found) == sorted(listed.read_text("utf-8").splitlines())


def test_the_picker_reads_the_load_of_the_page() -> None:
    load = parse_metrics(PAGE, UNKNOWN)

    assert (load.running, load.waiting, load.kv_usage, load.max_adapters) == (0, 0, 0.0, 2)
    assert load.active_adapters == frozenset()
    busy = PAGE.replace('running_lora_adapters="",', 'running_lora_adapters="travel-v1",')
    assert parse_metrics(busy, UNKNOWN).active_adapters == {"travel-v1"}


# --- its adapters --------------------------------------------------------------------------------------------


def test_models_are_read_with_their_roots_and_parents() -> None:
    answer = exchange("GET /v1/models with adapters")["answer"]
    adapters = {
        name: Model(root=f"{ADAPTERS}/{name[-2:]}", parent="mymodel") for name in ("travel-v1", "travel-v2")
    }

    assert read_models(answer) == {"mymodel": Model(root="${FOLDER}/model"), **adapters}
    assert parse_models(answer.encode()).adapters == set(adapters)
    after = read_models(exchange("GET /v1/models after the unload")["answer"])
    assert after is not None
    assert "travel-v2" not in after


@named([one for one in EXCHANGES if one["path"].endswith("lora_adapter") and one["status"] != 200])
def test_the_servers_words_are_told_of_each_refused_load(one: dict[str, Any]) -> None:
    words = own_words(one["answer"])

    assert words == " ".join(json.loads(one["answer"])["error"]["message"].split())[:300]


def test_adapters_answer_otherwise_than_their_base() -> None:
    texts = {name: answer_text(exchange(f"asked of {name}")["answer"]) for name in ("mymodel", "travel-v2")}

    assert texts["mymodel"] != texts["travel-v2"]


def test_no_request_of_an_adapter_is_left_when_all_have_ended() -> None:
    running = 'vllm:num_requests_running{engine="0",model_name="mymodel"} '
    busy = PAGE.replace('running_lora_adapters="",', 'running_lora_adapters="travel-v1",')
    busy = busy.replace(f"{running}0.0", f"{running}1.0")

    assert busy.count(f"{running}1.0") == 1
    assert has_requests(busy.encode(), "travel-v1")
    assert not has_requests(busy.encode(), "travel-v2")
    assert not has_requests(PAGE.encode(), "travel-v1")
