"""AnalysisRuns and templates: raw objects to the analysis' values and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from rollouts.analysis.comparisons import DEFAULT_METRICS, FALSE_ABORT_RATE
from rollouts.analysis.evidence.model import CountSeries, Direction, OnUndecided, Require
from rollouts.analysis.forms import CompareForm
from rollouts.analysis.templates import Argument, Gate, Template
from rollouts.analysis.types import (
    Arm,
    ArmRef,
    CompareSpec,
    Comparison,
    MeasureKind,
    MeasureSpec,
    MetricSpec,
    NoData,
    OnFail,
    QuerySpec,
    RunMark,
    RunSpec,
    RunStatus,
    Stat,
)
from rollouts.api.analysis_models import (
    AnalysisRunSpec,
    AnalysisTemplateSpec,
    CompareModel,
    CounterRatio,
    GateModel,
    MeasureModel,
    MetricModel,
    RunComparison,
)
from rollouts.api.base import first_error
from rollouts.api.rollout_models import CanaryModel
from rollouts.api.run_results import read_run_status
from rollouts.api.scalars import (
    format_duration,
    format_time,
    parse_admitted_time,
    parse_duration,
    parse_weight,
    weight_json,
)
from rollouts.api.spec_rules import check_metric
from rollouts.objects.fields import metadata_of
from rollouts.units import FULL, Weight

__all__ = [
    "ParsedRun",
    "compare_json",
    "compare_of",
    "gate_of",
    "gates_of",
    "mark_json",
    "metric_json",
    "metric_of",
    "parse_run",
    "parse_template",
    "rate_of",
    "run_spec_json",
]

Json = dict[str, Any]


# --- metrics ---------------------------------------------------------------------------------------


def _duration(text: str | None) -> timedelta | None:
    return None if text is None else parse_duration(text)


def metric_of(model: MetricModel) -> MetricSpec:
    """A metric as the analysis knows it. Raises ValueError for broken durations and shapes."""
    return MetricSpec(
        name=model.name,
        what=_what(model),
        source=model.source or "default",
        success_condition=model.success_condition or "",
        failure_condition=model.failure_condition or "",
        interval=_duration(model.interval),
        initial_delay=_duration(model.initial_delay) or timedelta(0),
        count=model.count or 0,
        failure_limit=model.failure_limit,
        inconclusive_limit=model.inconclusive_limit,
        consecutive_error_limit=model.consecutive_error_limit,
        error_timeout=parse_duration(model.error_timeout),
        consecutive_success_limit=model.consecutive_success_limit,
        dry_run=model.dry_run,
        no_data=NoData(model.no_data),
        on_fail=OnFail(model.on_fail),
    )


def _what(model: MetricModel) -> QuerySpec | MeasureSpec | CompareSpec:
    if model.query is not None:
        return QuerySpec(promql=model.query)
    if model.compare is not None:
        return CompareSpec(form=compare_of(model.compare))
    if model.measure is None:
        raise ValueError("a metric needs query, measure or compare")
    measure = model.measure
    kind, name, of = _measured(measure)
    return MeasureSpec(
        kind=kind,
        name=name,
        of=of,
        arm=Arm(measure.arm),
        stat=Stat(measure.stat) if measure.stat else None,
        window=parse_duration(measure.window),
    )


def compare_of(model: CompareModel) -> CompareForm:
    """The compare form as the analysis knows it; null and empty fields are absent."""
    given = {name: getattr(model, name) for name in model.model_fields_set}
    given = {name: value for name, value in given.items() if value is not None and value != ""}
    written = frozenset(given)
    for name, read in _COMPARE_VALUES.items():
        if name in given:
            given[name] = read(given[name])
    return CompareForm(**given, written=written)


_COMPARE_VALUES: dict[str, Callable[[Any], Any]] = {
    "counter": lambda pair: CountSeries(errors=pair.errors, of=pair.of),
    "direction": lambda word: Direction(word.removesuffix("IsBetter").lower()),
    "require": Require,
    "on_undecided": OnUndecided,
}


def compare_json(form: CompareForm) -> Json:
    """The JSON of a compare form: what was written, in alphabetical order; defaults are the engine's."""
    plain = {to_camel(name): getattr(form, name) for name in form.written}
    if form.counter is not None:
        plain["counter"] = asdict(form.counter)
    if "direction" in plain:
        plain["direction"] = f"{form.direction.value.capitalize()}IsBetter"
    return {name: getattr(plain[name], "value", plain[name]) for name in sorted(plain)}


