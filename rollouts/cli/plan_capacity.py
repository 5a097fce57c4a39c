"""What a rollout that scales needs: pods of both versions at each step, GPU-hours, and how long nothing is spare."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollouts.cli.plan_table import spoken
from rollouts.engine.capacity import infeasible, least_stable, most_pods, pods_for
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import Capacity, RolloutSpec
from rollouts.engine.steps import weight_at
from rollouts.objects.accelerators import of_replica
from rollouts.objects.fields import dict_at
from rollouts.objects.pools import read_pool
from rollouts.objects.workloads import WORKLOADS, makes_pods_of, pod_labels
from rollouts.units import FULL, Weight, format_weight

__all__ = ["PodsAt", "accelerators_of", "capacity_lines", "pods_at_steps"]

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


def pods_at_steps(spec: RolloutSpec, stable: int) -> list[PodsAt]:
    """As the engine scales: the canary up with its weight, never down; stable down where there is no other room."""
    capacity = spec.canary.capacity
    assert capacity is not None
    found, canary, steps = list[PodsAt](), 0, spec.canary.steps
    most = most_pods(stable, capacity)
    for index in range(len(steps) + 1):
        weight = weight_at(steps, index)
        canary = max(canary, pods_for(weight, stable, capacity))
        kept = stable if most is None else min(stable, max(most - canary, least_stable(stable, capacity)))
        spare = None if most is None else max(most - canary - kept, 0)
        found.append(PodsAt(step=index, weight=weight, canary=canary, stable=kept, spare=spare))
    return found


def accelerators_of(rollout: Object, objects: Sequence[Object]) -> int:
    """Of the target's workload, found by its pool's selector among the objects; 0 where none of them says."""
    target = dict_at(rollout, "spec", "target", "pool").get("name")
    pools = [
        read_pool(dict(one)) for one in objects if one.get("kind") == "InferencePool" and _name(one) == target
    ]
    workloads = [one for one in objects if one.get("kind") in WORKLOADS]
    found = (of_replica(one) for one in workloads for pool in pools if makes_pods_of(pod_labels(one), pool))
    return next((count for count in found if count), 0)


def _name(obj: Object) -> Any:
    return dict_at(obj, "metadata").get("name")


def capacity_lines(spec: RolloutSpec, stable: int, minutes: Sequence[float], gpus: int) -> Iterator[str]:
    """``minutes`` of each step and of what follows (``minutes_of``); ``gpus`` of a pod, 0: not known."""
    capacity = spec.canary.capacity
    if capacity is None:
        return
    if (wrong := infeasible(stable, capacity)) is not None:
        yield f"Capacity: it would wait as {Reason.CAPACITY_INFEASIBLE}: {wrong}."
        return
    steps = pods_at_steps(spec, stable)
    rises = {one.weight: one for one in reversed(steps) if one.weight}
    pods = ", ".join(f"{rises[weight].canary} at {format_weight(weight)}" for weight in sorted(rises))
    most, least = max(one.canary + one.stable for one in steps), min(one.stable for one in steps)
    gives = (
        f": stable gives it pods as its share falls, and keeps {least} of {stable}" if least < stable else ""
    )
    yield f"Capacity: canary pods {pods}; with stable's {most} at most{gives}."
    if (warm := capacity.warm_up) is not None:
        yield f"Warm-up: each pod answers {warm.requests} requests before it counts, {warm.concurrency} at a time."
    if gives:
        kept = ", ".join(f"{rises[weight].stable} at {format_weight(weight)}" for weight in sorted(rises))
        yield f"Stable: pods {kept}."
    if not math.isinf(sum(minutes)):
        yield from _hours(steps, stable, minutes, gpus, capacity)


def _hours(
    steps: Sequence[PodsAt], stable: int, minutes: Sequence[float], gpus: int, capacity: Capacity
) -> Iterator[str]:
    """What the pods add up to, the loser's delay included; times that people or jobs decide are not in it."""
    delay = capacity.scale_down_delay.total_seconds() / 60.0
    lasting = [*zip(steps, minutes, strict=True), (steps[-1], delay)]
    both = sum((one.canary + one.stable) * taken for one, taken in lasting) / 60.0
    more = both - stable * sum(taken for _, taken in lasting) / 60.0
    whole = (stable + pods_for(FULL, stable, capacity)) * sum(taken for _, taken in lasting) / 60.0
    unit, times = ("GPU-hours", gpus) if gpus else ("pod-hours", 1)
    yield (
        f"{unit[0].upper()}{unit[1:]}: {both * times:.3g} from the first weight to the end of scaleDown.delay, "
        f"{max(more, 0.0) * times:.3g} of them beyond what stable has anyway (two whole fleets: {whole * times:.3g})."
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
