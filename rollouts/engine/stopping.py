"""Versions that are stopped and started as a whole, by a mark on their object: nobody scales their pods but their kind.

``scaling`` stops what lost, by the rules of every loser. Started again is what is to serve and what this Rollout itself
stopped; a stop of anybody else's stays. Both need no record of their own: the attempt, or stable, is stored before.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from rollouts.engine.actions import ScaleWorkload
from rollouts.engine.draft import Draft
from rollouts.engine.observation import Blocker, WorkloadView
from rollouts.engine.reasons import Reason
from rollouts.engine.versions import Identity, Revision

__all__ = ["loses_when_stopped", "not_started", "start_again", "with_refusal"]

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
    return stored.canary if same and waits and not held and not _would_serve(draft) else None


def _would_serve(draft: Draft) -> bool:
    """Whether the version would answer users the moment it runs: somebody gave it weight, which no gate allowed, and
    the write that takes that away is on its way, or refused."""
    current, traffic = draft.obs.status.current, draft.obs.traffic
    if current is None or current.adopted_split:
        return False  # what it has is known, and its first write is the first step's weight
    if traffic is None or draft.obs.refused is not None:
        return True
    return any(rule.entries.get(current.canary.identity.arm, 0) > 0 for rule in traffic.rules)


def not_started(draft: Draft, arm: Identity) -> str:
    """What keeps a stable that is stopped from its start, as the end of a message; empty where nothing is known to."""
    view = draft.obs.workloads.get(arm, WorkloadView())
    if not view.stops or view.replicas:
        return ""
    if view.problem is not None:
        return f"; it is not started: {view.problem.message}"
    return f"; the API server refuses to start it: {view.refused}" if view.refused else ""


def with_refusal(draft: Draft, arm: Identity, blocker: Blocker) -> Blocker:
    """Why a version that we stopped does not run yet, with what the API server says to its start."""
    view = draft.obs.workloads.get(arm, WorkloadView())
    if blocker.reason is not Reason.SERVICE_STARTING or not view.refused:
        return blocker
    return replace(blocker, message=f"{blocker.message}; the API server refuses that: {view.refused}")
