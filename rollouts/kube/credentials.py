"""Where the API server is and how we log in: ``kubernetes.aio.config`` does the work, we ask it again.

It reads mounted ServiceAccount tokens, exec plugins and OIDC; none of its own request code is used. It is imported
where one of these is needed: what stands in the file as it is, ``plain`` reads. Which context of which files counts is
ours (``kubeconfig``): its merge lets the last file set the current context, kubectl's the first.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import yaml

from rollouts.kube import logs
from rollouts.kube.errors import NotConfigured
from rollouts.kube.kubeconfig import ContextChoice, ResolvedContext, kubeconfig_paths, resolve
from rollouts.kube.plain import PlainLogin, plain_login

__all__ = ["Credentials", "Impersonation", "as_choice", "context_namespace", "load_credentials"]

# Mounted tokens are rotated well before they expire; exec plugins say when theirs does.
_REFRESH_SECONDS = 60.0
# What reading a kubeconfig raises, besides the library's own exception, when the file is not one.
_UNUSABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError)
_IN_CLUSTER = "KUBERNETES_SERVICE_HOST"
_POD_NAMESPACE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Impersonation:
    """Act as somebody else (``--as``): our own user needs the verb ``impersonate``."""

    user: str = ""
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, str], ...] = ()

    def headers(self) -> Iterator[tuple[str, str]]:
        """As client-go's ``ImpersonatingRoundTripper`` writes them; none without a user."""
        if not self.user:
            return
        yield "Impersonate-User", self.user
        if self.uid:
            yield "Impersonate-Uid", self.uid
        yield from (("Impersonate-Group", group) for group in self.groups)
        yield from ((f"Impersonate-Extra-{quote(key, safe='')}", value) for key, value in self.extra)


def _impersonated(user: Mapping[str, Any]) -> Impersonation | None:
    """Whom a user of a kubeconfig acts as. Raises ValueError."""
    name, extra = user.get("as"), user.get("as-user-extra") or {}
    if not name:
        if extra or user.get("as-groups") or user.get("as-uid"):
            raise ValueError("as-groups, as-uid and as-user-extra need as: whom to act as")
        return None
    return Impersonation(
        user=str(name),
        uid=str(user.get("as-uid") or ""),
        groups=tuple(map(str, user.get("as-groups") or ())),
        extra=tuple((str(key), str(value)) for key, values in extra.items() for value in values),
    )


class Credentials:
    """Address, TLS context and the current Authorization header of one API server.

    ``impersonate``: whom its user acts as, by the kubeconfig.
    """

    def __init__(
        self,
        configuration: Any,
        reload: Callable[[], Awaitable[None]],
        impersonate: Impersonation | None = None,
    ) -> None:
        self.impersonate = impersonate
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
                    logs.warning("credentials_not_renewed", error=str(error))
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
    """Raises NotConfigured, naming the file: OpenSSL does not."""
    try:
        return _made_context(configuration)
    except OSError as error:
        files = [configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file]
        named = [file for file in files if file]
        absent = [file for file in named if not os.access(file, os.R_OK)]
        why = "cannot be read" if absent else f"no certificate or key: {error}"
        told = ", ".join(absent or named) or "the kubeconfig's data"
        raise NotConfigured(f"{told}: {why}") from error


def _made_context(configuration: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert, cadata=configuration.ca_cert_data)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    if isinstance(configuration, PlainLogin):
        configuration.load_data(context)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    # Many clusters' certificates, Kubernetes' own self-signed ones too, lack an authority key id.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _in_cluster(kubeconfig: str | None, choice: ContextChoice) -> bool:
    """Whether the mounted ServiceAccount is used: in a pod, and no file or context is named."""
    named = kubeconfig or os.environ.get("KUBECONFIG") or choice != ContextChoice()
    return not named and bool(os.environ.get(_IN_CLUSTER))


def as_choice(context: ContextChoice | str | None) -> ContextChoice:
    """A context by its name alone, or a whole choice."""
    return context if isinstance(context, ContextChoice) else ContextChoice(context=context)


def context_namespace(kubeconfig: str | None = None, context: ContextChoice | str | None = None) -> str:
    """The namespace that commands work in: the context's, or in a pod the pod's. Raises NotConfigured."""
    choice = as_choice(context)
    if not _in_cluster(kubeconfig, choice):
        return resolve(kubeconfig, choice).namespace
    try:
        return Path(_POD_NAMESPACE).read_text(encoding="utf-8").strip() or "default"
    except OSError:
        return "default"


async def load_credentials(
    kubeconfig: str | None = None, context: ContextChoice | str | None = None
) -> Credentials:
    """``kubeconfig``, else $KUBECONFIG, else the pod's ServiceAccount, else ~/.kube/config.

    Raises NotConfigured, naming what was tried.
    """
    choice = as_choice(context)
    if not _in_cluster(kubeconfig, choice):
        resolved = resolve(kubeconfig, choice)
        try:
            impersonate = _impersonated(resolved.config["users"][0]["user"])
            plain = await plain_login(resolved.config)
        except _UNUSABLE as error:
            raise _not_usable(kubeconfig, error) from error
        if plain is not None:
            return Credentials(plain, plain.reload, impersonate)
        return await _asked_for(kubeconfig, resolved, impersonate)
    return _of_the_pod()


def _not_usable(kubeconfig: str | None, error: Exception, where: str = "") -> NotConfigured:
    where = where or os.pathsep.join(map(str, kubeconfig_paths(kubeconfig)))
    return NotConfigured(
        f"no usable API server configuration in {where}: {error}; "
        "give --kubeconfig, set KUBECONFIG, or run in a pod with a ServiceAccount"
    )


async def _asked_for(
    kubeconfig: str | None, resolved: ResolvedContext, impersonate: Impersonation | None
) -> Credentials:
    """By the library: what a plugin or a provider hands out."""
    from kubernetes.aio.client.configuration import Configuration
    from kubernetes.aio.config import ConfigException
    from kubernetes.aio.config.kube_config import KubeConfigLoader

    configuration = Configuration()

    async def load() -> None:
        await loader.load_and_set(configuration)

    try:
        loader: Any = cast(Any, KubeConfigLoader)(
            config_dict=resolved.config, active_context=resolved.context
        )
        await load()
    except (*_UNUSABLE, ConfigException) as error:
        raise _not_usable(kubeconfig, error) from error
    plugin = resolved.config["users"][0]["user"].get("exec")
    if plugin and not configuration.api_key.get("BearerToken") and not configuration.cert_file:
        raise _gave_nothing(plugin)
    return Credentials(configuration, load, impersonate)


def _gave_nothing(plugin: Mapping[str, Any]) -> NotConfigured:
    """The library logs why, and would go on without a login."""
    command = str(plugin.get("command", ""))
    why = "gave no credentials" if shutil.which(command) else "is not there"
    more = str(plugin.get("installHint") or "").strip()
    told = f"the credential plugin {command!r} of the kubeconfig {why}"
    return NotConfigured(f"{told}: {more:.500}" if more else f"{told}: run it by hand to see")


def _of_the_pod() -> Credentials:
    """By the library: the mounted ServiceAccount, whose token is renewed."""
    from kubernetes.aio import config
    from kubernetes.aio.client.configuration import Configuration

    configuration, library = Configuration(), cast(Any, config)

    async def load() -> None:
        library.load_incluster_config(client_configuration=configuration)

    try:
        library.load_incluster_config(client_configuration=configuration)
    except (*_UNUSABLE, config.ConfigException) as error:
        raise _not_usable(None, error, "the pod") from error
    return Credentials(configuration, load)
