"""How model servers are called: scheme, authorities, name, key. Files are read again when they change.

vLLM serves TLS with ``--ssl-certfile`` and asks for a key with ``--api-key``; KServe's LLMInferenceService has both.
Pods are called by their address, which certificates hardly ever name: ``server_name`` is what they are checked against.

Whoever runs a pod in a pool reads what is sent to it. So in a controller of many namespaces a key, like everything else
here, is bound to the namespace (and, unless it is for all of its pools, to the pool) whose people own it.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

__all__ = [
    "OPTIONS",
    "PLAIN",
    "SETTINGS",
    "ModelServerBook",
    "ModelServerClient",
    "ModelServerFields",
    "ModelServers",
    "advice",
    "explain",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelServerFields:
    """How the fields are called where somebody sets them, for messages."""

    scheme: str
    ca: str
    name: str
    skip: str
    key: str


OPTIONS = ModelServerFields(
    scheme="--model-server-scheme https",
    ca="--model-server-ca",
    name="--model-server-name",
    skip="--model-server-insecure-skip-verify",
    key="--model-server-api-key-file",
)
"""Of ``rollouts picker``."""

SETTINGS = ModelServerFields(
    scheme="scheme: https of modelServers",
    ca="caFile",
    name="serverName",
    skip="insecureSkipVerify of modelServers",
    key="apiKeyFile of modelServers",
)
"""Of the controller's configuration file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelServers:
    """What the options say. Raises ValueError for options that make no sense together."""

    scheme: str = "http"
    ca: Path | None = None
    server_name: str = ""
    verify: bool = True
    api_key_file: Path | None = None

    def check(self, fields: ModelServerFields = OPTIONS) -> None:
        """Raise ValueError for what makes no sense together, in the words of whoever set it."""
        if self.scheme not in ("http", "https"):
            raise ValueError(f"model servers are called by http or https, not {self.scheme!r}")
        if self.scheme == "http" and (self.ca or self.server_name or not self.verify):
            raise ValueError(f"what is said of TLS to model servers needs {fields.scheme}, too")
        if self.ca and not self.verify:
            raise ValueError(f"{fields.ca} says whom to trust and {fields.skip} everybody")


@dataclass(slots=True)
class ModelServerClient:
    """Gives the arguments of a call. Raises OSError and ValueError when a file cannot be used, at the start."""

    config: ModelServers
    _stamps: tuple[int, int] = (0, 0)
    _context: ssl.SSLContext | None = None
    _headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._read(self._now())

    def url(self, address: str, path: str) -> str:
        """Where to call a pod; ``address`` is host and port."""
        return f"{self.config.scheme}://{address}{path}"

    def arguments(self) -> dict[str, Any]:
        """For a request of aiohttp; of files that cannot be read now the last content holds."""
        try:
            now = self._now()
            if now != self._stamps:
                self._read(now)
        except (OSError, ValueError):
            pass  # a secret is being replaced
        arguments: dict[str, Any] = {"headers": self._headers, "allow_redirects": False}
        if self._context is not None:
            arguments |= {"ssl": self._context, "server_hostname": self.config.server_name or None}
        return arguments

    def _now(self) -> tuple[int, int]:
        ca, key = (
            0 if path is None else path.stat().st_mtime_ns
            for path in (self.config.ca, self.config.api_key_file)
        )
        return ca, key

    def _read(self, stamps: tuple[int, int]) -> None:
        config = self.config
        headers = {}
        if config.api_key_file is not None:
            key = config.api_key_file.read_text("utf-8").strip()
            if not key.isascii() or not key.isprintable() or not key:
                raise ValueError(f"{config.api_key_file} holds no API key: one line of ASCII is needed")
            headers["authorization"] = f"Bearer {key}"
        if config.scheme == "https":
            try:
                context = ssl.create_default_context(cafile=config.ca)
            except ssl.SSLError as error:
                raise ValueError(f"{config.ca} holds no PEM certificate of an authority: {error}") from None
            if not config.verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            self._context = context
        self._headers, self._stamps = headers, stamps


@dataclass(slots=True)
class ModelServerBook:
    """How to call the pods of each pool, by (namespace, pool); pool "" is all of a namespace, and ("", "") everybody.

    The nearest entry counts as a whole. Pods without one are called by HTTP and without a key.
    """

    entries: Mapping[tuple[str, str], ModelServers] = field(default_factory=dict)
    fields: ModelServerFields = SETTINGS
    """How they are called where the entries were set, for messages."""
    _clients: dict[tuple[str, str], ModelServerClient] = field(default_factory=dict)

    def client(self, namespace: str, pool: str) -> ModelServerClient:
        """Raises OSError, which names the file, until what an entry names can be used."""
        places = ((namespace, pool), (namespace, ""), ("", ""))
        place = next((one for one in places if one in self.entries), None)
        if place is None:
            return PLAIN
        if place not in self._clients:
            try:
                self._clients[place] = ModelServerClient(self.entries[place])
            except ValueError as error:
                raise OSError(str(error)) from error
        return self._clients[place]


PLAIN = ModelServerClient(ModelServers())
"""HTTP, and no key."""


def explain(error: BaseException, scheme: str, fields: ModelServerFields = OPTIONS) -> str:
    """The error in words, with the option that may help."""
    said, option = str(error) or type(error).__name__, advice(error, scheme, fields)
    return f"{said}; {option}" if option else said


def advice(error: BaseException, scheme: str, fields: ModelServerFields = OPTIONS) -> str:
    """Which option may help; empty where none does."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        return f"see {fields.ca}, {fields.name} and {fields.skip}"
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return f"if the model servers speak no TLS leave {fields.scheme} out"
    torn = aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | aiohttp.ClientResponseError
    if scheme == "http" and isinstance(error, torn) and not isinstance(error, aiohttp.ClientConnectorError):
        return f"if the model servers speak TLS give {fields.scheme}"
    if " 401" in str(error) or " 403" in str(error):
        return f"the model servers may want a key: {fields.key}"
    return ""
