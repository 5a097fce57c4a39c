"""Workloads of the files that a Rollout of the files is to scale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rollouts.api.parsing import parse_rollout
from rollouts.api.references import serving_pools, traffic_names
from rollouts.cli.lint_findings import Finding, at_document, hint, problem
from rollouts.cli.lint_kinds import is_ours, name_of
from rollouts.cli.lint_strategies import FileStrategies
from rollouts.cli.workload_faults import GITOPS_FIX, prompt_faults, workload_faults, workloads_among
from rollouts.cli.yaml_source import Path
from rollouts.engine.attempt import PinnedStrategy
from rollouts.engine.rollout_spec import Capacity
from rollouts.objects.companions import Belongs, belongs
from rollouts.objects.fields import map_of, metadata_of, text_of
from rollouts.objects.kinds import HTTP_ROUTE
from rollouts.objects.pools import POOL_KIND, read_pool
from rollouts.objects.workloads import AUTOSCALER_KINDS, makes_pods_of, pod_labels, scaled_by
from rollouts.traffic.backends import backend_refs, rules_of

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
        space = text_of(metadata_of(rollout).get("namespace"))
        near = [
            obj
            for _, _, obj in placed
            if text_of(metadata_of(obj).get("namespace")) in ("", space) or not space
        ]
        policy = parsed.spec.canary.capacity if parsed.spec is not None else None
        warm_up = policy.warm_up if policy is not None else None
        faults = workload_faults(rollout, policy, near, everything=False)
        for fault in (*faults, *prompt_faults(warm_up, rollout, near)):
            make = problem if fault.bad else hint
            number, path = where[id(fault.about)]
            yield at_document(make(name_of(rollout), f"{fault.text}: {fault.fix}", rule=_RULE), number, path)
        for obj in _scaled(rollout, policy, near) if policy is not None else ():
            number, path = where[id(obj)]
            text = f"{name_of(obj)} says replicas, which the controller scales: {GITOPS_FIX}"
            yield at_document(
                hint(name_of(rollout), text, rule=_RULE, path=("spec", "replicas")), number, path
            )


def _scaled(rollout: Object, policy: Capacity, objects: Sequence[Object]) -> Iterator[Object]:
    """Workloads among the objects that say how many replicas they have, of pools that the Rollout may scale.

    Not those that an autoscaler scales: the controller leaves them alone.
    """
    may = _may_scale(rollout, policy, objects)
    raw = [one for one in objects if one.get("kind") == POOL_KIND]
    pools = [read_pool(one) for one in raw if may is None or text_of(metadata_of(one).get("name")) in may]
    elsewhere = {scaled_by(one) for one in objects if one.get("kind") in AUTOSCALER_KINDS}
    for obj in workloads_among(objects):
        says = "replicas" in map_of(obj.get("spec"))
        own = (obj.get("kind"), text_of(metadata_of(obj).get("name"))) not in elsewhere
        if says and own and any(makes_pods_of(pod_labels(obj), pool) for pool in pools):
            yield obj


def _may_scale(rollout: Object, policy: Capacity, objects: Sequence[Object]) -> set[str] | None:
    """Names of pools: the target, what its route lists, and what works for those. None where no file has the route."""
    routes = [name for kind, name in traffic_names(rollout) if kind == HTTP_ROUTE.kind]
    found = [
        one
        for one in objects
        if one.get("kind") == HTTP_ROUTE.kind and metadata_of(one).get("name") in routes
    ]
    if not found:
        return None
    names = serving_pools(rollout)
    for route in found:
        refs = (ref for rule in rules_of(map_of(route.get("spec"))) for ref in backend_refs(rule))
        names |= {text_of(map_of(ref).get("name")) for ref in refs if map_of(ref).get("kind") == POOL_KIND}
    listed = [Belongs(pool=one.pool, of=one.of) for one in policy.companions]
    said = [one for one in (*map(belongs, objects), *listed) if one is not None]
    return names | {one.pool for one in said if not one.of or one.of in names}
