"""One call of a Prometheus server's HTTP API by a command: a status and the beginning of what it said, or why not."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ApiAnswer", "NoAnswer", "ask"]

_SECONDS = 5.0
_LONGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class ApiAnswer:
    """``body``: its first MiB."""

    status: int
    body: bytes


class NoAnswer(Exception):
    """Nobody there who speaks HTTP in time, or the URL is none."""


def ask(url: str, path: str, words: Mapping[str, str], *, post: bool = False) -> ApiAnswer:
    """``/api/v1/PATH`` of the server at ``url``, with ``words`` in the query or, for long ones, in a form.

    Every status is an answer. Raises NoAnswer after five seconds, or where there is none.
    """
    place, form = f"{url.rstrip('/')}/api/v1/{path}", urllib.parse.urlencode(words)
    try:
        if post:
            opened = urllib.request.urlopen(place, data=form.encode(), timeout=_SECONDS)
        else:
            opened = urllib.request.urlopen(f"{place}?{form}", timeout=_SECONDS)
        with opened as answer:
            return ApiAnswer(answer.status, answer.read(_LONGEST))
    except urllib.error.HTTPError as error:
        with error:
            return ApiAnswer(error.code, error.read(_LONGEST))
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise NoAnswer(str(getattr(error, "reason", None) or error) or type(error).__name__) from None
