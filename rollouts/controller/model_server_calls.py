"""Calls to the API of model servers: an answer, or why there is none, in the server's own words where it has some."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import aiohttp

from rollouts.objects.fields import text_at
from rollouts.objects.pods import Pod
from rollouts.runtime.fairness import FairSlots
from rollouts.runtime.modelservers import SETTINGS, ModelServerBook, explain

__all__ = ["ModelServerCalls", "ServerAnswer", "own_words"]

_BODY_LIMIT = 1024 * 1024
_PARALLEL = 32
_OF_ONE_NAMESPACE = 8
_WORDS = 300
"""Characters of a server's own words: an error of vLLM has one sentence, and a status is not its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAnswer:
    """What came of a call. ``status`` None: no answer, and ``problem`` says why."""

    status: int | None
    body: str = ""
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether the server did what it was asked."""
        return self.status == 200


class ModelServerCalls:
    """One session for all pods; those of one namespace hold a part of its connections."""

    def __init__(
        self, book: ModelServerBook, parallel: int = _PARALLEL, of_one_namespace: int = _OF_ONE_NAMESPACE
    ) -> None:
        self._book = book
        self._parallel = parallel
        self._session: aiohttp.ClientSession | None = None
        self._slots = FairSlots(parallel, of_one_namespace)

    async def ask(
        self,
        namespace: str,
        pod: Pod,
        port: int,
        method: str,
        path: str,
        request: Any,
        timeout: float,
        keep: int = _BODY_LIMIT,
    ) -> ServerAnswer:
        """One call of at most ``timeout`` seconds; ``request`` is sent as JSON, None sends nothing.

        Of the answer ``keep`` bytes are kept, and the rest is read and dropped.
        """
        scheme = "http"
        try:
            client = self._book.client(namespace, pod.pool)
            scheme = client.config.scheme
            host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
            async with (
                asyncio.timeout(timeout),
                self._slots.hold(namespace),
                self._open().request(
                    method, client.url(f"{host}:{port}", path), json=request, **client.arguments()
                ) as response,
            ):
                return await _read(response, path, keep)
        except aiohttp.ClientError as error:
            return _silent(path, explain(error, scheme, SETTINGS))
        except TimeoutError:
            return _silent(path, f"within {timeout:g} s")
        except OSError as error:
            return _silent(path, str(error) or type(error).__name__)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=self._parallel, keepalive_timeout=15)
            self._session = aiohttp.ClientSession(connector=connector, trust_env=False)
        return self._session


async def _read(response: aiohttp.ClientResponse, path: str, keep: int) -> ServerAnswer:
    body, length = bytearray(), 0
    async for chunk in response.content.iter_chunked(65_536):
        length += len(chunk)
        body += chunk[: max(0, keep - len(body))]
        if length > _BODY_LIMIT:
            return _silent(path, f"that ends within {_BODY_LIMIT} bytes")
    text = body.decode("utf-8", "replace")
    if response.status == 200:
        return ServerAnswer(status=200, body=text)
    words = own_words(text)
    problem = f"{path} answers {response.status}{f': {words}' if words else ''}"
    if response.status in (401, 403):
        problem += f"; it may want a key: {SETTINGS.key}"
    return ServerAnswer(status=response.status, body=text, problem=problem)


def _silent(path: str, why: str) -> ServerAnswer:
    return ServerAnswer(status=None, problem=f"{path} gives no answer: {_line(why)}")


def own_words(body: str) -> str:
    """The sentence of an error: ``error.message`` (vLLM, OpenAI), ``message``, ``detail`` (FastAPI), else the text."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        data = None
    places = (("error", "message"), ("message",), ("detail",), ("error",))
    found = next((text for place in places if (text := text_at(data, *place))), "")
    if not found and data is None and not body.lstrip().startswith("<"):
        found = body
    return _line(found)


def _line(text: str) -> str:
    """One line of what can be shown."""
    shown = "".join(char if char.isprintable() else " " for char in text[: 4 * _WORDS])
    return " ".join(shown.split())[:_WORDS]
