"""Freezes: while one holds no weight rises and no attempt begins; everything else goes on (design section 18.5)."""

from __future__ import annotations

from datetime import timedelta

from rollouts.engine.draft import Draft, Said
from rollouts.engine.reasons import Reason

__all__ = ["frozen", "waits_for_thaw"]


_RECHECK = timedelta(seconds=30)
"""How often a Rollout looks again while freezes are not known: no watch tells when they are, if there are none."""


def frozen(draft: Draft) -> bool:
    """Whether a freeze holds. ``promote --full`` and a way back by the rollback window are not held."""
    view, current = draft.obs.freeze, draft.status.current
    if view is None or (current is not None and current.skip_gates):
        return False
    if view.since is not None and draft.now < view.since:
        draft.wake_at(view.since)  # deadlines stand from that moment on
        return False
    if view.until is not None:
        draft.wake_at(view.until)
    elif not view.name:
        draft.wake(_RECHECK)
    return True


def waits_for_thaw(draft: Draft) -> Said | None:
    """Reason and message while a freeze holds."""
    if not frozen(draft):
        return None
    view = draft.obs.freeze
    assert view is not None
    if not view.name:
        return Reason.FROZEN, f"nobody knows whether a freeze holds, so no weight rises: {view.reason}"
    until = f" until {view.until:%Y-%m-%dT%H:%M:%SZ}" if view.until is not None else ""
    return (
        Reason.FROZEN,
        f"frozen{until} by RolloutFreeze {view.name}: {view.reason}; "
        f"`rollouts promote {draft.obs.name} --full` does not wait for it",
    )
