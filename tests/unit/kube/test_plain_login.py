"""What a kubeconfig says plainly is read as the `kubernetes` package reads it, and without it."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config.kube_config import KubeConfigLoader

from rollouts.kube.plain import plain_login
from rollouts.lab.kubeconfig import write_kubeconfig

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
DATA = base64.b64encode(PEM.encode()).decode()
CLUSTERS: list[dict[str, Any]] = [
    {"server": "http://127.0.0.1:8080/"},
    {"server": "https://c:6443", "certificate-authority-data": DATA, "tls-server-name": "kubernetes"},
    {"server": "https://c/k8s/clusters/c-1", "insecure-skip-tls-verify": True, "proxy-url": "http://p:3128"},
    {"server": "https://c", "certificate-authority": "ca.crt"},
]
USERS: list[dict[str, Any]] = [
    {},
    {"token": "abc"},
    {"tokenFile": "token"},
    {"client-certificate": "ca.crt", "client-key": "ca.crt"},
    {"client-certificate-data": DATA, "client-key-data": DATA, "token": ""},
]


def config(cluster: dict[str, Any], user: dict[str, Any]) -> dict[str, Any]:
    return {
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }


def write(**files: str) -> None:
    for name, text in files.items():
        Path(name).write_text(text, encoding="utf-8")


def content(file: str | None, data: str | bytes | None = None) -> str | None:
    """A certificate, wherever it is."""
    if file:
        return Path(file).read_text(encoding="utf-8")
    return data.decode() if isinstance(data, bytes) else data


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("user", USERS)
async def test_it_says_what_the_library_says(cluster, user, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(token="from-file", **{"ca.crt": PEM})
    told = Configuration()
    await cast(Any, KubeConfigLoader)(config_dict=config(cluster, user)).load_and_set(told)

    found = await plain_login(config(cluster, user))

    assert found is not None
    for name in ("verify_ssl", "proxy", "tls_server_name", "api_key"):
        assert (getattr(found, name) or None) == (getattr(told, name) or None), name
    assert found.host.rstrip("/") == told.host.rstrip("/")
    assert found.api_key == told.api_key
    if cluster["server"].startswith("https"):
        assert content(found.ssl_ca_cert, found.ca_cert_data) == content(told.ssl_ca_cert, told.ca_cert_data)
        assert content(found.cert_file, found.cert_data) == content(told.cert_file)
        assert content(found.key_file, found.key_data) == content(told.key_file)


@pytest.mark.parametrize(
    "user",
    [
        {"exec": {"command": "aws", "apiVersion": "client.authentication.k8s.io/v1"}},
        {"auth-provider": {"name": "oidc"}},
        {"username": "a", "password": "b"},
        {"client-certificate": "a.crt", "client-key-data": DATA},
    ],
)
async def test_whatever_else_is_in_it_is_left_to_the_library(user):
    assert await plain_login(config(CLUSTERS[0], user)) is None


async def test_a_token_file_is_read_again(tmp_path):
    file = tmp_path / "token"
    file.write_text("one\n", encoding="utf-8")
    found = await plain_login(config(CLUSTERS[0], {"tokenFile": str(file), "token": "stale"}))
    assert found is not None
    before = found.api_key
    file.write_text("two", encoding="utf-8")
    await found.reload()

    assert [before, found.api_key] == [{"BearerToken": "Bearer one"}, {"BearerToken": "Bearer two"}]


async def test_data_that_is_none_is_said():
    with pytest.raises(ValueError, match="client-key-data is not base64"):
        await plain_login(config(CLUSTERS[0], {"client-certificate-data": DATA, "client-key-data": "%%%"}))


def test_get_imports_neither_the_library_nor_models(tmp_path):
    write_kubeconfig(tmp_path / "kubeconfig", server="http://127.0.0.1:1")
    program = (
        "import sys; from click.testing import CliRunner; from rollouts.cli.main import main; "
        f"code = CliRunner().invoke(main, ['get', '--kubeconfig', {str(tmp_path / 'kubeconfig')!r}]).exit_code; "
        "heavy = {'pydantic', 'kubernetes', 'structlog', 'grpc', 'celpy', 'apscheduler', 'prometheus_client'}; "
        "print(code, sorted(heavy & sys.modules.keys()))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )

    assert ended.stdout == "3 []\n"
