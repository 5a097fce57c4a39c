"""From a gate as written to the metrics of a run: templates looked up, arguments filled in.

Arguments are not templates: ``{{args.x}}`` stands for a value, in queries (as the inside of a label value or as a
plain number, name or duration, never as PromQL) and in conditions (as a number). What cannot be a value there is a
problem of the spec, so that an argument can never change what a query asks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches

from rollouts.analysis.catalogue import COMPARED, MEASURED, number_of, statistics_of
from rollouts.analysis.comparisons import GatesError, compare_metric
from rollouts.analysis.offers import Offer
from rollouts.analysis.types import CompareSpec, MeasureKind, MeasureSpec, MetricSpec, QuerySpec

__all__ = [
    "BUILT_IN",
    "Argument",
    "Check",
    "Gate",
    "ResolvedGate",
    "Template",
    "metric_problems",
    "resolve",
    "undeclared",
]

_REFERENCE = re.compile(r"\{\{\s*args\.([a-z0-9][-a-z0-9]*)\s*\}\}")
_PLAIN = re.compile(r"[A-Za-z0-9_:.\-]{0,253}")
_MAX_METRICS = 16
BUILT_IN = dict.fromkeys(("namespace", "rollout", "canary", "stable"), "x")
"""Arguments that every template may use, for where their values do not matter."""
_PICKER = "picker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """An argument; in a template its ``value`` is the default, None where it has none."""

    name: str
    value: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A template's metrics and arguments."""

    name: str
    metrics: tuple[MetricSpec, ...]
    args: tuple[Argument, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A gate as written. ``templates`` are (cluster scope, name)."""

    templates: tuple[tuple[bool, str], ...] = ()
    metrics: tuple[MetricSpec, ...] = ()
    args: tuple[Argument, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedGate:
    """The metrics of a run, or what is wrong: (reason, message) pairs."""

    metrics: tuple[MetricSpec, ...]
    problems: tuple[tuple[str, str], ...]


Check = Callable[[str], str | None]
"""What is wrong with a condition, None when nothing is. Its author is not trusted: who asks says where."""


def resolve(
    gate: Gate,
    templates: Mapping[tuple[bool, str], Template],
    built_in: Mapping[str, str],
    sources: Mapping[str, Offer],
    check: Check,
    *,
    adapter: bool = False,
) -> ResolvedGate:
    """Metrics of a gate, arguments filled in.

    ``built_in`` are arguments that every template may use (namespace, rollout, canary, stable). ``sources`` are
    the configured ones and what they offer. ``check`` looks at the conditions. Of an ``adapter`` the endpoint pickers
    tell: a model server's own figures never carry it.
    """
    metrics: list[MetricSpec] = []
    problems: list[tuple[str, str]] = []
    for cluster, name in gate.templates:
        template = templates.get((cluster, name))
        kind = "ClusterAnalysisTemplate" if cluster else "AnalysisTemplate"
        if template is None:
            problems.append(
                ("TemplateMissing", f"{kind} {name} does not exist: create it, or correct its name")
            )
            continue
        values, wrong = _values(template, gate, built_in, f"{kind} {name}")
        problems += wrong
        metrics += [_fill(metric, values) for metric in template.metrics]
    problems += _unknown_arguments(gate, templates)
    own = {argument.name: argument.value for argument in gate.args if argument.value is not None}
    metrics += [_fill(metric, {**built_in, **own}) for metric in gate.metrics]
    if adapter:
        metrics = [_by_picker(metric) for metric in metrics]
    problems += list(metric_problems(metrics, sources, check))
    return ResolvedGate(metrics=tuple(metrics), problems=tuple(problems))


def _by_picker(metric: MetricSpec) -> MetricSpec:
    picked = metric.source == "default" and not isinstance(metric.what, QuerySpec)
    return replace(metric, source=_PICKER) if picked else metric


def _values(
    template: Template, gate: Gate, built_in: Mapping[str, str], where: str
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    given = {argument.name: argument.value for argument in gate.args if argument.value is not None}
    values, problems = dict(built_in), []
    for argument in template.args:
        value = given.get(argument.name, argument.value)
        if value is None:
            problems.append(
                ("ArgumentMissing", f"{where} needs the argument {argument.name}: give it a value in `args`")
            )
        else:
            values[argument.name] = value
    return values, problems


def _unknown_arguments(
    gate: Gate, templates: Mapping[tuple[bool, str], Template]
) -> Iterator[tuple[str, str]]:
    known = {
        argument.name
        for reference in gate.templates
        if (template := templates.get(reference)) is not None
        for argument in template.args
    }
    if gate.metrics or not gate.templates:
        return
    for argument in gate.args:
        if argument.name not in known and all(reference in templates for reference in gate.templates):
            yield "ArgumentUnknown", f"no template of this gate takes an argument {argument.name}: remove it"


def _fill(metric: MetricSpec, values: Mapping[str, str]) -> MetricSpec:
    what = metric.what
    if isinstance(what, QuerySpec):
        what = QuerySpec(promql=_substitute(what.promql, values))
    elif isinstance(what, MeasureSpec):
        what = replace(what, name=_substitute(what.name, values), of=_substitute(what.of, values))
    elif isinstance(what, CompareSpec):
        what = replace(what, form=what.form.filled(lambda text: _substitute(text, values)))
    return replace(
        metric,
        what=what,
        success_condition=_substitute(metric.success_condition, values),
        failure_condition=_substitute(metric.failure_condition, values),
    )


def _substitute(text: str, values: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        found = values.get(match.group(1))
        # Only plain names, numbers and durations are ever put in; anything else stays a visible reference.
        return found if found is not None and _PLAIN.fullmatch(found) else match.group(0)

    return _REFERENCE.sub(value, text)


def left_over(text: str) -> Iterator[str]:
    """``{{...}}`` in order. By two searches, which are linear: a lazy expression tries again at each opening."""
    start = text.find("{{")
    while start >= 0 and (end := text.find("}}", start)) >= 0:
        yield text[start : end + 2]
        start = text.find("{{", end + 2)


def undeclared(template: Template) -> Iterator[str]:
    """``{{...}}`` of a template's metrics that no gate can fill in: only what a template declares is."""
    values = {**BUILT_IN, **{argument.name: "x" for argument in template.args}}
    for metric in template.metrics:
        for text in _texts_of(_fill(metric, values)):
            yield from left_over(text)


def metric_problems(
    metrics: list[MetricSpec], sources: Mapping[str, Offer], check: Check
) -> Iterator[tuple[str, str]]:
    """What keeps metrics from being measured: left-over arguments, conditions, sources, presets, names."""
    names = [metric.name for metric in metrics]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield "MetricDuplicate", f"two metrics of one gate are called {name}: rename one"
    if len(metrics) > _MAX_METRICS:
        yield "TooManyMetrics", f"a gate has at most {_MAX_METRICS} metrics, this one has {len(metrics)}"
    for metric in metrics:
        yield from _problems_of(metric, sources, check)


def _compare_problems(name: str, what: CompareSpec) -> Iterator[tuple[str, str]]:
    if any(any(left_over(text)) for text in what.form.texts()):
        return
    try:
        compare_metric(name, what.form)
    except GatesError as error:
        yield "CompareInvalid", str(error)


def _not_offered(metric: MetricSpec, offer: Offer) -> Iterator[tuple[str, str]]:
    """What the metric's source cannot answer, whenever it is asked."""
    what = metric.what
    if isinstance(what, QuerySpec) and not offer.promql:
        text = f"the source {metric.source} knows no PromQL: use measure, or a Prometheus source"
        yield "QueryUnknown", f"metric {metric.name}: {text}"
    if isinstance(what, MeasureSpec):
        yield from _statistic_problems(metric.name, what)
    if not isinstance(what, MeasureSpec) or what.kind is not MeasureKind.PRESET:
        return
    if what.name not in offer.presets and not any(left_over(what.name)):
        compared = what.name in COMPARED and what.name not in MEASURED
        also = f": it only compares, as in compare: {{preset: {what.name}}}" if compared else ""
        near = get_close_matches(what.name[:63].lower(), offer.presets, n=1, cutoff=0.7)
        meant = f": did you mean {near[0]}?" if near and not also else ""
        text = f"there is no preset {what.name} to measure{also}{meant}; there are {', '.join(offer.presets)}"
        yield "PresetUnknown", f"metric {metric.name}: {text}"


def _statistic_problems(name: str, what: MeasureSpec) -> Iterator[tuple[str, str]]:
    """A statistic that the kind of series does not have: sources would each take another one for it."""
    if any(left_over(what.name)) or (what.kind is MeasureKind.PRESET and what.name not in MEASURED):
        return
    kind, stat = number_of(what)
    known = statistics_of(what)
    if stat not in known:
        told = (
            f"{', '.join(one.value for one in known[:-1])} or {known[-1].value}"
            if known[1:]
            else known[0].value
        )
        text = f"{what.name} is a {kind.value}, of which there is no {stat.value}: take {told}, or leave stat out"
        yield "StatUnknown", f"metric {name}: {text}"


def _texts_of(metric: MetricSpec) -> list[str]:
    """Every text that may hold arguments."""
    what, conditions = metric.what, [metric.success_condition, metric.failure_condition]
    if isinstance(what, QuerySpec):
        return [*conditions, what.promql]
    if isinstance(what, MeasureSpec):
        return [*conditions, what.name, what.of]
    return [*conditions, *what.form.texts()]


def _problems_of(metric: MetricSpec, sources: Mapping[str, Offer], check: Check) -> Iterator[tuple[str, str]]:
    if isinstance(metric.what, CompareSpec):
        yield from _compare_problems(metric.name, metric.what)
    for text in _texts_of(metric):
        for left in left_over(text):
            yield (
                "ArgumentMissing",
                f"metric {metric.name}: {left[:60]} has no value, or one that is no plain name, number or duration",
            )
    offer = sources.get(metric.source)
    if offer is not None:
        yield from _not_offered(metric, offer)
    else:
        yield (
            "SourceUnknown",
            f"metric {metric.name}: no source is called {metric.source}; configured are {', '.join(sorted(sources))}",
        )
    for field, text in (
        ("successCondition", metric.success_condition),
        ("failureCondition", metric.failure_condition),
    ):
        problem = check(text) if text and not any(left_over(text)) else None
        if problem is not None:
            yield "ConditionInvalid", f"metric {metric.name}: {field}: {problem}"
