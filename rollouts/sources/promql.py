"""Measures as PromQL: what the pods source computes, over the same pods, once for each of them.

The namespace is always matched, since pods of one name exist in many. One scrape job is read per pod: two of them
(a PodMonitor and a ServiceMonitor, say) hold every count twice. A counter that appears with its first event, in a
process that was there before, began at 0: ``increase`` would leave that first value out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from rollouts.analysis.catalogue import Groups, Over, Selector
from rollouts.analysis.offers import QUANTILES, Statistic
from rollouts.analysis.types import MeasureKind, Stat
from rollouts.sources.base import ScrapeTarget

__all__ = ["PerJob", "PodSelection", "job_query", "measure_query", "raw_query"]

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

    def matchers(self) -> list[str]:
        """One list of matchers per job."""
        found = []
        for job, endpoints in self.per_job:
            names = dict.fromkeys(self.name(endpoint) for endpoint in endpoints)
            parts = [f"{self.pod_label}=~{_among(names)}"]
            for label in dict.fromkeys((self.namespace_label, self.enforced_label)):
                if label:
                    parts.append(f'{label}="{_escape(self.namespace)}"')
            if job is not None:
                parts.append(f'job="{_escape(job)}"')
            found.append(",".join(parts))
        return found


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


def raw_query(names: frozenset[str], where: PodSelection) -> str:
    """Every wanted series of the pods, histograms by their three parts."""
    return " or ".join(f"{{{_any_name(names)},{pods}}}" for pods in where.matchers())


def job_query(names: Iterable[str], where: PodSelection) -> str:
    """How many of the wanted series each scrape job holds of each process."""
    return f"count by (job, {where.process}) ({raw_query(frozenset(names), where)})"


def measure_query(wanted: Statistic, window: timedelta, where: PodSelection) -> str:
    """The PromQL of a statistic over the pods; alternatives are joined by ``or``.

    Nothing where none of the pods was there when the window began: part of a window is no data.
    """
    builder, stat = _Builder(where, wanted, max(1, round(window.total_seconds()))), wanted.stat
    if wanted.kind is MeasureKind.GAUGE:
        found = builder.gauge(stat)
        return found if stat is Stat.LAST else builder.covered(found)
    return builder.covered(
        builder.histogram(stat) if wanted.kind is MeasureKind.HISTOGRAM else builder.counter(stat)
    )


@dataclass(frozen=True, slots=True)
class _Builder:
    where: PodSelection
    wanted: Statistic
    seconds: int

    def covered(self, query: str) -> str:
        return f"({query}) and on () (count({self._presence()}) > 0)"

    def _presence(self) -> str:
        names = {*_ALWAYS, *self.wanted.names}
        there = [f"{{{_any_name(names)},{pods}}} offset {self.seconds}s" for pods in self.where.matchers()]
        return " or ".join(there)

    def series(self, selector: Selector, suffix: str = "") -> list[str]:
        """One selector per job."""
        own = _labels(selector)
        return [f"{selector.name}{suffix}{{{','.join([pods, *own])}}}" for pods in self.where.matchers()]

    def growth(self, selector: Selector, suffix: str = "") -> str:
        there = f"group by ({self.where.process}) ({self._presence()})"
        return " or ".join(
            f"(({one} unless {one} offset {self.seconds}s) and on ({self.where.process}) {there}) "
            f"or increase({one}[{self.seconds}s])"
            for one in self.series(selector, suffix)
        )

    def either(self, groups: Groups) -> str:
        return " or ".join(f"sum({self.growth(group[0])})" for group in groups)

    def gauge(self, stat: Stat) -> str:
        over = "avg_over_time" if stat is Stat.MEAN else "last_over_time"
        found = []
        for group in self.wanted.alternatives:
            engines = "avg" if group[0].over is Over.MEAN else "sum"
            read = " or ".join(f"{over}({one}[{self.seconds}s])" for one in self.series(group[0]))
            found.append(f"avg({engines} by ({self.where.process}) ({read}))")
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
        return f"({self.either(self.wanted.alternatives)}) / {self.seconds}"
