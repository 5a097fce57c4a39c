"""The steps of a stored Rollout in words, without the models that judge a spec: they cost more than the command."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from rollouts.engine.rollout_spec import (
    AnalysisStep,
    ApproveStep,
    HeaderRouteStep,
    JobStep,
    PauseStep,
    Step,
    WeightStep,
)
from rollouts.engine.steps import describe
from rollouts.objects.fields import dict_at, list_of, map_of, text_at, text_of
from rollouts.units import parse_duration, parse_weight

__all__ = ["is_gate", "shared_strategy", "step_words", "steps_of"]


def shared_strategy(obj: Mapping[str, Any]) -> str:
    """``KIND NAME`` of what ``strategy.canaryFrom`` names; empty where it names nothing."""
    named = dict_at(obj, "spec", "strategy", "canaryFrom")
    name = text_of(named.get("name"))
    return f"{text_of(named.get('kind')) or 'RolloutStrategy'} {name}" if name else ""


def steps_of(obj: Mapping[str, Any]) -> Sequence[Mapping[str, Any]] | None:
    """The raw steps that a Rollout goes by: its own, or those that its attempt has pinned; None: nobody knows them."""
    canary = dict_at(obj, "spec", "strategy", "canary")
    named, pinned = shared_strategy(obj), dict_at(obj, "status", "strategy")
    if named and "steps" not in canary:
        if named != f"{text_of(pinned.get('kind'))} {text_of(pinned.get('name'))}":
            return None
        try:
            canary = map_of(json.loads(text_of(pinned.get("content"))))
        except (ValueError, RecursionError):
            return None
    return [map_of(step) for step in list_of(canary.get("steps"))]


def is_gate(step: Mapping[str, Any]) -> bool:
    """Whether it has a run of its own, or reads the attempt's evidence."""
    return "analysis" in step


def step_words(step: Mapping[str, Any]) -> str:
    """A raw step as every message names it; its field's name where it cannot be read."""
    try:
        found = _step(step)
    except (ValueError, TypeError):
        found = None
    return describe(found) if found is not None else ", ".join(map(str, step)) or "?"


def _step(step: Mapping[str, Any]) -> Step | None:
    match step:
        case {"setWeight": weight}:
            return WeightStep(weight=parse_weight(weight))
        case {"pause": pause}:
            return PauseStep(
                duration=_time(map_of(pause)), approve=text_at(step, "pause", "approve", "webhook")
            )
        case {"approve": asked}:
            return ApproveStep(webhook=text_of(map_of(asked).get("webhook")))
        case {"analysis": _}:
            return AnalysisStep(fingerprint="")
        case {"job": _}:
            return JobStep(fingerprint="")
        case {"setHeaderRoute": route}:
            return HeaderRouteStep(name=text_of(map_of(route).get("name")), match=())
    return None


def _time(pause: Mapping[str, Any]) -> timedelta | None:
    duration = pause.get("duration")
    return None if duration is None else parse_duration(duration)
