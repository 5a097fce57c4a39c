"""Measures as PromQL: what the pods source computes, over the same pods, once for each of them.

The namespace is always matched, since pods of one name exist in many. One scrape job is read per pod: two of them
(a PodMonitor and a ServiceMonitor, say) hold every count twice. A counter that appears with its first event, in a
process that was there before, began at 0: ``increase`` would leave that first value out.

``increase`` is one thing in Prometheus, which reads what is in the window and extrapolates, and another in
VictoriaMetrics, which begins at the sample before the window, and at 0 where there is none and the first value is
small. They agree, within what one scrape brings, about a series that was there when the window began, and about one
that restarted in it. Any other has grown by what it shows above its first sample, and a share more for the time
before that and after its last. One sample in a window says nothing on any server.

Of a pod that was warmed up within the window what came after counts, as in the pods source: its ranges begin there.
``offset`` and ``increase`` would find a sample from before, since a server looks back, so such a pod is none that was
there.

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
from typing import NamedTuple

from rollouts.analysis.catalogue import Groups, Over, Selector
from rollouts.analysis.offers import Statistic
from rollouts.analysis.types import MeasureKind, Stat
from rollouts.sources.base import ScrapeTarget

__all__ = [
    "IS",
    "LONGEST_QUERY",
    "LOOKBACK",
    "Is",
    "PerJob",
    "PodSelection",
    "Queries",
    "job_queries",
    "measure_queries",
    "name_queries",
    "raw_queries",
    "users_seconds",
]

LOOKBACK = 300
"""Seconds: a sample that old is what a Prometheus server answers for a moment."""
_SETTLES = 5.0
"""Seconds after a warm-up: clocks of two machines differ, and counters are written after the answer."""
_CUTS = 8
"""Lengths to which windows are cut, at most: a query is no longer for a pod that came at a moment of its own."""
_LOOKS = 20
_LONGEST_STEP = 15
"""Seconds, at most, from one look for the first sample of a series to the next: a window has ``_LOOKS`` of them."""
LONGEST_QUERY = 15_000
"""Bytes of a query of several pods: ``-search.maxQueryLen`` of VictoriaMetrics is 16 KiB."""

IS = "is"
"""The label that says what a sum of an answer is: one of ``Is`` and the place of the alternative."""


class Is(StrEnum):
    """What is asked for of the pods of a query."""

    THERE = "there"
    VALUE = "value"
    SUM = "sum"
    COUNT = "count"
    BUCKETS = "buckets"
    BOUNDS = "bounds"
    OF = "of"
    FINISHED = "finished"


_ALWAYS = ("process_start_time_seconds", "vllm:num_requests_running", "sglang:num_running_reqs")
"""Exposed from a process' first scrape on, whatever it has served."""
_PARTS = ("", "_count", "_bucket", "_sum")
"""What a metric's name ends with in a series: of a histogram, its parts."""

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
    return parts


def _any_name(names: Iterable[str]) -> str:
    wanted = "|".join(sorted(_quote_regex(name) for name in names))
    return f'__name__=~"({_escape(wanted)})(_bucket|_sum|_count)?"'


Queries = tuple[str, ...]
"""Queries whose answers together are the answer about some pods."""
_Named = dict[tuple[str | None, str], list[ScrapeTarget]]
"""The processes of pods by scrape job and name, the pods that were warmed up last first."""


def _divided(
    where: PodSelection, at: datetime, written: Callable[[PodSelection], list[str]]
) -> list[Queries]:
    """One query of all that is to be asked, or as many as it takes, each of some of the pods, until none is too long.

    ``written`` are the series that are asked for; none where nothing is. What a query says of pods of one age it says
    once, so those stay together; and so do the processes of a pod, which have one name.
    """
    pods: _Named = {}
    for job, endpoints in where.per_job:
        for endpoint in sorted(endpoints, key=lambda one: (users_seconds(one, at), where.name(one))):
            pods.setdefault((job, where.name(endpoint)), []).append(endpoint)
    return _halved(where, pods, written)


def _halved(where: PodSelection, pods: _Named, written: Callable[[PodSelection], list[str]]) -> list[Queries]:
    asked = written(replace(where, per_job=_by_job(pods)))
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
    return _divided(where, at, lambda some: _raw(names, some, at))


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


