"""What a Rollout may know of those that it depends on: whether each is Healthy, since when, and no more.

A Rollout of another namespace has to consent (``references.DEPENDENTS_ANNOTATION``); without that nobody learns
whether it exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from rollouts.api.parsing import ParsedRollout
from rollouts.api.references import DEPENDENTS_ANNOTATION, dependencies, permits
from rollouts.api.status import read_status
from rollouts.controller.caches import Caches
from rollouts.engine.dependencies import cycle_from
from rollouts.engine.observation import DependencyState, DependencyView
from rollouts.engine.rollout_spec import Dependency
from rollouts.engine.rollout_status import Phase, RolloutStatus
from rollouts.runtime.objects import Object, ObjectKey

__all__ = ["dependency_views"]

_MAY_WAIT = (DependencyState.UNHEALTHY, DependencyState.ABORTED)
"""Only who is in one of these can wait for the one that asks."""
_NAME_SHOWN = 80
"""Characters of a name in a message that has three."""


def dependency_views(caches: Caches, parsed: ParsedRollout) -> tuple[DependencyView, ...]:
    """One for each that the spec names, in its order."""
    if parsed.spec is None:
        return ()
    views = tuple(_view(caches, parsed.namespace, one) for one in parsed.spec.depends_on)
    own = f"{parsed.namespace}/{parsed.name}"
    names = [f"{one.namespace or parsed.namespace}/{one.name}" for one in parsed.spec.depends_on]
    waiting = [name for name, view in zip(names, views, strict=True) if view.state in _MAY_WAIT]
    if not waiting:
        return views
    # Beside itself only what consents is followed, as everywhere.
    cycle = cycle_from(own, lambda name: waiting if name == own else _edges(caches, name))
    return tuple(
        replace(view, state=DependencyState.CYCLE, detail=_told(cycle)) if name in cycle[1:2] else view
        for name, view in zip(names, views, strict=True)
    )


def _told(cycle: tuple[str, ...]) -> str:
    """The Rollout itself and its neighbour, which consents to it; the others have not, and are counted."""
    named = [name if len(name) <= _NAME_SHOWN else f"{name[:_NAME_SHOWN]}..." for name in cycle]
    others = [f"{len(cycle) - 3} more"] if len(cycle) > 3 else []
    return " -> ".join([*named[: min(2, len(cycle) - 1)], *others, named[-1]])


def _view(caches: Caches, own: str, wanted: Dependency) -> DependencyView:
    key = ObjectKey(wanted.namespace or own, wanted.name)
    shown = wanted.name if key.namespace == own else f"{key.namespace}/{key.name}"
    found = caches.rollouts.get(key)
    if found is None or found["metadata"].get("deletionTimestamp") or not permits(found, own):
        text = _absent(caches, key, own, shown)
        return DependencyView(name=shown, state=DependencyState.MISSING, soak=wanted.soak, detail=text)
    return _judged(found, shown, wanted)


def _absent(caches: Caches, key: ObjectKey, own: str, shown: str) -> str:
    if key.namespace == own:
        return f"Rollout {shown}, which goes first, does not exist: create it, or correct dependsOn"
    if caches.namespaces and key.namespace not in caches.namespaces:
        return f"Rollout {shown} goes first, and this controller does not watch namespace {key.namespace}"
    return (
        f"Rollout {shown}, which goes first, does not exist, or does not consent: annotate it with "
        f"{DEPENDENTS_ANNOTATION}: {own}"
    )


def _edges(caches: Caches, name: str) -> Iterator[str]:
    namespace, _, rest = name.partition("/")
    present = caches.rollouts.get(ObjectKey(namespace, rest))
    for one in dependencies(present) if present is not None else ():
        key = ObjectKey(*one)
        found = caches.rollouts.get(key)
        if found is not None and permits(found, namespace):
            yield f"{key.namespace}/{key.name}"


def _judged(found: Object, shown: str, wanted: Dependency) -> DependencyView:
    status, _ = read_status(found.get("status"))
    state, detail = DependencyState.UNHEALTHY, status.phase.value or "not looked at yet"
    since = _healthy_since(status)
    if status.observed_generation != found["metadata"].get("generation"):
        detail = "asked for something that was not looked at yet"
    elif status.aborted is not None:
        state, detail = (
            DependencyState.ABORTED,
            f" ({status.aborted.reason})" if status.aborted.reason else "",
        )
    elif status.phase is Phase.HEALTHY and since is not None:
        state, detail = DependencyState.HEALTHY, ""
    elif status.phase is Phase.HEALTHY:
        detail = "not serving"
    return DependencyView(name=shown, state=state, soak=wanted.soak, since=since, detail=detail)


def _healthy_since(status: RolloutStatus) -> datetime | None:
    for condition in status.conditions:
        if condition.type == "Ready" and condition.status == "True":
            return condition.last_transition
    return None
