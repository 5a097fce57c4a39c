"""What a real vLLM is asked, and what it answers, kept as data for tests that need no vLLM.

Requests are in an order: adapters are loaded before they are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

__all__ = ["Ask", "asks", "record"]

_JSON = "application/json"
_BASE = {"model": "mymodel", "prompt": "hi", "max_tokens": 2}
_CHAT = {"model": "mymodel", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
_LOAD, _UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request. ``media`` empty sends no content type."""

    name: str
    path: str = "/v1/completions"
    method: str = "POST"
    body: bytes = b""
    media: str = _JSON
    headers: dict[str, str] = field(default_factory=dict)


def _with(**fields: Any) -> bytes:
    return json.dumps({**_BASE, **fields}).encode()


def _without(name: str) -> bytes:
    return json.dumps({key: value for key, value in _BASE.items() if key != name}).encode()


def _raw(text: str) -> bytes:
    """A completion request with something at its end that ``json.dumps`` does not write."""
    return b'{"model":"mymodel","prompt":"hi","max_tokens":2%b}' % text.encode("latin-1")


def _encodings() -> Iterator[Ask]:
    text = json.dumps(_BASE)
    yield Ask(name="UTF-8", body=text.encode())
    yield Ask(name="byte order mark", body=b"\xef\xbb\xbf" + text.encode())
    for name in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"):
        yield Ask(name=name, body=text.encode(name))
    yield Ask(name="bytes that are not UTF-8", body=b'{"model":"mymodel","prompt":"\xff","max_tokens":2}')
    latin = '{"model":"mymodel","prompt":"\xe9","max_tokens":2}'.encode("latin-1")
    yield Ask(name="a charset that is not heeded", body=latin, media=f"{_JSON}; charset=latin-1")


def _json_layer() -> Iterator[Ask]:
    for name, body in {
        "NaN as an unknown field": _raw(',"x":NaN'),
        "Infinity as an unknown field": _raw(',"x":-Infinity'),
        "a number too large for a double": _raw(',"x":1e999'),
        "4301 digits": _raw(',"x":' + "1" * 4301),
        "nested 2000 deep": _raw(',"x":' + "[" * 2000 + "]" * 2000),
        "nested 400 deep": _raw(',"x":' + "[" * 400 + "]" * 400),
        "NaN as temperature": _raw(',"temperature":NaN'),
        "model twice, the last one known": b'{"model":"x","model":"mymodel","prompt":"hi","max_tokens":2}',
        "model twice, the last one unknown": b'{"model":"mymodel","model":"x","prompt":"hi","max_tokens":2}',
        "an escape in the key": b'{"mod\\u0065l":"x","prompt":"hi","max_tokens":2}',
        "an escape in the model": b'{"model":"my\\u006dodel","prompt":"hi","max_tokens":2}',
        "a capital letter in the key": b'{"Model":"x","prompt":"hi","max_tokens":2}',
        "half a surrogate pair in the model": b'{"model":"\\ud800","prompt":"hi","max_tokens":2}',
        "half a surrogate pair in the prompt": b'{"model":"mymodel","prompt":"\\ud800","max_tokens":2}',
        "half a surrogate pair in an unknown field": _raw(',"x":"\\ud800"'),
        "a line feed in a string": b'{"model":"mymodel","prompt":"a\nb","max_tokens":2}',
        "white space behind": _with() + b" \r\n",
        "something behind": _with() + b" x",
        "a zero byte behind": _with() + b"\0",
        "a comma too many": _raw(","),
        "single quotes": b"{'model':'mymodel'}",
        "no JSON": b"hello",
        "no body": b"",
        "an array": b"[]",
        "a string": b'"mymodel"',
        "null": b"null",
    }.items():
        yield Ask(name=name, body=body)
    for media in (
        "",
        "text/plain",
        f"{_JSON}; charset=utf-8",
        "Application/JSON",
        "application/vnd.api+json",
    ):
        yield Ask(name=f"content type {media or 'missing'}", body=_with(), media=media)
    yield Ask(name="a coding that is not undone", body=_with(), headers={"content-encoding": "gzip"})


def _fields() -> Iterator[Ask]:
    models: tuple[Any, ...] = (None, "", 5, True, ["mymodel"], {"a": 1}, "x", " mymodel")
    for value in models:
        yield Ask(name=f"model {json.dumps(value)}", body=_with(model=value))
    for name in ("model", "prompt", "max_tokens"):
        yield Ask(name=f"no {name}", body=_without(name))
    values: tuple[tuple[str, Any], ...] = (
        ("max_tokens", 0), ("max_tokens", -1), ("max_tokens", "2"), ("max_tokens", 100_000),
        ("temperature", -1), ("top_p", 2), ("stream", "yes"), ("prompt", "a" * 600), ("prompt", ""),
        ("prompt", [1, 2, 3]), ("prompt", [1, 10**9]), ("unknown", 1),
    )  # fmt: skip
    for name, value in values:
        yield Ask(name=f"{name} {json.dumps(value)[:12]}", body=_with(**{name: value}))
    yield Ask(name="streamed, model x", body=_with(stream=True, model="x"))
    yield Ask(name="streamed", body=_with(stream=True, max_tokens=4))


