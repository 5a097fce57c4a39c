"""Windows: outside of them no weight rises, and deadlines stand still; everything else goes on (design section 18.5).

When a window is open is the shell's to know, which can read schedules and time zones.
"""

from __future__ import annotations

from rollouts.engine.converging import step_weight
from rollouts.engine.draft import Draft, Said
from rollouts.engine.freezes import frozen, waits_for_thaw
from rollouts.engine.reasons import Reason
from rollouts.units import ZERO, format_weight

__all__ = ["outside", "shut_out", "waits_for_window"]


def outside(draft: Draft) -> bool:
    """Whether no weight may rise now, be it for a freeze or for want of a window.

    ``promote --full`` and a way back by the rollback window are not held.
    """
    if frozen(draft):
        return True
    current = draft.status.current
    if not draft.spec.canary.windows or (current is not None and current.skip_gates):
        return False
    view = draft.obs.window
    if view is None:
        return True
    if draft.now < view.opens_at:
        draft.wake_at(view.opens_at)
        return True
    draft.wake_at(view.closes_at)
    return draft.now >= view.closes_at


def shut_out(draft: Draft) -> Said | None:
    """Reason and message while the step asks for more than there is, and a freeze has to end or a window to open."""
    weight, present = step_weight(draft.status, draft.spec), draft.status.weight.applied or ZERO
    if weight <= present or not outside(draft):
        return None
    held = waits_for_thaw(draft)
    if held is not None:
        return held[0], f"{draft.where()}: {held[1]}; weight stays at {format_weight(present)}"
    return (
        Reason.OUTSIDE_WINDOW,
        f"{draft.where()}: outside of its windows, weight stays at {format_weight(present)}; {_opens(draft)}",
    )


def waits_for_window(draft: Draft) -> Said | None:
    """Reason and message of an attempt that lacks pods, which are not made outside of its windows."""
    if not outside(draft):
        return None
    return Reason.OUTSIDE_WINDOW, f"outside of its windows no pods are made for it; {_opens(draft)}"


def _opens(draft: Draft) -> str:
    view = draft.obs.window
    when = "when one opens is not known yet"
    if view is not None and draft.now < view.opens_at:
        local = f" ({view.local})" if view.local else ""
        when = f"the next one opens at {view.opens_at:%Y-%m-%dT%H:%M:%SZ}{local}"
    return f"{when}; `rollouts promote {draft.obs.name} --full` does not wait for it"
