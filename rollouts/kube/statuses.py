"""From an answer of the API server to our errors: one pure function, because every retry depends on it.

The codes and reasons are those of Kubernetes' API conventions, "Response Status Kind". Three cases are not
what they seem. A JSON patch that does not apply, be it for a ``test`` that does not hold, is answered 422
with an empty ``details`` (seen on kube-apiserver 1.36); an object that breaks its schema is a 422 too, but
names the object. A patch whose ``metadata.uid`` is not the object's is such a 422, and no 409 as of other writes: the
field is immutable. And a kind that is not served is a 404 that names no object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rollouts.kube.errors import (
    AlreadyExists,
    ApiTimeout,
    ApiUnavailable,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    KindNotServed,
    KubeError,
    NamespaceTerminating,
    NotFound,
    OtherObject,
    TooManyRequests,
)

__all__ = ["error_from_answer", "error_from_status", "retry_after_seconds"]

# Messages end up in conditions and logs; a proxy's HTML page must not.
_MAX_MESSAGE = 1000
# A server that asks for more is not believed: the caller looks again after this long.
_MAX_RETRY_AFTER = 300.0


def retry_after_seconds(header: str | None) -> float:
    """Seconds of a Retry-After header, between 0 and 300; 1 where it is absent or a date."""
    try:
        seconds = float(header or "1")
    except ValueError:
        return 1.0
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER) if seconds == seconds else 1.0


def error_from_answer(
    status: int, body: bytes, *, retry_after: str | None = None, guarded: bool = False
) -> KubeError:
    """The error for an HTTP answer outside 2xx. ``body`` may be anything.

    ``guarded``: a JSON patch with a ``test`` was sent; that it does not apply then means Conflict.
    """
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict) or parsed.get("kind") != "Status":
        text = body[:_MAX_MESSAGE].decode(errors="replace").strip()
        parsed = {"message": text or "the answer has no text"}
    return error_from_status(status, parsed, retry_after=retry_after, guarded=guarded)


def error_from_status(
    status: int,
    body: Mapping[str, Any],
    *,
    retry_after: str | None = None,
    guarded: bool = False,
) -> KubeError:
    """The error for a Status object, of an HTTP answer or of an ERROR event in a watch."""
    message = str(body.get("message") or body.get("reason") or f"HTTP {status}")[:_MAX_MESSAGE]
    reason = body.get("reason")
    if status == 404:
        return _not_found(message, body.get("details"))
    if status == 409:
        return (
            AlreadyExists(message, status=409) if reason == "AlreadyExists" else Conflict(message, status=409)
        )
    if status == 422 and guarded and not _named(body.get("details")):
        return Conflict(f"{message}: the object is not what the patch was made for", status=422)
    if status == 422 and _has_cause(body.get("details"), "field", "metadata.uid"):
        return OtherObject(message, status=422)
    if status == 429:
        return TooManyRequests(message, retry_after=retry_after_seconds(retry_after))
    if status in (401, 403):
        refusal = NamespaceTerminating if _is_terminating(body.get("details")) else Forbidden
        return refusal(message, status=status)
    if status == 410:
        return Gone(message, status=410)
    if status in (408, 504):
        return ApiTimeout(message, status=status)
    if 400 <= status < 500:
        return Invalid(message, status=status)
    return ApiUnavailable(message, status=status)


def _is_terminating(details: Any) -> bool:
    """Whether the admission plugin NamespaceLifecycle refused, in the cause that it names (Kubernetes 1.17)."""
    return _has_cause(details, "reason", "NamespaceTerminating")


def _has_cause(details: Any, name: str, value: str) -> bool:
    causes = details.get("causes") if isinstance(details, Mapping) else None
    return isinstance(causes, list) and any(
        isinstance(one, Mapping) and one.get(name) == value for one in causes
    )


def _not_found(message: str, details: Any) -> KubeError:
    """A missing object is named in ``details``; a missing kind cannot be."""
    return NotFound(message, status=404) if _named(details) else KindNotServed(message, status=404)


def _named(details: Any) -> bool:
    return isinstance(details, Mapping) and bool(details.get("name"))
