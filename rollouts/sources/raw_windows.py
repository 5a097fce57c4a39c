"""What processes counted in a window, from their raw samples: those that came within it, or were warmed up.

A server's ``increase`` knows of a series only what is in the window. From samples, and from when the process began or
was warmed up, more can be told:

* a process that began within the window began at 0, and so did a series that is shown later than its process was;
* what is older than the process, or than the end of its warm-up, is not of it, although it may bear its name;
* where a sample is there from before the window, growth is spread evenly between it and the next one;
* from the last sample to the moment asked, and from a warm-up to the first one, growth is that of between them, as
  ``increase`` has it: pods that were there all the time and those that came have one scale.

Each series is looked at by itself and a fall is a reset, as in PromQL. Two samples are needed where a series did not
begin at 0, and two scrapes of a process that did not. What comes out are sums like those that a server answers to
``promql.measure_queries``, per process. All of it takes time in proportion to the samples: what they are, a pod says.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from rollouts.analysis.catalogue import Groups, Over, Selector
from rollouts.analysis.offers import Statistic
from rollouts.analysis.types import Labelled, MeasureKind, Stat
from rollouts.analysis.window_statistics import counter_increase
from rollouts.sources.base import ScrapeTarget, SourceUnavailable
from rollouts.sources.promql import IS, START_TIME, UP, Is, PodSelection, is_last, known_since

__all__ = ["Life", "RawSeries", "growth", "process_sums"]

_WHOLE_GAP = 1.1
"""Scrape intervals that growth is extrapolated over; over a longer gap it is half of one, as in Prometheus."""
_WITHIN = 0.001
"""Seconds: stamps of one scrape are equal."""
_SKEW = 2.0
"""Seconds after a pod's start, which is told in whole ones, by another clock than that of its namesake's samples."""
_MOST_VIEWS = 8
"""Of one process: two scrapers, and a few changes of its labels."""


class RawSeries(NamedTuple):
    """The samples of one series, oldest first: seconds since 1970, and values."""

    name: str
    labels: Mapping[str, str]
    times: Sequence[float]
    values: Sequence[float]


class Life(NamedTuple):
    """What is known of a process in a window: its samples count from ``cut`` on, to ``end``.

    ``scrapes`` are the moments at which anything of it was sampled; ``from_zero``: its counters began within.
    """

    cut: float
    end: float
    scrapes: Sequence[float]
    from_zero: bool


def growth(times: Sequence[float], values: Sequence[float], life: Life) -> float | None:
    """What a counter grew by; None where its samples do not tell."""
    first = bisect_right(times, life.cut)
    count = len(times) - first
    if count == 0:
        return None
    begun = None if first else _begun(times[0], values[0], life)
    if count == 1:
        scraped_twice = len(life.scrapes) - bisect_right(life.scrapes, life.cut) > 1
        return begun if life.from_zero or scraped_twice else None
    grown, since = counter_increase(values[first:]), times[first]
    if first:
        crossing = (times[first] - life.cut) / (times[first] - times[first - 1])
        grown += crossing * counter_increase(values[first - 1 : first + 1])
        since = life.cut
    each, slope = (times[-1] - times[first]) / (count - 1), grown / (times[-1] - since)
    after = slope * _reach(life.end - times[-1], each)
    if first or begun is not None:
        return grown + after + (begun or 0.0)
    return grown + after + _before(times[0] - life.cut, values[0], each, slope)


def _begun(at: float, value: float, life: Life) -> float | None:
    """Of a series' first value what is of the window; None where the series may have been there before."""
    earlier = bisect_left(life.scrapes, at - _WITHIN)
    if earlier == 0:
        return value if life.from_zero else None
    before = life.scrapes[earlier - 1]
    return value * min(1.0, (at - life.cut) / (at - before))


def _before(gap: float, value: float, each: float, slope: float) -> float:
    """What came before a first sample of which it is not known what it holds.

    All of it where the process came, and it is no more than comes between two scrapes: before it began to serve a
    server found nobody there.
    """
    came = gap >= _WHOLE_GAP * each and value <= _WHOLE_GAP * slope * each
    return value if came else min(value, slope * _reach(gap, each))


def _reach(gap: float, each: float) -> float:
    return max(0.0, gap) if gap < _WHOLE_GAP * each else each / 2


