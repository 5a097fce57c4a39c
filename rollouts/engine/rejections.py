"""A command that was Rejected, where people look: at the end of ``status.message``, until the next command or move."""

from __future__ import annotations

from datetime import datetime

from rollouts.engine.draft import Draft
from rollouts.engine.rollout_status import CommandResult, RolloutStatus

__all__ = ["plain_message", "show_rejection"]

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


def _moved_on(status: RolloutStatus, since: datetime) -> bool:
    """Whether the rollout did something after that moment."""
    current = status.current
    moments = (
        *((current.started_at, current.step_started_at, current.bake_started_at) if current else ()),
        status.aborted.at if status.aborted is not None else None,
        status.target_wait.since if status.target_wait is not None else None,
        status.history[-1].at if status.history else None,
    )
    return any(moment is not None and moment > since for moment in moments)


def show_rejection(draft: Draft) -> None:
    """Put the last command's rejection behind the message that the plan came to, until the rollout moves on.

    It has no age: at rest nothing is written, and nothing is decided by what was printed before.
    """
    text, last = _rejection(draft.status), draft.status.last_command
    if text and last is not None and not _moved_on(draft.status, last.at):
        draft.set(message=f"{draft.status.message[:_REST]}{text}")
