"""Autoscalers of one kind of pods beside a plan that takes those of another from stable, for those who look ahead.

The engine says the same before anything moves; here as far as files, or the cluster, show it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollouts.api.status import read_status
from rollouts.engine.capacity import companion_pods, needs_room, pods_for, way_around
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import Capacity
from rollouts.objects.companions import Belongs, belongs, companions_of, within
from rollouts.objects.fields import map_of, metadata_of, text_at, text_of
from rollouts.objects.pools import Pool, read_pool
from rollouts.objects.workloads import (
    AUTOSCALER_KINDS,
    WORKLOAD_ANNOTATION,
    WORKLOADS,
    makes_pods_of,
    pod_labels,
    read_workload,
    scaled_by,
)
from rollouts.units import FULL

__all__ = ["NothingGiven", "makers_of", "nothing_given"]

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class NothingGiven:
    """Stable would give no pods. ``certain``: it is known how many it has, and that the plan needs some of them;
    ``reason``: as the status has it."""

    why: str
    fix: str
    certain: bool
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """Pods of one kind: the pools of both versions, stable's as far as that is known, how many stable has (had, where
    an attempt has begun), and how many the target has, or is about to have."""

    target: str
    stable: str
    pods: int | None
    there: int

    @property
    def lends(self) -> str:
        return self.stable or self.target


def nothing_given(
    rollout: Object, policy: Capacity, objects: Sequence[Object], pods: Sequence[int | None] = ()
) -> NothingGiven | None:
    """Why stable would give no pods although the plan may need some; None where it would, or nobody knows its pools.

    ``pods``: what stable has of each kind, the version's own first, then its companions' by role; where that is not
    said, what the status has of the attempt's start, and else the replicas of its workloads. The status of ``rollout``
    says which version is stable.
    """
    kinds = _kinds(rollout, policy, objects, pods) if policy.gives else []
    used = [kind for number, kind in enumerate(kinds) if number == 0 or kind.pods != 0]
    names = [name for kind in used for name in (kind.stable, kind.target) if name]
    scaled = {name: who for name in names if (who := _scaled(name, objects))}
    certain = all(kind.pods is not None for kind in kinds)
    needed = list(_needed(kinds, policy)) if certain else []
    giving = [
        kind
        for number, kind in enumerate(kinds)
        if not certain or (kind.there < needed[number] and needs_room(needed[number], kind.pods or 0, policy))
    ]
    if not scaled or all(kind.lends in scaled for kind in giving):
        return None
    why = f"stable is to give pods while it serves, and gives none while {next(iter(scaled.values()))}"
    fix = (
        way_around(needed)
        if certain
        else "take that away, or set maxSurge so that all fit beside stable's pods"
    )
    begun = read_status(rollout.get("status"))[0].started_at is not None
    reason = Reason.CAPACITY_MANAGED_ELSEWHERE if begun else Reason.CAPACITY_INFEASIBLE
    return NothingGiven(why=why, fix=fix, certain=certain, reason=reason)


def _kinds(
    rollout: Object, policy: Capacity, objects: Sequence[Object], pods: Sequence[int | None]
) -> list[_Kind]:
    target = text_at(rollout, "spec", "target", "pool", "name")
    stable = text_at(map_of(rollout.get("status")), "stable", "name")
    mine, theirs = (_companions(name, target, policy, objects) if name else {} for name in (target, stable))
    names = [(target, stable), *((pool, theirs.get(role, "")) for role, pool in sorted(mine.items()))]
    said, had = [*pods, *[None] * len(names)], _at_start(rollout)
    return [
        _Kind(
            target=one,
            stable=other,
            pods=had.get(other, _replicas(other, objects)) if known is None else known,
            there=_coming(one, objects),
        )
        for (one, other), known in zip(names, said, strict=False)
        if one
    ]


def _at_start(rollout: Object) -> dict[str, int]:
    """By pool what stable had when the attempt began, and may have given since; empty where none has begun."""
    status, _ = read_status(rollout.get("status"))
    current, found = status.current, dict[str, int]()
    if status.running is not None and current is not None and current.capacity is not None:
        found = {one.stable.name: one.stable_at_start for one in current.capacity.companions}
        if status.stable is not None:
            found[status.stable.identity.name] = current.capacity.stable_at_start
    lent = (part for scale in (status.stable_scale, status.owed) if scale is not None for part in scale.parts)
    # What is owed says nothing of stable's own.
    own = status.owed
    return found | {part.identity.name: part.full for part in lent if part is not own}


def _companions(version: str, target: str, policy: Capacity, objects: Sequence[Object]) -> dict[str, str]:
    """By role; none where nobody can tell them, which is said elsewhere."""
    pools = [one for one in objects if one.get("kind") == "InferencePool"]
    said = [*filter(None, map(belongs, pools)), *(one for pool in pools for one in within(pool))]
    listed = [Belongs(pool=one.pool, of=one.of or target, role=one.role) for one in policy.companions]
    found = companions_of(version, said, listed)
    return {} if isinstance(found, str) else found


def _needed(kinds: Sequence[_Kind], policy: Capacity) -> Iterator[int]:
    """Pods of each kind at 100 %."""
    stable = kinds[0].pods or 0 if kinds else 0
    lead = pods_for(FULL, stable, policy)
    yield lead
    yield from (companion_pods(lead, kind.pods or 0, stable) for kind in kinds[1:])


def _replicas(pool: str, objects: Sequence[Object]) -> int | None:
    """Of the one workload that makes a pool's pods; None where nobody says."""
    found = [map_of(one.get("spec")).get("replicas") for one in makers_of(pool, objects)]
    return found[0] if len(found) == 1 and isinstance(found[0], int) else None


