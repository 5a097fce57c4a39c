"""``dependsOn``: an attempt begins when others are Healthy and stayed so (design section 18.5).

Once begun it goes on, whatever becomes of them. What is not known of another Rollout is never taken for good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from itertools import islice

from rollouts.engine.draft import Draft, Said
from rollouts.engine.observation import DependencyState, DependencyView
from rollouts.engine.reasons import Reason
from rollouts.engine.steps import format_seconds

__all__ = ["COMMIT_SETTLES", "cycle_from", "waits_for_dependencies"]

COMMIT_SETTLES = timedelta(seconds=30)
"""The files of one commit are applied one after the other: whoever goes first may not have heard of its change yet, and
be Healthy at what it was. Tools apply a commit within seconds; sync waves of minutes need waves in that order, too."""
_MOST_EDGES = 256
"""Entries of ``dependsOn`` that are looked at for a cycle: no tangle of others makes one look expensive."""

_WORST = (
    DependencyState.CYCLE,
    DependencyState.ABORTED,
    DependencyState.MISSING,
    DependencyState.UNHEALTHY,
)
_REASONS = {
    DependencyState.CYCLE: Reason.DEPENDENCY_CYCLE,
    DependencyState.ABORTED: Reason.DEPENDENCY_ABORTED,
    DependencyState.MISSING: Reason.DEPENDENCY_MISSING,
    DependencyState.UNHEALTHY: Reason.WAITING_FOR_DEPENDENCY,
}


def waits_for_dependencies(draft: Draft) -> Said | None:
    """Reason and message while an attempt whose target is ready has to wait for others.

    A way back by the rollback window and ``promote --full`` wait for nobody.
    """
    wanted, views = draft.spec.depends_on, draft.obs.dependencies
    if not wanted or draft.current.skip_gates:
        return None
    if draft.current.seen_at is None or draft.current.seen_at > draft.now:  # later: the clock was set back
        draft.set_current(seen_at=draft.now)
    if len(views) != len(wanted):
        return Reason.WAITING_FOR_DEPENDENCY, "nothing is known yet of the Rollouts that it depends on"
    for state in _WORST:
        for view in views:
            if view.state is state:
                return _REASONS[state], _said(draft, view)
    return _soaks(draft)


def _said(draft: Draft, view: DependencyView) -> str:
    full = f"`rollouts promote {draft.obs.name} --full` does not wait for it"
    match view.state:
        case DependencyState.CYCLE:
            return f"{view.detail} depend on each other: take one of these dependsOn out"
        case DependencyState.ABORTED:
            return (
                f"{view.name}, which goes first, was aborted{view.detail}: push a fix there or `retry` it, and this "
                f"goes on when it is Healthy; or revert this one, too; {full}"
            )
        case DependencyState.MISSING:
            return f"{view.detail}; {full}"
        case _:
            soak = f", and has to stay so for {format_seconds(view.soak)}" if view.soak else ""
            return f"{view.name} goes first and is {view.detail}: it has to be Healthy{soak}; {full}"


def _soaks(draft: Draft) -> Said | None:
    """All are Healthy: until when they have to stay so."""
    since = draft.current.seen_at or draft.now
    views, ends = draft.obs.dependencies, dict[str, datetime]()
    for name, end in [(view.name, view.since + view.soak) for view in views if view.since is not None]:
        ends[name] = max(end, ends.get(name, end))  # named twice: the longer soak counts
    late = max(ends, key=lambda name: (ends[name], name), default="")
    if late and draft.now < ends[late]:
        draft.wake_at(ends[late])
        return Reason.WAITING_FOR_DEPENDENCY, (
            f"{late} goes first and is Healthy: it has to stay so until {ends[late]:%Y-%m-%dT%H:%M:%SZ}; "
            f"`rollouts promote {draft.obs.name} --full` does not wait for it"
        )
    if draft.now < since + COMMIT_SETTLES:
        draft.wake_at(since + COMMIT_SETTLES)
        names = ", ".join(view.name for view in draft.obs.dependencies)
        return Reason.WAITING_FOR_DEPENDENCY, (
            f"{names} is Healthy, and has {format_seconds(COMMIT_SETTLES)} to hear of a change in the same commit"
        )
    return None


def cycle_from(start: str, edges: Callable[[str], Iterable[str]]) -> tuple[str, ...]:
    """The way from ``start`` back to itself, both ends included; empty where there is none.

    At most 256 edges are looked at: beyond that a cycle is not found, and its members wait without that word.
    """
    came_from, ahead, left = dict[str, str](), [start], _MOST_EDGES
    while ahead and left:
        at = ahead.pop(0)
        for one in islice(edges(at), left):
            left -= 1
            if one == start:
                way = [at]
                while way[-1] != start:
                    way.append(came_from[way[-1]])
                return (*reversed(way), start)
            if one not in came_from:
                came_from[one] = at
                ahead.append(one)
    return ()
