"""A model server's key goes to the pods of its namespace and pool, and to no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from rollouts.controller.adapter_keys import ModelServerKey, authorization
from rollouts.controller.adapters import AdapterSettings, AdapterWatch
from rollouts.controller.settings import Settings, SettingsError, read_config
from rollouts.objects.pods import Pod
from rollouts.runtime.clock import SystemClock
from rollouts.runtime.objects import ObjectKey
from tests.kit.polling import eventually


@pytest.fixture
def keys(tmp_path: Path) -> tuple[ModelServerKey, ...]:
    for name in ("a", "a1", "b"):
        (tmp_path / name).write_text(f"key-{name}\n")
    return (
        ModelServerKey(namespace="team-a", file=str(tmp_path / "a")),
        ModelServerKey(namespace="team-a", pool="pool-1", file=str(tmp_path / "a1")),
        ModelServerKey(namespace="team-b", pool="pool-1", file=str(tmp_path / "b")),
    )


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
def test_the_nearest_key_of_the_namespace_counts(keys, namespace, pool, want):
    assert authorization(keys, "", namespace, pool).get("Authorization") == (want and f"Bearer {want}")


async def test_a_pod_of_another_namespace_is_asked_without_the_key(keys):
    seen: dict[str, list[str | None]] = {"127.0.0.1": []}

    async def models(request: web.Request) -> web.Response:
        seen["127.0.0.1"].append(request.headers.get("Authorization"))
        return web.json_response({"data": []})

    app = web.Application()
    app.router.add_get("/v1/models", models)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    watch = AdapterWatch(SystemClock(), AdapterSettings(api_keys=keys))
    pod = Pod(name="p", ip="127.0.0.1", ready=True, pool="pool-1")
    for namespace in ("team-b", "stranger"):
        watch.follow(ObjectKey(namespace, "r"), [pod], port, [])
    try:
        for key, known in list(watch._pods.items()):
            await watch._look(key, known)
        await eventually(lambda: len(seen["127.0.0.1"]) >= 2)
    finally:
        await watch.close()
        await runner.cleanup()

    assert sorted(map(str, seen["127.0.0.1"])) == ["Bearer key-b", "None"]


def config(tmp_path: Path, adapters: Any) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"adapters": adapters}))
    return str(path)


def test_the_file_lists_keys_by_namespace_and_pool(tmp_path):
    entries = [{"namespace": "a", "file": "/k/a"}, {"namespace": "b", "pool": "p", "file": "/k/b"}]

    read = read_config(config(tmp_path, {"apiKeys": entries}), Settings(namespace=None))

    assert read.adapters.api_keys == (
        ModelServerKey(namespace="a", file="/k/a"),
        ModelServerKey(namespace="b", pool="p", file="/k/b"),
    )


@pytest.mark.parametrize(
    ("adapters", "namespace", "words"),
    [
        ({"apiKeyFile": "/k"}, None, "every namespace"),
        ({"apiKeys": {"a": "/k"}}, "x", "must be a list"),
        ({"apiKeys": [{"file": "/k"}]}, "x", "needs a namespace"),
        ({"apiKeys": [{"namespace": "a"}]}, "x", "needs a namespace and a file"),
        ({"apiKeys": [{"namespace": "a", "file": "/k", "key": "s"}]}, "x", "an entry has"),
        ({"apiKeys": [{"namespace": "a", "file": "/k"}, {"namespace": "a", "file": "/l"}]}, "x", "two keys"),
    ],
)
def test_a_key_without_a_place_is_refused_in_words(tmp_path, adapters, namespace, words):
    with pytest.raises(SettingsError, match=words):
        read_config(config(tmp_path, adapters), Settings(namespace=namespace))


def test_one_key_for_all_is_meant_where_one_namespace_is_watched(tmp_path):
    read = read_config(config(tmp_path, {"apiKeyFile": "/k"}), Settings(namespace="x"))

    assert read.adapters.api_key_file == "/k"
