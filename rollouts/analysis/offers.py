"""What a source offers: which series of the catalogue it can read, by which names, and what else it knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rollouts.analysis.catalogue import (
    CATALOGUE,
    MEASURED,
    PICKER,
    SERVERS,
    Groups,
    Over,
    Selector,
    number_of,
)
from rollouts.analysis.evidence.model import (
    CountSeries,
    GaugeSeries,
    HistogramSeries,
    LostSeries,
    Series,
)
from rollouts.analysis.types import MeasureKind, MeasureSpec, Stat

__all__ = [
    "ANY_OFFER",
    "PICKER_OFFER",
    "POD_OFFER",
    "PROMETHEUS_OFFER",
    "QUANTILES",
    "Offer",
    "Statistic",
    "parts_of",
]


QUANTILES = {Stat.P50: 0.5, Stat.P90: 0.9, Stat.P95: 0.95, Stat.P99: 0.99}


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistic:
    """The series behind a measure, and which number of them is taken; ``of`` are those of a share's total.

    A share of 0 says nothing where those of ``finished`` did not grow.
    """

    kind: MeasureKind
    stat: Stat
    alternatives: Groups
    of: Groups = ()
    finished: Groups = ()

    @property
    def names(self) -> set[str]:
        """All series names that may be read."""
        return {
            selector.name for group in (*self.alternatives, *self.of, *self.finished) for selector in group
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Alternatives by logical name; whether the source knows PromQL, and tells adapters apart that share pods."""

    series: Mapping[str, Groups]
    promql: bool = False
    adapters: bool = False

    @property
    def presets(self) -> list[str]:
        """What ``measure: {preset: ...}`` can ask for."""
        return sorted(preset for preset, row in MEASURED.items() if self.has(row.name, row.of))

    def has(self, *names: str) -> bool:
        """Whether all of these logical series (the empty name is none) are offered."""
        return all(name in self.series for name in names if name)

    def groups(self, name: str) -> Groups:
        """The alternatives of a logical name, or the series of that very name."""
        return self.series.get(name) or ((Selector(name=name),),)

    def gauges(self, name: str) -> Groups:
        """As ``groups``, of a gauge: one of which nothing is known is averaged over the engines of a process."""
        return self.series.get(name) or ((Selector(name=name, over=_over(name)),),)

    def statistic(self, measure: MeasureSpec) -> Statistic:
        """The series behind a measure, preset or named. Raises KeyError for a preset that is not offered."""
        kind, stat = number_of(measure)
        if measure.kind is MeasureKind.PRESET:
            row = MEASURED[measure.name]
            of = self.series[row.of] if row.of else ()
            finished = self.series.get(row.finished, ()) if stat is Stat.RATIO else ()
            alternatives = self.series[row.name]
            return Statistic(kind=kind, stat=stat, alternatives=alternatives, of=of, finished=finished)
        over = _over(measure.name) if kind is MeasureKind.GAUGE else Over.SUM
        of = ((Selector(name=measure.of),),) if measure.of else ()
        named = ((Selector(name=measure.name, over=over),),)
        return Statistic(kind=kind, stat=stat, alternatives=named, of=of)

    def missing(self, series: Series) -> list[str]:
        """Logical series of a comparison that the source never has; names of series themselves are not looked at."""
        return [name for name in parts_of(series) if name in CATALOGUE and name not in self.series]


def parts_of(series: Series) -> Iterator[str]:
    """The logical names that a comparison cannot do without."""
    match series:
        case LostSeries(of=total, finished=finished):
            yield from (total, finished)
        case CountSeries(errors=errors, of=total):
            yield from (errors, total)
        case HistogramSeries(name=name) | GaugeSeries(name=name):
            yield name


def _over(gauge: str) -> Over:
    """Of a gauge by its name: what the catalogue knows of it; what nobody knows is averaged."""
    known = (selector for groups in _PODS.values() for group in groups for selector in group)
    return next((selector.over for selector in known if selector.name == gauge), Over.MEAN)


_PODS: Mapping[str, Groups] = {
    name: groups
    for name in CATALOGUE
    for groups in (tuple(group for column in SERVERS.values() for group in column.get(name, ())),)
    if groups
}
POD_OFFER = Offer(series=_PODS)
"""What a model server's own page says."""
PROMETHEUS_OFFER = Offer(series=_PODS, promql=True)
PICKER_OFFER = Offer(series=PICKER, adapters=True)
ANY_OFFER = Offer(series={**PICKER, **_PODS}, promql=True, adapters=True)
"""Of a source that is not decided yet: a template's ``default`` is a server's for a pool, a picker's for an adapter."""
