"""The paths of vLLM beside its completions: what they ask for and what they answer, without a model behind them.

``/v1/responses`` and ``/v1/messages`` are completions in other clothes (not streamed here). A real server has either
those or the paths of pooling models and of speech to text, by the model that it serves; this one has all.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import python_multipart
from python_multipart.exceptions import FormParserError

from rollouts.lab.vllm.errors import bad_request, compact_json

__all__ = ["DIALECTS", "DOCUMENTS", "POOLING", "TOKENS", "read_form", "transcription"]

_DIMENSIONS = 8
_CHARACTERS_PER_TOKEN = 4


def _texts(body: Mapping[str, Any], key: str) -> list[str]:
    value = body.get(key)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise bad_request(f"{key}: a text or a list of texts is needed", key)
    return texts


def _tokens(*texts: str) -> int:
    return sum(max(1, -(-len(text) // _CHARACTERS_PER_TOKEN)) for text in texts)


def _number(text: str) -> float:
    """Between 0 and 1, the same for the same text."""
    return zlib.crc32(text.encode("utf-8", "replace")) / 2**32


# --- completions in other clothes ----------------------------------------------------------------------------


def _not_streamed(body: Mapping[str, Any]) -> None:
    if body.get("stream"):
        raise bad_request(
            "stream: this simulated server streams completions and chat completions only", "stream"
        )


def _from_response(body: Mapping[str, Any]) -> dict[str, Any]:
    _not_streamed(body)
    asked = body.get("input")
    messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    return {"model": body.get("model"), "messages": messages, "max_tokens": body.get("max_output_tokens")}


def _from_message(body: Mapping[str, Any]) -> dict[str, Any]:
    _not_streamed(body)
    if not isinstance(body.get("max_tokens"), int):
        raise bad_request("max_tokens: a number is needed", "max_tokens")
    return {"model": body.get("model"), "messages": body.get("messages"), "max_tokens": body["max_tokens"]}


DIALECTS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "/v1/responses": _from_response,
    "/v1/messages": _from_message,
}
"""Path to what makes a chat completion of the request. Raises ApiError."""


def _to_response(chat: Mapping[str, Any]) -> dict[str, Any]:
    usage = chat["usage"]
    content = [{"type": "output_text", "text": _text(chat), "annotations": []}]
    return {
        "id": chat["id"].replace("chatcmpl-", "resp_"),
        "object": "response",
        "created_at": chat["created"],
        "model": chat["model"],
        "status": "completed",
        "output": [{"type": "message", "role": "assistant", "status": "completed", "content": content}],
        "usage": {
            "input_tokens": usage["prompt_tokens"],
            "output_tokens": usage["completion_tokens"],
            "total_tokens": usage["total_tokens"],
        },
    }


def _to_message(chat: Mapping[str, Any]) -> dict[str, Any]:
    usage, reason = chat["usage"], chat["choices"][0]["finish_reason"]
    return {
        "id": chat["id"],
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": _text(chat)}],
        "model": chat["model"],
        "stop_reason": "max_tokens" if reason == "length" else "end_turn",
        "usage": {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]},
    }


def _text(chat: Mapping[str, Any]) -> str:
    return str(chat["choices"][0]["message"]["content"])


DOCUMENTS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "/v1/responses": _to_response,
    "/v1/messages": _to_message,
}
"""Path to what makes the answer of a chat completion."""


# --- pooling models, tokens ----------------------------------------------------------------------------------


def _embeddings(body: Mapping[str, Any], model: str) -> dict[str, Any]:
    texts = _texts(body, "input")
    vectors = [[_number(f"{text}/{n}") for n in range(_DIMENSIONS)] for text in texts]
    data = [{"index": n, "object": "embedding", "embedding": vector} for n, vector in enumerate(vectors)]
    usage = {"prompt_tokens": _tokens(*texts), "total_tokens": _tokens(*texts), "completion_tokens": 0}
    return {"id": "embd-0", "object": "list", "created": 0, "model": model, "data": data, "usage": usage}


def _rerank(body: Mapping[str, Any], model: str) -> dict[str, Any]:
    query, documents = _texts(body, "query")[0], _texts(body, "documents")
    results = [
        {"index": n, "document": {"text": text}, "relevance_score": _number(query + text)}
        for n, text in enumerate(documents)
    ]
    results.sort(key=lambda result: -result["relevance_score"])  # type: ignore[operator]
    usage = {"total_tokens": _tokens(query, *documents)}
    return {"id": "rerank-0", "model": model, "usage": usage, "results": results}


def _score(body: Mapping[str, Any], model: str) -> dict[str, Any]:
    first, second = _texts(body, "text_1"), _texts(body, "text_2")
    if len(first) not in (1, len(second)):
        raise bad_request("text_1: one text, or as many as text_2", "text_1")
    first = first * len(second) if len(first) == 1 else first
    pairs = zip(first, second, strict=True)
    data = [{"index": n, "object": "score", "score": _number(a + b)} for n, (a, b) in enumerate(pairs)]
    usage = {"prompt_tokens": _tokens(*first, *second), "total_tokens": _tokens(*first, *second)}
    return {"id": "score-0", "object": "list", "created": 0, "model": model, "data": data, "usage": usage}


def _tokenize(body: Mapping[str, Any], model: str) -> dict[str, Any]:
    if "messages" in body:
        messages = body["messages"] if isinstance(body["messages"], list) else []
        text = " ".join(str(message.get("content")) for message in messages if isinstance(message, Mapping))
    else:
        text = _texts(body, "prompt")[0]
    count = _tokens(text)
    return {"count": count, "max_model_len": 8192, "tokens": list(range(count)), "token_strs": None}


POOLING: Mapping[str, Callable[[Mapping[str, Any], str], dict[str, Any]]] = {
    "/v1/embeddings": _embeddings,
    "/rerank": _rerank,
    "/v1/rerank": _rerank,
    "/v2/rerank": _rerank,
    "/score": _score,
    "/v1/score": _score,
}
"""Path to what answers a JSON body for a model that is there. Raises ApiError."""

TOKENS: Mapping[str, Callable[[Mapping[str, Any], str], dict[str, Any]]] = {"/tokenize": _tokenize}
"""The same, of every model."""


# --- speech to text ------------------------------------------------------------------------------------------


def read_form(body: bytes, content_type: str) -> tuple[dict[str, str], dict[str, bytes]]:
    """(fields, files) of a multipart form; of several of a name the last. Raises ApiError."""
    fields: dict[str, str] = {}
    files: dict[str, bytes] = {}

    def on_field(field: Any) -> None:
        fields[field.field_name.decode()] = (field.value or b"").decode("utf-8", "replace")

    def on_file(file: Any) -> None:
        file.file_object.seek(0)
        files[file.field_name.decode()] = file.file_object.read()

    headers = {"Content-Type": content_type.encode(), "Content-Length": str(len(body)).encode()}
    try:
        python_multipart.parse_form(headers, io.BytesIO(body), on_field, on_file)
    except (FormParserError, ValueError) as error:
        raise bad_request(f"Invalid multipart data: {error}") from None
    return fields, files


def transcription(fields: Mapping[str, str], files: Mapping[str, bytes]) -> tuple[bytes, str]:
    """(body, content type) of the answer. Raises ApiError."""
    if not files.get("file"):
        raise bad_request("file: an audio file is needed", "file")
    text = f"{len(files['file'])} bytes of sound"
    if fields.get("response_format") == "text":
        return text.encode(), "text/plain; charset=utf-8"
    usage = {"type": "duration", "seconds": 1}
    return compact_json({"text": text, "usage": usage}), "application/json"
