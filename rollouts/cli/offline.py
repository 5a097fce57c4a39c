"""An attempt as files tell it: its gates and what it compares, resolved as the controller does, without a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rollouts.analysis.comparisons import GatesError, comparisons_of, metric_of
from rollouts.analysis.forecasting import PlannedGate, planned_gates
from rollouts.analysis.offers import PICKER_OFFER, POD_OFFER, PROMETHEUS_OFFER, Offer
from rollouts.analysis.templates import BUILT_IN, Check, Gate, ResolvedGate, Template, resolve
from rollouts.analysis.types import Comparison, MetricSpec
from rollouts.api.parsing import ParsedRollout
from rollouts.api.runs import gate_of, gates_of, parse_template, rate_of
from rollouts.carriers import asked
from rollouts.carriers.adapters import ADAPTER_TARGET
from rollouts.engine.steps import weight_at
from rollouts.units import FULL

__all__ = [
    "TEMPLATE_KINDS",
    "Templates",
    "compared_gates",
    "gates_of_attempt",
    "gates_to_plan",
    "is_adapter",
    "offers_of",
    "resolved_gates",
    "silence",
    "template_of",
]

TEMPLATE_KINDS = ("AnalysisTemplate", "ClusterAnalysisTemplate")
_BUILT_IN = {"pods": POD_OFFER, "picker": PICKER_OFFER}

Templates = Mapping[tuple[bool, str], Template]
"""By (cluster scope, name)."""


def template_of(obj: Mapping[str, Any]) -> tuple[tuple[bool, str], Template | str]:
    """A template's key, and the template or what is wrong with it."""
    parsed = parse_template(obj)
    name = obj["metadata"].get("name", "") if isinstance(obj.get("metadata"), Mapping) else ""
    return (obj.get("kind") == "ClusterAnalysisTemplate", str(name)), parsed


def is_adapter(parsed: ParsedRollout) -> bool:
    """Whether an adapter is rolled out, of which pickers tell."""
    return parsed.model is not None and any(kind is ADAPTER_TARGET for kind, _ in asked(parsed.model.target))


def offers_of(metrics: Iterable[MetricSpec]) -> dict[str, Offer]:
    """What the sources that are named offer; those that an administrator names are taken for Prometheus servers."""
    named = {metric.source: _BUILT_IN.get(metric.source, PROMETHEUS_OFFER) for metric in metrics}
    return {**_BUILT_IN, **named}


def resolved_gates(
    parsed: ParsedRollout, templates: Templates, check: Check
) -> Iterator[tuple[int | None, Gate, ResolvedGate]]:
    """Every gate by its step (from 0; None is the background, last): as written, and what it measures.

    ``check`` looks at conditions (``cli/file_conditions.py``).
    """
    if parsed.model is None:
        return
    for step, model in gates_of(parsed.model.strategy.canary):
        gate = gate_of(model)
        used = [templates[reference] for reference in gate.templates if reference in templates]
        metrics = [*gate.metrics, *(metric for template in used for metric in template.metrics)]
        yield (
            step,
            gate,
            resolve(gate, templates, BUILT_IN, offers_of(metrics), check, adapter=is_adapter(parsed)),
        )


def silence(item: Comparison, parsed: ParsedRollout) -> str:
    """Why the source of a comparison never tells anything of it: its gate would hold for good. Empty where it may."""
    offer = _BUILT_IN.get(item.source, PROMETHEUS_OFFER)
    try:
        missing = [] if item.optional else offer.missing(metric_of(item).series)
    except GatesError:
        return ""  # refused anyway
    if is_adapter(parsed) and not offer.adapters:
        why = "adapters share their pods: leave the source out, and the endpoint pickers are asked"
    else:
        why = f"it has no {', '.join(missing)}" if missing else ""
    return f"metric {item.name}: the source {item.source} never tells: {why}" if why else ""


def gates_of_attempt(
    parsed: ParsedRollout, templates: Templates, check: Check
) -> list[tuple[int | None, tuple[MetricSpec, ...]]]:
    """The metrics of each gate, by step. Raises GatesError where one of them would be refused."""
    for problem in parsed.problems:
        raise GatesError(problem.message)
    if parsed.model is None or parsed.spec is None:
        raise GatesError("the spec cannot be read: see `rollouts lint`")
    gates = []
    for step, _, resolved in resolved_gates(parsed, templates, check):
        for reason, message in resolved.problems:
            more = " in the file; add it as another document" if reason == "TemplateMissing" else ""
            raise GatesError(message.partition(" exist: ")[0] + more if more else message)
        gates.append((step, resolved.metrics))
    return gates


def gates_to_plan(
    parsed: ParsedRollout, templates: Templates, check: Check
) -> tuple[list[PlannedGate], list[str]]:
    """The compare gates of the attempt with the weights in force, and what is silent for good. Raises GatesError."""
    return compared_gates(parsed, gates_of_attempt(parsed, templates, check))


def compared_gates(
    parsed: ParsedRollout, gates: Iterable[tuple[int | None, tuple[MetricSpec, ...]]]
) -> tuple[list[PlannedGate], list[str]]:
    """The compare gates among ``gates``, and what is silent for good. Raises GatesError."""
    assert parsed.model is not None
    assert parsed.spec is not None
    steps = parsed.spec.canary.steps
    weights = [weight_at(steps, index) / FULL for index in range(len(steps))]
    found = {item: silence(item, parsed) for item in comparisons_of(gates)}
    telling = [item for item, why in found.items() if not why]
    return planned_gates(telling, weights, rate_of(parsed.model.strategy.canary)), [
        *filter(None, found.values())
    ]
