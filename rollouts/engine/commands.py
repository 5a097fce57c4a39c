"""Commands: one annotation, ``{"action","revision","attempt","step","at","by"}``, bound to a revision and an attempt.

A command is new when its raw text differs from ``status.lastCommand.raw``. It is looked at once, ends Done
or Rejected with a reason, and is never queued: what was meant for one state must not act on another.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

__all__ = ["MAX_RAW", "Command", "CommandAction", "MalformedCommand", "parse_command"]

MAX_RAW = 2048
"""Bytes of the annotation that are looked at: ten times the longest command that our clients write."""

_MIN_HASH = 8
_LONGEST_TIME = 40


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
    attempt: int | None
    step: int | None
    at: datetime | None
    """When it was given, by the clock of whoever gave it; None where it does not say so in RFC 3339."""
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
    revision, by = data.get("revision"), data.get("by", "")
    if not isinstance(revision, str) or len(revision) < _MIN_HASH:
        raise MalformedCommand("the command names no revision (at least 8 digits of its hash)")
    return Command(
        action=action,
        revision=revision,
        attempt=_number(data, "attempt"),
        step=_number(data, "step"),
        at=_moment(data.get("at")),
        by=by if isinstance(by, str) else "",
    )


def _number(data: dict[str, Any], field: str) -> int | None:
    value = data.get(field)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise MalformedCommand(f"{field} is not a whole number")
    return value


def _moment(value: Any) -> datetime | None:
    """RFC 3339 with a zone; what follows a ``#`` only makes two commands of one second differ."""
    text = value.partition("#")[0] if isinstance(value, str) else ""
    try:
        moment = datetime.fromisoformat(text) if len(text) <= _LONGEST_TIME else None
    except ValueError:
        return None
    return moment if moment is not None and moment.tzinfo is not None else None
