"""From the gates of an attempt to what it compares: the one way of controller, ``plan``, ``lint`` and ``backtest``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from rollouts.analysis.catalogue import COMPARED, DEFAULT_PRESETS, margins_of
from rollouts.analysis.evidence.model import (
    CompareMetric,
    EvidenceSpec,
    GaugeSeries,
    HistogramSeries,
    LostSeries,
    Require,
    Series,
)
from rollouts.analysis.forms import CompareForm
from rollouts.analysis.types import CompareSpec, Comparison, MetricSpec, OnFail
from rollouts.units import parse_duration, parse_fraction

__all__ = [
    "DEFAULT_INTERVAL",
    "DEFAULT_METRICS",
    "FALSE_ABORT_RATE",
    "GatesError",
    "can_stop",
    "compare_metric",
    "comparisons_of",
    "evidence_spec",
    "interval_of",
    "metric_of",
    "too_many",
]

DEFAULT_INTERVAL = timedelta(seconds=30)
FALSE_ABORT_RATE = 0.05
"""Of a whole attempt, where no background analysis says another."""
MAX_COMPARISONS = 16
"""As many metrics as a run holds."""


class GatesError(ValueError):
    """The gates cannot be used as written (terminal for this spec); the message says what to change."""


def comparisons_of(gates: Iterable[tuple[int | None, Sequence[MetricSpec]]]) -> tuple[Comparison, ...]:
    """What an attempt compares: the same form in several gates once, the last gate's within tolerance.

    ``gates`` are steps (from 0; None is the background) with their metrics, arguments filled in. Without ``require``
    the last gate demands proof, the ones before that there is no sign of harm; where no step compares, the background
    is the last gate.
    """
    compared = [
        (step, metric, metric.what)
        for step, metrics in gates
        for metric in metrics
        if isinstance(metric.what, CompareSpec)
    ]
    last = max((step for step, _, _ in compared if step is not None), default=None)
    merged: dict[tuple[Comparison, bool], list[int]] = {}
    for step, metric, what in compared:
        item = Comparison(
            name=metric.name,
            form=what.form.requiring(Require.WITHIN_TOLERANCE if step == last else Require.NO_HARM),
            source=metric.source,
            interval=metric.interval,
            on_fail=metric.on_fail,
            dry_run=metric.dry_run,
            optional=what.optional,
        )
        found = merged.setdefault((item, step is None), [])
        if step is not None:
            found.append(step)
    return _named(merged)


def too_many(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """What to do where a run cannot hold them."""
    if len(comparisons) > MAX_COMPARISONS:
        text = (
            f"the gates compare {len(comparisons)} different things, at most {MAX_COMPARISONS} are possible"
        )
        yield f"{text}: let gates share their metrics"


def _named(merged: Mapping[tuple[Comparison, bool], list[int]]) -> tuple[Comparison, ...]:
    """Steps filled in (none: the background's), and names made unique: gates may compare on different terms."""
    found: list[Comparison] = []
    for (item, _), steps in merged.items():
        where = f"step-{steps[0] + 1}" if steps else "background"
        taken = {other.name for other in found}
        name = item.name if item.name not in taken else f"{item.name}-{where}"
        while name in taken:
            name += "-again"
        found.append(replace(item, name=name, steps=tuple(steps)))
    return tuple(found)


def interval_of(comparisons: Iterable[Comparison]) -> timedelta:
    """Seconds between two scrapes of an attempt."""
    return min((item.interval for item in comparisons if item.interval), default=DEFAULT_INTERVAL)


def evidence_spec(
    comparisons: Sequence[Comparison], rate: float, interval: timedelta | None = None
) -> EvidenceSpec:
    """The specification of the attempt's evidence process. Raises GatesError."""
    metrics = tuple(metric_of(item) for item in comparisons)
    seconds = (interval or interval_of(comparisons)).total_seconds()
    try:
        return EvidenceSpec(metrics=metrics, false_abort_rate=rate, interval=seconds)
    except ValueError as error:
        raise GatesError(str(error)) from error


def metric_of(item: Comparison) -> CompareMetric:
    """The metric as the evidence engine knows it. Raises GatesError."""
    found = compare_metric(item.name, item.form)
    return replace(found, weight=0.0) if item.dry_run else found


def compare_metric(name: str, form: CompareForm) -> CompareMetric:
    """One compare form with its defaults; without ``require`` it asks for proof. Raises GatesError."""
    series, advisory = _series(name, form)
    try:
        margin, tolerance = _margins(name, form, series)
        return CompareMetric(
            name=name,
            series=series,
            margin=margin,
            tolerance=tolerance,
            direction=form.direction,
            require=form.require or Require.WITHIN_TOLERANCE,
            min_dwell=parse_duration(form.min_dwell).total_seconds(),
            min_requests=form.min_requests,
            warm_up=parse_duration(form.warm_up).total_seconds(),
            max_duration=parse_duration(form.max_duration).total_seconds(),
            on_undecided=form.on_undecided,
            weight=None if form.weight is None else float(form.weight),
            advisory=advisory,
        )
    except ValueError as error:
        raise GatesError(str(error)) from error


def can_stop(metric: MetricSpec) -> bool:
    """Whether some value of the metric fails its gate; what cannot be read is taken to."""
    if metric.dry_run or metric.on_fail is OnFail.ALERT:
        return False
    if isinstance(metric.what, CompareSpec):
        try:
            found = compare_metric(metric.name, metric.what.form)
        except GatesError:
            return True
        return not found.advisory and found.weight != 0.0
    tolerated = metric.failure_limit
    return tolerated >= 0 and not (metric.count and tolerated >= metric.count)


def _series(name: str, form: CompareForm) -> tuple[Series, bool]:
    """What is compared, and whether it only informs. Raises GatesError."""
    given = [field for field in ("preset", "histogram", "counter", "gauge") if getattr(form, field)]
    if len(given) != 1:
        raise GatesError(
            f"metric {name!r}: compare needs exactly one of preset, histogram, counter, gauge, has {given}"
        )
    if form.counter is not None:
        return form.counter, False
    if form.histogram:
        return HistogramSeries(name=form.histogram), False
    if form.gauge:
        return GaugeSeries(name=form.gauge), False
    row = COMPARED.get(form.preset)
    if row is None or row.series is None:
        beside = "; `preset: default` stands beside `metrics`" if form.preset == "default" else ""
        raise GatesError(
            f"metric {name!r}: preset {form.preset!r} is unknown; known: {sorted(COMPARED)}{beside}"
        )
    return row.series, row.advisory


def _margins(name: str, form: CompareForm, series: Series) -> tuple[float, float]:
    """Margin and tolerance; a default margin makes room for a narrow tolerance. Raises GatesError."""
    usual_margin, usual_tolerance = margins_of(series)
    margin = _fraction(f"metric {name!r}: margin", form.margin)
    tolerance = _fraction(f"metric {name!r}: tolerance", form.tolerance)
    if tolerance is None:
        tolerance = max(usual_tolerance, 2.0 * (margin or 0.0))
    return (min(usual_margin, 0.5 * tolerance) if margin is None else margin), tolerance


def _fraction(what: str, value: float | str | None) -> float | None:
    try:
        return None if value is None else parse_fraction(value)
    except ValueError as error:
        raise GatesError(f"{what}: {error}") from None


def _default(preset: str) -> MetricSpec:
    """One metric of ``preset: default``.

    That a rate of zero is below a floor takes thousands of requests: of what users lost no sign of harm is asked for,
    and proof is left to the metrics that have figures.
    """
    form = CompareForm(preset=preset, written=frozenset({"preset"}))
    if isinstance(COMPARED[preset].series, LostSeries):
        form = form.requiring(Require.NO_HARM)
    return MetricSpec(name=preset, what=CompareSpec(form=form, optional=True))


DEFAULT_METRICS = tuple(_default(preset) for preset in DEFAULT_PRESETS)
"""The metrics of ``preset: default``."""
