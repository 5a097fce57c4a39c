"""What CI waits for: that a Rollout asks for its change, that the controller has seen it, and that it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from rollouts.api.parsing import COMMIT_ANNOTATION, ParsedRollout, parse_rollout
from rollouts.carriers import asked_in
from rollouts.engine.rollout_spec import PauseStep
from rollouts.engine.rollout_status import Phase
from rollouts.objects.fields import map_of, metadata_of, text_of

__all__ = ["WaitOutcome", "WaitedFor", "outcome_of", "wanted_of"]

_SHORTEST_SHA = 7
"""Git's own shortest abbreviation."""

Object = Mapping[str, Any]


class WaitOutcome(Enum):
    """How a wait stands; the value is the exit status, as `status --help` lists them."""

    HEALTHY = 0
    STOPPED = 1
    """Aborted or Invalid."""
    RUNNING = 4
    PAUSED = 5
    OVERTAKEN = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitedFor:
    """What has to be asked for by the Rollout before its end counts; empty fields are not looked at."""

    target: str = ""
    revision: str = ""
    commit: str = ""

    def asked_for(self, obj: Object) -> bool:
        """Whether the Rollout asks for it, as far as its spec and annotations say."""
        found = wanted_of(obj)
        return (
            self.target in ("", found.target)
            and self.revision in ("", found.revision)
            and (not self.commit or _same_commit(self.commit, found.commit))
        )

    def __str__(self) -> str:
        named = (("target", self.target), ("revision", self.revision), ("commit", self.commit))
        return ", ".join(f"{what} {value}" for what, value in named if value) or "nothing"


def wanted_of(obj: Object) -> WaitedFor:
    """What a Rollout asks for."""
    target = map_of(map_of(obj.get("spec")).get("target"))
    annotations = map_of(metadata_of(obj).get("annotations"))
    return WaitedFor(
        target=next((name for _, name in asked_in(target)), ""),
        revision=text_of(target.get("revision")),
        commit=text_of(annotations.get(COMMIT_ANNOTATION)),
    )


def _same_commit(one: str, other: str) -> bool:
    """Equal, or one is the other's abbreviation."""
    short, long = sorted((one.lower(), other.lower()), key=len)
    return short == long or (len(short) >= _SHORTEST_SHA and long.startswith(short))


def outcome_of(obj: Object) -> WaitOutcome:
    """How the Rollout stands with what it asks for now."""
    parsed = parse_rollout(obj)
    status = parsed.status
    if status.observed_generation < parsed.generation:
        return WaitOutcome.RUNNING
    if status.phase in (Phase.ABORTED, Phase.INVALID):
        return WaitOutcome.STOPPED
    if status.phase is Phase.PAUSED and _waits_for_a_person(parsed):
        return WaitOutcome.PAUSED
    name = parsed.spec.target.name if parsed.spec is not None else None
    stable = status.stable.identity.name if status.stable is not None else None
    return WaitOutcome.HEALTHY if status.phase is Phase.HEALTHY and stable == name else WaitOutcome.RUNNING


def _waits_for_a_person(parsed: ParsedRollout) -> bool:
    """A pause with a duration ends by itself, unless something else holds the Rollout."""
    status = parsed.status
    if parsed.spec is None or parsed.spec.paused or status.hold is not None:
        return True
    steps = parsed.known_steps
    step = steps[status.current_step] if status.current_step < len(steps) else None
    return not (isinstance(step, PauseStep) and step.duration is not None)