def _coming(pool: str, objects: Sequence[Object]) -> int:
    """Pods that a pool has, or may get without the plan: its replicas, and the least that an autoscaler keeps of it,
    which does nothing at 0."""
    replicas = _replicas(pool, objects)
    least = (
        number
        for scaler in _scalers(pool, objects)
        for field in ("minReplicas", "minReplicaCount")
        if isinstance(number := map_of(scaler.get("spec")).get(field), int)
    )
    return 0 if replicas == 0 else max(replicas or 0, *least, 0)


def _scaled(pool: str, objects: Sequence[Object]) -> str:
    """Who else scales the pods of a pool; empty where nobody is known to."""
    for one in _scalers(pool, objects):
        return f"{one['kind']} {text_of(metadata_of(one).get('name'))} scales {' '.join(scaled_by(one))}"
    return ""


def _scalers(pool: str, objects: Sequence[Object]) -> Iterator[Object]:
    for what in map(_what, makers_of(pool, objects)):
        yield from (one for one in objects if one.get("kind") in AUTOSCALER_KINDS and scaled_by(one) == what)


def makers_of(name: str, objects: Sequence[Object]) -> Iterator[Object]:
    """Workloads among the objects, which are of one namespace, that make the pods of a pool, or of one of its roles
    (``POOL/ROLE``); the one that the pool names by its annotation. Of two of one name the last, which is the cluster's
    where that stands behind a file."""
    own, _, role = name.partition("/")
    pools, asked = list[Pool](), ""
    for one in objects:
        if one.get("kind") == "InferencePool" and metadata_of(one).get("name") == own:
            read = read_pool(dict(one))
            part = read.role(role) if role else read
            pools += [part] if part is not None else []
            annotations = map_of(metadata_of(one).get("annotations"))
            asked = asked or ("" if role else text_of(annotations.get(WORKLOAD_ANNOTATION)))
    for one in {_what(one): one for one in objects if one.get("kind") in WORKLOADS}.values():
        if asked and read_workload(WORKLOADS[str(one.get("kind"))], one).reference != asked:
            continue
        if any(makes_pods_of(pod_labels(one), pool) for pool in pools):
            yield one


def _what(workload: Object) -> tuple[str, str]:
    return text_of(workload.get("kind")), text_of(metadata_of(workload).get("name"))
