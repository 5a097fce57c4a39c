"""How the pods of a pool are called: a key and a certificate go to the pods of their namespace and pool alone."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rollouts.controller.adapters import AdapterSettings, AdapterWatch
from rollouts.controller.pages import metrics_pages
from rollouts.controller.settings import Settings, SettingsError, read_config
from rollouts.objects.pods import Pod
from rollouts.runtime.clock import SystemClock
from rollouts.runtime.modelservers import ModelServerBook, ModelServers
from rollouts.runtime.objects import ObjectKey
from rollouts.sources.base import ScrapeTarget
from rollouts.sources.scraper import PodHistory, PodScraper
from tests.kit.modelserver import GuardedPods

WAITING = "vllm:num_requests_waiting"
Book = dict[tuple[str, str], ModelServers]


@pytest.fixture
async def pods(tmp_path: Path) -> AsyncIterator[GuardedPods]:
    guarded = GuardedPods(tmp_path)
    yield guarded
    await guarded.stop()


@pytest.fixture
def keys(tmp_path: Path) -> Book:
    for name in ("a", "a1", "b"):
        (tmp_path / name).write_text(f"key-{name}\n")
    return {
        ("team-a", ""): ModelServers(api_key_file=tmp_path / "a"),
        ("team-a", "pool-1"): ModelServers(api_key_file=tmp_path / "a1"),
        ("team-b", "pool-1"): ModelServers(api_key_file=tmp_path / "b"),
    }


@pytest.mark.parametrize(
    ("namespace", "pool", "want"),
    [
        ("team-a", "pool-1", "key-a1"),
        ("team-a", "pool-2", "key-a"),
        ("team-b", "pool-1", "key-b"),
        ("team-b", "pool-2", None),
        ("team-c", "pool-1", None),
    ],
)
def test_the_nearest_entry_of_the_namespace_counts(
    keys: Book, namespace: str, pool: str, want: str | None
) -> None:
    headers = ModelServerBook(keys).client(namespace, pool).arguments()["headers"]

    assert headers.get("authorization") == (want and f"Bearer {want}")


def pages(address: str, namespace: str = "team", pool: str = "pool-1") -> list[ScrapeTarget]:
    host, _, port = address.rpartition(":")
    return metrics_pages([Pod(name="p", ip=host, ready=True, pool=pool)], [int(port)], namespace)


async def scraped(book: Book, endpoints: list[ScrapeTarget]) -> PodHistory:
    scraper = PodScraper(SystemClock(), model_servers=ModelServerBook(book))
    (history,) = scraper.follow(endpoints, [WAITING], 10.0)
    await scraper.refresh([history])
    await scraper.close()
    return history


@pytest.mark.parametrize("how", ["authority and name", "any certificate"])
async def test_pages_behind_tls_and_a_key_are_read(pods: GuardedPods, tmp_path: Path, how: str) -> None:
    address = await pods.start(key="right", metrics_too=True)
    (tmp_path / "api-key").write_text("right\n")
    trust: dict[str, Any] = {"verify": False}
    if how == "authority and name":
        trust = {"ca": pods.ca, "server_name": "vllm.example"}
    servers = ModelServers(scheme="https", api_key_file=tmp_path / "api-key", **trust)

    history = await scraped({("team", ""): servers}, pages(address))

    assert history.error == ""
    assert history.latest is not None
    assert history.latest[1].total(WAITING) == 3


@pytest.mark.parametrize(
    ("tls", "servers", "says"),
    [
        (True, ModelServers(), "scheme: https of modelServers"),
        (True, ModelServers(scheme="https"), "caFile, serverName"),
        (False, ModelServers(scheme="https"), "leave scheme: https of modelServers out"),
        (False, ModelServers(api_key_file=Path("/nowhere/key")), "/nowhere/key"),
    ],
    ids=["TLS is spoken", "an unknown authority", "no TLS is spoken", "no such file"],
)
async def test_a_page_that_cannot_be_read_says_which_setting_may_help(
    pods: GuardedPods, tls: bool, servers: ModelServers, says: str
) -> None:
    history = await scraped({("team", ""): servers}, pages(await pods.start(tls=tls)))

    assert says in history.error


async def test_the_page_of_a_picker_is_asked_without_a_key(pods: GuardedPods, keys: Book) -> None:
    host, _, port = (await pods.start(tls=False)).rpartition(":")
    page = ScrapeTarget(pod="picker", ip=host, port=int(port), namespace="team-a")

    assert (await scraped(keys, [page])).error == ""
    assert pods.keys == [None]


async def test_a_key_that_is_replaced_is_read_again(pods: GuardedPods, tmp_path: Path) -> None:
    file = tmp_path / "api-key"
    file.write_text("old")
    client = ModelServerBook({("team", ""): ModelServers(api_key_file=file)}).client("team", "p")
    file.write_text("new")
    os.utime(file, ns=(1, 1))

    assert client.arguments()["headers"] == {"authorization": "Bearer new"}


async def test_a_pod_of_another_namespace_is_asked_for_its_models_without_the_key(
    pods: GuardedPods, keys: Book
) -> None:
    host, _, port = (await pods.start(tls=False)).rpartition(":")
    watch = AdapterWatch(SystemClock(), AdapterSettings(), ModelServerBook(keys))
    pod = Pod(name="p", ip=host, ready=True, pool="pool-1")
    for namespace in ("team-b", "stranger"):
        watch.follow(ObjectKey(namespace, "r"), [pod], int(port), [])
    try:
        for key, known in list(watch._pods.items()):
            await watch._look(key, known)
    finally:
        await watch.close()

    assert sorted(map(str, pods.keys)) == ["Bearer key-b", "None"]


# --- the configuration file ------------------------------------------------------------------------


def config(tmp_path: Path, **sections: Any) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(sections))
    return str(path)


def test_the_file_lists_servers_by_namespace_and_pool(tmp_path: Path) -> None:
    entries = [
        {"namespace": "a", "apiKeyFile": "/k/a"},
        {"namespace": "b", "pool": "p", "scheme": "https", "caFile": "/ca", "serverName": "vllm"},
        {"namespace": "c", "scheme": "https", "insecureSkipVerify": True},
    ]

    read = read_config(config(tmp_path, modelServers=entries), Settings(namespace=None))

    assert read.model_servers == {
        ("a", ""): ModelServers(api_key_file=Path("/k/a")),
        ("b", "p"): ModelServers(scheme="https", ca=Path("/ca"), server_name="vllm"),
        ("c", ""): ModelServers(scheme="https", verify=False),
    }


def test_the_older_spelling_of_keys_is_read(tmp_path: Path) -> None:
    keys = [{"namespace": "a", "file": "/k/a"}, {"namespace": "b", "pool": "p", "file": "/k/b"}]

    read = read_config(config(tmp_path, adapters={"apiKeys": keys}), Settings(namespace=None))

    assert read.model_servers == {
        ("a", ""): ModelServers(api_key_file=Path("/k/a")),
        ("b", "p"): ModelServers(api_key_file=Path("/k/b")),
    }


@pytest.mark.parametrize(
    ("sections", "namespace", "words"),
    [
        ({"adapters": {"apiKeyFile": "/k"}}, None, "every namespace"),
        ({"adapters": {"apiKeys": {"a": "/k"}}}, "x", "must be a list"),
        ({"adapters": {"apiKeys": [{"file": "/k"}]}}, "x", "needs a namespace"),
        ({"adapters": {"apiKeys": [{"namespace": "a"}]}}, "x", "needs a namespace and a file"),
        ({"adapters": {"apiKeys": [{"namespace": "a", "file": "/k", "key": "s"}]}}, "x", "an entry has"),
        ({"adapters": {"apiKeys": [{"namespace": "a", "file": "/k"}] * 2}}, "x", "two entries"),
        ({"modelServers": [{"scheme": "https"}]}, "x", "needs a namespace"),
        ({"modelServers": ["a"]}, "x", "a mapping"),
        ({"modelServers": [{"namespace": "a", "apiKey": "s"}]}, "x", "unknown: apiKey"),
        ({"modelServers": [{"namespace": "a", "scheme": "grpc"}]}, "x", "http or https"),
        ({"modelServers": [{"namespace": "a", "caFile": "/ca"}]}, "x", "needs scheme: https"),
        ({"modelServers": [{"namespace": "a", "pool": 3}]}, "x", "pool is of the wrong type"),
        ({"modelServers": [{"namespace": "a", "insecureSkipVerify": "no"}]}, "x", "insecureSkipVerify is of"),
        (
            {
                "modelServers": [{"namespace": "a"}],
                "adapters": {"apiKeys": [{"namespace": "b", "file": "/k"}]},
            },
            "x",
            "write the key into the entry of modelServers",
        ),
    ],
)
def test_an_entry_that_cannot_be_used_is_refused_in_words(
    tmp_path: Path, sections: dict[str, Any], namespace: str | None, words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        read_config(config(tmp_path, **sections), Settings(namespace=namespace))


def test_one_key_for_all_is_meant_where_one_namespace_is_watched(tmp_path: Path) -> None:
    read = read_config(config(tmp_path, adapters={"apiKeyFile": "/k"}), Settings(namespace="x"))

    assert ModelServerBook(read.model_servers).entries["", ""].api_key_file == Path("/k")
