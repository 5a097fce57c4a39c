"""What a rollout that scales needs: pods of both versions at each step, GPU-hours, and how long nothing is spare."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollouts.cli.drain_time import short_drain
from rollouts.cli.plan_table import spoken
from rollouts.cli.scaled_elsewhere import NothingGiven, makers_of
from rollouts.engine.capacity import (
    companion_infeasible,
    companion_pods,
    infeasible,
    least_stable,
    most_pods,
    pods_for,
)
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import Capacity, RolloutSpec
from rollouts.engine.steps import weight_at
from rollouts.objects.accelerators import of_replica
from rollouts.objects.companions import Belongs, belongs, companions_of, within
from rollouts.objects.fields import dict_at
from rollouts.units import FULL, Weight, format_weight

__all__ = ["Beside", "PodsAt", "accelerators_of", "capacity_lines", "companions_in", "pods_at_steps"]

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PodsAt:
    """Pods while a step runs; ``step`` from 0, the number of steps for what comes after them. ``spare``: None without
    a limit."""

    step: int
    weight: Weight
    canary: int
    stable: int
    spare: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """A companion of the target. ``pods``: stable's, None where nobody said; ``gpus`` of a pod, 0: not known."""

    name: str
    pods: int | None
    gpus: int = 0


def companions_in(
    spec: RolloutSpec, objects: Sequence[Object], pods: Sequence[int]
) -> tuple[Beside, ...] | str:
    """Companions of the target by role, with stable's ``pods`` in that order; a text says why nobody can tell them."""
    policy, target = spec.canary.capacity, spec.target.name
    pools = [one for one in objects if one.get("kind") == "InferencePool"]
    said = [one for one in map(belongs, pools) if one is not None]
    said += [one for pool in pools for one in within(pool)]
    listed = policy.companions if policy is not None else ()
    found = companions_of(
        target, said, [Belongs(pool=one.pool, of=one.of or target, role=one.role) for one in listed]
    )
    if isinstance(found, str):
        return found
    names = [name for _, name in sorted(found.items())]
    known = dict(zip(names, pods, strict=False))
    return tuple(Beside(name=name, pods=known.get(name), gpus=_gpus(name, objects)) for name in names)


def pods_at_steps(spec: RolloutSpec, stable: int) -> list[PodsAt]:
    """As the engine scales: the canary up with its weight, never down; stable down where there is no other room."""
    capacity = spec.canary.capacity
    assert capacity is not None
    found, canary, steps = list[PodsAt](), 0, spec.canary.steps
    most = most_pods(stable, capacity)
    for index in range(len(steps) + 1):
        weight = weight_at(steps, index)
        canary = max(canary, pods_for(weight, stable, capacity))
        kept = _kept(canary, stable, capacity)
        spare = None if most is None else max(most - canary - kept, 0)
        found.append(PodsAt(step=index, weight=weight, canary=canary, stable=kept, spare=spare))
    return found


def accelerators_of(rollout: Object, objects: Sequence[Object]) -> int:
    """Of the target's workload, found by its pool's selector among the objects; 0 where none of them says."""
    return _gpus(dict_at(rollout, "spec", "target", "pool").get("name"), objects)


def _gpus(name: Any, objects: Sequence[Object]) -> int:
    return next((count for count in map(of_replica, makers_of(str(name), objects)) if count), 0)


def capacity_lines(
    spec: RolloutSpec,
    stable: int,
    minutes: Sequence[float],
    gpus: int,
    beside: Sequence[Beside] = (),
    none_given: NothingGiven | None = None,
) -> Iterator[str]:
    """``minutes`` of each step and of what follows (``minutes_of``); ``gpus`` of a pod, 0: not known; ``none_given``:
    why stable would give no pods."""
    capacity = spec.canary.capacity
    if capacity is None:
        return
    counted = [one for one in beside if one.pods is not None]
    if wrong := _refusal(stable, capacity, beside, none_given):
        yield f"Capacity: it would wait as {wrong}."
        return
    yield from _doubts(capacity, beside, none_given)
    steps = pods_at_steps(spec, stable)
    rises = {one.weight: one for one in reversed(steps) if one.weight}
    pods = ", ".join(f"{rises[weight].canary} at {format_weight(weight)}" for weight in sorted(rises))
    most, least = max(one.canary + one.stable for one in steps), min(one.stable for one in steps)
    gives = (
        f": stable gives it pods as its share falls, and keeps {least} of {stable}" if least < stable else ""
    )
    yield f"Capacity: canary pods {pods}; with stable's {most} at most{gives}."
    for one in counted:
        beside_it = {weight: _with_it(one, rises[weight], stable, capacity) for weight in sorted(rises)}
        with_it = ", ".join(f"{pods} at {format_weight(weight)}" for weight, (pods, _) in beside_it.items())
        least = min(kept for _, kept in beside_it.values())
        less = f", which keeps {least} of them" if least < (one.pods or 0) else ""
        yield f"With it: {one.name} {with_it}, beside {one.pods} of stable's{less}."
    if (warm := capacity.warm_up) is not None:
        yield f"Warm-up: each pod answers {warm.requests} requests before it counts, {warm.concurrency} at a time."
    if gives:
        kept = ", ".join(f"{rises[weight].stable} at {format_weight(weight)}" for weight in sorted(rises))
        yield f"Stable: pods {kept}."
    if not math.isinf(sum(minutes)):
        yield from _hours(steps, stable, minutes, gpus, capacity, counted)


