"""Adapters on the pods: loaded where they are missing, unloaded when their time is over.

Only adapters with a source are ours to load. What is stable or a candidate is kept on every Ready pod, new ones
included; what lost is taken off after the rollback window, so that going back within it needs no loading, or at once
when another source of the same name is wanted: pods and traffic tell adapters apart by name only. An unload follows
the stored record and the live weights, never this plan's intent: a crash before the record is written would leave
requests with an adapter that is gone. Which pods still answer requests for it is looked at when it is carried out.
"""

from __future__ import annotations

from datetime import timedelta

from rollouts.engine.actions import EventType, LoadAdapter, UnloadAdapter
from rollouts.engine.draft import Draft
from rollouts.engine.observation import Blocker, PoolView
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_status import HistoryEntry, Phase
from rollouts.engine.versions import VARIANT_KIND, Identity

__all__ = ["content_blocker", "serve_adapters", "strangers", "unserved"]

_SHOWN = 4
_SOON = timedelta(seconds=1)
_LATER = timedelta(seconds=5)


def serve_adapters(draft: Draft) -> None:
    """Ask for what has to be loaded and unloaded, and say which pods lack the candidate."""
    if draft.obs.spec is None or draft.obs.problems:
        return
    present = _present(draft)
    for identity in present:
        view = draft.obs.pools.get(identity)
        if identity.source and view is not None and view.lacking:
            draft.actions.append(LoadAdapter(identity=identity))
    kept = {*present, *_stored(draft)}
    carrying = _carrying(draft)
    for entry in draft.status.history:
        if entry.revision.identity not in kept and entry.revision.identity.arm not in carrying:
            _retire(draft, entry, kept)
    _name_missing(draft)
    _name_effectless(draft)
    _name_strangers(draft)


def _present(draft: Draft) -> list[Identity]:
    """What is to be on every Ready pod: both arms, or the first target, which is stable once a pod has it.

    Nothing is loaded for a Rollout that may not write its traffic object.
    """
    found = [revision.identity for revision in draft.status.arms]
    target = draft.obs.target
    waits = draft.status.phase is Phase.WAITING
    return found if found or target is None or not waits else [target]


def _stored(draft: Draft) -> set[Identity]:
    """What the stored record names."""
    return {revision.identity for revision in draft.obs.status.arms}


def _carrying(draft: Draft) -> frozenset[Identity]:
    """Arms that the live traffic object sends requests to."""
    return draft.obs.traffic.carrying if draft.obs.traffic is not None else frozenset()


def _retire(draft: Draft, entry: HistoryEntry, kept: set[Identity]) -> None:
    identity = entry.revision.identity
    view = draft.obs.pools.get(identity)
    if not identity.source or view is None or not view.loaded:
        return
    names = {other.arm for other in kept if other != identity}
    end = (entry.stable_until or entry.at) + draft.spec.rollback_window
    if identity.arm not in names and draft.now < end:
        draft.wake_at(end)
        return
    kept.add(identity)  # the history may name it twice
    draft.actions.append(UnloadAdapter(identity=identity))


def content_blocker(draft: Draft, identity: Identity) -> Blocker | None:
    """Why a name must not be taken for an adapter yet: what its pods have under it, and what the probe saw."""
    view = draft.obs.pools.get(identity)
    stored = draft.obs.status.canary
    if stored is not None and stored.identity != identity and _share_an_entry(stored.identity, identity):
        draft.wake(_SOON)
        message = f"the end of {stored.label} is written down first: it has the same name"
        variant = identity.kind == VARIANT_KIND
        reason = Reason.TARGET_NOT_READY if variant else Reason.ADAPTER_CONTENT_MISMATCH
        return Blocker(reason=reason, message=message)
    if view is None or not draft.spec.target.must_differ:
        return None
    if view.without_effect:
        return Blocker(reason=Reason.ADAPTER_WITHOUT_EFFECT, message=_without_effect(identity, view))
    if view.uncompared:
        message = (
            f"adapter {identity.name} has not been compared with its base on {_shown(view.uncompared)}: "
            "target.adapter.probe.mustDiffer asks for it"
        )
        return Blocker(reason=Reason.ADAPTER_UNPROVEN, message=message)
    return None


