"""Workloads of the files that a Rollout of the files is to scale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rollouts.api.parsing import parse_rollout
from rollouts.cli.lint_findings import Finding, at_document, hint, problem
from rollouts.cli.lint_kinds import is_ours, name_of
from rollouts.cli.lint_strategies import FileStrategies
from rollouts.cli.workload_faults import GITOPS_FIX, prompt_faults, workload_faults, workloads_among
from rollouts.cli.yaml_source import Path
from rollouts.engine.attempt import PinnedStrategy
from rollouts.objects.fields import map_of, metadata_of, text_of
from rollouts.objects.pools import read_pool
from rollouts.objects.workloads import makes_pods_of, pod_labels

__all__ = ["workload_findings"]

Object = Mapping[str, Any]
_RULE = "capacity"


def workload_findings(
    placed: Sequence[tuple[int, Path, Object]], strategies: FileStrategies
) -> Iterator[Finding]:
    """Each is told at the object that it concerns."""
    where = {id(obj): (number, path) for number, path, obj in placed}
    for rollout in (obj for _, _, obj in placed if is_ours(obj) and obj.get("kind") == "Rollout"):
        shared = strategies.of(rollout)
        parsed = parse_rollout(rollout, strategy=shared if isinstance(shared, PinnedStrategy) else None)
        scales = parsed.spec is not None and parsed.spec.canary.capacity is not None
        space = text_of(metadata_of(rollout).get("namespace"))
        near = [
            obj
            for _, _, obj in placed
            if text_of(metadata_of(obj).get("namespace")) in ("", space) or not space
        ]
        policy = parsed.spec.canary.capacity if parsed.spec is not None else None
        warm_up = policy.warm_up if policy is not None else None
        for fault in (*workload_faults(rollout, policy, near), *prompt_faults(warm_up, rollout, near)):
            make = problem if fault.bad else hint
            number, path = where[id(fault.about)]
            yield at_document(make(name_of(rollout), f"{fault.text}: {fault.fix}", rule=_RULE), number, path)
        for obj in _makers(near) if scales else ():
            number, path = where[id(obj)]
            text = f"{name_of(obj)} says replicas, which the controller scales: {GITOPS_FIX}"
            yield at_document(
                hint(name_of(rollout), text, rule=_RULE, path=("spec", "replicas")), number, path
            )


def _makers(objects: Sequence[Object]) -> Iterator[Object]:
    """Workloads of pools among the objects that say how many replicas they have."""
    pools = [read_pool(dict(one)) for one in objects if one.get("kind") == "InferencePool"]
    for obj in workloads_among(objects):
        says = "replicas" in map_of(obj.get("spec"))
        if says and any(makes_pods_of(pod_labels(obj), pool) for pool in pools):
            yield obj
