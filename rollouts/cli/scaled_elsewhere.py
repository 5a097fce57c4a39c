"""Autoscalers of one kind of pods beside a plan that takes those of another from stable, for those who look ahead.

The engine says the same before anything moves; here as far as files, or the cluster, show it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollouts.engine.capacity import companion_pods, needs_room, pods_for, way_around
from rollouts.engine.rollout_spec import Capacity
from rollouts.objects.companions import Belongs, belongs, companions_of, within
from rollouts.objects.fields import map_of, metadata_of, text_at, text_of
from rollouts.objects.pools import Pool, read_pool
from rollouts.objects.workloads import AUTOSCALERS, WORKLOADS, makes_pods_of, pod_labels, scaled_by
from rollouts.units import FULL

__all__ = ["NothingGiven", "makers_of", "nothing_given"]

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class NothingGiven:
    """Stable would give no pods. ``certain``: it is known how many it has, and that the plan needs some of them."""

    why: str
    fix: str
    certain: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """Pods of one kind: the pools of both versions, stable's as far as that is known, and how many stable has."""

    target: str
    stable: str
    pods: int | None

    @property
    def lends(self) -> str:
        return self.stable or self.target


def nothing_given(
    rollout: Object, policy: Capacity, objects: Sequence[Object], pods: Sequence[int | None] = ()
) -> NothingGiven | None:
    """Why stable would give no pods although the plan may need some; None where it would, or nobody knows its pools.

    ``pods``: what stable has of each kind, the version's own first, then its companions' by role; where that is not
    said, the replicas of its workloads count. The status of ``rollout`` says which version is stable.
    """
    kinds = _kinds(rollout, policy, objects, pods) if policy.gives else []
    names = [name for kind in kinds for name in (kind.stable, kind.target) if name]
    scaled = {name: who for name in names if (who := _scaled(name, objects))}
    certain = all(kind.pods is not None for kind in kinds)
    needed = list(_needed(kinds, policy)) if certain else []
    giving = [
        kind
        for number, kind in enumerate(kinds)
        if not certain or needs_room(needed[number], kind.pods or 0, policy)
    ]
    if not scaled or all(kind.lends in scaled for kind in giving):
        return None
    why = f"stable is to give pods while it serves, and gives none while {next(iter(scaled.values()))}"
    fix = (
        way_around(needed)
        if certain
        else "take that away, or set maxSurge so that all fit beside stable's pods"
    )
    return NothingGiven(why=why, fix=fix, certain=certain)


def _kinds(
    rollout: Object, policy: Capacity, objects: Sequence[Object], pods: Sequence[int | None]
) -> list[_Kind]:
    target = text_at(rollout, "spec", "target", "pool", "name")
    stable = text_at(map_of(rollout.get("status")), "stable", "name")
    mine, theirs = (_companions(name, target, policy, objects) if name else {} for name in (target, stable))
    names = [(target, stable), *((pool, theirs.get(role, "")) for role, pool in sorted(mine.items()))]
    said = [*pods, *[None] * len(names)]
    return [
        _Kind(target=one, stable=other, pods=_replicas(other, objects) if known is None else known)
        for (one, other), known in zip(names, said, strict=False)
        if one
    ]


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


def _scaled(pool: str, objects: Sequence[Object]) -> str:
    """Who else scales the pods of a pool; empty where nobody is known to."""
    for one in makers_of(pool, objects):
        what = (text_of(one.get("kind")), text_of(metadata_of(one).get("name")))
        for scaler in objects:
            if scaler.get("kind") in AUTOSCALERS and scaled_by(scaler) == what:
                return f"{scaler['kind']} {text_of(metadata_of(scaler).get('name'))} scales {' '.join(what)}"
    return ""


def makers_of(name: str, objects: Sequence[Object]) -> Iterator[Object]:
    """Workloads among the objects that make the pods of a pool, or of one of its roles (``POOL/ROLE``)."""
    own, _, role = name.partition("/")
    pools = list[Pool]()
    for one in objects:
        if one.get("kind") == "InferencePool" and metadata_of(one).get("name") == own:
            read = read_pool(dict(one))
            part = read.role(role) if role else read
            pools += [part] if part is not None else []
    for one in objects:
        if one.get("kind") in WORKLOADS and any(makes_pods_of(pod_labels(one), pool) for pool in pools):
            yield one
