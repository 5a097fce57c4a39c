"""How the picker talks to model servers: scheme, authorities, name, key. Files are read again when they change.

vLLM serves TLS with ``--ssl-certfile`` and asks for a key with ``--api-key``; KServe's LLMInferenceService has both.
Pods are called by their address, which certificates hardly ever name: ``server_name`` is what they are checked against.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

__all__ = ["ModelServerClient", "ModelServers", "explain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelServers:
    """What the options say. Raises ValueError for options that make no sense together."""

    scheme: str = "http"
    ca: Path | None = None
    server_name: str = ""
    verify: bool = True
    api_key_file: Path | None = None

    def __post_init__(self) -> None:
        if self.scheme not in ("http", "https"):
            raise ValueError(f"model servers are called by http or https, not {self.scheme!r}")
        if self.scheme == "http" and (self.ca or self.server_name or not self.verify):
            raise ValueError("the options for TLS to model servers need --model-server-scheme https, too")
        if self.ca and not self.verify:
            raise ValueError(
                "--model-server-ca says whom to trust and --model-server-insecure-skip-verify everybody"
            )


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
        """Where to call a pod."""
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


def explain(error: BaseException, scheme: str) -> str:
    """The error in words, with the option that may help."""
    said = str(error) or type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        return f"{said}; see --model-server-ca, --model-server-name and --model-server-insecure-skip-verify"
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return f"{said}; if the model servers speak no TLS leave --model-server-scheme https out"
    torn = aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | aiohttp.ClientResponseError
    if scheme == "http" and isinstance(error, torn) and not isinstance(error, aiohttp.ClientConnectorError):
        return f"{said}; if the model servers speak TLS give --model-server-scheme https"
    if " 401" in said or " 403" in said:
        return f"{said}; the model servers may want a key: --model-server-api-key-file"
    return said
