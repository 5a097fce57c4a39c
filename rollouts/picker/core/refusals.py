"""Answers that the picker gives in place of a pod."""

from __future__ import annotations

import json

from rollouts.picker.core.messages import ImmediateReply
from rollouts.picker.core.routing import Refusal

__all__ = [
    "OVERLOADED",
    "bad_request",
    "headers_too_large",
    "immediate",
    "too_expanded",
    "too_large",
    "too_slow",
    "unsupported",
]

_ERROR_TYPES = {
    400: "BadRequestError",
    408: "RequestTimeoutError",
    413: "BadRequestError",
    415: "UnsupportedMediaTypeError",
    429: "RateLimitError",
    431: "BadRequestError",
}
OVERLOADED = Refusal(
    503, "buffers-full", "the endpoint picker holds too many large requests: try again later"
)


def bad_request(text: str) -> Refusal:
    """The body cannot be routed."""
    return Refusal(400, "bad-request", text)


def too_large(limit: int) -> Refusal:
    """The body is longer than ``limit`` bytes."""
    return Refusal(413, "body-too-large", f"the request body is larger than {limit} bytes")


def headers_too_large(limit: int) -> Refusal:
    """The headers are more than is kept (RFC 6585, section 5)."""
    text = f"the request's headers are larger than {limit} bytes, of which each line takes 32"
    return Refusal(431, "headers-too-large", text)


def too_expanded(text: str) -> Refusal:
    """The body unfolds to more than is taken."""
    return Refusal(413, "body-too-large", text)


def unsupported(text: str) -> Refusal:
    """The body is written in something that the picker cannot read, and has to."""
    return Refusal(415, "unsupported-body", text)


def too_slow(seconds: float) -> Refusal:
    """The request is not complete in time (RFC 9110, section 15.5.9)."""
    return Refusal(408, "request-timeout", f"the request body was not complete within {seconds:g} seconds")


def immediate(refusal: Refusal) -> ImmediateReply:
    """The reply: the refusal as the error object that OpenAI clients understand."""
    error = {
        "message": refusal.message,
        "type": _ERROR_TYPES.get(refusal.status, "ServiceUnavailableError"),
        "param": None,
        "code": refusal.status,
    }
    body = json.dumps({"error": error}).encode()
    headers = ((b"content-type", b"application/json"), (b"x-rollout-rejected", refusal.reason.encode()))
    return ImmediateReply(refusal.status, body, refusal.reason.encode(), headers)
