"""Freezes and approvals of the files against the controllers that the files, or the cluster, run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rollouts.api.parsing import parse_rollout
from rollouts.cli.controllers import approvals_asked
from rollouts.cli.lint_findings import Finding, at_document, hint, problem
from rollouts.cli.lint_kinds import is_ours, name_of
from rollouts.cli.lint_strategies import FileStrategies
from rollouts.cli.yaml_source import Path
from rollouts.controller.reporting import ControllerReport
from rollouts.engine.attempt import PinnedStrategy
from rollouts.objects.fields import metadata_of, text_of

__all__ = ["controller_findings"]

Object = Mapping[str, Any]
Placed = tuple[int, Path, Object]
_RULE = "controller"


def controller_findings(
    placed: Sequence[Placed], reports: Sequence[ControllerReport], strategies: FileStrategies
) -> Iterator[Finding]:
    """Nothing where no controller is known."""
    for number, path, obj in placed if reports else ():
        if not is_ours(obj):
            continue
        if obj.get("kind") == "RolloutFreeze":
            yield from (at_document(one, number, path) for one in _unheeded(obj, reports))
        elif obj.get("kind") == "Rollout":
            shared = strategies.of(obj)
            strategy = shared if isinstance(shared, PinnedStrategy) else None
            found = _unanswered(obj, reports, strategy)
            yield from (at_document(one, number, path) for one in found)


def _unheeded(freeze: Object, reports: Sequence[ControllerReport]) -> Iterator[Finding]:
    deaf = [one.source for one in reports if not one.freezes]
    if deaf:
        text = f"the controller of {', '.join(deaf)} runs without --freezes: it holds nobody up"
        yield hint(name_of(freeze), f"{text}; set freezes: true in the values of the chart", rule=_RULE)


def _unanswered(
    rollout: Object, reports: Sequence[ControllerReport], strategy: PinnedStrategy | None
) -> Iterator[Finding]:
    namespace = text_of(metadata_of(rollout).get("namespace"))
    parsed = parse_rollout(rollout, strategy=strategy)
    for report in reports:
        if namespace and not report.watches(namespace):
            continue
        there = report.answering(namespace) if namespace else sorted(report.approvers)
        for index, name in approvals_asked(parsed):
            if name not in there:
                text = (
                    f"step {index + 1} asks {name:.63}, and the controller of {report.source} has no receiver of type "
                    f"webhook with that name; there are {', '.join(there) or 'none'}"
                )
                where: Path = (
                    ("spec", "strategy", "canary", "steps", index)
                    if strategy is None
                    else ("spec", "strategy")
                )
                yield problem(name_of(rollout), text, rule=_RULE, path=where)
