"""``rollouts lint``: what the API server and the controller would say about files, without a cluster."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import click

from rollouts.analysis.comparisons import GatesError, can_stop, comparisons_of, too_many
from rollouts.analysis.offers import ANY_OFFER
from rollouts.analysis.planning import Traffic, plan_rollout
from rollouts.analysis.templates import Gate, Resolved, Template, metric_problems
from rollouts.api.parsing import ParsedRollout, parse_rollout
from rollouts.cli.analysis_commands import load_documents
from rollouts.cli.lint_gateways import GATEWAYS, gateway_findings
from rollouts.cli.lint_routes import route_problems
from rollouts.cli.lint_windows import too_long
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
from rollouts.cli.waves import wave_findings
from rollouts.engine.steps import weight_at
from rollouts.engine.types import AnalysisStep, JobStep, PauseStep
from rollouts.objects.kinds import GROUP, VERSION
from rollouts.terminal import say

__all__ = ["Finding", "Severity", "lint", "lint_documents"]

_API_VERSION = f"{GROUP}/{VERSION}"
_CERTIFYING = 500
"""Hundredths of a percent: proofs use the data from weight 5 % on."""


_ONE_CANARY_POD = Traffic(rate=20.0, stable_pods=1000, canary_pods=1)
"""As many stable pods as anybody has: what cannot be shown here is the canary's doing. The rate moves times only."""


class Severity(Enum):
    """A problem is refused by the API server or the controller; a hint works, but perhaps not as meant."""

    PROBLEM = "problem"
    HINT = "hint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing to look at. ``where`` is ``Kind/name``."""

    severity: Severity
    where: str
    text: str


def _problem(where: str, text: str) -> Finding:
    return Finding(severity=Severity.PROBLEM, where=where, text=text)


def _hint(where: str, text: str) -> Finding:
    return Finding(severity=Severity.HINT, where=where, text=text)


def lint_documents(documents: list[Any], traffic: Traffic | None = None) -> list[Finding]:
    """Findings of all Rollouts and templates among the documents; other kinds are left alone.

    ``traffic`` None: whether a gate can prove its tolerance is looked at for one canary pod.
    """
    ours = [one for one in documents if isinstance(one, Mapping) and _is_ours(one)]
    templates: dict[tuple[bool, str], Template] = {}
    findings: list[Finding] = []
    for obj in ours:
        if obj.get("kind") in TEMPLATE_KINDS:
            findings += _template(obj, templates)
    for obj in ours:
        if obj.get("kind") == "Rollout":
            findings += _rollout(obj, templates, traffic)
    return findings + list(_waves(documents))


def _waves(documents: list[Any]) -> Iterator[Finding]:
    """Sync waves in which a Rollout waits for what comes after it; the files are taken for one Application."""
    for found in wave_findings([one for one in documents if isinstance(one, Mapping)]):
        make = _problem if found.deadlock else _hint
        yield make(f"Rollout/{found.rollout}", found.text)


def _is_ours(obj: Mapping[str, Any]) -> bool:
    return str(obj.get("apiVersion", "")).split("/")[0] == GROUP


def _where(obj: Mapping[str, Any]) -> str:
    meta = obj.get("metadata")
    name = meta.get("name") if isinstance(meta, Mapping) else None
    return f"{obj.get('kind')}/{name or '(no name)'}"


def _head(obj: Mapping[str, Any]) -> Iterator[Finding]:
    if obj.get("apiVersion") != _API_VERSION:
        yield _problem(_where(obj), f"apiVersion is {obj.get('apiVersion')}: write {_API_VERSION}")
    if _where(obj).endswith("(no name)"):
        yield _problem(_where(obj), "metadata.name is missing: give it one")


def _template(obj: Mapping[str, Any], known: dict[tuple[bool, str], Template]) -> Iterator[Finding]:
    yield from _head(obj)
    key, parsed = template_of(obj)
    if isinstance(parsed, str):
        yield _problem(_where(obj), parsed)
        return
    known[key] = parsed
    # Arguments without a value are filled, and `default` is settled, by the Rollout that uses the template.
    offers = {**offers_of(parsed.metrics), "default": ANY_OFFER}
    for reason, text in metric_problems(list(parsed.metrics), offers):
        if reason != "ArgumentMissing":
            yield _problem(_where(obj), text)


def _rollout(obj: Mapping[str, Any], templates: Templates, traffic: Traffic | None) -> Iterator[Finding]:
    yield from _head(obj)
    parsed, where = parse_rollout(obj), _where(obj)
    for problem in parsed.problems:
        yield _problem(where, problem.message)
    if parsed.model is None or parsed.problems:
        return
    yield from (_problem(where, text) for text in route_problems(parsed))
    gates = list(resolved_gates(parsed, templates))
    for step, gate, resolved in gates:
        place = "background analysis" if step is None else f"step {step + 1}"
        yield from _gate(where, place, gate, resolved, templates)
        for text in too_long(parsed, place, resolved.metrics):
            yield _problem(where, f"{place}: {text}")
    comparisons = comparisons_of((step, resolved.metrics) for step, _, resolved in gates)
    yield from (_problem(where, text) for text in too_many(comparisons))
    yield from (_hint(where, text) for text in filter(None, (silence(item, parsed) for item in comparisons)))
    yield from _steps(where, parsed)
    yield from _unprovable(where, parsed, templates, traffic)


