"""What is to be told to whom: notices that a change of a status owes, stored in that very write.

A notice stays in the status until it was delivered, so that a crash at any moment repeats a delivery and loses none.
Who may be told, and how, is the shell's; here is only when.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from rollouts.engine.rollout_status import Notice, Phase, RolloutStatus

__all__ = ["NOTICES_LIMIT", "NoticeTrigger", "owed"]

NOTICES_LIMIT = 16
"""Of one Rollout: four receivers for each of four changes. With 512 characters each, far below an object's limit."""
_MESSAGE = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeTrigger:
    """Fires when a Rollout comes into one of ``phases`` with one of ``reasons``; without ``reasons``, with any.

    It fires again when the phase was left, in another attempt, and, where it has reasons, for another of them.
    """

    name: str
    phases: frozenset[Phase]
    reasons: frozenset[str] = frozenset()

    def _occurrence(self, status: RolloutStatus) -> tuple[object, ...] | None:
        if status.phase not in self.phases or (self.reasons and status.reason not in self.reasons):
            return None
        return status.phase, status.attempt, status.reason if self.reasons else ""

    def fires(self, before: RolloutStatus, after: RolloutStatus) -> bool:
        """Whether ``after`` is something new."""
        now = self._occurrence(after)
        return now is not None and now != self._occurrence(before)


def owed(
    before: RolloutStatus,
    after: RolloutStatus,
    asked: Iterable[tuple[NoticeTrigger, str]],
    delivered: Collection[str],
    *,
    uid: str,
    now: datetime,
) -> RolloutStatus:
    """``after`` with the notices that are still owed: those of ``before`` less ``delivered``, and new ones.

    ``asked`` are triggers with names of receivers. Beyond ``NOTICES_LIMIT`` the oldest go.
    """
    notices = [notice for notice in before.notices if notice.id not in delivered]
    for trigger, receiver in asked:
        if trigger.fires(before, after):
            notices.append(_notice(trigger, receiver, after, uid, now.replace(microsecond=0)))
    kept = tuple(notices[-NOTICES_LIMIT:])
    return after if kept == after.notices else replace(after, notices=kept)


def _notice(trigger: NoticeTrigger, receiver: str, status: RolloutStatus, uid: str, now: datetime) -> Notice:
    parts = (uid, status.attempt, status.phase.value, status.reason, now.isoformat(), trigger.name, receiver)
    digest = hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()
    return Notice(
        id=digest[:32],
        trigger=trigger.name,
        receiver=receiver,
        phase=status.phase.value,
        reason=status.reason,
        message=status.message[:_MESSAGE],
        attempt=status.attempt,
        at=now,
        stable=status.stable.label if status.stable is not None else "",
        canary=status.canary.label if status.canary is not None else "",
    )
