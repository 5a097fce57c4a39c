"""Reading a status that contradicts itself.

The engine never writes one, but a status can be scribbled on, and fields that cannot be read are as if they had
never been written. What is left is read as far as it makes sense; the phase then becomes Invalid, from which the
transition table leads everywhere.
"""

from __future__ import annotations

from dataclasses import replace

from rollouts.engine.rollout_status import HoldReason, Phase, RolloutStatus

__all__ = ["mended"]

_KNOWN_AT_START = (HoldReason.SPLIT_AT_START, HoldReason.UNMATCHED_PODS)
"""Holds at first sight, with a stable version that has been found."""
_AT_START = (*_KNOWN_AT_START, HoldReason.AMBIGUOUS_START)


def mended(status: RolloutStatus) -> RolloutStatus:
    """``status``, unless its parts exclude each other."""
    if status.stable is None:
        # Without a stable version this is a Rollout that nobody has looked at, whatever else is said.
        status = replace(status, current=None)
    known = status.stable is not None
    if (status.hold is HoldReason.AMBIGUOUS_START and known) or (
        status.hold in _KNOWN_AT_START and (not known or status.current is not None)
    ):
        status = replace(status, hold=None, hold_message="")
    return status if _coherent(status) else replace(status, phase=Phase.INVALID)


def _coherent(status: RolloutStatus) -> bool:
    if status.hold in _AT_START and status.phase is not Phase.PAUSED:
        return False
    return {
        Phase.NEW: status.stable is None,
        Phase.HEALTHY: status.stable is not None and status.current is None,
        Phase.PROGRESSING: status.running is not None,
        Phase.WAITING: status.running is None,
        Phase.ABORTED: status.aborted is not None,
    }.get(status.phase, True)
