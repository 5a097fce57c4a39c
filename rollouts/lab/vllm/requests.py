"""Completion requests of the OpenAI API, checked as vLLM checks them: 400 with a reason, never 422."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ApiError", "Completion", "compact_json", "error_body", "parse_completion", "parse_json"]

_VOCABULARY = 32_000
_CHARACTERS_PER_TOKEN = 4


class ApiError(Exception):
    """An answer other than 200, in the OpenAI error shape."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A request that can be served. ``max_tokens`` is already cut to the context."""

    model: str
    chat: bool
    stream: bool
    include_usage: bool
    prompt_tokens: int
    max_tokens: int
    param_max_tokens: int | None
    ignore_eos: bool


def error_body(error: ApiError) -> dict[str, Any]:
    """The JSON body of an error answer; also the event inside a stream."""
    return {"error": {"message": str(error), "type": error.kind, "param": error.param, "code": error.status}}


def compact_json(document: Mapping[str, Any]) -> bytes:
    """JSON without spaces, as the server's framework writes it."""
    return json.dumps(document, separators=(",", ":")).encode()


def _bad(message: str, param: str | None = None) -> ApiError:
    return ApiError(400, "BadRequestError", message, param)


def parse_json(body: bytes, content_type: str) -> Mapping[str, Any]:
    """The JSON object of a request body. Raises ApiError."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise _bad("Unsupported Media Type: Only 'application/json' is allowed")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _bad(f"the body is not JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise _bad("the body is not a JSON object")
    return value


def parse_completion(body: Mapping[str, Any], *, chat: bool, max_model_len: int) -> Completion:
    """Check one request. ``model`` is empty when the request names none. Raises ApiError."""
    model = body.get("model") or ""
    if not isinstance(model, str):
        raise _bad("model: a string is needed", "model")
    _check_sampling(body)
    prompt_tokens = _chat_tokens(body) if chat else _prompt_tokens(body.get("prompt"))
    wanted = _max_tokens(body, chat)
    if prompt_tokens >= max_model_len or (wanted or 0) > max_model_len:
        raise _bad(
            f"This model's maximum context length is {max_model_len} tokens; "
            f"{prompt_tokens} in the prompt and {wanted or 0} for the answer were asked for."
        )
    room = max_model_len - prompt_tokens
    return Completion(
        model=model,
        chat=chat,
        stream=_boolean(body, "stream"),
        include_usage=_boolean(_mapping(body, "stream_options"), "include_usage"),
        prompt_tokens=prompt_tokens,
        max_tokens=min(room, wanted if wanted is not None else (room if chat else 16)),
        param_max_tokens=wanted,
        ignore_eos=_boolean(body, "ignore_eos"),
    )


def _check_sampling(body: Mapping[str, Any]) -> None:
    _number(body, "temperature", low=0.0, high=float("inf"))
    top_p = _number(body, "top_p", low=0.0, high=1.0)
    if top_p == 0.0:
        raise _bad("top_p must be in (0, 1]", "top_p")
    if body.get("n", 1) not in (1, None):
        raise _bad("n: this simulated server answers with one choice only", "n")
    if body.get("tools"):
        raise _bad('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')


def _number(body: Mapping[str, Any], key: str, *, low: float, high: float) -> float | None:
    value = body.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise _bad(f"{key} must be a number in [{low:g}, {high:g}]", key)
    return float(value)


def _boolean(body: Mapping[str, Any], key: str) -> bool:
    value = body.get(key)
    if value is not None and not isinstance(value, bool):
        raise _bad(f"{key} must be true or false", key)
    return bool(value)


def _mapping(body: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = body.get(key)
    if value is not None and not isinstance(value, Mapping):
        raise _bad(f"{key} must be an object", key)
    return value or {}


def _max_tokens(body: Mapping[str, Any], chat: bool) -> int | None:
    key = "max_completion_tokens" if chat and body.get("max_completion_tokens") is not None else "max_tokens"
    value = body.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _bad(f"{key} must be at least 1, got {str(value)[:40]}.", key)
    return value


def _chat_tokens(body: Mapping[str, Any]) -> int:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _bad("messages: a list with at least one message is needed", "messages")
    total = 0
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise _bad("messages: each is an object with a role", "messages")
        total += 3 + _content_tokens(message.get("content"))
    return total


def _content_tokens(content: Any) -> int:
    if content is None:
        return 0
    if isinstance(content, str):
        return _text_tokens(content)
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        return sum(_text_tokens(str(part.get("text", ""))) for part in content)
    raise _bad("messages.content: a string or a list of parts is needed", "messages")


def _prompt_tokens(prompt: Any) -> int:
    if isinstance(prompt, str) and prompt:
        return _text_tokens(prompt)
    if isinstance(prompt, list) and prompt:
        if all(isinstance(part, str) for part in prompt):
            return sum(_text_tokens(part) for part in prompt)
        if all(isinstance(part, int) and not isinstance(part, bool) for part in prompt):
            if not all(0 <= token < _VOCABULARY for token in prompt):
                raise _bad("prompt: a token id is out of vocabulary", "prompt")
            return len(prompt)
    raise _bad("prompt: a text or a list of token ids is needed, not empty", "prompt")


def _text_tokens(text: str) -> int:
    return max(1, (len(text) + _CHARACTERS_PER_TOKEN - 1) // _CHARACTERS_PER_TOKEN)
