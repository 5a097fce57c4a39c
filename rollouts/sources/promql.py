"""Measures as PromQL: what the pods source computes, over the same pods, once for each of them.

The namespace is always matched, since pods of one name exist in many. One scrape job is read per pod: two of them
(a PodMonitor and a ServiceMonitor, say) hold every count twice. A counter that appears with its first event, in a
process that was there before, began at 0: ``increase`` would leave that first value out.

Of a pod that was warmed up within the window what came after counts, as in the pods source: its ranges begin there.
``offset`` would find a sample from before, since a server looks back, so such a pod's samples are counted instead.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from rollouts.analysis.catalogue import Groups, Over, Selector
from rollouts.analysis.offers import QUANTILES, Statistic
from rollouts.analysis.types import MeasureKind, Stat
from rollouts.sources.base import ScrapeTarget

__all__ = [
    "LOOKBACK",
    "PerJob",
    "PodSelection",
    "job_query",
    "measure_query",
    "raw_query",
    "users_seconds",
]

LOOKBACK = 300
"""Seconds: a sample that old is what a Prometheus server answers for a moment."""
_SETTLES = 5.0
"""Seconds after a warm-up: clocks of two machines differ, and counters are written after the answer."""
_CUTS = 8
"""Lengths to which windows are cut, at most: a query is no longer for a pod that came at a moment of its own."""

_ALWAYS = ("process_start_time_seconds", "vllm:num_requests_running", "sglang:num_running_reqs")
"""Exposed from a process' first scrape on, whatever it has served."""

PerJob = tuple[tuple[str | None, tuple[ScrapeTarget, ...]], ...]
"""The pods that are read from each scrape job; None for whichever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSelection:
    """Which pods of which namespace, and how a server labels them. An empty label of the namespace matches none."""

    namespace: str
    pod_label: str
    namespace_label: str
    per_job: PerJob
    enforced_label: str = ""
    """As in ``PrometheusConfig``. Our own queries have it from here: the rewriter's limits are for those of authors."""

    @property
    def process(self) -> str:
        """The labels that tell processes apart."""
        return self.pod_label if self.pod_label == "instance" else f"{self.pod_label}, instance"

    def name(self, endpoint: ScrapeTarget) -> str:
        """The value of the pod label."""
        return f"{endpoint.ip}:{endpoint.port}" if self.pod_label == "instance" else endpoint.owner

    def matchers(self, job: str | None, endpoints: Iterable[ScrapeTarget]) -> str:
        """The matchers of some of the pods."""
        names = dict.fromkeys(self.name(endpoint) for endpoint in endpoints)
        parts = [f"{self.pod_label}=~{_among(names)}"]
        for label in dict.fromkeys((self.namespace_label, self.enforced_label)):
            if label:
                parts.append(f'{label}="{_escape(self.namespace)}"')
        if job is not None:
            parts.append(f'job="{_escape(job)}"')
        return ",".join(parts)


def users_seconds(endpoint: ScrapeTarget, at: datetime) -> float:
    """How long before a moment all samples of a pod are of users' requests; infinite where nobody warmed it up."""
    return math.inf if endpoint.warmed is None else at.timestamp() - endpoint.warmed - _SETTLES


class _Part(NamedTuple):
    """Pods of one job with equally much of a window, as matchers.

    ``whole``: all of it is users'. ``cut``: at its beginning the server may still answer what was there before.
    """

    pods: str
    seconds: int
    whole: bool
    cut: bool


def _parts(where: PodSelection, window: int, at: datetime) -> Iterator[_Part]:
    """All pods of which something is to be read."""
    for job, endpoints in where.per_job:
        found: dict[tuple[int, bool, bool], list[ScrapeTarget]] = {}
        for endpoint in endpoints:
            known = users_seconds(endpoint, at)
            whole, cut = known >= window, known < window + LOOKBACK
            seconds = window if whole else int(_CUTS * known / window) * window // _CUTS
            if seconds > 0:
                found.setdefault((seconds, whole, cut), []).append(endpoint)
        for (seconds, whole, cut), some in sorted(found.items(), reverse=True):
            yield _Part(where.matchers(job, some), seconds, whole, cut)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _quote_regex(text: str) -> str:
    return re.sub(r"([.+*?()\[\]{}^$|\\])", r"\\\1", text)


def _among(values: Iterable[str]) -> str:
    return f'"{_escape("|".join(_quote_regex(value) for value in values))}"'


def _labels(selector: Selector) -> list[str]:
    parts = [f"{key}=~{_among(accepted)}" for key, accepted in (selector.any_of or {}).items()]
    parts += [f"{key}!~{_among(refused)}" for key, refused in (selector.none_of or {}).items()]
    if selector.prefix is not None:
        parts.append(f'{selector.prefix[0]}=~"{_escape(_quote_regex(selector.prefix[1]))}.*"')
    if selector.present:
        parts.append(f'{selector.present}!=""')
    return parts


def _any_name(names: Iterable[str]) -> str:
    wanted = "|".join(sorted(_quote_regex(name) for name in names))
    return f'__name__=~"({_escape(wanted)})(_bucket|_sum|_count)?"'


