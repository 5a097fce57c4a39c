"""How late the servers of ``--source NAME=URL`` answer, and whether once: gates judge what they tell.

A store like VictoriaMetrics answers for a moment before the one that it is asked for while samples of the last seconds
may still arrive, and behind a queue or a remote write samples come late.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping

from rollouts.cli.findings import Check, bad, fine, warn
from rollouts.cli.prometheus_api import NoAnswer, ask

__all__ = ["source_checks"]

_TOLERATED = 2.0
"""Seconds by which clocks differ, and a server may be behind."""
_COUNTED = 600


def source_checks(sources: Mapping[str, str], namespace: str) -> Iterator[Check]:
    """What is to be said of each server, about the targets that it scrapes in a namespace."""
    for name, url in sources.items():
        try:
            yield _moment(name, url)
            yield _newest(name, url, namespace)
            yield from _twice(name, url, namespace)
        except (NoAnswer, ValueError, LookupError, TypeError) as error:
            yield _silent(name, url, error)


class _Refused(ValueError):
    """A status that is no answer."""


def _silent(name: str, url: str, error: Exception) -> Check:
    if isinstance(error, _Refused):
        return bad(
            f"source {name}: {url} does not answer a query: {error}",
            "correct the URL of --source; doctor sends no credentials: give it an address that asks for none, as of "
            "a port-forward",
        )
    why = error if isinstance(error, NoAnswer) else type(error).__name__
    return bad(f"source {name}: {url} does not answer a query: {why}", "correct the URL of --source")


def _moment(name: str, url: str) -> Check:
    hidden, late = _asked(url, "time() - {now}"), _asked(url, "time() - {now}", nocache="1")
    if -late > _TOLERATED:
        return warn(
            f"source {name}: it answers for {-late:.0f} s before the moment that it is asked for: "
            "gates judge what was then",
            "set -search.latencyOffset of VictoriaMetrics to a few seconds, or let the proxy before it pass `nocache`",
        )
    if -hidden > _TOLERATED:
        return fine(
            f"source {name}: it hides what is younger than {-hidden:.0f} s, and tells the controller, which asks for it"
        )
    return fine(f"source {name}: it answers for the moment that it is asked for")


def _newest(name: str, url: str, namespace: str) -> Check:
    """The age of samples against what the scrapes' distance lets expect; the middle one of all targets."""
    up = f'up{{namespace="{namespace}"}}'
    age = _asked(url, f"quantile(0.5, {{now}} - timestamp({up}))", nocache="1")
    apart = _asked(url, f"quantile(0.5, {_COUNTED} / count_over_time({up}[{_COUNTED}s]))", nocache="1")
    if not math.isfinite(age) or not math.isfinite(apart):
        return warn(
            f"source {name}: it has no `up` of namespace {namespace}: how late its samples are is not known",
            "see that it scrapes the pods there; its label of the namespace may have another name (namespaceLabel)",
        )
    if age > 2 * apart + _TOLERATED:
        return warn(
            f"source {name}: the newest samples of namespace {namespace} are {age:.0f} s old, and {apart:.0f} s apart: "
            "gates judge what was then",
            "look for what holds them back: a remote write that lags, a queue, -search.latencyOffset",
        )
    return fine(
        f"source {name}: the newest samples of namespace {namespace} are {age:.0f} s old, {apart:.0f} s apart"
    )


def _twice(name: str, url: str, namespace: str) -> Iterator[Check]:
    """Several replicas of a scraper, whose samples the store does not deduplicate: one ``up`` each of a target."""
    targets = f'count by (job, instance, namespace, pod) (up{{namespace="{namespace}"}})'
    kept = _asked(url, f"max({targets})", nocache="1")
    if kept > 1:
        yield warn(
            f"source {name}: it holds targets of namespace {namespace} {kept:.0f} times, by labels of several "
            "scrapers: every request counts as often",
            "let it deduplicate: -dedup.minScrapeInterval of VictoriaMetrics with equal labels, replica labels of "
            "Thanos, HA tracking of Mimir",
        )


def _asked(url: str, query: str, **more: str) -> float:
    """The number that a server answers for the present; NaN for none."""
    now = f"{time.time():.3f}"
    answer = ask(url, "query", {"query": query.replace("{now}", now), "time": now, **more})
    if answer.status != 200:
        raise _Refused(f"HTTP {answer.status}")
    result = json.loads(answer.body)["data"]["result"]
    if not result:
        return math.nan
    value = result[1] if not isinstance(result[0], Mapping) else result[0]["value"][1]
    return float(value)
