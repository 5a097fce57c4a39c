"""Measures as PromQL: what the pods source computes, over the same pods, once for each of them.

The namespace is always matched, since pods of one name exist in many. One scrape job is read per pod: two of them
(a PodMonitor and a ServiceMonitor, say) hold every count twice.

One question comes first: which scrape jobs hold which processes, how many series these had when the window began,
how many within it that they had not had then, and which names there are. Processes that had all of their series then,
and that nobody warmed up since, are steady: the server adds up what ``increase`` says of them. One sample in a window
says nothing.

``increase`` is one thing in Prometheus, which reads what is in the window and extrapolates, and another in
VictoriaMetrics, which begins at the sample before the window, and at 0 where there is none and the first value is
small. Of series that were there they are the same within what one scrape brings. Of one that appears with its first
event, as counters do, neither is the growth. ``offset``, too, finds samples from
before: a process that is younger than that reaches is none that was there, whatever has had its name.

Of all other processes the samples themselves are asked for, by a range selector and nothing else, which both answer:
``raw_windows`` makes of them what is added to the sums.

Servers bound queries (VictoriaMetrics 16 KiB by default), so the pods are asked about in as many as it takes, and
sums are answered, which ``answers`` adds up.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from rollouts.analysis.catalogue import Groups, Over, Selector
from rollouts.analysis.offers import Statistic
from rollouts.analysis.types import MeasureKind, Stat
from rollouts.sources.base import ScrapeTarget

__all__ = [
    "ALWAYS",
    "IS",
    "LONGEST_QUERY",
    "LOOKBACK",
    "MOST_LATE",
    "START_TIME",
    "UP",
    "Is",
    "PerJob",
    "PodSelection",
    "Queries",
    "is_last",
    "known_since",
    "measure_queries",
    "preparatory_queries",
    "range_query",
    "raw_queries",
    "series_names",
    "users_seconds",
]

LOOKBACK = 300
"""Seconds: a sample that old is what a Prometheus server answers for a moment."""
MOST_LATE = 300
"""Seconds before the moment asked about that a server may answer for, unasked."""
_SETTLES = 5.0
"""Seconds after a warm-up: clocks of two machines differ, and counters are written after the answer."""
LONGEST_QUERY = 15_000
"""Bytes of a query of several pods: ``-search.maxQueryLen`` of VictoriaMetrics is 16 KiB."""

IS = "is"
"""The label that says what a sum of an answer is: one of ``Is`` and the place of the alternative."""
_NAME = "is_named"


class Is(StrEnum):
    """What is asked for of the pods of a query."""

    NOW = "now"
    THEN = "then"
    CAME = "came"
    NAMES = "names"
    VALUE = "value"
    SUM = "sum"
    COUNT = "count"
    BUCKETS = "buckets"
    BOUNDS = "bounds"
    OF = "of"
    FINISHED = "finished"


START_TIME = "process_start_time_seconds"
ALWAYS = (START_TIME, "vllm:num_requests_running", "sglang:num_running_reqs")
"""Exposed from a process' first scrape on, whatever it has served."""
UP = "up"
"""The server's own series of each target: a sample of every scrape, also of one that failed."""

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

    @property
    def endpoints(self) -> tuple[ScrapeTarget, ...]:
        """All processes."""
        return tuple(one for _, some in self.per_job for one in some)

    def of_jobs(self, per_job: PerJob) -> PodSelection:
        """Others of them, or by other jobs."""
        return replace(self, per_job=per_job)

    def name(self, endpoint: ScrapeTarget) -> str:
        """The value of the pod label."""
        return f"{endpoint.ip}:{endpoint.port}" if self.pod_label == "instance" else endpoint.owner

    def matchers(self, job: str | None, endpoints: Iterable[ScrapeTarget]) -> str:
        """The matchers of some of the pods."""
        names = dict.fromkeys(self.name(endpoint) for endpoint in endpoints)
        parts = [f"{self.pod_label}=~{_among_names(names)}"]
        for label in dict.fromkeys((self.namespace_label, self.enforced_label)):
            if label:
                parts.append(f'{label}="{_escape(self.namespace)}"')
        if job is not None:
            parts.append(f'job="{_escape(job)}"')
        return ",".join(parts)


