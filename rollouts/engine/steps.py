"""Arithmetic of the step list: which weight is in force at a step, and where an edited list goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from math import ceil

from rollouts.engine.rollout_spec import (
    AnalysisStep,
    ApproveStep,
    HeaderRouteStep,
    JobStep,
    PauseStep,
    Step,
    WeightStep,
)
from rollouts.engine.stamps import stamp
from rollouts.units import FULL, ZERO, Weight, format_weight

__all__ = [
    "Landing",
    "describe",
    "first_weight",
    "format_seconds",
    "header_routes_at",
    "landing",
    "required_endpoints",
    "steps_hash",
    "weight_at",
]


def steps_hash(steps: Sequence[Step]) -> str:
    """A stamp (``stamps.py``) that changes when any step changes."""
    return stamp(tuple(steps))


def weight_at(steps: Sequence[Step], index: int) -> Weight:
    """The canary weight that step ``index`` (0-based) runs under; 100 % past the last step."""
    if index >= len(steps):
        return FULL
    for step in reversed(steps[: index + 1]):
        if isinstance(step, WeightStep):
            return step.weight
    return ZERO


def first_weight(steps: Sequence[Step]) -> Weight:
    """The first weight above zero that the attempt will ask for."""
    for step in steps:
        if isinstance(step, WeightStep) and step.weight > ZERO:
            return step.weight
    return FULL


def header_routes_at(steps: Sequence[Step], index: int) -> tuple[HeaderRouteStep, ...]:
    """Header routes in force at a step: later steps of a name replace earlier ones, no match removes."""
    routes: dict[str, HeaderRouteStep] = {}
    for step in steps[: index + 1]:
        if isinstance(step, HeaderRouteStep):
            routes.pop(step.name, None)
            if step.match:
                routes[step.name] = step
    return tuple(routes.values()) if index < len(steps) else ()


@dataclass(frozen=True, slots=True)
class Landing:
    """Where a changed step list goes on. ``cap`` keeps the edit itself from raising the weight."""

    index: int
    cap: Weight | None


def landing(steps: Sequence[Step], current: Weight) -> Landing:
    """The first weight step at or above ``current``, so that its gates run again under ``current``.

    Without such a step the last weight step: weight may fall by an edit, never rise. At weight 0, and without
    any weight step, the list starts over.
    """
    if current <= ZERO:
        return Landing(0, None)
    last = 0
    for index, step in enumerate(steps):
        if isinstance(step, WeightStep):
            last = index
            if step.weight >= current:
                return Landing(index, current)
    return Landing(last, current)


def required_endpoints(weight: Weight, stable_at_start: int, ratio: float) -> int:
    """Ready canary endpoints that weight w needs: max(1, ceil(w x stable x ratio))."""
    if weight <= ZERO:
        return 0
    share = Fraction(weight, FULL) * stable_at_start * Fraction(ratio).limit_denominator(10_000)
    return max(1, ceil(share))


def format_seconds(duration: timedelta) -> str:
    """A duration as people write it: ``1h30m``, ``45s``."""
    rest, parts = int(duration.total_seconds()), []
    for unit, size in (("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def describe(step: Step | None) -> str:
    """A step in words, for messages."""
    match step:
        case WeightStep():
            return f"set weight {format_weight(step.weight)}"
        case PauseStep(duration=None):
            return f"pause until promoted{f' or approved by {step.approve}' if step.approve else ''}"
        case PauseStep():
            until = f", or until approved by {step.approve}" if step.approve else ""
            return f"pause {format_seconds(step.duration or timedelta(0))}{until}"
        case ApproveStep():
            return f"approval by {step.webhook}"
        case AnalysisStep():
            return "analysis"
        case JobStep():
            return "job"
        case HeaderRouteStep():
            return f"header route {step.name}"
        case _:
            return "promotion"
