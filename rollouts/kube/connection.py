"""One API server's connection: requests with a deadline, credentials, limits, and errors of our own."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import time
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import aiohttp
from multidict import CIMultiDict

from rollouts.kube import logs
from rollouts.kube.client import PatchKind
from rollouts.kube.credentials import Credentials, Impersonation
from rollouts.kube.errors import ApiTimeout, ApiUnavailable, Invalid, KubeError
from rollouts.kube.last_look import Body
from rollouts.kube.pruning import DEEPEST, prune_json
from rollouts.kube.statuses import error_from_answer

__all__ = [
    "ApiRequest",
    "Connection",
    "ConnectionPool",
    "error_of",
    "parse_object",
    "reason_of",
]

Object = dict[str, Any]
_JSON = "application/json"
_NO_LIMIT = aiohttp.ClientTimeout(total=None)
# A page of 500 objects at etcd's limit of 1.5 MiB each would be ten times this; nobody stores those.
_MAX_BODY = 64 * 1024 * 1024
# Seconds of silence, then between probes, and probes: a dead peer is noticed within a minute.
_KEEPALIVE = (30, 10, 3)
_GOODBYE_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiRequest:
    """One request. Empty parameters are left out; a body is JSON, a patch says of which kind."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    patch: PatchKind | None = None
    accept: str = _JSON

    @property
    def guarded(self) -> bool:
        """Whether this is a JSON patch with a precondition."""
        operations = self.body if self.patch is PatchKind.JSON and isinstance(self.body, list) else ()
        return any(isinstance(item, dict) and item.get("op") == "test" for item in operations)

    @property
    def data(self) -> bytes | None:
        """The body as sent. Raises Invalid for what JSON cannot say."""
        if self.body is None:
            return None
        try:
            return json.dumps(self.body, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise Invalid(f"the request body is not JSON: {error}") from None


class ConnectionPool:
    """The session and its sockets. ``close`` leaves none of them open."""

    def __init__(self) -> None:
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, socket_factory=self._keepalive_socket),
            headers={
                "User-Agent": f"inference-rollouts/{version('inference-rollouts')}",
                # No compression: nothing that inflates, and a cluster's network does not need it.
                "Accept-Encoding": "identity",
            },
            # An API server sets no cookies; the default jar is asked before each request nevertheless.
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close all; a TLS connection that is saying goodbye is waited for, a second at most."""
        await self.session.close()
        end = time.monotonic() + _GOODBYE_SECONDS
        while self._open() and time.monotonic() < end:  # noqa: ASYNC110 - sockets tell nobody
            await asyncio.sleep(0.01)

    def _open(self) -> bool:
        return any(item.fileno() >= 0 for item in self._sockets)

    def _keepalive_socket(
        self, address: tuple[socket.AddressFamily | int, socket.SocketKind | int, int, str, Any]
    ) -> socket.socket:
        family, kind, protocol, _, _ = address
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in zip(("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"), _KEEPALIVE, strict=True):
            if hasattr(socket, name):
                made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._sockets.add(made)
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Sends requests. ``deadline`` is the total time of one, in seconds; copies share the pool."""

    credentials: Credentials
    deadline: float
    impersonate: Impersonation | None = None
    pool: ConnectionPool = field(default_factory=ConnectionPool)

    def changed(self, **changes: Any) -> Connection:
        """A copy on the same pool."""
        return replace(self, **changes)

    async def answer(self, request: ApiRequest) -> Object:
        """Send one request and read its answer, a JSON object, within the deadline."""
        async with self._limits(request), await self.send(request, _NO_LIMIT) as response:
            if not 200 <= response.status < 300:
                raise await error_of(response, guarded=request.guarded)
            return parse_object(await _read(response))

    async def succeeds(self, request: ApiRequest) -> bool:
        """Whether a request is answered 2xx, whatever the body."""
        async with self._limits(request), await self.send(request, _NO_LIMIT) as response:
            return 200 <= response.status < 300

    @asynccontextmanager
    async def _limits(self, request: ApiRequest) -> AsyncIterator[None]:
        """The deadline of one request, and its failures as ours."""
        name = f"{request.method} {request.path}"
        try:
            async with asyncio.timeout(self.deadline):
                yield
        except TimeoutError:
            raise ApiTimeout(
                f"{name}: no answer within {self.deadline:g} s; a write may have been stored"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise ApiUnavailable(f"{name}: {reason_of(error)}") from error

    async def send(self, request: ApiRequest, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        """Send, and once more with renewed credentials after a 401, which executed nothing.

        Raises what the last look at a write raises.
        """
        data = request.data
        body = None if data is None else Body(data)
        try:
            return await self._send(request, body, timeout)
        except aiohttp.ClientError:
            if body is not None and body.refused is not None:
                raise body.refused from None
            raise

    async def _send(
        self, request: ApiRequest, body: Body | None, timeout: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        for renew in (False, True):
            token = await self.credentials.authorization(renew=renew)
            response = await self.pool.session.request(
                request.method,
                self.credentials.host + request.path,
                params={key: value for key, value in request.params.items() if value},
                data=body and body.payload(),
                headers=self.headers(request, token),
                ssl=self.credentials.tls(),
                server_hostname=self.credentials.server_name,
                proxy=self.credentials.proxy,
                allow_redirects=False,
                timeout=timeout,
            )
            if response.status != 401 or renew or not token:
                break
            response.release()
        return response

    def headers(self, request: ApiRequest, token: str | None) -> CIMultiDict[str]:
        """The headers of a request, on whose behalf it is sent among them."""
        headers = CIMultiDict({"Accept": request.accept})
        if request.body is not None:
            headers["Content-Type"] = request.patch.value if request.patch else _JSON
        if token:
            headers["Authorization"] = token
        for name, value in (self.impersonate or self.credentials.impersonate or Impersonation()).headers():
            headers.add(name, value)
        return headers


async def _read(response: aiohttp.ClientResponse) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > _MAX_BODY:
            raise Invalid(f"the answer is over {_MAX_BODY} bytes: list with smaller pages")
        chunks.append(chunk)
    return b"".join(chunks)


async def error_of(response: aiohttp.ClientResponse, *, guarded: bool = False) -> KubeError:
    """The error of an answer outside 2xx."""
    retry_after = response.headers.get("Retry-After")
    return error_from_answer(response.status, await _read(response), retry_after=retry_after, guarded=guarded)


def parse_object(body: bytes) -> Object:
    """A JSON object, without what is nested too deep for any field that is read.

    Raises ApiUnavailable: a proxy's page, or an answer that was cut off.
    """
    try:
        try:
            parsed = json.loads(body)
        except RecursionError:
            logs.warning(
                "json_pruned", size=len(body), reason=f"an object nests deeper than {DEEPEST} levels"
            )
            parsed = json.loads(prune_json(body))
    except (ValueError, RecursionError) as error:
        raise ApiUnavailable(f"the answer is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise ApiUnavailable("the answer is JSON but not an object")
    return parsed


def reason_of(error: BaseException) -> str:
    """Why there is no answer, in words: aiohttp's own texts show its objects."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return f"the certificate of {error.host}:{error.port} is not accepted: {_plain(error.certificate_error)}"
        case aiohttp.ClientConnectorDNSError():
            return f"the name {error.host} is not known"
        case aiohttp.ClientConnectorSSLError():
            return f"{error.host}:{error.port} speaks no TLS that we accept: {_plain(error.os_error)}"
        case aiohttp.ClientConnectorError():
            return f"{error.host}:{error.port}: {_plain(error.os_error)}"
        case aiohttp.ServerDisconnectedError():
            return "the server closed the connection"
        case aiohttp.ClientPayloadError():
            return "the answer was cut off"
    return _plain(error)


def _plain(error: BaseException) -> str:
    """What an exception says; its type where it says nothing, or an object's name for its words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, OSError) and error.errno is not None:
        # asyncio puts "Connect call failed ('127.0.0.1', 1)" in the place of the system's words.
        return os.strerror(error.errno).lower() if error.errno > 0 else error.strerror or type(error).__name__
    text = str(error)
    return text if text and "<" not in text else type(error).__name__