def process_sums(
    wanted: Statistic,
    seconds: float,
    at: datetime,
    where: PodSelection,
    endpoints: Iterable[ScrapeTarget],
    series: Iterable[RawSeries],
) -> list[list[Labelled]]:
    """For ``answers.measured``: what the ``endpoints`` grew by in a window of so many seconds, one answer each."""
    known = {where.name(endpoint): endpoint for endpoint in endpoints}
    end, processes = at.timestamp(), dict[tuple[str, str], list[RawSeries]]()
    for one in series:
        endpoint = known.get(one.labels.get(where.pod_label, ""))
        if endpoint is not None:
            kept = _own(one, endpoint, end)
            key = (where.name(endpoint), one.labels.get("instance", ""))
            processes.setdefault(key, []).append(kept)
    told = (
        list(_Process(wanted, end - seconds, end, known[name], found).sums())
        for (name, _), found in sorted(processes.items(), key=lambda item: item[0])
    )
    return [sums for sums in told if sums]


def _own(one: RawSeries, endpoint: ScrapeTarget, end: float) -> RawSeries:
    """The samples of a pod itself: what ends or falls as soon as it has started was its namesake's."""
    since = known_since(endpoint)
    kept = _between(one, since, end)
    late = bisect_left(kept.times, since + _SKEW) if since == endpoint.started else 0
    if late == 0 or (late < len(kept.values) and kept.values[late] >= kept.values[late - 1]):
        return kept
    return _between(kept, since + _SKEW, end)


def _between(one: RawSeries, begin: float, end: float) -> RawSeries:
    first, last = bisect_left(one.times, begin), bisect_right(one.times, end)
    if first == 0 and last == len(one.times):
        return one
    return one._replace(times=one.times[first:last], values=one.values[first:last])


class _View(NamedTuple):
    """What one scraper took of a process, or one after the other did; ``scrapes`` are the moments."""

    scrapes: Sequence[float]
    series: Sequence[RawSeries]


class _Process:
    """The series of one process, by the scraper that took them: a store may hold every sample once for each."""

    def __init__(
        self, wanted: Statistic, begin: float, end: float, endpoint: ScrapeTarget, series: Sequence[RawSeries]
    ) -> None:
        self._wanted = wanted
        self._cut = max(begin, known_since(endpoint))
        self._end = end
        self._pod_began = endpoint.warmed is None and (endpoint.started or 0.0) >= begin
        self._views = [(self._life(view), view.series) for view in _views(series, self._cut)]

    def _life(self, view: _View) -> Life:
        starts = (one.values[0] for one in view.series if one.name == START_TIME)
        from_zero = self._pod_began or any(start >= self._cut for start in starts)
        return Life(self._cut, self._end, view.scrapes, from_zero)

    def sums(self) -> Iterator[Labelled]:
        """As a server's, labelled by what they are."""
        wanted = self._wanted
        if wanted.kind is MeasureKind.GAUGE:
            yield from self._gauges()
        elif wanted.kind is MeasureKind.COUNTER:
            yield from self._total(Is.VALUE, wanted.alternatives)
            yield from self._total(Is.OF, wanted.of)
            yield from self._total(Is.FINISHED, wanted.finished)
        elif wanted.stat is Stat.MEAN:
            yield from self._total(Is.SUM, wanted.alternatives, "_sum")
            yield from self._total(Is.COUNT, wanted.alternatives, "_count")
        else:
            yield from self._buckets()

    def _shown(self, groups: Groups, suffix: str = "") -> tuple[int, Selector, list[tuple[Life, RawSeries]]]:
        """The first alternative that the process shows in the window; none: no series."""
        for place, group in enumerate(groups):
            name = f"{group[0].name}{suffix}"
            found = [
                (life, one)
                for life, view in self._views
                for one in view
                if one.name == name and one.times[-1] > self._cut and group[0].picks(one.labels)
            ]
            if found:
                return place, group[0], found
        return 0, Selector(name=""), []

    def _total(self, what: Is, groups: Groups, suffix: str = "") -> Iterator[Labelled]:
        place, selector, found = self._shown(groups, suffix)
        grown = [(one.labels, growth(one.times, one.values, life)) for life, one in found]
        known = [(labels, value) for labels, value in grown if value is not None]
        if known:
            yield _labelled(sum(selector.once(known)), what, place)

    def _buckets(self) -> Iterator[Labelled]:
        place, _, found = self._shown(self._wanted.alternatives, "_bucket")
        for life, one in found:
            grown = growth(one.times, one.values, life)
            if grown is not None:
                bound = one.labels.get("le", "")
                yield _labelled(grown, Is.BUCKETS, place, le=bound)
                yield _labelled(1.0, Is.BOUNDS, place, le=bound)

    def _gauges(self) -> Iterator[Labelled]:
        place, selector, found = self._shown(self._wanted.alternatives)
        values = selector.once(
            (one.labels, one.values[-1] if is_last(self._wanted) else sum(inside) / len(inside))
            for _, one in found
            for inside in (one.values[bisect_right(one.times, self._cut) :],)
        )
        if values:
            total = sum(values)
            yield _labelled(total / len(values) if selector.over is Over.MEAN else total, Is.VALUE, place)


