"""Adapters on the pods: loaded where they are missing, unloaded when their time is over.

Only adapters with a source are ours to load. What is stable or a candidate is kept on every Ready pod, new ones
included; what lost is taken off after the rollback window, so that going back within it needs no loading. An
unload follows the stored record and the live weights, never this plan's intent: a crash before the record is
written would leave requests with an adapter that is gone.
"""

from __future__ import annotations

from rollouts.engine.actions import EventType, LoadAdapter, UnloadAdapter
from rollouts.engine.draft import Draft
from rollouts.engine.types import HistoryEntry, Identity

__all__ = ["serve_adapters"]

_SHOWN = 4


def serve_adapters(draft: Draft) -> None:
    """Ask for what has to be loaded and unloaded, and say which pods lack the candidate."""
    if draft.obs.spec is None or draft.obs.problems:
        return
    revisions = (draft.status.stable, draft.status.canary)
    present = [revision.identity for revision in revisions if revision is not None]
    for identity in present:
        view = draft.obs.pools.get(identity)
        if identity.source and view is not None and view.lacking:
            draft.actions.append(LoadAdapter(identity=identity))
    arms = {identity.arm for identity in present} | _in_use(draft)
    for entry in draft.status.history:
        if entry.revision.identity.arm not in arms:
            _retire(draft, entry, arms)
    _name_missing(draft)


def _in_use(draft: Draft) -> set[Identity]:
    """What the stored record names, and what the live traffic object sends requests to."""
    stored = (draft.obs.status.stable, draft.obs.status.canary)
    named = {revision.identity.arm for revision in stored if revision is not None}
    rules = draft.obs.traffic.rules if draft.obs.traffic is not None else ()
    return named | {arm for rule in rules for arm, weight in rule.entries.items() if weight > 0}


def _retire(draft: Draft, entry: HistoryEntry, arms: set[Identity]) -> None:
    identity = entry.revision.identity
    view = draft.obs.pools.get(identity)
    if not identity.source or view is None or not view.loaded:
        return
    end = (entry.stable_until or entry.at) + draft.spec.rollback_window
    if draft.now < end:
        draft.wake_at(end)
        return
    arms.add(identity.arm)  # the history may name it twice
    draft.actions.append(UnloadAdapter(identity=identity))


def _name_missing(draft: Draft) -> None:
    """A running candidate that some Ready pods lack: they take none of its requests."""
    canary = draft.status.canary
    view = draft.obs.pools.get(canary.identity) if canary is not None else None
    if canary is None or view is None or not view.lacking or draft.status.started_at is None:
        return
    names = ", ".join(view.lacking[:_SHOWN])
    more = f" and {len(view.lacking) - _SHOWN} more" if len(view.lacking) > _SHOWN else ""
    message = f"{canary.identity.name} is not loaded on {names}{more}: they take none of its requests"
    if draft.target_problem is None:
        draft.target_problem = ("AdapterMissing", message)
    told = any(
        old.type == "TargetReady" and old.reason == "AdapterMissing" and old.message == message
        for old in draft.obs.status.conditions
    )
    if not told and draft.target_problem[0] == "AdapterMissing":
        draft.event(EventType.WARNING, "AdapterMissing", message)
