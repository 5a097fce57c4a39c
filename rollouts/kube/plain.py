"""Logins that stand in a kubeconfig as they are: a token, a client certificate, or none.

The ``kubernetes`` package reads them as well, but takes a quarter of a second of CPU to be imported: it is left to what
has to be asked for (exec plugins, OIDC and other auth providers) and to pods. Source of the rules: client-go's
``rest.Config`` and ``clientcmd`` (a token file is read again and beats a token; data beats a file).
"""

from __future__ import annotations

import base64
import binascii
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

__all__ = ["PlainLogin", "plain_login"]

_USER = frozenset(
    {"token", "tokenFile", "client-certificate", "client-certificate-data", "client-key", "client-key-data"}
)
_ACTS_AS = frozenset({"as", "as-uid", "as-groups", "as-user-extra"})
"""Of ``credentials.Impersonation``: headers, and nothing of the login."""
_LIMIT = 1 << 20
"""Bytes of a token or a certificate file."""


@dataclass(slots=True, kw_only=True)
class PlainLogin:
    """What ``Credentials`` needs, by the names of ``kubernetes.client.Configuration``."""

    host: str
    verify_ssl: bool = True
    ssl_ca_cert: str | None = None
    ca_cert_data: str | None = None
    tls_server_name: str | None = None
    proxy: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    cert_data: bytes | None = None
    key_data: bytes | None = None
    api_key: dict[str, str] = field(default_factory=dict)
    token_file: str | None = None

    async def reload(self) -> None:
        """Read the token file again."""
        if self.token_file is not None:
            self.api_key = _bearer(self.token_file) or self.api_key

    def load_data(self, context: ssl.SSLContext) -> None:
        """Load a client certificate that is data. OpenSSL takes it from files alone."""
        if self.cert_data is None or self.key_data is None:
            return
        with TemporaryDirectory(prefix="rollouts-") as folder:
            certificate, key = Path(folder, "certificate"), Path(folder, "key")
            certificate.write_bytes(self.cert_data)
            key.write_bytes(self.key_data)
            context.load_cert_chain(certificate, key)


async def plain_login(config: Mapping[str, Any]) -> PlainLogin | None:
    """The login of a resolved kubeconfig; None where more is needed than reading. Raises OSError, ValueError."""
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    server = str(cluster.get("server") or "")
    if (
        not server.startswith(("http://", "https://"))
        or not {name for name in user if user[name]} <= _USER | _ACTS_AS
    ):
        return None
    authority = _data(cluster, "certificate-authority-data")
    files = {
        name: user.get(name) if user.get(f"{name}-data") is None else None
        for name in ("client-certificate", "client-key")
    }
    login = PlainLogin(
        host=server,
        verify_ssl=not cluster.get("insecure-skip-tls-verify"),
        ssl_ca_cert=None if authority else cluster.get("certificate-authority"),
        ca_cert_data=authority.decode() if authority else None,
        tls_server_name=cluster.get("tls-server-name"),
        proxy=cluster.get("proxy-url"),
        cert_file=files["client-certificate"],
        key_file=files["client-key"],
        cert_data=_data(user, "client-certificate-data"),
        key_data=_data(user, "client-key-data"),
        api_key={"BearerToken": f"Bearer {user['token']}"} if user.get("token") else {},
        token_file=user.get("tokenFile"),
    )
    if (login.cert_file is None) != (login.key_file is None):
        return None  # one of them is data: the package writes both to files
    await login.reload()
    return login


def _bearer(token_file: str) -> dict[str, str]:
    with Path(token_file).open(encoding="utf-8") as file:
        token = file.read(_LIMIT).strip()
    return {"BearerToken": f"Bearer {token}"} if token else {}


def _data(entry: Mapping[str, Any], name: str) -> bytes | None:
    value = entry.get(name)
    if not value:
        return None
    try:
        return base64.b64decode(str(value), validate=True)
    except binascii.Error:
        raise ValueError(f"{name} is not base64") from None
