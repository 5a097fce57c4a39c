"""Who is scaled (design section 14): the canary up before its weight, what lost down after it has none.

This is the order of a plan. Stable is scaled where ``minStable`` lets it give pods (``lending``); else it becomes ours
to scale when it has lost (``losers``).
"""

from __future__ import annotations

from rollouts.engine.draft import Draft
from rollouts.engine.drains import forget_drains
from rollouts.engine.lending import needs_back, settle_stable
from rollouts.engine.losers import leave, note_losers, note_weights
from rollouts.engine.observation import WorkloadView
from rollouts.engine.scaling_down import scale_down
from rollouts.engine.scaling_up import lacks_room, scale_up
from rollouts.engine.stopping import start_again
from rollouts.engine.warming import warm_pods

__all__ = ["keep_capacity"]


def keep_capacity(draft: Draft) -> None:
    """What this plan does about workloads; behind all that decides about weights and phases."""
    if draft.status.stable is None:
        return
    forget_drains(draft)
    start_again(draft)
    if draft.obs.spec is None or draft.obs.problems or _is_hidden(draft):
        note_losers(draft)  # nothing is scaled by a policy that nobody can read, and nothing is forgotten
        note_weights(draft)
        settle_stable(draft, None)
        return
    policy, loser = draft.spec.canary.capacity, draft.spec.canary.loser
    if loser is None:
        _settle_without(draft)
        return
    note_losers(draft)
    settle_stable(draft, policy)
    if policy is not None and draft.status.current is not None and draft.current.aborted is None:
        scale_up(draft, policy)
        warm_pods(draft, policy)
    if not draft.spec.paused or needs_back(draft.status):
        scale_down(draft, loser, hurry=lacks_room(draft))


def _settle_without(draft: Draft) -> None:
    """Capacity was taken out: nothing is scaled but to give stable, when the attempt is over, its pods back."""
    if draft.status.stable_scale is not None and draft.status.running is None:
        note_losers(draft)
        note_weights(draft)
    else:
        _forget_losers(draft)
    if draft.status.current is not None:
        draft.set_current(capacity=None)
    settle_stable(draft, None)
    if draft.status.stable_scale is None:
        _forget_losers(draft)


def _forget_losers(draft: Draft) -> None:
    for one in draft.status.scale_downs:
        view = draft.obs.workloads.get(one.identity, WorkloadView())
        if view.pods and (one.since is not None or not view.stops):  # else nobody may ever have asked for it
            leave(draft, one.identity, "strategy.canary.capacity was taken out")
    draft.set(scale_downs=())


def _is_hidden(draft: Draft) -> bool:
    """Whether the policy may be in a shared strategy that is missing, or cannot be used."""
    return draft.strategy_problem is not None and draft.spec.canary.loser is None