def _refusal(
    stable: int, capacity: Capacity, beside: Sequence[Beside], none_given: NothingGiven | None
) -> str:
    """Why nothing would be scaled, with the reason of the status; empty where the plan can be met."""
    counted = [one for one in beside if one.pods is not None]
    if (wrong := infeasible(stable, capacity, [one.pods or 0 for one in counted])) is not None:
        return f"{Reason.CAPACITY_INFEASIBLE}: {wrong}"
    if wrong := _not_beside(stable, capacity, counted):
        return wrong
    if none_given is not None and none_given.certain:
        return f"{none_given.reason}: {none_given.why}: {none_given.fix}"
    return ""


def _doubts(capacity: Capacity, beside: Sequence[Beside], none_given: NothingGiven | None) -> Iterator[str]:
    """What may be otherwise than the figures say, for want of something that nobody said, or by a timeout."""
    if none_given is not None:
        what = f"{none_given.reason}: {none_given.why}: {none_given.fix}"
        yield f"Capacity: it may wait as {what}."
    if (short := short_drain(capacity, companions=bool(beside))) is not None:
        yield f"Drain: {short[0]}: {short[1]}."
    yield from _unknown(beside)


def _unknown(beside: Sequence[Beside]) -> Iterator[str]:
    for one in beside:
        if one.pods is None:
            yield (
                f"With it: {one.name}, as many per pod as stable's companion has: `--companion-pods` says how many "
                "pods that is, in the order of the roles."
            )


def _not_beside(stable: int, capacity: Capacity, beside: Sequence[Beside]) -> str:
    """Why a version with companions would wait."""
    sizes = [one.pods or 0 for one in beside]
    for one, pods in zip(beside, sizes, strict=True):
        if (wrong := companion_infeasible(stable, pods, capacity, sizes)) is not None:
            return f"{Reason.CAPACITY_INFEASIBLE}: {one.name}: {wrong}"
    return ""


def _kept(needed: int, stable: int, capacity: Capacity) -> int:
    """Pods of stable's beside so many of the canary's, of one kind: fewer only where there is no other room."""
    most = most_pods(stable, capacity)
    return stable if most is None else min(stable, max(most - needed, least_stable(stable, capacity)))


def _with_it(one: Beside, at: PodsAt, stable: int, capacity: Capacity) -> tuple[int, int]:
    """Pods of a companion, the canary's and stable's."""
    pods = one.pods or 0
    needed = companion_pods(at.canary, pods, stable)
    return needed, _kept(needed, pods, capacity)


def _hours(
    steps: Sequence[PodsAt],
    stable: int,
    minutes: Sequence[float],
    gpus: int,
    capacity: Capacity,
    beside: Sequence[Beside],
) -> Iterator[str]:
    """What the pods add up to, the loser's delay included; times that people or jobs decide are not in it."""
    delay = capacity.scale_down_delay.total_seconds() / 60.0
    lasting = [*zip(steps, minutes, strict=True), (steps[-1], delay)]
    known = bool(gpus) and all(one.gpus for one in beside)
    unit, times = ("GPU-hours", gpus) if known else ("pod-hours", 1)

    def held(canary: int, kept: int, *, whole: bool = False) -> int:
        """Of so many pods of both versions, with their companions, of which stable's are ``whole``."""
        found = (canary + kept) * times
        for one in beside:
            pods = one.pods or 0
            needed = companion_pods(canary, pods, stable)
            theirs = pods if whole else _kept(needed, pods, capacity)
            found += (needed + theirs) * (one.gpus if known else 1)
        return found

    hours = sum(taken for _, taken in lasting) / 60.0
    both = sum(held(one.canary, one.stable) * taken for one, taken in lasting) / 60.0
    more = both - held(0, stable) * hours
    whole = held(pods_for(FULL, stable, capacity), stable, whole=True) * hours
    yield (
        f"{unit[0].upper()}{unit[1:]}: {both:.3g} from the first weight to the end of scaleDown.delay, "
        f"{max(more, 0.0):.3g} of them beyond what stable has anyway (two whole fleets: {whole:.3g})."
    )
    full = _longest([(one.spare == 0, taken) for one, taken in lasting])
    if any(one.spare is not None for one in steps):
        without = f"for {spoken(full)} at the longest" if full else "at no time that is written down"
        yield f"Spare: no pod more would fit within maxSurge {without}."


def _longest(spans: Sequence[tuple[bool, float]]) -> float:
    longest = current = 0.0
    for holds, taken in spans:
        current = current + taken if holds else 0.0
        longest = max(longest, current)
    return longest
