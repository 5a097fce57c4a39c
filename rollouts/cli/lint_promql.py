"""Queries parsed by the Prometheus server that will answer them: its own parser is the only one that is never wrong.

``/api/v1/parse_query`` (Prometheus 3; experimental before) and ``/api/v1/format_query`` (since 2.40) parse without
evaluating. Both answer a query that is none with 400 and ``errorType: bad_data``.
Source: prometheus.io, "HTTP API", "Formatting query expressions" and "Parsing a PromQL expression into an AST".
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from rollouts.cli.prometheus_api import NoAnswer, ask

__all__ = ["QueryParsers"]

_PATHS = ("parse_query", "format_query")
_MOST = 1_000
"""Queries of one command."""


class QueryParsers:
    """The servers of ``--source NAME=URL``. ``troubles`` says of each why it could not be asked."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._sources = dict(sources)
        self._known: dict[tuple[str, str], str | None] = {}
        self.troubles: dict[str, str] = {}

    def __call__(self, source: str, query: str) -> str | None:
        """What the server says is wrong with a query, empty when nothing is; None where it does not tell."""
        url = self._sources.get(source)
        if url is None or source in self.troubles or len(self._known) >= _MOST:
            return None
        if (source, query) not in self._known:
            self._known[source, query] = self._asked(source, url.rstrip("/"), query)
        return self._known[source, query]

    def _asked(self, source: str, url: str, query: str) -> str | None:
        for path in _PATHS:
            try:
                answer = ask(url, path, {"query": query}, post=True)
            except NoAnswer as error:
                self.troubles[source] = f"{url} cannot be asked: {error}"
                return None
            if answer.status == 200:
                return ""
            told = _words(answer.body) if answer.status == 400 else None
            if told is not None:
                return told
            # VictoriaMetrics answers 400 for a path that it does not have.
            if answer.status not in (400, 404):
                self.troubles[source] = f"{url} answers {answer.status}"
                return None
        self.troubles[source] = f"{url} parses no queries: it is no Prometheus of 2.40 or later"
        return None


def _words(body: bytes) -> str | None:
    """The server's error; None where its answer is no Prometheus' answer."""
    try:
        said = json.loads(body)
    except ValueError:
        return None
    if not isinstance(said, dict) or said.get("errorType") != "bad_data":
        return None
    return str(said.get("error")).removeprefix('invalid parameter "query": ')[:500]
