"""Fresh pods of the canary answer requests of our own before they count (design section 14, ``warmUp``).

A pod that is not warm gets no requests: our pickers spare it. What its counters show until it is warm is warm-up and
nothing else, and nobody's figures begin before. Who is in a hurry (``promoteFull``, a way back) waits for none of it.
"""

from __future__ import annotations

from rollouts.engine.actions import WarmPods
from rollouts.engine.draft import Draft
from rollouts.engine.observation import WorkloadView
from rollouts.engine.rollout_spec import Capacity
from rollouts.engine.shortage import is_quick, not_warmable

__all__ = ["warm_pods"]


def warm_pods(draft: Draft, policy: Capacity) -> None:
    """Ask for the warm-up of the canary's pods that lack it; without that in a plan all of them get requests."""
    canary = draft.current.canary.identity
    view = draft.obs.workloads.get(canary, WorkloadView())
    if policy.warm_up is None or not view.cold or is_quick(draft) or not_warmable(draft, canary) is not None:
        return
    draft.actions.append(WarmPods(identity=canary, warm_up=policy.warm_up))
