"""Versions that are stopped and started as a whole, by a mark on their object: nobody scales their pods but their kind.

``scaling`` stops what lost, by the rules of every loser. Started again is what is to serve and what this Rollout itself
stopped; a stop of anybody else's stays. Both need no record of their own: the attempt, or stable, is stored before.
"""

from __future__ import annotations

from datetime import timedelta

from rollouts.engine.actions import ScaleWorkload
from rollouts.engine.draft import Draft
from rollouts.engine.observation import WorkloadView
from rollouts.engine.reasons import Reason
from rollouts.engine.versions import Identity, Revision

__all__ = ["loses_when_stopped", "start_again"]

_RECHECK = timedelta(seconds=5)


def loses_when_stopped(draft: Draft, canary: Identity) -> bool:
    """Whether the loser of an attempt at this version may be to be stopped: the spec says so, or nobody can read it."""
    if not draft.obs.workloads.get(canary, WorkloadView()).stops:
        return False
    readable = draft.obs.spec is not None and not draft.obs.problems and draft.strategy_problem is None
    return not readable or draft.spec.canary.stop is not None


def start_again(draft: Draft) -> None:
    """Start stable, and the version of an attempt that is to begin, where this Rollout has stopped them."""
    stored = draft.obs.status
    for arm in (stored.stable, _coming(draft)):
        if arm is None or arm not in draft.status.arms:
            continue
        view = draft.obs.workloads.get(arm.identity, WorkloadView())
        if view.stopped_by_us and view.problem is None:
            draft.wake(_RECHECK)  # the write may fail
            draft.actions.append(
                ScaleWorkload(identity=arm.identity, replicas=1, resource_version=view.resource_version)
            )


def _coming(draft: Draft) -> Revision | None:
    """The version of an attempt that waits for nothing but its start, and is stored."""
    stored, status = draft.obs.status, draft.status
    same = stored.attempt == status.attempt and stored.aborted is None and status.aborted is None
    lacking = draft.target_problem
    waits = lacking is not None and lacking[0] is Reason.SERVICE_STARTING and status.waiting_for is None
    held = status.hold is not None or draft.obs.spec is None or draft.spec.paused
    return stored.canary if same and waits and not held else None
