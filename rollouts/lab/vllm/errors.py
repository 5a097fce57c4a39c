"""Error answers of the simulated server: OpenAI's shape, and what FastAPI and pydantic say before vLLM does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = [
    "ApiError",
    "UnreadableBody",
    "bad_request",
    "compact_json",
    "error_body",
    "invalid_field",
    "said_of",
]


class ApiError(Exception):
    """An answer other than 200, in the OpenAI error shape."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param


class UnreadableBody(ApiError):  # an answer, as its base is
    """Bytes that Python's JSON decoder gave up on otherwise than by its own error: FastAPI answers itself."""

    def __init__(self) -> None:
        super().__init__(400, "", "There was an error parsing the body")


def bad_request(message: str, param: str | None = None) -> ApiError:
    """vLLM's own 400."""
    return ApiError(400, "BadRequestError", message, param)


def said_of(param: str, value: object, message: str) -> ApiError:
    """Its 400 about the value of a field, which it repeats."""
    return bad_request(f"{message} (parameter={param}, value={value})", param)


def invalid_field(where: str, kind: str, message: str, value: object, why: str = "") -> ApiError:
    """A 400 of the checks before it: what pydantic says, told as vLLM tells it."""
    said = {"type": kind, "loc": where, "msg": message, "input": _shown(value)}
    if why:
        said["ctx"] = {"error": why}  # type: ignore[assignment]
    return ApiError(400, "Bad Request", f"1 validation error:\n  {said}", where)


def _shown(value: object) -> str:
    if isinstance(value, list | dict):
        return f"<{type(value).__name__} of {len(value)} items>"
    return str(value)


def error_body(error: ApiError) -> dict[str, Any]:
    """The JSON body of an error answer; also the event inside a stream."""
    if isinstance(error, UnreadableBody):
        return {"detail": str(error)}
    return {"error": {"message": str(error), "type": error.kind, "param": error.param, "code": error.status}}


def compact_json(document: Mapping[str, Any]) -> bytes:
    """JSON without spaces, as the server's framework writes it. Raises UnicodeEncodeError for half a surrogate pair."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
