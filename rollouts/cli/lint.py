"""What the API server and the controller would say about the objects of files, without a cluster."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rollouts.analysis.comparisons import GatesError, can_stop, comparisons_of, too_many
from rollouts.analysis.forecasting import Forecast, plan_rollout
from rollouts.analysis.offers import ANY_OFFER
from rollouts.analysis.templates import Check, Gate, ResolvedGate, Template, metric_problems, undeclared
from rollouts.api.freeze_models import RolloutFreezeSpec
from rollouts.api.freezes import check_freeze
from rollouts.api.parsing import ParsedRollout, parse_rollout
from rollouts.api.strategies import StrategyFault, effective_spec
from rollouts.cli.controllers import file_reports
from rollouts.cli.file_conditions import FileConditions
from rollouts.cli.lint_controller import controller_findings
from rollouts.cli.lint_findings import Finding, Severity, at_document, hint, path_in, problem
from rollouts.cli.lint_gitops import gitops_findings
from rollouts.cli.lint_kinds import (
    API_VERSION,
    foreign_findings,
    is_bare_list,
    is_ours,
    name_of,
    objects_in,
    unknown_kind,
)
from rollouts.cli.lint_live import Live
from rollouts.cli.lint_notifications import notification_findings
from rollouts.cli.lint_order import order_findings
from rollouts.cli.lint_queries import Parse, query_doubts
from rollouts.cli.lint_references import Known, picker_findings, reference_findings, unwanted_findings
from rollouts.cli.lint_routes import route_problems
from rollouts.cli.lint_schema import NO_NAME, kinds, strict_findings
from rollouts.cli.lint_strategies import STRATEGY_KINDS, FileStrategies, at_reference, strategy_findings
from rollouts.cli.lint_values import large_growth
from rollouts.cli.lint_windows import too_long
from rollouts.cli.lint_words import nearest
from rollouts.cli.lint_workloads import workload_findings
from rollouts.cli.offline import (
    TEMPLATE_KINDS,
    Templates,
    gates_to_plan,
    is_adapter,
    offers_of,
    resolved_gates,
    silence,
    template_of,
)
from rollouts.cli.waves import WAVE_ANNOTATION, wave_findings
from rollouts.cli.yaml_source import Path
from rollouts.engine.rollout_spec import AnalysisStep, JobStep, PauseStep, WeightStep
from rollouts.engine.steps import weight_at
from rollouts.objects.fields import list_of, map_of
from rollouts.units import FULL

__all__ = ["Finding", "Severity", "lint_documents", "placed_objects"]

_CANARY: Path = ("spec", "strategy", "canary")
_SOURCES = ("default", "pods", "picker")
_CERTIFYING = 500
"""Hundredths of a percent: proofs use the data from weight 5 % on."""


_ONE_CANARY_POD = Forecast(rate=20.0, stable_pods=1000, canary_pods=1)
"""As many stable pods as anybody has: what cannot be shown here is the canary's doing. The rate moves times only."""