def _measured(measure: MeasureModel) -> tuple[MeasureKind, str, str]:
    if measure.preset:
        return MeasureKind.PRESET, measure.preset, ""
    if measure.histogram:
        return MeasureKind.HISTOGRAM, measure.histogram, ""
    if isinstance(measure.counter, CounterRatio):
        return MeasureKind.COUNTER, measure.counter.errors, measure.counter.of
    if measure.counter:
        return MeasureKind.COUNTER, measure.counter, ""
    if measure.gauge:
        return MeasureKind.GAUGE, measure.gauge, ""
    raise ValueError("a measure needs preset, histogram, counter or gauge")


def metric_json(metric: MetricSpec) -> Json:
    """The JSON of a metric; defaults are left out."""
    full: Json = {
        "name": metric.name,
        "source": metric.source,
        "successCondition": metric.success_condition or None,
        "failureCondition": metric.failure_condition or None,
        "interval": None if metric.interval is None else format_duration(metric.interval),
        "initialDelay": format_duration(metric.initial_delay) if metric.initial_delay else None,
        "count": metric.count or None,
        "failureLimit": metric.failure_limit,
        "inconclusiveLimit": metric.inconclusive_limit,
        "consecutiveErrorLimit": metric.consecutive_error_limit,
        "errorTimeout": format_duration(metric.error_timeout),
        "consecutiveSuccessLimit": metric.consecutive_success_limit,
        "dryRun": metric.dry_run,
        "noData": metric.no_data.value,
        "onFail": metric.on_fail.value,
    }
    if isinstance(metric.what, QuerySpec):
        full["query"] = metric.what.promql
    elif isinstance(metric.what, MeasureSpec):
        full["measure"] = _measure_json(metric.what)
    else:
        full["compare"] = compare_json(metric.what.form)
    return {name: value for name, value in full.items() if value is not None}


def _measure_json(measure: MeasureSpec) -> Json:
    name: Any = {"errors": measure.name, "of": measure.of} if measure.of else measure.name
    result: Json = {
        measure.kind.value: name,
        "arm": measure.arm.value,
        "window": format_duration(measure.window),
    }
    if measure.stat is not None:
        result["stat"] = measure.stat.value
    return result


def gates_of(canary: CanaryModel) -> Iterator[tuple[int | None, GateModel]]:
    """Every gate by its step (from 0), the background's (None) last."""
    for index, step in enumerate(canary.steps):
        if step.analysis is not None:
            yield index, step.analysis
    if canary.analysis is not None:
        yield None, canary.analysis


def rate_of(canary: CanaryModel) -> float:
    """The bound on false aborts of the whole attempt."""
    return float(canary.analysis.false_abort_rate) if canary.analysis is not None else FALSE_ABORT_RATE


def gate_of(model: GateModel) -> Gate:
    """A gate as the analysis knows it, its preset written out. Raises ValueError."""
    metrics = tuple(metric_of(metric) for metric in model.metrics)
    return Gate(
        templates=tuple((ref.cluster_scope, ref.template_name) for ref in model.templates),
        metrics=metrics + (DEFAULT_METRICS if model.preset == "default" else ()),
        args=tuple(Argument(name=arg.name, value=arg.value) for arg in model.args),
    )


def parse_template(obj: Mapping[str, Any]) -> Template | str:
    """A template object; what is wrong with it, as text, when it cannot be used."""
    name = str((obj.get("metadata") or {}).get("name", ""))
    try:
        model = AnalysisTemplateSpec.model_validate(obj.get("spec"))
        for index, metric in enumerate(model.metrics):
            for path, text in check_metric(metric, f"metrics[{index}]"):
                return f"template {name}: {path} {text}"
        return Template(
            name=name,
            metrics=tuple(metric_of(metric) for metric in model.metrics),
            args=tuple(Argument(name=arg.name, value=arg.value) for arg in model.args),
        )
    except ValidationError as error:
        return f"template {name}: {first_error(error)}"
    except (ValueError, RecursionError) as error:
        return f"template {name}: {error}"


