"""HTTP to a configured server within bounds: bytes and time of a whole answer, no redirects, no proxies of others."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

__all__ = ["MAX_BYTES", "BoundedSession", "PrometheusConfig"]

MAX_BYTES = 1024 * 1024
"""A verdict needs a handful of series; a megabyte is a query that forgot to aggregate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusConfig:
    """One named server. Credentials are files, read for every request, so that rotation needs no restart."""

    url: str
    timeout: float = 10.0
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    bearer_token_file: str = ""
    username_file: str = ""
    password_file: str = ""
    pod_label: str = "pod"
    """Label that tells pods apart: a name in ``pod``, or ``instance`` as IP:port."""
    enforced_label: str = ""
    """Label that every series of every query has to carry with the Rollout's namespace; empty: none."""
    namespace_label: str = "namespace"
    """Label with the pod's namespace, always matched; empty where the server holds one namespace only."""


class _CuttingAdapter(HTTPAdapter):
    """Tells its session of each socket, from before the TLS handshake on."""

    def __init__(self, opened: Callable[[socket.socket], None]) -> None:
        class Plain(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                made = super()._new_conn()
                opened(made)
                return made

        class Secure(HTTPSConnection):
            def _new_conn(self) -> socket.socket:
                made = super()._new_conn()
                opened(made)
                return made

        plain = type("PlainPool", (HTTPConnectionPool,), {"ConnectionCls": Plain})
        secure = type("SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": Secure})
        super().__init__()
        self.poolmanager.pool_classes_by_scheme = {"http": plain, "https": secure}


class BoundedSession(requests.Session):
    """A session that reads at most ``longest`` bytes within a total time, and follows no redirect.

    ``room`` is asked, once, when there are more than ``MAX_BYTES``, with the seconds that are left.

    A timeout of ``requests`` is that of one read, and starts anew with each byte: ``cut``, from another thread, is
    what ends a request whose time is over.
    """

    def __init__(
        self,
        config: PrometheusConfig,
        longest: int = MAX_BYTES,
        room: Callable[[float], bool] = lambda _: True,
    ) -> None:
        self._config = config
        self._longest = longest
        self._room = room
        self.large = False
        """Whether there was room for more than ``MAX_BYTES``."""
        self._sockets: list[socket.socket] = []
        self._cut = False
        self.partial = False
        """Whether the last answer says of itself that a part is missing."""
        super().__init__()
        self.trust_env = False
        self.max_redirects = 0
        self.verify = config.ca_file or True
        if config.cert_file:
            self.cert = (config.cert_file, config.key_file) if config.key_file else config.cert_file

    def mount(self, prefix: str, adapter: Any) -> None:
        """As requests; whatever adapter is asked for (the client library mounts one of its own), ours it is."""
        super().mount(prefix, _CuttingAdapter(self._opened))

    def _opened(self, made: socket.socket) -> None:
        # A duplicate: TLS takes the descriptor of the first one over. They are ends of the same connection.
        self._sockets.append(made.dup())
        if self._cut:
            self.cut()

    def cut(self) -> None:
        """Shut the connection down: whoever reads from it fails at once."""
        self._cut = True
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close all connections."""
        super().close()
        while self._sockets:
            self._sockets.pop().close()

    def request(self, method: str, url: str, **kwargs: Any) -> requests.Response:  # type: ignore[override]  # requests spells out its keyword arguments
        """As requests, bounded. Raises requests.RequestException."""
        deadline = time.monotonic() + self._config.timeout
        if method == "POST":
            kwargs["data"] = kwargs.pop("params", None)
        kwargs.update(stream=True, allow_redirects=False, timeout=self._config.timeout)
        kwargs["headers"] = {**(kwargs.get("headers") or {}), **self._credentials()}
        response = super().request(method, url, **kwargs)
        response._content = self._body(response, deadline)
        self.partial = _partial(response._content)
        return response

    def _body(self, response: requests.Response, deadline: float) -> bytes:
        body = bytearray()
        try:
            for chunk in response.iter_content(65_536):
                body += chunk
                if len(body) > self._longest:
                    raise requests.exceptions.ContentDecodingError("too large")
                if len(body) > MAX_BYTES and not self.large:
                    self.large = self._room(deadline - time.monotonic())
                    if not self.large:
                        raise requests.exceptions.ReadTimeout("too many large answers at once")
                if time.monotonic() > deadline:
                    raise requests.exceptions.ReadTimeout("too slow")
        finally:
            response.close()
        return bytes(body)

    def _credentials(self) -> dict[str, str]:
        config = self._config
        if config.bearer_token_file:
            return {"Authorization": f"Bearer {Path(config.bearer_token_file).read_text().strip()}"}
        if config.username_file and config.password_file:
            user = Path(config.username_file).read_text().strip()
            password = Path(config.password_file).read_text().strip()
            return {"Authorization": requests.auth._basic_auth_str(user, password)}
        return {}


_REMARK = re.compile(r"PromQL |\d+ more (warning|info) annotations omitted")
"""Of PromQL itself; Prometheus leaves out those beyond the tenth, and says so without its name."""


def _partial(body: bytes) -> bool:
    """Whether some of the servers behind a server did not answer.

    VictoriaMetrics says ``isPartial``, Thanos warns. What PromQL itself has to remark of a query begins with its name.
    """
    if not re.search(rb'"isPartial":\s*true|"warnings"', body):
        return False
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return False
    if not isinstance(said, dict):
        return False
    warnings = said.get("warnings")
    told = warnings if isinstance(warnings, list) else []
    return said.get("isPartial") is True or any(not _REMARK.match(str(one)) for one in told)
