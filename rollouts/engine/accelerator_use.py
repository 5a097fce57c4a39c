"""Accelerators that the pods of an attempt hold, added up over its time (design section 14, rule 6).

What is stored is how many are held since when, and what those before added up to: the status changes when the number
does, and a controller that starts anew goes on with the number that it finds. What it did not see happen is wrong by
no more than the time until its first look.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rollouts.engine.attempt import CompanionCapacity
from rollouts.engine.companions import companions_in_use
from rollouts.engine.draft import Draft
from rollouts.engine.rollout_status import AcceleratorUse, RolloutStatus
from rollouts.engine.versions import Identity

__all__ = ["count_accelerators", "spent"]


def count_accelerators(draft: Draft) -> None:
    """What is held from now on; from the first pod that an attempt wants until all that it owes has been scaled."""
    status, use = draft.status, draft.status.accelerators
    current = status.current if status.aborted is None else None
    wants = current is not None and current.capacity is not None and current.capacity.wanted > 0
    over = not (wants or status.scale_downs or status.stable_scale is not None)
    if over and use is None:
        return
    views = draft.obs.workloads
    companions = companions_in_use(draft)
    arms = {arm.identity for arm in status.arms} | {one.identity for one in status.scale_downs}
    arms |= companions.keys()
    if not over and not arms <= views.keys() | _kept(status):
        return  # of somebody's pods nothing is known: what was held is held, and nobody counts from a part of it
    held = 0 if over else sum(views[arm].accelerators for arm in arms if arm in views)
    if wants and (use is None or use.attempt != status.attempt):
        own = [draft.stable.identity, *(one.stable for one in _companions(status))]
        use = AcceleratorUse(attempt=status.attempt, own=sum(views[arm].accelerators for arm in own))
    if use is None:
        return
    if held != use.held:
        seconds, extra = spent(use, draft.now)
        since = draft.now if held else None
        use = replace(use, seconds=seconds, extra_seconds=extra, held=held, since=since)
    draft.set(accelerators=use if use.held or use.seconds else None)


def _kept(status: RolloutStatus) -> set[Identity]:
    """Arms whose pods are found by what the status has kept, also without a pool: of these no view is no pods."""
    found = {one.identity for one in status.scale_downs if one.selector}
    current = status.current
    if current is not None and current.capacity is not None and current.capacity.selector:
        found.add(current.canary.identity)
    return found | {one.canary for one in _companions(status) if one.selector}


def _companions(status: RolloutStatus) -> tuple[CompanionCapacity, ...]:
    current = status.current
    return current.capacity.companions if current is not None and current.capacity is not None else ()


def spent(use: AcceleratorUse, now: datetime) -> tuple[int, int]:
    """Accelerator seconds until now: all of them, and those beyond what stable held at the start."""
    passed = max((now - use.since).total_seconds(), 0.0) if use.since is not None else 0.0
    beyond = max(use.held - use.own, 0)
    return use.seconds + round(use.held * passed), use.extra_seconds + round(beyond * passed)
