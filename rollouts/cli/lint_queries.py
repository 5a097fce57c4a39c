"""PromQL that no server would take, found without a server.

The scanner that limits queries to a namespace knows Prometheus' grammar, and refuses what it does not know: so a
query that it refuses is a doubt, and one whose brackets do not close is a problem.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from rollouts.analysis.enforced_label import QueryNotRewritten, enforce_label
from rollouts.analysis.types import MetricSpec, QuerySpec

__all__ = ["Parse", "query_doubts"]

_ARGUMENT = re.compile(r"\{\{[ \t]{0,8}args\.[-a-z0-9]{1,63}[ \t]{0,8}\}\}")
_QUOTED = re.compile(r"\"(?:[^\"\\\n]|\\[^\n])*+\"|'(?:[^'\\\n]|\\[^\n])*+'|`[^`]*+`|\#[^\n]*+")
_CLOSING = {")": "(", "]": "[", "}": "{"}


Parse = Callable[[str, str], str | None]
"""What the server of a source says is wrong with a query, empty when nothing is; None where it does not tell."""


def query_doubts(metrics: Iterable[MetricSpec], parse: Parse | None = None) -> Iterator[tuple[str, bool]]:
    """(What is wrong with a metric's query, whether it is certain)."""
    for metric in metrics:
        if not isinstance(metric.what, QuerySpec):
            continue
        query = _ARGUMENT.sub("1", metric.what.promql)
        told = parse(metric.source, query) if parse is not None else None
        if told is not None:
            if told:
                yield f"metric {metric.name}: the query is no PromQL: {told}", True
            continue
        wrong = _brackets(query)
        if wrong:
            yield f"metric {metric.name}: the query is no PromQL: {wrong}", True
            continue
        try:
            enforce_label(query, "namespace", "x")
        except QueryNotRewritten as error:
            yield f"metric {metric.name}: the query may be no PromQL: the reader stops {error}", False


def _brackets(query: str) -> str:
    """The bracket that has no partner; empty when all have one."""
    text = _QUOTED.sub("''", query)
    if any(quote in text.replace("''", "") for quote in "\"'`"):
        return "a quotation mark has no partner"
    waiting: list[str] = []
    for char in text:
        if char in "([{":
            waiting.append(char)
        elif char in _CLOSING and (not waiting or waiting.pop() != _CLOSING[char]):
            return f"a {char} closes nothing"
    return f"a {waiting[-1]} is not closed" if waiting else ""