def _gate(where: str, place: str, gate: Gate, resolved: Resolved, templates: Templates) -> Iterator[Finding]:
    whole = all(name in templates for name in gate.templates)
    for reason, text in resolved.problems:
        if reason == "TemplateMissing":
            name = text.split(" does not exist")[0]
            yield _hint(where, f"{place}: {name} is not in these files: it must exist in the cluster")
        elif reason != "ArgumentUnknown" or whole:
            yield _problem(where, f"{place}: {text}")
    if resolved.metrics and not any(map(can_stop, resolved.metrics)):
        yield _hint(
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
        yield _hint(
            where, "nothing judges the canary: add an analysis step, or `analysis: {preset: default}`"
        )
    for index, step in enumerate(steps):
        if isinstance(step, PauseStep) and step.duration is None:
            yield _hint(where, f"step {index + 1} never ends by itself: it waits for `promote`")
        if isinstance(step, AnalysisStep) and weight_at(steps, index) == 0:
            yield _hint(where, f"step {index + 1} analyses a canary without traffic: set a weight before it")
    judged = [index for index, step in enumerate(steps) if isinstance(step, AnalysisStep)]
    if judged and 0 < weight_at(steps, judged[-1]) < _CERTIFYING:
        yield _hint(
            where,
            f"step {judged[-1] + 1} is the last gate, below weight 5 %: a comparison cannot prove its tolerance "
            "there, as proofs use the data from 5 % on",
        )


def _unprovable(
    where: str, parsed: ParsedRollout, templates: Templates, traffic: Traffic | None
) -> Iterator[Finding]:
    """Gates that can never show what they demand; without pods to reckon with, those that one canary pod never can."""
    try:
        gates, _ = gates_to_plan(parsed, templates)
    except GatesError:
        return  # already told
    reckoned = replace(traffic or _ONE_CANARY_POD, coupled=is_adapter(parsed))
    said = (
        "" if traffic is not None else "with one canary pod (--stable-pods and --canary-pods say how many): "
    )
    for plan in plan_rollout(gates, reckoned):
        if plan.minutes_to_pass == float("inf"):
            yield _hint(where, said + plan.words)


_FILE = click.Path(exists=True, path_type=Path)
_ENDINGS = (".yaml", ".yml", ".json")


def _files(path: Path) -> list[Path]:
    """A file, or what is in a folder and below it; hidden ones left out."""
    if not path.is_dir():
        return [path]
    found = (file for file in path.rglob("*") if file.suffix in _ENDINGS and file.is_file())
    return sorted(
        file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)
    )


@click.command("lint")
@click.argument("files", nargs=-1, required=True, type=_FILE)
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), default=20.0, show_default=True)
@click.option("--stable-pods", type=click.IntRange(min=1), help="Also say what gates cannot prove.")
@click.option("--canary-pods", type=click.IntRange(min=1), help="Else what the weight asks for.")
@click.option("--gateway", type=click.Choice(GATEWAYS), help="Also say what is known of this gateway.")
def lint(
    files: tuple[Path, ...],
    rate: float,
    stable_pods: int | None,
    canary_pods: int | None,
    gateway: str | None,
) -> None:
    """Check Rollouts and templates in FILES, or folders, without a cluster, by the controller's own rules.

    The files are taken together: templates that Rollouts name, and Argo CD's sync waves.

    Exit status: 0 fine or hints only, 2 problems.
    """
    documents = [document for path in files for file in _files(path) for document in load_documents(file)]
    traffic = Traffic(rate=rate, stable_pods=stable_pods, canary_pods=canary_pods) if stable_pods else None
    findings = lint_documents(documents, traffic)
    if gateway is not None:
        for where, text, bad in gateway_findings(
            [one for one in documents if isinstance(one, Mapping)], gateway
        ):
            findings.append(_problem(where, text) if bad else _hint(where, text))
    for finding in findings:
        say(f"{finding.severity.value}: {finding.where}: {finding.text}")
    count = sum(isinstance(one, Mapping) and _is_ours(one) for one in documents)
    problems = sum(finding.severity is Severity.PROBLEM for finding in findings)
    if not count:
        say(f"problem: no object of {_API_VERSION} in these files")
    say(f"{count} objects, {problems} problems, {len(findings) - problems} hints")
    if problems or not count:
        sys.exit(2)
