"""Phases and what moves a Rollout between them, as data.

``plan`` may leave a phase only along a row of ``TRANSITIONS``: a move that is not listed is a bug and raises.
The state diagram of the documentation is generated from this table (``mermaid``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from rollouts.engine.rollout_status import Phase

__all__ = ["PERFORMERS", "TRANSITIONS", "IllegalTransition", "Transition", "Trigger", "check", "mermaid"]


class IllegalTransition(Exception):
    """A move that no row of the table allows: a bug in the engine, never in a user's object."""


class Trigger(Enum):
    """Why a Rollout changes its phase. The value is what the diagram shows."""

    TARGET_IS_STABLE = "the target is stable"
    NEW_TARGET = "a new target"
    SPLIT_AT_START = "first seen with a split or tied route"
    TARGET_READY = "target ready"
    WAIT = "a step is under way"
    PAUSE_STEP = "pause step"
    HOLD = "held: by command, spec, gate, override or deadline"
    RELEASED = "promote, resume or pause over"
    STEPS_DONE = "all steps done and baked"
    ABORT = "gate failed, crashes, deadline, command or canary pool deleted"
    RETRY = "retry"
    SPEC_INVALID = "spec or claim invalid"
    SPEC_VALID = "spec valid again"
    TRAFFIC_MISSING = "traffic object missing"
    NOT_SERVING = "nobody serves, or traffic is not on stable"


@dataclass(frozen=True, slots=True)
class Transition:
    """One row: from any of ``sources``, by any of ``triggers``, to ``to``. Staying is always allowed."""

    sources: tuple[Phase, ...]
    to: Phase
    triggers: tuple[Trigger, ...]


PERFORMERS: Mapping[Trigger, tuple[str, ...]] = {
    Trigger.TARGET_IS_STABLE: ("starting.serve_stable",),
    Trigger.NEW_TARGET: (
        "starting._await_strategy",
        "planning._unresolved",
        "planning._waiting",
        "starting._first_stable",
        "starting.start_attempt",
        "starting.wait_for_target",
    ),
    Trigger.SPLIT_AT_START: (
        "planning._split_at_start",
        "starting._first_stable",
        "starting.first_install",
        "unmatched.waits_for_unmatched",
    ),
    Trigger.TARGET_READY: ("starting.wait_for_target",),
    Trigger.WAIT: ("planning._show_obeyed", "progressing._go_on"),
    Trigger.PAUSE_STEP: ("progressing._approve", "progressing._pause"),
    Trigger.HOLD: ("planning._show_obeyed", "planning._waiting", "progressing.progress"),
    Trigger.RELEASED: ("planning._show_obeyed", "planning._waiting", "progressing._go_on"),
    Trigger.STEPS_DONE: ("ending.promote",),
    Trigger.ABORT: ("ending.abort", "planning._aborted"),
    Trigger.RETRY: ("commanding._retry",),
    Trigger.SPEC_INVALID: ("planning._claimed_by_other", "planning._invalid", "starting.first_install"),
    Trigger.SPEC_VALID: ("planning._aborted", "progressing._go_on"),
    Trigger.TRAFFIC_MISSING: ("planning._healthy", "starting.first_install"),
    Trigger.NOT_SERVING: ("starting.serve_stable",),
}
"""The functions of the engine that move a Rollout by a trigger; no other does."""


_NEW, _HEALTHY, _PROGRESSING = Phase.NEW, Phase.HEALTHY, Phase.PROGRESSING
_PAUSED, _WAITING, _ABORTED, _INVALID = Phase.PAUSED, Phase.WAITING, Phase.ABORTED, Phase.INVALID

TRANSITIONS: tuple[Transition, ...] = (
    Transition((_NEW, _WAITING), _HEALTHY, (Trigger.TARGET_IS_STABLE,)),
    Transition((_PROGRESSING, _PAUSED), _HEALTHY, (Trigger.STEPS_DONE, Trigger.TARGET_IS_STABLE)),
    Transition((_ABORTED,), _HEALTHY, (Trigger.TARGET_IS_STABLE,)),
    Transition((_NEW, _HEALTHY, _PROGRESSING, _PAUSED, _ABORTED), _WAITING, (Trigger.NEW_TARGET,)),
    Transition((_ABORTED,), _WAITING, (Trigger.RETRY,)),
    Transition((_NEW, _HEALTHY), _WAITING, (Trigger.TRAFFIC_MISSING,)),
    Transition((_NEW, _HEALTHY, _PROGRESSING, _PAUSED, _ABORTED), _WAITING, (Trigger.NOT_SERVING,)),
    Transition((_NEW, _HEALTHY, _PAUSED, _WAITING, _ABORTED), _PROGRESSING, (Trigger.TARGET_READY,)),
    Transition((_PAUSED,), _PROGRESSING, (Trigger.RELEASED,)),
    Transition((_PROGRESSING,), _PAUSED, (Trigger.PAUSE_STEP, Trigger.HOLD)),
    Transition((_NEW, _WAITING), _PAUSED, (Trigger.SPLIT_AT_START, Trigger.HOLD)),
    Transition((_PAUSED,), _WAITING, (Trigger.RELEASED, Trigger.TRAFFIC_MISSING)),
    Transition((_PROGRESSING, _PAUSED, _WAITING), _ABORTED, (Trigger.ABORT,)),
    Transition(
        (_NEW, _HEALTHY, _PROGRESSING, _PAUSED, _WAITING, _ABORTED), _INVALID, (Trigger.SPEC_INVALID,)
    ),
    Transition((_INVALID,), _HEALTHY, (Trigger.SPEC_VALID, Trigger.TARGET_IS_STABLE, Trigger.STEPS_DONE)),
    Transition((_INVALID,), _PROGRESSING, (Trigger.SPEC_VALID, Trigger.TARGET_READY)),
    Transition(
        (_INVALID,),
        _PAUSED,
        (Trigger.SPEC_VALID, Trigger.HOLD, Trigger.PAUSE_STEP, Trigger.SPLIT_AT_START),
    ),
    Transition(
        (_INVALID,),
        _WAITING,
        (
            Trigger.SPEC_VALID,
            Trigger.NEW_TARGET,
            Trigger.RETRY,
            Trigger.TRAFFIC_MISSING,
            Trigger.NOT_SERVING,
        ),
    ),
    Transition((_INVALID,), _ABORTED, (Trigger.SPEC_VALID, Trigger.ABORT)),
)


def check(source: Phase, to: Phase, trigger: Trigger) -> None:
    """Raise IllegalTransition unless the table allows the move."""
    if source is to:
        return
    for row in TRANSITIONS:
        if source in row.sources and row.to is to and trigger in row.triggers:
            return
    raise IllegalTransition(f"{source.name} -> {to.name} by {trigger.name} is not in the transition table")


def mermaid() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2"]
    for row in TRANSITIONS:
        label = "; ".join(trigger.value for trigger in row.triggers)
        for source in row.sources:
            start = source.value or "[*]"
            lines.append(f"    {start} --> {row.to.value}: {label}")
    return "\n".join(lines) + "\n"