def raw_query(names: frozenset[str], where: PodSelection, at: datetime) -> str:
    """Every wanted series of the pods, histograms by their three parts; of pods just warmed up, what is of users."""
    found: list[str] = []
    for job, endpoints in where.per_job:
        ages: dict[int, list[ScrapeTarget]] = {}
        for endpoint in endpoints:
            ages.setdefault(int(min(users_seconds(endpoint, at), LOOKBACK)), []).append(endpoint)
        for age, some in sorted(ages.items(), reverse=True):
            pods = f"{{{_any_name(names)},{where.matchers(job, some)}}}"
            if age > 0:
                found.append(pods if age == LOOKBACK else f"last_over_time({pods}[{age}s])")
    return " or ".join(found)


def job_query(names: Iterable[str], where: PodSelection) -> str:
    """How many of the wanted series each scrape job holds of each process."""
    series = " or ".join(f"{{{_any_name(names)},{where.matchers(*part)}}}" for part in where.per_job)
    return f"count by (job, {where.process}) ({series})"


def measure_query(wanted: Statistic, window: timedelta, where: PodSelection, at: datetime) -> str:
    """The PromQL of a statistic over the pods; alternatives are joined by ``or``.

    Nothing where none of the pods was there when the window began: part of a window is no data. Empty where that is
    known without asking, since all of them were warmed up later.
    """
    seconds = max(1, round(window.total_seconds()))
    parts, stat = tuple(_parts(where, seconds, at)), wanted.stat
    builder = _Builder(where.process, wanted, seconds, parts)
    last = wanted.kind is MeasureKind.GAUGE and stat is Stat.LAST
    if not parts or not (last or any(part.whole for part in parts)):
        return ""
    if wanted.kind is MeasureKind.GAUGE:
        found = builder.gauge(stat)
        return found if last else builder.covered(found)
    return builder.covered(
        builder.histogram(stat) if wanted.kind is MeasureKind.HISTOGRAM else builder.counter(stat)
    )


@dataclass(frozen=True, slots=True)
class _Builder:
    process: str
    wanted: Statistic
    window: int
    parts: tuple[_Part, ...]

    def covered(self, query: str) -> str:
        there = " or ".join(self._presence(part.pods) for part in self.parts if part.whole)
        return f"({query}) and on () (count({there}) > 0)"

    def _presence(self, pods: str) -> str:
        names = {*_ALWAYS, *self.wanted.names}
        return f"{{{_any_name(names)},{pods}}} offset {self.window}s"

    def series(self, selector: Selector, suffix: str = "") -> list[tuple[_Part, str]]:
        """One selector per part."""
        own = _labels(selector)
        return [(part, f"{selector.name}{suffix}{{{','.join([part.pods, *own])}}}") for part in self.parts]

    def growth(self, selector: Selector, suffix: str = "") -> str:
        return " or ".join(
            f"({self._born(part, one)}) or increase({one}[{part.seconds}s])"
            for part, one in self.series(selector, suffix)
        )

    def _born(self, part: _Part, one: str) -> str:
        """Series that appeared while their process was there: all that they show has come since."""
        if not part.cut:
            there = f"group by ({self.process}) ({self._presence(part.pods)})"
            return f"({one} unless {one} offset {part.seconds}s) and on ({self.process}) {there}"
        counts = " or ".join(f"count_over_time({name}{{{part.pods}}}[{part.seconds}s])" for name in _ALWAYS)
        fewer = f"< on ({self.process}) group_left () max by ({self.process}) ({counts})"
        return f"{one} and count_over_time({one}[{part.seconds}s]) {fewer}"

    def either(self, groups: Groups) -> str:
        return " or ".join(f"sum({self.growth(group[0])})" for group in groups)

    def gauge(self, stat: Stat) -> str:
        over = "avg_over_time" if stat is Stat.MEAN else "last_over_time"
        found = []
        for group in self.wanted.alternatives:
            engines = "avg" if group[0].over is Over.MEAN else "sum"
            read = " or ".join(f"{over}({one}[{part.seconds}s])" for part, one in self.series(group[0]))
            found.append(f"avg({engines} by ({self.process}) ({read}))")
        return " or ".join(found)

    def histogram(self, stat: Stat) -> str:
        groups = self.wanted.alternatives
        if stat is Stat.MEAN:
            return " or ".join(
                f"sum({self.growth(g[0], '_sum')}) / sum({self.growth(g[0], '_count')})" for g in groups
            )
        q = QUANTILES.get(stat, 0.95)
        return " or ".join(
            f"histogram_quantile({q}, sum by (le) ({self.growth(g[0], '_bucket')}))" for g in groups
        )

    def counter(self, stat: Stat) -> str:
        if stat is Stat.RATIO:
            events = f"({self.either(self.wanted.alternatives)}) or vector(0)"
            share = f"({events}) / ({self.either(self.wanted.of)})"
            if not self.wanted.finished:
                return share
            nothing = f"(({self.either(self.wanted.finished)}) == 0) and on () (({events}) == 0)"
            return f"({share}) unless on () ({nothing})"
        return f"({self.either(self.wanted.alternatives)}) / {self.window}"
