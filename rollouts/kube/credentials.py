"""Where the API server is and how we log in: ``kubernetes.aio.config`` does the work, we ask it again.

It reads kubeconfig files, mounted ServiceAccount tokens, exec plugins and OIDC; none of its own request
code is used.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
import yaml
from kubernetes.aio import config as _untyped_config
from kubernetes.aio.client.configuration import Configuration

from rollouts.kube.errors import NotConfigured

__all__ = ["Credentials", "load_credentials"]

kubernetes_config: Any = _untyped_config
_log = structlog.get_logger(__name__)
# Mounted tokens are rotated well before they expire; exec plugins say when theirs does.
_REFRESH_SECONDS = 60.0
# What reading a kubeconfig raises, besides the library's own exception, when the file is not one.
_UNUSABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError)
_IN_CLUSTER = "KUBERNETES_SERVICE_HOST"


class Credentials:
    """Address, TLS context and the current Authorization header of one API server."""

    def __init__(self, configuration: Any, reload: Callable[[], Awaitable[None]]) -> None:
        self._configuration = configuration
        self._reload = reload
        self._loaded = time.monotonic()
        self._lock = asyncio.Lock()
        self._context: ssl.SSLContext | None = None
        self._context_of: tuple[Any, ...] = ()

    @property
    def host(self) -> str:
        """``scheme://host:port``, and a path where the server is behind one."""
        return str(self._configuration.host).rstrip("/")

    @property
    def proxy(self) -> str | None:
        """Proxy URL of the kubeconfig's cluster; proxies of the environment are not used."""
        return self._configuration.proxy or None

    @property
    def server_name(self) -> str | None:
        """Name in the server's certificate, where it is not the host."""
        return self._configuration.tls_server_name or None

    async def authorization(self, *, renew: bool = False) -> str | None:
        """Value of the Authorization header; read again each minute, and at once with ``renew``."""
        async with self._lock:
            if renew or time.monotonic() - self._loaded > _REFRESH_SECONDS:
                self._loaded = time.monotonic()
                try:
                    await self._reload()
                except Exception as error:  # a plugin may raise anything, and the old token may still do
                    _log.warning("credentials_not_renewed", error=str(error))
        token = self._configuration.api_key.get("BearerToken")
        return None if token is None else str(token)

    def tls(self) -> ssl.SSLContext | bool:
        """The TLS context, made anew when a plugin hands out another client certificate."""
        if not self.host.startswith("https"):
            return True
        configuration = self._configuration
        wanted = (
            configuration.ssl_ca_cert,
            configuration.ca_cert_data,
            configuration.cert_file,
            configuration.key_file,
            configuration.verify_ssl,
        )
        if self._context is None or wanted != self._context_of:
            self._context, self._context_of = _tls_context(configuration), wanted
        return self._context


def _tls_context(configuration: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert, cadata=configuration.ca_cert_data)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    # Many clusters' certificates, Kubernetes' own self-signed ones too, lack an authority key id.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _source(kubeconfig: str | None, context: str | None) -> str | None:
    """Path of the kubeconfig to use; None for the mounted ServiceAccount."""
    path = kubeconfig or os.environ.get("KUBECONFIG")
    if path:
        return path
    if not context and os.environ.get(_IN_CLUSTER):
        return None
    return os.path.expanduser("~/.kube/config")


async def load_credentials(kubeconfig: str | None = None, context: str | None = None) -> Credentials:
    """``kubeconfig``, else $KUBECONFIG, else the pod's ServiceAccount, else ~/.kube/config.

    Raises NotConfigured, naming what was tried.
    """
    path = _source(kubeconfig, context)
    configuration = Configuration()
    try:
        if path is None:
            kubernetes_config.load_incluster_config(client_configuration=configuration)
            return Credentials(configuration, _in_cluster_reload(configuration))
        loader = await kubernetes_config.load_kube_config(
            config_file=path, context=context, client_configuration=configuration, persist_config=False
        )
    except (*_UNUSABLE, kubernetes_config.ConfigException) as error:
        raise NotConfigured(
            f"no usable API server configuration in {path or 'the pod'}: {error}; "
            "give --kubeconfig, set KUBECONFIG, or run in a pod with a ServiceAccount"
        ) from error

    async def reload() -> None:
        await loader.load_and_set(configuration)

    return Credentials(configuration, reload)


def _in_cluster_reload(configuration: Any) -> Callable[[], Awaitable[None]]:
    async def reload() -> None:
        kubernetes_config.load_incluster_config(client_configuration=configuration)

    return reload
