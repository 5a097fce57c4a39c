"""Where the API server is, and how we log in."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from rollouts.kube.connection import ApiRequest, Connection
from rollouts.kube.credentials import load_credentials
from rollouts.kube.errors import NotConfigured


def kubeconfig(path: Path, user: dict[str, Any], *, server: str = "http://127.0.0.1:1") -> str:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "c", "cluster": {"server": server}},
            {"name": "d", "cluster": {"server": "http://d"}},
        ],
        "users": [{"name": "u", "user": user}],
        "contexts": [
            {"name": "x", "context": {"cluster": "c", "user": "u"}},
            {"name": "y", "context": {"cluster": "d", "user": "u"}},
        ],
        "current-context": "x",
    }
    path.write_text(json.dumps(config))
    return str(path)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


async def test_a_token_becomes_a_bearer_header(tmp_path: Path) -> None:
    found = await load_credentials(kubeconfig(tmp_path / "k", {"token": "t"}))

    assert (found.host, await found.authorization()) == ("http://127.0.0.1:1", "Bearer t")
    assert found.tls() is True


async def test_a_context_can_be_named(tmp_path: Path) -> None:
    found = await load_credentials(kubeconfig(tmp_path / "k", {}), "y")

    assert (found.host, await found.authorization()) == ("http://d", None)


async def test_the_environment_names_a_kubeconfig_before_the_home_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home" / ".kube"
    home.mkdir(parents=True)
    kubeconfig(home / "config", {}, server="http://home")
    at_home = await load_credentials()
    monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "k", {}, server="http://env"))
    by_environment = await load_credentials()

    assert (at_home.host, by_environment.host) == ("http://home", "http://env")


async def test_an_exec_plugin_is_asked_for_the_token(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    answer = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "from-plugin", "expirationTimestamp": "2099-01-01T00:00:00Z"},
    }
    plugin.write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\n")
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin)}}

    found = await load_credentials(kubeconfig(tmp_path / "k", user))

    assert await found.authorization() == "Bearer from-plugin"


async def test_a_token_that_cannot_be_renewed_stays_in_use(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    found = await load_credentials(kubeconfig(tmp_path / "k", {"tokenFile": str(token)}))
    token.unlink()
    kept = await found.authorization(renew=True)
    token.write_text("new")

    assert (kept, await found.authorization(renew=True)) == ("Bearer old", "Bearer new")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(None, id="no file"),
        pytest.param("", id="empty"),
        pytest.param("[1]", id="a list"),
        pytest.param("{", id="no YAML"),
        pytest.param("{}", id="no contexts"),
        pytest.param('{"current-context": "x", "contexts": []}', id="a context that is not there"),
    ],
)
async def test_an_unusable_kubeconfig_says_what_to_do(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "k"
    if content is not None:
        path.write_text(content)

    with pytest.raises(NotConfigured, match="KUBECONFIG"):
        await load_credentials(str(path))


async def test_no_configuration_at_all_says_what_to_do() -> None:
    with pytest.raises(NotConfigured, match="--kubeconfig"):
        await load_credentials()


async def test_a_pod_without_its_token_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")

    with pytest.raises(NotConfigured, match="in the pod"):
        await load_credentials()


async def test_who_is_acted_for_stands_in_the_kubeconfig(tmp_path: Path) -> None:
    """As kubectl does it: with the rights of our own user a command would do what the file does not allow."""
    asked_for = {
        "as": "jane",
        "as-uid": "7",
        "as-groups": ["dev", "ops"],
        "as-user-extra": {"Scope/a": ["x", "y"]},
    }
    found = await load_credentials(kubeconfig(tmp_path / "k", {"token": "t", **asked_for}))
    connection = Connection(credentials=found, deadline=1.0)
    headers = connection.headers(ApiRequest(method="GET", path="/"), "Bearer t")
    await connection.pool.close()

    assert [item for item in headers.items() if item[0].startswith("Impersonate-")] == [
        ("Impersonate-User", "jane"),
        ("Impersonate-Uid", "7"),
        ("Impersonate-Group", "dev"),
        ("Impersonate-Group", "ops"),
        ("Impersonate-Extra-Scope%2Fa", "x"),
        ("Impersonate-Extra-Scope%2Fa", "y"),
    ]


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        (
            {"command": "no-such-plugin", "installHint": "get it from example.com"},
            ("no-such-plugin", "example.com"),
        ),
        ({"command": "/bin/false"}, ("/bin/false", "gave no credentials")),
        ({"command": "echo", "args": ["hello"]}, ("echo", "gave no credentials")),
    ],
)
async def test_a_plugin_that_gives_nothing_is_named(
    tmp_path: Path, plugin: dict[str, Any], words: tuple[str, ...]
) -> None:
    """Without a login the server's answer would be about a user called system:anonymous."""
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never", **plugin}}

    with pytest.raises(NotConfigured) as caught:
        await load_credentials(kubeconfig(tmp_path / "k", user))

    assert [word for word in words if word not in str(caught.value)] == []


async def test_a_certificate_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = kubeconfig(
        tmp_path / "k", {"client-certificate": "no.crt", "client-key": "no.key"}, server="https://c"
    )
    found = await load_credentials(path)

    with pytest.raises(NotConfigured, match=str(tmp_path / "no.crt")):
        found.tls()
