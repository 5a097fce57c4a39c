"""Deadlines whose clocks stand now and then, and the one of a target that never becomes Ready.

A clock stands while somebody or something else holds the rollout up: ``standing`` is the one place that says so, and
where further reasons belong (freezes, turns, ``dependsOn``, approvals). When it runs again,
every moment that a deadline counts from is moved by the time that it stood, in the same write of the status in which
``standing_since`` goes: a crash in between changes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from rollouts.engine.draft import Draft
from rollouts.engine.ending import abort
from rollouts.engine.observation import Blocker
from rollouts.engine.reasons import Reason
from rollouts.engine.revision import revision_of, target_identity
from rollouts.engine.rollout_spec import HeaderRouteStep, WeightStep
from rollouts.engine.rollout_status import FOR_OTHERS, Phase, TargetWait, WaitingFor
from rollouts.engine.stamps import is_foreign, is_same, stamp
from rollouts.engine.starting import new_attempt, start_blocker
from rollouts.engine.steps import format_seconds
from rollouts.engine.versions import Identity
from rollouts.engine.watching import STANDING
from rollouts.engine.windows import outside

__all__ = ["keep_clocks", "missed_target", "standing"]

_TURNS = frozenset({Reason.POOL_IN_ROLLOUT})
"""Blockers that are another Rollout's turn: nothing that the target could do about them."""

_WAITING = (Phase.WAITING, Phase.PAUSED, Phase.INVALID)


def standing(draft: Draft) -> bool:
    """Whether no deadline runs at the moment."""
    status = draft.status
    if status.hold is not None or draft.spec.paused or status.waiting_for in STANDING:
        return True
    if status.waiting_for is WaitingFor.DRAIN:
        return True
    if status.started_at is None and status.waiting_for in FOR_OTHERS:
        return True
    under_way = status.canary is not None and status.aborted is None
    if (under_way or status.target_wait is not None) and outside(draft):
        return True
    new = status.started_at is None and status.stable is not None
    return new and any(blocker.reason in _TURNS for blocker in draft.obs.blockers)


def keep_clocks(draft: Draft) -> None:
    """Note when the clocks came to stand, and move what they count from when they run again.

    Called at the beginning and at the end of each plan, so that a hold is stored together with its clock.
    """
    if draft.obs.spec is None:
        return
    since = draft.status.standing_since
    if standing(draft):
        if since is None:
            draft.set(standing_since=draft.now)
        return
    if since is None:
        return
    stood = max(draft.now - since, timedelta(0))

    def later(moment: datetime | None) -> datetime | None:
        # What was set anew meanwhile is not moved into the future.
        return None if moment is None else min(moment + stood, max(draft.now, moment))

    current, wait = draft.status.current, draft.status.target_wait
    draft.set(
        standing_since=None,
        target_wait=None if wait is None else replace(wait, since=min(wait.since + stood, draft.now)),
    )
    if current is None:
        return
    draft.set_current(unready_since=later(current.unready_since))
    if isinstance(draft.step, WeightStep | HeaderRouteStep) or draft.step is None:
        draft.set_current(step_started_at=later(current.step_started_at))


def missed_target(draft: Draft) -> bool:
    """A new target has not had longer than ``targetDeadline`` to become Ready, or ends as any other attempt does.

    It counts from when the target was first seen, and only where a stable version serves (design section 13).
    """
    if draft.obs.spec is None:
        return False  # how long it may take is not known
    keep_clocks(draft)
    blocker = _waits_for(draft)
    if blocker is None:
        draft.set(target_wait=None)
        return False
    asked = _fingerprint(draft)
    wait = draft.status.target_wait
    if wait is None or not (is_same(wait.target, asked) or is_foreign(wait.target)):
        wait = TargetWait(target=asked, since=draft.now)
    draft.set(target_wait=replace(wait, target=asked))
    limit = draft.spec.canary.target_deadline
    if limit is None or standing(draft) or draft.obs.status.phase not in _WAITING:
        return False
    if draft.now - wait.since < limit:
        draft.wake_at(wait.since + limit)
        return False
    _give_up(draft, f"it did not become Ready within {format_seconds(limit)}: {blocker.message}")
    return True


def _give_up(draft: Draft, why: str) -> None:
    if draft.status.current is None:
        _resolve(draft)
    draft.set(target_wait=None)
    abort(draft, Reason.TARGET_DEADLINE_EXCEEDED, why)


def _waits_for(draft: Draft) -> Blocker | None:
    """What a target that is to replace a stable version lacks; None for anything else."""
    status = draft.status
    if status.stable is None or status.aborted is not None or status.started_at is not None:
        return None
    if status.canary is not None:
        return start_blocker(draft, status.canary)
    if draft.strategy_problem is not None:
        return None  # how long it may take is not known
    target = target_identity(draft.obs, draft.spec)
    if target == status.stable.identity:
        return None
    if target is not None:
        return start_blocker(draft, revision_of(target, draft.spec.target.revision))
    return draft.obs.target_blocker or Blocker(
        reason=Reason.POOL_MISSING, message=f"{draft.spec.target.name} does not exist"
    )


def _resolve(draft: Draft) -> None:
    """An abort is bound to a revision: that of a target which no API group has is guessed to be stable's group."""
    stable, target = draft.stable.identity, draft.spec.target
    identity = target_identity(draft.obs, draft.spec) or Identity(
        kind=stable.kind, group=target.group or stable.group, name=target.name, source=target.source
    )
    new_attempt(draft, revision_of(identity, target.revision))


def _fingerprint(draft: Draft) -> str:
    """What the clock was started for. Discovery may change what it resolves to, but not what is asked for."""
    return stamp(replace(draft.spec.target, must_differ=False))
