"""What the headers of a request say about its body: whether one comes at all, and what it is written in.

JSON is what FastAPI, and so vLLM, reads as JSON, by the media type alone: a ``charset`` parameter changes nothing.
Bodies of other types are tried as JSON all the same, for some servers do not ask for the type.
"""

from __future__ import annotations

from enum import Enum

from rollouts.picker.core.messages import Headers

__all__ = ["Content", "content_of", "is_dialogue", "is_upgrade"]

_NO_UPGRADE = frozenset((b"", b"h2c"))
"""Some clients, Java's for one, offer HTTP/2 with every request: servers answer such a one as it stands."""


class Content(Enum):
    """What a body is taken for."""

    JSON = "application/json"
    FORM = "multipart/form-data"
    OTHER = "anything else"


def content_of(headers: Headers) -> Content:
    """By ``content-type``; without one it is JSON."""
    value = headers.get(b"content-type", b"")
    if value in (b"application/json", b""):
        return Content.JSON
    media = value.partition(b";")[0].strip().lower()
    if media == b"application/json" or (media.startswith(b"application/") and media.endswith(b"+json")):
        return Content.JSON
    return Content.FORM if media == b"multipart/form-data" else Content.OTHER


def is_upgrade(headers: Headers) -> bool:
    """Whether another protocol follows the response (RFC 9110, section 7.8; over HTTP/2 a CONNECT, RFC 8441).

    Such a request has no body of its own, but Envoy does not say so: it never ends.
    """
    if headers.get(b":method") == b"CONNECT":
        return True
    if b"upgrade" not in headers or b"upgrade" not in _tokens(headers, b"connection"):
        return False
    length = headers.get(b"content-length", b"0")
    return not length.strip(b"0 ") and not _NO_UPGRADE.issuperset(_tokens(headers, b"upgrade"))


def is_dialogue(headers: Headers) -> bool:
    """Whether the client may wait for an answer before it goes on: gRPC."""
    return headers.get(b"content-type", b"").startswith(b"application/grpc")


def _tokens(headers: Headers, name: bytes) -> set[bytes]:
    return {token.strip() for token in headers.get(name, b"").lower().split(b",")}