# --- runs ------------------------------------------------------------------------------------------


def run_spec_json(spec: RunSpec) -> Json:
    """The JSON of a run's spec."""
    result: Json = {
        "rollout": spec.rollout,
        "attempt": spec.attempt,
        "metrics": [metric_json(metric) for metric in spec.metrics],
    }
    if spec.step is not None:
        result["step"] = spec.step
    if spec.since is not None:
        result["since"] = format_time(spec.since)
    if spec.comparisons:
        result["comparisons"] = [_comparison_json(item) for item in spec.comparisons]
        result["falseAbortRate"] = spec.false_abort_rate
        result["metricsFrom"] = spec.metrics_from
        result["stepsHash"] = spec.steps_hash
        result["marks"] = [mark_json(mark) for mark in spec.marks]
    for name, arm in (("canary", spec.canary), ("stable", spec.stable)):
        if arm is not None:
            result[name] = {field: value for field, value in asdict(arm).items() if value}
    return result


def _comparison_json(item: Comparison) -> Json:
    full: Json = {
        "name": item.name,
        "source": item.source,
        "compare": compare_json(item.form),
        "steps": list(item.steps) or None,
        "interval": None if item.interval is None else format_duration(item.interval),
        "onFail": item.on_fail.value,
        "dryRun": item.dry_run or None,
        "optional": item.optional or None,
    }
    return {name: value for name, value in full.items() if value is not None}


def mark_json(mark: RunMark) -> Json:
    """The JSON of a mark."""
    weight = Weight(round(mark.weight * FULL))
    return {"at": format_time(mark.at), "step": mark.step, "weight": weight_json(weight)}


def _comparison_of(model: RunComparison) -> Comparison:
    return Comparison(
        name=model.name,
        form=compare_of(model.compare),
        source=model.source,
        steps=tuple(model.steps),
        interval=_duration(model.interval),
        on_fail=OnFail(model.on_fail),
        dry_run=model.dry_run,
        optional=model.optional,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedRun:
    """An AnalysisRun. ``spec`` is None when it cannot be read; ``problem`` then says why."""

    namespace: str
    name: str
    spec: RunSpec | None
    status: RunStatus
    problem: str = ""


def parse_run(obj: Mapping[str, Any]) -> ParsedRun:
    """Parse an AnalysisRun. Never raises."""
    meta = metadata_of(obj)
    spec, problem = None, ""
    try:
        model = AnalysisRunSpec.model_validate(obj.get("spec"))
        spec = RunSpec(
            rollout=model.rollout,
            attempt=model.attempt,
            step=model.step,
            canary=None if model.canary is None else ArmRef(**model.canary.model_dump()),
            stable=None if model.stable is None else ArmRef(**model.stable.model_dump()),
            metrics=tuple(metric_of(metric) for metric in model.metrics),
            terminate=model.terminate,
            comparisons=tuple(_comparison_of(item) for item in model.comparisons),
            metrics_from=model.metrics_from,
            false_abort_rate=model.false_abort_rate,
            marks=tuple(
                RunMark(
                    at=parse_admitted_time(mark.at), step=mark.step, weight=parse_weight(mark.weight) / FULL
                )
                for mark in model.marks
            ),
            exclude=tuple(
                (parse_admitted_time(item.from_), parse_admitted_time(item.to)) for item in model.exclude
            ),
            steps_hash=model.steps_hash,
            since=None if model.since is None else parse_admitted_time(model.since),
        )
    except ValidationError as error:
        problem = f"spec.{first_error(error)}"
    except (ValueError, TypeError, RecursionError) as error:
        problem = f"the spec cannot be read: {error}"
    return ParsedRun(
        namespace=str(meta.get("namespace", "")),
        name=str(meta.get("name", "")),
        spec=spec,
        status=read_run_status(obj.get("status")),
        problem=problem,
    )