def job_queries(names: Iterable[str], where: PodSelection, at: datetime) -> list[Queries]:
    """How many of the wanted series each scrape job holds of each process."""
    wanted = tuple(names)

    def written(some: PodSelection) -> list[str]:
        series = " or ".join(f"{{{_any_name(wanted)},{some.matchers(*part)}}}" for part in some.per_job)
        return [f"count by (job, {some.process}) ({series})"]

    return _divided(where, at, written)


def name_queries(names: Iterable[str], window: timedelta, where: PodSelection, at: datetime) -> list[Queries]:
    """How many series the pods had in a window of each of these names, and of those that every process has.

    A name that nobody has shown since a restart may have been shown before.
    """
    wanted, within = {*names, *_ALWAYS}, f"[{_seconds(window)}s]"

    def written(some: PodSelection) -> list[str]:
        series = (f"{{{_any_name(wanted)},{some.matchers(*part)}}}{within}" for part in some.per_job)
        return [f"count by (__name__) ({' or '.join(f'last_over_time({one})' for one in series)})"]

    return _divided(where, at, written)


def _seconds(window: timedelta) -> int:
    return max(1, round(window.total_seconds()))


def measure_queries(
    wanted: Statistic, held: Collection[str], window: timedelta, where: PodSelection, at: datetime
) -> list[Queries]:
    """The PromQL of what a statistic is made of, for ``answers.measured``: of the names that the server holds.

    None where it is known without asking that the answer is no data, since all pods were warmed up later than the
    window began.
    """
    seconds, last = _seconds(window), is_last(wanted)
    parts = tuple(_parts(where, seconds, at))
    if not parts or not (last or any(part.whole for part in parts)):
        return []

    def written(some: PodSelection) -> list[str]:
        parts = tuple(_parts(some, seconds, at))
        return _Builder(some.process, wanted, held, seconds, at.timestamp(), parts).asked()

    return _divided(where, at, written)


def is_last(wanted: Statistic) -> bool:
    """Whether a moment is measured, and no window."""
    return (wanted.kind, wanted.stat) == (MeasureKind.GAUGE, Stat.LAST)