def _share_an_entry(one: Identity, other: Identity) -> bool:
    """Whether traffic calls both by one name."""
    both_variants = one.kind == other.kind == VARIANT_KIND
    return one.arm == other.arm or (both_variants and one.name == other.name)


def unserved(draft: Draft, identity: Identity) -> Blocker | None:
    """Why a name cannot be called stable: its pool is not there, or no Ready pod confirms that it serves its source."""
    view = draft.obs.pools.get(identity, PoolView(identity=identity, exists=False))
    lacks = (*view.path.problems, *view.blockers) if identity.kind == VARIANT_KIND else ()
    for blocker in lacks if view.exists else view.blockers:
        draft.wake(_LATER)  # pods and pickers are asked in the background
        return blocker
    if identity.kind == VARIANT_KIND:
        return None
    if view.mismatched:
        return Blocker(reason=Reason.ADAPTER_CONTENT_MISMATCH, message=strangers(identity, view))
    if view.confirmed or not identity.source:
        return None
    message = (
        f"no Ready pod says that it has {identity.name} from {identity.source}"
        f"{f': it is being loaded on {_shown(view.lacking)}' if view.lacking else ''}"
    )
    return Blocker(reason=Reason.ADAPTER_MISSING, message=message)


def _shown(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def strangers(identity: Identity, view: PoolView) -> str:
    """Which pods have something else under an adapter's name, in words."""
    source = f"{identity.name} from {identity.source}" if identity.source else identity.name
    return (
        f"{_shown(view.mismatched)} under the name of {source}: requests that reach other content get its answers; "
        "unload it there, or give the new adapter a name of its own"
    )


def _without_effect(identity: Identity, view: PoolView) -> str:
    return (
        f"adapter {identity.name} answers a short prompt as its base does on {_shown(view.without_effect)}: "
        "was it trained, and saved whole? target.adapter.probe.mustDiffer refuses such adapters"
    )


def _name_missing(draft: Draft) -> None:
    """A running candidate that some Ready pods lack: they take none of its requests."""
    canary = draft.status.canary
    view = draft.obs.pools.get(canary.identity) if canary is not None else None
    if canary is None or view is None or not view.lacking or draft.status.started_at is None:
        return
    message = (
        f"{canary.identity.name} is not loaded on {_shown(view.lacking)}: they take none of its requests"
    )
    if draft.target_problem is None:
        draft.target_problem = (Reason.ADAPTER_MISSING, message)
    if draft.target_problem[0] == Reason.ADAPTER_MISSING:
        _tell_once(draft, Reason.ADAPTER_MISSING, message)


def _tell_once(draft: Draft, reason: Reason, message: str) -> None:
    """An Event, unless the condition said so before."""
    told = any(
        old.type == "TargetReady" and old.reason == reason and old.message == message
        for old in draft.obs.status.conditions
    )
    if not told:
        draft.event(EventType.WARNING, reason, message)


def _name_effectless(draft: Draft) -> None:
    """A candidate that answers as its base does: a warning, where ``mustDiffer`` does not refuse it."""
    canary = draft.status.canary
    view = draft.obs.pools.get(canary.identity) if canary is not None else None
    if canary is None or view is None or not view.without_effect or draft.target_problem is not None:
        return
    message = _without_effect(canary.identity, view)
    draft.target_note = (Reason.ADAPTER_WITHOUT_EFFECT, message)
    _tell_once(draft, Reason.ADAPTER_WITHOUT_EFFECT, message)


def _name_strangers(draft: Draft) -> None:
    """Pods that have something else under the name of an arm that serves."""
    for revision in draft.status.arms:
        view = draft.obs.pools.get(revision.identity)
        if (
            view is None
            or not view.mismatched
            or not (draft.status.running or revision is draft.status.stable)
        ):
            continue
        message = strangers(revision.identity, view)
        draft.target_problem = (Reason.ADAPTER_CONTENT_MISMATCH, message)
        _tell_once(draft, Reason.ADAPTER_CONTENT_MISMATCH, message)
        return
