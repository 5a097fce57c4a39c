"""Commands: one annotation, ``{"action","revision","step","at","by"}``, bound to a revision hash.

A command is new when its raw text differs from ``status.lastCommand.raw``. It is looked at once, ends Done
or Rejected with a reason, and is never queued: what was meant for one state must not act on another.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum

__all__ = ["MAX_RAW", "Command", "CommandAction", "MalformedCommand", "parse_command"]

MAX_RAW = 2048
"""Bytes of the annotation that are looked at: ten times the longest command that our clients write."""

_MIN_HASH = 8


class CommandAction(Enum):
    """What a person may ask for."""

    PROMOTE = "promote"
    PROMOTE_FULL = "promoteFull"
    ABORT = "abort"
    RETRY = "retry"
    PAUSE = "pause"
    RESUME = "resume"


class MalformedCommand(Exception):
    """The annotation is no command; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A parsed command. ``by`` is a claim, not an identity: anyone who may patch the Rollout may write it."""

    action: CommandAction
    revision: str
    step: int | None
    by: str

    def fits(self, full_hash: str) -> bool:
        """Whether the command names this revision: the whole hash or at least its first eight digits."""
        return len(self.revision) >= _MIN_HASH and full_hash.startswith(self.revision)


def parse_command(raw: str) -> Command:
    """Parse the annotation's text. Raises MalformedCommand."""
    if len(raw) > MAX_RAW:
        raise MalformedCommand(f"the command is longer than {MAX_RAW} characters")
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        raise MalformedCommand("the command is not JSON") from None
    if not isinstance(data, dict):
        raise MalformedCommand("the command is not a JSON object")
    try:
        action = CommandAction(data.get("action"))
    except ValueError:
        known = ", ".join(item.value for item in CommandAction)
        raise MalformedCommand(f"unknown action; known are {known}") from None
    revision, step, by = data.get("revision"), data.get("step"), data.get("by", "")
    if not isinstance(revision, str) or len(revision) < _MIN_HASH:
        raise MalformedCommand("the command names no revision (at least 8 digits of its hash)")
    if step is not None and (not isinstance(step, int) or isinstance(step, bool)):
        raise MalformedCommand("step is not a whole number")
    return Command(action=action, revision=revision, step=step, by=by if isinstance(by, str) else "")
