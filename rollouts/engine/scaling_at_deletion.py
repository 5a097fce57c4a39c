"""A Rollout that scales is being deleted: stable gets back what it gave, and what lost goes first, without delay."""

from __future__ import annotations

from rollouts.engine.converging import show_live
from rollouts.engine.draft import Draft
from rollouts.engine.drains import forget_drains
from rollouts.engine.losers import leave, owe
from rollouts.engine.returning import pods_missed
from rollouts.engine.rollout_spec import OnDelete
from rollouts.engine.scaling_down import scale_down
from rollouts.engine.stopping import loses_when_stopped
from rollouts.engine.taking_back import leave_stable, take_back

__all__ = ["RELEASE_ANNOTATION", "finish_scaling", "owes_scaling", "return_stable"]

RELEASE_ANNOTATION = "inferencerollouts.dev/release"
"""``now``: take the finalizer off, whatever the traffic object and the workloads say."""

_HASTE = "its namespace ends, or the controller is being stopped"


def owes_scaling(draft: Draft) -> bool:
    """Whether a workload is to be scaled down before the Rollout may go."""
    status, current = draft.status, draft.status.current
    if status.scale_downs or status.stable_scale is not None:
        return True
    if current is None or current.aborted is not None:
        return False
    return current.capacity is not None or (draft.obs.spec is not None and draft.spec.canary.stop is not None)


def return_stable(draft: Draft) -> None:
    """The Rollout is being deleted: stable gets the pods back that it gave, before and while traffic returns to it."""
    if draft.status.stable_scale is not None:
        forget_drains(draft)
        take_back(draft)


def finish_scaling(draft: Draft) -> bool:
    """The Rollout is being deleted: what lost is scaled down first, without delay. True while that is not done."""
    spec = draft.obs.spec
    keeps = draft.obs.on_delete is OnDelete.KEEP_TRAFFIC
    if keeps:
        leave_stable(draft, "onDelete KeepTraffic leaves all as it is")
    elif draft.obs.in_haste:
        leave_stable(draft, _HASTE)
    elif draft.status.stable_scale is not None:
        _say_stable(draft)
        return True
    if keeps or spec is None or draft.obs.problems or spec.canary.loser is None:
        if draft.strategy_problem is not None:
            for one in draft.status.scale_downs:
                leave(draft, one.identity, draft.strategy_problem.message)
        return False
    _owe_canary(draft)
    if draft.obs.in_haste:
        for one in draft.status.scale_downs:
            leave(draft, one.identity, _HASTE)
        return False
    scale_down(draft, spec.canary.loser, hurry=True)
    if not draft.status.scale_downs:
        return False
    show_live(draft)  # a crash may have come between the last write of traffic and its status
    draft.set(message="; ".join(one.message for one in draft.status.scale_downs if one.message))
    return True


def _owe_canary(draft: Draft) -> None:
    """The attempt ends with its Rollout: once, since what is owed takes its place in the status."""
    current = draft.status.current
    if current is None:
        return
    scaled, identity = current.capacity is not None, current.canary.identity
    known = any(one.identity == identity for one in draft.status.scale_downs)
    stopped = loses_when_stopped(draft, identity) and not known
    if current.aborted is None and (scaled or stopped):
        owe(draft, identity, current)
    draft.set_current(capacity=None)


def _say_stable(draft: Draft) -> None:
    lent = draft.status.stable_scale
    assert lent is not None
    show_live(draft)
    why = pods_missed(draft, lent)
    draft.set(
        message=(
            f"{lent.identity.name} gets its {lent.full} replicas back first{f' ({why})' if why else ''}; annotate "
            f"{RELEASE_ANNOTATION}: now to delete the Rollout all the same"
        )
    )