def placed_objects(documents: Sequence[Any]) -> list[tuple[int, Path, Mapping[str, Any]]]:
    """All objects with the document and the place where they stand."""
    return [(number, *found) for number, one in enumerate(documents) for found in objects_in(one)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """What one object is checked against: the others of the files, and what was given on the command line."""

    known: Known
    strategies: FileStrategies
    templates: dict[tuple[bool, str], Template]
    traffic: Forecast | None
    check: Check
    parse: Parse | None


def lint_documents(
    documents: list[Any],
    traffic: Forecast | None = None,
    *,
    check: Check | None = None,
    live: Live | None = None,
    parse: Parse | None = None,
) -> list[Finding]:
    """Findings of all objects of ours among the documents, and of those that were meant to be; others are left alone.

    ``traffic`` None: whether a gate can prove its tolerance is looked at for one canary pod. ``check`` looks at
    conditions; without one, a process under a budget does. ``live``: what the cluster said.
    ``parse``: servers that parse queries.
    """
    if check is None:
        with FileConditions() as conditions:
            return lint_documents(documents, traffic, check=conditions, live=live, parse=parse)
    placed = placed_objects(documents)
    objects = [obj for _, _, obj in placed]
    alone = not any(map(is_ours, objects))
    beside = [] if live is None else live.objects
    unread = None if live is None else frozenset(live.unread)
    known = Known([*objects, *beside], unread=unread)
    readable = [template_of(obj) for obj in beside if obj.get("kind") in TEMPLATE_KINDS]
    templates = {key: found for key, found in readable if not isinstance(found, str)}
    strategies = FileStrategies([*objects, *beside], unread)
    files = _Files(
        known=known, strategies=strategies, templates=templates, traffic=traffic, check=check, parse=parse
    )
    findings: list[Finding] = [] if live is None else list(live.findings)
    # Templates first: Rollouts use them, in whatever order they stand.
    for number, path, obj in sorted(placed, key=lambda one: one[2].get("kind") not in TEMPLATE_KINDS):
        found = _ours(obj, files) if is_ours(obj) else foreign_findings(obj, alone=alone)
        findings += (at_document(one, number, path) for one in found)
    for number, value in enumerate(documents):
        if is_bare_list(value):
            text = "a list of objects, which nobody reads: part them by --- or write kind: List with items"
            findings.append(at_document(problem("", text, rule="kind"), number, ()))
    findings += [*_waves(placed), *order_findings(placed, beside)]
    reports = [*file_reports(objects), *(live.reports if live is not None else ())]
    findings += [*controller_findings(placed, reports, strategies), *workload_findings(placed, strategies)]
    return findings if alone else findings + list(_pickers(placed, known))


def _pickers(placed: Sequence[tuple[int, Path, Mapping[str, Any]]], known: Known) -> Iterator[Finding]:
    """Services of the endpoint pickers that the pools of these files name."""
    for number, path, obj in placed:
        yield from (at_document(found, number, path) for found in picker_findings(known, obj))
        yield from (at_document(found, number, path) for found in unwanted_findings(obj))


def _waves(placed: Sequence[tuple[int, Path, Mapping[str, Any]]]) -> Iterator[Finding]:
    """Sync waves in which a Rollout waits for what comes after it; the files are taken for one Application."""
    where = {name_of(obj): (number, path) for number, path, obj in placed}
    for found in wave_findings([obj for _, _, obj in placed]):
        make = problem if found.deadlock else hint
        name = f"Rollout/{found.rollout}"
        number, path = where.get(name, (-1, ()))
        finding = make(name, found.text, rule="sync-wave", path=("metadata", "annotations", WAVE_ANNOTATION))
        yield at_document(finding, number, path)


def _ours(obj: Mapping[str, Any], files: _Files) -> Iterator[Finding]:
    where = name_of(obj)
    kind = obj.get("kind")
    if kind not in kinds():
        yield problem(where, unknown_kind(str(kind or "")), rule="kind", path=("kind",))
        return
    yield from _head(obj)
    strict = strict_findings(obj, where)
    yield from strict
    if kind in TEMPLATE_KINDS:
        yield from _template(obj, files, strict)
    elif kind in STRATEGY_KINDS:
        yield from strategy_findings(obj, strict, files.check)
    elif kind == "RolloutFreeze" and not any(map(_refuses, strict)):
        yield from (
            problem(where, f"{path} {text}", path=path_in(path))
            for path, text in check_freeze(RolloutFreezeSpec.model_validate(map_of(obj.get("spec"))))
        )
    elif kind == "Rollout":
        yield from files.strategies.findings(obj)
        yield from (at_reference(one, obj) for one in _rollout(obj, files, strict))
        yield from reference_findings(files.known, obj)
        yield from notification_findings(obj)
        yield from gitops_findings(obj, where)


def _head(obj: Mapping[str, Any]) -> Iterator[Finding]:
    where, meta = name_of(obj), map_of(obj.get("metadata"))
    if obj.get("apiVersion") != API_VERSION:
        text = f"apiVersion is {obj.get('apiVersion')}: write {API_VERSION}"
        yield problem(where, text, rule="kind", path=("apiVersion",))
    if not meta.get("name") and not meta.get("generateName"):
        yield problem(
            where, "metadata.name is missing: give it one", rule="missing-field", path=("metadata",)
        )
    if obj.get("kind") != "Rollout" and not isinstance(obj.get("spec"), Mapping):
        yield problem(
            where, "spec is missing or not an object: write one", rule="missing-field", path=("spec",)
        )


def _template(obj: Mapping[str, Any], files: _Files, strict: Sequence[Finding]) -> Iterator[Finding]:
    where = name_of(obj)
    key, parsed = template_of(obj)
    if isinstance(parsed, str):
        if not any(_refuses(one) for one in strict):
            yield problem(where, parsed, path=_metrics_path(parsed))
        return
    files.templates[key] = parsed
    # Arguments without a value are filled, and `default` is settled, by the Rollout that uses the template.
    offers = {**offers_of(parsed.metrics), "default": ANY_OFFER}
    for reason, text in metric_problems(list(parsed.metrics), offers, files.check):
        if reason != "ArgumentMissing":
            yield problem(where, text, rule="gate", path=_metric_path(obj, ("spec",), text))
    for left in dict.fromkeys(undeclared(parsed)):
        text = f"{left[:60]} is no argument of this template: declare it in args"
        yield problem(where, text, rule="gate", path=("spec", "args"))
    for text, sure in query_doubts(parsed.metrics, files.parse):
        make = problem if sure else hint
        yield make(where, text, rule="promql", path=_metric_path(obj, ("spec",), text))


def _refuses(finding: Finding) -> bool:
    """Whether the reader refuses it, too: it ignores fields that it does not know."""
    return finding.severity is Severity.PROBLEM and finding.rule not in ("unknown-field", "template", NO_NAME)


def _why(obj: Mapping[str, Any], path: Path) -> str:
    """What an object with too many fields usually comes from, where it is a step."""
    steps = list_of(map_of(map_of(map_of(obj.get("spec")).get("strategy")).get("canary")).get("steps"))
    step = path[-1] if path[:-1] == (*_CANARY, "steps") else None
    fields = map_of(steps[step]) if isinstance(step, int) and step < len(steps) else {}
    if fields.get("pause", "") is None:
        return ": nothing stands after pause; `pause: {}` waits for `promote`, `pause: {duration: 10m}` for a time"
    return ": begin each of them with its own -" if len(fields) > 1 else ""


def _metrics_path(text: str) -> Path:
    """Where a message of ``parse_template`` points (``template x: metrics[0].y ...``)."""
    _, _, said = text.partition(": ")
    return path_in(f"spec.{said}")


def _metric_path(obj: Mapping[str, Any], gate: Path, text: str) -> Path:
    """The metric of a gate that a message names (``metric x: ...``), else the gate."""
    _, found, said = text.partition("metric ")
    place: Any = obj
    for part in gate:
        place = place[part] if isinstance(part, int) else map_of(place).get(part)
    for index, metric in enumerate(list_of(map_of(place).get("metrics"))):
        name = map_of(metric).get("name")
        if found and isinstance(name, str) and said.startswith((f"{name}:", f"{name} ")):
            return (*gate, "metrics", index)
    return gate


def _rollout(obj: Mapping[str, Any], files: _Files, strict: Sequence[Finding]) -> Iterator[Finding]:
    found = files.strategies.of(obj)
    shared = None if isinstance(found, StrategyFault) else found
    parsed, where = parse_rollout(obj, strategy=shared), name_of(obj)
    obj = {**obj, "spec": effective_spec(obj.get("spec"), shared)}
    told = {one.path for one in strict if one.severity is Severity.PROBLEM}
    for wrong in parsed.problems:
        path = path_in(wrong.message)
        shape = parsed.model is None and any(map(_refuses, strict))
        if not shape and not any(one[: len(path)] == path and path for one in told):
            yield problem(where, wrong.message + _why(obj, path), path=path)
    if parsed.model is None or parsed.problems:
        return
    yield from (problem(where, text, path=("spec", "traffic")) for text in route_problems(parsed))
    if parsed.strategy_ref is not None and parsed.strategy is None:
        return  # what it would judge is not known
    gates = list(resolved_gates(parsed, files.templates, files.check))
    for step, gate, resolved in gates:
        place = "background analysis" if step is None else f"step {step + 1}"
        at = (*_CANARY, "analysis") if step is None else (*_CANARY, "steps", step, "analysis")
        for finding in _gate(where, place, gate, resolved, files):
            yield replace(finding, path=_metric_path(obj, at, finding.text))
        for text in too_long(parsed, place, resolved.metrics):
            yield problem(where, f"{place}: {text}", rule="gate", path=_metric_path(obj, at, text))
    comparisons = comparisons_of((step, resolved.metrics) for step, _, resolved in gates)
    for text in too_many(comparisons):
        yield problem(where, text, rule="gate", path=_CANARY)
    for item in comparisons:
        if text := silence(item, parsed):
            yield hint(where, text, path=_CANARY)
    yield from _steps(where, parsed)
    yield from _capacity(where, parsed)
    yield from _unprovable(where, parsed, files)


def _template_missing(where: str, place: str, name: str, files: _Files) -> Finding:
    """``name`` is ``Kind name``."""
    unread, like = files.known.unread, _like(name, files.templates)
    kind, _, called = name.partition(" ")
    if unread is None or (kind, called) in unread:
        return hint(where, f"{place}: {name} is not in these files: it must exist in the cluster{like}")
    return problem(
        where, f"{place}: {name} is neither in these files nor in the cluster{like}", rule="template-missing"
    )


def _gate(where: str, place: str, gate: Gate, resolved: ResolvedGate, files: _Files) -> Iterator[Finding]:
    templates = files.templates
    whole = all(name in templates for name in gate.templates)
    for reason, text in resolved.problems:
        if reason == "TemplateMissing":
            name = text.split(" does not exist")[0]
            yield _template_missing(where, place, name, files)
        elif reason != "ArgumentUnknown" or whole:
            yield problem(where, f"{place}: {text}", rule="gate")
    for text, sure in query_doubts(resolved.metrics, files.parse):
        make = problem if sure else hint
        yield make(where, f"{place}: {text}", rule="promql")
    for metric in resolved.metrics:
        if metric.source not in _SOURCES:
            yield hint(where, f"{place}: metric {metric.name}: {_source(metric.source)}")
    for text in large_growth(resolved.metrics):
        yield hint(where, f"{place}: {text}")
    if resolved.metrics and not any(map(can_stop, resolved.metrics)):
        yield hint(
            where,
            f"{place}: nothing in it can stop the rollout (dryRun, onFail: Alert, failureLimit as high as count, or "
            "comparisons that only inform)",
        )


def _steps(where: str, parsed: ParsedRollout) -> Iterator[Finding]:
    if parsed.spec is None:
        return
    canary = parsed.spec.canary
    steps = canary.steps
    if canary.analysis is None and not any(isinstance(s, AnalysisStep | JobStep) for s in steps):
        yield hint(
            where,
            "nothing judges the canary: add an analysis step, or `analysis: {preset: default}`",
            path=(*_CANARY, "steps"),
            named=True,
        )
    for index, step in enumerate(steps):
        if isinstance(step, PauseStep) and step.duration is None and not step.approve:
            yield hint(
                where, f"step {index + 1} never ends by itself: it waits for `promote`", path=_step(index)
            )
        if isinstance(step, WeightStep) and step.weight == FULL:
            yield hint(
                where,
                f"step {index + 1} gives the canary all traffic, as the end of the steps does by itself: leave it out, "
                "and set `bake` to watch it there",
                path=_step(index),
            )
        if isinstance(step, AnalysisStep) and weight_at(steps, index) == 0:
            yield hint(
                where,
                f"step {index + 1} analyses a canary without traffic: set a weight before it",
                path=_step(index),
            )
    judged = [index for index, step in enumerate(steps) if isinstance(step, AnalysisStep)]
    if judged and 0 < weight_at(steps, judged[-1]) < _CERTIFYING:
        yield hint(
            where,
            f"step {judged[-1] + 1} is the last gate, below weight 5 %: a comparison cannot prove its tolerance "
            "there, as proofs use the data from 5 % on",
            path=_step(judged[-1]),
        )


def _capacity(where: str, parsed: ParsedRollout) -> Iterator[Finding]:
    """A part of stable's pods that the canary's do not fit into, but where rounding helps; numbers need N."""
    capacity = parsed.spec.canary.capacity if parsed.spec is not None else None
    if capacity is None or capacity.max_surge is None or not capacity.max_surge.percent:
        return
    if not capacity.min_stable.percent:
        return
    needed, kept = math.ceil(round(capacity.headroom * 100, 6)), min(capacity.min_stable.number, 100)
    surge = capacity.max_surge.number
    if surge < needed + kept - 100:
        beside = "all of them" if kept == 100 else f"the {kept}% that minStable keeps"
        lower = f"minStable to {surge + 100 - needed}%, " if 0 < surge + 100 - needed < 100 else ""
        yield hint(
            where,
            f"maxSurge {surge}% leaves too little room: the canary at 100 % needs {needed}% of "
            f"stable's pods beside {beside}, and the rollout will wait as CapacityInfeasible: set maxSurge to "
            f"{needed + kept - 100}%, {lower}or a lower headroom",
            path=(*_CANARY, "capacity", "maxSurge"),
        )


def _unprovable(where: str, parsed: ParsedRollout, files: _Files) -> Iterator[Finding]:
    """Gates that can never show what they demand; without pods to reckon with, those that one canary pod never can."""
    try:
        gates, _ = gates_to_plan(parsed, files.templates, files.check)
    except GatesError:
        return  # already told
    reckoned = replace(files.traffic or _ONE_CANARY_POD, coupled=is_adapter(parsed))
    said = (
        ""
        if files.traffic is not None
        else "with one canary pod (--stable-pods and --canary-pods say how many): "
    )
    for plan in plan_rollout(gates, reckoned):
        if plan.minutes_to_pass == float("inf"):
            yield hint(where, said + plan.words, path=_CANARY)


def _step(index: int) -> Path:
    return (*_CANARY, "steps", index)


def _like(text: str, templates: Templates) -> str:
    """The template of these files that may be meant; ``text`` is ``Kind name``."""
    kind, _, name = text.partition(" ")
    cluster = kind == "ClusterAnalysisTemplate"
    near = nearest(name, [one for scope, one in templates if scope == cluster])
    other = next((one for scope, one in templates if scope != cluster and one == name), "")
    if near:
        return f"; did you mean {near}?"
    return f"; one of the other scope is: set clusterScope: {str(not cluster).lower()}" if other else ""


def _source(name: str) -> str:
    """A source that an administrator has to name."""
    known = "a Prometheus server is `default` where one is configured" if "prom" in name.lower() else ""
    told = (
        f"; {known}"
        if known
        else f"{'; did you mean ' + near + '?' if (near := nearest(name, _SOURCES)) else ''}"
    )
    return f"the source {name:.63} must be one that the administrator configured (`--source {name:.63}=URL`){told}"
