"""A command that was Rejected, where people look: at the end of ``status.message``, for ten minutes or more."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from rollouts.engine.draft import Draft
from rollouts.engine.types import CommandResult, RolloutStatus

__all__ = ["REJECTION_SHOWN", "plain_message", "show_rejection"]

REJECTION_SHOWN = timedelta(minutes=10)
"""Long enough for whoever clicked to see what came of it; the Event and ``status.lastCommand`` stay."""

_LONGEST = 384
"""Characters of the rejection: with the rest they stay below what a status keeps of a message."""
_REST = 640


def _rejection(status: RolloutStatus) -> str:
    last = status.last_command
    if last is None or last.result is not CommandResult.REJECTED:
        return ""
    return f" [{last.action or 'command'} was rejected: {last.message}]"[:_LONGEST]


def plain_message(status: RolloutStatus) -> str:
    """The message without what a rejected command put behind it."""
    return status.message.removesuffix(_rejection(status))


def show_rejection(draft: Draft) -> None:
    """Put the last command's rejection behind the message that the plan came to, until its time is over.

    That its time is over is no reason to write: it goes with the next change of the status.
    """
    text, last, stored = _rejection(draft.status), draft.status.last_command, draft.obs.status
    if not text or last is None:
        return
    changes = replace(draft.status, message=stored.message) != stored
    if draft.now >= last.at + REJECTION_SHOWN and (changes or not stored.message.endswith(text)):
        return
    draft.set(message=f"{draft.status.message[:_REST]}{text}")