def _views(series: Iterable[RawSeries], cut: float) -> list[_View]:
    """The series by the scrapers that took them all along, each of which counts.

    A view that begins after another one has ended goes on with it: the target's labels changed. So does one that
    begins beside another, in the window and when that had been there for more than a scrape: of what both of them
    have, the first one says more.
    """
    shown = [one for one in series if one.times]
    apart = _telling_apart(shown)
    found: list[_View] = []
    for view in sorted(_by_scraper(shown, apart), key=lambda one: one.scrapes[0]):
        began = view.scrapes[0]
        ended = [place for place, one in enumerate(found) if one.scrapes[-1] < began]
        if ended:
            found[ended[0]] = _joined(found[ended[0]], view, began, apart)
        elif found and began > cut and began > found[0].scrapes[:2][-1]:
            last = max(range(len(found)), key=lambda place: found[place].scrapes[-1])
            moments = found[last].scrapes
            each = (moments[-1] - moments[0]) / max(1, len(moments) - 1)
            found[last] = _joined(found[last], view, moments[-1] + each, apart)
        else:
            found.append(view)
    return found


def _telling_apart(series: Sequence[RawSeries]) -> Collection[str]:
    """The labels that scrapers, or times, give a target each in their own way: its ``up`` has the target's alone."""
    targets = [one.labels for one in series if one.name == UP]
    targets = targets or [one.labels for one in series if one.name == START_TIME]
    said = Counter(item for labels in targets for item in labels.items())
    return sorted({key for (key, _), times in said.items() if times != len(targets)})


def _by_scraper(series: Sequence[RawSeries], apart: Collection[str]) -> Iterator[_View]:
    """``up`` is sampled when a scrape fails, too."""
    views: dict[tuple[str, ...], list[RawSeries]] = {}
    if len(apart) <= _MOST_VIEWS:
        for one in series:
            if one.name != UP:
                views.setdefault(tuple(one.labels.get(key, "") for key in apart), []).append(one)
    if len(apart) > _MOST_VIEWS or len(views) > _MOST_VIEWS:
        raise SourceUnavailable(
            f"a process is held with more than {_MOST_VIEWS} sets of labels of its target: scrape it by fewer scrapers"
        )
    for found in views.values():
        yield _View(sorted({at for one in found for at in one.times}), found)


def _joined(first: _View, then: _View, since: float, apart: Collection[str]) -> _View:
    """What another view has from a moment on, after all that the first one has."""
    series = {_same(one, apart): one for one in first.series}
    for one in then.series:
        rest = _between(one, since, math.inf)
        key = _same(one, apart)
        if key in series:
            known = series[key]
            rest = known._replace(times=[*known.times, *rest.times], values=[*known.values, *rest.values])
        if rest.times:
            series[key] = rest
    scrapes = then.scrapes[bisect_left(then.scrapes, since) :]
    return _View([*first.scrapes, *scrapes], list(series.values()))


def _same(one: RawSeries, apart: Collection[str]) -> tuple[str, frozenset[tuple[str, str]]]:
    return one.name, frozenset(item for item in one.labels.items() if item[0] not in apart)


def _labelled(value: float, what: Is, place: int, **more: str) -> Labelled:
    return Labelled(value=value, labels=((IS, f"{what}{place}"), *more.items()))
