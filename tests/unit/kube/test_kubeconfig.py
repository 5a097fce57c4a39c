"""Several kubeconfig files are one configuration, by kubectl's rules; what they do not define is an error."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from rollouts.kube.credentials import context_namespace, load_credentials
from rollouts.kube.errors import NotConfigured
from rollouts.kube.kubeconfig import ContextChoice, resolve


def config(current: str | None = None, **contexts: tuple[str, str, str]) -> dict[str, Any]:
    """Contexts by name: (server, namespace, token); a cluster and a user of the same name each."""
    made: dict[str, Any] = {"apiVersion": "v1", "kind": "Config", "clusters": [], "users": [], "contexts": []}
    if current is not None:
        made["current-context"] = current
    for name, (server, namespace, token) in contexts.items():
        made["clusters"].append({"name": name, "cluster": {"server": server}})
        made["users"].append({"name": name, "user": {"token": token}})
        context = {"cluster": name, "user": name, **({"namespace": namespace} if namespace else {})}
        made["contexts"].append({"name": name, "context": context})
    return made


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write(*contents: dict[str, Any] | str | None) -> None:
        paths = []
        for number, content in enumerate(contents):
            path = tmp_path / f"f{number}" / "config"
            paths.append(str(path))
            if content is not None:
                path.parent.mkdir()
                path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        monkeypatch.setenv("KUBECONFIG", os.pathsep.join(["", *paths]))

    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return write


A = ("http://a", "team-a", "ta")
B = ("http://b", "team-b", "tb")
MERGED = {
    "the current context of the first, defined in the second": ((config("x"), config("y", x=B, y=A)), B),
    "the first file wins per name": ((config("x", x=A), config("x", x=B)), A),
    "the first current context wins": ((config("x", x=A), config("y", y=B)), A),
    "an empty current context is none": ((config("", x=A), config("y", y=B)), B),
    "a missing file is skipped": ((None, config("x", x=A)), A),
}


@pytest.mark.parametrize("case", MERGED)
async def test_files_are_merged_as_kubectl_merges_them(files, case):
    contents, (server, namespace, token) = MERGED[case]
    files(*contents)

    found = await load_credentials()

    assert (found.host, await found.authorization()) == (server, f"Bearer {token}")
    assert context_namespace() == namespace


async def test_options_choose_context_cluster_and_user(files):
    files(config("x", x=A, y=B), config(z=("http://z", "", "tz")))
    choice = ContextChoice(context="y", cluster="z", user="x")

    found = await load_credentials(None, choice)

    assert (found.host, await found.authorization()) == ("http://z", "Bearer ta")
    assert context_namespace(None, choice) == "team-b"
    assert context_namespace(None, "z") == "default"


LOUD = {
    "no file": ((None, None), ContextChoice(), "there is no kubeconfig"),
    "no current context": ((config(x=A),), ContextChoice(), "there are: x"),
    "a context that no file defines": (
        (config("gone", x=A),),
        ContextChoice(),
        "no context is called 'gone'",
    ),
    "a cluster that no file defines": ((config("x", x=A),), ContextChoice(cluster="c"), "the cluster 'c'"),
    "a user that no file defines": ((config("x", x=A),), ContextChoice(user="u"), "the user 'u'"),
    "a server without a scheme": (
        (config("x", x=("10.0.0.1:6443", "", "t")),),
        ContextChoice(),
        "10.0.0.1:6443' without a scheme: write https://10.0.0.1:6443",
    ),
    "a server that is empty": ((config("x", x=("", "", "t")),), ContextChoice(), "has no server"),
    "a server of another scheme": (
        (config("x", x=("ftp://a", "", "t")),),
        ContextChoice(),
        "write https://HOST:PORT",
    ),
    "a port that is none": (
        (config("x", x=("https://a:99999", "", "t")),),
        ContextChoice(),
        "write https://HOST:PORT",
    ),
    "a broken second file": ((config("x", x=A), "{"), ContextChoice(), "no kubeconfig"),
    "a file that is a list": (("[1]",), ContextChoice(), "no mapping"),
    "names that are none": (("clusters: [{}]",), ContextChoice(), "has no name"),
    "clusters that are no list": (("clusters: {}\nusers: 3",), ContextChoice(), "users is no list"),
}


@pytest.mark.parametrize("case", LOUD)
async def test_what_kubectl_would_go_on_without_is_an_error(files, case):
    contents, choice, words = LOUD[case]
    files(*contents)

    with pytest.raises(NotConfigured, match=words):
        context_namespace(None, choice)
    with pytest.raises(NotConfigured):
        await load_credentials(None, choice)


@pytest.mark.parametrize("value", ["false", "true", 1])
def test_a_text_does_not_turn_the_check_of_certificates_off(files, value):
    """kubectl takes truth values alone, and a text "false" would be a true one."""
    written = config("x", x=A)
    written["clusters"][0]["cluster"]["insecure-skip-tls-verify"] = value
    files(written)

    with pytest.raises(NotConfigured, match="write true or false"):
        resolve(None, ContextChoice())


def test_paths_are_relative_to_their_own_file(files, tmp_path):
    first, second = config("x"), config(x=A)
    second["clusters"][0]["cluster"]["certificate-authority"] = "certs/ca.crt"
    second["users"][0]["user"] = {
        "client-certificate": "../c.crt",
        "client-key": "/k.key",
        "exec": {"command": "./bin/login", "apiVersion": "client.authentication.k8s.io/v1"},
    }
    files(first, second)

    found = resolve(None, ContextChoice()).config

    assert found["clusters"][0]["cluster"]["certificate-authority"] == str(tmp_path / "f1/certs/ca.crt")
    user = found["users"][0]["user"]
    assert (user["client-certificate"], user["client-key"]) == (str(tmp_path / "c.crt"), "/k.key")
    assert user["exec"]["command"] == str(tmp_path / "f1/bin/login")


def test_an_explicit_file_is_one_and_has_to_exist(files, tmp_path):
    files(config("x", x=A))

    with pytest.raises(NotConfigured, match="there is no kubeconfig"):
        context_namespace(str(tmp_path / "nowhere"))