def _paths() -> Iterator[Ask]:
    one = {"model": "mymodel"}
    for path, body in (
        ("/v1/chat/completions", _CHAT),
        ("/v1/chat/completions", {**_CHAT, "stream": True, "stream_options": {"include_usage": True}}),
        ("/v1/chat/completions", {**_CHAT, "model": "x"}),
        ("/v1/chat/completions", {**_CHAT, "messages": []}),
        ("/v1/responses", {**one, "input": "hi", "max_output_tokens": 2}),
        ("/v1/responses", {"model": "x", "input": "hi"}),
        ("/v1/messages", {**one, "max_tokens": 2, "messages": _CHAT["messages"]}),
        ("/v1/messages", {"model": "x", "max_tokens": 2, "messages": _CHAT["messages"]}),
        ("/tokenize", {**one, "prompt": "hi"}),
        ("/tokenize", {"prompt": "hi"}),
        ("/tokenize", {"model": "x", "prompt": "hi"}),
        ("/v1/embeddings", {**one, "input": "hi"}),
        ("/v1/rerank", {**one, "query": "a", "documents": ["b"]}),
        ("/v1/completions/", _BASE),
        ("/nowhere", _BASE),
    ):
        yield Ask(name=f"{path} {json.dumps(body)[:60]}", path=path, body=json.dumps(body).encode())
    for path in (
        "/health",
        "/ping",
        "/version",
        "/load",
        "/v1/models",
        "/v1/completions",
        "/v1/models/mymodel",
        "/",
    ):
        yield Ask(name=f"GET {path}", method="GET", path=path, media="")


def _adapters() -> Iterator[Ask]:
    first = {"lora_name": "travel-v1", "lora_path": "${FOLDER}/adapters/v1"}
    second = {"lora_name": "travel-v2", "lora_path": "${FOLDER}/adapters/v2"}
    for path, body in (
        (_LOAD, {**first, "lora_path": "/nowhere"}),
        (_LOAD, {**first, "lora_path": "${FOLDER}/adapters/none"}),
        (_LOAD, {**first, "lora_path": "${FOLDER}/adapters/empty"}),
        (_LOAD, {**first, "lora_path": "${FOLDER}/adapters/large"}),
        (_LOAD, {**first, "lora_name": "mymodel"}),
        (_LOAD, {**first, "lora_name": ""}),
        (_LOAD, {**first, "lora_name": None}),
        (_LOAD, {"lora_path": first["lora_path"]}),
        (_LOAD, {"lora_name": "travel-v1"}),
        (_LOAD, first),
        (_LOAD, first),
        (_LOAD, {**first, "lora_path": second["lora_path"]}),
        (_LOAD, {**first, "load_inplace": True}),
        (_LOAD, second),
    ):
        yield Ask(name=f"load {json.dumps(body)}", path=path, body=json.dumps(body).encode())
    yield Ask(name="GET /v1/models with adapters", method="GET", path="/v1/models", media="")
    for model in ("mymodel", "travel-v1", "travel-v2", "travel-v1"):
        asked = {"model": model, "prompt": "Hi", "max_tokens": 16, "temperature": 0}
        yield Ask(name=f"asked of {model}", body=json.dumps(asked).encode())
    for unloaded in ({"lora_name": "x"}, {}, {"lora_name": ""}, *([{"lora_name": "travel-v2"}] * 2)):
        yield Ask(name=f"unload {json.dumps(unloaded)}", path=_UNLOAD, body=json.dumps(unloaded).encode())
    yield Ask(name="asked of an unloaded adapter", body=_with(model="travel-v2"))
    yield Ask(name="GET /v1/models after the unload", method="GET", path="/v1/models", media="")


def asks() -> list[Ask]:
    """All requests, in their order."""
    return [*_encodings(), *_json_layer(), *_fields(), *_paths(), *_adapters()]


async def record(url: str, folder: Path) -> tuple[list[dict[str, Any]], str]:
    """Ask a server that finds its files in ``folder``: the exchanges, and its metrics page after them."""
    found = []
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(timeout=timeout, skip_auto_headers=["content-type"]) as session:
        for ask in asks():
            body = ask.body.replace(b"${FOLDER}", str(folder).encode())
            headers = {**ask.headers, **({"content-type": ask.media} if ask.media else {})}
            async with session.request(
                ask.method, url + ask.path, data=body, headers=headers, allow_redirects=False
            ) as answer:
                text = (await answer.text()).replace(str(folder), "${FOLDER}")
                found.append(
                    {
                        "name": ask.name,
                        "method": ask.method,
                        "path": ask.path,
                        "headers": headers,
                        "body": ask.body.decode("latin-1"),
                        "status": answer.status,
                        "media": answer.headers.get("content-type", ""),
                        "answer": text,
                    }
                )
        async with session.get(f"{url}/metrics") as page:
            return found, await page.text()