def users_seconds(endpoint: ScrapeTarget, at: datetime) -> float:
    """How long before a moment all samples of a pod are of users' requests; infinite where nobody warmed it up."""
    return math.inf if endpoint.warmed is None else at.timestamp() - endpoint.warmed - _SETTLES


def known_since(endpoint: ScrapeTarget) -> float:
    """From when on samples of a pod's name are its own, and of users' requests; minus infinity: always."""
    warmed = -math.inf if endpoint.warmed is None else endpoint.warmed + _SETTLES
    return max(warmed, -math.inf if endpoint.started is None else endpoint.started)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _quote_regex(text: str) -> str:
    return re.sub(r"([.+*?()\[\]{}^$|\\])", r"\\\1", text)


def _among(values: Iterable[str]) -> str:
    return f'"{_escape("|".join(_quote_regex(value) for value in values))}"'


def _among_names(names: Iterable[str]) -> str:
    """As ``_among``; what all names begin with, as those of a Deployment's pods do, is written once."""
    some = list(names)
    pairs = zip(min(some), max(some), strict=False) if len(some) > 1 else ()
    prefix = "".join(one for one, other in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    rest = "|".join(_quote_regex(name[len(prefix) :]) for name in some)
    return f'"{_escape(f"{_quote_regex(prefix)}({rest})" if prefix else rest)}"'


def _labels(selector: Selector) -> list[str]:
    parts = [f"{key}=~{_among(accepted)}" for key, accepted in (selector.any_of or {}).items()]
    parts += [f"{key}!~{_among(refused)}" for key, refused in (selector.none_of or {}).items()]
    if selector.prefix is not None:
        parts.append(f'{selector.prefix[0]}=~"{_escape(_quote_regex(selector.prefix[1]))}.*"')
    if selector.present:
        parts.append(f'{selector.present}!=""')
    if selector.absent:
        parts.append(f'{selector.absent}=""')
    return parts


def _any_name(names: Iterable[str]) -> str:
    wanted = "|".join(sorted(_quote_regex(name) for name in names))
    return f'__name__=~"({_escape(wanted)})(_bucket|_sum|_count)?"'


Queries = tuple[str, ...]
"""Queries whose answers together are the answer about some pods."""
_Named = dict[tuple[str | None, str], list[ScrapeTarget]]
"""The processes of pods by scrape job and name, the pods that were warmed up last first."""


def _divided(where: PodSelection, written: Callable[[PodSelection], list[str]]) -> list[Queries]:
    """One query of all that is to be asked, or as many as it takes, each of some of the pods, until none is too long.

    ``written`` are the series that are asked for; none where nothing is. What a query says of pods of one age it says
    once, so those stay together; and so do the processes of a pod, which have one name.
    """
    pods: _Named = {}
    for job, endpoints in where.per_job:
        for endpoint in sorted(endpoints, key=lambda one: (-(one.warmed or 0.0), where.name(one))):
            pods.setdefault((job, where.name(endpoint)), []).append(endpoint)
    return _halved(where, pods, written)


def _halved(where: PodSelection, pods: _Named, written: Callable[[PodSelection], list[str]]) -> list[Queries]:
    asked = written(where.of_jobs(_by_job(pods)))
    if len(pods) <= 1 or all(len(one.encode()) <= LONGEST_QUERY for one in asked):
        return [_joined(asked)] if asked else []
    names = list(pods)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    return [
        found for half in halves for found in _halved(where, {name: pods[name] for name in half}, written)
    ]


def _joined(asked: Iterable[str]) -> Queries:
    """As few queries as hold all that is asked for."""
    found: list[str] = []
    for one in asked:
        longer = f"{found[-1]} or {one}" if found else one
        if found and len(longer.encode()) <= LONGEST_QUERY:
            found[-1] = longer
        else:
            found.append(one)
    return tuple(found)


def _by_job(pods: _Named) -> PerJob:
    found: dict[str | None, list[ScrapeTarget]] = {}
    for (job, _), endpoints in pods.items():
        found.setdefault(job, []).extend(endpoints)
    return tuple((job, tuple(endpoints)) for job, endpoints in found.items())


def raw_queries(names: frozenset[str], where: PodSelection, at: datetime) -> list[Queries]:
    """Every wanted series of the pods, histograms by their three parts; of pods just warmed up, what is of users."""
    return _divided(where, lambda some: _raw(names, some, at))


def _raw(names: frozenset[str], where: PodSelection, at: datetime) -> list[str]:
    found: list[str] = []
    for job, endpoints in where.per_job:
        ages: dict[int, list[ScrapeTarget]] = {}
        for endpoint in endpoints:
            ages.setdefault(int(min(users_seconds(endpoint, at), LOOKBACK)), []).append(endpoint)
        for age, some in sorted(ages.items(), reverse=True):
            pods = f"{{{_any_name(names)},{where.matchers(job, some)}}}"
            if age > 0:
                found.append(pods if age == LOOKBACK else f"last_over_time({pods}[{age}s])")
    return found


def preparatory_queries(
    names: Collection[str], window: timedelta, where: PodSelection, *, then: bool
) -> list[Queries]:
    """What is to be known before a measure, each part labelled by what it is.

    ``NOW``: how many of the wanted series each scrape job holds of each process. ``NAMES``: how many series there were
    in the window of each name, since one that nobody has shown after a restart may have been shown before. ``THEN`` and
    ``CAME``, where they are asked for: how many series each process had when the window began, and how many of those
    in it were not there then. Operators look away from names, so a label holds these for them.
    """
    seconds = _seconds(window)

    def written(some: PodSelection) -> list[str]:
        def all_of(names: Iterable[str], read: str) -> str:
            wanted = _any_name(names)
            series = (f"{{{wanted},{some.matchers(job, pods)}}}" for job, pods in some.per_job)
            return " or ".join(read.format(one) for one in series)

        by_process, every = f"count by (job, {some.process})", {*names, *ALWAYS}
        asked = [_labelled(f"{by_process} ({all_of(names, '{}')})", Is.NOW, 0)]
        within = all_of(every, f"last_over_time({{}}[{seconds}s])")
        if then:
            asked.append(_labelled(f"{by_process} ({all_of(every, f'{{}} offset {seconds}s')})", Is.THEN, 0))
            both = (f"last_over_time({{0}}[{seconds}s])", f"{{0}} offset {seconds}s")
            named = (f'label_replace({read}, "{_NAME}", "$1", "__name__", "(.*)")' for read in both)
            came = " unless ".join(named)
            asked.append(_labelled(f"{by_process} ({all_of(every, came)})", Is.CAME, 0))
        return [*asked, _labelled(f"count by (__name__) ({within})", Is.NAMES, 0)]

    return _divided(where, written)


def _seconds(window: timedelta) -> int:
    return max(1, round(window.total_seconds()))


def measure_queries(
    wanted: Statistic, held: Collection[str], window: timedelta, where: PodSelection
) -> list[Queries]:
    """The PromQL of what a statistic is made of, for ``answers.measured``: of the names that the server holds.

    Of pods whose series were all there when the window began.
    """

    def written(some: PodSelection) -> list[str]:
        return _Builder(some, wanted, held, _seconds(window)).asked()

    return _divided(where, written)


def series_names(wanted: Statistic) -> set[str]:
    """The names of the series that a statistic is made of: of histograms, those of the parts that it takes."""
    if wanted.kind is not MeasureKind.HISTOGRAM:
        return wanted.names
    parts = ("_sum", "_count") if wanted.stat is Stat.MEAN else ("_bucket",)
    return {f"{name}{part}" for name in wanted.names for part in parts}


def range_query(names: Iterable[str], seconds: float, job: str | None, where: PodSelection) -> str:
    """All samples of so many seconds of these series of the pods of one job: a selector, and nothing around it."""
    wanted = _among(sorted({*names, UP}))
    return f"{{__name__=~{wanted},{where.matchers(job, where.endpoints)}}}[{max(1, math.ceil(seconds))}s]"


def is_last(wanted: Statistic) -> bool:
    """Whether a moment is measured, and no window."""
    return (wanted.kind, wanted.stat) == (MeasureKind.GAUGE, Stat.LAST)


@dataclass(frozen=True, slots=True)
class _Builder:
    where: PodSelection
    wanted: Statistic
    held: Collection[str]
    window: int

    def asked(self) -> list[str]:
        """All that is asked about some pods; sums that nobody has are left out."""
        wanted = self.wanted
        if not self.where.per_job:
            return []
        if wanted.kind is MeasureKind.GAUGE:
            return self._gauges()
        if wanted.kind is MeasureKind.COUNTER:
            found = self._sums(Is.VALUE, wanted.alternatives)
            return found + self._sums(Is.OF, wanted.of) + self._sums(Is.FINISHED, wanted.finished)
        if wanted.stat is Stat.MEAN:
            found = self._sums(Is.SUM, wanted.alternatives, "_sum")
            return found + self._sums(Is.COUNT, wanted.alternatives, "_count")
        return self._sums(Is.BUCKETS, wanted.alternatives, "_bucket", " by (le) ") + self._bounds()

    def _gauges(self) -> list[str]:
        over = "avg_over_time" if self.wanted.stat is Stat.MEAN else "last_over_time"
        found = []
        for place, selector, others in self._held(self.wanted.alternatives):
            engines = "avg" if selector.over is Over.MEAN else "sum"
            read = _grouped(
                _once(selector, self._all_of(selector, "", f"{over}({{}}[{self.window}s])")), others
            )
            found.append(_labelled(f"{engines} by ({self.where.process}) ({read})", Is.VALUE, place))
        return found

    def _sums(self, what: Is, groups: Groups, suffix: str = "", by: str = "") -> list[str]:
        return [
            _labelled(f"sum{by}({_grouped(self._growth(selector, suffix), others)})", what, place)
            for place, selector, others in self._held(groups, suffix)
        ]

    def _bounds(self) -> list[str]:
        """How many histograms have each bound: growth by bounds that some lack is that of the others."""
        return [
            _labelled(
                f"count by (le) ({_grouped(self._shown(selector, '_bucket'), others)})", Is.BOUNDS, place
            )
            for place, selector, others in self._held(self.wanted.alternatives, "_bucket")
        ]

    def _held(self, groups: Groups, suffix: str = "") -> Iterator[tuple[int, Selector, str]]:
        """The alternatives that some pods have, with what leaves out those of a process that has an earlier one."""
        earlier: list[Selector] = []
        for place, (selector, *_) in enumerate(groups):
            if f"{selector.name}{suffix}" not in self.held:
                continue
            shown = " or ".join(self._shown(other, suffix) for other in earlier)
            yield place, selector, f" unless on ({self.where.process}) ({shown})" if earlier else ""
            earlier.append(selector)

    def _shown(self, selector: Selector, suffix: str) -> str:
        return self._all_of(selector, suffix, f"last_over_time({{}}[{self.window}s])")

    def _growth(self, selector: Selector, suffix: str = "") -> str:
        """Of one sample VictoriaMetrics has an increase, too: since the one before the window."""
        within = f"[{self.window}s]"
        read = self._all_of(
            selector, suffix, f"(increase({{0}}{within}) and count_over_time({{0}}{within}) > 1)"
        )
        return _once(selector, read)

    def _all_of(self, selector: Selector, suffix: str, read: str) -> str:
        """What is read of the selector's series, over the jobs."""
        own, name = _labels(selector), f"{selector.name}{suffix}"
        series = (
            _named(name, ",".join([self.where.matchers(job, pods), *own])) for job, pods in self.where.per_job
        )
        return " or ".join(read.format(one) for one in series)


def _named(name: str, matchers: str) -> str:
    """A selector. Names may hold whatever UTF-8 does, and stand for themselves where they hold letters only."""
    if re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*", name):
        return f"{name}{{{matchers}}}"
    return f'{{__name__="{_escape(name)}",{matchers}}}'


def _once(selector: Selector, read: str) -> str:
    """Of series that are copies of one, the largest."""
    return f"max without ({', '.join(selector.copies)}) ({read})" if selector.copies else read


def _grouped(read: str, but: str) -> str:
    """``unless`` binds closer than ``or``."""
    return f"({read}){but}" if but else read


def _labelled(query: str, what: Is, place: int) -> str:
    return f'label_replace({query}, "{IS}", "{what}{place}", "", "")'
