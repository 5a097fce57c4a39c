"""What must hold of members of a KServe group that the controller stops and starts. Judged by stored objects alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rollouts.objects import kinds
from tests.kit.faults.history import Record
from tests.kit.faults.objects import GROUP
from tests.kit.faults.simulation import Run

__all__ = ["wrong_stops"]

Object = dict[str, Any]

_STOP, _CONSENT = "serving.kserve.io/stop", "inferencerollouts.dev/managed-by"
_SETTLE = 30.0
_GRAIN = 1.0
"""Statuses have whole seconds."""


@dataclass(slots=True)
class _World:
    rollout: Object = field(default_factory=dict)
    ours: set[str] = field(default_factory=set)
    """Members whose stop the controller wrote, and nobody since."""
    idle: dict[str, float] = field(default_factory=dict)
    """Since when a member has had no weight."""

    @property
    def status(self) -> Object:
        return self.rollout.get("status") or {}

    @property
    def used(self) -> set[str]:
        """Members that serve, or are to."""
        over = self.status.get("aborted") or "deletionTimestamp" in self.rollout.get("metadata", {})
        canary = None if over else self.status.get("canary")
        return {arm["name"] for arm in (self.status.get("stable"), canary) if arm}

    @property
    def delay(self) -> float:
        if self.rollout.get("metadata", {}).get("deletionTimestamp"):
            return _SETTLE
        capacity = self.rollout["spec"]["strategy"]["canary"].get("capacity") or {}
        return max(float(capacity.get("scaleDown", {}).get("delay", "inf").rstrip("s")), _SETTLE)

    def take(self, record: Record) -> None:
        name, after = record.change.name, record.after
        if record.of(kinds.ROLLOUT) and name == "mymodel" and after:
            self.rollout = after
        elif record.of(kinds.LLM_SERVICE) and name == GROUP:
            for one in after.get("spec", {}).get("shares", ()):
                if one["weight"]:
                    self.idle.pop(one["name"], None)
                else:
                    self.idle.setdefault(one["name"], record.seconds)
        elif record.of(kinds.LLM_SERVICE) and _stop(record.before) != _stop(after):
            (self.ours.add if record.ours and _stop(after) else self.ours.discard)(name)


def _marks(obj: Object) -> Object:
    return (obj.get("metadata") or {}).get("annotations") or {}


def _stop(obj: Object) -> str:
    return str(_marks(obj).get(_STOP, ""))


def wrong_stops(run: Run) -> Iterator[str]:
    """Members stopped that serve, have weight, do not consent, or are not due; started ones that others stopped."""
    world = _World()
    for record in run.history.records:
        member = record.of(kinds.LLM_SERVICE) and record.change.name != GROUP
        if record.ours and member and record.before and _stop(record.before) != _stop(record.after):
            judge = _stopped if _stop(record.after) == "true" else _started
            for wrong in judge(world, record):
                yield f"{record.change.name} at {record.seconds:g} s: {wrong}"
        world.take(record)


def _stopped(world: _World, record: Record) -> Iterator[str]:
    name = record.change.name
    if record.after["spec"]["router"]["route"]["weight"]:
        yield "stopped with weight"
    if name in world.used:
        yield "stopped although it serves, or is to"
    if _CONSENT not in _marks(record.before):
        yield "stopped without consent"
    if not any(one["name"] == name and one.get("decided") for one in world.status.get("scaleDowns") or ()):
        yield "stopped before that was stored"
    idle = record.seconds - world.idle.get(name, 0.0)
    if idle < world.delay - _GRAIN:
        yield f"stopped {idle:g} s after its weight fell, and {world.delay:g} s were asked for"


def _started(world: _World, record: Record) -> Iterator[str]:
    name = record.change.name
    if name not in world.ours:
        yield "started although somebody else had stopped it"
    if name not in world.used:
        yield "started although nobody asks for it"
