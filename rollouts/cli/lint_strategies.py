"""Shared strategies in files: found for the Rollouts that name them, and looked at by themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rollouts.analysis.offers import ANY_OFFER
from rollouts.analysis.templates import Check, metric_problems
from rollouts.api.rollout_models import SharedStrategySpec
from rollouts.api.runs import gate_of, gates_of
from rollouts.api.strategies import (
    CLUSTER_STRATEGY,
    STRATEGY,
    StrategyFault,
    StrategyRef,
    own_fields,
    pin_strategy,
    strategy_ref,
)
from rollouts.cli.lint_findings import Finding, Severity, hint, path_in, problem
from rollouts.cli.lint_kinds import is_ours, name_of
from rollouts.cli.lint_words import nearest
from rollouts.cli.offline import offers_of
from rollouts.cli.yaml_source import Path
from rollouts.engine.attempt import PinnedStrategy
from rollouts.objects.fields import map_of, metadata_of, text_of

__all__ = ["STRATEGY_KINDS", "FileStrategies", "at_reference", "strategy_findings"]

STRATEGY_KINDS = (STRATEGY, CLUSTER_STRATEGY)
_REFERENCE: Path = ("spec", "strategy", "canaryFrom")
_CANARY: Path = ("spec", "strategy", "canary")

Object = Mapping[str, Any]


class FileStrategies:
    """Strategies of the files, and of the cluster where it was asked.

    ``unread`` are (kind, name) of which the cluster does not tell; None where it was not asked.
    """

    def __init__(self, objects: Iterable[Object], unread: frozenset[tuple[str, str]] | None = None) -> None:
        self._unread = unread
        self._objects = [obj for obj in objects if is_ours(obj) and obj.get("kind") in STRATEGY_KINDS]

    def of(self, rollout: Object) -> PinnedStrategy | StrategyFault | None:
        """What the Rollout's reference leads to; None where it is nowhere, or there is no reference."""
        named = strategy_ref(rollout.get("spec"))
        if named is None:
            return None
        obj = next((one for one in self._objects if _means(named, rollout, one)), None)
        return None if obj is None else pin_strategy(obj)

    def findings(self, rollout: Object) -> Iterator[Finding]:
        """A reference that leads nowhere, or to what cannot be used."""
        named, where = strategy_ref(rollout.get("spec")), name_of(rollout)
        if named is None:
            return
        found = self.of(rollout)
        if isinstance(found, StrategyFault):
            yield problem(where, f"{named.label} cannot be used: {found.text}", path=_REFERENCE)
        if found is not None:
            return
        near = self._near(named)
        if self._unread is None or (named.kind, named.name) in self._unread:
            text = f"{named.label} is not in these files: it must exist in the cluster{near}"
            yield hint(where, text, rule="strategy-missing", path=_REFERENCE)
        else:
            text = f"{named.label} is neither in these files nor in the cluster{near}"
            yield problem(where, text, rule="strategy-missing", path=_REFERENCE)

    def _near(self, named: StrategyRef) -> str:
        names = [(str(one["kind"]), text_of(metadata_of(one).get("name"))) for one in self._objects]
        other = next((kind for kind, name in names if name == named.name and kind != named.kind), "")
        if other:
            return f"; there is a {other} of that name: set canaryFrom.kind: {other}"
        near = nearest(named.name, [name for kind, name in names if kind == named.kind])
        return f"; did you mean {near}?" if near else ""


def _means(named: StrategyRef, rollout: Object, obj: Object) -> bool:
    """Whether the reference is to this object; a namespace that is left out is any."""
    meta = metadata_of(obj)
    if (obj.get("kind"), meta.get("name")) != (named.kind, named.name):
        return False
    spaces = {text_of(metadata_of(one).get("namespace")) for one in (rollout, obj)} - {""}
    return named.cluster or len(spaces) < 2


def at_reference(finding: Finding, rollout: Object) -> Finding:
    """A finding about a field that the shared strategy gives stands at the reference to that."""
    named = strategy_ref(rollout.get("spec"))
    if named is None or finding.path[:3] != _CANARY:
        return finding
    if len(finding.path) > 3 and finding.path[3] in own_fields(rollout.get("spec")):
        return finding
    return replace(finding, path=_REFERENCE, named=False, text=f"with {named.label}: {finding.text}")


def strategy_findings(obj: Object, strict: Sequence[Finding], check: Check) -> Iterator[Finding]:
    """What is wrong with a strategy, whoever uses it. ``strict``: what was told already."""
    where, pinned = name_of(obj), pin_strategy(obj)
    if isinstance(pinned, StrategyFault):
        path = path_in(pinned.text)
        told = (one.path for one in strict if one.severity is Severity.PROBLEM)
        if not any(path and one[: len(path)] == path for one in told):
            yield problem(where, pinned.text, path=path)
        return
    canary = SharedStrategySpec.model_validate(dict(map_of(obj.get("spec")))).canary
    for step, model in gates_of(canary):
        metrics = list(gate_of(model).metrics)
        at: Path = ("spec", "canary", *(("analysis",) if step is None else ("steps", step, "analysis")))
        offers = {**offers_of(metrics), "default": ANY_OFFER}
        for reason, text in metric_problems(metrics, offers, check):
            if reason != "ArgumentMissing":
                yield problem(where, text, rule="gate", path=at)
