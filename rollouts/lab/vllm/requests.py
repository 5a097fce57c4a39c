"""Completion requests of the OpenAI API, checked as vLLM checks them: 400 with a reason, never 422."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rollouts.lab.vllm.errors import ApiError, UnreadableBody, bad_request, invalid_field, said_of

__all__ = ["Completion", "parse_completion", "parse_json", "text_field"]

_VOCABULARY = 32_000
_CHARACTERS_PER_TOKEN = 4


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


_MOST_NESTED = 900
"""A real server gives up where Python's recursion limit, 1,000, less its own frames is: between 400 and 2,000 by what
was recorded. Named here, since another limit may be set in the process of a test."""


def parse_json(body: bytes, content_type: str) -> Mapping[str, Any]:
    """The JSON object of a request body. Raises ApiError."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
        raise ApiError(400, "Bad Request", message)
    try:
        value = json.loads(body) if body else None
    except json.JSONDecodeError as error:
        raise invalid_field(f"body.{error.pos}", "json_invalid", "JSON decode error", {}, error.msg) from None
    except (ValueError, RecursionError):
        raise UnreadableBody from None
    if body.count(b"[") + body.count(b"{") > _MOST_NESTED and _depth(value) > _MOST_NESTED:
        raise UnreadableBody
    if value is None:
        raise invalid_field("body", "missing", "Field required", value)
    if not isinstance(value, dict):
        message = "Input should be a valid dictionary or object to extract fields from"
        raise invalid_field("body", "model_attributes_type", message, value)
    return value


def _depth(value: Any) -> int:
    """Levels of lists and objects, counted level by level: no recursion of our own."""
    depth, level = 0, [value]
    while level := [one for one in level if isinstance(one, list | dict)]:
        depth += 1
        level = [item for one in level for item in (one.values() if isinstance(one, dict) else one)]
    return depth


def text_field(body: Mapping[str, Any], key: str) -> str:
    """A field that is null, missing or a text. Raises ApiError."""
    value = body.get(key)
    if value is not None and not isinstance(value, str):
        raise invalid_field(f"body.{key}", "string_type", "Input should be a valid string", value)
    return value or ""


def parse_completion(body: Mapping[str, Any], *, chat: bool, max_model_len: int) -> Completion:
    """Check one request. ``model`` is empty when the request names none. Raises ApiError."""
    model = text_field(body, "model")
    _check_sampling(body)
    prompt_tokens = _chat_tokens(body) if chat else _prompt_tokens(body.get("prompt"))
    wanted = _max_tokens(body, chat)
    _check_length(prompt_tokens, wanted or 0, max_model_len)
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


def _check_length(prompt: int, wanted: int, limit: int) -> None:
    if wanted > limit:
        why = f"max_tokens={wanted} cannot be greater than max_model_len={limit}. Please request fewer output tokens."
        raise said_of("max_tokens", wanted, why)
    if prompt >= limit:
        why = (
            f"This model's maximum context length is {limit} tokens. However, your prompt contains at least "
        )
        why += f"{limit + 1} input tokens, which exceeds this limit even without any output tokens. Please reduce the "
        raise said_of("input_tokens", limit + 1, why + "length of the input prompt.")


def _check_sampling(body: Mapping[str, Any]) -> None:
    temperature, top_p = _number(body, "temperature"), _number(body, "top_p")
    if temperature is not None and not math.isfinite(temperature):
        raise said_of("temperature", temperature, f"temperature must be a finite number, got {temperature}.")
    if temperature is not None and temperature < 0:
        raise said_of("temperature", temperature, f"temperature must be non-negative, got {temperature}.")
    if top_p is not None and not 0 < top_p <= 1:
        raise said_of("top_p", top_p, f"top_p must be in (0, 1], got {top_p}.")
    if body.get("n", 1) not in (1, None):
        raise bad_request("n: this simulated server answers with one choice only", "n")
    if body.get("tools"):
        raise bad_request(
            '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
        )


def _number(body: Mapping[str, Any], key: str) -> float | None:
    value = body.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid_field(f"body.{key}", "float_type", "Input should be a valid number", value)
    return float(value)


def _boolean(body: Mapping[str, Any], key: str) -> bool:
    value = body.get(key)
    if value is not None and not isinstance(value, bool):
        raise bad_request(f"{key} must be true or false", key)
    return bool(value)


def _mapping(body: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = body.get(key)
    if value is not None and not isinstance(value, Mapping):
        raise bad_request(f"{key} must be an object", key)
    return value or {}


def _max_tokens(body: Mapping[str, Any], chat: bool) -> int | None:
    key = "max_completion_tokens" if chat and body.get("max_completion_tokens") is not None else "max_tokens"
    value = body.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise said_of(key, str(value)[:40], f"{key} must be at least 1, got {str(value)[:40]}.")
    return value


def _chat_tokens(body: Mapping[str, Any]) -> int:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise bad_request(
            "Cannot apply chat template to an empty conversation. Provide at least one message."
        )
    total = 0
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise bad_request("messages: each is an object with a role", "messages")
        total += 3 + _content_tokens(message.get("content"))
    return total


def _content_tokens(content: Any) -> int:
    if content is None:
        return 0
    if isinstance(content, str):
        return _text_tokens(content)
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        return sum(_text_tokens(str(part.get("text", ""))) for part in content)
    raise bad_request("messages.content: a string or a list of parts is needed", "messages")


def _prompt_tokens(prompt: Any) -> int:
    if isinstance(prompt, str) and prompt:
        return _text_tokens(prompt)
    if isinstance(prompt, list) and prompt:
        if all(isinstance(part, str) for part in prompt):
            return sum(_text_tokens(part) for part in prompt)
        if all(isinstance(part, int) and not isinstance(part, bool) for part in prompt):
            for token in prompt:
                if not 0 <= token < _VOCABULARY:
                    raise bad_request(f"Token id {token} is out of vocabulary")
            return len(prompt)
    why = "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"
    raise bad_request(why, "prompt")


def _text_tokens(text: str) -> int:
    return max(1, (len(text) + _CHARACTERS_PER_TOKEN - 1) // _CHARACTERS_PER_TOKEN)
