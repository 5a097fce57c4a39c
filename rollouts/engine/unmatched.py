"""Pods of a pool that match no variant: a split leaves them without requests (design section 15).

Before there is a split they serve, so that writing the first one is a person's decision; later they are named.
"""

from __future__ import annotations

from rollouts.engine.draft import Draft
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import VariantTraffic
from rollouts.engine.rollout_status import HoldReason, Phase
from rollouts.engine.transitions import Trigger
from rollouts.engine.versions import VARIANT_KIND, Revision

__all__ = ["name_unmatched", "served_instead", "waits_for_unmatched"]

_SHOWN = 4


def waits_for_unmatched(draft: Draft, stable: Revision) -> bool:
    """Paused, without a write, while pods serve that the first split would cut off; ``stable`` is what it serves."""
    traffic, unmatched = draft.obs.traffic, draft.obs.unmatched
    if not unmatched.pods or (traffic is not None and traffic.exists):
        return False
    hint = f", name them by stableHint: {unmatched.hint}" if unmatched.hint else ""
    message = (
        f"{_pods(draft)} serve, and match no variant: once the split gives all requests to {stable.identity.name}, "
        f"they serve nothing{_of_model(draft)}. Nothing is written: scale them down{hint}, or "
        f"`rollouts promote {draft.obs.name}` writes it all the same"
    )
    draft.set(stable=stable, hold=HoldReason.UNMATCHED_PODS, hold_message=message)
    draft.move(Phase.PAUSED, Trigger.SPLIT_AT_START, Reason.UNMATCHED_PODS, message)
    return True


def name_unmatched(draft: Draft) -> None:
    """Say which pods serve nothing, beside what else is said of the target."""
    traffic = draft.obs.traffic
    if draft.obs.unmatched.pods and traffic is not None and traffic.exists and draft.target_note is None:
        what = "serve, as all pods do now" if served_instead(draft) else f"serve nothing{_of_model(draft)}"
        message = f"{_pods(draft)} match no variant: they {what}"
        draft.target_note = (Reason.UNMATCHED_PODS, message)


def served_instead(draft: Draft) -> str:
    """Who gets the requests that no variant with weight has a Ready pod for, in words; empty where one has, or nobody.

    The picker then gives them to all Ready pods of the pool: refusing everybody would be worse.
    """
    stable, canary = draft.status.stable, draft.status.canary
    if stable is None or stable.identity.kind != VARIANT_KIND or draft.obs.ready(stable.identity):
        return ""
    if canary is not None and draft.status.weight.applied and draft.obs.ready(canary.identity):
        return ""
    aborted = canary.identity if canary is not None and draft.current.aborted is not None else None
    others = sorted((arm.name, arm) for arm, view in draft.obs.pools.items() if view.ready_endpoints)
    who = [f"aborted {name}" if arm == aborted else name for name, arm in others]
    if draft.obs.unmatched.pods:
        who.append("pods of no variant")
    if not who:
        return ""
    return f"THE PICKER GIVES REQUESTS TO ALL READY PODS of the pool, {', '.join(who)} among them, until it has one"


def _of_model(draft: Draft) -> str:
    """Which requests the split takes from them: not those for other models."""
    traffic = draft.obs.spec.traffic if draft.obs.spec is not None else None
    model = traffic.model_name if isinstance(traffic, VariantTraffic) else ""
    return f" for model {model}" if model else ""


def _pods(draft: Draft) -> str:
    unmatched = draft.obs.unmatched
    more = len(unmatched.pods) - _SHOWN
    names = ", ".join(unmatched.pods[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
    return f"{names} of InferencePool {unmatched.pool}"
