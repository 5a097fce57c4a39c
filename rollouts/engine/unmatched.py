"""Pods of a pool that match no variant: a split leaves them without requests (design section 15).

Before there is a split they serve, so that writing the first one is a person's decision; later they are named.
"""

from __future__ import annotations

from rollouts.engine.draft import Draft
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_status import HoldReason, Phase
from rollouts.engine.transitions import Trigger
from rollouts.engine.versions import Revision

__all__ = ["name_unmatched", "waits_for_unmatched"]

_SHOWN = 4


def waits_for_unmatched(draft: Draft, stable: Revision) -> bool:
    """Paused, without a write, while pods serve that the first split would cut off; ``stable`` is what it serves."""
    traffic, unmatched = draft.obs.traffic, draft.obs.unmatched
    if not unmatched.pods or (traffic is not None and traffic.exists):
        return False
    hint = f", name them by stableHint: {unmatched.hint}" if unmatched.hint else ""
    message = (
        f"{_pods(draft)} serve, and match no variant: once the split gives all requests to {stable.identity.name}, "
        f"they serve nothing. Nothing is written: scale them down{hint}, or `rollouts promote {draft.obs.name}` "
        "writes it all the same"
    )
    draft.set(stable=stable, hold=HoldReason.UNMATCHED_PODS, hold_message=message)
    draft.move(Phase.PAUSED, Trigger.SPLIT_AT_START, Reason.UNMATCHED_PODS, message)
    return True


def name_unmatched(draft: Draft) -> None:
    """Say which pods serve nothing, beside what else is said of the target."""
    traffic = draft.obs.traffic
    if draft.obs.unmatched.pods and traffic is not None and traffic.exists and draft.target_note is None:
        message = f"{_pods(draft)} match no variant: they serve nothing"
        draft.target_note = (Reason.UNMATCHED_PODS, message)


def _pods(draft: Draft) -> str:
    unmatched = draft.obs.unmatched
    more = len(unmatched.pods) - _SHOWN
    names = ", ".join(unmatched.pods[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
    return f"{names} of InferencePool {unmatched.pool}"