@dataclass(frozen=True, slots=True)
class _Builder:
    process: str
    wanted: Statistic
    held: Collection[str]
    window: int
    at: float
    parts: tuple[_Part, ...]

    def asked(self) -> list[str]:
        """All that is asked about some pods; sums that nobody has are left out."""
        wanted = self.wanted
        if not self.parts:
            return []
        found = [] if is_last(wanted) else self._there()
        if wanted.kind is MeasureKind.GAUGE:
            found += self._gauges()
        elif wanted.kind is MeasureKind.COUNTER:
            found += self._sums(Is.VALUE, wanted.alternatives)
            found += self._sums(Is.OF, wanted.of) + self._sums(Is.FINISHED, wanted.finished)
        elif wanted.stat is Stat.MEAN:
            found += self._sums(Is.SUM, wanted.alternatives, "_sum")
            found += self._sums(Is.COUNT, wanted.alternatives, "_count")
        else:
            found += self._sums(Is.BUCKETS, wanted.alternatives, "_bucket", " by (le) ") + self._bounds()
        return found

    @property
    def _always(self) -> list[str]:
        """What processes show from their first scrape on: something that every one has, else what is measured."""
        own = (f"{name}{suffix}" for name in sorted(self.wanted.names) for suffix in _PARTS)
        return [name for name in _ALWAYS if name in self.held] or [name for name in own if name in self.held]

    def _there(self) -> list[str]:
        """How many series the pods had when the window began: part of a window is no data."""
        there = " or ".join(
            f"{{{_any_name({*self._always, *self.wanted.names})},{part.pods}}} offset {self.window}s"
            for part in self.parts
            if part.whole
        )
        return [_labelled(f"count({there})", Is.THERE, 0)] if there else []

    def _gauges(self) -> list[str]:
        over = "avg_over_time" if self.wanted.stat is Stat.MEAN else "last_over_time"
        found = []
        for place, group, others in self._held(self.wanted.alternatives):
            engines = "avg" if group[0].over is Over.MEAN else "sum"
            read = " or ".join(f"{over}({one}[{part.seconds}s])" for part, one in self._series(group[0]))
            found.append(
                _labelled(f"{engines} by ({self.process}) ({_grouped(read, others)})", Is.VALUE, place)
            )
        return found

    def _sums(self, what: Is, groups: Groups, suffix: str = "", by: str = "") -> list[str]:
        return [
            _labelled(f"sum{by}({_grouped(self._growth(group[0], suffix), others)})", what, place)
            for place, group, others in self._held(groups, suffix)
        ]

    def _bounds(self) -> list[str]:
        """How many histograms have each bound: growth by bounds that some lack is that of the others."""
        found = []
        for place, group, others in self._held(self.wanted.alternatives, "_bucket"):
            series = self._series(group[0], "_bucket")
            read = " or ".join(f"last_over_time({one}[{part.seconds}s])" for part, one in series)
            found.append(_labelled(f"count by (le) ({_grouped(read, others)})", Is.BOUNDS, place))
        return found

    def _held(self, groups: Groups, suffix: str = "") -> Iterator[tuple[int, tuple[Selector, ...], str]]:
        """The alternatives that some pods have, with what leaves out those of a process that has an earlier one."""
        earlier: list[Selector] = []
        for place, group in enumerate(groups):
            if f"{group[0].name}{suffix}" not in self.held:
                continue
            shown = (
                f"last_over_time({one}[{part.seconds}s])"
                for other in earlier
                for part, one in self._series(other, suffix)
            )
            yield place, group, f" unless on ({self.process}) ({' or '.join(shown)})" if earlier else ""
            earlier.append(group[0])

    def _series(self, selector: Selector, suffix: str = "") -> list[tuple[_Part, str]]:
        """One selector per part."""
        own, name = _labels(selector), f"{selector.name}{suffix}"
        return [(part, _named(name, ",".join([part.pods, *own]))) for part in self.parts]

    def _growth(self, selector: Selector, suffix: str = "") -> str:
        return " or ".join(self._grown(part, one) for part, one in self._series(selector, suffix))

    def _grown(self, part: _Part, one: str) -> str:
        window = f"[{part.seconds}s]"
        samples, restarted = f"count_over_time({one}{window})", f"resets({one}{window}) > 0"
        stayed = f" or {samples} > 1 and {one} offset {part.seconds}s"
        grown = f"increase({one}{window}) and ({restarted}{'' if part.cut else stayed})"
        above = (
            f"(last_over_time({one}{window}) - min_over_time({one}{window})) * (1 + 1 / ({samples} - 1 > 0))"
        )
        came = "" if part.cut else f"({self._came(part, one)}) or "
        return f"({grown}) or {came}({self._born(part, one)}) or {above}"

    def _came(self, part: _Part, one: str) -> str:
        """Series that came while their process was there, by what it showed when the window began."""
        names = _any_name({*self._always, *self.wanted.names})
        there = f"group by ({self.process}) ({{{names},{part.pods}}} offset {self.window}s)"
        came = f"last_over_time({one}[{part.seconds}s]) unless {one} offset {part.seconds}s"
        return f"{came} and on ({self.process}) {there}"

    def _born(self, part: _Part, one: str) -> str:
        """Series that came later than the first scrape of their process: what they show has come since."""
        process = " or ".join(
            f"max by ({self.process}) ({self._first(part, _named(name, part.pods))})" for name in self._always
        )
        first = f"({self._first(part, one)} or timestamp({one}))"  # too new for a look to have seen it
        later = f"{first} > on ({self.process}) group_left () ({process})"
        return f"last_over_time({one}[{part.seconds}s]) and {later}"

    def _first(self, part: _Part, one: str) -> str:
        """The moments of first samples; where the window is cut, of those within it, although servers look back."""
        step = min(max(1, part.seconds // _LOOKS), _LONGEST_STEP)
        seen = f"timestamp({one})"
        seen = f"({seen} > {self.at - part.seconds:.3f})" if part.cut else seen
        return f"min_over_time({seen}[{part.seconds}s:{step}s])"


def _named(name: str, matchers: str) -> str:
    """A selector. Names may hold whatever UTF-8 does, and stand for themselves where they hold letters only."""
    if re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*", name):
        return f"{name}{{{matchers}}}"
    return f'{{__name__="{_escape(name)}",{matchers}}}'


def _grouped(read: str, but: str) -> str:
    """``unless`` binds closer than ``or``."""
    return f"({read}){but}" if but else read


def _labelled(query: str, what: Is, place: int) -> str:
    return f'label_replace({query}, "{IS}", "{what}{place}", "", "")'
