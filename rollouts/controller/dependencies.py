"""What a Rollout may know of those that it depends on: whether each is Healthy, since when, and no more.

A Rollout of another namespace has to consent (``references.DEPENDENTS_ANNOTATION``); without that nobody learns
whether it exists.
"""

from __future__ import annotations

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


def dependency_views(caches: Caches, parsed: ParsedRollout) -> tuple[DependencyView, ...]:
    """One for each that the spec names, in its order."""
    if parsed.spec is None:
        return ()
    return tuple(_view(caches, parsed, one) for one in parsed.spec.depends_on)


def _view(caches: Caches, parsed: ParsedRollout, wanted: Dependency) -> DependencyView:
    own = parsed.namespace
    key = ObjectKey(wanted.namespace or own, wanted.name)
    shown = wanted.name if key.namespace == own else f"{key.namespace}/{key.name}"
    found = caches.rollouts.get(key)
    if found is None or found["metadata"].get("deletionTimestamp") or not permits(found, own):
        text = _absent(caches, key, own, shown)
        return DependencyView(name=shown, state=DependencyState.MISSING, soak=wanted.soak, detail=text)
    # Beside itself only what consents is followed, as everywhere.
    cycle = cycle_from(f"{own}/{parsed.name}", lambda name: _edges(caches, name))
    if f"{key.namespace}/{key.name}" in cycle:
        return DependencyView(
            name=shown, state=DependencyState.CYCLE, soak=wanted.soak, detail=" -> ".join(cycle)
        )
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


def _edges(caches: Caches, name: str) -> list[str]:
    namespace, _, rest = name.partition("/")
    present = caches.rollouts.get(ObjectKey(namespace, rest))
    if present is None:
        return []
    keys = [ObjectKey(*one) for one in dependencies(present)]
    found = [(key, caches.rollouts.get(key)) for key in keys]
    return [
        f"{key.namespace}/{key.name}" for key, obj in found if obj is not None and permits(obj, namespace)
    ]


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
